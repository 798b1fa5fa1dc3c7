"""Laws of the conditional value at risk."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.optimize import linprog

from riskvae.risk import cvar, tail_weights

# Few distinct values, so that ties are common.
values = st.one_of(st.integers(-3, 3).map(float), st.floats(-1e3, 1e3))
samples = hnp.arrays(np.float64, st.integers(1, 40), elements=values).map(torch.tensor)
levels = st.one_of(st.floats(1e-3, 1.0), st.sampled_from([0.05, 0.1, 0.29, 0.5, 1.0]))
tails = st.sampled_from(["worst", "best"])


def by_linear_program(losses, eps):
    """max q.l over the dual set: 0 <= q <= 1/(eps N), sum q = 1."""
    n = len(losses)
    result = linprog(-losses, A_eq=np.ones((1, n)), b_eq=[1.0], bounds=[(0, 1 / (eps * n))] * n)
    return -result.fun


def by_brute_force(losses, eps):
    """min over t of the sample of t + mean (l - t)_+ / eps (Rockafellar and Uryasev)."""
    return min(t + np.maximum(losses - t, 0).mean() / eps for t in losses)


@given(samples, levels)
def test_equals_rockafellar_uryasev_by_brute_force(losses, eps):
    expected = by_brute_force(losses.numpy(), eps)
    assert float(cvar(losses, eps)) == pytest.approx(expected, rel=1e-9, abs=1e-9)


@given(samples, levels)
def test_equals_the_linear_program(losses, eps):
    assume(eps * len(losses) >= 1)
    assert float(cvar(losses, eps)) == pytest.approx(by_linear_program(losses.numpy(), eps), rel=1e-6, abs=1e-6)


@given(samples, levels, tails)
def test_weights_are_a_capped_distribution_that_is_shared_by_ties(losses, eps, tail):
    q = tail_weights(losses, eps, tail=tail)
    assert float(q.sum()) == pytest.approx(1.0, abs=1e-12)
    assert (q >= 0).all()
    assert (q <= 1 / max(eps * len(losses), 1) + 1e-15).all()
    for value in losses.unique():
        tied = q[losses == value]
        assert float(tied.max() - tied.min()) == 0.0
    order = losses.argsort(descending=tail == "best")
    assert (q[order].diff() >= -1e-15).all()


@given(samples, levels)
def test_identity_of_the_two_tails(losses, eps):
    assume(eps * len(losses) >= 1 and (1 - eps) * len(losses) >= 1)
    mean = eps * cvar(losses, eps, tail="best") + (1 - eps) * cvar(losses, 1 - eps)
    assert float(mean) == pytest.approx(float(losses.mean()), rel=1e-9, abs=1e-9)


@given(samples, levels, st.floats(-100, 100), st.floats(0.01, 100), tails)
def test_translation_and_positive_scaling(losses, eps, shift, factor, tail):
    moved = cvar(factor * losses + shift, eps, tail=tail)
    expected = factor * cvar(losses, eps, tail=tail) + shift
    assert float(moved) == pytest.approx(float(expected), rel=1e-9, abs=1e-6)


@given(st.data(), levels, tails)
def test_monotone_and_lipschitz(data, eps, tail):
    a = data.draw(samples)
    bump = torch.tensor(data.draw(hnp.arrays(np.float64, len(a), elements=st.floats(0, 10))))
    low, high = cvar(a, eps, tail=tail), cvar(a + bump, eps, tail=tail)
    assert float(low) <= float(high) + 1e-9
    assert float(high - low) <= float(bump.max()) + 1e-9


@given(st.data(), levels)
def test_subadditive_and_additive_for_comonotone_losses(data, eps):
    a = data.draw(samples)
    b = torch.tensor(data.draw(hnp.arrays(np.float64, len(a), elements=values)))
    assert float(cvar(a + b, eps)) <= float(cvar(a, eps) + cvar(b, eps)) + 1e-6
    a, b = a.sort().values, b.sort().values
    assert float(cvar(a + b, eps)) == pytest.approx(float(cvar(a, eps) + cvar(b, eps)), rel=1e-9, abs=1e-6)


@given(samples, levels, levels)
def test_order_of_levels_and_tails(losses, a, b):
    low, high = sorted((a, b))
    chain = [losses.min(), cvar(losses, low, tail="best"), cvar(losses, high, tail="best"), losses.mean(),
             cvar(losses, high), cvar(losses, low), losses.max()]  # fmt: skip
    assert all(float(x) <= float(y) + 1e-9 for x, y in itertools.pairwise(chain))


@given(samples, st.floats(0.05, 0.95), st.floats(0.0, 1.0))
def test_eps_times_cvar_is_concave_in_eps(losses, eps, weight):
    assume(eps * len(losses) >= 1)

    def tail_sum(e):
        return e * float(cvar(losses, e))

    middle = weight * eps + (1 - weight) * 1.0
    assert tail_sum(middle) >= weight * tail_sum(eps) + (1 - weight) * tail_sum(1.0) - 1e-6


@given(samples)
def test_limits(losses):
    n = len(losses)
    assert float(cvar(losses, 1.0)) == pytest.approx(float(losses.mean()), rel=1e-12, abs=1e-12)
    for eps in (1 / n, 0.5 / n, 1e-9):
        assert float(cvar(losses, eps)) == pytest.approx(float(losses.max()), rel=1e-14, abs=0)
        assert float(cvar(losses, eps, tail="best")) == pytest.approx(float(losses.min()), rel=1e-14, abs=0)


@given(samples, levels, st.integers(2, 5), tails)
def test_unchanged_when_the_sample_is_replicated(losses, eps, k, tail):
    assume(eps * len(losses) >= 1)
    replicated = cvar(losses.repeat(k), eps, tail=tail)
    assert float(replicated) == pytest.approx(float(cvar(losses, eps, tail=tail)), rel=1e-9, abs=1e-9)


@given(samples, levels, st.randoms(use_true_random=False), tails)
def test_permutations(losses, eps, random, tail):
    order = list(range(len(losses)))
    random.shuffle(order)
    q = tail_weights(losses, eps, tail=tail)
    assert torch.equal(tail_weights(losses[order], eps, tail=tail), q[order])


@given(samples, levels, tails)
def test_the_gradient_is_the_weights(losses, eps, tail):
    losses = losses.clone().requires_grad_()
    cvar(losses, eps, tail=tail).backward()
    assert torch.equal(losses.grad, tail_weights(losses, eps, tail=tail))


@pytest.mark.parametrize(("n", "eps"), [(100, 0.29), (100, 0.07), (50, 0.58), (10, 0.3), (1000, 0.001), (3, 1 / 3)])
def test_counts_that_floating_point_gets_wrong(n, eps):
    """round(eps n) losses, whatever eps * n rounds to: ceil, floor or int of it are off by one for some."""
    losses = torch.randn(n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    k = round(eps * n)
    assert float(cvar(losses, eps)) == pytest.approx(float(losses.topk(k).values.mean()), rel=1e-12)
    assert int((tail_weights(losses, eps) > 1e-12).sum()) == k


def test_known_values():
    losses = torch.tensor([1.0, 0.5, 2.0])
    # (2 + 0.5 * 1) / 1.5: one and a half of three losses.
    assert float(cvar(losses, 0.5)) == pytest.approx(2.5 / 1.5)
    assert float(cvar(losses, 0.5, tail="best")) == pytest.approx((0.5 + 0.5 * 1.0) / 1.5)
    assert float(cvar(torch.full((7,), 3.0), 0.29)) == pytest.approx(3.0)


@pytest.mark.parametrize("dim", [0, 1, -1])
def test_dimensions(dim):
    losses = torch.randn(5, 6, dtype=torch.float64)
    each = [cvar(part, 0.3) for part in losses.unbind(1 if dim == 0 else 0)]
    assert torch.allclose(cvar(losses, 0.3, dim=dim), torch.stack(each))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtypes_compute_in_float32_at_least(dtype):
    losses = torch.linspace(1, 2, 1000, dtype=torch.float64).to(dtype)
    result = cvar(losses, 0.29)
    assert result.dtype == tail_weights(losses, 0.29).dtype == dtype
    expected = float(cvar(losses.double(), 0.29))
    assert float(result) == pytest.approx(expected, rel=2 * torch.finfo(dtype).eps)


def test_not_a_number_is_never_dropped_and_infinity_counts_where_it_is():
    for position in range(4):
        losses = torch.tensor([1.0, 2.0, 3.0, 4.0])
        losses[position] = math.nan
        for tail in ("worst", "best"):
            assert math.isnan(cvar(losses, 0.25, tail=tail))
            assert tail_weights(losses, 0.25, tail=tail).isnan().all()
    losses = torch.tensor([1.0, 2.0, 3.0, math.inf])
    assert float(cvar(losses, 0.5)) == math.inf
    assert float(cvar(losses, 0.5, tail="best")) == 1.5
    assert float(cvar(-losses, 0.5)) == -1.5


@pytest.mark.parametrize("eps", [0, -0.5, 1.5, math.nan])
def test_bad_eps(eps):
    with pytest.raises(ValueError, match=r"eps must be in \(0, 1\]"):
        cvar(torch.ones(3), eps)


def test_bad_losses_and_tail():
    with pytest.raises(TypeError, match=r"must be a torch tensor; got ndarray\. Use torch\.as_tensor"):
        cvar(np.ones(3), 0.5)
    with pytest.raises(TypeError, match=r"floating-point tensor; got torch\.int64\. Use losses\.float\(\)"):
        cvar(torch.tensor([1, 2]), 0.5)
    with pytest.raises(ValueError, match=r"at least one value along dim=-1; got shape \(0,\)"):
        cvar(torch.ones(0), 0.5)
    with pytest.raises(ValueError, match="at least one value"):
        cvar(torch.tensor(1.0), 0.5)
    with pytest.raises(ValueError, match="tail must be 'worst' or 'best'; got 'left'"):
        cvar(torch.ones(3), 0.5, tail="left")
