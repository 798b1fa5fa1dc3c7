"""Smallest norm at which a reconstruction moves by more than r in half of the draws: along rays, and over all."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from riskvae.robustness._ascent import Ascent
from riskvae.robustness._coder import Coder, distance, gradient_of
from riskvae.robustness._jacobian import Local
from riskvae.robustness._noise import noise_distances
from riskvae.robustness._projection import ascent, norm_of, project

# Balls in which sparse perturbations are looked for, each so much smaller than what crosses already.
_BALLS, _SMALLER = 5, 0.9
# Draws on which the starts of these are tried.
_FEW = 16


def crossing(
    excess: Callable[[Tensor], Tensor], guess: Tensor, cap: Tensor, *, spread: float = 0.0, steps: int = 5
) -> Tensor:
    """Smallest sign change found of an increasing function of a norm, for many at once; inf where none up to ``cap``.

    The bracket starts at ``guess`` times (1 - spread, 1 + spread), from 0 where ``spread`` is 0, is widened until
    it holds a sign change, and is narrowed by the Illinois method. What is returned has an excess of at least zero.
    """
    zero = torch.zeros_like(guess)
    high = torch.minimum(torch.maximum((1.0 + spread) * guess, 1e-6 * cap), cap)
    low = torch.minimum((1.0 - spread) * guess, high) if spread else zero
    f_low, f_high = excess(low), excess(high)
    inside = f_low >= 0  # too far out: back to 0, where robustness holds
    if bool(inside.any()):
        high, f_high = torch.where(inside, low, high), torch.where(inside, f_low, f_high)
        low, f_low = torch.where(inside, zero, low), torch.where(inside, excess(zero), f_low)
    growth = 1.0 + max(spread, 0.0) if spread else 2.0
    while bool((outside := (f_high < 0) & (high < cap)).any()):
        low, f_low = torch.where(outside, high, low), torch.where(outside, f_high, f_low)
        high = torch.where(outside, torch.minimum(growth * high, cap), high)
        f_high = torch.where(outside, excess(high), f_high)
        growth = min(2.0 * growth, 4.0)
    found, best = f_high >= 0, high
    for _ in range(steps):
        middle = (low * f_high - high * f_low) / (f_high - f_low).clamp(min=1e-30)
        # Away from the ends, where rounding or a flat function would let the bracket stand still.
        middle = torch.minimum(torch.maximum(middle, low + 0.02 * (high - low)), high - 0.02 * (high - low))
        f = excess(middle)
        beyond = f >= 0
        best = torch.where(beyond & found, middle, best)
        f_low, f_high = torch.where(beyond, 0.5 * f_low, f), torch.where(beyond, f, 0.5 * f_high)
        high, low = torch.where(beyond, middle, high), torch.where(beyond, low, middle)
    return torch.where(found, best, math.inf)


class Rays(NamedTuple):
    """Rows, their references, and how a perturbation moves their latent distribution."""

    coder: Coder
    x: Tensor  # (n, d...)
    local: Local
    perturb: str
    box: tuple[Tensor, Tensor] | None = None  # how far values may go down and up, each (n, 1, d)
    norm: float = 2  # of perturbations

    def at(self, rows: Tensor) -> "Rays":
        """Some of the rows."""
        box = None if self.box is None else (self.box[0][rows], self.box[1][rows])
        return self._replace(x=self.x[rows], local=Local(*(part[rows] for part in self.local)), box=box)

    def inside(self, delta: Tensor) -> Tensor:
        """Perturbations (n, c, d), each value as far as it may go: a ray goes on along the walls of the box."""
        return delta if self.box is None else torch.minimum(torch.maximum(delta, self.box[0]), self.box[1])

    def stuck(self, delta: Tensor, gradient: Tensor) -> Tensor | None:
        """Values that are at a wall and would go beyond it."""
        if self.box is None:
            return None
        low, high = self.box
        return ((delta <= low) & (gradient < 0)) | ((delta >= high) & (gradient > 0))

    def latent(self, delta: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and scale, each (n, c, k), of perturbed rows; delta (n, c, d)."""
        n, c, _ = delta.shape
        moved = self.x[:, None] + delta.view(n, c, *self.x.shape[1:])
        mean, scale = (part.view(n, c, -1) for part in self.coder.encode(moved.flatten(0, 1)))
        return mean, scale if self.perturb == "both" else self.local.scale[:, None].expand_as(scale)

    def distances(self, mean: Tensor, scale: Tensor, bank: Tensor) -> Tensor:
        """Distances (m, n, c) of the reconstructions at draws (m, k) from the reference, with a graph."""
        decoded = self.coder.decode(mean + scale * bank[:, None, None])
        found = distance(decoded, self.local.reconstruction[:, None])
        return torch.where(found.isfinite(), found, 0.0)

    def quantile(self, mean: Tensor, scale: Tensor, bank: Tensor, level: float) -> Tensor:
        """Quantile over draws of those distances, (n, c), without a graph."""
        n, c, k = mean.shape
        reference = self.local.reconstruction.repeat_interleave(c, 0)
        found = noise_distances(self.coder, mean.reshape(-1, k), scale.reshape(-1, k), reference, bank, attacked=True)
        rank = min(max(math.ceil(level * len(bank)), 1), len(bank))
        return found.kthvalue(rank, dim=1).values.view(n, c)

    def excess(self, directions: Tensor, bank: Tensor, level: float, r: Tensor) -> Callable[[Tensor], Tensor]:
        """By how much a quantile exceeds r, as a function of norms (n, c) along directions (n, c, d)."""

        def measure(norm: Tensor) -> Tensor:
            with torch.no_grad():
                mean, scale = self.latent(self.inside(norm[..., None] * directions))
            return self.quantile(mean, scale, bank, level) - r[:, None]

        return measure


def smooth_quantile(distances: Tensor, level: float) -> Tensor:
    """Mean of the half of the sample around a quantile, over the first dimension: many draws share its gradient."""
    m = len(distances)
    first = min(max(round((level - 0.25) * m), 0), m - 1)
    last = min(max(round((level + 0.25) * m), first + 1), m)
    around = distances.detach().argsort(0)[first:last]
    return distances.gather(0, around).mean(0)


def least_norm_attack(
    rays: Rays,
    r: Tensor,
    level: float,
    directions: Tensor,
    norm: Tensor,
    cap: Tensor,
    bank: Tensor,
    n_steps: int,
) -> tuple[Tensor, Tensor]:
    """Directions (n, c, d) of norm one along which a quantile exceeds r at a small norm, and these norms.

    From every start, Hasofer-Lind steps: linearize the excess h of the quantile of distances over r, and go
    towards the point nearest to the unperturbed row on the plane where it vanishes, (g . d - h) / (g . s) s, with s the
    steepest direction. For norms 2 and infinity; in norm 1 such points have a single entry, see :func:`ball_attack`.
    """
    delta = rays.inside(directions * norm[:, None, None])
    least = 0.05 * norm[:, None]
    best, best_norm = delta.clone(), torch.full(delta.shape[:2], math.inf, dtype=delta.dtype, device=delta.device)
    for step in range(n_steps):
        with torch.enable_grad(), rays.coder.first_order():
            d = delta.detach().requires_grad_()
            middle = smooth_quantile(rays.distances(*rays.latent(d), bank), level)
            gradient = gradient_of(middle, d).nan_to_num(0.0, 0.0, 0.0)
        with torch.no_grad():
            excess = middle - r[:, None]
            size = norm_of(delta, rays.norm)
            held = rays.stuck(delta, gradient)
            gradient = gradient if held is None else torch.where(held, 0.0, gradient)
            better = (excess >= 0) & (size < best_norm)
            best_norm = torch.where(better, size, best_norm)
            best = torch.where(better[..., None], delta, best)
            steepest = ascent(gradient, rays.norm)
            slope = (gradient * steepest).sum(-1).clamp(min=1e-30)
            # A plane behind 0 (draws that are beyond r without a perturbation) must not turn the direction round.
            along = ((gradient * delta).sum(-1) - excess) / slope
            # Where the model is flat there is no plane: that must not end in inf * 0.
            goal = torch.minimum(along.clamp(min=least), 1e3 * cap[:, None])[..., None] * steepest
            goal = goal if held is None else torch.where(held, delta, goal)
            move = goal - delta
            rate = 1.0 if step < n_steps // 2 else 0.5
            allowed = (0.5 * size / norm_of(move, rays.norm).clamp(min=1e-30)).clamp(max=rate)
            delta = delta + allowed[..., None] * move
            size = norm_of(delta, rays.norm)[..., None]
            delta = rays.inside(delta * (cap[:, None, None] / size.clamp(min=1e-30)).clamp(max=1.0))
    best = torch.where(best_norm.isfinite()[..., None], best, delta)
    size = norm_of(best, rays.norm)
    return best / size[..., None].clamp(min=1e-30), size


def ball_attack(
    rays: Rays,
    r: Tensor,
    level: float,
    known: Tensor,
    starts: Tensor,
    norm: Tensor,
    cap: Tensor,
    bank: Tensor,
    n_steps: int,
) -> tuple[Tensor, Tensor]:
    """The same for norms whose nearest points are corners, one direction (n, 1, d) for each row, from known ones.

    Projected ascent of the quantile inside a ball, then along the ray of what was found to where it crosses. The next
    ball is a little smaller than what crosses, or twice as large where nothing does.
    """
    few, free = bank[:_FEW], None if rays.box is None else (rays.box[1] > rays.box[0]).to(starts)
    low, high = rays.box or (None, None)
    most = cap[:, None]

    def value(delta: Tensor, draws: Tensor = bank) -> Tensor:
        return smooth_quantile(rays.distances(*rays.latent(delta), draws), level)

    def crossed(directions: Tensor, guess: Tensor, spread: float) -> Tensor:
        excess = rays.excess(directions, bank, level, r)
        return crossing(excess, torch.minimum(guess, most), most.expand_as(guess), spread=spread, steps=2)

    size, best = crossed(known, norm[:, None].expand(known.shape[:2]), 0.5).min(1, keepdim=True)
    direction = known.gather(1, best[..., None].expand(-1, 1, known.shape[-1]))
    ball = 2.0 * norm[:, None]
    for _ in range(_BALLS):
        ball = torch.minimum(torch.where(size.isfinite(), _SMALLER * size, 2.0 * ball), most)

        def inside(delta: Tensor, ball: Tensor = ball) -> Tensor:
            return project(delta, ball.expand(delta.shape[:2]), rays.norm, low, high)

        search = Ascent(value, lambda delta: value(delta, few), inside, rays.norm, free, rays.coder.first_order)
        here, pool = (inside(ball[..., None] * some) for some in (direction, starts))
        found = search.best([pool], here[:, 0], ball, n_steps, known.shape[1])[:, None]
        length = norm_of(found, rays.norm).clamp(min=1e-30)
        found = found / length[..., None]
        near = crossed(found, length, 0.1)
        better = (near < size) | size.isinf()
        direction, size = torch.where(better[..., None], found, direction), torch.where(better, near, size)
    return direction, torch.minimum(size, most)
