"""Calibration and detection: what holds whatever the model is worth, over repeated simulation."""

import copy

import numpy as np
import pytest
import torch
from helpers import small
from scipy import stats
from sklearn.base import clone
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from riskvae import QuantileVAE
from riskvae.datasets import make_heteroscedastic
from riskvae.detection._calibration import Calibration, benjamini_hochberg, score_at
from riskvae.detection._parts import row_keys
from riskvae.metrics import coverage


@pytest.fixture(scope="module")
def vae():
    """A model that is barely trained: the guarantees must hold all the same."""
    return small(QuantileVAE, max_epochs=5).fit(make_heteroscedastic(1000, random_state=0).data)


def rows(n, seed):
    return make_heteroscedastic(n, random_state=seed).data


# ---------------------------------------------------------------------------------------- intervals


@pytest.mark.parametrize("alpha", [0.05, 0.3])
@pytest.mark.parametrize("n_cal", [20, 100, 500, 2000])
def test_conformal_coverage_is_what_it_should_be_on_average(vae, n_cal, alpha):
    """Over calibration sets the coverage of continuous values is Beta(k, n + 1 - k), k = ceil((n + 1)(1 - alpha))."""
    n_sets, n_new = (40 if n_cal < 2000 else 15), 1000
    model = copy.deepcopy(vae)
    pool, new = rows(n_sets * n_cal, 1), rows(n_sets * n_new, 2)
    found = []
    for i in range(n_sets):
        model.conformalize(pool[i * n_cal : (i + 1) * n_cal])
        x = new[i * n_new : (i + 1) * n_new]
        found.append(coverage(x, model.predict_interval(x, alpha)))
    k = np.ceil((n_cal + 1) * (1 - alpha) - 1e-9)
    exact = stats.beta(k, n_cal + 1 - k)
    mean = exact.mean()
    assert mean >= 1 - alpha - 1e-9
    error = np.sqrt((exact.var() + mean * (1 - mean) / n_new) / n_sets)
    # Four features, each within 4.5 standard errors: all eight cases fail once in 4,600 seeds.
    np.testing.assert_allclose(np.mean(found, axis=0), mean, atol=4.5 * error)


def test_intervals_without_calibration_are_the_trained_quantiles(vae):
    x = rows(50, 3)
    np.testing.assert_allclose(vae.predict_interval(x, 0.3), vae.predict_quantiles(x)[..., [0, 2]], rtol=1e-9)
    narrow = vae.predict_interval(x, 0.5)
    score = stats.norm.ppf(0.75) / stats.norm.ppf(0.85)
    q = vae.predict_quantiles(x)
    np.testing.assert_allclose(narrow[..., 1], q[..., 1] + score * (q[..., 2] - q[..., 1]), rtol=1e-6)
    with pytest.raises(ValueError, match=r"0.05 and 0.95, beyond the trained ones, 0.15 to 0.85.*conformalize"):
        vae.predict_interval(x, 0.1)
    for alpha in (0.0, 1.0, -1, "0.1"):
        with pytest.raises((TypeError, ValueError), match="alpha must be a number in"):
            vae.predict_interval(x, alpha)


def test_intervals_move_by_one_distance_per_feature(vae):
    model = copy.deepcopy(vae).conformalize(rows(500, 1))
    x = rows(50, 3)
    before = vae.predict_interval(x, 0.3)
    moved = model.predict_interval(x, 0.3) - before
    np.testing.assert_allclose(moved[..., 1], -moved[..., 0], atol=1e-6)
    np.testing.assert_allclose(moved, np.broadcast_to(moved[0], moved.shape), atol=1e-5)
    cal = rows(500, 1)
    ends = vae.predict_interval(cal, 0.3)
    misses = np.sort(np.maximum(ends[..., 0] - cal, cal - ends[..., 1]), axis=0)
    np.testing.assert_allclose(moved[0, :, 1], misses[351 - 1], atol=1e-5)  # ceil(501 * 0.7)


def test_intervals_beyond_the_trained_levels_follow_the_noise(vae):
    """Extended by the outermost slope: wide where the model's scale is, not by a constant alone."""
    model = copy.deepcopy(vae).conformalize(rows(500, 1))
    x = rows(200, 3)
    width = np.diff(model.predict_interval(x, 0.05), axis=-1)[..., 0]
    for j in range(4):
        assert np.corrcoef(width[:, j], model.predict_scale(x)[:, j])[0, 1] > 0.999


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_values_that_repeat_stay_inside(dtype):
    """Counts and constants lie on the ends of intervals; rounding must not put them out."""
    rng = np.random.default_rng(0)
    own = rng.choice(np.array([0.0, 0.1, 7.3, 1e6 / 3]), size=(99, 50))
    ends = np.stack((own * 0.9 - 0.01, own * 0.97 - 0.003), axis=-1)  # every value lies above
    misses = np.maximum(ends[..., 0] - own, own - ends[..., 1]).astype(np.float32)
    moved = Calibration(np.zeros(99), None).widen(ends.astype(dtype), misses, 0.2)
    inside = (moved[..., 0] <= own.astype(dtype)) & (own.astype(dtype) <= moved[..., 1])
    assert (inside.sum(0) >= 80).all()


def test_ends_never_cross(vae):
    model = copy.deepcopy(vae)
    x = rows(100, 1)
    model.conformalize(model.reconstruct(x))  # rows that the model gets right: the intervals shrink
    ends = model.predict_interval(x, 0.3)
    assert (ends[..., 0] <= ends[..., 1]).all()


def test_too_few_rows_for_a_level_give_infinite_intervals_and_a_warning(vae):
    with pytest.warns(UserWarning, match="18 rows are too few to tell which 5% .*Calibrate with 19 rows"):
        model = copy.deepcopy(vae).conformalize(rows(18, 1))
    with pytest.warns(UserWarning, match="alpha=0.05 needs at least 19 calibration rows, and there are 18"):
        ends = model.predict_interval(rows(3, 2), 0.05)
    np.testing.assert_array_equal(ends[..., 1], np.inf)
    np.testing.assert_array_equal(ends[..., 0], -np.inf)
    model.conformalize(rows(19, 1))
    assert np.isfinite(model.predict_interval(rows(3, 2), 0.05)).all()


# ---------------------------------------------------------------------------------- p-values, detection


def test_conformal_p_values_by_hand(vae):
    model = copy.deepcopy(vae).conformalize(rows(50, 1))
    own, new = model.score_samples(rows(50, 1)), model.score_samples(rows(30, 2))
    expected = (1 + (own <= new[:, None]).sum(1)) / 51
    np.testing.assert_array_equal(model.conformal_p_values(rows(30, 2)), expected)


@pytest.mark.parametrize("n_cal", [20, 200, 2000])
def test_conformal_p_values_of_inliers_are_valid(vae, n_cal):
    """P(p <= t) = floor(t (n + 1)) / (n + 1), at most t, over calibration sets."""
    n_sets, rng = 300, np.random.default_rng(n_cal)
    pool = vae.score_samples(rows(20_000, 1))
    p = []
    for _ in range(n_sets):
        drawn = rng.choice(pool, n_cal + 20, replace=False)
        p.append(Calibration(np.sort(drawn[:n_cal]), None, None).p_values(drawn[n_cal:]))
    for t in (0.05, 0.2, 0.5):
        exact = np.floor(t * (n_cal + 1) + 1e-9) / (n_cal + 1)
        assert exact <= t
        share = np.mean(np.array(p) <= t, axis=1)  # one calibration set each
        # Five standard errors: nine cases fail once in 190,000 seeds.
        assert share.mean() == pytest.approx(exact, abs=5 * share.std() / np.sqrt(n_sets) + 1e-9)


def test_false_discovery_rate_and_power(monkeypatch):
    """Over calibration sets of 1,000 rows: at most the level, and nearly all rows that lie far off are found."""
    model, rng = small(QuantileVAE, max_epochs=200, lr=5e-3).fit(rows(2000, 0)), np.random.default_rng(0)
    inliers = model.score_samples(rows(20_000, 1))
    far = model.score_samples(rows(2_000, 2) + np.array([0.0, 1.5, -1.5, 1.5]))
    monkeypatch.setattr(model, "score_samples", lambda scores: scores)  # each was scored once, here
    monkeypatch.setattr("riskvae.estimators._conformal.warn_of_nothing", lambda *given: None)
    for fdr in (0.05, 0.2):
        false, power, false_under_null = [], [], []
        for _ in range(200):
            drawn = rng.choice(inliers, 1450, replace=False)
            model._calibration = Calibration(np.sort(drawn[:1000]), None)
            found = model.detect(np.append(drawn[1000:], rng.choice(far, 50, replace=False)), fdr)
            false.append(found[:450].sum() / max(found.sum(), 1))
            power.append(found[450:].mean())
            false_under_null.append(model.detect(drawn[1000:], fdr).any())
        realised = {"false": np.mean(false), "power": np.mean(power), "under the null": np.mean(false_under_null)}
        print(f"fdr={fdr}:", ", ".join(f"{name} {value:.3f}" for name, value in realised.items()))
        # Expected at most fdr times the share of inliers; four standard errors of 200 simulations.
        assert np.mean(false) <= 0.9 * fdr + 4 * np.std(false) / np.sqrt(200)
        assert np.mean(power) > 0.8
        # Without anomalies any discovery is false: at most the level, too.
        assert np.mean(false_under_null) <= fdr + 4 * np.sqrt(fdr * (1 - fdr) / 200)


def test_warnings_where_nothing_can_be_found(vae):
    model = copy.deepcopy(vae).set_params(contamination=0.1).conformalize(rows(18, 1))
    with pytest.warns(UserWarning, match=r"18 calibration rows give p-values of 1/19 or more, so no row can be found"):
        assert not model.detect(rows(5, 2) + 50.0, 0.05).any()
    model.conformalize(rows(40, 1))
    with pytest.warns(
        UserWarning, match="only if 49 or more of these 100 stand out; what is found is valid.*takes 1999"
    ):
        model.detect(rows(100, 2), 0.05)
    found = model.conformalize(rows(200, 1)).detect(np.vstack((rows(90, 2), rows(10, 2) + 50.0)), 0.05)
    assert found.sum() >= 10  # no warning: ten of them would do
    model.conformalize(rows(19, 1)).detect(rows(1, 2), 0.05)


def test_clear_anomalies_among_the_calibration_rows_are_left_out(vae):
    hidden = np.vstack((rows(480, 1), rows(20, 3) + 50.0))
    with pytest.warns(UserWarning, match=r"20 of 500 calibration rows score so low that they look like anomalies"):
        model = copy.deepcopy(vae).conformalize(hidden)
    new = np.vstack((rows(450, 2), rows(50, 4) + 51.0))
    found = model.detect(new, 0.1)
    assert found[450:].all()
    assert found[:450].sum() <= 12  # .1 of 50 are meant


def test_nothing_found_of_what_predict_flags_is_told(vae):
    """Anomalies among the calibration rows hide others of their kind; so many of them cannot be told apart."""
    model = copy.deepcopy(vae).conformalize(np.vstack((rows(150, 1), rows(50, 3) + 50.0)))
    model.offset_ = -1e3
    with pytest.warns(UserWarning, match=r"detect found none of the \d+ of 100 rows that predict flags.*conformalize"):
        assert not model.detect(np.vstack((rows(95, 2), rows(5, 4) + 48.0)), 0.1).any()


def test_few_calibration_rows_are_told():
    with pytest.warns(
        UserWarning, match="12 calibration rows are too few to tell which 5% .*'cross'.* share of 19 rows"
    ):
        small(QuantileVAE, calibration_fraction=0.2).fit(rows(60, 0))
    small(QuantileVAE, calibration_fraction=0.4).fit(rows(60, 0))


def test_rows_that_have_changed_are_told(vae):
    model = copy.deepcopy(vae).conformalize(rows(500, 1))
    moved = rows(200, 2)
    with pytest.warns(
        UserWarning, match=r"detect found 200 of 200 rows. Unless X is made up of anomalies, its rows ha"
    ):
        assert model.detect(moved + np.array([0.0, 4.0, -4.0, 4.0])).all()
    slightly = moved + 0.5 * np.array([0.0, 1.0, -1.0, 1.0])
    with pytest.warns(UserWarning, match=r"detect found none of the .* and \d+% of the rows score below the median"):
        assert not model.detect(slightly, 0.05).any()
    few = np.vstack((rows(150, 2), rows(50, 3) + np.array([0.0, 4.0, -4.0, 4.0])))
    assert 50 <= model.detect(few).sum() < 70  # a quarter of anomalies is no drift; warnings are errors here


def test_calibration_comes_first(vae):
    for method in (vae.conformal_p_values, vae.detect):
        with pytest.raises(ValueError, match=r"Call conformalize\(X_cal\).*calibration_fraction"):
            method(rows(5, 1))
    for n in (1, 0):
        with pytest.raises(ValueError, match="at least 2 rows|minimum of 1 is required"):
            copy.deepcopy(vae).conformalize(rows(2, 1)[:n])
    model = copy.deepcopy(vae).conformalize(rows(50, 1))
    for fdr in (0.0, 1.0, 5, "a"):
        with pytest.raises((TypeError, ValueError), match="fdr must be a number in"):
            model.detect(rows(5, 1), fdr)
    with pytest.raises((TypeError, ValueError), match="fdr must be a number in"):
        model.detect_features(rows(5, 1), 1.0)


def test_calibration_fraction_keeps_rows_from_training():
    X = rows(200, 0)
    vae = small(QuantileVAE, calibration_fraction=0.25, n_folds=0).fit(X)
    assert vae._calibration.n == 50
    held_out = ~np.isin(row_keys(X.astype(np.float32)), vae._trained.keys)
    assert held_out.sum() == 50
    # Other values in the rows held out, but the same training: the weights know nothing of them.
    other = X.copy()
    other[held_out] = rows(50, 9)
    again = small(QuantileVAE, calibration_fraction=0.25, n_folds=0).fit(other)
    for a, b in zip(vae.module_.state_dict().values(), again.module_.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert torch.equal(vae._row_score.densities[0].prior_mean, again._row_score.densities[0].prior_mean)
    by_hand = copy.deepcopy(vae).conformalize(X[held_out])
    np.testing.assert_array_equal(vae.conformal_p_values(X), by_hand.conformal_p_values(X))
    np.testing.assert_array_equal(vae.predict_interval(X, 0.1), by_hand.predict_interval(X, 0.1))


def test_rows_that_were_trained_on_cannot_calibrate():
    X = rows(200, 0)
    vae = small(QuantileVAE, warm_start=True, calibration_fraction=0.2).fit(X)
    with pytest.raises(ValueError, match=r"goes on \(warm_start=True\).*call conformalize"):
        vae.fit(X)
    with pytest.raises(ValueError, match="warm_start"):
        small(QuantileVAE, warm_start=True).fit(X).set_params(calibration_fraction=0.5).fit(X)
    assert vae.set_params(calibration_fraction=0.0).fit(X).n_iter_ == 6


def test_calibration_rows_are_the_models_own(vae):
    held_out, new = rows(50, 1), rows(5, 2)
    model = copy.deepcopy(vae).conformalize(held_out)
    before = model.predict_interval(new, 0.1)
    held_out *= 100.0
    np.testing.assert_array_equal(before, model.predict_interval(new, 0.1))


def test_equal_rows_have_equal_p_values_in_any_company_and_dtype():
    rng = np.random.default_rng(0)
    X = np.where(rng.uniform(size=(300, 1)) < 0.9, np.linspace(0, 1, 7), rng.normal(size=(300, 7)))
    vae = small(QuantileVAE, calibration_fraction=0.3).fit(X.astype(np.float32))
    common = np.tile(np.linspace(0, 1, 7), (50, 1))
    expected = vae.conformal_p_values(common[:1].astype(np.float32))[0]
    assert expected > 0.5
    for n in (1, 2, 3, 50):
        for dtype in (np.float32, np.float64):
            np.testing.assert_array_equal(vae.conformal_p_values(common[:n].astype(dtype)), expected)
    assert not vae.detect(common, 0.5).any()


def test_ends_of_the_line():
    """Where whole numbers are products of rounded ones."""
    for fdr in (0.05, 0.1, 0.15, 0.2, 0.3):
        for m in range(1, 60):
            p = np.ones(m)
            p[0] = fdr / m  # one discovery, on the line
            assert benjamini_hochberg(p, fdr).sum() == 1
    calibration = Calibration(np.zeros(20), np.zeros((20, 1, 3)))
    ends, misses = np.zeros((20, 1, 2)), np.abs(np.linspace(-1, 1, 20))[:, None]
    widths = [np.ptp(calibration.widen(ends, misses, alpha)[0]) for alpha in (0.5, 0.99, 1 - 1e-13)]
    assert widths[0] > widths[1] >= widths[2]


@pytest.mark.parametrize("last", [1, 5, 100, 1000])
@pytest.mark.parametrize("contamination", ["auto", 0.05])
def test_a_small_further_part_does_not_replace_what_a_large_one_told(last, contamination):
    """One row took density and threshold for itself: AUROC .85, and all rows flagged."""
    rng = np.random.default_rng(0)
    A = rng.normal(size=(3, 8))
    rows = lambda n: np.tanh(rng.normal(size=(n, 3)) @ A) + 0.1 * rng.normal(size=(n, 8))  # noqa: E731
    X, new, bad = rows(1500), rows(500), rows(100)
    bad[:, 2] += np.sign(rng.normal(size=100))
    model = QuantileVAE(hidden_layer_sizes=(64, 32), max_epochs=60, contamination=contamination, random_state=0).fit(X)
    auc = lambda: roc_auc_score(np.r_[np.zeros(500), np.ones(100)], -model.score_samples(np.vstack((new, bad))))  # noqa: E731
    before, ranked = model._row_score.densities[0], auc()
    model.partial_fit(rows(last))
    assert auc() > ranked - 0.01
    # 5 % of 500: three standard errors are 3 %; the decoder has not seen these rows.
    assert 0.02 < (model.predict(new) == -1).mean() < 0.12
    kept = (model._row_score.densities[0].prior_mean[:, None] == before.prior_mean).all(-1).any(1).double().mean()
    assert kept == pytest.approx(1 - last / 1200, abs=0.0025)  # a fifth of the rows judged the model
    assert len(model._row_score.densities[0].prior_mean) == 500


def test_a_part_as_large_as_the_largest_takes_its_place():
    rng = np.random.default_rng(0)
    X, Y = rng.normal(size=(2, 300, 4))
    model = small(QuantileVAE).fit(X)
    model.partial_fit(Y)
    posterior = model.encode(Y.astype("float32"))
    found = model._row_score.densities[0].prior_mean.numpy()
    assert np.abs(np.sort(found, 0) - np.sort(posterior.mean, 0)).max() < 1e-4


def test_training_on_ends_a_calibration(vae):
    model = copy.deepcopy(vae).conformalize(rows(50, 1))
    model.partial_fit(rows(50, 2))
    with pytest.raises(ValueError, match="conformalize"):
        model.detect(rows(50, 1))


# ---------------------------------------------------------------------------------------- threshold


@pytest.mark.parametrize("share", [0.01, 0.1, 0.37, 0.5])
def test_contamination_is_the_share_flagged_in_training(share):
    X = rows(500, 0)
    vae = small(QuantileVAE, contamination=share)
    assert (vae.fit_predict(X) == -1).sum() == pytest.approx(500 * share, abs=1)
    model = clone(vae).set_params(calibration_fraction=0.2).fit(X)
    assert (model.predict(X) == -1).sum() == pytest.approx(500 * share, abs=1)


def test_auto_flags_a_twentieth_of_rows_like_those_of_the_calibration(vae):
    flagged = [
        (copy.deepcopy(vae).conformalize(rows(200, seed)).predict(rows(500, 100 + seed)) == -1).mean()
        for seed in range(40)
    ]
    # Beta(10, 191) has mean .0498 and deviation .015: five standard errors of forty.
    assert np.mean(flagged) == pytest.approx(10 / 201, abs=5 * np.std(flagged) / np.sqrt(40))
    model = copy.deepcopy(vae).conformalize(rows(200, 0))
    new = rows(500, 1)
    agree = (model.predict(new) == -1) == (model.conformal_p_values(new) <= 0.05)
    assert agree.mean() > 0.99  # but for scores in the half gap at the threshold


def test_the_level_of_a_threshold():
    scores = np.arange(1.0, 100.0)  # p-values are whole hundredths
    p = Calibration(scores, None).p_values
    for alpha in (0.01, 0.05, 0.5):
        level = score_at(scores, alpha)
        assert (p(scores[scores < level]) <= alpha).all()
        assert (p(scores[scores >= level]) > alpha).all()
    assert score_at(np.array([3.0, 5.0]), 0.05) == pytest.approx(2.0, abs=1e-4)
    assert score_at(np.array([3.0, 3.0]), 0.05) < 3.0
    assert score_at(np.array([3.0]), 0.05) < 3.0


def test_scores_are_the_same_in_any_company(vae):
    x = rows(300, 1)
    scores = vae.score_samples(x)
    np.testing.assert_array_equal(scores, vae.score_samples(x))
    np.testing.assert_allclose(scores[::-1], vae.score_samples(x[::-1]), rtol=1e-9)
    np.testing.assert_allclose(scores[7:9], vae.score_samples(x[7:9]), rtol=1e-9)
    np.testing.assert_array_equal(vae.decision_function(x) < 0, vae.predict(x) == -1)
    assert vae.predict(x).dtype.kind == "i"


def test_in_a_pipeline():
    X = rows(300, 0) * np.array([1.0, 100.0, 1e-3, 1.0])
    pipe = make_pipeline(StandardScaler(), small(QuantileVAE, max_epochs=20))
    assert set(pipe.fit_predict(X)) == {-1, 1}
    assert pipe.decision_function(X).shape == (300,)
    assert pipe.score_samples(X + 1e3).max() < pipe.score_samples(X).min()
