"""What a decoder of quantiles says about each value of a row: quantiles, intervals, scores, p-values."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from riskvae._validation import boolean, check_parameters, choice, real
from riskvae.detection._calibration import discoveries
from riskvae.estimators._in_parts import in_parts
from riskvae.estimators._quantile_answers import QuantileAnswersMixin

__all__ = ["QuantilePredictionsMixin"]

Array = NDArray[Any]

_share = real(0.0, 1.0, closed="neither")
_TAILS = ("two-sided", "greater", "less")


class QuantilePredictionsMixin(QuantileAnswersMixin):
    """Methods of a fitted estimator whose likelihood is of quantiles."""

    @in_parts
    def predict_quantiles(self, X: Any, *, left_out: bool = False) -> Array:
        """Quantiles of each feature, decoded from the posterior mean of each row.

        With ``left_out`` each value is judged by a model that has not seen it: for feature j the row is encoded with
        value j missing, so that takes ``n_features`` passes. What the other values leave open of the latent point is
        not in these quantiles, which makes them too narrow; calibration mends that in :meth:`predict_interval` and
        :meth:`p_values`.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or torch Dataset
            Rows.
        left_out : bool, default=False
            Decode the quantiles of each value from the other values of its row, as if it were missing.

        Returns
        -------
        ndarray of shape (n_samples, n_features, n_quantiles)
            In the order of ``quantiles``, never crossing. Not calibrated.
        """
        _check_left_out("predict_quantiles", left_out)
        return self._in_units(self._judged(self._check_rows(X), left_out).quantiles)

    @in_parts
    def predict_interval(self, X: Any, alpha: float, *, left_out: bool = False) -> Array:
        r"""Interval of each feature that is to hold a share 1 - alpha of its values.

        Its ends are the quantiles of levels alpha / 2 and 1 - alpha / 2, between trained levels by interpolation,
        linear in the normal score. Calibration moves them outwards, or inwards, by one distance c per feature,

        .. math:: [\,q_{\alpha/2} - c,\; q_{1-\alpha/2} + c\,], \qquad
                  c = \text{the } \lceil (n + 1)(1 - \alpha) \rceil\text{-th smallest }
                  \max(q_{\alpha/2} - x,\; x - q_{1-\alpha/2})

        of the n calibration rows. Where those and a new row are exchangeable, each value of the new row lies in its
        interval with probability at least 1 - alpha, whatever the model is worth. This is *marginal*: on
        average over rows, for each feature by itself. It is not promised among rows of one kind, nor for all
        features of a row together. The decoder has seen the row: an interval says how far a value may lie from its
        own reconstruction, and is no forecast. With ``left_out`` it is one, from the other values of the row; residuals
        are then of calibration rows whose values were left out, too (of 2,000 rows at most).

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or torch Dataset
            Rows.
        alpha : float
            One minus the coverage, in (0, 1). Only after calibration beyond the trained levels, where the slope
            between the outermost two goes on.
        left_out : bool, default=False
            Decode the quantiles of each value from the other values of its row, as if it were missing.

        Returns
        -------
        ndarray of shape (n_samples, n_features, 2)
            Lower and upper ends; infinite, with a warning, where alpha asks for more calibration rows than there
            are.

        Raises
        ------
        ValueError
            If alpha reaches beyond the trained levels without calibration; with fewer than two levels; with
            ``left_out`` if the calibration left no values out.

        References
        ----------
        Romano, Patterson and Candes, "Conformalized quantile regression" (2019).
        """
        check_parameters("predict_interval", {"alpha": alpha}, {"alpha": _share})
        _check_left_out("predict_interval", left_out)
        self._check_two_levels("predict_interval")
        rows, residuals = self._check_rows(X), self._residuals("predict_interval", left_out)
        low, high = self._levels[0], self._levels[-1]
        if residuals is None and not (low <= alpha / 2 + 1e-9 and 1 - alpha / 2 <= high + 1e-9):
            raise ValueError(
                f"predict_interval: alpha={alpha:g} asks for the levels {alpha / 2:g} and {1 - alpha / 2:g}, beyond "
                f"the trained ones, {low:g} to {high:g}. Call conformalize(X_cal) with held-out rows, fit with "
                f"calibration_fraction above 0, or train with quantiles=({alpha / 2:g}, 0.5, {1 - alpha / 2:g})."
            )
        return self._in_units(self._interval(self._judged(rows, left_out).quantiles, alpha, residuals))

    @in_parts
    def predict_scale(self, X: Any, *, left_out: bool = False) -> Array:
        r"""Standard deviation of each feature around its median, where it is normal.

        .. math:: \sigma_j = \kappa_j \frac{q_{j,b} - q_{j,a}}{\Phi^{-1}(b) - \Phi^{-1}(a)}

        with the outermost levels a and b; never below a tenth of the feature's root mean squared error on rows
        that the model has not seen, as quantiles may collapse where the decoder extrapolates, far from all training
        rows. The factor :math:`\kappa` is 1, but for features whose values repeat, such as categories: there levels do
        not tell of what is rare, and it makes 99.5 % of the unseen rows have :math:`|z_j| \le 2.8`. With ``left_out``,
        after calibration, it is never below the feature's spread of errors of values that were left out.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or torch Dataset
            Rows.
        left_out : bool, default=False
            Decode the quantiles of each value from the other values of its row, as if it were missing.

        Returns
        -------
        ndarray of shape (n_samples, n_features)
            In the units of X.

        Raises
        ------
        ValueError
            With fewer than two levels.
        """
        self._check_two_levels("predict_scale")
        _check_left_out("predict_scale", left_out)
        quantiles = self._judged(self._check_rows(X), left_out).quantiles
        scale = self._scale(quantiles, self._measure(left_out))
        if self.module_.likelihood.categories is None:
            return scale
        median = self._at(quantiles, 0.5)[..., 0]  # of logarithms, a unit is as large as the value
        low, high = np.moveaxis(self._in_units(np.stack((median - scale, median + scale), -1)), -1, 0)
        return 0.5 * (high - low)

    @in_parts
    def z_scores(self, X: Any, *, left_out: bool = False) -> Array:
        r"""Normal score of each value: where it lies among its predicted quantiles, in standard deviations.

        .. math:: z_j = \Phi^{-1}(a) / \kappa_j \quad\text{where}\quad q_{j,a}(x) = x_j

        with quantiles of all levels a linear in the normal score, between the trained levels and beyond, and
        :math:`\kappa` as in :meth:`predict_scale`. Where quantiles lie evenly around the median that is
        :math:`(x_j - m_j) / \sigma_j`; where noise is skewed, each side has its own scale. Quantiles are decoded from
        what the encoder made of the whole row: an anomaly in one feature moves the latent point, and so the z-scores of
        features that usually go with it. Read them as where the row and its reconstruction part. With ``left_out`` each
        value is compared with what the others say; after calibration, scores beyond the outermost levels rise no faster
        than by the feature's spread of such errors.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or torch Dataset
            Rows.
        left_out : bool, default=False
            Decode the quantiles of each value from the other values of its row, as if it were missing.

        Returns
        -------
        ndarray of shape (n_samples, n_features)
            Positive above the median.

        Raises
        ------
        ValueError
            With fewer than two levels.
        """
        _check_left_out("z_scores", left_out)
        self._check_two_levels("z_scores")
        rows = self._check_rows(X)
        judged = self._judged(rows, left_out)
        return self._z_of(judged.values, judged.quantiles, self._measure(left_out))

    def p_values(
        self, X: Any, *, alternative: str = "two-sided", mask: ArrayLike | None = None, left_out: bool = False
    ) -> Array:
        r"""Probability of a value at least as far from its median, feature by feature.

        After calibration (``calibration_fraction`` or :meth:`conformalize`) the share of values of the calibration rows
        that are as far out, over all d features that are looked at,

        .. math:: p_j = \frac{1 + \#\{(i, l) : |z_{il}| \ge |z_j|\}}{1 + n d}

        (for one side, z or -z in place of :math:`|z|`): for rows exchangeable with those it holds whatever the model is
        worth, on average over features; of a table over its numbers, and each column of categories by itself. Without
        calibration it is that of the model,

        .. math:: 2 \Phi(-|z_j|) \text{ (two-sided)}, \qquad \Phi(-z_j) \text{ (greater)}, \qquad
                  \Phi(z_j) \text{ (less)}

        of the :meth:`z_scores`: uniform where the model is right and features are normal around their medians. With
        ``left_out`` both sides are z-scores of values that were left out; as their spreads are those of the calibration
        rows, the promise holds nearly.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or torch Dataset
            Rows.
        alternative : {"two-sided", "greater", "less"}, default="two-sided"
            What is unusual: values far from the median, above it, or below it.
        mask : array-like of bool, shape (n_features,) or (n_samples, n_features), default=None
            Where to look; elsewhere the result is NaN.
        left_out : bool, default=False
            Decode the quantiles of each value from the other values of its row, as if it were missing.

        Returns
        -------
        ndarray of shape (n_samples, n_features)
            In [0, 1], or NaN.
        """
        check_parameters("p_values", {"alternative": alternative}, {"alternative": choice(*_TAILS)})
        self._check_fitted()
        residuals = self._residuals("p_values", left_out)
        z = self.z_scores(X, left_out=left_out)
        return self._p_of(z, alternative, _checked_mask(mask, z.shape), residuals, self._measure(left_out))

    def detect_features(
        self,
        X: Any,
        fdr: float = 0.05,
        *,
        alternative: str = "two-sided",
        mask: ArrayLike | None = None,
        left_out: bool = False,
    ) -> NDArray[np.bool_]:
        """Values that stand out from the reconstruction of their row: discoveries among its features, or pixels.

        The Benjamini-Hochberg procedure over the :meth:`p_values` of each row by itself. After calibration those are
        what calibration rows say, and of rows like these about ``fdr`` have a discovery at most. Without it they are as
        good as the model: look at the spread of :meth:`z_scores` on held-out rows, which should be near 1.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or torch Dataset
            Rows.
        fdr : float, default=0.05
            False discovery rate within a row, in (0, 1).
        alternative, mask, left_out
            As in :meth:`p_values`; what is masked is not counted.

        Returns
        -------
        ndarray of bool, of shape (n_samples, n_features)
            True for discoveries.
        """
        check_parameters("detect_features", {"fdr": fdr}, {"fdr": _share})
        p = self.p_values(X, alternative=alternative, mask=mask, left_out=left_out)
        return discoveries(p, fdr)


def _check_left_out(method: str, left_out: Any) -> None:
    check_parameters(method, {"left_out": left_out}, {"left_out": boolean})


def _checked_mask(mask: ArrayLike | None, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    if mask is None:
        return np.ones(shape, dtype=bool)
    where = np.asarray(mask)
    if where.dtype != bool or where.shape not in (shape, shape[1:]):
        raise ValueError(
            f"mask must be of bool and of shape (n_features,) = {shape[1:]} or (n_samples, n_features) = {shape}, True "
            f"where to look; got {where.dtype} of shape {where.shape}. Flatten masks of images as the images are."
        )
    return np.broadcast_to(where, shape)
