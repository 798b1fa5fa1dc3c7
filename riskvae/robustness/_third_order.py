"""How far a standard normal may be shifted, knowing of an event its probability, its slope and its curvature."""

import math
from typing import NamedTuple, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr, ndtri
from torch import Tensor

from riskvae.robustness._reach import density, mean_limit, slab

__all__ = ["Failures", "curvature_limit"]

Array = NDArray[np.float64]

# Lengths of shifts, relative to the longest axis of the ellipsoid, are looked at in so many intervals.
_INTERVALS = 16
_BISECTIONS = 40
# Multipliers of the length, in units of the largest curvature.
_MULTIPLIERS = np.concatenate((-np.geomspace(4.0, 0.01, 24), [0.0], np.geomspace(0.01, 4.0, 24)))
# Shifts at which a failure's probability is looked at, twice.
_GRID = 96


def curvature_limit(
    inside: Tensor, mirrored: Tensor, bank: Tensor, weights: Tensor, confidence: float
) -> tuple[Array, Array]:
    r"""Upper confidence limits of how a failure's second moments spread over an ellipsoid of shifts.

    With zeta = W eta, and a the mean over a pair of draws of whether the event fails, :math:`K = E[a \zeta \zeta^T]`
    says how often draws that lie far out in a direction fail. K is at most its mean over draws plus t I, by the
    one-sided Bernstein inequality for matrices (the summands are not negative, so that nothing is cut off):

    .. math:: P(\lambda_{\max}(K - \bar K) \ge t) \le k \exp \frac{-n t^2}{2 (V + t / 3)},
              \qquad V = \lambda_{\max}(E[a^2 \lVert \zeta \rVert^2 \zeta \zeta^T]),

    and V is at most that of the draws plus :math:`\sqrt{2 m \log(1 / \epsilon) / n}`, with m the largest second moment
    of a summand in any direction (see :func:`mean_limit`).

    Parameters
    ----------
    inside, mirrored : Tensor of bool of shape (n, n_draws)
        Whether the event holds at the draws, and at their mirror images.
    bank : Tensor of shape (n_draws, k)
        The draws.
    weights : Tensor of shape (n, k, k)
        W for each row, D U^T with D diagonal: singular values at most 1.
    confidence : float
        Of the limit, in (0, 1).

    Returns
    -------
    tau : ndarray of shape (n, m)
        Multipliers.
    limit : ndarray of shape (n, m)
        Upper limits of :math:`\lambda_{\max}(K - \tau D^2)`, all at once.

    References
    ----------
    Tropp, "User-friendly tail bounds for sums of random matrices" (2012).
    """
    n_draws, k = bank.shape
    error = 0.5 * (1.0 - confidence)
    draws, weights = bank.cpu().double(), weights.cpu().double()
    share = 1.0 - 0.5 * (inside.cpu().double() + mirrored.cpu().double())
    mean, squares = torch.empty_like(weights), torch.empty_like(weights)
    for i, (w, a) in enumerate(zip(weights, share, strict=True)):
        fails = a > 0
        zeta, a = draws[fails] @ w.T, a[fails, None]
        mean[i] = (a * zeta).T @ zeta / n_draws
        squares[i] = (a.square() * zeta.square().sum(1, keepdim=True) * zeta).T @ zeta / n_draws
    axes = weights.square().sum(2)  # D^2
    rest, more = axes.sum(1) - axes.amax(1), axes.square().sum(1) - axes.square().amax(1)
    moment = 105.0 + 30.0 * rest + 3.0 * (rest.square() + 2.0 * more)  # of ||zeta||^4 (u zeta)^4, u the longest axis
    variance = mean_limit(torch.linalg.eigvalsh(squares)[:, -1], moment, n_draws, error)
    log = math.log(k / error) / n_draws
    deviation = log / 3.0 + (log * log / 9.0 + 2.0 * log * variance).sqrt()
    tau = torch.linalg.eigvalsh(mean)[:, -1:].clamp(min=1e-12) * torch.from_numpy(_MULTIPLIERS)
    tilted = mean[:, None] - tau[..., None, None] * torch.diag_embed(axes)[:, None]
    limit = torch.linalg.eigvalsh(tilted)[..., -1] + deviation[:, None]
    return tau.numpy(), limit.numpy()


class Failures(NamedTuple):
    """Worst failures at n rows, for shifts whose length is in an interval of shares of the longest axis.

    Along a shift, the worst failure is t in [a, b] or t > d: see :meth:`of`.
    """

    p: Array  # (n,)
    a: Array  # (n, m)
    b: Array
    d: Array
    shortest: Array  # (n,): below it nothing is known but p
    longest: Array  # (n, m): ends of the intervals

    @classmethod
    def of(cls, p: ArrayLike, slope: ArrayLike, curvature: tuple[Array, Array]) -> Self:
        r"""From a probability, its slope and what :func:`curvature_limit` returns.

        A shift of length theta times the longest axis times a norm s has, in its direction, a slope of at most
        ``slope`` / theta, and a second moment of the failure of at most

        .. math:: h(\theta) = \theta^{-2} \min_\tau [\lambda_{\max}(K - \tau D^2) + \tau \theta^2].

        Among failures c(t) in [0, 1] with E c <= 1 - p, E t c <= slope, E t^2 c <= h, the one that is likeliest after a
        shift is 1 where e^(s t) exceeds a parabola, which is the dual multipliers': on [a, b] and beyond d, where the
        three means determine a, b and d, whatever s. The bound is valid where no multiplier is negative; solutions for
        which one is are left out, for those of a larger h. Where h tells nothing, a is minus infinity: the slab of
        :func:`second_order_reach`.
        """
        p, slope = np.asarray(p, dtype=np.float64), np.asarray(slope, dtype=np.float64)
        tau, limit = curvature
        good = (p > 0.5) & (p < 1.0)
        q = np.where(good, p, 0.75)
        longest = _worst(q[:, None], slope[:, None], (limit + tau).min(1)[:, None])
        top = _first_violation(*longest, np.full((len(p), 1), 0.5))[:, 0]
        shortest = np.clip(0.9 * ndtri(q) / top, 0.02, 0.95)
        ends = shortest[:, None] ** np.linspace(1.0, 0.0, _INTERVALS + 1)
        low, high = ends[:, :-1], ends[:, 1:]
        # tau theta^2 is largest at the end of the interval that the sign of tau tells.
        square = np.where(tau[:, None] > 0, high[..., None] ** 2, low[..., None] ** 2)
        most = (limit[:, None] + tau[:, None] * square).min(2)
        h = np.where(most > 0, most / low**2, most / high**2)
        a, b, d = _worst(q[:, None], slope[:, None] / low, h)
        return cls(np.where(good, p, math.nan), a, b, d, shortest, high)

    def reach(self, level: ArrayLike = 0.5) -> Array:
        """Largest norm (n,) of shifts at which the event holds with at least a level; NaN where p is not above it."""
        level = np.broadcast_to(np.asarray(level, dtype=np.float64), self.p.shape)
        good = self.p > level  # also where p is NaN
        p, level = np.where(good, self.p, 0.75), np.where(good, level, 0.5)
        along = _first_violation(self.a, self.b, self.d, level[:, None]) / self.longest
        found = np.minimum(along.min(1), (ndtri(p) - ndtri(level)) / self.shortest)
        return np.where(good, found, math.nan)

    def only(self, rows: slice) -> Self:
        """Some of the rows."""
        return type(self)(*(part[rows] for part in self))


def _worst(p: Array, slope: Array, h: Array) -> tuple[Array, Array, Array]:
    """Ends a < b < d of failures of mass 1 - p, E t c = slope and E t^2 c = h, or more than these."""
    p, slope, h = np.broadcast_arrays(p, slope, h)
    q = 1.0 - p
    b, d = slab(p, slope)
    a, steep = np.full_like(b, -math.inf), density(d) - density(b)
    least, most = ndtr(b), q
    for _ in range(_BISECTIONS):
        mass = 0.5 * (least + most)
        right = -ndtri(q - mass)
        left = _left(mass, steep - density(right))
        start, end = ndtri(left), ndtri(left + mass)
        holds = left > 0
        start = np.where(holds, start, -1.0)
        holds &= q + start * density(start) - end * density(end) + right * density(right) >= h
        holds &= _multipliers_hold(start, end, right)
        least, most = np.where(holds, mass, least), np.where(holds, most, mass)
        a, b, d = np.where(holds, start, a), np.where(holds, end, b), np.where(holds, right, d)
    return a, b, d


def _multipliers_hold(a: Array, b: Array, d: Array) -> NDArray[np.bool_]:
    """Whether the parabola through e^(s t) at a, b and d has no negative coefficient, for s from 0 to d.

    That of t^2 has none. The others, over e^(s b) and e^(s a), fall or rise to a top and fall, so that s = d decides;
    and no shift beyond d is asked for, as t > d alone fails in half of the draws there.
    """
    # Over e^(d d), which may be large.
    up = [np.exp(d * (t - d)) for t in (a, b, d)]
    over = (a - b) * (a - d), (b - a) * (b - d), (d - a) * (d - b)
    zeroth = up[0] * b * d / over[0] + up[1] * a * d / over[1] + up[2] * a * b / over[2]
    first = -(up[0] * (b + d) / over[0] + up[1] * (a + d) / over[1] + up[2] * (a + b) / over[2])
    return np.asarray((zeroth >= 0) & (first >= 0))


def _left(mass: Array, wanted: Array) -> Array:
    """Mass below an interval of some mass, up to 1, with E t = wanted or a little more; 0 where none has."""
    low, high = np.zeros_like(mass), np.maximum(ndtr(1.0) - mass, 0.0)
    end = ndtri(high)
    there = np.where(high > 0, density(end) - density(ndtri(high + mass)) >= wanted, False)
    for _ in range(_BISECTIONS):
        middle = 0.5 * (low + high)
        enough = density(ndtri(middle)) - density(ndtri(middle + mass)) >= wanted
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    return np.where(there, high, 0.0)


def _first_violation(a: Array, b: Array, d: Array, level: Array) -> Array:
    """Shift before which a failure surely has a probability of at most 1 - level: a little below the smallest."""
    low, high = np.zeros_like(d), d - ndtri(level)
    for _ in range(2):
        shifts = low[..., None] + (high - low)[..., None] * np.linspace(0.0, 1.0, _GRID + 1)
        # Between grid points the right part is likeliest at the end, and the left one nearest its middle.
        at = np.clip(0.5 * (a + b)[..., None], shifts[..., :-1], shifts[..., 1:])
        left = ndtr(b[..., None] - at) - ndtr(a[..., None] - at)
        beyond = left + ndtr(shifts[..., 1:] - d[..., None]) > 1.0 - level[..., None]
        beyond[..., -1] = True  # where the right part alone fails too often
        first = beyond.argmax(-1)[..., None]
        low, high = (np.take_along_axis(shifts, first + i, -1)[..., 0] for i in range(2))
    return low
