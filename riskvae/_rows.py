"""The data of a training: rows in memory, or batches of a torch Dataset."""

import copy
import math
from collections.abc import Iterator
from itertools import chain, islice, pairwise
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate

from riskvae._validation import check_range, isolated_rng

__all__ = ["Rows", "Stream"]


class Rows(Dataset[Tensor]):
    """Rows in memory, as one float32 tensor, put on the device once where it fits.

    On a CUDA device that cannot hold them they stay in host memory and travel in pinned chunks of
    ``chunk`` batches. ``index`` selects a part of the rows without copying them.
    """

    chunk = 32

    def __init__(self, x: Tensor, device: torch.device, index: Tensor | None = None) -> None:
        super().__init__()
        self.device = device
        fits = device.type != "cuda" or x.nbytes < 0.5 * torch.cuda.mem_get_info(device)[0]
        self.x = x.to(device) if fits else x
        self.index = index

    def __len__(self) -> int:
        return len(self.x if self.index is None else self.index)

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return len(self)

    def __getitem__(self, i: Any) -> Tensor:
        return self.x[i if self.index is None else self.index[i]]

    def split(self, fraction: float, seed: int) -> tuple["Rows", "Rows"]:
        """Random training and held-out parts, at least one row each."""
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))
        n_valid = min(max(round(fraction * len(self)), 1), len(self) - 1)
        parts = [part.sort().values for part in (order[n_valid:], order[:n_valid])]
        if self.index is not None:
            parts = [self.index[part] for part in parts]
        train, valid = copy.copy(self), copy.copy(self)
        train.index, valid.index = parts
        return train, valid

    def head(self) -> Tensor:
        """Rows that show the scale of the data: all of them; of a selection, at most a hundred thousand."""
        return self.x if self.index is None else self.sample(100_000, 0)

    def sample(self, n: int, seed: int) -> Tensor:
        """At most ``n`` of the rows, in random order."""
        i = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))[:n]
        i = i if self.index is None else self.index[i]
        return self.x[i.to(self.x.device)].to(self.device)

    def batches(self, batch_size: int, generator: torch.Generator | None) -> Iterator[Tensor]:
        """One epoch, shuffled by a generator; batch sizes differ by at most one row.

        A small remainder as its own batch would weigh its rows more, give tail estimates from a handful of
        rows, and break batch normalization.
        """
        n = len(self)
        count = math.ceil(n / batch_size)
        order = self.index
        if generator is not None:
            order = torch.randperm(n, generator=generator)
            order = order if self.index is None else self.index[order]
        resident = self.x.device == self.device
        for first in range(0, count, self.chunk):
            ends = [n * i // count for i in range(first, min(first + self.chunk, count) + 1)]
            here = slice(ends[0], ends[-1])
            part = None if order is None else order[here].to(self.x.device)
            x = self.x
            if part is None or not resident:
                x, part = (x[here] if part is None else x.index_select(0, part)), None
            if not resident:
                x = x.pin_memory().to(self.device, non_blocking=True)
            for a, b in pairwise(end - ends[0] for end in ends):
                yield x[a:b] if part is None else x.index_select(0, part[a:b])


class Stream:
    """Batches of a user's torch Dataset or IterableDataset, whose items are rows or tuples that start with one.

    The first rows are read at once, for their width and their spread. An iterable dataset that can be read
    only once loses nothing by that: its first epoch begins with them.
    """

    n_head = 1000

    def __init__(self, dataset: Dataset[Any], device: torch.device, unit_interval: bool) -> None:
        self.dataset = dataset
        self.device = device
        self.unit_interval = unit_interval
        self.n_features: int | None = None
        self._rest = self._items()
        self._first = list(islice(self._rest, self.n_head))
        if not self._first:
            raise ValueError("X is a Dataset without rows.")
        self._head = self.check(default_collate(self._first))

    @property
    def n_rows(self) -> int | None:
        """Number of rows, where it is known."""
        return None if isinstance(self.dataset, IterableDataset) else len(self.dataset)  # type: ignore[arg-type]

    def _items(self) -> Iterator[Any]:
        if isinstance(self.dataset, IterableDataset):
            return iter(self.dataset)
        return (self.dataset[i] for i in range(len(self.dataset)))  # type: ignore[arg-type]

    def head(self) -> Tensor:
        """Rows that show the width and scale of the data: the first thousand."""
        return self._head

    def sample(self, n: int, seed: int) -> Tensor:
        """At most ``n`` of the rows, or of the first ones where they only come in turn, in random order."""
        generator = torch.Generator().manual_seed(seed)
        if isinstance(self.dataset, IterableDataset):
            return self._head[torch.randperm(len(self._head), generator=generator)[:n]].to(self.device)
        order = torch.randperm(len(self.dataset), generator=generator)[:n].tolist()  # type: ignore[arg-type]
        with isolated_rng(seed, torch.device("cpu")):  # a dataset may augment by chance
            return self.check(default_collate([self.dataset[i] for i in order])).to(self.device)

    def batches(self, batch_size: int, generator: torch.Generator | None) -> Iterator[Tensor]:
        """One epoch, shuffled unless the dataset is iterable; every batch is checked as an array would be."""
        for batch in self._loader(batch_size, generator):
            yield self.check(batch).to(self.device)

    def _loader(self, batch_size: int, generator: torch.Generator | None) -> Iterator[Any]:
        if not isinstance(self.dataset, IterableDataset):
            yield from DataLoader(self.dataset, batch_size, shuffle=True, generator=generator)
            return
        items = chain(self._first, self._rest) if self._first else self._items()
        self._first = []
        while part := list(islice(items, batch_size)):
            yield default_collate(part)

    def check(self, batch: Any) -> Tensor:
        """Batch as (n, n_features) float32 rows."""
        x = batch[0] if isinstance(batch, list | tuple) else batch
        if not isinstance(x, Tensor) or x.dim() < 2:
            raise TypeError(
                "X is a Dataset, so its items must be rows of features (arrays or tensors) or tuples that start "
                f"with one; a batch of them came as {type(x).__name__}."
            )
        x = x.flatten(1).float()
        if self.n_features not in (None, x.shape[1]):
            raise ValueError(f"X is a Dataset with rows of {x.shape[1]} features; expected {self.n_features}.")
        check_range(x, unit_interval=self.unit_interval)
        return x
