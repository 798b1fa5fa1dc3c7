"""Positive numbers whose logarithms are normal: amounts, durations, concentrations."""

import torch
from torch import Tensor

from riskvae.likelihoods._likelihood import Likelihood
from riskvae.likelihoods._scaled import FeatureScales, center_and_spread
from riskvae.losses import LOG_2PI

__all__ = ["LogNormal"]

_FARTHEST = 80.0  # logarithm of what single precision has


class LogNormal(Likelihood):
    r"""Positive numbers whose logarithms have normal noise, with a standard deviation s for each feature.

    .. math:: -\log p(x|z) = \sum_j \frac{(\log x_j - m_j(z))^2}{2 s_j^2} + \log s_j + \log x_j + \tfrac12 \log 2\pi

    Errors count in percent: an order of 1,000,000 may be off by more than one of 10. The decoder outputs the mean m in
    standard deviations of the logarithms of the first rows; central rows are medians, :math:`e^m`. The noise is learned
    along with the networks.

    Examples
    --------
    >>> import torch
    >>> amounts = LogNormal().prepare(1)
    >>> amounts.nll(torch.tensor([[1.0], [1000.0]]), torch.zeros(2, 1)).diff()  # log(1000) + log(1000)^2 / 2
    tensor([30.7663], grad_fn=<SubBackward0>)
    """

    started: Tensor
    center: Tensor
    spread: Tensor
    log_noise: FeatureScales

    def setup(self, n_features: int) -> None:
        self.register_buffer("started", torch.tensor(False))
        self.register_buffer("center", torch.zeros(n_features))
        self.register_buffer("spread", torch.ones(n_features))
        self.log_noise = FeatureScales(n_features)

    @torch.no_grad()
    def fit_scale(self, x: Tensor) -> None:
        if self.started:
            return
        center, spread = center_and_spread(x.log())
        self.center.copy_(center)
        self.spread.copy_(torch.where(spread > 0, spread, torch.ones_like(spread)))
        self.started.fill_(True)

    def inputs(self, x: Tensor) -> Tensor:
        return (x.log() - self.center) / self.spread

    def mean(self, raw: Tensor) -> Tensor:
        return (self.center + self.spread * raw).clamp(-_FARTHEST, _FARTHEST).exp()

    def each(self, x: Tensor, raw: Tensor) -> Tensor:
        log_scale = self.log_noise()
        square = (self.inputs(x) - raw).square() * (-2.0 * log_scale).exp()
        return 0.5 * square + log_scale + 0.5 * LOG_2PI + self.spread.log() + x.log()

    def draw(self, raw: Tensor, generator: torch.Generator) -> Tensor:
        noise = torch.randn(raw.shape, generator=generator, dtype=raw.dtype)
        return self.mean(raw + self.log_noise().exp() * noise)

    def check(self, x: Tensor) -> None:
        wrong = x <= 0
        if wrong.any():
            raise ValueError(
                f"LogNormal needs numbers above 0; X holds {self.first(x, wrong)}. Drop such values or make them "
                "missing (NaN), or use likelihood='gaussian' (in a table, likelihoods.Gaussian for this column)."
            )
