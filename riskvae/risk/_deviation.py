"""Smooth risk measures without a tail fraction: entropic risk and mean plus semideviation."""

import math

import torch
from torch import Tensor

from riskvae.risk._order import HUGE, TINY, at_least_float32, check_losses, check_number


def entropic_risk(losses: Tensor, theta: float, *, tail: str = "worst", dim: int = -1) -> Tensor:
    r"""Entropic risk, also called tilted or exponential risk.

    .. math:: \frac1\theta \log \frac1N \sum_i e^{\theta l_i}

    It lies between the mean (theta to 0) and the maximum (theta to infinity), and below the mean for negative theta.
    Its gradient is the softmax of :math:`\theta l`. The measure is convex and translation-equivariant, but not
    homogeneous: theta is in inverse units of the losses.

    Parameters
    ----------
    losses : Tensor
        Floating-point tensor of any shape, with at least one element along ``dim``.
    theta : float
        Tilt, any finite number; 0 gives the mean. A value around the inverse standard deviation of the losses (.05 if
        they spread by 20 nats) clearly emphasizes the tail without reducing to the maximum.
    tail : {"worst", "best"}, default="worst"
        "best" is ``-entropic_risk(-losses)``, which is the same as using ``-theta``.
    dim : int, default=-1
        Dimension to reduce.

    Returns
    -------
    Tensor
        Shape of ``losses`` without ``dim``, same dtype, differentiable. NaN where a loss is NaN.

    References
    ----------
    Li, Beirami, Sanjabi and Smith, "Tilted empirical risk minimization" (2021).

    Examples
    --------
    >>> import torch
    >>> losses = torch.tensor([0.0, 1.0])
    >>> entropic_risk(losses, 1.0), entropic_risk(losses, 100.0)  # log((1 + e) / 2), and nearly the maximum
    (tensor(0.6201), tensor(0.9931))
    """
    check_losses(losses, dim, tail)
    check_number("theta", theta, -math.inf)
    if tail == "best":
        theta = -theta
    values = at_least_float32(losses)
    if abs(theta) < TINY or values.shape[dim] == 1:
        return values.mean(dim).to(losses.dtype)
    if abs(theta) > HUGE:
        return (values.amax(dim) if theta > 0 else values.amin(dim)).to(losses.dtype)
    # Around the mean, where log(1 + mean(exp - 1)) keeps what log(mean(exp)) would round away; and less what
    # would overflow, in second derivatives too. This form bears both shifts; they cancel, so they need no gradient.
    center = values.detach().mean(dim, keepdim=True)
    z = theta * (values - center)
    shift = (z.detach().amax(dim, keepdim=True) - 15.0).clamp(min=0.0)
    log_mean = (z - shift).expm1().mean(dim).log1p() + shift.squeeze(dim)
    return (center.squeeze(dim) + log_mean / theta).to(losses.dtype)


def mean_semideviation(
    losses: Tensor, weight: float, *, order: float = 1.0, tail: str = "worst", dim: int = -1
) -> Tensor:
    r"""Mean plus a multiple of the upper semideviation.

    .. math:: m + c \Bigl( \frac1N \sum_i (l_i - m)_+^p \Bigr)^{1/p}, \qquad m = \frac1N \sum_i l_i

    The measure is coherent for c in [0, 1]. If no loss lies above the mean, which means that all are equal, the
    gradient is that of the mean.

    Parameters
    ----------
    losses : Tensor
        Floating-point tensor of any shape, with at least one element along ``dim``.
    weight : float
        c, in [0, 1]; 0 gives the mean.
    order : float, default=1.0
        p, at least 1.
    tail : {"worst", "best"}, default="worst"
        "best" is ``-mean_semideviation(-losses)``: the mean minus the lower semideviation.
    dim : int, default=-1
        Dimension to reduce.

    Returns
    -------
    Tensor
        Shape of ``losses`` without ``dim``, same dtype, differentiable. NaN where a loss is NaN.

    References
    ----------
    Ogryczak and Ruszczynski, "From stochastic dominance to mean-risk models" (1999).

    Examples
    --------
    >>> import torch
    >>> mean_semideviation(torch.tensor([0.0, 2.0, 4.0]), 0.5)  # 2 + 0.5 * (4 - 2) / 3
    tensor(2.3333)
    """
    check_losses(losses, dim, tail)
    check_number("weight", weight, 0.0, 1.0)
    check_number("order", order, 1.0)
    values = at_least_float32(losses)
    if tail == "best":
        values = -values
    mean = values.mean(dim, keepdim=True)
    above = (values - mean).relu()
    if order == 1:
        deviation = above.mean(dim)
    else:
        # In units of the largest, so that powers neither overflow nor vanish.
        unit = above.detach().amax(dim, keepdim=True)
        flat = unit == 0
        unit = torch.where(flat, 1.0, unit)
        # Roots and powers of zero have infinite derivatives, which would turn zeros of the chain rule into NaN.
        inside = above.detach() > 0
        power = torch.where(inside, torch.where(inside, above / unit, 1.0).pow(order), 0.0).mean(dim)
        flat, unit = flat.squeeze(dim), unit.squeeze(dim)
        deviation = torch.where(flat, 0.0, unit * torch.where(flat, 1.0, power).pow(1.0 / order))
    risk = mean.squeeze(dim) + weight * deviation
    return (risk if tail == "worst" else -risk).to(losses.dtype)
