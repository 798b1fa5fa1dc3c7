"""Networks that move their output by no more than a constant times the move of their input."""

import math
from collections.abc import Sequence
from itertools import pairwise
from numbers import Real
from typing import Any, Self

import torch
from torch import nn
from torch.nn.utils import parametrizations
from torch.nn.utils.parametrize import is_parametrized

from riskvae.nets._convolutions import halvings, shape_of_images
from riskvae.nets._group_sort import GroupSort
from riskvae.nets._standardize import Standardize

__all__ = ["lipschitz_decoder", "lipschitz_encoder"]

_LAYERS = ("spectral", "orthogonal")


def lipschitz_encoder(
    n_in: int,
    n_out: int,
    *,
    constant: float = 1.0,
    hidden_layer_sizes: Sequence[int] = (512, 256),
    channels: Sequence[int] = (),
    image_shape: Sequence[int] | None = None,
    layers: str = "spectral",
) -> nn.Module:
    r"""Encoder with :math:`\lVert f(x) - f(y) \rVert_2 \le L \lVert x - y \rVert_2`.

    Its layers have norm 1, its activation, :class:`GroupSort`, has slope 1, and rows are first multiplied by L. If the
    first half of the output is the mean and the posterior scale is at least s, a perturbation of norm r moves the
    whitened mean by at most L r / s. So a small L and ``scale_offset`` widen certified margins.

    Parameters
    ----------
    n_in, n_out : int
        Width of the rows; width of the output.
    constant : float, default=1.0
        L, above 0.
    hidden_layer_sizes : sequence of int, default=(512, 256)
        Widths of the hidden layers, which must be even.
    channels : sequence of int, default=()
        Number of channels, which must be even, after each of the convolutions that come first. Each convolution takes
        patches of 2 x 2 pixels that do not overlap, so that its norm is that of its kernel as a matrix, and halves
        height and width.
    image_shape : (height, width) or (n_channels, height, width), default=None
        Shape of the images if there are ``channels``; None means a square image with one channel.
    layers : {"spectral", "orthogonal"}, default="spectral"
        "spectral" divides affine maps by their largest singular value, which is tracked by power iteration in training
        and exact in evaluation mode. "orthogonal" makes all singular values 1, which preserves more of the gradient and
        takes ten times as long. Convolutions are always spectral.

    Returns
    -------
    nn.Module
        Maps (n, n_in) to (n, n_out).

    Raises
    ------
    ValueError
        If the constant is not above 0, a width is odd, or ``layers`` is neither of the two.

    References
    ----------
    Anil, Lucas and Grosse, "Sorting out Lipschitz function approximation" (ICML 2019); Barrett, Camuto, Willetts and
    Rainforth, "Certifiably robust variational autoencoders" (AISTATS 2022); Miyato, Kataoka, Koyama and Yoshida,
    "Spectral normalization" (ICLR 2018).

    Examples
    --------
    >>> import torch
    >>> encoder = lipschitz_encoder(64, 8, constant=2.0, hidden_layer_sizes=(32,))
    >>> x, y = torch.rand(2, 100, 64, generator=torch.Generator().manual_seed(0))
    >>> bool(((encoder(x) - encoder(y)).norm(dim=1) <= 2.0 * (x - y).norm(dim=1)).all())
    True
    """
    _check(constant, (*channels, *hidden_layer_sizes), layers)
    parts: list[nn.Module] = [_times(n_in, constant)]
    width = n_in
    if channels:
        shape = shape_of_images(n_in, image_shape)
        sizes = halvings(shape[1:], len(channels))
        parts.append(nn.Unflatten(1, shape))
        for (a, b), (height, across) in zip(pairwise((shape[0], *channels)), sizes, strict=False):
            if height % 2 or across % 2:
                parts.append(nn.ZeroPad2d((0, across % 2, 0, height % 2)))
            parts += [_patches(nn.Conv2d(a, b, 2, stride=2)), GroupSort()]
        parts.append(nn.Flatten())
        width = channels[-1] * math.prod(sizes[-1])
    return _Bounded(*parts, *_affine((width, *hidden_layer_sizes, n_out), layers))


def lipschitz_decoder(
    n_in: int,
    n_out: int,
    *,
    constant: float = 10.0,
    hidden_layer_sizes: Sequence[int] = (256, 512),
    channels: Sequence[int] = (),
    image_shape: Sequence[int] | None = None,
    layers: str = "spectral",
) -> nn.Module:
    r"""Decoder with :math:`\lVert g(z) - g(w) \rVert_2 \le L \lVert z - w \rVert_2`.

    This is the mirror image of :func:`lipschitz_encoder`.

    A latent coordinate spreads over about two units, so a decoder whose L is below half the spread of the rows cannot
    reach all of them.

    Parameters
    ----------
    n_in, n_out : int
        Number of latent dimensions; width of the output.
    constant : float, default=10.0
        L, above 0.
    hidden_layer_sizes : sequence of int, default=(256, 512)
        Widths of the hidden layers, which must be even, from input to output.
    channels : sequence of int, default=()
        Channels of the encoder, in the encoder's order: as many transposed convolutions come last.
    image_shape : (height, width) or (n_channels, height, width), default=None
        Shape of the images if there are ``channels``; None means a square image with one channel.
    layers : {"spectral", "orthogonal"}, default="spectral"
        As in :func:`lipschitz_encoder`.

    Returns
    -------
    nn.Module
        Maps (n, n_in) to (n, n_out).

    Raises
    ------
    ValueError
        If the constant is not above 0, a width is odd, or ``layers`` is neither of the two.

    Examples
    --------
    >>> import torch
    >>> lipschitz_decoder(10, 49, hidden_layer_sizes=(16,), channels=(4, 8))(torch.zeros(5, 10)).shape
    torch.Size([5, 49])
    """
    _check(constant, (*channels, *hidden_layer_sizes), layers)
    parts: list[nn.Module] = [_times(n_in, constant)]
    if not channels:
        return _Bounded(*parts, *_affine((n_in, *hidden_layer_sizes, n_out), layers))
    shape = shape_of_images(n_out, image_shape)
    sizes = halvings(shape[1:], len(channels))
    start = (channels[-1], *sizes[-1])
    parts += [*_affine((n_in, *hidden_layer_sizes, math.prod(start)), layers), nn.Unflatten(1, start)]
    widths = (shape[0], *channels)
    for i in reversed(range(len(channels))):
        height, across = sizes[i]
        parts += [GroupSort(), _patches(nn.ConvTranspose2d(widths[i + 1], widths[i], 2, stride=2))]
        if height % 2 or across % 2:  # a side of s becomes 2 s, and one too many is cut off
            parts.append(nn.ZeroPad2d((0, -(across % 2), 0, -(height % 2))))
    return _Bounded(*parts, nn.Flatten())


class _Bounded(nn.Sequential):
    """Layers whose norms are exact as soon as training ends: a power iteration lags behind weights that move."""

    def train(self, mode: bool = True) -> Self:
        came_to_rest = self.training and not mode
        super().train(mode)
        for layer in self if came_to_rest else ():
            if is_parametrized(layer):
                _settle(layer.parametrizations)
        return self


@torch.no_grad()
def _settle(parametrized: Any) -> None:
    """Let spectral normalizations know the singular vectors of the largest singular value."""
    for parts in parametrized.values():
        for part in parts:
            known = dict(part.named_buffers())
            if {"_u", "_v"} <= known.keys():
                matrix = parts.original.flatten(1).double()
                tall = len(matrix) > matrix.shape[1]
                u = torch.linalg.eigh(matrix.T @ matrix if tall else matrix @ matrix.T).eigenvectors[:, -1]
                u, v = (matrix @ u, u) if tall else (u, matrix.T @ u)
                known["_u"].copy_(u / u.norm())
                known["_v"].copy_(v / v.norm())


def _check(constant: float, widths: Sequence[int], layers: str) -> None:
    number = isinstance(constant, Real) and not isinstance(constant, bool)
    if not number or not 0 < constant < math.inf:
        raise ValueError(f"constant, the Lipschitz constant, must be a finite number above 0; got {constant!r}.")
    odd = [width for width in widths if width < 2 or width % 2]
    if odd:
        raise ValueError(
            "hidden_layer_sizes and channels must be even and at least 2, because GroupSort sorts pairs of units; got "
            f"{odd[0]}. Take {max(2, odd[0] + 1)}."
        )
    if layers not in _LAYERS:
        raise ValueError(f"layers must be 'spectral' or 'orthogonal'; got {layers!r}.")


def _times(width: int, constant: float) -> Standardize:
    """Rows multiplied by the constant."""
    layer = Standardize(width)
    layer.scale.fill_(1.0 / constant)
    return layer


def _affine(widths: Sequence[int], layers: str) -> list[nn.Module]:
    """Affine maps of norm 1, with activations between them."""
    parts: list[nn.Module] = []
    for a, b in pairwise(widths):
        layer = nn.Linear(a, b)
        nn.init.orthogonal_(layer.weight)
        nn.init.zeros_(layer.bias)
        parts += [_spectral(layer) if layers == "spectral" else _orthogonal(layer), GroupSort()]
    return parts[:-1]


def _patches(layer: Any) -> nn.Module:
    """A convolution on patches that do not overlap: its norm is that of its kernel, (n, the rest), as a matrix."""
    with torch.no_grad():
        layer.weight.copy_(nn.init.orthogonal_(layer.weight.flatten(1)).view_as(layer.weight))
        layer.bias.zero_()
    return _spectral(layer)


def _spectral(layer: Any) -> nn.Module:
    return parametrizations.spectral_norm(layer, dim=0, n_power_iterations=1)


def _orthogonal(layer: Any) -> nn.Module:
    return parametrizations.orthogonal(layer, orthogonal_map="cayley")
