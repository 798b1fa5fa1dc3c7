"""Display of what a training did, epoch by epoch."""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np

from riskvae.plotting._pyplot import pyplot

# What is drawn of a history: title, unit, and its names in training and on held-out rows.
_PANELS = {
    "loss": ("loss (what is minimized)", "nats per row", ("train_loss", "valid_loss")),
    "rate": ("rate (information in the latent coordinates)", "nats per row", ("train_kl", "valid_kl")),
    "noise": ("learned noise scale", "units of the data", ("noise_scale",)),
    "active": ("active latent coordinates", "number", ("active",)),
}
_LABELS = {"train": ("training", "C0"), "valid": ("held out", "C1")}


class LearningCurveDisplay:
    """Loss, rate, learned noise and active coordinates against the epoch, and the epoch whose weights were kept.

    The rate is the mean KL term. A rate that stays near 0, with few active coordinates, is a posterior collapse: lower
    ``beta``, or let it set in later by ``beta_warmup``. A held-out loss that rises while that of training falls is
    overfitting: set ``early_stopping=True``. A loss that still falls at the end asks for more epochs. Make the display
    by :meth:`from_estimator`, which draws at once.

    Parameters
    ----------
    history : list of dict
        The ``history_`` of a fitted estimator.
    best_iter : int
        Its ``best_iter_``.

    Attributes
    ----------
    axes_ : dict of str to matplotlib Axes
        Of "loss", "rate", and, where the history has them, "noise" and "active".
    figure_ : matplotlib Figure
        What holds the axes.
    lines_ : dict of str to matplotlib Line2D
        By their names in the history, such as "valid_loss".

    Examples
    --------
    >>> import matplotlib; matplotlib.use("Agg")
    >>> from sklearn.datasets import load_digits
    >>> from riskvae import BetaVAE
    >>> from riskvae.plotting import LearningCurveDisplay
    >>> vae = BetaVAE(4, max_epochs=20, early_stopping=True, random_state=0).fit(load_digits().data / 16)
    >>> display = LearningCurveDisplay.from_estimator(vae)
    >>> list(display.axes_)
    ['loss', 'rate', 'noise', 'active']
    """

    history: list[Mapping[str, Any]]
    best_iter: int
    axes_: dict[str, Any]
    figure_: Any
    lines_: dict[str, Any]

    def __init__(self, history: Sequence[Mapping[str, Any]], *, best_iter: int) -> None:
        self.history = list(history)
        self.best_iter = best_iter

    @classmethod
    def from_estimator(cls, estimator: Any, *, figure: Any = None) -> Self:
        """Draw the learning curves of a fitted estimator.

        Parameters
        ----------
        estimator : estimator or Pipeline
            Fitted; of a pipeline its last step.
        figure : matplotlib Figure or SubFigure, default=None
            Where to draw; None makes a figure.

        Returns
        -------
        LearningCurveDisplay

        Raises
        ------
        TypeError
            If the estimator has no history of epochs.
        """
        from sklearn.utils.validation import check_is_fitted

        last = estimator.steps[-1][1] if hasattr(estimator, "steps") else estimator
        if hasattr(type(last), "history_"):
            check_is_fitted(last)
        elif not hasattr(last, "history_"):
            raise TypeError(
                "estimator must be a fitted estimator of riskvae, or a pipeline that ends in one, with history_; got "
                f"{type(last).__name__}. Of a search, pass search.best_estimator_."
            )
        return cls(last.history_, best_iter=last.best_iter_).plot(figure)

    def plot(self, figure: Any = None) -> Self:
        """Draw the panels.

        Parameters
        ----------
        figure : matplotlib Figure or SubFigure, default=None
            Where to draw; None makes a figure.

        Returns
        -------
        LearningCurveDisplay
            Itself.
        """
        shown = [name for name, panel in _PANELS.items() if any(self._points(key)[0].size for key in panel[2])]
        if not shown:
            raise ValueError("history has no epoch, so nothing can be drawn: a callback ended the training at once.")
        columns = min(2, len(shown))
        rows = -(-len(shown) // columns)
        if figure is None:
            figure = pyplot().figure(figsize=(4.6 * columns, 2.7 * rows), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False, sharex=True).ravel()
        for ax in axes[len(shown) :]:
            ax.set_axis_off()
        self.figure_, self.axes_, self.lines_ = figure, dict(zip(shown, axes, strict=False)), {}
        for name, ax in self.axes_.items():
            self._draw(ax, *_PANELS[name])
            if name in ("noise", "active"):
                ax.set_ylim(0, None)
        for ax in axes[max(0, len(shown) - columns) : len(shown)]:
            ax.set_xlabel("epoch")
            ax.tick_params(labelbottom=True)
        return self

    def _draw(self, ax: Any, title: str, unit: str, keys: Sequence[str]) -> None:
        curves = {key: self._points(key) for key in keys}
        curves = {key: points for key, points in curves.items() if points[0].size}
        for key, (epochs, values) in curves.items():
            label, color = _LABELS.get(key.split("_")[0], ("", "C0"))
            marker = "." if len(epochs) < 2 or key == "active" else None
            (self.lines_[key],) = ax.plot(epochs, values, color=color, lw=1.8, marker=marker, label=label)
        if self.best_iter < len(self.history):
            ax.axvline(self.best_iter, color="0.4", lw=1, ls=":")
            if "valid_loss" in curves:
                ax.annotate(
                    f"kept: epoch {self.best_iter}", (self.best_iter, 1), (-3, -2), xycoords=("data", "axes fraction"),
                    textcoords="offset points", color="0.4", ha="right", va="top", fontsize="small",
                )  # fmt: skip
        values = np.concatenate([points[1] for points in curves.values()])
        low, high = _ends(values)
        ax.set(ylim=(low, high), ylabel=unit)
        if "valid_loss" in curves:  # named where they end, once
            _name_ends(ax, [self.lines_[key] for key in curves])
        ax.set_title(title, fontsize="medium", loc="left")
        ax.spines[["top", "right"]].set_visible(False)

    def _points(self, key: str) -> tuple[Any, Any]:
        """Epochs in which something was recorded, and what."""
        known = [(row["epoch"], row[key]) for row in self.history if key in row]
        return np.array([epoch for epoch, _ in known]), np.array([value for _, value in known], dtype=np.float64)


def _name_ends(ax: Any, lines: Sequence[Any]) -> None:
    """Names of two curves where they end, one above the other also where the ends lie closer than letters are high."""
    low, high = sorted(lines, key=lambda line: line.get_ydata()[-1])
    bottom, top = ax.get_ylim()
    close = high.get_ydata()[-1] - low.get_ydata()[-1] < 0.1 * (top - bottom)
    for line, down in ((low, -6), (high, 6)):
        place = (line.get_xdata()[-1], min(top, line.get_ydata()[-1]))  # a curve may leave what is shown
        ax.annotate(
            line.get_label(), place, (4, down if close else 0), textcoords="offset points", color=line.get_color(),
            va="center",
        )  # fmt: skip


def _ends(values: Any) -> tuple[float, float]:
    """Limits that show how curves end: what first epochs are far above is cut off."""
    low, high = float(values.min()), float(values.max())
    settled = float(np.percentile(values, 90))
    if len(values) > 20 and high - low > 4 * (settled - low):
        high = low + 2 * (settled - low)
    room = 0.06 * (high - low) or 0.06 * max(abs(high), 1.0)
    return low - room, high + room
