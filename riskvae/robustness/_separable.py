"""The least norm at which a sum of functions of single features can rise or fall by some amount, bounded by duality."""

import math
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

__all__ = ["Moves", "least_norm"]

# Parts into which the way beyond the outermost level is cut, and halvings of the multiplier's bracket.
_CELLS, _BISECTIONS = 48, 60
# Values are rounded to single precision before their shares are counted, so that a step may be met a little before.
_ROUNDING = 1.5 * 2.0**-23
_LEAST = 2.0**-149
# Of a bound of norms, for rounding in double precision.
_ROUNDED = 1.0 - 1e-9


class Moves(NamedTuple):
    """What single features of n rows can do, each by one of m moves.

    Parameters
    ----------
    cost : Tensor of shape (n, d, m)
        Least size of each move.
    gain : Tensor of shape (n, d, m)
        Most that it adds to the sum; 0 for moves that are not allowed.
    goal : Tensor of shape (n, d, m)
        Where it leads, about.
    """

    cost: Tensor
    gain: Tensor
    goal: Tensor

    @classmethod
    def up(cls, line: Any, x: Tensor, box: tuple[Tensor, Tensor]) -> Self:
        """Moves of rows (n, d) to levels, or towards them from beyond; ``box`` has the ends that values may reach.

        A feature's share rises towards its middle, in steps at levels and smoothly from beyond the outermost.
        """
        levels, spread = line.levels.double(), line.spread.double()
        x = x.double()
        at_levels = line.shares(line.levels.T).T
        now = line.shares(x)
        ends = levels[:, [0, -1]]
        outermost = torch.where(x < ends[:, 0], ends[:, 0], torch.where(x > ends[:, 1], ends[:, 1], x))
        parts = torch.linspace(0.0, 1.0, _CELLS + 1, dtype=x.dtype, device=x.device)
        edges = x[..., None] + parts * (outermost - x)[..., None]
        out = (outermost - x).abs()[..., None] / spread[:, None]
        inward = line.steepness * (out.log1p() - (out * (1.0 - parts[1:])).log1p())
        goal = torch.cat((levels.expand(len(x), *levels.shape), edges[..., 1:]), -1)
        start = torch.cat((levels.expand(len(x), *levels.shape), edges[..., :-1]), -1)
        gain = torch.cat((at_levels - now[..., None], inward), -1)
        return cls._within(x, start, gain, goal, box)

    @classmethod
    def down(cls, line: Any, x: Tensor, box: tuple[Tensor, Tensor], most: Tensor) -> Self:
        """Moves past levels, away from the middle, and beyond the outermost by up to ``most`` (n,): what they take."""
        levels, spread = line.levels.double(), line.spread.double()
        x = x.double()
        at, now = x.float().double(), line.shares(x)  # ties with levels are those of rounded values
        beyond = torch.cat((torch.zeros(1), torch.logspace(-6, 0, _CELLS))).to(x) * most[:, None, None]
        # Past the outermost level the share is that of none.
        sides = []
        for sign, passed in ((-1.0, levels), (1.0, levels.flip(1))):
            between = 0.5 * (passed[:, 1:] + passed[:, :-1])
            after = line.shares(between.T.to(line.levels)).T if between.shape[1] else between
            edge = passed[:, :1]
            step = sign * torch.maximum(spread, edge[:, 0].abs()) * 1e-3
            last = line.shares((edge[:, 0] + step)[None].to(line.levels)).T
            share = last + line.steepness * (step.abs() / spread).log1p()[:, None]
            on_the_way = ((passed - at[..., None]) * sign >= 0) if passed.shape[1] else passed
            loss = torch.where(on_the_way, now[..., None] - torch.cat((share, after), 1), 0.0)
            first = torch.where((edge - x[..., None]) * sign > 0, edge.expand(*x.shape, 1), x[..., None])
            cells = first + sign * beyond
            far = ((cells[..., 1:] - edge) * sign).clamp(min=0.0) / spread[:, None]
            outward = now[..., None] - share + line.steepness * far.log1p()
            start = torch.cat((passed.expand(*x.shape, -1), cells[..., :-1]), -1)
            goal = torch.cat((passed.expand(*x.shape, -1) + step[:, None] * 1e-3, cells[..., 1:]), -1)
            sides.append(cls._within(x, start, torch.cat((loss, outward), -1), goal, box))
        return cls(*(torch.cat(pair, -1) for pair in zip(*sides, strict=True)))

    @classmethod
    def _within(cls, x: Tensor, start: Tensor, gain: Tensor, goal: Tensor, box: tuple[Tensor, Tensor]) -> Self:
        low, high = (end.double()[..., None] for end in box)
        slack = _ROUNDING * start.abs() + _LEAST
        allowed = (start + slack >= low) & (start - slack <= high) & (low < high)
        cost = ((start - x[..., None]).abs() - slack - _ROUNDING * x.abs()[..., None] - _LEAST).clamp(min=0.0)
        goal = torch.minimum(torch.maximum(goal, low), high)
        return cls(cost, torch.where(allowed, gain, 0.0).clamp(min=0.0), goal)


def least_norm(moves: Moves, need: Tensor, norm: float) -> tuple[Tensor, Tensor, Tensor]:
    r"""Bound of the norm at which gains add up to ``need`` (n,), and which moves nearly do it.

    In norm p the bound is that of Lagrange: for every :math:`\mu \ge 0`

    .. math:: \lVert \delta \rVert^p \ge \mu \, \text{need} - \sum_j \max_m (\mu g_{jm} - c_{jm}^p)

    for all :math:`\delta` whose gains are enough. In norm infinity features do not compete, and it is exact.

    Returns
    -------
    bound : Tensor of shape (n,)
        0 where nothing is needed, infinite where all gains together are not enough.
    goal : Tensor of shape (n, d)
        Where moves lead that are enough, where they can be.
    moved : Tensor of bool of shape (n, d)
        Which features move.
    """
    power = 1.0 if math.isinf(norm) else float(norm)
    cost, need = moves.cost**power, need.double()
    enough = moves.gain.amax(-1).sum(-1) >= need

    def chosen(mu: Tensor) -> tuple[Tensor, Tensor]:
        """The gains taken at a multiplier, and which moves these are; in norm infinity mu is the radius."""
        if math.isinf(norm):
            worth = torch.where(cost <= mu[:, None, None], moves.gain, -1.0)
            best, which = worth.max(-1)
            return best.clamp(min=0.0).sum(-1), which
        worth, which = (mu[:, None, None] * moves.gain - cost).max(-1)
        taken = torch.where(worth > 0, moves.gain.gather(-1, which[..., None])[..., 0], 0.0)
        return taken.sum(-1), torch.where(worth > 0, which, -1)

    low = torch.full_like(need, -40.0)
    high = torch.full_like(need, 40.0)
    for _ in range(_BISECTIONS):
        middle = 0.5 * (low + high)
        reached = chosen(middle.exp())[0] >= need
        low, high = torch.where(reached, low, middle), torch.where(reached, middle, high)
    if math.isinf(norm):
        bound = torch.where(low > -40.0, low.exp(), 0.0)  # at this radius all gains together are too small
    else:
        dual = [mu * need - (mu[:, None, None] * moves.gain - cost).amax(-1).clamp(min=0.0).sum(-1)
                for mu in (low.exp(), high.exp())]  # fmt: skip
        bound = torch.maximum(*dual).clamp(min=0.0) ** (1.0 / power)
    _, which = chosen(high.exp())
    moved = which >= 0
    goal = moves.goal.gather(-1, which.clamp(min=0)[..., None])[..., 0]
    if math.isinf(norm):
        moved &= moves.gain.gather(-1, which[..., None])[..., 0] > 0
    bound = torch.where(enough, _ROUNDED * bound, math.inf)
    return torch.where(need > 0, bound, 0.0), goal, moved
