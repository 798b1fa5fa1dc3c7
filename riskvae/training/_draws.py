"""Latent draws that hang on the row and the epoch, and on nothing else."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["RowDraws"]

_GOLDEN, _FIRST, _SECOND = (
    np.array(number, np.uint64) for number in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
)
_HALF, _MINUS_TWO, _UNIT, _TURN = map(np.float32, (0.5, -2.0, 2.0**-32, 2.0 * np.pi * 2.0**-32))


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
        n_pairs = (n_draws * n_components + 1) // 2
        key = _mixed(np.array([seed], np.uint64) * _GOLDEN)
        self.steps = np.arange(n_pairs, dtype=np.uint64) * _GOLDEN + key
        self.stride = n_pairs * _GOLDEN

    def __call__(self, places: Tensor) -> Tensor:
        """Draws (n, n_draws, n_components) for the rows at some places (n,)."""
        counters = places.numpy(force=True).astype(np.uint64)[:, None] * self.stride + self.steps
        bits = _mixed(counters).view(np.uint32)
        # Whole arrays at a time: numpy's loops over short rows would cost more than the numbers.
        u, angle = (bits[:, half::2].astype(np.float32) for half in (0, 1))
        u += _HALF
        u *= _UNIT
        radius = np.log(u, out=u)
        radius *= _MINUS_TWO
        np.sqrt(radius, out=radius)
        angle *= _TURN
        normal = np.concatenate((radius * np.cos(angle), radius * np.sin(angle)), axis=1)
        n_draws, k = self.shape
        return torch.from_numpy(normal)[:, : n_draws * k].unflatten(1, self.shape)


def _mixed(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Every bit of each number made to hang on all its bits, in place."""
    z ^= z >> np.uint64(30)
    z *= _FIRST
    z ^= z >> np.uint64(27)
    z *= _SECOND
    z ^= z >> np.uint64(31)
    return z
