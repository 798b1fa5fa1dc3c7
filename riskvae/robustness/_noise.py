"""How far the encoder's own noise moves a reconstruction, and what can be said of its probability from draws."""

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.special import betaincinv, ndtri
from torch import Tensor

from riskvae.robustness._coder import CHUNK, Coder, distance

Array = NDArray[np.float64]


def clopper_pearson(count: ArrayLike, n: int, confidence: float) -> tuple[Array, Array]:
    r"""Exact one-sided confidence limits of a probability, from ``count`` events in ``n`` draws.

    Each limit holds with at least the stated confidence, but not both jointly:

    .. math:: p_\mathrm{low} = B^{-1}_{1 - c}(k, n - k + 1), \qquad p_\mathrm{high} = B^{-1}_{c}(k + 1, n - k)

    with the quantile function of the beta distribution.

    Parameters
    ----------
    count : array-like of int
        k, from 0 to ``n``.
    n : int
        Number of draws.
    confidence : float
        c, in (0, 1).

    Returns
    -------
    low, high : ndarray
        Limits, in the shape of ``count``.

    References
    ----------
    Clopper and Pearson, "The use of confidence or fiducial limits" (1934).

    Examples
    --------
    >>> low, high = clopper_pearson(100, 100, 0.999)
    >>> round(float(low), 3), float(high)  # 0.001 ** (1 / 100)
    (0.933, 1.0)
    """
    k = np.asarray(count, dtype=np.float64)
    if n < 1 or not ((k >= 0) & (k <= n)).all() or not 0 < confidence < 1:
        raise ValueError(
            "clopper_pearson: n must be at least 1, count from 0 to n, and confidence in (0, 1); got "
            f"count={count!r}, n={n!r}, confidence={confidence!r}."
        )
    low = np.where(k > 0, betaincinv(np.maximum(k, 1), n - k + 1, 1.0 - confidence), 0.0)
    high = np.where(k < n, betaincinv(k + 1, np.maximum(n - k, 1), confidence), 1.0)
    return low, high


def probit(p: ArrayLike) -> Array:
    """Quantile function of the standard normal distribution."""
    return ndtri(np.asarray(p, dtype=np.float64))


def noise_distances(
    coder: Coder, mean: Tensor, scale: Tensor, reference: Tensor, bank: Tensor, *, attacked: bool = False
) -> Tensor:
    """Distances ||g(mean + scale * draw) - reference|| for every row and draw, (n, n_draws).

    Parameters
    ----------
    coder : Coder
        Decodes.
    mean, scale, reference : Tensor of shape (n, k), (n, k), (n, d)
        One row each.
    bank : Tensor of shape (n_draws, k)
        Standard normal draws, shared by the rows.
    attacked : bool, default=False
        Whether these are perturbed rows: a decoder may overflow there, and what it says then counts as no distance.
    """
    n, d = reference.shape
    out = torch.empty(n, len(bank), dtype=reference.dtype, device=reference.device)
    step = max(1, CHUNK // (n * d))
    with torch.inference_mode():  # in which layers of this library are faster
        for start in range(0, len(bank), step):
            decoded = coder.decode(mean + scale * bank[start : start + step, None])
            out[:, start : start + step] = distance(decoded, reference).T
    if attacked:
        return torch.where(out.isnan(), 0.0, out)
    if out.isnan().any():
        bad = int(out.isnan().sum())
        raise ValueError(
            f"vae.decode(z) is NaN for {bad} of {out.numel()} draws around the rows of a block, though not at their "
            "posterior means. Look for a decoder that overflows away from the data, such as an exponential; clamp it."
        )
    return out
