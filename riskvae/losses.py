"""Per-row losses in nats: ``(..., n, n_features)`` in, ``(..., n)`` out.

Functions do not average over rows, so that a risk measure can weight them afterwards. They work on any device and
floating dtype, broadcast over leading dimensions and are differentiable.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from riskvae._machine import constant

__all__ = [
    "asymmetric_laplace_nll", "bernoulli_nll", "gaussian_nll", "kl_divergence", "pinball_loss", "total_correlation",
]  # fmt: skip

LOG_2PI = math.log(2.0 * math.pi)


def gaussian_nll(x: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    r"""Negative log-density of rows under an isotropic Gaussian.

    .. math:: -\log N(x; m, s^2 I) = \frac{\lVert x - m \rVert^2}{2 s^2} + d \log s + \frac d2 \log 2\pi

    Parameters
    ----------
    x : Tensor of shape (n, d)
        Observed rows.
    mean : Tensor of shape (..., n, d)
        Means, one row for each row of ``x``.
    log_scale : Tensor of shape ()
        Logarithm of the standard deviation s, in the units of ``x``; shared by all features.

    Returns
    -------
    Tensor of shape (..., n)
        Nats per row.

    Examples
    --------
    >>> import torch
    >>> gaussian_nll(torch.zeros(1, 2), torch.zeros(1, 2), torch.tensor(0.0))  # log(2 pi)
    tensor([1.8379])
    """
    squared_error = F.mse_loss(mean, x.expand_as(mean), reduction="none").sum(-1)
    d = x.shape[-1]
    return 0.5 * squared_error * (-2.0 * log_scale).exp() + d * (log_scale + 0.5 * LOG_2PI)


def bernoulli_nll(x: Tensor, logits: Tensor) -> Tensor:
    r"""Binary cross-entropy of rows in [0, 1], from logits.

    .. math:: -\sum_j x_j \log p_j + (1 - x_j) \log (1 - p_j), \qquad p = \mathrm{sigmoid}(\text{logits})

    This is a negative log-probability if ``x`` is 0 or 1. For gray values in between it is the usual surrogate, whose
    minimum over ``p`` is at ``p = x`` and above zero.

    Parameters
    ----------
    x : Tensor of shape (n, d)
        Observed rows, in [0, 1].
    logits : Tensor of shape (..., n, d)
        Log-odds, one row for each row of ``x``.

    Returns
    -------
    Tensor of shape (..., n)
        Nats per row.

    Examples
    --------
    >>> import torch
    >>> bernoulli_nll(torch.ones(1, 2), torch.zeros(1, 2))  # 2 log 2
    tensor([1.3863])
    """
    loss = F.binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none")
    return loss.sum(-1)


def kl_divergence(mean: Tensor, scale: Tensor) -> Tensor:
    r"""Kullback-Leibler divergence of a diagonal Gaussian from the standard normal.

    .. math:: \mathrm{KL}(N(m, \mathrm{diag}\, s^2) \,\|\, N(0, I))
              = \sum_k \tfrac12 (m_k^2 + s_k^2 - 1) - \log s_k

    Parameters
    ----------
    mean, scale : Tensor of shape (..., n, k)
        Means and (positive) standard deviations.

    Returns
    -------
    Tensor of shape (..., n)
        Nats per row; never negative, and zero only for the standard normal itself.

    Examples
    --------
    >>> import torch
    >>> kl_divergence(torch.tensor([[1.0, 0.0]]), torch.ones(1, 2))
    tensor([0.5000])
    """
    return (0.5 * (mean.square() + scale.square() - 1.0) - scale.log()).sum(-1)


def pinball_loss(x: Tensor, quantiles: Tensor, levels: Sequence[float]) -> Tensor:
    r"""Pinball loss of predicted quantiles, summed over features and averaged over levels.

    .. math:: \frac1Q \sum_{j, a} \rho_a(x_j - q_{ja}), \qquad \rho_a(u) = \max(a u, (a - 1) u),

    Its expectation is minimal if :math:`q_{ja}` is the quantile of level a. Averaging over levels makes one row count
    once, whatever the number of levels.

    Parameters
    ----------
    x : Tensor of shape (n, d)
        Observed rows.
    quantiles : Tensor of shape (..., n, d, Q)
        Predicted quantiles.
    levels : sequence of float, of length Q
        Levels of the quantiles, in (0, 1).

    Returns
    -------
    Tensor of shape (..., n)
        Losses in the units of ``x``.

    References
    ----------
    Koenker and Bassett, "Regression quantiles", Econometrica 46 (1978).

    Examples
    --------
    >>> import torch
    >>> pinball_loss(torch.ones(1, 1), torch.tensor([[[0.0, 3.0]]]), [0.2, 0.8])  # (0.2 * 1 + 0.2 * 2) / 2
    tensor([0.3000])
    """
    return _pinballs(x, quantiles, levels).sum((-1, -2)) / len(levels)


def pinball_losses(x: Tensor, quantiles: Tensor, levels: Sequence[float]) -> Tensor:
    """The same value by value, (..., n, d): averaged over levels, not summed over features."""
    return _pinballs(x, quantiles, levels).mean(-1)


def _pinballs(x: Tensor, quantiles: Tensor, levels: Sequence[float]) -> Tensor:
    if quantiles.shape[-1] != len(levels):
        raise ValueError(f"quantiles must have one value for each of {len(levels)} levels; got {quantiles.shape[-1]}.")
    error = x[..., None] - quantiles
    a = constant(levels, quantiles)
    return torch.addcmul(F.relu(-error), a, error)


def asymmetric_laplace_nll(x: Tensor, quantiles: Tensor, levels: Sequence[float], log_scale: Tensor) -> Tensor:
    r"""Negative log-density of rows under asymmetric Laplace noise around predicted quantiles.

    The density :math:`p_a(x) = \frac{a (1 - a)}{s} e^{-\rho_a(x - q_a) / s}` has :math:`q_a` as its quantile of level
    a. For several levels, the loss is the negative logarithm of the geometric mean of their densities:

    .. math:: \frac{1}{s} \frac1Q \sum_{j, a} \rho_a(x_j - q_{ja})
              + d \Bigl(\log s - \frac1Q \sum_a \log a (1 - a)\Bigr)

    A geometric mean of densities integrates to at most one, so this is a bound on the nats of a proper density, and
    exact for one level. Unlike the pinball loss alone, it does not depend on the units of ``x``, and its weight
    relative to a KL term is that of one observation.

    Parameters
    ----------
    x : Tensor of shape (n, d)
        Observed rows.
    quantiles : Tensor of shape (..., n, d, Q)
        Predicted quantiles.
    levels : sequence of float, of length Q
        Levels of the quantiles, in (0, 1).
    log_scale : Tensor of shape ()
        Logarithm of the scale s, in the units of ``x``, shared by all features. The maximum-likelihood estimate of s is
        the mean pinball loss of a feature.

    Returns
    -------
    Tensor of shape (..., n)
        Nats per row.

    References
    ----------
    Yu and Moyeed, "Bayesian quantile regression", Statistics and Probability Letters 54 (2001).

    Examples
    --------
    >>> import torch
    >>> asymmetric_laplace_nll(torch.ones(1, 1), torch.zeros(1, 1, 1), [0.5], torch.tensor(0.0))  # 1/2 + log 4
    tensor([1.8863])
    """
    return pinball_loss(x, quantiles, levels) * (-log_scale).exp() + x.shape[-1] * (log_scale - log_peak(levels))


def log_peak(levels: Sequence[float]) -> float:
    """Mean logarithm of the asymmetric Laplace densities of scale 1 at their modes."""
    return sum(math.log(a * (1.0 - a)) for a in levels) / len(levels)


def total_correlation(z: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    r"""Log-ratio of the aggregated posterior to the product of its marginals, at the draws of a batch.

    .. math:: \log \bar q(z_i) - \sum_k \log \bar q_k(z_{ik}), \qquad
              \bar q(z) = \frac1n \sum_j N(z; m_j, \mathrm{diag}\, s_j^2)

    Its mean over draws from :math:`\bar q` is the total correlation, the KL divergence of the aggregated posterior from
    the product of its marginals; it is zero if the latent coordinates are independent. The aggregate is that of the
    batch. For N rows in all, the minibatch-weighted estimate of Chen et al. divides by n N instead of n: a constant,
    :math:`(k - 1) \log N`, that does not affect gradients. As an estimate for all rows it is biased while batches are
    small.

    Parameters
    ----------
    z : Tensor of shape (n, k)
        One draw from each row's posterior.
    mean, scale : Tensor of shape (n, k)
        Posterior means and (positive) standard deviations.

    Returns
    -------
    Tensor of shape (n,)
        Nats per row.

    References
    ----------
    Chen, Li, Grosse and Duvenaud, "Isolating sources of disentanglement in variational autoencoders" (2018).

    Examples
    --------
    >>> import torch
    >>> z = torch.tensor([[0.0, 0.0], [3.0, 3.0]])  # the coordinates move together: log 2, nearly
    >>> total_correlation(z, z, torch.full((2, 2), 0.1))
    tensor([0.6931, 0.6931])
    """
    found: Tensor = _LogRatio.apply(z, *torch.broadcast_tensors(mean, scale))
    return found


class _LogRatio(torch.autograd.Function):
    """Total correlation by blocks of draws, forward and backward.

    Of n draws, n posteriors and k coordinates autograd keeps several arrays of n * n * k, gigabytes for large batches.
    """

    BLOCK = 2**20  # densities that are held at once

    @staticmethod
    def forward(ctx: Any, z: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
        ctx.save_for_backward(z, mean, scale)
        found = torch.empty_like(z[:, 0])  # filled: small results between large blocks would hold the memory of both
        for rows in _LogRatio._blocks(z, mean):
            density = _log_densities(z[rows], mean, scale)[1]
            found[rows] = density.sum(-1).logsumexp(1) - density.logsumexp(1).sum(-1)
        return found + (mean.shape[1] - 1) * math.log(len(mean))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        z, mean, scale = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph=True: the gradient itself is to have one
            with torch.enable_grad():
                density = _log_densities(z, mean, scale)[1]
                found = density.sum(-1).logsumexp(1) - density.logsumexp(1).sum(-1)
            return torch.autograd.grad(found, (z, mean, scale), gradient, create_graph=True, allow_unused=True)
        of_z, of_mean, of_scale = torch.empty_like(z), torch.zeros_like(mean), torch.zeros_like(scale)
        for rows in _LogRatio._blocks(z, mean):
            standard, density = _log_densities(z[rows], mean, scale)
            # What the log-ratio gains by each density: the share of the joint less that of the marginal.
            gain = density.sum(-1).softmax(1)[:, :, None] - density.softmax(1)
            gain *= gradient[rows, None, None]
            pull = gain * standard / scale
            of_z[rows] = -pull.sum(1)
            of_mean += pull.sum(0)
            of_scale += (pull * standard).sum(0) - gain.sum(0) / scale
        return of_z, of_mean, of_scale

    @staticmethod
    def _blocks(z: Tensor, mean: Tensor) -> list[slice]:
        size = max(1, _LogRatio.BLOCK // mean.numel())
        return [slice(start, start + size) for start in range(0, len(z), size)]


def _log_densities(z: Tensor, mean: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Standardized draws (draw, posterior, coordinate), and their log-densities up to a constant."""
    standard = (z[:, None] - mean) / scale
    return standard, -0.5 * standard.square() - scale.log()
