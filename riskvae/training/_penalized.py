"""An objective of the package, and a term of the user's that is added to it."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from riskvae.training._objective import Objective
from riskvae.training._vae import Terms

__all__ = ["Penalized"]


class Penalized(Objective):
    r"""An objective plus a penalty of your own.

    .. math:: \text{objective}(\text{terms}) + \text{penalty}(\text{terms})

    All else is that of the objective: its warm-ups, the groups that it needs, and the rows that a learned noise is
    fitted to.

    Parameters
    ----------
    objective : Objective
        What ``make_objective`` of the estimator returns.
    penalty : callable
        Maps the :class:`Terms` of a batch to a number in nats per row, with a gradient. The parameters of a module are
        trained along. To pickle the model, use a function at the top of a file, or a partial of one: no lambda.

    Examples
    --------
    A risk-aware VAE whose codes are sparse:

    >>> from functools import partial
    >>> from riskvae import RiskAwareVAE, datasets
    >>> from riskvae.training import Penalized
    >>> def size(terms, weight):
    ...     return weight * terms.z.abs().sum(-1).mean()
    >>> class SparseVAE(RiskAwareVAE):
    ...     def __init__(self, n_components=10, *, sparsity=0.1, **parameters):
    ...         super().__init__(n_components, **parameters)
    ...         self.sparsity = sparsity
    ...
    ...     def make_objective(self):
    ...         return Penalized(super().make_objective(), partial(size, weight=self.sparsity))
    >>> X = datasets.make_heteroscedastic(200, random_state=0).data
    >>> vae = SparseVAE(2, eps=0.3, sparsity=0.5, max_epochs=30, random_state=0).fit(X)
    >>> vae.get_params()["sparsity"]
    0.5
    """

    def __init__(self, objective: Objective, penalty: Callable[[Terms], Tensor]) -> None:
        super().__init__()
        if not isinstance(objective, Objective):
            raise TypeError(
                "objective must be a riskvae.training.Objective, such as super().make_objective() returns; got "
                f"{type(objective).__name__}."
            )
        if not callable(penalty):
            raise TypeError(f"penalty must be a function of the terms of a batch; got {penalty!r}.")
        self.objective = objective
        self.penalty = penalty
        self.warmup, self.needs = objective.warmup, objective.needs
        self.beta_warmup: int = getattr(objective, "beta_warmup", 0)
        self.eps_warmup: int = getattr(objective, "eps_warmup", 0)

    @property
    def written(self) -> Any:
        return self.penalty

    @property
    def current(self) -> Any:
        """Measures of the current epoch, on which a recorded step hangs."""
        return getattr(self.objective, "current", None)

    def forward(self, terms: Terms) -> Tensor:
        return self.objective(terms) + self.penalty(terms)

    def counted(self, terms: Terms) -> Tensor | None:
        return self.objective.counted(terms)

    def begin_epoch(self, epoch: int) -> dict[str, float]:
        return self.objective.begin_epoch(epoch)

    def continues(self, other: nn.Module) -> bool:
        return isinstance(other, Penalized) and self.objective.continues(other.objective)
