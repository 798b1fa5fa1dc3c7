"""Display of explanations: what the values of a row should have been, and which rows are unusual by what."""

from typing import Any, Self

import numpy as np

from riskvae.plotting._pyplot import axes_or_new, pyplot

_COLUMNS = ("row", "feature", "value", "expected", "lower", "upper", "share", "cause")
# Values this many half-widths of the interval away from its middle stand at the edge.
_REACH = 4.0
_CAUSE, _OTHER, _INTERVAL = "#c0392b", "#34495e", "#c9d3dc"
# Least widths of the columns of values and expected values right of the picture, and of a letter, in points.
_LEAST, _LETTER = (45.0, 60.0), 6.2
# Rows whose names are written out.
_NAMED = 30
# Categories that are as unlikely as that are drawn outside.
_RARE = 0.1


class ExplanationDisplay:
    """Why rows are unusual: the values and intervals of one row, or the shares of features for many rows.

    For one row, each line shows one of the features with the largest shares of its score. The band is the interval in
    which the value should lie, given the other values. The stroke in it is the expected value; the dot is the actual
    value, red if it is a cause. Lines are in units of their intervals, so they can be compared; a triangle marks a
    value outside of the plot. On the right are the value, the expected value and the share. For many rows, their shares
    are shown by color, with a red dot for each cause.

    Create it with :meth:`from_estimator` or :meth:`from_explanation`.

    Parameters
    ----------
    table : pandas.DataFrame
        Table returned by :meth:`riskvae.QuantileVAE.explain` or :func:`riskvae.explain`.
    row : label, default=None
        Row to draw, as in the column "row". None draws the only row, or all of several.
    max_features : int, default=10
        Number of features to draw: those with the largest share, of the row or on average.

    Attributes
    ----------
    ax_, figure_ : matplotlib Axes and Figure
        Axes and figure of the plot.
    intervals_, values_ : matplotlib LineCollection and PathCollection
        Bands and dots of one row; None for many rows.
    image_ : matplotlib AxesImage
        Shares of many rows; None for one row.

    Examples
    --------
    >>> import matplotlib; matplotlib.use("Agg")
    >>> from sklearn.datasets import load_wine
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from riskvae import QuantileVAE
    >>> from riskvae.plotting import ExplanationDisplay
    >>> X = load_wine(as_frame=True).data
    >>> pipe = make_pipeline(StandardScaler(), QuantileVAE(calibration_fraction="cross", random_state=0)).fit(X)
    >>> display = ExplanationDisplay.from_estimator(pipe, X.iloc[[17]].assign(ash=5.0))
    >>> display.ax_.get_title(loc="left")
    'row 17: an outlier because of ash'
    """

    table: Any
    row: Any
    max_features: int
    ax_: Any
    figure_: Any
    intervals_: Any
    values_: Any
    image_: Any

    def __init__(self, table: Any, row: Any = None, max_features: int = 10) -> None:
        self.table, self.row, self.max_features = table, row, max_features

    @classmethod
    def from_estimator(
        cls,
        model: Any,
        X: Any,
        *,
        row: Any = None,
        alpha: float = 0.1,
        max_features: int = 10,
        ax: Any = None,
    ) -> Self:
        """Explain rows and draw the explanation.

        Parameters
        ----------
        model : QuantileVAE or sklearn.pipeline.Pipeline
            Fitted, and preferably calibrated; as for :func:`riskvae.explain`.
        X : array-like of shape (n_samples, n_features)
            Rows. To plot one row, pass that row (``X.iloc[[17]]``), or all rows and ``row``.
        row : label, default=None
            Row to draw: its label in the index of a DataFrame, or else its position.
        alpha : float, default=0.1
            One minus the coverage of the intervals, in (0, 1).
        max_features : int, default=10
            Number of features to draw: those with the largest share, of the row or on average.
        ax : matplotlib Axes, default=None
            Axes to draw on; None creates a figure.

        Returns
        -------
        ExplanationDisplay
        """
        from riskvae.estimators import explain

        pyplot()  # before any work
        return cls.from_explanation(explain(model, X, alpha=alpha), row=row, max_features=max_features, ax=ax)

    @classmethod
    def from_explanation(cls, table: Any, *, row: Any = None, max_features: int = 10, ax: Any = None) -> Self:
        """Draw a table returned by :meth:`riskvae.QuantileVAE.explain` or :func:`riskvae.explain`.

        Parameters
        ----------
        table : pandas.DataFrame
            Table with one line for each row and feature.
        row : label, default=None
            Row to draw, as in the column "row". None draws the only row, or all of several.
        max_features : int, default=10
            Number of features to draw: those with the largest share, of the row or on average.
        ax : matplotlib Axes, default=None
            Axes to draw on; None creates a figure.

        Returns
        -------
        ExplanationDisplay
        """
        missing = [name for name in _COLUMNS if name not in getattr(table, "columns", ())]
        if missing:
            raise TypeError(
                f"table must be what explain returns, with the columns {', '.join(_COLUMNS)}; got "
                f"{type(table).__name__} without {', '.join(missing)}."
            )
        if not len(table):
            raise ValueError("table must hold at least one row; it is empty.")
        if table.duplicated(["row", "feature"]).any():
            raise ValueError(
                "table has some row and feature twice: labels of rows repeat. Explain X.reset_index(drop=True), or "
                "rows with distinct labels."
            )
        if row is not None and not (table["row"] == row).any():
            some = ", ".join(map(repr, table["row"].drop_duplicates().head(5).tolist()))
            raise ValueError(f"row must be a label of the column 'row', such as {some}; got {row!r}.")
        if isinstance(max_features, bool) or not isinstance(max_features, int | np.integer) or max_features < 1:
            raise ValueError(f"max_features must be an integer of at least 1; got {max_features!r}.")
        return cls(table, row, int(max_features)).plot(ax=ax)

    def plot(self, ax: Any = None) -> Self:
        """Draw one row, or all rows.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw on; None creates a figure.

        Returns
        -------
        ExplanationDisplay
            Itself.
        """
        self.intervals_ = self.values_ = self.image_ = None
        table = self.table if self.row is None else self.table[self.table["row"] == self.row]
        if table["row"].nunique() == 1:
            self._plot_row(table, ax)
        else:
            self._plot_rows(table, ax)
        self.ax_.spines[:].set_visible(False)
        return self

    def _plot_row(self, table: Any, ax: Any) -> None:
        kept = table.sort_values("share", ascending=False, kind="stable").head(self.max_features)
        n = len(kept)
        self.ax_ = ax = axes_or_new(ax, figsize=(8.0, 1.3 + 0.36 * n))
        self.figure_ = ax.figure
        lower, upper = (kept[name].to_numpy(dtype=np.float64) for name in ("lower", "upper"))
        named = np.isnan(lower)  # categories have no interval
        value, expected = (_numbers(kept[name], named) for name in ("value", "expected"))
        cause, y = kept["cause"].to_numpy(dtype=bool), np.arange(n)
        bounded = np.isfinite(lower) & np.isfinite(upper)
        at, stroke = (_in_units(x, lower, upper, bounded) for x in (value, expected))
        ends = np.where(bounded, 1.0, np.where(named, 0.0, 1.15 * _REACH))
        wrong = [a != b for a, b in zip(kept["value"], kept["expected"], strict=True)]
        usual = 1.4 - 0.7 * (kept["p"].to_numpy(dtype=np.float64) > _RARE)
        lost = np.array([value is None for value in kept["value"]])
        at = np.where(named, np.where(lost, np.nan, np.where(wrong, usual, 0.0)), at)
        stroke = np.where(named, 0.0, stroke)
        self.intervals_ = ax.hlines(y, -ends, ends, color=_INTERVAL, lw=9, zorder=1)
        ax.scatter(np.clip(stroke, -_REACH, _REACH), y, marker="|", s=110, lw=2, color="white", zorder=2)
        shown, colors = np.clip(at, -_REACH, _REACH), np.where(cause, _CAUSE, _OTHER)
        inside = np.abs(at) <= _REACH  # False of what is missing
        self.values_ = ax.scatter(
            shown[inside],
            y[inside],
            s=62,
            c=colors[inside].tolist(),
            zorder=3,
        )
        for side, marker in ((-1, "<"), (1, ">")):
            out = side * at > _REACH
            ax.scatter(
                shown[out],
                y[out],
                s=80,
                c=colors[out].tolist(),
                marker=marker,
                zorder=3,
            )
        _write_beside(ax, kept, colors)
        ax.set_yticks(y, [str(name) for name in kept["feature"]])
        ax.set(xlim=(-1.15 * _REACH, 1.15 * _REACH), ylim=(n - 0.5, -1.0))
        ax.set_xticks([-1, 1], ["lower end", "upper end"], color="0.4", fontsize=9)
        ax.set_xlabel("where the value should lie, given the others (white: expected)", color="0.4", fontsize=9)
        ax.tick_params(length=0)
        flagged = getattr(self.table, "attrs", {}).get("outliers", ())
        ax.set_title(_said(table, flagged), loc="left", fontweight="bold")

    def _plot_rows(self, table: Any, ax: Any) -> None:
        by_cell = table.set_index(["row", "feature"])[["share", "cause"]]
        share, cause = (by_cell[name].unstack(sort=False) for name in ("share", "cause"))
        share = share.astype(float).fillna(0.0)  # of features that max_features left out nothing is known
        kept = share.mean().sort_values(ascending=False, kind="stable").index[: self.max_features]
        share, cause = share[kept], cause[kept] == True  # noqa: E712  # missing ones are none
        n, d = share.shape
        self.ax_ = ax = axes_or_new(ax, figsize=(2.4 + 0.5 * d, 1.8 + 0.26 * min(n, _NAMED)))
        self.figure_ = ax.figure
        self.image_ = ax.imshow(share.to_numpy(), cmap="Blues", vmin=0.0, vmax=1.0, aspect="auto")
        y, x = np.nonzero(cause.to_numpy())
        ax.scatter(x, y, s=26 if n <= _NAMED else 6, color=_CAUSE, edgecolors="white", lw=0.6, label="cause")
        ax.set_xticks(np.arange(d), [str(name) for name in kept], rotation=40, ha="right", rotation_mode="anchor")
        named = np.arange(0, n, -(-n // _NAMED))
        ax.set_yticks(named, [str(share.index[place]) for place in named])
        ax.set_ylabel("row")
        ax.tick_params(length=0)
        flagged = getattr(self.table, "attrs", {}).get("outliers")
        outliers = int((cause.any(axis=1) if flagged is None else share.index.isin(flagged)).sum())
        ax.set_title(f"{outliers} of {n} rows are outliers; their causes are red", loc="left", fontweight="bold")
        bar = self.figure_.colorbar(self.image_, ax=ax, label="share of the row's score", fraction=0.05)
        bar.ax.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        bar.outline.set_visible(False)


def _write_beside(ax: Any, kept: Any, colors: Any) -> None:
    """Columns of values, expected values and shares right of the picture of a row."""
    cause = kept["cause"].to_numpy(dtype=bool)
    texts = [[_shown(one) for one in kept[name]] for name in ("value", "expected")]
    right = _columns_at(texts)
    for i in range(len(kept)):
        number = texts[0][i]
        told = (number, texts[1][i], f"{kept['share'].iloc[i]:.0%}")
        for text, x, color in zip(told, right, (colors[i], "0.45", "black"), strict=True):
            weight = "bold" if cause[i] and text is number else "normal"
            _beside(ax, i, text, x, color=color, fontweight=weight)
    for text, x in zip(("value", "expected", "share"), right, strict=True):
        _beside(ax, -0.75, text, x, color="0.45", fontsize=9)


def _beside(ax: Any, y: float, text: str, points: float, **options: Any) -> None:
    """Text that ends so many points right of the axes."""
    ax.annotate(
        text, (1.0, y), xycoords=("axes fraction", "data"), xytext=(points, 0), textcoords="offset points", ha="right",
        va="center", **options,
    )  # fmt: skip


def _numbers(column: Any, named: Any) -> Any:
    """Values of a column, NaN in the place of categories and of what is missing."""
    return np.array(
        [np.nan if name or value is None else float(value) for value, name in zip(column, named, strict=True)]
    )


def _shown(value: Any) -> str:
    """A value as it is written beside the picture."""
    if value is None or value != value:
        return "missing"
    plain = isinstance(value, int | float | np.number) and not isinstance(value, bool | np.bool_)
    if not plain:
        return str(value)
    return f"{float(f'{value:.4g}'):,.10g}" if 1e-3 <= abs(value) < 1e7 else f"{value:.4g}"


def _columns_at(texts: list[list[str]]) -> list[float]:
    """Right ends of columns of texts, and of shares, in points right of the axes."""
    right, found = 0.0, []
    for least, column in zip(_LEAST, texts, strict=True):
        right += max(least, _LETTER * max(map(len, column)) + 10.0)
        found.append(right)
    return [*found, right + 45.0]


def _in_units(x: Any, lower: Any, upper: Any, bounded: Any) -> Any:
    """Values with lower ends at -1 and upper ends at 1; 0 where an end is infinite, and NaN where missing."""
    low, high = (np.where(bounded, end, side) for end, side in ((lower, -1.0), (upper, 1.0)))
    half = np.maximum(0.5 * (high - low), np.finfo(np.float64).tiny)
    with np.errstate(over="ignore"):
        at = (x - 0.5 * (low + high)) / half
    return np.where(bounded | np.isnan(x), at, 0.0)


def _said(table: Any, flagged: Any) -> str:
    """Title of one row."""
    causes = table[table["cause"].astype(bool)].sort_values("share", ascending=False, kind="stable")
    names = [str(name) for name in causes["feature"]]
    if not names:
        row = table["row"].iloc[0]
        return f"row {row}: an outlier, but for no single value" if row in flagged else f"row {row}: no outlier"
    some = names if len(names) <= 3 else [*names[:2], f"{len(names) - 2} more"]
    listed = some[0] if len(some) == 1 else f"{', '.join(some[:-1])} and {some[-1]}"
    return f"row {table['row'].iloc[0]}: an outlier because of {listed}"
