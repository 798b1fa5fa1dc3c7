"""Where a changed row may lie: a box of its own, which bounds, a mask and budgets of single features make."""

from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from riskvae._validation import host_array
from riskvae.robustness._coder import Examined, fill_up

__all__ = ["Box"]


class Box(NamedTuple):
    """Least and largest values of changed rows, each (1, d) or (n, d); equal where a feature may not change."""

    low: Tensor
    high: Tensor

    @classmethod
    def of(
        cls, owner: str, coder: Examined, bounds: Any, mask: Any = None, budget: NDArray[Any] | None = None
    ) -> Self | None:
        """The box that all three allow; None where none of them is there."""
        x = coder.x.flatten(1)
        box = None if bounds is None else _from_bounds(owner, coder, bounds)
        if budget is not None:
            most = torch.as_tensor(budget).to(x)
            box = _both(box, x - most, x + most)
        if mask is not None:
            free = _from_mask(owner, coder, mask)
            held = torch.where(free, torch.full_like(x, torch.inf), x)
            box = _both(box, torch.where(free, -held, held), held)
        return None if box is None else cls(*box)

    def around(self, rows: slice, x: Tensor) -> tuple[Tensor, Tensor]:
        """How far each value of a block of rows (n, ...) may go down and up, each (n, 1, d) at most: 0 inside."""
        low, high = (fill_up(end[rows], len(x)) if len(end) > 1 else end for end in self)
        flat = x.flatten(1)
        return (low - flat).clamp(max=0.0)[:, None], (high - flat).clamp(min=0.0)[:, None]

    def clip(self, moved: Tensor, x: Tensor) -> Tensor:
        """Changed rows (n, d), into the box; what has not changed stays, also a little outside."""
        return torch.where(moved == x, moved, torch.minimum(torch.maximum(moved, self.low), self.high))


def _both(box: tuple[Tensor, Tensor] | None, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    return (low, high) if box is None else (torch.maximum(box[0], low), torch.minimum(box[1], high))


def _per_feature(values: Any, coder: Examined) -> Tensor | None:
    """Numbers, one for all, for each feature, or for each feature of each row, as (1, d) or (n, d); None otherwise."""
    x = coder.x
    array = np.asarray(host_array(values) if isinstance(values, Tensor) else values, dtype=np.float64)
    n, d = len(x), x[0].numel()
    if array.shape in ((), (1,)):
        array = np.broadcast_to(array, (1, d))
    elif array.shape in ((d,), tuple(x.shape[1:]), (1, *x.shape[1:])):
        array = array.reshape(1, d)
    elif array.shape in ((n, d), tuple(x.shape)):
        array = array.reshape(n, d)
    elif array.shape == (n, 1):
        array = np.broadcast_to(array, (n, d))
    else:
        return None
    return torch.as_tensor(np.array(array)).to(x)


def _from_bounds(owner: str, coder: Examined, bounds: Any) -> tuple[Tensor, Tensor]:
    x = coder.x.flatten(1)
    told = _shortly(bounds)
    try:
        low, high = (_per_feature(end, coder) for end in bounds)
    except (TypeError, ValueError):
        low = high = None
    if low is None or high is None:
        raise ValueError(
            f"{owner}: bounds must be a pair (low, high) of numbers, of arrays with {x.shape[1]} features, or of "
            f"arrays of the shape of X, such as (0, 1); got {told}."
        )
    if not (low <= high).all():
        raise ValueError(
            f"{owner}: bounds must have low below high, or equal to it where nothing may change; got {told}."
        )
    slack = 1e-6 * torch.maximum((high - low).clamp(max=1e30), torch.maximum(low.abs(), high.abs()).clamp(1.0, 1e30))
    outside = ((x < low - slack) | (x > high + slack)).any(1)
    if outside.any():
        raise ValueError(
            f"{owner}: X must lie in bounds={told}; {int(outside.sum())} rows do not; the first is row "
            f"{int(outside.nonzero()[0])}. Widen bounds, or clip X."
        )
    return low, high


def _from_mask(owner: str, coder: Examined, mask: Any) -> Tensor:
    try:
        free = _per_feature(mask, coder)
    except (TypeError, ValueError):
        free = None
    if free is None or not ((free == 0) | (free == 1)).all():
        raise ValueError(
            f"{owner}: mask must say for each of {coder.x[0].numel()} features whether it may change, by True or "
            f"False, in one row or in one for each row of X; got {_shortly(mask)}."
        )
    if not free.any(1).all():
        raise ValueError(f"{owner}: mask leaves nothing that may change in a row. Set at least one feature to True.")
    return free > 0


def _shortly(value: Any) -> str:
    if isinstance(value, tuple | list) and len(value) == 2:
        return f"({_shortly(value[0])}, {_shortly(value[1])})"
    shape = np.shape(value)
    return repr(value) if len(repr(value)) < 40 or not shape else f"an array of shape {shape}"
