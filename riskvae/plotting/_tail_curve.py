"""Display of tail curves."""

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from riskvae.metrics import row_losses, tail_curve
from riskvae.plotting._pyplot import axes_or_new


class TailCurveDisplay:
    """Mean of the worst (or best) share of the losses against that share, with one curve per model.

    Create it with :meth:`from_estimator` or :meth:`from_losses`, which draw immediately, like the displays of
    scikit-learn.

    Parameters
    ----------
    shares : ndarray of shape (n_shares,)
        Shares of the rows, in (0, 1].
    curves : dict of str to ndarray of shape (n_shares,) or (n_seeds, n_shares)
        Means by name of the model. Several seeds are drawn as their mean, with a band from the smallest to the largest.
    tail : {"worst", "best"}, default="worst"
        Which tail.
    loss_name : str, default="loss"
        Description of the losses, with their unit.
    baseline : str, default=None
        Name of a model: draw the change relative to it, in percent. Several seeds are paired if both models have as
        many.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes of the curves.
    figure_ : matplotlib Figure
        Figure of the axes.
    lines_ : dict of str to matplotlib Line2D
        Curve of each model.
    bands_ : dict of str to matplotlib FillBetweenPolyCollection
        Range over seeds, for models that have several.

    Examples
    --------
    >>> import matplotlib; matplotlib.use("Agg")
    >>> import numpy as np
    >>> from riskvae.plotting import TailCurveDisplay
    >>> rng = np.random.default_rng(0)
    >>> display = TailCurveDisplay.from_losses({"plain": rng.exponential(size=99), "averse": np.full(99, 1.2)})
    >>> sorted(display.lines_)
    ['averse', 'plain']
    """

    curves: dict[str, NDArray[np.floating]]
    ax_: Any
    figure_: Any
    lines_: dict[str, Any]
    bands_: dict[str, Any]

    def __init__(
        self,
        shares: NDArray[np.floating],
        curves: Mapping[str, NDArray[np.floating]],
        *,
        tail: str = "worst",
        loss_name: str = "loss",
        baseline: str | None = None,
    ) -> None:
        if baseline is not None and baseline not in curves:
            raise ValueError(f"baseline must be one of {', '.join(map(repr, curves))}; got {baseline!r}.")
        self.shares = shares
        self.curves = dict(curves)
        self.tail = tail
        self.loss_name = loss_name
        self.baseline = baseline

    @classmethod
    def from_losses(
        cls,
        losses: ArrayLike | Mapping[str, ArrayLike],
        *,
        shares: ArrayLike | None = None,
        tail: str = "worst",
        name: str = "model",
        loss_name: str = "loss",
        baseline: str | None = None,
        ax: Any = None,
        **line_options: Any,
    ) -> Self:
        """Draw tail curves of losses.

        Parameters
        ----------
        losses : array-like of shape (n_samples,) or (n_seeds, n_samples), or dict of them
            Losses of one model, or of several by name; larger is worse.
        shares : array-like of shape (n_shares,), default=None
            Shares in (0, 1]; None as in :func:`riskvae.metrics.tail_curve`.
        tail : {"worst", "best"}, default="worst"
            Which tail.
        name : str, default="model"
            Name of a single model.
        loss_name : str, default="loss"
            Description of the losses, for the axis label.
        baseline : str, default=None
            Name of a model: draw the change relative to it, in percent.
        ax : matplotlib Axes, default=None
            Axes to draw on; None creates a figure. Pass ``display.ax_`` to add models to it.
        **line_options
            Passed to matplotlib's ``plot``.

        Returns
        -------
        TailCurveDisplay
            With ``ax_``, ``figure_``, ``lines_``.
        """
        by_name = losses if isinstance(losses, Mapping) else {name: losses}
        if not by_name:
            raise ValueError("losses must name at least one model; got an empty dict.")
        arrays = {label: np.asarray(values, dtype=np.float64) for label, values in by_name.items()}
        if shares is None:
            # One grid for all: from the smallest share that the smallest sample can resolve.
            n = min(values.shape[-1] if values.ndim else 0 for values in arrays.values())
            shares = np.geomspace(min(max(0.01, 1 / max(n, 1)), 1.0), 1.0, 100)
        shares = np.sort(np.asarray(shares, dtype=np.float64))
        curves = {label: _curves(values, shares, tail) for label, values in arrays.items()}
        return cls(shares, curves, tail=tail, loss_name=loss_name, baseline=baseline).plot(ax=ax, **line_options)

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        *,
        loss: str = "squared_error",
        shares: ArrayLike | None = None,
        tail: str = "worst",
        baseline: str | None = None,
        name: str | None = None,
        ax: Any = None,
        **line_options: Any,
    ) -> Self:
        """Draw the tail curve of a fitted model on rows.

        Parameters
        ----------
        estimator : estimator, Pipeline, or dict of them
            One fitted model, or several by name. A list is one model with several seeds.
        X : array-like of shape (n_samples, n_features)
            Rows, preferably held out.
        loss : {"squared_error", "reconstruction", "evidence"}, default="squared_error"
            As in :func:`riskvae.metrics.row_losses`.
        shares, tail, baseline, ax, **line_options
            As in :meth:`from_losses`.
        name : str, default=None
            Name of a single model; None uses the name of its class.

        Returns
        -------
        TailCurveDisplay
            With ``ax_``, ``figure_``, ``lines_``.

        Examples
        --------
        >>> import matplotlib; matplotlib.use("Agg")
        >>> from sklearn.datasets import load_digits
        >>> from sklearn.decomposition import PCA
        >>> X = load_digits().data / 16
        >>> first = TailCurveDisplay.from_estimator(PCA(4).fit(X), X, name="4 components")
        >>> both = TailCurveDisplay.from_estimator(PCA(8).fit(X), X, name="8 components", ax=first.ax_)
        >>> [text.get_text() for text in both.ax_.get_legend().get_texts()]
        ['4 components', '8 components']
        """
        by_name = estimator if isinstance(estimator, Mapping) else {name or _name(_seeds(estimator)[0]): estimator}
        units = {
            "squared_error": "mean squared error",
            "reconstruction": "reconstruction loss (nats)",
            "evidence": "negative evidence bound (nats)",
        }
        losses = {label: [row_losses(model, X, loss) for model in _seeds(group)] for label, group in by_name.items()}
        return cls.from_losses(
            losses, shares=shares, tail=tail, loss_name=units[loss], baseline=baseline, ax=ax, **line_options
        )

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
        TailCurveDisplay
            Itself.
        """
        ax = axes_or_new(ax)
        self.ax_, self.figure_ = ax, ax.figure
        self.lines_, self.bands_ = {}, {}
        percent = 100 * self.shares
        reference = None if self.baseline is None else np.atleast_2d(self.curves[self.baseline])
        for label, curve in self.curves.items():
            seeds = np.atleast_2d(curve)
            middle = seeds.mean(0)
            if reference is not None:
                paired = reference if len(reference) == len(seeds) else reference.mean(0)
                middle, seeds = 100 * (middle / reference.mean(0) - 1), 100 * (seeds / paired - 1)
            width = {} if "lw" in line_options else {"linewidth": 2}
            (line,) = ax.plot(percent, middle, **{**width, **line_options, "label": label})
            self.lines_[label] = line
            if len(seeds) > 1 and label != self.baseline:
                band = ax.fill_between(percent, seeds.min(0), seeds.max(0), color=line.get_color(), alpha=0.2, lw=0)
                self.bands_[label] = band
        low = min(percent.min(), *ax.get_xlim()) if ax.get_xscale() == "log" else percent.min()
        ax.set(xscale="log", xlim=(low, 100), xlabel=f"share of the rows, {self.tail} first (%)")
        what = f"{self.loss_name},\nmean of the {self.tail} share"
        ax.set_ylabel(what if self.baseline is None else f"{what}, change against {self.baseline} (%)")
        ticks = [t for t in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100) if t >= 0.999 * low]
        ax.set_xticks(ticks, ["all" if t == 100 else f"{t:g}" for t in ticks])
        ax.minorticks_off()
        ax.spines[["top", "right"]].set_visible(False)
        ax.legend(frameon=False)
        return self


def _curves(losses: NDArray[np.float64], shares: ArrayLike, tail: str) -> NDArray[np.float64]:
    if losses.ndim == 2 and len(losses):
        return np.stack([tail_curve(row, shares, tail=tail)[1] for row in losses])
    return tail_curve(losses, shares, tail=tail)[1]


def _seeds(group: Any) -> list[Any]:
    """A model, or a list of models that differ by their seeds, as a list."""
    if isinstance(group, list | tuple) and not group:
        raise ValueError("estimator holds an empty list; give at least one fitted model.")
    return list(group) if isinstance(group, list | tuple) else [group]


def _name(estimator: Any) -> str:
    last = estimator.steps[-1][1] if hasattr(estimator, "steps") else estimator
    return type(last).__name__
