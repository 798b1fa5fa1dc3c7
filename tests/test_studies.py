"""Studies run at toy size, go on after a kill, and keep what they measured."""

import json
import os
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure

from riskvae.studies import STUDIES, Config, anomalies, shrinkage
from riskvae.studies.__main__ import main
from riskvae.studies._frame import StudyResult, markdown, measure_all
from riskvae.studies._gaussian_rivals import KINDS, NormalVAE

matplotlib.use("Agg")


def record_and_fail_at_three(task):
    with open(task["log"], "a") as log:
        log.write(f"{task['i']}\n")
    if task["i"] == 3 and not os.path.exists(task["log"] + ".again"):
        raise RuntimeError("killed")
    return {"square": task["i"] ** 2}


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_killed_run_goes_on(tmp_path, jobs):
    log = str(tmp_path / "log")
    tasks = [{"i": i, "log": log} for i in range(6)]
    config = Config(out=tmp_path, jobs=jobs)
    with pytest.raises(RuntimeError, match="killed"):
        measure_all(config, "toy", tasks, record_and_fail_at_three)
    first = set(Path(log).read_text().split())
    assert "3" in first
    Path(log + ".again").touch()
    Path(log).write_text("")
    records = measure_all(config, "toy", tasks, record_and_fail_at_three)
    assert [record["square"] for record in records] == [0, 1, 4, 9, 16, 25]  # in the order of the tasks
    kept = {str(i) for i in range(6)} - set(Path(log).read_text().split())
    assert kept <= first - {"3"}
    assert kept  # what was measured before the kill was not measured again
    Path(log).write_text("")
    assert measure_all(config, "toy", tasks, record_and_fail_at_three) == records
    assert Path(log).read_text() == ""


def test_results_are_written(tmp_path):
    figure = Figure()
    result = StudyResult("toy", {"a": 1}, [{"x": 0.5}], {"Table": markdown(("x", "y"), [(0.5, "z"), (np.nan, 3)])})
    result.figures["picture"] = figure
    folder = result.save(Config(out=tmp_path, seeds=2))
    told = json.loads((folder / "results.json").read_text())
    assert told["records"] == [{"x": 0.5}]
    assert told["settings"]["seeds"] == 2
    assert "torch" in told["versions"]
    assert "| 0.500 | z |\n|  | 3 |" in (folder / "README.md").read_text()
    assert (folder / "picture.png").stat().st_size > 1000


def test_the_command_lists_and_explains(tmp_path, capsys, monkeypatch):
    assert main([]) == 0
    told = capsys.readouterr().out
    assert all(name in told for name in STUDIES)
    assert main(["nothing"]) == 2
    monkeypatch.delenv("RISKVAE_DATA", raising=False)
    assert main(["anomalies", "--out", str(tmp_path)]) == 1
    assert "neither --data nor RISKVAE_DATA names a folder" in capsys.readouterr().err
    assert main(["anomalies", "--data", str(tmp_path), "--out", str(tmp_path)]) == 1
    told = capsys.readouterr().err
    assert "has no folder 'adbench'" in told
    assert "npz files with X and y" in told


@pytest.fixture
def tables(tmp_path):
    folder = tmp_path / "data" / "adbench"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i, shift in ((1, 8.0), (2, 3.0)):
        y = np.repeat([0, 1], (100, 20))
        np.savez(folder / f"{i}_toy.npz", X=rng.normal(size=(120, 4)) + shift * y[:, None], y=y)
    return tmp_path / "data"


def test_anomalies(tables, tmp_path, capsys):
    train, test, truth = anomalies.split(tables / "adbench" / "1_toy.npz", seed=0)
    assert (train.shape, test.shape, truth.sum()) == ((50, 4), (70, 4), 20)
    np.testing.assert_allclose(train.mean(0), 0.0, atol=1e-12)
    assert main(["anomalies", "--data", str(tables), "--out", str(tmp_path), "--seeds", "2", "--epochs", "3"]) == 0
    told = json.loads((tmp_path / "anomalies" / "results.json").read_text())
    records = told["records"]
    names = set().union(*(record["auroc"] for record in records))
    assert names <= set(anomalies.WHAT)
    assert {"QuantileVAE", "BetaVAE", "5-NN", "PCA", "LOF", "OCSVM", "isolation forest"} <= names
    far = [r for r in records if r["set"] == "1_toy" and r["detector"] in ("QuantileVAE", "BetaVAE", "neighbors")]
    assert all(min(record["auroc"].values()) > 0.9 for record in far)
    assert "| QuantileVAE |" in capsys.readouterr().out


def test_shrinkage(tmp_path, monkeypatch):
    monkeypatch.setattr(shrinkage, "SETTINGS", {"surface": shrinkage.SETTINGS["surface"]})
    result = shrinkage.run(Config(out=tmp_path, quick=True))
    assert {record["model"] for record in result.records} == set(shrinkage.MODELS)
    for record in result.records:
        assert 0 <= record["70"] <= record["95"] <= 1
        assert record["ratio low"] <= record["ratio"] <= record["ratio high"]
    assert "conformal 95" in next(r for r in result.records if r["model"] == "quantiles")
    result.save(Config(out=tmp_path))


@pytest.mark.parametrize("kind", KINDS)
def test_rivals_find_the_noise_of_features_without_structure(kind):
    X = np.random.default_rng(0).normal(0.0, 0.5, size=(4000, 3))
    model = NormalVAE(3, 1, (8,), kind, seed=0).fit(X, 1500, batch_size=256, lr=1e-2)
    center, scale = model.predict(X)
    # One latent coordinate may take one of three features' variance.
    assert 0.35 < np.median(scale) < 0.55
    assert np.abs((X - center) / scale).mean() == pytest.approx(0.8, abs=0.15)
    ends = model.predict_interval(X, 0.3)
    assert ((ends[..., 0] < X) & (ends[..., 1] > X)).mean() == pytest.approx(0.7, abs=0.06)
