"""The pages: every public name is in the API reference, the guide's code runs, shared docstrings are well formed."""

import importlib
import inspect
import json
import re
from pathlib import Path

import pytest
from helpers import run_blocks

import riskvae
from riskvae.studies import STUDIES

ROOT = Path(riskvae.__file__).parent
DOCS = Path(__file__).parents[1] / "docs"
PARTS = {path.stem for path in ROOT.glob("[!_]*.py")} | {path.parent.name for path in ROOT.glob("*/__init__.py")}
MODULES = ["riskvae", *(f"riskvae.{part}" for part in sorted(PARTS))]
ESTIMATORS = [value for name in riskvae.__all__ if inspect.isclass(value := getattr(riskvae, name))]
GUIDE = sorted(path for path in (DOCS / "guide").glob("*.md") if path.stem != "index")


def listed():
    """Full names that the API reference documents: modules, and entries of its tables and data directives."""
    names = set()
    for page in (DOCS / "api").glob("*.rst"):
        module = None
        for line in page.read_text().splitlines():
            if line.startswith(".. currentmodule:: "):
                module = line.split()[-1]
            elif line.startswith(".. automodule:: "):
                names.add(line.split()[-1])
            elif module and (found := re.fullmatch(r"(?: {3}|\.\. data:: )(\w+)", line)):
                names.add(f"{module}.{found[1]}")
    return names


def named(name):
    """What a full name stands for."""
    module, _, attribute = name.rpartition(".")
    return importlib.import_module(name) if name in MODULES else getattr(importlib.import_module(module), attribute)


@pytest.mark.parametrize("module", [name for name in MODULES if importlib.import_module(name).__all__])
def test_every_public_name_is_in_the_api_reference(module):
    names = listed()
    assert module in names
    # What a module hands on from another is documented where it is at home.
    documented = {id(named(name)) for name in names}
    public = importlib.import_module(module)
    assert {name for name in public.__all__ if id(getattr(public, name)) not in documented} == set()


def test_the_api_reference_names_nothing_else():
    for name in listed() - set(MODULES):
        module, _, attribute = name.rpartition(".")
        assert attribute in importlib.import_module(module).__all__


@pytest.mark.parametrize("cls", ESTIMATORS, ids=lambda cls: cls.__name__)
def test_docstrings_have_an_indented_block_for_every_parameter(cls):
    entries = re.findall(r"^((?:\w+, )*\w+) : .*\n {4}\S", inspect.getdoc(cls), flags=re.MULTILINE)
    described = {name for entry in entries for name in entry.split(", ")}
    assert set(inspect.signature(cls).parameters) <= described
    assert {"n_features_in_", "module_", "history_", "noise_scale_"} <= described


def test_there_is_a_guide():
    assert [path.stem for path in GUIDE] == ["robustness", "tail_risk", "uncertainty"]


@pytest.mark.parametrize("path", GUIDE, ids=lambda path: path.stem)
def test_code_of_the_guide(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    n_blocks, _ = run_blocks(path)
    assert n_blocks >= 3


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_has_its_results_and_a_page_that_reads_them(name):
    folder = DOCS / "results" / name
    told = json.loads((folder / "results.json").read_text())
    assert (told["study"], told["settings"]["quick"], told["settings"]["epochs"]) == (name, False, None)
    assert {record["seed"] for record in told["records"]} == set(range(told["settings"]["seeds"]))
    assert told["settings"]["seeds"] >= 3
    assert not re.search(r"/(home|root|tmp|work|Users)/", json.dumps(told))
    page = (folder / "README.md").read_text()
    assert f"`python -m riskvae.studies {name}" in page
    assert "tables.md" in page
    assert "results.json" in page
    for image in re.findall(r"!\[.*?\]\((.*?)\)", page + (folder / "tables.md").read_text()):
        assert (folder / image).stat().st_size < 500_000


def test_links_between_pages_lead_somewhere():
    pages = [*DOCS.parent.glob("*.md"), *DOCS.glob("*.md"), *DOCS.glob("*/*.md"), *DOCS.glob("results/*/*.md")]
    assert len(pages) > 15
    for page in pages:
        targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text())
        # The gallery is made by Sphinx; addresses elsewhere are not asked.
        local = [target for target in targets if not target.startswith(("http", "auto_examples"))]
        assert [target for target in local if not (page.parent / target).exists()] == [], page
