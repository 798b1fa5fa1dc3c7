"""What a history says of an epoch beside its losses: the learned noise, and how many coordinates are active."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from skorch.callbacks import Callback
from torch import Tensor, nn

from riskvae._validation import derive_seed
from riskvae.likelihoods._scaled import ScaledLikelihood
from riskvae.training._rows import Rows
from riskvae.training._stream import Stream

__all__ = ["ACTIVE", "Vitals"]

# A coordinate whose posterior means vary less is as good as switched off (Burda, Grosse and Salakhutdinov 2016).
ACTIVE = 0.01
N_ROWS = 256


class Vitals(Callback):
    """Record "noise_scale" after each epoch, and "active" after some: 1 to 8, and from there eight per doubling.

    Active are the latent coordinates whose posterior means vary by more than .01 over 256 training rows, which are the
    same in all epochs. Which epochs are looked at hangs on their number alone, so that a training that was resumed has
    the history of one that was not.

    Parameters
    ----------
    rows : Rows or Stream
        That train. Where each process has its own part of them, coordinates are not counted.
    """

    def __init__(self, rows: Rows | Stream) -> None:
        self.rows = rows
        self.some: Tensor | None = None

    def on_epoch_end(self, net: Any, **kwargs: Any) -> None:
        scale = noise_of(net.module_.likelihood)
        if scale is not None:
            net.history.record("noise_scale", scale)
        if net.world is None and _is_due(net.history[-1, "epoch"]):
            if self.some is None:
                self.some = self._sample(net.seed).to(torch.device(net.device))
            net.history.record("active", n_active(net.module_, self.some))

    def _sample(self, seed: int) -> Tensor:
        rows = self.rows
        return rows.sample(N_ROWS, derive_seed(seed, "vitals")) if isinstance(rows, Rows) else rows.head()[:N_ROWS]


@torch.no_grad()
def noise_of(likelihood: Any) -> float | None:
    """A learned scale, of one for each feature their geometric mean; None where there is none."""
    if isinstance(likelihood, ScaledLikelihood) and (likelihood.learned or likelihood.by_gradient):
        return float(likelihood.log_noise.mean().exp())
    return None


@torch.no_grad()
def n_active(module: Any, x: Tensor) -> int:
    """How many latent coordinates tell rows apart."""
    with _at_rest(module):
        return int((module.encode(x).mean.var(0, correction=0) > ACTIVE).sum())


@contextmanager
def _at_rest(module: nn.Module) -> Iterator[None]:
    """In evaluation mode, but for what layers do when they come to it: a training goes on as if nobody had looked."""
    modes = {part: part.training for part in module.modules()}
    for part in modes:
        part.training = False
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode


def _is_due(epoch: int) -> bool:
    return epoch % 2 ** max(0, math.floor(math.log2(epoch)) - 3) == 0
