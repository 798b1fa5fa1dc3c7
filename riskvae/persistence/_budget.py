"""A bound on the memory that a file can ask for, whatever its parameters: tensors are tried before they are made."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

__all__ = ["Budget"]

# Bytes for each byte of the weights (several copies are made, some in double precision), and for layers' outputs.
_TIMES, _LEAST = 64, 2**28
# Time, too, is bounded: each operation counts as so many bytes.
_OPERATION = 2**12


class Budget(TorchDispatchMode):
    """Context in which torch makes no more new tensors than some weights need, and raises before it does.

    Parameters
    ----------
    weights : mapping of str to Tensor
        What is there; networks of parameters that fit them need a few times as much.
    """

    def __init__(self, weights: Mapping[str, torch.Tensor]) -> None:
        super().__init__()
        self.there = sum(value.nbytes for value in weights.values())
        self.left = _TIMES * self.there + _LEAST

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        self.left -= _OPERATION
        if all(result.alias_info is None for result in func._schema.returns):  # no view, and not in place
            self.left -= _new_bytes(func, args, kwargs)
        if self.left < 0:
            raise ValueError(
                f"these parameters make networks far larger than the weights in the file ({self.there:,} bytes)"
            )
        return func(*args, **kwargs)


def _new_bytes(func: Any, args: Any, kwargs: Mapping[str, Any]) -> int:
    """Size of what an operation gives, found out without memory; 0 where that takes the values."""
    told = {name: value for name, value in kwargs.items() if name not in ("device", "generator", "pin_memory")}
    if any(argument.name == "device" for argument in func._schema.arguments):
        told["device"] = torch.device("meta")
    try:
        made = func(*tree_map(_shape_only, args), **tree_map(_shape_only, told))
    except (ArithmeticError, IndexError, NotImplementedError, RuntimeError, TypeError, ValueError):
        return 0  # what fails there fails here, too, but for a few whose results are no larger than what they are given
    parts = made if isinstance(made, tuple | list) else (made,)
    return sum(math.prod(part.shape) * part.itemsize for part in parts if isinstance(part, torch.Tensor))


def _shape_only(value: Any) -> Any:
    if not isinstance(value, torch.Tensor):
        return value
    return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
