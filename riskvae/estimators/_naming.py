"""Rows that a model gives back as its user writes them: with the names of columns and categories."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from riskvae._sklearn import output_container

__all__ = ["named_rows"]

Method = TypeVar("Method", bound=Callable[..., Any])


def named_rows(method: Method) -> Method:
    """Let a method that gives rows give the user's columns: in a DataFrame where ``set_output`` asks for one.

    Otherwise they are an array, of objects where categories have names.
    """

    @functools.wraps(method)
    def answer(self: Any, *args: Any, **kwargs: Any) -> Any:
        rows = method(self, *args, **kwargs)
        columns = self.net_.module_.likelihood.named(rows)
        container = output_container(self)
        if container == "default" or rows.ndim != 2:
            return rows if columns is None else _stacked(columns)
        names = getattr(self, "feature_names_in_", None)
        if names is None:
            own = getattr(self.net_.module_.likelihood, "names_of_columns", None)
            names = [f"x{place}" for place in range(rows.shape[1])] if own is None else own
        parts = list(rows.T) if columns is None else columns
        return _frame(container, dict(zip(names, parts, strict=True)), args[0] if args else kwargs.get("X"))

    return answer  # type: ignore[return-value]  # the same signature


def _stacked(columns: list[NDArray[Any]]) -> NDArray[Any]:
    plain = all(column.dtype.kind in "biuf" for column in columns)
    return np.stack(columns if plain else [column.astype(object) for column in columns], axis=-1)


def _frame(container: str, columns: dict[str, NDArray[Any]], X: Any) -> Any:
    if container == "polars":
        import polars

        return polars.DataFrame({name: column.tolist() for name, column in columns.items()})
    import pandas

    return pandas.DataFrame(columns, index=X.index if isinstance(X, pandas.DataFrame) else None)
