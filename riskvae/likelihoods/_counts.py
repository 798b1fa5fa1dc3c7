"""Counts: whole numbers of at least 0, by Poisson and negative binomial distributions around expected counts."""

import math
from typing import ClassVar

import torch
from torch import Tensor

from riskvae._validation import Rule, check_parameters, choice, real
from riskvae.likelihoods._likelihood import Likelihood
from riskvae.likelihoods._scaled import FeatureScales, center_and_spread
from riskvae.nets import unit_softplus

__all__ = ["LARGEST_COUNT", "Counts", "NegativeBinomial", "Poisson"]

# Counts up to here are whole numbers in single precision.
LARGEST_COUNT = 2.0**24
_LEAST = 1e-6


class Counts(Likelihood):
    r"""Counts with expectations :math:`\lambda_j = \bar x_j \log(1 + (e - 1) e^{raw_j})`.

    An untrained decoder, which outputs zeros, expects the mean count of each feature in the first rows. The encoder
    sees standardized logarithms of 1 + x.
    """

    started: Tensor
    usual: Tensor
    center: Tensor
    spread: Tensor
    _rules: ClassVar[dict[str, Rule]] = {}

    def setup(self, n_features: int) -> None:
        check_parameters(type(self).__name__, self.get_params(), self._rules)
        self.register_buffer("started", torch.tensor(False))
        self.register_buffer("usual", torch.ones(n_features))
        self.register_buffer("center", torch.zeros(n_features))
        self.register_buffer("spread", torch.ones(n_features))

    @torch.no_grad()
    def fit_scale(self, x: Tensor) -> None:
        if self.started:
            return
        usual = x.nanmean(0).nan_to_num(0.0)
        # Of counts that the first rows lack: as if one more row had one.
        self.usual.copy_(usual.clamp(min=1.0 / (len(x) + 1)))
        center, spread = center_and_spread(x.log1p())
        self.center.copy_(center)
        self.spread.copy_(torch.where(spread > 0, spread, torch.ones_like(spread)))
        self.started.fill_(True)
        self.fit_dispersion(x)

    def fit_dispersion(self, x: Tensor) -> None:
        """Initialize further learned parameters from the first rows."""

    def inputs(self, x: Tensor) -> Tensor:
        return (x.clamp(min=0.0).log1p() - self.center) / self.spread

    def mean(self, raw: Tensor) -> Tensor:
        return self.usual * unit_softplus(raw).clamp(min=_LEAST)

    def check(self, x: Tensor) -> None:
        wrong = (x < 0) | (x != x.floor()) & ~x.isnan() | (x > LARGEST_COUNT)
        if wrong.any():
            raise ValueError(
                f"{type(self).__name__} needs counts: whole numbers from 0 to {LARGEST_COUNT:.0f}; X holds "
                f"{self.first(x, wrong)}. Round such values, or use likelihood='gaussian' (in a table, "
                "likelihoods.Gaussian for this column)."
            )


class Poisson(Counts):
    r"""Counts whose variance equals their mean, with an expected count for each feature.

    .. math:: -\log p(x|z) = \sum_j \lambda_j(z) - x_j \log \lambda_j(z) + \log x_j!

    Examples
    --------
    >>> import torch
    >>> Poisson().prepare(1).nll(torch.zeros(1, 1), torch.zeros(1, 1))  # exp(-1) is the chance of no event
    tensor([1.])
    """

    def each(self, x: Tensor, raw: Tensor) -> Tensor:
        rate = self.mean(raw)
        if x.device.type == "mps":
            return rate - x * rate.log() + _log_gamma(x + 1.0)
        x_, rate_ = x.double(), rate.double()  # terms cancel
        return (rate_ - x_ * rate_.log() + _log_gamma(x_ + 1.0)).to(rate)

    def draw(self, raw: Tensor, generator: torch.Generator) -> Tensor:
        return torch.poisson(self.mean(raw), generator=generator)


class NegativeBinomial(Counts):
    r"""Counts that vary more than Poisson counts, with an expected count and a dispersion r for each feature.

    .. math:: p(x_j|z) = \binom{x_j + r_j - 1}{x_j} \Bigl(\frac{r_j}{r_j + \lambda_j(z)}\Bigr)^{r_j}
              \Bigl(\frac{\lambda_j(z)}{r_j + \lambda_j(z)}\Bigr)^{x_j}, \qquad
              \mathrm{var}(x_j|z) = \lambda_j + \frac{\lambda_j^2}{r_j}

    As r grows, the distribution approaches the Poisson distribution.

    Parameters
    ----------
    dispersion : float or "learned", default="learned"
        The r of all features. "learned" learns one for each feature along with the networks, starting from that of the
        first rows.

    Examples
    --------
    >>> import torch
    >>> one = NegativeBinomial(dispersion=1.0).prepare(1)  # around 1, so that each further event has the chance 1/2
    >>> one.nll(torch.tensor([[0.0], [1.0]]), torch.zeros(2, 1)).exp()
    tensor([2., 4.])
    """

    _rules: ClassVar[dict[str, Rule]] = {"dispersion": choice("learned") | real(0.0, closed="neither")}

    log_dispersion: FeatureScales | None

    def __init__(self, dispersion: float | str = "learned") -> None:
        super().__init__()
        self.dispersion = dispersion

    def setup(self, n_features: int) -> None:
        super().setup(n_features)
        self.log_dispersion = FeatureScales(n_features) if self.dispersion == "learned" else None

    def fit_dispersion(self, x: Tensor) -> None:
        if self.log_dispersion is not None:
            excess = (x - self.usual).square().nanmean(0).nan_to_num(0.0) - self.usual
            self.log_dispersion.begin((self.usual.square() / excess.clamp(min=1e-30)).clamp(0.1, 100.0))

    def each(self, x: Tensor, raw: Tensor) -> Tensor:
        mean = self.mean(raw)
        r = self._log_r(mean).exp()
        return _log_ways(x, r) + r * (mean / r).log1p() + x * (r / mean).log1p()

    def _log_r(self, like: Tensor) -> Tensor:
        if self.log_dispersion is None:
            return like.new_full((self.n_features,), math.log(float(self.dispersion)))
        return self.log_dispersion()

    def draw(self, raw: Tensor, generator: torch.Generator) -> Tensor:
        mean = self.mean(raw)
        r = self._log_r(mean).exp().expand_as(mean)
        # From the global generator, which is seeded for the time of the call.
        rate = torch.distributions.Gamma(r, r / mean).sample()
        return torch.poisson(rate, generator=generator)


def _log_ways(x: Tensor, r: Tensor) -> Tensor:
    r"""Logarithm of :math:`\Gamma(r) x! / \Gamma(x + r)`; terms cancel, so in double precision where there is one."""
    if x.device.type != "mps":
        x_, r_ = x.double(), r.double()
        return (_log_gamma(r_) + _log_gamma(x_ + 1.0) - _log_gamma(x_ + r_)).to(r)
    return r.lgamma() + (x + 1.0).lgamma() - (x + r).lgamma()


def _log_gamma(x: Tensor) -> Tensor:
    """Logarithm of the gamma function, for x above 0."""
    if not torch.compiler.is_compiling():
        return x.lgamma()
    # What torch exports a model to has no such function: Stirling's series, eight steps further on.
    far = x + 8.0
    series = 1.0 / (12.0 * far) - 1.0 / (360.0 * far**3) + 1.0 / (1260.0 * far**5)
    steps = sum((x + k).log() for k in range(8))
    return (far - 0.5) * far.log() - far + 0.5 * math.log(2.0 * math.pi) + series - steps
