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

        With ``left_out``, each value is predicted by a model that has not seen it: for feature j, the row is encoded
        with value j missing, which takes ``n_features`` passes. These quantiles are too narrow, because they leave out
        the uncertainty of the latent point given the other values; calibration corrects this in
        :meth:`predict_interval` and :meth:`p_values`.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or torch Dataset
            Rows.
        left_out : bool, default=False
            Whether to predict each value from the other values of its row, as if it were missing.

        Returns
        -------
        ndarray of shape (n_samples, n_features, n_quantiles)
            In the order of ``quantiles``. They never cross, and are not calibrated.
        """
        _check_left_out("predict_quantiles", left_out)
        return self._in_units(self._judged(self._check_rows(X), left_out).quantiles)

    @in_parts
    def predict_interval(self, X: Any, alpha: float, *, left_out: bool = False) -> Array:
        r"""Interval of each feature that should contain a fraction 1 - alpha of its values.

        Its ends are the quantiles of levels alpha / 2 and 1 - alpha / 2; between trained levels they are interpolated
        linearly in the normal score. Calibration moves the ends outwards, or inwards, by one distance c per feature,

        .. math:: [\,q_{\alpha/2} - c,\; q_{1-\alpha/2} + c\,], \qquad
                  c = \text{the } \lceil (n + 1)(1 - \alpha) \rceil\text{-th smallest }
                  \max(q_{\alpha/2} - x,\; x - q_{1-\alpha/2})

        over the n calibration rows. If these and a new row are exchangeable, each value of the new row lies in its
        interval with probability at least 1 - alpha, whatever the quality of the model. This guarantee is *marginal*:
        it holds on average over rows, for each feature by itself, but not among rows of one kind, nor for all features
        of a row together.

        The decoder has seen the row, so an interval says how far a value may lie from its own reconstruction; it is not
        a forecast. With ``left_out`` it is a forecast from the other values of the row, and calibration uses residuals
        of left-out values, too (of at most 2,000 rows).

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or torch Dataset
            Rows.
        alpha : float
            One minus the coverage, in (0, 1). Levels beyond the trained ones need calibration; they continue the slope
            between the outermost two.
        left_out : bool, default=False
            Whether to predict each value from the other values of its row, as if it were missing.

        Returns
        -------
        ndarray of shape (n_samples, n_features, 2)
            Lower and upper ends; infinite, with a warning, if alpha needs more calibration rows than there are.

        Raises
        ------
        ValueError
            If alpha needs levels beyond the trained ones and the model is not calibrated; with fewer than two levels;
            with ``left_out``, if the calibration left no values out.

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
        r"""Standard deviation of each feature around its median, if its distribution is normal.

        .. math:: \sigma_j = \kappa_j \frac{q_{j,b} - q_{j,a}}{\Phi^{-1}(b) - \Phi^{-1}(a)}

        with the outermost levels a and b. It is never below a tenth of the feature's root mean squared error on unseen
        rows, because quantiles may collapse where the decoder extrapolates, far from all training rows. The factor
        :math:`\kappa` is 1, except for features whose values repeat, such as categories. There, levels do not show what
        is rare, and :math:`\kappa` is such that 99.5% of the unseen rows have :math:`|z_j| \le 2.8`. With ``left_out``,
        after calibration, the scale is never below the feature's spread of errors of left-out values.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or torch Dataset
            Rows.
        left_out : bool, default=False
            Whether to predict each value from the other values of its row, as if it were missing.

        Returns
        -------
        ndarray of shape (n_samples, n_features)
            Standard deviations, in the units of X.

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
        r"""Normal score of each value: its position among its predicted quantiles, in standard deviations.

        .. math:: z_j = \Phi^{-1}(a) / \kappa_j \quad\text{where}\quad q_{j,a}(x) = x_j

        Quantiles of all levels a are linear in the normal score, between the trained levels and beyond, and
        :math:`\kappa` is as in :meth:`predict_scale`. If the quantiles are symmetric around the median, z is
        :math:`(x_j - m_j) / \sigma_j`; for skewed noise, each side has its own scale. Quantiles are decoded from the
        code of the whole row, so an anomaly in one feature moves the latent point and changes the z-scores of features
        that usually go with it. Read them as the differences between a row and its reconstruction. With ``left_out``,
        each value is compared with its prediction from the other values; after calibration, the standard deviation
        beyond the outermost levels is then at least the feature's spread of such errors.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or torch Dataset
            Rows.
        left_out : bool, default=False
            Whether to predict each value from the other values of its row, as if it were missing.

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
        r"""p-value of each value: the probability of a value at least as far from its median.

        After calibration (``calibration_fraction`` or :meth:`conformalize`), it is the share of calibration values that
        are at least as far out, over all d features that are tested,

        .. math:: p_j = \frac{1 + \#\{(i, l) : |z_{il}| \ge |z_j|\}}{1 + n d}

        (for one side, z or -z in place of :math:`|z|`). For rows exchangeable with the calibration rows, it is valid
        whatever the quality of the model, on average over features. In a table, this average is over the numeric
        columns; each categorical column is compared only with itself. Without calibration, it is the p-value of the
        model,

        .. math:: 2 \Phi(-|z_j|) \text{ (two-sided)}, \qquad \Phi(-z_j) \text{ (greater)}, \qquad
                  \Phi(z_j) \text{ (less)}

        of the :meth:`z_scores`, which is uniform if the model is right and features are normal around their medians.
        With ``left_out``, all z-scores are of left-out values. Their spreads are estimated on the calibration rows, so
        p-values are only approximately valid.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or torch Dataset
            Rows.
        alternative : {"two-sided", "greater", "less"}, default="two-sided"
            Which values are unusual: those far from the median, above it, or below it.
        mask : array-like of bool, shape (n_features,) or (n_samples, n_features), default=None
            True for the values to test; the result is NaN elsewhere.
        left_out : bool, default=False
            Whether to predict each value from the other values of its row, as if it were missing.

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
        """Detect features (or pixels) that deviate from the reconstruction of their row.

        Applies the Benjamini-Hochberg procedure to the :meth:`p_values` of each row separately. After calibration,
        these come from the calibration rows, and at most a share of about ``fdr`` of rows like those has any discovery.
        Without calibration, they are only as good as the model: check that the spread of :meth:`z_scores` on held-out
        rows is near 1.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or torch Dataset
            Rows.
        fdr : float, default=0.05
            False discovery rate within a row, in (0, 1).
        alternative, mask, left_out
            As in :meth:`p_values`; values outside the mask are not counted.

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
            f"mask must be of dtype bool and of shape (n_features,) = {shape[1:]} or (n_samples, n_features) = "
            f"{shape}, True where to look; got {where.dtype} of shape {where.shape}. Flatten masks of images as the "
            "images are flattened."
        )
    return np.broadcast_to(where, shape)
