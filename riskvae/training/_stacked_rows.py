"""Batches of several models at once, each of its own rows in its own order."""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from riskvae.training._draws import RowDraws
from riskvae.training._rows import Rows

__all__ = ["OwnRows", "StackedBatch", "stacked_batches"]

_MOST = 2**22  # numbers of the rows that are gathered at a time, where there is more than one batch


class OwnRows(NamedTuple):
    """What an epoch of one model is made of: its rows, their order, and what makes their noise."""

    rows: Rows
    order: Tensor
    draw: RowDraws


class StackedBatch(NamedTuple):
    """A batch of each model, padded to the longest by rows that are to weigh nothing.

    Parameters
    ----------
    x : Tensor of shape (models, n, n_features)
        Rows.
    noise : Tensor of shape (models, n, n_draws, n_components)
        Their latent noise.
    sizes : tuple of int
        How many of each model's rows are its own.
    """

    x: Tensor
    noise: Tensor
    sizes: tuple[int, ...]


def stacked_batches(models: Sequence[OwnRows], batch_size: int, device: torch.device) -> Iterator[StackedBatch]:
    """An epoch of several models with equally many batches: those that each would have alone, side by side."""
    lengths = torch.tensor([len(model.order) for model in models])
    count = math.ceil(int(lengths[0]) / batch_size)
    ends = torch.arange(count + 1)[:, None] * lengths // count  # (batches + 1, models)
    sizes = ends.diff(dim=0)
    n, draws = int(sizes.max()), RowDraws.of_several([model.draw for model in models])
    chunk = max(1, min(Rows.chunk, _MOST // (len(models) * n * max(models[0].rows.data.x.shape[1], draws.width))))
    step = torch.arange(n)
    for first in range(0, count, chunk):
        here = slice(first, min(first + chunk, count))
        # Below a batch that is shorter, its first row stands again.
        at = ends[here, :, None] + torch.where(step < sizes[here, :, None], step, 0)  # (batches, models, n)
        places = torch.stack([model.order[at[:, i].flatten()] for i, model in enumerate(models)]).to(device)
        x = torch.stack([_rows_at(model.rows, own, device) for model, own in zip(models, places, strict=True)])
        noise = draws(places)
        for j, size in enumerate(sizes[here].tolist()):
            part = slice(j * n, j * n + max(size))
            yield StackedBatch(x[:, part], noise[:, part], tuple(size))


def _rows_at(rows: Rows, places: Tensor, device: torch.device) -> Tensor:
    x = rows.data.x
    return x.index_select(0, places.to(x.device)).to(device)
