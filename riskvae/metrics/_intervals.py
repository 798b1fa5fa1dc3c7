"""How good predicted intervals are, given what came true."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from riskvae._validation import check_parameters, real


def coverage(X: ArrayLike, intervals: ArrayLike) -> NDArray[np.float64]:
    r"""Share of the rows whose value lies in its interval, for each feature.

    .. math:: \frac1n \sum_i 1[l_{ij} \le x_{ij} \le u_{ij}]

    Average over features to get a single number.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
        Observed values.
    intervals : array-like of shape (n_samples, n_features, 2)
        Lower and upper ends, as returned by ``predict_interval``.

    Returns
    -------
    ndarray of shape (n_features,)
        Shares in [0, 1].

    Examples
    --------
    >>> coverage([[0.0], [3.0]], [[[-1.0, 1.0]], [[-1.0, 1.0]]])
    array([0.5])
    """
    x, low, high = _ends(X, intervals)
    return ((low <= x) & (x <= high)).mean(0)


def interval_score(X: ArrayLike, intervals: ArrayLike, alpha: float) -> NDArray[np.float64]:
    r"""Mean interval (Winkler) score for each feature: the width, plus a penalty for every miss.

    .. math:: \frac1n \sum_i (u_{ij} - l_{ij}) + \frac2\alpha (l_{ij} - x_{ij})_+ + \frac2\alpha (x_{ij} - u_{ij})_+

    Smaller is better. In expectation, the quantiles of levels alpha / 2 and 1 - alpha / 2 are optimal.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
        Observed values.
    intervals : array-like of shape (n_samples, n_features, 2)
        Lower and upper ends.
    alpha : float
        One minus the nominal coverage, in (0, 1).

    Returns
    -------
    ndarray of shape (n_features,)
        Scores, in the units of X.

    References
    ----------
    Gneiting and Raftery, "Strictly proper scoring rules, prediction, and estimation", JASA 102 (2007).

    Examples
    --------
    >>> interval_score([[0.0], [3.0]], [[[-1.0, 1.0]], [[-1.0, 1.0]]], alpha=0.5)  # (2 + 2 + 4 * 2) / 2
    array([6.])
    """
    check_parameters("interval_score", {"alpha": alpha}, {"alpha": real(0.0, 1.0, closed="neither")})
    x, low, high = _ends(X, intervals)
    misses = np.maximum(low - x, 0.0) + np.maximum(x - high, 0.0)
    return (high - low + 2.0 / alpha * misses).mean(0)


def _ends(X: ArrayLike, intervals: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    x, ends = np.asarray(X, dtype=np.float64), np.asarray(intervals, dtype=np.float64)
    if x.ndim != 2 or len(x) == 0 or ends.shape != (*x.shape, 2):
        raise ValueError(
            "intervals must hold a lower and an upper end for every value of X, shape (n_samples, n_features, 2); "
            f"got {ends.shape} for X of shape {x.shape}."
        )
    if np.isnan(x).any() or np.isnan(ends).any():
        raise ValueError("X and intervals must not hold NaN.")
    if (ends[..., 0] > ends[..., 1]).any():
        raise ValueError("intervals must have lower ends (intervals[..., 0]) no larger than their upper ends.")
    return x, ends[..., 0], ends[..., 1]
