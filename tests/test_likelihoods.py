"""Observation models: their draws follow their density, one of a user's own is an argument like any other."""

import pickle

import numpy as np
import pytest
import torch
from helpers import set_up, small
from scipy import stats
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from torch import nn

from riskvae import BetaVAE, RiskAwareVAE
from riskvae.likelihoods import Bernoulli, Gaussian, Likelihood, Quantiles


class StudentT(Likelihood):
    def __init__(self, nu=4.0):
        super().__init__()
        self.nu = nu

    def mean(self, raw):
        return raw

    def nll(self, x, raw):
        return -torch.distributions.StudentT(self.nu, raw).log_prob(x).sum(-1)

    def draw(self, raw, generator):
        return torch.distributions.StudentT(self.nu, raw).sample()


class LearnedNoise(StudentT):
    """A scale for each feature, trained with the networks."""

    def setup(self, n_features):
        self.log_scale_of_each = nn.Parameter(torch.zeros(n_features))

    def nll(self, x, raw):
        scale = self.log_scale_of_each.exp()
        return -torch.distributions.StudentT(self.nu, raw, scale).log_prob(x).sum(-1)


class Counts(StudentT):
    def check(self, x):
        assert x.is_floating_point()
        assert x.shape[1] == self.n_features
        if (x < 0).any():
            raise ValueError("Counts needs rows of at least 0.")


# --------------------------------------------------------------------------------------------- draws


@pytest.mark.parametrize(
    ("likelihood", "raw", "distribution"),
    [
        (Gaussian(0.5), [1.5], stats.norm(1.5, 0.5)),
        (Quantiles((0.1, 0.5, 0.9)), [0.0, 0.0, 0.0], stats.norm()),
        (StudentT(3.0), [-2.0], stats.t(3.0, -2.0)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_draws_follow_the_density(likelihood, raw, distribution):
    raw = torch.tensor(raw, dtype=torch.float64).expand(4000, -1)
    torch.manual_seed(0)
    rows = set_up(likelihood, 1).double().draw(raw, torch.Generator().manual_seed(0))
    assert rows.shape == (4000, 1)
    # Fixed seeds; with others, one in a thousand would fail.
    assert stats.kstest(rows[:, 0].numpy(), distribution.cdf).pvalue > 1e-3


def test_bernoulli_draws_are_binary_with_their_probability():
    raw = torch.tensor([[0.0, 2.0, -40.0, 40.0]], dtype=torch.float64).expand(10_000, -1)
    rows = Bernoulli().draw(raw, torch.Generator().manual_seed(0))
    assert rows.unique().tolist() == [0, 1]
    # Four standard errors of a share are at most .02.
    torch.testing.assert_close(rows.mean(0), torch.tensor([0.5, 0.8808, 0.0, 1.0]).double(), atol=0.02, rtol=0)


@pytest.mark.parametrize("likelihood", ["gaussian", "bernoulli", Quantiles((0.2, 0.5, 0.8)), StudentT()], ids=str)
def test_sampled_noise_hangs_on_random_state_alone(likelihood, X):
    vae = small(BetaVAE, likelihood=likelihood).fit(X)
    before = torch.get_rng_state()
    rows = vae.sample(50, observation_noise=True, random_state=3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    np.testing.assert_array_equal(rows, vae.sample(50, observation_noise=True, random_state=3))
    assert not np.array_equal(rows, vae.sample(50, observation_noise=True, random_state=4))
    assert rows.dtype == np.float64


def test_sampled_noise_is_as_large_as_the_model_says(X):
    vae = small(BetaVAE, noise_scale=0.3).fit(X)
    noise = vae.sample(2000, observation_noise=True) - vae.sample(2000)
    assert noise.std() == pytest.approx(0.3, rel=0.03)


# ------------------------------------------------------------------------------------- as an argument


@pytest.mark.parametrize(("name", "likelihood"), [("gaussian", Gaussian()), ("bernoulli", Bernoulli())])
def test_names_are_short_for_objects(name, likelihood, X):
    a, b = (small(RiskAwareVAE, likelihood=value).fit(X) for value in (name, likelihood))
    for (key, left), (_, right) in zip(a.module_.state_dict().items(), b.module_.state_dict().items(), strict=True):
        assert torch.equal(left, right), key
    np.testing.assert_array_equal(a.score_samples(X), b.score_samples(X))


def test_a_likelihood_of_ones_own_is_a_parameter(X):
    vae = small(RiskAwareVAE, likelihood=StudentT(nu=3.0))
    assert vae.get_params()["likelihood__nu"] == 3.0
    assert "likelihood=StudentT(nu=3.0)" in repr(vae)
    copy = clone(vae).set_params(likelihood__nu=9.0)
    assert (vae.likelihood.nu, copy.likelihood.nu) == (3.0, 9.0)
    vae.fit(X)
    assert vars(vae.likelihood).keys() == vars(StudentT()).keys()  # fit works on a copy
    expected = stats.t(3.0, loc=vae.reconstruct(X)).logpdf(X).sum(1)
    np.testing.assert_allclose(vae.reconstruction_loss(X), -expected, rtol=1e-9)
    again = pickle.loads(pickle.dumps(vae))
    np.testing.assert_array_equal(vae.score_samples(X), again.score_samples(X))
    with pytest.raises(ValueError, match=r"likelihood=.*differs from the fitted model's"):
        vae.set_params(warm_start=True, likelihood__nu=5.0).fit(X)
    vae.set_params(likelihood=StudentT(nu=3.0)).fit(X)
    assert vae.n_iter_ == 6


def test_a_grid_reaches_the_parameters_of_a_likelihood(X):
    search = GridSearchCV(small(BetaVAE, likelihood=StudentT()), {"likelihood__nu": [2.5, 30.0]}, cv=2).fit(X)
    scores = search.cv_results_["mean_test_score"]
    assert scores[0] != scores[1]
    assert search.best_estimator_.likelihood.nu == search.best_params_["likelihood__nu"]


def test_what_is_trainable_in_a_likelihood_is_trained(X):
    scaled = X * np.array([1, 1, 1, 1, 1, 0.01])
    vae = small(BetaVAE, likelihood=LearnedNoise(), max_epochs=60, batch_size=64, lr=3e-2).fit(scaled)
    noise = vae.module_.likelihood.log_scale_of_each.exp()
    assert noise[5] < 0.3 * noise[:5].min()


def test_parameters_of_arrays_and_a_scale_of_ones_own(X):
    class Weighted(StudentT):
        def __init__(self, weights=None):
            super().__init__()
            self.weights = weights
            self.nu = 4.0

        def setup(self, n_features):
            self.log_scale = nn.Parameter(torch.zeros(n_features))

    vae = small(BetaVAE, likelihood=Weighted(torch.ones(2, 3))).fit(X)
    assert np.isnan(vae.noise_scale_)  # ours, of one number
    assert "fit" in dir(vae)
    vae.set_params(likelihood__weights=torch.ones(2, 3)).partial_fit(X)
    with pytest.raises(ValueError, match=r"(?s)likelihood=Weighted\(.*differs from the fitted model's Weighted\("):
        vae.set_params(likelihood__weights=torch.zeros(2, 3)).partial_fit(X)


def test_a_likelihood_refuses_rows_before_training(X):
    vae = small(BetaVAE, likelihood=Counts())
    with pytest.raises(ValueError, match="Counts needs rows of at least 0"):
        vae.fit(X - 1)
    vae.fit(X)
    for method in (vae.partial_fit, vae.score_samples, vae.reconstruction_loss):
        with pytest.raises(ValueError, match="Counts needs rows of at least 0"):
            method(X - 1)
    vae.score_samples(np.ones((3, 6), dtype=int))


class Wrong(StudentT):
    """A likelihood with one mistake."""

    def __init__(self, mistake="none"):
        super().__init__()
        self.mistake = mistake

    nu = 4.0

    def mean(self, raw):
        return raw.sum(-1) if self.mistake == "mean" else raw

    def draw(self, raw, generator):
        return raw[:1] if self.mistake == "draw" else raw

    def nll(self, x, raw):
        if self.mistake == "fails":
            raise KeyError("oops")
        nll = super().nll(x, raw)
        return {"detached": nll.detach(), "reduced": nll.mean(), "infinite": nll / 0}.get(self.mistake, nll)


class Unready(StudentT):
    def __init__(self):
        pass


@pytest.mark.parametrize(
    ("parameters", "error", "message"),
    [
        ({"likelihood": StudentT}, TypeError, r"objects: pass StudentT\(\), not the class"),
        ({"likelihood": Unready()}, ValueError, r"begin with super\(\).__init__"),
        ({"likelihood": "student"}, ValueError, "an object of riskvae.likelihoods, .*; got 'student'"),
        ({"likelihood": StudentT(), "noise_scale": 0.5}, ValueError, "noise_scale=0.5 is for likelihood='gaussian'"),
        ({"likelihood": StudentT(), "output_activation": "sigmoid"}, ValueError, "output_activation='sigmoid' is for"),
        (
            {"likelihood": Wrong("mean")},
            ValueError,
            r"mean\(raw\) must return a tensor of shape \(1, 150, 6\); got \(1, 150\)",
        ),
        (
            {"likelihood": Wrong("reduced")},
            ValueError,
            r"nll\(x, raw\) must return a tensor of shape \(1, 150\); got \(\)",
        ),
        ({"likelihood": Wrong("detached")}, ValueError, "has no gradient"),
        ({"likelihood": Wrong("infinite")}, ValueError, "is not finite on the first rows"),
        ({"likelihood": Wrong("fails")}, ValueError, "fails on the first rows of X: KeyError: 'oops'"),
        ({"likelihood": Wrong("draw")}, ValueError, r"draw\(raw, generator\) must return a tensor of shape \(150, 6\)"),
        ({"likelihood": Likelihood()}, ValueError, r"NotImplementedError: Likelihood has no nll\(x, raw\); define it"),
        ({"likelihood": Gaussian(0.0)}, ValueError, "Gaussian: noise_scale must be 'learned', or .* above 0"),
        ({"likelihood": Gaussian("lerned")}, ValueError, "Did you mean 'learned'"),
        ({"likelihood": Quantiles((0.9, 0.1))}, ValueError, r"Quantiles: levels must be .*Did you mean \(0.1, 0.9\)"),
    ],
)
def test_mistakes_in_a_likelihood_are_found_before_training(parameters, error, message, X):
    with pytest.raises(error, match=message):
        small(BetaVAE, **parameters).fit(X)


def test_a_decoder_of_another_width_is_told_what_the_likelihood_reads(X):
    with pytest.raises(ValueError, match=r"\(n, 18\), 3 quantiles per feature"):
        small(BetaVAE, likelihood=Quantiles(), decoder=lambda a, b: nn.Linear(a, 6)).fit(X)
