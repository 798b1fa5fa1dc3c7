"""Rows in memory as a source of batches."""

import copy
import math
from collections.abc import Callable, Iterator
from itertools import accumulate, pairwise
from typing import Any, Self

import torch
from torch import Tensor
from torch.utils.data import Dataset

from riskvae.training._batch import Batch, Draw
from riskvae.training._world import World

__all__ = ["HEAD", "Rows", "share_of"]

# Rows that show the scale of the data, where not all are looked at.
HEAD = 100_000


class Rows(Dataset[Tensor]):
    """Rows in memory, as one float32 tensor, put on the device once where it fits.

    On a CUDA device that cannot hold them they stay in host memory and travel in pinned chunks of
    ``chunk`` batches. ``index`` selects a part of the rows without copying them.

    Parameters
    ----------
    data : Batch
        All rows and what comes with them, without an index: rows are counted here.
    device : torch.device
        Where batches are wanted.
    index : Tensor, default=None
        Places of the rows that belong to this source; None means all.
    world : World, default=None
        Processes that all have these rows; each takes its part of every batch.
    """

    chunk = 32
    most_noise = 2**20  # numbers of a chunk's latent noise, where it has more than one batch

    def __init__(
        self, data: Batch, device: torch.device, index: Tensor | None = None, world: World | None = None
    ) -> None:
        super().__init__()
        self.device = device
        fits = device.type != "cuda" or data.x.nbytes < 0.5 * torch.cuda.mem_get_info(device)[0]
        self.data = data.to(device) if fits else data
        self.index = index
        self.world = world
        self.missing = math.isnan(float(self.data.x.sum()))  # whether values are missing

    def __len__(self) -> int:
        return len(self.data.x if self.index is None else self.index)

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return len(self)

    @property
    def lacking(self) -> list[int]:
        """Features of which some values are missing."""
        return self.data.x.isnan().any(0).nonzero().ravel().tolist() if self.missing else []

    def has(self, field: str) -> bool:
        """Whether a field of :class:`Batch` comes with the rows in training."""
        return field in ("index", "noise") or getattr(self.data, field) is not None

    def __getitem__(self, i: Any) -> Tensor:
        return self.data.x[i if self.index is None else self.index[i]]

    def of_each(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        """A value of each row (n,), by a function of rows (n, n_features)."""
        return function(self[:])

    def groups(self) -> Tensor | None:
        """The group of each row, where it is known."""
        group = self.data.group
        return group if group is None or self.index is None else group[self.index]

    def split(self, fraction: float, seed: int) -> tuple[Self, Self]:
        """Random training and held-out parts, at least one row each.

        Held-out rows stay in random order: they are not shuffled again, and each batch of them should be like all.
        """
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))
        n_valid = share_of(fraction, len(self))
        return self.only(order[n_valid:].sort().values), self.only(order[:n_valid])

    def only(self, places: Tensor) -> Self:
        """The rows at some places, counted among these, in that order where they are not shuffled."""
        part = copy.copy(self)
        part.index = places if self.index is None else self.index[places]
        return part

    def head(self) -> Tensor:
        """Rows that show the scale of the data: all of them; of a selection, at most a hundred thousand."""
        return self.data.x if self.index is None else self.sample(HEAD, 0)

    def first(self, n: int, draw: Draw) -> Batch:
        """About as many of the first rows, and what comes with them."""
        alone = copy.copy(self)
        alone.world = None
        return next(alone.batches(n, None, draw))

    def sample(self, n: int, seed: int) -> Tensor:
        """At most ``n`` of the rows, in random order."""
        i = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))[:n]
        return self[i].to(self.device)

    def batches(self, batch_size: int, generator: torch.Generator | None, draw: Draw | None = None) -> Iterator[Batch]:
        """One epoch, shuffled by a generator; batch sizes differ by at most one row; ``draw`` makes the rows' noise.

        A small remainder as its own batch would weigh its rows more, give tail estimates from a handful of
        rows, and break batch normalization. Of several processes, each gives its own part of the same batches.
        """
        n, where = len(self), self.data.x.device
        count = math.ceil(n / batch_size)
        order = self.index if generator is None else self.order(generator)
        resident = where.type == self.device.type  # not "==": tensors on "mps" say that they are on "mps:0"
        chunk = self.chunk if draw is None else max(1, min(self.chunk, self.most_noise // (batch_size * draw.width)))
        for first in range(0, count, chunk):
            ends = [n * i // count for i in range(first, min(first + chunk, count) + 1)]
            here = slice(ends[0], ends[-1])
            ends = [end - here.start for end in ends]
            places = torch.arange(here.start, here.stop) if order is None else order[here]
            cut = order is None and self.world is None
            if self.world is not None:
                parts = [self.own(places[a:b]) for a, b in pairwise(ends)]
                places, ends = torch.cat(parts), [0, *accumulate(map(len, parts))]
            # Rows in order are cut out, others picked: by the batch where they are, from elsewhere by the chunk.
            places = places.to(where)
            together = cut or not resident
            part = self.data if not together else self.data.take(here if cut else self.position(places))
            if not resident:
                part, places = part.map(self._fetch), self._fetch(places)
            noise = None if draw is None else draw(places)
            for a, b in pairwise(ends):
                batch = part.take(slice(a, b) if together else self.position(places[a:b]))
                yield batch._replace(index=places[a:b], noise=None if noise is None else noise[a:b])

    def order(self, generator: torch.Generator) -> Tensor:
        """The places of all rows, shuffled."""
        order = torch.randperm(len(self), generator=generator)
        return order if self.index is None else self.index[order]

    def own(self, places: Tensor) -> Tensor:
        """Of the places of a batch of all processes, those of this one."""
        return places[self.world.span(len(places))]  # type: ignore[union-attr]

    def position(self, places: Tensor) -> Tensor:
        """Where in ``data`` rows are, by their places."""
        return places

    def _fetch(self, part: Tensor) -> Tensor:
        return part.pin_memory().to(self.device, non_blocking=True)


def share_of(fraction: float, n: int) -> int:
    """How many of n rows are held out: about a share of them, but one at least, and one less than all at most."""
    return min(max(round(fraction * n), 1), n - 1)
