"""Objects that are what their parameters say, and keys by which any parameter can be compared."""

import hashlib
import math
import types
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from riskvae._sklearn import BaseEstimator

__all__ = ["Value", "key_of"]


class Value(BaseEstimator):
    """Base of measures and spectra: parameters, clone and repr by scikit-learn, and equality by parameters.

    They hash by their parameters, too: do not change one that is a key of a dict.
    """

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and key_of(self) == key_of(other)

    def __hash__(self) -> int:
        return hash(key_of(self))


def key_of(value: Any, path: tuple[int, ...] = ()) -> Any:
    """Hashable key of a parameter: equal for equal parameters, also of another process, and made of plain values.

    Arrays and tensors are compared by their values, functions by name, code and what they enclose, networks by
    class and shapes, other objects by class and attributes. ``path`` has what the value is a part of, which it may be.
    """
    if value is None or isinstance(value, bool | int | float | complex | str | bytes):
        return value
    if id(value) in path:
        return "itself"

    def part(inner: Any) -> Any:
        return key_of(inner, (*path, id(value)))

    if hasattr(value, "tolist"):  # of NumPy and torch
        return part(value.tolist()) if math.prod(getattr(value, "shape", ())) < _MANY else _digest(value)
    if isinstance(value, list | tuple):
        return tuple(map(part, value))
    if isinstance(value, set | frozenset):
        return "set", *sorted(repr(part(inner)) for inner in value)
    if isinstance(value, Mapping):
        items = [(repr(part(name)), part(inner)) for name, inner in value.items()]
        return "dict", *sorted(items, key=lambda item: item[0])
    if isinstance(value, partial):
        return "partial", part(value.func), part(value.args), part(value.keywords)
    if isinstance(value, BaseEstimator):
        return _name(type(value)), _own_code(type(value)), part(value.get_params(deep=False))
    if isinstance(value, types.FunctionType):
        enclosed = [_content(cell) for cell in value.__closure__ or ()]
        return _name(value), _code(value.__code__), part((value.__defaults__, value.__kwdefaults__, enclosed))
    if isinstance(value, types.MethodType):
        return part(value.__func__), part(value.__self__)
    if isinstance(value, type):
        return _name(value), _own_code(value)
    if hasattr(value, "__wrapped__"):
        return part(value.__wrapped__)
    if hasattr(value, "state_dict"):
        return _name(type(value)), tuple((name, str(getattr(t, "shape", ""))) for name, t in value.state_dict().items())
    slots = [name for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ()) if hasattr(value, name)]
    state = {**getattr(value, "__dict__", {}), **{name: getattr(value, name) for name in slots}}
    return _name(type(value)), _own_code(type(value)), part({k: v for k, v in state.items() if not k.startswith("__")})


_MANY = 1000  # elements of an array, beyond which a digest of them is kept


def _digest(array: Any) -> Any:
    """Shape of an array or tensor, and a digest of its values."""
    values = np.asarray(array.detach().cpu() if hasattr(array, "detach") else array)
    values = values.astype(np.float64) if values.dtype.kind in "fiub" else values
    return values.shape, hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()[:16]


def _name(thing: Any) -> str:
    return f"{getattr(thing, '__module__', '')}.{getattr(thing, '__qualname__', type(thing).__qualname__)}"


def _own_code(kind: type) -> Any:
    """Code of the methods of a class that is not of an installed package's, and of its bases."""
    found = []
    for base in kind.__mro__:
        if base.__module__.split(".")[0] in ("builtins", "riskvae", "sklearn", "torch", "numpy"):
            continue
        found += [(name, _code(f.__code__)) for name, f in vars(base).items() if isinstance(f, types.FunctionType)]
    return tuple(sorted(found))


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not there yet
        return None


def _code(code: types.CodeType) -> str:
    constants = [_constant(c) for c in code.co_consts]
    return hashlib.sha256(repr((code.co_code, code.co_names, constants)).encode()).hexdigest()[:16]


def _constant(value: Any) -> str:
    if isinstance(value, types.CodeType):
        return _code(value)
    return repr(sorted(map(repr, value))) if isinstance(value, frozenset) else repr(value)
