"""Studies run at toy size, go on after a kill, and keep what they measured."""

import gzip
import json
import os
import sys
from functools import partial
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score

from riskvae.metrics import kernel_mmd
from riskvae.plotting._names import apart
from riskvae.studies import (
    STUDIES,
    Config,
    _anomaly_tables,
    _cache,
    _imputation_tables,
    _published,
    anomalies,
    bounds,
    distortion,
    downstream,
    imputation,
    levers,
    margins,
    refinement,
    shrinkage,
    tails,
)
from riskvae.studies.__main__ import main
from riskvae.studies._frame import StudyResult, markdown, measure_all, plus_minus
from riskvae.studies._gaussian_rivals import KINDS, NormalVAE
from riskvae.studies._published_quantiles import UnitPinballVAE

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
    assert "python -m riskvae.studies toy --seeds 2`: 1 measurements" in (folder / "tables.md").read_text()
    assert told["settings"]["seeds"] == 2
    assert "torch" in told["versions"]
    assert "| 0.500 | z |\n|  | 3 |" in (folder / "tables.md").read_text()
    assert (folder / "picture.png").stat().st_size > 1000


def test_spreads_are_told_where_there_are_some():
    assert plus_minus([1.0, 2.0, 3.0], 1) == "2.0 ± 1.0"
    assert plus_minus([2.0]) == "2.000"
    assert plus_minus([1.0, np.inf]) == "inf"


def test_names_move_apart_no_more_than_they_must():
    np.testing.assert_allclose(apart([0.0, 9.0, 20.0], gap=5.0), [0.0, 9.0, 20.0])
    moved = apart([3.0, 1.0, 2.0, 20.0], gap=2.0)
    np.testing.assert_allclose(moved, [4.0, 0.0, 2.0, 20.0])  # in their order, around where they were
    assert len(apart([], gap=1.0)) == 0


def test_counts_are_checked(capsys):
    for option in ("--seeds", "--jobs", "--epochs"):
        with pytest.raises(SystemExit):
            main(["tails", option, "0"])
        assert "expected a whole number of at least 1; got 0" in capsys.readouterr().err


def test_a_missing_package_is_told_before_anything_is_measured(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["shrinkage", "--quick", "--out", str(tmp_path)]) == 1
    assert "The extra 'studies'" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_cache_hangs_on_what_measures(monkeypatch, tmp_path):
    root = tmp_path / "riskvae"
    (root / "studies").mkdir(parents=True)
    (root / "__init__.py").write_text("")
    monkeypatch.setattr(_cache.riskvae, "__file__", str(root / "__init__.py"))

    def digest(path, text):
        (root / path).write_text(text)
        _cache._library.cache_clear()
        return _cache._library()

    first = digest("losses.py", '"""One."""\nx = 1\n')
    assert digest("losses.py", '"""Two."""\nx = 1  # as before\n') == first
    assert digest("studies/tails.py", "x = 1\n") == digest("studies/_frame.py", "x = 1\n") == first
    assert digest("losses.py", "x = 2\n") != first
    second = _cache._library()
    assert digest("studies/_rivals.py", "x = 1\n") != second
    _cache._library.cache_clear()


STUDY = """
from a import load
A = 1
B = 2
A += 1

def measure(task):
    return inner(task) + A

def inner(task):
    return load(task)

def table(records):
    return B
"""


def test_a_measurement_hangs_on_its_study_and_not_on_what_tells_of_it(tmp_path):
    def told(text):
        file = tmp_path / f"study{len(list(tmp_path.iterdir()))}.py"
        file.write_text(text)
        return _cache._closure(str(file), "measure")

    first = told(STUDY)
    assert told(STUDY.replace("B = 2", "B = 3").replace("return B", "return str(B)")) == first
    for old, new in {"A += 1": "A += 2", "load(task)": "load(task) + 1", "from a": "from b"}.items():
        assert told(STUDY.replace(old, new)) != first


def test_a_measurement_hangs_on_data_and_versions(tmp_path, monkeypatch):
    (tmp_path / "mnist").mkdir()
    (tmp_path / "mnist" / "images").write_bytes(b"1")
    config = Config(data=tmp_path)
    first, digest = config.content("margins"), partial(_cache.digest, {"seed": 0}, levers.measure)
    assert config.content("margins") == first != config.content("shrinkage")
    (tmp_path / "mnist" / "images").write_bytes(b"2")
    assert config.content("margins") != first
    assert digest(first) == digest(first) != digest(config.content("margins"))
    before = digest(first)
    monkeypatch.setattr(_cache, "version", lambda name: "1.0")
    assert digest(first) != before


def test_results_are_redrawn_as_they_were_measured(tmp_path):
    StudyResult("toy", {"a": 1}, [{"square": 9}]).save(Config(out=tmp_path, seeds=5))
    before = (tmp_path / "toy" / "results.json").read_text()
    again = Config(out=tmp_path, redraw=True)
    assert measure_all(again, "toy", [{"i": 2}], record_and_fail_at_three) == [{"square": 9}]
    StudyResult("toy", {}, [{"square": 9}], {"New": "table"}).save(again)
    assert "## New\n\ntable" in (tmp_path / "toy" / "tables.md").read_text()
    assert (tmp_path / "toy" / "results.json").read_text() == before
    assert main(["tails", "--redraw", "--out", str(tmp_path)]) == 1  # there are none


def test_quick_results_do_not_replace_full_ones(tmp_path):
    for quick in (False, True):
        StudyResult("toy", {}, [{"quick": quick}]).save(Config(out=tmp_path, quick=quick))
    assert json.loads((tmp_path / "toy" / "results.json").read_text())["records"] == [{"quick": False}]
    assert (tmp_path / "toy-quick" / "results.json").exists()


def test_files_that_are_cut_short_are_named(tables, tmp_path, capsys):
    file = tables / "adbench" / "1_toy.npz"
    whole = file.read_bytes()
    (tables / "fashion_mnist").mkdir()
    image = tables / "fashion_mnist" / "train-images-idx3-ubyte.gz"
    for name, path, content in (
        ("anomalies", file, whole[:2000]),
        ("anomalies", file, b"X,y"),
        ("distortion", image, gzip.compress(b"12345")),
        ("distortion", image, gzip.compress(bytes(10_000))[:20]),
    ):
        path.write_bytes(content)
        command = [name, "--data", str(tables), "--out", str(tmp_path), "--quick", "--epochs", "1"]
        assert main(command) == 1
        told = capsys.readouterr().err.strip().split("\n")[-1]
        assert str(path) in told, told
        file.write_bytes(whole)
    (tables / "adbench" / "toy.npz").write_bytes(whole)
    assert main(["anomalies", "--data", str(tables), "--out", str(tmp_path)]) == 1
    assert "holds toy.npz; its files are to be named as in ADBench" in capsys.readouterr().err


def test_the_command_lists_and_explains(tmp_path, capsys, monkeypatch):
    assert main([]) == 0
    told = capsys.readouterr().out
    assert all(name in told and study.time in told for name, study in STUDIES.items())
    for name, study in STUDIES.items():
        with pytest.raises(SystemExit):
            main([name, "--help"])
        told = " ".join(capsys.readouterr().out.split())
        assert study.time in told
        assert all(folder in told.lower().replace("-", "_") for folder in study.folders[:1])
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
    file = tables / "adbench" / "1_toy.npz"
    train, test, truth = _anomaly_tables.load(file, "halves", seed=0)
    assert (train.shape, test.shape, truth.sum()) == ((50, 4), (70, 4), 20)
    np.testing.assert_allclose(train.mean(0), 0.0, atol=1e-12)
    train, test, truth = _anomaly_tables.load(file, "published", seed=0)
    assert len(train) + len(test) == 1000  # resampled
    assert abs(len(train) - (truth == 0).sum()) <= 1
    train, test, truth = _anomaly_tables.load(file, "unsupervised", seed=0)
    assert train.shape == test.shape == (1000, 4)
    assert main(["anomalies", "--data", str(tables), "--out", str(tmp_path), "--seeds", "2", "--epochs", "3"]) == 0
    told = json.loads((tmp_path / "anomalies" / "results.json").read_text())
    records = told["records"]
    names = set().union(*(record["auroc"] for record in records))
    assert names <= set(anomalies.WHAT)
    assert {"QuantileVAE", "BetaVAE", "5-NN", "PCA", "LOF", "OCSVM", "isolation forest"} <= names
    halves = [r for r in records if (r["set"], r["protocol"]) == ("1_toy", "halves")]
    far = [r for r in halves if r["detector"] in ("QuantileVAE", "BetaVAE", "neighbors")]
    assert all(min(record["auroc"].values()) > 0.9 for record in far)
    assert "| QuantileVAE |" in capsys.readouterr().out


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_values_are_taken_out_as_said(share):
    """Of 20,000 values, each share within .02 (six standard deviations, but of rows that are missing together)."""
    X = np.random.default_rng(0).normal(size=(4000, 5))
    _, whole, missing = _imputation_tables.with_holes(X, "MCAR", share, seed=0)
    assert missing.mean(0) == pytest.approx(share, abs=0.05)
    assert not missing.all(1).any()
    known = np.where(missing, np.nan, whole)
    np.testing.assert_allclose((np.nanmean(known, 0), np.nanstd(known, 0) - 1), 0.0, atol=1e-9)
    _, _, missing = _imputation_tables.with_holes(X, "MAR", share, seed=0)
    (cause,) = np.flatnonzero(~missing.any(0))
    others = np.delete(missing, cause, 1)
    assert others.mean() == pytest.approx(share, abs=0.03)
    high = X[:, cause] > np.median(X[:, cause])
    assert (np.abs(others[high].mean(0) - others[~high].mean(0)) > 0.8 * share * (1 - share)).all()


def test_imputation(tables, tmp_path, monkeypatch, capsys):
    for module in (imputation, _imputation_tables):
        monkeypatch.setattr(module, "OF_ADBENCH", {"vertebral": "1_toy"})
    assert main(["imputation", "--quick", "--data", str(tables), "--out", str(tmp_path)]) == 0
    records = json.loads((tmp_path / "imputation-quick" / "results.json").read_text())["records"]
    assert len(records) == 2 * 2 * len(imputation.WHAT) + len(imputation.DETECTORS)
    for record in records:
        if record["what"] == "detection":
            assert 0.5 < record["auroc"] <= 1
            continue
        assert 0.3 < record["error"] < 3.0
        ranges = [record[kind] for kind in ("draws", "interval") if kind in record]
        assert len(ranges) == {"BetaVAE": 1, "QuantileVAE": 2}.get(record["method"], 0)
        assert all(0.5 < one["holds"] <= 1 and one["width"] > 0 for one in ranges)
    by_mean = [r["error"] for r in records if r["what"] == "errors" and r["method"] == "mean" and r["table"] == "wine"]
    assert by_mean == pytest.approx([1.0, 1.0], abs=0.15)
    assert "| MCAR, 30 % |" in capsys.readouterr().out


def test_five_neighbors_are_as_published(data_folder):
    """The published protocol is ours: to three digits, on tables that are neither resampled nor subsampled."""
    folder = data_folder / "adbench"
    known = _anomaly_tables.published(data_folder / "published", "published")["KNN"]
    for name in ("7_Cardiotocography", "19_landsat", "27_PageBlocks", "35_SpamBase", "41_Waveform"):
        train, test, truth = _anomaly_tables.load(folder / f"{name}.npz", "published", seed=0)
        found = roc_auc_score(truth, anomalies.neighbors(train, test, 0)["5-NN"])
        assert found == pytest.approx(known[name.split("_", 1)[1].lower()], abs=5e-4)


def test_shrinkage(tmp_path, monkeypatch):
    monkeypatch.setattr(shrinkage, "SETTINGS", {"surface": shrinkage.SETTINGS["surface"]})
    result = shrinkage.run(Config(out=tmp_path, quick=True))
    assert {record["model"] for record in result.records} == set(shrinkage.MODELS)
    for record in result.records:
        assert 0 <= record["70"] <= record["95"] <= 1
        assert record["ratio low"] <= record["ratio"] <= record["ratio high"]
    assert {r["model"] for r in result.records if "conformal 95" in r} == set(shrinkage.QUANTILES)
    result.save(Config(out=tmp_path))


@pytest.fixture
def toy_images(monkeypatch):
    """Digits of 28 x 28 pixels in place of the published images, and few of them."""
    digits = load_digits()
    images = np.pad(np.kron(digits.images / 16, np.ones((3, 3))), ((0, 0), (2, 2), (2, 2)))
    rows = images.reshape(len(images), -1).astype(np.float32), digits.target
    for module in (_published, bounds, distortion, levers, margins):
        monkeypatch.setattr(module, "images_of", lambda name, subset, data: rows)
    for module in (tails, distortion, downstream, refinement):
        few = {"n_train": 600, "n_held_out": 200, "epochs": 2, "device": "cpu"}
        monkeypatch.setattr(module, "sizes", lambda config, few=few: few)


def test_held_out_images_do_not_train(monkeypatch):
    rows = np.arange(10.0)[:, None], np.arange(10)
    monkeypatch.setattr(_published, "images_of", lambda name, subset, data: rows)
    task = {"images": "mnist", "seed": 0, "n_train": 6, "n_held_out": 4}
    images = _published.load(task, None)
    np.testing.assert_array_equal(np.sort(np.concatenate((images.train, images.held_out)), axis=0), rows[0])
    np.testing.assert_array_equal(images.held_out[:, 0], images.held_out_classes)
    assert not np.array_equal(images.train, _published.load(task | {"seed": 1}, None).train)


def test_tails(tmp_path, toy_images):
    result = tails.run(Config(out=tmp_path, seeds=1))
    # Each once: 17 published ones, 14 more along beta, 2 combined risks, and 6 of candidates.
    assert len(result.records) == 2 * 39
    for record in result.records:
        assert (np.diff(record["worst"]) <= 1e-6).all()
        assert (np.diff(record["best"]) >= -1e-6).all()
        assert record["worst"][-1] == pytest.approx(record["mean"], abs=1e-6)
        assert record["worst 10 %"] > record["worst 50 %"] > record["mean"] > record["best 10 %"]
    curves = [record["worst"] for record in result.records]
    assert curves[:33] == curves[33:66]  # the toy stands for both sets of images
    assert curves[66:72] == curves[72:]
    assert len({tuple(curve) for curve in curves[:66]}) == 33
    result.save(Config(out=tmp_path))


def test_changes_at_equal_rate_are_those_of_the_frontier():
    plain = [
        {"images": "mnist", "seed": seed, "model": tails.model_of("plain", beta), "rate": 10.0 / beta, "mean": beta}
        for seed in (0, 1)
        for beta in tails.BETAS["plain"]
    ]
    for record in plain:
        assert tails.against_plain(plain, record, "mean") == pytest.approx(0.0)
    # The frontier error = 10 / rate is a line in logarithms, so it is met between its points as well.
    between = {"images": "mnist", "seed": 1, "rate": 15.0, "mean": 1.0}
    assert tails.against_plain(plain, between, "mean") == pytest.approx(1.0 / (10 / 15.0) - 1)
    assert np.isnan(tails.against_plain(plain, between | {"rate": 4.0}, "mean"))


def test_distortion(tmp_path, toy_images, monkeypatch):
    monkeypatch.setattr(distortion, "SHOWN_CLASSES", (1, 2))
    result = distortion.run(Config(out=tmp_path, seeds=1, quick=True))
    assert {record["name"] for record in result.records} == set(distortion.MODELS)
    for record in result.records:
        told = record["by alpha"]
        assert told["0"]["undistorted"] == told["0"]["distorted"]
        assert told["51"]["undistorted"] > told["0"]["undistorted"]
        assert np.shape(record["picture"]) == (2, 784)
    moved = list(result.settings["error of the input itself"].values())
    assert moved[0] == 0.0
    assert (np.diff(moved) > 0).all()
    result.save(Config(out=tmp_path))
    step = np.zeros((1, 28, 28))
    step[:, :, 14:] = 1.0  # 28 unit steps among 28 * 27 neighbors
    assert distortion.sharpness(step.reshape(1, -1)) == pytest.approx(1 / 27)
    assert distortion.errors(np.full((1, 4), 0.5), np.zeros((1, 4))) == pytest.approx(0.25)


def test_downstream(tmp_path, toy_images, monkeypatch):
    gammas = []

    def mmd(real, generated, *, gamma):
        gammas.append(gamma)
        return kernel_mmd(real, generated, gamma=gamma)

    monkeypatch.setattr(downstream, "kernel_mmd", mmd)
    result = downstream.run(Config(out=tmp_path, seeds=1))
    for record in result.records:
        assert 0 < record["error"] < 0.9
        assert -0.1 < record["rand"] <= 1
        assert 0.4 < record["neighbor"] <= 1
        assert record["mmd"] > 0
        assert 0 <= record["active"] <= 20
    assert len(gammas) == len(downstream.MODELS)
    assert len(set(gammas)) == 1  # of the real rows, the same for all models
    result.save(Config(out=tmp_path))


def test_margins(tmp_path, toy_images, monkeypatch):
    monkeypatch.setattr(margins, "NORMS", (0.5, 2.0))
    few_rows = {"n_train": 600, "epochs": 2, "device": "cpu", "n_draws": 200, "n_rows": 4, "n_restarts": 1}
    monkeypatch.setattr(margins, "sizes", lambda config: few_rows)
    result = margins.run(Config(out=tmp_path, quick=True))
    assert len(result.records) == 4 + 3 + 3  # beta, total correlation beyond 1, tau beyond 0
    for record in result.records:
        lower, upper = (margins.array(record, name) for name in ("lower", "upper"))
        known = np.isfinite(lower) & np.isfinite(upper)
        assert (lower[known] <= upper[known]).all()
        for at, more in zip(margins.NORMS, margins.NORMS[1:], strict=False):
            assert record["by norm"][f"{more:g}"]["damage"] >= record["by norm"][f"{at:g}"]["damage"]
    result.save(Config(out=tmp_path))


def test_bounds(tmp_path, toy_images, monkeypatch):
    few_rows = {"n_train": 600, "epochs": 2, "device": "cpu", "n_draws": 200, "n_rows": 4, "n_restarts": 1}
    monkeypatch.setattr(bounds, "IMAGES", {"mnist": "MNIST"})
    n_rows = {"perceptrons": 4, "convolutions": 2}
    monkeypatch.setattr(bounds, "sizes", lambda config, network: few_rows | {"n_rows": n_rows[network]})
    result = bounds.run(Config(out=tmp_path, quick=True))
    assert [record["network"] for record in result.records] == list(bounds.NETWORKS)
    for record in result.records:
        assert record["n_train"] == 600
        told = {name: bounds.array(record, name) for name in (*bounds.BOUNDS, "upper")}
        assert (told["third_order"] >= told["theorem1"]).all()
        assert (told["certified"] <= told["lower"]).all()
        assert not (told["lower"] > told["upper"]).any()
    result.save(Config(out=tmp_path))


def test_levers(tmp_path, toy_images, monkeypatch):
    few = {"n_train": 600, "epochs": 2, "device": "cpu", "n_draws": 200, "n_rows": 3, "n_restarts": 1, "n_held_out": 50}
    monkeypatch.setattr(levers, "sizes", lambda config, model: few)
    result = levers.run(Config(out=tmp_path, quick=True))
    assert len(result.records) == len(levers.LEVERS)
    for record in result.records:
        if None not in (record["certified"], record["margin"]):
            assert record["certified"] <= record["margin"]
        assert record["damage"] >= record["clean"]
        assert (record["certified"] is None) >= (record["model"].get("refine", 0) > 0 and record["margin"] != 0)
    result.save(Config(out=tmp_path))


def test_refinement(tmp_path, toy_images, tables):
    result = refinement.run(Config(data=tables, out=tmp_path, quick=True))
    images = [record for record in result.records if "images" in record]
    assert len(images) == 2 * len(refinement.MODELS)
    for record in images:
        plain, refined = (refinement.answer(record, refine) for refine in (0, refinement.STEPS))
        assert plain["worst 10 %"] > plain["mean"]
        if record["model"].get("beta") == 1.0:  # steps raise the bound, which has all of the KL term
            assert refined["mean"] < plain["mean"]
    beta = refinement.MODELS["plain, beta = 1"]
    assert refinement.changes(result.records, "mnist", beta, 0, "mean") == pytest.approx([0.0], abs=1e-9)
    for record in result.records[len(images) :]:
        plain, refined = (refinement.answer(record, refine) for refine in (0, refinement.STEPS))
        assert plain["hidden by"] != refined["hidden by"]
        assert len(plain["hidden by"]) == len(refined["seen through"]) <= 1
    result.save(Config(out=tmp_path))


def test_errors_at_equal_rate():
    """Of errors c / rate, a model with twice the error of a plain one of its rate is told so."""
    plain = [{"model": model, "seed": 0, "rate": rate, "error": 6 / rate} for rate, model in
             zip((4.0, 3.0, 2.0, 1.0), levers.PLAIN.values(), strict=True)]  # fmt: skip
    assert levers.against_plain(plain, {"seed": 0, "rate": 2.5, "error": 12 / 2.5}) == pytest.approx(1.0)
    assert np.isnan(levers.against_plain(plain, {"seed": 0, "rate": 5.0, "error": 1.0}))


def test_networks_of_bounds_fit_their_images():
    for images, n in {"mnist": 784, "cifar10": 3072}.items():
        made = bounds.networks(images, "convolutions")
        assert made["decoder"](10, n)(made["encoder"](n, 10)(torch.zeros(2, n))).shape == (2, n)
        assert bounds.networks(images, "perceptrons") == {}


def test_what_is_told_of_bounds_and_margins():
    record = {
        "theorem1": [0.1, 0.2, 0.3, 0.4, None],
        "third_order": [0.2, 0.2, 0.4, 1.2, None],
        "certified": [0.05, 0.1, 0.2, 1.2, None],
        "lower": [0.2, 0.4, 0.6, 1.2, None],
        "linearized": [0.5, 1.0, 1.5, None, None],
        "upper": [0.4, 0.8, 1.2, None, None],  # the fourth row is censored, the last abstains
    }
    told = bounds.agreement(record)
    assert (told["Pearson"], told["rank"], told["holds"]) == pytest.approx((1.0, 1.0, 1.0))
    ratios = [told[name] for name in ("theorem1", "third_order", "certified", "lower")]
    assert (*ratios, told["off"]) == pytest.approx((4.0, 3.0, 8.0, 2.0, 0.25))
    assert margins._median([record], "upper") == [0.8]  # of 0, 0.4, 0.8, 1.2, infinity
    assert margins._median([record], "linearized") == [1.0]  # of 0, 0.5, 1, 1.5, infinity
    assert margins._median([record], "theorem1") == [0.2]


def test_the_published_loss_is_a_sum_over_levels():
    model = UnitPinballVAE(3, 1, (), (0.15, 0.5, 0.85), 0)
    x, z = torch.linspace(-2.0, 2.0, 12).view(4, 3), torch.zeros(4, 1)
    error = x[..., None] - model._quantiles(z)
    levels = torch.tensor([0.15, 0.5, 0.85])
    pinball = torch.maximum(levels * error, (levels - 1) * error).sum((1, 2))
    torch.testing.assert_close(model._reconstruction(x, z), pinball)


@pytest.mark.parametrize("kind", [*KINDS, "pinball"])
def test_rivals_find_the_noise_of_features_without_structure(kind):
    X = np.random.default_rng(0).normal(0.0, 0.5, size=(4000, 3))
    sizes = 3, 1, (8,)
    model = UnitPinballVAE(*sizes, shrinkage.WIDE, 0) if kind == "pinball" else NormalVAE(*sizes, kind, seed=0)
    model.fit(X, 1500, batch_size=256, lr=1e-2)
    center, scale = model.predict(X)
    # One latent coordinate may take one of three features' variance.
    assert 0.35 < np.median(scale) < 0.55
    assert np.abs((X - center) / scale).mean() == pytest.approx(0.8, abs=0.15)
    ends = model.predict_interval(X, 0.3)
    assert ((ends[..., 0] < X) & (ends[..., 1] > X)).mean() == pytest.approx(0.7, abs=0.06)
