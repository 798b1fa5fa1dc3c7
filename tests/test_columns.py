"""Columns of different kinds in one table: what comes in comes back, and each kind is told from the others."""

import pickle
import warnings

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from helpers import small
from sklearn.base import clone
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV

from riskvae import BetaTCVAE, BetaVAE, QuantileVAE, RiskAwareVAE, load, robustness_margin
from riskvae.likelihoods import Categorical, Gaussian, Mixed, NegativeBinomial, Poisson, Quantiles, StudentT
from riskvae.likelihoods._scaled import center_and_spread

ALL = [BetaVAE, RiskAwareVAE, BetaTCVAE, QuantileVAE]


def make_table(n=400, seed=0):
    """A hidden number decides all columns: of numbers, strings, counts, booleans, categories, 0 and 1."""
    rng = np.random.default_rng(seed)
    t = rng.normal(size=n)
    return pd.DataFrame(
        {
            "income": 1e5 * np.exp(0.5 * t + 0.1 * rng.normal(size=n)),
            "town": np.where(t + 0.3 * rng.normal(size=n) > 0, "Bern", np.where(rng.random(n) < 0.5, "Chur", "Genf")),
            "age": 50 + 10 * t + 2 * rng.normal(size=n),
            "visits": rng.negative_binomial(2, 1 / (1 + np.exp(t))),
            "member": t + 0.1 * rng.normal(size=n) > 0,
            "level": pd.Categorical(np.where(t > 1, "high", "low"), ["low", "high", "never"]),
            "flag": (t < -1).astype(int),
        },
        index=pd.RangeIndex(100, 100 + n),
    )


@pytest.fixture(scope="module")
def table():
    return make_table()


@pytest.fixture(scope="module")
def likelihood(table):
    return Mixed.from_frame(table)


@pytest.fixture(scope="module", params=ALL, ids=lambda cls: cls.__name__)
def fitted(request, table, likelihood):
    more = {"calibration_fraction": 0.3} if request.param is QuantileVAE else {}
    return small(request.param, likelihood=likelihood, max_epochs=60, lr=3e-3, **more).fit(table)


# ------------------------------------------------------------------------------------------ from_frame


def test_columns_tell_their_likelihoods(table, likelihood):
    kinds = {name: repr(one) for name, one in likelihood.columns.items()}
    assert kinds == {
        "income": "LogNormal()",
        "town": "Categorical(categories=('Bern', 'Chur', 'Genf'))",
        "age": "Gaussian(per_feature=True)",
        "visits": "NegativeBinomial()",
        "member": "Categorical(categories=(False, True))",
        "level": "Categorical(categories=('low', 'high', 'never'))",
        "flag": "Categorical(categories=(0, 1))",
    }
    assert repr(Mixed.from_frame(table.mask(table.isna() | (table == "nobody")))) == repr(likelihood)
    holes = table.astype(object).mask(np.random.default_rng(0).random(table.shape) < 0.3, None)
    same = Mixed.from_frame(holes).columns
    assert {name: repr(one) for name, one in same.items() if name != "level"} == {
        name: kind for name, kind in kinds.items() if name != "level"
    }


def test_polars_columns_are_the_same(table, likelihood):
    frame = pl.DataFrame({name: table[name].astype(object).tolist() for name in table})
    found = Mixed.from_frame(frame).columns
    assert {name: type(one) for name, one in found.items()} == {
        name: type(one) for name, one in likelihood.columns.items()
    }


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (
            pd.date_range("2020", periods=6),
            r"'bad' holds datetime64.*: take what repeats, such as the month;.*the time between two dates",
        ),
        ([f"2020-01-0{i}" for i in range(1, 7)], "'bad' holds dates as strings"),
        (list("123456"), r"'bad' holds numbers as strings: convert them by pandas.to_numeric\(X\['bad'\]\);"),
        (pd.cut(range(6), 2), "'bad' has categories of Interval: name them by strings"),
        (pd.Categorical([None] * 6), "'bad' holds nothing but missing values"),
        (pd.to_timedelta(range(6), unit="D"), "'bad' holds timedelta.*: make them numbers"),
        ([None] * 6, "'bad' holds nothing but missing values: leave it out"),
        ([np.inf] * 6, r"'bad' holds infinity in 6 rows: make these values missing \(NaN\)"),
        ([0.5, -np.inf, None, 1.5, 2.5, 4.0], "'bad' holds infinity in 1 row:"),
        (["a", 1, "b", 2.5, "c", 3], r"'bad' holds float, int, str: make them all numbers, or all strings"),
        ([[1], [2], [3], [4], [5], [6]], "'bad' holds list"),
    ],
)
def test_columns_without_a_likelihood_are_named(column, message):
    X = pd.DataFrame({"good": range(6), "bad": column, "worse": [None] * 6})
    with pytest.raises(ValueError, match=message) as error:
        Mixed.from_frame(X)
    assert "'worse'" in str(error.value)  # all of them at once


def test_what_may_be_a_mistake_is_told():
    rng = np.random.default_rng(0)
    X = pd.DataFrame(
        {"temp": rng.uniform(8, 40, 300), "amount": rng.lognormal(3, 1, 300), "city": ["Bern", "Chur"] * 150}
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Mixed.from_frame(X)
    X.loc[:9, "temp"], X.loc[:3, "amount"], X.loc[:1, "city"] = -999.0, 0.0, " BERN"
    with pytest.warns(UserWarning, match=r"'temp' holds -999 in 10 rows, and otherwise .*make it NaN") as told:
        Mixed.from_frame(X)
    assert "'amount' would be LogNormal but for 4 zeros" in str(told[0].message)
    assert "'city' has labels that differ in case or spaces alone, such as ' BERN', 'Bern'" in str(told[0].message)
    for numbered in (rng.choice(3000, 300, replace=False), np.r_[:280, :20]):  # a sample of rows, and rows that repeat
        with pytest.warns(UserWarning, match="'customer' holds another whole number in nearly every row: if it"):
            Mixed.from_frame(pd.DataFrame({"customer": numbered, "temp": rng.uniform(8, 40, 300)}))
    for measured in (rng.choice(10**6, 300), rng.normal(50, 15, 300).round(), rng.choice(3000, 300) / 10):
        Mixed.from_frame(pd.DataFrame({"measured": measured}))  # here, warnings are errors
    with pytest.raises(ValueError, match="Mixed: unknown must be one of 'error', 'missing'; got 'ignore'"):
        Mixed.from_frame(X, unknown="ignore")
    numbers = [f"{value:.4f}".replace(".", ",") for value in rng.normal(size=300)]
    with pytest.raises(ValueError, match="'a' holds numbers with decimal commas: read them by"):
        Mixed.from_frame(pd.DataFrame({"a": numbers}))
    numbers[7] = "unknown"
    with pytest.raises(ValueError, match="'a' holds numbers with decimal commas, and 1 string such as 'unknown': read"):
        Mixed.from_frame(pd.DataFrame({"a": numbers}))


def test_what_stands_for_something_else_is_named():
    rng = np.random.default_rng(0)
    X = pd.DataFrame({"code": rng.integers(1, 5, 50), "bytes": np.r_[0, rng.integers(1, 10**9, 49)]})
    found = Mixed.from_frame(X, categorical=["code"]).columns
    assert found["code"].labels == (1, 2, 3, 4)
    assert isinstance(found["bytes"], Gaussian)  # too large for counts
    enum = pl.DataFrame({"town": pl.Series(["u", "v"], dtype=pl.Enum(["u", "v", "w"]))})
    assert Mixed.from_frame(enum).columns["town"].labels == ("u", "v", "w")
    with pytest.raises(ValueError, match="'id' numbers the rows: leave it out"):
        Mixed.from_frame(X.assign(id=rng.permutation(50) + 1000))
    with pytest.raises(ValueError, match="2 columns named 'a'"):
        Mixed.from_frame(pd.DataFrame(np.zeros((3, 2)), columns=["a", "a"]))
    with pytest.raises(ValueError, match="categorical must be names of columns"):
        Mixed.from_frame(X, categorical=["region"])


def test_identifiers_are_refused_by_name():
    X = pd.DataFrame({"name": [f"n{i}" for i in range(200)]})
    with pytest.raises(ValueError, match=r"'name' holds 200 different strings in 200 rows.*max_categories=100"):
        Mixed.from_frame(X)
    assert len(Mixed.from_frame(X, max_categories=200).columns["name"].categories) == 200
    with pytest.raises(TypeError, match=r"must be a DataFrame.*got ndarray"):
        Mixed.from_frame(np.zeros((3, 2)))


# -------------------------------------------------------------------------------- there and back again


def test_rows_come_back_as_they_are_written(fitted, table):
    rebuilt = fitted.reconstruct(table)
    assert rebuilt.shape == table.shape
    assert set(rebuilt[:, 1]) <= {"Bern", "Chur", "Genf"}
    assert set(rebuilt[:, 4]) <= {True, False}
    assert (rebuilt[:, 1] == table["town"].to_numpy()).mean() > 0.6
    assert (rebuilt[:, 4] == table["member"].to_numpy()).mean() > 0.8
    for name in ("income", "age"):  # raw units, nothing scaled
        j = table.columns.get_loc(name)
        assert np.corrcoef(rebuilt[:, j].astype(float), table[name])[0, 1] > 0.7
    assert fitted.sample(3).shape == (3, 7)
    assert set(fitted.sample(50, observation_noise=True)[:, 5]) <= {"low", "high", "never"}


@pytest.mark.parametrize("container", ["pandas", "polars"])
def test_a_frame_in_a_frame_out(fitted, table, container):
    vae = clone(fitted).set_output(transform=container)
    vars(vae).update({name: value for name, value in vars(fitted).items() if name not in vars(vae)})
    for rows in (
        vae.reconstruct(table),
        vae.impute(table),
        vae.sample(4),
        vae.inverse_transform(np.zeros((2, vae._n_features_out))),
    ):
        assert type(rows).__module__.split(".")[0] == container
        assert list(rows.columns) == list(table.columns)
    rows = vae.reconstruct(table)
    if container == "pandas":
        assert (rows.index == table.index).all()
        assert rows["member"].dtype == bool
        assert rows["income"].dtype == np.float64


def test_missing_values_are_filled_in(fitted, table):
    rng = np.random.default_rng(2)
    holes = table.astype(object).mask(rng.random(table.shape) < 0.25, None)
    filled = pd.DataFrame(fitted.impute(holes), columns=table.columns, index=table.index)
    known = holes.notna()
    assert not filled.isna().any().any()
    for name in table:
        there = known[name]
        assert (filled.loc[there, name].astype(object) == table.loc[there, name].astype(object)).all()
    lost = ~known["member"]
    assert (filled.loc[lost, "member"].astype(bool) == table.loc[lost, "member"]).mean() > 0.75
    drawn = fitted.impute(holes, n_draws=3, random_state=0)
    assert drawn.shape == (3, *table.shape)
    assert set(drawn[..., 1].ravel()) <= {"Bern", "Chur", "Genf"}


def test_missing_values_in_training(table, likelihood):
    rng = np.random.default_rng(3)
    holes = table.astype(object).mask(rng.random(table.shape) < 0.2, None)
    vae = small(BetaVAE, likelihood=likelihood, max_epochs=60, lr=3e-3).fit(holes)
    assert (vae.reconstruct(table)[:, 4] == table["member"].to_numpy()).mean() > 0.8
    assert np.isfinite(vae.score_samples(holes)).all()
    np.testing.assert_allclose(vae.score_samples(holes)[:5], vae.score_samples(holes.iloc[:5]), rtol=1e-9)


def test_files_pickles_clones_and_grids(fitted, table, tmp_path):
    fitted.save(tmp_path / "table.riskvae")
    for again in (load(tmp_path / "table.riskvae"), pickle.loads(pickle.dumps(fitted))):
        np.testing.assert_array_equal(again.score_samples(table), fitted.score_samples(table))
        np.testing.assert_array_equal(again.reconstruct(table), fitted.reconstruct(table))
    assert repr(clone(fitted).likelihood) == repr(fitted.likelihood)


def test_a_grid_over_folds_knows_all_categories(table, likelihood):
    search = GridSearchCV(small(BetaVAE, likelihood=likelihood, max_epochs=3), {"beta": [0.5, 2.0]}, cv=3).fit(table)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


def test_arrays_have_labels_or_codes(table, likelihood, fitted):
    rows = table.to_numpy(dtype=object)
    plain = clone(fitted).fit(rows)
    assert set(plain.reconstruct(rows)[:, 1]) <= {"Bern", "Chur", "Genf"}
    codes = likelihood.codes(table).to_numpy(dtype=float)
    np.testing.assert_array_equal(plain.score_samples(codes), plain.score_samples(rows))
    named = Mixed({0: Categorical((10, 20)), 1: Gaussian()})
    X = np.column_stack((np.tile([10, 20], 50), np.random.default_rng(0).normal(size=100)))
    vae = small(BetaVAE, likelihood=named).fit(X)
    assert set(vae.reconstruct(X)[:, 0]) <= {10, 20}


@pytest.mark.parametrize("labels", [(2, 0, 1), (1, 2, 3), ("a", "b", "c")])
def test_a_dataset_gives_codes_whatever_the_labels(labels):
    rng = np.random.default_rng(0)
    codes = np.column_stack((rng.integers(0, 3, 200), rng.normal(size=200))).astype(np.float32)
    data = torch.utils.data.TensorDataset(torch.from_numpy(codes))
    rows = codes.astype(object)
    rows[:, 0] = np.array(labels, dtype=object)[codes[:, 0].astype(int)]
    vae = small(QuantileVAE, likelihood=Mixed({"a": Categorical(labels), "b": Gaussian()})).fit(data)
    np.testing.assert_allclose(vae.score_samples(data), vae.score_samples(rows), rtol=1e-5)
    if labels[0] != "a":
        tensor = torch.from_numpy(rows.astype(np.float32))
        np.testing.assert_allclose(vae.score_samples(tensor), vae.score_samples(rows), rtol=1e-5)


def test_who_asks_for_a_table_is_told_how(table):
    for asked in (Mixed, "mixed"):
        with pytest.raises((TypeError, ValueError), match=r"got .*For a table, pass riskvae.likelihoods.Mixed.from_fr"):
            BetaVAE(likelihood=asked).fit(table)


@pytest.mark.parametrize("cls", ALL)
def test_unknown_categories_may_pass_as_missing(cls, table):
    vae = small(cls, likelihood=Mixed.from_frame(table, unknown="missing")).fit(table)
    new = table.head(3).assign(town="Rom")
    np.testing.assert_array_equal(vae.score_samples(new), vae.score_samples(new.assign(town=None)))


def test_a_constant_column_beside_holes_trains():
    """Its mean is rounded, so that its values seem to differ from it."""
    rng = np.random.default_rng(0)
    rows = np.column_stack((rng.normal(size=500), np.full(500, 2.1)))
    rows[::10, 0] = np.nan
    vae = small(BetaVAE, likelihood=Mixed({"a": Gaussian(), "b": Gaussian()})).fit(rows)
    assert np.isfinite(vae.score_samples(rows)).all()
    assert torch.equal(center_and_spread(torch.full((450, 1), 2.1))[1], torch.zeros(1))


def test_a_column_that_is_constant_at_first_finds_its_unit_later():
    t = np.random.default_rng(0).normal(size=300)
    vae = small(BetaVAE, likelihood=Mixed({"a": Gaussian(), "b": Gaussian()}), lr=3e-3)
    vae.partial_fit(np.column_stack((np.zeros(300), t)))
    for _ in range(40):
        vae.partial_fit(np.column_stack((100 * t, t)))
    assert vae.score(np.column_stack((100 * t, t))) > -9.0  # of a normal with that spread: -7.4


def test_digits_that_training_cannot_see_are_told():
    t = np.random.default_rng(0).normal(size=100)
    for column in (1.7e18 + 1e15 * t, 1e12 + np.arange(100.0)):
        with pytest.raises(ValueError, match=r"column 'when' has values around .*Subtract its least value"):
            small(BetaVAE, likelihood=Mixed({"when": Gaussian(), "b": Gaussian()})).fit(np.column_stack((column, t)))


def test_a_dataset_gives_codes(table, likelihood):
    codes = torch.from_numpy(likelihood.codes(table).to_numpy(dtype=np.float32))
    vae = small(BetaVAE, likelihood=likelihood).fit(torch.utils.data.TensorDataset(codes))
    found = vae.score_samples(torch.utils.data.TensorDataset(codes))
    assert np.isfinite(found).all()
    assert vae.reconstruct(codes.numpy()).shape == table.shape


def test_training_goes_on(table, likelihood):
    vae = small(BetaVAE, likelihood=likelihood, warm_start=True, max_epochs=2).fit(table)
    vae.fit(table)
    vae.partial_fit(table[:100])
    assert vae.n_iter_ == 5
    other = Mixed({**likelihood.columns, "age": StudentT()})
    with pytest.raises(ValueError, match="differs from the fitted model's"):
        vae.set_params(likelihood=other).fit(table)


# ----------------------------------------------------------------------------------------- laws of nats


def test_a_table_of_one_kind_is_that_likelihood():
    x = torch.from_numpy(np.random.default_rng(0).poisson(3.0, size=(30, 3)).astype(float))
    raw = torch.randn(2, 30, 3, generator=torch.Generator().manual_seed(0)).double()
    mixed, plain = Mixed(dict.fromkeys("abc", Poisson())).prepare(3).double(), Poisson().prepare(3).double()
    for one in (mixed, plain):
        one.fit_scale(x)
    torch.testing.assert_close(mixed.nll(x, raw), plain.nll(x, raw))
    torch.testing.assert_close(mixed.inputs(x), plain.inputs(x))


def test_nats_add_up_over_columns_and_are_those_of_raw_units():
    rng = np.random.default_rng(0)
    x = torch.from_numpy(
        np.column_stack((1e4 * rng.normal(size=40) + 7e4, rng.integers(0, 3, 40), rng.normal(size=40)))
    )
    mixed = Mixed({"a": Gaussian(), "b": Categorical(3), "c": StudentT()}).prepare(3).double()
    mixed.fit_scale(x)
    raw = torch.from_numpy(rng.normal(size=(2, 40, mixed.n_values)))
    torch.testing.assert_close(mixed.each(x, raw).sum(-1), mixed.nll(x, raw))
    # In units a thousand times larger each number is log(1000) nats less likely, categories as before.
    units = torch.tensor([1e3, 1.0, 1e3])
    other = Mixed(mixed.columns).prepare(3).double()
    other.fit_scale(x * units)
    shift = other.each(x * units, raw) - mixed.each(x, raw)
    torch.testing.assert_close(shift, torch.tensor([np.log(1e3), 0.0, np.log(1e3)]).expand_as(shift), atol=1e-6, rtol=0)


def test_an_untrained_model_expects_what_is_common(table, likelihood):
    mixed = Mixed(likelihood.columns).prepare(7).double()
    x = torch.from_numpy(likelihood.codes(table).to_numpy(dtype=float))
    mixed.fit_scale(x)
    expected = mixed.mean(torch.zeros(mixed.n_values, dtype=torch.float64))
    assert expected[0] == pytest.approx(np.exp(np.log(table["income"]).mean()), rel=1e-6)  # the median
    assert expected[3] == pytest.approx(table["visits"].mean(), rel=1e-6)
    assert expected[1] == float(table["town"].value_counts().index[0] == "Chur")
    seen = mixed.inputs(x)
    assert seen.shape[1] == mixed.n_inputs == 3 + 3 + 3 + 2 + 2
    torch.testing.assert_close(seen.mean(0), torch.zeros(13).double(), atol=0.05, rtol=0)


# -------------------------------------------------------------------------------------------- detection


@pytest.fixture(scope="module")
def detector():
    X = make_table(1500, seed=1)
    return QuantileVAE(likelihood=Mixed.from_frame(X), random_state=0, calibration_fraction=0.3).fit(X)


@pytest.mark.parametrize("name", ["town", "member", "age", "income"])
def test_a_wrong_value_is_found_whatever_its_kind(detector, name):
    X, rng = make_table(600, seed=2), np.random.default_rng(0)
    other = X[name].to_numpy().copy()
    if name in ("town", "member"):
        labels = ("Bern", "Chur") if name == "town" else (False, True)  # of Chur and Genf nothing tells which
        other[:60] = [rng.choice([label for label in labels if label != value]) for value in other[:60]]
    else:
        other[:60] = rng.permutation(other)[:60]
    X[name] = other
    assert roc_auc_score(np.arange(600) < 60, -detector.score_samples(X)) > 0.65
    assert (detector.predict(X)[60:] < 0).mean() < 0.1


def test_a_rare_category_does_not_outweigh_all_else():
    X = make_table(1500, seed=3)
    X["town"] = X["town"].astype(object)
    X.loc[X.index[:15], "town"] = "Visp"  # one row in a hundred, whatever the rest of it says
    vae = QuantileVAE(likelihood=Mixed.from_frame(X), random_state=0).fit(X)
    scores = vae.score_samples(X)
    cost = np.median(scores) - np.median(scores[:15])
    # log(100) nats, and about as much again where the scale of the score is wider; a value of 10 spreads costs 50.
    assert 1.0 < cost < 12.0
    far = X.iloc[[100]].copy()
    far["age"] = 500.0
    assert vae.score_samples(far)[0] < scores[:15].min()


def test_false_discoveries_are_controlled_on_a_table(detector):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that nothing is found
        found = [detector.detect(make_table(300, seed=10 + i), fdr=0.2).any() for i in range(20)]
    # In at most a fifth of clean tables anything is found: 20 draws of it are above 9 once in 400.
    assert sum(found) <= 9


def test_p_values_of_each_kind_hold_what_they_say(detector):
    X = make_table(1000, seed=4)
    p = detector.p_values(X, left_out=True)
    categories = np.array([isinstance(one, Categorical) for one in detector.likelihood.columns.values()])
    for level in (0.05, 0.1, 0.3):
        share = (p <= level).mean(0)
        # Numbers on average; a category at most so often, as its chances are coarse. 450 calibration rows: 5 s.e.
        assert share[~categories].mean() == pytest.approx(level, abs=0.05)
        assert (share[categories] <= level + 0.07).all()


def test_left_out_intervals_hold_what_they_say_in_the_units_of_columns(detector):
    X = make_table(1000, seed=4)
    ends = detector.predict_interval(X, 0.1, left_out=True)
    for name in ("income", "age", "visits"):
        j = X.columns.get_loc(name)
        within = (X[name] >= ends[:, j, 0]) & (X[name] <= ends[:, j, 1])
        assert within.mean() == pytest.approx(0.9, abs=0.05)  # of 450 calibration rows and 1,000: 3 s.e.
        assert np.median(np.diff(ends[:, j])) < 3.3 * X[name].std()  # less than without the other columns
    assert np.isnan(ends[:, [1, 4, 5, 6]]).all()
    median = detector.predict_quantiles(X)[:, 2, 1]
    assert np.corrcoef(median, X["age"])[0, 1] > 0.9


@pytest.mark.parametrize(("name", "value"), [("age", 130.0), ("member", None), ("flag", None)])
def test_the_wrong_value_is_named(detector, name, value):
    X, rows = make_table(40, seed=6), make_table(40, seed=6)
    rows[name] = value if value is not None else (~X[name].astype(bool)).astype(X[name].dtype)
    told = detector.explain(rows)
    assert list(told["row"][:7]) == [100] * 7
    total = told.groupby("row")["share"].sum().round(9)
    assert set(total) <= {0.0, 1.0}  # 0 where no value makes a row less normal
    assert total.mean() > 0.8
    top = told.loc[told.groupby("row")["share"].idxmax()]
    assert (top["feature"] == name).mean() > 0.7
    here = told[told["feature"] == name]
    assert here["value"].tolist() == rows[name].tolist()
    if value is None:
        assert (here["expected"].astype(bool).to_numpy() == X[name].astype(bool).to_numpy()).mean() > 0.7
        assert here["lower"].isna().all()
    flagged = detector.predict(rows) < 0
    assert here.loc[np.repeat(flagged, 1), "cause"].mean() > 0.8


def test_scales_of_amounts_are_as_large_as_the_amounts(detector):
    X = make_table(300, seed=7)
    scale, median = detector.predict_scale(X)[:, 0], detector.predict_quantiles(X)[:, 0, 1]
    ratio = scale / median
    assert np.percentile(ratio, 90) < 3 * np.percentile(ratio, 10)  # medians range over a factor of ten and more
    lower = detector.predict_interval(X, 0.1, left_out=True)[:, 3, 0]
    assert (lower >= 0).all()  # counts


def test_a_detector_is_trained_on_possible_rows_and_asked_about_any(table, likelihood):
    wrong = table.astype({"income": float, "visits": float})
    wrong.iloc[3, 0], wrong.iloc[4, 3] = 0.0, -2.0
    with pytest.raises(ValueError, match="LogNormal needs numbers above 0; X holds 0 in row 3, column 'income'"):
        small(QuantileVAE, likelihood=likelihood).fit(wrong)
    vae = small(QuantileVAE, likelihood=likelihood, max_epochs=60, lr=3e-3).fit(table)
    scores = vae.score_samples(wrong)
    assert scores[3] < np.percentile(scores, 5)
    plain = np.column_stack((np.arange(60) % 3, np.linspace(-1, 1, 60)))
    vae = small(QuantileVAE, likelihood=Mixed({0: Categorical(3), 1: Gaussian()})).fit(plain)
    with pytest.raises(ValueError, match=r"codes, whole numbers from 0 to 2; X holds 7 in row 0, column 0"):
        vae.p_values([[7.0, 0.0]])


# -------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"town": "Rom"},
            r"X holds 'Rom' in column 'town', row 3, which is not one of its 3 categories: 'Bern', 'Chur'",
        ),
        ({"visits": -1}, r"NegativeBinomial needs counts.*-1 in row 3, column 'visits'"),
        ({"income": 0.0}, r"LogNormal needs numbers above 0; X holds 0 in row 3, column 'income'"),
        ({"visits": 0.5}, r"0\.5 in row 3, column 'visits'"),
        ({"age": np.inf}, r"infinity.*row 3, column 'age'"),
        ({"age": "old"}, r"'age'.*'old'"),
        ({"town": ["Bern"]}, r"\['Bern'\] in column 'town'"),
    ],
    ids=lambda value: str(value)[:20],
)
@pytest.mark.parametrize("when", ["fit", "score_samples"])
def test_impossible_values_are_named(table, likelihood, change, message, when):
    vae = small(BetaVAE, likelihood=likelihood)
    if when != "fit":
        vae.fit(table)
        message = message.replace("infinity.*row 3, column 'age'", "infinity")
    rows = table.astype(object)
    for name, value in change.items():
        rows.at[rows.index[3], name] = value
    with pytest.raises(ValueError, match=message):
        getattr(vae, when)(rows)


def test_columns_must_be_those_of_the_likelihood(table, likelihood):
    vae = small(BetaVAE, likelihood=likelihood)
    with pytest.raises(ValueError, match=r"in a different order.*column 0 is 'town', not 'income'.*X\[list"):
        vae.fit(table[["town", "income", *table.columns[2:]]])
    with pytest.raises(ValueError, match=r"X lacks 'flag'.*Mixed\.from_frame"):
        vae.fit(table.drop(columns="flag"))
    with pytest.raises(ValueError, match=r"X has 'new'"):
        vae.fit(table.assign(new=1.0))
    with pytest.raises(ValueError, match=r"X has 6 columns, but likelihoods are given for 7"):
        vae.fit(np.zeros((20, 6)))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({}, "columns must be a dict"),
        ([Gaussian()], "columns must be a dict"),
        ({"a": "gaussian"}, "column 'a' must have one likelihood; got 'gaussian'"),
        ({"a": Mixed({"b": Gaussian()})}, "column 'a' must have one likelihood"),
    ],
)
def test_likelihoods_of_columns_are_checked(columns, message):
    with pytest.raises(TypeError, match=message):
        small(BetaVAE, likelihood=Mixed(columns)).fit(np.zeros((20, 1)))


def test_a_decoder_of_another_width_is_told(table, likelihood):
    with pytest.raises(ValueError, match=r"must map .* to \(n, 13\), what the likelihoods of 7 columns take"):
        small(BetaVAE, likelihood=likelihood, decoder=lambda n_in, n_out: torch.nn.Linear(n_in, 7)).fit(table)


def test_what_takes_numbers_alone_says_so(fitted, table, X):
    with pytest.raises(ValueError, match="numeric columns alone"):
        robustness_margin(fitted, table[:5], r=1.0)
    with pytest.raises(ValueError, match=r"likelihood must be 'quantiles', or a riskvae\.likelihoods\.Mixed"):
        small(QuantileVAE, likelihood="gaussian").fit(X)
    with pytest.raises((TypeError, ValueError), match=r"a riskvae\.likelihoods\.Mixed"):
        small(QuantileVAE, likelihood=Quantiles()).fit(X)


def test_a_count_that_is_common_has_no_likelihood_of_its_own():
    X = pd.DataFrame({"few": [0, 1, 2, 1] * 10, "many": [0, 5, 90, 2] * 10, "ages": [31, 44, 52, 60] * 10})
    kinds = [type(one) for one in Mixed.from_frame(X).columns.values()]
    assert kinds == [Gaussian, NegativeBinomial, Gaussian]
