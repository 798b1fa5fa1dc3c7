"""Display of damage against the norm of an attack."""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from riskvae.plotting._pyplot import axes_or_new
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
    norm : {1, 2, inf}, default=2
        Of the radii.

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

    max_norms: NDArray[np.floating]
    curves: dict[str, NDArray[np.floating]]
    noise: dict[str, NDArray[np.floating]]
    ax_: Any
    figure_: Any
    lines_: dict[str, Any]
    bands_: dict[str, Any]

    def __init__(
        self,
        max_norms: NDArray[np.floating],
        curves: Mapping[str, NDArray[np.floating]],
        noise: Mapping[str, NDArray[np.floating]] | None = None,
        *,
        quantity: str = "damage",
        norm: float = 2,
    ) -> None:
        self.max_norms = np.asarray(max_norms)
        self.curves = dict(curves)
        self.noise = dict(noise or {})
        self.quantity = quantity
        self.norm = norm

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
            For :func:`riskvae.robustness.max_damage_attack`.

        Returns
        -------
        AttackDisplay
        """
        if quantity not in _QUANTITIES:
            raise ValueError(f"quantity must be 'damage' or 'degradation'; got {quantity!r}.")
        if "max_norm" in options:
            raise TypeError("max_norms are the radii; leave max_norm out.")
        message = f"max_norms must hold at least one radius, all above 0; got {max_norms!r}."
        try:
            radii = np.sort(np.asarray(max_norms, dtype=np.float64).reshape(-1))
        except (TypeError, ValueError):
            raise TypeError(message) from None
        if len(radii) == 0 or not (radii > 0).all():
            raise ValueError(message)
        if isinstance(vae, list | tuple) or (isinstance(vae, Mapping) and not vae):
            raise TypeError("vae must be one model, or several in a dict by name.")
        models = vae if isinstance(vae, Mapping) else {type(vae).__name__: vae}
        curves, noise = {}, {}
        for name, model in models.items():
            results = [max_damage_attack(model, X, max_norm=float(radius), **options) for radius in radii]
            curves[name] = np.stack([getattr(result, quantity) for result in results])
            if not np.isfinite(curves[name]).all():
                raise ValueError(f"quantity={quantity!r} needs a model with a likelihood, which {name} has not.")
            if quantity == "damage":
                noise[name] = results[0].clean_damage
        return cls(radii, curves, noise, quantity=quantity, norm=options.get("norm", 2)).plot(ax=ax)

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
        ax = axes_or_new(ax)
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
        n_rows = len(next(iter(self.curves.values()))[0])
        ax.set(xlim=(0, None), ylim=(0, None), xlabel=f"norm of the perturbation (norm {self.norm:g})")
        ax.set_ylabel(f"{_QUANTITIES[self.quantity]},\nmedian and quartiles of {n_rows} rows")
        ax.spines[["top", "right"]].set_visible(False)
        ax.legend(frameon=False)
        return self
