"""What proofs of verdicts are made of: ranges of densities, losses of single features, and the largest radius."""

import numpy as np
import pytest
import torch
from helpers import small

from riskvae import QuantileVAE
from riskvae.datasets import make_heteroscedastic
from riskvae.detection._ranges import Reach, _density_range, _prior_range
from riskvae.robustness._projection import NORMS, norm_of
from riskvae.robustness._proven import largest_radius
from riskvae.robustness._separable import Moves
from riskvae.robustness._verdict_proof import _largest

norms = pytest.mark.parametrize("norm", NORMS)


@pytest.fixture(scope="module")
def table():
    X = make_heteroscedastic(400, n_features=5, n_latent=2, random_state=0).data.astype(np.float64)
    return small(QuantileVAE, max_epochs=20).fit(X), X


def inside(generator, n, size, *width):
    """Entries of [-1, 1], many of them at an end."""
    return (3.0 * torch.randn(n, size, *width, generator=generator, dtype=torch.float64)).clamp(-1.0, 1.0)


@pytest.mark.parametrize("latent", [0.3, 10.0])  # the norm of the move decides, or its entries
@pytest.mark.parametrize("step", [0.02, 0.5])
def test_the_density_of_a_latent_point_stays_in_its_range(table, step, latent):
    vae, X = table
    line, generator = vae._line_on_tensors(torch.float64), torch.Generator().manual_seed(0)
    density, x = line.score.densities[0], torch.as_tensor(X[:20])
    mean = line.vaes[0].encode(x).mean
    k = mean.shape[1]
    each = torch.full((20, 2 * k), step, dtype=torch.float64)
    reach = Reach(torch.zeros(20), 2, (each, each), torch.full((20,), latent, dtype=torch.float64), (each, each))
    low, high = _prior_range(density, mean, reach)
    move = step * inside(generator, 20, 3000, k)
    move = move * (latent / move.norm(dim=-1, keepdim=True)).clamp(max=1.0)
    found = density.log_prior((mean[:, None] + move).transpose(0, 1)).T
    found = found - density.log_prior(mean[None])[0][:, None]  # constants apart
    still = _prior_range(density, mean, reach._replace(posterior=(0 * each, 0 * each), latent=0 * reach.latent))[0]
    assert (found >= (low - still)[:, None] - 1e-9).all()
    assert (found <= (high - still)[:, None] + 1e-9).all()
    assert (found.amax(1) - found.amin(1) > 0.2 * (high - low)).double().mean() > 0.5  # and not by far


@norms
@pytest.mark.parametrize("radius", [0.01, 0.4])
def test_the_density_of_values_stays_in_its_range(table, norm, radius):
    vae, X = table
    line, generator = vae._line_on_tensors(torch.float64), torch.Generator().manual_seed(0)
    noise, model, x = line.score.densities[0].noise, line.vaes[0], torch.as_tensor(X[:20])
    raw = model.decoder(model.encode(x).mean)
    width = 0.1 * torch.ones_like(raw)
    reach = Reach(torch.full((20,), radius, dtype=torch.float64), norm, (raw, raw), raw[:, 0], (width, width))
    low, high = _density_range(noise, model, x, raw - width, raw + width, reach)
    delta = inside(generator, 20, 2000, 5)
    delta = radius * delta / norm_of(delta, norm)[..., None]
    moved = raw[:, None] + 0.1 * inside(generator, 20, 2000, raw.shape[1])
    found = torch.stack([noise.log_density(model, x[i] + delta[i], moved[i][None])[0] for i in range(20)])
    assert (found >= low[:, None] - 1e-9).all()
    assert (found <= high[:, None] + 1e-9).all()


def test_a_value_on_a_step_loses_it_by_a_hair():
    # Rows in double precision lie a little beside the levels, which are single, and count as on them.
    X = np.round(np.random.default_rng(0).normal(size=(300, 4)), 1) + 0.1
    line = small(QuantileVAE, max_epochs=2).fit(X)._line_on_tensors(torch.float64)
    x = torch.as_tensor(X)
    free = torch.full_like(x, torch.inf)
    moves = Moves.down(line, x, (-free, free), torch.ones(len(x), dtype=torch.float64))
    for hair in (-1e-5, 1e-5):
        lost = line.shares(x) - line.shares(x + hair)
        bound = torch.where(moves.cost <= abs(hair), moves.gain, 0.0).amax(-1)
        assert (lost <= bound + 1e-9).all()
        assert (lost > 0.01).any()


def test_every_network_counts_for_an_inlier_and_any_for_an_outlier():
    class Falls:
        def __init__(self, start):
            self.start = start

        def range(self, radius):
            return self.start - radius, -self.start + radius

    balls = [Falls(1.0), Falls(0.4)]
    side, error, most = torch.tensor([-1.0, 1.0]), torch.zeros(2), torch.full((2,), 3.0).double()
    np.testing.assert_allclose(_largest(balls, side, error, most), [0.4, 1.0], rtol=0.02)


def test_the_largest_radius_is_found_row_by_row():
    ends = torch.tensor([0.7, 5.0, 1e-3, 0.0]).double()
    found = largest_radius(lambda radius: radius < ends, torch.ones(4).double(), 14, 20)
    np.testing.assert_allclose(found, [0.7, 1.0, 1e-3, 0.0], rtol=1e-4)
    assert (found < ends.clamp(min=1e-9)).all()
