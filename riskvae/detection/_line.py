"""The line between inliers and outliers, as a function on tensors that can be searched and bounded."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from riskvae.detection._ranges import Reach, bound_range
from riskvae.detection._score import RowScore

__all__ = ["Line"]


class Line(nn.Module):
    r"""How far each verdict on a row is above the line; the row is an outlier where one of them is below 0.

    .. math:: d_v(x) = \bar b + \frac{\Delta b}{\Delta v} (v(x) - \bar v) - \text{offset}

    Values are those of the scores. Of features one by one, whose shares are steps, the gradient is a difference
    quotient: their own would be 0.

    Parameters
    ----------
    score : RowScore
        Of rows.
    vaes : sequence of VAE
        The trained model, and the young one if there is one.
    offset : float
        Scores below it are those of outliers.
    largest : float
        Where values are cut before they are scored, as those of arrays are.
    """

    score: Any
    vaes: Any

    def __init__(self, score: RowScore, vaes: Sequence[Any], offset: float, largest: float) -> None:
        super().__init__()
        self.score = score
        self.vaes = nn.ModuleList(vaes)
        self.offset = offset
        self.largest = largest
        self.widest = max(vae.widest for vae in vaes)

    def forward(self, x: Tensor, window: float = 0.1) -> Tensor:
        """Verdicts (n_verdicts, n) above the line; ``window`` is half the width of the quotients, in spreads."""
        cut = x.clamp(-self.largest, self.largest)
        bounds = [density.bound(vae, cut) for density, vae in zip(self.score.densities, self.vaes, strict=True)]
        found = self.score.aligned(torch.stack((*bounds, self._tails(cut, window))))
        beyond = (x.abs().double() / self.largest).clamp(min=1.0).log().sum(1)
        if beyond.any():
            found = found - (found.amin(0).abs() * beyond).to(found)
        return found - self.offset

    def _tails(self, x: Tensor, window: float) -> Tensor:
        marginals = self.score.marginals
        with torch.no_grad():
            value = marginals(x)
            if not x.requires_grad:
                return value
            step = window * marginals.spread
            slope = (marginals.each(x + step) - marginals.each(x - step)).T / (2.0 * step)
        return value + ((x - x.detach()) * slope).sum(1)

    def inliers(self, x: Tensor) -> Tensor:
        """Where rows (n, d) might be inliers, (n, 2, d): what the model makes of them, and the features' medians."""
        values = self.levels
        middle = values.gather(1, (self.score.marginals.count // 2)[:, None])[:, 0].to(x)
        rebuilt = self.vaes[0].decode(self.vaes[0].encode(x.clamp(-self.largest, self.largest)).mean)
        return torch.stack((rebuilt, middle.expand_as(x)), 1)

    def examples(self) -> Tensor:
        """Rows (m, d) that the model would make: decoded means of its prior."""
        return self.vaes[0].decode(self.score.densities[0].prior_mean)

    @property
    def networks(self) -> list[tuple[nn.Module, nn.Module]]:
        """Encoder and decoder of each verdict but the last; none where :meth:`network_range` says nothing.

        Nothing is said with several draws, without medians, and of refined posteriors.
        """
        plain = all(len(density.draws) == 1 and not density.draws.any() for density in self.score.densities)
        plain = plain and not any(vae.refine for vae in self.vaes)
        return [(vae.encoder, vae.decoder) for vae in self.vaes] if plain and self._has_medians else []

    @property
    def _has_medians(self) -> bool:
        """Whether medians are a level of their own, which rises with what the decoder gives for it."""
        return all(0.5 in vae.likelihood.levels for vae in self.vaes)

    def network_range(
        self, which: int, x: Tensor, radius: Tensor, norm: float, posterior: Any, latent: Tensor, decoded: Any
    ) -> tuple[Tensor, Tensor]:
        """Least and largest value (n,) of a verdict above the line within a :class:`Reach`."""
        reach = Reach(radius, norm, posterior, latent, decoded)
        ends = torch.stack(bound_range(self.score.densities[which], self.vaes[which], x, reach))
        middle, slope = self.score.middle.double(), self.score.slope.double()
        if slope[which] <= 0 and which > 0:
            ends = torch.full_like(ends, torch.inf)
        elif which > 0:
            ends = middle[0] + slope[which] * (ends - middle[which])
        return ends[0] - self.offset, ends[1] - self.offset

    @property
    def levels(self) -> Tensor:
        """Values of each feature at which its share has a step, ascending, (d, K)."""
        values = self.score.marginals.values
        missing = values.isinf()  # they come last, and another step at the same place is none
        last = values.masked_fill(missing, -torch.inf).amax(1, keepdim=True)
        return torch.where(missing, last, values) if missing.any() else values

    @property
    def spread(self) -> Tensor:
        """Distance of each feature, (d,), by which its tails are measured beyond the outermost level."""
        return self.score.marginals.spread

    def shares(self, x: Tensor) -> Tensor:
        """What each feature of rows (n, d) adds to the last verdict, (n, d), in double precision: :attr:`steepness`."""
        return self.steepness * self.score.marginals.each(x).T.double()

    @property
    def steepness(self) -> float:
        """Nats of the line per nat of log-share; 0 where features one by one do not count."""
        return float(self.score.slope[-1])
