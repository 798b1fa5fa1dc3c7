"""Models of others, examined without being touched: copies of their modules, and a watch on those that hide."""

import copy
import threading
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

__all__ = ["HiddenModuleError", "hooked", "modules_called", "own_copy", "same_in_training", "shares"]

Memo = dict[int, Any]
_DIFFERENT = (
    nn.modules.batchnorm._NormBase, nn.modules.dropout._DropoutNd, nn.RReLU, nn.FractionalMaxPool2d,
    nn.FractionalMaxPool3d,
)  # fmt: skip


class HiddenModuleError(ValueError):
    """A module that cannot be copied is in training mode."""


def own_copy(model: Any) -> tuple[Any, list[nn.Module]]:
    """The model with copies of its modules in their place, in evaluation mode and without gradients of their weights.

    A module is copied as a whole. Of another object, so are the modules that it holds in attributes, lists, tuples and
    dicts, as owners of its methods, and those that its functions have closed over or call by a global name. Modules may
    hide elsewhere: see :func:`modules_called`.

    Returns
    -------
    model : object
        Of the same kind.
    originals : list of Module
        What was copied.
    """
    memo: Memo = {}
    originals: list[nn.Module] = []
    twin = _copied(model, memo, originals, holder=True)
    return twin, originals


def _copied(value: Any, memo: Memo, originals: list[nn.Module], *, holder: bool = False) -> Any:
    def again(part: Any, *, holder: bool = False) -> Any:
        return _copied(part, memo, originals, holder=holder)

    if isinstance(value, nn.Module):
        return _copied_module(value, memo, originals)
    if isinstance(value, types.MethodType):
        owner = again(value.__self__, holder=True)
        return value if owner is value.__self__ else types.MethodType(value.__func__, owner)
    if type(value) is partial:
        return partial(again(value.func), *map(again, value.args), **{k: again(v) for k, v in value.keywords.items()})
    if type(value) in (list, tuple):
        parts = [again(part) for part in value]
        return value if all(a is b for a, b in zip(parts, value, strict=True)) else type(value)(parts)
    if type(value) is dict:
        named = {key: again(part) for key, part in value.items()}
        return value if all(named[key] is value[key] for key in value) else named
    if isinstance(value, types.FunctionType):
        return _copied_function(value, memo, originals)
    if holder and hasattr(value, "__dict__") and not isinstance(value, type | types.ModuleType):
        return _copied_holder(value, memo, originals)
    return value


def _copied_module(module: nn.Module, memo: Memo, originals: list[nn.Module]) -> nn.Module:
    if id(module) in memo:
        return memo[id(module)]
    try:
        twin = copy.deepcopy(module, memo)
    except Exception:  # tensors with a history, handles of files: it is used as it is, if it may be
        return module
    if shares(twin, module):
        return module
    originals.append(module)
    for part in twin.modules():
        part.training = False
    return twin.requires_grad_(False)


def shares(twin: nn.Module, module: nn.Module) -> bool:
    """Whether what should be a copy has parts of the original, as a ``__deepcopy__`` of its own may leave it."""

    def parts(of: nn.Module) -> set[int]:
        return {id(part) for kind in (of.modules, of.parameters, of.buffers) for part in kind()}

    return bool(parts(twin) & parts(module))


def _copied_function(function: types.FunctionType, memo: Memo, originals: list[nn.Module]) -> types.FunctionType:
    """The function with copies in its closure and its globals, and so for others of its file that it calls."""
    if id(function) in memo:
        return memo[id(function)]
    memo[id(function)] = function

    def again(value: Any) -> Any:
        foreign = isinstance(value, types.FunctionType) and value.__globals__ is not function.__globals__
        return value if foreign else _copied(value, memo, originals, holder=True)

    names = {name for name in _names_in(function.__code__) if name in function.__globals__}
    outside = {name: again(function.__globals__[name]) for name in names}
    cells = tuple(_copied_cell(cell, again) for cell in function.__closure__ or ())
    changed = {name: value for name, value in outside.items() if value is not function.__globals__[name]}
    if not changed and all(a is b for a, b in zip(cells, function.__closure__ or (), strict=True)):
        return function
    space = {**function.__globals__, **changed} if changed else function.__globals__
    twin = types.FunctionType(function.__code__, space, function.__name__, function.__defaults__, cells or None)
    twin.__kwdefaults__ = function.__kwdefaults__
    memo[id(function)] = twin
    return twin


def _copied_cell(cell: types.CellType, again: Callable[[Any], Any]) -> types.CellType:
    try:
        value = cell.cell_contents
    except ValueError:  # empty
        return cell
    twin = again(value)
    return cell if twin is value else types.CellType(twin)


def _names_in(code: types.CodeType) -> set[str]:
    """Global names that a function or one inside it may use."""
    inner = (_names_in(part) for part in code.co_consts if isinstance(part, types.CodeType))
    return set(code.co_names).union(*inner)


def _copied_holder(value: Any, memo: Memo, originals: list[nn.Module]) -> Any:
    if id(value) in memo:
        return memo[id(value)]
    if not any(_may_hold(part) for part in vars(value).values()):
        return value
    try:
        twin = copy.copy(value)
    except Exception:
        return value
    if twin is value or vars(twin) is vars(value):
        return value
    memo[id(value)] = twin  # methods of its own lead back to it
    held = {name: _copied(part, memo, originals) for name, part in vars(value).items()}
    if all(held[name] is part for name, part in vars(value).items()):
        memo[id(value)] = value
        return value
    vars(twin).update(held)
    return twin


def _may_hold(part: Any) -> bool:
    inside = part.values() if type(part) is dict else part if type(part) in (list, tuple) else (part,)
    return any(isinstance(one, nn.Module | types.MethodType | types.FunctionType | partial) for one in inside)


@contextmanager
def modules_called() -> Iterator[list[nn.Module]]:
    """Modules that this thread calls meanwhile, wherever they are kept; one that is in training mode is refused.

    It could be examined only by changing it: it is none of the copies. That is found before it runs.
    """
    called: list[nn.Module] = []
    thread = threading.get_ident()

    def note(module: nn.Module, args: Any) -> None:
        if threading.get_ident() != thread:
            return
        called.append(module)
        if module.training and not same_in_training(module):
            raise HiddenModuleError(
                f"vae calls a {type(module).__name__} in training mode, in which rows depend on chance or on each "
                "other. It is kept where it cannot be copied, and your module is not changed here. Call .eval() on it "
                "first."
            )

    handle = register_module_forward_pre_hook(note)
    try:
        yield called
    finally:
        handle.remove()


def same_in_training(module: nn.Module) -> bool:
    """Whether a module does the same in both modes, its children apart: of others, if their code does not ask."""
    if isinstance(module, _DIFFERENT):
        return False
    if type(module).__module__.startswith("torch.nn"):
        return True
    methods = [getattr(type(module), name, None) for name in ("forward", "encode", "decode")]
    codes = [method.__code__ for method in methods if isinstance(method, types.FunctionType)]
    return not any({"training", "train"} & _names_in(code) for code in codes)


def hooked(module: nn.Module) -> bool:
    """Whether something beside its forward takes part."""
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return any(hooks) or "forward" in vars(module)
