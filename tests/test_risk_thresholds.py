"""Thresholds that outlive a batch: what they follow, and that their state is a module's state."""

import copy
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from riskvae.risk import CVaR, EMAThreshold, Entropic, LearnedThreshold, SmoothedCVaR, cvar, value_at_risk

KINDS = [EMAThreshold, LearnedThreshold]
MEASURES = [CVaR(0.2), SmoothedCVaR(0.2, smoothing=0.5), SmoothedCVaR(0.2, smoothing=0.5, penalty="kl")]
both = pytest.mark.parametrize("kind", KINDS)
tails = st.sampled_from(["worst", "best"])


def batches(n, size=64, seed=0):
    return torch.randn(n, size, generator=torch.Generator().manual_seed(seed))


@given(st.floats(0.0, 0.99), st.integers(1, 10), tails)
def test_moving_average_is_the_weighted_mean_of_the_batches_own_thresholds(decay, n, tail):
    threshold = EMAThreshold(CVaR(0.2), decay=decay, tail=tail, trend=False)
    data = batches(n)
    found = [float(threshold(losses)) for losses in data]
    own = value_at_risk(data, 0.2, tail=tail)
    weights = decay ** torch.arange(n - 1, -1, -1)
    assert found[-1] == pytest.approx(float((weights * own).sum() / weights.sum()), abs=1e-5)
    assert found[0] == pytest.approx(float(own[0]), abs=1e-6)  # no bias at the start


def test_the_average_has_no_lag_behind_a_steady_fall():
    plain, corrected = EMAThreshold(CVaR(0.5), trend=False), EMAThreshold(CVaR(0.5))
    for step in range(200):
        losses = torch.arange(10.0) - 0.5 * step
        a, b, own = plain(losses), corrected(losses), value_at_risk(losses, 0.5)
        if step == 0:
            assert a == b == own
    assert float(a - own) == pytest.approx(0.5 * 0.9 / 0.1, rel=1e-3)
    assert float(b) == pytest.approx(float(own), abs=1e-3)


@both
def test_keeps_up_with_losses_that_fall_by_a_tenth_of_their_spread_per_batch(kind):
    """The share beyond stays near eps, where the plain average would leave none beyond and nothing would be learned."""
    threshold = kind(CVaR(0.2))
    shares = [(losses - 0.1 * i > threshold(losses - 0.1 * i)).float().mean() for i, losses in enumerate(batches(100))]
    assert float(torch.stack(shares[30:]).mean()) == pytest.approx(0.2, abs=0.08)


@pytest.mark.parametrize(("eps", "n"), [(0.5, 256), (0.05, 256), (0.05, 32), (0.01, 64)])
def test_learned_threshold_wanders_little_however_few_losses_the_tail_holds(eps, n):
    threshold = LearnedThreshold(CVaR(eps))
    path = torch.stack([threshold(losses) for losses in batches(2000, size=n)])[500:]
    assert float(path.std()) < 0.25
    assert float(path.mean()) == pytest.approx(
        float(torch.distributions.Normal(0, 1).icdf(torch.tensor(1 - eps))), abs=0.1
    )


def test_learned_threshold_leaves_its_start_in_batches_of_one_loss():
    threshold = LearnedThreshold(CVaR(0.5))
    path = [float(threshold(torch.tensor([v]))) for v in [100.0] + 200 * [1.0, 2.0]]
    assert 0.5 < path[-1] < 2.5


@both
def test_follows_another_measure_for_a_batch(kind):
    threshold = kind(CVaR(0.2))
    losses = torch.arange(10.0)
    assert float(threshold(losses, CVaR(0.5))) == float(value_at_risk(losses, 0.5))


@both
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_batch_that_is_not_finite_leaves_the_state_as_it_was(kind, bad):
    threshold = kind(CVaR(0.2))
    first, second = batches(2)
    threshold(first)
    state = copy.deepcopy(threshold.state_dict())
    threshold(torch.cat((second, torch.tensor([bad]))))
    assert all(torch.equal(state[name], value) for name, value in threshold.state_dict().items())


def test_without_memory_the_bound_is_the_risk():
    threshold = EMAThreshold(CVaR(0.3), decay=0.0)
    for losses in batches(5):
        assert float(cvar(losses, 0.3, threshold=threshold(losses))) == pytest.approx(
            float(cvar(losses, 0.3)), abs=1e-6
        )


@pytest.mark.parametrize("measure", MEASURES, ids=repr)
@pytest.mark.parametrize("tail", ["worst", "best"])
def test_learned_threshold_finds_the_minimum_over_all_batches(measure, tail):
    threshold = LearnedThreshold(measure, step=0.02, tail=tail)
    data = batches(4000, size=256)
    path = torch.stack([threshold(losses) for losses in data])
    best = measure.threshold(data.flatten(), tail=tail)
    # The mean of 2000 steps has the standard error of the quantile of their losses, 0.002: an error rate of 6e-7.
    assert float(path[2000:].mean()) == pytest.approx(float(best), abs=0.01)


@both
@given(shift=st.floats(-100, 100), factor=st.floats(0.1, 10), tail=tails)
def test_path_moves_and_scales_with_the_losses(kind, shift, factor, tail):
    here, there = kind(CVaR(0.2), tail=tail), kind(CVaR(0.2), tail=tail)
    for losses in batches(20):
        a, b = here(losses), there(factor * losses + shift)
        assert float(b) == pytest.approx(factor * float(a) + shift, abs=1e-3 * max(factor, 1))


@both
def test_frozen_in_evaluation(kind):
    threshold = kind(CVaR(0.2))
    first, second, third = batches(3)
    fresh = copy.deepcopy(threshold).eval()
    assert float(fresh(first)) == float(value_at_risk(first, 0.2))  # nothing known yet: the batch's own
    assert float(fresh(second)) == float(value_at_risk(second, 0.2))
    threshold(first)
    threshold.eval()
    state = copy.deepcopy(threshold.state_dict())
    assert float(threshold(second)) == float(threshold(third))
    assert all(torch.equal(state[name], value) for name, value in threshold.state_dict().items())


@both
def test_saved_and_resumed(kind):
    data = batches(10)
    whole, first = kind(CVaR(0.2)), kind(CVaR(0.2))
    for losses in data:
        expected = whole(losses)
    for losses in data[:5]:
        first(losses)
    loaded = kind(CVaR(0.2))
    loaded.load_state_dict(first.state_dict())
    for again in (loaded, pickle.loads(pickle.dumps(first))):
        for losses in data[5:]:
            found = again(losses)
        assert torch.equal(found, expected)


@both
@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_gives_no_graph_and_takes_any_shape_and_dtype(kind, dtype):
    threshold = kind(CVaR(0.2))
    t = threshold(batches(4).to(dtype).requires_grad_())
    assert (t.shape, t.dtype, t.requires_grad) == ((), torch.float32, False)
    assert list(threshold.parameters()) == []


@both
def test_bad_arguments(kind):
    with pytest.raises(TypeError, match=r"measure must have a threshold, as risk\.CVaR.*; got Entropic\(\)"):
        kind(Entropic())
    with pytest.raises(ValueError, match="tail must be 'worst' or 'best'; got 'left'"):
        kind(CVaR(0.1), tail="left")
    with pytest.raises(ValueError, match=r"CVaR has no eps"):
        kind(CVaR())(torch.ones(3))


def test_bad_decay_and_step():
    for decay in (-0.1, 1.0, 1.5):
        with pytest.raises(ValueError, match="decay must be"):
            EMAThreshold(CVaR(0.1), decay=decay)
    with pytest.raises(ValueError, match="step must be a finite number above 0; got 0"):
        LearnedThreshold(CVaR(0.1), step=0)


@both
def test_shows_what_it_follows(kind):
    assert repr(kind(CVaR(0.1), tail="best")) == f"{kind.__name__}(CVaR(eps=0.1), tail='best')"


@both
def test_misuse_of_a_threshold(kind):
    threshold = kind(CVaR(0.2))
    with pytest.raises(TypeError, match=r"losses must be a torch tensor; got ndarray\. Use torch.as_tensor"):
        threshold(batches(1)[0].numpy())
    with pytest.raises(TypeError, match=rf"threshold must be a number or a tensor; got {kind.__name__}\. Call it with"):
        cvar(batches(1)[0], 0.2, threshold=threshold)
    with pytest.raises(TypeError, match="threshold must be a number or a tensor; got str"):
        cvar(batches(1)[0], 0.2, threshold="ema")
