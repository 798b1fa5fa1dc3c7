"""What training on the tail does."""

import numpy as np
import pytest
import torch
from helpers import small

from riskvae import BetaVAE, RiskAwareVAE
from riskvae._model import Terms
from riskvae._risk_aware_vae import TailObjective
from riskvae.nets import Posterior
from riskvae.risk import cvar


def terms(n=50):
    generator = torch.Generator().manual_seed(0)
    nll = torch.randn(1, n, generator=generator)
    kl = torch.rand(n, generator=generator)
    return Terms(nll, kl, torch.zeros(1, n, 2), Posterior(torch.zeros(n, 2), torch.ones(n, 2)))


def test_neutral_is_beta_vae_bit_for_bit(X):
    neutral = small(RiskAwareVAE, risk="neutral", beta=1.0).fit(X)
    plain = small(BetaVAE, beta=1.0).fit(X)
    for a, b in zip(neutral.module_.parameters(), plain.module_.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("risk", ["averse", "seeking"])
def test_eps_one_is_neutral_up_to_rounding(X, risk):
    whole = small(RiskAwareVAE, risk=risk, eps=1.0).fit(X)
    neutral = small(RiskAwareVAE, risk="neutral").fit(X)
    np.testing.assert_allclose(whole.transform(X), neutral.transform(X), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("tail", "eps"), [("worst", 0.1), ("best", 0.3)])
def test_the_loss_is_the_tail_of_reconstruction_plus_the_mean_kl(tail, eps):
    batch = terms()
    expected = cvar(batch.nll[0], eps, tail=tail) + 2.0 * batch.kl.mean()
    assert float(TailObjective(2.0, eps, tail)(batch)) == pytest.approx(float(expected))


def test_parameters_reach_the_loss(X):
    for risk, tail in (("averse", "worst"), ("seeking", "best")):
        estimator = small(RiskAwareVAE, risk=risk, eps=0.2, beta=3.0).fit(X)
        objective = estimator.net_.criterion_
        assert (objective.tail, objective.eps, objective.beta) == (tail, 0.2, 3.0)
        estimator.set_params(eps=0.7, beta=0.1).partial_fit(X)
        assert (estimator.net_.criterion_.eps, estimator.net_.criterion_.beta) == (0.7, 0.1)


@pytest.fixture(scope="module")
def mixture():
    """Four fifths of the rows on one line, the rest on another: a single latent cannot serve both."""
    rng = np.random.default_rng(0)
    t = rng.normal(size=(500, 1))
    rows = np.where(np.arange(500)[:, None] % 5 > 0, t * [1.0, 0.0, 0.0], t * [0.0, 1.5, 0.0] + [0, 0, 2.0])
    return rows + 0.05 * rng.normal(size=rows.shape)


def test_the_averse_model_is_better_at_the_worst_and_the_neutral_at_the_mean(mixture):
    def fit(risk):
        models = [
            small(RiskAwareVAE, n_components=1, risk=risk, eps=0.1, noise_scale=0.5, hidden_layer_sizes=(), lr=1e-2,
                  max_epochs=150, random_state=seed).fit(mixture)
            for seed in range(3)
        ]  # fmt: skip
        return np.array([model.reconstruction_loss(mixture) for model in models])

    averse, neutral = fit("averse"), fit("neutral")
    worst = [float(np.mean(np.sort(losses, axis=1)[:, -50:])) for losses in (averse, neutral)]
    assert worst[0] < worst[1]
    assert averse.mean() > neutral.mean()
    assert averse.std(axis=1).mean() < neutral.std(axis=1).mean()
