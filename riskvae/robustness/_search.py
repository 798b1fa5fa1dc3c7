"""Smallest norm at which a reconstruction moves by more than r in half of the draws: along rays, and over all."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from riskvae.robustness._coder import Coder, distance, gradient_of
from riskvae.robustness._jacobian import Local
from riskvae.robustness._noise import noise_distances


def crossing(excess: Callable[[Tensor], Tensor], start: Tensor, cap: Tensor, steps: int = 5) -> Tensor:
    """Smallest sign change found of an increasing function of a norm, for many at once; inf where none up to ``cap``.

    Doubles the norm until the excess is not negative, then narrows the bracket by the Illinois method. What is
    returned has an excess of at least zero.
    """
    low, high = torch.zeros_like(start), torch.minimum(start, cap)
    f_low = excess(low)
    f_high = excess(high)
    while bool(((f_high < 0) & (high < cap)).any()):
        outside = (f_high < 0) & (high < cap)
        low, f_low = torch.where(outside, high, low), torch.where(outside, f_high, f_low)
        high = torch.where(outside, torch.minimum(2.0 * high, cap), high)
        f_high = torch.where(outside, excess(high), f_high)
    found = f_high >= 0
    best = high.clone()
    weight_low, weight_high = f_low.clone(), f_high.clone()
    for _ in range(steps):
        middle = (low * weight_high - high * weight_low) / (weight_high - weight_low).clamp(min=1e-30)
        # Away from the ends, where rounding or a flat function would let the bracket stand still.
        middle = torch.minimum(torch.maximum(middle, low + 0.02 * (high - low)), high - 0.02 * (high - low))
        f = excess(middle)
        beyond = f >= 0
        best = torch.where(beyond & found, middle, best)
        weight_low = torch.where(beyond, 0.5 * weight_low, f)
        weight_high = torch.where(beyond, f, 0.5 * weight_high)
        high, low = torch.where(beyond, middle, high), torch.where(beyond, low, middle)
    return torch.where(found, best, math.inf)


class Rays(NamedTuple):
    """Rows, their references, and how a perturbation moves their latent distribution."""

    coder: Coder
    x: Tensor  # (n, d...)
    local: Local
    perturb: str

    def latent(self, delta: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and scale, each (n, c, k), of perturbed rows; delta (n, c, d)."""
        n, c, _ = delta.shape
        moved = self.x[:, None] + delta.view(n, c, *self.x.shape[1:])
        mean, scale = (part.view(n, c, -1) for part in self.coder.encode(moved.flatten(0, 1)))
        return mean, scale if self.perturb == "both" else self.local.scale[:, None].expand_as(scale)

    def distances(self, mean: Tensor, scale: Tensor, bank: Tensor) -> Tensor:
        """Distances (m, n, c) of the reconstructions at draws (m, k) from the reference, with a graph."""
        decoded = self.coder.decode(mean + scale * bank[:, None, None])
        return distance(decoded, self.local.reconstruction[:, None])

    def quantile(self, mean: Tensor, scale: Tensor, bank: Tensor, level: float) -> Tensor:
        """Quantile over draws of those distances, (n, c), without a graph."""
        n, c, k = mean.shape
        reference = self.local.reconstruction.repeat_interleave(c, 0)
        found = noise_distances(self.coder, mean.reshape(-1, k), scale.reshape(-1, k), reference, bank)
        rank = min(max(math.ceil(level * len(bank)), 1), len(bank))
        return found.kthvalue(rank, dim=1).values.view(n, c)


def middle_mean(distances: Tensor) -> Tensor:
    """Mean of the middle half over the first dimension: a median with a gradient that many draws share."""
    m = len(distances)
    order = distances.detach().argsort(0)
    middle = order[m // 4 : m - m // 4]
    return distances.gather(0, middle).mean(0)


def least_norm_attack(
    rays: Rays, r: Tensor, directions: Tensor, norm: Tensor, cap: Tensor, bank: Tensor, n_steps: int
) -> Tensor:
    """Directions (n, c, d) of unit length along which small perturbations break r-robustness.

    From every start, Hasofer-Lind steps: linearize the excess h of the median distance over r, and go towards
    the point nearest to the unperturbed row on the plane where it vanishes, g (g . d - h) / ||g||^2.
    """
    delta = directions * norm[:, None, None]
    best, best_norm = delta.clone(), torch.full(delta.shape[:2], math.inf, dtype=delta.dtype, device=delta.device)
    for step in range(n_steps):
        with torch.enable_grad():
            d = delta.detach().requires_grad_()
            middle = middle_mean(rays.distances(*rays.latent(d), bank))
            gradient = gradient_of(middle, d)
        with torch.no_grad():
            excess = middle - r[:, None]
            size = delta.norm(dim=-1)
            better = (excess >= 0) & (size < best_norm)
            best_norm = torch.where(better, size, best_norm)
            best = torch.where(better[..., None], delta, best)
            squared = gradient.square().sum(-1)
            along = ((gradient * delta).sum(-1) - excess) / squared.clamp(min=torch.finfo(squared.dtype).tiny)
            goal = torch.where(squared > 0, along, 0.0)[..., None] * gradient
            move = goal - delta
            rate = 1.0 if step < n_steps // 2 else 0.5
            allowed = (0.5 * size / move.norm(dim=-1).clamp(min=1e-30)).clamp(max=rate)
            delta = delta + allowed[..., None] * move
            size = delta.norm(dim=-1, keepdim=True)
            delta = delta * (cap[:, None, None] / size.clamp(min=1e-30)).clamp(max=1.0)
    best = torch.where(best_norm.isfinite()[..., None], best, delta)
    return best / best.norm(dim=-1, keepdim=True).clamp(min=1e-30)
