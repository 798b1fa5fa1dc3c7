"""PyOD's names: each line of the guide's table, and the adapter that has them."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import small
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import riskvae
from riskvae import QuantileVAE
from riskvae.estimators import PyODAdapter

PAGE = Path(riskvae.__file__).parents[1] / "docs" / "guide" / "pyod.md"
LINES = re.findall(r"^\| `(pyod\.[^`]*)` \| `([^`]*)` \|$", PAGE.read_text(), flags=re.MULTILINE)


@pytest.fixture(scope="module", params=["auto", 0.1])
def pyod(request, X):
    return PyODAdapter(small(QuantileVAE, contamination=request.param, max_epochs=50)).fit(X)


def test_the_page_has_its_table():
    assert len(LINES) == 7


@pytest.mark.parametrize(("theirs", "ours"), LINES)
def test_each_line_of_the_table_is_so(pyod, X, theirs, ours):
    rows = np.vstack((X[:50], X[:3] + 2.0))
    names = {"pyod": pyod, "vae": pyod.detector_, "X": rows, "X_train": X}
    np.testing.assert_allclose(eval(theirs, names), eval(ours, names), rtol=1e-6, atol=1e-6)


def test_other_lines_name_what_there_is():
    page = PAGE.read_text()
    for name in ("conformal_p_values", "detect", "explain", "save", "fit_predict"):
        assert f"vae.{name}(" in page
        assert callable(getattr(QuantileVAE, name))
    for name in ("n_components", "max_epochs", "hidden_layer_sizes", "lr", "batch_size", "beta", "random_state"):
        assert f"`{name}`" in page
        assert name in QuantileVAE().get_params()


def test_contamination_means_the_share_of_training_rows_that_is_flagged(X):
    pyod = PyODAdapter(small(QuantileVAE, contamination=0.1, max_epochs=50)).fit(X)
    assert pyod.labels_.sum() == pytest.approx(0.1 * len(X), abs=1)
    # PyOD's own definition.
    np.testing.assert_array_equal(pyod.labels_, pyod.decision_scores_ > pyod.threshold_)
    assert pyod.threshold_ == pytest.approx(np.percentile(pyod.decision_scores_, 90), rel=1e-5)


def test_signs_are_pyods(X):
    pyod = PyODAdapter(small(QuantileVAE, max_epochs=50)).fit(X)
    far = X[:1] + 100.0
    assert pyod.decision_function(far)[0] > pyod.decision_scores_.max()
    assert pyod.predict(far)[0] == 1
    assert set(pyod.labels_) <= {0, 1}
    proba = pyod.predict_proba(np.vstack((X, far)))
    np.testing.assert_allclose(proba.sum(1), 1.0)
    assert proba[-1].tolist() == [0.0, 1.0]
    assert proba[pyod.decision_scores_.argmin()].tolist() == [1.0, 0.0]
    np.testing.assert_array_equal(clone(pyod).fit_predict(X), pyod.labels_)


def test_a_pipeline_and_a_fitted_model(X):
    pipe = make_pipeline(StandardScaler(), small(QuantileVAE, max_epochs=50)).fit(X)
    pyod = PyODAdapter(pipe)
    assert pyod.detector_ is pipe
    assert pyod.threshold_ == -pipe[-1].offset_
    np.testing.assert_array_equal(pyod.predict(X), (pipe.predict(X) == -1).astype(int))
    pipe[-1].offset_ += 1.0
    assert pyod.threshold_ == -pipe[-1].offset_
    assert not hasattr(pyod, "decision_scores_")
    with pytest.raises(NotFittedError, match="training rows. Call fit first"):
        pyod.predict_proba(X)
    pyod.fit(X)
    assert pyod.detector_ is not pipe  # a copy, as scikit-learn's meta-estimators train
    assert len(pyod.decision_scores_) == len(X)


def test_an_unfitted_one_says_so(X):
    with pytest.raises(NotFittedError, match="Call fit, or give it a fitted model"):
        PyODAdapter(QuantileVAE()).predict(X)


def test_it_needs_no_pyod(X, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyod", None)
    assert PyODAdapter(small(QuantileVAE)).fit(X).labels_.shape == (len(X),)


@pytest.mark.parametrize("name", ["labels_", "decision_scores_", "threshold_", "predict_proba"])
def test_names_of_pyod_are_answered_by_ours(X, name):
    vae = small(QuantileVAE).fit(X)
    assert not hasattr(vae, name)
    with pytest.raises(AttributeError, match=f"QuantileVAE has no {name}, as PyOD's detectors have: .*PyODAdapter"):
        getattr(vae, name)
    with pytest.raises(AttributeError, match="'QuantileVAE' object has no attribute 'nonsense'"):
        vae.nonsense  # noqa: B018


class Further:
    def __getattr__(self, name):
        if name == "further":
            return 7
        raise AttributeError(name)


class Both(QuantileVAE, Further):
    pass


def test_attributes_of_a_class_beside_ours_are_found():
    assert Both().further == 7
    with pytest.raises(AttributeError, match="Both has no labels_"):
        Both().labels_  # noqa: B018
