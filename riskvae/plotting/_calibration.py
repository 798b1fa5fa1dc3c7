"""Display of calibration: how much intervals hold against how much they should."""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from riskvae.metrics import coverage
from riskvae.plotting._pyplot import axes_or_new


class CalibrationDisplay:
    """Actual coverage of intervals against the nominal one: mean over features, and their range.

    Intervals are calibrated if the curve lies on the diagonal, and too narrow if it lies below. Create the display with
    :meth:`from_estimator`, on rows that were used neither for training nor for calibration, or with
    :meth:`from_intervals`.

    Parameters
    ----------
    nominal : ndarray of shape (n_levels,)
        Nominal coverages, one minus alpha, ascending.
    curves : dict of str to ndarray of shape (n_levels, n_features)
        Coverage of each feature, by model.

    Attributes
    ----------
    ax_, figure_ : matplotlib Axes and Figure
        Axes and figure of the plot.
    lines_, bands_ : dict of str to matplotlib Line2D, FillBetweenPolyCollection
        Means and ranges over features, by model.

    Examples
    --------
    >>> import matplotlib; matplotlib.use("Agg")
    >>> from riskvae import QuantileVAE
    >>> from riskvae.datasets import make_heteroscedastic
    >>> from riskvae.plotting import CalibrationDisplay
    >>> X, X_test = (make_heteroscedastic(500, random_state=seed).data for seed in (0, 1))
    >>> vae = QuantileVAE(max_epochs=5, calibration_fraction=0.4, random_state=0).fit(X)
    >>> display = CalibrationDisplay.from_estimator(vae, X_test)
    >>> display.curves["QuantileVAE"].shape
    (11, 4)
    """

    nominal: NDArray[np.floating]
    curves: dict[str, NDArray[np.floating]]
    ax_: Any
    figure_: Any
    lines_: dict[str, Any]
    bands_: dict[str, Any]

    def __init__(self, nominal: ArrayLike, curves: Mapping[str, NDArray[np.floating]]) -> None:
        self.nominal = np.asarray(nominal, dtype=np.float64)
        self.curves = dict(curves)

    @classmethod
    def from_estimator(
        cls, vae: Any, X: ArrayLike, *, alphas: Sequence[float] | None = None, ax: Any = None, **line_options: Any
    ) -> Self:
        """Predict intervals at several levels and draw their coverage.

        Parameters
        ----------
        vae : QuantileVAE, or dict of them
            One fitted model, or several by name. They must be calibrated if alphas reach beyond their quantiles.
        X : array-like of shape (n_samples, n_features)
            Rows that the models have not seen.
        alphas : sequence of float, default=None
            One minus the nominal coverages, in (0, 1). None uses nominal coverages from .05 to .95; for models that are
            not calibrated, up to the range of their quantiles.
        ax : matplotlib Axes, default=None
            Axes to draw on; None creates a figure.
        **line_options
            Passed to matplotlib's ``plot``.

        Returns
        -------
        CalibrationDisplay
        """
        models = vae if isinstance(vae, Mapping) else {type(vae).__name__: vae}
        for model in models.values():
            if not hasattr(model, "predict_interval"):
                raise TypeError(
                    f"vae must be a QuantileVAE, or several in a dict by name; got {type(model).__name__}. For a "
                    "pipeline, pass pipe[-1], and pipe[:-1].transform(X)."
                )
            if getattr(model.likelihood, "columns", None) is not None:
                raise ValueError(
                    "CalibrationDisplay draws the coverage of numbers, and columns of a table may be none. Take those "
                    "that are: intervals[:, places] of predict_interval and X[names].to_numpy(), by from_intervals."
                )
        levels = np.array(_levels_of(models) if alphas is None else alphas, dtype=np.float64, ndmin=1)
        intervals = {
            name: [model.predict_interval(X, float(alpha)) for alpha in levels] for name, model in models.items()
        }
        return cls.from_intervals(X, intervals, alphas=levels.tolist(), ax=ax, **line_options)

    @classmethod
    def from_intervals(
        cls,
        X: ArrayLike,
        intervals: Mapping[str, Sequence[ArrayLike]],
        *,
        alphas: Sequence[float],
        ax: Any = None,
        **line_options: Any,
    ) -> Self:
        """Draw the coverage of given intervals.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Observed values.
        intervals : dict of str to sequence of array-like of shape (n_samples, n_features, 2)
            By model: the intervals for each of ``alphas``, in that order.
        alphas : sequence of float
            One minus the nominal coverages.
        ax : matplotlib Axes, default=None
            Axes to draw on; None creates a figure.
        **line_options
            Passed to matplotlib's ``plot``.

        Returns
        -------
        CalibrationDisplay
        """
        order = np.argsort(alphas)[::-1]
        curves = {}
        for name, by_level in intervals.items():
            if len(by_level) != len(order):
                raise ValueError(
                    f"intervals[{name!r}] must be a list of one array for each of {len(order)} alphas; its length is "
                    f"{len(by_level)}."
                )
            curves[name] = np.array([coverage(X, by_level[i]) for i in order])
        return cls(1.0 - np.asarray(alphas, dtype=np.float64)[order], curves).plot(ax=ax, **line_options)

    def plot(self, ax: Any = None, **line_options: Any) -> Self:
        """Draw the curves and the diagonal.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw on; None creates a figure.
        **line_options
            Passed to matplotlib's ``plot``.

        Returns
        -------
        CalibrationDisplay
            Itself.
        """
        ax = axes_or_new(ax, figsize=(4.8, 4.6))
        self.ax_, self.figure_ = ax, ax.figure
        self.lines_, self.bands_ = {}, {}
        if "calibrated" not in ax.get_legend_handles_labels()[1]:  # a display may join another's axes
            ax.plot([0, 100], [0, 100], color="gray", ls="--", lw=1, zorder=0, label="calibrated")
        percent = 100 * self.nominal
        for name, shares in self.curves.items():
            (line,) = ax.plot(percent, 100 * shares.mean(1), **{"marker": "o", "ms": 3, **line_options, "label": name})
            low, high = 100 * shares.min(1), 100 * shares.max(1)
            self.lines_[name] = line
            self.bands_[name] = ax.fill_between(percent, low, high, color=line.get_color(), alpha=0.15, lw=0)
        ax.set(xlim=(0, 100), ylim=(0, 100), xlabel="nominal coverage (%)", aspect="equal")
        ax.set_ylabel("actual coverage: mean, range of features (%)")
        ax.spines[["top", "right"]].set_visible(False)
        ax.legend(frameon=False, loc="lower right")
        return self


def _levels_of(models: Mapping[str, Any]) -> NDArray[np.float64]:
    """Alphas for which every model has intervals."""
    trained = [model.module_.likelihood.levels for model in models.values()]  # which parameters may differ from
    spans = [
        0.95 if model.is_calibrated else 1 - 2 * max(levels[0], 1 - levels[-1])
        for model, levels in zip(models.values(), trained, strict=True)
    ]
    if min(spans) <= 0:
        raise ValueError(
            "alphas=None needs models with quantiles on both sides of the median, or calibrated ones. Pass alphas, or "
            "call conformalize(X_cal) first."
        )
    return 1.0 - np.linspace(min(0.05, min(spans) / 2), min(spans), 11)
