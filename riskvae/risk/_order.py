"""What all risk measures start from: checks of their arguments, and order statistics.

On the CPU NumPy selects and sorts by AVX-512 or AVX2, several times faster than torch on long samples
(``benchmarks/risk.py``). Inside function transforms and compiled graphs, where NumPy cannot see the values,
torch does it.
"""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

# Shorter samples gain nothing from NumPy.
_LONG = 1024
TINY, HUGE = 1e-30, 1e30
"""Scales beyond these count as zero and infinite: they or their reciprocals would overflow float32."""
_LEAST_EPS = 1e-12


def check_losses(losses: Tensor, dim: int, tail: str = "worst") -> None:
    """Raise unless ``losses`` is a floating tensor with values along ``dim``."""
    if not isinstance(losses, Tensor):
        raise TypeError(f"losses must be a torch tensor; got {type(losses).__name__}. Use torch.as_tensor(losses).")
    if not losses.is_floating_point():
        raise TypeError(f"losses must be a floating-point tensor; got {losses.dtype}. Use losses.float().")
    if not isinstance(dim, int):
        raise TypeError(
            f"dim must be an integer, one dimension of losses; got {dim!r}. Flatten losses to reduce several."
        )
    if losses.dim() > 0 and not -losses.dim() <= dim < losses.dim():
        raise ValueError(f"dim={dim} is not a dimension of losses, whose shape is {tuple(losses.shape)}.")
    if losses.dim() == 0 or losses.shape[dim] == 0:
        raise ValueError(f"losses must hold at least one value along dim={dim}; got shape {tuple(losses.shape)}.")
    if dim == -1 and losses.dim() > 1 and losses.shape[-1] == 1 and losses.numel() > 1:
        raise ValueError(
            f"losses have shape {tuple(losses.shape)}, so along dim=-1 each is its own risk. Flatten a column, as "
            f"by losses.flatten(), or name the dimension: dim=0, or dim={losses.dim() - 1} if that is meant."
        )
    if tail not in ("worst", "best"):
        raise ValueError(f"tail must be 'worst' or 'best'; got {tail!r}.")


def check_number(name: str, value: Any, low: float, high: float = math.inf, *, open_low: bool = False) -> None:
    """Raise unless ``value`` is a finite real number from ``low`` to ``high``."""
    if high < math.inf:
        expected = f"in {'(' if open_low else '['}{low:g}, {high:g}]"
    elif low > -math.inf:
        expected = f"a finite number {'above' if open_low else 'of at least'} {low:g}"
    else:
        expected = "a finite number"
    try:
        good = low <= value <= high and -math.inf < value < math.inf and not (open_low and value == low)
    except (TypeError, ValueError, RuntimeError):  # neither strings nor arrays of several values
        raise TypeError(f"{name} must be {expected}; got {value!r}.") from None
    if not good:
        raise ValueError(f"{name} must be {expected}; got {value!r}.")


def check_eps(eps: Any, name: str = "eps") -> float:
    """Tail fraction as a float of at least 1e-12, which is the maximum of any sample; raise if it is none."""
    try:
        check_number(name, eps, 0.0, 1.0, open_low=True)
        return max(float(eps), _LEAST_EPS)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{error} It is the share of the losses that count; {name}=1 gives the mean.") from None


def at_least_float32(values: Tensor) -> Tensor:
    """Half precision is for storage: risk is computed in float32."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def tail_mass(eps: float, n: int) -> float:
    """``eps * n`` losses, made whole where only rounding keeps it from being so (0.29 * 100 = 28.999...96)."""
    mass = eps * n
    whole = round(mass)
    return float(whole) if abs(mass - whole) <= 2.0**-51 * mass else mass


def kth_largest(values: Tensor, k: int, dim: int) -> Tensor:
    """K-th largest value along ``dim``, which is kept; without a graph. NaN sorts as the largest."""
    n = values.shape[dim]
    array = _numpy(values) if n >= _LONG else None
    if array is not None:
        found = np.partition(array, n - k, axis=dim).take([n - k], axis=dim)
        return torch.from_numpy(found)
    if 2 * k <= n:
        return values.detach().topk(k, dim, sorted=False).values.amin(dim, keepdim=True)
    return values.detach().topk(n - k + 1, dim, largest=False, sorted=False).values.amax(dim, keepdim=True)


def sort_ascending(values: Tensor) -> Tensor:
    """Values sorted along the last dimension, without a graph."""
    array = _numpy(values) if values.shape[-1] >= _LONG else None
    return values.detach().sort().values if array is None else torch.from_numpy(np.sort(array))


def argsort_ascending(values: Tensor) -> Tensor:
    """Indices that sort the last dimension."""
    array = _numpy(values) if values.shape[-1] >= _LONG else None
    return values.detach().argsort() if array is None else torch.from_numpy(np.argsort(array))


def running_sum(values: Tensor) -> Tensor:
    """Sums of the values so far along the last dimension, on a GPU in the same order in every run.

    For a single row torch takes a scan there whose blocks add up as they come; for several, one that keeps the order.
    """
    if values.is_cuda and values.numel() == values.shape[-1]:
        return values.expand(2, *values.shape).cumsum(-1)[0]
    return values.cumsum(-1)


def readable(values: Tensor) -> bool:
    """Whether Python can look at the values without waiting for a device or leaving a graph."""
    return _numpy(values) is not None


def _numpy(values: Tensor) -> np.ndarray[Any, Any] | None:
    """The values as an array that shares their memory, where they have one that NumPy can read."""
    if values.device.type != "cpu" or torch.compiler.is_compiling() or torch.jit.is_tracing():  # type: ignore[attr-defined]
        return None
    if torch.utils._python_dispatch._get_current_dispatch_mode() is not None:  # a tracer would not see NumPy's work
        return None
    try:
        return values.detach().numpy()
    except (RuntimeError, TypeError):  # no memory to read inside torch.func transforms; bfloat16 has no NumPy type
        return None
