"""What type checkers see: a user's script in mypy and pyright, and how much of the public interface has types."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

HERE = Path(__file__).parent
SCRIPT = HERE / "user_script.py"
WRONG = {i for i, line in enumerate(SCRIPT.read_text().splitlines(), start=1) if line.endswith("# WRONG")}
# Checkers look for packages where the python on the path has them.
ENVIRONMENT = {**os.environ, "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))}


def run(*command):
    return subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, env=ENVIRONMENT, cwd=HERE)


def test_mypy_reads_a_users_script(tmp_path):
    done = run(
        "mypy", "--strict", "--config-file", os.devnull, "--cache-dir", str(tmp_path), "--no-incremental", str(SCRIPT)
    )
    found = {int(line) for line in re.findall(r"user_script\.py:(\d+): error", done.stdout)}
    assert found == WRONG, done.stdout + done.stderr


def pyright(*arguments):
    pytest.importorskip("pyright")
    done = run("pyright", "--outputjson", *arguments)
    assert done.stdout.startswith("{"), done.stdout + done.stderr
    return json.loads(done.stdout)


def test_pyright_reads_a_users_script():
    told = pyright(str(SCRIPT))["generalDiagnostics"]
    errors = [entry for entry in told if entry["severity"] == "error"]
    assert {entry["range"]["start"]["line"] + 1 for entry in errors} == WRONG, json.dumps(errors, indent=1)


@pytest.mark.skipif(np.lib.NumpyVersion(np.__version__) < "2.0.0", reason="NumPy 1 leaves its own types open")
def test_the_public_interface_has_types():
    told = pyright("--verifytypes", "riskvae", "--ignoreexternal")["typeCompleteness"]
    unknown = [symbol["name"] for symbol in told["symbols"] if symbol["isExported"] and not symbol["isTypeKnown"]]
    assert told["completenessScore"] >= 0.95, unknown
    assert len(told["symbols"]) > 500
