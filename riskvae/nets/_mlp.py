"""Fully connected networks, the default of all estimators."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import nn

from riskvae.nets._group_sort import GroupSort
from riskvae.nets._linear import Linear

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": lambda: nn.ReLU(inplace=True),
    "leaky_relu": lambda: nn.LeakyReLU(inplace=True),
    "elu": lambda: nn.ELU(inplace=True),
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "softplus": nn.Softplus,
    "groupsort": GroupSort,
}
"""Hidden activations by name."""


def mlp(
    n_in: int,
    n_out: int,
    *,
    hidden_layer_sizes: Sequence[int] = (512, 256),
    activation: str = "relu",
    generator: torch.Generator | None = None,
    dtype: torch.dtype | None = None,
) -> nn.Module:
    """Fully connected network: a linear map, plus an activation and a further linear map for each hidden layer.

    Parameters
    ----------
    n_in, n_out : int
        Widths of the input and output.
    hidden_layer_sizes : sequence of int, default=(512, 256)
        Widths of the hidden layers; empty for a linear map.
    activation : str, default="relu"
        A key of :data:`ACTIVATIONS`.
    generator : torch.Generator, default=None
        Generator of the initial weights; None uses torch's global generator.
    dtype : torch.dtype, default=None
        Data type of the weights; None uses torch's default.

    Returns
    -------
    nn.Module
        Maps (n, n_in) to (n, n_out), with Xavier-uniform weights and zero biases.

    Examples
    --------
    >>> import torch
    >>> mlp(784, 20, hidden_layer_sizes=(64,))(torch.zeros(5, 784)).shape
    torch.Size([5, 20])
    """
    layers: list[nn.Module] = []
    for a, b in pairwise((n_in, *hidden_layer_sizes, n_out)):
        layer = nn.utils.skip_init(Linear, a, b, dtype=dtype)
        layer.reset_parameters(generator)
        layers += [layer, ACTIVATIONS[activation]()]
    return nn.Sequential(*layers[:-1])
