"""Progress over blocks of rows, and what is left where it is interrupted."""

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray


def examine_all(
    owner: str, blocks: Iterable[tuple[Any, int, Any]], n: int, verbose: int, examine: Callable[..., dict[str, Any]]
) -> tuple[dict[str, NDArray[Any]], str]:
    """Results of blocks of rows, by name, for all n rows; and what stopped the work, where something did.

    Whoever waited for an hour keeps what is done then: the other rows have NaN, False or 0.
    """
    parts: list[dict[str, NDArray[Any]]] = []
    done, stopped = 0, ""
    try:
        with progress(owner, n, verbose) as tell:
            for rows, count, x in blocks:
                parts.append({name: values[:count] for name, values in examine(rows, x).items()})
                done += count
                tell(count)
    except (Exception, KeyboardInterrupt) as error:
        if not parts:
            raise
        stopped = f"rows {done} to {n - 1} were not examined: {type(error).__name__}: {error}".rstrip(": ")
        warnings.warn(f"{owner} stopped early, and returns what was done: {stopped}.", UserWarning, stacklevel=3)
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return {name: _filled(values, n - done) for name, values in columns.items()}, stopped


def _filled(values: NDArray[Any], missing: int) -> NDArray[Any]:
    if not missing:
        return values
    nothing = np.nan if values.dtype.kind == "f" and values.ndim == 1 else 0
    return np.concatenate((values, np.full((missing, *values.shape[1:]), nothing, dtype=values.dtype)))


@contextmanager
def progress(what: str, total: int, verbose: int) -> Iterator[Callable[[int], object]]:
    """Function that is told how many rows are done; a bar by tqdm, or a line per block without it."""
    if not verbose:
        yield lambda n: None
        return
    try:
        from tqdm.auto import tqdm
    except ImportError:
        done = 0

        def tell(n: int) -> None:
            nonlocal done
            done += n
            print(f"{what}: {done} of {total} rows", flush=True)

        yield tell
        return
    with tqdm(total=total, unit=" rows", desc=what) as bar:
        yield bar.update
