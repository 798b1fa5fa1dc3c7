"""QuantileVAE: quantiles that cannot cross, what they say of each value, and the density behind the score."""

import copy
import pickle
import warnings

import numpy as np
import pytest
import torch
from helpers import set_up, small
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning

from riskvae import QuantileVAE
from riskvae.detection._density import RowDensity
from riskvae.detection._parts import row_keys
from riskvae.estimators._quantile_answers import Judged
from riskvae.likelihoods import Quantiles

LEVELS = (0.05, 0.2, 0.5, 0.85)


@pytest.fixture(scope="module")
def vae(X):
    return small(QuantileVAE, quantiles=LEVELS, max_epochs=300, lr=5e-3).fit(X)


# ----------------------------------------------------------------------------------------- quantiles

levels = st.lists(st.integers(1, 99), min_size=1, max_size=6, unique=True).map(lambda a: sorted(x / 100 for x in a))


@given(levels, st.data())
def test_quantiles_never_cross_whatever_the_decoder_gives(levels, data):
    raw = data.draw(arrays(np.float32, (3, 2 * len(levels)), elements=st.floats(-1e4, 1e4, width=32)))
    likelihood = set_up(Quantiles(levels), 2)
    likelihood.fit_scale(torch.tensor([[0.0, -3.0], [1e-3, 40.0]]))
    quantiles = likelihood.quantiles(torch.tensor(raw))
    assert quantiles.shape == (3, 2, len(levels))
    assert (quantiles.diff(dim=-1) >= 0).all()


@given(levels)
def test_an_untrained_decoder_predicts_normal_features(levels):
    x = torch.tensor(np.random.default_rng(0).normal([1.0, -5.0], [0.1, 20.0], size=(50, 2)))
    likelihood = set_up(Quantiles(levels), 2).double()
    likelihood.fit_scale(x)
    expected = stats.norm(x.mean(0)[:, None], x.std(0, correction=0)[:, None]).ppf(levels)
    np.testing.assert_allclose(likelihood.quantiles(torch.zeros(1, 2 * len(levels)).double())[0], expected, rtol=1e-6)
    if len(levels) > 1:
        np.testing.assert_allclose(likelihood.mean(torch.zeros(1, 2 * len(levels)).double())[0], x.mean(0), atol=1e-6)


def test_the_decoder_gives_rows_level_by_level():
    likelihood = set_up(Quantiles((0.3, 0.5, 0.7)), 3)
    raw = torch.zeros(1, 9)
    raw[0, 3 + 1] = 2.0  # the median of feature 1
    moved = likelihood.quantiles(raw) - likelihood.quantiles(torch.zeros(1, 9))
    torch.testing.assert_close(moved[0], torch.tensor([[0.0] * 3, [2.0] * 3, [0.0] * 3]))
    raw = torch.zeros(1, 9)
    raw[0, 6 + 2] = 2.0  # the step up of feature 2
    moved = likelihood.quantiles(raw) - likelihood.quantiles(torch.zeros(1, 9))
    assert moved[0, 2, 2] > 0
    assert moved.count_nonzero() == 1


def test_the_learned_scale_goes_a_tenth_of_the_way_to_the_mean_pinball():
    likelihood = set_up(Quantiles(LEVELS), 3).double()
    x = torch.randn(40, 3, generator=torch.Generator().manual_seed(0)).double()
    raw = torch.zeros(1, 40, 12).double()
    error = x[..., None] - likelihood.quantiles(raw[0])
    a = torch.tensor(LEVELS, dtype=torch.float64)
    best = torch.maximum(a * error, (a - 1) * error).mean().log().item()
    for _ in range(3):
        gap = best - likelihood.log_scale.item()
        likelihood.update_scale(likelihood.nll(x, raw).mean())
        assert best - likelihood.log_scale.item() == pytest.approx(0.9 * gap, abs=1e-9)


def test_the_scale_starts_where_marginal_quantiles_would_put_it():
    x = torch.randn(200_000, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 5.0])
    likelihood = set_up(Quantiles(LEVELS), 2)
    likelihood.fit_scale(x)
    before = likelihood.log_scale.item()
    likelihood.update_scale(likelihood.nll(x, torch.zeros(len(x), 8)).mean())
    assert likelihood.log_scale.item() == pytest.approx(before, abs=1e-3)
    assert likelihood.excess() == pytest.approx(1.0, abs=0.01)


def test_trained_quantiles_hold_their_shares(X, vae):
    below = (X[..., None] < vae.predict_quantiles(X)).mean((0, 1))
    # 300 rows on which the model was trained, six correlated features: no standard error is known. Over 24 seeds the
    # largest deviation was .034 to .081: quantiles carry what the latent draws add, and so lie too far out.
    np.testing.assert_allclose(below, LEVELS, atol=0.1)
    assert (np.diff(vae.predict_quantiles(X), axis=-1) >= 0).all()


def test_the_median_is_the_reconstruction(X, vae):
    np.testing.assert_allclose(vae.predict_quantiles(X)[..., 2], vae.reconstruct(X), rtol=1e-12)
    q = small(QuantileVAE, quantiles=(0.1, 0.9)).fit(X)
    np.testing.assert_allclose(q.predict_quantiles(X).mean(-1), q.reconstruct(X), rtol=1e-6)
    one = small(QuantileVAE, quantiles=(0.8,)).fit(X)
    np.testing.assert_array_equal(one.predict_quantiles(X)[..., 0], one.reconstruct(X))


def test_reconstruction_loss_is_the_asymmetric_laplace_one(X, vae):
    a, s = np.array(LEVELS), vae.noise_scale_
    error = X[..., None] - vae.predict_quantiles(X)
    nats = np.maximum(a * error, (a - 1) * error) / s - np.log(a * (1 - a) / s)
    np.testing.assert_allclose(vae.reconstruction_loss(X), nats.mean(-1).sum(-1), rtol=1e-5)


def test_samples_have_the_quantiles_of_the_decoder(X, vae):
    """Noise of one latent point: the share below each quantile is its level."""
    z = np.zeros((40_000, 2))
    raw = vae.module_.double().decoder(torch.zeros(1, 2).double())
    quantiles = vae.module_.likelihood.quantiles(raw).detach().numpy()
    generator = torch.Generator().manual_seed(0)
    drawn = vae.module_.likelihood.draw(raw.expand(len(z), -1), generator).detach().numpy()
    vae.module_.float()
    share = (drawn[..., None] < quantiles).mean(0)
    # Five standard errors of a share of 40,000: .0125. Six features, four levels: fails once in 70,000 seeds.
    np.testing.assert_allclose(share, np.broadcast_to(LEVELS, share.shape), atol=0.0125)
    assert vae.sample(3, observation_noise=True).shape == (3, 6)
    with pytest.raises(ValueError, match="say nothing about how rows spread"):
        small(QuantileVAE, quantiles=(0.5,)).fit(X).sample(3, observation_noise=True)


def test_a_convolutional_decoder_gives_a_channel_per_level():
    from functools import partial

    from riskvae.nets import conv_decoder, conv_encoder

    X = np.random.default_rng(0).uniform(size=(40, 64))
    decoder = partial(conv_decoder, image_shape=(3, 8, 8))
    vae = small(QuantileVAE, encoder=conv_encoder, decoder=decoder).fit(X)
    assert vae.predict_quantiles(X).shape == (40, 64, 3)
    with pytest.raises(ValueError, match=r"\(n, 192\), 3 quantiles per feature"):
        small(QuantileVAE, decoder=lambda n_in, n_out: torch.nn.Linear(n_in, 64)).fit(X)


# ------------------------------------------------------------------------------- what values deserve


def test_scales_are_those_of_the_outermost_levels(X, vae):
    quantiles = vae.predict_quantiles(X)
    sd = (quantiles[..., 3] - quantiles[..., 0]) / (stats.norm.ppf(0.85) - stats.norm.ppf(0.05))
    least = 0.1 * vae._row_score.noise.error_scale.numpy()
    assert (sd > least).mean() > 0.99
    np.testing.assert_allclose(vae.predict_scale(X), np.maximum(sd, least), rtol=1e-9)
    far = 1e3 * X  # where the decoder extrapolates its quantiles may collapse
    assert (vae.predict_scale(far) >= least * (1 - 1e-6)).all()


def test_z_scores_invert_the_decoded_quantiles(X, vae):
    """Between levels and beyond: values at some normal scores have these for z-scores."""
    rows = X[:50]
    likelihood, quantiles = vae.module_.likelihood, torch.tensor(vae.predict_quantiles(rows))
    for score in (-4.0, -1.7, -0.3, 0.0, 0.4, 1.03, 3.0):
        x = likelihood.at(quantiles, torch.tensor(score, dtype=torch.float64))
        np.testing.assert_allclose(likelihood.normal_score(x, quantiles), score, atol=1e-9)
    x = likelihood.at(quantiles, torch.tensor(0.4, dtype=torch.float64)).numpy()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vae, "_judged", lambda rows, left_out: Judged(rows, None, quantiles.numpy()))
        np.testing.assert_allclose(vae.z_scores(x), 0.4, atol=1e-6)


def test_z_scores_keep_the_skew_of_the_noise():
    """Exponential noise, true quantiles: P(p <= .001) is .032 by one symmetric scale, .011 by inversion."""
    noise = np.random.default_rng(0).exponential(size=(1, 200_000))
    likelihood = Quantiles((0.15, 0.5, 0.85)).prepare(1)
    q = torch.tensor(stats.expon.ppf([0.15, 0.5, 0.85])).expand(noise.shape[1], 1, 3)
    z = likelihood.normal_score(torch.tensor(noise.T), q).numpy()
    symmetric = (noise.T - stats.expon.ppf(0.5)) / likelihood.scales(q).numpy()
    p, p_symmetric = (2 * stats.norm.sf(np.abs(each)) for each in (z, symmetric))
    # By hand: beyond the upper level the slope between the median and that goes on.
    expected = stats.expon.sf(1.8971 + (stats.norm.isf(0.0005) - 1.0364) * (1.8971 - 0.6931) / 1.0364)
    assert (p <= 0.001).mean() == pytest.approx(expected, abs=0.001)
    assert (p_symmetric <= 0.001).mean() > 2.5 * expected


def test_p_values_are_uniform_under_the_model(X, vae, monkeypatch):
    """Rows of the model itself: drawn from the quantiles of their latent points."""
    rng = np.random.default_rng(0)
    rows = np.repeat(X[:50], 400, axis=0)
    quantiles = vae.predict_quantiles(rows)
    scores = torch.tensor(rng.normal(size=rows.shape))
    drawn = vae.module_.likelihood.at(torch.tensor(quantiles), scores).numpy()
    monkeypatch.setattr(vae, "_judged", lambda rows, left_out: Judged(rows, None, quantiles))
    for alternative in ("two-sided", "greater", "less"):
        p = vae.p_values(drawn, alternative=alternative)
        # Kolmogorov-Smirnov at 1e-4, three alternatives: fails once in 3,300 seeds.
        assert stats.kstest(p.ravel(), "uniform").pvalue > 1e-4
    greater, less = (vae.p_values(drawn, alternative=name) for name in ("greater", "less"))
    np.testing.assert_allclose(greater + less, 1.0)
    np.testing.assert_allclose(vae.p_values(drawn), 2 * np.minimum(greater, less))


def test_masks(X, vae):
    columns = np.array([True, False, True, True, False, True])
    p = vae.p_values(X, mask=columns)
    np.testing.assert_array_equal(np.isnan(p), np.broadcast_to(~columns, p.shape))
    np.testing.assert_array_equal(p[:, columns], vae.p_values(X)[:, columns])
    pixels = np.random.default_rng(0).uniform(size=X.shape) < 0.3
    pixels[0] = False
    rows = X + np.array([5.0, 0, 0, 0, 0, 0])
    found = vae.detect_features(rows, mask=pixels)
    assert not found[~pixels].any()
    assert found[pixels[:, 0], 0].all()
    for bad in (columns[:3], np.ones(6), pixels.T, "all"):
        with pytest.raises(ValueError, match=r"mask must be of dtype bool and of shape \(n_features,\) = \(6,\)"):
            vae.p_values(X, mask=bad)


def test_discoveries_within_rows_are_those_of_benjamini_and_hochberg(X, vae):
    p = np.sort(vae.p_values(X), axis=1)
    least = np.arange(1, 7) * 0.3 / 6
    count = np.where(p <= least, np.arange(1, 7), 0).max(1)
    assert 0 < count.mean() < 6
    np.testing.assert_array_equal(vae.detect_features(X, fdr=0.3).sum(1), count)


# ----------------------------------------------------------------------------------------- the score


def test_the_first_verdict_is_an_evidence_bound_of_the_fitted_density(X):
    """By hand in NumPy, and below the log-likelihood that importance sampling estimates."""
    vae = small(QuantileVAE, max_epochs=40, n_score_samples=2000).fit(X)
    noise = vae._row_score.noise
    noise.own.zero_()
    rows, d = X[:10], X.shape[1]
    mean, scale = vae.encode(rows)
    z = mean + scale * np.random.default_rng(0).normal(size=(2000, 1, 2))
    error = rows - vae.inverse_transform(z.reshape(-1, 2)).reshape(2000, 10, d)
    known = stats.norm(0, noise.error_scale.numpy()).logpdf(error) + np.log(300 / 301)
    anything = stats.norm(0, noise.broad.numpy()).logpdf(error) - np.log(301)
    prior = vae.encode(X)
    parts = stats.norm(prior.mean, prior.scale).logpdf(z[:, :, None]).sum(-1)
    log_prior = np.logaddexp.reduce(parts, axis=-1) - np.log(len(X))
    log_ratio = np.logaddexp(known, anything).sum(-1) + log_prior - stats.norm(mean, scale).logpdf(z).sum(-1)
    bound = vae._score_parts(rows)[:, 0]
    np.testing.assert_allclose(bound, log_ratio.mean(0), atol=0.1)
    assert (bound < np.logaddexp.reduce(log_ratio, axis=0) - np.log(2000) + 0.1).all()
    assert vae.score(rows) == pytest.approx(vae.score_samples(rows).mean())


def test_the_score_is_the_least_favorable_verdict(X):
    vae = small(QuantileVAE, max_epochs=20).fit(X)
    verdicts, score = vae._score_parts(X), vae._row_score
    assert verdicts.shape == (300, 3)
    middle, slope = score.middle.double().numpy(), score.slope.double().numpy()
    aligned = middle[0] + slope * (verdicts - middle)
    np.testing.assert_allclose(vae.score_samples(X), aligned.min(1), rtol=1e-5)
    assert (np.bincount(aligned.argmin(1), minlength=3) > 1).all()  # each has a say
    assert slope[0] == 1


def test_the_young_model_is_that_of_a_fifth_of_the_training(X):
    vae = small(QuantileVAE, max_epochs=20).fit(X)
    young, early = vae._scoring()["module"][2], small(QuantileVAE, max_epochs=4).fit(X)
    for a, b in zip(young.parameters(), early.module_.parameters(), strict=True):
        assert torch.equal(a, b)
    assert vae.n_iter_ == 20
    again = pickle.loads(pickle.dumps(vae))
    np.testing.assert_array_equal(again.score_samples(X), vae.score_samples(X))
    assert len(vae.partial_fit(X)._scoring()["module"]) == 2


def test_errors_are_those_of_rows_that_the_model_has_not_seen():
    """A decoder that memorizes 60 rows of noise knows them; new ones miss by as much as held-out ones did."""
    rng = np.random.default_rng(0)
    X, new = rng.normal(size=(60, 40)), rng.normal(size=(2000, 40))
    vae = QuantileVAE(10, hidden_layer_sizes=(128,), max_epochs=300, random_state=0)
    seen, unseen = (clone(vae).set_params(n_folds=k).fit(X)._row_score.noise.error_scale.numpy() for k in (0, 5))
    error = np.sqrt(np.square(new - clone(vae).fit(X).reconstruct(new)).mean(0))
    assert np.median(seen / error) < 0.8
    assert 0.85 < np.median(unseen / error) < 1.2


def test_the_aggregated_posterior_by_hand():
    rng = np.random.default_rng(0)
    density = RowDensity.__new__(RowDensity)
    torch.nn.Module.__init__(density)
    mean, scale = rng.normal(size=(30, 3)), rng.uniform(0.01, 2.0, size=(30, 3))
    density.prior_mean, density.prior_scale = torch.tensor(mean), torch.tensor(scale)
    z = rng.normal(size=(2, 7, 3))
    parts = stats.norm(mean, scale).logpdf(z[:, :, None]).sum(-1)
    expected = np.logaddexp.reduce(parts, axis=-1) - np.log(30) + 1.5 * np.log(2 * np.pi)
    # Shares of the largest part are summed in single precision.
    np.testing.assert_allclose(density.log_prior(torch.tensor(z)), expected, atol=3e-7)


def test_scores_do_not_hang_on_what_is_set_after_fit(X):
    vae = small(QuantileVAE, calibration_fraction=0.3).fit(X)
    before = vae.score_samples(X), vae.predict_scale(X), vae.predict_interval(X, 0.3), vae.conformal_p_values(X)
    vae.set_params(n_score_samples=64, quantiles=(0.01, 0.5, 0.99), contamination=0.4)
    after = vae.score_samples(X), vae.predict_scale(X), vae.predict_interval(X, 0.3), vae.conformal_p_values(X)
    for a, b in zip(before, after, strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(ValueError, match="beyond the trained ones, 0.15 to 0.85"):
        small(QuantileVAE).fit(X).set_params(quantiles=(0.01, 0.5, 0.99)).predict_interval(X, 0.1)


def test_a_failed_fit_leaves_scores_threshold_and_calibration(X):
    vae = small(QuantileVAE, calibration_fraction=0.3).fit(X)
    before = vae.score_samples(X), vae.conformal_p_values(X), vae.predict(X)
    with pytest.raises(ValueError, match="Training diverged"):
        vae.set_params(lr=1e30).fit(X)
    vae.set_params(warm_start=True, calibration_fraction=0.0)
    with pytest.raises(ValueError, match="Training diverged"):
        vae.fit(X)
    after = vae.score_samples(X), vae.conformal_p_values(X), vae.predict(X)
    for a, b in zip(before, after, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_fit_that_is_interrupted_after_training_leaves_the_model_as_it_was(X):
    def interrupt(self, vae, x, **options):
        raise KeyboardInterrupt

    vae, new = small(QuantileVAE).fit(X), small(QuantileVAE)
    before = vae.score_samples(X), vae.predict(X), vae.predict_scale(X)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RowDensity, "bounds", interrupt)
        for model in (vae.set_params(random_state=1), new):
            with pytest.raises(KeyboardInterrupt):
                model.fit(X)
    after = vae.score_samples(X), vae.predict(X), vae.predict_scale(X)
    for a, b in zip(before, after, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not hasattr(new, "_row_score")


def test_weights_are_stored_once(X):
    vae = small(QuantileVAE, hidden_layer_sizes=(300, 300)).fit(X)
    weights = sum(p.nbytes for p in vae.module_.parameters())
    # The optimizer holds them with two moments; the young model has its own.
    assert len(pickle.dumps(vae)) < 5.5 * weights


def test_the_density_is_of_a_sample_of_the_training_rows(X, monkeypatch):
    monkeypatch.setattr(RowDensity, "N_MIXED", 50)
    vae = small(QuantileVAE, calibration_fraction=0.5, max_epochs=20).fit(X)
    prior = vae._row_score.densities[0].prior_mean.numpy()
    assert prior.shape == (50, 2)
    kept = np.isin(row_keys(X.astype(np.float32)), vae._trained.keys)
    trained = vae.encode(X[kept].astype(np.float32)).mean
    distance = np.abs(prior[:, None] - trained).max(-1).min(1)
    assert distance.max() < 1e-5
    assert kept.sum() == 150


# ------------------------------------------------------------------------------------------ defaults


def test_automatic_sizes(X):
    vae = QuantileVAE(hidden_layer_sizes=(4,), max_epochs=1, random_state=0)
    assert vae.fit(X).transform(X).shape == (300, 6)
    assert vae.fit(np.random.default_rng(0).normal(size=(20, 70))).transform(np.zeros((1, 70))).shape == (1, 64)


def test_units_of_features(X):
    """Rows in any units train, or the message says what to do; scores stay finite."""
    for data in (X * 1e6, X * 10.0 ** np.arange(-3, 3), X * 1e-3, X + 1e3, np.vstack([X, 1e4 * X[:1]])):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.simplefilter("ignore", ConvergenceWarning)
            vae = small(QuantileVAE).fit(data)
        assert np.isfinite(vae.score_samples(data)).all()
        assert np.isfinite(vae.z_scores(data)).all()


@pytest.mark.parametrize(
    ("parameters", "error", "message"),
    [
        ({"quantiles": (0.5, 0.15)}, ValueError, r"quantiles must be .*increasing.*Did you mean \(0.15, 0.5\)"),
        ({"quantiles": (0.5, 0.5)}, ValueError, r"each once.*Did you mean \(0.5,\)"),
        ({"quantiles": (0.0, 0.5)}, ValueError, r"levels in \(0, 1\)"),
        ({"quantiles": (15, 50, 85)}, ValueError, r"levels in \(0, 1\).*Did you mean \(0.15, 0.5, 0.85\)"),
        ({"quantiles": ()}, ValueError, "quantiles must be"),
        ({"quantiles": 0.5}, TypeError, "quantiles must be a sequence"),
        ({"quantiles": ("a", "b")}, ValueError, "quantiles must be"),
        ({"contamination": 0.7}, ValueError, r"contamination must be .* \(0, 0.5\]"),
        ({"contamination": "Auto"}, ValueError, "Did you mean 'auto'"),
        ({"calibration_fraction": 1.0}, ValueError, r"calibration_fraction must be .cross., or a number in \[0, 1\)"),
        ({"calibration_fraction": 0.001}, ValueError, "sets 1 aside and leaves 299"),
        ({"n_components": "all"}, ValueError, "n_components must be 'auto'"),
        ({"max_epochs": 0}, ValueError, "max_epochs must be"),
    ],
)
def test_mistakes_in_parameters(X, parameters, error, message):
    with pytest.raises(error, match=message):
        QuantileVAE(**{"hidden_layer_sizes": (4,), "max_epochs": 1, **parameters}).fit(X)


def test_what_needs_a_spread_needs_two_levels(X):
    vae = small(QuantileVAE, quantiles=(0.5,)).fit(X)
    for method in (vae.predict_scale, vae.z_scores, vae.p_values, vae.detect_features):
        with pytest.raises(ValueError, match="needs the distance between quantiles"):
            method(X)
    with pytest.raises(ValueError, match="predict_interval needs the distance"):
        vae.predict_interval(X, 0.3)


def test_a_dataset_is_known_by_rows_from_all_of_it():
    """Two clusters in turn: the threshold must know both."""
    rng = np.random.default_rng(0)
    rows = np.concatenate((rng.normal(-3.0, 0.3, (1500, 3)), rng.normal(3.0, 0.3, (1500, 3)))).astype(np.float32)
    vae = small(QuantileVAE, max_epochs=20, lr=1e-2).fit(torch.utils.data.TensorDataset(torch.tensor(rows)))
    flagged = (vae.predict(rows) == -1).reshape(2, -1).mean(1)
    np.testing.assert_allclose(flagged, 0.05, atol=0.06)
    assert vae.n_iter_ == 20


def test_rows_that_were_seen_are_left_out_of_what_they_are_compared_with(X):
    """By hand: each row of the prior against the others, where there are no held-out rows."""
    vae = small(QuantileVAE, max_epochs=100, lr=5e-3, n_folds=0).fit(X)
    density, module = copy.deepcopy(vae._row_score.densities[0]).double(), copy.deepcopy(vae.module_).double()
    order = torch.cdist(density.prior_mean, module.encode(torch.tensor(X)).mean).argmin(1)
    x = torch.tensor(X)[order]
    with torch.no_grad():
        found = density.bounds(module, x, seen=True)
        for i in (0, 17, 299):
            others = copy.deepcopy(density)
            keep = torch.arange(300) != i
            others.prior_mean, others.prior_scale = density.prior_mean[keep], density.prior_scale[keep]
            assert found[i].item() == pytest.approx(others.bound(module, x[i : i + 1]).item(), rel=1e-9)
    # 5 % of the rows as if they were new are flagged, so fewer of them as they are.
    assert (vae.predict(X) == -1).mean() <= 0.05 + 1e-9


@pytest.mark.parametrize(("n", "d", "draws"), [(30, 5, 12), (30, 100, 8), (200, 20, 8), (1200, 5, 3)])
def test_the_default_threshold_flags_a_twentieth_of_new_rows(n, d, draws):
    """On average over tables; before, 99 % of new rows at 30 x 50. The standard error is about a hundredth."""
    flagged = []
    for seed in range(draws):
        rng = np.random.default_rng(seed)
        loadings = rng.normal(size=(5, d))
        X, new = (rng.normal(size=(m, 5)) @ loadings + rng.normal(size=(m, d)) for m in (n, 500))
        mean, sd = X.mean(0), X.std(0)
        vae = QuantileVAE(hidden_layer_sizes=(64, 32), random_state=seed).fit((X - mean) / sd)
        flagged.append((vae.predict((new - mean) / sd) == -1).mean())
    assert 0.015 < np.mean(flagged) < 0.1


def test_the_threshold_is_of_rows_from_all_of_an_array():
    rng = np.random.default_rng(0)
    rows = np.concatenate((rng.normal(-3.0, 0.3, (2500, 3)), rng.normal(3.0, 1.0, (2500, 3))))
    vae = small(QuantileVAE, max_epochs=20, lr=1e-2).fit(rows)
    assert (vae.predict(rows) == -1).mean() == pytest.approx(0.05, abs=0.02)


def test_a_small_dataset_is_judged_by_its_own_rows(X):
    dataset = torch.utils.data.TensorDataset(torch.tensor(X).float())
    vae = small(QuantileVAE).fit(dataset)
    assert (vae.predict(X) == -1).mean() == pytest.approx(0.05, abs=0.03)
    assert vae.set_params(calibration_fraction=0.2).fit(dataset)._calibration.n == round(0.2 * len(X))
    with pytest.raises(
        ValueError, match=r"'cross' calibrates with rows that judge the model, but with \d+ rows and n_folds=0"
    ):
        vae.set_params(calibration_fraction="cross", n_folds=0).fit(dataset)


# ---------------------------------------------------------------------------------- whose line it is


def test_a_line_drawn_by_hand_stays_until_the_next_training(X):
    vae = small(QuantileVAE).fit(X[:200])
    drawn = vae.offset_
    vae.conformalize(X[200:])
    assert vae.offset_ != drawn  # nobody had set it
    vae.offset_ = float(np.percentile(vae.score_samples(X), 10))
    for model in (vae, pickle.loads(pickle.dumps(vae))):
        model.conformalize(X[200:])
        assert (model.predict(X) == -1).mean() == pytest.approx(0.1, abs=0.005)
    assert vae.fit(X).offset_ != model.offset_


def test_a_contamination_that_came_after_fit_is_said_to_change_nothing(X):
    vae = small(QuantileVAE, contamination=0.01).fit(X)
    before = vae.decision_function(X)
    vae.set_params(contamination=0.1)
    with pytest.warns(UserWarning, match="contamination=0.1 was set after fit, which drew the line for 0.01.*Call fit"):
        np.testing.assert_array_equal(vae.decision_function(X), before)
    vae.offset_ = 0.0  # by hand: whoever does that knows
    vae.predict(X)
    vae.fit(X).predict(X)
    assert (vae.predict(X) == -1).mean() == pytest.approx(0.1, abs=0.005)
