"""A detector under PyOD's names and signs, for code that was written for those."""

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.utils.validation import check_is_fitted

from riskvae._sklearn import BaseEstimator

__all__ = ["PyODAdapter"]

Array = NDArray[Any]


class PyODAdapter(BaseEstimator):
    """A QuantileVAE with PyOD's conventions: large scores are unusual, outliers are 1, other rows 0.

    It does not need PyOD. It has the methods and attributes of a PyOD detector, but is not a subclass of
    ``pyod.models.base.BaseDetector``. :meth:`fit` trains a copy of the detector. A detector that is already fitted can
    be used without it, but has no ``decision_scores_`` and ``labels_``, which PyOD defines for the training rows.

    Parameters
    ----------
    detector : QuantileVAE or sklearn.pipeline.Pipeline
        A model, or a pipeline whose last step is one; fitted or not.

    Attributes
    ----------
    detector_ : QuantileVAE or sklearn.pipeline.Pipeline
        The fitted detector, with everything that PyOD lacks.
    decision_scores_ : ndarray of shape (n_samples,)
        Scores of the training rows: ``-detector_.score_samples(X)``.
    labels_ : ndarray of int, of shape (n_samples,)
        Labels of the training rows.
    threshold_ : float
        Score above which rows are outliers: ``-offset_``.

    Examples
    --------
    >>> import numpy as np
    >>> from riskvae import QuantileVAE
    >>> from riskvae.estimators import PyODAdapter
    >>> X = np.random.default_rng(0).normal(size=(300, 1)) @ np.ones((1, 4))
    >>> pyod = PyODAdapter(QuantileVAE(contamination=0.1, max_epochs=20, random_state=0)).fit(X)
    >>> int(pyod.labels_.sum())
    30
    >>> pyod.predict([[0.0, 0.0, 0.0, 0.0], [1e3, 0.0, 0.0, 0.0]])
    array([0, 1])
    """

    decision_scores_: Array
    labels_: NDArray[np.int_]

    def __init__(self, detector: Any) -> None:
        self.detector = detector

    def fit(self, X: Any, y: Any = None) -> Self:
        """Train a copy of the detector; ``y`` is ignored.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.
        y : ignored
            Not used; present for API consistency.

        Returns
        -------
        self
        """
        self._own = clone(self.detector).fit(X)
        self.decision_scores_ = self.decision_function(X)
        self.labels_ = self._labels(self.decision_scores_)
        return self

    @property
    def detector_(self) -> Any:
        """The copy that :meth:`fit` trained, or else the given detector, if it is fitted."""
        if "_own" not in vars(self):
            try:
                check_is_fitted(self.detector)
            except NotFittedError as error:
                raise NotFittedError(
                    "This PyODAdapter is not fitted yet. Call fit, or give it a fitted model."
                ) from error
        return vars(self).get("_own", self.detector)

    @property
    def threshold_(self) -> float:
        """Score above which rows are outliers."""
        last = getattr(self.detector_, "steps", [("", self.detector_)])[-1][1]
        return -float(last.offset_)

    def decision_function(self, X: Any) -> Array:
        """Scores of rows (n_samples,), larger for more unusual rows: ``-score_samples(X)``."""
        scores: Array = -self.detector_.score_samples(X)
        return scores

    def predict(self, X: Any) -> NDArray[np.int_]:
        """Labels of rows (n_samples,): 1 for outliers, 0 for other rows."""
        return self._labels(self.decision_function(X))

    def fit_predict(self, X: Any, y: Any = None) -> NDArray[np.int_]:
        """Fit, and return the labels of the same rows."""
        return self.fit(X).labels_

    def predict_proba(self, X: Any) -> Array:
        """Scores scaled to the range of the training scores, (n_samples, 2), as in PyOD.

        These are not probabilities; use :meth:`riskvae.QuantileVAE.conformal_p_values` for statistical statements.
        """
        if "_own" not in vars(self):
            raise NotFittedError("predict_proba compares with the scores of training rows. Call fit first.")
        low, high = self.decision_scores_.min(), self.decision_scores_.max()
        share = np.clip((self.decision_function(X) - low) / max(high - low, np.finfo(float).tiny), 0.0, 1.0)
        return np.column_stack((1.0 - share, share))

    def _labels(self, scores: Array) -> NDArray[np.int_]:
        return (scores > scores.dtype.type(self.threshold_)).astype(int)
