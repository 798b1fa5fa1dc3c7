"""Categories, of which each value is one."""

import numbers
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from riskvae._validation import Rule, check_parameters
from riskvae.likelihoods._likelihood import Likelihood

__all__ = ["Categorical"]


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool | np.bool_)


def _are_labels(value: Any) -> bool:
    if not isinstance(value, list | tuple | np.ndarray) or len(value) < 1:
        return False
    try:
        return len(set(value)) == len(value) and all(label == label and label is not None for label in value)
    except TypeError:
        return False


_CATEGORIES = Rule(
    lambda value: value >= 1 if _is_number(value) else _are_labels(value),
    "a number of categories, or their labels, each once",
    lambda value: "Missing values are no category; True and 1 are the same." if isinstance(value, list | tuple) else "",
    kind=lambda value: _is_number(value) or isinstance(value, list | tuple | np.ndarray),
)


class Categorical(Likelihood):
    r"""Values that are one of K categories, given by their codes 0 to K - 1, with softmax probabilities.

    .. math:: -\log p(x|z) = -\sum_j \log p_{j, x_j}(z), \qquad
              p_{jc} = \frac{\hat p_{jc} e^{raw_{jc}}}{\sum_k \hat p_{jk} e^{raw_{jk}}}

    An untrained decoder, which outputs zeros, gives each category its share of the first rows. The encoder sees one
    column per category, which is 1 if the value is that category, minus that share.

    Parameters
    ----------
    categories : int or sequence, default=2
        Number of categories, if X holds their codes; or their labels, such as ``("no", "yes")``, for a column of a
        table (:class:`Mixed`).

    Examples
    --------
    >>> import torch
    >>> dice = Categorical(6).prepare(1)
    >>> dice.nll(torch.tensor([[3.0]]), torch.zeros(1, 6)).exp()
    tensor([6.])
    """

    values_per_feature: int
    decoder_gives: str
    log_share: Tensor
    started: Tensor

    def __init__(self, categories: int | Sequence[Any] = 2) -> None:
        super().__init__()
        self.categories = categories

    @property
    def n_categories(self) -> int:
        """Number of categories."""
        return int(self.categories) if _is_number(self.categories) else len(self.categories)  # type: ignore[arg-type]

    @property
    def labels(self) -> tuple[Any, ...]:
        """Labels of the categories."""
        return tuple(range(self.n_categories)) if _is_number(self.categories) else tuple(self.categories)  # type: ignore[arg-type]

    @property
    def n_inputs(self) -> int:
        return self.n_values

    def setup(self, n_features: int) -> None:
        check_parameters("Categorical", self.get_params(), {"categories": _CATEGORIES})
        k = self.n_categories
        self.values_per_feature = k
        self.decoder_gives = f"{k} logits per feature, a whole row of each category in turn"
        self.register_buffer("log_share", torch.full((k, n_features), -float(np.log(k))))
        self.register_buffer("started", torch.tensor(False))

    @torch.no_grad()
    def fit_scale(self, x: Tensor) -> None:
        if self.started:
            return
        there = torch.stack([(x == code).sum(0) for code in range(self.n_categories)]).to(x)
        # As if each had been seen once more often.
        self.log_share.copy_(((there + 1.0) / (there + 1.0).sum(0)).log())
        self.started.fill_(True)

    def log_probabilities(self, raw: Tensor) -> Tensor:
        """Log-probabilities (..., K, n_features) of all categories."""
        return (raw.unflatten(-1, (self.n_categories, self.n_features)) + self.log_share).log_softmax(-2)

    def mean(self, raw: Tensor) -> Tensor:
        """Codes of the most likely categories."""
        return self.log_probabilities(raw).argmax(-2).to(raw.dtype)

    def central(self, raw: Tensor) -> Tensor:
        return self.log_probabilities(raw).exp().mean(0).argmax(-2).to(raw.dtype)

    def inputs(self, x: Tensor) -> Tensor:
        codes = torch.arange(self.n_categories, device=x.device, dtype=x.dtype)[:, None]
        there = (x[..., None, :] == codes).to(x.dtype) - self.log_share.exp()
        return torch.where(x.isnan()[..., None, :], torch.nan, there).flatten(-2)

    def expected_inputs(self, raw: Tensor) -> Tensor:
        return (self.log_probabilities(raw).exp() - self.log_share.exp()).flatten(-2)

    def each(self, x: Tensor, raw: Tensor) -> Tensor:
        log_p = self.log_probabilities(raw)
        places = x.long().clamp(0, self.n_categories - 1).expand(*log_p.shape[:-2], -1)
        return -log_p.gather(-2, places[..., None, :])[..., 0, :]

    def deviance(self, x: Tensor, raw: Tensor) -> Tensor:
        r"""How unusual values are (..., n_features), :math:`\sqrt{2 \log(\max_c p_c / p_x)}`: 0 for the likeliest."""
        least = -self.log_probabilities(raw).amax(-2)
        gap = (self.each(x.nan_to_num(0.0), raw) - least).clamp(min=0.0)
        return (2.0 * gap).sqrt().masked_fill(x.isnan(), torch.nan)

    def draw(self, raw: Tensor, generator: torch.Generator) -> Tensor:
        p = self.log_probabilities(raw).exp().transpose(-1, -2)
        drawn = torch.multinomial(p.flatten(0, -2), 1, generator=generator)
        return drawn.view(p.shape[:-1]).to(raw.dtype)

    def check(self, x: Tensor) -> None:
        wrong = (x < 0) | (x > self.n_categories - 1) | (x != x.floor()) & ~x.isnan()
        if wrong.any():
            raise ValueError(
                f"{self!r} needs codes, whole numbers from 0 to {self.n_categories - 1}; X holds "
                f"{self.first(x, wrong)}. Number the categories (OrdinalEncoder), or name them all in "
                "Categorical([...])."
            )
