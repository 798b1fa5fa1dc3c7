"""A network taken apart: affine maps, and between them activations whose deviation from a tangent is known."""

import copy
import functools
import math
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from riskvae.nets import GroupSort, Linear, Standardize
from riskvae.nets._parametrized import parametrized, take_off
from riskvae.robustness._copies import hooked, shares
from riskvae.robustness._pooling import MaxPool, Pairs

__all__ = ["Activation", "Network", "UnknownLayerError", "take_apart"]


class UnknownLayerError(Exception):
    """A network does something of which nothing is known here."""


class Activation(NamedTuple):
    r"""A function of single numbers, and how far it may be from its tangent.

    Parameters
    ----------
    function : callable
        From tensors to tensors.
    steepest : float
        Largest slope.
    bend : float
        Of a function with one kink, at 0: by how much its slope is larger to the right of it.
    curvature : callable or None
        Largest absolute second derivative at distances between ``near`` and ``far`` from 0, of an even second
        derivative; None for piecewise linear functions.
    """

    function: Callable[[Tensor], Tensor]
    steepest: float = 1.0
    bend: float = 0.0
    curvature: Callable[[Tensor, Tensor], Tensor] | None = None

    def reach(self, a: Tensor, down: Tensor, up: Tensor) -> Tensor:
        """How far a move from ``a`` goes on the side on which the function bends."""
        return torch.maximum(down, up) if self.curvature is not None else torch.where(a > 0, down, up)

    def slopes(self, a: Tensor, least: Tensor, most: Tensor) -> Tensor:
        """Ends (2, ...) of e / t, from the least and the largest remainder over the reach."""
        if self.curvature is not None:
            return torch.stack((least, most))
        return torch.where(a > 0, torch.stack((-most, -least)), torch.stack((least, most)))

    def remainder(self, a: Tensor, down: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
        """Least and largest deviation from the tangent at ``a``, for moves from ``-down`` to ``up``."""
        if self.curvature is None:
            most = abs(self.bend) * (torch.where(a > 0, down, up) - a.abs()).clamp(min=0.0)
            return (torch.zeros_like(most), most) if self.bend >= 0 else (-most, torch.zeros_like(most))
        low, high, size = a - down, a + up, torch.maximum(down, up)
        near = torch.where((low < 0) & (high > 0), 0.0, torch.minimum(low.abs(), high.abs()))
        curved = 0.5 * self.curvature(near, torch.maximum(low.abs(), high.abs())) * size.square()
        most = torch.minimum(curved, 2.0 * self.steepest * size)
        return -most, most


def _rising_then_falling(second: Callable[[Tensor], Tensor], top: float) -> Callable[[Tensor, Tensor], Tensor]:
    """Of |f''| that rises with the distance from 0 up to ``top``, and falls beyond."""
    return lambda near, far: second(torch.minimum(torch.maximum(near, torch.full_like(near, top)), far)).abs()


def _falling_with_a_hump(second: Callable[[Tensor], Tensor], hump: float) -> Callable[[Tensor, Tensor], Tensor]:
    """Of |f''| that falls from 0 on, but for a smaller hump at ``hump``."""

    def largest(near: Tensor, far: Tensor) -> Tensor:
        beyond = second(torch.maximum(near, torch.full_like(near, hump))).abs()
        return torch.maximum(second(near).abs(), beyond)

    return largest


def _tanh2(x: Tensor) -> Tensor:
    t = torch.tanh(x)
    return 2.0 * t * (1.0 - t * t)


def _sigmoid2(x: Tensor) -> Tensor:
    s = torch.sigmoid(x)
    return s * (1.0 - s) * (1.0 - 2.0 * s)


def _softplus2(x: Tensor) -> Tensor:
    s = torch.sigmoid(x)
    return s * (1.0 - s)


def _silu2(x: Tensor) -> Tensor:
    s = torch.sigmoid(x)
    return s * (1.0 - s) * (2.0 + x * (1.0 - 2.0 * s))


def _gelu2(x: Tensor) -> Tensor:
    return (2.0 - x * x) * torch.exp(-0.5 * x * x) / math.sqrt(2.0 * math.pi)


_RELU = Activation(torch.relu, bend=1.0)
_TANH = Activation(torch.tanh, curvature=_rising_then_falling(_tanh2, 0.6584789))
_SIGMOID = Activation(torch.sigmoid, 0.25, curvature=_rising_then_falling(_sigmoid2, 1.3169579))
_SOFTPLUS = Activation(F.softplus, curvature=_falling_with_a_hump(_softplus2, 0.0))
_SILU = Activation(F.silu, 1.1, curvature=_falling_with_a_hump(_silu2, 3.4358))
_GELU = Activation(F.gelu, 1.13, curvature=_falling_with_a_hump(_gelu2, 2.0))
_PLAIN: dict[type[nn.Module], Activation] = {
    nn.ReLU: _RELU, nn.Tanh: _TANH, nn.Sigmoid: _SIGMOID, nn.SiLU: _SILU,
}  # fmt: skip
_FUNCTIONS: dict[Any, Activation] = {
    F.relu: _RELU, torch.relu: _RELU, torch.tanh: _TANH, F.tanh: _TANH, torch.sigmoid: _SIGMOID, F.sigmoid: _SIGMOID,
    F.silu: _SILU, "relu": _RELU, "tanh": _TANH, "sigmoid": _SIGMOID,
}  # fmt: skip
_AFFINE = (
    nn.Linear, Linear, Standardize, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d,
    nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.Identity, nn.Flatten, nn.Unflatten, nn.Dropout, nn.Dropout1d,
    nn.Dropout2d, nn.AvgPool1d, nn.AvgPool2d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.ZeroPad2d,
)  # fmt: skip
# Softplus is replaced by its argument beyond a threshold: at 20 that is a step of 2e-9.
_SMOOTH = 20.0
# Of these only the first argument may hang on the row; of those that follow, all may.
_AFFINE_IN_ONE = {
    F.linear, F.conv1d, F.conv2d, torch.flatten, torch.mul, operator.mul, operator.truediv, torch.div, operator.getitem,
    torch.reshape, torch.mean, torch.transpose, torch.permute, "view", "reshape", "flatten", "mean", "transpose",
    "permute", "contiguous", "unflatten", "squeeze", "unsqueeze", "mul", "div", "chunk", torch.chunk, F.avg_pool2d,
}  # fmt: skip
# What tells of shapes alone.
_SHAPES = {"size", "dim"}
# Keywords that leave these steps affine.
_HARMLESS = {
    "dim", "dims", "start_dim", "end_dim", "keepdim", "alpha", "bias", "stride", "padding", "dilation", "groups",
    "chunks", "kernel_size", "input", "weight", "shape", "sizes",
}  # fmt: skip
_POOLS: dict[Any, int] = {F.max_pool1d: 1, F.max_pool2d: 2, F.max_pool3d: 3}
_POOLS |= {torch.max_pool1d: 1, torch.max_pool2d: 2, torch.max_pool3d: 3}
# What max-pooling is told by default.
_AS_ALWAYS = (("padding", 0), ("dilation", 1), ("ceil_mode", False), ("return_indices", False))
_OUT_OF_PLACE = {operator.iadd: operator.add, operator.isub: operator.sub}
_AFFINE_IN_ALL = {
    operator.iadd,
    operator.isub,
    operator.add,
    torch.add,
    operator.sub,
    torch.sub,
    operator.neg,
    torch.neg,
    torch.cat,
    "add",
    "sub",
}


def activation_of(module: nn.Module) -> Activation | None:
    """What is known of a layer that is an activation; None for others."""
    if type(module) in _PLAIN:
        return _PLAIN[type(module)]
    if type(module) is nn.LeakyReLU:
        slope = float(module.negative_slope)
        return Activation(lambda x: F.leaky_relu(x, slope), max(1.0, abs(slope)), 1.0 - slope)
    if type(module) is nn.GELU and module.approximate == "none":
        return _GELU
    if type(module) is nn.Softplus and module.beta == 1.0 and module.threshold >= _SMOOTH:
        return _SOFTPLUS._replace(function=lambda x: F.softplus(x, 1.0, float(module.threshold)))
    return None


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, GroupSort | Linear | Standardize) or super().is_leaf_module(m, module_qualified_name)


class Network(nn.Module):
    """A module as steps: each is affine in what goes before, or an activation.

    Parameters
    ----------
    module : nn.Module
        In evaluation mode.

    Raises
    ------
    UnknownLayerError
        Where it cannot be traced, or a step is neither.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        for part in module.modules():
            if hooked(part):
                raise UnknownLayerError(f"a {type(part).__name__} has a hook")
        try:
            self.graph = _Tracer().trace(module)
        except Exception as error:
            raise UnknownLayerError(f"its steps cannot be followed ({type(error).__name__}: {error})") from None
        if sum(node.op == "placeholder" for node in self.graph.nodes) != 1:
            raise UnknownLayerError("it takes more than one argument")
        self.modules_by_name = dict(module.named_modules())
        self.bent: dict[fx.Node, Activation | MaxPool | Pairs] = {}
        moving: set[fx.Node] = set()
        for node in self.graph.nodes:
            if (node.op == "call_method" and node.target in _SHAPES) or (
                node.op == "call_function" and node.target is getattr and node.args[1] == "shape"
            ):
                continue  # what tells of shapes does not move
            if node.op == "placeholder" or any(parent in moving for parent in node.all_input_nodes):
                moving.add(node)
                self._learn(node, moving)

    def _learn(self, node: fx.Node, moving: set[fx.Node]) -> None:
        """Note an activation; raise where nothing is known of a step."""
        if node.op in ("placeholder", "output"):
            return
        inputs: list[fx.Node] = []  # each as often as it is there: x * x is no affine step
        fx.map_arg((node.args, node.kwargs), lambda parent: inputs.append(parent) if parent in moving else None)
        found = self._activation(node) or self._pooling(node)
        if found is not None:
            if _in_place(node, self.modules_by_name) and len(node.args[0].users) > 1:  # type: ignore[union-attr]
                raise UnknownLayerError(f"{node.name} changes in place what is used again")
            self.bent[node] = found
            return
        if node.op == "call_module":
            layer = self.modules_by_name[str(node.target)]
            if type(layer) not in _AFFINE or _odd(layer):
                raise UnknownLayerError(f"nothing is known of {type(layer).__name__}")
            return
        name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
        alone = len(inputs) == 1 and bool(node.args)
        first = alone and (node.args[0] in inputs or node.target in (operator.mul, torch.mul))
        known = node.target in _AFFINE_IN_ALL or (node.target in _AFFINE_IN_ONE and first)
        if not known or not set(node.kwargs) <= _HARMLESS:
            raise UnknownLayerError(f"nothing is known of {name}")

    def _activation(self, node: fx.Node) -> Activation | None:
        if not node.args:
            return None
        if node.op == "call_module":
            return activation_of(self.modules_by_name[str(node.target)])
        plain = set(node.kwargs) <= {"inplace"} and len(node.args) == 1
        return _FUNCTIONS.get(node.target) if plain else None

    def _pooling(self, node: fx.Node) -> MaxPool | Pairs | None:
        if node.op == "call_module":
            layer = self.modules_by_name[str(node.target)]
            return Pairs.of(layer) or MaxPool.of(layer)
        dims = _POOLS.get(node.target)
        if dims is None or any(isinstance(value, fx.Node) for value in (*node.args[1:], *node.kwargs.values())):
            return None
        plain = {name: value for name, value in node.kwargs.items() if (name, value) not in _AS_ALWAYS}
        return MaxPool.of_call(dims, *node.args[1:], **plain)

    @property
    def activations(self) -> list[Activation]:
        """All, in the order in which they come."""
        return [
            one
            for found in self.bent.values()
            for one in ((found,) if isinstance(found, Activation) else (_RELU,) * found.rounds)
        ]

    def _attribute(self, name: str) -> Any:
        value: Any = functools.reduce(getattr, name.split("."), self.module)
        return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value

    def forward(self, x: Tensor, taps: list[Tensor] | None = None) -> tuple[Tensor, list[Tensor]]:
        """The output, and what goes into each activation; ``taps`` are added to what comes out of them."""
        values: dict[fx.Node, Any] = {}
        before: list[Tensor] = []

        def value(node: fx.Node) -> Any:
            return values[node]

        def bend(a: Tensor, activation: Activation = _RELU) -> Tensor:
            before.append(a)
            out = activation.function(a)
            return out if taps is None else out + taps[len(before) - 1]

        for node in self.graph.nodes:
            args, kwargs = fx.map_arg(node.args, value), fx.map_arg(node.kwargs, value)
            if node.op == "placeholder":
                values[node] = x
            elif node in self.bent:
                found = self.bent[node]
                values[node] = bend(args[0], found) if isinstance(found, Activation) else found(args[0], bend)
            elif node.op == "get_attr":
                values[node] = self._attribute(str(node.target))
            elif node.op == "call_module":
                values[node] = self.modules_by_name[str(node.target)](*args, **kwargs)
            elif node.op == "call_function":
                function: Any = _OUT_OF_PLACE.get(node.target, node.target)
                values[node] = function(*args, **kwargs)
            elif node.op == "call_method":
                values[node] = getattr(args[0], str(node.target))(*args[1:], **kwargs)
            else:
                return args[0], before
        raise UnknownLayerError("it has no output")


def _in_place(node: fx.Node, layers: dict[str, nn.Module]) -> bool:
    if node.op == "call_module":
        return bool(getattr(layers[str(node.target)], "inplace", False))
    return bool(node.kwargs.get("inplace", False))


def _odd(layer: nn.Module) -> bool:
    """Batch normalization by the batch's own statistics, or padding that is not linear."""
    return (isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.running_mean is None) or layer.training


def take_apart(module: nn.Module) -> Network:
    """A copy of a module, on the CPU, in double precision and evaluation mode, as steps."""
    twin = copy.deepcopy(module)
    if shares(twin, module):
        raise UnknownLayerError("it cannot be copied as a whole")
    twin = twin.cpu().double().eval()
    weights: list[tuple[nn.Module, dict[str, Tensor]]] = []
    for part in parametrized(twin):
        names = list(part.parametrizations)  # type: ignore[arg-type]
        weights.append((part, {name: getattr(part, name).detach() for name in names}))
    take_off(twin)  # not by torch's own way, which would take them from the original, too: copies share their class
    for part, values in weights:
        for name, value in values.items():
            part.register_parameter(name, nn.Parameter(value))
    return Network(twin.requires_grad_(False))
