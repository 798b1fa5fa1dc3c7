"""The distance at which a reconstruction counts as another one."""

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from riskvae._validation import derive_seed
from riskvae.robustness._checks import positive_per_row
from riskvae.robustness._coder import Coder, noise_bank
from riskvae.robustness._noise import noise_distances

__all__ = ["auto_bank", "auto_radius", "given_radius", "radius_of"]

# Draws for "auto", which is so many times the median distance that the noise moves a reconstruction.
_DRAWS, _TIMES = 256, 1.5


def given_radius(owner: str, r: Any, n: int) -> float | NDArray[Any] | None:
    """Radius as a number or one per row; None for "auto"."""
    if isinstance(r, str) and r == "auto":
        return None
    return positive_per_row(f"{owner}: r", r, n, otherwise="'auto', ")


def auto_bank(coder: Coder, seed: int) -> Tensor:
    """Draws (m, k) whose distances decide "auto", in margins and attacks alike."""
    return noise_bank(_DRAWS, coder.n_components, derive_seed(seed, "radius", 0), coder.x)


def auto_radius(distances: Tensor) -> float:
    """Radius from the distances of all rows and draws by which the noise moves them."""
    return _TIMES * float(distances.flatten().cpu().double().median())


def radius_of(
    owner: str, r: Any, coder: Coder, seed: int, batch_size: int, *, latent: bool = False
) -> float | NDArray[Any]:
    """Radius as a number or one per row; 0 for "auto" where the decoder does not look at z."""
    given = given_radius(owner, r, len(coder.x))
    if given is not None:
        return given
    bank, found = auto_bank(coder, seed), []
    for _, count, x in coder.blocks(batch_size):
        with torch.no_grad():
            mean, scale = coder.encode(x)
            moved = (
                (scale[:, None] * bank).norm(dim=-1)
                if latent
                else noise_distances(coder, mean, scale, coder.decode(mean), bank)
            )
            found.append(moved[:count].flatten().cpu())
    return auto_radius(torch.cat(found))
