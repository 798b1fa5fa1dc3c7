"""Scores: hardly any chance in them, never above the truth, finite and in order for every finite row."""

import copy

import numpy as np
import pytest
import torch
from helpers import small
from scipy import stats
from sklearn.datasets import load_digits
from torch import nn

from riskvae import BetaVAE, QuantileVAE, RiskAwareVAE
from riskvae.training._draws import matched_draws


@pytest.mark.parametrize(("n", "k"), [(2, 1), (32, 16), (20, 10), (16, 2), (60, 10)])
def test_whole_sets_of_draws_match_mean_and_covariance(n, k):
    draws = matched_draws(n, k, seed=0)[:, 0]
    assert draws.shape == (n, k)
    torch.testing.assert_close(draws.mean(0), torch.zeros(k).double(), atol=1e-12, rtol=0)
    torch.testing.assert_close(draws.T @ draws / n, torch.eye(k).double(), atol=1e-12, rtol=0)
    # Of several sets the lengths spread as those of normal vectors do; a few quantiles miss some of the tail.
    if n > 2 * k:
        assert draws.norm(dim=1).std() > 0.5 * stats.chi(k).std()


def test_an_incomplete_set_is_of_orthogonal_pairs():
    draws = matched_draws(4, 10, seed=1)[:, 0]
    torch.testing.assert_close(draws[:2], -draws[2:])
    torch.testing.assert_close(draws[:2] @ draws[:2].T, 10 * torch.eye(2).double(), atol=1e-12, rtol=0)
    assert matched_draws(3, 5, seed=1).shape == (3, 1, 5)
    assert not torch.equal(draws, matched_draws(4, 10, seed=2)[:, 0])


def scores_over_seeds(model, X, n=40):
    found = []
    for seed in range(n):
        other = copy.copy(model)
        other._seed = seed
        found.append(other.score_samples(X))
    return np.array(found)


def test_scores_hardly_hang_on_the_seed_of_their_draws():
    """At 16 latents the scores of two seeds differed by a nat; now all seeds choose the same model."""
    X = load_digits().data / 16
    models = [RiskAwareVAE(16, max_epochs=40, beta=beta, random_state=0).fit(X[:1200]) for beta in (0.95, 1.0)]
    means = np.array([scores_over_seeds(model, X[1200:1400], n=10).mean(1) for model in models])
    assert means.std(1).max() < 0.03
    assert len(set(means.argmax(0))) == 1


class Exact(nn.Module):
    """Encoder or decoder of a linear model with orthogonal loadings W, whose posterior is known and diagonal."""

    def __init__(self, W, noise=None):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(()))  # something to train
        self.W, self.noise = torch.tensor(W), noise

    def forward(self, x):
        W = self.W.to(x)
        if self.noise is None:
            return self.gain * x @ W
        total = W.square().sum(1) + self.noise**2
        scale = (self.noise / total.sqrt()).expand(len(x), -1)
        return torch.cat((self.gain * x @ W.T / total, (scale - 1e-6).expm1().log() - np.log(np.e - 1)), 1)


@pytest.mark.parametrize("k", [1, 3, 9])
def test_the_bound_of_a_linear_model_with_its_posterior_is_its_exact_log_likelihood(k):
    """Mean and covariance of the draws match and all is quadratic, so no chance is left."""
    rng = np.random.default_rng(0)
    W, noise = np.linalg.qr(rng.normal(size=(12, k)))[0].T * rng.uniform(0.5, 3, size=(k, 1)), 0.5
    X = rng.normal(size=(100, k)) @ W + noise * rng.normal(size=(100, 12))
    networks = {"encoder": lambda a, b: Exact(W, noise), "decoder": lambda a, b: Exact(W)}
    vae = BetaVAE(k, beta=1.0, noise_scale=noise, max_epochs=1, lr=1e-20, random_state=0, **networks).fit(X)
    exact = stats.multivariate_normal(np.zeros(12), W.T @ W + noise**2 * np.eye(12)).logpdf(X)
    for bounds in scores_over_seeds(vae, X, n=3):
        np.testing.assert_allclose(bounds, exact, rtol=1e-6)


EXTREME = [1e3, 1e6, 1e11, 1e13, 1e20, 9.96921e36, 1e100, 1e200, 1.7976931348623157e308]


@pytest.mark.parametrize(
    "make", [QuantileVAE, BetaVAE, RiskAwareVAE, lambda **o: QuantileVAE(calibration_fraction=0.3, **o)]
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("sign", [1, -1])
def test_scores_are_finite_and_in_order_for_every_finite_row(make, dtype, sign, X):
    model = make(n_components=2, hidden_layer_sizes=(16,), max_epochs=5, random_state=0).fit(X)
    values = [value for value in EXTREME if value <= float(np.finfo(dtype).max)]
    rows = np.repeat(X[:1], len(values), axis=0).astype(dtype)
    rows[:, 1] = np.array(values) * sign
    everywhere = np.array(values)[:, None] * sign * np.ones(6)
    for extreme in (rows, everywhere.astype(dtype)):
        for scores in (model.score_samples(extreme), -model.reconstruction_loss(extreme)):
            assert scores.dtype == dtype
            assert np.isfinite(scores).all()
            assert (np.diff(scores) < 0).all()
            assert scores[0] < model.score_samples(X).min()
    if isinstance(model, QuantileVAE):
        assert (model.predict(rows) == -1).all()
        assert (model.decision_function(rows) < 0).all()
        if model.is_calibrated:
            np.testing.assert_array_equal(model.conformal_p_values(rows), 1 / (model._calibration.n + 1))
            assert model.detect(rows, fdr=0.2).all()


@pytest.mark.filterwarnings("ignore:.*look like anomalies")
def test_absurd_calibration_rows_leave_thresholds_and_p_values_in_agreement(X):
    held_out = np.random.default_rng(0).permutation(X)[:200].copy()
    held_out[:12, 1] = 9.96921e36
    model = small(QuantileVAE).fit(X + 1e-3).conformalize(held_out)
    assert np.isfinite(model.offset_)
    new = X.copy()
    new[:10] += 8
    np.testing.assert_array_equal(model.predict(new) == -1, model.conformal_p_values(new) <= 0.05)


def test_p_values_of_infinite_scores_are_the_smallest_and_the_largest():
    from riskvae.detection._calibration import Calibration

    calibration = Calibration(np.arange(9.0), np.zeros((9, 1, 3)))
    np.testing.assert_allclose(calibration.p_values(np.array([-np.inf, np.inf])), [0.1, 1.0])
