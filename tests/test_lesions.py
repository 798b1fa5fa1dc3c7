"""The study of lesions on toy brains: what goes in, what is found, and what the scores mean."""

import json
from functools import partial

import matplotlib
import numpy as np
import pytest
from scipy.stats import norm

from riskvae import QuantileVAE
from riskvae.nets import conv_decoder, conv_encoder
from riskvae.studies import lesions
from riskvae.studies.__main__ import main
from riskvae.studies._brain_pixels import (
    TRAININGS,
    Patient,
    best_threshold,
    calibrated,
    dice,
    discoveries,
    read_patients,
    training_rows,
)
from riskvae.studies._gaussian_rivals import NormalVAE

matplotlib.use("Agg")


@pytest.fixture
def brains(tmp_path):
    nibabel = pytest.importorskip("nibabel")
    folder = tmp_path / "data" / "ms_lesions"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    x, y, z = np.meshgrid(*(np.linspace(-1.2, 1.2, n) for n in (32, 41, 12)), indexing="ij")
    inside = x**2 + y**2 + 0.2 * z**2 < 1
    for i, gain in enumerate((50.0, 80.0, 100.0)):
        mask = np.zeros(inside.shape)
        mask[10:14, 20:24, 5:9] = 1
        mask[20, 20, 8] = 1  # a quarter of a pixel
        flair = inside * gain * (1 + 0.1 * rng.normal(size=inside.shape) + 0.2 * (x > 0) + mask)
        for kind, volume in (("flair", flair), ("lesion", mask)):
            image = nibabel.Nifti1Image(volume.astype(np.float32), np.eye(4))
            nibabel.save(image, folder / f"patient0{i}_{kind}.nii.gz")
    return tmp_path / "data"


def test_slices_of_brains(brains):
    patients = read_patients(brains / "ms_lesions")
    assert list(patients) == ["patient00", "patient01", "patient02"]
    for patient in patients.values():
        assert patient.flair.shape == patient.brain.shape == (12, 16, 20)
        assert np.median(patient.flair[patient.brain]) == pytest.approx(1.0)  # whatever the scanner's gain
        assert (patient.flair[~patient.brain] == 0).all()
        assert patient.lesion.sum() == 4 * 4
        assert (patient.touched & ~patient.lesion).sum() == 1
        assert not (patient.healthy & patient.touched).any()
        assert patient.flair[patient.lesion].min() > 1.5
    pair = list(patients.values())[:2]
    for training, n_slices in zip(TRAININGS, (16, 24, 24), strict=True):
        rows, n = training_rows(pair, training, 50, seed=0)
        assert (rows.shape, n) == ((50, 320), n_slices)
        assert rows.max() < 1.6  # no lesion is left, nor half of one
        assert rows.min() > (0.5 if "dark" in training else -0.1)
        np.testing.assert_array_equal(rows, training_rows(pair, training, 50, seed=0)[0])


def test_lesions(brains, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(lesions, "TRAININGS", {lesions.PICTURED: "", "lesion-free slices": ""})
    assert main(["lesions", "--data", str(brains), "--out", str(tmp_path), "--quick", "--epochs", "10"]) == 0
    records = json.loads((tmp_path / "lesions-quick" / "results.json").read_text())["records"]
    assert len(records) == 3 + 3 * 3 * 2
    assert set().union(*(record["methods"] for record in records)) == set(lesions.METHODS)
    for record in records:
        for name, found in record["methods"].items():
            assert 0 <= found["Dice"] <= found["best Dice"] <= 1
            assert ("own Dice" in found) == (name in lesions.OWN_P)
            assert found["calibrated flagged"] < 0.1
            if name in ("FLAIR", "QuantileVAE, z"):
                assert found["AUROC"] > 0.9  # twice as bright as the brain
    assert sum("picture" in record for record in records) == 3
    assert "| FLAIR | 1.000 | 1.000 | 1.000 |" in capsys.readouterr().out


def test_colors_tell_what_was_found_and_what_was_missed():
    found, lesion = np.array([[1, 1, 0, 0]]), np.array([[1, 0, 1, 0]])
    red, green, blue, covered = lesions.outcome(found, lesion)[0].T
    assert [green.argmax(), red.argmax(), blue.argmax()] == [0, 1, 2]
    np.testing.assert_array_equal(covered, [1, 1, 1, 0])


def test_discoveries_are_those_of_the_estimator():
    rng = np.random.default_rng(0)
    vae = QuantileVAE(2, max_epochs=3, random_state=0).fit(rng.normal(size=(200, 30)))
    rows = rng.normal(size=(5, 30)) + 6.0 * (rng.random((5, 30)) < 0.2)
    brain = rng.random((5, 30)) < 0.8
    found = discoveries(norm.sf(vae.z_scores(rows)), brain)
    assert 5 < found.sum() < 60
    np.testing.assert_array_equal(found, vae.detect_features(rows, 0.05, alternative="greater", mask=brain))


def test_scores_are_calibrated_by_the_healthy_pixels_of_others():
    rng = np.random.default_rng(0)
    shape = (2, 40, 50)
    brain, lesion = np.ones(shape, dtype=bool), np.zeros(shape, dtype=bool)
    lesion[:, :4] = True
    patients = [Patient(rng.normal(size=shape).astype(np.float32), brain, lesion, lesion) for _ in range(3)]
    scores = [{"bright": p.flair + 9 * p.lesion, "model": np.exp(p.flair)} for p in patients]
    rare = calibrated(scores, patients)
    for method in ("bright", "model"):  # whatever a score's units, healthy pixels have uniform p-values
        p = np.exp(-rare[0][method][patients[0].healthy])
        np.testing.assert_allclose(np.quantile(p, (0.1, 0.5, 0.9)), (0.1, 0.5, 0.9), atol=0.04)
    n = 2 * (~lesion).sum()
    assert np.exp(-rare[0]["bright"][lesion].max()) == pytest.approx(1 / (n + 1))
    np.testing.assert_array_equal(rare[0]["bright and model"], np.minimum(rare[0]["bright"], rare[0]["model"]))


def test_the_best_threshold():
    values, truth = np.array([3.0, 2.0, 1.0, 0.0]), np.array([True, False, True, False])
    assert best_threshold([values[:2], values[2:]], [truth[:2], truth[2:]]) == 1.0
    assert dice(values >= 1.0, truth) == pytest.approx(0.8)
    assert best_threshold([values], [values == 3.0]) == 3.0
    # Equal values are found together: one of three at 1, or all four, of which two are true.
    tied, true = np.array([2.0, 1.0, 1.0, 1.0]), np.array([False, True, False, True])
    assert best_threshold([tied], [true]) == 1.0


def test_rivals_take_networks_of_images():
    networks = {
        "encoder": partial(conv_encoder, image_shape=(6, 8), channels=(4,)),
        "decoder": partial(conv_decoder, image_shape=(2, 6, 8), channels=(4,)),
    }
    X = np.random.default_rng(0).normal(1.0, 0.5, size=(300, 48))
    center, scale = NormalVAE(48, 2, (), "variance", 0, **networks).fit(X, 300, 64, 1e-2).predict(X)
    assert (center.shape, scale.shape) == (X.shape, X.shape)
    assert center.mean() == pytest.approx(1.0, abs=0.1)  # the first channel
    assert np.median(scale) == pytest.approx(0.5, abs=0.1)
    again = NormalVAE(48, 2, (), "variance", 0, **networks).fit(X, 300, 64, 1e-2).predict(X)[0]
    np.testing.assert_array_equal(center, again)
