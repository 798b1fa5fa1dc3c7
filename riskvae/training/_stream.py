"""A user's torch Dataset as a source of batches."""

import math
from collections.abc import Callable, Iterator, Mapping
from itertools import chain, islice
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate

from riskvae._validation import isolated_rng
from riskvae.training._batch import Batch, Draw

__all__ = ["Stream"]


class Stream:
    """Batches of a user's torch Dataset or IterableDataset.

    Items are rows, tuples that start with one, or dicts with "x" and what comes with it, such as "group". The
    first rows are read at once, for their width and their spread. An iterable dataset that can be read
    only once loses nothing by that: its first epoch begins with them.

    Parameters
    ----------
    dataset : Dataset
        Map-style or iterable.
    device : torch.device
        Where batches are wanted.
    check : callable
        Called with every (n, n_features) tensor of rows; raises where they cannot be trained on.
    group : Tensor of int64, default=None
        The group of each item of a map-style dataset.
    loading : dict, default=None
        What torch's DataLoader is told of workers.
    """

    n_head = 1000

    def __init__(
        self,
        dataset: Dataset[Any],
        device: torch.device,
        check: Callable[[Tensor], None],
        group: Tensor | None = None,
        loading: Mapping[str, Any] | None = None,
    ) -> None:
        self.dataset = dataset
        self.loading = dict(loading or {})
        self.device = device
        self.check = check
        self.group = group
        self.n_features: int | None = None
        self._rest = self._items()
        self._first = list(islice(self._rest, self.n_head))
        if not self._first:
            raise ValueError("X is a Dataset without rows.")
        self._head = self._record(default_collate(self._first))

    @property
    def is_iterable(self) -> bool:
        """Whether rows only come in turn."""
        return isinstance(self.dataset, IterableDataset)

    @property
    def n_rows(self) -> int | None:
        """Number of rows, where it is known."""
        return None if self.is_iterable else len(self.dataset)  # type: ignore[arg-type]

    def _items(self) -> Iterator[tuple[int, Any]]:
        if self.is_iterable:
            return enumerate(self.dataset)  # type: ignore[arg-type]
        return ((i, self.dataset[i]) for i in range(len(self.dataset)))  # type: ignore[arg-type]

    def has(self, field: str) -> bool:
        """Whether a field of :class:`Batch` comes with the rows in training."""
        return field == "noise" or getattr(self, field, None) is not None or getattr(self._head, field) is not None

    def head(self) -> Tensor:
        """Rows that show the width and scale of the data: the first thousand."""
        return self._head.x

    def first(self, n: int, draw: Draw) -> Batch:
        """As many of the first rows, at most the thousand that were read, and what comes with them."""
        batch = self._head.take(slice(n)).to(self.device)
        if self.group is not None:
            batch = batch._replace(group=self.group[: batch.n_rows].to(self.device))
        return batch._replace(noise=draw(batch.index))  # type: ignore[arg-type]  # a stream numbers its rows

    def expect(self, n_features: int) -> None:
        """Raise where rows, those read already or those to come, are of another width."""
        self.n_features = n_features
        self._check_width(self.head())

    def sample(self, n: int, seed: int) -> Tensor:
        """At most ``n`` of the rows, or of the first ones where they only come in turn, in random order."""
        generator = torch.Generator().manual_seed(seed)
        if self.is_iterable:
            return self._head.x[torch.randperm(len(self._head.x), generator=generator)[:n]].to(self.device)
        order = torch.randperm(len(self.dataset), generator=generator)[:n].tolist()  # type: ignore[arg-type]
        with isolated_rng(seed, torch.device("cpu")):  # a dataset may augment by chance
            return self._record(default_collate([(i, self.dataset[i]) for i in order])).x.to(self.device)

    def batches(self, batch_size: int, generator: torch.Generator | None, draw: Draw | None = None) -> Iterator[Batch]:
        """One epoch, shuffled unless the dataset is iterable; every batch is checked as an array would be."""
        for collated in self._loader(batch_size, generator):
            batch = self._record(collated).to(self.device)
            if draw is not None and batch.index is not None:
                batch = batch._replace(noise=draw(batch.index))
            yield batch

    def _loader(self, batch_size: int, generator: torch.Generator | None) -> Iterator[Any]:
        """Collated batches, cut as those of arrays are: sizes differ by a row at most, where their number is known."""
        if not self.is_iterable:
            n = len(self.dataset)  # type: ignore[arg-type]
            order, count = torch.randperm(n, generator=generator).tolist(), math.ceil(n / batch_size)
            batches = [order[n * i // count : n * (i + 1) // count] for i in range(count)]
            yield from DataLoader(_Numbered(self.dataset), batch_sampler=batches, **self.loading)
            return
        items = chain(self._first, self._rest) if self._first else self._items()
        self._first = []
        part = list(islice(items, batch_size))
        while following := list(islice(items, batch_size)):
            if len(following) < batch_size:  # the end: two batches of equal size
                both = part + following
                part, following = both[: (len(both) + 1) // 2], both[(len(both) + 1) // 2 :]
            yield default_collate(part)
            part = following
        if part:
            yield default_collate(part)

    def _record(self, numbered: Any) -> Batch:
        """Collated places and items as (n, n_features) float32 rows, and what comes with them."""
        index, items = numbered
        named = dict(items) if isinstance(items, dict) else {}
        if unknown := set(named) - {"x", "group"}:
            raise ValueError(
                f"X is a Dataset whose items are dicts with {', '.join(map(repr, sorted(unknown)))}; expected 'x', a "
                "row of features, and at most 'group', its group as an integer."
            )
        x = named.get("x") if named else items[0] if isinstance(items, list | tuple) else items
        if not isinstance(x, Tensor) or x.dim() < 2:
            raise TypeError(
                "X is a Dataset, so its items must be rows of features (arrays or tensors), tuples that start with "
                f"one, or dicts with one as 'x'; a batch of them came as {type(x).__name__}."
            )
        x = x.flatten(1).float()
        self._check_width(x)
        self.check(x)
        group = named.get("group") if self.group is None else self.group[index]
        if isinstance(group, Tensor) and group.shape == (len(x), 1):
            group = group[:, 0]
        if group is not None and (not isinstance(group, Tensor) or group.is_floating_point() or group.dim() != 1):
            raise TypeError("X is a Dataset whose items have a 'group' that is no integer; number the groups.")
        return Batch(x, index, group)

    def _check_width(self, x: Tensor) -> None:
        if self.n_features not in (None, x.shape[1]):
            raise ValueError(f"X is a Dataset with rows of {x.shape[1]} features; expected {self.n_features}.")


class _Numbered(Dataset[tuple[int, Any]]):
    """A map-style dataset whose items come with their places."""

    def __init__(self, dataset: Dataset[Any]) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, i: int) -> tuple[int, Any]:
        return i, self.dataset[i]

    def __getitems__(self, places: list[int]) -> list[tuple[int, Any]]:
        """A batch at once, where the dataset can do that."""
        fetch = getattr(self.dataset, "__getitems__", None)
        items = fetch(places) if fetch else [self.dataset[i] for i in places]
        return list(zip(places, items, strict=True))
