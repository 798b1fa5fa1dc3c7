"""The smallest change that takes a row across a detector's line: rays, steps on shrinking balls, and small trials."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from riskvae.robustness._coder import gradient_of
from riskvae.robustness._detector import Detector
from riskvae.robustness._gain import dual
from riskvae.robustness._projection import ascent, norm_of, project

__all__ = ["Flips", "Found"]

# Rays are looked at after so many halvings of their length, and fewer by each stride; then crossings are bisected.
_HALVINGS, _STRIDE, _BISECTIONS = 28, 2, 10
# To end with, changes are shortened by bisections from half of their length on.
_SHORTENED = 22
# Shares of the features that a step in norm 1 moves, and half widths of difference quotients, in turn.
_SHARES, _WINDOWS = (0.001, 0.05, 0.2, 0.5), (0.05, 0.2, 0.6)
# First and last change of a ball's radius, and step in it, as shares of the radius.
_RADII, _STEPS = (0.1, 0.002), (0.6, 0.01)
# Small trials at once; their first size and its changes.
_TRIALS, _SIZE, _LARGER, _SMALLER = 16, 0.2, 1.5, 0.85
# Steps of the estimate.
_NEWTON = 6


class Found(NamedTuple):
    """Smallest changes (n, d) that flipped a row, and their norms (n,), infinite where none did."""

    delta: Tensor
    size: Tensor

    def better(self, delta: Tensor, size: Tensor) -> "Found":
        """With the best of some candidates (n, c, d) and their norms (n, c), infinite for those that do not flip."""
        least, which = size.min(1)
        taken = least < self.size
        best = delta[torch.arange(len(delta), device=delta.device), which]
        return Found(torch.where(taken[:, None], best, self.delta), torch.where(taken, least, self.size))


class Flips:
    """Searches for a block of rows.

    Parameters
    ----------
    detector : Detector
        Whose verdicts are asked for.
    x : Tensor of shape (n, d)
        The block.
    side : Tensor of shape (n,)
        1 for outliers, which every verdict must be above the line to mask; -1 for inliers.
    slack : Tensor of shape (n,)
        How far beyond the line counts.
    cap : Tensor of shape (n,)
        Largest norm.
    norm : {1, 2, inf}
        Of changes.
    box : (Tensor, Tensor) or None
        Least and largest changes, (n, 1, d) each.
    """

    def __init__(
        self, detector: Detector, x: Tensor, side: Tensor, slack: Tensor, cap: Tensor, norm: float,
        box: tuple[Tensor, Tensor] | None,
    ) -> None:  # fmt: skip
        self.detector, self.x, self.side, self.slack, self.cap = detector, x, side[:, None], slack[:, None], cap
        self.norm, self.box = norm, box
        self.dual = dual(norm)
        self.free = None if box is None else torch.lt(*box).to(x)

    def clip(self, delta: Tensor) -> Tensor:
        """Changes (n, c, d), into the box."""
        return delta if self.box is None else torch.minimum(torch.maximum(delta, self.box[0]), self.box[1])

    def verdicts(self, delta: Tensor, window: float | None = None) -> Tensor:
        """Verdicts (n_verdicts, n, c) of changed rows; below all bounds where no number comes out."""
        moved = (self.x[:, None] + delta).flatten(0, 1)
        options = {"window": window} if window is not None and self.detector.separable else {}
        found = self.detector.verdicts(moved, **options)
        return found.unflatten(1, delta.shape[:2])

    def beyond(self, verdicts: Tensor) -> Tensor:
        """How far the least verdict is on the other side, (n, c); minus infinity where it is no number."""
        found = self.side * verdicts.amin(0) - self.slack
        return torch.where(found.isnan(), -math.inf, found)

    @torch.no_grad()
    def size(self, delta: Tensor) -> Tensor:
        """Norms (n, c) of changes that flip; infinite for others."""
        size = norm_of(delta, self.norm)
        flips = (self.beyond(self.verdicts(delta)) >= 0) & (size <= self.cap[:, None])
        return torch.where(flips, size, math.inf)

    @torch.no_grad()
    def first(self, delta: Tensor, halvings: int, stride: int) -> Tensor:
        """By which power of 2 each change (n, c, d) is to be shortened to flip first; infinite for never."""
        factor = torch.full(delta.shape[:2], math.inf).to(delta)
        for power in range(halvings, -1, -stride):
            flips = self.size(self.clip(2.0**-power * delta)).isfinite()
            factor = torch.where(flips, factor.clamp(max=2.0**-power), factor)
            if factor.isfinite().all():
                break
        return factor

    @torch.no_grad()
    def along(self, delta: Tensor, factor: Tensor, stride: int, bisections: int) -> tuple[Tensor, Tensor]:
        """Crossings on the way to some changes (n, c, d), before these factors (n, c); and norms, infinite for none."""
        known = factor.isfinite()
        high = torch.where(known, factor, 1.0)
        low = 2.0**-stride * high
        low = torch.where(self.size(self.clip(low[..., None] * delta)).isfinite(), 0.0, low)
        for _ in range(bisections):
            middle = 0.5 * (low + high)
            flips = self.size(self.clip(middle[..., None] * delta)).isfinite()
            low, high = torch.where(flips, low, middle), torch.where(flips, middle, high)
        changed = self.clip(high[..., None] * delta)
        return changed, torch.where(known, norm_of(changed, self.norm), math.inf)

    def crossings(self, delta: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Crossings (n, count, d) of the rays that flip first, and norms; of those that do not flip, the rays' ends."""
        factor = self.first(delta, _HALVINGS, _STRIDE)
        with torch.no_grad():
            short = -self.beyond(self.verdicts(delta)).clamp(-1e30, 0.0)
        length = factor * norm_of(delta, self.norm) / self.cap[:, None]
        order = torch.where(factor.isfinite(), length, 1e3 + short)
        which = order.topk(min(count, order.shape[1]), dim=1, largest=False).indices
        chosen = delta.gather(1, which[..., None].expand(-1, -1, delta.shape[-1]))
        return self.along(chosen, factor.gather(1, which), _STRIDE, _BISECTIONS)

    def gradients(self) -> Tensor:
        """Steepest directions (n, m, d) at the rows, of length ``cap``: of each verdict, by every window."""
        zero = torch.zeros_like(self.x)[:, None]
        some = []
        for window in _WINDOWS:
            with torch.enable_grad():
                here = zero.clone().requires_grad_()
                found = self.verdicts(here, window)
                some += [gradient_of(part, here, keep=i < len(found) - 1) for i, part in enumerate(found)]
            if not self.detector.separable:
                break
        steep = torch.cat(some, 1).nan_to_num(0.0, 0.0, 0.0) * self.side[..., None]
        return self.steepest(steep)

    def straight(self, directions: Tensor) -> Tensor:
        """Directions (n, m, d) as changes of length ``cap``."""
        directions = directions if self.free is None else directions * self.free
        return self.cap[:, None, None] * directions / norm_of(directions, self.norm).clamp(min=1e-30)[..., None]

    def steepest(self, directions: Tensor) -> Tensor:
        """Gradients (n, m, d) as changes of length ``cap``, each in the ways that suit the norm."""
        directions = directions if self.free is None else directions * self.free
        ways = [ascent(directions, self.norm, share) for share in (_SHARES if self.norm == 1 else (1.0,))]
        straight = [self.straight(directions)] if self.norm != 2 else []
        return torch.cat((self.cap[:, None, None] * torch.cat(ways, 1), *straight), 1)

    def estimate(self) -> Tensor:
        """Norms (n,) at which Newton's steps, each of the verdict that is least, meet the line; NaN where flat."""
        delta = torch.zeros_like(self.x)[:, None]
        for i in range(_NEWTON):
            with torch.enable_grad():
                here = delta.clone().requires_grad_()
                found = self.beyond(self.verdicts(here, _WINDOWS[-1 - i % 2]))
                slope = gradient_of(found, here).nan_to_num(0.0, 0.0, 0.0)
            slope = slope if self.free is None else slope * self.free
            steep = norm_of(slope, self.dual)
            far = -found.detach() / steep.clamp(min=torch.finfo(slope.dtype).tiny)
            step = torch.where(steep > 0, far, 0.0)[..., None] * ascent(slope, self.norm, share=1e-9)
            delta = self.clip(delta + step)
        size = norm_of(delta[:, 0], self.norm)
        return torch.where((size > 0) & (size <= self.cap), size, math.nan)

    def descend(self, start: Tensor, found: Found, n_steps: int) -> Found:
        """Steps from several starts (n, c, d) on balls that shrink where a row is flipped, and grow where it is not.

        The first half of the starts climbs the least verdict, the others each verdict by itself, or, to mask, all that
        are below the line together.
        """
        delta = start
        radius = norm_of(delta, self.norm)
        best = torch.full_like(radius, math.inf)
        for i in range(n_steps):
            cosine = 0.5 + 0.5 * math.cos(math.pi * i / n_steps)
            change, stride = (last + (first - last) * cosine for first, last in (_RADII, _STEPS))
            with torch.enable_grad():
                here = delta.detach().requires_grad_()
                verdicts = self.verdicts(here, _WINDOWS[i % 3])
                slope = gradient_of(self._aims(verdicts), here).nan_to_num(0.0, 0.0, 0.0)
            slope = slope if self.free is None else slope * self.free
            size, value = norm_of(delta, self.norm), self.beyond(verdicts.detach())
            flips = (value >= 0) & (size <= self.cap[:, None])
            reached = torch.where(flips, size, math.inf)
            found, best = found.better(delta, reached), torch.minimum(best, reached)
            linear = size - value / norm_of(slope, self.dual).clamp(min=1e-30)
            grown = torch.where(best.isfinite(), torch.minimum((1.0 + change) * radius, best), linear)
            radius = torch.where(flips, (1.0 - change) * torch.minimum(radius, size), grown)
            radius = torch.minimum(radius.nan_to_num(0.0).clamp(min=1e-30), self.cap[:, None])
            step = (stride * radius)[..., None] * ascent(slope, self.norm, _SHARES[i % 4])
            low, high = (None, None) if self.box is None else self.box
            delta = project(delta + step, radius, self.norm, low, high)
        return found.better(delta, self.size(delta))

    def _aims(self, verdicts: Tensor) -> Tensor:
        """What each of the starts climbs, (n, c)."""
        least = (self.side * verdicts.amin(0)).clone()
        half = (least.shape[1] + 1) // 2
        for place in range(half, least.shape[1]):
            one = -verdicts[(place - half) % len(verdicts), :, place]
            below = verdicts[:, :, place].clamp(max=0.0)
            below = torch.where(below.isfinite(), below, 0.0).sum(0)
            together = torch.where(below < 0, below, least[:, place])
            least[:, place] = torch.where(self.side[:, 0] > 0, together, one)
        return least.nan_to_num(0.0, 0.0, 0.0)

    @torch.no_grad()
    def refine(self, found: Found, n_steps: int, generator: torch.Generator) -> Found:
        """Small trials around the best change, which need no gradient: features back, all back, and some at random."""
        n, d = self.x.shape
        known = found.size.isfinite()
        if not known.any():
            return found
        share = torch.full((n, 1, 1), _SIZE).to(self.x)
        for i in range(n_steps):
            shape = (_TRIALS, d)
            noise, which, back = (torch.rand(shape, generator=generator).to(self.x) for _ in range(3))
            few = which < (1.5 / d if i % 2 else 0.3)
            base = found.delta[:, None]
            scale = found.size[:, None, None].nan_to_num(0.0, posinf=0.0) * (1.0 if self.norm == 2 else 0.5)
            moved = base + share * few * torch.where(back < 0.5, scale * (2.0 * noise - 1.0) * d**-0.5, -base * noise)
            moved = torch.where((back > 0.93) & few, torch.zeros_like(base), moved)
            moved = moved if self.free is None else moved * self.free
            least = (found.size[:, None] * (1.0 - 0.03 * share[..., 0])).nan_to_num(0.0, posinf=0.0)
            longer = (least / norm_of(moved, self.norm).clamp(min=1e-30)).clamp(max=1.0)
            trial = self.clip(moved * longer[..., None])
            better = found.better(trial, self.size(trial))
            share = torch.where((better.size < found.size)[:, None, None], share * _LARGER, share * _SMALLER)
            share = share.clamp(2e-3, 1.0)
            share = torch.where(share <= 2e-3, _SIZE, share)
            found = better
        return self.shorten(found)

    @torch.no_grad()
    def shorten(self, found: Found) -> Found:
        """Back along the way to the row, as far as it stays flipped."""
        whole = torch.where(found.size.isfinite(), 1.0, math.inf)[:, None]  # where nothing flipped there is no way back
        return found.better(*self.along(found.delta[:, None], whole, 1, _SHORTENED))
