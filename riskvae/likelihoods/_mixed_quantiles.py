"""Columns of different kinds as a detector compares them: numbers by their quantiles, categories by their chances."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from riskvae._machine import constant, index
from riskvae.likelihoods._categorical import Categorical
from riskvae.likelihoods._counts import Counts
from riskvae.likelihoods._log_normal import LogNormal
from riskvae.likelihoods._mixed import Mixed
from riskvae.likelihoods._quantiles import Quantiles

__all__ = ["MixedQuantiles"]

_LEAST = 1e-30  # whose logarithm single precision has


class MixedQuantiles(Mixed):
    r"""A table whose columns are categories, or numbers by their quantiles.

    Numbers are compared in standard deviations of their columns, those of :class:`LogNormal` columns by their
    logarithms. A category x is compared as a normal value would be that is as much less likely than the likeliest one,

    .. math:: z = \sqrt{2 \log \frac{\max_c p_c}{p_x}},

    its deviance residual, so that all columns count in the same currency: nats.

    Parameters
    ----------
    columns : dict of column to Likelihood
        Categories as they are; of all others the quantiles are learned.
    levels : sequence of float
        Their levels.
    unknown : {"error", "missing"}, default="error"
        What to do with categories that are not named.
    """

    def __init__(
        self, columns: Mapping[Any, Any], levels: Sequence[float], unknown: Literal["error", "missing"] = "error"
    ) -> None:
        super().__init__(columns, unknown)
        self.levels = levels

    logs: Tensor | None  # columns whose logarithms are compared
    counts: Tensor

    def setup(self, n_features: int) -> None:
        given, self.reader = self.columns, Quantiles(self.levels)
        self._check_columns(n_features)
        others = {place: one for place, one in enumerate(given.values()) if not isinstance(one, Categorical)}
        self._given = {place: copy.deepcopy(one).prepare(1) for place, one in others.items()}
        self.columns = {
            name: one if isinstance(one, Categorical) else Quantiles(self.levels) for name, one in given.items()
        }
        super().setup(n_features)
        self.reader.prepare(1)
        self.normal_scores = self.reader.normal_scores
        where = torch.tensor([isinstance(one, Categorical) for one in self.columns.values()])
        self.register_buffer("categories", where, persistent=False)
        logs = torch.tensor([isinstance(self._given.get(place), LogNormal) for place in range(n_features)])
        self.register_buffer("logs", logs if logs.any() else None, persistent=False)
        counts = [isinstance(self._given.get(place), Counts) for place in range(n_features)]
        self.register_buffer("counts", torch.tensor(counts), persistent=False)
        self.values_per_feature = len(self.normal_scores)  # quantiles of each

    def check(self, x: Tensor) -> None:
        """What the given likelihoods refuse is refused in training; later it is unusual."""
        self.check_seen(x)
        for place, likelihood in self._given.items():
            likelihood.names = [self.names_of_columns[place]]
            likelihood.check(x[:, [place]])

    def check_seen(self, x: Tensor) -> None:
        super().check(x)

    def _unskewed(self, x: Tensor) -> Tensor:
        return x if self.logs is None else torch.where(self.logs, x.clamp(min=_LEAST).log(), x)

    def _skewed(self, x: Tensor) -> Tensor:
        x = torch.where(self.counts, x.clamp(min=0.0), x)
        return x if self.logs is None else torch.where(self.logs, x.exp(), x)

    # These ask for the normal scores of the levels alone.
    at = Quantiles.at
    scales = Quantiles.scales
    normal_score = Quantiles.normal_score

    @property
    def unit(self) -> Tensor:
        """Spread of each feature, among those of :meth:`compared`."""
        return self._joined([
            part.unit if isinstance(part, Quantiles) else self.spread.new_ones(len(places))
            for part, places in zip(self.parts, self._places, strict=True)
        ])  # fmt: skip

    def quantiles(self, raw: Tensor) -> Tensor:
        """Quantiles (..., n_features, n_levels) of :meth:`compared` values; of categories those of a normal one."""
        t = constant(self.normal_scores, raw)
        found = []
        for part, own, places in self._raw_of_parts(raw):
            normal = t.expand(*raw.shape[:-1], len(places), len(t))
            found.append(part.quantiles(own) if isinstance(part, Quantiles) else normal)
        return torch.cat(found, -2)[..., self._order, :]

    def medians(self, raw: Tensor) -> Tensor:
        return self._joined([
            part.mean(own) if isinstance(part, Quantiles) else own.new_zeros(*own.shape[:-1], len(places))
            for part, own, places in self._raw_of_parts(raw)
        ])  # fmt: skip

    def compared(self, x: Tensor, raw: Tensor) -> Tensor:
        u, shape = self._standardized(x), (*raw.shape[:-1], -1)
        return self._joined([
            columns.expand(shape) if isinstance(part, Quantiles) else part.deviance(columns, own)
            for (part, own, _), columns in ((one, u[..., index(one[2], u)]) for one in self._raw_of_parts(raw))
        ])  # fmt: skip

    def ordered(self, x: Tensor) -> Tensor:
        """Rows with the ranks of categories by how common they are: rare ones are at the end."""
        ordered = x.clone()
        for part, places, own in self._of_parts(x):
            if isinstance(part, Categorical):
                rank = part.log_share.argsort(0, descending=True).argsort(0).to(x)
                found = rank.gather(0, own.nan_to_num(0.0).long().clamp(0, len(rank) - 1))
                ordered[..., places] = torch.where(own.isnan(), own, found)
        return ordered

    def in_units(self, values: Tensor) -> Tensor:
        """Quantiles (..., n_features, n) of :meth:`compared` values in the units of columns; NaN for categories."""
        found = self._skewed((values * self.spread[:, None] + self.center[:, None]).mT).mT
        return found.masked_fill(self.categories[:, None], torch.nan)  # type: ignore[index]
