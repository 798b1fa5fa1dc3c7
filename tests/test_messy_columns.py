"""Messy columns of CSV files: what they hold is told, and the remedy in the message works."""

import io
import re
import time
import warnings

import numpy as np
import pandas as pd
import pytest
from helpers import converted, fault_of, small

from riskvae import BetaVAE
from riskvae.likelihoods import Mixed

RNG = np.random.default_rng(0)
NUMBERS = RNG.normal(0, 4000, 300).round(2)
AMOUNTS = np.abs(NUMBERS)


def read(message, values):
    """What the options of read_csv in a message make of a file of the column."""
    options = eval(f"dict({re.search(r'read_csv[(][.]{3}, (.*?)[)]( if|, or)', message)[1]})")
    return pd.read_csv(io.StringIO("\n".join(["a;b", *(f"{value};x" for value in values)])), sep=";", **options)["a"]


# -------------------------------------------------------------------------------------------- numbers


@pytest.mark.parametrize(
    ("write", "what"),
    [
        ("{:.2f}%", "'%'"),
        ("{:.2f} %", "'%'"),
        ("€{:.2f}", "'€'"),
        ("$ {:.2f}", "'$'"),
        ("{:.2f} EUR", "'EUR'"),
        ("{:.2f}\xa0€", "'€'"),
        ("CHF {:,.2f}", "'CHF' and thousands separators"),
    ],
)
def test_signs_are_dropped(write, what):
    values = [write.format(number) for number in NUMBERS]
    message = fault_of(values)
    assert f"'a' holds numbers with {what}" in message
    assert "read_csv" not in message  # has no option for signs
    np.testing.assert_allclose(converted(message, values), NUMBERS)
    values[3] = "-"
    message = fault_of(values)
    assert "and 1 string such as '-'" in message
    np.testing.assert_allclose(converted(message, values), np.where(np.arange(300) == 3, np.nan, NUMBERS))


@pytest.mark.parametrize(
    ("change", "what", "readable"),
    [
        ({}, "numbers as strings", False),
        ({",": "", ".": ","}, "numbers with decimal commas", True),
        ({",": ","}, "numbers with thousands separators", True),
        ({",": ".", ".": ","}, "numbers with thousands separators such as in .* and decimal commas", True),
        ({",": "'"}, "numbers with thousands separators", True),
        ({",": " "}, "numbers with thousands separators", True),
        ({",": "\u202f", ".": ","}, "numbers with thousands separators such as in .* and decimal commas", False),
    ],
    ids=str,
)
@pytest.mark.parametrize("unknown", [False, True])
def test_separators_have_remedies_that_work(change, what, readable, unknown):
    values = [f"{x:,.2f}".translate(str.maketrans({",": "", **change})) for x in NUMBERS]
    expected = NUMBERS.copy()
    if unknown:
        values[5], expected[5] = "n. a.", np.nan
        what = what.removesuffix(" as strings")
    message = fault_of(values)
    assert re.search(f"'a' holds {what}", message)
    np.testing.assert_allclose(converted(message, values), expected)
    assert ("read_csv" in message) == (readable or (unknown and not change))
    if "read_csv" in message:
        np.testing.assert_allclose(read(message, values).astype(float), expected)


def test_commas_in_some_rows_are_not_read_but_replaced():
    values = [str(x).replace(".", ",") if i % 7 == 0 else str(x) for i, x in enumerate(NUMBERS)]
    message = fault_of(values)
    assert "decimal commas in some rows and points in others" in message
    assert "read_csv" not in message
    np.testing.assert_allclose(converted(message, values), NUMBERS)


@pytest.mark.parametrize(
    ("write", "what"),
    [
        (lambda x: f"{x:.2f}".replace("-", "\u2212"), "numbers with '\u2212' as minus sign"),
        (lambda x: f"{x:.2f}" if x > 0 else f"({-x:.2f})", r"numbers with negatives such as '\("),
        (lambda x: f"${x:,.2f}" if x > 0 else f"$({-x:,.2f})", r"numbers with '\$' and negatives such as '\$\("),
        (lambda x: f"{x:,.2f} €" if x > 0 else f"({-x:,.2f} €)", "numbers with '€' and negatives"),
    ],
)
@pytest.mark.parametrize("unknown", [False, True])
def test_other_minus_signs_are_converted(write, what, unknown):
    values = [*map(write, NUMBERS), *["unknown"] * unknown]
    message = fault_of(values)
    assert re.search(what, message)
    assert "read_csv" not in message
    np.testing.assert_allclose(converted(message, values), [*NUMBERS, *[np.nan] * unknown])


def test_whole_numbers_with_one_comma_may_be_either():
    values = [f"{x:,}" for x in RNG.integers(1000, 99_999, 200)]
    message = fault_of(values)
    assert "thousands separators" in message
    assert "if its comma is a decimal one, by decimal=','" in message
    np.testing.assert_allclose(converted(message, values), [int(x.replace(",", "")) for x in values])
    assert "decimal one" not in fault_of([*values, "1,234,567"])
    assert "with decimal commas" in fault_of([*values, "0,512"])


@pytest.mark.parametrize("other", ["unknown", "-", "n/a "])
def test_numbers_among_few_strings_are_refused_however_few_they_are(other):
    values = [str(x) for x in RNG.integers(0, 74, 500)] + [other] * 9
    message = fault_of(values)
    assert f"'a' holds numbers, and 9 strings such as {other!r}: read them by" in message
    assert "if they are labels, pass categorical=['a']" in message
    assert fault_of(values, categorical=["a"]) is None
    np.testing.assert_allclose(converted(message, values)[:500], [float(x) for x in values[:500]])
    assert fault_of([*"123456789", other] * 9) is None  # nine numbers


@pytest.mark.parametrize(
    "labels",
    [
        ["1", "2", "3+"],
        [*map(str, range(12)), *(f"A{i}" for i in range(12))],
        [f"n{i}" for i in range(60)],
        ["192.168.1.1", "10.0.0.1", "10.0.0.2"],
        ["044 123 45 67", "079 555 12 12"],
        ["1,2", "3,4,5", "6"],
        ["True", "False"],
        [*map(str, range(40)), *(f"A{i}" for i in range(30))],
        [f"({i})" for i in range(30)],
        ["A (2)", "B (3)"],
        ["yes", "no"],
        ["10-20", "20-30"],
    ],
    ids=lambda labels: labels[0],
)
def test_labels_stay_labels(labels):
    assert fault_of(labels * 5) is None


@pytest.mark.parametrize("long", [" " * 240 + "f", "1" * 2000 + "x", "-" + "\xa0" * 2000 + "x", "1," * 1000 + "x"])
def test_long_labels_take_no_time(long):
    start = time.process_time()
    assert fault_of([f"{long}{i}" for i in range(60)] * 5) is None
    assert time.process_time() - start < 1


# ---------------------------------------------------------------------------------- what is doubtful


def doubts_of(values):
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        Mixed.from_frame(pd.DataFrame({"a": values}))
    assert all(one.category is UserWarning for one in told)
    return " ".join(str(one.message) for one in told)


def with_fill(values, fill, n):
    values = np.array(values, dtype=float)
    values[RNG.choice(len(values), n, replace=False)] = fill
    return values


@pytest.mark.parametrize(
    ("values", "fill", "n"),
    [
        (RNG.normal(1000, 300, 2000), -999, 30),
        (np.r_[RNG.normal(0, 150, 1500), -692.0], -999, 41),
        (RNG.lognormal(6, 1.5, 800), -999, 3),
        (RNG.uniform(0, 50_000, 500), -1, 12),
        (RNG.uniform(0, 50_000, 500), 99_999, 12),
        (RNG.normal(47, 12, 1000).round().clip(0, 95), 99, 90),
        (RNG.normal(1000, 300, 900).round(), -999, 600),
    ],
)
def test_customary_fill_values_are_told(values, fill, n):
    assert doubts_of(values) == "" or n == 3
    told = doubts_of(with_fill(values, fill, n))
    assert f"'a' holds {fill:g} in {n} rows, and otherwise" in told
    assert "if it stands for a missing value, make it NaN" in told


@pytest.mark.parametrize(
    "values",
    [
        RNG.normal(52, 22, 3000).round().clip(0, 99),
        np.r_[RNG.integers(18, 90, 400), [99] * 3],
        RNG.integers(0, 101, 2000),
        RNG.integers(0, 100, 300),
        RNG.poisson(4, 500),
        RNG.negative_binomial(1, 0.05, 800),
        RNG.normal(size=300).round(2),
        RNG.normal(size=300).round(),
        RNG.choice([-1, 0, 1], 300),
        RNG.choice([*np.arange(4.99, 900, 15), 9.99, 99, 999], 600),
        np.r_[RNG.lognormal(4, 1, 500), 999, 999],
        RNG.normal(75, 15, 2000).round().clip(18, 99),
        np.minimum(RNG.normal(95, 20, 3000).round(), 99),
        np.r_[RNG.integers(5, 45, 300) * 2 + 9, [99] * 60],
    ],
)
def test_natural_numbers_are_no_fill_values(values):
    assert "missing value" not in doubts_of(values)


@pytest.mark.parametrize(
    "draw",
    [
        lambda rng: rng.integers(20_000, 60_000, 3000),
        lambda rng: rng.integers(0, 4096, 300),
        lambda rng: rng.integers(0, 1000, 100),
        lambda rng: rng.normal(40_000, 9000, 2000).round(),
    ],
)
def test_measured_whole_numbers_do_not_number_the_rows(draw):
    assert [doubts_of(draw(np.random.default_rng(seed))) for seed in range(30)] == [""] * 30


@pytest.mark.parametrize(
    "draw",
    [
        lambda rng: np.sort(rng.choice(1800, 100, replace=False)),
        lambda rng: 70_000 - np.sort(rng.integers(0, 4000, 300)),
        lambda rng: rng.permutation(np.r_[:280, :20]),
        lambda rng: rng.choice(3000, 300, replace=False),
    ],
)
def test_numbers_of_rows_are_told(draw):
    for seed in range(30):
        assert "holds another whole number in nearly every row" in doubts_of(draw(np.random.default_rng(seed)))


def test_a_zero_has_no_sign():
    told = doubts_of(with_fill(np.r_[-0.0, RNG.uniform(0, 138, 500)], -1, 12))
    assert "'a' holds -1 in 12 rows, and otherwise 0 to 1" in told


def test_whole_numbers_that_are_dates_are_told():
    dates = pd.Series(pd.date_range("2019-01-01", periods=900)).dt.strftime("%Y%m%d").astype(int)
    assert "'a' holds whole numbers such as 20190101, which look like dates" in doubts_of(dates)
    assert "dates" not in doubts_of(dates + 60)  # some days above 31


def test_a_column_of_one_value_is_told():
    assert "'a' holds one value only, 'Bern': leave it out" in doubts_of(["Bern"] * 30 + [None])
    assert "'a' holds one value only, True: leave it out" in doubts_of([True] * 30)
    assert "'a' holds one value only, 3: leave it out, unless another value" in doubts_of([3.0] * 30)
    assert "one value" not in doubts_of(["Bern"] * 29 + ["Chur"])


def test_a_table_without_rows_is_told():
    X = pd.DataFrame({"a": [1.0, 2.0], "b": ["u", "v"]})
    with pytest.raises(ValueError, match=r"from_frame: X has no rows.*Pass all rows") as error:
        Mixed.from_frame(X.head(0))
    assert "missing" not in str(error.value)


# ----------------------------------------------------------------------------- new rows of a fitted model


@pytest.fixture(scope="module")
def table():
    visits = RNG.negative_binomial(2, 0.2, 200)
    return pd.DataFrame({"age": RNG.normal(50, 9, 200), "visits": visits, "town": ["Bern", "Chur"] * 100})


@pytest.fixture(scope="module")
def vae(table):
    return small(BetaVAE, likelihood=Mixed.from_frame(table)).fit(table)


def test_an_unknown_category_names_what_to_fit_again(vae, table):
    with pytest.raises(ValueError, match=r"fit again: Mixed\.from_frame\(X, unknown='missing'\)"):
        vae.score_samples(table.assign(town="Visp"))


def test_further_columns_and_another_order_are_mended_as_told(vae, table):
    for X in (table.assign(new=1), table[["town", "age", "visits"]]):
        with pytest.raises(ValueError, match=r"X\[list\(vae\.likelihood\.columns\)\]"):
            vae.score_samples(X)
        mended = X[list(vae.likelihood.columns)]
        np.testing.assert_array_equal(vae.score_samples(mended), vae.score_samples(table))
    with pytest.raises(ValueError, match=r"X lacks 'age'.*Prepare X as it was for the likelihood"):
        vae.score_samples(table.drop(columns="age"))


@pytest.mark.parametrize("container", [lambda X: X, lambda X: X.to_numpy(), lambda X: X.to_numpy().tolist()])
def test_a_string_among_numbers_is_named(vae, table, container):
    X = table.astype({"visits": object})
    X.loc[3, "visits"] = "many"
    with pytest.raises(
        ValueError, match=r"column 'visits' must hold numbers.*X holds 'many' in row 3\. Prepare X as for fit"
    ):
        vae.predict(container(X)) if hasattr(vae, "predict") else vae.score_samples(container(X))
    X.loc[3, "visits"] = "12"
    assert np.isfinite(vae.score_samples(X)).all()
    mended = X.assign(visits=pd.to_numeric(X["visits"].replace("12", "many"), errors="coerce"))
    assert np.isfinite(vae.score_samples(mended)).all()


def test_single_rows_are_told_how_to_be_tables(vae, table):
    row = table.iloc[0]
    scores = vae.score_samples(table.iloc[[0]])
    with pytest.raises(ValueError, match=r"got a Series.*X\.iloc\[\[0\]\].*pandas\.DataFrame\(\[row\]\)"):
        vae.score_samples(row)
    with pytest.raises(TypeError, match=r"got a dict\. .*pandas\.DataFrame\(\[row\]\)"):
        vae.score_samples(dict(row))
    with pytest.raises(TypeError, match=r"got a list of dicts.*pandas\.DataFrame\(rows\)"):
        vae.score_samples([dict(row)])
    for one in (pd.DataFrame([row]), pd.DataFrame([dict(row)])):
        np.testing.assert_allclose(vae.score_samples(one), scores)
