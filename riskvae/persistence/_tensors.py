"""Tensors of modules among the arrays of a file, and checks of what comes back."""

from collections.abc import Mapping
from typing import Any

import torch

from riskvae.persistence._archive import Tensors
from riskvae.persistence._values import Unsaveable

__all__ = ["check_tensors", "put", "taken", "whole"]


def put(arrays: dict[str, Any], prefix: str, tensors: Mapping[str, Any]) -> None:
    """Tensors of a part, to be found again by :func:`taken`."""
    for name, value in tensors.items():
        if not isinstance(value, torch.Tensor):
            raise Unsaveable(
                f"{prefix}.{name} is {type(value).__name__}, but a file holds only tensors. Keep it in a buffer."
            )
        arrays[f"{prefix}.{name}"] = value.detach().cpu().numpy()


def taken(arrays: Tensors, prefix: str) -> dict[str, torch.Tensor]:
    """Tensors of a part, by their names in it."""
    start = f"{prefix}."
    return {
        name.removeprefix(start): torch.from_numpy(value) for name, value in arrays.items() if name.startswith(start)
    }


def check_tensors(prefix: str, wanted: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor]) -> None:
    """Raise unless tensors have the names, shapes and types of others, and are finite."""
    if wanted.keys() != state.keys():
        odd = sorted(wanted.keys() ^ state.keys())
        raise ValueError(
            f"tensors: {prefix} does not have the parts that its parameters make: {', '.join(odd[:5])[:200]}"
        )
    for name, value in state.items():
        if value.shape != wanted[name].shape or value.dtype != wanted[name].dtype:
            raise ValueError(
                f"tensors: {prefix}.{name} is {value.dtype} of shape {tuple(value.shape)}; expected "
                f"{wanted[name].dtype} of shape {tuple(wanted[name].shape)}"
            )
        # A constant of a network may be infinite, as that of a mask; nothing that is learned is.
        if not (value.isfinite() | (value == wanted[name])).all():
            raise ValueError(f"tensors: {prefix}.{name} is not finite")


def whole(state: Any, name: str, least: int) -> int:
    """A whole number of a state."""
    value = state.get(name) if isinstance(state, dict) else None
    if type(value) is not int or not least <= value < 2**63:
        raise ValueError(f"fitted: {name} must be an integer of at least {least}; got {str(value)[:50]!r}")
    return value
