"""The README is short, and each block of its code runs as pasted, alone, and prints what the README says."""

from pathlib import Path

import pytest
from helpers import numbers, run_blocks

README = Path(__file__).parents[1] / "README.md"


def test_the_readme_is_short():
    assert len(README.read_text().splitlines()) <= 130


def test_code_of_the_readme(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tails, anomalies, margins = run_blocks(README, alone=True)

    (_, plain_worst, plain_mean), (_, worst, mean) = (map(float, numbers(line)) for line in tails.printed.splitlines())
    assert worst < plain_worst < 60  # x 1000; an untrained model has more than 100
    assert plain_mean < mean < 1.1 * plain_mean

    found = anomalies.names["found"]
    assert found[:212].sum() > 150
    assert found[212:].sum() < 0.1 * found.sum()
    assert anomalies.names["metrics"].coverage(
        anomalies.names["new"][212:], anomalies.names["intervals"][212:]
    ).mean() == pytest.approx(0.9, abs=0.05)

    margin = margins.names["margin"]
    assert (margin.lower <= margin.upper).all()
    (_, bound, attack, error), (_, flat_bound, flat_attack, flat_error) = (
        map(float, numbers(line)) for line in margins.printed.splitlines()
    )
    assert bound < flat_bound < flat_attack
    assert attack < flat_attack
    assert error < flat_error
