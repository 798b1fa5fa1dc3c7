"""What a column may hold by mistake: a program sees it, and only its owner knows."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["doubts_about_labels", "doubts_about_numbers"]

# A value in as many rows, and in less than half of them, may stand for a missing one, beside as many different others.
_OFTEN, _OTHERS = 3, 20
# Whole numbers look like those of rows if there are many, they lie dense, and most differ: after rows were dropped,
# drawn or repeated. They also rise or fall from row to row, or repeat more rarely than numbers that are drawn at random
# from as many, by more than so many standard deviations.
_MANY, _DENSE, _MOST, _RARELY = 100, 20, 0.9, 3.5
# Gaps by which a value at an end is found to lie right beside the others.
_GAPS = 5
# Rows from which on a column of one value is no chance.
_SEVERAL = 20
# Zeros in at most this share of the rows may stand for numbers that are not known.
_FEW = 0.05


def doubts_about_labels(labels: Sequence[Any], values: Sequence[Any]) -> str:
    """Say whether there is one label only, and which labels are the same but for case and spaces."""
    if len(values) >= _SEVERAL and all(value == values[0] for value in values):
        return f"holds one value only, {values[0]!r}: leave it out"
    alike: dict[str, list[str]] = {}
    for label in labels:
        if isinstance(label, str):
            alike.setdefault(" ".join(label.split()).casefold(), []).append(label)
    several = [found for found in alike.values() if len(found) > 1]
    if not several:
        return ""
    such = ", ".join(map(repr, several[0][:3]))
    return (
        f"has labels that differ in case or spaces alone, such as {such}: make them one, as by "
        "X[name].str.strip().str.lower()"
    )


def doubts_about_numbers(values: NDArray[np.float64], skewed: Callable[[NDArray[np.float64]], bool]) -> str:
    """Say which number may stand for a missing one: it repeats, far from all others, or is a customary fill value.

    And whether zeros stand among amounts, all numbers are one, they are dates, or only count the rows.
    """
    different, counts = np.unique(values, return_counts=True)
    if len(different) == 1 and len(values) >= _SEVERAL:
        return (
            f"holds one value only, {different[0]:g}: leave it out, unless another value in new rows should stand out"
        )
    whole = (different == np.floor(different)).all()
    if whole and len(different) >= _OTHERS and _are_dates(different):
        return (
            f"holds whole numbers such as {different[0]:.0f}, which look like dates: make them dates "
            "(pandas.to_datetime(X[name], format='%Y%m%d')), and take from these what repeats, such as the month"
        )
    if whole and _number_rows(values, different):
        return "holds another whole number in nearly every row: if it only numbers the rows, leave it out"
    if len(different) > _OTHERS:
        for at in (0, -1):
            others, n = np.delete(different, at), int(counts[at])
            if _is_far(different[at], n, others, len(values)) or (
                _is_customary(different[at], others) and n >= max(_OFTEN, 2 * np.delete(counts, at).max())
            ):
                return (
                    f"holds {different[at]:g} in {n:,} rows, and otherwise {others[0] + 0.0:g} to {others[-1]:g}: if "
                    f"it stands for a missing value, make it NaN: X[name].replace({different[at]:g}, float('nan'))"
                )
    positive = values[values > 0]
    n_zeros = len(values) - len(positive)
    if len(values) and different[0] == 0 and 0 < n_zeros <= _FEW * len(values) and skewed(positive):
        return (
            f"would be LogNormal but for {n_zeros:,} zeros: if these are not known, make them NaN; if they are true, "
            "take numpy.log1p of the column"
        )
    return ""


def _number_rows(values: NDArray[np.float64], different: NDArray[np.float64]) -> bool:
    """Whether whole numbers, and the sorted different ones of them, look like those of rows."""
    n, reach = len(values), np.ptp(different) + 1
    if n < _MANY or reach > _DENSE * n or len(different) <= _MOST * n:
        return False
    steps = np.diff(values)
    repeats = n - reach * -np.expm1(n * np.log1p(-1 / reach))  # expected of numbers drawn at random
    rare = repeats - (n - len(different)) > _RARELY * np.sqrt(repeats)
    return bool((steps >= 0).all() or (steps <= 0).all() or rare)


def _is_far(end: float, n: int, others: NDArray[np.float64], n_rows: int) -> bool:
    """Whether a value of n rows is further from the others than these are from each other."""
    low, high = others[0], others[-1]
    return bool(_OFTEN <= n < n_rows / 2 and max(low - end, end - high) > high - low)


def _is_customary(end: float, others: NDArray[np.float64]) -> bool:
    """Whether a value is often written for a missing one: nines alone, or -1 beside numbers of at least 0."""
    digits = f"{abs(end):.0f}"
    nines = len(digits) > 1 and set(digits) == {"9"} and end == np.floor(end)
    if nines and end > others[-1] and len(others) > _GAPS:  # ages up to 99, or prices such as 79 and 89
        nines = end - others[-1] > np.diff(others[-_GAPS - 1 :]).max()
    return bool(nines or (end == -1 and others[0] >= 0))


def _are_dates(different: NDArray[np.float64]) -> bool:
    """Whether sorted whole numbers are years, months and days in one, such as 20261231."""
    if not (different[0] >= 1900_01_01 and different[-1] <= 2100_12_31):
        return False
    month, day = different // 100 % 100, different % 100
    return bool(((month >= 1) & (month <= 12) & (day >= 1) & (day <= 31)).all())
