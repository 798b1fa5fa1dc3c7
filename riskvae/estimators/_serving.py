"""Copies of a fitted module for inference: made once, and again when the module is another."""

import copy
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from riskvae.training._vae import VAE

__all__ = ["serving_copy"]


def serving_copy(
    cache: dict[Any, tuple["Mark", nn.Module]],
    module: nn.Module,
    device: torch.device,
    dtype: torch.dtype,
    holes: bool = False,
    refine: int = 0,
) -> nn.Module:
    """Copy of a module in evaluation mode, on a device and of a dtype; the last one as long as its state is the same.

    With ``holes``, models in it look for missing values, as those that have met some do; ``refine`` are the steps by
    which their posteriors come to fit each row. The module itself may be training meanwhile, in a thread; its mode and
    dtype are never touched.
    """
    key = (type(module), device, dtype, holes, refine)
    mark, ready = cache.get(key, (None, None))
    if ready is None or mark is None or not mark.still_holds(module):
        with torch.inference_mode(False):  # of tensors that may have gradients
            mark, ready = Mark(module), copy.deepcopy(module).to(device).to(dtype).eval()
        for part in ready.modules():
            if isinstance(part, VAE):
                part.holes, part.refine = holes or part.holes, refine
        cache[key] = mark, ready
    return ready


class Mark:
    """State of a module, to tell whether a later one is the same: what it consists of, and what was written to.

    Torch counts writes to a tensor, but not those through ``.data``, which seldom leave all of some values as they are.
    """

    def __init__(self, module: nn.Module) -> None:
        # A module that is made for one call, to hold two others, is another each time.
        inside = [part for part in module.modules() if part is not module]
        whole = [module, *inside]
        dicts: list[dict[str, Any]] = [part._modules for part in inside]
        dicts += [part._parameters for part in whole] + [part._buffers for part in whole]
        self.parts = [(now, dict(now)) for now in dicts]
        self.top = list(module._modules.values())
        self.whole = whole[1:]
        self.settings = [_settings(part) for part in self.whole]
        self.tensors = [value for now in dicts for value in now.values() if isinstance(value, Tensor)]
        self.written = [(tensor.data_ptr(), tensor._version) for tensor in self.tensors]
        self.some = [_some(tensor) for tensor in self.tensors]
        self.values = self._read()

    def still_holds(self, module: nn.Module) -> bool:
        """Whether nothing has changed."""
        return (
            list(module._modules.values()) == self.top
            and all(_same(now, before) for now, before in self.parts)
            and [_settings(part) for part in self.whole] == self.settings
            and [(tensor.data_ptr(), tensor._version) for tensor in self.tensors] == self.written
            and np.array_equal(self._read(), self.values)
        )

    def _read(self) -> Any:
        if not self.some:
            return np.zeros(0)
        if all(isinstance(part, np.ndarray) for part in self.some):
            return np.concatenate(self.some, axis=None)
        return torch.cat([torch.as_tensor(part).flatten().cpu().double() for part in self.some]).numpy()


def _settings(part: nn.Module) -> list[Any]:
    """Plain attributes of a module, such as a slope, and its hooks."""
    plain = [(name, value) for name, value in vars(part).items() if name != "training" and isinstance(value, _PLAIN)]
    return [*plain, *part._forward_hooks, *part._forward_pre_hooks]


_PLAIN = (bool, int, float, str, tuple)


def _same(now: dict[str, Any], before: dict[str, Any]) -> bool:
    return len(now) == len(before) and all(now.get(name) is thing for name, thing in before.items())


def _some(tensor: Tensor) -> Any:
    """View of at most some 64 of its values; of NumPy where it can, which reads it faster."""
    per_dimension = max(1, math.floor(64 ** (1 / max(1, tensor.dim()))))
    steps = tuple(slice(None, None, max(1, math.ceil(size / per_dimension))) for size in tensor.shape)
    view = tensor.detach()[steps]
    try:
        return view.numpy() if view.device.type == "cpu" else view
    except TypeError:  # a dtype that NumPy lacks
        return view
