"""A first layer that brings rows into units of order one."""

import torch
from torch import Tensor, nn

__all__ = ["Standardize"]


class Standardize(nn.Module):
    r"""Rows minus a center, divided by one scale: :math:`(x - c) / s`.

    One scale for all features keeps their proportions, so that what is small stays small: features that hardly vary, as
    pixels at the border of images, are not blown up.

    Parameters
    ----------
    n_features : int
        Width of the rows.

    Examples
    --------
    >>> import torch
    >>> layer = Standardize(2).set(center=torch.tensor([100.0, 200.0]), spread=torch.tensor([4.0, 4.0]))
    >>> layer(torch.tensor([[104.0, 198.0]]))
    tensor([[ 1.0000, -0.5000]])
    """

    center: Tensor
    scale: Tensor

    def __init__(self, n_features: int) -> None:
        super().__init__()
        self.register_buffer("center", torch.zeros(n_features))
        self.register_buffer("scale", torch.ones(()))

    @torch.no_grad()
    def set(self, center: Tensor, spread: Tensor) -> "Standardize":
        """Take the center of each feature, and the root mean square of their spreads."""
        scale = spread.square().mean().sqrt()
        self.center.copy_(center)
        self.scale.copy_(torch.where(scale > 0, scale, torch.ones_like(scale)))
        return self

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.center) / self.scale
