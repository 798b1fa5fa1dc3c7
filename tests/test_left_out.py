"""Answers about a value by a model that has not seen it, and what calibrates them."""

import copy
import dataclasses
import pickle

import numpy as np
import pytest
import torch
from helpers import small
from torch.utils.data import TensorDataset

import riskvae
from riskvae import QuantileVAE
from riskvae.detection._calibration import Calibration
from riskvae.detection._left_out import WIDEST, n_affordable, spread_of
from riskvae.metrics import coverage


def linked(n, seed, missing=0.0):
    """Rows of five features that follow two factors, with noise of .3."""
    rng = np.random.default_rng(seed)
    loadings = np.array([[1.0, 1.0, 0.0, 0.5, -1.0], [0.0, 1.0, 1.0, -1.0, 0.5]])
    rows = rng.normal(size=(n, 2)) @ loadings + 0.3 * rng.normal(size=(n, 5))
    return np.where(rng.random(rows.shape) < missing, np.nan, rows)


def fitted(missing=0.0, **more):
    return small(QuantileVAE, n_components=3, max_epochs=60, lr=5e-3, **more).fit(linked(600, 0, missing))


@pytest.fixture(scope="module", params=[0.0, 0.1], ids=["whole", "told"])
def vae(request):
    return fitted(request.param).conformalize(linked(400, 1, request.param))


def test_a_left_out_value_is_one_that_is_missing(vae):
    rows = linked(20, 2)
    left_out = vae.predict_quantiles(rows, left_out=True)
    for j in range(5):
        other = rows.copy()
        other[:, j] = np.nan
        np.testing.assert_allclose(left_out[:, j], vae.predict_quantiles(other)[:, j], rtol=1e-9, atol=1e-12)
    assert not np.allclose(left_out, vae.predict_quantiles(rows), atol=1e-2)


def test_what_is_said_of_a_feature_does_not_hang_on_its_value(vae):
    rows = linked(20, 2)
    other = rows.copy()
    other[:, 3] += 5.0
    for method, given in (("predict_quantiles", ()), ("predict_interval", (0.1,)), ("predict_scale", ())):
        before, after = (getattr(vae, method)(x, *given, left_out=True) for x in (rows, other))
        np.testing.assert_array_equal(before[:, 3], after[:, 3])
        assert not np.allclose(before[:, 0], after[:, 0], atol=1e-2)
    other[:, 3] = np.nan
    np.testing.assert_array_equal(
        vae.predict_interval(rows, 0.1, left_out=True)[:, 3], vae.predict_interval(other, 0.1, left_out=True)[:, 3]
    )
    for method in ("z_scores", "p_values"):
        found = getattr(vae, method)(other, left_out=True)
        assert np.isnan(found[:, 3]).all()
        assert np.isfinite(found[:, :3]).all()


def test_answers_do_not_hang_on_the_company_or_the_container(vae):
    rows = linked(30, 2).astype(np.float32)
    together = vae.predict_quantiles(rows, left_out=True)
    assert together.dtype == np.float32
    alone = np.concatenate([vae.predict_quantiles(rows[i : i + 1], left_out=True) for i in range(30)])
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-5)
    data = TensorDataset(torch.tensor(rows))
    for method, given in (("predict_interval", (0.1,)), ("z_scores", ()), ("p_values", ()), ("detect_features", ())):
        expected = getattr(vae, method)(rows, *given, left_out=True)
        np.testing.assert_allclose(getattr(vae, method)(data, *given, left_out=True), expected, rtol=1e-4, atol=1e-5)


def test_features_are_taken_some_at_a_time(vae, monkeypatch):
    rows = linked(7, 2)
    expected = vae.predict_quantiles(rows, left_out=True)
    monkeypatch.setattr("riskvae.detection._left_out.CHUNK", 2 * 7 * 32)
    np.testing.assert_allclose(vae.predict_quantiles(rows, left_out=True), expected, rtol=1e-12)


@pytest.fixture(scope="module")
def plain():
    return fitted()


@pytest.fixture
def own(plain):
    """A copy, to calibrate."""
    return copy.deepcopy(plain)


def test_calibrated_intervals_hold_what_they_should_and_tell_more_than_the_feature_alone(own):
    alphas, held, widths = np.array([0.1, 0.2]), [], []
    raw = {left_out: coverage(linked(1000, 99), own.predict_interval(linked(1000, 99), 0.3, left_out=left_out)).mean()
           for left_out in (False, True)}  # fmt: skip
    for seed in range(1, 9):
        own.conformalize(linked(500, seed))
        new = linked(1000, 100 + seed)
        ends = [own.predict_interval(new, alpha, left_out=True) for alpha in alphas]
        held.append([coverage(new, each).mean() for each in ends])
        alone = [np.quantile(new, [alpha / 2, 1 - alpha / 2], axis=0) for alpha in alphas]
        widths += [np.diff(each).mean() / np.diff(one, axis=0).mean() for each, one in zip(ends, alone, strict=True)]
    # One set of 500 rows gives a feature a standard deviation of .018 at most; five features that go together in two
    # factors, eight sets: less than .018 / sqrt(8 * 2) = .0045. Four of these, twice: fails once in 8,000 seeds.
    np.testing.assert_allclose(np.mean(held, 0), 1 - alphas, atol=0.018)
    assert max(widths) < 0.75
    assert raw[True] < raw[False] - 0.1  # what the others leave open is in no quantile: calibration is not optional


def test_p_values_are_uniform_on_new_rows_and_find_the_value_that_was_changed(own):
    shares = []
    for seed in range(1, 9):
        own.conformalize(linked(300, seed))
        p = own.p_values(linked(1000, 100 + seed), left_out=True)
        shares.append([(p <= t).mean() for t in (0.01, 0.05, 0.2, 0.5)])
    # A set of 300 rows x 5 features (as of two in number): sd sqrt(t (1 - t) / 600), over eight sets, times four.
    t = np.array([0.01, 0.05, 0.2, 0.5])
    assert (np.abs(np.mean(shares, 0) - t) < 4 * np.sqrt(t * (1 - t) / 4800)).all()
    rows = linked(200, 50)
    rows[:, 1] += 4.0
    p = own.p_values(rows, left_out=True)
    assert (p[:, 1] == p.min(1)).mean() > 0.9
    assert np.median(p[:, 1]) == pytest.approx(1 / (1 + 300 * 5))
    assert own.detect_features(rows, 0.1, left_out=True)[:, 1].mean() > 0.9


def test_each_side_alone(own):
    vae = own.conformalize(linked(300, 1))
    rows = linked(50, 2)
    z = vae.z_scores(rows, left_out=True)
    greater, less = (vae.p_values(rows, left_out=True, alternative=name) for name in ("greater", "less"))
    assert (np.argsort(greater[:, 0]) == np.argsort(-z[:, 0], kind="stable")).mean() > 0.9
    assert ((greater < 0.3) & (less < 0.3)).sum() == 0


def test_scales_and_scores_beyond_the_levels_are_those_of_left_out_errors(own):
    vae = own.conformalize(linked(400, 1))
    blind = vae._calibration.blind
    spread = np.quantile(np.abs(blind[..., 1]), 0.9, axis=0) / 1.645
    rows = linked(50, 2)
    assert (vae.predict_scale(rows, left_out=True) >= spread * (1 - 1e-6)).all()
    quantiles = vae.predict_quantiles(rows, left_out=True)
    far = quantiles[..., 2] + 10 * spread
    z = vae._z_of(far, quantiles, vae._measure(True))
    assert (z <= 1.0365 + 10 * (1 + 1e-4)).all()


def test_every_way_to_calibrate_leaves_values_out():
    rows = linked(300, 0)
    for way in (0.3, "cross"):
        vae = small(QuantileVAE, max_epochs=20, calibration_fraction=way).fit(rows)
        n = 90 if way == 0.3 else 300
        assert vae._calibration.blind.shape == (n, 5, 3)
        assert vae._calibration.blind.dtype == np.float32
    plain = small(QuantileVAE, max_epochs=20).fit(rows)
    assert plain.predict_interval(rows[:5], 0.3, left_out=True).shape == (5, 5, 2)
    assert plain.p_values(rows[:5], left_out=True).shape == (5, 5)
    with pytest.raises(ValueError, match="beyond the trained ones"):
        plain.predict_interval(rows, 0.1, left_out=True)


def test_crosswise_residuals_are_by_models_that_have_not_seen_the_rows():
    """By the model itself, which was trained for long on few rows, errors would be smaller."""
    rows = linked(60, 0)
    cross = small(QuantileVAE, n_components=5, max_epochs=200, lr=1e-2, calibration_fraction="cross").fit(rows)
    own = np.abs(rows - cross.predict_quantiles(rows, left_out=True)[..., 1]).mean()
    assert np.abs(cross._calibration.blind[..., 1]).mean() > 1.1 * own


def test_what_a_calibration_costs_is_bounded():
    assert n_affordable(300, 30) == 300
    assert n_affordable(10**6, 30) == 2000
    assert n_affordable(10**6, 77) == 2000
    assert n_affordable(10**6, 200) == 300
    assert n_affordable(10**6, WIDEST) == 100
    assert n_affordable(10**6, WIDEST + 1) == 0
    assert n_affordable(10**6, 10**4, asked_for=True) == 100


def test_spreads_bear_a_tenth_of_anything_and_features_of_which_nothing_is_known():
    errors = np.random.default_rng(0).normal(scale=[1.0, 4.0, 1.0], size=(20_000, 3))
    errors[:1000] *= 1e6
    errors[:, 2] = np.nan
    # 5 % more of the errors lie outside: the .9 quantile of all is the .947 one of the others.
    np.testing.assert_allclose(spread_of(errors, np.full(3, 0.5)), [1.177, 4.71, 0.5], rtol=0.03)
    np.testing.assert_allclose(spread_of(errors[1000:], np.full(3, 0.5)), [1.0, 4.0, 0.5], rtol=0.03)
    np.testing.assert_array_equal(spread_of(np.zeros((5, 2)), np.array([0.1, 0.2])), [0.1, 0.2])


def test_a_calibration_without_left_out_values_says_so_and_what_to_do(tmp_path, monkeypatch):
    rows, held_out = linked(200, 0), linked(100, 1)
    vae = small(QuantileVAE).fit(rows).conformalize(held_out, left_out=False)
    assert vae._calibration.blind is None
    for method, given in (("predict_interval", (0.1,)), ("p_values", ()), ("detect_features", ())):
        getattr(vae, method)(rows, *given)
        with pytest.raises(ValueError, match=r"Call conformalize\(X_cal, left_out=True\)"):
            getattr(vae, method)(rows, *given, left_out=True)
    assert vae.z_scores(rows, left_out=True).shape == rows.shape  # of the model
    monkeypatch.setattr("riskvae.detection._left_out.WIDEST", 4)
    assert vae.conformalize(held_out)._calibration.blind is None
    assert len(vae.conformalize(held_out, left_out=True)._calibration.blind) == 100


@pytest.mark.parametrize("way", ["file", "pickle"])
def test_a_saved_model_has_it_and_older_files_lack_it(vae, way, tmp_path):
    rows = linked(20, 2)

    def sent(model):
        if way == "pickle":
            return pickle.loads(pickle.dumps(model))
        model.save(tmp_path / "m.riskvae")
        return riskvae.load(tmp_path / "m.riskvae")

    np.testing.assert_array_equal(
        sent(vae).predict_interval(rows, 0.1, left_out=True), vae.predict_interval(rows, 0.1, left_out=True)
    )
    state = {field.name: getattr(vae._calibration, field.name) for field in dataclasses.fields(vae._calibration)}
    del state["blind"]
    assert Calibration.from_state(state, 5, 3).blind is None
    older = pickle.loads(pickle.dumps(vae))
    older._calibration = Calibration.from_state(state, 5, 3)
    again = sent(older)
    np.testing.assert_array_equal(again.predict_interval(rows, 0.1), vae.predict_interval(rows, 0.1))
    with pytest.raises(ValueError, match="file of an earlier version"):
        again.p_values(rows, left_out=True)


def test_damaged_residuals_are_refused():
    good = {"scores": np.arange(4.0), "residuals": np.zeros((4, 2, 3), np.float32), "left_out": 0, "groups": {}}
    for blind in (np.zeros((4, 3, 2), np.float32), np.zeros((4, 2, 3)), np.full((4, 2, 3), np.inf, np.float32), 3):
        with pytest.raises(ValueError, match="blind must be finite"):
            Calibration.from_state({**good, "blind": blind}, 2, 3)
    with pytest.raises(ValueError, match="no more rows than residuals"):
        Calibration.from_state({**good, "blind": np.zeros((5, 2, 3), np.float32)}, 2, 3)


def test_bad_input(vae):
    for method, given in (("predict_quantiles", ()), ("predict_interval", (0.1,)), ("predict_scale", ()),
                          ("z_scores", ()), ("p_values", ()), ("detect_features", ())):  # fmt: skip
        with pytest.raises(TypeError, match="left_out must be True or False; got 1"):
            getattr(vae, method)(linked(5, 0), *given, left_out=1)
    with pytest.raises(TypeError, match="conformalize: left_out must be 'auto', or True or False"):
        vae.conformalize(linked(50, 3), left_out=None)


def test_anomalies_do_not_calibrate_what_is_said_without_a_value():
    rng = np.random.default_rng(0)
    t = rng.normal(size=(900, 1))
    X = np.hstack((t, -t, 2 * t)) + 0.1 * rng.normal(size=(900, 3))
    rows = X[600:].copy()
    rows[:30, 1] += 50.0  # a tenth of the calibration rows, whose other values are mispredicted with this one
    vae = QuantileVAE(2, hidden_layer_sizes=(32,), lr=3e-3, n_folds=0, max_epochs=60, random_state=0).fit(X[:600])
    vae.conformalize(rows, contamination=0.1)
    assert vae._calibration.left_out == 30
    assert len(vae._calibration.blind) == 270
    assert len(vae._calibration.residuals) == 300  # of seen values they stay: intervals hold for all rows
    p = vae.p_values([[0.5, -0.5, 3.0]], left_out=True)  # the last one should have been 1
    assert p[0, 2] < 0.01
