"""Held-out rows as the measure of others: conformal p-values and intervals, of arrays alone."""

import math
import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import false_discovery_control

__all__ = ["Calibration", "benjamini_hochberg", "score_at"]

Array = NDArray[np.floating]

# Ranks are whole numbers of products such as 10 * 0.9.
_ROUNDING = 1e-9
# Scores closer than this, relatively, are the same.
_SAME = 1e-5


def benjamini_hochberg(p: Array, fdr: float) -> NDArray[np.bool_]:
    """Discoveries among p-values; those that lie on the line but for rounding belong to them."""
    found: NDArray[np.bool_] = false_discovery_control(p) <= fdr * (1.0 + _ROUNDING)
    return found


@dataclass(frozen=True)
class Calibration:
    """What a fitted model said about rows that it was not trained on.

    Parameters
    ----------
    scores : ndarray of shape (n,)
        Scores of the rows, ascending; small is unusual.
    rows : ndarray of shape (n, n_features)
        The rows.
    quantiles : ndarray of shape (n, n_features, n_levels)
        Their predicted quantiles.
    """

    scores: Array
    rows: Array
    quantiles: Array

    @property
    def n(self) -> int:
        """Number of rows."""
        return len(self.scores)

    def p_values(self, scores: Array) -> NDArray[np.float64]:
        r"""Share of the calibration rows, and the row itself, that score at most as much as each row.

        .. math:: p(x) = \frac{1 + \#\{i : s(x_i) \le s(x)\}}{n + 1}
        """
        # Equal rows may score differently by rounding, in other company or another dtype.
        finite = np.where(np.isfinite(scores), scores, 0.0)
        equal = np.where(np.isfinite(scores), finite + _SAME * (1.0 + np.abs(finite)), scores)
        count: NDArray[np.intp] = np.searchsorted(self.scores, equal, side="right")
        return (1.0 + count.astype(np.float64)) / (self.n + 1.0)

    def widen(self, ends: Array, own_ends: Array, alpha: float) -> Array:
        """Intervals (m, n_features, 2) of other rows, moved as far as those of the calibration rows need."""
        rank = max(math.ceil((self.n + 1) * (1.0 - alpha) - _ROUNDING), 1)
        if rank > self.n:
            warnings.warn(
                f"predict_interval: alpha={alpha:g} needs at least {math.ceil(1.0 / alpha - 1.0 - _ROUNDING)} "
                f"calibration rows, and there are {self.n}, so the intervals are infinite. Calibrate with more rows, "
                "or ask for a larger alpha.",
                UserWarning,
                stacklevel=3,
            )
            return np.broadcast_to(np.array([-np.inf, np.inf], ends.dtype), ends.shape).copy()
        misses = np.maximum(own_ends[..., 0] - self.rows, self.rows - own_ends[..., 1])
        c = np.partition(misses, rank - 1, axis=0)[rank - 1]
        # Values that are repeated lie on the ends themselves: they must not fall out by rounding.
        slack = 4 * np.finfo(np.float32).eps * (np.abs(ends).max(-1) + np.abs(c))
        # Ends that would cross meet: an interval that holds more than the empty one.
        c = np.maximum(c, 0.5 * (ends[..., 0] - ends[..., 1])) + slack
        return np.stack((ends[..., 0] - c, ends[..., 1] + c), axis=-1).astype(ends.dtype)

    def warn_if_too_small(self, fdr: float, n_rows: int) -> None:
        """Say so where the Benjamini-Hochberg procedure cannot find a tenth of some rows, let alone one."""
        # k rows are found with the smallest p-value there is if 1 / (n + 1) <= fdr k / n_rows.
        least = math.ceil(n_rows / (fdr * (self.n + 1)) - _ROUNDING)
        if least > max(1, n_rows / 10):
            found = (
                f"no row can be found at fdr={fdr:g}"
                if least > n_rows
                else f"rows are found at fdr={fdr:g} only if {least} or more of these {n_rows} stand out"
            )
            warnings.warn(
                f"detect: {self.n} calibration rows give p-values of 1/{self.n + 1} or more, so {found}; what is found "
                f"is valid. To find one row alone among {n_rows} takes {math.ceil(n_rows / fdr) - 1} calibration rows, "
                f"a tenth of them {math.ceil(10 / fdr) - 1}.",
                UserWarning,
                stacklevel=3,
            )


def score_at(scores: Array, alpha: float) -> float:
    """Score below which the p-value among ascending ``scores`` is at most ``alpha``.

    Halfway between two of them, so that no row of theirs lies on it; half a gap below the smallest, where there are
    too few for p-values of alpha.
    """
    k = max(math.floor(alpha * (len(scores) + 1) + _ROUNDING), 1)  # the first that is not flagged
    gap = np.diff(scores[max(k - 2, 0) : max(k, 2)]).sum()
    level = float(scores[k - 1] - 0.5 * gap)
    return level - _SAME * (1.0 + abs(level))
