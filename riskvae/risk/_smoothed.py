"""Conditional value at risk smoothed by a penalty on its dual weights."""

import math

import torch
from torch import Tensor

from riskvae.risk._order import (
    HUGE,
    TINY,
    argsort_ascending,
    at_least_float32,
    check_eps,
    check_losses,
    check_number,
    kth_largest,
    running_sum,
    sort_ascending,
    tail_mass,
)
from riskvae.risk._tail import as_threshold, cvar


def smoothed_cvar(
    losses: Tensor,
    eps: float,
    *,
    smoothing: float,
    penalty: str = "l2",
    tail: str = "worst",
    dim: int = -1,
    threshold: Tensor | float | None = None,
) -> Tensor:
    r"""Conditional value at risk with a penalty that pulls its weights towards equal ones.

    .. math:: \max_q \; \sum_i q_i l_i - s \, D(q) \quad \text{over} \quad 0 \le q_i \le \frac{1}{\epsilon N},
              \; \sum_i q_i = 1

    with the smoothing s, in units of the losses, and :math:`D(q) = \frac N2 \sum_i (q_i - \frac1N)^2` ("l2") or
    :math:`\sum_i q_i \log(N q_i)` ("kl"). The optimal weights, which are its gradient, are

    .. math:: q_i = \frac1N \, \mathrm{clip}\Bigl(1 + \frac{l_i - t}{s}, 0, \frac1\epsilon\Bigr)
              \quad \text{or} \quad q_i = \frac1N \min\Bigl(e^{(l_i - t)/s}, \frac1\epsilon\Bigr)

    with the t that makes them sum to one. The weights change continuously with the losses, so the risk has a Lipschitz
    gradient, while that of :func:`cvar` jumps. The risk is never above :func:`cvar`, its limit for s = 0; for large s
    it approaches the mean. Replicating the sample does not change it: s means the same for every N. (Laguel et al.
    write the l2 penalty without the factor N: their :math:`\nu` is s N.)

    With a ``threshold`` t from elsewhere, the result is the dual objective :math:`t + \frac1N \sum_i \varphi(l_i - t)`
    at that t, with :math:`\varphi' = N q`; it is never below the risk.

    Parameters
    ----------
    losses : Tensor
        Floating-point tensor of any shape, with at least one element along ``dim``.
    eps : float
        Mass of the tail, in (0, 1]; 1 gives the mean, whatever the smoothing.
    smoothing : float
        s, at least 0, in units of the losses. With "l2", weights grow from zero to the full 1/(eps N) over losses that
        differ by s/eps; with "kl", they grow e-fold over s.
    penalty : {"l2", "kl"}, default="l2"
        "l2" is the squared distance to equal weights, which excludes the best losses; "kl" is the relative entropy,
        which excludes none.
    tail : {"worst", "best"}, default="worst"
        "best" is ``-smoothed_cvar(-losses)``.
    dim : int, default=-1
        Dimension to reduce.
    threshold : Tensor or float, default=None
        Scalar, or tensor of the result's shape; None uses the threshold that makes the weights sum to one.

    Returns
    -------
    Tensor
        Shape of ``losses`` without ``dim``, same dtype, twice differentiable. NaN where a loss is NaN.

    References
    ----------
    Laguel, Pillutla, Malick and Harchaoui, "Superquantiles at work" (2022), arXiv 2201.00508, for "l2".
    Levy, Carmon, Duchi and Sidford, "Large-scale methods for distributionally robust optimization" (2020),
    arXiv 2010.05893, for "kl".

    Examples
    --------
    >>> import torch
    >>> losses = torch.tensor([1.0, 2.0, 3.0, 4.0], requires_grad=True)
    >>> risk = smoothed_cvar(losses, 0.5, smoothing=2.0)  # between the mean, 2.5, and cvar, 3.5
    >>> risk.item(), torch.autograd.grad(risk, losses)
    (2.8125, (tensor([0.0625, 0.1875, 0.3125, 0.4375]),))
    """
    check_losses(losses, dim, tail)
    eps = check_eps(eps)
    check_smoothing(smoothing, penalty)
    if smoothing < TINY:
        return cvar(losses, eps, tail=tail, dim=dim, threshold=threshold)
    values = at_least_float32(losses).movedim(dim, -1)
    if tail == "best":
        values = -values
    if threshold is not None:
        t = as_threshold(threshold, values, -1)
        t = t if tail == "worst" else -t
        smoothing = min(smoothing, HUGE)
        risk = t.squeeze(-1) + smoothing * _excess((values - t) / smoothing, eps, penalty).mean(-1)
    elif eps == 1 or smoothing > HUGE:
        risk = values.mean(-1)
    else:
        eps = max(eps, 1.0 / values.shape[-1])  # no weight exceeds one anyway
        # As the sum of a loss and a multiple of s, t keeps its precision when s is far below the losses.
        center, tau = _threshold(values.detach(), eps, smoothing, penalty)
        z = (values - center) / smoothing
        tau = _differentiable(tau, z, eps, penalty)
        risk = center.squeeze(-1) + smoothing * (tau.squeeze(-1) + _excess(z - tau, eps, penalty).mean(-1))
    return (risk if tail == "worst" else -risk).to(losses.dtype)


def smoothed_threshold(losses: Tensor, eps: float, *, smoothing: float, penalty: str, tail: str, dim: int) -> Tensor:
    """The t at which :func:`smoothed_cvar` has its weights, without a graph."""
    check_losses(losses, dim, tail)
    check_smoothing(smoothing, penalty)
    values = at_least_float32(losses.detach()).movedim(dim, -1)
    smoothing = min(max(smoothing, TINY), HUGE)
    eps = max(check_eps(eps), 1.0 / values.shape[-1])
    center, tau = _threshold(values if tail == "worst" else -values, eps, smoothing, penalty)
    t = (center + smoothing * tau).squeeze(-1)
    return (t if tail == "worst" else -t).to(losses.dtype)


def smoothed_mass(u: Tensor, eps: float, *, smoothing: float, penalty: str, dim: int) -> Tensor:
    """Sum of the weights of losses that lie ``u`` above a threshold."""
    check_smoothing(smoothing, penalty)
    return density(u / min(max(smoothing, TINY), HUGE), eps, penalty).mean(dim)


def check_smoothing(smoothing: float, penalty: str) -> None:
    """Raise unless the penalty and its weight make sense."""
    check_number("smoothing", smoothing, 0.0)
    if penalty not in ("l2", "kl"):
        raise ValueError(f"penalty must be 'l2' or 'kl'; got {penalty!r}.")


# In units of the smoothing, z is how far a loss lies above the threshold. From `_top` on its weight is the full
# 1/(eps N). Both functions decide that by the same comparison: decided twice, rounding could count it twice or never.


def _top(eps: float, penalty: str) -> float:
    return 1.0 / eps - 1.0 if penalty == "l2" else -math.log(eps)


def density(z: Tensor, eps: float, penalty: str) -> Tensor:
    """N times the weight of losses: the slope of :func:`_excess`."""
    full = z >= _top(eps, penalty)
    part = torch.where(full, 0.0, z)
    return torch.where(full, 1.0 / eps, (1.0 + part).relu() if penalty == "l2" else part.exp())


def _excess(z: Tensor, eps: float, penalty: str) -> Tensor:
    """Quadratic or exponential in z, linear beyond the top; zero at zero."""
    top = _top(eps, penalty)
    full = z >= top
    part = torch.where(full, top, z)
    if penalty == "l2":
        part = part.clamp(min=-1.0)
        curved = part + 0.5 * part * part
    else:
        curved = part.expm1()
    return curved + torch.where(full, z - top, 0.0) / eps


def _threshold(values: Tensor, eps: float, smoothing: float, penalty: str) -> tuple[Tensor, Tensor]:
    """Pair (c, tau): weights sum to one at t = c + smoothing * tau, with c one of the losses."""
    n = values.shape[-1]
    mass = max(tail_mass(eps, n), 1.0)
    center = kth_largest(values, min(math.ceil(mass), n), -1)
    z = (values - center) / smoothing
    return center, (_solve_l2 if penalty == "l2" else _solve_kl)(z, eps)


def _solve_l2(z: Tensor, eps: float) -> Tensor:
    """Tau with sum clip(1 + z - tau, 0, 1/eps) = N: the sum is piecewise linear, so walk down its corners."""
    n = z.shape[-1]
    cap = 1.0 / eps
    # Tau lies in [1 - cap, 1]; beyond these ends a loss weighs all or nothing.
    z = z.clamp(-2.0 * cap, 2.0 * cap)
    corners = torch.cat((-1.0 - z, cap - 1.0 - z), -1)  # of -tau, where a weight starts to grow and where it stops
    order = argsort_ascending(corners)
    corners = corners.gather(-1, order)
    growing = torch.where(order < n, 1.0, -1.0).to(z.dtype).cumsum(-1)
    total = running_sum(growing[..., :-1] * corners.diff(dim=-1))
    last = (total < n).sum(-1, keepdim=True).clamp(max=2 * n - 2)  # piece in which the sum passes N
    before = torch.where(last > 0, total.gather(-1, (last - 1).clamp(min=0)), 0.0)
    slope = growing.gather(-1, last).clamp(min=1.0)
    return -(corners.gather(-1, last) + (n - before) / slope).clamp(-1.0, cap - 1.0)


def _solve_kl(z: Tensor, eps: float) -> Tensor:
    """Tau with sum min(exp(z - tau), 1/eps) = N: if k weights are capped, the others give it in closed form."""
    n = z.shape[-1]
    log_cap = -math.log(eps)
    # What the losses above the center leave is at least exp(-40) of the mass, so tau is at most 40.
    z = sort_ascending(z.clamp(max=min(log_cap + 40.0, 80.0)))
    below = running_sum(z.exp())  # smallest first: no cancellation
    index = torch.arange(n, device=z.device)
    left = (tail_mass(eps, n) - (n - 1 - index).to(z.dtype)) / eps
    tau = below.log() - left.clamp(min=TINY).log()
    fits = (left > 0) & (z - tau <= log_cap)
    last = torch.where(fits, index, 0).amax(-1, keepdim=True)  # the fewest capped
    return tau.gather(-1, last).clamp(min=-log_cap)  # there all from the center up are capped


def _differentiable(tau: Tensor, z: Tensor, eps: float, penalty: str) -> Tensor:
    """One Newton step, which polishes tau and gives it its dependence on the losses, as second derivatives need."""
    found = density(z - tau, eps, penalty)
    grown = found.detach()
    free = (grown > 0) & ((z - tau).detach() < _top(eps, penalty))
    slope = torch.where(free, 1.0 if penalty == "l2" else grown, 0.0).mean(-1, keepdim=True)
    steep = slope > TINY
    step = (found.mean(-1, keepdim=True) - 1.0) / torch.where(steep, slope, 1.0)
    return tau + torch.where(steep & (step.abs() < 0.5), step, 0.0)
