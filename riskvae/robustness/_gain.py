"""How far a linear map sends a ball of norm 1, 2 or infinity, and ellipsoids that such balls lie in."""

import math

import torch
from torch import Tensor

__all__ = ["dual", "ellipsoid", "gain", "largest_singular", "longest"]

# Steps towards the least of the bounds, and dimensions of the vectors that take them.
_STEPS, _RANK = 12, 8
# Weights are at least this share of their mean: a map that does not see a feature says nothing of its weight.
_LEAST = 1e-9


def dual(norm: float) -> float:
    """Norm of a row's coefficients that tells how far it moves in a ball."""
    return {1: math.inf, 2: 2, math.inf: 1}[norm]


def longest(matrix: Tensor, norm: float) -> Tensor:
    r"""Largest :math:`|M_u \delta|` over the ball, for each row of a matrix (n, u, d): (n, u)."""
    return torch.linalg.vector_norm(matrix, dual(norm), dim=2)


def gain(matrix: Tensor, norm: float) -> Tensor:
    r"""Upper bound (n,) of :math:`\lVert M \delta \rVert_2` over the ball, for matrices (n, m, d).

    The longest column in norm 1, the largest singular value in norm 2: these are exact. In norm infinity, the largest
    singular value on an ellipsoid that holds the ball.
    """
    if norm == 1:
        return matrix.norm(dim=1).amax(-1)
    return largest_singular(matrix if norm == 2 else matrix * ellipsoid(matrix, norm))


def ellipsoid(matrix: Tensor, norm: float) -> Tensor:
    r"""Half axes (n, 1, d) of an ellipsoid that holds the ball and in which maps M (n, m, d) do not reach far.

    Ones in norms 1 and 2. In norm infinity, :math:`\delta^T D \delta \le \mathrm{tr} D` for every diagonal D > 0, so
    that

    .. math:: \max_{\lVert \delta \rVert_\infty \le 1} \lVert M \delta \rVert_2^2
              \le \mathrm{tr}(D) \, \lambda_{\max}(M D^{-1} M^T).

    The least of these bounds is the semidefinite relaxation, at most :math:`\pi / 2` times the truth. Its D is that of
    unit vectors v, one for each feature, at which :math:`\sum_{ij} (M^T M)_{ij} \, v_i \cdot v_j` is largest,
    :math:`D_i = \lVert \sum_j (M^T M)_{ij} v_j \rVert`; some steps go towards it. Any D is a proof.

    References
    ----------
    Nesterov, "Semidefinite relaxation and nonconvex quadratic optimization" (1998).
    """
    if norm != math.inf:
        return torch.ones_like(matrix[:, :1])
    generator = torch.Generator().manual_seed(0)
    mixed = torch.randn(_RANK, matrix.shape[1], generator=generator, dtype=torch.float64).to(matrix)
    ahead = mixed @ matrix  # (n, rank, d)
    for _ in range(_STEPS):
        vectors = ahead / ahead.norm(dim=1, keepdim=True).clamp(min=torch.finfo(matrix.dtype).tiny)
        ahead = (vectors @ matrix.transpose(1, 2)) @ matrix
    weights = ahead.norm(dim=1, keepdim=True)
    least = _LEAST * weights.mean(2, keepdim=True)
    weights = torch.where(least > 0, torch.maximum(weights, least), 1.0)
    return (weights.sum(2, keepdim=True) / weights).sqrt()


def largest_singular(matrix: Tensor) -> Tensor:
    """Of each (n, u, d), from the smaller Gram matrix of the rows that are not 0."""
    matrix = matrix[:, (matrix != 0).any(2).any(0)]
    if not matrix.shape[1]:
        return matrix.new_zeros(len(matrix))
    tall = matrix.shape[1] > matrix.shape[2]
    gram = matrix.transpose(1, 2) @ matrix if tall else matrix @ matrix.transpose(1, 2)
    return torch.linalg.eigvalsh(gram)[:, -1].clamp(min=0.0).sqrt()
