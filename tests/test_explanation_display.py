"""A picture of an explanation says what the table says."""

import sys

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgba
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from riskvae import QuantileVAE, explain
from riskvae.plotting import ExplanationDisplay

matplotlib.use("Agg")
import matplotlib.pyplot as plt

RED = to_rgba("#c0392b")


def table_of(rows=(17,), **columns):
    """Four features of each row: a share of 60, 30, 10 and 0 %, intervals from 10 to 20."""
    one = {
        "value": [40.0, 21.0, 15.0, np.nan], "expected": [15.0] * 4, "lower": [10.0] * 4, "upper": [20.0] * 4,
        "p": [0.01] * 4, "share": [0.6, 0.3, 0.1, 0.0], "cause": [True, True, False, False], **columns,
    }  # fmt: skip
    names = ["ash", "hue", "phenols", "alcohol"]
    return pd.concat([pd.DataFrame({"row": row, "feature": names, **one}) for row in rows], ignore_index=True)


def texts(display):
    return [text.get_text() for text in display.ax_.texts]


def test_one_row_is_drawn_in_units_of_its_intervals():
    shuffled = table_of().iloc[[2, 0, 3, 1]]
    display = ExplanationDisplay.from_explanation(shuffled)
    assert display.ax_.get_title(loc="left") == "row 17: an outlier because of ash and hue"
    assert [text.get_text() for text in display.ax_.get_yticklabels()] == ["ash", "hue", "phenols", "alcohol"]
    assert display.ax_.yaxis_inverted()  # the largest share stands at the top
    segments = np.array(display.intervals_.get_segments())
    np.testing.assert_array_equal(segments[:, :, 0], [[-1, 1]] * 4)
    # 21 is 1.2 half-widths above the middle of 10 to 20, 15 is the middle; 40 lies beyond the picture, one is missing.
    np.testing.assert_allclose(np.asarray(display.values_.get_offsets()), [[1.2, 1], [0.0, 2]])
    np.testing.assert_allclose(display.values_.get_facecolors(), [RED, to_rgba("#34495e")])
    beyond = [np.asarray(found.get_offsets()) for found in display.ax_.collections if len(found.get_offsets()) == 1]
    assert any(np.allclose(place, [[4.0, 0]]) for place in beyond)
    for told in ("40", "21", "15", "missing", "60%", "30%", "10%", "0%"):
        assert told in texts(display)
    assert display.image_ is None
    assert display.figure_ is display.ax_.figure


def test_titles_say_it():
    def title(causes):
        return ExplanationDisplay.from_explanation(table_of(cause=causes)).ax_.get_title(loc="left")

    assert title([False] * 4) == "row 17: no outlier"
    assert title([False, True, False, False]) == "row 17: an outlier because of hue"
    assert title([True, True, True, False]) == "row 17: an outlier because of ash, hue and phenols"
    assert title([True] * 4) == "row 17: an outlier because of ash, hue and 2 more"


def test_only_so_many_features_and_the_axes_that_are_given():
    ax = plt.figure().subplots()
    display = ExplanationDisplay.from_explanation(table_of(), max_features=2, ax=ax)
    assert display.ax_ is ax
    assert [text.get_text() for text in ax.get_yticklabels()] == ["ash", "hue"]
    assert len(display.intervals_.get_segments()) == 2
    # Causes that are not drawn are named.
    display = ExplanationDisplay.from_explanation(table_of(cause=[False, False, False, True]), max_features=1)
    assert "alcohol" in display.ax_.get_title(loc="left")


def test_intervals_without_ends_or_without_width():
    infinite = table_of(lower=[-np.inf] * 4, upper=[np.inf, 20.0, np.inf, 20.0])
    display = ExplanationDisplay.from_explanation(infinite)
    np.testing.assert_allclose(np.asarray(display.values_.get_offsets())[:, 0], 0.0)
    assert (np.abs(np.array(display.intervals_.get_segments())[:, :, 0]) > 4).all()
    display = ExplanationDisplay.from_explanation(table_of(lower=[15.0] * 4, upper=[15.0] * 4))
    np.testing.assert_allclose(np.asarray(display.values_.get_offsets()), [[0.0, 2]])
    display.figure_.canvas.draw()


def test_many_rows_are_a_map_of_their_shares():
    table = pd.concat([table_of((3, 17)), table_of((20,), share=[0.0, 0.1, 0.9, 0.0], cause=[False] * 4)])
    display = ExplanationDisplay.from_explanation(table)
    assert [text.get_text() for text in display.ax_.get_yticklabels()] == ["3", "17", "20"]
    # By the mean share: ash .4, phenols .37, hue .23, alcohol 0.
    assert [text.get_text() for text in display.ax_.get_xticklabels()] == ["ash", "phenols", "hue", "alcohol"]
    np.testing.assert_allclose(display.image_.get_array()[0], [0.6, 0.1, 0.3, 0.0])
    np.testing.assert_allclose(display.image_.get_array()[2], [0.0, 0.9, 0.1, 0.0])
    (dots,) = [np.asarray(found.get_offsets()) for found in display.ax_.collections if len(found.get_offsets())]
    np.testing.assert_array_equal(dots, [[0, 0], [2, 0], [0, 1], [2, 1]])
    assert display.ax_.get_title(loc="left") == "2 of 3 rows are outliers; their causes are red"
    assert display.values_ is None
    fewer = ExplanationDisplay.from_explanation(table, max_features=2)
    assert fewer.image_.get_array().shape == (3, 2)
    assert fewer.ax_.get_title(loc="left").startswith("2 of 3")


def test_one_row_of_many():
    table = table_of(("a", "b"))
    display = ExplanationDisplay.from_explanation(table, row="b")
    assert display.ax_.get_title(loc="left").startswith("row b: an outlier")
    assert display.plot().image_ is None


def test_tables_with_some_features_of_each_row():
    table = pd.concat([table_of((0,)).iloc[:2], table_of((1,)).iloc[1:3]])
    display = ExplanationDisplay.from_explanation(table)
    shown = {text.get_text(): j for j, text in enumerate(display.ax_.get_xticklabels())}
    assert display.image_.get_array()[1][shown["ash"]] == 0


def test_many_rows_are_not_named_one_by_one():
    display = ExplanationDisplay.from_explanation(table_of(range(100)))
    assert display.image_.get_array().shape == (100, 4)
    assert display.figure_.get_size_inches()[1] < 11


def test_from_a_model_and_from_a_pipeline():
    rng = np.random.default_rng(0)
    X = pd.DataFrame(rng.normal(size=(300, 1)) @ np.ones((1, 3)) + 0.2 * rng.normal(size=(300, 3)), columns=list("abc"))
    vae = QuantileVAE(
        hidden_layer_sizes=(16,), max_epochs=100, lr=1e-2, n_folds=1, calibration_fraction=0.3, random_state=0
    )
    pipe = make_pipeline(StandardScaler(), vae).fit(X)
    row = pd.DataFrame([[0.0, 5.0, 0.0]], columns=list("abc"), index=["odd"])
    display = ExplanationDisplay.from_estimator(pipe, row, alpha=0.2)
    assert display.ax_.get_title(loc="left") == "row odd: an outlier because of b"
    pd.testing.assert_frame_equal(display.table, explain(pipe, row, alpha=0.2))
    whole = ExplanationDisplay.from_estimator(pipe[-1], pipe[:-1].transform(X)[:5], row=3)
    assert whole.ax_.get_title(loc="left").startswith("row 3: ")


def test_bad_input(monkeypatch):
    with pytest.raises(TypeError, match="what explain returns, .* got DataFrame without share"):
        ExplanationDisplay.from_explanation(table_of().drop(columns="share"))
    with pytest.raises(TypeError, match="got list without row"):
        ExplanationDisplay.from_explanation([1, 2])
    with pytest.raises(ValueError, match="it is empty"):
        ExplanationDisplay.from_explanation(table_of().iloc[:0])
    with pytest.raises(ValueError, match=r"labels of rows repeat. Explain X.reset_index\(drop=True\)"):
        ExplanationDisplay.from_explanation(table_of((1, 1)))
    with pytest.raises(ValueError, match="row must be a label of the column 'row', such as 17; got 3"):
        ExplanationDisplay.from_explanation(table_of(), row=3)
    with pytest.raises(ValueError, match="max_features must be an integer of at least 1; got 0"):
        ExplanationDisplay.from_explanation(table_of(), max_features=0)
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r"riskvae\[plot\]"):
        ExplanationDisplay.from_estimator(None, None)
