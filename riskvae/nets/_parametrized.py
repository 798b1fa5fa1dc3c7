"""Modules with torch's parametrizations in a pickle, which torch itself keeps out of one."""

from typing import Any

import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized, register_parametrization

__all__ = ["kind_of", "parametrized", "put_back", "take_off"]

Taken = list[tuple[nn.Module, Any]]


def parametrized(*modules: nn.Module) -> list[nn.Module]:
    """Parts of modules that have a parametrized tensor."""
    return [part for module in modules for part in module.modules() if is_parametrized(part)]


def kind_of(module: nn.Module) -> type[nn.Module]:
    """The class of a module as it was written: torch makes one of its own for each parametrized module."""
    return type(module).__bases__[0] if is_parametrized(module) else type(module)


def take_off(*modules: nn.Module) -> Taken:
    """Take parametrizations off modules that nobody uses; what is left pickles, and so does what was taken."""
    taken: Taken = []
    for part in parametrized(*modules):
        kind = kind_of(part)
        taken.append((part, part._modules.pop("parametrizations")))
        part.__class__ = kind
        hooks = part._load_state_dict_pre_hooks  # that of weight_norm reads keys of old, and does not pickle
        for key in [key for key, hook in hooks.items() if "<locals>" in getattr(hook, "hook", hook).__qualname__]:
            del hooks[key]
    return taken


@torch.no_grad()
def put_back(taken: Taken) -> None:
    """Put parametrizations back where they were, with their own tensors."""
    for part, lists in taken:
        for name, chain in lists.items():
            mode = chain.training
            chain.eval()  # in training a power iteration would take a step
            part.register_parameter(name, nn.Parameter(chain()))
            chain.train(mode)
            register_parametrization(part, name, nn.Identity())
            part.parametrizations[name] = chain  # type: ignore[operator]
