"""Checks of parameters that margins and attacks have in common."""

from numbers import Real
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from riskvae._validation import Rule, boolean, choice, integer
from riskvae.robustness._coder import Examined, fill_up
from riskvae.robustness._projection import NORMS

NORM = Rule(
    lambda value: isinstance(value, Real) and not isinstance(value, bool) and value in NORMS,
    "1, 2 or numpy.inf",
    kind=lambda value: isinstance(value, Real),
)
RULES = {
    "perturb": choice("mean", "both"),
    "n_steps": integer(1),
    "n_restarts": integer(1),
    "batch_size": integer(1),
    "verbose": integer(0) | boolean,
}


def positive_per_row(name: str, value: Any, n: int, *, otherwise: str = "") -> float | NDArray[np.float64]:
    """A finite number above 0, or an array of one per row; raise with the name and what else is allowed."""
    message = f"{name} must be {otherwise}a number above 0, or {n} of them, one per row; got {value!r}."
    try:
        values = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise TypeError(message) from None
    if isinstance(value, bool) or values.shape not in ((), (n,)) or not (np.isfinite(values) & (values > 0)).all():
        raise ValueError(message)
    return float(values) if values.ndim == 0 else values


def in_block(values: float | NDArray[np.float64], coder: Examined, rows: slice, x: Tensor) -> Tensor:
    """A number, or one per row, for the rows of a block, filled up as it is."""
    each = np.broadcast_to(values, len(coder.x))[rows].copy()
    return fill_up(torch.as_tensor(each).to(x), len(x))
