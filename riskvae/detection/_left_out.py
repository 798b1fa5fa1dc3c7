"""Each value of a row judged by a model that has seen only the other values of that row."""

import copy
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from riskvae.detection._noise import CHUNK

__all__ = ["WIDEST", "judged", "left_out", "looking_for_missing", "n_affordable", "spread_of"]

# Rows whose values a calibration leaves out one by one: a row of d values takes d passes, each as wide as the row.
_ROWS, _FEWEST, _VALUES = 2_000, 100, 12 * 10**6
# Beyond this many features that is done only if it is asked for: a hundred rows take 50,000 passes and more.
WIDEST = 500
# Share of errors by which a spread is measured, and where it is among absolute values of a normal variable.
_SHARE, _NORMAL = 0.9, 1.645


def judged(vae: Any, x: Tensor, z: Tensor) -> Tensor:
    """Values of rows as they are compared, central ones, and quantiles, by z: (n, n_features, 2 + n_levels)."""
    raw, likelihood = vae.decoder(z), vae.likelihood
    values = likelihood.compared(x, raw)[..., None], likelihood.mean(raw)[..., None]
    return torch.cat((*values, likelihood.quantiles(raw)), -1)


def left_out(vae: Any, x: Tensor) -> Tensor:
    """The same (n, n_features, 2 + n_levels) of each value of rows, decoded from the row's others.

    The value is taken to be missing: that of feature j does not matter to what is said of feature j. The model must
    look for missing values (``holes``). Rows are taken once for each feature, some features at a time.
    """
    n, d = x.shape
    step = max(1, CHUNK // (n * max(vae.likelihood.n_values, vae.widest)))
    found = []
    for features in torch.arange(d, device=x.device).split(step):
        places = torch.arange(len(features), device=x.device)
        whole = x.repeat(len(features), 1, 1)
        rows = whole.clone()
        rows[places, :, features] = torch.nan
        answers = judged(vae, whole.flatten(0, 1), vae.encode(rows.flatten(0, 1)).mean)
        found.append(answers.unflatten(0, (len(features), n))[places, :, features])
    return torch.cat(found).transpose(0, 1)


def looking_for_missing(vae: Any) -> Any:
    """A copy of a model, in evaluation mode, that takes NaN for missing even if it was trained on whole rows."""
    other = copy.deepcopy(vae).eval()
    other.holes = True
    return other


def n_affordable(n_rows: int, n_features: int, *, asked_for: bool = False) -> int:
    """How many of some rows a calibration leaves values out of; 0 where rows are too wide, unless asked for."""
    if n_features > WIDEST and not asked_for:
        return 0
    return min(n_rows, _ROWS, max(_FEWEST, _VALUES // n_features**2))


def spread_of(errors: NDArray[Any], least: NDArray[Any]) -> NDArray[Any]:
    """Standard deviation (n_features,) of errors (n, n_features), NaN where unknown, by where nine tenths of them lie.

    So a tenth of them may be anything. Never below ``least``; that is also the answer where no error is known.
    """
    known = ~np.isnan(errors).all(0)
    spread = least.astype(np.float64)
    spread[known] = np.maximum(np.nanquantile(np.abs(errors[:, known]), _SHARE, axis=0) / _NORMAL, least[known])
    return spread
