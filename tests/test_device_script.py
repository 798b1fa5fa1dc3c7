"""`benchmarks/device.py` holds on a GPU what other tests hold here: it runs, and a wrong answer makes it fail."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from riskvae.estimators import _base
from riskvae.estimators._starting import begin

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def device(monkeypatch):
    """The script as a module; it imports others beside it."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    spec = importlib.util.spec_from_file_location("device", BENCHMARKS / "device.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_check_holds_on_the_cpu(device, tmp_path):
    file = tmp_path / "device.json"
    command = [sys.executable, BENCHMARKS / "device.py", "--device", "cpu", "--quick", "--json", file]
    environment = os.environ | {"PYTHONPATH": str(BENCHMARKS.parent), "OMP_NUM_THREADS": "1"}
    environment.pop("RISKVAE_DATA", None)
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(file.read_text())
    found = {line["name"]: line for line in told["lines"]}
    for model in device.MODELS:
        for what in ("answers", "fit again", "fit as on the CPU"):
            assert found.pop(f"{model}: {what}")["holds"] is True
    of_some = {
        **dict.fromkeys(("BetaVAE", "QuantileVAE"), ["margins", "attacks", "pickle opens on the CPU"]),
        "BetaVAE, convolutions": ["margins", "attacks", "warm start", "checkpoint"],
        "RiskAwareVAE, learned": ["warm start", "checkpoint"],
    }
    of_some["QuantileVAE"] = [*of_some["QuantileVAE"], "verdict margins"]
    for model, checks in of_some.items():
        for what in checks:
            assert found.pop(f"{model}: {what}")["holds"] is True
    assert found.pop("batched_fits as one by one")["holds"] is True
    found.pop("memory after fits")
    assert list(found) == [
        "epoch, default network",
        "epoch, default network, compile=True",
        "epoch, convolutions",
        "price of a cuDNN that repeats itself",
        "epoch, 8 draws",
        "margins",
        "attacks",
        "score_samples",
    ]
    assert all(line["holds"] is None for line in found.values())
    assert all(f"| {line['name']} |" in done.stdout for line in told["lines"])


@pytest.mark.parametrize(
    ("found", "expected", "differs"),
    [
        ([1.0, 2.0], [1.0, 2.0], 0.0),
        ([1.0, 2.1], [1.0, 2.0], 0.05),
        ([np.nan, 2.0], [np.nan, 2.0], 0.0),
        ([np.nan, 2.0], [1.0, 2.0], np.inf),
        ([1.0, 2.0], [np.nan, 2.0], np.inf),
        ([np.inf, 2.0], [-np.inf, 2.0], np.inf),
        ([[1.0, 2.0]], [1.0, 2.0], np.inf),
        ([1, 2], [1.0, 2.0], np.inf),
        ([], [], np.inf),
        ([1, -1, 1, 1], [1, 1, 1, 1], 0.25),
        ([True, False], [True, True], 0.5),
    ],
    ids=str,
)
def test_a_difference_is_seen(device, found, expected, differs):
    assert device.difference(found, expected) == pytest.approx(differs)
    line = device.agree("answers", {"right": ([1.0], [1.0]), "asked": (found, expected)}, 0.01)
    assert line.holds == (differs <= 0.01)


def test_what_is_allowed_is_allowed_of_each(device):
    pairs = {"rough": ([1.0, 2.1], [1.0, 2.0]), "exact": ([1.0, 2.001], [1.0, 2.0])}
    assert device.agree("both", pairs, {"rough": 0.1, "exact": 0.01}).holds
    line = device.agree("both", pairs, {"rough": 0.1, "exact": 1e-6})
    assert not line.holds
    assert "exact differs" in line.value


class NoTimes:
    def __init__(self, device, quick):
        pass

    def lines(self):
        return []


@pytest.mark.filterwarnings("ignore")  # as the script does, which then tells nobody
@pytest.mark.parametrize("wrong", ["answers", "seed"])
def test_a_wrong_answer_ends_in_status_1(device, monkeypatch, wrong, capsys):
    model = device.BetaVAE
    monkeypatch.setattr(device, "MODELS", {"one": model(), "RiskAwareVAE, smoothed": device.RiskAwareVAE()})
    monkeypatch.setattr(device, "Times", NoTimes)
    assert not device.main(["--device", "cpu", "--quick"])
    calls = iter(range(1000))
    if wrong == "answers":
        right = model.reconstruct
        monkeypatch.setattr(model, "reconstruct", lambda self, X: right(self, X) + 0.1 * next(calls))
    else:
        monkeypatch.setattr(_base, "begin", lambda self, device, seed=None: begin(self, device, next(calls)))
    assert device.main(["--device", "cpu", "--quick"])
    assert {"answers": "| one: answers |", "seed": "| one: fit again |"}[wrong] in capsys.readouterr().out
    with pytest.raises(SystemExit):
        device.main(["--device", "gpu"])
    assert "device must be" in capsys.readouterr().err
