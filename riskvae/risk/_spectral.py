"""Spectral risk: a weighted mean of the sorted losses, heavier on the worse ones."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from riskvae._value import Value
from riskvae.risk._order import argsort_ascending, at_least_float32, check_eps, check_losses, check_number, readable


class Spectrum(Value):
    r"""Base of spectra: a cumulative weight, its parameters, equality and a readable repr.

    Call it with fractions u in [0, 1], the best losses first, to get the weight :math:`\Phi(u)` of the best
    fraction u: convex, from 0 to 1.
    """

    def __call__(self, u: Tensor) -> Tensor:
        raise NotImplementedError


class Superquantile(Spectrum):
    r"""Equal weights on the worst fraction: :math:`\Phi(u) = (u - 1 + \epsilon)_+ / \epsilon`.

    Parameters
    ----------
    eps : float, default=0.5
        Mass of the tail, in (0, 1].

    Examples
    --------
    >>> import torch
    >>> spectral_risk(torch.tensor([1.0, 2.0, 3.0, 4.0]), Superquantile(0.5))
    tensor(3.5000)
    """

    def __init__(self, eps: float = 0.5) -> None:
        self.eps = eps

    def __call__(self, u: Tensor) -> Tensor:
        return (1.0 - (1.0 - u) / check_eps(self.eps)).clamp(min=0.0)  # exact near the worst, where u is 1


class Extremile(Spectrum):
    r"""Expected maximum of r independent draws from the losses: :math:`\Phi(u) = u^r`.

    Parameters
    ----------
    order : float, default=2.0
        r, at least 1; 1 gives the mean.

    References
    ----------
    Daouia, Gijbels and Stupfler, "Extremiles: a new perspective on asymmetric least squares" (2019).

    Examples
    --------
    >>> import torch
    >>> spectral_risk(torch.tensor([0.0, 1.0]), Extremile(2))  # of two draws, three pairs in four hold the 1
    tensor(0.7500)
    """

    def __init__(self, order: float = 2.0) -> None:
        self.order = order

    def __call__(self, u: Tensor) -> Tensor:
        check_number("order", self.order, 1.0)
        return u**self.order


class Exponential(Spectrum):
    r"""Weights that grow exponentially with rank: :math:`\Phi(u) = (e^{ru} - 1) / (e^r - 1)`.

    Parameters
    ----------
    rate : float, default=1.0
        r, at least 0; 0 gives the mean. The worst loss has :math:`e^r` times the weight of the best.

    References
    ----------
    Acerbi, "Spectral measures of risk: a coherent representation of subjective risk aversion" (2002).

    Examples
    --------
    >>> import torch
    >>> spectral_risk(torch.tensor([0.0, 1.0]), Exponential(0.0))
    tensor(0.5000)
    """

    def __init__(self, rate: float = 1.0) -> None:
        self.rate = rate

    def __call__(self, u: Tensor) -> Tensor:
        check_number("rate", self.rate, 0.0)
        if self.rate < 1e-12:
            return u
        # Divided through by exp(r), so that large rates do not overflow.
        return ((u - 1.0) * self.rate).exp() * torch.expm1(-u * self.rate) / math.expm1(-self.rate)


def spectral_risk(
    losses: Tensor, spectrum: Callable[[Tensor], Tensor], *, tail: str = "worst", dim: int = -1
) -> Tensor:
    r"""Mean of the sorted losses, with weights that do not decrease from the best to the worst.

    .. math:: \sum_i \sigma_i \, l_{(i)}, \qquad l_{(1)} \le \dots \le l_{(N)}, \qquad
              \sigma_i = \Phi(\tfrac iN) - \Phi(\tfrac{i-1}N)

    The measure is coherent, and replicating the sample does not change it. Its gradient is :math:`\sigma` in the order
    of the losses; tied losses share their weights equally.

    Parameters
    ----------
    losses : Tensor
        Floating-point tensor of any shape, with at least one element along ``dim``.
    spectrum : callable
        Cumulative weight :math:`\Phi`: :class:`Superquantile`, :class:`Extremile`, :class:`Exponential`, or a convex
        function of a float tensor of fractions that goes from 0 at 0 to 1 at 1.
    tail : {"worst", "best"}, default="worst"
        "best" is ``-spectral_risk(-losses)``: the same weights, with the larger ones on the smaller losses.
    dim : int, default=-1
        Dimension to reduce.

    Returns
    -------
    Tensor
        Shape of ``losses`` without ``dim``, same dtype, differentiable. NaN where a loss is NaN.

    Raises
    ------
    ValueError
        If the weights are negative, decrease, or do not sum to one. Not checked inside function transforms and compiled
        graphs.

    References
    ----------
    Acerbi, "Spectral measures of risk: a coherent representation of subjective risk aversion" (2002).

    Examples
    --------
    >>> import torch
    >>> losses = torch.tensor([4.0, 1.0, 2.0], dtype=torch.float64)
    >>> round(spectral_risk(losses, lambda u: u**2).item(), 6)  # weights 1/9, 3/9, 5/9
    3.0
    """
    check_losses(losses, dim, tail)
    if not callable(spectrum):
        raise TypeError(f"spectrum must be a function of fractions such as risk.Extremile(2); got {spectrum!r}.")
    values = at_least_float32(losses).movedim(dim, -1)
    fixed = values.detach() if tail == "worst" else -values.detach()
    weights = _shared(fixed, _increments(spectrum, fixed.shape[-1], fixed))
    weights = torch.where(fixed.amax(-1, keepdim=True).isnan(), math.nan, weights)
    return torch.where(weights == 0, 0.0, weights * values).sum(-1).to(losses.dtype)


def _increments(spectrum: Callable[[Tensor], Tensor], n: int, like: Tensor) -> Tensor:
    """Cumulative weights at 0, 1/N, ..., 1."""
    precise = torch.float32 if like.device.type == "mps" else torch.float64
    u = torch.arange(n + 1, device=like.device, dtype=precise) / n
    cumulative = spectrum(u)
    if not isinstance(cumulative, Tensor) or cumulative.shape != u.shape:
        given = tuple(cumulative.shape) if isinstance(cumulative, Tensor) else type(cumulative).__name__
        raise TypeError(
            f"spectrum must map a tensor of fractions to one of the same shape, {tuple(u.shape)}; {spectrum!r} gave "
            f"{given}. Pass an object, such as risk.Extremile(2), not its class."
        )
    if type(spectrum) not in (Superquantile, Extremile, Exponential) and not torch.compiler.is_compiling():
        steps = cumulative.diff()
        ends = float(cumulative[0].abs()), float((cumulative[-1] - 1.0).abs())
        rounding = 8 * n * torch.finfo(cumulative.dtype).eps
        fall = float(-steps.diff().min()) * n if n > 1 else 0.0
        if max(ends) > 1e-5 or float(steps.min()) < -1e-5 or fall > 1e-5 + rounding:
            raise ValueError(
                "spectrum must be convex and rise from 0 at 0 to 1 at 1, so that weights are not negative and do not "
                f"fall towards the worst losses; {spectrum!r} gives {float(cumulative[0]):.4g} at 0, "
                f"{float(cumulative[-1]):.4g} at 1, and on {n} losses a least weight of {float(steps.min()):.4g} and a "
                f"largest fall of {max(fall, 0.0) / n:.4g}."
            )
    return cumulative


def _shared(values: Tensor, cumulative: Tensor) -> Tensor:
    """Weight of each loss: the mean of the weights of the ranks that it shares with its ties."""
    n = values.shape[-1]
    order = argsort_ascending(values)
    ordered = values.gather(-1, order)
    new = torch.cat((torch.ones_like(ordered[..., :1], dtype=torch.bool), ordered[..., 1:] != ordered[..., :-1]), -1)
    if readable(values) and bool(new.all()):  # most samples have no ties, and to look is cheap here
        share = cumulative.diff().expand(values.shape)
        return torch.empty_like(values).scatter_(-1, order, share.to(values.dtype))
    rank = torch.arange(n, device=values.device).expand(values.shape)
    first = torch.where(new, rank, 0).cummax(-1).values
    ends = torch.where(new.roll(-1, -1), rank, n - 1)  # the last rank ends its ties: new[0] is always true
    last = ends.flip(-1).cummin(-1).values.flip(-1)
    share = (cumulative[last + 1] - cumulative[first]) / (last + 1 - first)
    return torch.empty_like(values).scatter(-1, order, share.to(values.dtype))
