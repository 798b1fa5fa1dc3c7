"""Held-out rows as the measure of others: conformal p-values and intervals, of arrays alone."""

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta, false_discovery_control

__all__ = ["Calibration", "benjamini_hochberg", "discoveries", "excess", "quantile_at", "score_at"]

Array = NDArray[np.floating]

# Ranks are whole numbers of products such as 10 * 0.9.
_ROUNDING = 1e-9
# Rows that tell of the tail of scores, and simulated calibration sets.
_ENOUGH, _SIMULATED = 50, 2_000
# Scores closer than this, relatively, are the same.
_SAME = 1e-5


def _ascends(scores: Any) -> bool:
    plain = isinstance(scores, np.ndarray) and scores.dtype.kind == "f" and scores.ndim == 1 and len(scores) > 0
    return plain and bool(np.isfinite(scores).all() and (np.diff(scores) >= 0).all())


def _are_residuals(values: Any, shape: tuple[int, int]) -> bool:
    whole = isinstance(values, np.ndarray) and values.dtype == np.float32 and values.shape[1:] == shape
    return whole and len(values) > 0 and not np.isinf(values).any()


def benjamini_hochberg(p: Array, fdr: float) -> NDArray[np.bool_]:
    """Discoveries among p-values; those that lie on the line but for rounding belong to them."""
    found: NDArray[np.bool_] = false_discovery_control(p) <= fdr * (1.0 + _ROUNDING)
    return found


@dataclass(frozen=True)
class Calibration:
    """What a fitted model said about rows that it was not trained on; the rows themselves are not kept.

    Parameters
    ----------
    scores : ndarray of shape (n,)
        Scores of the rows, ascending; small is unusual.
    residuals : ndarray of shape (m, n_features, n_levels)
        Values minus their predicted quantiles, in single precision; NaN where values are missing.
    left_out : int
        Rows that were taken to be anomalies, and are not among the n; their residuals are there.
    groups : dict of label to ndarray
        Ascending scores of the rows of each group.
    blind : ndarray of shape (k, n_features, n_levels), default=None
        As ``residuals``, of quantiles that were predicted without the value itself, of some of the rows.
    """

    scores: Array
    residuals: Array
    left_out: int = 0
    groups: Mapping[Any, Array] = field(default_factory=dict)
    blind: Array | None = None

    @classmethod
    def from_state(cls, state: Any, n_features: int, n_levels: int) -> Self:
        """From a dict of its fields, as a file holds them; a ValueError where they do not go together."""
        scores, residuals, groups = state["scores"], state["residuals"], state["groups"]
        if not all(map(_ascends, (scores, *groups.values()))):
            raise ValueError("calibration: scores must be finite numbers that ascend")
        if type(state["left_out"]) is not int or state["left_out"] < 0:
            raise ValueError("calibration: left_out must be a number of rows")
        blind = state.get("blind")  # files of earlier versions have none
        for name, kept in {"residuals": residuals, **({} if blind is None else {"blind": blind})}.items():
            if not _are_residuals(kept, (n_features, n_levels)):
                raise ValueError(f"calibration: {name} must be finite, of shape (n, {n_features}, {n_levels})")
        if len(residuals) != len(scores) + state["left_out"]:
            raise ValueError("calibration: scores and residuals must be of the same rows")
        if blind is not None and len(blind) > len(residuals):
            raise ValueError("calibration: blind must have no more rows than residuals")
        return cls(scores, residuals, state["left_out"], groups, blind)

    @property
    def n(self) -> int:
        """Number of rows."""
        return len(self.scores)

    def p_values(
        self, scores: Array, groups: NDArray[Any] | None = None, confidence: float | None = None
    ) -> NDArray[np.float64]:
        r"""Share of the calibration rows, and the row itself, that score at most as much as each row.

        .. math:: p(x) = \frac{1 + \#\{i : s(x_i) \le s(x)\}}{n + 1}

        With ``groups``, among the rows of the same group; with ``confidence``, upper bounds of the share of all rows.
        """
        if groups is None:
            return _p_values(self.scores, scores, confidence)
        p = np.empty(len(scores))
        for label in np.unique(groups):
            here = groups == label
            p[here] = _p_values(self.groups[label.item()], scores[here], confidence)
        return p

    def widen(self, ends: Array, own_misses: Array, alpha: float) -> Array:
        """Intervals (m, n_features, 2) of other rows, moved as far as those of the calibration rows need.

        ``own_misses`` (n, n_features) is how far their values lie outside of their own intervals; NaN where they are
        missing, so that a feature has fewer.
        """
        n = (~np.isnan(own_misses)).sum(0)
        rank = np.maximum(np.ceil((n + 1) * (1.0 - alpha) - _ROUNDING).astype(int), 1)
        few = rank > n
        if few.any():
            some = "so the intervals are" if few.all() else f"of {few.sum()} features, whose intervals are"
            warnings.warn(
                f"predict_interval: alpha={alpha:g} needs at least {math.ceil(1.0 / alpha - 1.0 - _ROUNDING)} "
                f"calibration rows, and there are {n.min()}, {some} infinite. Calibrate with more rows, "
                "or ask for a larger alpha.",
                UserWarning,
                stacklevel=3,
            )
        places = np.minimum(rank, np.maximum(n, 1)) - 1
        ordered = np.partition(own_misses, np.unique(places), axis=0)  # NaN come last
        c = np.where(few, np.inf, np.take_along_axis(ordered, places[None], axis=0)[0])
        # Values that are repeated lie on the ends themselves: they must not fall out by rounding.
        slack = 4 * np.finfo(np.float32).eps * (np.abs(ends).max(-1) + np.abs(np.where(few, 0.0, c)))
        # Ends that would cross meet: an interval that holds more than the empty one.
        c = np.maximum(c, 0.5 * (ends[..., 0] - ends[..., 1])) + slack
        return np.stack((ends[..., 0] - c, ends[..., 1] + c), axis=-1).astype(ends.dtype)

    def warn_if_too_small(self, fdr: float, n_rows: int) -> bool:
        """Say so, and return True, where Benjamini and Hochberg cannot find a tenth of some rows, let alone one."""
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
            return True
        return False


def _p_values(ascending: Array, scores: Array, confidence: float | None) -> NDArray[np.float64]:
    # Equal rows may score differently by rounding, in other company or another dtype.
    finite = np.where(np.isfinite(scores), scores, 0.0)
    equal = np.where(np.isfinite(scores), finite + _SAME * (1.0 + np.abs(finite)), scores)
    count: NDArray[np.intp] = np.searchsorted(ascending, equal, side="right")
    if confidence is not None:
        return _upper_bounds(len(ascending), confidence)[count]
    return (1.0 + count.astype(np.float64)) / (len(ascending) + 1.0)


def discoveries(p: Array, fdr: float) -> NDArray[np.bool_]:
    """Discoveries in each row of p-values (n, m) by the Benjamini-Hochberg procedure; NaN are not counted."""
    m = (~np.isnan(p)).sum(1, keepdims=True)
    order = np.sort(p, axis=1)  # NaN come last
    ranks = np.arange(1, p.shape[1] + 1)
    with np.errstate(invalid="ignore"):
        good = order <= fdr * (1.0 + _ROUNDING) * ranks / np.maximum(m, 1)
        last = np.where(good.any(1), p.shape[1] - 1 - good[:, ::-1].argmax(1), 0)
        line = np.where(good.any(1), order[np.arange(len(p)), last], -1.0)
        found: NDArray[np.bool_] = p <= line[:, None]
    return found


def excess(scores: Array) -> int:
    """How many of the lowest of ascending scores are too many: rows of another kind, such as anomalies.

    A tail is taken to fall exponentially, nearly as fast as between the lowest fifth and the median, or as a power of
    the distance from the median, as fast as between the lowest tenth and three tenths, whichever falls less. So many
    of the lowest tenth are in excess as there are beyond any score more than that, by four standard errors and five
    rows; all of them where hardly one is to be expected.
    """
    n = len(scores)
    far, low, near, middle = np.quantile(scores, (0.1, 0.2, 0.3, 0.5))
    length = 1.1 * (middle - low) / math.log(2.5)
    if n < _ENOUGH or not middle > near > far:
        return 0
    lowest = scores[: n // 10]
    power = math.log(3.0) / math.log((middle - far) / (middle - near))
    expected = 0.2 * n * np.exp(-np.maximum(low - lowest, 0.0) / length)
    heavy = 0.1 * n * ((middle - far) / np.maximum(middle - lowest, middle - far)) ** power
    expected = np.maximum(expected, heavy)
    more = np.arange(1, len(lowest) + 1) - expected - 4.0 * np.sqrt(expected) - 5.0
    most = int(more.argmax())
    if more[most] < 1:
        return 0
    return most + 1 if expected[most] < 0.5 else math.floor(more[most])


@lru_cache(maxsize=32)
def _upper_bounds(n: int, confidence: float) -> NDArray[np.float64]:
    """For counts 0 to n of calibration rows below: shares of all rows below that hold together, with a confidence.

    The k-th smallest of n uniform numbers is Beta(k, n + 1 - k). Each of the smallest fifth has the same chance to be
    beyond its bound, such that none is with the confidence, by simulation; beyond those nothing is said.
    """
    bounds = np.ones(n + 1)
    m = n // 5
    if m:
        rng, some = np.random.default_rng(0), np.unique(np.geomspace(1, m, 200).astype(int))
        lowest = []
        for _ in range(_SIMULATED):
            order = np.cumsum(rng.exponential(size=m))
            uniform = order[some - 1] / (order[-1] + rng.gamma(n + 1 - m))
            lowest.append(beta.sf(uniform, some, n + 1 - some).min())
        k = np.arange(1, m + 1)
        bounds[:m] = beta.isf(np.quantile(lowest, 1.0 - confidence), k, n + 1 - k)
    return bounds


def quantile_at(scores: Array, alpha: float) -> float:
    """Quantile below which a share ``alpha`` of rows like these lies on average, whatever their distribution.

    Between the ascending scores number k and k + 1 where alpha (n + 1) is; there are none below the first.
    """
    level = float(np.quantile(scores, alpha, method="weibull"))
    return level - _SAME * (1.0 + abs(level))  # what lies on it but for rounding is not below


def score_at(scores: Array, alpha: float) -> float:
    """Score below which the p-value among ascending ``scores`` is at most ``alpha``.

    Halfway between two of them, so that no row of theirs lies on it; half a gap below the smallest, where there are
    too few for p-values of alpha.
    """
    k = max(math.floor(alpha * (len(scores) + 1) + _ROUNDING), 1)  # the first that is not flagged
    gap = np.diff(scores[max(k - 2, 0) : max(k, 2)]).sum()
    level = float(scores[k - 1] - 0.5 * gap)
    return level - _SAME * (1.0 + abs(level))
