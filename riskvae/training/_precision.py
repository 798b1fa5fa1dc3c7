"""In which precision a training computes products: lower ones, where a device gains by them."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from riskvae._processor import processor

__all__ = ["PRECISIONS", "computed_in", "precision_on"]

PRECISIONS = ("float32", "tf32", "bfloat16")


def precision_on(asked: str, device: torch.device) -> tuple[str, str]:
    """The precision in which a device trains, and, where that is not what was asked for, why.

    Known to gain are CUDA devices from capability 8 on (Ampere), by both, and processors with AMX or AVX-512 for
    bfloat16, by that.
    """
    if asked == "float32":
        return asked, ""
    if device.type == "cuda":
        capability = torch.cuda.get_device_capability(device)
        if capability >= (8, 0):
            return asked, ""
        return "float32", f"capability {capability[0]}.{capability[1]} has no units for it; those from 8.0 on have"
    if asked == "tf32":
        return "float32", "TF32 is for CUDA devices"
    if device.type != "cpu":
        return "float32", "no gain is known there"
    machine = processor()
    if not machine.bfloat16 or not torch.backends.mkldnn.is_available():
        return "float32", f"{machine.name} is not known to have AMX or AVX-512 for bfloat16"
    return asked, ""


@contextmanager
def computed_in(module: Any, precision: str) -> Iterator[None]:
    """Let the networks of a model compute in a precision; losses, weights and the optimizer stay in float32."""
    if precision == "tf32":
        with _tf32():
            yield
    elif precision == "bfloat16":
        module.lower = torch.bfloat16
        try:
            yield
        finally:
            module.lower = None
    else:
        yield


_LOCK = threading.Lock()
_before: list[tuple[tuple[Any, ...], tuple[Any, ...]]] = []  # found by each training inside; the first, the caller's


@contextmanager
def _tf32() -> Iterator[None]:
    """Let CUDA round the operands of float32 products and convolutions to 10 bits, and put the settings back.

    They are those of the process. So of trainings in several threads the last to end puts back what the first found.
    """
    with _LOCK:
        found = _settings()
        _before.append(found)
        _switch(found, on=True)
    try:
        yield
    finally:
        with _LOCK:
            found = _before.pop()
            _switch(found, on=False)
            _put_back(found)


def _backends() -> tuple[Any, Any]:
    """Of products, and of convolutions and recurrent layers."""
    return torch.backends.cuda.matmul, torch.backends.cudnn


def _settings() -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """What holds for either: words, before torch 2.9 True or False."""
    matmul, cudnn = _backends()
    if not hasattr(cudnn, "conv"):
        return (matmul.allow_tf32,), (cudnn.allow_tf32,)
    return (matmul.fp32_precision,), (cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision)


def _switch(found: tuple[tuple[Any, ...], tuple[Any, ...]], *, on: bool) -> None:
    """Switch what was found to be off, by the older names, which set the newer ones: torch reads both."""
    for backend, settings in zip(_backends(), found, strict=True):
        if any(setting not in (True, "tf32") for setting in settings):
            backend.allow_tf32 = on


def _put_back(found: tuple[tuple[Any, ...], tuple[Any, ...]]) -> None:
    """Set the newer names, which tell "none" from "ieee"."""
    matmul, cudnn = _backends()
    if hasattr(cudnn, "conv"):
        (matmul.fp32_precision,), (cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision) = found
