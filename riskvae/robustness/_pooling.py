"""Largest values, of windows or pairs, as sums and rectifiers: max(a, b) = a + relu(b - a)."""

from collections.abc import Callable
from itertools import product
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from riskvae.nets import GroupSort

__all__ = ["MaxPool", "Pairs"]

_LAYERS: list[type[nn.Module]] = [nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d]


class MaxPool(NamedTuple):
    """Max-pooling with windows and steps along the last dimensions.

    Padding never wins, so it may hold what is in a window anyway: the value at the edge, which every window that
    reaches beyond it holds.

    Parameters
    ----------
    kernel, stride, padding : tuple of int
        One number for each dimension.
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]

    @classmethod
    def of(cls, layer: nn.Module) -> Self | None:
        """Of a module; None for other modules, and where windows have holes."""
        if type(layer) not in _LAYERS or not isinstance(layer, nn.MaxPool1d | nn.MaxPool2d | nn.MaxPool3d):
            return None
        dims = 1 + _LAYERS.index(type(layer))
        sizes = _each(layer.kernel_size, dims), _each(layer.stride, dims), _each(layer.padding, dims)
        plain = _each(layer.dilation, dims) == (1,) * dims
        return cls(*sizes) if plain and not layer.ceil_mode and not layer.return_indices else None

    @classmethod
    def of_call(
        cls, dims: int, kernel_size: Any, stride: Any = None, padding: Any = 0, *others: Any, **more: Any
    ) -> Self | None:
        """Of a call of the function with these arguments."""
        if others or more:
            return None
        return cls(_each(kernel_size, dims), _each(stride or kernel_size, dims), _each(padding, dims))

    @property
    def rounds(self) -> int:
        """Rectifiers, one after the other: each round leaves half of the values."""
        return (torch.Size(self.kernel).numel() - 1).bit_length()

    def __call__(self, x: Tensor, rectify: Callable[[Tensor], Tensor]) -> Tensor:
        """Largest values, by a rectifier that is called so many times."""
        for dim, pad in enumerate(self.padding, -len(self.padding)):
            size = x.shape[dim]
            x = x.index_select(dim, torch.arange(-pad, size + pad, device=x.device).clamp(0, size - 1)) if pad else x
        sizes = [
            (n - k) // s + 1 for n, k, s in zip(x.shape[-len(self.kernel) :], self.kernel, self.stride, strict=True)
        ]
        parts = [self._one_of_each(x, offset, sizes) for offset in product(*map(range, self.kernel))]
        while len(parts) > 1:
            half = len(parts) // 2
            first, second, odd = torch.stack(parts[:half], 1), torch.stack(parts[half : 2 * half], 1), parts[2 * half :]
            parts = [*(first + rectify(second - first)).unbind(1), *odd]
        return parts[0]

    def _one_of_each(self, x: Tensor, offset: tuple[int, ...], sizes: list[int]) -> Tensor:
        """The values at one place of all windows."""
        place: Any = [slice(o, o + s * (n - 1) + 1, s) for o, s, n in zip(offset, self.stride, sizes, strict=True)]
        return x[(..., *place)]


class Pairs(NamedTuple):
    """Pairs sorted by :class:`riskvae.nets.GroupSort`."""

    rounds: int = 1

    @classmethod
    def of(cls, layer: nn.Module) -> Self | None:
        """Of a module; None for other modules."""
        return cls() if type(layer) is GroupSort else None

    def __call__(self, x: Tensor, rectify: Callable[[Tensor], Tensor]) -> Tensor:
        """The larger and the smaller values, by a rectifier."""
        a, b = x.chunk(2, dim=1)
        more = rectify(b - a)
        return torch.cat((a + more, b - more), dim=1)


def _each(value: Any, dims: int) -> tuple[int, ...]:
    return tuple(value) if isinstance(value, tuple | list) else (int(value),) * dims
