"""Tables in files that are larger than memory, as rows for estimators."""

import os
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import IterableDataset

from riskvae._validation import check_parameters, choice, integer

__all__ = ["ParquetRows"]

# Values that are read, and mixed, at once.
_READ, _MIXED = 2**21, 2**24
_PARQUET, _FEATHER = (".parquet", ".pq"), (".feather", ".arrow", ".ipc")


class _Piece(NamedTuple):
    """What is read by itself: a row group of a Parquet file, or a record batch."""

    source: int  # number of the file
    number: int
    n_rows: int


class ParquetRows(IterableDataset[Tensor]):
    """Rows of Parquet or Feather files, or of other record batches, which are never all in memory.

    Estimators take it wherever they take a Dataset. They read it in pieces (the row groups of a Parquet file), in
    training in random order, and mix ``buffer_size`` rows of these at a time; the estimator's ``random_state`` decides
    both. Rows are float32. Missing values are refused, with their file and row.

    Parameters
    ----------
    path : str, path-like, sequence of them, or iterable of pyarrow record batches
        A file (.parquet, .pq, .feather, .arrow, .ipc), a folder with such files, which are taken in the order of their
        names, or several of these. An iterable must begin anew each time it is asked, as a list does; a generator does
        not.
    columns : sequence of str, default=None
        Columns that are features, in this order; None takes all of the first file. They must be numbers or booleans.
    batch_size : int or "auto", default="auto"
        Rows that are read at once, at most; "auto" takes 8 MiB of them.
    buffer_size : int or "auto", default="auto"
        Rows that are mixed with each other in training; "auto" takes 64 MiB of them. It should hold several row groups;
        where the table is sorted, more are better.
    transform : fitted transformer, default=None
        Its ``transform`` is applied to rows as they are read, such as that of a StandardScaler that ``partial_fit`` has
        shown all ``blocks()``. It must leave the number of features as it is.

    Attributes
    ----------
    columns : tuple of str
        Names of the features.
    files : list of pathlib.Path
        Files, in order; empty for record batches.

    Raises
    ------
    ImportError
        Without pyarrow, which the extra ``arrow`` brings.
    FileNotFoundError, ValueError
        Where there is no such file, or a file lacks a column, or a column holds no numbers: by name.

    Examples
    --------
    >>> import pandas, tempfile
    >>> from riskvae import BetaVAE
    >>> from riskvae.datasets import ParquetRows
    >>> table = pandas.DataFrame(np.random.default_rng(0).normal(size=(1000, 3)), columns=["a", "b", "c"])
    >>> file = tempfile.mkdtemp() + "/table.parquet"
    >>> table.to_parquet(file, row_group_size=100)
    >>> rows = ParquetRows(file, columns=["a", "c"])
    >>> vae = BetaVAE(n_components=1, max_epochs=2, random_state=0).fit(rows)
    >>> vae.transform(rows).shape
    (1000, 1)
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | Iterable[Any],
        columns: Sequence[str] | None = None,
        *,
        batch_size: int | Literal["auto"] = "auto",
        buffer_size: int | Literal["auto"] = "auto",
        transform: Any = None,
    ) -> None:
        super().__init__()
        _arrow()
        sizes = {"batch_size": batch_size, "buffer_size": buffer_size}
        check_parameters("ParquetRows", sizes, dict.fromkeys(sizes, integer(1) | choice("auto")))
        if columns is not None and (isinstance(columns, str) or not list(columns)):
            raise TypeError(f"ParquetRows: columns must be a sequence of names, such as ['a', 'b']; got {columns!r}.")
        if len(set(columns or ())) < len(columns or ()):
            raise ValueError(f"ParquetRows: columns must name each column once; got {list(columns or ())}.")
        if transform is not None and not hasattr(transform, "transform"):
            raise TypeError(
                f"ParquetRows: transform must be a fitted transformer, such as StandardScaler; got {transform!r}."
            )
        self.transform = transform
        self.files = _files(path)
        self._batches = None if self.files else path
        schemas = [_schema(file) for file in self.files] or [_first_schema(path)]
        sources: list[Any] = [*self.files] or ["the record batches"]
        self.columns = tuple(schemas[0].names if columns is None else columns)
        for schema, name in zip(schemas, sources, strict=True):
            _check_schema(schema, self.columns, name)
        width = len(self.columns)
        self.batch_size = max(1, _READ // width) if isinstance(batch_size, str) else batch_size
        self.buffer_size = max(1, _MIXED // width) if isinstance(buffer_size, str) else buffer_size
        self._pieces = self._find_pieces()
        self._ends = list(accumulate(piece.n_rows for piece in self._pieces))

    def _find_pieces(self) -> list[_Piece]:
        if self._batches is not None:
            return [_Piece(0, i, part.num_rows) for i, part in enumerate(self._batches)]  # type: ignore[arg-type]
        return [_Piece(i, number, n) for i, file in enumerate(self.files) for number, n in enumerate(_sizes(file)) if n]

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return self._ends[-1] if self._ends else 0

    def __len__(self) -> int:
        return self.n_rows

    def __repr__(self) -> str:
        where = f"{len(self.files)} files from {self.files[0]} on" if self.files else "record batches"
        return f"ParquetRows({self.n_rows:,} rows of {len(self.columns)} features, {where})"

    def __getitem__(self, index: Any) -> Any:
        raise TypeError(
            "ParquetRows gives rows in blocks, and cannot pick some: pipelines, searches and splits of scikit-learn "
            "need an array. Scale rows as they are read, by ParquetRows(path, transform=scaler), where the scaler has "
            "seen all of them: for _, rows in ParquetRows(path).blocks(): scaler.partial_fit(rows)."
        )

    def __iter__(self) -> Iterator[Tensor]:
        for _, rows in self.blocks():
            yield from rows

    def blocks(self, generator: torch.Generator | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """All rows, as places (n,) and float32 rows (n, n_features); shuffled by a generator, else in order.

        Parameters
        ----------
        generator : torch.Generator, default=None
            Shuffles pieces, and the rows of a buffer of them.

        Yields
        ------
        places, rows : Tensor of int64 of shape (n,), Tensor of float32 of shape (n, n_features)
        """
        if generator is None or self._batches is not None:
            order = list(range(len(self._pieces)))
        else:
            order = torch.randperm(len(self._pieces), generator=generator).tolist()
        read = self._read(order)
        if generator is None:
            yield from read
            return
        waiting: list[tuple[Tensor, Tensor]] = []
        for block in read:
            waiting.append(block)
            if sum(len(places) for places, _ in waiting) >= self.buffer_size:
                yield from self._mixed(waiting, generator)
        if waiting:
            yield from self._mixed(waiting, generator)

    def _mixed(
        self, waiting: list[tuple[Tensor, Tensor]], generator: torch.Generator
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Empty a buffer, in random order."""
        places, rows = (torch.cat(parts) for parts in zip(*waiting, strict=True))
        waiting.clear()
        for some in torch.randperm(len(places), generator=generator).split(self.batch_size):
            yield places[some], rows[some]

    def head(self, n: int) -> tuple[Tensor, Tensor]:
        """About n places and rows: the first ones of some pieces that are spread over the table."""
        step = max(1, len(self._pieces) // 16)
        some = range(0, len(self._pieces), step) if self.files else range(1)
        each = -(-n // len(some))
        parts = [next(self._read([number])) for number in some]
        return torch.cat([places[:each] for places, _ in parts]), torch.cat([rows[:each] for _, rows in parts])

    def where(self, place: int) -> str:
        """File and row of a place, in words."""
        i = bisect_right(self._ends, place)
        piece = self._pieces[i]
        first = next(j for j, other in enumerate(self._pieces) if other.source == piece.source)
        row = place - (self._ends[first] - self._pieces[first].n_rows)
        return f"row {row} of {self.files[piece.source] if self.files else 'the record batches'}"

    def _read(self, order: list[int]) -> Iterator[tuple[Tensor, Tensor]]:
        """Pieces in some order, in parts of a batch at most."""
        if self._batches is not None:
            wanted = set(order)
            parts: Any = ((i, [part]) for i, part in enumerate(self._batches) if i in wanted)  # type: ignore[arg-type]
        else:
            parts = ((i, self._of_file(self._pieces[i])) for i in order)
        for i, batches in parts:
            start = self._ends[i] - self._pieces[i].n_rows
            for batch in batches:
                for first in range(0, batch.num_rows, self.batch_size):
                    rows = self._tensor(batch.slice(first, self.batch_size), self._pieces[i])
                    if not np.isfinite(rows.sum()):
                        self._refuse_gaps(start, rows)
                    yield torch.arange(start, start + len(rows)), torch.from_numpy(self._transformed(rows))
                    start += len(rows)
            if start != self._ends[i]:
                raise ValueError(f"{self._name(self._pieces[i])} has changed: it no longer has the rows that it had.")

    def _name(self, piece: _Piece) -> str:
        return str(self.files[piece.source]) if self.files else f"record batch {piece.number}"

    def _of_file(self, piece: _Piece) -> Iterator[Any]:
        file = self.files[piece.source]
        arrow = _arrow()
        try:
            if file.suffix in _PARQUET:
                with arrow.parquet.ParquetFile(file, memory_map=False) as opened:
                    yield from opened.iter_batches(self.batch_size, [piece.number], list(self.columns))
            else:
                with arrow.OSFile(str(file)) as raw, arrow.ipc.open_file(raw) as opened:
                    yield opened.get_batch(piece.number).select(list(self.columns))
        except (OSError, arrow.ArrowException, KeyError, IndexError) as error:
            raise ValueError(f"{file} has changed, or cannot be read any more: {error}") from error

    def _refuse_gaps(self, start: int, rows: NDArray[np.float32]) -> None:
        """Raise where a value is missing or infinite, with its place."""
        bad = np.argwhere(~np.isfinite(rows))
        if len(bad):
            i, j = bad[0]
            what = "no value (null or NaN)" if np.isnan(rows[i, j]) else "infinity, or a value too large for float32,"
            raise ValueError(
                f"X holds {what} in column {self.columns[j]!r}. It is {self.where(start + int(i))}, counted from 0. "
                "Impute or drop such rows, or leave the column out: ParquetRows(path, columns=[...])."
            )

    def _transformed(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        if self.transform is None:
            return rows
        found = np.asarray(self.transform.transform(rows), dtype=np.float32)
        if found.shape != rows.shape:
            raise ValueError(
                f"ParquetRows: transform must leave rows of {rows.shape[1]} features; it gave shape {found.shape}."
            )
        return found

    def _tensor(self, batch: Any, piece: _Piece) -> NDArray[np.float32]:
        rows = np.empty((batch.num_rows, len(self.columns)), dtype=np.float32)
        try:
            for j, name in enumerate(self.columns):
                rows[:, j] = _numbers(batch.column(name))
        except (KeyError, ValueError, TypeError) as error:
            raise ValueError(
                f"{self._name(piece)}: column {name!r} cannot be read as numbers any more: {error}"
            ) from error
        return rows


def _arrow() -> Any:
    try:
        import pyarrow
        import pyarrow.ipc
        import pyarrow.parquet
    except ImportError:
        raise ImportError("ParquetRows needs pyarrow: pip install 'riskvae[arrow]', or pip install pyarrow.") from None
    return pyarrow


def _files(path: Any) -> list[Path]:
    """Files that a path, or several, stand for; none for record batches."""
    paths = [path] if isinstance(path, str | os.PathLike) else path
    if not isinstance(paths, list | tuple) or not all(isinstance(one, str | os.PathLike) for one in paths) or not paths:
        if isinstance(path, Iterator):
            raise TypeError(
                "ParquetRows: path is an iterator of record batches, which can be read only once. Pass a list of them, "
                "or an object whose __iter__ begins anew each time."
            )
        if not isinstance(path, Iterable):
            raise TypeError(f"ParquetRows: path must name files, or hold record batches; got {type(path).__name__}.")
        return []
    found: list[Path] = []
    for one in map(Path, paths):
        inside = (
            sorted(file for file in one.rglob("*") if file.suffix in _PARQUET + _FEATHER) if one.is_dir() else [one]
        )
        if not inside or not inside[0].exists():
            what = (
                f"holds no file with one of {', '.join(_PARQUET + _FEATHER)}"
                if one.is_dir()
                else f"does not exist in {Path.cwd()}"
            )
            raise FileNotFoundError(f"ParquetRows: {one} {what}.")
        found += inside
    for file in found:
        if file.suffix not in _PARQUET + _FEATHER:
            raise ValueError(f"ParquetRows: {file} must end in one of {', '.join(_PARQUET + _FEATHER)}.")
    return found


def _schema(file: Path) -> Any:
    arrow = _arrow()
    try:
        if file.suffix in _PARQUET:
            return arrow.parquet.read_schema(file)
        with arrow.OSFile(str(file)) as raw:
            return arrow.ipc.open_file(raw).schema
    except (OSError, arrow.ArrowException) as error:
        raise ValueError(f"ParquetRows: {file} is no file that pyarrow can read: {error}") from error


def _first_schema(batches: Any) -> Any:
    arrow = _arrow()
    first = next(iter(batches), None)
    if not isinstance(first, arrow.RecordBatch):
        raise TypeError(
            f"ParquetRows: path must name files, or hold record batches; the first is {type(first).__name__}."
        )
    return first.schema


def _sizes(file: Path) -> list[int]:
    """Rows of the pieces of a file."""
    arrow = _arrow()
    if file.suffix in _PARQUET:
        metadata = arrow.parquet.read_metadata(file)
        return [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
    with arrow.OSFile(str(file)) as raw, arrow.ipc.open_file(raw) as opened:
        return [opened.get_batch(i).num_rows for i in range(opened.num_record_batches)]


def _check_schema(schema: Any, columns: Sequence[str], name: Any) -> None:
    types = _arrow().types
    for column in columns:
        place = schema.get_field_index(column)
        if place < 0:
            raise ValueError(f"ParquetRows: {name} has no column {column!r}, or several; it has {schema.names[:20]}.")
        kind = schema.field(place).type
        if not (types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind) or types.is_decimal(kind)):
            raise ValueError(
                f"ParquetRows: column {column!r} of {name} holds {kind}, no numbers. Leave it out by columns=[...], or "
                "encode it first."
            )


def _numbers(values: Any) -> NDArray[np.float32]:
    """Values of a column, NaN where one is missing."""
    return np.asarray(values.cast("float32", safe=False).to_numpy(zero_copy_only=False), dtype=np.float32)
