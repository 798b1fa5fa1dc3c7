"""A user's torch Dataset as a source of batches."""

import copy
import heapq
import math
import random
from collections.abc import Callable, Iterator, Mapping
from itertools import chain, islice
from typing import Any, Self

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate

from riskvae._validation import isolated_rng
from riskvae.training._batch import Batch, Draw
from riskvae.training._rows import Rows, share_of
from riskvae.training._world import World

__all__ = ["MOST", "Stream", "rows_of_items"]

# Rows that are kept from a stream, at most: they are in memory.
MOST = 100_000


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
    missing = True  # values may be, in rows to come

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
        self.world: World | None = None
        self.places: Tensor | None = None  # of the items that are used, of a map-style dataset
        self.left_out: frozenset[int] = frozenset()  # places that are not, of an iterable one
        self._begin()
        if not self._first:
            raise ValueError("X is a Dataset without rows.")
        self._head = self._record(default_collate(self._first))

    def _begin(self) -> None:
        self._rest = self._items()
        self._first = list(islice(self._rest, self.n_head))

    @property
    def is_iterable(self) -> bool:
        """Whether rows only come in turn."""
        return isinstance(self.dataset, IterableDataset)

    @property
    def n_rows(self) -> int | None:
        """Number of rows, where it is known."""
        return None if self.is_iterable else len(self._places())

    def _places(self) -> Tensor:
        """Places of all items that are used, of a map-style dataset."""
        return torch.arange(len(self.dataset)) if self.places is None else self.places  # type: ignore[arg-type]

    def _items(self) -> Iterator[tuple[int, Any]]:
        if self.is_iterable:
            everything: Iterator[tuple[int, Any]] = enumerate(self.dataset)  # type: ignore[arg-type]
            return ((i, item) for i, item in everything if i not in self.left_out)
        return ((i, self.dataset[i]) for i in self._places().tolist())

    def has(self, field: str) -> bool:
        """Whether a field of :class:`Batch` comes with the rows in training."""
        return field == "noise" or getattr(self, field, None) is not None or getattr(self._head, field) is not None

    @property
    def lacking(self) -> list[int]:
        """Features of which values may be missing: any."""
        return list(range(self.head().shape[1]))

    def head(self) -> Tensor:
        """Rows that show the width and scale of the data: the first thousand."""
        return self._head.x

    def first(self, n: int, draw: Draw) -> Batch:
        """As many of the first rows, at most the thousand that were read, and what comes with them."""
        batch = self._head.take(slice(n)).to(self.device)
        if self.group is not None:
            batch = batch._replace(group=self.group[batch.index.cpu()].to(self.device))  # type: ignore[union-attr]
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
        places = self._places()
        return self._at(places[torch.randperm(len(places), generator=generator)[:n]], seed).x.to(self.device)

    def _at(self, places: Tensor, seed: int) -> Batch:
        with isolated_rng(seed, torch.device("cpu")):  # a dataset may augment by chance
            return self._record(default_collate([(i, self.dataset[i]) for i in places.tolist()]))

    def split(self, fraction: float, seed: int) -> tuple[Self, Rows]:
        """The stream without some random rows, and these, in memory and in random order: a hundred thousand at most.

        Of an iterable dataset they are found by going through it once, so it must give the same rows in the same order
        every time.
        """
        train = copy.copy(self)
        if self.is_iterable:
            kept: Any = self._random_items(fraction, seed)
            train.left_out = self.left_out | {i for i, _ in kept}
        else:
            places = self._places()
            order = torch.randperm(len(places), generator=torch.Generator().manual_seed(seed))
            n = min(share_of(fraction, len(places)), MOST)
            train.places, kept = places[order[n:].sort().values], places[order[:n]]
        train._begin()
        if not train._first:
            raise ValueError(
                "X is an iterable Dataset that can be read only once, so no rows can be kept from training. Make its "
                "__iter__ begin anew each time, or pass an array or a Dataset with len() and items."
            )
        train._head = train._record(default_collate(train._first))
        batch = self._record(default_collate(kept)) if self.is_iterable else self._at(kept, seed)
        return train, Rows(batch._replace(index=None), self.device, world=self.world)

    def _random_items(self, fraction: float, seed: int) -> list[tuple[int, Any]]:
        """A share of the items, each as likely as another, in random order; one at least, and not too many."""
        chance = random.Random(seed)
        kept: list[tuple[float, int, Any]] = []  # a heap: the item with the largest key comes first
        for i, item in self._items():
            heapq.heappush(kept, (-chance.random(), i, item))
            if len(kept) > 1 and (-kept[0][0] >= fraction or len(kept) > MOST):
                heapq.heappop(kept)
        return [(i, item) for _, i, item in sorted(kept, key=lambda one: one[:2])]

    def batches(self, batch_size: int, generator: torch.Generator | None, draw: Draw | None = None) -> Iterator[Batch]:
        """One epoch, shuffled unless the dataset is iterable; every batch is checked as an array would be."""
        for collated in self._loader(batch_size, generator):
            batch = self._part(self._record(collated)).to(self.device)
            if draw is not None and batch.index is not None:
                batch = batch._replace(noise=draw(batch.index))
            yield batch

    def _part(self, batch: Batch) -> Batch:
        """What this process takes of a batch that all have read."""
        return batch if self.world is None else batch.take(self.world.span(batch.n_rows))

    def _loader(self, batch_size: int, generator: torch.Generator | None) -> Iterator[Any]:
        """Collated batches, cut as those of arrays are: sizes differ by a row at most, where their number is known."""
        if not self.is_iterable:
            places = self._places()
            n = len(places)
            order, count = places[torch.randperm(n, generator=generator)].tolist(), math.ceil(n / batch_size)
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
        x, group = rows_of_items(items)
        x = x.float()
        self._check_width(x)
        self.check(x)
        group = group if self.group is None else self.group[index]
        if isinstance(group, Tensor) and group.shape == (len(x), 1):
            group = group[:, 0]
        if group is not None and (not isinstance(group, Tensor) or group.is_floating_point() or group.dim() != 1):
            raise TypeError("X is a Dataset whose items have a 'group' that is not an integer; number the groups.")
        return Batch(x, index, None if group is None else group.long())

    def _check_width(self, x: Tensor) -> None:
        if self.n_features not in (None, x.shape[1]):
            raise ValueError(f"X is a Dataset with rows of {x.shape[1]} features; expected {self.n_features}.")


def rows_of_items(items: Any) -> tuple[Tensor, Any]:
    """Rows (n, n_features) of collated items, and their groups, if they have some."""
    named = dict(items) if isinstance(items, dict) else {}
    if unknown := set(named) - {"x", "group"}:
        raise ValueError(
            f"X is a Dataset whose items are dicts with {', '.join(map(repr, sorted(unknown)))}; expected 'x', a row "
            "of features, and at most 'group', its group as an integer."
        )
    x = named.get("x") if named else items[0] if isinstance(items, list | tuple) else items
    if not isinstance(x, Tensor) or x.dim() < 2:
        raise TypeError(
            "X is a Dataset, so its items must be rows of features (arrays or tensors), tuples that start with one, or "
            f"dicts with one as 'x'; a batch of them came as {type(x).__name__}."
        )
    if x.is_complex():
        raise TypeError("X is a Dataset whose items are complex; pass real and imaginary parts as features.")
    return x.flatten(1), named.get("group")


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
