"""The record that travels: rows, and whatever comes with each of them."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, Self

import torch
from torch import Tensor

__all__ = ["Batch", "Draw"]


class Draw(Protocol):
    """What makes the latent noise of rows from their places."""

    width: int  # numbers for each row

    def __call__(self, places: Tensor) -> Tensor:
        """Noise (n, n_draws, n_components) for the rows at some places (n,)."""


class Batch(NamedTuple):
    """Rows and the data that belongs to each of them; absent fields are None.

    A batch is passed unchanged from the source of rows through the model to the objective, as ``terms.batch``. To make
    further information about rows available, add a field: sources cut and move all fields alike.

    Parameters
    ----------
    x : Tensor of shape (n, n_features)
        Rows, float32 in training.
    index : Tensor of int64 of shape (n,)
        Position of each row in the data, which determines all randomness of the row.
    group : Tensor of int64 of shape (n,)
        Group of each row, if ``fit`` was given groups.
    noise : Tensor of shape (n, n_draws, n_components)
        Standard normal draws for each row's latent points, in training.
    """

    x: Tensor
    index: Tensor | None = None  # type: ignore[assignment]  # which hides a method of tuples
    group: Tensor | None = None
    noise: Tensor | None = None

    @classmethod
    def joined(cls, parts: Sequence["Batch"]) -> Self:
        """Concatenate several batches; each field is present in all of them or in none."""
        fields = zip(*parts, strict=True)
        return cls._make(None if field[0] is None else torch.cat(field) for field in fields)

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return len(self.x)

    @property
    def pair(self) -> tuple[Tensor, None]:
        """Rows without targets: the form of a batch for skorch callbacks."""
        return self.x, None

    def map(self, function: Callable[[Tensor], Tensor]) -> "Batch":
        """Apply a function to every field that is present."""
        return Batch._make(part if part is None else function(part) for part in self)

    def take(self, places: Tensor | slice) -> "Batch":
        """Select rows by position, with all their fields; a slice is a view."""
        if isinstance(places, slice):
            return self.map(lambda part: part[places])
        return self.map(lambda part: part.index_select(0, places))

    def to(self, device: torch.device) -> "Batch":
        """Move all fields to a device."""
        return self.map(lambda part: part.to(device))
