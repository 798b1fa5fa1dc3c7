"""A normal distribution of rows with missing values, and what its word is worth beside a model's."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

__all__ = ["NormalRows"]

Answer = Callable[[Tensor], tuple[Tensor, Tensor]]

# Rows that are looked at, fewer of wide ones by what they cost, and that are worked on together.
_ROWS, _WORK, _CHUNK = 4_000, 10**9, 250
# Steps of expectation-maximization; rows of independent features that the covariance begins with.
_STEPS, _PRIOR = 20, 5.0
# Each known value is hidden once, a tenth of them at a time.
_FOLDS = 10
_WEIGHTS = 21
# Beyond so many times the median of all errors one is far: five standard deviations of normal ones.
_FAR = 7.4
# Standard deviations within which nine tenths of normal values lie, and values by which a feature's own share counts.
_NINE_TENTHS, _FEW = 1.645, 20.0


class NormalRows(nn.Module):
    r"""Normal distribution of incomplete rows, fitted to what is known of them.

    .. math:: E[x_m \mid x_k] = \mu_m + \Sigma_{mk} \Sigma_{kk}^{-1} (x_k - \mu_k)

    of the missing values m and the known ones k of a row. A table of a hundred rows tells such a model more than it
    tells large networks. What each of both is worth is measured where values were known and hidden: the answer is
    :math:`w` times the networks' and :math:`1 - w` times this one, with the w of the smallest errors.

    Parameters
    ----------
    n_features : int
        Width of the rows.

    Attributes
    ----------
    weight : Tensor of shape ()
        What the model counts beside this distribution.
    stretch : Tensor of shape (n_features,)
        How much larger errors are than both together expect: nine tenths of the hidden values lie within the ranges
        of draws that are to hold as many.
    """

    WIDEST = 100  # a row costs the cube of its width

    center: Tensor
    unit: Tensor
    covariance: Tensor  # in these units
    weight: Tensor
    stretch: Tensor

    def __init__(self, n_features: int) -> None:
        super().__init__()
        self.register_buffer("center", torch.zeros(n_features))
        self.register_buffer("unit", torch.ones(n_features))
        self.register_buffer("covariance", torch.eye(n_features))
        self.register_buffer("weight", torch.tensor(0.5))
        self.register_buffer("stretch", torch.ones(n_features))

    def fit(self, x: Tensor) -> None:
        """Expectation-maximization from independent features, which a few rows more of their kind keep apart."""
        x = _some(x)
        n, d = x.shape
        center = x.nanmean(0).nan_to_num(0.0)
        unit = (x - center).square().nanmean(0).nan_to_num(0.0).sqrt()
        unit = torch.where(unit > 1e-12 * center.abs(), unit, torch.ones_like(unit))
        x = (x - center) / unit
        mean, covariance = torch.zeros(d, dtype=x.dtype), torch.eye(d, dtype=x.dtype)
        for _ in range(_STEPS):
            parts = [_conditional(part, mean, covariance) for part in x.split(_CHUNK)]
            rows = torch.cat([part for part, _ in parts])
            mean = rows.mean(0)
            spread = (rows - mean).T @ (rows - mean) + torch.stack([rest.sum(0) for _, rest in parts]).sum(0)
            covariance = (spread + _PRIOR * torch.eye(d, dtype=x.dtype)) / (n + _PRIOR)
        self.center.copy_(center + unit * mean)
        self.unit.copy_(unit)
        self.covariance.copy_((covariance + covariance.T) / 2)

    def conditional(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Rows (n, d) with means given what is known of them, and covariances (n, d, d) in units, 0 where it is."""
        given = x.cpu().double()
        center, unit, covariance = (part.cpu().double() for part in (self.center, self.unit, self.covariance))
        rows, rest = _conditional((given - center) / unit, torch.zeros_like(center), covariance)
        return torch.where(given.isnan(), center + unit * rows, given).to(x), rest

    def weigh(self, x: Tensor, answer: Answer) -> None:
        """Measure on rows what a model's ``answer`` is worth: means and standard deviations of missing values."""
        x, unit = _some(x), self.unit.cpu().double()
        errors = []
        for hidden in _hidden(~x.isnan()):
            for part, here in zip(x.split(_CHUNK), hidden.split(_CHUNK), strict=True):
                part, here = part[here.any(1)], here[here.any(1)]
                if not len(part):
                    continue
                given = part.masked_fill(here, torch.nan)
                theirs, spread = (value.cpu().double() for value in answer(given))
                own, rest = self.conditional(given)
                away = (theirs - part) / unit, (own - part) / unit, spread / unit
                parts = *away, rest.diagonal(dim1=1, dim2=2).sqrt()
                errors.append(torch.stack(parts).masked_fill(~here, torch.nan))
        if not errors:
            return
        theirs, own, spread, rest = torch.cat(errors, 1)
        weights = torch.linspace(0.0, 1.0, _WEIGHTS, dtype=x.dtype)
        w = weights[torch.stack([_usual(torch.lerp(own, theirs, w)) for w in weights]).argmin()]
        expected = torch.lerp(rest.square(), spread.square(), w).sqrt().clamp(min=1e-6)
        ratio = torch.lerp(own, theirs, w).abs() / expected / _NINE_TENTHS
        n, of_all = (~ratio.isnan()).sum(0), ratio.nanquantile(0.9)
        of_each = torch.where(n > 0, ratio.nanquantile(0.9, 0), of_all)
        self.weight.copy_(w)
        self.stretch.copy_((n * of_each + _FEW * of_all) / (n + _FEW))

    def sound(self) -> bool:
        """Whether these are numbers that a fit could have given."""
        scales = torch.stack((self.unit, self.stretch))
        fair = bool(((scales > 0) & scales.isfinite() & self.center.isfinite()).all() and 0 <= self.weight <= 1)
        covariance = self.covariance.cpu().double()
        return fair and torch.equal(covariance, covariance.T) and not torch.linalg.cholesky_ex(covariance).info

    def mixed(self, theirs: Tensor, own: Tensor) -> Tensor:
        """The answer of both."""
        return torch.lerp(own, theirs, self.weight.to(theirs))

    def spread(self, theirs: Tensor, rest: Tensor, generator: torch.Generator) -> Tensor:
        """Deviations (n, n_draws, d) of draws: a model's own ones, ``theirs``, beside those of covariances ``rest``.

        The variances of both are weighed as their means are, then stretched to what errors were.
        """
        root = torch.linalg.cholesky(rest + 1e-9 * torch.eye(rest.shape[-1], dtype=torch.float64))
        own = self.unit.double() * (torch.randn(theirs.shape, generator=generator, dtype=torch.float64) @ root.mT)
        w = self.weight.double()
        return self.stretch.double() * (w.sqrt() * theirs.double() + (1.0 - w).sqrt() * own)


def _usual(errors: Tensor) -> Tensor:
    """Sum of squared errors in which far ones count as if they were at the edge: a few would decide otherwise."""
    size = errors.abs()
    return size.minimum(_FAR * size.nanmedian()).square().nansum()


def _some(x: Tensor) -> Tensor:
    """At most some thousands of the rows, fewer of wide ones, in double precision."""
    n = min(_ROWS, max(1, _WORK // x.shape[1] ** 3))
    i = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[:n]
    return x[i.to(x.device)].cpu().double()


def _hidden(known: Tensor) -> Iterator[Tensor]:
    """Known values to hide, each of them once; something of every row stays."""
    fold = torch.randint(0, _FOLDS, known.shape, generator=torch.Generator().manual_seed(1))
    for i in range(_FOLDS):
        hidden = known & (fold == i)
        yield hidden & (known & ~hidden).any(1, keepdim=True)


def _conditional(x: Tensor, mean: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Rows with what is missing (NaN) filled in, and the covariance of that, rows at once."""
    known = (~x.isnan()).to(x)
    away = torch.where(known > 0, x - mean, torch.zeros_like(x))
    between = covariance * known[:, :, None]  # of known features with all
    root = torch.linalg.cholesky(between * known[:, None, :] + torch.diag_embed(1.0 - known))
    gain = torch.cholesky_solve(between, root)
    rows = torch.where(known > 0, x, mean + (away[:, None] @ gain)[:, 0])
    rest = (covariance - between.mT @ gain) * (1.0 - known)[:, :, None] * (1.0 - known)[:, None, :]
    return rows, rest
