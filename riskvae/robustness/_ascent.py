"""Projected ascent of many rows at once, each from several starts: momentum, and steps that halve where they fail."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import NamedTuple

import torch
from torch import Tensor

from riskvae.robustness._coder import gradient_of
from riskvae.robustness._projection import ascent

__all__ = ["SHARES", "Ascent"]

# Steps without a better point after which a step size halves.
_PATIENCE = 3
# Starts per restart that are tried on few draws, and the share of steps that each has there.
_EXPLORE, _EARLY = 8, 1 / 6
# Times that a start is halved where the model overflows.
_NEARER = 20
# Shares of the entries that a step in norm 1 moves, in turn: the best perturbations have few entries, and which ones
# is found by steps of few and of many.
SHARES = (0.0015, 0.01, 0.05, 0.2)


class _Climb(NamedTuple):
    """Where the ascents of n rows from c starts each have got to."""

    delta: Tensor  # (n, c, d)
    before: Tensor  # (n, c, d)
    step: Tensor  # (n, c)
    misses: Tensor  # (n, c): steps since the last better point
    best: Tensor  # (n, c, d)
    best_value: Tensor  # (n, c)

    def only(self, index: Tensor) -> "_Climb":
        """Some of the starts, by index (n, m)."""
        return _Climb(*(_take(part, index) for part in self))


def _take(values: Tensor, index: Tensor) -> Tensor:
    if values.dim() == 3:
        index = index[..., None].expand(-1, -1, values.shape[-1])
    return values.gather(1, index)


def _one_by_one(value: Callable[[Tensor], Tensor], pool: Tensor) -> Tensor:
    return torch.cat([value(pool[:, i : i + 1]) for i in range(pool.shape[1])], 1)


class Ascent:
    """Ascent of an objective inside a ball and a box.

    Parameters
    ----------
    value, sketch : callable
        Objective (n, c) of perturbations (n, c, d), and a cheap likeness of it on which starts are tried.
    inside : callable
        Projection of perturbations (n, c, d).
    norm : {1, 2, inf}
        Of the ball: it decides which way is steepest.
    free : Tensor of shape (n, 1, d) or None
        1 for the values that may change; None for all.
    first_order : callable
        Context in which gradients are taken.

    Attributes
    ----------
    overflows : bool
        Whether the objective was not finite somewhere.
    still : Tensor of shape (n,) or None
        Rows without a gradient at any start.
    """

    def __init__(
        self,
        value: Callable[[Tensor], Tensor],
        sketch: Callable[[Tensor], Tensor],
        inside: Callable[[Tensor], Tensor],
        norm: float,
        free: Tensor | None,
        first_order: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self.value = value
        self.sketch = sketch
        self.inside = inside
        self.norm = norm
        self.free = free
        self.first_order = first_order
        self.overflows = False
        self.still: Tensor | None = None

    @torch.no_grad()
    def best(self, pools: list[Tensor], known: Tensor, radius: Tensor, n_steps: int, copies: int) -> Tensor:
        """Best perturbations (n, d) met from the best of a pool of starts.

        Parameters
        ----------
        pools : list of Tensor of shape (n, p, d)
            Starts to choose from, as many of each.
        known : Tensor of shape (n, d)
            The point to beat.
        radius : Tensor of shape (n, 1)
            Of the ball: first steps are twice as long.
        n_steps, copies : int
            Gradient steps and ascents of each row. Eight times as many start, on the sketch and for a sixth of the
            steps each, and the best go on for the rest.
        """
        each = -(-_EXPLORE * copies // len(pools))
        some = []
        for pool in pools:
            pool, values = self._tried(pool)
            some.append(_take(pool, values.topk(min(each, pool.shape[1]), dim=1).indices))
        delta = torch.cat(some, 1)
        step = 2.0 * radius.expand(delta.shape[:2])
        best, nothing = known[:, None].expand_as(delta), torch.zeros_like(step)
        state = _Climb(delta, delta, step, nothing, best, self.sketch(known[:, None]).expand_as(step))
        early = round(_EARLY * n_steps) if delta.shape[1] > copies else 0
        state = self._steps(state, early, self.sketch)
        state = state.only(state.best_value.topk(min(copies, delta.shape[1]), dim=1).indices)
        # What the sketch took for better may be worse.
        value, still = self._known(_one_by_one(self.value, state.best)), self.value(known[:, None])
        better = value > still
        best = torch.where(better[..., None], state.best, known[:, None])
        state = state._replace(best=best, best_value=torch.where(better, value, still))
        # The last step too is looked at.
        state = self._steps(state, n_steps - 2 * early + 1, self.value)
        return state.best[torch.arange(len(known), device=known.device), state.best_value.argmax(1)]

    def _tried(self, pool: Tensor) -> tuple[Tensor, Tensor]:
        """Starts and their values; where the model overflows, nearer ones."""
        for _ in range(_NEARER):
            values = _one_by_one(self.sketch, pool)
            known = values.isfinite()
            if known.all():
                break
            self.overflows = True
            pool = torch.where(known[..., None], pool, 0.5 * pool)
        return pool, self._known(values)

    def _steps(self, state: _Climb, n_steps: int, value: Callable[[Tensor], Tensor]) -> _Climb:
        delta, before, step, misses, best, best_value = state
        for i in range(n_steps):
            with torch.enable_grad(), self.first_order():
                here = delta.detach().requires_grad_()
                found = value(here)
                gradient = gradient_of(found, here)
            found, gradient = self._known(found.detach()), gradient.nan_to_num(0.0, 0.0, 0.0)
            gradient = gradient if self.free is None else gradient * self.free
            if self.still is None:
                self.still = (gradient == 0).all(-1).all(-1)
            better = found > best_value
            best_value = torch.where(better, found, best_value)
            best = torch.where(better[..., None], delta, best)
            misses = torch.where(better, 0.0, misses + 1.0)
            stuck = misses >= _PATIENCE
            step = torch.where(stuck, 0.5 * step, step)
            misses = torch.where(stuck, 0.0, misses)
            goal = self.inside(delta + step[..., None] * ascent(gradient, self.norm, SHARES[i % 4]))
            ahead = self.inside(delta + 0.75 * (goal - delta) + 0.25 * (delta - before))
            # Where it is stuck, from the best point on; its momentum is of elsewhere.
            before = torch.where(stuck[..., None], best, delta)
            delta = torch.where(stuck[..., None], best, ahead)
        return _Climb(delta, before, step, misses, best, best_value)

    def _known(self, values: Tensor) -> Tensor:
        """Values of candidates; one that the model overflows at is not better than any."""
        known = values.isfinite()
        if not known.all():
            self.overflows = True
        return torch.where(known, values, -torch.inf)
