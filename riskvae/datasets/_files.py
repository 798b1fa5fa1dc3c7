"""Files of tables: which there are, what they hold, and that it can be used."""

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "PARQUET",
    "arrow",
    "check_schema",
    "features_of",
    "files_of",
    "look_into",
    "names_of",
    "numbers_of",
    "schema_of",
]

PARQUET, FEATHER = (".parquet", ".pq"), (".feather", ".arrow", ".ipc")


def names_of(columns: Any) -> tuple[str, ...]:
    """Names of columns, as a caller gave them."""
    names = () if isinstance(columns, str) or not isinstance(columns, Iterable) else tuple(columns)
    if not names or not all(isinstance(name, str) for name in names):
        raise TypeError(f"ParquetRows: columns must be a sequence of names, such as ['a', 'b']; got {columns!r}.")
    if len(set(names)) < len(names):
        raise ValueError(f"ParquetRows: columns must name each column once; got {list(names)}.")
    return names


def features_of(schema: Any, source: Any) -> tuple[str, ...]:
    """All columns but those in which pandas keeps its index."""
    index = (schema.pandas_metadata or {}).get("index_columns", [])
    names = tuple(name for name in schema.names if name not in index)
    if not names:
        raise ValueError(f"ParquetRows: {source} has no columns.")
    return names


def arrow() -> Any:
    """The library, which is an extra."""
    try:
        import pyarrow
        import pyarrow.ipc
        import pyarrow.parquet
    except ImportError:
        raise ImportError("ParquetRows needs pyarrow: pip install pyarrow (the extra arrow).") from None
    return pyarrow


def files_of(path: Any) -> list[Path]:
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
        inside = sorted(file for file in one.rglob("*") if _is_table(file, one)) if one.is_dir() else [one]
        if not inside or not inside[0].exists():
            what = (
                f"holds no file with one of {', '.join(PARQUET + FEATHER)}"
                if one.is_dir()
                else f"does not exist in {Path.cwd()}"
            )
            raise FileNotFoundError(f"ParquetRows: {one} {what}.")
        found += inside
    for file in found:
        if file.suffix.lower() not in PARQUET + FEATHER:
            raise ValueError(f"ParquetRows: {file} must end in one of {', '.join(PARQUET + FEATHER)}.")
    return found


def _is_table(file: Path, folder: Path) -> bool:
    """Whether a file in a folder is one, by its name; what begins with a dot or an underscore is not."""
    hidden = any(part.startswith((".", "_")) for part in file.relative_to(folder).parts)
    return file.suffix.lower() in PARQUET + FEATHER and not hidden and file.is_file()


def look_into(file: Path) -> tuple[Any, list[int]]:
    """Schema of a file, and the rows of its pieces."""
    pyarrow = arrow()
    try:
        if file.suffix.lower() in PARQUET:
            metadata = pyarrow.parquet.read_metadata(file)
            sizes = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
            return metadata.schema.to_arrow_schema(), sizes
        # The first column alone tells how many rows a batch has.
        first = pyarrow.ipc.IpcReadOptions(included_fields=[0])
        with pyarrow.OSFile(str(file)) as raw, pyarrow.ipc.open_file(raw, options=first) as opened:
            sizes = [opened.get_batch(i).num_rows for i in range(opened.num_record_batches)]
        with pyarrow.OSFile(str(file)) as raw, pyarrow.ipc.open_file(raw) as opened:
            return opened.schema, sizes
    except (OSError, pyarrow.ArrowException) as error:
        raise ValueError(f"ParquetRows: {file} is not a file that pyarrow can read: {error}") from error


def schema_of(batches: Any) -> Any:
    """Schema of the first of some record batches."""
    pyarrow = arrow()
    first = next(iter(batches), None)
    if not isinstance(first, pyarrow.RecordBatch):
        raise TypeError(
            f"ParquetRows: path must name files, or hold record batches; the first item is {type(first).__name__}."
        )
    return first.schema


def check_schema(schema: Any, columns: Sequence[str], name: Any) -> None:
    """Raise where a column is not there, or holds no numbers."""
    types = arrow().types
    for column in columns:
        place = schema.get_field_index(column)
        if place < 0:
            raise ValueError(
                f"ParquetRows: {name} must have exactly one column {column!r}; it has {schema.names[:20]}."
            )
        kind = schema.field(place).type
        if not (types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind) or types.is_decimal(kind)):
            raise ValueError(
                f"ParquetRows: column {column!r} of {name} holds {kind}, not numbers. Leave it out with columns=[...], "
                "or encode it first."
            )


def numbers_of(values: Any) -> NDArray[np.float32]:
    """Values of a column, NaN where one is missing."""
    return np.asarray(values.cast("float32", safe=False).to_numpy(zero_copy_only=False), dtype=np.float32)
