"""An activation that sorts pairs, of slope 1 everywhere."""

import torch
from torch import Tensor, nn

__all__ = ["GroupSort"]


class GroupSort(nn.Module):
    r"""Activation that sorts pairs of units: :math:`(a, b) \mapsto (\max(a, b), \min(a, b))`.

    It preserves the length of every gradient, while a ReLU loses that of inactive units. Chains of this activation and
    orthogonal layers can therefore be as steep everywhere as their Lipschitz constant allows, and fit what other
    networks with the same constant cannot.

    Units in the first half of dimension 1 are paired with those in the second half, and the larger values come first.
    For a feature map, the units are its channels.

    Raises
    ------
    ValueError
        If the number of units is odd.

    References
    ----------
    Anil, Lucas and Grosse, "Sorting out Lipschitz function approximation" (ICML 2019).

    Examples
    --------
    >>> import torch
    >>> GroupSort()(torch.tensor([[1.0, 2.0, 3.0, -4.0]]))
    tensor([[ 3.,  2.,  1., -4.]])
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] % 2:
            raise ValueError(
                f"GroupSort sorts pairs of units; got {x.shape[1]} units, an odd number. Make hidden_layer_sizes and "
                "channels even."
            )
        a, b = x.chunk(2, dim=1)
        return torch.cat((torch.maximum(a, b), torch.minimum(a, b)), dim=1)
