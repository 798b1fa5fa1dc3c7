"""Per-row losses against scipy's densities, and their gradients."""

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from scipy import stats

from riskvae.losses import bernoulli_nll, gaussian_nll, kl_divergence, total_correlation


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
