"""Columns of a table: which likelihood each calls for, and its categories as numbers and back."""

import datetime
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from riskvae._validation import level_of_the_user
from riskvae.likelihoods._categorical import Categorical
from riskvae.likelihoods._counts import LARGEST_COUNT, NegativeBinomial
from riskvae.likelihoods._gaussian import Gaussian
from riskvae.likelihoods._likelihood import Likelihood
from riskvae.likelihoods._log_normal import LogNormal
from riskvae.likelihoods._suspects import doubts_about_labels, doubts_about_numbers, mostly_numbers

# Bowley's skewness of the outer twentieths, (q.95 + q.05 - 2 q.5) / (q.95 - q.05), beyond which numbers are skewed:
# that of a log-normal variable with a standard deviation of .4; exponential ones have .6.
_SKEWED = 0.3
# Rows from which on whole numbers that are all different, one after another, are no chance.
_ROWS = 20
_DATES = "turn them into numbers first, such as days since a date, or the month"

__all__ = ["is_missing", "likelihoods_of", "refuse_repeated", "shortly", "to_codes", "to_labels"]

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


def likelihoods_of(X: Any, categorical: list[Any], max_categories: int) -> dict[Any, Likelihood]:
    """A likelihood for each column of a DataFrame; a ValueError that names those that have none."""
    refuse_repeated(list(X.columns), "Mixed.from_frame")
    found: dict[Any, Likelihood] = {}
    faults: list[str] = []
    doubts: list[str] = []
    if not len(X.columns):
        raise ValueError("Mixed.from_frame: X has no columns.")
    for name in X.columns:
        try:
            found[name] = _likelihood_of(X[name], name in categorical, max_categories)
            if doubt := _doubt(X[name], found[name]):
                doubts.append(f"{name!r} {doubt}")
        except _NoColumn as fault:
            faults.append(f"{name!r} {fault}")
    if faults:
        raise ValueError(f"Mixed.from_frame: X has columns that no likelihood fits: {'; '.join(faults)}.")
    if doubts:
        warnings.warn(
            f"Mixed.from_frame: {'; '.join(doubts)}. What is as it should be needs no change.",
            UserWarning,
            stacklevel=level_of_the_user(),
        )
    return found


def _doubt(column: Any, likelihood: Likelihood) -> str:
    """What the owner of a column should look at before training."""
    if isinstance(likelihood, Categorical):
        return doubts_about_labels(likelihood.labels)
    known = [value for value in np.asarray(column, dtype=object).tolist() if not is_missing(value)]
    return doubts_about_numbers(np.asarray(known, dtype=np.float64), _skewed)


class _NoColumn(Exception):
    """Why there is no likelihood for a column."""


def _likelihood_of(column: Any, categorical: bool, max_categories: int) -> Likelihood:
    kind = str(column.dtype).lower()
    if kind.startswith(("date", "time", "duration", "period", "interval")):
        raise _NoColumn(f"holds {kind}: {_DATES}")
    categories: Any = getattr(getattr(column, "cat", None), "categories", None)
    if kind.startswith("enum"):
        categories = np.asarray(column.dtype.categories, dtype=object)  # of polars
    if hasattr(categories, "tolist"):  # there may be more than there are values of
        return _of_labels(categories.tolist())
    values = [value for value in np.asarray(column, dtype=object).tolist() if not is_missing(value)]
    if not values:
        raise _NoColumn("holds nothing but missing values: leave it out")
    kinds = {_kind(value) for value in values}
    if categorical and kinds <= {"number", "str"} and len(kinds) == 1:
        return Categorical(_labels(values, max_categories))
    if any(isinstance(value, datetime.date) for value in values):
        raise _NoColumn(f"holds dates: {_DATES}")
    if len(kinds) > 1 or kinds == {"other"}:
        told = ", ".join(sorted({type(value).__name__ for value in values}))
        raise _NoColumn(f"holds {told}: make them all numbers, or all strings (X[name].astype(str))")
    if kinds == {"bool"}:
        return Categorical((False, True))
    if kinds == {"str"}:
        _refuse_disguised(values)
        return Categorical(_labels(values, max_categories))
    numbers = np.asarray(values, dtype=np.float64)
    if n := int(np.isinf(numbers).sum()):
        told = "1 row" if n == 1 else f"{n:,} rows"
        raise _NoColumn(f"holds infinity in {told}: make these values missing (NaN), or drop the rows")
    return _of_numbers(numbers)


def _of_labels(labels: list[Any]) -> Likelihood:
    if not labels:
        raise _NoColumn("holds nothing but missing values: leave it out")
    if not all(isinstance(label, bool | str | int | float) for label in labels):
        raise _NoColumn(f"has categories of {type(labels[0]).__name__}: name them by strings (X[name].astype(str))")
    return Categorical(tuple(labels))


def _kind(value: Any) -> str:
    if isinstance(value, bool | np.bool_):
        return "bool"
    if isinstance(value, str):
        return "str"
    return "number" if isinstance(value, int | float | np.integer | np.floating) or _is_decimal(value) else "other"


def _is_decimal(value: Any) -> bool:
    return type(value).__name__ == "Decimal"


def _refuse_disguised(values: Sequence[str]) -> None:
    """Raise for strings that are all numbers, or all dates."""
    for parse, what in (
        (float, "numbers as strings: convert them (pandas.to_numeric), or name the column in categorical"),
        (datetime.datetime.fromisoformat, f"dates as strings: {_DATES}"),
    ):
        try:
            for value in values:
                parse(value)
        except ValueError:
            continue
        raise _NoColumn(f"holds {what}")


def _labels(values: Sequence[Any], max_categories: int) -> tuple[Any, ...]:
    labels = sorted(set(values))
    if len(labels) > max_categories:
        if isinstance(labels[0], str) and (remedy := mostly_numbers(values)):
            raise _NoColumn(remedy)
        raise _NoColumn(
            f"holds {len(labels):,} different strings in {len(values):,} rows, such as {labels[0]!r}: leave it out if "
            f"it only names the rows, or raise max_categories={max_categories}"
        )
    return tuple(int(label) if isinstance(label, float) and label.is_integer() else label for label in labels)


def _of_numbers(values: Array) -> Likelihood:
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
                    "them pass as missing: Mixed(..., unknown='missing')."
                )
            code = np.nan
        codes[row] = code
    return codes


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
