"""The third-order bound: how far a shift may reach, knowing a failure's probability, slope and curvature."""

import numpy as np
import pytest
import torch
from helpers import LinearGaussian
from scipy.optimize import linprog
from scipy.stats import chi2, norm

from riskvae import robustness_margin
from riskvae.robustness._jacobian import linearize
from riskvae.robustness._opening import open_coder
from riskvae.robustness._reach import Event, second_order_reach, slab
from riskvae.robustness._third_order import Failures, _first_violation, _worst, curvature_limit

GRID = np.linspace(-9, 9, 4001)
MASS = np.exp(-0.5 * GRID**2) / np.exp(-0.5 * GRID**2).sum()


def likeliest_failure(shift, p, slope, h):
    """Largest probability after a shift, over all weights in [0, 1] on a grid of the line, by a linear program."""
    moved = MASS * np.exp(shift * GRID - 0.5 * shift**2)
    limits = np.stack((MASS, MASS * GRID, MASS * GRID**2))
    return -linprog(-moved, A_ub=limits, b_ub=[1 - p, slope, h], bounds=(0, 1), method="highs").fun


def moment_of_slab(p, slope):
    a, b = slab(np.array([p]), np.array([slope]))
    return float((norm.cdf(a) - a * norm.pdf(a) + norm.sf(b) + b * norm.pdf(b))[0])


@pytest.mark.parametrize("share", [0.4, 0.7, 0.95])
@pytest.mark.parametrize("steep", [0.1, 0.5])
@pytest.mark.parametrize("p", [0.6, 0.85, 0.97])
def test_no_failure_of_these_moments_is_likelier(p, steep, share):
    slope = steep * norm.pdf(norm.ppf(p))
    h = share * moment_of_slab(p, slope)
    ends = _worst(np.array([[p]]), np.array([[slope]]), np.array([[h]]))
    reach = float(_first_violation(*ends, np.array([[0.5]]))[0, 0])
    assert reach >= second_order_reach(p, slope) - 1e-3
    for part in (0.3, 0.7, 1.0):
        assert likeliest_failure(part * reach, p, slope, h) <= 0.5 + 1e-3
    if share > 0.5:  # where all three limits count, the failure is the worst there is
        assert likeliest_failure(reach, p, slope, h) >= 0.5 - 2e-3


def test_a_curvature_that_tells_nothing_leaves_the_second_order():
    p, slope = np.array([0.6, 0.8, 0.99]), np.array([0.1, 0.05, 9.0])
    failures = Failures.of(p, slope, (np.zeros((3, 1)), np.ones((3, 1))))
    for level in (0.5, 0.55):
        known = Event(p, slope, failures)
        np.testing.assert_allclose(known.reach(level), known.second_order(level), rtol=1e-9)
        # Intervals of lengths cost a little, and the largest of both counts.
        np.testing.assert_allclose(failures.reach(level), known.second_order(level), rtol=0.1)
    assert np.isnan(failures.reach(0.99)[:2]).all()
    assert np.isnan(Failures.of([0.4], [0.1], (np.zeros((1, 1)), np.ones((1, 1)))).reach()).all()


def test_the_less_a_failure_spreads_the_farther_it_reaches():
    p, slope = np.full(30, 0.9), np.full(30, 0.02)
    h = np.linspace(0.12, 0.5, 30)[:, None]
    reach = Failures.of(p, slope, (np.zeros((30, 1)), h)).reach()
    assert (np.diff(reach) <= 1e-4).all()
    assert reach[0] > 1.2 * reach[-1]


def test_the_limit_of_the_curvature_lies_above_it_and_near_it():
    # Failures outside a ball: E[a zeta zeta'] is D^2 P(chi^2_{k+2} > c). Each limit fails once in a thousand times.
    n, k, c = 20_000, 4, 9.0
    for axes in (torch.ones(k), torch.tensor([1.0, 0.5, 0.2, 0.0])):
        weights = torch.diag(axes).double()[None]
        for seed in range(20):
            bank = torch.randn(n, k, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
            inside = (bank.square().sum(1) <= c)[None]
            tau, limit = curvature_limit(inside, inside, bank, weights, 0.999)
            curvature = chi2.sf(c, k + 2)
            expected = ((curvature - tau[0, :, None]) * axes.double().square().numpy()).max(1)
            assert (limit[0] >= expected).all()
            assert (limit[0] <= expected + 0.075).all()


def test_shifts_of_an_ellipsoid_do_not_break_an_event_within_the_reach():
    # Boxes and half-spaces, whose probabilities after a shift are known; each reach fails once in three hundred times.
    rng = np.random.default_rng(0)
    n, k = 30_000, 3
    for seed in range(12):
        bank = torch.randn(n, k, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        low, high = -rng.uniform(1.3, 3.0, k), rng.uniform(1.3, 3.0, k)
        if seed % 3 == 0:
            low[:] = -np.inf
        walls = torch.from_numpy(low), torch.from_numpy(high)
        inside, mirrored = (((walls[0] < eta) & (eta < walls[1])).all(1)[None] for eta in (bank, -bank))
        turn = np.linalg.qr(rng.normal(size=(k, k)))[0]
        axes = np.array([1.0, rng.uniform(0.1, 1), 0.1])
        weights = torch.from_numpy(axes[:, None] * turn.T)[None]
        p = np.array([np.prod(norm.cdf(high) - norm.cdf(low))])
        gradient = p[0] * (norm.pdf(low) - norm.pdf(high)) / (norm.cdf(high) - norm.cdf(low))
        slope = np.array([np.linalg.norm(weights[0].numpy() @ gradient)])
        failures = Failures.of(p, slope, curvature_limit(inside, mirrored, bank, weights, 0.999))
        for level in (0.5, 0.6):
            reach = Event(p, slope, failures).reach(level)[0]
            if p[0] <= level:
                assert np.isnan(reach)
                continue
            v = rng.normal(size=(4000, k))
            shift = reach * (axes * v / np.linalg.norm(v, axis=1, keepdims=True)) @ turn.T
            held = np.prod(norm.cdf(high - shift) - norm.cdf(low - shift), axis=1)
            assert (held >= level).all()


def test_third_order_is_the_largest_first_order_bound_and_below_the_margin():
    # A linear decoder: the event is a ball, which is curved the same everywhere.
    model = LinearGaussian(2, 4, seed=1)
    names = ("whitened", "second_order", "third_order")
    margin = robustness_margin(model, np.zeros((1, 4)), r=2.5, n_draws=20_000, methods=names, random_state=0)
    assert 1.02 * margin.second_order[0] < margin.third_order[0] < model.margin(2.5)
    assert margin.lower[0] == margin.third_order[0]


def test_the_wider_ellipsoid_has_every_direction():
    # An encoder that looks at one feature alone has one axis; a bent one may move along the others, too.
    model = LinearGaussian(3, 4, seed=0)
    with open_coder(model, np.zeros((2, 4))) as coder:
        local = linearize(coder, coder.x, torch.tensor([1.0, 0.0, 0.0, 0.0]).double().expand(2, 1, 4))
    weights, metric = local.wider(0.5)
    axes, wide = (torch.linalg.svdvals(w)[0].numpy() for w in (local.weights, weights))
    np.testing.assert_allclose(axes, [1, 0, 0], atol=1e-6)
    np.testing.assert_allclose(wide, [1, 0.2**0.5, 0.2**0.5], atol=1e-6)
    # Shifts w of norm ||T w|| = 1 are W^T y with ||y|| = 1.
    np.testing.assert_allclose((metric @ weights.mT).numpy(), np.broadcast_to(np.eye(3), (2, 3, 3)), atol=1e-9)


@pytest.mark.parametrize(
    ("p", "slope", "h", "level"), [(0.53124, 0.3174, 0.05888, 0.52472), (0.5174, 0.3525, 0.08727, 0.51501)]
)
def test_near_the_probability_itself_the_reach_is_short(p, slope, h, level):
    # The interval to the left lies beyond 0 in part, so that it gets likelier at first.
    a, b, d = (end[0, 0] for end in _worst(*(np.array([[value]]) for value in (p, slope, h))))
    shifts = np.linspace(0, 0.1, 100_001)
    fails = norm.cdf(b - shifts) - norm.cdf(a - shifts) + norm.cdf(shifts - d) > 1 - level
    reach = _first_violation(*(np.array([[end]]) for end in (a, b, d)), np.array([[level]]))[0, 0]
    assert 0.9 * shifts[fails.argmax()] <= reach <= shifts[fails.argmax()]
