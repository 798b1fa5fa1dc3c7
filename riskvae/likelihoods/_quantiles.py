"""Quantiles of each feature that cannot cross, under noise for which they are the likeliest."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import norm
from torch import Tensor

from riskvae._machine import constant
from riskvae._validation import Rule, check_parameters
from riskvae.likelihoods._scaled import ScaledLikelihood
from riskvae.losses import asymmetric_laplace_nll, log_peak, pinball_losses
from riskvae.nets import unit_softplus

__all__ = ["LEVELS", "Quantiles"]


def _are_levels(value: Any) -> bool:
    try:
        levels = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        return False
    within = levels.ndim == 1 and len(levels) > 0 and bool(((levels > 0) & (levels < 1)).all())
    return within and bool((np.diff(levels) > 0).all())


def _meant(value: Any) -> str:
    value = [value] if isinstance(value, float) else value
    try:
        ordered = sorted({float(level) for level in value})
    except (TypeError, ValueError):
        return ""
    percent = len(ordered) > 0 and min(ordered) >= 1
    levels = tuple(level / 100 for level in ordered) if percent else tuple(ordered)
    return f"Did you mean {levels!r}?" if _are_levels(levels) else ""


LEVELS = Rule(
    lambda value: isinstance(value, list | tuple | np.ndarray) and _are_levels(value),
    "a sequence of levels in (0, 1), increasing, each once, such as (0.15, 0.5, 0.85)",
    _meant,
    kind=lambda value: isinstance(value, list | tuple | np.ndarray),
)


class Quantiles(ScaledLikelihood):
    r"""Rows described by non-crossing quantiles of each feature, with asymmetric Laplace noise of a learned scale s.

    For each feature, the decoder outputs the quantile whose level is nearest to one half, and the steps from there to
    its neighbors through a softplus, all in units of the first rows. An untrained decoder, which outputs zeros,
    predicts the quantiles of normal features with the means and spreads of those rows.

    .. math:: \frac{s_*}{s} = \frac{\overline{\rho_a(x - q_a)}}{s}
              = \frac{\overline{\mathrm{nll}}}{d} - \log s + \overline{\log a (1 - a)}

    This is the likelihood of :class:`riskvae.QuantileVAE`.

    Parameters
    ----------
    levels : sequence of float, default=(0.15, 0.5, 0.85)
        Increasing levels a in (0, 1).

    Examples
    --------
    >>> import torch
    >>> likelihood = Quantiles((0.25, 0.75)).prepare(n_features=1)
    >>> likelihood.quantiles(torch.zeros(1, 2))  # of a standard normal feature
    tensor([[[-0.6745,  0.6745]]])
    """

    affine: bool = True

    values_per_feature: int
    decoder_gives: str
    middle: int
    normal_scores: NDArray[np.float64]
    log_peak: float
    center: Tensor
    unit: Tensor
    categories: Tensor | None = None  # features that are categories, where some are

    def __init__(self, levels: Sequence[float] = (0.15, 0.5, 0.85)) -> None:
        super().__init__()
        self.levels = levels

    def setup(self, n_features: int) -> None:
        check_parameters("Quantiles", {"levels": self.levels}, {"levels": LEVELS})
        a = np.array([float(level) for level in self.levels])
        self.values_per_feature = len(a)
        self.decoder_gives = f"{len(a)} quantiles per feature, a whole row of each level in turn"
        self.middle = int(np.abs(a - 0.5).argmin())
        self.normal_scores = norm.ppf(a)
        self.log_peak = log_peak(self.levels)
        self.setup_scale(None)
        self.register_buffer("center", torch.zeros(n_features))
        self.register_buffer("unit", torch.ones(n_features))

    @property
    def beside_normal(self) -> bool:  # type: ignore[override]
        return self.values_per_feature > 1

    def start(self, spread: Tensor) -> float:
        # Mean pinball of a normal feature at its own quantiles.
        return float(spread.mean()) * float(norm.pdf(self.normal_scores).mean())

    def fit_location(self, center: Tensor, spread: Tensor) -> None:
        self.center.copy_(center)
        # A constant feature is predicted, but may turn out otherwise in other rows.
        self.unit.copy_(spread.clamp(min=self.SMALLEST * float(spread.square().mean().sqrt())))

    def quantiles(self, raw: Tensor) -> Tensor:
        """Quantiles (..., n_features, n_levels), increasing along the last dimension."""
        raw = raw.unflatten(-1, (self.values_per_feature, self.n_features))
        m, t = self.middle, constant(self.normal_scores, raw)
        middle = raw[..., m : m + 1, :] + t[m]
        steps = t.diff()[:, None]
        below = unit_softplus(raw[..., :m, :]) * steps[:m]
        above = unit_softplus(raw[..., m + 1 :, :]) * steps[m:]
        rows = (middle - below.flip(-2).cumsum(-2).flip(-2), middle, middle + above.cumsum(-2))
        return (self.center + self.unit * torch.cat(rows, -2)).transpose(-1, -2)

    def mean(self, raw: Tensor) -> Tensor:
        """Medians: the level 0.5 if there is one, which needs no other; otherwise interpolated by :meth:`at`."""
        if self.levels[self.middle] == 0.5:
            median = raw.unflatten(-1, (self.values_per_feature, self.n_features))[..., self.middle, :]
            return self.center + self.unit * median  # no addcmul: the exporter of torch 2.6 cannot broadcast it
        return self.at(self.quantiles(raw), raw.new_zeros(()))

    def nll(self, x: Tensor, raw: Tensor) -> Tensor:
        if self.by_gradient:
            return self.each(x, raw).sum(-1)
        return asymmetric_laplace_nll(x, self.quantiles(raw), self.levels, self.log_scale)

    def each(self, x: Tensor, raw: Tensor) -> Tensor:
        loss = pinball_losses(x, self.quantiles(raw), self.levels)
        log_scale = self.log_noise
        return loss * (-log_scale).exp() + log_scale - self.log_peak

    # What a detector compares: here, values as they are; of a table, what stands for its categories.

    def medians(self, raw: Tensor) -> Tensor:
        """Medians (..., n_features) of :meth:`compared` values."""
        return self.mean(raw)

    def compared(self, x: Tensor, raw: Tensor) -> Tensor:
        """Values of rows that :meth:`quantiles` refer to, (n, n_features), or with the draws of ``raw``."""
        return x

    def ordered(self, x: Tensor) -> Tensor:
        """Values of rows in an order in which the ends are unusual."""
        return x

    def in_units(self, values: Tensor) -> Tensor:
        """Convert quantiles (..., n_features, n) of :meth:`compared` values to the units of X."""
        return values

    def at(self, quantiles: Tensor, score: Tensor) -> Tensor:
        """Values (..., n_features) at normal scores of that shape, linear in the score between and beyond levels.

        With one level there is no slope; the result is then its quantile.
        """
        t = torch.tensor(self.normal_scores).to(quantiles)
        if len(t) == 1:
            return quantiles[..., 0]
        right = (t < score[..., None]).sum(-1).clamp(1, len(t) - 1).expand(quantiles.shape[:-1])
        low, high = (quantiles.gather(-1, i[..., None])[..., 0] for i in (right - 1, right))
        return low + (high - low) * ((score - t[right - 1]) / (t[right] - t[right - 1]))

    def scales(self, quantiles: Tensor) -> Tensor:
        """Standard deviations (..., n_features) from the outermost levels, if values are normal; NaN with one level."""
        if len(self.normal_scores) == 1:
            return torch.full_like(quantiles[..., 0], torch.nan)
        return (quantiles[..., -1] - quantiles[..., 0]) / float(self.normal_scores[-1] - self.normal_scores[0])

    def normal_score(self, x: Tensor, quantiles: Tensor, least: Tensor | float = 0.0) -> Tensor:
        """Scores (..., n_features) at which :meth:`at` gives the values x: its inverse.

        ``least`` is the smallest standard deviation beyond the outermost levels.
        """
        t = torch.tensor(self.normal_scores).to(quantiles)
        if len(t) == 1:
            return torch.full_like(x, torch.nan)
        tiny = torch.finfo(x.dtype).tiny
        slopes = (quantiles.diff(dim=-1) / t.diff()).clamp(min=tiny)
        segment = (x[..., None] >= quantiles[..., 1:-1]).sum(-1, keepdim=True)
        low = quantiles.gather(-1, segment)[..., 0]
        z = t[segment[..., 0]] + (x - low) / slopes.gather(-1, segment)[..., 0]
        below, above = quantiles[..., 0], quantiles[..., -1]
        z = torch.where(x > above, t[-1] + (x - above) / slopes[..., -1].clamp(min=least), z)
        return torch.where(x < below, t[0] + (x - below) / slopes[..., 0].clamp(min=least), z)

    def draw(self, raw: Tensor, generator: torch.Generator) -> Tensor:
        if self.values_per_feature == 1:
            raise ValueError(
                f"quantiles={self.levels!r} say nothing about how rows spread; observation_noise=True needs at least "
                "two."
            )
        shape = (*raw.shape[:-1], self.n_features)
        return self.at(self.quantiles(raw), torch.randn(shape, generator=generator, dtype=raw.dtype))

    def log_gap(self, nll: Tensor) -> Tensor:
        return (nll / self.n_features - self.log_scale + self.log_peak).clamp(min=1e-4).log()
