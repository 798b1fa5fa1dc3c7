"""Tails of whole samples, the scorer, and the distances between samples."""

import math
import pickle

import numpy as np
import pytest
import torch
from helpers import small
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.stats import multivariate_normal
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from riskvae import RiskAwareVAE, risk
from riskvae.metrics import (
    kernel_mmd,
    mixture_log_likelihood,
    nearest_neighbor_two_sample,
    row_losses,
    tail_curve,
    tail_loss_scorer,
    tail_mean,
)

samples = hnp.arrays(np.float64, st.integers(1, 40), elements=st.floats(-100, 100))
tails = st.sampled_from(["worst", "best"])


# ---------------------------------------------------------------------------------------------- tails


@given(samples, st.lists(st.floats(1e-3, 1.0), min_size=1, max_size=5), tails)
def test_curve_and_mean_are_the_risk_of_the_whole_sample(losses, shares, tail):
    found_shares, means = tail_curve(losses, shares, tail=tail)
    assert found_shares.tolist() == shares
    for share, mean in zip(shares, means, strict=True):
        exact = float(risk.cvar(torch.from_numpy(losses), share, tail=tail))
        assert mean == pytest.approx(exact, abs=1e-9)
        assert tail_mean(losses, share, tail=tail) == exact


@given(samples, tails)
def test_curve_ends_at_the_mean_and_falls_from_the_extreme(losses, tail):
    shares, means = tail_curve(losses, tail=tail)
    assert len(shares) == 100
    assert shares[-1] == 1.0
    assert means[-1] == pytest.approx(losses.mean(), abs=1e-9)
    direction = means if tail == "best" else -means
    assert (np.diff(direction) >= -1e-9).all()
    if len(losses) <= 100:
        assert means[0] == pytest.approx(losses.max() if tail == "worst" else losses.min(), abs=1e-9)


def test_float32_losses_are_averaged_in_float64():
    losses = np.full(10_000_000, 0.1, dtype=np.float32)
    assert tail_mean(losses, 0.5) == pytest.approx(float(np.float32(0.1)), rel=1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: tail_mean([], 0.5), r"at least one; got shape \(0,\)"),
        (lambda: tail_mean([[1.0]], 0.5), r"one loss per row.*got shape \(1, 1\)"),
        (lambda: tail_mean([1.0], 0.0), r"eps must be in \(0, 1\]"),
        (lambda: tail_curve([1.0], [0.0, 0.5]), r"shares must be a sequence of numbers in \(0, 1\]"),
        (lambda: tail_curve([1.0], tail="left"), "tail must be 'worst' or 'best'"),
        (lambda: tail_loss_scorer(2.0), r"eps must be in \(0, 1\]"),
        (lambda: tail_loss_scorer(0.1, "left"), "tail must be 'worst' or 'best'"),
        (
            lambda: tail_loss_scorer(0.1, loss="mse"),
            "loss must be one of 'squared_error', 'rec",
        ),
    ],
)
def test_bad_tails(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_not_a_number_is_never_dropped():
    assert math.isnan(tail_mean([1.0, math.nan], 0.5))
    assert np.isnan(tail_curve([1.0, math.nan, 2.0], [0.1, 1.0])[1]).all()
    assert np.isnan(tail_curve([1.0, math.nan, 2.0], [0.1, 1.0], tail="best")[1]).all()


# --------------------------------------------------------------------------------------------- scorer


def test_row_losses_are_what_they_say(X, vae):
    np.testing.assert_allclose(row_losses(vae, X), ((X - vae.reconstruct(X)) ** 2).mean(1))
    np.testing.assert_array_equal(row_losses(vae, X, "reconstruction"), vae.reconstruction_loss(X))
    np.testing.assert_array_equal(row_losses(vae, X, "evidence"), -vae.score_samples(X))


@pytest.mark.parametrize("loss", ["squared_error", "reconstruction", "evidence"])
def test_of_a_pipeline_the_autoencoder_is_judged_in_its_units(X, vae, loss):
    pipe = make_pipeline(StandardScaler(), small(RiskAwareVAE)).fit(X)
    expected = row_losses(pipe[-1], pipe[:-1].transform(X), loss)
    np.testing.assert_array_equal(row_losses(pipe, X, loss), expected)
    np.testing.assert_array_equal(row_losses(make_pipeline(vae), X, loss), row_losses(vae, X, loss))
    classified = make_pipeline(StandardScaler(), small(RiskAwareVAE), LogisticRegression()).fit(X, X[:, 0] > 0.5)
    np.testing.assert_array_equal(row_losses(classified, X, loss), expected)
    reduced = make_pipeline(StandardScaler(), PCA(2)).fit(X)
    if loss == "squared_error":
        assert row_losses(reduced, X).shape == (300,)


@pytest.mark.parametrize("tail", ["worst", "best"])
def test_scorer_is_minus_the_tail_and_pickles(X, vae, tail):
    scorer = tail_loss_scorer(0.1, tail)
    assert scorer(vae, X) == -tail_mean(row_losses(vae, X), 0.1, tail=tail)
    assert pickle.loads(pickle.dumps(scorer)) == scorer
    assert scorer(PCA(5).fit(X), X) > scorer(PCA(1).fit(X), X)


def test_scorer_in_searches(X):
    grid = {"riskawarevae__eps": [0.2, 1.0], "riskawarevae__measure": ["cvar", risk.SmoothedCVaR(smoothing=1.0)]}
    pipe = make_pipeline(StandardScaler(), small(RiskAwareVAE))
    search = GridSearchCV(pipe, grid, scoring=tail_loss_scorer(0.1), cv=2, n_jobs=2, error_score="raise").fit(X)
    assert search.best_score_ < 0
    assert len(cross_val_score(small(RiskAwareVAE), X, scoring=tail_loss_scorer(0.1, loss="evidence"), cv=3)) == 3


def test_scorer_needs_an_autoencoder(X):
    classifier = make_pipeline(PCA(2), LogisticRegression()).fit(X, X[:, 0] > 0.5)
    with pytest.raises(
        TypeError, match=r"needs an estimator with reconstruct or .*got LogisticRegression.*here there is none"
    ):
        tail_loss_scorer(0.1)(classifier, X)


# ------------------------------------------------------------------------------------------ two samples


def normal(seed, n=100, d=3, shift=0.0):
    return np.random.default_rng(seed).normal(shift, 1.0, size=(n, d))


def test_neighbors_by_brute_force_leave_the_row_itself_out():
    X, Y = normal(0, 20), normal(1, 30)
    X[:3] = X[3]  # rows that equal others
    both, labels = np.concatenate((X, Y)), np.repeat([0, 1], [20, 30])
    distances = ((both[:, None] - both[None]) ** 2).sum(-1)
    np.fill_diagonal(distances, np.inf)
    expected = np.mean(labels == labels[distances.argmin(1)])
    assert nearest_neighbor_two_sample(X, Y, n_permutations=0).statistic == pytest.approx(expected)
    assert math.isnan(nearest_neighbor_two_sample(X, Y, n_permutations=0).pvalue)


def test_copies_give_an_accuracy_of_zero():
    X = normal(0)
    assert nearest_neighbor_two_sample(X, X + 1e-9).statistic == 0.0


def test_mmd_is_its_definition():
    X, Y = normal(0, 15), normal(1, 20, shift=0.5)
    k = lambda a, b: rbf_kernel(a, b, gamma=0.3)  # noqa: E731
    xx, yy, xy = k(X, X), k(Y, Y), k(X, Y)
    np.fill_diagonal(xx, 0)
    np.fill_diagonal(yy, 0)
    expected = xx.sum() / (15 * 14) + yy.sum() / (20 * 19) - 2 * xy.mean()
    assert kernel_mmd(X, Y, gamma=0.3).statistic == pytest.approx(expected, abs=1e-12)
    assert kernel_mmd(X, Y, gamma=0.3).statistic == pytest.approx(kernel_mmd(Y, X, gamma=0.3).statistic, abs=1e-12)
    linear = np.square(X.mean(0) - Y.mean(0)).sum() - X.var(0, ddof=1).sum() / 15 - Y.var(0, ddof=1).sum() / 20
    assert kernel_mmd(X, Y, kernel="linear").statistic == pytest.approx(linear, abs=1e-12)


def test_mmd_has_no_bias():
    """Mean over 300 pairs of equal samples: zero within five standard errors, an error rate of 6e-7."""
    found = np.array([kernel_mmd(normal(2 * i, 20), normal(2 * i + 1, 20), gamma=0.2).statistic for i in range(300)])
    assert abs(found.mean()) < 5 * found.std() / 300**0.5
    assert found.min() < 0


def counts(seed, n=100):
    """Rows of few distinct values: most distances are tied."""
    return np.random.default_rng(seed).integers(0, 8, size=(n, 1))


@pytest.mark.parametrize("sample", [normal, counts])
@pytest.mark.parametrize("test", [nearest_neighbor_two_sample, kernel_mmd])
def test_pvalues_have_their_level(test, sample):
    """At level .1 over 200 null pairs of 40 and 20 rows: above 38 with a probability of 1e-4 if the level holds."""
    pvalues = np.array([
        test(sample(2 * i, 40), sample(2 * i + 1, 20), n_permutations=49, random_state=i).pvalue for i in range(200)
    ])  # fmt: skip
    assert 1 <= (pvalues <= 0.1).sum() <= 38


def test_neighbors_tell_tied_samples_apart_in_either_order():
    rng = np.random.default_rng(0)
    X, Y = rng.random((200, 1)) < 0.1, rng.random((200, 1)) < 0.9
    for first, second in ((X, Y), (Y, X)):
        found = nearest_neighbor_two_sample(first, second, random_state=0)
        assert found.statistic == pytest.approx(0.82, abs=0.08)  # .9 ** 2 + .1 ** 2
        assert found.pvalue == 0.001


@pytest.mark.parametrize("test", [nearest_neighbor_two_sample, kernel_mmd])
def test_pvalues_find_a_difference(test):
    assert test(normal(0), normal(1, shift=1.0), n_permutations=199, random_state=0).pvalue == 1 / 200
    assert test(normal(0), normal(1), n_permutations=9, random_state=3) == test(
        normal(0), normal(1), n_permutations=9, random_state=3
    )


def test_constant_rows_have_a_kernel_width():
    assert kernel_mmd(np.ones((5, 2)), np.ones((5, 2))).statistic == pytest.approx(0.0, abs=1e-12)


def test_mixture_of_one_is_a_normal_density():
    real, rows = normal(0, 500), normal(1, 10)
    cov = np.diag(real.var(0) + 1e-3)
    expected = multivariate_normal(real.mean(0), cov).logpdf(rows)
    np.testing.assert_allclose(mixture_log_likelihood(real, rows, n_components=1), expected, rtol=1e-6)


def test_mixture_prefers_real_digits():
    X = load_digits().data / 16
    real = mixture_log_likelihood(X[:1000], X[1000:], random_state=0)
    noise = mixture_log_likelihood(X[:1000], np.random.default_rng(0).permuted(X[1000:], axis=1), random_state=0)
    assert real.shape == (797,)
    assert np.mean(real > np.quantile(noise, 0.95)) > 0.95


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: kernel_mmd(normal(0), normal(0, d=2)), "same features; got 3 and 2"),
        (lambda: kernel_mmd(normal(0), normal(0, n=1)), "at least two rows each"),
        (lambda: nearest_neighbor_two_sample(normal(0), [[math.nan] * 3]), "Y contains NaN"),
        (
            lambda: kernel_mmd(normal(0), normal(1), n_permutations=-1),
            "n_permutations must be an integer",
        ),
        (
            lambda: nearest_neighbor_two_sample(normal(0), normal(1), n_permutations=9.5),
            "n_permutations must be an int",
        ),
        (lambda: kernel_mmd(normal(0), normal(1), gamma=-1.0), "gamma must be None or, .* a number above 0; got -1"),
        (lambda: kernel_mmd(normal(0), normal(1), kernel="linear", gamma=1.0), "for kernel='rbf'.*with 'linear'"),
    ],
)
def test_bad_samples(call, message):
    with pytest.raises(ValueError, match=message):
        call()
