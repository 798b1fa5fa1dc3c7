"""Display of damage against the norm of an attack."""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from riskvae.plotting._names import name_lines
from riskvae.plotting._pyplot import axes_or_new
from riskvae.robustness import DamageCurve, damage_curve

_QUANTITIES = {
    "damage": "distance of the reconstruction from the clean one",
    "degradation": "relative degradation of the likelihood",
}


class AttackDisplay:
    """Damage of the maximum-damage attack against its norm: median over rows, with a band between the quartiles.

    Curves start at norm 0, with the effect of the noise alone. Create the display with :meth:`from_estimator`, which
    runs the attack and draws it, or with :meth:`from_curve`.

    Parameters
    ----------
    max_norms : ndarray of shape (n_norms,), or dict of str to such
        Radii of the ball; by model, if these differ.
    curves : dict of str to ndarray of shape (n_norms, n_rows)
        Damage by model.
    quantity : {"damage", "degradation"}, default="damage"
        What the curves show.
    norm : {1, 2, inf}, default=2
        Norm of the radii.

    Attributes
    ----------
    ax_, figure_ : matplotlib Axes and Figure
        Axes and figure of the plot.
    lines_, bands_ : dict of str to matplotlib Line2D, FillBetweenPolyCollection
        Medians and quartiles by model.

    Examples
    --------
    >>> import matplotlib; matplotlib.use("Agg")
    >>> from sklearn.datasets import load_digits
    >>> from riskvae import BetaVAE
    >>> from riskvae.plotting import AttackDisplay
    >>> X = load_digits().data / 16
    >>> vae = BetaVAE(n_components=4, hidden_layer_sizes=(64,), random_state=0).fit(X)
    >>> display = AttackDisplay.from_estimator(vae, X[:8], max_norms=[0.5, 1.0], n_steps=5, random_state=0)
    >>> display.curves["BetaVAE"].shape  # at norms 0, 0.5 and 1
    (3, 8)
    """

    max_norms: NDArray[np.floating] | dict[str, NDArray[np.floating]]
    curves: dict[str, NDArray[np.floating]]
    ax_: Any
    figure_: Any
    lines_: dict[str, Any]
    bands_: dict[str, Any]

    def __init__(
        self,
        max_norms: NDArray[np.floating] | Mapping[str, NDArray[np.floating]],
        curves: Mapping[str, NDArray[np.floating]],
        *,
        quantity: str = "damage",
        norm: float = 2,
    ) -> None:
        self.max_norms = dict(max_norms) if isinstance(max_norms, Mapping) else np.asarray(max_norms)
        self.curves = dict(curves)
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
        """Attack at several norms and draw the damage.

        Parameters
        ----------
        vae : estimator, object with encode and decode, or dict of them
            One model, or several by name.
        X : array-like of shape (n_samples, n_features)
            Rows.
        max_norms : sequence of float
            Radii, at least 0.
        quantity : {"damage", "degradation"}, default="damage"
            What to draw.
        ax : matplotlib Axes, default=None
            Axes to draw on; None creates a figure.
        **options
            Passed to :func:`riskvae.robustness.damage_curve`.

        Returns
        -------
        AttackDisplay
        """
        _check_quantity(quantity)
        if "max_norm" in options:
            raise TypeError("max_norms are the radii; leave max_norm out.")
        if isinstance(vae, list | tuple) or (isinstance(vae, Mapping) and not vae):
            raise TypeError("vae must be one model, or several in a dict by name.")
        models = vae if isinstance(vae, Mapping) else {type(vae).__name__: vae}
        curves = {name: damage_curve(model, X, max_norms, **options) for name, model in models.items()}
        return cls.from_curve(curves, quantity=quantity, ax=ax)

    @classmethod
    def from_curve(
        cls, curve: DamageCurve | Mapping[str, DamageCurve], *, quantity: str = "damage", ax: Any = None
    ) -> Self:
        """Draw curves that were computed before.

        Parameters
        ----------
        curve : DamageCurve, or dict of them
            Curve of one model, or of several by name, all with the same norm.
        quantity : {"damage", "degradation"}, default="damage"
            What to draw.
        ax : matplotlib Axes, default=None
            Axes to draw on; None creates a figure.

        Returns
        -------
        AttackDisplay
        """
        _check_quantity(quantity)
        curves = dict(curve) if isinstance(curve, Mapping) else {"attack": curve}
        if not curves or not all(isinstance(one, DamageCurve) for one in curves.values()):
            raise TypeError(
                "curve must be a DamageCurve, or several in a dict by name; got "
                f"{type(curve).__name__}. riskvae.robustness.damage_curve makes one."
            )
        norms = {one.norm for one in curves.values()}
        if len(norms) > 1:
            raise ValueError(f"curve must hold curves of one norm to share an axis; got norms {sorted(norms)}.")
        radii, values = {}, {}
        for name, one in curves.items():
            radii[name], values[name] = _from_zero(one, quantity)
            if not np.isfinite(values[name]).any():
                raise ValueError(f"quantity={quantity!r} needs a model with a likelihood, which {name} does not have.")
        shared = next(iter(radii.values()))
        same = all(np.array_equal(shared, own) for own in radii.values())
        return cls(shared if same else radii, values, quantity=quantity, norm=norms.pop()).plot(ax=ax)

    def plot(self, ax: Any = None, **line_options: Any) -> Self:
        """Draw the curves.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw on; None creates a figure.
        **line_options
            Passed to matplotlib's ``plot``.

        Returns
        -------
        AttackDisplay
            Itself.
        """
        ax = axes_or_new(ax)
        self.ax_, self.figure_ = ax, ax.figure
        self.lines_, self.bands_ = {}, {}
        for name, damage in self.curves.items():
            max_norms = self.max_norms[name] if isinstance(self.max_norms, dict) else self.max_norms
            low, middle, high = np.nanquantile(damage, [0.25, 0.5, 0.75], axis=1)
            options = {"marker": "o", "ms": 4, **line_options, "label": name}
            (line,) = ax.plot(max_norms, middle, **options)
            color = line.get_color()
            self.lines_[name] = line
            self.bands_[name] = ax.fill_between(max_norms, low, high, color=color, alpha=0.2, lw=0)
        n_rows = len(next(iter(self.curves.values()))[0])
        ax.set(xlim=(0, None), ylim=(0, None), xlabel=f"size of the change (norm {self.norm:g}, units of X)")
        ax.set_ylabel(f"{_QUANTITIES[self.quantity]},\nmedian and quartiles of {n_rows} rows")
        ax.spines[["top", "right"]].set_visible(False)
        if ax.figure.canvas.figure.get_layout_engine() is None:  # there may be no room beside the axes
            ax.legend(frameon=False)
            return self
        lines = list(self.lines_.values())
        ends = [(line.get_xdata()[-1], line.get_ydata()[-1]) for line in lines]
        name_lines(ax, list(self.lines_), ends, [line.get_color() for line in lines])
        return self


def _check_quantity(quantity: str) -> None:
    if quantity not in _QUANTITIES:
        raise ValueError(f"quantity must be 'damage' or 'degradation'; got {quantity!r}.")


def _from_zero(curve: DamageCurve, quantity: str) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Norms and values of a curve from norm 0 on, where the noise alone acts, which does not degrade a likelihood."""
    values = getattr(curve, quantity)
    if curve.max_norms[0] == 0:
        return curve.max_norms, values
    clean = curve.clean_damage if quantity == "damage" else 0.0 * curve.log_likelihood
    return np.append(0.0, curve.max_norms), np.concatenate((clean[None], values))
