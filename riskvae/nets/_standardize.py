"""A first layer that brings rows into units of order one."""

import torch
from torch import Tensor, nn

__all__ = ["Standardize"]


class Standardize(nn.Module):
    r"""Subtract a center from rows and divide them by one scale: :math:`(x - c) / s`.

    A single scale for all features preserves their proportions. Features that hardly vary, such as pixels at the border
    of images, stay small and are not amplified.

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
        """Set the center of each feature, and the scale to the root mean square of their spreads."""
        scale = spread.square().mean().sqrt()
        self.center.copy_(center)
        self.scale.copy_(torch.where(scale > 0, scale, torch.ones_like(scale)))
        return self

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.center) / self.scale
