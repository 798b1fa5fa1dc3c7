"""Display of margins: lower bounds against the attack."""

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.stats import pearsonr, spearmanr

from riskvae.plotting._names import name_lines
from riskvae.plotting._pyplot import axes_or_new, drawable, logarithmic, spans_a_decade
from riskvae.robustness import RobustnessMargin, robustness_margin

_NAMES = {
    "theorem1": "bound of theorem 1",
    "whitened": "whitened bound",
    "second_order": "second-order bound",
    "third_order": "third-order bound",
    "lipschitz": "Lipschitz bound",
    "proven": "proven bound",
    "linearized": "linearized estimate",
    "certified": "certified bound",
    "lower": "largest bound",
}


class MarginDisplay:
    """Lower bounds and estimates of margins against the result of the attack, with one point per row.

    Points of a valid bound lie below the line on which bound and attack are equal. Axes are logarithmic if norms span a
    decade or more. Create the display with :meth:`from_estimator` or :meth:`from_margin`.

    Parameters
    ----------
    upper : ndarray of shape (n,)
        Margins found by attack.
    bounds : dict of str to ndarray of shape (n,)
        Bounds or estimates by name.
    norm : {1, 2, inf}, default=2
        Norm of changes, for the label.

    Attributes
    ----------
    correlations : dict of str to (float, float)
        Pearson and Spearman correlation with ``upper`` for each bound; NaN if fewer than three rows, or only constant
        ones, remain.
    ax_, figure_ : matplotlib Axes and Figure
        Axes and figure of the plot.
    points_ : dict of str to matplotlib PathCollection
        Points of each bound.
    line_ : matplotlib Line2D
        Line on which bound and attack are equal.

    Examples
    --------
    >>> import matplotlib; matplotlib.use("Agg")
    >>> from sklearn.datasets import load_digits
    >>> from riskvae import BetaVAE
    >>> from riskvae.plotting import MarginDisplay
    >>> X = load_digits().data / 16
    >>> vae = BetaVAE(n_components=4, hidden_layer_sizes=(64,), random_state=0).fit(X)
    >>> display = MarginDisplay.from_estimator(vae, X[:8], n_draws=500, random_state=0)
    >>> list(display.points_)
    ['theorem1', 'second_order', 'linearized']
    """

    upper: NDArray[np.floating]
    bounds: dict[str, NDArray[np.floating]]
    correlations: dict[str, tuple[float, float]]
    ax_: Any
    figure_: Any
    points_: dict[str, Any]
    line_: Any

    def __init__(
        self, upper: NDArray[np.floating], bounds: dict[str, NDArray[np.floating]], *, norm: float = 2
    ) -> None:
        self.upper, self.norm = np.asarray(upper), norm
        self.bounds = {name: np.asarray(values) for name, values in bounds.items()}
        self.correlations = {name: self._correlation(values) for name, values in self.bounds.items()}

    def _correlation(self, values: NDArray[np.floating]) -> tuple[float, float]:
        good = np.isfinite(values) & np.isfinite(self.upper)
        a, b = values[good], self.upper[good]
        if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
            return float("nan"), float("nan")
        return float(pearsonr(a, b).statistic), float(spearmanr(a, b).statistic)

    @classmethod
    def from_margin(
        cls,
        margin: RobustnessMargin,
        *,
        methods: tuple[str, ...] = ("theorem1", "second_order", "linearized"),
        ax: Any = None,
        **scatter_options: Any,
    ) -> Self:
        """Draw margins returned by :func:`riskvae.robustness.robustness_margin`.

        Parameters
        ----------
        margin : RobustnessMargin
            Margins that include the method "attack".
        methods : tuple of str, default=("theorem1", "second_order", "linearized")
            What to draw: any of these, "whitened", "lipschitz", "proven", "certified" and "lower".
        ax : matplotlib Axes, default=None
            Axes to draw on; None creates a figure.
        **scatter_options
            Passed to matplotlib's ``scatter``.

        Returns
        -------
        MarginDisplay
        """
        if not isinstance(margin, RobustnessMargin):
            raise TypeError(f"margin must be what robustness_margin returns; got {type(margin).__name__}.")
        methods = (methods,) if isinstance(methods, str) else tuple(methods)
        unknown = [name for name in methods if name not in _NAMES]
        if unknown:
            raise ValueError(f"methods must be among {', '.join(map(repr, _NAMES))}; got {unknown[0]!r}.")
        if not np.isfinite(margin.upper).any():
            raise ValueError(
                "margin has no upper end to draw: compute it with the method 'attack', and with an r and a max_norm at "
                "which rows neither abstain nor are censored."
            )
        bounds = {name: getattr(margin, name) for name in methods}
        known = {name: values for name, values in bounds.items() if np.isfinite(values).any()}
        if not known:
            raise ValueError(f"margin holds none of {', '.join(map(repr, methods))}; compute it with these methods.")
        return cls(margin.upper, known, norm=margin.norm).plot(ax=ax, **scatter_options)

    @classmethod
    def from_estimator(
        cls,
        vae: Any,
        X: Any,
        *,
        methods: tuple[str, ...] = ("theorem1", "second_order", "linearized"),
        ax: Any = None,
        **options: Any,
    ) -> Self:
        """Compute margins and draw them.

        Parameters
        ----------
        vae, X, **options
            Passed to :func:`riskvae.robustness.robustness_margin`.
        methods, ax
            As in :meth:`from_margin`.

        Returns
        -------
        MarginDisplay
        """
        return cls.from_margin(robustness_margin(vae, X, **options), methods=methods, ax=ax)

    def plot(self, ax: Any = None, **scatter_options: Any) -> Self:
        """Draw the points.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw on; None creates a figure.
        **scatter_options
            Passed to matplotlib's ``scatter``.

        Returns
        -------
        MarginDisplay
            Itself.
        """
        ax = axes_or_new(ax, figsize=(7.5, 5))
        self.ax_, self.figure_ = ax, ax.figure
        self.points_ = {}
        for name, values in self.bounds.items():
            pearson, _ = self.correlations[name]
            label = _NAMES.get(name, name) + ("" if np.isnan(pearson) else f" (Pearson {pearson:.2f})")
            options = {"s": 14, "alpha": 0.7, "linewidths": 0, **scatter_options, "label": label}
            self.points_[name] = ax.scatter(self.upper, values, **options)
        left, right, top = self._limit(ax)
        ends = [left, right]
        (self.line_,) = ax.plot(ends, ends, color="k", lw=1)
        ax.fill_between(ends, ends, top, color="k", alpha=0.05, lw=0)
        ax.text(0.03, 0.97, "a bound here would be wrong", transform=ax.transAxes, va="top", color="0.35")
        shown = int(np.isfinite(self.upper).sum())
        rows = f"{shown} rows" if shown == len(self.upper) else f"{shown} of {len(self.upper)} rows"
        ax.set(xlabel=f"size of the smallest change that breaks a row (norm {self.norm:g}, units of X)")
        ax.set_ylabel(f"bound or estimate of it, {rows}")
        ax.spines[["top", "right"]].set_visible(False)
        self._name(ax, right)
        return self

    def _name(self, ax: Any, right: float) -> None:
        """Beside the axes, each bound at the height of its points, and the diagonal at its end."""
        shown = np.isfinite(self.upper)
        names, heights, colors = ["equal"], [right], ["k"]
        for name, points in self.points_.items():
            values = drawable(self.bounds[name][shown])
            names.append(points.get_label())
            heights.append(float(np.median(values)) if len(values) else float("nan"))
            colors.append((*points.get_facecolor(), *points.get_edgecolor(), (0.0, 0.0, 0.0))[0][:3])
        name_lines(ax, names, [(right, height) for height in heights], colors)

    def _limit(self, ax: Any) -> tuple[float, float, float]:
        """Let axes end where points do, linear ones begin at 0; left, right and upper end."""
        shown = np.isfinite(self.upper)
        x = drawable(self.upper)
        y = drawable(np.concatenate([self.upper, *(values[shown] for values in self.bounds.values())]))
        if not spans_a_decade(y):
            top = 1.05 * float(y.max())
            ax.set(xlim=(0, top), ylim=(0, top))
            return 0.0, top, top
        logarithmic(ax, "x", 0.9 * x.min(), 1.1 * x.max())
        logarithmic(ax, "y", 0.9 * y.min(), 1.1 * y.max())
        return 0.9 * x.min(), 1.1 * x.max(), 1.1 * y.max()
