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
    """Rows, and what comes with each of them; None where nothing does.

    It goes whole from the source of rows through the model to the objective, as ``terms.batch``. What a further
    capability needs to know of a row is one more field: sources cut and move all of them alike.

    Parameters
    ----------
    x : Tensor of shape (n, n_features)
        Rows, float32 in training.
    index : Tensor of int64 of shape (n,)
        The place of each row in the data; what is random about a row hangs on it.
    group : Tensor of int64 of shape (n,)
        The group that each row belongs to, where ``fit`` was told.
    noise : Tensor of shape (n, n_draws, n_components)
        Standard normal draws for each row's latent points, in training.
    """

    x: Tensor
    index: Tensor | None = None  # type: ignore[assignment]  # which hides a method of tuples
    group: Tensor | None = None
    noise: Tensor | None = None

    @classmethod
    def joined(cls, parts: Sequence["Batch"]) -> Self:
        """Several, one after another; each field is there in all of them or in none."""
        fields = zip(*parts, strict=True)
        return cls._make(None if field[0] is None else torch.cat(field) for field in fields)

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return len(self.x)

    @property
    def pair(self) -> tuple[Tensor, None]:
        """Rows and no targets: what skorch's callbacks take for a batch."""
        return self.x, None

    def map(self, function: Callable[[Tensor], Tensor]) -> "Batch":
        """The same of every field that is there."""
        return Batch._make(part if part is None else function(part) for part in self)

    def take(self, places: Tensor | slice) -> "Batch":
        """Rows at some places, with all that comes with them; a slice is a view."""
        if isinstance(places, slice):
            return self.map(lambda part: part[places])
        return self.map(lambda part: part.index_select(0, places))

    def to(self, device: torch.device) -> "Batch":
        """The same on a device."""
        return self.map(lambda part: part.to(device))
