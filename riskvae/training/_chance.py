"""Streams of torch's global generators: what processes draw alike, and what each draws for itself."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

__all__ = ["Chance"]


class Chance:
    """A stream of torch's global generators, which goes on where its last block of code ended.

    Parameters
    ----------
    seed : int
        Where it begins.
    device : torch.device
        Whose generator belongs to it, beside that of the CPU.
    """

    def __init__(self, seed: int, device: torch.device) -> None:
        self._devices = [torch.device("cpu"), *([] if device.type == "cpu" else [device])]
        self._states = [torch.Generator(device).manual_seed(seed).get_state() for device in self._devices]

    @contextmanager
    def drawn(self) -> Iterator[None]:
        """Let a block of code draw from it, and put the generators back."""
        before = [_of(device).get_rng_state(*_which(device)) for device in self._devices]
        self._set(self._states)
        try:
            yield
        finally:
            self._states = [_of(device).get_rng_state(*_which(device)) for device in self._devices]
            self._set(before)

    def _set(self, states: list[Tensor]) -> None:
        for device, state in zip(self._devices, states, strict=True):
            _of(device).set_rng_state(state, *_which(device))


def _of(device: torch.device) -> Any:
    return torch if device.type == "cpu" else getattr(torch, device.type)


def _which(device: torch.device) -> tuple[torch.device, ...]:
    return (device,) if device.type == "cuda" else ()
