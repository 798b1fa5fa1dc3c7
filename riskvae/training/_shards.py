"""Rows of which each process has some, as one source: what is asked of all of them is put together."""

import copy
from collections.abc import Callable, Iterator
from itertools import chain, repeat
from typing import Any, Self

import torch
from torch import Tensor

from riskvae.training._batch import Batch, Draw
from riskvae.training._rows import HEAD, Rows
from riskvae.training._stream import Stream
from riskvae.training._world import World

__all__ = ["ShardedRows", "ShardedStream", "sharded"]

# Numbers that each process looks at in whole, to start at the same scale as one process with all rows.
_WHOLE = 10**8


class ShardedRows(Rows):
    """Rows in the memory of several processes, numbered as if they stood one after another.

    Batches, splits and samples are those of all rows in one process; a process gives its own rows of each batch.

    Parameters
    ----------
    own : Rows
        Those of this process, all of what it holds.
    world : World
        All processes.
    """

    world: World

    def __init__(self, own: Rows, world: World) -> None:
        data = own.data if own.index is None else own.data.take(own.index.to(own.data.x.device))
        super().__init__(data, own.device, world=world)
        counts = world.tell(len(data.x))
        self.start, self.total = sum(counts[: world.rank]), sum(counts)
        self.missing = any(world.tell(self.missing))

    def __len__(self) -> int:
        return self.total if self.index is None else len(self.index)

    def __getitem__(self, i: Any) -> Tensor:
        return self._at(torch.arange(self.total)[i] if self.index is None else self.index[i])

    def head(self) -> Tensor:
        few = self.total <= HEAD or self.total * self.data.x.shape[1] <= _WHOLE
        return self[:] if self.index is None and few else self.sample(HEAD, 0)

    def first(self, n: int, draw: Draw) -> Batch:
        """The first of this process's own rows."""
        places = torch.arange(min(n, len(self.data.x)))
        batch = self.data.take(places.to(self.data.x.device)).to(self.device)
        places = (places + self.start).to(self.device)
        return batch._replace(index=places, noise=draw(places))

    def of_each(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        return self._selected(self.collected(function(self.data.x)))

    def groups(self) -> Tensor | None:
        group = self.data.group
        return None if group is None else self._selected(self.collected(group))

    def collected(self, values: Tensor) -> Tensor:
        """A value of each row of all processes (n, ...), from those of this one's rows; on the CPU."""
        found = torch.zeros((self.total, *values.shape[1:]), dtype=values.dtype)
        found[self.start : self.start + len(values)] = values.cpu()
        return self.world.sum_(found)

    def own(self, places: Tensor) -> Tensor:
        return places[self._is_own(places)]

    def position(self, places: Tensor) -> Tensor:
        return places - self.start

    def _is_own(self, places: Tensor) -> Tensor:
        return (places >= self.start) & (places < self.start + len(self.data.x))

    def _selected(self, values: Tensor) -> Tensor:
        return values if self.index is None else values[self.index]

    def _at(self, places: Tensor) -> Tensor:
        """Rows at some places, whosever they are; on the CPU."""
        found, here = torch.zeros(len(places), self.data.x.shape[1]), self._is_own(places)
        found[here] = self.data.x[self.position(places[here]).to(self.data.x.device)].cpu()
        return self.world.sum_(found)


class ShardedStream(Stream):
    """Datasets of several processes: each cuts its own rows into parts of batches, in proportion to their number.

    Parameters
    ----------
    own : Stream
        Rows of this process.
    world : World
        All processes.
    """

    world: World

    def __init__(self, own: Stream, world: World) -> None:
        self.stream, self.world = own, world
        self.dataset, self.device, self.check, self.group = own.dataset, own.device, own.check, own.group
        counts = world.tell(own.n_rows)
        self.total = None if None in counts else sum(counts)
        self.share = 1 / world.size if self.total is None else counts[world.rank] / self.total
        # Rows whose number nobody knows are numbered in turns.
        self.start = world.rank if self.total is None else sum(counts[: world.rank])
        self.step = world.size if self.total is None else 1
        self._head = Batch(torch.cat([torch.from_numpy(x) for x in world.tell(own.head().numpy())]))

    @property
    def n_rows(self) -> int | None:
        return self.total

    def has(self, field: str) -> bool:
        return self.stream.has(field)

    def first(self, n: int, draw: Draw) -> Batch:
        return self.stream.first(n, draw)

    def expect(self, n_features: int) -> None:
        self.stream.expect(n_features)

    def sample(self, n: int, seed: int) -> Tensor:
        """At most ``n`` of the rows, of each process in proportion, in random order."""
        some = self.stream.sample(round(n * self.share), seed + self.world.rank).numpy(force=True)
        rows = torch.cat([torch.from_numpy(x) for x in self.world.tell(some)])
        return rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))].to(self.device)

    def split(self, fraction: float, seed: int) -> tuple[Self, Rows]:
        train, held_out = self.stream.split(fraction, seed + self.world.rank)
        sharded = copy.copy(self)
        sharded.stream = train
        sharded.total = None if self.total is None else sum(self.world.tell(train.n_rows))
        held = ShardedRows(held_out, self.world)
        order = torch.randperm(len(held), generator=torch.Generator().manual_seed(seed))
        return sharded, held.only(order)

    def batches(self, batch_size: int, generator: torch.Generator | None, draw: Draw | None = None) -> Iterator[Batch]:
        """Parts of batches; at the end of its rows parts without any, for ever: others may have some yet."""
        own = self.stream.batches(max(1, round(batch_size * self.share)), generator)
        first = next(own, None)
        if first is None:
            raise ValueError(
                f"X is a Dataset that gave no rows in this epoch in process {self.world.rank}; give one that can be "
                "iterated again."
            )
        nothing = self.stream.head()[:0].to(self.device)
        empty = Batch(nothing, torch.zeros(0, dtype=torch.int64), self._no_group())
        for batch in chain([first], own, repeat(empty.to(self.device))):
            assert batch.index is not None  # a stream numbers its rows
            index = batch.index * self.step + self.start
            yield batch._replace(index=index, noise=None if draw is None else draw(index))

    def _no_group(self) -> Tensor | None:
        return torch.zeros(0, dtype=torch.int64) if self.has("group") else None


def sharded(rows: Rows | Stream, world: World) -> Rows | Stream:
    """Rows of one process as its part of all."""
    return ShardedRows(rows, world) if isinstance(rows, Rows) else ShardedStream(rows, world)
