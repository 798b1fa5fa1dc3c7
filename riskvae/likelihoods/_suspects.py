"""What a column may hold by mistake: a program sees it, and only its owner knows."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["doubts_about_labels", "doubts_about_numbers", "mostly_numbers"]

# A value in as many rows, and in less than half of them, may stand for a missing one, beside as many different others.
_OFTEN, _OTHERS = 3, 20
# Whole numbers look like those of rows if there are many, they lie dense, and most differ: after rows were dropped,
# drawn or repeated.
_MANY, _DENSE, _MOST = 100, 20, 0.9
# Zeros in at most this share of the rows may stand for numbers that are not known.
_FEW = 0.05


def doubts_about_labels(labels: Sequence[Any]) -> str:
    """Say which labels are the same but for case and spaces."""
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


def doubts_about_numbers(values: NDArray[np.float64], skewed: Any) -> str:
    """Say which number may stand for a missing one: it repeats, far from all others; or it is a 0 among amounts.

    And whether the numbers may only count the rows.
    """
    different = np.unique(values)
    counting = len(values) >= _MANY and np.ptp(values) < _DENSE * len(values) and (values == np.floor(values)).all()
    if counting and len(different) > _MOST * len(values):
        return "holds another whole number in nearly every row: if it only numbers the rows, leave it out"
    for end in (values.min(), values.max()) if len(values) else ():
        others = values[values != end]
        n = len(values) - len(others)
        if not _OFTEN <= n < len(values) / 2 or len(np.unique(others)) < _OTHERS:
            continue
        low, high = others.min(), others.max()
        if high > low and max(low - end, end - high) > high - low:
            return (
                f"holds {end:g} in {n:,} rows, and otherwise {low:g} to {high:g}: if it stands for a missing value, "
                "make it NaN"
            )
    positive = values[values > 0]
    n_zeros = len(values) - len(positive)
    if len(values) and values.min() == 0 and 0 < n_zeros <= _FEW * len(values) and skewed(positive):
        return (
            f"would be LogNormal but for {n_zeros:,} zeros: if these are not known, make them NaN; if they are true, "
            "take numpy.log1p of the column"
        )
    return ""


def mostly_numbers(values: Sequence[str]) -> str:
    """Remedy for strings of which most are numbers; nothing where they are not."""

    def is_number(value: str) -> bool:
        try:
            float(value.replace(",", "."))
        except ValueError:
            return False
        return True

    others = [value for value in values if not is_number(value)]
    if 2 * len(others) > len(values):
        return ""
    if not others:
        return "holds numbers with decimal commas: read them by pandas.read_csv(..., decimal=',')"
    several = "s" if len(others) > 1 else ""
    return (
        f"holds numbers, and {len(others):,} string{several} such as {others[0]!r}: read these as missing "
        "(pandas.read_csv(..., na_values=[...])), or use pandas.to_numeric(X[name], errors='coerce')"
    )
