"""Losses of several models at once: what each draw and row of each model weighs, by the models' objectives."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from riskvae._machine import constant
from riskvae.risk import CVaR
from riskvae.risk._order import tail_mass
from riskvae.training._objective import NearELBO, Objective, WeightedELBO
from riskvae.training._risk_objective import RiskObjective

__all__ = ["StackedLoss", "kind_of", "state_of"]


def kind_of(objective: Objective) -> tuple[object, ...] | None:
    """What objectives of one stack have in common, or None where their loss is no weighted sum that is known here."""
    if type(objective) in (WeightedELBO, NearELBO):
        return (type(objective),)
    if type(objective) is not RiskObjective or objective.threshold is not None or objective.over == "groups":
        return None
    if not all(type(measure) is CVaR for measure in objective.current):
        return None
    return (RiskObjective, objective.tail, objective.over, objective.on, objective.all_pay)


def state_of(objectives: Sequence[Any]) -> tuple[object, ...]:
    """What the weights of losses are made of beside the batches, which a callback or a warm-up may change."""
    return tuple(
        (_beta(objective), *(measure.eps for measure in getattr(objective, "current", ()))) for objective in objectives
    )


def _beta(objective: Any) -> float:
    return float(objective.beta * (float(objective.share) if objective.beta_warmup else 1.0))


class StackedLoss:
    r"""Losses of the batches of several models, as weighted sums of their terms.

    For draws j of rows i with reconstruction losses :math:`l_{ij}` and KL terms :math:`k_i`, each loss is
    :math:`\sum_{ij} q_{ij} l_{ij} + \sum_i p_i k_i` with weights that are found without a graph: the gradients of the
    models' own objectives, which all belong to one :func:`kind_of` objective.

    Parameters
    ----------
    objectives : sequence of Objective
        Of the models.
    sizes : sequence of int
        Rows of each model's batch; those beyond are padding.
    device : torch.device
        Where the terms are.
    """

    def __init__(self, objectives: Sequence[Any], sizes: Sequence[int], device: torch.device) -> None:
        self.objectives, self.sizes, self.device = objectives, sizes, device
        n = max(sizes)
        self.n_rows = self._column([float(size) for size in sizes])  # (models, 1)
        self.live = torch.arange(n, device=device) < self.n_rows  # (models, n)
        self.even = (self.live / self.n_rows)[:, None]  # what a row weighs in a mean: (models, 1, n)
        self.beta = self._column(list(map(_beta, objectives)))
        self._masses: dict[tuple[str, int], Tensor] = {}

    def __call__(self, nll: Tensor, kl: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Losses (models,), what histories tell of them (models, 3), and the nats of learned noises (models,).

        Of reconstruction losses (models, n_draws, n) and KL terms (models, n).
        """
        with torch.no_grad():
            q, p = self._weights(nll, kl)
            mean_nll, mean_kl = (self.even * nll).sum((1, 2)) / nll.shape[1], (self.even[:, 0] * kl).sum(1)
            only = isinstance(self.objectives[0], NearELBO) or getattr(self.objectives[0], "tail", "worst") == "best"
            counted = (q * nll).sum((1, 2)) if only else mean_nll
        # What weighs nothing is left out: it may be infinite.
        losses = (q * torch.where(q > 0, nll, 0.0)).sum((1, 2)) + (p * torch.where(p > 0, kl, 0.0)).sum(1)
        return losses, torch.stack((losses.detach(), mean_nll, mean_kl), 1), counted

    def _weights(self, nll: Tensor, kl: Tensor) -> tuple[Tensor, Tensor]:
        first = self.objectives[0]
        if isinstance(first, RiskObjective):
            losses = nll + (self.beta * kl)[:, None] if first.on == "elbo" else nll
            q = self._tail(losses, first)
            return q, self.beta * (q.sum(1) if first.some_pay else self.even[:, 0])
        even = self.even.expand_as(nll) / nll.shape[1]
        if not isinstance(first, NearELBO):
            return even, self.beta * self.even[:, 0]
        total = (nll.mean(1) + self.beta * kl).masked_fill(~self.live, math.nan)
        low, high = torch.nanquantile(total, constant((0.25, 0.75), total), dim=1, keepdim=True)
        near = total <= high + first.REACH * (high - low).clamp(min=1.0)
        p = near / near.sum(1, keepdim=True)
        return (p[:, None] / nll.shape[1]).expand_as(nll), self.beta * p

    def _tail(self, losses: Tensor, first: RiskObjective) -> Tensor:
        """Weights (models, n_draws, n) of conditional values at risk."""
        values = losses if first.tail == "worst" else -losses
        n_draws = losses.shape[1]
        if first.over == "joint":
            values = values.masked_fill(~self.live[:, None], -math.inf)
            return tail_weights(values.flatten(1), self._mass("rows", n_draws)).view_as(losses)
        inner = torch.full_like(values, 1.0 / n_draws)
        if first.over != "batch":
            inner = tail_weights(values.transpose(1, 2), self._mass("draws", n_draws)[:, None]).transpose(1, 2)
        if first.over == "subsamples":
            return inner * self.even
        of_rows = (inner * values).sum(1).masked_fill(~self.live, -math.inf)
        return inner * tail_weights(of_rows, self._mass("rows", 1))[:, None]

    def _mass(self, what: str, n_draws: int) -> Tensor:
        """Number of losses in the tails of the models' rows or draws, (models, 1)."""
        if (what, n_draws) not in self._masses:
            masses = []
            for objective, size in zip(self.objectives, self.sizes, strict=True):
                rows, draws = objective.current
                mass = tail_mass(rows.eps, size * n_draws) if what == "rows" else tail_mass(draws.eps, n_draws)
                masses.append(max(mass, 1.0))
            # What is left of a mass for the last loss may be small: single precision would lack its digits.
            exact = torch.float32 if self.device.type == "mps" else torch.float64
            self._masses[what, n_draws] = torch.tensor(masses, dtype=exact, device=self.device)[:, None]
        return self._masses[what, n_draws]

    def _column(self, values: Sequence[float]) -> Tensor:
        return torch.tensor(values, device=self.device)[:, None]


def tail_weights(values: Tensor, mass: Tensor) -> Tensor:
    """Dual weights of the conditional value at risk along the last dimension, of tails with some masses (..., 1).

    As :func:`riskvae.risk.tail_weights`, for masses that differ. Padding is minus infinity.
    """
    n = values.shape[-1]
    last = mass.ceil().long().clamp(max=n) - 1
    boundary = values.sort(-1, descending=True).values.gather(-1, last.expand(*values.shape[:-1], 1))
    above, tied = values > boundary, values == boundary
    share = (mass - above.sum(-1, keepdim=True)) / (mass * tied.sum(-1, keepdim=True))
    return torch.where(above, 1.0 / mass, torch.where(tied, share, 0.0)).to(values.dtype)
