"""Imports point one way, and importing the package costs little."""

import ast
import importlib.util
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import riskvae

ROOT = Path(riskvae.__file__).parent
# The plan of the house: each room, and whose names it may import.
GROUND = {"losses", "nets", "risk", "_machine", "_processor", "_sklearn", "_validation", "_value"}
MODEL = GROUND | {"likelihoods"}
HOUSE = {
    "_machine": set(),
    "_processor": set(),
    "_versions": {"_processor", "nets"},
    "_validation": set(),
    "_sklearn": set(),
    "_value": {"_sklearn"},
    "losses": {"_machine"},
    "nets": {"_processor"},
    "risk": {"_value"},
    "likelihoods": {"_machine", "losses", "nets", "_sklearn", "_validation", "_value"},
    "training": MODEL,
    "detection": {"losses"},
    "persistence": set(),
    "estimators": MODEL | {"training", "detection", "persistence"},
    "inspect": {"persistence"},
    "robustness": {"_machine", "_validation", "nets"},
    "datasets": {"_sklearn", "_validation"},
    "metrics": {"_validation", "losses", "risk"},
    "plotting": {"_validation", "estimators", "metrics", "robustness"},
    "studies": set(riskvae.__all__),
    "demo": set(riskvae.__all__),
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
    return found - {"__version__"}


FILES = sorted(path.relative_to(ROOT) for path in ROOT.glob("**/*.py"))


@pytest.mark.parametrize("path", [path for path in FILES if str(path) != "__init__.py"], ids=str)
def test_imports_point_one_way(path):
    module = path.parts[0].removesuffix(".py")  # a package is one module to the others
    assert imported(ROOT / path) - {module} <= HOUSE[module]


def test_every_room_is_in_the_plan_and_says_what_it_is_for():
    packages = {path.parent for path in ROOT.glob("*/__init__.py")}
    assert {path.name for path in packages} | {path.stem for path in ROOT.glob("*.py")} - {"__init__"} == set(HOUSE)
    for package in packages:
        told = ast.get_docstring(ast.parse((package / "__init__.py").read_text()))
        assert len(told.splitlines()) >= 3, package
        assert "In the house:" in told, package


def test_rooms_stand_in_an_order():
    """No circle: every room imports only from those that stand before it."""
    order = list(TopologicalSorter(HOUSE).static_order())  # raises where there is one
    assert order.index("estimators") > order.index("training") > order.index("likelihoods")


def test_the_plan_of_the_house_is_drawn_from_the_imports():
    path = ROOT.parent / "docs" / "house.py"
    spec = importlib.util.spec_from_file_location("house", path)
    house = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(house)
    assert house.PICTURE.read_text() == house.draw(), "run python docs/house.py"
    assert {room: found <= HOUSE[room] for room, found in house.imports().items()} == dict.fromkeys(HOUSE, True)


def test_files_of_a_room_import_each_other_one_way():
    for package in [path.parent for path in ROOT.glob("*/__init__.py")]:
        graph = {}
        for path in package.glob("*.py"):
            if path.stem != "__init__":
                pattern = rf"^ *from riskvae\.{package.name}\.(\w+) import"
                graph[path.stem] = set(re.findall(pattern, path.read_text(), flags=re.MULTILINE))
        assert set(TopologicalSorter(graph).static_order()) == set(graph)


@pytest.mark.parametrize("path", FILES, ids=str)
def test_a_file_says_its_one_idea_in_its_first_line(path):
    told = ast.get_docstring(ast.parse((ROOT / path).read_text()))
    assert told.splitlines()[0].endswith((".", ":")), path
    assert len((ROOT / path).read_text().splitlines()) <= 350, path


def test_only_the_training_room_knows_skorch():
    pattern = re.compile(r"^\s*(from|import) skorch", re.MULTILINE)
    found = {path.relative_to(ROOT).parts[0] for path in ROOT.glob("**/*.py") if pattern.search(path.read_text())}
    assert found == {"training"}


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
