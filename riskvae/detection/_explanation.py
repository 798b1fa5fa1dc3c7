"""How much each value makes a row unusual, and the fewest values without which it is not: by scores alone."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["causes", "rises", "shares"]

Array = NDArray[Any]
Score = Callable[[Array], Array]

# Values of rows that are scored at once.
_CHUNK = 2**22
# Values of a row that are taken away, one after another, until it is no outlier.
_MOST = 10


def rises(score: Score, rows: Array, scores: Array) -> Array:
    """By how much the scores of rows (n, d) rise if one value is unknown (NaN); 0 where it is."""
    found = np.zeros(rows.shape, scores.dtype)
    row, feature = np.nonzero(~np.isnan(rows))
    step = max(1, _CHUNK // rows.shape[1])
    for start in range(0, len(row), step):
        i, j = row[start : start + step], feature[start : start + step]
        less = rows[i]
        less[np.arange(len(i)), j] = np.nan
        found[i, j] = score(less) - scores[i]
    return found


def shares(found: Array) -> Array:
    """Rises as shares of their row's: negative ones count 0, and where none is positive all shares are 0."""
    positive = np.maximum(found, 0.0)
    total = positive.sum(1, keepdims=True)
    return np.divide(positive, total, out=np.zeros_like(positive), where=total > 0)


def causes(
    score: Score, rows: Array, scores: Array, offset: float, first: Array, odd: NDArray[np.bool_] | bool = True
) -> NDArray[np.bool_]:
    """Values (n, d) without which rows that score below ``offset`` would not; none of them is there in vain.

    The value with the largest rise is taken away, then that of the rest, and so on until the row scores as it should;
    ten at most, and none that does not help or is not ``odd``. Then those are put back that are not needed. ``first``
    are the :func:`rises` of the rows.
    """
    found = np.zeros(rows.shape, dtype=bool)
    less, order = rows.copy(), np.full((len(rows), _MOST), -1)
    odd = np.broadcast_to(odd, rows.shape)
    open_ = np.flatnonzero(scores < offset)
    gains = np.where(odd, first, 0.0)[open_]
    explained = np.zeros(len(rows), dtype=bool)
    for step in range(_MOST):
        top = gains.argmax(1)
        helps = gains[np.arange(len(open_)), top] > 0
        open_, top = open_[helps], top[helps]
        if not len(open_):
            break
        found[open_, top], less[open_, top], order[open_, step] = True, np.nan, top
        now = score(less[open_])
        explained[open_] = now >= offset
        open_, now = open_[now < offset], now[now < offset]
        if not len(open_):
            break
        gains = np.where(odd[open_], rises(score, less[open_], now), 0.0)
    for step in range(_MOST - 1):  # the last one was needed
        several = np.flatnonzero(explained & (order[:, step] >= 0) & (order[:, min(step + 1, _MOST - 1)] >= 0))
        if not len(several):
            break
        j = order[several, step]
        more = less[several]
        more[np.arange(len(several)), j] = rows[several, j]
        needless = score(more) >= offset
        found[several[needless], j[needless]] = False
        less[several[needless]] = more[needless]
    return found
