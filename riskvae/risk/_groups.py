"""Losses of rows as losses of the groups that they belong to."""

from torch import Tensor

__all__ = ["group_means"]


def group_means(losses: Tensor, groups: Tensor) -> Tensor:
    r"""Mean loss of each group.

    .. math:: \bar l_g = \frac{1}{\#\{i : g_i = g\}} \sum_{i : g_i = g} l_i

    A risk of these counts each group once, however many rows it has: ``cvar(group_means(losses, groups), eps)`` is the
    mean of the worst share eps of the groups, and for ``eps * n_groups <= 1`` the loss of the worst group, as in group
    DRO.

    Parameters
    ----------
    losses : Tensor of shape (n,)
        Losses of rows.
    groups : Tensor of int of shape (n,)
        The group of each.

    Returns
    -------
    Tensor of shape (n_groups,)
        Of the groups that occur, in ascending order; differentiable.

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
    # Membership as a matrix: its product is differentiable and, unlike scattered sums on a GPU, always the same.
    members = (groups == groups.unique()[:, None]).to(losses)
    return (members @ losses) / members.sum(1)
