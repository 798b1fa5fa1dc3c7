"""How far a model carries a perturbation of a row, for a training that keeps it short."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from riskvae.training._batch import Batch

__all__ = ["excess_gains"]

# Norm of a perturbation, of the reconstruction's, so that rounding does not count: in single precision, and in lower.
_LEAST, _LEAST_IN_LOWER = 1e-3, 3e-2


def excess_gains(vae: Any, batch: Batch) -> Tensor:
    r"""By how much the squared gain of the reconstruction h exceeds 1 at each row (n,), where it moves far.

    .. math:: \left(\frac{\lVert h(x + \delta) - h(x) \rVert^2}{\lVert \delta \rVert^2} - 1\right)_+, \qquad
        \delta \propto J^\top \left(g(z) - h(x)\right), \quad \lVert \delta \rVert = \lVert g(z) - h(x) \rVert

    with h(x) = g(mu(x)) and its Jacobian J. A model that projects rows on their manifold has the gain 1 along it and 0
    across, so it pays nothing; what exceeds that is what an attack looks for.

    The direction is one step of the power iteration for the largest singular value of J, from where the row's own
    latent draw z moved the decoder g; the perturbation is as long as that move. So it has the units of the rows, and
    hangs on the row, its draw and the model alone. Values that are missing stay so. No derivative is taken twice.
    """
    x = batch.x.detach().requires_grad_()
    mean, scale = vae.encode(x)
    here = _decoded(vae, mean)
    with torch.no_grad():
        noise = batch.noise[:, 0]  # type: ignore[index]  # drawn for every epoch
        away = _decoded(vae, mean + scale * noise) - here
    pull = (here * away).sum()
    (slope,) = torch.autograd.grad(pull, x, retain_graph=True, allow_unused=True) if pull.requires_grad else (None,)
    if slope is None:  # networks that do not look at what they are given
        return x.new_zeros(len(x))
    least = _LEAST if vae.lower is None else _LEAST_IN_LOWER
    size = torch.linalg.vector_norm(torch.stack((away, least * here.detach())), dim=2).amax(0)
    delta = size[:, None] * normalize(slope, dim=1)
    moved = _decoded(vae, vae.encode(batch.x + delta).mean) - here
    length = delta.square().sum(1)
    there = length > 0  # not where nothing moves the reconstruction
    gains = moved.square().sum(1) / torch.where(there, length, torch.ones_like(length))
    return torch.where(there, (gains - 1.0).clamp(min=0.0), torch.zeros_like(gains))


def _decoded(vae: Any, z: Tensor) -> Tensor:
    return vae.likelihood.mean(vae.through(vae.decoder, z))
