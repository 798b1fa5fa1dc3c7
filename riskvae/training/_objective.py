"""What is minimized: a number from the terms of a batch."""

from typing import Any

import torch
from torch import Tensor, nn

from riskvae._machine import constant
from riskvae.losses import total_correlation
from riskvae.training._vae import Terms

__all__ = ["NearELBO", "Objective", "TotalCorrelationELBO", "WeightedELBO", "told_of"]


class Objective(nn.Module):
    """Base class of objectives: a module that maps the :class:`Terms` of a batch to a number to minimize.

    For an objective of your own, override :meth:`forward` (a differentiable scalar in nats per row), and return it from
    ``make_objective`` of an estimator. It receives losses row by row, before any averaging; ``terms.batch`` contains
    the rows and their data.

    Attributes
    ----------
    warmup : int
        Number of epochs before the loss has its final form; early stopping starts after them.
    needs : tuple of str
        Fields of :class:`Batch` that are required.

    Examples
    --------
    Free bits: only the part of each latent coordinate's KL term that exceeds a floor is penalized.

    >>> import torch
    >>> from riskvae import BetaVAE, datasets
    >>> from riskvae.training import Objective
    >>> class FreeBits(Objective):
    ...     def __init__(self, beta, free):
    ...         super().__init__()
    ...         self.beta, self.free = beta, free
    ...
    ...     def forward(self, terms):
    ...         mean, scale = terms.posterior
    ...         kl = 0.5 * (mean.square() + scale.square() - 1) - scale.log()
    ...         return terms.nll.mean() + self.beta * kl.mean(0).clamp(min=self.free).sum()
    >>> class FreeBitsVAE(BetaVAE):
    ...     def __init__(self, n_components=10, *, free_bits=0.1, **parameters):
    ...         super().__init__(n_components, **parameters)
    ...         self.free_bits = free_bits
    ...
    ...     def make_objective(self):
    ...         return FreeBits(self.beta, self.free_bits)
    >>> X = datasets.make_heteroscedastic(200, random_state=0).data
    >>> vae = FreeBitsVAE(n_components=2, free_bits=0.5, max_epochs=30, random_state=0).fit(X)
    >>> vae.get_params()["free_bits"], vae.n_iter_
    (0.5, 30)
    """

    warmup: int = 0
    needs: tuple[str, ...] = ()
    # Of our own objectives, the terms that they look at: of others all are sent from process to process.
    reads: tuple[str, ...] = ("nll", "kl", "z", "mean", "scale")

    @property
    def written(self) -> Any:
        """What decides whose the objective is, this package's or a user's: itself, or a term that was added to it."""
        return self

    def forward(self, terms: Terms) -> Tensor:
        """Loss of a batch."""
        raise NotImplementedError(f"{type(self).__name__} has no forward(terms); define it")

    def counted(self, terms: Terms) -> Tensor | None:
        """Mean ``nll`` of the rows to which a learned noise scale is fitted, without a graph; None means all rows."""
        return None

    def weighing(self, n_draws: int) -> tuple[float, float]:
        """Shares of draws' losses and of rows' KL terms that are expected to have weight in the loss.

        If they are few, their graph is built after it is known which they are.
        """
        return 1.0, 1.0

    def begin_epoch(self, epoch: int) -> dict[str, float]:
        """Called at the start of each epoch, counted from 0; returns values that change, for the history."""
        return {}

    def continues(self, other: nn.Module) -> bool:
        """Whether the state of another loss, from an earlier training, can be reused."""
        return False


def told_of(objective: Objective, terms: Terms, loss: Tensor) -> tuple[Tensor, Tensor]:
    """History of a batch (loss, nats and KL per row), and the nats that a learned noise is fitted to."""
    counted = objective.counted(terms) if objective.training else None
    nll = terms.nll.detach().mean()
    if counted is None:  # of whole rows: where values are missing, as if the others told of these
        counted = nll if terms.known is None else nll / terms.known.mean()
    return torch.stack((loss.detach(), nll, terms.kl.detach().mean())), counted


class WeightedELBO(Objective):
    r"""Mean negative evidence lower bound with the KL term weighted by ``beta``.

    .. math:: \frac1N \sum_i -\log p(x_i|z_i) + \beta \, \mathrm{KL}(q(z|x_i) \,\|\, N(0, I))

    Parameters
    ----------
    beta : float
        Weight of the KL term.
    beta_warmup : int, default=0
        Number of epochs over which the weight increases from 0 in equal steps. Evaluation always uses ``beta``.
    """

    share: Tensor
    reads: tuple[str, ...] = ("nll", "kl")

    def __init__(self, beta: float, *, beta_warmup: int = 0) -> None:
        super().__init__()
        self.beta = beta
        self.beta_warmup = beta_warmup
        self.warmup = beta_warmup
        self._counts: Tensor | None = None  # what the rows of a batch count
        # A tensor, so that a compiled step does not hang on its value.
        self.register_buffer("share", torch.tensor(1.0), persistent=False)

    def begin_epoch(self, epoch: int) -> dict[str, float]:
        if not self.beta_warmup:
            return {}
        share = min(epoch / self.beta_warmup, 1.0)
        self.share.fill_(share)
        return {"beta": share * self.beta}

    def weighted(self, kl: Tensor) -> Tensor:
        """KL term with its current weight."""
        return self.beta * self.eased(kl)

    def eased(self, penalty: Tensor) -> Tensor:
        """Scale a penalty by a factor that increases from 0 to 1 over the warm-up."""
        return self.share * penalty if self.beta_warmup and self.training else penalty

    def forward(self, terms: Terms) -> Tensor:
        return terms.nll.mean() + self.weighted(terms.kl.mean())


class NearELBO(WeightedELBO):
    r"""The same of the rows of a batch that do not lie far off, in the loss and in a learned noise.

    A row is far off where its bound exceeds the upper quartile of the batch by ten interquartile ranges (of a nat at
    least). Of rows of one kind, however hard some of them are, hardly any is; a corrupted one is from the start.
    """

    REACH = 10.0

    def forward(self, terms: Terms) -> Tensor:
        nll, kl = terms.nll.mean(0), self.weighted(terms.kl)
        total = (nll + kl).detach()
        low, high = torch.quantile(total, constant((0.25, 0.75), total))
        near = (total <= high + self.REACH * (high - low).clamp(min=1.0)).to(nll)
        self._counts = near / near.sum() if self.training else None
        return torch.where(near > 0, (nll + kl) * near, torch.zeros_like(nll)).sum() / near.sum()

    def counted(self, terms: Terms) -> Tensor | None:
        counts, self._counts = self._counts, None
        if counts is None:
            return None
        nll = terms.nll.detach().mean(0)
        return torch.where(counts > 0, nll * counts, torch.zeros_like(nll)).sum()


class TotalCorrelationELBO(WeightedELBO):
    """Mean negative evidence lower bound, with the total correlation within the KL term weighted by ``beta``.

    Parameters
    ----------
    beta : float
        Weight of the total correlation (:func:`riskvae.losses.total_correlation`).
    beta_warmup : int, default=0
        Number of epochs over which the whole KL term, including the total correlation, increases from 0 in equal steps.
    """

    reads: tuple[str, ...] = Objective.reads

    def forward(self, terms: Terms) -> Tensor:
        kl = terms.kl.mean()
        if self.beta != 1:
            kl = kl + (self.beta - 1.0) * total_correlation(terms.z[0], *terms.posterior).mean()
        return terms.nll.mean() + self.eased(kl)
