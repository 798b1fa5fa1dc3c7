"""Progress over blocks of rows."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager


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
