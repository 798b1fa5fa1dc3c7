"""Values in [0, 1] as probabilities."""

import torch
import torch.nn.functional as F
from torch import Tensor

from riskvae.likelihoods._likelihood import Likelihood
from riskvae.losses import bernoulli_nll

__all__ = ["Bernoulli"]

_SLACK = 1e-6  # scalers miss the ends by rounding


class Bernoulli(Likelihood):
    r"""Values in [0, 1] with probabilities :math:`p = \mathrm{sigmoid}(\text{raw})`: binary values, or gray levels.

    .. math:: -\log p(x|z) = -\sum_j x_j \log p_j + (1 - x_j) \log (1 - p_j)

    ``likelihood="bernoulli"`` is short for this class.

    Examples
    --------
    >>> import torch
    >>> Bernoulli().nll(torch.ones(1, 2), torch.zeros(1, 2))  # 2 log 2
    tensor([1.3863])
    """

    def mean(self, raw: Tensor) -> Tensor:
        return raw.sigmoid()

    def nll(self, x: Tensor, raw: Tensor) -> Tensor:
        return bernoulli_nll(x, raw)

    def each(self, x: Tensor, raw: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(raw, x.expand_as(raw), reduction="none")

    def draw(self, raw: Tensor, generator: torch.Generator) -> Tensor:
        return torch.bernoulli(self.mean(raw), generator=generator)

    def check(self, x: Tensor) -> None:
        known = x if not x.isnan().any() else x[~x.isnan()]
        if not len(known):
            return
        low, high = float(known.min()), float(known.max())
        if not (low >= -_SLACK and high <= 1.0 + _SLACK):
            raise ValueError(
                f"likelihood='bernoulli' needs X in [0, 1]; got values from {low:.7g} to {high:.7g}. "
                "Scale X first (MinMaxScaler(clip=True)), or use likelihood='gaussian'."
            )
