"""The loss of RiskAwareVAE: a risk over rows, latent draws, or both."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from riskvae.risk import CVaR, Measure, Threshold, group_means
from riskvae.training._batch import Batch
from riskvae.training._objective import WeightedELBO
from riskvae.training._vae import Terms

__all__ = ["RiskObjective"]

# Below any share of known values: a row of which nothing is known has no loss.
_LEAST_SHARE = 1e-9


class RiskObjective(WeightedELBO):
    """Risk of the losses l_ij of draw i of row j, plus the mean KL term weighted by ``beta``.

    For the best tail, the KL term is that of the rows that count. If the other rows paid for theirs, that alone would
    pull them to the prior, where they are reconstructed badly and would stay excluded forever.

    Parameters
    ----------
    beta : float
        Weight of the KL term.
    rows, draws : Measure
        Risk over rows and over latent draws.
    tail : {"worst", "best"}
        Which tail.
    over : {"batch", "subsamples", "nested", "joint", "groups"}
        What the risk is taken over. "groups" applies ``rows`` to the mean losses of the groups in a batch, and averages
        the KL term over groups, too.
    threshold : Threshold or None
        Where the tail over rows begins; None uses the batch.
    on : {"reconstruction", "elbo"}
        Whether the losses include the KL terms, or their mean is added.
    eps_warmup : int
        Number of epochs over which the tail mass of both measures decreases from 1. Evaluation always uses the final
        mass.
    beta_warmup : int
        Number of epochs over which the weight of the KL term increases from 0, as in :class:`WeightedELBO`.
    per : {"row", "value"}
        Whether the loss of a row is the sum over its known values or, if some are missing, their mean times the number
        of features.
    all_pay : bool
        Whether, for the best tail, all rows pay for their KL terms, as published; by default only those that count do.
    """

    def __init__(
        self,
        beta: float,
        rows: Measure,
        draws: Measure,
        *,
        tail: str = "worst",
        over: str = "batch",
        threshold: Threshold | None = None,
        on: str = "reconstruction",
        per: str = "row",
        eps_warmup: int = 0,
        beta_warmup: int = 0,
        all_pay: bool = False,
    ) -> None:
        super().__init__(beta, beta_warmup=beta_warmup)
        self.final: tuple[Any, Any] = (rows, draws)
        self.current: tuple[Any, Any] = self.final
        self.tail = tail
        self.over = over
        self.threshold = threshold
        self.on = on
        self.per = per
        self.eps_warmup = eps_warmup
        self.warmup: int = max(eps_warmup, beta_warmup)
        self.all_pay = all_pay
        self._known: tuple[Tensor, Tensor] | None = None  # losses of a batch, and what they count
        self.needs: tuple[str, ...] = ("group",) if over == "groups" else ()

    def begin_epoch(self, epoch: int) -> dict[str, float]:
        """Set the tail mass and the weight of the KL term for an epoch, counted from 0."""
        told = super().begin_epoch(epoch)
        if not self.eps_warmup:
            return told
        share = min(epoch / self.eps_warmup, 1.0)
        self.current = tuple(_eased(measure, share) for measure in self.final)
        rows, draws = self.current
        return {**told, "eps": draws.eps if self.over == "subsamples" else rows.eps}

    @property
    def some_pay(self) -> bool:
        """Whether rows without weight in the risk pay nothing for their KL terms."""
        return self.on == "elbo" or (self.tail == "best" and not self.all_pay)

    def weighing(self, n_draws: int) -> tuple[float, float]:
        rows, draws = (float(measure.eps or 1.0) if isinstance(measure, CVaR) else 1.0 for measure in self.current)
        share = {"subsamples": draws, "nested": rows * draws}.get(self.over, rows)
        if not self.some_pay or self.over == "subsamples":
            return share, 1.0
        return share, min(1.0, rows * n_draws) if self.over == "joint" else rows

    def continues(self, other: nn.Module) -> bool:
        """Whether the threshold of the other loss belongs to the same losses."""
        return (
            isinstance(other, RiskObjective)
            and type(self.threshold) is type(other.threshold)
            and (self.final, self.tail, self.over) == (other.final, other.tail, other.over)
            and (self.on, self.per) == (other.on, other.per)
        )

    def forward(self, terms: Terms) -> Tensor:
        if self.on == "elbo":
            return self._risk(self._losses(terms) + self.weighted(terms.kl), terms.batch)
        kl = terms.kl
        if self.some_pay:
            weights = self._weights(terms)
            self._known = (terms.nll, weights) if self.training else None
            kl = (weights.sum(0) * kl).sum()
        elif self.over == "groups":  # as in the losses, every group counts once
            kl = group_means(kl, terms.batch.group)  # type: ignore[arg-type]  # `needs` holds that it is there
        return self._risk(self._losses(terms), terms.batch) + self.weighted(kl.mean())

    def counted(self, terms: Terms) -> Tensor | None:
        """Mean ``nll`` with the weights of a seeking risk; None for an averse one, whose noise is fitted to all rows.

        Fitted to all rows, the noise of a seeking model would be that of the outliers that it should ignore.
        """
        if self.tail == "worst":
            return None
        known, self._known = self._known, None
        weights = known[1] if known is not None and known[0] is terms.nll else self._weights(terms)
        counted = (weights * self._losses(terms).detach()).sum()
        return counted if terms.known is None or self.per == "value" else counted / (weights.sum(0) * terms.known).sum()

    def _losses(self, terms: Terms) -> Tensor:
        """Reconstruction losses (n_draws, n) as they are ranked."""
        if self.per == "row" or terms.known is None:
            return terms.nll
        return terms.nll / terms.known.clamp(min=_LEAST_SHARE)

    def _weights(self, terms: Terms) -> Tensor:
        """What each draw of each row counts in the risk; they sum to 1."""
        losses = self._losses(terms).detach()
        if self.on == "elbo":
            losses = losses + self.weighted(terms.kl.detach())
        with torch.enable_grad():
            losses = losses.clone().requires_grad_()
            (weights,) = torch.autograd.grad(self._risk(losses, terms.batch, of_batch=True), losses)
        return weights

    def _risk(self, losses: Tensor, batch: Batch, *, of_batch: bool = False) -> Tensor:
        """Risk of the losses; ``of_batch`` lets the tail begin where the batch says, whatever the threshold."""
        rows, draws = self.current if self.training else self.final
        if self.over == "subsamples":
            return draws(losses, tail=self.tail, dim=0).mean()
        if self.over == "nested":
            losses = draws(losses, tail=self.tail, dim=0)
        elif self.over != "joint":
            losses = losses.mean(0)
        losses = losses.flatten()
        if self.over == "groups":
            losses = group_means(losses, batch.group)  # type: ignore[arg-type]  # `needs` holds that it is there
        # In evaluation the risk itself, not its bound at a threshold of the past; of all losses none is left out.
        if of_batch or self.threshold is None or not self.training or rows.eps == 1:
            return rows(losses, tail=self.tail)
        return rows(losses, tail=self.tail, threshold=self.threshold(losses, rows))


def _eased(measure: Any, share: float) -> Any:
    eased = copy.copy(measure)
    eased.eps = (1.0 - share) + share * measure.eps
    return eased
