"""Losses of rows as losses of the groups that they belong to."""

import torch
from torch import Tensor

__all__ = ["group_means"]

_MOST_MEMBERS = 2**24


def group_means(losses: Tensor, groups: Tensor) -> Tensor:
    r"""Mean loss of each group.

    .. math:: \bar l_g = \frac{1}{\#\{i : g_i = g\}} \sum_{i : g_i = g} l_i

    A risk of these means counts each group once, however many rows it has. ``cvar(group_means(losses, groups), eps)``
    is the mean of the worst fraction eps of the groups; for ``eps * n_groups <= 1`` it is the loss of the worst group,
    as in group DRO.

    Parameters
    ----------
    losses : Tensor of shape (n,)
        Losses of rows.
    groups : Tensor of int of shape (n,)
        Group of each row.

    Returns
    -------
    Tensor of shape (n_groups,)
        Means of the groups that occur, in ascending order of the groups; differentiable.

    References
    ----------
    Sagawa, Koh, Hashimoto and Liang, "Distributionally robust neural networks for group shifts" (2020).

    Examples
    --------
    >>> import torch
    >>> group_means(torch.tensor([1.0, 3.0, 10.0]), torch.tensor([0, 0, 5]))
    tensor([ 2., 10.])
    """
    if losses.shape != groups.shape or losses.dim() != 1:
        raise ValueError(
            f"groups must be one for each loss; got losses of shape {tuple(losses.shape)} and groups of shape "
            f"{tuple(groups.shape)}."
        )
    exact = losses.float() if losses.dtype in (torch.float16, torch.bfloat16) else losses
    names, place = groups.unique(return_inverse=True)
    if len(names) * len(losses) <= _MOST_MEMBERS:
        # Membership as a matrix: sums along it are always the same, which scattered ones on a GPU are not.
        member = torch.arange(len(names), device=groups.device)[:, None] == place
        sums, counts = exact.where(member, 0.0).sum(1), member.sum(1)
    else:
        zeros = exact.new_zeros(len(names))
        # On a GPU index_add takes losses as they come; index_put sorts them first.
        sums = zeros.index_put((place,), exact, True) if exact.is_cuda else zeros.index_add(0, place, exact)
        counts = place.bincount(minlength=len(names))
    return (sums / counts).to(losses.dtype)
