"""A scorer of detectors, for both ways of writing labels."""

import pickle

import numpy as np
import pytest
from helpers import small
from sklearn.ensemble import IsolationForest
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from riskvae import QuantileVAE
from riskvae.metrics import anomaly_scorer

WRITTEN = {
    "scikit-learn": ((-1, 1), None),
    "pyod": ((1, 0), None),
    "bool": ((True, False), None),
    "float": ((1.0, 0.0), None),
    "text": (("bad", "good"), "bad"),
    "turned": ((0, 1), 0),
}


@pytest.fixture(scope="module")
def table():
    rng = np.random.default_rng(0)
    X, bad = rng.normal(size=(400, 4)), rng.random(400) < 0.1
    X[bad] += 2.0
    return X, bad


@pytest.mark.parametrize("name", WRITTEN)
def test_all_ways_of_writing_labels_give_the_same(table, name):
    (one, other), anomaly = WRITTEN[name]
    X, bad = table
    y = np.where(bad, one, other)
    for detector in (IsolationForest(random_state=0), make_pipeline(StandardScaler(), small(QuantileVAE))):
        detector.fit(X)
        scores, flagged = -detector.score_samples(X), detector.predict(X) == -1
        expected = {
            "roc_auc": roc_auc_score(bad, scores),
            "average_precision": average_precision_score(bad, scores),
            "f1": f1_score(bad, flagged),
            "recall": flagged[bad].mean(),
            "precision": bad[flagged].mean(),
            "balanced_accuracy": (flagged[bad].mean() + (~flagged[~bad]).mean()) / 2,
        }
        for metric, value in expected.items():
            assert anomaly_scorer(metric, anomaly=anomaly)(detector, X, y) == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize("metric", ["roc_auc", "f1"])
@pytest.mark.parametrize("name", WRITTEN)
def test_a_search_chooses_the_better_detector(table, name, metric):
    """One epoch against forty; by scoring="roc_auc" the worse one won where anomalies are 1."""
    (one, other), anomaly = WRITTEN[name]
    X, bad = table
    vae = QuantileVAE(2, hidden_layer_sizes=(32,), contamination=0.1, random_state=0)
    search = GridSearchCV(
        vae,
        {"max_epochs": [1, 40]},
        scoring=anomaly_scorer(metric, anomaly=anomaly),
        cv=3,
        n_jobs=2,
        error_score="raise",
    ).fit(X, np.where(bad, one, other))
    assert search.cv_results_["mean_test_score"].max() > (0.85 if metric == "roc_auc" else 0.3)
    assert search.best_score_ == search.cv_results_["mean_test_score"].max()


def test_scorers_compare_and_pickle():
    assert pickle.loads(pickle.dumps(anomaly_scorer("f1"))) == anomaly_scorer("f1") != anomaly_scorer()


def test_labels_that_do_not_tell(table):
    X, bad = table
    forest = IsolationForest(n_estimators=5, random_state=0).fit(X)
    score = anomaly_scorer()
    for y in (np.where(bad, "bad", "good"), np.where(bad, 2, 1), np.ones(400)):
        with pytest.raises(ValueError, match="do not say which rows are anomalies. Use -1 for anomalies and 1"):
            score(forest, X, y)
    with pytest.raises(ValueError, match="needs a label of each row"):
        score(forest, X, None)
    with pytest.raises(ValueError, match="anomaly='Bad' is not one of the labels 'bad', 'good'"):
        anomaly_scorer(anomaly="Bad")(forest, X, np.where(bad, "bad", "good"))
    with pytest.raises(ValueError, match="all of these 400 are normal. Stratify the folds"):
        score(forest, X, np.zeros(400))
    with pytest.raises(ValueError, match="metric must be one of .*got 'auroc'"):
        anomaly_scorer("auroc")
    GridSearchCV(forest, {"n_estimators": [3]}, scoring=score, cv=StratifiedKFold(3), error_score="raise").fit(X, bad)
