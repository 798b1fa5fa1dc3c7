"""How good a detector of anomalies is, whichever way its labels are written."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn import metrics

from riskvae._validation import check_parameters, choice

# Measures of (whether each row is an anomaly, a score or a decision), and which of the two they look at.
_OF_SCORES = {"roc_auc": metrics.roc_auc_score, "average_precision": metrics.average_precision_score}
_OF_DECISIONS: dict[str, Callable[..., float]] = {
    "f1": metrics.f1_score,
    "precision": metrics.precision_score,
    "recall": metrics.recall_score,
    "balanced_accuracy": metrics.balanced_accuracy_score,
}
_METRIC = choice(*_OF_SCORES, *_OF_DECISIONS)


@dataclass(frozen=True)
class _AnomalyScorer:
    metric: str
    anomaly: Any

    def __call__(self, estimator: Any, X: Any, y: Any) -> float:
        truth = _anomalies(y, self.anomaly)
        if self.metric in _OF_DECISIONS:
            return float(_OF_DECISIONS[self.metric](truth, np.asarray(estimator.predict(X)) == -1))
        if truth.all() or not truth.any():
            raise ValueError(
                f"anomaly_scorer: {self.metric!r} compares anomalies with other rows, and all of these {len(truth)} "
                f"are {'anomalies' if truth.all() else 'normal'}. Stratify the folds, for example by StratifiedKFold."
            )
        scores = getattr(estimator, "decision_function", None) or estimator.score_samples
        return float(_OF_SCORES[self.metric](truth, -np.asarray(scores(X))))


def anomaly_scorer(metric: str = "roc_auc", *, anomaly: Any = None) -> Callable[[Any, Any, Any], float]:
    """Scorer of anomaly detectors for :class:`~sklearn.model_selection.GridSearchCV`, for both label conventions.

    Scikit-learn labels anomalies -1 and other rows 1; PyOD and most collections of tables use 1 and 0. With the latter,
    ``scoring="roc_auc"`` mistakes anomalies for normal rows, and a search chooses the worst detector.

    Parameters
    ----------
    metric : str, default="roc_auc"
        "roc_auc" and "average_precision" use ``decision_function``, or else ``score_samples``. "f1", "precision",
        "recall" and "balanced_accuracy" use ``predict``, with anomalies as the positive class.
    anomaly : object, default=None
        Label of anomalies. None uses -1 if labels are -1 and 1, and 1 (or True) if they are 0 and 1.

    Returns
    -------
    callable
        ``scorer(estimator, X, y)``, larger is better, for any detector that follows scikit-learn. It can be pickled,
        for ``n_jobs``, and compared.

    Raises
    ------
    ValueError
        When the scorer is called: if no label equals ``anomaly``, or the convention of the labels is unclear.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.model_selection import GridSearchCV
    >>> from sklearn.ensemble import IsolationForest
    >>> rng = np.random.default_rng(0)
    >>> X, y = rng.normal(size=(300, 3)), (rng.random(300) < 0.1).astype(int)
    >>> X[y == 1] += 3
    >>> grid = {"n_estimators": [1, 30]}
    >>> search = GridSearchCV(IsolationForest(random_state=0), grid, scoring=anomaly_scorer("roc_auc"), cv=3)
    >>> search.fit(X, y).best_params_
    {'n_estimators': 30}
    """
    check_parameters("anomaly_scorer", {"metric": metric}, {"metric": _METRIC})
    return _AnomalyScorer(metric, anomaly)


def _anomalies(y: Any, anomaly: Any) -> NDArray[np.bool_]:
    """Whether each label is that of an anomaly."""
    labels = np.asarray(y)
    if y is None or labels.ndim != 1:
        raise ValueError("anomaly_scorer needs a label of each row: fit(X, y), where y tells which rows are anomalies.")
    names = set(labels.tolist())
    if anomaly is not None:
        if len(names) > 1 and anomaly not in names:
            raise ValueError(f"anomaly_scorer: anomaly={anomaly!r} is not one of the labels {_told(names)}.")
        return labels == anomaly
    if names <= {-1, 1} and -1 in names:
        return labels == -1
    if names <= {0, 1} and 0 in names:
        return labels == 1
    raise ValueError(
        f"anomaly_scorer: labels are {_told(names)}, which do not say which rows are anomalies. Use -1 for anomalies "
        "and 1 for other rows, or 1 and 0, or name the label of anomalies, as by anomaly_scorer(anomaly='bad')."
    )


def _told(names: set[Any]) -> str:
    shown = sorted(map(repr, names))
    return ", ".join(shown[:5]) + (", ..." if len(shown) > 5 else "")
