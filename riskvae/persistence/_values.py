"""Parameters and fitted values as JSON and arrays, and back; functions and classes by name alone."""

import math
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np

__all__ = ["Names", "NotHere", "Unsaveable", "decode", "encode"]

# What a value of JSON that is an object tells of itself.
_KIND = "is"
# Rooms of this package, whose public names a file may use.
_ROOMS = ("estimators", "likelihoods", "nets", "risk")
_DEEPEST = 20
# Of the state of a Mersenne twister.
_WORDS = 624


class NotHere(ValueError):
    """What a file names is not there, or not trusted; the file itself may be whole."""


class Unsaveable(ValueError):
    """A value that no file can hold, with the way to it, and what to do."""


class Names:
    """Functions and classes by the names of their modules: of this package, and of modules that are trusted.

    Parameters
    ----------
    trusted : sequence of str
        Modules, or packages with all that is in them.
    """

    def __init__(self, trusted: Sequence[str] = ()) -> None:
        listed = isinstance(trusted, list | tuple | set | frozenset)
        if not listed or not all(isinstance(name, str) for name in trusted):
            raise TypeError(f"trusted must be a list of names of modules, such as ['mypackage.nets']; got {trusted!r}.")
        self.trusted = tuple(trusted)

    def _trusts(self, module: str) -> bool:
        return any(module == name or module.startswith(f"{name}.") for name in self.trusted)

    def of(self, thing: Any, where: str) -> str:
        """Name of a function or class; raises where there is none that leads back to it."""
        module, name = getattr(thing, "__module__", None) or "", getattr(thing, "__qualname__", "")
        if module.split(".")[0] == "riskvae":
            for room in _ROOMS:
                public = import_module(f"riskvae.{room}")
                if name in public.__all__ and getattr(public, name) is thing:
                    return f"riskvae.{room}:{name}"
        if not name or "<" in name or module == "__main__":
            what = "a lambda" if "<lambda>" in name else f"{name or thing!r} of {module or 'no module'}"
            raise Unsaveable(
                f"{where} is {what}, which cannot be found again elsewhere. Define it at the top of a module that can "
                "be imported, and name that module in trusted=[...]; functools.partial fixes arguments."
            )
        if not self._trusts(module):
            raise Unsaveable(
                f"{where} is {name} of {module}, which is imported only where it is trusted. Name it here, and in "
                f"load: trusted=[{module!r}]."
            )
        if _follow(sys.modules.get(module), name) is not thing:
            raise Unsaveable(f"{where} is not what {module}.{name} is now. Define it at the top of its module.")
        return f"{module}:{name}"

    def find(self, text: Any, where: str) -> Any:
        """What a name is of; a ValueError where it is of neither this package nor a trusted module."""
        if not isinstance(text, str) or text.count(":") != 1:
            raise ValueError(f"{where} must name a function or class, as module:name; got {str(text)[:100]!r}")
        module, name = text.split(":")
        room = module.removeprefix("riskvae.")
        if module.startswith("riskvae.") and room in _ROOMS:
            public = import_module(module)
            if name not in public.__all__ or not callable(getattr(public, name)):
                raise ValueError(f"{where} is {text[:100]!r}, and there is no such name in this version")
            return getattr(public, name)
        if not self._trusts(module):
            raise NotHere(
                f"{where} is {text[:100]!r}, of a module that is not trusted. If you know it and trust it, pass "
                f"trusted=[{module[:100]!r}]."
            )
        try:
            found = _follow(import_module(module), name)
        except ImportError as error:
            raise NotHere(
                f"{where} is {text[:100]!r}, and its module cannot be imported here: {error}. Put it where Python "
                "finds it."
            ) from error
        if getattr(found, "__module__", None) != module or not callable(found):
            raise ValueError(f"{where} is {text[:100]!r}, and {module} defines no such function or class")
        return found


def _follow(module: Any, name: str) -> Any:
    for part in name.split("."):
        module = getattr(module, part, None)
    return module


def encode(value: Any, names: Names, arrays: dict[str, Any], where: str) -> Any:
    """A value as JSON; arrays go into ``arrays`` by their places."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int | float):
        plain = int(value) if isinstance(value, int) else float(value)
        return plain if math.isfinite(plain) else {_KIND: "number", "value": repr(plain)}
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in "biuf":
            return {_KIND: "array", "of": _array(value.tolist(), where, Unsaveable).tolist()}
        arrays[where] = value
        return {_KIND: "tensor", "name": where}
    if isinstance(value, list | tuple):
        parts = [encode(part, names, arrays, f"{where}[{i}]") for i, part in enumerate(value)]
        return parts if isinstance(value, list) else {_KIND: "tuple", "of": parts}
    if isinstance(value, Mapping):
        if all(isinstance(key, str) for key in value) and _KIND not in value:
            return {key: encode(part, names, arrays, f"{where}.{key}") for key, part in value.items()}
        pairs = enumerate(value.items())
        told = [[encode(part, names, arrays, f"{where}[{i}]") for part in pair] for i, pair in pairs]
        return {_KIND: "dict", "of": told}
    if isinstance(value, np.random.RandomState):
        return {_KIND: "RandomState", "of": encode(value.get_state(legacy=True), names, arrays, where)}
    if isinstance(value, partial):
        return {
            _KIND: "partial",
            "function": names.of(value.func, where),
            "arguments": [encode(part, names, arrays, f"{where}({i})") for i, part in enumerate(value.args)],
            "keywords": {name: encode(part, names, arrays, f"{where}.{name}") for name, part in value.keywords.items()},
        }
    if isinstance(value, type) or hasattr(value, "__qualname__"):
        return {_KIND: "name", "of": names.of(value, where)}
    if hasattr(value, "get_params"):
        parameters = value.get_params(deep=False)
        return {
            _KIND: "object",
            "class": names.of(type(value), where),
            "parameters": {name: encode(part, names, arrays, f"{where}.{name}") for name, part in parameters.items()},
        }
    if hasattr(value, "__fspath__"):
        return str(value.__fspath__())
    raise Unsaveable(
        f"{where} is {type(value).__name__}, which a file cannot hold without pickle. Use numbers, strings, lists, "
        "functions by name, or objects with get_params."
    )


def decode(tree: Any, names: Names, arrays: Mapping[str, Any], where: str, depth: int = 0) -> Any:
    """The value that :func:`encode` was given; a ValueError says which part of it is none."""
    if depth > _DEEPEST:
        raise ValueError(f"{where[:100]} is nested more than {_DEEPEST} levels deep")

    def inner(part: Any, at: str = where) -> Any:
        return decode(part, names, arrays, at, depth + 1)

    if tree is None or isinstance(tree, bool | str | int | float):
        return tree
    if isinstance(tree, list):
        return [inner(part, f"{where}[{i}]") for i, part in enumerate(tree)]
    if _KIND not in tree:
        return {key: inner(part, f"{where}.{key}") for key, part in tree.items()}
    kind = tree[_KIND]
    if kind == "number" and tree.get("value") in ("nan", "inf", "-inf"):
        return float(tree["value"])
    if kind == "tensor" and isinstance(tree.get("name"), str) and tree["name"] in arrays:
        return arrays[tree["name"]]
    if kind == "name":
        return names.find(tree.get("of"), where)
    if kind in ("tuple", "array", "dict") and isinstance(tree.get("of"), list):
        if kind == "array":
            return _array(tree["of"], where)
        parts = inner(tree["of"])
        return tuple(parts) if kind == "tuple" else _mapping(parts, where)
    if kind == "RandomState":
        return _random_state(inner(tree.get("of")), where)
    if kind == "partial" and isinstance(tree.get("arguments"), list) and isinstance(tree.get("keywords"), dict):
        function = names.find(tree.get("function"), where)
        keywords = {name: inner(part, f"{where}.{name}") for name, part in tree["keywords"].items()}
        return partial(function, *inner(tree["arguments"]), **keywords)
    if kind == "object" and isinstance(tree.get("parameters"), dict):
        made, parameters = names.find(tree.get("class"), where), tree["parameters"]
        return make(made, {name: inner(part, f"{where}.{name}") for name, part in parameters.items()}, where)
    raise ValueError(f"{where[:100]} is not a value that this version knows")


def make(kind: Any, parameters: dict[str, Any], where: str) -> Any:
    """An object of a class that remembers its parameters."""
    if not isinstance(kind, type) or not hasattr(kind, "get_params"):
        raise ValueError(f"{where} must be an object with parameters; {getattr(kind, '__name__', kind)!r} makes none")
    try:
        return kind(**parameters)
    except TypeError as error:
        raise ValueError(f"{where}: {error}") from error


def _mapping(pairs: Any, where: str) -> dict[Any, Any]:
    try:
        return {key: value for key, value in pairs}  # noqa: C416  # dict() takes other things for pairs
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where} must hold pairs") from error


def _array(parts: Any, where: str, error: type[ValueError] = ValueError) -> Any:
    """An array of plain values, such as strings; others could hold one large array many times."""
    depth, inside = 0, [parts]
    while inside and depth < _DEEPEST and all(isinstance(part, list) for part in inside):
        depth, inside = depth + 1, [value for part in inside for value in part]
    plain = all(value is None or isinstance(value, bool | str | int | float) for value in inside)
    if depth == 0 or not plain or any(isinstance(value, float) and not math.isfinite(value) for value in inside):
        raise error(f"{where[:100]} must be an array of finite numbers or strings. Use a list or a tuple for others.")
    try:
        return np.array(parts, dtype=object)
    except ValueError as ragged:
        raise error(f"{where[:100]} is not an array ({ragged})") from ragged


def _random_state(state: Any, where: str) -> np.random.RandomState:
    try:
        made = np.random.RandomState()
        made.set_state(state)
        place = made.get_state(legacy=False)["state"]["pos"]
    except (LookupError, OverflowError, TypeError, ValueError) as error:
        raise ValueError(f"{where} is not a state of a generator ({error})") from error
    if not 0 <= place <= _WORDS:  # NumPy would read beyond its memory
        raise ValueError(f"{where} is not a state of a generator: its place must be in [0, {_WORDS}]; got {place}")
    return made
