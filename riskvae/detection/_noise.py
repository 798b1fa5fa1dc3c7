"""How rows that a model has not seen differ from what it makes of them, and the noise that follows from that."""

import math
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from riskvae.detection._marginals import Marginals
from riskvae.losses import LOG_2PI

__all__ = ["CHUNK", "LEAST", "Errors", "Noise"]

# Values that are computed at once.
CHUNK = 2**22
# Of so many rows, the one that fits worst does not count (at least one, from twenty rows on).
_WORST, _FEW = 100, 20
# Nor do those whose loss exceeds the upper quartile by so many interquartile ranges, of a nat at least.
_REACH = 100.0
# An error of a feature's own spread is taken to have been seen in so many rows before any: scales are never 0.
_PRIOR = 0.1
# A feature's own scales are used where they are better by so many standard errors.
_SURE = 2.0
# Least scale of a value, in units of its feature's: quantiles may collapse where the decoder extrapolates.
LEAST = 0.1
# Tail of |z| by which scales of features with repeated values are measured, and what it is of a normal variable.
_TAIL, _NORMAL_TAIL = 0.995, 2.807


class Errors(NamedTuple):
    """Errors of n rows with d features.

    Parameters
    ----------
    squares : Tensor of shape (n, d)
        Squared errors of the medians, mean of two opposite draws from the posterior.
    scales : Tensor of shape (n, d)
        Standard deviations by the decoded quantiles at the posterior mean; NaN where there are no two.
    z : Tensor of shape (n, d)
        Normal scores of the values under these quantiles.
    loss : Tensor of shape (n,)
        Reconstruction losses, in nats.
    """

    squares: Tensor
    scales: Tensor
    z: Tensor
    loss: Tensor

    @classmethod
    @torch.no_grad()
    def of(cls, vae: Any, x: Tensor, seed: int) -> Self:
        """Errors of rows."""
        generator, found = torch.Generator().manual_seed(seed), []
        for rows in x.split(max(1, CHUNK // max(vae.likelihood.n_values, vae.widest))):
            posterior = vae.encode(rows)
            step = posterior.scale * torch.randn(posterior.scale.shape, generator=generator).to(rows)
            squares = sum(_squares(vae, rows, z) for z in (posterior.mean + step, posterior.mean - step))
            raw = vae.decoder(posterior.mean)
            quantiles, values = vae.likelihood.quantiles(raw), vae.likelihood.compared(rows, raw)
            found.append((
                0.5 * squares, vae.likelihood.scales(quantiles), vae.likelihood.normal_score(values, quantiles),
                vae.nll(rows, raw),
            ))  # fmt: skip
        return cls(*(torch.cat(parts) for parts in zip(*found, strict=True)))

    @classmethod
    def join(cls, parts: "list[Errors]") -> Self:
        """Errors of all rows of some parts."""
        return cls(*(torch.cat(fields) for fields in zip(*parts, strict=True)))


class Noise(nn.Module):
    r"""Density of a row's values around their medians, of each feature's own scale.

    .. math:: p(x_j) = \frac{n}{n+1} N(x_j; m_j, s_j^2) + \frac{1}{n+1} N(x_j; m_j, (3 u_j)^2)

    Scales s are root mean squared errors of n rows, but for the hundredth that fits worst and those that lie far off.
    The second part gives every value the chance of one row in n + 1 to be anything that the feature, of spread u, can
    be: what was never seen among n rows, such as a level of a category, is as unusual as that, and not beyond all
    bounds. A feature whose errors follow the decoded quantiles has s of these, times a constant, where that makes the
    rows likelier. Of a feature with few values, g apart, a miss costs as many nats as it is rare: s is at least
    :math:`g / \sqrt{2 \log(1/p)}` with p the share of errors larger than g / 2.

    Parameters
    ----------
    errors : Errors
        Of rows that the model has not seen, if there are any.
    unit : Tensor of shape (n_features,)
        Spread u of each feature.
    marginals : Marginals
        Of the features, which tells whose values repeat, and how far they are apart.
    n_rows : int
        Rows that were trained on.
    categories : Tensor of bool, default=None
        Features that are categories, whose errors are normal scores: s is at least 1, as chances tell.
    """

    error_scale: Tensor
    broad: Tensor
    own: Tensor
    factor: Tensor
    inflation: Tensor
    uses_own: bool | None = None  # whether any feature is ``own``, where that must be known without looking

    def __init__(
        self, errors: Errors, unit: Tensor, marginals: Marginals, n_rows: int, categories: Tensor | None = None
    ) -> None:
        super().__init__()
        gap, discrete = marginals.gap, marginals.discrete
        if categories is not None:
            gap = gap.masked_fill(categories, 0.0)
        self.n_rows = n_rows
        n = len(errors.loss)
        leave = 0 if n < _FEW else math.ceil(n / _WORST)
        quartiles = torch.tensor([0.25, 0.75], dtype=errors.loss.dtype, device=errors.loss.device)
        low, high = torch.quantile(errors.loss, quartiles)
        near = errors.loss <= high + _REACH * (high - low).clamp(min=1.0)
        self._counts = (errors.loss.argsort().argsort() < n - leave) & near
        squares, scales = errors.squares[self._counts], errors.scales[self._counts]
        total, known = _sums(squares)
        typical = unit.square().mean()
        self._prior = _PRIOR * torch.where(unit.square() < 1e-4 * typical, typical, unit.square())
        self._sum, self._n = total + self._prior, known + _PRIOR
        missed = (1.0 + (squares > (0.5 * gap).square()).sum(0)) / (known + 2)
        self._floor = gap / (-2.0 * missed.clamp(max=0.5).log()).sqrt()
        if categories is not None:
            self._floor = self._floor.masked_fill(categories, 1.0)
        self.register_buffer("error_scale", torch.maximum((self._sum / self._n).sqrt(), self._floor))
        self.register_buffer("broad", 3.0 * torch.maximum(unit.square(), self._prior / _PRIOR).sqrt())
        ratio = squares / torch.maximum(scales, LEAST * self.error_scale).square()
        self.register_buffer("factor", _means(ratio).sqrt())
        own = self._where_better(squares, scales) & (gap == 0) & (unit.square() > 1e-4 * typical)
        self.register_buffer("own", own if categories is None else own & ~categories)
        z = errors.z[self._counts].abs().sort(0).values  # missing ones come last
        count = torch.as_tensor(known).cpu()
        place = torch.minimum((_TAIL * count.double()).ceil().long(), count - 1).clamp(min=0).to(z.device)
        tail = z.gather(0, place.expand(1, z.shape[1]))[0] / _NORMAL_TAIL
        self.register_buffer("inflation", torch.where(discrete & (tail > 1.0), tail, torch.ones_like(tail)))

    def _where_better(self, squares: Tensor, scales: Tensor) -> Tensor:
        """Features whose errors follow the decoded scales: rows are likelier, beyond chance."""
        if len(squares) < _FEW or not torch.isfinite(scales).all():
            return torch.zeros_like(self.error_scale, dtype=torch.bool)
        own, s = torch.maximum(self.factor * scales, LEAST * self.error_scale), self.error_scale
        gain = 0.5 * squares * (s**-2 - own**-2) + (s / own).log()
        mean, known = _means(gain), _sums(gain)[1]
        deviation = ((gain - mean).square().nansum(0) / (torch.as_tensor(known) - 1.0).clamp(min=1.0).to(gain)).sqrt()
        sure = mean > _SURE * deviation / torch.as_tensor(known, dtype=gain.dtype, device=gain.device).sqrt()
        return sure & torch.isfinite(own).all(0)

    def without(self, errors: Errors) -> Tensor:
        """Scales (n, d) that each of the rows has by all others."""
        told = self._counts[:, None] & ~errors.squares.isnan()
        own = torch.where(told, errors.squares, torch.zeros_like(errors.squares))
        rest = (self._sum - own).clamp(min=0.0) + 1e-3 * self._prior
        return torch.maximum((rest / (self._n - told.to(rest))).sqrt(), self._floor)

    def forget(self) -> None:
        """Drop what only :meth:`without` needs."""
        del self._counts, self._sum, self._prior, self._floor

    def log_density(self, vae: Any, x: Tensor, raw: Tensor, scale: Tensor | None = None) -> Tensor:
        """Log-density (n_draws, n) of rows (n, d) whose decoded values are ``raw`` (n_draws, n, ...).

        Rows with missing values compare with whole ones: each counts as the typical value that is missing.
        """
        s = self.error_scale if scale is None else scale
        if self.own.any() if self.uses_own is None else self.uses_own:
            quantiles = vae.likelihood.quantiles(raw)
            median = vae.likelihood.at(quantiles, quantiles.new_zeros(()))
            own = torch.maximum(self.factor * vae.likelihood.scales(quantiles), LEAST * self.error_scale)
            s = torch.where(self.own, own, s)
        else:
            median = vae.likelihood.medians(raw)
        square = (vae.likelihood.compared(x, raw) - median).square()
        if vae.holes:  # a missing value is as likely as one that errs as much as usual
            square = torch.where(square.isnan(), s.square(), square)
        # No addcmul: the exporter of torch 2.6 cannot broadcast it.
        known = square * (-0.5 * s**-2) - s.log()
        other = square * (-0.5 * self.broad**-2) - (self.broad.log() + math.log(self.n_rows))
        constant = 0.5 * LOG_2PI + math.log1p(1.0 / self.n_rows)
        return torch.logaddexp(known, other).sum(-1) - constant * x.shape[-1]

    def blend(self, earlier: "Noise", share: float) -> None:
        """Go on from the noise of an earlier part of the data, with a share of what is new."""
        squares = share * self.error_scale.square() + (1 - share) * earlier.error_scale.square()
        self.error_scale = squares.sqrt()
        self.own, self.factor, self.broad = earlier.own, earlier.factor, earlier.broad
        self.inflation = torch.maximum(self.inflation, earlier.inflation)
        self.n_rows = max(self.n_rows, earlier.n_rows)


def _squares(vae: Any, x: Tensor, z: Tensor) -> Tensor:
    """Squared errors of rows that are decoded from latent points."""
    raw = vae.decoder(z)
    return (vae.likelihood.compared(x, raw) - vae.likelihood.medians(raw)).square()


def _sums(values: Tensor) -> tuple[Tensor, Tensor | int]:
    """Sums over rows of what is known of each feature, and how many rows that is."""
    missing = values.isnan()
    if not missing.any():
        return values.sum(0), len(values)
    return values.masked_fill(missing, 0.0).sum(0), (~missing).sum(0)


def _means(values: Tensor) -> Tensor:
    total, known = _sums(values)
    return total / (known.clamp(min=1) if isinstance(known, Tensor) else known)
