"""Noise scales: one for all features, fixed or learned in closed form, or one for each, trained with the networks."""

import math

import torch
from torch import Tensor, nn

from riskvae.likelihoods._likelihood import Likelihood

__all__ = ["FeatureScales", "ScaledLikelihood", "center_and_spread"]


# Values farther from the median than this many spreads of the middle half are cut off before a spread is measured.
_FAR = 20.0
_ENOUGH = 10_000
_AT_ONCE = 2**18  # values whose quartiles are looked for
_MANY = 20  # rows that tell of a scale: two may be alike by chance


def center_and_spread(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each feature, of known values, which a few absurd ones do not decide.

    Where a feature reaches farther from its median than 20 times the deviation that its middle half would have if
    normal, its values count up to there only. Otherwise, and where the middle half is constant, they are plain ones.
    """
    if x.isnan().any():
        known = [column[~column.isnan()][:, None] for column in x.T]
        nothing = (x.new_zeros(1), x.new_zeros(1))  # of a column that the first rows lack
        columns = [center_and_spread(column) if len(column) else nothing for column in known]
        center, spread = (torch.cat(parts) for parts in zip(*columns, strict=True))
        return center, spread
    some = x[:: max(1, len(x) // _ENOUGH)]
    low, middle, high = _quartiles(some)
    reach = _FAR * (high - low) / 1.349
    most, least = x.amax(0), x.amin(0)
    far = (((most - middle) > reach) | ((middle - least) > reach)) & (reach > 0)
    center, spread = x.mean(0), x.var(0, correction=0).sqrt()
    constant = most == least  # whatever rounding makes of it
    center, spread = torch.where(constant, most, center), torch.where(constant, 0.0, spread)
    if far.any():
        within = x[:, far].clamp((middle - reach)[far], (middle + reach)[far])
        center[far], spread[far] = within.mean(0), within.var(0, correction=0).sqrt()
    return center, spread


def _quartiles(x: Tensor) -> Tensor:
    """Quartiles (3, d) of the columns of x (n, d), some columns at a time: torch keeps three times what it looks at."""
    places = [max(1, round(q * len(x))) for q in (0.25, 0.5, 0.75)]
    blocks = x.split(max(1, _AT_ONCE // len(x)), 1)
    return torch.cat([torch.stack([block.kthvalue(k, 0).values for k in places]) for block in blocks], 1)


class FeatureScales(nn.Module):
    """Logarithms of positive numbers, one for each feature, trained with the networks.

    A step of the optimizer moves them ten times as far as a weight: they are few, and their loss is well behaved. They
    stay within a factor of 1,000 of where they start.

    Parameters
    ----------
    n_features : int
        How many.
    """

    RATE = 10.0
    REACH = math.log(1e3)

    start: Tensor

    def __init__(self, n_features: int) -> None:
        super().__init__()
        self.register_buffer("start", torch.zeros(n_features))
        self.step = nn.Parameter(torch.zeros(n_features))

    def begin(self, scales: Tensor) -> None:
        """Start at some scales, which are above 0."""
        self.start.copy_(scales.log())

    def forward(self) -> Tensor:
        """The logarithms (n_features,) as they are now."""
        return self.start + (self.RATE * self.step).clamp(-self.REACH, self.REACH)


class ScaledLikelihood(Likelihood):
    """Observation model with one scale s for all features, fixed or learned, or with one for each feature.

    A learned s is the maximum-likelihood one, whatever an averse loss makes of the rows: risk reweighs them, it does
    not change what noise is. (Of a seeking loss it is that of the rows that count: ``Objective.counted``.) The mean
    negative log-likelihood of a batch tells the best s in closed form (``log_gap``), and each step goes a tenth of
    the way there in log s: a geometric moving average over about ten batches, whatever the learning rate (cf. the
    optimal variance of Rybkin et al. 2021). It starts at the spread of the first rows that have one.

    Scales of single features are trained with the networks (:class:`FeatureScales`), by the loss that is minimized.
    """

    RATE = 0.1
    # A decoder that memorizes its rows would drive s to 0 and the bound to infinity (variance shrinkage).
    SMALLEST = 1e-3

    log_scale: Tensor
    log_floor: Tensor
    started: Tensor
    learned: bool
    by_gradient: bool = False  # a scale for each feature, trained with the networks

    def setup_scale(self, scale: float | None) -> None:
        """Create the buffers of a fixed scale, or, with None, of a learned one."""
        self.by_gradient = self.by_gradient and scale is None
        self.learned = scale is None and not self.by_gradient
        self.scales_of_each = FeatureScales(self.n_features) if self.by_gradient else None
        self.register_buffer("log_scale", torch.tensor(math.log(scale or 1.0)))
        self.register_buffer("log_floor", self.log_scale + math.log(self.SMALLEST))
        self.register_buffer("started", torch.tensor(not (self.learned or self.by_gradient)))

    @property
    def log_noise(self) -> Tensor:
        """Logarithm of the scale, one number, or one for each feature."""
        return self.log_scale if self.scales_of_each is None else self.scales_of_each()

    def log_gap(self, nll: Tensor) -> Tensor:
        """Logarithm of the optimal scale relative to the current one, from nats per row."""
        raise NotImplementedError

    def start(self, spread: Tensor) -> float:
        """Initial scale for features with these standard deviations, before anything is learned about rows."""
        return float(spread.square().mean().sqrt())

    def _start_each(self, spread: Tensor) -> None:
        rms = spread.square().mean().sqrt()
        spread = torch.where(spread > 0, spread.clamp(min=self.SMALLEST * float(rms)), rms)
        scales = [self.start(one) for one in spread.split(1)]
        self.scales_of_each.begin(torch.tensor(scales).to(spread))  # type: ignore[union-attr]

    @torch.no_grad()
    def fit_scale(self, x: Tensor) -> None:
        if not (self.learned or self.by_gradient):
            return
        center, spread = center_and_spread(x)
        if self.started:
            if len(x) >= _MANY and spread.any():  # rows of a smaller scale than the first ones may be known as well
                floor = math.log(self.start(spread)) + math.log(self.SMALLEST)
                self.log_floor.clamp_(max=floor)
        elif spread.any():  # constant rows have no spread to start at
            self.log_scale.fill_(math.log(self.start(spread)))
            if self.by_gradient:
                self._start_each(spread)
            self.log_floor.copy_(self.log_scale + math.log(self.SMALLEST))
            self.started.fill_(True)
            self.fit_location(center, spread)

    @torch.no_grad()
    def relative_spread(self, x: Tensor) -> float:
        spread = center_and_spread(x)[1]
        if not (self.learned or self.by_gradient) or not self.started or len(x) < _MANY or not spread.any():
            return 1.0
        began = float(self.log_floor.exp()) / self.SMALLEST
        ratio = self.start(spread) / began if began > 0 else 1.0
        return ratio if math.isfinite(ratio) else 1.0

    def fit_location(self, center: Tensor, spread: Tensor) -> None:
        """Store the center and the spread of the first rows, if the model needs them."""

    def excess(self) -> float:
        if self.scales_of_each is not None:
            return float((self.scales_of_each() - self.scales_of_each.start).exp().mean())
        return float((self.log_scale - self.log_floor).exp()) * self.SMALLEST if self.learned else 0.0

    @torch.no_grad()
    def update_scale(self, nll: Tensor) -> None:
        if self.learned:
            moved = torch.add(self.log_scale, self.log_gap(nll), alpha=self.RATE)
            self.log_scale.copy_(torch.maximum(moved, self.log_floor))
