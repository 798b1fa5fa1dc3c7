"""Densities of likelihoods against closed forms and SciPy: values, gradients, extremes, draws, truths recovered."""

import numpy as np
import pytest
import torch
from helpers import small
from scipy import special, stats

from riskvae import BetaVAE
from riskvae.likelihoods import Categorical, Gaussian, LogNormal, Mixed, NegativeBinomial, Poisson, StudentT

rng = np.random.default_rng(0)
ROWS = torch.from_numpy(1.0 + rng.poisson(3.0, size=(40, 3)))
RAW = torch.from_numpy(2.0 * rng.normal(size=(5, 40, 3)))


def rates(likelihood, raw):
    """Expected counts by the formula of the docstring."""
    return likelihood.usual.numpy() * np.log1p((np.e - 1) * np.exp(raw.numpy()))


def started(likelihood, x=ROWS):
    likelihood = likelihood.prepare(x.shape[1]).double()
    likelihood.fit_scale(x)
    return likelihood


def of_gaussian(likelihood, raw):
    return stats.norm(raw.numpy(), likelihood.log_noise.exp().detach().numpy()).logpdf(ROWS.numpy())


def of_student(likelihood, raw):
    return stats.t(likelihood.nu, raw.numpy(), likelihood.log_noise.exp().detach().numpy()).logpdf(ROWS.numpy())


def of_log_normal(likelihood, raw):
    scale = (likelihood.spread * likelihood.log_noise().exp()).detach().numpy()
    return stats.lognorm(scale, scale=likelihood.mean(raw).numpy()).logpdf(ROWS.numpy())


def of_poisson(likelihood, raw):
    return stats.poisson(rates(likelihood, raw)).logpmf(ROWS.numpy())


def of_negative_binomial(likelihood, raw):
    r = likelihood._log_r(raw).exp().detach().numpy()
    return stats.nbinom(r, r / (r + rates(likelihood, raw))).logpmf(ROWS.numpy())


DENSITIES = [
    (Gaussian(per_feature=True), of_gaussian),
    (StudentT(), of_student),
    (LogNormal(), of_log_normal),
    (StudentT(nu=1.5, noise_scale=0.7), of_student),
    (Poisson(), of_poisson),
    (NegativeBinomial(), of_negative_binomial),
    (NegativeBinomial(dispersion=0.3), of_negative_binomial),
]


@pytest.mark.parametrize(
    ("likelihood", "log_density"), DENSITIES, ids=lambda value: getattr(value, "__name__", repr(value))
)
def test_nats_are_those_of_scipy(likelihood, log_density):
    likelihood = started(likelihood.__class__(**likelihood.get_params()))
    expected = -log_density(likelihood, RAW)
    np.testing.assert_allclose(likelihood.each(ROWS, RAW).detach(), expected, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(likelihood.nll(ROWS, RAW).detach(), expected.sum(-1), rtol=1e-9)


@pytest.mark.parametrize("k", [2, 5])
def test_nats_of_categories_are_those_of_a_softmax(k):
    codes = torch.from_numpy(rng.integers(0, k, size=(40, 3)).astype(float))
    likelihood = started(Categorical(k), codes)
    raw = torch.from_numpy(rng.normal(size=(4, 40, k, 3)))
    share = (np.stack([(codes.numpy() == c).sum(0) for c in range(k)]) + 1) / (40 + k)
    log_p = special.log_softmax(raw.numpy() + np.log(share), axis=-2)
    expected = -np.take_along_axis(log_p, codes.numpy().astype(int)[None, :, None], -2)[..., 0, :]
    np.testing.assert_allclose(likelihood.each(codes, raw.flatten(-2)), expected, rtol=1e-9)
    # An untrained decoder, of zeros, gives the shares.
    np.testing.assert_allclose(likelihood.log_probabilities(torch.zeros(3 * k)).exp(), share, rtol=1e-6)
    np.testing.assert_array_equal(likelihood.mean(raw.flatten(-2)), log_p.argmax(-2))
    np.testing.assert_array_equal(likelihood.central(raw.flatten(-2)), np.exp(log_p).mean(0).argmax(-2))


EACH = [Gaussian(per_feature=True), StudentT(), LogNormal(), Poisson(), NegativeBinomial(), Categorical(9)]


@pytest.mark.parametrize("likelihood", EACH, ids=lambda value: type(value).__name__)
def test_gradients_are_those_of_differences(likelihood):
    x = ROWS[:4].clamp(max=8.0)
    likelihood = started(likelihood.__class__(**likelihood.get_params()), x)
    raw = torch.from_numpy(rng.normal(size=(4, likelihood.n_values))).requires_grad_()
    assert torch.autograd.gradcheck(lambda value: likelihood.nll(x, value), (raw,), atol=1e-6)
    for parameter in likelihood.parameters():
        before = likelihood.nll(x, raw).sum()
        (slope,) = torch.autograd.grad(before, parameter)
        with torch.no_grad():
            parameter[0] += 1e-6
            difference = float(likelihood.nll(x, raw).sum() - before.detach()) / 1e-6
        assert difference == pytest.approx(float(slope[0]), rel=1e-3)


@pytest.mark.parametrize("likelihood", EACH, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("size", [1e2, 1e4])
def test_extremes_have_finite_losses_and_gradients(likelihood, size):
    x = torch.tensor([[0.0, 5.0, 8.0], [8.0, 0.0, 1.0]]) + isinstance(likelihood, LogNormal)
    likelihood = likelihood.__class__(**likelihood.get_params()).prepare(3)
    likelihood.fit_scale(x)
    raw = (size * torch.randn(2, likelihood.n_values, generator=torch.Generator().manual_seed(0))).requires_grad_()
    loss = likelihood.nll(x, raw)
    loss.sum().backward()
    assert loss.isfinite().all()
    assert raw.grad.isfinite().all()


def test_large_counts_keep_their_precision_in_float32():
    x = torch.tensor([[2.0e6, 1.0]])
    single = NegativeBinomial(dispersion=50.0).prepare(2)
    single.fit_scale(x)
    double = started(NegativeBinomial(dispersion=50.0), x.double())
    raw = torch.tensor([[0.1, -0.3]])
    # Of gammas in single precision it would be off by a nat.
    assert float(single.nll(x, raw)) == pytest.approx(float(double.nll(x.double(), raw.double())), abs=0.02)


@pytest.mark.parametrize(
    ("likelihood", "distribution"),
    [
        (LogNormal(), stats.lognorm(1.0)),
        (StudentT(3.0, noise_scale=0.5), stats.t(3.0, 0.0, 0.5)),
        (Poisson(), stats.poisson(1.0)),
        (NegativeBinomial(dispersion=2.0), stats.nbinom(2.0, 2 / 3)),
        (Categorical(3), stats.randint(0, 3)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_draws_follow_the_density(likelihood, distribution):
    likelihood = likelihood.prepare(2).double()
    raw = torch.zeros(10_000, likelihood.n_values, dtype=torch.float64)
    torch.manual_seed(0)
    rows = likelihood.draw(raw, torch.Generator().manual_seed(0)).numpy(force=True)
    assert rows.shape == (10_000, 2)
    if hasattr(distribution.dist, "pdf"):
        assert stats.kstest(rows[:, 0], distribution.cdf).pvalue > 1e-3
        return
    values = np.arange(5)
    found = [(rows[:, 1] == value).mean() for value in values]
    # Five standard errors of a share.
    np.testing.assert_allclose(found, distribution.pmf(values), atol=0.025)
    assert abs(np.corrcoef(rows.T)[0, 1]) < 0.05


def test_student_noise_becomes_normal_and_bears_outliers():
    x, raw = torch.randn(50, 2, generator=torch.Generator().manual_seed(0)).double(), torch.zeros(50, 2).double()
    wide = StudentT(nu=1e7, noise_scale=0.6).prepare(2).double().nll(x, raw)
    torch.testing.assert_close(wide, Gaussian(noise_scale=0.6).prepare(2).double().nll(x, raw), rtol=1e-5, atol=1e-5)
    far = StudentT(nu=3.0, noise_scale=1.0).prepare(1).double()
    tenfold = far.nll(torch.tensor([[1e5], [1e6]]).double(), torch.zeros(2, 1).double()).diff()
    assert float(tenfold) == pytest.approx(4 * np.log(10.0), rel=1e-6)  # nu + 1 powers of the distance


def test_negative_binomial_becomes_poisson():
    wide = started(NegativeBinomial(dispersion=1e9)).each(ROWS, RAW)
    torch.testing.assert_close(wide, started(Poisson()).each(ROWS, RAW), rtol=1e-4, atol=1e-4)


# ------------------------------------------------------------------------------------- truths recovered


def latent(n=3000):
    return np.random.default_rng(1).normal(size=(n, 1))


def test_the_noise_of_each_feature_is_recovered():
    truth, t = np.array([0.05, 0.2, 0.8]), latent()
    X = np.hstack((t, -t, 2 * t)) + truth * np.random.default_rng(2).normal(size=(3000, 3))
    vae = BetaVAE(1, likelihood=Gaussian(per_feature=True), hidden_layer_sizes=(32,), random_state=0, lr=3e-3).fit(X)
    # The posterior's spread, which the decoder passes on, is no part of the noise of a feature that decides the code.
    np.testing.assert_allclose(vae.noise_scale_[1:], truth[1:], rtol=0.1)
    assert vae.noise_scale_[0] < 0.15


def test_outliers_do_not_bend_a_heavy_tail():
    x = torch.randn(2000, 1, generator=torch.Generator().manual_seed(0)).double()
    x[::10] += 50.0
    center = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    found = {}
    for likelihood in (StudentT(nu=2.0, noise_scale=1.0), Gaussian(noise_scale=1.0)):
        likelihood = likelihood.prepare(1).double()
        search = torch.optim.LBFGS([center], max_iter=50)

        def loss(search=search, likelihood=likelihood):
            search.zero_grad()
            value = likelihood.nll(x, center.expand(2000, 1)).mean()
            value.backward()
            return value

        search.step(loss)
        found[type(likelihood)] = float(center.detach())
    assert abs(found[StudentT]) < 0.15
    assert found[Gaussian] == pytest.approx(5.0, abs=0.1)


@pytest.mark.parametrize("likelihood", [Poisson(), NegativeBinomial()], ids=repr)
def test_rates_of_counts_are_recovered(likelihood):
    t, chance = latent(), np.random.default_rng(3)
    rate = np.hstack((np.exp(0.5 * t), 20 * np.exp(-0.5 * t), 5 * np.exp(t)))
    r = 1e6 if isinstance(likelihood, Poisson) else 4.0
    counts = chance.poisson(chance.gamma(r, rate / r))
    X = np.hstack((counts, t + 0.02 * chance.normal(size=t.shape)))  # a column that tells the code
    mixed = Mixed({**dict.fromkeys(range(3), likelihood), 3: Gaussian()})
    vae = BetaVAE(1, likelihood=mixed, hidden_layer_sizes=(32,), random_state=0, lr=3e-3).fit(X)
    found = vae.reconstruct(X)[:, :3]
    assert np.abs(np.log(found / rate)).mean() < 0.15
    if isinstance(likelihood, NegativeBinomial):
        dispersion = vae.module_.likelihood.parts[0].log_dispersion().exp().detach().numpy()
        assert dispersion == pytest.approx([4.0, 4.0, 4.0], rel=0.4)


def test_probabilities_of_categories_are_recovered():
    t = latent()
    logits = np.stack((0 * t, 2 * t, -2 * t), -1)  # (n, 1, 3)
    p = special.softmax(logits, -1)[:, 0]
    codes = (np.random.default_rng(4).random((3000, 1)) > p.cumsum(1)).sum(1)
    X = np.column_stack((codes, t + 0.05 * np.random.default_rng(5).normal(size=t.shape)))
    likelihood = Mixed({0: Categorical(3), 1: Gaussian()})
    vae = BetaVAE(1, likelihood=likelihood, hidden_layer_sizes=(32,), random_state=0, lr=3e-3).fit(X)
    raw = vae.module_.decoder(vae.module_.encode(torch.from_numpy(X).float()).mean).detach()
    part, own, _ = next(vae.module_.likelihood._raw_of_parts(raw))
    found = part.log_probabilities(own).exp()[..., 0].numpy()
    assert np.abs(found - p).mean() < 0.1  # of the shares alone it is .3


@pytest.mark.parametrize(
    ("likelihood", "value", "message"),
    [
        (Poisson(), -1.0, r"Poisson needs counts.*-1 in row 4, column 2"),
        (LogNormal(), -1.0, r"LogNormal needs numbers above 0; X holds 0 in row 0, column 0"),
        (NegativeBinomial(), 0.5, r"NegativeBinomial needs counts.*0\.5 in row 4"),
        (Poisson(), 3e7, "whole numbers from 0 to 16777216"),
        (Categorical(4), 4.0, r"codes, whole numbers from 0 to 3; X holds 4 in row 4, column 2"),
        (Categorical(4), 1.5, "Number the categories"),
    ],
)
def test_impossible_values_are_named(likelihood, value, message):
    X = np.zeros((10, 3))
    X[:, 0] = np.arange(10) % 2
    X[4, 2] = value
    with pytest.raises(ValueError, match=message):
        small(BetaVAE, likelihood=likelihood).fit(X)


@pytest.mark.parametrize(
    ("likelihood", "message"),
    [
        (Gaussian(0.5, per_feature=True), "Leave one of them out"),
        (StudentT(nu=0.0), "nu must be a finite number above 0"),
        (NegativeBinomial(dispersion=-1.0), "dispersion must be"),
        (Categorical(0), "categories must be a number of categories"),
        (Categorical(["a", "a"]), "each once"),
        (Categorical(["a", None]), "Missing values are no category"),
        (Categorical("ab"), "categories must be"),
    ],
)
def test_bad_parameters_are_told_before_training(likelihood, message):
    with pytest.raises((TypeError, ValueError), match=message):
        small(BetaVAE, likelihood=likelihood).fit(np.zeros((10, 3)))
