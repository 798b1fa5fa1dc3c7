"""What a release says of itself is the same everywhere; its pages have addresses; its demo runs."""

import importlib.util
import json
import re
import tarfile
import tomllib
import zipfile
from datetime import date
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from helpers import numbers

import riskvae
from riskvae import demo

ROOT = Path(__file__).parents[1]
HOME, TAG = "https://code.example/someone/riskvae", "v9.8.7"


def script(name):
    """A file of release/ as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "release" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def read(name):
    return (ROOT / name).read_text()


def project():
    return tomllib.loads(read("pyproject.toml"))["project"]


@pytest.mark.parametrize(
    ("file", "pattern"),
    [
        ("CITATION.cff", r"^version: (.+)$"),
        ("README.md", r"version = \{(.+?)\}"),
        ("docs/guide/install.md", r"version = \{(.+?)\}"),
        ("release/recipe.yaml", r'^  version: "(.+)"$'),
        ("CHANGELOG.md", r"^## \[(\d.*?)\] - "),
    ],
)
def test_the_version_is_that_of_the_package(file, pattern):
    assert re.search(pattern, read(file), flags=re.MULTILINE)[1] == riskvae.__version__


def test_the_release_has_one_date():
    told = re.search(r"^date-released: (.+)$", read("CITATION.cff"), flags=re.MULTILINE)[1]
    assert f"## [{riskvae.__version__}] - {told}\n" in read("CHANGELOG.md")
    for page in ("README.md", "docs/guide/install.md"):
        assert f"year = {{{date.fromisoformat(told).year}}}" in read(page)


def test_the_conda_recipe_says_and_asks_for_what_the_wheel_does():
    run = re.search(r"^  run:\n((?: {4}.*\n)+)", read("release/recipe.yaml"), flags=re.MULTILINE)[1]
    asked = {line.strip("- ").replace(" >=", ">=") for line in run.splitlines()}
    renamed = {name.replace("torch>=", "pytorch>=") for name in project()["dependencies"]}
    assert asked == renamed | {"python>=${{ python_min }}"}
    recipe = read("release/recipe.yaml")
    assert f'python_min: "{project()["requires-python"].removeprefix(">=")}"' in recipe
    build = tomllib.loads(read("pyproject.toml"))["build-system"]["requires"]
    assert [name.replace(">=", " >=") for name in build] == re.findall(r"^    - (setuptools .*)$", recipe, re.MULTILINE)
    assert f"  summary: {project()['description']}\n" in recipe
    assert f"  license: {project()['license']}\n" in recipe
    assert f"\nlicense: {project()['license']}\n" in read("CITATION.cff")


def test_every_supported_python_is_tested():
    told = {found for name in project()["classifiers"] if (found := name.split(" :: ")[-1]).startswith("3.")}
    assert told == set(re.findall(r'python: "(3\.\d+)"', read(".github/workflows/ci.yml")))
    ends = [choose(told, key=lambda name: int(name[2:])) for choose in (min, max)]
    assert ends[0] == project()["requires-python"].removeprefix(">=")
    assert f"python: {json.dumps(ends)}" in read(".github/workflows/release.yml")


def test_workflows_name_commits_of_the_actions_that_they_use():
    """What a tag or branch of another repository stands for may change."""
    for workflow in ("ci", "release"):
        used = re.findall(r"uses: (.*)", read(f".github/workflows/{workflow}.yml"))
        assert used
        assert [action for action in used if not re.fullmatch(r"[\w/-]+@[0-9a-f]{40} # v[\d.]+", action)] == []


def test_the_oldest_versions_that_are_tested_are_those_that_are_promised():
    """An exact version is tested; a range promises from its first."""
    tested = dict(line.split("==") for line in read("constraints-oldest.txt").splitlines() if "==" in line)
    extras = project()["optional-dependencies"]
    users = [extras[name] for name in extras.keys() - {"bench", "docs", "release", "site", "test"}]
    for requirement in (*project()["dependencies"], *chain(*users)):
        name, promised = requirement.split(">=")
        assert f"{tested[name]}.".startswith(f"{promised}."), name


def test_hooks_have_the_versions_of_the_other_tools():
    pinned = set(re.findall(r'"(\w+==[\d.]+)"', read(".pre-commit-config.yaml")))
    assert len(pinned) == 1
    assert pinned <= set(read("constraints.txt").splitlines())


def test_links_of_the_readme_are_addresses_on_the_index():
    text = read("README.md")
    told = script("addresses").absolute(text, HOME, TAG)
    link = re.compile(r"(!?)\[[^\[\]]*\]\(([^)\s]+)\)")
    before, after = link.findall(text), link.findall(told)
    assert len(before) == len(after) > 15
    for (picture, target), (_, address) in zip(before, after, strict=True):
        if target.startswith(("https://", "#")):
            assert address == target
        else:
            assert address == f"{HOME}/{'raw' if picture else 'blob'}/{TAG}/{target}"
            assert (ROOT / target.split("#")[0]).exists()
    assert sum(picture == "!" for picture, _ in after) >= 1
    # Nothing else has changed: text, and code, in which brackets may look like links.
    assert link.sub("", told) == link.sub("", text)
    code = "```python\nscores[name](rows)\n```\n"
    assert script("addresses").absolute(f"{code}[a](b.md)\n", HOME, TAG) == f"{code}[a]({HOME}/blob/{TAG}/b.md)\n"
    # However a link is written: as one around a picture, by reference, or in HTML.
    prose = re.sub(r"^```.*?^```$|`[^`]*`", "", told, flags=re.DOTALL | re.MULTILINE)
    ways = (r"\]\(([^)\s]*)", r"^ *\[[^\]]+\]:\s*(\S+)", r"(?:src|href)=[\"']?([^\"'\s>]+)")
    places = [place for way in ways for place in re.findall(way, prose, flags=re.MULTILINE)]
    assert [place for place in places if not place.startswith(("https://", "#"))] == []


def test_the_index_installs_by_name():
    told = script("addresses").by_name(read("README.md"))
    assert "`pip install riskvae`" in told
    assert "pip install 'riskvae[plot]'" in told
    assert "clone of this" not in told
    assert "pip install '." not in told


def test_the_project_gets_its_addresses_once():
    addresses = script("addresses")
    told = read("pyproject.toml").partition("\n[project.urls]")[0]  # a released source has them
    text = addresses.project_urls(told, HOME, TAG)
    assert tomllib.loads(text)["project"]["urls"]["Source"] == HOME
    with pytest.raises(SystemExit, match="addresses already"):
        addresses.project_urls(text, HOME, TAG)


def test_what_is_built_is_held_to_the_repository(tmp_path, monkeypatch):
    check = script("check")
    assert check.version() == riskvae.__version__
    monkeypatch.setattr(check, "ROOT", tmp_path)
    files = {"README.md", "tests/test_a.py", "riskvae/a.py", "riskvae/py.typed"}
    for name in (*files, "PKG-INFO", "riskvae.egg-info/SOURCES.txt"):
        path = tmp_path / "riskvae-1.0" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "dist").mkdir()
    assert check.faults(files, "1.0") == ["dist/riskvae-1.0.tar.gz is missing"]
    source = tmp_path / "dist" / "riskvae-1.0.tar.gz"
    with tarfile.open(source, "w:gz") as archive:
        archive.add(tmp_path / "riskvae-1.0", "riskvae-1.0")
    with zipfile.ZipFile(tmp_path / "dist" / "riskvae-1.0-py3-none-any.whl", "w") as archive:
        for name in ("riskvae/a.py", "riskvae/py.typed", "riskvae-1.0.dist-info/METADATA"):
            archive.writestr(name, "")
    assert check.faults(files, "1.0", "v1.0") == []
    assert check.faults(files, "1.0", "v1.1") == ["the tag is v1.1, and riskvae.__version__ is 1.0"]
    assert check.faults(files | {"riskvae/b.py"}, "1.0") == [
        "riskvae-1.0.tar.gz lacks riskvae/b.py", "riskvae-1.0-py3-none-any.whl lacks riskvae/b.py",
    ]  # fmt: skip
    assert check.faults(files - {"riskvae/a.py"}, "1.0") == [
        f"riskvae-1.0{end} has riskvae/a.py, which is not in the repository" for end in (".tar.gz", "-py3-none-any.whl")
    ]
    (tmp_path / "dist" / "riskvae-0.9.tar.gz").touch()
    assert check.faults(files, "1.0") == ["dist/riskvae-0.9.tar.gz is not of this version"]


def test_digits_as_characters():
    image = np.zeros((8, 8))
    image[0, 0], image[7, 7] = 1.0, 0.5
    lines = demo.draw(image.ravel(), 1 - image.ravel()).split("\n")
    assert len(lines) == 8
    assert {len(line) for line in lines} == {3 + 16 + 3 + 16}
    assert lines[0] == "   @@" + " " * 14 + "   " + "  " + "@" * 14
    assert lines[7][17:19] == "==" or lines[7][17:19] == "--"


def test_the_demo_shows_what_it_says(capsys):
    assert demo.main([]) == 0
    told = capsys.readouterr().out
    (_, plain, plain_all), (_, averse, averse_all) = (
        [float(number) for number in numbers(line)] for line in told.splitlines() if "worst tenth" in line
    )
    assert averse < plain < 60
    assert averse_all < 1.1 * plain_all
    found, sick, false, well = map(int, numbers(re.search(r"found .*", told)[0]))
    assert (sick, well) == (212, 72)
    assert found > 150
    assert false <= 0.1 * (found + false)
    lower, upper = map(float, re.search(r"bound ([\d.]+),.* at ([\d.]+)", told).groups())
    assert 0.1 < lower < upper
    assert "the same, bit for bit" in told


def test_the_demo_says_how_it_is_used(capsys):
    assert demo.main(["--help"]) == 0
    assert demo.main(["--fast"]) == 2
    assert "python -m riskvae.demo" in capsys.readouterr().err
