"""Calibration with held-out rows: p-values of rows, and discoveries with the share of false ones controlled."""

import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom
from sklearn.utils.validation import check_is_fitted

from riskvae._validation import boolean, check_parameters, choice, derive_seed, level_of_the_user, real
from riskvae.detection._calibration import Calibration, benjamini_hochberg, excess
from riskvae.detection._left_out import n_affordable
from riskvae.detection._parts import row_keys
from riskvae.estimators._discoveries import FALSE_ALARMS, warn_of_confidence, warn_of_everything, warn_of_nothing
from riskvae.estimators._in_parts import checked_rows
from riskvae.estimators._loading import checked_labels
from riskvae.estimators._quantile_predictions import QuantilePredictionsMixin

__all__ = ["ConformalMixin"]

Array = NDArray[Any]

_share = real(0.0, 1.0, closed="neither")
_part = real(0.0, 0.5, closed="left")

# Calibration rows of which clearly less than this part of that share is flagged were selected, it seems.
SELECTED = 0.2


class ConformalMixin(QuantilePredictionsMixin):
    """Methods of a fitted estimator that held-out rows calibrate; its score and threshold come from a subclass."""

    contamination: Any
    offset_: float
    _score: Callable[[Array], Array]
    _is_set_by_hand: Callable[[], bool]
    _allow_false_alarms: Callable[..., None]
    _trained: Any  # keys of the rows that were trained on
    _line: Any  # the contamination that fit drew the line for, and where

    def conformalize(
        self, X_cal: Any, *, groups: Any = None, contamination: float = 0.0, left_out: bool | Literal["auto"] = "auto"
    ) -> Self:
        """Calibrate with held-out rows. Replaces an earlier calibration; the model is not trained.

        If ``contamination="auto"``, this also sets ``offset_`` so that 5% of rows like these are flagged, unless you
        have set it yourself. The rows are not stored, only their scores and the differences between their values and
        their predicted quantiles.

        Anomalies among the calibration rows hide others of their kind: a row that is no more unusual than they are is
        not discovered. If there are more low scores than the tail of the others explains, the excess is left out, with
        a warning. This finds only clear cases, and guarantees are then only as good as that guess. Inspect the rows
        before you calibrate with them, or specify with ``contamination`` how many are anomalies.

        Parameters
        ----------
        X_cal : array-like of shape (n_calibration, n_features), or torch Dataset
            Held-out rows, at least two, that are exchangeable with future rows (for :meth:`detect`, with the inliers
            among them).
        groups : array-like of shape (n_calibration,), default=None
            Group label of each row, for guarantees that hold within each group: with ``groups``, :meth:`detect`
            compares a row with calibration rows of its own group.
        contamination : float, default=0.0
            Fraction of these rows that are anomalies, in [0, 0.5). That many rows with the lowest scores are left out.
            For rows held out by ``calibration_fraction``, it is the ``contamination`` of the estimator, if that is a
            number.
        left_out : bool or "auto", default="auto"
            Whether to calibrate the results with ``left_out=True``, too. This takes ``n_features`` passes per row, for
            at most 2,000 rows (from 78 features on fewer, down to 100). "auto" does so up to 500 features.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If more than 1% of the rows of X_cal are, or equal, training rows, and more than would be so by chance.

        Warns
        -----
        UserWarning
            If there are too few rows to show where 5% of them lie, if some look like anomalies, or if hardly any is
            below the threshold, as after rows that :meth:`predict` flags were left out.
        """
        given = {"contamination": contamination, "left_out": left_out}
        check_parameters("conformalize", given, {"contamination": _part, "left_out": choice("auto") | boolean})
        rows = checked_rows(self, X_cal).copy()
        if len(rows) < 2:
            raise ValueError(f"conformalize: X_cal must hold at least 2 rows; got {len(rows)}.")
        self._refuse_trained(rows)
        labels = None if groups is None else checked_labels(groups, len(rows), "X_cal")
        line = self.offset_ if self.contamination == "auto" and not self._is_set_by_hand() else None
        self._calibrate(rows, contamination, labels, left_out)
        if line is not None and not contamination:
            self._warn_of_selected(line)
        if self.contamination == "auto" and len(rows) < 1 / FALSE_ALARMS - 1:
            warnings.warn(
                f"conformalize: {len(rows)} rows are too few to tell which {FALSE_ALARMS:.0%} are the most unusual, so "
                "predict flags only rows that are more unusual than all of them. Calibrate with "
                f"{math.ceil(1 / FALSE_ALARMS) - 1} rows or more.",
                UserWarning,
                stacklevel=2,
            )
        return self

    def _warn_of_selected(self, line: float) -> None:
        """Warn where hardly a calibration row is beyond the threshold that was to flag some of them."""
        scores = self._calibrated("conformalize").scores
        beyond, n = int((scores < line).sum()), len(scores)
        if binom.cdf(beyond, n, SELECTED * FALSE_ALARMS) < 5e-3:
            warnings.warn(
                f"conformalize: {beyond} of {n} rows score below the threshold of predict, where some "
                f"{FALSE_ALARMS * n:.0f} of as many normal rows were expected. If rows were left out because predict "
                "flagged them, p-values are too small, and more of what detect finds is false than fdr says: choose "
                "calibration rows by looking at them, not by their scores.",
                UserWarning,
                stacklevel=3,
            )

    def conformal_p_values(self, X: Any, *, groups: Any = None, confidence: float | None = None) -> NDArray[np.float64]:
        r"""Conformal p-value of each row: the share of calibration rows that are at least as unusual.

        .. math:: p(x) = \frac{1 + \#\{i : s(x_i) \le s(x)\}}{n + 1}

        with :meth:`score_samples` as s and the n calibration rows. For a row that is exchangeable with them,
        :math:`P(p \le t) \le t` holds whatever the quality of the model, on average over calibration sets. For one
        calibration set, the rate scatters around t with a standard deviation of :math:`\sqrt{t (1 - t) / n}`.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or torch Dataset
            Rows.
        groups : array-like of shape (n_samples,), default=None
            Group label of each row, as given to :meth:`conformalize`; n then counts the calibration rows of the same
            group.
        confidence : float, default=None
            If given, p-values are larger, such that :math:`P(p \le t) \le t` holds for all small t (below a fifth)
            *given* the calibration set, for this fraction of calibration sets.

        Returns
        -------
        ndarray of shape (n_samples,)
            Between 1 / (n + 1) and 1; with ``confidence``, at least about :math:`-\log(1 - \text{confidence}) / n`.

        Raises
        ------
        ValueError
            If the model is not calibrated.
        """
        return self._scores_and_p_values("conformal_p_values", X, groups, confidence)[1]

    def _scores_and_p_values(
        self, method: str, X: Any, groups: Any, confidence: float | None
    ) -> tuple[Array, NDArray[np.float64]]:
        if confidence is not None:
            check_parameters(method, {"confidence": confidence}, {"confidence": _share})
        calibration = self._calibrated(method)
        scores = self.score_samples(X)
        labels = None if groups is None else self._known_labels(groups, len(scores), calibration)
        return scores, calibration.p_values(scores, labels, confidence)

    def detect(
        self, X: Any, fdr: float = 0.05, *, groups: Any = None, confidence: float | None = None
    ) -> NDArray[np.bool_]:
        """Detect anomalies while controlling the false discovery rate.

        Applies the Benjamini-Hochberg procedure to the :meth:`conformal_p_values` of the rows of X. If the calibration
        rows and the inliers in X are exchangeable and do not overlap, the false discovery rate is at most ``fdr`` on
        average over calibration sets, and lower if X contains many anomalies. Whether a row is a discovery depends on
        the other rows of X, so pass all rows of interest at once.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or torch Dataset
            Rows.
        fdr : float, default=0.05
            False discovery rate, in (0, 1).
        groups : array-like of shape (n_samples,), default=None
            Group label of each row, as given to :meth:`conformalize`; each row is compared with its own group.
        confidence : float, default=None
            Fraction of calibration sets for which the rate holds; None controls its mean over calibration sets.

        Returns
        -------
        ndarray of bool, of shape (n_samples,)
            True for discoveries: ``X[vae.detect(X)]`` are the anomalies.

        Raises
        ------
        ValueError
            If the model is not calibrated.

        Warns
        -----
        UserWarning
            If there are too few calibration rows to find any row, or to find a small share of the rows. Also if nothing
            is found although :meth:`predict` flags some rows, or with ``confidence``; and if nearly all rows are found.

        References
        ----------
        Benjamini and Hochberg, "Controlling the false discovery rate" (1995).
        Bates, Candes, Lei, Romano and Sesia, "Testing for outliers with conformal p-values", Annals of
        Statistics 51 (2023).
        """
        check_parameters("detect", {"fdr": fdr}, {"fdr": _share})
        scores, p = self._scores_and_p_values("detect", X, groups, confidence)
        calibration = self._calibrated("detect")
        too_small = groups is None and confidence is None and calibration.warn_if_too_small(fdr, len(p))
        found = benjamini_hochberg(p, fdr)
        if found.any():
            warn_of_everything(found)
        elif confidence is not None and groups is None:
            warn_of_confidence(calibration, confidence, fdr, len(p))
        elif not too_small:
            warn_of_nothing(self, scores, p)
        return found

    @property
    def is_calibrated(self) -> bool:
        """Whether the model is calibrated."""
        return self.__sklearn_is_fitted__() and self._calibration is not None

    def _calibrated(self, method: str) -> Calibration:
        check_is_fitted(self)
        if self._calibration is None:
            raise ValueError(
                f"{method} compares rows with held-out ones, and there are none. Call conformalize(X_cal) with rows "
                "that were not trained on, or fit with calibration_fraction above 0, such as 0.2."
            )
        return self._calibration

    def _refuse_trained(self, rows: Array) -> None:
        """Raise where rows were trained on, or more of them equal trained ones than they would by chance."""
        if self._trained is None:
            return
        known, n, by_chance = self._trained.recognize(row_keys(np.asarray(rows, np.float32)))
        # One in a hundred moves no p-value by more than that, and many tables hold a row twice.
        if known > max(by_chance, n // 100):
            raise ValueError(
                f"conformalize: {known} of the {n} rows of X_cal were trained on, or equal rows that were. The model "
                "knows them, so other rows would look unusual beside them. Pass rows that were kept from fit, or fit "
                "with calibration_fraction=0.2, or 'cross'."
            )

    def _calibrate(
        self,
        rows: Array,
        share: float = 0.0,
        labels: NDArray[Any] | None = None,
        left_out: bool | Literal["auto"] = "auto",
    ) -> None:
        n = n_affordable(*rows.shape, asked_for=left_out is True) if left_out else 0
        blind = None
        if n:
            chance = np.random.default_rng(derive_seed(self._seed, "left out"))
            places = np.sort(chance.choice(len(rows), n, replace=False))
            blind = places, self._judged(rows[places], left_out=True).residuals
        residuals = self._judged(rows).residuals
        self._calibrate_by(self._score(rows), residuals, blind, share, labels)

    def _calibrate_by(
        self,
        scores: Array,
        residuals: Array,
        blind: tuple[NDArray[np.intp], Array] | None,
        share: float = 0.0,
        labels: NDArray[Any] | None = None,
    ) -> None:
        order = np.argsort(scores, kind="stable")
        left_out = math.floor(share * len(scores)) if share else excess(scores[order])
        if left_out and not share:
            warnings.warn(
                f"{type(self).__name__}: {left_out} of {len(scores)} calibration rows score so low that they look like "
                "anomalies; they are left out. Look at the rows with the lowest scores: if they are as they should be, "
                "calibrate with more rows.",
                UserWarning,
                stacklevel=level_of_the_user(),
            )
        kept = order[left_out:]
        groups = (
            {} if labels is None else {k.item(): np.sort(scores[kept][labels[kept] == k]) for k in np.unique(labels)}
        )
        others = None
        if blind is not None:  # one wrong value of a row makes all others look wrong: what anomalies are is no measure
            others = blind[1][np.isin(blind[0], kept)].astype(np.float32)
        self._calibration = Calibration(scores[kept], residuals.astype(np.float32), left_out, groups, others)
        if self.contamination == "auto" and (self._line is None or not self._is_set_by_hand()):
            self._allow_false_alarms(scores[kept])

    def _summary_rows(self) -> Iterator[tuple[str, str]]:
        yield from super()._summary_rows()  # type: ignore[misc]  # of any estimator
        known = self._calibration
        if known is None:
            yield "calibration", "none, so no p-value or interval is promised: call conformalize(X_cal)"
        else:
            without = f", {known.left_out} others taken for anomalies" if known.left_out else ""
            yield "calibration", f"{len(known.scores):,} rows that were not trained on{without}"
        why = "set by hand" if self._is_set_by_hand() else f"contamination={self._line[0]!r}"
        yield "threshold", f"score_samples below {self.offset_:.4g} is an outlier ({why})"

    def _known_labels(self, groups: Any, n: int, calibration: Calibration) -> NDArray[Any]:
        labels = checked_labels(groups, n)
        unknown = [label.item() for label in np.unique(labels) if label.item() not in calibration.groups]
        if unknown:
            raise ValueError(
                f"groups: there are no calibration rows of {unknown[:5]!r}. Call conformalize(X_cal, groups=...) with "
                "rows of all groups. Here they are kinds of rows with a rate of their own; patients and other clusters "
                "belong in fit(X, groups=...)."
            )
        return labels
