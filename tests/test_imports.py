"""Imports point one way, and importing the package costs little."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import riskvae

ROOT = Path(riskvae.__file__).parent
GROUND = {"losses", "nets", "risk", "_validation"}
MAY_IMPORT = {
    **dict.fromkeys(GROUND, set()),
    "_docs": set(),
    "_calibration": set(),
    "_likelihoods": GROUND,
    "_model": GROUND | {"_likelihoods"},
    "_density": GROUND,
    "_rows": GROUND,
    "_training": GROUND | {"_model", "_rows"},
    "_sklearn_callbacks": {"_training"},
    "_inference": GROUND,
    "_base": GROUND | {"_likelihoods", "_model", "_rows", "_training", "_sklearn_callbacks", "_inference"},
    "_beta_vae": GROUND | {"_model", "_base", "_docs"},
    "_quantile_predictions": GROUND | {"_calibration", "_density", "_inference"},
    "_detection": GROUND | {"_calibration", "_density", "_quantile_predictions"},
    "_quantile_vae": GROUND | {"_base", "_density", "_detection", "_docs", "_likelihoods", "_rows"},
    "_risk_objective": GROUND | {"_model"},
    "_risk_aware_vae": GROUND | {"_model", "_base", "_docs", "_risk_objective"},
    "datasets": GROUND,
    "metrics": GROUND,
    "robustness": GROUND,
    "plotting": {"_validation", "metrics", "robustness"},
    "studies": set(riskvae.__all__),
}


def imported(path):
    """Names of the package's modules that a file imports when it runs."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "riskvae":
            parts = node.module.split(".")
            found |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("riskvae.")}
    return found


FILES = sorted(path.relative_to(ROOT) for path in ROOT.glob("**/*.py"))


@pytest.mark.parametrize("path", [path for path in FILES if str(path) != "__init__.py"], ids=str)
def test_imports_point_one_way(path):
    module = path.parts[0].removesuffix(".py")  # a package is one module to the others
    assert imported(ROOT / path) - {module} <= MAY_IMPORT[module]


def test_only_the_engine_knows_skorch():
    pattern = re.compile(r"^\s*(from|import) skorch", re.MULTILINE)
    assert {path.stem for path in ROOT.glob("**/*.py") if pattern.search(path.read_text())} == {"_training"}


def test_importing_the_package_loads_neither_torch_nor_scikit_learn():
    code = "import sys, riskvae; print(*(m for m in ('torch', 'sklearn', 'skorch', 'scipy') if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_importing_changes_nothing_global():
    code = """
import warnings, random
import numpy, sklearn, torch, skorch
def state():
    return (warnings.filters[:], torch.get_default_dtype(), torch.get_num_threads(), torch.get_rng_state().tolist(),
            numpy.random.get_state()[1].tolist(), random.getstate(), sklearn.get_config())
before = state()
import riskvae
[getattr(riskvae, name) for name in riskvae.__all__]
assert state() == before
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_public_names():
    assert set(riskvae.__all__) <= set(dir(riskvae))
    for name in riskvae.__all__:
        assert getattr(riskvae, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'VAE'"):
        _ = riskvae.VAE
