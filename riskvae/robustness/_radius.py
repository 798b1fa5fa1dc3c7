"""The distance at which a reconstruction counts as another one."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from riskvae._validation import derive_seed
from riskvae.robustness._checks import positive_per_row
from riskvae.robustness._coder import Coder, noise_bank
from riskvae.robustness._noise import noise_distances

__all__ = ["radius_of"]

# Draws for "auto", which is so many times the median distance that the noise moves a reconstruction.
_DRAWS, _TIMES = 256, 1.5


def radius_of(
    owner: str, r: Any, coder: Coder, seed: int, batch_size: int, *, latent: bool = False
) -> float | NDArray[np.float64]:
    """Radius as a number or one per row; 0 for "auto" where the decoder does not look at z."""
    if not isinstance(r, str) or r != "auto":
        return positive_per_row(f"{owner}: r", r, len(coder.x), otherwise="'auto', ")
    bank, found = noise_bank(_DRAWS, coder.n_components, derive_seed(seed, "radius", 0), coder.x), []
    for _, count, x in coder.blocks(batch_size):
        with torch.no_grad():
            mean, scale = coder.encode(x)
            moved = (
                (scale[:, None] * bank).norm(dim=-1)
                if latent
                else noise_distances(coder, mean, scale, coder.decode(mean), bank)
            )
            found.append(moved[:count].flatten().cpu())
    return _TIMES * float(torch.cat(found).double().median())
