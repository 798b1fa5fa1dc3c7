"""What is behind statements about values: decoded quantiles, with or without the value, and what follows from them."""

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import norm
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from riskvae.detection._calibration import Calibration
from riskvae.detection._left_out import WIDEST, judged, spread_of
from riskvae.detection._left_out import left_out as left_out_of
from riskvae.detection._noise import LEAST
from riskvae.detection._score import RowScore
from riskvae.estimators._inference import InferenceMixin

__all__ = ["QuantileAnswersMixin"]

Array = NDArray[Any]


class Judged(NamedTuple):
    """Values of rows as they are compared, central values in units of X (None: medians), and decoded quantiles."""

    values: Array
    central: Array | None
    quantiles: Array

    @property
    def residuals(self) -> Array:
        """Values minus their quantiles."""
        return self.values[..., None] - self.quantiles


class Measure(NamedTuple):
    """Smallest scale of each feature, and what z-scores of those whose values repeat are divided by."""

    least: Array
    inflation: Array


class QuantileAnswersMixin(InferenceMixin):
    """A fitted estimator's quantiles of checked rows, and intervals, scales, scores and p-values of these."""

    _row_score: RowScore
    _calibration: Calibration | None

    @property
    def _levels(self) -> tuple[float, ...]:
        """Levels that the model was trained with."""
        return self.module_.likelihood.levels

    def _judged(self, rows: Array, left_out: bool = False) -> "Judged":
        """Values and their decoded quantiles; with ``left_out`` by a model that has not seen the value."""
        likelihood, d = self.module_.likelihood, rows.shape[1]
        if not left_out and likelihood.categories is None:  # values are compared as they are
            return Judged(rows, None, self._map_rows(_quantiles, rows, width=likelihood.n_values)[0])
        width = max(likelihood.n_values, self.module_.widest, (2 + len(self._levels)) * d)
        if left_out:
            found = self._map_rows(lambda vae, x: (left_out_of(vae, x),), rows, width=d * width, holes=True)[0]
        else:
            found = self._map_rows(lambda vae, x: (judged(vae, x, vae.encode(x).mean),), rows, width=width)[0]
        return Judged(found[..., 0], found[..., 1], found[..., 2:])

    def _in_units(self, values: Array) -> Array:
        """Quantiles (n, n_features, n) in the units of X; NaN for categories, which have none."""
        return self.module_.likelihood.in_units(torch.from_numpy(values)).numpy()

    def _at(self, quantiles: Array, *levels: float) -> Array:
        """Quantiles of other levels than the trained ones, along the last dimension."""
        given = torch.from_numpy(quantiles)
        scores = torch.tensor(norm.ppf(levels)).to(given)
        return torch.stack([self.module_.likelihood.at(given, score) for score in scores], -1).numpy()

    def _residuals(self, method: str, left_out: bool) -> Array | None:
        """What calibration rows left of their values; None before calibration."""
        if self._calibration is None or not left_out:
            return None if self._calibration is None else self._calibration.residuals
        if self._calibration.blind is None:
            raise ValueError(
                f"{method}(left_out=True) compares with calibration rows whose values were left out one by one, and "
                f"there are none: the calibration is from a file of an earlier version, there are more than {WIDEST:,} "
                f"features (here {self.n_features_in_}), or it was made with left_out=False. Call conformalize(X_cal, "
                "left_out=True) with rows that were not trained on; it takes a pass for each of their values, of at "
                "most 2,000 rows."
            )
        return self._calibration.blind

    def _interval(self, quantiles: Array, alpha: float, residuals: Array | None) -> Array:
        ends = self._at(quantiles, alpha / 2, 1 - alpha / 2)
        if residuals is None:
            return ends
        # Quantiles of other levels are affine in the trained ones, and so is what is left of a value without them.
        below, above = np.moveaxis(self._at(residuals, alpha / 2, 1 - alpha / 2), -1, 0)
        return self._calibration.widen(ends, np.maximum(-below, above), alpha)  # type: ignore[union-attr]

    def _measure(self, left_out: bool) -> "Measure":
        """What z-scores are measured by; of values that were left out the spread of their errors, once it is known."""
        noise, calibration = self._row_score.noise, self._calibration
        least, inflation = (part.numpy(force=True) for part in (LEAST * noise.error_scale, noise.inflation))
        if not left_out or calibration is None or calibration.blind is None:
            return Measure(least, inflation)
        spread = spread_of(self._at(calibration.blind, 0.5)[..., 0], least).astype(least.dtype)
        return Measure(spread, np.ones_like(inflation))  # the spread tells of values that repeat, too

    def _scale(self, quantiles: Array, measure: "Measure") -> Array:
        scale = self.module_.likelihood.scales(torch.from_numpy(quantiles)).numpy()
        return (np.maximum(scale, measure.least) * measure.inflation).astype(quantiles.dtype)

    def _z_of(self, rows: Array, quantiles: Array, measure: "Measure") -> Array:
        """Normal scores of values among their quantiles; those of residuals are among quantiles around 0."""
        given = torch.from_numpy(quantiles)
        x = torch.from_numpy(np.array(rows, quantiles.dtype))
        least, inflation = (torch.from_numpy(part).to(given) for part in measure)
        return (self.module_.likelihood.normal_score(x, given, least) / inflation).numpy()

    def _p_of(
        self, z: Array, alternative: str, where: NDArray[np.bool_], residuals: Array | None, measure: "Measure"
    ) -> Array:
        """p-values of z-scores, among those of residuals if there are any."""
        far = {"two-sided": np.abs, "greater": np.positive, "less": np.negative}[alternative]
        if residuals is None:
            p = norm.sf(far(z)) * (2.0 if alternative == "two-sided" else 1.0)
        else:
            known, p = (
                self._z_of(np.zeros(residuals.shape[:-1], residuals.dtype), -residuals, measure),
                np.empty(z.shape),
            )
            for columns in self._alike():
                pool = far(known[:, columns & where.any(0)])
                pool = np.sort(pool[~np.isnan(pool)])
                p[:, columns] = (1.0 + len(pool) - np.searchsorted(pool, far(z[:, columns]))) / (1.0 + len(pool))
        return np.where(where & ~np.isnan(z), p, np.nan).astype(z.dtype)

    def _alike(self) -> list[NDArray[np.bool_]]:
        """Features whose z-scores are compared with each other: numbers, and each column of categories by itself."""
        categories = self.module_.likelihood.categories
        if categories is None:
            return [np.ones(self.n_features_in_, dtype=bool)]
        where = categories.numpy(force=True)
        return [~where, *np.eye(len(where), dtype=bool)[where]]

    def _check_two_levels(self, method: str) -> None:
        check_is_fitted(self)
        if len(self._levels) < 2:
            raise ValueError(
                f"{method} needs the distance between quantiles, so at least two of them; the model was trained with "
                f"quantiles={self._levels!r}. Train it with two or more, such as (0.15, 0.5, 0.85)."
            )


def _quantiles(vae: Any, x: Tensor) -> tuple[Tensor]:
    return (vae.likelihood.quantiles(vae.decoder(vae.encode(x).mean)),)
