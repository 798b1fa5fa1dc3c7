"""Tables in files that are larger than memory, as rows for estimators."""

import os
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import IterableDataset

from riskvae._validation import check_parameters, choice, integer
from riskvae.datasets._files import (
    PARQUET,
    arrow,
    check_schema,
    features_of,
    files_of,
    look_into,
    names_of,
    numbers_of,
    schema_of,
)

__all__ = ["ParquetRows"]

# Values that are read, and mixed, at once.
_READ, _MIXED = 2**21, 2**24


class _Piece(NamedTuple):
    """What is read by itself: a row group of a Parquet file, or a record batch."""

    source: int  # number of the file
    number: int
    n_rows: int


class ParquetRows(IterableDataset[Tensor]):
    """Rows of Parquet or Feather files, or of other record batches, that need not fit in memory.

    Estimators accept it wherever they accept a Dataset. They read it in pieces (the row groups of a Parquet file), in
    random order during training, and mix ``buffer_size`` rows at a time; the estimator's ``random_state`` determines
    both. Rows are float32. Missing values (null) become NaN; infinite values are rejected, with their file and row in
    the message.

    Parameters
    ----------
    path : str, path-like, sequence of them, or iterable of pyarrow record batches
        A file (.parquet, .pq, .feather, .arrow, .ipc), a folder with such files, which are read in the order of their
        names, or several of these. An iterable must start over each time it is iterated, as a list does; a generator
        does not.
    columns : sequence of str, default=None
        Columns to use as features, in this order; None uses all columns of the first file. They must be numbers or
        booleans.
    batch_size : int or "auto", default="auto"
        Maximum number of rows that are read at once; "auto" reads 8 MiB of them.
    buffer_size : int or "auto", default="auto"
        Number of rows that are mixed with each other in training; "auto" mixes 64 MiB of them. The buffer should hold
        several row groups. If the table is sorted, a larger buffer is better.
    transform : fitted transformer, default=None
        Transformer whose ``transform`` is applied to rows as they are read, such as a StandardScaler whose
        ``partial_fit`` has seen all ``blocks()``. It must keep the number of features.

    Attributes
    ----------
    columns : tuple of str
        Names of the features.
    files : list of pathlib.Path
        Files, in order; empty for record batches.

    Raises
    ------
    ImportError
        If pyarrow is not installed; the extra ``arrow`` installs it.
    FileNotFoundError, ValueError
        If a file does not exist, a file lacks a column, or a column is not numeric; the message names it.

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
        arrow()
        sizes = {"batch_size": batch_size, "buffer_size": buffer_size}
        check_parameters("ParquetRows", sizes, dict.fromkeys(sizes, integer(1) | choice("auto")))
        names = None if columns is None else names_of(columns)
        if transform is not None and not hasattr(transform, "transform"):
            raise TypeError(
                f"ParquetRows: transform must be a fitted transformer, such as StandardScaler; got {transform!r}."
            )
        self.transform = transform
        self.files = files_of(path)
        self._batches = None if self.files else path
        found = [look_into(file) for file in self.files]
        schemas = [schema for schema, _ in found] or [schema_of(path)]
        sources: list[Any] = [*self.files] or ["the record batches"]
        self.columns = features_of(schemas[0], sources[0]) if names is None else names
        for schema, name in zip(schemas, sources, strict=True):
            check_schema(schema, self.columns, name)
        width = len(self.columns)
        self.batch_size = max(1, _READ // width) if isinstance(batch_size, str) else batch_size
        self.buffer_size = max(1, _MIXED // width) if isinstance(buffer_size, str) else buffer_size
        self._pieces = self._find_pieces([sizes for _, sizes in found])
        self._ends = list(accumulate(piece.n_rows for piece in self._pieces))

    def _find_pieces(self, sizes: list[list[int]]) -> list[_Piece]:
        if self._batches is not None:
            parts = enumerate(self._batches)  # type: ignore[arg-type]
            return [_Piece(0, i, part.num_rows) for i, part in parts if part.num_rows]
        return [_Piece(i, number, n) for i, parts in enumerate(sizes) for number, n in enumerate(parts) if n]

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
            "ParquetRows gives rows in blocks and is not an array, which pipelines, searches and splits of "
            "scikit-learn need. Scale rows as they are read, with ParquetRows(path, transform=scaler), after the "
            "scaler has seen all of them: for _, rows in ParquetRows(path).blocks(): scaler.partial_fit(rows)."
        )

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        return self[:]

    def __iter__(self) -> Iterator[Tensor]:
        for _, rows in self.blocks():
            yield from rows

    def blocks(self, generator: torch.Generator | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Iterate over all rows, as positions (n,) and float32 rows (n, n_features); shuffled if a generator is given.

        Parameters
        ----------
        generator : torch.Generator, default=None
            Shuffles the pieces, and the rows in each buffer of them; None keeps the order.

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
        count = 0
        for block in read:
            waiting.append(block)
            count += len(block[0])
            if count >= self.buffer_size:
                yield from self._mixed(waiting, generator)
                count = 0
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
        """About n positions and rows: the first ones of some pieces that are spread over the table."""
        step = max(1, len(self._pieces) // 16) if self.files else 1
        some = range(0, len(self._pieces), step)
        each = -(-n // len(some)) if self.files else n
        places: list[Tensor] = []
        rows: list[Tensor] = []
        for number in some:
            left = min(each, n - sum(len(part) for part in places))
            for where, part in self._read([number]):
                places.append(where[:left])
                rows.append(part[:left])
                left -= len(places[-1])
                if left <= 0:
                    break
        return torch.cat(places), torch.cat(rows)

    def where(self, place: int) -> str:
        """File and row of a position, in words."""
        i = bisect_right(self._ends, place)
        piece = self._pieces[i]
        first = next(j for j, other in enumerate(self._pieces) if other.source == piece.source)
        row = place - (self._ends[first] - self._pieces[first].n_rows)
        return f"row {row} of {self.files[piece.source] if self.files else 'the record batches'}"

    def _read(self, order: list[int]) -> Iterator[tuple[Tensor, Tensor]]:
        """Pieces in some order, in parts of a batch at most."""
        if self._batches is not None:
            wanted = {self._pieces[i].number: i for i in order}
            batches_of = enumerate(self._batches)  # type: ignore[arg-type]
            parts: Any = ((wanted[number], [part]) for number, part in batches_of if number in wanted)
        else:
            parts = ((i, self._of_file(self._pieces[i])) for i in order)
        for i, batches in parts:
            start = self._ends[i] - self._pieces[i].n_rows
            for batch in batches:
                for first in range(0, batch.num_rows, self.batch_size):
                    rows = self._tensor(batch.slice(first, self.batch_size), self._pieces[i])
                    if not np.isfinite(rows.sum()):
                        self._refuse_infinity(start, rows)
                    yield torch.arange(start, start + len(rows)), torch.from_numpy(self._transformed(rows))
                    start += len(rows)
            if start != self._ends[i]:
                raise ValueError(f"{self._name(self._pieces[i])} has changed: it no longer has the rows that it had.")

    def _name(self, piece: _Piece) -> str:
        return str(self.files[piece.source]) if self.files else f"record batch {piece.number}"

    def _of_file(self, piece: _Piece) -> Iterator[Any]:
        file = self.files[piece.source]
        pyarrow = arrow()
        try:
            if file.suffix.lower() in PARQUET:
                with pyarrow.parquet.ParquetFile(file, memory_map=False) as opened:
                    yield from opened.iter_batches(self.batch_size, [piece.number], list(self.columns))
            else:
                with pyarrow.OSFile(str(file)) as raw, pyarrow.ipc.open_file(raw) as opened:
                    yield opened.get_batch(piece.number).select(list(self.columns))
        except (OSError, pyarrow.ArrowException, KeyError, IndexError) as error:
            raise ValueError(f"{file} has changed, or cannot be read any more: {error}") from error

    def _refuse_infinity(self, start: int, rows: NDArray[np.float32]) -> None:
        """Raise where a value is infinite, with its place."""
        bad = np.argwhere(np.isinf(rows))
        if len(bad):
            i, j = bad[0]
            raise ValueError(
                f"X holds infinity, or a value too large for float32, in column {self.columns[j]!r}. It is "
                f"{self.where(start + int(i))}, counted from 0. Drop such rows, or leave the column out: "
                "ParquetRows(path, columns=[...])."
            )

    def _transformed(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        if self.transform is None:
            return rows
        found = np.asarray(self.transform.transform(rows), dtype=np.float32)
        if found.shape != rows.shape:
            raise ValueError(
                f"ParquetRows: transform must keep the shape of the rows, {rows.shape}; it gave shape {found.shape}."
            )
        return found

    def _tensor(self, batch: Any, piece: _Piece) -> NDArray[np.float32]:
        rows = np.empty((batch.num_rows, len(self.columns)), dtype=np.float32)
        try:
            for j, name in enumerate(self.columns):
                rows[:, j] = numbers_of(batch.column(name))
        except (KeyError, ValueError, TypeError) as error:
            raise ValueError(
                f"{self._name(piece)}: column {name!r} cannot be read as numbers any more: {error}"
            ) from error
        return rows
