"""Checks and conversions at the border: parameters, arrays, seeds.

Every message names the parameter, what was expected, what came, and what to do.
"""

import difflib
import math
import numbers
import sys
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils import check_random_state
from sklearn.utils.validation import validate_data
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

__all__ = [
    "LARGEST", "Rule", "boolean", "borrowed", "check_finite", "check_parameters", "choice", "column_name",
    "compute_dtype", "derive_seed", "draw_seed", "feature_matrix", "has_missing", "host_array", "image_shape_of",
    "integer", "is_ours", "isolated_rng", "level_of_the_user", "limited", "reads_as_number", "real", "to_float32",
]  # fmt: skip


# ---------------------------------------------------------------------------------------- parameters


@dataclass(frozen=True)
class Rule:
    """What one parameter may be: a test, its description, and a remedy told when the test fails."""

    accepts: Callable[[Any], bool]
    expected: str
    remedy: Callable[[Any], str] = lambda value: ""
    kind: Callable[[Any], bool] = lambda value: True  # False raises TypeError instead of ValueError

    def __or__(self, other: "Rule") -> "Rule":
        return Rule(
            lambda value: self.accepts(value) or other.accepts(value),
            f"{self.expected}, or {other.expected}",
            lambda value: self.remedy(value) or other.remedy(value),
            lambda value: self.kind(value) or other.kind(value),
        )


def check_parameters(owner: str, values: Mapping[str, Any], rules: Mapping[str, Rule]) -> None:
    """Raise on the first value that breaks its rule, before any work is done."""
    for name, rule in rules.items():
        value = values[name]
        if not rule.accepts(value):
            error = ValueError if rule.kind(value) else TypeError
            message = f"{owner}: {name} must be {rule.expected}; got {value!r}. {rule.remedy(value)}"
            raise error(message.rstrip())


def integer(low: int) -> Rule:
    """Whole numbers from ``low`` on."""

    def kind(value: Any) -> bool:
        return isinstance(value, numbers.Integral) and not isinstance(value, bool | np.bool_)

    return Rule(lambda value: kind(value) and value >= low, f"an integer of at least {low}", kind=kind)


def real(low: float, high: float = math.inf, *, closed: str = "both", remedy: str = "") -> Rule:
    """Finite numbers of an interval; ``closed`` names the ends that belong to it."""
    left, right = closed in ("both", "left"), closed in ("both", "right")
    if high < math.inf:
        expected = f"a number in {'[' if left else '('}{low:g}, {high:g}{']' if right else ')'}"
    else:
        expected = f"a finite number {'of at least' if left else 'above'} {low:g}"

    def kind(value: Any) -> bool:
        return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)

    def accepts(value: Any) -> bool:
        if not kind(value) or not math.isfinite(value):
            return False
        return (value > low or (left and value == low)) and (value < high or (right and value == high))

    return Rule(accepts, expected, lambda value: remedy, kind)


def choice(*names: str) -> Rule:
    """One of some names; a misspelled one is answered with the nearest."""

    def remedy(value: Any) -> str:
        near = difflib.get_close_matches(value.lower(), names, n=1, cutoff=0.65) if isinstance(value, str) else []
        return f"Did you mean {near[0]!r}?" if near else ""

    return Rule(
        lambda value: isinstance(value, str) and value in names,
        ("one of " if len(names) > 1 else "") + ", ".join(map(repr, names)),
        remedy,
        lambda value: isinstance(value, str),
    )


boolean = Rule(lambda value: isinstance(value, bool | np.bool_), "True or False", kind=lambda value: False)


# -------------------------------------------------------------------------------------------- arrays


def feature_matrix(estimator: Any, X: Any, *, reset: bool, min_samples: int = 1) -> NDArray[Any]:
    """Dense, numeric (n, n_features) array, finite but for NaN where values are missing.

    With ``reset``, remember its features on ``estimator``.
    """
    if not reset and _is_plain(estimator, X):
        return X
    if isinstance(X, Dataset | DataLoader):
        kind = "DataLoader" if isinstance(X, DataLoader) else "Dataset"
        raise TypeError(f"X is a torch {kind}, which this method cannot use. Pass an array of its rows.")
    if getattr(X, "ndim", 2) > 2:
        raise ValueError(
            f"Found array with dim {X.ndim}, while dim <= 2 is required: rows of features. Flatten images: "
            "X.reshape(len(X), -1)."
        )
    _refuse_dates(X)
    try:
        array: NDArray[Any] = validate_data(
            estimator, host_array(X), dtype="numeric", reset=reset, ensure_min_samples=min_samples,
            ensure_all_finite="allow-nan",
        )  # fmt: skip
    except (TypeError, ValueError) as error:
        if column := _column_at_fault(X, error):
            raise ValueError(f"{column} ({error})") from error
        raise
    return array if array.dtype.kind in "fiub" else array.astype(np.float64)


def _is_plain(estimator: Any, X: Any) -> bool:
    """Whether rows are what is expected beyond doubt: finite floats in an array, of the features of a nameless fit."""
    with np.errstate(over="ignore", invalid="ignore"):
        return (
            type(X) is np.ndarray
            and X.ndim == 2
            and X.dtype in (np.float32, np.float64)
            and len(X) > 0
            and X.shape[1] == estimator.n_features_in_
            and not hasattr(estimator, "feature_names_in_")
            and bool(np.isfinite(X.sum()))
        )


def _column_at_fault(X: Any, error: Exception) -> str:
    """Which column of a table is no column of numbers, and what to do; nothing where that is not the error."""
    if "infinity" in str(error):
        infinite = np.isinf(np.asarray(X, dtype=np.float64))
        row, column = np.argwhere(infinite)[0].tolist() if infinite.any() else (0, 0)
        where = f"in row {row}, {column_name(column, getattr(X, 'columns', None))}"
        return f"X holds infinity {where}. Drop such rows, or make the value missing (NaN)." if infinite.any() else ""
    if hasattr(X, "columns") and ("convert string" in str(error) or "must be a string or a" in str(error)):
        for name in X.columns:
            values = [value for value in np.asarray(X[name], dtype=object) if not isinstance(value, numbers.Number)]
            strange = next((value for value in values if not reads_as_number(value)), None)
            if strange is not None:
                return (
                    f"X holds {type(strange).__name__} values in {name!r}, such as {strange!r}, which are not "
                    "numbers. Say what the columns are (likelihood=riskvae.likelihoods.Mixed.from_frame(X)), encode "
                    "them first (OneHotEncoder(sparse_output=False)), or leave them out."
                )
    return ""


def reads_as_number(value: Any) -> bool:
    """Whether a value of a table is read as a number, or as none."""
    try:
        np.asarray([value], dtype=np.float64)
    except (TypeError, ValueError):
        return False
    return True


def _refuse_dates(X: Any) -> None:
    """Raise for dates and durations, which would pass as numbers of nanoseconds."""
    kinds = [str(kind).lower() for kind in getattr(X, "dtypes", ())] if hasattr(X, "columns") else []
    dates = [kind.startswith(("date", "time", "duration", "period")) for kind in kinds]
    names = [repr(name) for name, date in zip(getattr(X, "columns", ()), dates, strict=False) if date]
    if names or getattr(getattr(X, "dtype", None), "kind", None) in ("m", "M"):
        where = f"in {', '.join(names)}" if names else f"({X.dtype})"
        raise ValueError(
            f"X holds dates or durations {where}, which are not numbers. Turn them into features that repeat: the "
            "month, the weekday, the hour, or the time between two dates of a row."
        )


def has_missing(rows: NDArray[Any]) -> bool:
    """Whether some values are NaN; rows that are whole are gone through once."""
    with np.errstate(over="ignore", invalid="ignore"):
        return rows.dtype.kind == "f" and bool(np.isnan(rows.sum())) and bool(np.isnan(rows).any())


def image_shape_of(rows: NDArray[Any], image_shape: Sequence[int] | None) -> tuple[int, ...]:
    """Height and width of images in rows; None means square ones."""
    d = math.prod(rows.shape[1:])
    side = math.isqrt(d)
    image_shape = (image_shape,) if isinstance(image_shape, int) else image_shape
    shape = (side, side) if image_shape is None else tuple(image_shape)
    if len(shape) != 2 or math.prod(shape) != d:
        raise ValueError(
            f"image_shape must be (height, width) with product {d}, the number of features; got {image_shape!r} "
            "(None means square images)."
        )
    return shape


def host_array(X: Any) -> Any:
    """A torch tensor as a NumPy array; anything else as it is."""
    if not isinstance(X, Tensor):
        return X
    X = X.detach().cpu()
    return (X.float() if X.dtype == torch.bfloat16 else X).numpy()


def compute_dtype(array: NDArray[Any]) -> torch.dtype:
    """Float32 rows are computed in float32, all others in float64."""
    return torch.float32 if array.dtype == np.float32 else torch.float64


def to_float32(array: NDArray[Any]) -> Tensor:
    """Tensor for training: shares memory with a native float32 array, else the one float32 copy of it."""
    if array.dtype == np.float32 and array.dtype.isnative and array.flags.c_contiguous:
        return borrowed(array)
    tensor = torch.empty(array.shape, dtype=torch.float32)
    with np.errstate(over="ignore"):
        np.copyto(tensor.numpy(), array, casting="unsafe")
    return tensor


def borrowed(array: NDArray[Any]) -> Tensor:
    """Tensor of floats on an array's own memory, which is only read; a copy where torch lacks its dtype or strides."""
    if array.dtype.kind != "f" or not array.dtype.isnative or array.dtype.itemsize > 8:
        array = array.astype(np.float64)
    if min(array.strides, default=0) < 0:
        array = array.copy()
    return torch.from_numpy(np.asarray(_Borrowed(array)))


LARGEST = 1e12


def limited(rows: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.float64] | None]:
    """Rows with values cut to +-1e12, whose squares no sum overflows, and by how much (a logarithm) each row lost."""
    if rows.dtype.kind != "f" or max(float(rows.max(initial=0)), -float(rows.min(initial=0))) <= LARGEST:
        return rows, None
    if max(float(np.fmax.reduce(rows, None, initial=0)), -float(np.fmin.reduce(rows, None, initial=0))) <= LARGEST:
        return rows, None  # but for missing values
    cut = np.clip(rows, -LARGEST, LARGEST)
    with np.errstate(divide="ignore"):
        beyond = np.log(np.abs(rows.astype(np.float64)) / LARGEST)
    return cut, np.fmax(beyond, 0.0).sum(axis=1)


class _Borrowed:
    """Array whose read-only flag is masked: torch warns about such arrays, and training only reads."""

    def __init__(self, array: NDArray[Any]) -> None:
        self._array = array  # keeps the memory alive
        interface = dict(array.__array_interface__)
        interface["data"] = (interface["data"][0], False)
        self.__array_interface__ = interface


def check_finite(x: Tensor, names: Sequence[Any] | None = None) -> bool:
    """Raise unless every value is finite, also in float32, or NaN; whether some are NaN, so missing."""
    if math.isfinite(float(x.min())) and math.isfinite(float(x.max())):
        return False
    infinite = x.isinf()
    if infinite.any():
        row, column = infinite.nonzero()[0].tolist()
        raise ValueError(
            f"X holds infinity, or a value too large for float32, in which training is done: {float(x[row, column])} "
            f"in row {row}, {column_name(column, names)}. Drop such rows, or scale X first (StandardScaler)."
        )
    return True


def column_name(column: int, names: Sequence[Any] | None = None) -> str:
    """How a column is called."""
    return f"column {column}" if names is None else f"column {names[column]!r}"


# ---------------------------------------------------------------------------------------------- users


def is_ours(thing: Any) -> bool:
    """Whether an object is of a class of this package, not of the user's."""
    return type(thing).__module__.split(".")[0] == "riskvae"


def level_of_the_user() -> int:
    """Stack level, for a warning by the caller of this, of the first frame outside this package and scikit-learn."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_globals.get("__name__", "").split(".")[0] in ("riskvae", "sklearn"):
        frame, level = frame.f_back, level + 1
    return level


# -------------------------------------------------------------------------------------------- chance


def draw_seed(random_state: Any) -> int:
    """One integer from a scikit-learn ``random_state``."""
    try:
        return int(check_random_state(random_state).randint(np.iinfo(np.int32).max))
    except ValueError as error:
        raise ValueError(
            f"random_state must be None, an integer from 0 to 2**32 - 1 or a numpy RandomState; got {random_state!r}."
        ) from error


def derive_seed(seed: int, purpose: str, index: int = 0) -> int:
    """Seed for one use of a random state: equal arguments give equal seeds, others unrelated ones."""
    return int(np.random.SeedSequence((seed, zlib.crc32(purpose.encode()), index)).generate_state(1)[0])


_RNG_LOCK = threading.RLock()


@contextmanager
def isolated_rng(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's global generators for code that draws from them, and put them back after it.

    Such blocks exclude each other, but a thread that draws from a global generator meanwhile disturbs both.
    """
    with _RNG_LOCK, torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        before = torch.mps.get_rng_state() if device.type == "mps" else None
        torch.default_generator.manual_seed(seed)
        if device.type == "mps":
            torch.mps.manual_seed(seed)
        elif device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        try:
            yield
        finally:
            if before is not None:
                torch.mps.set_rng_state(before)
