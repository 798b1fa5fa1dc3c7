"""What a measurement hangs on: its task, the code that measures, versions of libraries, and the content of the data."""

import ast
import hashlib
import json
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import riskvae

__all__ = ["VERSIONS", "content", "digest"]

VERSIONS = ("riskvae", "torch", "scikit-learn", "numpy", "scipy")
# Of the studies' own files these do not measure.
_FRAME = ("_anomaly_reports.py", "_cache.py", "_drawing.py", "_frame.py")


def digest(task: Mapping[str, Any], measure: Callable[..., Any], data: str) -> str:
    """Name of a measurement: another one wherever it could come out otherwise."""
    parts = {**task, "": [_library(), _of_study(measure), {name: version(name) for name in VERSIONS}, data]}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:24]


def content(folders: Iterable[Path]) -> str:
    """Digest of all files in some folders: their names and bytes; those that do not exist hold none."""
    told = hashlib.sha256()
    for folder in folders:
        for file in sorted(file for file in folder.rglob("*") if file.is_file()):
            with file.open("rb") as opened:
                told.update(
                    f"{file.relative_to(folder)} {hashlib.file_digest(opened, 'sha256').hexdigest()}\n".encode()
                )
    return told.hexdigest()


@cache
def _library() -> str:
    """Digest of the library's code and of what studies share: not of plots, pages, docstrings and comments."""
    root = Path(riskvae.__file__).parent
    return _told(_parsed(file) for file in sorted(root.rglob("*.py")) if _measures(file.relative_to(root)))


def _measures(path: Path) -> bool:
    if path.parts[0] == "studies":
        return path.name.startswith("_") and not path.name.startswith("__") and path.name not in _FRAME
    return path.parts[0] != "plotting" and path.name != "_docs.py"


def _of_study(measure: Callable[..., Any]) -> str:
    """Digest of a function and of all in its module that it uses, and they use: not of tables and figures."""
    while isinstance(measure, partial):
        measure = measure.func
    return _closure(str(sys.modules[measure.__module__].__file__), measure.__name__)


@cache
def _closure(file: str, name: str) -> str:
    statements: dict[str, list[ast.stmt]] = {}
    for node in _parsed(Path(file)).body:
        for bound in _bound(node):
            statements.setdefault(bound, []).append(node)
    found: dict[str, list[ast.stmt]] = {}
    waiting = [name]
    while waiting:
        name = waiting.pop()
        if name in statements and name not in found:
            found[name] = statements[name]
            waiting += [
                used.id for node in found[name] for used in ast.walk(node) if isinstance(used, ast.Name)
            ]  # those of its own variables are not among the statements
    return _told(node for name in sorted(found) for node in found[name])


def _bound(node: ast.stmt) -> list[str]:
    """Names that a statement of a module gives a meaning to."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    if isinstance(node, ast.Import | ast.ImportFrom):
        return [alias.asname or alias.name.split(".")[0] for alias in node.names]
    return [inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Store)]


def _parsed(file: Path) -> ast.Module:
    """Without docstrings."""
    tree = ast.parse(file.read_bytes())
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            node.value.value = None
    return tree


def _told(nodes: Iterable[ast.AST]) -> str:
    return hashlib.sha256("".join(map(ast.dump, nodes)).encode()).hexdigest()
