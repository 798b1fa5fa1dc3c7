"""Display of verdicts: the share of rows that a change of some size can flip."""

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from riskvae.plotting._pyplot import axes_or_new, drawable
from riskvae.robustness import VerdictMargin

Array = NDArray[np.floating]

# Least size that is drawn, as a share of the largest: what flips by a hair stands at the left edge.
_DECADES = 1e-3
# Of each kind: what is counted, what a flip does, and its color.
_KINDS = {
    "masking": ("outliers", "made to pass for inliers", "C3"),
    "false alarm": ("inliers", "made outliers", "C4"),
}


class VerdictMarginDisplay:
    """Share of outliers that can be hidden, and of inliers that can become false alarms, against the size of a change.

    A line shows the result of an attack: at least this share of rows flips. Rows above the dashed edge of a shaded area
    are proven not to flip under any change of that size. A dot marks the size at which half of the rows flip.

    Parameters
    ----------
    upper, proven : dict of str to ndarray
        Norms by kind, "masking" and "false alarm". ``upper`` are those found by an attack, infinite if there is none;
        below ``proven``, no change flips a row, NaN if nothing is proven.
    norm : float, default=2
        Norm of changes.

    Attributes
    ----------
    ax_, figure_ : matplotlib Axes and Figure
        Axes and figure of the plot.
    lines_ : dict of str to matplotlib Line2D
        Share of each kind that flips.
    proven_ : dict of str to matplotlib PolyCollection
        Rows that are proven not to flip; only for kinds with such rows.

    Examples
    --------
    >>> import matplotlib; matplotlib.use("Agg")
    >>> from riskvae import verdict_margin
    >>> from riskvae.plotting import VerdictMarginDisplay
    >>> class Disk:
    ...     def decision_function(self, x):
    ...         return 1 - x.norm(dim=1)
    >>> margin = verdict_margin(Disk(), [[3.0, 4.0], [0.0, 0.5], [0.0, 0.9]], random_state=0)
    >>> display = VerdictMarginDisplay.from_margin(margin)
    >>> list(display.lines_)
    ['masking', 'false alarm']
    """

    upper: dict[str, Array]
    proven: dict[str, Array]
    norm: float
    ax_: Any
    figure_: Any
    lines_: dict[str, Any]
    proven_: dict[str, Any]

    def __init__(self, upper: dict[str, Array], proven: dict[str, Array], norm: float = 2) -> None:
        self.upper = {kind: np.sort(np.asarray(values)) for kind, values in upper.items()}
        self.proven = {
            kind: np.sort(np.nan_to_num(np.asarray(values), posinf=np.inf)) for kind, values in proven.items()
        }
        self.norm = norm

    @classmethod
    def from_margin(cls, margin: VerdictMargin, *, ax: Any = None, **line_options: Any) -> Self:
        """Draw margins returned by :func:`riskvae.robustness.verdict_margin`.

        Parameters
        ----------
        margin : VerdictMargin
            Margins with a flip for at least one row.
        ax : matplotlib Axes, default=None
            Axes to draw on; None creates a figure.
        **line_options
            Passed to matplotlib's ``plot``.

        Returns
        -------
        VerdictMarginDisplay
        """
        if not isinstance(margin, VerdictMargin):
            raise TypeError(f"margin must be what verdict_margin returns; got {type(margin).__name__}.")
        if not np.isfinite(margin.upper).any():
            raise ValueError("margin has no flip to draw: compute it with a larger max_norm, or with wider bounds.")
        kinds = [kind for kind in _KINDS if (margin.kind == kind).any()]
        upper, proven = (
            {kind: values[margin.kind == kind] for kind in kinds} for values in (margin.upper, margin.proven)
        )
        return cls(upper, proven, margin.norm).plot(ax=ax, **line_options)

    def plot(self, ax: Any = None, **line_options: Any) -> Self:
        """Draw the shares.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw on; None creates a figure.
        **line_options
            Passed to matplotlib's ``plot``.

        Returns
        -------
        VerdictMarginDisplay
            Itself.
        """
        ax = axes_or_new(ax, figsize=(6.5, 4.2))
        self.ax_, self.figure_ = ax, ax.figure
        self.lines_, self.proven_ = {}, {}
        known = np.concatenate([drawable(values) for values in self.upper.values()])
        high = 1.3 * known.max()
        low = max(0.5 * np.quantile(known, 0.02), _DECADES * high)
        at = np.geomspace(low, high, 400)
        for kind, values in self.upper.items():
            what, does, color = _KINDS[kind]
            share = np.searchsorted(values, at, side="right") / len(values)
            half = values[(len(values) - 1) // 2]
            marked = bool(np.isfinite(half) and half > low)
            label = f"{len(values)} {what} {does}" + (f", half by {half:.2g}" if marked else "")
            (self.lines_[kind],) = ax.plot(at, share, **{"color": color, "lw": 2.2, "label": label, **line_options})
            ax.plot(*((half, 0.5) if marked else ((), ())), "o", color=color, ms=7)
            if (self.proven[kind] > low).any():
                safe = np.searchsorted(self.proven[kind], at, side="left") / len(values)
                self.proven_[kind] = ax.fill_between(at, safe, 1.0, color=color, alpha=0.1, lw=0)
                ax.plot(at, safe, color=color, lw=1.1, ls="--", label=f"at most so many {what}: proven")
        if self.proven_:
            ax.annotate("proven: no flip", (0.02, 0.93), xycoords="axes fraction", color="0.25")
        ax.set(xscale="log", xlim=(low, high), ylim=(0, 1.0), ylabel="share of rows")
        ax.set_xlabel(f"size of the change (norm {self.norm:g}, units of X)")
        ax.xaxis.set_major_formatter("{x:g}")
        ax.yaxis.set_major_formatter(lambda y, _: f"{y:.0%}")
        ax.spines[["top", "right"]].set_visible(False)
        ax.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, 1.22), fontsize="small", ncols=2)
        return self
