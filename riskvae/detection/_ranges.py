"""Between which values the evidence bound of a row stays while the row, its posterior and its decoded values move."""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from riskvae.detection._density import RowDensity
from riskvae.detection._noise import LEAST
from riskvae.losses import LOG_2PI

__all__ = ["Reach", "bound_range"]


class Reach(NamedTuple):
    """How far n rows and what is computed of them may move.

    Parameters
    ----------
    radius : Tensor of shape (n,)
        Norm of the change of a row.
    norm : {1, 2, inf}
        Of it.
    posterior : (Tensor, Tensor)
        How far the encoder's outputs may go down and up, (n, 2k) each: means, then raw scales.
    latent : Tensor of shape (n,)
        Euclidean norm by which means may move.
    decoded : (Tensor, Tensor)
        How far the decoder's outputs may go down and up, (n, n_values) each.
    """

    radius: Tensor
    norm: float
    posterior: tuple[Tensor, Tensor]
    latent: Tensor
    decoded: tuple[Tensor, Tensor]


def bound_range(density: RowDensity, vae: Any, x: Tensor, reach: Reach) -> tuple[Tensor, Tensor]:
    """Least and largest evidence bound (n,) of rows (n, d) within some reach, at the posterior mean."""
    out = vae.encoder(x)
    ends = out - reach.posterior[0], out + reach.posterior[1]
    mean = out.chunk(2, -1)[0]
    scales = [vae.scales(end.chunk(2, -1)[1]).log().sum(-1) for end in ends]
    raw = vae.decoder(mean)
    priors = _prior_range(density, mean, reach)
    values = _density_range(density.noise, vae, x, raw - reach.decoded[0], raw + reach.decoded[1], reach)
    low, high = (value + prior + scale for value, prior, scale in zip(values, priors, scales, strict=True))
    return low, high


def _prior_range(density: RowDensity, mean: Tensor, reach: Reach) -> tuple[Tensor, Tensor]:
    """Of the log-density of the aggregated posterior: each part's distance, entry by entry or as a whole."""
    precision = density.prior_scale.pow(-2)
    away = (mean[:, None] - density.prior_mean).abs()
    k = mean.shape[-1]
    step = torch.maximum(*reach.posterior)[:, None, :k]
    whole, most = (precision * away.square()).sum(-1).sqrt(), precision.amax(-1).sqrt() * reach.latent[:, None]
    farther = torch.minimum((precision * (away + step).square()).sum(-1), (whole + most).square())
    nearer = torch.maximum(
        (precision * (away - step).clamp(min=0.0).square()).sum(-1), (whole - most).clamp(min=0.0).square()
    )
    constant = 0.5 * precision.log().sum(-1) - math.log(len(precision))
    low, high = (torch.logsumexp(constant - 0.5 * square, -1) for square in (farther, nearer))
    return low, high


def _density_range(noise: Any, vae: Any, x: Tensor, low: Tensor, high: Tensor, reach: Reach) -> tuple[Tensor, Tensor]:
    """Of the log-density of values around their medians.

    It falls with the distance from the median; in the scale it rises and then falls, so that the least is at an end.
    """
    medians = [vae.likelihood.mean(raw) for raw in (low, high)]
    far = torch.maximum((x - medians[0]).abs(), (x - medians[1]).abs())
    near = torch.maximum(medians[0] - x, x - medians[1]).clamp(min=0.0)
    scales = [noise.error_scale.expand_as(x)] * 2
    if noise.own.any():
        own = [noise.factor * vae.likelihood.scales(vae.likelihood.quantiles(raw)) for raw in (low, high)]
        scales = [
            torch.where(noise.own, torch.maximum(s, LEAST * noise.error_scale), fixed)
            for s, fixed in zip(own, scales, strict=True)
        ]

    def known(distance: Tensor, s: Tensor) -> Tensor:
        return -s.log() - 0.5 * (distance / s).square()

    def both(distance: Tensor, part: Tensor) -> Tensor:
        broad = known(distance, noise.broad) - math.log(noise.n_rows)
        return torch.logaddexp(part, broad) - 0.5 * LOG_2PI - math.log1p(1.0 / noise.n_rows)

    def least(distance: Tensor) -> Tensor:
        return both(distance, torch.minimum(*(known(distance, s) for s in scales)))

    def most(distance: Tensor) -> Tensor:
        return both(distance, known(distance, torch.minimum(torch.maximum(distance, scales[0]), scales[1])))

    # A value moves by up to the radius; all together by no more than slopes and the dual norm allow.
    radius = reach.radius[:, None]
    dual = {1: math.inf, 2: 2, math.inf: 1}[reach.norm]
    steep = scales[0].pow(-2) + noise.broad.pow(-2)
    fall = reach.radius * torch.linalg.vector_norm((far + radius) * steep, dual, dim=-1)
    rise = reach.radius * torch.linalg.vector_norm(near * steep, dual, dim=-1)
    closer = (near - radius).clamp(min=0.0)
    return (
        torch.maximum(least(far + radius).sum(-1), least(far).sum(-1) - fall),
        torch.minimum(most(closer).sum(-1), most(near).sum(-1) + rise),
    )
