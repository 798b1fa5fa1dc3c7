"""How far a standard normal may be shifted before an event of known probability can fail more often than it holds."""

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr, ndtri
from scipy.stats import chi2
from torch import Tensor

from riskvae.robustness._noise import clopper_pearson

Array = NDArray[np.float64]


class Event(NamedTuple):
    """What is known of events whose probability shifts change, at n rows: at least p, and no faster a fall.

    ``failures`` has what follows from the curvature, too.
    """

    p: Array
    slope: Array
    failures: Any = None

    def second_order(self, level: ArrayLike = 0.5) -> Array:
        """Largest shift, without the curvature."""
        return second_order_reach(self.p, self.slope, level)

    def reach(self, level: ArrayLike = 0.5) -> Array:
        """Largest shift at which the event holds with at least a level; NaN where p is not above it."""
        plain = self.second_order(level)
        return plain if self.failures is None else np.fmax(plain, self.failures.reach(level))

    def only(self, rows: slice) -> "Event":
        """Some of the rows."""
        failures = None if self.failures is None else self.failures.only(rows)
        return Event(self.p[rows], self.slope[rows], failures)


def second_order_reach(p: ArrayLike, slope: ArrayLike, level: ArrayLike = 0.5) -> Array:
    r"""Largest shift at which every event of a given probability and slope holds with at least 1/2, or another level.

    Let f(w) = P(eta + w in A) for standard normal eta. Knowing f(0) >= p alone, the worst A is a half-space
    (Neyman and Pearson), and f >= 1/2 up to a shift of :math:`\Phi^{-1}(p)`. Knowing also that f falls no faster
    than ``slope`` at 0, the worst A is a slab a < t < b in the direction of the shift, with

    .. math:: \Phi(b) - \Phi(a) = p, \qquad \varphi(b) - \varphi(a) = \text{slope},

    the same for every length s of the shift (the likelihood ratio is convex and crosses a line twice), and the
    reach solves :math:`\Phi(b - s) - \Phi(a - s) = \frac12`. A slope of :math:`\varphi(\Phi^{-1}(p))` or more tells
    nothing: a is minus infinity.

    Parameters
    ----------
    p : array-like
        In (level, 1); else the result is NaN.
    slope : array-like
        Bound on the norm of f's gradient at 0, at least 0.
    level : array-like, default=0.5
        In (0, 1); where p is not above it, the result is NaN.

    Returns
    -------
    ndarray
        At least :math:`\Phi^{-1}(p)`.

    References
    ----------
    Levine, Kumar, Goldstein and Feizi, "Tight second-order certificates for randomized smoothing" (2020).
    """
    p, slope, level = (np.asarray(values, dtype=np.float64) for values in np.broadcast_arrays(p, slope, level))
    good = (p > level) & (p < 1.0)
    a, b = slab(np.where(good, p, 0.75), slope)
    level = np.where(good, level, 0.5)
    near, far = np.zeros_like(b), b + 1.0
    for _ in range(60):
        middle = 0.5 * (near + far)
        holds = ndtr(b - middle) - ndtr(a - middle) >= level
        near, far = np.where(holds, middle, near), np.where(holds, far, middle)
    return np.where(good, near, math.nan)


def slab(p: Array, slope: Array) -> tuple[Array, Array]:
    """Ends a < 0 < b of the interval of mass p at which density(b) - density(a) is the slope, or a little more."""
    # The mass below a; the slab's slope falls in it.
    low, high = np.zeros_like(p), 0.5 * (1.0 - p)
    for _ in range(60):
        middle = 0.5 * (low + high)
        steep = density(ndtri(p + middle)) - density(ndtri(middle)) > slope
        low, high = np.where(steep, middle, low), np.where(steep, high, middle)
    # The smaller mass: on the side of the half-space.
    return ndtri(low), ndtri(p + low)


def slope_limit(inside: Tensor, mirrored: Tensor, bank: Tensor, weights: Tensor, confidence: float) -> Array:
    r"""Upper confidence limit of ||W grad f(0)||, where grad f(0) = E[eta 1_A(eta)].

    From antithetic draws: :math:`Y = \frac12 \eta (1_A(\eta) - 1_A(-\eta))` has the same mean and vanishes where A
    holds both or neither, so that its variance is small for events that are nearly symmetric. Bernstein's
    inequality in Hilbert space, on draws shorter than a radius beyond which there is next to nothing:

    .. math:: P(\lVert \bar{W Y} - E W Y \rVert \ge t) \le 2 \exp \frac{-n t^2}{2 (\sigma^2 + R t / 3)},

    with :math:`\sigma^2 \ge E \lVert W Y \rVert^2` from an upper limit of the probability that Y is not 0, or from the
    draws themselves, whichever is less.

    Parameters
    ----------
    inside, mirrored : Tensor of bool of shape (n, n_draws)
        Whether A holds at the draws, and at their mirror images.
    bank : Tensor of shape (n_draws, k)
        The draws.
    weights : Tensor of shape (n, k, k)
        W for each row: singular values at most 1.
    confidence : float
        Of the limit, in (0, 1).

    References
    ----------
    Pinelis and Sakhanenko, "Remarks on inequalities for large deviation probabilities" (1986).
    """
    n_draws, k = bank.shape
    error = (1.0 - confidence) / 4.0
    # The bound is about draws cut at a radius; that none of these is longer costs a quarter.
    rare = error / n_draws
    half = 0.5 * (inside.to(bank.dtype) - mirrored.to(bank.dtype))
    mean = torch.einsum("nij,nj->ni", weights.to(bank), half @ bank / n_draws).norm(dim=1).cpu().double().numpy()
    squares = [(h.abs() * (bank @ w.to(bank).T).square().sum(1)).mean() for h, w in zip(half, weights, strict=True)]
    spread = 0.5 * torch.stack(squares).cpu().double().numpy()  # |h| is 0 or 1/2
    differ = (inside != mirrored).sum(1).cpu().numpy()
    _, often = clopper_pearson(differ, n_draws, 1.0 - error)
    shares = weights.cpu().double().square().sum((1, 2)).numpy()
    fourth = shares**2 + 2.0 * weights.cpu().double().square().sum(2).square().sum(1).numpy()  # E ||W eta||^4
    variance = 0.25 * np.minimum(_largest_square(often, k), shares * _largest_square(often, 1))
    variance = np.minimum(variance, mean_limit(spread, fourth / 16.0, n_draws, error))
    radius = math.sqrt(chi2.isf(rare, k))
    log = math.log(2.0 / error)
    linear = 2.0 * log * radius / 3.0
    deviation = (linear + np.sqrt(linear**2 + 8.0 * n_draws * log * variance)) / (2.0 * n_draws)
    return mean + deviation + 0.5 * math.sqrt(_largest_square(np.asarray(rare), k) * rare)


def mean_limit(mean: Any, moment: Any, n: int, error: float) -> Any:
    """Upper limit of the expectation of values of at least 0, from n draws and a limit of their second moment.

    Such values are far below it on average only as far as that moment allows (Maurer, "A bound on the deviation
    probability for sums of non-negative random variables", 2003).
    """
    return mean + (2.0 * moment * math.log(1.0 / error) / n) ** 0.5


def _largest_square(probability: Array, k: int) -> Array:
    """Largest E[||eta||^2 1_B] over events B of a probability, for a standard normal of k dimensions."""
    return k * chi2.sf(chi2.isf(np.minimum(probability, 1.0), k), k + 2)


def density(x: Array) -> Array:
    """Of the standard normal distribution."""
    return np.exp(-0.5 * x * x) / math.sqrt(2.0 * math.pi)
