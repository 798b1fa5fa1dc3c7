"""A table that is read in blocks as a source of batches."""

import copy
import math
from collections.abc import Callable, Iterator
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from riskvae.training._batch import Batch, Draw
from riskvae.training._rows import Rows, share_of
from riskvae.training._stream import MOST, Stream
from riskvae.training._world import World

__all__ = ["Blocks", "gives_blocks"]

# What a dataset has that gives rows in blocks.
_ASKED = ("blocks", "columns", "head", "n_rows", "where")


class Blocks(Stream):
    """Batches of a dataset that gives places and rows in blocks, and knows how many rows it has.

    Parameters
    ----------
    dataset : object
        With ``n_rows``, ``columns``, ``blocks(generator)``, ``head(n)`` and ``where(place)``, as
        :class:`riskvae.datasets.ParquetRows` has them.
    device : torch.device
        Where batches are wanted.
    check : callable
        Called with every (n, n_features) tensor of rows; raises where they cannot be trained on.
    """

    def __init__(self, dataset: Any, device: torch.device, check: Callable[[Tensor], None]) -> None:
        self.dataset, self.device, self.check = dataset, device, check
        self.group: Tensor | None = None
        self.world: World | None = None
        self.n_features: int | None = None
        self._without = torch.empty(0, dtype=torch.int64)  # ascending places that are not used
        if not dataset.n_rows:
            raise ValueError("X is a Dataset without rows.")
        places, rows = dataset.head(self.n_head)
        self._head = Batch(self._checked(places, rows), places)

    @property
    def is_iterable(self) -> bool:
        """Rows come in turn, but it is known how many."""
        return True

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return self.dataset.n_rows - len(self._without)  # type: ignore[attr-defined]

    def sample(self, n: int, seed: int) -> Tensor:
        """At most ``n`` of the rows, in random order; reads the table once."""
        return self._rows_at(self._some(n, seed)).x.to(self.device)

    def split(self, fraction: float, seed: int) -> tuple[Self, Rows]:
        """The table without some random rows, and these, in memory and in random order: a hundred thousand at most."""
        places = self._some(min(share_of(fraction, self.n_rows), MOST), seed)
        train = copy.copy(self)
        train._without = torch.cat((self._without, places)).sort().values
        kept = ~torch.isin(self._head.index, places)  # type: ignore[arg-type]  # blocks have places
        train._head = self._head.take(torch.nonzero(kept)[:, 0]) if kept.any() else self._head
        return train, Rows(self._rows_at(places)._replace(index=None), self.device, world=self.world)

    def batches(self, batch_size: int, generator: torch.Generator | None, draw: Draw | None = None) -> Iterator[Batch]:
        """One epoch, shuffled by a generator as the dataset can; batch sizes differ by at most one row."""
        n = self.n_rows
        count = math.ceil(n / batch_size)
        ends, waiting, done = iter([n * (i + 1) // count for i in range(count)]), None, 0
        end: float = next(ends)
        for block in self._used(generator):
            waiting = block if waiting is None else Batch.joined([waiting, block])
            start = 0
            while end - done <= waiting.n_rows - start:
                whole = waiting.take(slice(start, start + int(end - done)))
                batch = self._part(whole).to(self.device)
                yield batch if draw is None else batch._replace(noise=draw(batch.index))  # type: ignore[arg-type]
                start, done, end = start + whole.n_rows, done + whole.n_rows, next(ends, math.inf)
            waiting = waiting.take(slice(start, None))

    def _used(self, generator: torch.Generator | None) -> Iterator[Batch]:
        """Blocks of the rows that are used, checked as an array would be."""
        for places, rows in self.dataset.blocks(generator):  # type: ignore[attr-defined]
            if len(self._without):
                used = torch.nonzero(~torch.isin(places, self._without))[:, 0]
                places, rows = places[used], rows[used]
            if len(places):
                group = None if self.group is None else self.group[places]
                yield Batch(self._checked(places, rows), places, group)

    def _some(self, n: int, seed: int) -> Tensor:
        """Random places of rows that are used, in random order."""
        rng, n = np.random.default_rng(seed), min(n, self.n_rows)
        ranks = torch.from_numpy(rng.choice(self.n_rows, size=n, replace=False))
        # The k-th of the rows that are used: those that are not, below it, push it on.
        gaps = self._without - torch.arange(len(self._without))
        return ranks + torch.searchsorted(gaps, ranks, right=True)

    def _rows_at(self, places: Tensor) -> Batch:
        order = places.argsort()
        wanted, found = places[order], []
        for block in self._used(None):
            first, last = torch.searchsorted(wanted, block.index[[0, -1]] + torch.tensor([0, 1])).tolist()  # type: ignore[index]
            if last > first:
                found.append(block.take(torch.searchsorted(block.index, wanted[first:last])))  # type: ignore[arg-type]
        return Batch.joined(found).take(order.argsort())

    def _checked(self, places: Tensor, rows: Tensor) -> Tensor:
        self._check_width(rows)
        try:
            self.check(rows)
        except ValueError as error:
            bad, why = self._first_bad(rows), error
            try:
                self.check(rows[bad : bad + 1])
            except ValueError as alone:  # it may be of another kind than what is told of all
                why = alone
            where = self.dataset.where(int(places[bad]))  # type: ignore[attr-defined]
            raise ValueError(f"{why} It is {where}.") from error
        return rows

    def _first_bad(self, rows: Tensor) -> int:
        good, bad = 0, len(rows)  # all before the one are good, and one before the other is bad
        while bad - good > 1:
            middle = (good + bad) // 2
            try:
                self.check(rows[good:middle])
                good = middle
            except ValueError:
                bad = middle
        return good


def gives_blocks(X: Any) -> bool:
    """Whether a dataset gives rows in blocks."""
    return all(hasattr(X, name) for name in _ASKED)
