"""Methods of fitted models over Datasets and DataLoaders: the answers of the same rows in an array."""

import numpy as np
import pytest
import torch
from helpers import small
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from riskvae import BetaVAE, QuantileVAE
from riskvae.estimators import _in_parts


class Pieces(IterableDataset):
    """Rows that only come in turn, and can be read again."""

    def __init__(self, rows):
        self.rows = rows

    def __iter__(self):
        return iter(self.rows)


class Named(Dataset):
    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i):
        return {"x": self.rows[i], "group": i % 3}


SOURCES = {
    "Dataset": lambda rows: TensorDataset(torch.from_numpy(rows)),
    "items with names": Named,
    "IterableDataset": Pieces,
    "DataLoader": lambda rows: DataLoader(TensorDataset(torch.from_numpy(rows)), batch_size=7, shuffle=True),
    "iterable with workers": lambda rows: DataLoader(Pieces(rows), num_workers=2),
}
sources = pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
METHODS = {
    "transform": (), "encode": (), "reconstruct": (), "reconstruction_loss": (), "score_samples": (), "score": (),
    "decision_function": (), "predict": (), "predict_quantiles": (), "predict_interval": (0.2,), "predict_scale": (),
    "z_scores": (), "p_values": (), "detect_features": (), "conformal_p_values": (), "detect": (0.2,),
}  # fmt: skip


@pytest.fixture(scope="module")
def rows():
    return np.random.default_rng(0).normal(size=(300, 4)).astype(np.float32)


@pytest.fixture(scope="module")
def detector(rows):
    return small(QuantileVAE, calibration_fraction=0.3, max_epochs=3).fit(rows)


@pytest.fixture(autouse=True)
def parts_of_50(monkeypatch):
    monkeypatch.setattr(_in_parts, "_ROWS", 50)


@sources
@pytest.mark.parametrize(("method", "arguments"), METHODS.items(), ids=METHODS)
def test_answers_are_those_of_the_rows(detector, rows, source, method, arguments):
    new = rows[:120] + np.float32(0.1)
    new[:10] += 8.0
    expected = getattr(detector, method)(new, *arguments)
    found = getattr(detector, method)(source(new), *arguments)
    assert type(found) is type(expected)
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5)


@sources
def test_all_rows_calibrate(rows, source):
    detectors = [small(QuantileVAE, max_epochs=3).fit(rows[:150]) for _ in range(2)]
    detectors[0].conformalize(rows[150:])
    detectors[1].conformalize(source(rows[150:]))
    np.testing.assert_array_equal(*(one.conformal_p_values(rows[:20]) for one in detectors))
    assert detectors[0].offset_ == detectors[1].offset_


def test_double_precision_is_kept(rows):
    vae = small(BetaVAE, max_epochs=1).fit(rows)
    data = TensorDataset(torch.from_numpy(rows.astype(np.float64)))
    assert vae.transform(data).dtype == np.float64
    assert vae.fit_transform(data).shape == (300, 2)


def test_bad_rows_are_named(detector, rows):
    bad = rows.copy()
    bad[130, 2] = np.inf
    with pytest.raises(ValueError, match="infinity") as caught:
        detector.predict(Pieces(bad))
    assert "rows 100 to 149 of the Dataset" in caught.value.__notes__[0]
    with pytest.raises(ValueError, match="X has 3 features"):
        detector.predict(Pieces(rows[:, :3]))
    with pytest.raises(ValueError, match="Dataset without rows"):
        detector.predict(Pieces(rows[:0]))
    with pytest.raises(TypeError, match="items must be rows of features"):
        detector.predict(Pieces(rows[:, 0]))


def test_a_model_that_is_not_fitted_says_so(rows):
    from sklearn.exceptions import NotFittedError

    with pytest.raises(NotFittedError):
        QuantileVAE().predict(Pieces(rows))


def test_the_global_generator_of_torch_is_left_alone(detector, rows):
    before = torch.get_rng_state()
    detector.transform(Named(rows))
    assert torch.equal(torch.get_rng_state(), before)
