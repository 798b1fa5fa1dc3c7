"""Searches on a cluster of worker processes: equal scores, a worker that dies, data that is sent once."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("dask.distributed")

ROOT = Path(__file__).parents[1]


def run(script, *paths):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, paths)), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, timeout=300, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_a_search_survives_a_worker_and_gives_the_scores_of_one_process():
    """Pipeline, convolutions from the script itself, data sent once and not with each of twelve tasks."""
    told = json.loads(run(ROOT / "tests" / "cluster_script.py", ROOT, ROOT / "examples").splitlines()[-1])
    assert told == {"equal": True, "n_splits": 3, "killed": 1, "sent": 1, "threads": [1], "large": []}


def test_the_example_runs_with_a_network_of_the_script_itself():
    printed = run(ROOT / "examples" / "grid_on_cluster.py", ROOT)
    scores = [float(score) for score in re.findall(r"\} (-[\d.]+)$", printed, flags=re.MULTILINE)]
    assert len(scores) == 4
    assert "best: {" in printed
