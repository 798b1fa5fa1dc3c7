"""Tails of the losses of a whole sample, and the scorer that looks at them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from riskvae.risk import cvar

# Methods that each loss needs: one of these sets.
_NEEDED: dict[str, list[tuple[str, ...]]] = {
    "squared_error": [("reconstruct",), ("transform", "inverse_transform")],
    "reconstruction": [("reconstruction_loss",)],
    "evidence": [("score_samples",)],
}


def tail_mean(losses: ArrayLike, eps: float, *, tail: str = "worst") -> float:
    r"""Mean of the worst or best fraction of a whole sample of losses, in float64.

    This is :func:`riskvae.risk.cvar` for arrays. If ``eps * N`` is not a whole number, the boundary loss counts by the
    fraction that remains.

    Parameters
    ----------
    losses : array-like of shape (n_samples,)
        Losses; larger is worse.
    eps : float
        Fraction of the losses, in (0, 1].
    tail : {"worst", "best"}, default="worst"
        Whether to average the largest or the smallest losses.

    Returns
    -------
    float
        Mean, in the units of the losses.

    Examples
    --------
    >>> tail_mean([1.0, 2.0, 3.0, 4.0], 0.5), tail_mean([1.0, 2.0, 3.0, 4.0], 0.5, tail="best")
    (3.5, 1.5)
    """
    return float(cvar(torch.from_numpy(_losses(losses)), eps, tail=tail))


def tail_curve(
    losses: ArrayLike, shares: ArrayLike | None = None, *, tail: str = "worst"
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    r"""Mean of the worst (or best) share of the losses, as a function of that share.

    The curve is computed over the whole sample and exact at every share: it is that of :func:`tail_mean`, from a single
    sort.

    Parameters
    ----------
    losses : array-like of shape (n_samples,)
        Losses; larger is worse.
    shares : array-like of shape (n_shares,), default=None
        Shares in (0, 1]. None uses 100 shares, evenly spaced on a logarithmic scale from 0.01 (or 1/n_samples, if that
        is larger) to 1.
    tail : {"worst", "best"}, default="worst"
        Which tail.

    Returns
    -------
    shares, means : ndarray of shape (n_shares,)
        The curve, with ``means`` in the units of the losses.

    Examples
    --------
    >>> tail_curve([1.0, 2.0, 3.0, 4.0], [0.25, 0.375, 1.0])
    (array([0.25 , 0.375, 1.   ]), array([4.        , 3.66666667, 2.5       ]))
    """
    values = _losses(losses)
    n = len(values)
    if shares is None:
        shares = np.geomspace(min(max(0.01, 1 / n), 1.0), 1.0, 100)
    shares = np.asarray(shares, dtype=np.float64)
    if shares.ndim != 1 or not ((shares > 0) & (shares <= 1)).all():
        raise ValueError(f"shares must be a sequence of numbers in (0, 1]; got {shares!r}.")
    if tail not in ("worst", "best"):
        raise ValueError(f"tail must be 'worst' or 'best'; got {tail!r}.")
    ordered = np.sort(values)[::-1] if tail == "worst" else np.sort(values)
    # N times the share, times its mean, is linear between whole numbers of losses.
    sums = np.concatenate(([0.0], np.cumsum(ordered)))
    counts = np.maximum(shares * n, 1.0)
    means = np.interp(counts, np.arange(n + 1), sums) / counts
    return shares, means * np.nan if np.isnan(sums[-1]) else means


def row_losses(estimator: Any, X: Any, loss: str = "squared_error") -> NDArray[np.floating]:
    """Loss of each row under a fitted model.

    Parameters
    ----------
    estimator : estimator or Pipeline
        Fitted model. For a pipeline, its last autoencoder is evaluated on the rows that reach it, in their units,
        whatever follows it. For "squared_error", a single estimator or the last step may also be anything with
        ``transform`` and ``inverse_transform``, such as scikit-learn's PCA.
    X : array-like of shape (n_samples, n_features)
        Rows.
    loss : {"squared_error", "reconstruction", "evidence"}, default="squared_error"
        Squared error of the reconstruction, averaged over features (over known ones, if some are missing); negative
        log-likelihood at the posterior mean (``reconstruction_loss``); or negative evidence bound (``-score_samples``).
        The last two are in nats, and depend on the noise scale that each model has learned.

    Returns
    -------
    ndarray of shape (n_samples,)
        Losses; larger is worse.
    """
    if loss not in _NEEDED:
        raise ValueError(f"loss must be one of {', '.join(map(repr, _NEEDED))}; got {loss!r}.")
    if isinstance(estimator, Pipeline):
        judged = [i for i, (_, step) in enumerate(estimator.steps) if hasattr(step, _NEEDED[loss][0][0])]
        last = judged[-1] if judged else len(estimator) - 1
        X = estimator[:last].transform(X) if last else X
        estimator = estimator[last]
    check_is_fitted(estimator)
    if not any(all(hasattr(estimator, name) for name in names) for names in _NEEDED[loss]):
        needed = " or ".join(" and ".join(names) for names in _NEEDED[loss])
        raise TypeError(
            f"loss={loss!r} needs an estimator with {needed}; got {type(estimator).__name__}. In a pipeline, the last "
            "autoencoder is judged; here there is none."
        )
    if loss == "reconstruction":
        return estimator.reconstruction_loss(X)
    if loss == "evidence":
        return -estimator.score_samples(X)
    own = hasattr(estimator, "reconstruct")
    rebuilt = estimator.reconstruct(X) if own else estimator.inverse_transform(estimator.transform(X))
    rebuilt = np.asarray(rebuilt)
    if rebuilt.dtype.kind not in "biuf":
        raise ValueError(
            "loss='squared_error' is for numbers, but the rows have categories. Use loss='reconstruction' or "
            "'evidence', in nats over all columns."
        )
    square = np.square(np.asarray(X) - rebuilt)
    missing = np.isnan(square)
    if not missing.any():
        return np.mean(square, axis=1, dtype=np.float64)
    # A row of which nothing is known has no error, as it has no loss.
    return np.where(missing, 0.0, square).sum(axis=1, dtype=np.float64) / np.maximum((~missing).sum(axis=1), 1)


@dataclass(frozen=True)
class _TailLossScorer:
    eps: float
    tail: str = "worst"
    loss: str = "squared_error"

    def __call__(self, estimator: Any, X: Any, y: Any = None) -> float:
        return -tail_mean(row_losses(estimator, X, self.loss), self.eps, tail=self.tail)


def tail_loss_scorer(
    eps: float, tail: str = "worst", *, loss: str = "squared_error"
) -> Callable[[Any, Any, Any], float]:
    """Scorer for :class:`~sklearn.model_selection.GridSearchCV` based on the tail of the rows' losses.

    A model's own ``score`` is a mean and favors models that were trained on the mean. This scorer returns
    ``-tail_mean(row_losses(estimator, X), eps)``: larger is better. In a pipeline, the loss is in the units of the rows
    that reach the autoencoder, so models can be compared behind the same scaler, but not behind different ones.

    Parameters
    ----------
    eps : float
        Fraction of the held-out rows, in (0, 1].
    tail : {"worst", "best"}, default="worst"
        Which tail.
    loss : {"squared_error", "reconstruction", "evidence"}, default="squared_error"
        Loss of a row, as in :func:`row_losses`. The squared error is the same measure for all models of a grid,
        whatever noise scale they have learned.

    Returns
    -------
    callable
        ``scorer(estimator, X, y=None)``. It can be pickled, for ``n_jobs``, and compared.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.decomposition import PCA
    >>> from sklearn.model_selection import GridSearchCV
    >>> search = GridSearchCV(PCA(), {"n_components": [2, 8]}, scoring=tail_loss_scorer(0.1), cv=2)
    >>> search.fit(load_digits().data / 16).best_params_
    {'n_components': 8}
    """
    tail_mean([0.0], eps, tail=tail)
    if loss not in _NEEDED:
        raise ValueError(f"loss must be one of {', '.join(map(repr, _NEEDED))}; got {loss!r}.")
    return _TailLossScorer(eps, tail, loss)


def _losses(losses: ArrayLike) -> NDArray[np.float64]:
    values = np.asarray(losses, dtype=np.float64)
    if values.ndim != 1 or len(values) == 0:
        raise ValueError(f"losses must hold one loss per row, at least one; got shape {values.shape}.")
    return np.ascontiguousarray(values)
