"""The upper end of a margin: what linearization estimates, and what an attack finds and fresh draws confirm."""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from riskvae.robustness._noise import clopper_pearson, noise_distances, probit
from riskvae.robustness._projection import ascent, norm_of
from riskvae.robustness._search import Rays, ball_attack, crossing, least_norm_attack

# Attempts to confirm an upper end on fresh draws; each goes this much further out than the last.
ATTEMPTS, _FURTHER = 4, 1.03


class Settings(NamedTuple):
    """What is computed for every block of rows, and on which draws."""

    methods: tuple[str, ...]
    perturb: str
    confidence: float
    bank: Tensor  # n_draws: the probability
    search: Tensor  # few: what the attack optimizes
    select: Tensor  # more: which ray it takes, and where this crosses
    fresh: list[Tensor]  # n_draws each: confirmation
    starts: Tensor  # random directions, of unit length in norm 2
    n_steps: int
    norm: float = 2  # of changes

    @property
    def n_limits(self) -> int:
        """Limits that the bounds hang on: of the probability, of its slope, of its curvature, the last two twice."""
        if "proven" in self.methods:
            return 5
        return 3 if "third_order" in self.methods else 2 if "second_order" in self.methods else 1

    @property
    def bound_confidence(self) -> float:
        """Of each limit: they share the error, so that all bounds hold together."""
        return 1.0 - (1.0 - self.confidence) / self.n_limits

    @property
    def attempt_confidence(self) -> float:
        """Of each attempt to confirm an upper end, so that all together keep the stated confidence."""
        return 1.0 - (1.0 - self.confidence) / ATTEMPTS


def linearized_margin(
    rays: Rays, r: Tensor, directions: Tensor, start: Tensor, cap: Tensor, settings: Settings
) -> Tensor:
    """Smallest crossing of the median over both signs of the directions, encoder linearized."""
    both = torch.cat((directions, -directions), 1)
    scale = rays.local.scale[:, None]

    def excess(bank: Tensor, directions: Tensor) -> Any:
        jacobian = rays.local.encoder.transpose(1, 2)
        moves = directions @ jacobian

        def measure(norm: Tensor) -> Tensor:
            far = norm[..., None]
            move = far * moves if rays.box is None else rays.inside(far * directions) @ jacobian
            mean = rays.local.mean[:, None] + move
            return rays.quantile(mean, scale.expand_as(mean), bank, 0.5) - r[:, None]

        return measure

    count = both.shape[1]
    many = cap[:, None].expand(-1, count)
    coarse = crossing(
        excess(settings.search[:64], both), 3.0 * start[:, None].expand(-1, count), many, spread=0.5, steps=2
    )
    near, best = coarse.min(1, keepdim=True)
    chosen = both.gather(1, best[..., None].expand(-1, -1, both.shape[-1]))
    near = torch.where(near.isfinite(), near, cap[:, None])
    norm = crossing(excess(settings.select[:512], chosen), near, cap[:, None], spread=0.1, steps=2)[:, 0]
    return length_of(rays, norm, chosen)[0]


def attacked_margin(
    rays: Rays, r: Tensor, directions: Tensor, start: Tensor, cap: Tensor, settings: Settings
) -> tuple[Tensor, Tensor]:
    """Smallest confirmed norm of a perturbation that breaks r-robustness, and the perturbation."""
    n, d = len(r), directions.shape[-1]
    signed = torch.stack((directions, -directions), 2).flatten(1, 2)
    random = settings.starts.expand(n, -1, -1)
    if rays.box is not None:
        free = (rays.box[1] > rays.box[0]).to(signed)
        signed, random = signed * free, random * free
    some = random if rays.norm == 2 else ascent(random, rays.norm)
    starts, copies = torch.cat((signed, some), 1), len(settings.starts)
    # Where the encoder does not move to first order, there are no leading directions.
    first = starts[:, :copies]
    first = torch.where(norm_of(first, 2)[..., None] > 1e-6, first, random)
    # A little below the median, so that fresh draws can show it: by what the limit asks, and for errors of both banks.
    n_draws, n_select = len(settings.bank), len(settings.select)
    error = 0.5 * math.sqrt(1 / n_draws + 1 / n_select)
    level = 0.5 - min(float(probit(settings.attempt_confidence)) * 0.5 / math.sqrt(n_draws) + 1.5 * error, 0.45)
    how = cap, settings.search, settings.n_steps
    # In norm 1, whose nearest points have a single entry, it begins from what is nearest in norm 2.
    around = rays._replace(norm=2) if rays.norm == 1 else rays
    found, size = least_norm_attack(around, r, level, first, 2.0 * start, *how)
    if rays.norm == 1:
        length = norm_of(found, 1)
        found, size = found / length[..., None].clamp(min=1e-30), size * length

    # The ray that crosses first, by half as many draws again that the search did not see.
    few = settings.select[: 2 * len(settings.search)]
    coarse = crossing(rays.excess(found, few, level, r), size, cap[:, None].expand_as(size), spread=0.05, steps=2)
    near, best = coarse.min(1, keepdim=True)
    chosen = found.gather(1, best[..., None].expand(-1, -1, d))
    near = torch.where(near.isfinite(), near, cap[:, None])
    if rays.norm != 2:
        nearer, ball = ball_attack(rays, r, level, found, starts, 2.0 * start, *how)
        chosen, near = torch.cat((chosen, nearer), 1), torch.cat((near, ball), 1)
    most = cap[:, None].expand_as(near)
    norm, best = crossing(rays.excess(chosen, settings.select, level, r), near, most, spread=0.05, steps=3).min(1)
    chosen = chosen.gather(1, best[:, None, None].expand(-1, 1, d))
    return length_of(rays, confirm(rays, r, chosen, norm, cap, settings), chosen)


def length_of(rays: Rays, norm: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Lengths of perturbations at some norms along rays (n, 1, d), which walls may have bent; and perturbations."""
    known = norm.isfinite()
    delta = rays.inside(torch.where(known, norm, 0.0)[:, None, None] * chosen)[:, 0]
    if rays.box is None:
        return norm, delta
    return torch.where(known, norm_of(delta, rays.norm), math.inf), delta


def confirm(rays: Rays, r: Tensor, chosen: Tensor, norm: Tensor, cap: Tensor, settings: Settings) -> Tensor:
    """Norms at which fresh draws show that robustness is broken; inf where they do not."""
    upper = torch.full_like(norm, math.inf)
    for bank in settings.fresh:
        rows = (upper.isinf() & norm.isfinite() & (norm <= cap)).nonzero().flatten()
        if not len(rows):
            break
        part = rays.at(rows)
        with torch.no_grad():
            mean, scale = part.latent(part.inside(norm[rows, None, None] * chosen[rows]))
        distances = noise_distances(rays.coder, mean[:, 0], scale[:, 0], part.local.reconstruction, bank, attacked=True)
        count = (distances <= r[rows, None]).sum(1).cpu().numpy()
        _, high = clopper_pearson(count, len(bank), settings.attempt_confidence)
        broken = torch.as_tensor(high < 0.5).to(norm.device)
        upper[rows] = torch.where(broken, norm[rows], upper[rows])
        norm = torch.minimum(_FURTHER * norm, torch.where(norm < cap, cap, math.inf))
    return upper
