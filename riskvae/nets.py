"""Encoder and decoder networks.

Networks are made by factories ``(n_in, n_out) -> nn.Module`` that map rows to rows, so that an estimator
can size them once it has seen the data. :func:`mlp` is what estimators use by default;
:func:`conv_encoder` and :func:`conv_decoder` suit images. Any factory of yours does as well:

>>> from torch import nn
>>> def encoder(n_in, n_out):
...     return nn.Sequential(nn.Linear(n_in, 32), nn.Tanh(), nn.Linear(32, n_out))

An encoder's ``n_out`` is twice the number of latent dimensions (means, then unconstrained scales).
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

__all__ = ["ACTIVATIONS", "Linear", "Posterior", "conv_decoder", "conv_encoder", "mlp"]

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": lambda: nn.ReLU(inplace=True),
    "leaky_relu": lambda: nn.LeakyReLU(inplace=True),
    "elu": lambda: nn.ELU(inplace=True),
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "softplus": nn.Softplus,
}
"""Hidden activations by name."""


# softplus(raw + _UNIT) is 1 at raw = 0.
_UNIT = math.log(math.e - 1.0)


def unit_softplus(raw: Tensor) -> Tensor:
    """Positive values from unconstrained ones; 1 from 0, so that an untrained network starts there."""
    return F.softplus(raw + _UNIT)


class Posterior(NamedTuple):
    """Diagonal Gaussian q(z|x): ``mean`` and ``scale`` (standard deviation), each (n, n_components)."""

    mean: Any
    scale: Any


def mlp(
    n_in: int,
    n_out: int,
    *,
    hidden_layer_sizes: Sequence[int] = (512, 256),
    activation: str = "relu",
    generator: torch.Generator | None = None,
) -> nn.Module:
    """Fully connected network: a linear map, and an activation and another for each hidden layer.

    Parameters
    ----------
    n_in, n_out : int
        Widths of the input and output.
    hidden_layer_sizes : sequence of int, default=(512, 256)
        Widths of the hidden layers; empty for a linear map.
    activation : str, default="relu"
        A key of :data:`ACTIVATIONS`.
    generator : torch.Generator, default=None
        Source of the initial weights; None takes torch's global generator.

    Returns
    -------
    nn.Module
        Maps (n, n_in) to (n, n_out); Xavier-uniform weights, zero biases.

    Examples
    --------
    >>> import torch
    >>> mlp(784, 20, hidden_layer_sizes=(64,))(torch.zeros(5, 784)).shape
    torch.Size([5, 20])
    """
    layers: list[nn.Module] = []
    for a, b in pairwise((n_in, *hidden_layer_sizes, n_out)):
        layer = nn.utils.skip_init(Linear, a, b)
        layer.reset_parameters(generator)
        layers += [layer, ACTIVATIONS[activation]()]
    return nn.Sequential(*layers[:-1])


def conv_encoder(
    n_in: int,
    n_out: int,
    *,
    image_shape: Sequence[int] | None = None,
    channels: Sequence[int] = (32, 64),
) -> nn.Module:
    """Strided convolutions over images that come as flat rows, then a linear map.

    Each convolution (3 x 3, stride 2, ReLU) halves height and width, rounding up.

    Parameters
    ----------
    n_in, n_out : int
        Pixels per image (all channels); width of the output.
    image_shape : (height, width) or (n_channels, height, width), default=None
        None means a square image of one channel. Fix it with :func:`functools.partial`.
    channels : sequence of int, default=(32, 64)
        Channels after each convolution.

    Returns
    -------
    nn.Module
        Maps (n, n_in) to (n, n_out).

    Raises
    ------
    ValueError
        If ``image_shape`` does not hold ``n_in`` pixels.

    Examples
    --------
    >>> from functools import partial
    >>> import torch
    >>> encoder = partial(conv_encoder, image_shape=(3, 8, 6), channels=(4,))
    >>> encoder(144, 10)(torch.zeros(5, 144)).shape
    torch.Size([5, 10])
    """
    shape = _image_shape(n_in, image_shape)
    sizes = _halvings(shape[1:], len(channels))
    layers: list[nn.Module] = [nn.Unflatten(1, shape)]
    for a, b in pairwise((shape[0], *channels)):
        layers += [nn.Conv2d(a, b, 3, stride=2, padding=1), nn.ReLU(inplace=True)]
    width = (shape[0], *channels)[-1] * math.prod(sizes[-1])
    return nn.Sequential(*layers, nn.Flatten(), Linear(width, n_out))


def conv_decoder(
    n_in: int,
    n_out: int,
    *,
    image_shape: Sequence[int] | None = None,
    channels: Sequence[int] = (32, 64),
) -> nn.Module:
    """Mirror of :func:`conv_encoder`: a linear map, then transposed convolutions to flat image rows.

    Parameters
    ----------
    n_in, n_out : int
        Latent dimensions; pixels per image (all channels).
    image_shape : (height, width) or (n_channels, height, width), default=None
        None means a square image of one channel. Fix it with :func:`functools.partial`.
    channels : sequence of int, default=(32, 64)
        The encoder's channels, in the encoder's order.

    Returns
    -------
    nn.Module
        Maps (n, n_in) to (n, n_out).

    Raises
    ------
    ValueError
        If ``image_shape`` does not hold ``n_out`` pixels.

    Examples
    --------
    >>> import torch
    >>> conv_decoder(10, 49)(torch.zeros(5, 10)).shape
    torch.Size([5, 49])
    """
    shape = _image_shape(n_out, image_shape)
    sizes = _halvings(shape[1:], len(channels))
    widths = (shape[0], *channels)
    start = (widths[-1], *sizes[-1])
    layers: list[nn.Module] = [Linear(n_in, math.prod(start)), nn.Unflatten(1, start)]
    for i in reversed(range(len(channels))):
        # Stride 2 maps a side of s to 2 s - 1; one more where the larger side is even.
        height, width = sizes[i]
        extra = (1 - height % 2, 1 - width % 2)
        upsample = nn.ConvTranspose2d(widths[i + 1], widths[i], 3, stride=2, padding=1, output_padding=extra)
        layers += [nn.ReLU(inplace=True), upsample]
    return nn.Sequential(*layers, nn.Flatten())


def _image_shape(n_pixels: int, image_shape: Sequence[int] | None) -> tuple[int, ...]:
    side = math.isqrt(n_pixels)
    shape = (side, side) if image_shape is None else tuple(image_shape)
    if len(shape) not in (2, 3) or math.prod(shape) != n_pixels:
        raise ValueError(
            f"image_shape={image_shape} does not describe rows of {n_pixels} pixels: expected (height, width) or "
            "(n_channels, height, width) whose product is that number (None means one square channel). "
            "Fix it with functools.partial(conv_decoder, image_shape=...), or of conv_encoder. A decoder of quantiles "
            "gives a channel for each: image_shape=(n_quantiles, height, width)."
        )
    return (1, *shape)[-3:]


def _halvings(size: Sequence[int], times: int) -> list[tuple[int, ...]]:
    sizes = [tuple(size)]
    for _ in range(times):
        sizes.append(tuple((side + 1) // 2 for side in sizes[-1]))
    return sizes


class Linear(nn.Linear):
    """Affine map ``x W^T + b`` with Xavier-uniform weights, zero bias, and faster float32 training on CPU.

    Torch hands float32 matrix products on x86 to MKL, which keeps to AVX2 on processors of other makers;
    oneDNN, which torch also carries, uses AVX-512 wherever the processor has it (about twice the speed on
    AMD Zen 5). So on such processors this layer calls oneDNN where that is transparent: in training and
    under :class:`torch.inference_mode`. Everywhere else it is a plain :class:`torch.nn.Linear`.
    """

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        nn.init.xavier_uniform_(self.weight, generator=generator)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        if (
            _ONEDNN
            and (self.training or torch.is_inference_mode_enabled())
            and self.bias is not None
            and x.dim() == 2
            and x.dtype == self.weight.dtype == torch.float32
            and x.device.type == "cpu"
            and not torch.is_autocast_enabled("cpu")
        ):
            return _OneDNNLinear.apply(x, self.weight, self.bias)
        return super().forward(x)


def _has_fast_onednn() -> bool:
    return (
        torch.backends.mkldnn.is_available()
        and torch.backends.cpu.get_cpu_capability().startswith("AVX512")
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


_ONEDNN = _has_fast_onednn()


def _onednn(x: Tensor, w: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x @ w.T + bias`` by oneDNN, which takes transposed views without copying them."""
    return torch.ops.mkldnn._linear_pointwise(x, w, bias, "none", [], "")


if _ONEDNN and not hasattr(torch.ops.riskvae, "linear"):  # once, also when this module is reloaded
    # Inductor rewrites the oneDNN operator for frozen weights only, and fails on trainable ones; an operator
    # of our own stays opaque to it.
    _library = torch.library.Library("riskvae", "DEF")
    _library.define("linear(Tensor x, Tensor w, Tensor? bias) -> Tensor")
    _library.impl("linear", _onednn, "CPU")
    _library.impl("linear", lambda x, w, bias: x.new_empty(x.shape[0], w.shape[0]), "Meta")


def _matmul(x: Tensor, w: Tensor, bias: Tensor | None = None) -> Tensor:
    return torch.ops.riskvae.linear(x, w, bias) if torch.compiler.is_compiling() else _onednn(x, w, bias)


class _OneDNNLinear(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return _matmul(x, weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        grad_x = _matmul(grad, weight.t()) if ctx.needs_input_grad[0] else None
        if not any(ctx.needs_input_grad[1:]):  # of frozen layers, as in an attack on the input
            return grad_x, None, None
        # A contiguous left factor saves oneDNN a copy of both.
        grad_t = grad.t().contiguous()
        return grad_x, _matmul(grad_t, x.t()), grad_t.sum(1)
