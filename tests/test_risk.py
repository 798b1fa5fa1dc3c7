"""Laws of the conditional value at risk and the value at risk, and proof that each law can fail."""

import itertools
import math
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import Phase, assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.optimize import linprog

from riskvae.risk import cvar, nested_cvar, smoothed_cvar, tail_weights, value_at_risk
from riskvae.risk._order import argsort_ascending, kth_largest, sort_ascending

# Few distinct values, so that ties are common.
values = st.one_of(st.integers(-3, 3).map(float), st.floats(-1e3, 1e3))
samples = hnp.arrays(np.float64, st.integers(1, 40), elements=values).map(torch.tensor)
levels = st.one_of(st.floats(1e-3, 1.0), st.sampled_from([0.05, 0.1, 0.29, 0.5, 1.0]))
tails = st.sampled_from(["worst", "best"])


def close(a, b, rel=1e-9, abs=1e-9):
    assert float(a) == pytest.approx(float(b), rel=rel, abs=abs)


# ------------------------------------------------------------------------------------------ the laws
# Each takes the risk measure, called as cvar is, and a source of examples.


def equals_rockafellar_uryasev_by_brute_force(risk, draw):
    losses, eps = draw(samples), draw(levels)
    array = losses.numpy()
    close(risk(losses, eps), min(t + np.maximum(array - t, 0).mean() / eps for t in array))


def equals_the_linear_program(risk, draw):
    """max q.l over the dual set: 0 <= q <= 1/(eps N), sum q = 1."""
    losses, eps = draw(samples), draw(levels)
    n = len(losses)
    assume(eps * n >= 1)
    solution = linprog(-losses.numpy(), A_eq=np.ones((1, n)), b_eq=[1.0], bounds=[(0, 1 / (eps * n))] * n)
    close(risk(losses, eps), -solution.fun, 1e-6, 1e-6)


def the_two_tails_make_the_mean(risk, draw):
    losses, eps = draw(samples), draw(levels)
    assume(eps * len(losses) >= 1 and (1 - eps) * len(losses) >= 1)
    close(eps * risk(losses, eps, tail="best") + (1 - eps) * risk(losses, 1 - eps), losses.mean())


def the_best_tail_mirrors_the_worst(risk, draw):
    losses, eps = draw(samples), draw(levels)
    assert float(risk(losses, eps, tail="best")) == -float(risk(-losses, eps))


def moves_with_a_constant(risk, draw):
    losses, eps, tail, shift = draw(samples), draw(levels), draw(tails), draw(st.floats(-100, 100))
    close(risk(losses + shift, eps, tail=tail), risk(losses, eps, tail=tail) + shift, abs=1e-6)


def scales_with_a_factor(risk, draw):
    losses, eps, tail, factor = draw(samples), draw(levels), draw(tails), draw(st.floats(0.01, 100))
    close(risk(factor * losses, eps, tail=tail), factor * risk(losses, eps, tail=tail), abs=1e-6)


def grows_with_any_loss(risk, draw):
    a, eps, tail = draw(samples), draw(levels), draw(tails)
    bump = torch.tensor(draw(hnp.arrays(np.float64, len(a), elements=st.floats(0, 10))))
    assert float(risk(a, eps, tail=tail)) <= float(risk(a + bump, eps, tail=tail)) + 1e-9


def changes_no_more_than_the_losses(risk, draw):
    a, eps, tail = draw(samples), draw(levels), draw(tails)
    bump = torch.tensor(draw(hnp.arrays(np.float64, len(a), elements=st.floats(-10, 10))))
    change = risk(a + bump, eps, tail=tail) - risk(a, eps, tail=tail)
    assert abs(float(change)) <= float(bump.abs().max()) + 1e-9


def subadditive(risk, draw):
    a, eps = draw(samples), draw(levels)
    b = torch.tensor(draw(hnp.arrays(np.float64, len(a), elements=values)))
    assert float(risk(a + b, eps)) <= float(risk(a, eps) + risk(b, eps)) + 1e-6


def additive_for_comonotone_losses(risk, draw):
    a, eps = draw(samples), draw(levels)
    b = torch.tensor(draw(hnp.arrays(np.float64, len(a), elements=values)))
    a, b = a.sort().values, b.sort().values
    close(risk(a + b, eps), risk(a, eps) + risk(b, eps), abs=1e-6)


def ordered_in_levels_and_tails(risk, draw):
    losses = draw(samples)
    low, high = sorted((draw(levels), draw(levels)))
    chain = [losses.min(), risk(losses, low, tail="best"), risk(losses, high, tail="best"), losses.mean(),
             risk(losses, high), risk(losses, low), losses.max()]  # fmt: skip
    assert all(float(x) <= float(y) + 1e-9 for x, y in itertools.pairwise(chain))


def eps_times_risk_is_concave_in_eps(risk, draw):
    losses, ends, weight = draw(samples), (draw(levels), draw(levels)), draw(st.floats(0.0, 1.0))
    assume(min(ends) * len(losses) >= 1)
    middle = weight * ends[0] + (1 - weight) * ends[1]
    chord = weight * ends[0] * float(risk(losses, ends[0])) + (1 - weight) * ends[1] * float(risk(losses, ends[1]))
    assert middle * float(risk(losses, middle)) >= chord - 1e-6


def has_the_mean_and_the_maximum_as_limits(risk, draw):
    losses = draw(samples)
    n = len(losses)
    close(risk(losses, 1.0), losses.mean(), 1e-12, 1e-12)
    for eps in (1 / n, 0.5 / n, 1e-9):
        close(risk(losses, eps), losses.max(), 1e-14, 0)
        close(risk(losses, eps, tail="best"), losses.min(), 1e-14, 0)


def unchanged_when_the_sample_is_replicated(risk, draw):
    losses, eps, k, tail = draw(samples), draw(levels), draw(st.integers(2, 5)), draw(tails)
    assume(eps * len(losses) >= 1)
    close(risk(losses.repeat(k), eps, tail=tail), risk(losses, eps, tail=tail))


def blind_to_order(risk, draw):
    losses, eps, tail = draw(samples), draw(levels), draw(tails)
    order = draw(st.permutations(range(len(losses))))
    close(risk(losses[order], eps, tail=tail), risk(losses, eps, tail=tail), 1e-12, 1e-12)


def has_the_dual_weights_as_gradient(risk, draw):
    losses, eps, tail = draw(samples).clone().requires_grad_(), draw(levels), draw(tails)
    risk(losses, eps, tail=tail).backward()
    assert torch.equal(losses.grad, tail_weights(losses, eps, tail=tail))


def counts_right_where_floating_point_counts_wrong(risk, draw):
    """The mean of round(eps n) losses, whatever eps * n rounds to."""
    n, eps = draw(st.sampled_from([(100, 0.29), (100, 0.07), (50, 0.58), (10, 0.3), (1000, 0.001), (3, 1 / 3)]))
    losses = torch.randn(n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    close(risk(losses, eps), losses.topk(round(eps * n)).values.mean(), 1e-12, 0)


# ---------------------------------------------------------------------------- wrong risks, one per law


def worst_only(wrong):
    """Both tails of a function of the losses and eps."""
    return lambda losses, eps, tail="worst": wrong(losses, eps) if tail == "worst" else -wrong(-losses, eps)


def top(count):
    return worst_only(lambda losses, eps: losses.topk(max(count(eps * len(losses)), 1)).values.mean())


ceil, truncated = top(math.ceil), top(int)
one_too_many = worst_only(lambda losses, eps: losses.topk(min(math.ceil(eps * len(losses)) + 1, len(losses)))[0].mean())
plus_deviation = worst_only(lambda losses, eps: losses.mean() + 2 * losses.std(correction=0))
not_normalized = worst_only(lambda losses, eps: eps * cvar(losses, eps))
doubled = worst_only(lambda losses, eps: 2 * cvar(losses, eps))
entropic = worst_only(lambda losses, eps: losses.logsumexp(0) - math.log(len(losses)))
quantile = worst_only(value_at_risk)
first_loss = worst_only(lambda losses, eps: cvar(losses, eps) + 0.1 * losses[0])
turned = worst_only(lambda losses, eps: cvar(losses, 1.001 - eps))


def breaks_ties_by_order(losses, eps, tail="worst"):
    """The right value, but the gradient goes to whichever of the tied losses comes first."""
    q = tail_weights(losses + torch.arange(len(losses)) * (1e-9 if tail == "worst" else -1e-9), eps, tail=tail)
    return (q * losses).sum()


def one_tail(losses, eps, tail="worst"):
    return cvar(losses, eps)


LAWS = {
    equals_rockafellar_uryasev_by_brute_force: ceil,
    equals_the_linear_program: truncated,
    the_two_tails_make_the_mean: ceil,
    the_best_tail_mirrors_the_worst: one_tail,
    moves_with_a_constant: not_normalized,
    scales_with_a_factor: entropic,
    grows_with_any_loss: plus_deviation,
    changes_no_more_than_the_losses: doubled,
    subadditive: quantile,
    additive_for_comonotone_losses: plus_deviation,
    ordered_in_levels_and_tails: turned,
    eps_times_risk_is_concave_in_eps: quantile,
    has_the_mean_and_the_maximum_as_limits: one_too_many,
    unchanged_when_the_sample_is_replicated: ceil,
    blind_to_order: first_loss,
    has_the_dual_weights_as_gradient: breaks_ties_by_order,
    counts_right_where_floating_point_counts_wrong: truncated,
}


def examine(law, risk, **options):
    @settings(**options)
    @given(st.data())
    def run(data):
        law(risk, data.draw)

    run()


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_law(law):
    examine(law, cvar)


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_law_can_fail(law):
    with pytest.raises(AssertionError):
        examine(law, LAWS[law], max_examples=5000, phases=[Phase.generate], derandomize=True, database=None)


# --------------------------------------------------------------------------------- weights, quantiles


@given(samples, levels, tails)
def test_weights_are_a_capped_distribution_that_is_shared_by_ties(losses, eps, tail):
    q = tail_weights(losses, eps, tail=tail)
    close(q.sum(), 1.0, abs=1e-12)
    assert (q >= 0).all()
    assert (q <= 1 / max(eps * len(losses), 1) + 1e-15).all()
    for value in losses.unique():
        tied = q[losses == value]
        assert float(tied.max() - tied.min()) == 0.0
    order = losses.argsort(descending=tail == "best")
    assert (q[order].diff() >= -1e-15).all()


@given(samples, levels, tails, st.data())
def test_weights_follow_a_permutation(losses, eps, tail, data):
    order = data.draw(st.permutations(range(len(losses))))
    assert torch.equal(tail_weights(losses[order], eps, tail=tail), tail_weights(losses, eps, tail=tail)[order])


def test_no_weight_beyond_the_tail_that_rounding_seems_to_reach():
    losses = torch.randn(100, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert int((tail_weights(losses, 0.29) > 0).sum()) == 29  # 0.29 * 100 is 28.999999999999996
    assert int((tail_weights(losses, 0.07) > 0).sum()) == 7  # 0.07 * 100 is 7.000000000000001


@given(samples, levels)
def test_value_at_risk_is_the_smallest_loss_that_few_enough_exceed(losses, eps):
    def exceeded(t):
        return int((losses > t).sum()) <= eps * len(losses) * (1 + 1e-12)

    smallest = min(t for t in losses.tolist() if exceeded(t))
    assert float(value_at_risk(losses, eps)) == smallest
    assert float(value_at_risk(-losses, eps, tail="best")) == -smallest


@given(samples, levels, tails)
def test_value_at_risk_minimizes_the_objective_of_cvar(losses, eps, tail):
    v = value_at_risk(losses, eps, tail=tail)
    close(cvar(losses, eps, tail=tail, threshold=v), cvar(losses, eps, tail=tail), abs=1e-6)


def test_gradient_of_the_value_at_risk_is_shared_by_ties():
    losses = torch.tensor([1.0, 5.0, 5.0, 2.0], requires_grad=True)
    value_at_risk(losses, 0.25).backward()
    assert losses.grad.tolist() == [0.0, 0.5, 0.5, 0.0]


@given(samples, levels, tails, st.floats(-1e3, 1e3))
def test_any_threshold_bounds_the_risk(losses, eps, tail, threshold):
    bound, risk = cvar(losses, eps, tail=tail, threshold=threshold), cvar(losses, eps, tail=tail)
    sign = 1 if tail == "worst" else -1
    assert sign * float(bound) >= sign * float(risk) - 1e-6


def test_a_threshold_beyond_all_losses_is_finite_and_its_gradient_additive_over_micro_batches():
    losses = torch.tensor([1.0, 2.0, 3.0, 4.0], requires_grad=True)
    assert cvar(losses, 0.1, threshold=10.0).item() == 10.0
    whole = torch.autograd.grad(cvar(losses, 0.5, threshold=2.5), losses)[0]
    halves = sum(0.5 * cvar(part, 0.5, threshold=2.5) for part in losses.split(2))
    assert torch.equal(torch.autograd.grad(halves, losses)[0], whole)
    t = torch.tensor(2.5, requires_grad=True)
    cvar(losses, 0.5, threshold=t).backward()
    assert float(t.grad) == 0.0  # two of four lie beyond: t is optimal


# --------------------------------------------------------------------------------------------- nested


@given(hnp.arrays(np.float64, st.tuples(st.integers(1, 8), st.integers(1, 8)), elements=values).map(torch.tensor),
       levels, levels)  # fmt: skip
def test_nested_lies_between_the_mean_over_draws_and_the_joint_tail(losses, eps, eps_inner):
    assume(eps * losses.shape[0] >= 1 and eps_inner * losses.shape[1] >= 1)
    nested = float(nested_cvar(losses, eps, eps_inner))
    assert float(cvar(losses.mean(1), eps)) <= nested + 1e-9
    assert nested <= float(cvar(losses.flatten(), eps * eps_inner)) + 1e-9
    assert float(nested_cvar(losses.T, eps, eps_inner, dim=(1, 0))) == nested
    close(nested_cvar(losses, eps, 1.0), cvar(losses.mean(1), eps))
    close(nested_cvar(losses, 1.0, 1.0), losses.mean())
    assert float(nested_cvar(-losses, eps, eps_inner, tail="best")) == -nested


def test_bad_nested_losses():
    with pytest.raises(ValueError, match=r"at least two dimensions; got \(3,\)"):
        nested_cvar(torch.ones(3), 0.5, 0.5)
    with pytest.raises(ValueError, match=r"eps_inner must be in \(0, 1\]; got 0"):
        nested_cvar(torch.ones(3, 2), 0.5, 0.0)
    with pytest.raises(ValueError, match="two different dimensions"):
        nested_cvar(torch.ones(3, 2), 0.5, 0.5, dim=(-1, 1))
    for dim in (0, (0, 5), (0, 1, 2)):
        with pytest.raises(ValueError, match="dim must be a pair of dimensions"):
            nested_cvar(torch.ones(3, 2), 0.5, 0.5, dim=dim)


# ------------------------------------------------------------------------------------------- examples


def test_known_values():
    losses = torch.tensor([1.0, 0.5, 2.0])
    # (2 + 0.5 * 1) / 1.5: one and a half of three losses.
    close(cvar(losses, 0.5), 2.5 / 1.5, 1e-6)
    close(cvar(losses, 0.5, tail="best"), (0.5 + 0.5 * 1.0) / 1.5, 1e-6)
    close(cvar(torch.full((7,), 3.0), 0.29), 3.0, 1e-6)


@pytest.mark.parametrize(("n", "bias"), [(16, -0.154), (256, -0.009)])
def test_bias_of_a_small_batch(n, bias):
    """Of exponential losses, whose risk is 1 - log(eps), and whose order statistics have harmonic means."""
    harmonic = np.concatenate(([0.0], np.cumsum(1 / np.arange(1, n + 1))))
    expected_order_statistics = torch.tensor(harmonic[n] - harmonic[:n])
    exact = float(cvar(expected_order_statistics, 0.05)) / (1 - math.log(0.05)) - 1
    assert exact == pytest.approx(bias, abs=5e-4)
    generator = torch.Generator().manual_seed(0)
    losses = -torch.rand(100_000, n, generator=generator, dtype=torch.float64).log()
    found = cvar(losses, 0.05) / (1 - math.log(0.05)) - 1
    # Five standard errors: an error rate of 6e-7.
    assert float(found.mean()) == pytest.approx(exact, abs=5 * float(found.std()) / 100_000**0.5)


@pytest.mark.parametrize("n", [5, 1023, 1024, 3000])
@pytest.mark.parametrize("k", [1, 2, 5])
def test_order_statistics_by_numpy_and_by_torch(n, k):
    x = torch.randn(2, n, generator=torch.Generator().manual_seed(n))
    x[0, : n // 2] = 0.5  # ties
    for rank in (k, n - k + 1):
        assert torch.equal(kth_largest(x, rank, -1), x.sort(descending=True).values[:, rank - 1, None])
        assert torch.equal(kth_largest(x.T, rank, 0), kth_largest(x, rank, -1).T)
        assert torch.equal(torch.vmap(lambda row, rank=rank: kth_largest(row, rank, -1))(x), kth_largest(x, rank, -1))
    assert torch.equal(sort_ascending(x), x.sort().values)
    assert torch.equal(x.gather(-1, argsort_ascending(x)), x.sort().values)


def test_more_losses_than_float32_can_count():
    n = 2**24 + 3
    losses = torch.zeros(n)
    losses[: 2**24] = 1.0
    assert float(tail_weights(losses, 1.0)[-1]) == pytest.approx(1 / n, rel=1e-6)


@pytest.mark.parametrize("eps", [0, -0.5, 1.5, math.nan])
@pytest.mark.parametrize("function", [cvar, tail_weights, value_at_risk])
def test_bad_eps(function, eps):
    with pytest.raises(ValueError, match=r"eps must be in \(0, 1\]; got .*eps=1 gives the mean"):
        function(torch.ones(3), eps)
    with pytest.raises(TypeError, match=r"eps must be in \(0, 1\]; got '0.1'"):
        function(torch.ones(3), "0.1")


@pytest.mark.parametrize("function", [cvar, tail_weights, value_at_risk])
def test_bad_losses_and_tail(function):
    assert function(torch.ones(3), np.float16(0.3)) is not None
    with pytest.raises(TypeError, match=r"eps must be in \(0, 1\]; got array"):
        function(torch.ones(3), np.array([0.1, 0.2]))
    with pytest.raises(TypeError, match=r"must be a torch tensor; got ndarray\. Use torch\.as_tensor"):
        function(np.ones(3), 0.5)
    with pytest.raises(TypeError, match=r"floating-point tensor; got torch\.int64\. Use losses\.float\(\)"):
        function(torch.tensor([1, 2]), 0.5)
    with pytest.raises(ValueError, match=r"at least one value along dim=-1; got shape \(0,\)"):
        function(torch.ones(0), 0.5)
    with pytest.raises(ValueError, match="at least one value"):
        function(torch.tensor(1.0), 0.5)
    with pytest.raises(ValueError, match="dim=2 is not a dimension"):
        function(torch.ones(3, 2), 0.5, dim=2)
    with pytest.raises(ValueError, match="tail must be 'worst' or 'best'; got 'left'"):
        function(torch.ones(3), 0.5, tail="left")


def test_bad_threshold():
    with pytest.raises(ValueError, match=r"threshold must be a number or have the shape of the result, \(2,\)"):
        cvar(torch.ones(2, 3), 0.5, threshold=torch.ones(3))


@pytest.mark.parametrize("measure", [cvar, value_at_risk, smoothed_cvar])
def test_a_column_of_losses_is_refused_unless_meant(measure):
    """Along dim=-1 each loss would be its own risk, and its mean the plain mean."""
    column = torch.rand(50, 1)
    measure = partial(measure, smoothing=0.5) if measure is smoothed_cvar else measure
    options = (0.1,)
    with pytest.raises(ValueError, match=r"shape \(50, 1\).*losses.flatten\(\).*dim=0, or dim=1"):
        measure(column, *options)
    torch.testing.assert_close(measure(column, *options, dim=0)[0], measure(column.flatten(), *options))
    torch.testing.assert_close(measure(column, *options, dim=1), column[:, 0])
    assert measure(torch.rand(1, 1), *options).shape == (1,)
