"""Latent draws that hang on the row and the epoch, and on nothing else."""

import copy
import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import chi2
from torch import Tensor

__all__ = ["RowDraws", "matched_draws"]

# SplitMix64: what its state moves by, and the shift and the factor of each round.
_GOLDEN = 0x9E3779B97F4A7C15
_ROUNDS = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1))
_LOW = 0xFFFFFFFF


class RowDraws:
    r"""Standard normal draws for rows by their places in the data, in whatever order and company they come.

    Row i takes the numbers of the generator SplitMix64 at the positions m i to m (i + 1), which belong to it alone,
    made normal by pairs (Box and Muller): with uniform u and v,
    :math:`\sqrt{-2 \log u} \, (\cos 2 \pi v, \sin 2 \pi v)`. So batches, devices and processes may share the rows as
    they like, and each row still meets the same draws.

    Parameters
    ----------
    seed : int
        One for each epoch; other seeds give unrelated draws.
    n_draws, n_components : int
        Draws per row, and their width.

    References
    ----------
    Steele, Lea and Flood, "Fast splittable pseudorandom number generators" (OOPSLA 2014).

    Examples
    --------
    >>> import torch
    >>> draws = RowDraws(seed=0, n_draws=1, n_components=3)
    >>> both = draws(torch.tensor([7, 2]))
    >>> both.shape
    torch.Size([2, 1, 3])
    >>> torch.equal(both[1], draws(torch.tensor([2]))[0])
    True
    """

    def __init__(self, seed: int, n_draws: int, n_components: int) -> None:
        self.shape = (n_draws, n_components)
        self.width = n_draws * n_components
        n_pairs = (self.width + 1) // 2
        key = _mixed(np.array([seed], np.uint64) * np.uint64(_GOLDEN))
        self.steps = np.arange(n_pairs, dtype=np.uint64) * np.uint64(_GOLDEN) + key
        self.stride = np.array(n_pairs, np.uint64) * np.uint64(_GOLDEN)

    @classmethod
    def of_several(cls, draws: Sequence[Self]) -> Self:
        """Draws of several models at once, for places (models, n); they differ in their seeds alone."""
        found = copy.copy(draws[0])
        found.steps = np.stack([one.steps for one in draws])
        return found

    def __call__(self, places: Tensor) -> Tensor:
        """Draws (n, n_draws, n_components) for the rows at some places (n,), on their device."""
        if places.is_cuda:
            normal = _normal(*self._halves_by_torch(places), torch)
        else:
            normal = torch.from_numpy(_normal(*self._halves_by_numpy(places), np)).to(places.device)
        return normal[..., : self.width].unflatten(-1, self.shape)

    def _halves_by_numpy(self, places: Tensor) -> tuple[Any, Any]:
        """Upper and lower halves of the generator's numbers; numpy is the faster for few of them."""
        z = _mixed(places.numpy(force=True).astype(np.uint64)[..., None] * self.stride + self.steps[..., None, :])
        return (z >> np.uint64(32)).astype(np.float32), (z & np.uint64(_LOW)).astype(np.float32)

    def _halves_by_torch(self, places: Tensor) -> tuple[Any, Any]:
        """The same on a GPU, where a copy from the CPU would cost as much as a training step."""
        steps = torch.from_numpy(self.steps.view(np.int64)).to(places.device)
        z = places[..., None] * int(self.stride.view(np.int64)) + steps[..., None, :]
        for shift, factor in _ROUNDS:
            z ^= (z >> shift) & (2 ** (64 - shift) - 1)  # torch's numbers are signed: their shift brings ones
            z *= factor - 2**64 if factor > 1 else 1
        return ((z >> 32) & _LOW).float(), (z & _LOW).float()


def _mixed(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Every bit of each number made to hang on all its bits, in place."""
    for shift, factor in _ROUNDS:
        z ^= z >> np.uint64(shift)
        z *= np.uint64(factor)
    return z


def _normal(u: Any, v: Any, xp: Any) -> Any:
    """Pairs of normal numbers from pairs of whole ones of 32 bits, as arrays of numpy or tensors of torch."""
    radius = xp.sqrt(-2.0 * xp.log((u + 0.5) * 2.0**-32))
    angle = v * (2.0 * math.pi * 2.0**-32)
    return xp.concatenate((radius * xp.cos(angle), radius * xp.sin(angle)), axis=-1)


@lru_cache(maxsize=64)  # of a model they are always the same; nobody writes to them
def matched_draws(n_draws: int, n_components: int, seed: int) -> Tensor:
    r"""Standard normal draws (n_draws, 1, n_components) for all rows, whose means and covariances match.

    Sets of 2k points, :math:`\pm r q_j` with the rows q of a random orthogonal matrix. Over whole sets the mean is 0
    and, as the r of all sets have the mean square k, the covariance is the identity, so that the mean of any quadratic
    function is exact. The r of several sets are spread as the length of a normal vector is. Of an incomplete set,
    pairs are kept.

    References
    ----------
    Yu, Suresh, Choromanski, Holtmann-Rice and Kumar, "Orthogonal random features" (2016), for the orthogonal rows.
    """
    generator = torch.Generator().manual_seed(seed)
    n_sets = math.ceil(n_draws / (2 * n_components))
    square = torch.from_numpy(chi2.ppf((np.arange(n_sets) + 0.5) / n_sets, n_components))
    radius = (square * (n_components / square.mean())).sqrt()
    directions = []
    for r in radius[torch.randperm(n_sets, generator=generator)]:
        q, upper = torch.linalg.qr(torch.randn(n_components, n_components, generator=generator, dtype=torch.float64))
        directions.append(r * q.T * upper.diagonal().sign()[:, None])
    half = torch.cat(directions)[: (n_draws + 1) // 2, None]
    return torch.cat((half, -half))[:n_draws]
