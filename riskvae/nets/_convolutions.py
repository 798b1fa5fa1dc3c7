"""Convolutions over images that come as flat rows."""

import math
from collections.abc import Sequence
from itertools import pairwise

from torch import nn

from riskvae.nets._linear import Linear


def conv_encoder(
    n_in: int,
    n_out: int,
    *,
    image_shape: Sequence[int] | None = None,
    channels: Sequence[int] = (32, 64),
) -> nn.Module:
    """Strided convolutions over images given as flat rows, followed by a linear map.

    Each convolution (3 x 3, stride 2, ReLU) halves height and width, rounding up.

    Parameters
    ----------
    n_in, n_out : int
        Number of pixels per image (over all channels); width of the output.
    image_shape : (height, width) or (n_channels, height, width), default=None
        None means a square image with one channel. Set it with :func:`functools.partial`.
    channels : sequence of int, default=(32, 64)
        Number of channels after each convolution.

    Returns
    -------
    nn.Module
        Maps (n, n_in) to (n, n_out).

    Raises
    ------
    ValueError
        If ``n_in`` is not the number of pixels of ``image_shape``.

    Examples
    --------
    >>> from functools import partial
    >>> import torch
    >>> encoder = partial(conv_encoder, image_shape=(3, 8, 6), channels=(4,))
    >>> encoder(144, 10)(torch.zeros(5, 144)).shape
    torch.Size([5, 10])
    """
    shape = shape_of_images(n_in, image_shape)
    sizes = halvings(shape[1:], len(channels))
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
        Number of latent dimensions; number of pixels per image (over all channels).
    image_shape : (height, width) or (n_channels, height, width), default=None
        None means a square image with one channel. Set it with :func:`functools.partial`.
    channels : sequence of int, default=(32, 64)
        Channels of the encoder, in the encoder's order.

    Returns
    -------
    nn.Module
        Maps (n, n_in) to (n, n_out).

    Raises
    ------
    ValueError
        If ``n_out`` is not the number of pixels of ``image_shape``.

    Examples
    --------
    >>> import torch
    >>> conv_decoder(10, 49)(torch.zeros(5, 10)).shape
    torch.Size([5, 49])
    """
    shape = shape_of_images(n_out, image_shape)
    sizes = halvings(shape[1:], len(channels))
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


def shape_of_images(n_pixels: int, image_shape: Sequence[int] | None) -> tuple[int, ...]:
    """Channels, height and width of rows of pixels; raises where they have no such shape."""
    side = math.isqrt(n_pixels)
    shape = (side, side) if image_shape is None else tuple(image_shape)
    if len(shape) not in (2, 3) or math.prod(shape) != n_pixels:
        raise ValueError(
            f"image_shape={image_shape} does not describe rows of {n_pixels} pixels: expected (height, width) or "
            "(n_channels, height, width) whose product is that number (None means one square channel). "
            "Fix it with functools.partial(the network's function, image_shape=...). A decoder of quantiles gives a "
            "channel for each: image_shape=(n_quantiles, height, width)."
        )
    return (1, *shape)[-3:]


def halvings(size: Sequence[int], times: int) -> list[tuple[int, ...]]:
    """A size, and what it is halved to, rounding up, again and again."""
    sizes = [tuple(size)]
    for _ in range(times):
        sizes.append(tuple((side + 1) // 2 for side in sizes[-1]))
    return sizes
