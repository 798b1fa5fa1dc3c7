"""Display of damage against the norm of an attack."""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from riskvae.plotting._pyplot import pyplot
from riskvae.robustness import max_damage_attack

_QUANTITIES = {
    "damage": "distance of the reconstruction from the clean one",
    "degradation": "relative degradation of the likelihood",
}


class AttackDisplay:
    """Damage of the maximum-damage attack against its norm: median over rows, in a band from quartile to quartile.

    Make it by :meth:`from_estimator`, which attacks at each norm and draws.

    Parameters
    ----------
    max_norms : ndarray of shape (n_norms,)
        Radii of the ball.
    curves : dict of str to ndarray of shape (n_norms, n_rows)
        Damage by model.
    noise : dict of str to ndarray of shape (n_rows,), default=None
        Damage by the encoder's noise alone, drawn as a dotted line.
    quantity : {"damage", "degradation"}, default="damage"
        What the curves are.

    Attributes
    ----------
    ax_, figure_ : matplotlib Axes and Figure
        Where they are.
    lines_, bands_ : dict of str to matplotlib Line2D, FillBetweenPolyCollection
        Median and quartiles of each model.

    Examples
    --------
    >>> import matplotlib; matplotlib.use("Agg")
    >>> from sklearn.datasets import load_digits
    >>> from riskvae import BetaVAE
    >>> from riskvae.plotting import AttackDisplay
    >>> X = load_digits().data / 16
    >>> vae = BetaVAE(n_components=4, hidden_layer_sizes=(64,), random_state=0).fit(X)
    >>> display = AttackDisplay.from_estimator(vae, X[:8], max_norms=[0.5, 1.0], n_steps=5, random_state=0)
    >>> display.curves["BetaVAE"].shape
    (2, 8)
    """

    def __init__(
        self,
        max_norms: NDArray[np.floating],
        curves: Mapping[str, NDArray[np.floating]],
        noise: Mapping[str, NDArray[np.floating]] | None = None,
        *,
        quantity: str = "damage",
    ) -> None:
        self.max_norms = np.asarray(max_norms)
        self.curves = dict(curves)
        self.noise = dict(noise or {})
        self.quantity = quantity

    @classmethod
    def from_estimator(
        cls,
        vae: Any,
        X: Any,
        *,
        max_norms: Sequence[float],
        quantity: str = "damage",
        ax: Any = None,
        **options: Any,
    ) -> Self:
        """Attack at several norms, and draw.

        Parameters
        ----------
        vae : estimator, object with encode and decode, or dict of them
            One model, or several by name.
        X : array-like of shape (n_samples, n_features)
            Rows.
        max_norms : sequence of float
            Radii, each above 0.
        quantity : {"damage", "degradation"}, default="damage"
            What to draw.
        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure.
        **options
            For :func:`riskvae.max_damage_attack`.

        Returns
        -------
        AttackDisplay
        """
        if quantity not in _QUANTITIES:
            raise ValueError(f"quantity must be 'damage' or 'degradation'; got {quantity!r}.")
        radii = np.sort(np.asarray(max_norms, dtype=np.float64).reshape(-1))
        if len(radii) == 0:
            raise ValueError("max_norms must hold at least one radius above 0; got an empty sequence.")
        models = vae if isinstance(vae, Mapping) else {type(vae).__name__: vae}
        curves, noise = {}, {}
        for name, model in models.items():
            results = [max_damage_attack(model, X, max_norm=float(radius), **options) for radius in radii]
            curves[name] = np.stack([getattr(result, quantity) for result in results])
            if quantity == "damage":
                noise[name] = results[0].clean_damage
        return cls(radii, curves, noise, quantity=quantity).plot(ax=ax)

    def plot(self, ax: Any = None, **line_options: Any) -> Self:
        """Draw the curves.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; None makes a figure.
        **line_options
            For matplotlib's ``plot``.

        Returns
        -------
        AttackDisplay
            Itself.
        """
        if ax is None:
            _, ax = pyplot().subplots(layout="constrained")
        self.ax_, self.figure_ = ax, ax.figure
        self.lines_, self.bands_ = {}, {}
        for name, damage in self.curves.items():
            low, middle, high = np.quantile(damage, [0.25, 0.5, 0.75], axis=1)
            options = {"marker": "o", "ms": 4, **line_options, "label": name}
            (line,) = ax.plot(self.max_norms, middle, **options)
            color = line.get_color()
            self.lines_[name] = line
            self.bands_[name] = ax.fill_between(self.max_norms, low, high, color=color, alpha=0.2, lw=0)
            if name in self.noise:
                ax.axhline(np.median(self.noise[name]), color=color, ls=":", lw=1.2)
        if self.noise:
            ax.plot([], [], color="gray", ls=":", lw=1.2, label="noise alone")
        ax.set(xlim=(0, None), ylim=(0, None), xlabel="norm of the perturbation", ylabel=_QUANTITIES[self.quantity])
        ax.spines[["top", "right"]].set_visible(False)
        ax.legend(frameon=False)
        return self
