"""One noise scale for all features, fixed, or learned in closed form from the losses of a batch."""

import math

import torch
from torch import Tensor

from riskvae.likelihoods._likelihood import Likelihood

__all__ = ["ScaledLikelihood"]


# Values farther from the median than this many spreads of the middle half are cut off before a spread is measured.
_FAR = 20.0
_ENOUGH = 10_000
_MANY = 20  # rows that tell of a scale: two may be alike by chance


def _center_and_spread(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each feature, of known values, which a few absurd ones do not decide.

    Where a feature reaches farther from its median than 20 times the deviation that its middle half would have if
    normal, its values count up to there only. Otherwise, and where the middle half is constant, they are plain ones.
    """
    if x.isnan().any():
        known = [column[~column.isnan()][:, None] for column in x.T]
        nothing = (x.new_zeros(1), x.new_zeros(1))  # of a column that the first rows lack
        columns = [_center_and_spread(column) if len(column) else nothing for column in known]
        center, spread = (torch.cat(parts) for parts in zip(*columns, strict=True))
        return center, spread
    some = x[:: max(1, len(x) // _ENOUGH)]
    low, middle, high = (some.kthvalue(max(1, round(q * len(some))), 0).values for q in (0.25, 0.5, 0.75))
    reach = _FAR * (high - low) / 1.349
    far = (((x.amax(0) - middle) > reach) | ((middle - x.amin(0)) > reach)) & (reach > 0)
    center, spread = x.mean(0), x.var(0, correction=0).sqrt()
    if far.any():
        within = x[:, far].clamp((middle - reach)[far], (middle + reach)[far])
        center[far], spread[far] = within.mean(0), within.var(0, correction=0).sqrt()
    return center, spread


class ScaledLikelihood(Likelihood):
    """Observation model with one scale s for all features, fixed or learned.

    A learned s is the maximum-likelihood one, whatever an averse loss makes of the rows: risk reweighs them, it does
    not change what noise is. (Of a seeking loss it is that of the rows that count: ``Objective.counted``.) The mean
    negative log-likelihood of a batch tells the best s in closed form (``log_gap``), and each step goes a tenth of
    the way there in log s: a geometric moving average over about ten batches, whatever the learning rate (cf. the
    optimal variance of Rybkin et al. 2021). It starts at the spread of the first rows that have one.
    """

    RATE = 0.1
    # A decoder that memorizes its rows would drive s to 0 and the bound to infinity (variance shrinkage).
    SMALLEST = 1e-3

    log_scale: Tensor
    log_floor: Tensor
    started: Tensor
    learned: bool

    def setup_scale(self, scale: float | None) -> None:
        """Make the buffers of a fixed scale, or with None of a learned one."""
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
        if not self.learned:
            return
        center, spread = _center_and_spread(x)
        if self.started:
            if len(x) >= _MANY and spread.any():  # rows of a smaller scale than the first ones may be known as well
                floor = math.log(self.start(spread)) + math.log(self.SMALLEST)
                self.log_floor.clamp_(max=floor)
        elif spread.any():  # constant rows have no spread to start at
            self.log_scale.fill_(math.log(self.start(spread)))
            self.log_floor.copy_(self.log_scale + math.log(self.SMALLEST))
            self.started.fill_(True)
            self.fit_location(center, spread)

    @torch.no_grad()
    def relative_spread(self, x: Tensor) -> float:
        spread = _center_and_spread(x)[1]
        if not self.learned or not self.started or len(x) < _MANY or not spread.any():
            return 1.0
        began = float(self.log_floor.exp()) / self.SMALLEST
        ratio = self.start(spread) / began if began > 0 else 1.0
        return ratio if math.isfinite(ratio) else 1.0

    def fit_location(self, center: Tensor, spread: Tensor) -> None:
        """Note what else of the first rows the model is measured by."""

    def excess(self) -> float:
        return float((self.log_scale - self.log_floor).exp()) * self.SMALLEST if self.learned else 0.0

    @torch.no_grad()
    def update_scale(self, nll: Tensor) -> None:
        if self.learned:
            self.log_scale.add_(self.log_gap(nll), alpha=self.RATE).clamp_(min=self.log_floor)
