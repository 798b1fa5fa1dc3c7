"""BetaVAE and BetaTCVAE: what beta does."""

import numpy as np
import torch
from helpers import small

from riskvae import BetaTCVAE, BetaVAE
from riskvae.losses import total_correlation


def weights(vae):
    return torch.cat([p.flatten() for p in vae.module_.parameters()])


def entanglement(vae, X):
    """Mean total correlation of the aggregated posterior."""
    mean, scale = (torch.tensor(part) for part in vae.encode(X))
    z = mean + scale * torch.randn(mean.shape, generator=torch.Generator().manual_seed(0), dtype=mean.dtype)
    return float(total_correlation(z, mean, scale).mean())


def rate(vae, X):
    mean, scale = vae.encode(X)
    return (0.5 * (mean**2 + scale**2 - 1) - np.log(scale)).sum(1).mean()


def test_tcvae_with_beta_one_is_the_plain_model(X):
    assert torch.equal(weights(small(BetaTCVAE, beta=1.0).fit(X)), weights(small(BetaVAE, beta=1.0).fit(X)))


def test_beta_lowers_the_total_correlation_and_keeps_the_information(X):
    long = {"max_epochs": 60, "lr": 3e-3, "batch_size": 300, "noise_scale": 0.1, "n_components": 3}
    plain, tc = (small(cls, beta=beta, **long).fit(X) for cls, beta in ((BetaVAE, 1.0), (BetaTCVAE, 12.0)))
    strong = small(BetaVAE, beta=12.0, **long).fit(X)
    assert entanglement(tc, X) < 0.7 * entanglement(plain, X)
    # Where BetaVAE pays for it with the rate, BetaTCVAE does not.
    assert rate(tc, X) > 1.5 * rate(strong, X)
    assert tc.history_[-1]["train_kl"] > 0


def test_larger_beta_lowers_the_rate(X):
    rates = [rate(small(BetaVAE, beta=beta, max_epochs=30, noise_scale=0.1).fit(X), X) for beta in (0.5, 2.0, 8.0)]
    assert rates[0] > rates[1] > rates[2]
