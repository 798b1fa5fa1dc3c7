"""Objects that are what their parameters say, and keys by which any parameter can be compared."""

import hashlib
import types
from collections.abc import Mapping
from functools import partial
from typing import Any

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


def key_of(value: Any) -> Any:
    """Hashable key of a parameter: equal for equal parameters, also of another process, and made of plain values.

    Arrays and tensors are compared by their values, functions by name and code, other objects by class and attributes.
    """
    if value is None or isinstance(value, bool | int | float | complex | str | bytes):
        return value
    if hasattr(value, "tolist"):  # of NumPy and torch
        return key_of(value.tolist())
    if isinstance(value, list | tuple):
        return tuple(map(key_of, value))
    if isinstance(value, set | frozenset):
        return "set", *sorted(repr(key_of(part)) for part in value)
    if isinstance(value, Mapping):
        return tuple((key_of(name), key_of(part)) for name, part in value.items())
    if isinstance(value, partial):
        return "partial", key_of(value.func), key_of(value.args), key_of(value.keywords)
    if isinstance(value, BaseEstimator):
        return _name(type(value)), key_of(value.get_params(deep=False))
    if isinstance(value, types.FunctionType):
        outside = [_outside(cell) for cell in value.__closure__ or ()]
        return _name(value), _code(value.__code__), key_of((value.__defaults__, value.__kwdefaults__, outside))
    if isinstance(value, types.MethodType):
        return _name(value), key_of(value.__self__)
    if callable(value) and hasattr(value, "__qualname__"):
        return _name(value)
    if not hasattr(value, "__dict__"):
        return repr(value)
    try:
        return _name(type(value)), key_of(vars(value))
    except RecursionError:  # it holds itself
        return _name(type(value))


def _name(thing: Any) -> str:
    return f"{getattr(thing, '__module__', '')}.{thing.__qualname__}"


def _outside(cell: Any) -> Any:
    """What a function knows of where it was defined; of functions, which may be itself, the name."""
    try:
        content = cell.cell_contents
    except ValueError:  # not there yet
        return None
    return _name(content) if isinstance(content, types.FunctionType) else content


def _code(code: types.CodeType) -> str:
    constants = [_code(c) if isinstance(c, types.CodeType) else repr(c) for c in code.co_consts]
    return hashlib.sha256(repr((code.co_code, code.co_names, constants)).encode()).hexdigest()[:16]
