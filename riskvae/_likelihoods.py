"""Observation models p(x|z): what the decoder's output means, and how noisy rows are around it."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from scipy.stats import norm
from torch import Tensor, nn

from riskvae.losses import LOG_2PI, asymmetric_laplace_nll, bernoulli_nll, gaussian_nll, log_peak
from riskvae.nets import unit_softplus

__all__ = ["BernoulliLikelihood", "GaussianLikelihood", "Likelihood", "QuantileLikelihood"]


class Likelihood(nn.Module):
    """Observation model p(x|z): reads the decoder's raw output, ``values_per_feature`` numbers for each feature."""

    values_per_feature = 1
    decoder_gives = "one value per feature"
    unit_interval = False  # whether rows must lie in [0, 1]

    def mean(self, raw: Tensor) -> Tensor:
        """Central rows: expected ones, or medians."""
        raise NotImplementedError

    def nll(self, x: Tensor, raw: Tensor) -> Tensor:
        """Nats per row, over any leading dimensions of ``raw``."""
        raise NotImplementedError

    def draw(self, raw: Tensor, noise: Tensor) -> Tensor:
        """Rows of p(x|z), one for each row of standard normal noise (n, n_features)."""
        raise NotImplementedError

    def excess(self) -> float:
        """A learned scale relative to the spread that it started at: above 1, the mean of the rows does better."""
        return 0.0

    def fit_scale(self, x: Tensor) -> None:
        """Start a learned scale from the spread of rows, once; nothing to do without one."""

    def update_scale(self, nll: Tensor) -> None:
        """Move a learned scale towards the best one for a batch, known by its mean negative log-likelihood."""


class BernoulliLikelihood(Likelihood):
    """Pixels in [0, 1] with probabilities sigmoid(raw)."""

    unit_interval = True

    def mean(self, raw: Tensor) -> Tensor:
        return raw.sigmoid()

    def nll(self, x: Tensor, raw: Tensor) -> Tensor:
        return bernoulli_nll(x, raw)

    def draw(self, raw: Tensor, noise: Tensor) -> Tensor:
        return (torch.special.ndtr(noise) < self.mean(raw)).to(raw)


class _ScaledLikelihood(Likelihood):
    """Observation model with one scale s for all features, fixed or learned.

    A learned s is the maximum-likelihood one, whatever the loss of the networks: risk reweighs rows, it does
    not change what noise is. The mean negative log-likelihood of a batch tells the best s in closed form
    (``log_gap``), and each step goes a tenth of the way there in log s: a geometric moving average over about
    ten batches, whatever the learning rate (cf. the optimal variance of Rybkin et al. 2021). It starts at the
    spread of the first rows that have one.
    """

    RATE = 0.1
    # A decoder that memorizes its rows would drive s to 0 and the bound to infinity (variance shrinkage).
    SMALLEST = 1e-3

    log_scale: Tensor
    log_floor: Tensor
    started: Tensor

    def __init__(self, n_features: int, scale: float | None = None) -> None:
        super().__init__()
        self.n_features = n_features
        self.learned = scale is None
        self.register_buffer("log_scale", torch.tensor(math.log(scale or 1.0)))
        self.register_buffer("log_floor", self.log_scale + math.log(self.SMALLEST))
        self.register_buffer("started", torch.tensor(not self.learned))

    def log_gap(self, nll: Tensor) -> Tensor:
        """Logarithm of the best scale relative to the present one, from nats per row."""
        raise NotImplementedError

    def start(self, spread: Tensor) -> float:
        """Scale of rows whose features have these standard deviations, where nothing is known of a row."""
        return float(spread.square().mean().sqrt())

    @torch.no_grad()
    def fit_scale(self, x: Tensor) -> None:
        if self.started:
            return  # before a pass over all rows
        spread = x.var(0, correction=0).sqrt()
        if spread.any():  # constant rows have no spread to start at
            self.log_scale.fill_(math.log(self.start(spread)))
            self.log_floor.copy_(self.log_scale + math.log(self.SMALLEST))
            self.started.fill_(True)
            self.fit_location(x, spread)

    def fit_location(self, x: Tensor, spread: Tensor) -> None:
        """Note what else of the first rows the model is measured by."""

    def excess(self) -> float:
        return float((self.log_scale - self.log_floor).exp()) * self.SMALLEST if self.learned else 0.0

    @torch.no_grad()
    def update_scale(self, nll: Tensor) -> None:
        if self.learned:
            self.log_scale.add_(self.log_gap(nll), alpha=self.RATE).clamp_(min=self.log_floor)


class GaussianLikelihood(_ScaledLikelihood):
    r"""Rows with one standard deviation s for all features, fixed or learned.

    .. math:: \frac{s_*^2}{s^2} = \frac{\overline{\lVert x - m \rVert^2}}{d s^2}
              = 2 \left(\frac{\overline{\mathrm{nll}}}{d} - \log s - \tfrac12 \log 2\pi \right)

    Parameters
    ----------
    n_features : int
        d, the width of a row.
    scale : float or None
        Fixed standard deviation; None learns it.
    sigmoid : bool, default=False
        Squash means to (0, 1).
    """

    def __init__(self, n_features: int, scale: float | None = None, sigmoid: bool = False) -> None:
        super().__init__(n_features, scale)
        self.sigmoid = sigmoid

    def mean(self, raw: Tensor) -> Tensor:
        return raw.sigmoid() if self.sigmoid else raw

    def nll(self, x: Tensor, raw: Tensor) -> Tensor:
        return gaussian_nll(x, self.mean(raw), self.log_scale)

    def draw(self, raw: Tensor, noise: Tensor) -> Tensor:
        return self.mean(raw) + self.log_scale.exp() * noise

    def log_gap(self, nll: Tensor) -> Tensor:
        ratio = 2.0 * (nll / self.n_features - self.log_scale) - LOG_2PI
        return 0.5 * ratio.clamp_(min=1e-4).log_()


class QuantileLikelihood(_ScaledLikelihood):
    r"""Rows by quantiles of each feature that cannot cross, under asymmetric Laplace noise of one learned scale s.

    The decoder gives each feature the quantile whose level is nearest to one half, and the steps from there to its
    neighbors through a softplus, all in units of the first rows: an untrained decoder, of zeros, predicts the
    quantiles of normal features with the means and spreads of those rows.

    .. math:: \frac{s_*}{s} = \frac{\overline{\rho_a(x - q_a)}}{s}
              = \frac{\overline{\mathrm{nll}}}{d} - \log s + \overline{\log a (1 - a)}

    Parameters
    ----------
    n_features : int
        d, the width of a row.
    levels : sequence of float
        Increasing levels a in (0, 1).
    """

    center: Tensor
    unit: Tensor

    def __init__(self, n_features: int, levels: Sequence[float]) -> None:
        super().__init__(n_features)
        self.levels = tuple(float(level) for level in levels)
        self.values_per_feature = len(self.levels)
        self.decoder_gives = f"{len(self.levels)} quantiles per feature, a whole row of each level in turn"
        a = np.array(self.levels)
        self.middle = int(np.abs(a - 0.5).argmin())
        self.normal_scores = norm.ppf(a)
        self.log_peak = log_peak(self.levels)
        self.n_values = n_features * len(self.levels)  # that the decoder gives for a row
        self.register_buffer("center", torch.zeros(n_features))
        self.register_buffer("unit", torch.ones(n_features))

    def start(self, spread: Tensor) -> float:
        # Mean pinball of a normal feature at its own quantiles.
        return float(spread.mean()) * float(norm.pdf(self.normal_scores).mean())

    def fit_location(self, x: Tensor, spread: Tensor) -> None:
        self.center.copy_(x.mean(0))
        # A constant feature is predicted, but may turn out otherwise in other rows.
        self.unit.copy_(spread.clamp(min=self.SMALLEST * float(spread.square().mean().sqrt())))

    def quantiles(self, raw: Tensor) -> Tensor:
        """Quantiles (..., n_features, n_levels), increasing along the last dimension."""
        raw = raw.unflatten(-1, (self.values_per_feature, self.n_features))
        m, t = self.middle, torch.tensor(self.normal_scores).to(raw)
        middle = raw[..., m : m + 1, :] + t[m]
        steps = t.diff()[:, None]
        below = unit_softplus(raw[..., :m, :]) * steps[:m]
        above = unit_softplus(raw[..., m + 1 :, :]) * steps[m:]
        rows = (middle - below.flip(-2).cumsum(-2).flip(-2), middle, middle + above.cumsum(-2))
        return (self.center + self.unit * torch.cat(rows, -2)).transpose(-1, -2)

    def mean(self, raw: Tensor) -> Tensor:
        """Medians: a level of its own, or between two by :meth:`at`."""
        return self.at(self.quantiles(raw), raw.new_zeros(()))

    def nll(self, x: Tensor, raw: Tensor) -> Tensor:
        return asymmetric_laplace_nll(x, self.quantiles(raw), self.levels, self.log_scale)

    def at(self, quantiles: Tensor, score: Tensor) -> Tensor:
        """Values (..., n_features) at normal scores of that shape, linear in the score between and beyond levels.

        With one level there is no slope, and its quantile is all that is known.
        """
        t = torch.tensor(self.normal_scores).to(quantiles)
        if len(t) == 1:
            return quantiles[..., 0]
        right = torch.searchsorted(t, score.contiguous()).clamp(1, len(t) - 1).expand(quantiles.shape[:-1])
        low, high = (quantiles.gather(-1, i[..., None])[..., 0] for i in (right - 1, right))
        return low + (high - low) * ((score - t[right - 1]) / (t[right] - t[right - 1]))

    def draw(self, raw: Tensor, noise: Tensor) -> Tensor:
        if self.values_per_feature == 1:
            raise ValueError(
                f"quantiles={self.levels!r} say nothing of how rows spread; observation_noise=True needs two at least."
            )
        return self.at(self.quantiles(raw), noise)

    def log_gap(self, nll: Tensor) -> Tensor:
        return (nll / self.n_features - self.log_scale + self.log_peak).clamp_(min=1e-4).log_()
