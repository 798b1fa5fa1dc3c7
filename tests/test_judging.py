"""A detector on tables as people have them: contaminated, small, repeated, in other units, with rare categories."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import small
from scipy import stats
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import FunctionTransformer, RobustScaler, StandardScaler

from riskvae import QuantileVAE
from riskvae.datasets import make_heteroscedastic
from riskvae.detection._calibration import Calibration, benjamini_hochberg, discoveries, excess, quantile_at
from riskvae.detection._marginals import Marginals
from riskvae.detection._noise import Errors, Noise
from riskvae.detection._parts import blocks_of, cut, row_keys
from riskvae.training._callbacks import Snapshots

A = np.random.default_rng(0).normal(size=(3, 8))


def curved(n, seed):
    rng = np.random.default_rng(seed)
    return np.tanh(rng.normal(size=(n, 3)) @ A) + 0.1 * rng.normal(size=(n, 8))


# --------------------------------------------------------------------------------- rows that belong together


def test_equal_rows_have_equal_keys_and_others_do_not():
    X = np.random.default_rng(0).normal(size=(5000, 3)).astype(np.float32)
    keys = row_keys(np.vstack((X, X[::-1])))
    np.testing.assert_array_equal(keys[:5000], keys[5000:][::-1])
    assert len(np.unique(keys)) == 5000
    assert row_keys(np.float32([[0.0, 1.0]])) == row_keys(np.float32([[-0.0, 1.0]]))
    assert row_keys(np.float32([[1.0, 2.0]])) != row_keys(np.float32([[2.0, 1.0]]))


def test_blocks_join_equal_rows_and_groups():
    keys = np.uint64([7, 8, 7, 9, 10, 11])
    np.testing.assert_array_equal(blocks_of(keys), [0, 1, 0, 2, 3, 4])
    # Rows 0 and 2 are equal, 2 and 3 of one group, 4 and 5 of another.
    np.testing.assert_array_equal(blocks_of(keys, np.array([0, 1, 2, 2, 3, 3])), [0, 1, 0, 0, 2, 2])


@pytest.mark.parametrize("copies", [1, 3, 10])
def test_no_block_is_in_two_parts(copies):
    blocks = np.random.default_rng(0).permutation(np.repeat(np.arange(100), copies))
    for shares in ([60 * copies, 40 * copies], [20 * copies] * 5):
        part = cut(blocks, shares, seed=1)
        assert all(len(np.unique(part[blocks == block])) == 1 for block in range(100))
        np.testing.assert_allclose(np.bincount(part), shares, atol=copies)


def test_parts_are_never_empty_while_there_are_blocks():
    assert set(cut(np.array([0] * 90 + [1] * 10), [80, 20], 0)) == {0, 1}
    assert set(cut(np.zeros(10, int), [8, 2], 0)) == {0}


def test_copies_and_groups_stay_together_in_a_fit():
    """99 % of new rows were flagged where each of a hundred stood there ten times."""
    new, rng = curved(1000, 1), np.random.default_rng(2)
    copies = np.repeat(curved(100, 0), 10, axis=0)
    vae = QuantileVAE(hidden_layer_sizes=(64, 32), random_state=0)
    assert (vae.fit(copies).predict(new) == -1).mean() < 0.15
    patients = np.repeat(np.arange(100), 10)
    jittered = copies + 0.01 * rng.normal(size=copies.shape)
    assert (vae.fit(jittered, groups=patients).predict(new) == -1).mean() < 0.15
    assert (vae.fit(jittered).predict(new) == -1).mean() > 0.3  # nobody can know


@pytest.mark.parametrize("n", [2, 9, 18])
def test_too_few_rows_to_know_the_threshold_are_said_to_be(n):
    vae = small(QuantileVAE, max_epochs=1)
    with pytest.warns(UserWarning, match=f"{n} rows are too few to tell which 5% .* Fit with 19 rows or more"):
        vae.fit(curved(n, 0))
    vae.fit(curved(19, 0))
    vae.set_params(contamination=0.2).fit(curved(n, 0))
    vae.partial_fit(curved(1, 0))  # a stream has its own way


# ------------------------------------------------------------------------------- rows that do not belong


@pytest.mark.parametrize("scaler", [StandardScaler, RobustScaler, FunctionTransformer])
@pytest.mark.parametrize("size", [1e2, 1e3, 1e5])
@pytest.mark.filterwarnings("ignore:QuantileVAE. . of 4 features")
def test_one_corrupted_row_decides_nothing(scaler, size):
    """Before, AUROC fell from 1 to .6, and behind RobustScaler to .35."""
    rng = np.random.default_rng(0)
    t = rng.uniform(-1, 1, (1600, 1))
    rows = np.c_[t, t**2, -t, t**3] + 0.05 * rng.normal(size=(1600, 4))
    train, test, truth = rows[:800].copy(), rows[800:], np.arange(800) < 80
    test[:80, 1] += 1.5
    train[0] = size
    scale = scaler().fit(train)
    vae = QuantileVAE(hidden_layer_sizes=(64, 32), max_epochs=60, random_state=0).fit(scale.transform(train))
    assert roc_auc_score(truth, -vae.score_samples(scale.transform(test))) > 0.99


def test_anomalies_among_the_training_rows_are_found_among_them():
    """Few and far: networks that were trained to the end have come to know them, the young one has not."""
    X = np.vstack((curved(100, 0), 1.2 * np.random.default_rng(2).normal(size=(10, 8))))
    vae = QuantileVAE(max_epochs=1500, n_folds=1, random_state=0).fit(X)
    truth, verdicts = np.arange(110) >= 100, vae._score_parts(X)
    score, trained = (roc_auc_score(truth, -found) for found in (vae.score_samples(X), verdicts[:, 0]))
    print(score, trained, roc_auc_score(truth, -verdicts[:, 1]))
    assert score > trained + 0.02


def test_leaving_rows_out_is_there_for_who_knows():
    clean = curved(400, 0)
    X = np.vstack((clean, clean[:100] + 2.0))
    error = {}
    for eps in (1.0, 0.75):
        vae = QuantileVAE(hidden_layer_sizes=(64,), max_epochs=60, eps=eps, n_folds=0, random_state=0).fit(X)
        error[eps] = np.square(X[400:] - vae.reconstruct(X[400:])).mean()
    assert error[0.75] > 2 * error[1.0]
    for wrong in ({"eps": 0.0}, {"risk": "best"}, {"n_folds": -1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            small(QuantileVAE, **wrong).fit(X)


# ----------------------------------------------------------------------------- categories and constants


def test_a_rare_category_is_no_anomaly_and_a_constant_no_reason():
    """All rows of a 3 % category were flagged, and up to a fifth of all rows for a constant column."""
    rng = np.random.default_rng(0)

    def rows(n):
        category = rng.choice(5, n, p=[0.4, 0.3, 0.2, 0.07, 0.03])
        t = rng.normal(size=(n, 2))
        numeric = np.c_[t, t.sum(1), t[:, 0] - t[:, 1]] + 0.3 * rng.normal(size=(n, 4))
        return np.c_[numeric, np.eye(5)[category], np.zeros(n)], category

    (X, _), (new, category) = rows(2500), rows(2500)
    scaler = StandardScaler().fit(X)
    vae = QuantileVAE(random_state=0).fit(scaler.transform(X))
    new = scaler.transform(new)
    assert (vae.predict(new)[category == 4] == -1).mean() < 0.7
    z = np.abs(vae.z_scores(new))
    assert z[:, 4:9].max() < 8
    assert z[:, 9].max() < 2
    assert not vae.detect_features(new)[:, 9].any()
    odd = new[:1].copy()
    odd[0, 9] = 1.0  # a constant that is none
    assert vae.predict(odd) == -1


def test_marginals_by_hand():
    rng = np.random.default_rng(0)
    x = np.c_[rng.normal(size=50), rng.integers(0, 3, 50)]
    marginals = Marginals(torch.tensor(x).float())
    new = np.float32([[0.0, 1.0], [9.0, 2.0], [x[0, 0], 0.0]])
    expected = []
    for row in new:
        below, above = (x.astype(np.float32) <= row).sum(0), (x.astype(np.float32) >= row).sum(0)
        expected.append(np.log(np.minimum(1, 2 * (np.minimum(below, above) + 1) / 52)))
    found = marginals(torch.tensor(new)).numpy()
    np.testing.assert_allclose(found[[0, 2]], np.sum(expected, 1)[[0, 2]], rtol=1e-5)
    assert found[1] < expected[1].sum()  # beyond the outermost value it goes on
    farther = marginals(torch.tensor(np.float32([[90.0, 2.0], [9e6, 2.0]]))).numpy()
    assert found[1] > farther[0] > farther[1] > -50
    assert marginals.discrete.tolist() == [False, True]
    assert marginals.gap.tolist() == [0.0, 1.0]


def test_no_row_is_measured_by_a_scale_that_it_took_part_in():
    generator = torch.Generator().manual_seed(0)
    parts = (torch.rand(15, 3, generator=generator), torch.full((15, 3), torch.nan), torch.zeros(15, 3), torch.rand(15))
    errors, unit = Errors(*parts), torch.ones(3)
    marginals = Marginals(torch.randn(50, 3, generator=generator))
    found = Noise(errors, unit, marginals, 15).without(errors)
    for i in range(15):
        others = Errors(*(part[torch.arange(15) != i] for part in parts))
        torch.testing.assert_close(found[i], Noise(others, unit, marginals, 15).error_scale, rtol=1e-3, atol=0)


def test_a_value_has_one_chance_in_n_to_be_anything():
    errors = Errors(torch.full((50, 1), 1e-4), torch.full((50, 1), torch.nan), torch.zeros(50, 1), torch.zeros(50))
    noise = Noise(errors, torch.ones(1), Marginals(torch.randn(50, 1)), 50)
    vae = SimpleNamespace(likelihood=SimpleNamespace(medians=lambda raw: raw, compared=lambda x, raw: x), holes=False)
    found = noise.log_density(vae, torch.tensor([[3.0]]), torch.zeros(1, 1, 1))
    assert float(found) == pytest.approx(stats.norm.logpdf(3.0, scale=3.0) - np.log(51), abs=0.05)


def test_the_young_model_is_the_last_one_before_some_epoch():
    kept = Snapshots(2.0)
    kept.states_ = {str(epoch): {"at": epoch} for epoch in (4, 8, 16)}
    assert [kept.latest(epoch) for epoch in (3, 4, 15, 16, 99)] == [None, {"at": 4}, {"at": 8}, {"at": 16}, {"at": 16}]


def test_the_farther_a_value_the_smaller_its_pooled_p_value():
    vae, new = small(QuantileVAE, max_epochs=60).fit(curved(300, 0)).conformalize(curved(100, 1)), curved(20, 2)
    new[0, 3] = 1e3
    p = vae.p_values(new)
    assert p[0, 3] == pytest.approx(1 / (1 + 100 * 8))
    order = np.argsort(np.abs(vae.z_scores(new)), axis=None)
    assert (np.diff(p.ravel()[order]) <= 0).all()


def test_the_threshold_is_of_scores_by_such_scales(monkeypatch):
    X = curved(40, 0)
    line = small(QuantileVAE).fit(X).offset_
    monkeypatch.setattr(Noise, "without", lambda self, errors: 9 * self.error_scale.expand_as(errors.squares))
    assert small(QuantileVAE).fit(X).offset_ < line - 1


def test_a_promise_for_one_calibration_set_says_what_it_takes():
    new = curved(200, 2)
    new[:6] += 3 * np.eye(8)[:6]
    vae = small(QuantileVAE, max_epochs=60).fit(curved(400, 0)).conformalize(curved(300, 1))
    with pytest.warns(
        UserWarning, match=r"With confidence=0.9 no p-value of 300 calibration rows is below 0\.\d+, so \d+"
    ):
        found = vae.detect(new, 0.1, confidence=0.9)
    assert not found.any()


# ------------------------------------------------------------------------------------------ calibration


@pytest.mark.filterwarnings("ignore:QuantileVAE. 6 rows are too few to tell which 5%")
def test_rows_that_were_trained_on_are_recognized():
    X, new = curved(300, 0), curved(200, 1)
    vae = small(QuantileVAE).fit(X)
    for bad in (X[:100], np.vstack((new, X[:3])), X.astype(np.float32), np.repeat(X[:100], 2, axis=0)):
        with pytest.raises(ValueError, match=r"rows of X_cal were trained on.*calibration_fraction"):
            vae.conformalize(bad)
    vae.conformalize(new)
    vae.conformalize(np.vstack((new, X[:2])))  # a table that holds a row twice: no p-value moves by a hundredth
    discrete = np.random.default_rng(0).integers(0, 3, (300, 3)).astype(float)
    small(QuantileVAE).fit(discrete[:200]).conformalize(discrete[200:])  # equal by chance
    for seed in range(10):  # few training rows of many cells: all distinct by luck
        cells = np.random.default_rng(seed).integers(0, 6, (230, 4)).astype(float)
        small(QuantileVAE, max_epochs=1, n_folds=1).fit(cells[:30]).conformalize(cells[30:])
    vae.partial_fit(new)
    with pytest.raises(ValueError, match="200 of the 200"):
        vae.conformalize(new)


def test_cross_calibration_gives_no_rows_away():
    X, new = curved(400, 0), curved(4000, 1)
    vae = QuantileVAE(hidden_layer_sizes=(64, 32), calibration_fraction="cross", random_state=0).fit(X)
    assert vae._calibration.n == 400
    assert len(vae._trained.keys) == 400
    p = vae.conformal_p_values(new)
    for level in (0.05, 0.2):
        assert (p <= level).mean() < level + 3 * np.sqrt(level / 400)
    with pytest.raises(ValueError, match="'cross' calibrates with rows that judge"):
        vae.set_params(n_folds=0).fit(X)


def test_values_are_measured_by_calibration_rows():
    """P-values of single values hold on average over features, whatever the noise; here it is skewed."""
    rng = np.random.default_rng(0)
    rows = lambda n: curved(n, int(rng.integers(1 << 30))) + 0.3 * rng.exponential(size=(n, 8))  # noqa: E731
    vae = QuantileVAE(hidden_layer_sizes=(64, 32), random_state=0).fit(rows(1500)).conformalize(rows(500))
    new = rows(4000)
    for alternative in ("two-sided", "greater", "less"):
        p = vae.p_values(new, alternative=alternative)
        for level in (0.01, 0.1):  # 40 and 400 of the pooled values lie beyond
            assert (p <= level).mean() == pytest.approx(level, rel=0.4)
    assert vae.detect_features(new, fdr=0.05).any(1).mean() < 0.08


def test_groups_are_calibrated_each_by_itself():
    X = make_heteroscedastic(1000, random_state=0).data
    vae = small(QuantileVAE, max_epochs=20).fit(X)
    cal, new = (make_heteroscedastic(2000, random_state=seed).data for seed in (1, 2))
    labels, new_labels = (np.where(rows[:, 0] > 0, "high", "low") for rows in (cal, new))
    vae.conformalize(cal, groups=labels)
    p = vae.conformal_p_values(new, groups=new_labels)
    for label in ("high", "low"):
        own = vae.score_samples(cal[labels == label])
        expected = (1 + (own <= vae.score_samples(new[new_labels == label])[:, None]).sum(1)) / (len(own) + 1)
        np.testing.assert_allclose(p[new_labels == label], expected, atol=2 / len(own))
        assert (p[new_labels == label] <= 0.1).mean() == pytest.approx(0.1, abs=0.035)
    far = np.vstack((new[:50] + 50.0, new[50:]))
    found = vae.detect(far, 0.1, groups=new_labels)
    assert found[:50].all()
    assert found[50:].sum() < 25
    with pytest.raises(ValueError, match="no calibration rows of .'other'"):
        vae.detect(new, groups=np.full(len(new), "other"))
    with pytest.raises(ValueError, match="one label for each of 2000 rows of X"):
        vae.detect(new, groups=new_labels[:5])


def test_a_promise_given_the_calibration_set():
    """The share of new rows with p <= t exceeds t for a tenth of the calibration sets at most."""
    rng, beyond, usual = np.random.default_rng(0), [], []
    for _ in range(300):
        calibration = Calibration(np.sort(rng.uniform(size=500)), None)
        grid = np.linspace(0.0, 0.15, 400)  # scores of new rows: what lies below is their share
        p = calibration.p_values(grid, confidence=0.9)
        beyond.append((p < grid - 1e-12).any())
        usual.append((calibration.p_values(grid) < grid - 1e-12).any())
    # Binomial(300, .1) has a deviation of 5.2: four of them.
    assert np.sum(beyond) <= 30 + 21
    assert np.mean(usual) > 0.5


def test_excess_is_of_rows_of_another_kind():
    rng = np.random.default_rng(0)
    heavy = lambda size: rng.lognormal(0, 2, size)  # noqa: E731
    for draw in (rng.normal, rng.exponential, rng.logistic, heavy):
        assert not any(excess(np.sort(-np.abs(draw(size=n)))) for n in (60, 500, 3000) for _ in range(20))
    for n, bad in ((500, 15), (3000, 100)):
        found = excess(np.sort(np.append(-rng.exponential(size=n - bad), -500 - rng.exponential(size=bad))))
        assert 0.5 * bad < found <= bad


def test_a_share_of_anomalies_among_the_calibration_rows_may_be_told():
    vae = small(QuantileVAE).fit(curved(500, 0))
    cal = np.vstack((curved(190, 1), curved(10, 2) + 3.0))
    assert vae.conformalize(cal, contamination=0.05)._calibration.n == 190
    own = np.sort(vae.score_samples(cal))[10:]
    np.testing.assert_allclose(vae._calibration.scores, own)
    with pytest.raises(ValueError, match="contamination must be a number in"):
        vae.conformalize(cal, contamination=0.5)
    kept = small(QuantileVAE, contamination=0.1, calibration_fraction=0.4).fit(curved(500, 0))
    assert kept._calibration.left_out == 20


@pytest.mark.parametrize("n_folds", [1, 5])
def test_rows_of_categories_alone_are_equal_by_chance(n_folds):
    """Whole categories were held out, and most rows flagged."""
    rng = np.random.default_rng(0)
    rows = lambda n: np.eye(6)[rng.choice(6, n)]  # noqa: E731
    vae = QuantileVAE(hidden_layer_sizes=(32,), n_folds=n_folds, max_epochs=40, random_state=0).fit(rows(600))
    assert (vae.predict(rows(1000)) == -1).mean() < 0.15


def test_a_fit_that_goes_on_remembers_all_rows():
    A, B = curved(200, 0), curved(200, 1)
    vae = small(QuantileVAE, warm_start=True).fit(A).fit(B)
    for seen in (A, B):
        with pytest.raises(ValueError, match="200 of the 200"):
            vae.conformalize(seen)
    calibrated = small(QuantileVAE, calibration_fraction=0.2).fit(A)
    before = calibrated.partial_fit(B[:1]).offset_
    assert calibrated.partial_fit(30 * B[:1]).offset_ > 3 * before - 10  # one row does not decide


def test_early_stopping_where_rows_cannot_be_told_apart():
    small(QuantileVAE, early_stopping=True).fit(np.full((50, 3), 7.0))


def test_discoveries_of_many_rows_are_those_of_each():
    rng = np.random.default_rng(0)
    p = rng.uniform(size=(200, 30)) ** 3
    p[rng.uniform(size=p.shape) < 0.2] = np.nan
    p[0] = np.nan
    found = discoveries(p, 0.2)
    for row, values in zip(found, p, strict=True):
        here = ~np.isnan(values)
        assert not row[~here].any()
        if here.any():
            np.testing.assert_array_equal(row[here], benjamini_hochberg(values[here], 0.2))
    assert 0.05 < found.mean() < 0.5


def test_the_line_of_held_out_rows_flags_what_is_meant():
    """Uniform scores: below the quantile lies the share alpha on average, from five rows on for alpha = .2."""
    rng = np.random.default_rng(0)
    for n, alpha in ((30, 0.05), (100, 0.05), (9, 0.2)):
        shares = [quantile_at(np.sort(rng.uniform(size=n)), alpha) for _ in range(2000)]
        assert np.mean(shares) == pytest.approx(alpha, abs=5 * np.std(shares) / np.sqrt(2000))


def test_a_calibration_keeps_no_rows_and_single_precision():
    X = make_heteroscedastic(600, random_state=0).data
    vae = small(QuantileVAE).fit(X[:300]).conformalize(X[300:])
    kept = vae._calibration
    assert kept.residuals.dtype == np.float32
    assert kept.residuals.nbytes + kept.scores.nbytes == 300 * (4 * 3 * 4 + 8)
    assert not np.isin(X[300:].astype(np.float32), kept.residuals).any()


def test_the_score_sees_the_noise_of_each_row():
    """Anomalies of five local standard deviations: one scale per feature cannot tell them from rows with more noise."""
    rng = np.random.default_rng(0)

    def rows(n):
        t = rng.uniform(-1, 1, (n, 1))
        sd = 0.02 + 0.3 * (t > 0)
        return np.c_[t, t, t**2] + np.c_[0 * t, sd, sd] * rng.normal(size=(n, 3)), sd[:, 0]

    X, _ = rows(4000)
    new, sd = rows(2000)
    bad, low = np.arange(2000) < 100, np.flatnonzero(sd < 0.1)[:100]
    new = np.vstack((new[low], np.delete(new, low, axis=0)))
    new[:100, 1] += 5 * 0.02 * rng.choice([-1, 1], 100)
    vae = QuantileVAE(hidden_layer_sizes=(64, 32), max_epochs=150, random_state=0).fit(X)
    noise = vae._row_score.noise
    assert noise.own[1]
    own = roc_auc_score(bad, -vae._score_parts(new)[:, 0])
    for density in vae._row_score.densities:
        density.noise.own.zero_()
    assert own > roc_auc_score(bad, -vae._score_parts(new)[:, 0]) + 0.05


def test_the_default_counts_steps():
    vae = QuantileVAE()
    assert [vae._n_epochs(n) for n in (50, 2560, 25_600, 256_000, 10**6)] == [200, 200, 20, 2, 1]
    small_steps = QuantileVAE(1, hidden_layer_sizes=(4,), batch_size=4, n_folds=0, random_state=0)
    history = small_steps.fit(curved(10_000, 0)).history_
    assert sum(row["train_batch_count"] for row in history) == 2000


def test_conformal_intervals_hold_after_cross_calibration():
    X, new = curved(300, 3), curved(3000, 4)
    vae = QuantileVAE(hidden_layer_sizes=(64, 32), calibration_fraction="cross", random_state=0).fit(X)
    ends = vae.predict_interval(new, 0.2)
    held = ((ends[..., 0] <= new) & (new <= ends[..., 1])).mean()
    assert held > 0.8 - 3 * stats.beta(240, 61).std()
