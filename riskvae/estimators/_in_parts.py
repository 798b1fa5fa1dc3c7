"""Rows of a torch Dataset, part by part, for methods of a fitted model that answer row by row."""

import copy
import functools
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, IterableDataset

from riskvae.estimators._loading import check_names, taken_apart
from riskvae.training._blocks import gives_blocks
from riskvae.training._stream import rows_of_items

__all__ = ["checked_rows", "in_parts", "is_source"]

Array = NDArray[Any]
Method = TypeVar("Method", bound=Callable[..., Any])

# Rows of a part.
_ROWS = 8192


def is_source(X: Any) -> bool:
    """Whether rows come from a Dataset or DataLoader."""
    return isinstance(X, Dataset | DataLoader)


def parts_of(X: Any, loading: dict[str, Any]) -> Iterator[Array]:
    """Rows of a Dataset as arrays (n, n_features), in the dataset's order."""
    if isinstance(X, IterableDataset):  # several workers would give every row several times
        loading = {}
    start = 0
    for rows in (rows for _, rows in X.blocks()) if gives_blocks(X) else _loaded(X, loading):
        yield rows.numpy(force=True)
        start += len(rows)
    if not start:
        raise ValueError("X is a Dataset without rows, or one that can be read only once and has been.")


def _loaded(X: Any, loading: dict[str, Any]) -> Iterator[Any]:
    # A generator of its own: seeds of workers are not drawn from torch's global one.
    for items in DataLoader(X, batch_size=_ROWS, generator=torch.Generator(), **loading):
        yield rows_of_items(items)[0]


def _opened(estimator: Any, X: Any) -> tuple[Any, dict[str, Any]]:
    """The dataset, and its workers, for an estimator that knows its columns."""
    estimator._check_fitted()
    data, loading = taken_apart(X) if isinstance(X, DataLoader) else (X, {})
    check_names(estimator, data)
    return data, loading


def in_parts(method: Method) -> Method:
    """Let a method of rows, whose answers are one for each row, take a Dataset or DataLoader."""

    @functools.wraps(method)
    def answer(self: Any, X: Any, *args: Any, **kwargs: Any) -> Any:
        if not is_source(X):
            return method(self, X, *args, **kwargs)
        X, loading = _opened(self, X)
        nameless = _nameless(self)
        found, done = [], 0
        for rows in parts_of(X, loading):
            try:
                found.append(method(nameless, rows, *args, **kwargs))
            except ValueError as error:
                where = f", from {X.where(done)} on" if gives_blocks(X) else ""
                error.add_note(f"This is about rows {done} to {done + len(rows) - 1} of the Dataset{where}.")
                raise
            done += len(rows)
        return _joined(found)

    return answer  # type: ignore[return-value]  # the same signature


def _nameless(estimator: Any) -> Any:
    """The same fitted model, which does not ask parts of a Dataset for names, of columns or of categories."""
    other = copy.copy(estimator)
    vars(other).pop("feature_names_in_", None)
    other._takes_codes = True
    return other


def _joined(found: list[Any]) -> Any:
    if isinstance(found[0], tuple):
        return type(found[0])(*map(np.concatenate, zip(*found, strict=True)))
    return np.concatenate(found)


def checked_rows(estimator: Any, X: Any) -> Array:
    """All rows in memory, of an array, a Dataset or a DataLoader, as the estimator checks them."""
    if not is_source(X):
        return estimator._check_rows(X)
    parts = list(parts_of(*_opened(estimator, X)))
    return _nameless(estimator)._check_rows(np.concatenate(parts))
