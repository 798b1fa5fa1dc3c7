"""Columns of a table: which likelihood each calls for, and its categories as numbers and back."""

import datetime
import warnings
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

import numpy as np
from numpy.typing import NDArray

from riskvae._validation import level_of_the_user, reads_as_number
from riskvae.likelihoods._categorical import Categorical
from riskvae.likelihoods._counts import LARGEST_COUNT, NegativeBinomial
from riskvae.likelihoods._disguised import ADVICE_FOR_DATES, TAKE, disguise
from riskvae.likelihoods._gaussian import Gaussian
from riskvae.likelihoods._likelihood import Likelihood
from riskvae.likelihoods._log_normal import LogNormal
from riskvae.likelihoods._suspects import doubts_about_labels, doubts_about_numbers

# Bowley's skewness of the outer twentieths, (q.95 + q.05 - 2 q.5) / (q.95 - q.05), beyond which numbers are skewed:
# that of a log-normal variable with a standard deviation of .4; exponential ones have .6.
_SKEWED = 0.3
# Types of columns that are no numbers, whatever they hold.
_NO_NUMBERS = ("date", "time", "duration", "period", "interval")
# Rows from which on whole numbers that are all different, one after another, are no chance.
_ROWS = 20

__all__ = [
    "is_missing", "likelihoods_of", "refuse_other_columns", "refuse_repeated", "refuse_single_rows", "refuse_strings",
    "shortly", "to_codes", "to_labels",
]  # fmt: skip

Array = NDArray[Any]


def is_missing(value: Any) -> bool:
    """Whether a value of a table stands for none: None, NaN, NaT, NA."""
    try:
        return value is None or not bool(value == value)
    except TypeError:  # pandas.NA
        return True


def shortly(names: Sequence[Any]) -> str:
    """The first of some names, for a message."""
    return ", ".join(map(repr, names[:8])) + (", ..." if len(names) > 8 else "")


def refuse_repeated(names: list[Any], owner: str) -> None:
    """Raise for columns of the same name."""
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{owner}: X has {names.count(name)} columns named {name!r}. Rename them, or drop one.")


def refuse_other_columns(names: list[Any], own: list[Any]) -> None:
    """Raise for names of columns that are not those of the likelihood, in their order."""
    lacking, further = [name for name in own if name not in names], [name for name in names if name not in own]
    if lacking or further:
        what = [f"lacks {shortly(lacking)}"] * bool(lacking) + [f"has {shortly(further)}"] * bool(further)
        remedy = (
            "Prepare X as it was for the likelihood" if lacking else "Take its columns: X[list(vae.likelihood.columns)]"
        )
        raise ValueError(
            f"Mixed: X {' and '.join(what)}, unlike the columns of the likelihood. {remedy}; or make the likelihood of "
            "this X, and fit again: Mixed.from_frame(X)."
        )
    first = next(i for i, name in enumerate(own) if name != names[i])
    raise ValueError(
        f"Mixed: X has its columns in a different order from the likelihood: column {first} is {names[first]!r}, "
        f"not {own[first]!r}. Put them in order: X[list(vae.likelihood.columns)]."
    )


def likelihoods_of(X: Any, categorical: list[Any], max_categories: int) -> dict[Any, Likelihood]:
    """A likelihood for each column of a DataFrame; a ValueError that names those that have none."""
    refuse_repeated(list(X.columns), "Mixed.from_frame")
    found: dict[Any, Likelihood] = {}
    faults: list[str] = []
    doubts: list[str] = []
    if not len(X.columns):
        raise ValueError("Mixed.from_frame: X has no columns.")
    if not len(X):
        raise ValueError("Mixed.from_frame: X has no rows, so nothing tells what its columns hold. Pass all rows.")
    for name in X.columns:
        values = _known(X[name])
        try:
            found[name] = _likelihood_of(X[name], values, name in categorical, max_categories)
        except _NoColumn as fault:
            faults.append(f"{name!r} {fault}")
        else:
            if doubt := _doubt(values, found[name]):
                doubts.append(f"{name!r} {doubt}".replace("X[name]", f"X[{name!r}]"))
    if faults:
        dates = f" {ADVICE_FOR_DATES}" if any(TAKE in fault for fault in faults) else ""
        raise ValueError(f"Mixed.from_frame: X has columns that no likelihood fits: {'; '.join(faults)}.{dates}")
    if doubts:
        warnings.warn(
            f"Mixed.from_frame: {'; '.join(doubts)}. What is as it should be needs no change.",
            UserWarning,
            stacklevel=level_of_the_user(),
        )
    return found


def _known(column: Any) -> Any:
    """Values of a column that are not missing: an array where all are numbers, else a list."""
    if str(column.dtype).lower().startswith(_NO_NUMBERS):
        return []
    values = np.asarray(column)
    if values.dtype.kind in "iuf":
        return values[~np.isnan(values)]
    return [value for value in np.asarray(column, dtype=object).tolist() if not is_missing(value)]


def _doubt(values: Any, likelihood: Likelihood) -> str:
    """What the owner of a column should look at before training."""
    if isinstance(likelihood, Categorical):
        return doubts_about_labels(likelihood.labels, values)
    return doubts_about_numbers(np.asarray(values, dtype=np.float64), _skewed)


class _NoColumn(Exception):
    """Why there is no likelihood for a column."""


def _likelihood_of(column: Any, values: Any, categorical: bool, max_categories: int) -> Likelihood:
    kind = str(column.dtype).lower()
    if kind.startswith(("timedelta", "duration")):
        raise _NoColumn(f"holds {kind}: make them numbers, such as days or seconds")
    if kind.startswith("interval"):
        raise _NoColumn(f"holds {kind}: name them by strings (X[{column.name!r}].astype(str))")
    if kind == "time" or kind.startswith(("time32", "time64")):
        raise _NoColumn(f"holds {kind}: take a number from them, such as the hour")
    if kind.startswith(_NO_NUMBERS):
        raise _NoColumn(f"holds {kind}: {TAKE}the month")
    categories: Any = getattr(getattr(column, "cat", None), "categories", None)
    if kind.startswith("enum"):
        categories = np.asarray(column.dtype.categories, dtype=object)  # of polars
    if hasattr(categories, "tolist"):  # there may be more than there are values of
        return _of_labels(categories.tolist())
    if not len(values):
        raise _NoColumn("holds nothing but missing values: leave it out")
    types = set(map(type, values)) if isinstance(values, list) else {float}
    kinds = {_kind(of) for of in types}
    if categorical and kinds in ({"number"}, {"str"}):
        return Categorical(_labels(set(np.asarray(values, dtype=object).tolist()), len(values), max_categories))
    if any(issubclass(of, datetime.date) for of in types):
        raise _NoColumn(f"holds dates: {TAKE}pandas.to_datetime(X[{column.name!r}]).dt.day_of_week")
    if types == {datetime.time}:
        raise _NoColumn(
            f"holds times: take a number from them, such as the hour: [time.hour for time in X[{column.name!r}]]"
        )
    if len(kinds) > 1 or kinds == {"other"}:
        told = ", ".join(sorted({of.__name__ for of in types}))
        raise _NoColumn(f"holds {told}: make them all numbers, or all strings (X[name].astype(str))")
    if kinds == {"bool"}:
        return Categorical((False, True))
    if kinds == {"str"}:
        labels = dict.fromkeys(values)
        if remedy := disguise(column.name, labels, values):
            raise _NoColumn(remedy)
        return Categorical(_labels(set(labels), len(values), max_categories))
    return _of_numbers(np.asarray(values, dtype=np.float64))


def _of_labels(labels: list[Any]) -> Likelihood:
    if not labels:
        raise _NoColumn("holds nothing but missing values: leave it out")
    if not all(isinstance(label, bool | str | int | float) for label in labels):
        raise _NoColumn(f"has categories of {type(labels[0]).__name__}: name them by strings (X[name].astype(str))")
    return Categorical(tuple(labels))


def _kind(of: type) -> str:
    if issubclass(of, bool | np.bool_):
        return "bool"
    if issubclass(of, str):
        return "str"
    return "number" if issubclass(of, int | float | np.integer | np.floating | Decimal) else "other"


def _labels(different: set[Any], n: int, max_categories: int) -> tuple[Any, ...]:
    labels = sorted(different)
    if len(labels) > max_categories:
        raise _NoColumn(
            f"holds {len(labels):,} different {'strings' if isinstance(labels[0], str) else 'values'} in {n:,} rows, "
            f"such as {labels[0]!r}: leave it out if it only names the rows, or raise max_categories={max_categories}"
        )
    return tuple(int(label) if isinstance(label, float) and label.is_integer() else label for label in labels)


def _of_numbers(values: Array) -> Likelihood:
    if n := int(np.isinf(values).sum()):
        told = "1 row" if n == 1 else f"{n:,} rows"
        raise _NoColumn(f"holds infinity in {told}: make these values missing (NaN), or drop the rows")
    if set(values.tolist()) == {0.0, 1.0}:
        return Categorical((0, 1))
    if len(values) >= _ROWS and len(set(values.tolist())) == len(values) == values.max() - values.min() + 1:
        raise _NoColumn("numbers the rows: leave it out")
    counts = (
        values.min() == 0
        and values.max() <= LARGEST_COUNT
        and bool((values == np.floor(values)).all())
        and values.max() > 1
    )
    if counts and values.var() >= values.mean():
        return NegativeBinomial()
    return LogNormal() if _skewed(values) else Gaussian(per_feature=True)


def _skewed(values: Array) -> bool:
    """Whether logarithms of values above 0 lie more evenly than the values, by quantiles: a few do not decide."""
    if values.min() <= 0:
        return False
    skews = []
    for numbers in (values, np.log(values)):
        low, middle, high = np.quantile(numbers, (0.05, 0.5, 0.95))
        skews.append((high + low - 2.0 * middle) / (high - low) if high > low else 0.0)
    return bool(skews[0] > _SKEWED and abs(skews[1]) < 0.5 * skews[0])


# ------------------------------------------------------------------------------------ there and back


def to_codes(values: Array, labels: Sequence[Any], name: Any, lenient: bool) -> NDArray[np.float64]:
    """Codes of the values of a column, which are labels; NaN where they are missing, or unknown if that may be."""
    number: Mapping[Any, float] = {label: float(code) for code, label in enumerate(labels)}
    codes = np.empty(len(values))
    for row, value in enumerate(values.tolist()):
        try:
            code = number.get(value)
        except TypeError:  # not hashable, so no label
            code = None
        if code is None:
            if not is_missing(value) and not lenient:
                raise ValueError(
                    f"X holds {value!r} in column {name!r}, row {row}, which is not one of its {len(labels)} "
                    f"categories: {shortly(labels)}. Name all categories that may come, as Categorical([...]), or let "
                    "unknown ones pass as missing, and fit again: Mixed.from_frame(X, unknown='missing'), or "
                    "Mixed(..., unknown='missing')."
                )
            code = np.nan
        codes[row] = code
    return codes


def refuse_strings(values: Array, name: Any) -> None:
    """Raise for values of a column of numbers that are none."""
    if values.dtype.kind in "biufmM":
        return
    try:
        np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        for row, value in enumerate(values.tolist()):
            if not is_missing(value) and not reads_as_number(value):
                raise ValueError(
                    f"Mixed: column {name!r} must hold numbers, as the likelihood says; X holds {value!r} in row "
                    f"{row}. Prepare X as for fit; what is not known, make missing (NaN)."
                ) from None


def refuse_single_rows(X: Any) -> None:
    """Raise for a row that is no table: a Series, a dict, or a list of dicts."""
    if isinstance(X, Mapping):
        raise TypeError(
            "Mixed: X must be a table; got a dict. Of one row make a table by pandas.DataFrame([row]), of columns by "
            "pandas.DataFrame(columns)."
        )
    if isinstance(X, list | tuple) and X and isinstance(X[0], Mapping):
        raise TypeError("Mixed: X must be a table; got a list of dicts. Make a table of them: pandas.DataFrame(rows).")
    if type(X).__name__ == "Series":
        raise ValueError(
            "Mixed: X must be a table; got a Series. Pass a table of one row: X.iloc[[0]] in place of X.iloc[0], or "
            "pandas.DataFrame([row])."
        )


def to_labels(codes: Array, labels: Sequence[Any]) -> Array:
    """What categories of some codes are called; None where a code is missing."""
    missing = np.isnan(codes)
    plain = np.asarray(labels)
    if plain.dtype.kind not in "biuf" or missing.any():
        plain = np.array([*labels], dtype=object)
    found = plain[np.where(missing, 0, codes).round().astype(np.int64)]
    if missing.any():
        found[missing] = None
    return found
