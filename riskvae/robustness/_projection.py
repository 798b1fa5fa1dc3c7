"""Balls, boxes, and steepest ascent in the norms of an attack."""

import math

import torch
from torch import Tensor

NORMS = (1, 2, math.inf)
# Bisections: the multiplier is known to 2^-60 of its range, below the resolution of float64; or as far as float32 goes.
_BISECTIONS = {torch.float64: 60, torch.float32: 30}


def norm_of(delta: Tensor, norm: float) -> Tensor:
    """Norm along the last dimension."""
    return torch.linalg.vector_norm(delta, norm, dim=-1)


def project(delta: Tensor, radius: Tensor, norm: float, low: Tensor | None, high: Tensor | None) -> Tensor:
    r"""Nearest point, in the Euclidean distance, of the ball and the box.

    The box must hold 0. With a multiplier :math:`\lambda \ge 0` the solution is delta shrunk (by
    :math:`1/(1 + \lambda)` in norm 2, towards zero by :math:`\lambda` in norm 1), then clipped to the box; its
    norm falls in :math:`\lambda`, which bisection finds.

    Parameters
    ----------
    delta : Tensor of shape (..., d)
        Perturbations.
    radius : Tensor of shape (...)
        Of the ball, above 0.
    norm : {1, 2, inf}
        Of the ball.
    low, high : Tensor that broadcasts to (..., d), or None
        The box, relative to the unperturbed row.

    Returns
    -------
    Tensor of shape (..., d)
        Inside both up to rounding.
    """

    def clip(values: Tensor) -> Tensor:
        return values if low is None else torch.minimum(torch.maximum(values, low), high)  # type: ignore[arg-type]

    reach = radius[..., None]
    if norm == math.inf:
        return clip(torch.minimum(torch.maximum(delta, -reach), reach))

    def shrunk(share: Tensor) -> Tensor:
        if norm == 2:
            return clip(delta * share[..., None])
        threshold = (1.0 - share) * delta.abs().amax(-1)
        return clip(delta.sign() * (delta.abs() - threshold[..., None]).relu())

    # Of the share that is kept; without a box nothing needs to be searched.
    inside = norm_of(clip(delta), norm) <= radius
    if bool(inside.all()):
        return clip(delta)
    if low is None:
        near = delta if norm == 2 else _soft_threshold(delta, radius)
        return near * (radius / norm_of(near, norm).clamp(min=1e-30)).clamp(max=1.0)[..., None]
    kept, lost = torch.zeros_like(radius), torch.ones_like(radius)
    for _ in range(_BISECTIONS[delta.dtype]):
        middle = 0.5 * (kept + lost)
        fits = norm_of(shrunk(middle), norm) <= radius
        kept, lost = torch.where(fits, middle, kept), torch.where(fits, lost, middle)
    return torch.where(inside[..., None], clip(delta), shrunk(kept))


def _soft_threshold(delta: Tensor, radius: Tensor) -> Tensor:
    """Entries that lie outside the ball of norm 1 shrunk by what brings them there, by Newton's method.

    The norm is convex and piecewise linear in the threshold, so it is met from below, after finitely many steps.
    """
    size = delta.abs()
    threshold = torch.zeros_like(radius)
    while True:
        left = size > threshold[..., None]
        raised = (torch.where(left, size, 0.0).sum(-1) - radius) / left.sum(-1).clamp(min=1)
        if not (raised > threshold).any():
            return delta.sign() * (size - threshold[..., None]).relu()
        threshold = torch.maximum(threshold, raised)


def ascent(gradient: Tensor, norm: float, share: float = 0.1) -> Tensor:
    """Direction of norm one in which to go: the gradient's in norm 2, its signs in norm infinity.

    In norm 1 the steepest direction has one entry; the largest ``share`` of the entries go together.
    Zero where the gradient is.
    """
    if norm == 2:
        return gradient / norm_of(gradient, 2).clamp(min=torch.finfo(gradient.dtype).tiny)[..., None]
    if norm == math.inf:
        return gradient.sign()
    count = max(1, round(share * gradient.shape[-1]))
    size = gradient.abs()
    least = size.topk(count, dim=-1).values[..., -1:]
    chosen = torch.where(size >= least, gradient.sign(), 0.0)
    return chosen / norm_of(chosen, 1).clamp(min=1.0)[..., None]
