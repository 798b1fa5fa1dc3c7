"""Value at risk and conditional value at risk: exact for every eps and every number of losses."""

import math
from numbers import Real

import torch
from torch import Tensor, nn

from riskvae.risk._order import at_least_float32, check_eps, check_losses, kth_largest, tail_mass


def value_at_risk(losses: Tensor, eps: float, *, tail: str = "worst", dim: int = -1) -> Tensor:
    r"""Value at risk: the loss at which the tail begins.

    .. math:: v_\epsilon(l) = \min \{ t \in l : \#\{i : l_i > t\} \le \epsilon N \}

    is the smallest loss that at most :math:`\epsilon N` losses exceed; for ``tail="best"``, the largest loss that at
    most :math:`\epsilon N` fall below. It minimizes the objective of :func:`cvar`.

    Parameters
    ----------
    losses : Tensor
        Floating-point tensor of any shape, with at least one element along ``dim``.
    eps : float
        Mass of the tail, in (0, 1].
    tail : {"worst", "best"}, default="worst"
        Which tail.
    dim : int, default=-1
        Dimension to reduce.

    Returns
    -------
    Tensor
        Shape of ``losses`` without ``dim``, same dtype: one of the losses. The gradient goes to that loss, in equal
        parts if several are tied. NaN where a loss is NaN.

    Examples
    --------
    >>> import torch
    >>> value_at_risk(torch.tensor([4.0, 1.0, 3.0, 2.0]), 0.25)  # one loss of four lies above
    tensor(3.)
    """
    check_losses(losses, dim, tail)
    eps = check_eps(eps)
    values = at_least_float32(losses)
    values = values if tail == "worst" else -values
    n = values.shape[dim]
    boundary = kth_largest(values, min(math.floor(tail_mass(eps, n)) + 1, n), dim)
    # The maximum of the tied is their value, without rounding, and hands its gradient out evenly.
    found = torch.where(values == boundary, values, -math.inf).amax(dim)
    found = torch.where(values.amax(dim).isnan(), math.nan, found)
    return (found if tail == "worst" else -found).to(losses.dtype)


def tail_weights(losses: Tensor, eps: float, *, tail: str = "worst", dim: int = -1) -> Tensor:
    r"""Weights with which a loss vector sums to its conditional value at risk.

    These are the dual weights of Rockafellar and Uryasev. With v the value at risk,

    .. math:: q_i = \frac{1}{\epsilon N} \text{ where } l_i > v, \qquad q_i = 0 \text{ where } l_i < v,

    and the losses equal to v share the remaining mass equally, so that :math:`\sum_i q_i = 1`. For ``tail="best"``,
    they are the weights of ``-losses``. They are the gradient of :func:`cvar`.

    Parameters
    ----------
    losses : Tensor
        Floating-point tensor of any shape, with at least one element along ``dim``.
    eps : float
        Mass of the tail, in (0, 1].
    tail : {"worst", "best"}, default="worst"
        Whether to weight the largest or the smallest losses.
    dim : int, default=-1
        Dimension along which the losses form one sample.

    Returns
    -------
    Tensor
        Shape and dtype of ``losses``, detached. Along ``dim``, weights lie in [0, 1/(eps N)] and sum to one; NaN if the
        sample contains a NaN.

    References
    ----------
    Rockafellar and Uryasev, "Optimization of conditional value-at-risk", Journal of Risk 2 (2000).

    Examples
    --------
    >>> import torch
    >>> tail_weights(torch.tensor([1.0, 5.0, 5.0, 2.0]), 0.25)  # a tie at the boundary
    tensor([0.0000, 0.5000, 0.5000, 0.0000])
    """
    check_losses(losses, dim, tail)
    eps = check_eps(eps)
    values = at_least_float32(losses.detach())
    weights, _ = _weights(values if tail == "worst" else -values, eps, dim)
    return torch.where(values.amax(dim, keepdim=True).isnan(), math.nan, weights).to(losses.dtype)


def cvar(
    losses: Tensor, eps: float, *, tail: str = "worst", dim: int = -1, threshold: Tensor | float | None = None
) -> Tensor:
    r"""Conditional value at risk: the exact mean of the worst (or best) fraction of the losses.

    .. math:: C_\epsilon(l) = \min_t \; t + \frac{1}{\epsilon N} \sum_i (l_i - t)_+ = \sum_i q_i l_i

    with the weights q of :func:`tail_weights`; :math:`S_\epsilon(l) = -C_\epsilon(-l)` for the best tail.
    The gradient with respect to the losses is q, by the envelope theorem.

    With a ``threshold`` t from elsewhere, the result is the expression under the minimum: an upper bound of the risk
    (for the best tail, a lower bound) that is finite if no loss lies beyond t, and additive over micro-batches. Its
    gradient gives each loss beyond t the weight 1/(eps N), whatever their number.

    The limits are the mean at ``eps = 1`` and the maximum (minimum) for ``eps * N <= 1``. As an estimate for the
    distribution behind the sample, it is biased low: for exponential losses by 0.9% at ``eps=0.05`` and N = 256, by
    15.4% at N = 16. Prefer large batches if the tail is small.

    Only one dimension is reduced: flatten losses of shape (N, 1), whose last dimension holds a single value.

    Parameters
    ----------
    losses : Tensor
        Floating-point tensor of any shape, with at least one element along ``dim``.
    eps : float
        Mass of the tail, in (0, 1].
    tail : {"worst", "best"}, default="worst"
        Whether to average the largest or the smallest losses.
    dim : int, default=-1
        Dimension to reduce.
    threshold : Tensor or float, default=None
        Where the tail begins: a scalar, or a tensor of the result's shape. None uses the sample's own
        :func:`value_at_risk`; :class:`EMAThreshold` and :class:`LearnedThreshold` provide others. A tensor that
        requires a gradient receives it: descend on it for the worst tail, ascend for the best.

    Returns
    -------
    Tensor
        Shape of ``losses`` without ``dim``, same dtype, differentiable. NaN where a loss is NaN.

    References
    ----------
    Rockafellar and Uryasev, "Optimization of conditional value-at-risk", Journal of Risk 2 (2000).

    Examples
    --------
    >>> import torch
    >>> losses = torch.tensor([1.0, 2.0, 3.0, 4.0])
    >>> cvar(losses, 0.5), cvar(losses, 0.5, tail="best"), cvar(losses, 0.375)  # (4 + 3 / 2) / 1.5
    (tensor(3.5000), tensor(1.5000), tensor(3.6667))
    >>> cvar(losses, 0.5, threshold=1.5)  # 1.5 + (0.5 + 1.5 + 2.5) / 4 / 0.5
    tensor(3.7500)
    """
    check_losses(losses, dim, tail)
    eps = check_eps(eps)
    values = at_least_float32(losses)
    if threshold is not None:
        t = as_threshold(threshold, values, dim)
        sign = 1.0 if tail == "worst" else -1.0
        beyond = (sign * (values - t)).relu().mean(dim)
        return (t.squeeze(dim) + sign * beyond / eps).to(losses.dtype)
    values = values if tail == "worst" else -values
    weights, boundary = _weights(values.detach(), eps, dim)
    # Losses outside the tail weigh nothing; an infinite one among them must not make that NaN.
    risk = (weights * torch.where(values < boundary, 0.0, values)).sum(dim)
    return (risk if tail == "worst" else -risk).to(losses.dtype)


def nested_cvar(
    losses: Tensor, eps: float, eps_inner: float, *, tail: str = "worst", dim: tuple[int, int] = (-2, -1)
) -> Tensor:
    r"""Conditional value at risk over rows of the conditional value at risk over each row's latent draws.

    .. math:: C_{\epsilon, i} \bigl( C_{\epsilon', j} (l_{ij}) \bigr)

    It lies between the risk over rows of the mean over draws and the risk at :math:`\epsilon \epsilon'` of all losses
    together:
    :math:`C_{\epsilon,i}(\overline{l_i}) \le C_{\epsilon,i}(C_{\epsilon',j}(l_{ij})) \le C_{\epsilon \epsilon'}(l)`.
    For the best tail, the order is reversed.

    Parameters
    ----------
    losses : Tensor
        Floating-point tensor with at least two dimensions.
    eps, eps_inner : float
        Mass of the tail over rows and over draws, in (0, 1].
    tail : {"worst", "best"}, default="worst"
        Which tail, for both.
    dim : (int, int), default=(-2, -1)
        Dimensions of the rows and of the draws.

    Returns
    -------
    Tensor
        Shape of ``losses`` without both dimensions, same dtype, differentiable.

    Examples
    --------
    >>> import torch
    >>> losses = torch.tensor([[1.0, 3.0], [2.0, 6.0], [0.0, 5.0]])  # three rows, two draws each
    >>> nested_cvar(losses, 1 / 3, 0.5), nested_cvar(losses, 1.0, 0.5)
    (tensor(6.), tensor(4.6667))
    """
    if not isinstance(losses, Tensor) or losses.dim() < 2:
        given = tuple(losses.shape) if isinstance(losses, Tensor) else type(losses).__name__
        raise ValueError(f"losses must be a tensor of rows and draws, with at least two dimensions; got {given}.")
    check_eps(eps_inner, "eps_inner")
    n_dims = losses.dim()
    if not (
        isinstance(dim, tuple) and len(dim) == 2 and all(isinstance(d, int) and -n_dims <= d < n_dims for d in dim)
    ):
        raise ValueError(f"dim must be a pair of dimensions (rows, draws) of losses, which has {n_dims}; got {dim!r}.")
    rows, draws = (d % n_dims for d in dim)
    if rows == draws:
        raise ValueError(f"dim must name two different dimensions (rows, draws); got {dim} for {n_dims}.")
    inner = cvar(losses, eps_inner, tail=tail, dim=draws)
    return cvar(inner, eps, tail=tail, dim=rows - (rows > draws))


def as_threshold(threshold: Tensor | float, values: Tensor, dim: int) -> Tensor:
    """Threshold that broadcasts against ``values``, with size 1 along ``dim``."""
    if not isinstance(threshold, Tensor | Real):
        hint = " Call it with the losses: threshold=module(losses)." if isinstance(threshold, nn.Module) else ""
        raise TypeError(f"threshold must be a number or a tensor; got {type(threshold).__name__}.{hint}")
    t = torch.as_tensor(threshold, dtype=values.dtype, device=values.device)
    if t.dim() == 0:
        shape = list(values.shape)
        shape[dim] = 1
        return t.expand(shape)
    expected = values.select(dim, 0).shape
    if t.shape != expected:
        raise ValueError(
            f"threshold must be a number or have the shape of the result, {tuple(expected)}; got {tuple(t.shape)}."
        )
    return t.unsqueeze(dim)


def _weights(values: Tensor, eps: float, dim: int) -> tuple[Tensor, Tensor]:
    """Dual weights, and the smallest loss that has one. Without a check for NaN."""
    n = values.shape[dim]
    mass = max(tail_mass(eps, n), 1.0)
    boundary = kth_largest(values, min(math.ceil(mass), n), dim)
    above, tied = values > boundary, values == boundary
    dtype = values.dtype if n < 2**24 else torch.float64  # float32 cannot count further
    beyond, ties = (part.sum(dim, keepdim=True, dtype=dtype) for part in (above, tied))
    share = ((mass - beyond) / (mass * ties)).to(values.dtype)
    return torch.where(above, 1.0 / mass, torch.where(tied, share, 0.0)), boundary
