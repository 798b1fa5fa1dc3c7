"""Per-row losses against scipy's densities, and their gradients."""

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import mean_pinball_loss

from riskvae.losses import (
    asymmetric_laplace_nll,
    bernoulli_nll,
    gaussian_nll,
    kl_divergence,
    pinball_loss,
    total_correlation,
)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_gaussian_is_the_density_of_scipy(rng):
    x, mean = rng.normal(size=(5, 3)), rng.normal(size=(2, 5, 3))
    for scale in (0.1, 1.0, 7.0):
        found = gaussian_nll(torch.tensor(x), torch.tensor(mean), torch.tensor(np.log(scale)))
        np.testing.assert_allclose(found, -stats.norm(mean, scale).logpdf(x).sum(-1), rtol=1e-12)


def test_a_scale_of_root_one_half_gives_the_summed_squared_error(rng):
    x, mean = torch.tensor(rng.normal(size=(5, 3))), torch.tensor(rng.normal(size=(5, 3)))
    constant = 1.5 * np.log(np.pi)
    found = gaussian_nll(x, mean, torch.tensor(0.5).double().sqrt().log())
    np.testing.assert_allclose(found, ((x - mean) ** 2).sum(1) + constant, rtol=1e-12)


def test_bernoulli_is_the_mass_of_scipy(rng):
    p, x = rng.uniform(0.01, 0.99, size=(2, 5, 3)), rng.integers(0, 2, size=(5, 3)).astype(float)
    found = bernoulli_nll(torch.tensor(x), torch.logit(torch.tensor(p)))
    np.testing.assert_allclose(found, -stats.bernoulli(p).logpmf(x).sum(-1), rtol=1e-9)


def test_bernoulli_is_finite_where_the_network_is_sure():
    x = torch.tensor([[0.0, 1.0]])
    assert bernoulli_nll(x, torch.tensor([[-200.0, 200.0]])).item() == 0.0
    assert bernoulli_nll(x, torch.tensor([[200.0, -200.0]])).item() == 400.0


def test_kl_is_the_expected_log_ratio(rng):
    mean, scale = rng.normal(size=3), rng.uniform(0.3, 2.0, size=3)
    z = mean + scale * rng.normal(size=(400_000, 3))
    ratios = (stats.norm(mean, scale).logpdf(z) - stats.norm.logpdf(z)).sum(1)
    found = kl_divergence(torch.tensor(mean[None]), torch.tensor(scale[None])).item()
    # Five standard errors: fails by chance once in two million seeds.
    assert found == pytest.approx(ratios.mean(), abs=5 * ratios.std() / np.sqrt(len(ratios)))


@given(st.floats(-5, 5), st.floats(0.01, 5))
@example(0.0, 1.0)
def test_kl_is_never_negative_and_zero_at_the_prior_alone(mean, scale):
    value = kl_divergence(*torch.tensor([[[mean]], [[scale]]], dtype=torch.float64)).item()
    # At least half the squared distance of the mean, and a quarter of that of the log scale up to 1.
    assert value >= 0.5 * mean**2 - 1e-12
    assert value >= 0.25 * min(abs(np.log(scale)), 1.0) ** 2 - 1e-12
    if mean == 0 and scale == 1:
        assert value == 0


def test_gradients():
    def tensor(*shape):
        return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()

    x = torch.rand(4, 3, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda mean, scale: gaussian_nll(x, mean, scale), (tensor(2, 4, 3), tensor()))
    assert torch.autograd.gradcheck(lambda logits: bernoulli_nll(x, logits), (tensor(2, 4, 3),))
    assert torch.autograd.gradcheck(lambda mean, raw: kl_divergence(mean, raw.exp()), (tensor(4, 3), tensor(4, 3)))


@pytest.mark.parametrize("correlation", [0.0, 0.6, -0.9])
def test_total_correlation_of_a_gaussian_is_known(rng, correlation):
    # The aggregate of narrow posteriors at correlated points, in all N(0, C): its total correlation is
    # -log(1 - c^2) / 2. Its standard error here is about .02.
    n, s = 4000, 0.25
    C = np.array([[1.0, correlation], [correlation, 1.0]])
    mean = torch.tensor(rng.multivariate_normal([0, 0], C - s**2 * np.eye(2), size=n))
    z = mean + s * torch.tensor(rng.normal(size=(n, 2)))
    found = total_correlation(z, mean, torch.full((n, 2), s, dtype=torch.float64)).mean()
    assert float(found) == pytest.approx(-0.5 * np.log(1 - correlation**2), abs=0.05)


def test_total_correlation_of_one_coordinate_or_one_row_is_zero(rng):
    z, mean, scale = (torch.tensor(rng.random((6, 1)) + 0.1) for _ in range(3))
    torch.testing.assert_close(total_correlation(z, mean, scale), torch.zeros(6, dtype=torch.float64))
    z, mean, scale = (torch.tensor(rng.random((1, 5)) + 0.1) for _ in range(3))
    torch.testing.assert_close(total_correlation(z, mean, scale), torch.zeros(1, dtype=torch.float64))


def test_total_correlation_does_not_depend_on_scales_and_order(rng):
    z, mean, scale = (torch.tensor(rng.random((6, 3)) + 0.1) for _ in range(3))
    found = total_correlation(z, mean, scale)
    stretch = torch.tensor([1.0, 5.0, 0.1])
    torch.testing.assert_close(total_correlation(z * stretch, mean * stretch, scale * stretch), found)
    torch.testing.assert_close(total_correlation(z.flip(1), mean.flip(1), scale.flip(1)), found)
    # Posteriors may be permuted against each other: the aggregate is a set.
    order = torch.tensor([3, 1, 5, 0, 4, 2])
    torch.testing.assert_close(total_correlation(z, mean[order], scale[order]), found)


def test_total_correlation_is_its_definition(rng):
    z, mean, scale = (rng.random((4, 2)) + 0.1 for _ in range(3))
    density = stats.norm(mean[None], scale[None]).pdf(z[:, None])  # draw, posterior, coordinate
    expected = np.log(density.prod(-1).mean(1)) - np.log(density.mean(1)).sum(-1)
    np.testing.assert_allclose(total_correlation(*map(torch.tensor, (z, mean, scale))), expected, rtol=1e-10)


# ----------------------------------------------------------------------------------------- quantiles


def test_pinball_is_scikit_learns(rng):
    x, quantiles, levels = rng.normal(size=(50, 3)), rng.normal(size=(50, 3, 4)), [0.1, 0.25, 0.5, 0.9]
    found = pinball_loss(torch.tensor(x), torch.tensor(quantiles), levels)
    expected = [
        [mean_pinball_loss([x[i, j]], [quantiles[i, j, a]], alpha=level) for a, level in enumerate(levels)]
        for i in range(50)
        for j in range(3)
    ]
    np.testing.assert_allclose(found, np.reshape(expected, (50, 3, 4)).mean(-1).sum(-1), rtol=1e-12)


@given(st.floats(0.01, 0.99), st.floats(-50, 50), st.floats(0.1, 10))
def test_pinball_is_least_at_the_quantile_and_its_gradient_is_known(level, q, gap):
    quantile = torch.tensor([[[q]]], dtype=torch.float64, requires_grad=True)
    for x, slope in ((q + gap, -level), (q - gap, 1 - level)):
        loss = pinball_loss(torch.tensor([[x]], dtype=torch.float64), quantile, [level])
        (gradient,) = torch.autograd.grad(loss.sum(), quantile)
        assert gradient.item() == pytest.approx(slope, abs=1e-12)
    sample = torch.tensor(np.linspace(0, 1, 1001)[:, None])
    means = [pinball_loss(sample, torch.full((1001, 1, 1), c), [level]).mean().item() for c in (level, level + 0.02)]
    assert means[0] < means[1] + 1e-12


def test_asymmetric_laplace_is_the_density_of_scipy(rng):
    x, q = rng.normal(size=(5, 3)), rng.normal(size=(2, 5, 3, 1))
    for level, scale in ((0.2, 0.5), (0.5, 1.0), (0.9, 3.0)):
        found = asymmetric_laplace_nll(torch.tensor(x), torch.tensor(q), [level], torch.tensor(np.log(scale)))
        # Scipy's has slopes kappa / s' above and 1 / (kappa s') below the mode.
        kappa = np.sqrt(level / (1 - level))
        density = stats.laplace_asymmetric(kappa, q[..., 0], scale / np.sqrt(level * (1 - level)))
        np.testing.assert_allclose(found, -density.logpdf(x).sum(-1), rtol=1e-9)


@given(st.lists(st.floats(0.05, 0.95), min_size=1, max_size=4), st.lists(st.floats(-2, 2), min_size=4, max_size=4))
def test_several_levels_bound_the_nats_of_a_density(levels, q):
    """A geometric mean of densities integrates to at most one."""
    x = torch.linspace(-200, 200, 400_001, dtype=torch.float64)[:, None]
    quantiles = torch.tensor(q[: len(levels)], dtype=torch.float64).expand(len(x), 1, len(levels))
    nats = asymmetric_laplace_nll(x, quantiles, levels, torch.tensor(0.0).double())
    assert float((-nats).exp().sum()) * 0.001 <= 1.0 + 1e-3


def test_the_best_scale_is_the_mean_pinball(rng):
    x, q, levels = torch.tensor(rng.normal(size=(500, 2))), torch.zeros(500, 2, 3).double(), [0.2, 0.5, 0.7]
    log_scale = torch.tensor(0.0).double().requires_grad_()
    best = pinball_loss(x, q, levels).mean() / 2
    (slope,) = torch.autograd.grad(asymmetric_laplace_nll(x, q, levels, best.log() + log_scale).sum(), log_scale)
    assert slope.item() == pytest.approx(0.0, abs=1e-9)


def test_total_correlation_has_the_gradient_of_its_formula(rng, monkeypatch):
    """By blocks and at once, against autograd of the definition."""

    def tensors():
        z, mean = (torch.from_numpy(rng.normal(size=(40, 3))) for _ in range(2))
        return [t.requires_grad_() for t in (z, mean, torch.from_numpy(rng.uniform(0.2, 1.0, size=(40, 3))))]

    def by_definition(z, mean, scale):
        log_density = torch.distributions.Normal(mean, scale).log_prob(z[:, None])
        joint = log_density.sum(-1).logsumexp(1) - np.log(40)
        return joint - (log_density.logsumexp(1) - np.log(40)).sum(-1)

    given = tensors()
    wanted = by_definition(*given)
    wanted_gradients = torch.autograd.grad(wanted.square().mean(), given)
    for block in (2**20, 40 * 3 * 7, 1):
        monkeypatch.setattr("riskvae.losses._LogRatio.BLOCK", block)
        found = total_correlation(*given)
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
        gradients = torch.autograd.grad(found.square().mean(), given)
        for a, b in zip(gradients, wanted_gradients, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_total_correlation_keeps_no_array_of_all_pairs(rng):
    z, mean = (torch.from_numpy(rng.normal(size=(64, 3))).requires_grad_() for _ in range(2))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        total_correlation(z, mean, torch.ones_like(z))
    assert max(kept) == 64 * 3


def test_total_correlation_has_second_derivatives(rng):
    z, mean = (torch.from_numpy(rng.normal(size=(6, 2))).requires_grad_() for _ in range(2))
    scale = torch.from_numpy(rng.uniform(0.2, 1.0, size=(6, 2))).requires_grad_()
    assert torch.autograd.gradgradcheck(total_correlation, (z, mean, scale))
    one = torch.full((1, 2), 0.5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(total_correlation, (z, mean, one))
