"""An activation that sorts pairs, of slope 1 everywhere."""

import torch
from torch import Tensor, nn

__all__ = ["GroupSort"]


class GroupSort(nn.Module):
    r"""The larger and the smaller of pairs of units: :math:`(a, b) \mapsto (\max(a, b), \min(a, b))`.

    It keeps the length of every gradient, where a ReLU loses that of the units that are off. So chains of it and of
    orthogonal layers may be as steep everywhere as their Lipschitz constant says, and fit what others cannot at the
    same constant.

    Units of the first half along dimension 1 are paired with those of the second: the larger values come first. For a
    feature map these are its channels.

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
