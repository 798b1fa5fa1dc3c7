"""The VAE module: posterior, draws, gradients, and the learned scale."""

import math
from itertools import pairwise

import pytest
import torch
from helpers import set_up
from torch import nn

from riskvae import nets
from riskvae.likelihoods import Bernoulli, Gaussian
from riskvae.losses import gaussian_nll, kl_divergence
from riskvae.training import VAE, Batch, WeightedELBO
from riskvae.training._vae import build_vae


def make(likelihood=None, **parameters):
    torch.manual_seed(0)
    net = lambda a, b: nets.mlp(a, b, hidden_layer_sizes=(8,))  # noqa: E731
    likelihood = likelihood or Gaussian()
    return build_vae(
        5, 2, encoder=net, decoder=net, likelihood=likelihood, **{"scale_offset": 0.0, **parameters}
    ).double()


@pytest.fixture
def x():
    return torch.rand(7, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_terms_are_those_of_their_definitions(x):
    vae, noise = make(), torch.randn(3, 7, 2, dtype=torch.float64)
    nll, kl, z, posterior, batch, known = vae(Batch(x), noise)
    assert batch.x is x
    assert known is None
    torch.testing.assert_close(z, posterior.mean + posterior.scale * noise)
    torch.testing.assert_close(kl, kl_divergence(*posterior))
    for j in range(3):
        torch.testing.assert_close(nll[j], gaussian_nll(x, vae.decode(z[j]), vae.likelihood.log_scale))


def test_one_draw_may_serve_all_rows(x):
    vae, noise = make(), torch.randn(3, 1, 2, dtype=torch.float64)
    torch.testing.assert_close(vae(Batch(x), noise).nll, vae(Batch(x), noise.expand(3, 7, 2)).nll)


def test_the_scale_starts_at_the_prior_and_survives_outliers():
    encoder = nn.Linear(1, 2).double()
    nn.init.zeros_(encoder.bias)
    vae = VAE(encoder, nn.Identity(), set_up(Gaussian(), 1), n_components=1)
    nn.init.zeros_(encoder.weight)
    assert vae.encode(torch.zeros(1, 1).double()).scale.item() == pytest.approx(1.0, abs=1e-5)
    nn.init.ones_(encoder.weight)
    for value in (-1e4, 1e4):
        posterior = vae.encode(torch.tensor([[value]]).double())
        assert 0 < posterior.scale.item() < 2e4
        assert math.isfinite(kl_divergence(*posterior).item())


def test_scale_offset_is_added(x):
    torch.testing.assert_close(make(scale_offset=0.3).encode(x).scale, make().encode(x).scale + 0.3)


@pytest.mark.parametrize("likelihood", [Gaussian, lambda: Gaussian(0.1, sigmoid=True), Bernoulli])
def test_gradients_reach_every_parameter(x, likelihood):
    vae = make(likelihood())
    WeightedELBO(2.0)(vae(Batch(x), torch.randn(1, 7, 2).double())).backward()
    for name, parameter in vae.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_sigmoid_means_stay_in_the_unit_interval(x):
    vae = make(Gaussian(0.1, sigmoid=True))
    z = 100 * torch.randn(50, 2, dtype=torch.float64)
    assert ((vae.decode(z) >= 0) & (vae.decode(z) <= 1)).all()
    torch.testing.assert_close(vae.decode(z), vae.decoder(z).sigmoid())


def test_the_learned_scale_goes_a_tenth_of_the_way_to_the_root_mean_square():
    likelihood, x = set_up(Gaussian(), 3).double(), torch.randn(4, 3, dtype=torch.float64)
    raw = torch.zeros(1, 4, 3, dtype=torch.float64)
    best = (x**2).mean().sqrt().log()
    gaps = []
    for _ in range(5):
        gaps.append((best - likelihood.log_scale).item())
        likelihood.update_scale(likelihood.nll(x, raw).mean())
    for before, after in pairwise(gaps):
        assert after == pytest.approx(0.9 * before, rel=1e-9)


def test_a_fixed_scale_stays():
    likelihood = set_up(Gaussian(0.25), 3)
    likelihood.fit_scale(torch.randn(9, 3))
    likelihood.update_scale(torch.tensor(1e6))
    assert likelihood.log_scale.exp().item() == pytest.approx(0.25)


def test_the_learned_scale_has_a_floor():
    likelihood = set_up(Gaussian(), 3).double()
    x = 5.0 * torch.randn(1000, 3, dtype=torch.float64)
    likelihood.fit_scale(x)
    start = likelihood.log_scale.exp().item()
    assert start == pytest.approx(5.0, rel=0.1)
    for _ in range(500):
        likelihood.update_scale(likelihood.nll(x, x[None]).mean())  # a decoder that is never wrong
    assert likelihood.log_scale.exp().item() == pytest.approx(1e-3 * start, rel=1e-6)


def test_the_learned_scale_starts_at_the_first_rows_that_have_a_spread():
    likelihood = set_up(Gaussian(), 3)
    for rows in (torch.ones(9, 3), torch.randn(1, 3)):
        likelihood.fit_scale(rows)
        assert likelihood.log_scale.item() == 0.0
    likelihood.fit_scale(1e-4 * torch.tensor([[-1.0] * 3, [1.0] * 3]))
    assert likelihood.log_scale.exp().item() == pytest.approx(1e-4)
    assert likelihood.log_floor.exp().item() == pytest.approx(1e-7)
    likelihood.fit_scale(torch.randn(9, 3))
    assert likelihood.log_scale.exp().item() == pytest.approx(1e-4)
