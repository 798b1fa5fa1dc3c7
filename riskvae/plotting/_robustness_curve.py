"""Display of the share of rows that withstand a change, against its norm."""

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from riskvae.plotting._names import name_areas
from riskvae.plotting._pyplot import axes_or_new, drawable, line_options, logarithmic, spans_a_decade
from riskvae.robustness import RobustnessMargin

Array = NDArray[np.float64]

_LABELS = {
    "certified": "certified left of it",
    "lower": "lower bound, not certified",
    "linearized": "estimate",
    "upper": "broken right of it",
}
_STYLES: dict[str, dict[str, Any]] = {
    "certified": {"linewidth": 2.0},
    "lower": {"linewidth": 1.2, "linestyle": "-."},
    "linearized": {"linewidth": 1.0, "linestyle": "--"},
    "upper": {"linewidth": 1.2},
}
_AREAS = {"certified": "#2c7fb8", "unknown": "0.75", "broken": "#d1495b", "noise": "#7a1f2b"}


class RobustnessCurveDisplay:
    r"""Share of rows that withstand every change of a given norm: certified, estimated, and not broken by the attack.

    For n rows, at the norm t,

    .. math:: \frac1n \#\{i : \mathrm{certified}_i \ge t\}
        \;\le\; \frac1n \#\{i : \text{no change up to } t \text{ breaks } i\}
        \;\le\; \frac1n \#\{i : \mathrm{upper}_i > t\},

    at the confidence of the margins. What lies between the curves is unknown. Every row is a step: curves are exact. A
    row that abstains, because its own noise breaks it or may do so, counts as broken from 0 on; the figure says how
    many do. A censored row, which the attack did not break, counts as not broken at any norm. Create the display with
    :meth:`from_margin`.

    Parameters
    ----------
    norms : dict of str to dict of str to ndarray of shape (n_rows,)
        By model, and by curve: the norm up to which each row withstands changes, in the units of X; NaN if it does not.
        Curves are "certified", "linearized" and "upper" (infinite if the attack broke nothing), as in
        :class:`riskvae.robustness.RobustnessMargin`, and "lower", a bound that is not certified. Each of them is
        optional.
    abstained : dict of str to int, default=None
        Number of rows that abstained, by model; None means none.
    r : float, default=None
        Radius of the reconstructions, for the axis label.
    norm : {1, 2, inf}, default=2
        Norm of changes, for the axis label.

    Attributes
    ----------
    ax_, figure_ : matplotlib Axes and Figure
        Axes and figure of the plot.
    lines_ : dict of str to dict of str to matplotlib Line2D
        Curves by model and name, in percent.
    areas_ : dict of str to dict of str to matplotlib FillBetweenPolyCollection
        By model: "unknown"; for a single model also "certified", "broken" by the attack and by "noise", if there are
        any.

    See Also
    --------
    riskvae.robustness.robustness_margin : Computes the margins.
    MarginDisplay : Bounds against the attack, row by row.

    Examples
    --------
    >>> import matplotlib; matplotlib.use("Agg")
    >>> from sklearn.datasets import load_digits
    >>> from riskvae import BetaVAE, robustness_margin
    >>> from riskvae.plotting import RobustnessCurveDisplay
    >>> X = load_digits().data / 16
    >>> vae = BetaVAE(n_components=4, hidden_layer_sizes=(64,), random_state=0).fit(X)
    >>> margin = robustness_margin(vae, X[:8], r=1.5, n_draws=500, random_state=0)
    >>> display = RobustnessCurveDisplay.from_margin(margin)
    >>> shares = display.share_at(0.5)["model"]
    >>> list(shares)
    ['certified', 'linearized', 'upper']
    >>> bool(shares["certified"] <= shares["upper"])
    True
    """

    norms: dict[str, dict[str, Array]]
    abstained: dict[str, int]
    r: float | None
    ax_: Any
    figure_: Any
    lines_: dict[str, dict[str, Any]]
    areas_: dict[str, dict[str, Any]]

    def __init__(
        self,
        norms: Mapping[str, Mapping[str, ArrayLike]],
        *,
        abstained: Mapping[str, int] | None = None,
        r: float | None = None,
        norm: float = 2,
    ) -> None:
        self.norms = {
            name: {curve: np.asarray(values, dtype=np.float64) for curve, values in curves.items()}
            for name, curves in norms.items()
        }
        self.abstained = dict.fromkeys(self.norms, 0) | dict(abstained or {})
        self.r, self.norm = r, norm

    @classmethod
    def from_margin(
        cls,
        margin: RobustnessMargin | Mapping[str, RobustnessMargin],
        *,
        name: str = "model",
        ax: Any = None,
        **options: Any,
    ) -> Self:
        """Draw margins returned by :func:`riskvae.robustness.robustness_margin`.

        Curves are those that the margin contains. If nothing is certified, ``lower`` is drawn and labeled as such.

        Parameters
        ----------
        margin : RobustnessMargin, or dict of them
            Margins of one model, or of several by name with the same r, ``perturb`` and norm.
        name : str, default="model"
            Name of a single model.
        ax : matplotlib Axes, default=None
            Axes to draw on; None creates a figure.
        **options
            Passed to matplotlib's ``plot``.

        Returns
        -------
        RobustnessCurveDisplay

        Raises
        ------
        TypeError
            If ``margin`` is something else.
        ValueError
            If margins differ in r, ``perturb`` or norm, so that they cannot be compared; or if one contains no number.
        """
        margins = dict(margin) if isinstance(margin, Mapping) else {name: margin}
        _check(margins)
        first = next(iter(margins.values()))
        return cls(
            {label: _curves(found) for label, found in margins.items()},
            abstained={label: int(found.abstained.sum()) for label, found in margins.items()},
            r=float(first.r) if np.ndim(first.r) == 0 else None,
            norm=first.norm,
        ).plot(ax=ax, **options)

    def share_at(self, norm: ArrayLike) -> dict[str, dict[str, Any]]:
        """Shares of all rows that withstand changes of a given norm.

        Parameters
        ----------
        norm : float or array-like
            Norms, at least 0, in the units of X.

        Returns
        -------
        dict of str to dict of str to float or ndarray of the shape of norm
            Shares in [0, 1], by model and curve. "upper" counts rows above the norm, all others count rows at or above
            it.
        """
        at = np.asarray(norm, dtype=np.float64)
        if not (at >= 0).all():
            raise ValueError(f"norm must be at least 0, the size of a change; got {norm!r}.")
        return {
            name: {curve: _share(values, at, above=curve == "upper") for curve, values in curves.items()}
            for name, curves in self.norms.items()
        }

    def plot(self, ax: Any = None, **options: Any) -> Self:
        """Draw the curves, and the areas between them.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw on; None creates a figure.
        **options
            Passed to matplotlib's ``plot``.

        Returns
        -------
        RobustnessCurveDisplay
            Itself.
        """
        ax = axes_or_new(ax, figsize=(6.4, 4.4))
        self.ax_, self.figure_ = ax, ax.figure
        self.lines_, self.areas_ = {}, {}
        every = np.concatenate([values for curves in self.norms.values() for values in curves.values()])
        x = _steps(every)
        draw = self._draw_one if len(self.norms) == 1 else self._draw_beside_others
        areas: dict[str, tuple[Array, Array]] = {}
        for name, curves in self.norms.items():
            # Between two steps a row stands whether or not its own norm counts.
            percent = {curve: 100 * _share(values, x, above=True) for curve, values in curves.items()}
            areas |= draw(ax, name, x, percent, options)
        if spans_a_decade(every):
            logarithmic(ax, "x", x[0], x[-1])
        ax.set(xlim=(x[0], x[-1]), ylim=(0, 100), xlabel=f"size of the change (norm {self.norm:g}, units of X)")
        sizes = {len(values) for curves in self.norms.values() for values in curves.values()}
        of = f"{sizes.pop()} rows" if len(sizes) == 1 else "the rows"
        within = "" if self.r is None else f" within r = {self.r:g}"
        ax.set_ylabel(f"share of {of} that stay{within} (%)")
        ax.spines[["top", "right"]].set_visible(False)
        named = name_areas(ax, x, areas, color="0.1")
        handles, labels = ax.get_legend_handles_labels()
        others = [(handle, label) for handle, label in zip(handles, labels, strict=True) if label not in named]
        if others:  # beside the axes: there is no corner that no curve can pass
            several = "filled: unknown" if len(self.norms) > 1 else None
            place = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0), "alignment": "left"}
            ax.legend(*zip(*others, strict=True), title=several, frameon=False, **place)
        return self

    def _ends(self, name: str, percent: Mapping[str, Array], x: Array) -> tuple[Array, Array, Array]:
        """Least and largest share that a model may have, without other news none and all; and of rows not abstained."""
        n = len(next(iter(self.norms[name].values())))
        top = np.full_like(x, 100 * ((n - self.abstained[name]) / n))
        return percent.get("certified", np.zeros_like(x)), percent.get("upper", top), top

    def _draw_one(
        self, ax: Any, name: str, x: Array, percent: Mapping[str, Array], options: dict[str, Any]
    ) -> dict[str, tuple[Array, Array]]:
        """Areas, in the legend as they lie; it leaves out lines that only bound these. Returns the areas by label."""
        low, high, top = self._ends(name, percent, x)
        noisy = self.abstained[name]
        areas = {
            "noise": (f"broken by noise alone: {noisy} row{'s' if noisy > 1 else ''}", top, np.full_like(x, 100.0)),
            "broken": ("broken by the attack", high, top),
            "unknown": ("unknown", low, high),
            "certified": ("certified", np.zeros_like(x), low),
        }
        self.areas_[name] = {
            area: ax.fill_between(x, *ends, step="post", color=_AREAS[area], alpha=0.55, lw=0, label=label)
            for area, (label, *ends) in areas.items()
            if np.any(ends[1] > ends[0])
        }
        colors = {"certified": _AREAS["certified"], "upper": _AREAS["broken"], "lower": "k", "linearized": "k"}
        self.lines_[name] = {}
        for curve, y in percent.items():
            label = _LABELS[curve] if curve in ("lower", "linearized") else "_bounds an area"
            style = line_options({**_STYLES[curve], "color": colors[curve]}, options)
            (self.lines_[name][curve],) = ax.plot(x, y, **{**style, "drawstyle": "steps-post", "label": label})
        return {label: (below, above) for label, below, above in areas.values()}

    def _draw_beside_others(
        self, ax: Any, name: str, x: Array, percent: Mapping[str, Array], options: dict[str, Any]
    ) -> dict[str, tuple[Array, Array]]:
        """A color for each model, filled where its share is unknown; gray for kinds of lines. Returns the areas."""
        low, high, _ = self._ends(name, percent, x)
        color = f"C{len(self.areas_) % 10}"
        noisy = f",\n{self.abstained[name]} broken by noise alone" if self.abstained[name] else ""
        area = ax.fill_between(x, low, high, step="post", color=color, alpha=0.25, lw=0, label=name + noisy)
        self.areas_[name] = {"unknown": area}
        self.lines_[name] = {}
        for curve, y in percent.items():
            style = line_options({**_STYLES[curve], "color": color}, options)
            (self.lines_[name][curve],) = ax.plot(x, y, **{**style, "drawstyle": "steps-post", "label": "_"})
        if len(self.areas_) == len(self.norms):  # all are drawn
            for curve in _LABELS:
                if any(curve in lines for lines in self.lines_.values()):
                    ax.plot([], [], color="0.3", label=_LABELS[curve], **_STYLES[curve])
        return {name + noisy: (low, high)}


def _share(values: Array, norm: Array, *, above: bool) -> Any:
    """Share of values above norms, or else at or above them; NaN is neither."""
    ordered = np.sort(np.where(np.isnan(values), -np.inf, values))
    return (len(values) - np.searchsorted(ordered, norm, side="right" if above else "left")) / len(values)


def _steps(norms: Array) -> Array:
    """Norms at which some curve steps, between the ends of the axis."""
    steps = np.unique(drawable(norms))
    if not len(steps):
        return np.array([0.0, 1.0])
    return np.concatenate([[0.8 * steps[0] if spans_a_decade(steps) else 0.0], steps, [1.15 * steps[-1]]])


def _curves(margin: RobustnessMargin) -> dict[str, Array]:
    """What the margin has; that all rows abstain is known without an attack."""
    certified = margin.certified
    below = {"lower": margin.lower} if np.isnan(certified).all() else {"certified": certified}
    every = {**below, "linearized": margin.linearized, "upper": margin.upper}
    found = {curve: values for curve, values in every.items() if not np.isnan(values).all()}
    return found | {"upper": margin.upper} if margin.abstained.all() else found


def _check(margins: Mapping[str, RobustnessMargin]) -> None:
    """Refuse what holds nothing to draw, and margins that answer different questions."""
    for found in margins.values():
        if not isinstance(found, RobustnessMargin):
            raise TypeError(
                "margin must be what robustness_margin returns, or several in a dict by name; got "
                f"{type(found).__name__}."
            )
    if not margins:
        raise ValueError("margin must name at least one model; got an empty dict.")
    (first, one), *_ = margins.items()
    for name, other in margins.items():
        if not _curves(other):
            raise ValueError(f"margin of {name!r} holds no number to draw; compute it with 'proven' or 'attack'.")
        for what, why in {"r": " (r='auto' differs by model)", "perturb": "", "norm": ""}.items():
            ours, theirs = getattr(one, what), getattr(other, what)
            if not np.array_equal(ours, theirs):
                raise ValueError(
                    f"margins must have the same {what} to be compared; {what} is {ours} for {first!r} and {theirs} "
                    f"for {name!r}. Pass the same {what} to robustness_margin for all{why}."
                )
