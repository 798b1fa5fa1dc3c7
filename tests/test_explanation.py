"""Why a row is unusual: shares, causes, and what a value should have been."""

import sys
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import small
from sklearn.datasets import load_wine
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    MinMaxScaler,
    PowerTransformer,
    QuantileTransformer,
    RobustScaler,
    StandardScaler,
)
from torch.utils.data import TensorDataset

from riskvae import BetaVAE, QuantileVAE, explain
from riskvae.detection._explanation import causes, rises, shares

COLUMNS = ["row", "feature", "value", "expected", "lower", "upper", "p", "share", "cause"]


def linked(n, seed):
    """Rows of six features that follow two factors, with noise of .3."""
    rng = np.random.default_rng(seed)
    loadings = np.random.default_rng(9).normal(size=(2, 6))
    return rng.normal(size=(n, 2)) @ loadings + 0.3 * rng.normal(size=(n, 6))


@pytest.fixture(scope="module")
def vae():
    return small(QuantileVAE, n_components=4, max_epochs=100, lr=5e-3, n_folds=1).fit(linked(1200, 0)).conformalize(
        linked(400, 1)
    )  # fmt: skip


# ------------------------------------------------------------------------------------- scores alone


class Normal:
    """Log-density of a normal variable with zero mean, of whatever is known of it: marginal, so exact for each row."""

    def __init__(self, covariance):
        self.covariance = covariance

    def __call__(self, rows):
        scores = np.empty(len(rows))
        for i, row in enumerate(rows):
            known = ~np.isnan(row)
            part = self.covariance[np.ix_(known, known)]
            scores[i] = -0.5 * row[known] @ np.linalg.solve(part, row[known]) if known.any() else 0.0
        return scores


COVARIANCE = np.cov(linked(5000, 3).T)


def test_in_a_normal_density_a_rise_is_half_the_squared_left_out_z_score():
    rows, score = linked(50, 4), Normal(COVARIANCE)
    precision = np.linalg.inv(COVARIANCE)
    z = rows @ precision / np.sqrt(np.diag(precision))  # by the others: the conditional mean and deviation
    np.testing.assert_allclose(rises(score, rows, score(rows)), 0.5 * z**2, rtol=1e-9, atol=1e-12)


def test_the_value_that_was_changed_has_the_largest_rise_by_cauchy_and_schwarz():
    score = Normal(COVARIANCE)
    for j in range(6):
        row = np.zeros((1, 6))
        row[0, j] = 3.0
        found = rises(score, row, score(row))[0]
        assert found.argmax() == j
        assert causes(score, row, score(row), -2.0, found[None])[0].nonzero()[0].tolist() == [j]


def test_rises_are_those_of_each_value_by_itself_in_parts_too(monkeypatch):
    rows, score = linked(9, 4), Normal(COVARIANCE)
    rows[2, 1] = rows[3, :] = np.nan
    expected = np.zeros(rows.shape)
    for i, j in np.ndindex(rows.shape):
        one = rows[i : i + 1].copy()
        one[0, j] = np.nan
        expected[i, j] = score(one)[0] - score(rows[i : i + 1])[0]
    np.testing.assert_allclose(rises(score, rows, score(rows)), expected, atol=1e-12)
    monkeypatch.setattr("riskvae.detection._explanation._CHUNK", 6 * 4)
    np.testing.assert_allclose(rises(score, rows, score(rows)), expected, atol=1e-12)
    assert (rises(score, rows, score(rows))[np.isnan(rows)] == 0).all()


def test_shares_add_up_to_one_or_are_all_zero():
    found = shares(np.array([[1.0, 3.0, -2.0], [-1.0, 0.0, -3.0], [0.0, 5.0, 0.0]]))
    np.testing.assert_array_equal(found, [[0.25, 0.75, 0.0], [0.0, 0.0, 0.0], [0.0, 1.0, 0.0]])


def apart(weights):
    """Score whose values add up."""
    return lambda rows: -np.nansum(rows * weights, axis=1)


def test_causes_are_the_largest_ones_until_the_row_is_none():
    rows = np.array([[5.0, 1.0, 3.0, 1.0], [1.0, 1.0, 1.0, 1.0], [9.0, 0.0, 0.0, 0.0]])
    score = apart(np.ones(4))
    first = rises(score, rows, score(rows))
    found = causes(score, rows, score(rows), -4.0, first)
    np.testing.assert_array_equal(found, [[True, False, True, False], [False] * 4, [True, False, False, False]])
    assert not causes(score, rows, score(rows), -4.0 - 1e9, first).any()
    # A row that lies on the line is not below it.
    assert not causes(score, rows[1:2], score(rows[1:2]), -4.0, first[1:2]).any()
    odd = first < first.max(1, keepdims=True)  # the largest is as expected, and so no cause
    assert not (causes(score, rows, score(rows), -4.0, first, odd) & ~odd).any()


def test_causes_that_turn_out_to_be_needless_are_put_back():
    """One value has the largest rise, but two others explain the row without it."""

    def score(rows):
        a, b, c = (np.nan_to_num(rows[:, j]) for j in range(3))
        return -4.0 * b - 4.0 * c - a * (1.0 + 5.0 * ((b > 0) | (c > 0)))

    rows = np.ones((1, 3))
    first = rises(score, rows, score(rows))
    assert first[0].argmax() == 0
    # Without a the score is -8, without b and c it is -1: above -2.
    np.testing.assert_array_equal(causes(score, rows, score(rows), -2.0, first), [[False, True, True]])


def test_causes_end_after_ten_values_and_where_nothing_helps():
    rows = np.ones((1, 30))
    score = apart(np.linspace(1.0, 2.0, 30))
    found = causes(score, rows, score(rows), -1.0, rises(score, rows, score(rows)))[0]
    assert found.nonzero()[0].tolist() == list(range(20, 30))
    worse = apart(-np.ones(30))
    assert not causes(worse, rows, worse(rows), 100.0, rises(worse, rows, worse(rows))).any()


# --------------------------------------------------------------------------------------- the method


def changed(n, k, seed, by=4.0):
    """Rows with k values changed by some, and which; the largest of these features' spreads is 2."""
    rng = np.random.default_rng(seed)
    rows, where = linked(n, seed), np.zeros((n, 6), bool)
    for i in range(n):
        where[i, rng.choice(6, k, replace=False)] = True
    return rows + where * by * rng.choice([-1, 1], size=where.shape), where


def wide(table, name, n):
    return table[name].to_numpy().reshape(n, -1)


def test_the_changed_value_is_found_among_those_that_moved_along(vae):
    rows, where = changed(200, 1, 5)
    table = vae.explain(rows)
    flagged = vae.predict(rows) == -1
    assert flagged.mean() > 0.9
    share, cause = wide(table, "share", 200)[flagged], wide(table, "cause", 200)[flagged]
    where = where[flagged]
    # Of some 190 rows; in trials 98 to 100 % of these, over eight seeds.
    assert where[np.arange(len(where)), share.argmax(1)].mean() > 0.93
    assert (cause == where).all(1).mean() > 0.9
    # Of z-scores several stand out in each row, by features that the change drags along.
    z = np.abs(vae.z_scores(rows))[flagged]
    assert (z > 2).sum(1).mean() > 1.5
    p = wide(table, "p", 200)[flagged]
    assert (p[where] < 0.01).mean() > 0.9


def test_two_changed_values_are_the_cause_together(vae):
    rows, where = changed(200, 2, 6, by=6.0)
    table = vae.explain(rows)
    cause = wide(table, "cause", 200)
    # One of them may be enough; what is named should be one of them.
    assert (cause & where).sum() > 0.9 * cause.sum()
    assert (cause == where).all(1).mean() > 0.6


@pytest.mark.filterwarnings("ignore:.*values are missing in")  # the model has met whole rows
def test_a_row_without_its_causes_is_no_outlier_and_each_of_them_is_needed(vae):
    rows, _ = changed(100, 2, 7)
    cause = wide(vae.explain(rows), "cause", 100)
    outlier = vae.predict(rows) == -1
    np.testing.assert_array_equal(cause.any(1), outlier)
    assert (wide(vae.explain(rows), "p", 100)[cause] < 0.5).all()
    less = np.where(cause, np.nan, rows)
    explained = vae.predict(less) == 1
    assert explained.mean() > 0.95  # a row or two where no single further value helps
    for i in np.flatnonzero((cause.sum(1) > 1) & explained):
        for j in np.flatnonzero(cause[i]):
            more = less[i : i + 1].copy()
            more[0, j] = rows[i, j]
            assert vae.predict(more)[0] == -1


@pytest.mark.filterwarnings("ignore:.*values are missing in")  # the model has met whole rows
def test_columns_are_what_other_methods_say(vae):
    rows = linked(20, 8)
    rows[3, 2] = np.nan
    table = vae.explain(rows, alpha=0.2)
    assert list(table.columns) == COLUMNS
    assert len(table) == 120
    assert table["row"].tolist() == np.repeat(np.arange(20), 6).tolist()
    assert table["feature"].tolist() == [f"x{j}" for j in range(6)] * 20
    np.testing.assert_array_equal(wide(table, "value", 20), rows)
    interval = vae.predict_interval(rows, 0.2, left_out=True)
    np.testing.assert_allclose(wide(table, "lower", 20), interval[..., 0], rtol=1e-12)
    np.testing.assert_allclose(wide(table, "upper", 20), interval[..., 1], rtol=1e-12)
    np.testing.assert_array_equal(wide(table, "p", 20), vae.p_values(rows, left_out=True))
    median = vae.predict_quantiles(rows, left_out=True)[..., 1]
    np.testing.assert_allclose(wide(table, "expected", 20), median, rtol=1e-12)
    share = wide(table, "share", 20)
    np.testing.assert_allclose(share.sum(1), 1.0)
    assert share[3, 2] == 0
    assert np.isnan(wide(table, "p", 20)[3, 2])
    assert np.isfinite(interval[3, 2]).all()
    less = rows.copy()
    less[:, 4] = np.nan
    rise = vae.score_samples(less) - vae.score_samples(rows)
    others = [j for j in range(6) if j != 4]
    np.testing.assert_array_equal(rise <= 0, share[:, 4] == 0)
    assert share[:, others].shape == (20, 5)


def test_rows_and_columns_keep_their_names(vae):
    frame = pd.DataFrame(linked(1200, 0), columns=list("abcdef"))
    named = small(QuantileVAE, calibration_fraction=0.3).fit(frame)
    some = frame.iloc[[5, 3]].set_axis(["five", "three"])
    table = named.explain(some)
    assert table["row"].tolist() == ["five"] * 6 + ["three"] * 6
    assert table["feature"].tolist() == list("abcdef") * 2
    two = some.set_axis(pd.MultiIndex.from_tuples([("p", 1), ("q", 2)]))
    assert named.explain(two)["row"].iloc[-1] == ("q", 2)
    data = TensorDataset(torch.tensor(some.to_numpy(dtype=np.float32)))
    table32 = named.explain(data)
    assert table32["row"].unique().tolist() == [0, 1]
    assert table32["feature"].tolist() == table["feature"].tolist()
    assert table32["value"].dtype == np.float32
    integers = vae.explain(np.arange(12).reshape(2, 6))
    assert len(integers) == 12


def test_the_features_with_the_largest_shares(vae):
    rows, _ = changed(20, 1, 9)
    whole, top = vae.explain(rows), vae.explain(rows, max_features=2)
    assert len(top) == 40
    for i in range(20):
        best = whole[whole["row"] == i].sort_values("share", ascending=False, kind="stable").head(2)
        pd.testing.assert_frame_equal(top[top["row"] == i].reset_index(drop=True), best.reset_index(drop=True))
    assert len(vae.explain(rows, max_features=99)) == 120


def test_the_line_that_was_set_by_hand_decides(vae):
    rows = linked(30, 10)
    offset = vae.offset_
    try:
        vae.offset_ = 1e6
        assert vae.explain(rows)["cause"].any()
        vae.offset_ = -1e6
        assert not vae.explain(rows)["cause"].any()
    finally:
        vae.offset_ = offset


def test_absurd_values_are_explained_too(vae):
    rows = linked(2, 11)
    rows[0, 3], rows[1, 5] = 1e30, -1e15
    table = vae.explain(rows)
    cause = wide(table, "cause", 2)
    assert cause[0].nonzero()[0].tolist() == [3]
    assert cause[1].nonzero()[0].tolist() == [5]
    assert np.isfinite(table[["expected", "lower", "upper", "p", "share"]].to_numpy()).all()


def test_without_calibration_the_table_says_whose_intervals_these_are():
    rows = linked(200, 0)
    vae = small(QuantileVAE).fit(rows)
    with pytest.warns(UserWarning, match="explain: the model is not calibrated, .* the model's own"):
        table = vae.explain(rows[:5])  # alpha = .1 lies beyond the trained levels
    assert (table["lower"] < table["upper"]).all()
    vae.conformalize(linked(100, 1), left_out=False)
    with pytest.warns(UserWarning, match=r"its calibration left no values out, .*conformalize\(X_cal, left_out=True\)"):
        vae.explain(rows[:5])


def test_bad_input(vae, monkeypatch):
    rows = linked(5, 0)
    with pytest.raises(NotFittedError):
        QuantileVAE().explain(rows)
    with pytest.raises(ValueError, match=r"explain: alpha must be a number in \(0, 1\); got 1.5"):
        vae.explain(rows, alpha=1.5)
    with pytest.raises(ValueError, match="explain: max_features must be an integer of at least 1, or None; got 0"):
        vae.explain(rows, max_features=0)
    with pytest.raises(ValueError, match="explain needs the distance between quantiles"):
        small(QuantileVAE, quantiles=(0.5,)).fit(linked(100, 0)).explain(rows)
    with pytest.raises(ValueError, match="4 features"):
        vae.explain(rows[:, :4])
    beta = small(BetaVAE).fit(rows)
    with pytest.raises(TypeError, match=r"got BetaVAE, which has neither .* Train a QuantileVAE"):
        explain(beta, rows)
    with pytest.raises(TypeError, match="the last step of the pipeline must be a QuantileVAE; it is BetaVAE"):
        explain(make_pipeline(StandardScaler(), small(BetaVAE)).fit(rows), rows)
    with pytest.raises(NotFittedError):
        explain(make_pipeline(StandardScaler(), QuantileVAE()), rows)
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r"explain makes a pandas DataFrame; install pandas \(pip install pandas\)"):
        vae.explain(rows)


# --------------------------------------------------------------------------------------- pipelines

WINE = load_wine(as_frame=True).data
STEPS = {
    "standard": (StandardScaler(),),
    "robust": (RobustScaler(),),
    "range": (MinMaxScaler(),),
    "power": (PowerTransformer(),),
    "quantiles": (QuantileTransformer(n_quantiles=50, output_distribution="normal"),),
    "several": (FunctionTransformer(np.log1p, np.expm1), "passthrough", StandardScaler()),
    "upside down": (FunctionTransformer(np.negative, np.negative), StandardScaler()),
    "frames": (StandardScaler().set_output(transform="pandas"),),
}


@pytest.mark.parametrize("name", STEPS)
def test_a_pipeline_is_explained_in_the_units_of_its_table(name):
    pipe = make_pipeline(*STEPS[name], small(QuantileVAE, calibration_fraction=0.4)).fit(WINE)
    rows = WINE.iloc[[17, 3]].copy()
    rows.loc[17, "ash"] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = explain(pipe, rows, alpha=0.2)
    inner = pipe[-1].explain(pipe[:-1].transform(rows), alpha=0.2)
    assert list(table.columns) == COLUMNS
    assert table["feature"].tolist() == list(WINE.columns) * 2
    assert table["row"].tolist() == [17] * 13 + [3] * 13
    np.testing.assert_array_equal(wide(table, "value", 2), rows)
    for same in ("p", "share", "cause"):
        np.testing.assert_array_equal(table[same], inner[same])
    forward = [pipe[:-1].transform(pd.DataFrame(wide(table, end, 2), columns=WINE.columns)) for end in
               ("lower", "expected", "upper")]  # fmt: skip
    low, high = ("upper", "lower") if name == "upside down" else ("lower", "upper")
    for ours, theirs in zip(forward, (low, "expected", high), strict=True):
        near = np.isclose(np.asarray(ours), wide(inner, theirs, 2), rtol=1e-4, atol=1e-4)
        # A map to quantiles is flat beyond the rows that it has seen, and so are its ends.
        assert near.mean() > (0.5 if name == "quantiles" else 0.999)
    assert (table["lower"] <= table["upper"]).all()


def test_values_beyond_what_a_step_has_seen_do_not_speak_against_it():
    steps = (
        QuantileTransformer(n_quantiles=50, output_distribution="normal"),
        small(QuantileVAE, calibration_fraction=0.4),
    )
    pipe = make_pipeline(*steps).fit(WINE)
    far = 10.0 * WINE.iloc[[17]]
    table = explain(pipe, far)
    np.testing.assert_array_equal(table["value"], far.to_numpy()[0])
    assert (table["upper"] <= WINE.max().to_numpy()).all()


def test_infinite_ends_stay_infinite_in_the_units_of_the_table():
    pipe = make_pipeline(StandardScaler(), small(QuantileVAE, calibration_fraction=0.05, n_folds=0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        table = explain(pipe.fit(WINE), WINE.iloc[:2], alpha=0.01)
    assert (table["lower"] == -np.inf).all()
    assert (table["upper"] == np.inf).all()


def test_a_pipeline_of_one_step_and_a_model_are_explained_as_they_are(vae):
    rows = linked(5, 3)
    pd.testing.assert_frame_equal(explain(vae, rows), vae.explain(rows))
    pd.testing.assert_frame_equal(explain(Pipeline([("only", vae)]), rows), vae.explain(rows))


MIXING = {
    "PCA": (PCA(13), "mixes columns"),
    "fewer columns": (PCA(3), "makes 3 columns of 13"),
    "no inverse": (FunctionTransformer(np.log1p), "is not undone by its inverse_transform"),
}


@pytest.mark.parametrize("name", MIXING)
def test_steps_that_cannot_be_undone_column_by_column_are_refused(name):
    step, why = MIXING[name]
    pipe = make_pipeline(step, small(QuantileVAE, calibration_fraction=0.4)).fit(WINE)
    with pytest.raises(ValueError, match=rf"{why}.*riskvae.explain\(pipe\[-1\], pipe\[:-1\].transform\(X\)\)"):
        explain(pipe, WINE)
    assert len(explain(pipe[-1], pipe[:-1].transform(WINE.iloc[:2]))) > 0


def test_a_step_without_an_inverse_is_refused():
    class Doubling(StandardScaler):
        @property
        def inverse_transform(self):
            raise AttributeError

    pipe = make_pipeline(Doubling(), small(QuantileVAE, calibration_fraction=0.4)).fit(WINE)
    with pytest.raises(ValueError, match="has no inverse_transform"):
        explain(pipe, WINE)
