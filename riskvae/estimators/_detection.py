"""Rows that are anomalies: a score, a threshold, and p-values from held-out rows."""

import math
import warnings
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from riskvae._validation import check_parameters, level_of_the_user, limited, real
from riskvae.detection._calibration import Calibration, benjamini_hochberg, score_at
from riskvae.estimators._quantile_predictions import QuantilePredictionsMixin

__all__ = ["DetectionMixin"]

Array = NDArray[Any]

_share = real(0.0, 1.0, closed="neither")
_offset = real(-math.inf, remedy="It is a score: rows below it are outliers.")

# Rows this many interquartile ranges below the median are of another kind.
_FAR = 100.0
# Share of rows like those of the training that contamination="auto" flags.
_FALSE_ALARMS = 0.05


class DetectionMixin(QuantilePredictionsMixin):
    """Methods of a fitted estimator that has a density of rows."""

    contamination: Any
    offset_: float
    _line: Any  # the contamination that fit drew the line for, and where

    def score_samples(self, X: Any) -> Array:
        r"""Evidence lower bound of each row under the density that the trained networks stand for.

        .. math:: E_{q(z|x)} \Bigl[ \sum_j \log N(x_j; m_j(z), s_j^2) + \log \frac{\tilde q(z)}{q(z|x)} \Bigr]

        The decoder's medians m have normal errors, of each feature's root mean squared error s on training rows, and
        the prior :math:`\tilde q` is the mean posterior of 2,000 training rows: what makes the bound largest while the
        networks stay. It finds anomalies better than the bound that the networks were trained on, whose noise hardly
        minds large errors and whose prior does not know where the training rows are. The expectation is a mean
        over ``n_score_samples`` draws, the same for every row and every call: pairs of orthogonal directions.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        ndarray of shape (n_samples,)
            Nats per row; smaller is more unusual.
        """
        return self._score(self._check_rows(X))

    def decision_function(self, X: Any) -> Array:
        """Score of each row above the threshold: ``score_samples(X) - offset_``.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        ndarray of shape (n_samples,)
            Negative for outliers.
        """
        scores = self.score_samples(X)
        check_parameters(type(self).__name__, {"offset_": self.offset_}, {"offset_": _offset})
        if self.contamination != self._line[0] and not self._is_set_by_hand():
            warnings.warn(
                f"{type(self).__name__}: contamination={self.contamination!r} was set after fit, which drew the line "
                f"for {self._line[0]!r}, so the line is still that one. Call fit again, or set offset_.",
                UserWarning,
                stacklevel=level_of_the_user(),
            )
        return scores - scores.dtype.type(self.offset_)

    def predict(self, X: Any) -> NDArray[np.int_]:
        """Whether each row is an inlier.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        ndarray of int, of shape (n_samples,)
            1 for inliers, -1 for outliers: by ``contamination``, row by row. :meth:`detect` controls the false
            discovery rate.
        """
        return np.where(self.decision_function(X) < 0, -1, 1)

    def conformalize(self, X_cal: Any) -> Self:
        """Calibrate with rows that were not trained on; replaces an earlier calibration, and trains nothing.

        Where ``contamination="auto"`` it also sets ``offset_``, unless you have set it by hand, so that 5 % of rows
        like these are flagged. Scores and intervals are calibrated, z-scores and what is found by them are not.

        Parameters
        ----------
        X_cal : array-like of shape (n_calibration, n_features)
            Held-out rows, two at least, exchangeable with those to come (the inliers among them, for
            :meth:`detect`). They are kept with the model.

        Returns
        -------
        self
        """
        rows = self._check_rows(X_cal).copy()
        if len(rows) < 2:
            raise ValueError(f"conformalize: X_cal must hold at least 2 rows; got {len(rows)}.")
        self._calibrate(rows)
        if self.contamination == "auto" and len(rows) < 1 / _FALSE_ALARMS - 1:
            warnings.warn(
                f"conformalize: {len(rows)} rows cannot show where {_FALSE_ALARMS:.0%} of them lie, so predict flags "
                "what is more unusual than all of them. Calibrate with "
                f"{math.ceil(1 / _FALSE_ALARMS) - 1} rows or more.",
                UserWarning,
                stacklevel=2,
            )
        return self

    def conformal_p_values(self, X: Any) -> NDArray[np.float64]:
        r"""Share of calibration rows that are at least as unusual as each row.

        .. math:: p(x) = \frac{1 + \#\{i : s(x_i) \le s(x)\}}{n + 1}

        with :meth:`score_samples` as s and the n calibration rows. For a row that is exchangeable with them,
        :math:`P(p \le t) \le t`, whatever the model is worth, on average over calibration sets. For one
        calibration set the rate scatters around t with a standard deviation of :math:`\sqrt{t (1 - t) / n}`.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        ndarray of shape (n_samples,)
            From 1 / (n + 1) to 1.

        Raises
        ------
        ValueError
            Before calibration.
        """
        return self._calibrated("conformal_p_values").p_values(self.score_samples(X))

    def detect(self, X: Any, fdr: float = 0.05) -> NDArray[np.bool_]:
        """Rows that are anomalies, with the expected share of false ones among them controlled.

        The Benjamini-Hochberg procedure over :meth:`conformal_p_values` of the rows of X. If the
        calibration rows and the inliers in X are exchangeable and apart, the false discovery rate is at most
        ``fdr`` on average over calibration sets, and lower where X holds many anomalies. What counts as one depends on
        the other rows of X: ask for all rows of interest at once.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.
        fdr : float, default=0.05
            False discovery rate, in (0, 1).

        Returns
        -------
        ndarray of bool, of shape (n_samples,)
            True for discoveries: ``X[vae.detect(X)]`` are the anomalies.

        Raises
        ------
        ValueError
            Before calibration.

        Warns
        -----
        UserWarning
            Where there are too few calibration rows to find any row, or a small share of the rows.

        References
        ----------
        Benjamini and Hochberg, "Controlling the false discovery rate" (1995).
        Bates, Candes, Lei, Romano and Sesia, "Testing for outliers with conformal p-values", Annals of
        Statistics 51 (2023).
        """
        check_parameters("detect", {"fdr": fdr}, {"fdr": _share})
        calibration = self._calibrated("detect")
        p = self.conformal_p_values(X)
        calibration.warn_if_too_small(fdr, len(p))
        return benjamini_hochberg(p, fdr)

    @property
    def is_calibrated(self) -> bool:
        """Whether there are calibration rows."""
        return self.__sklearn_is_fitted__() and self._calibration is not None

    def _calibrated(self, method: str) -> Calibration:
        check_is_fitted(self)
        if self._calibration is None:
            raise ValueError(
                f"{method} compares rows with held-out ones, and there are none. Call conformalize(X_cal) with rows "
                "that were not trained on, or fit with calibration_fraction above 0, such as 0.2."
            )
        return self._calibration

    def _calibrate(self, rows: Array) -> None:
        scores = np.sort(self._score(rows))
        self._calibration = Calibration(scores, rows, self._predict_quantiles(rows))
        if self.contamination == "auto" and (self._line is None or not self._is_set_by_hand()):
            self._allow_false_alarms(scores)

    def _allow_false_alarms(self, scores: Array) -> None:
        """Put the threshold where the usual share of some ascending scores is flagged."""
        self._draw_line(score_at(scores, _FALSE_ALARMS))
        low, middle, high = np.percentile(scores, (25, 50, 75))
        far = scores < middle - _FAR * (high - low)
        if high > low and far.sum() >= 3 and far.mean() >= _FALSE_ALARMS:
            warnings.warn(
                f"{type(self).__name__}: {far.sum()} of {len(scores)} rows score as low as {scores[0]:.2g}, while half "
                f"of them lie between {low:.3g} and {high:.3g}. The line that flags {_FALSE_ALARMS:.0%} lies among "
                "these, so hardly anything will be flagged. Leave such rows (fill values?) out, or set offset_.",
                UserWarning,
                stacklevel=level_of_the_user(),
            )

    def _draw_line(self, offset: float) -> None:
        """Put the threshold somewhere, and remember for what: whoever has set it since has the last word."""
        self.offset_ = offset
        self._line = (self.contamination, offset)

    def _is_set_by_hand(self) -> bool:
        return self.offset_ != self._line[1]

    def _score(self, rows: Array) -> Array:
        def bound(modules: Any, x: Tensor) -> tuple[Tensor]:
            vae, density = modules
            return (density.bound(vae, x),)

        modules = nn.ModuleList((self.module_, self._density))
        rows, excess = limited(rows)
        return self._scored(bound, rows, excess, width=self._density.values_per_row(self.module_), module=modules)
