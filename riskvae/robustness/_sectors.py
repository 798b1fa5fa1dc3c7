"""The largest norm of a map whose activations may have any slopes in intervals."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from riskvae.robustness._gain import ellipsoid

__all__ = ["sector_norm"]

# Steps that look for weights.
_WEIGHED = 12


def sector_norm(
    J: Tensor, G: Tensor, A: Tensor, N: Tensor, kappa: Tensor, norm: float = 2, weights: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    r"""Bound of ||J d + G e|| over d in a unit ball, where e = kappa t and t = A d + N e, each kappa in its interval.

    With c the middle of the intervals, r their half width and f = e - c t, each f^2 <= r^2 t^2. So for any weights
    lambda >= 0

    .. math:: \lVert J d + G e \rVert^2 \le \lVert J d + G e \rVert^2 + \sum_u \lambda_u (r_u^2 t_u^2 - f_u^2)
              \le \gamma \lVert d \rVert^2

    with the largest eigenvalue gamma of a Schur complement: a proof for every lambda, so a few steps of descent from
    good ones are enough. In norm 1 the quadratic form of d is largest at a vertex: its largest diagonal entry takes the
    place of gamma. The ball of norm infinity is replaced by an ellipsoid that holds it.

    Parameters
    ----------
    J, G, A, N : Tensor of shape (k, d), (k, m), (m, d), (m, m)
        N strictly lower triangular, up to order.
    kappa : Tensor of shape (2, m)
        Ends of the intervals.
    norm : {1, 2, inf}, default=2
        Of the ball.
    weights : Tensor of shape (m,), default=None
        Logarithms to begin with, of an earlier call; taken if there are m.

    Returns
    -------
    norm : Tensor
    weights : Tensor of shape (m,)

    References
    ----------
    Fazlyab, Robey, Hassani, Morari and Pappas, "Efficient and accurate estimation of Lipschitz constants for deep
    neural networks" (2019).
    """
    c, r = kappa.mean(0), 0.5 * (kappa[1] - kappa[0])
    eye = torch.eye(len(c), dtype=J.dtype)
    onward = torch.linalg.inv(eye - N * c)
    A, N = onward @ A, onward @ N
    J, G = J + (G * c) @ A, G @ (eye + c[:, None] * N)
    # Of d only what they see; units weigh as much as what they add may matter.
    seen = torch.cat((J, (G.norm(dim=0) * r)[:, None] * A))
    basis, both = torch.linalg.qr((torch.cat((J, A)) * ellipsoid(seen[None], norm)[0]).T)
    J, A = both.T[: len(J)], both.T[len(J) :]
    JJ, JG, GG = J.T @ J, J.T @ G, G.T @ G

    def gamma(log_weights: Tensor) -> Tensor:
        weight = log_weights.exp()
        D = weight * r.square()
        inner = torch.diag(weight) - GG - N.T @ (D[:, None] * N)
        factor, failed = torch.linalg.cholesky_ex(inner)
        if failed:
            return J.new_tensor(math.inf)
        mixed = JG + A.T @ (D[:, None] * N)
        half = torch.linalg.solve_triangular(factor, mixed.T, upper=False)
        form = JJ + A.T @ (D[:, None] * A) + half.T @ half
        return (basis * (basis @ form)).sum(1).max() if norm == 1 else torch.linalg.eigvalsh(form)[-1]

    g, a = G.norm(dim=0), r * A.norm(dim=1)
    first = (g * (JJ.trace().sqrt() + g * a) / a.clamp(min=1e-300)).clamp(1e-30, 1e30).log()
    starts = [first + shift for shift in (0.0, 0.7, 1.4, 2.8, 5.6, 11.0)]
    # With these the matrix is positive definite by its diagonal, whatever the order of the units.
    reached = (N.abs() * (r.square() * N.abs().sum(1))[:, None]).T
    base = first.exp() + 2.0 * g * g.sum() + 1e-300
    starts.append(torch.linalg.solve(eye - 2.0 * reached, base).clamp(1e-300, 1e300).log())
    starts += [weights] if weights is not None and len(weights) == len(c) else []
    values = torch.stack([gamma(start) for start in starts])
    best, least = starts[int(values.argmin())], values.min()
    if not least.isfinite():
        return J.new_tensor(math.inf), first
    best, least = _descended(gamma, best, least)
    return least.clamp(min=0.0).sqrt(), best


def _descended(gamma: Callable[[Tensor], Tensor], best: Tensor, least: Tensor) -> tuple[Tensor, Tensor]:
    """A lower point of a function, and its value: steps along the gradient's largest entries, halved where it rises."""
    step, slope = 0.3, None
    for _ in range(_WEIGHED):
        if slope is None:
            with torch.enable_grad():
                point = best.detach().requires_grad_()
                (slope,) = torch.autograd.grad(gamma(point), point)
        here = best - step * slope / slope.abs().max().clamp(min=1e-300)
        value = gamma(here)
        if value < least:
            best, least, step, slope = here, value, 1.3 * step, None
        else:
            step *= 0.5
    return best, least
