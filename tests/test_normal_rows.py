"""The normal distribution that stands beside a model where values are missing: its formulas, its weight, its spread."""

import copy

import numpy as np
import pytest
import torch
from helpers import small
from sklearn.datasets import load_breast_cancer

from riskvae import BetaVAE, QuantileVAE
from riskvae.likelihoods import Gaussian, Quantiles
from riskvae.training._normal_rows import NormalRows

LOADINGS = np.random.default_rng(0).normal(size=(2, 5))
CENTER = np.array([0.0, 3.0, -100.0, 0.001, 5.0])
UNIT = np.array([1.0, 1e3, 1.0, 1e-4, 1.0])
COVARIANCE = (LOADINGS.T @ LOADINGS + 0.09 * np.eye(5)) * UNIT * UNIT[:, None]


def table(n, share=0.3, seed=0):
    """Rows of a known normal distribution in unlike units, whole and with holes."""
    rng = np.random.default_rng(seed)
    X = rng.multivariate_normal(CENTER, COVARIANCE, size=n)
    missing = rng.random(X.shape) < share
    missing[missing.all(1), 0] = False
    return X, np.where(missing, np.nan, X)


def fitted(n=4000):
    normal = NormalRows(5).double()
    normal.fit(torch.tensor(table(n)[1]))
    return normal


def test_conditional_rows_are_those_of_the_formula():
    normal = NormalRows(5).double()
    for name, value in {"center": CENTER, "unit": UNIT, "covariance": COVARIANCE / UNIT / UNIT[:, None]}.items():
        getattr(normal, name).copy_(torch.tensor(value))
    _, rows = table(50, 0.5, seed=3)
    rows[0] = np.nan
    mean, rest = (part.numpy() for part in normal.conditional(torch.tensor(rows)))
    for row, found, cov in zip(rows, mean, rest, strict=True):
        m = np.isnan(row)
        gain = COVARIANCE[np.ix_(m, ~m)] @ np.linalg.inv(COVARIANCE[np.ix_(~m, ~m)])
        np.testing.assert_array_equal(found[~m], row[~m])
        np.testing.assert_allclose((found - CENTER)[m] / UNIT[m], gain @ (row - CENTER)[~m] / UNIT[m], atol=1e-8)
        expected = COVARIANCE[np.ix_(m, m)] - gain @ COVARIANCE[np.ix_(~m, m)]
        np.testing.assert_allclose(cov[np.ix_(m, m)], expected / UNIT[m] / UNIT[m][:, None], atol=1e-8)
        assert not cov[~m].any()
        assert not cov[:, ~m].any()


def test_a_fit_finds_the_distribution_whatever_the_units():
    """Of 4,000 rows with 30 % missing: means within .06 and covariances within .15, in standard deviations."""
    normal, scale = fitted(), np.sqrt(np.diag(COVARIANCE))
    assert np.abs((normal.center.numpy() - CENTER) / scale).max() < 0.06
    found = normal.covariance.numpy() * np.multiply.outer(normal.unit.numpy(), normal.unit.numpy())
    assert np.abs((found - COVARIANCE) / np.multiply.outer(scale, scale)).max() < 0.15
    assert normal.sound()


def answers(normal, error, sure):
    """Answers of the distribution itself, but for an error in standard deviations and how sure they are."""
    scale, chance = torch.tensor(np.sqrt(np.diag(COVARIANCE))), torch.Generator().manual_seed(5)

    def answer(given):
        own, rest = normal.conditional(given)
        noise = error * scale * torch.randn(given.shape, generator=chance, dtype=torch.float64)
        return own + noise, rest.diagonal(dim1=1, dim2=2).sqrt() * normal.unit / sure

    return answer


def test_a_useless_answer_counts_for_nothing():
    normal = fitted()
    normal.weigh(torch.tensor(table(500, seed=1)[1]), answers(normal, error=3.0, sure=1.0))
    assert float(normal.weight) == 0.0
    assert np.abs(normal.stretch.numpy() - 1.0).max() < 0.15  # 150 values of each feature


def test_an_answer_without_errors_counts_alone():
    normal = fitted()
    X, rows = table(500, seed=1)

    def answer(given):
        found = given.clone()
        for i, row in enumerate(given.numpy()):
            known = ~np.isnan(row)
            here = np.flatnonzero((X[:, known] == row[known]).all(1))[0]
            found[i] = torch.tensor(X[here])
        return found, torch.tensor(1e-3 * UNIT).expand(found.shape)

    normal.weigh(torch.tensor(rows), answer)
    assert float(normal.weight) == 1.0


def test_ranges_are_stretched_to_what_errors_were():
    """A model that answers as the distribution does, and is twice as sure: with it alone the stretch would be 2."""
    normal = fitted()
    normal.weigh(torch.tensor(table(2000, seed=1)[1]), answers(normal, error=0.0, sure=2.0))
    w = float(normal.weight)
    expected = 1.0 / np.sqrt(w / 4 + (1 - w))
    np.testing.assert_allclose(normal.stretch.numpy(), expected, rtol=0.1)


def test_nothing_to_hide_leaves_all_as_it_was():
    normal = fitted()
    alone = torch.full((3, 5), torch.nan, dtype=torch.float64)
    alone[:, 1] = 3.0
    normal.weigh(alone, answers(normal, error=3.0, sure=1.0))
    assert float(normal.weight) == 0.5
    assert (normal.stretch == 1).all()


def test_both_together_err_less_and_know_how_much():
    """Breast cancer, 30 % missing: errors 5 % smaller than the model's own, and 90 % ranges that hold 85 to 95 %."""
    X = load_breast_cancer().data
    X = (X - X.mean(0)) / X.std(0)
    missing = np.random.default_rng(0).random(X.shape) < 0.3
    rows = np.where(missing, np.nan, X).astype(np.float32)
    vae = BetaVAE(hidden_layer_sizes=(128,), lr=3e-3, random_state=0).fit(rows)
    alone = copy.deepcopy(vae)
    alone.module_.normal = None
    errors = [np.sqrt(np.square(model.impute(rows) - X)[missing].mean()) for model in (vae, alone)]
    assert errors[0] < 0.95 * errors[1]
    low, high = np.quantile(vae.impute(rows, n_draws=99, random_state=0), (0.05, 0.95), axis=0, method="weibull")
    assert ((low <= X) & (high >= X))[missing].mean() == pytest.approx(0.9, abs=0.05)


@pytest.mark.parametrize(
    "parameters",
    [{"likelihood": "bernoulli"}, {"output_activation": "sigmoid"}, {"likelihood": Gaussian(sigmoid=True)}],
    ids=str,
)
def test_it_stands_beside_models_of_unbounded_values_alone(parameters):
    rows = np.random.default_rng(0).random((60, 4))
    rows[::3, 1] = np.nan
    vae = small(BetaVAE, **parameters).fit(rows)
    assert vae.module_.normal is None
    filled = vae.impute(rows)
    assert (filled > 0).all()
    assert (filled < 1).all()


def test_wide_rows_and_single_quantiles_go_without():
    rows = np.random.default_rng(0).normal(size=(30, NormalRows.WIDEST + 1))
    rows[::3, 1] = np.nan
    for model in (small(BetaVAE).fit(rows), small(QuantileVAE, quantiles=(0.5,)).fit(rows[:, :4])):
        assert model.module_.normal is None
        assert np.isfinite(model.impute(rows[:, : model.n_features_in_])).all()
    assert small(BetaVAE).fit(rows[:, 2:6]).module_.normal is None  # whole ones
    assert Quantiles((0.2, 0.8)).prepare(3).beside_normal


def test_unsound_numbers_are_known():
    normal = fitted(200)
    for name, value in (("weight", 1.5), ("stretch", -1.0), ("unit", 0.0), ("covariance", 2.0), ("center", torch.nan)):
        other = copy.deepcopy(normal)
        getattr(other, name).fill_(value)
        assert not other.sound(), name
