"""Copies of a fitted module for inference: made once, and again when the module is another."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["serving_copy"]

Mark = list[tuple[str, int, int, Tensor]]


def serving_copy(
    cache: dict[Any, tuple[Mark, nn.Module]], module: nn.Module, device: torch.device, dtype: torch.dtype
) -> nn.Module:
    """Copy of a module in evaluation mode, on a device and of a dtype; the last one as long as its state is the same.

    The module itself may be training meanwhile, in a thread; its mode and dtype are never touched.
    """
    key = (type(module), device, dtype)
    before, ready = cache.get(key, ([], None))
    if ready is None or not _unchanged(module, before):
        before, ready = _mark(module), copy.deepcopy(module).to(device, dtype).eval()
        cache[key] = before, ready
    return ready


def _tensors(module: nn.Module) -> list[tuple[str, Tensor]]:
    return [(name, tensor.detach()) for name, tensor in (*module.named_parameters(), *module.named_buffers())]


def _some(tensor: Tensor) -> Tensor:
    """Some of its values: writes through ``.data``, which no version counts, seldom leave all of these as they were."""
    flat = tensor.flatten()
    return flat[:: max(1, len(flat) // 64)]


def _mark(module: nn.Module) -> Mark:
    """What tells a later state from this one: where each tensor is, how often it was written to, some of its values."""
    return [(name, tensor.data_ptr(), tensor._version, _some(tensor).clone()) for name, tensor in _tensors(module)]


def _unchanged(module: nn.Module, before: Mark) -> bool:
    now = _tensors(module)
    return len(now) == len(before) and all(
        (name, tensor.data_ptr(), tensor._version) == (was, place, version) and torch.equal(_some(tensor), values)
        for (name, tensor), (was, place, version, values) in zip(now, before, strict=True)
    )
