"""Posteriors that fit each row by itself: some gradient steps on its own bound, from the encoder's answer."""

import math
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from riskvae.losses import kl_divergence
from riskvae.nets import Posterior
from riskvae.training._draws import matched_draws

__all__ = ["MOST_AT_ONCE", "refined"]

_FEWEST = 16  # draws that the steps go through
_AT_ONCE = 4  # that a step looks at
MOST_AT_ONCE = 32  # that decide at last
_RATE, _SLOWER = 0.5, 5.0  # of the first step, and of how many until it is half of that
_FARTHEST = 0.5  # of the scale's logarithm, in one step


def refined(vae: Any, x: Tensor, start: Posterior, n_steps: int, floor: float = 0.0) -> Posterior:
    r"""Posteriors of rows (n, d) after steps on each row's own evidence bound, from a start.

    An encoder gives all rows answers by one function; a row that is unlike the others deserves a better one. Steps
    follow the natural gradient of the negative bound L: the Fisher information of :math:`N(\mu, \sigma^2)` in
    :math:`(\mu, \log\sigma)` is :math:`(\sigma^{-2}, 2)`, so

    .. math:: \mu \gets \mu - \rho_t\, \sigma^2 \nabla_\mu L, \qquad
        \log\sigma \gets \log\sigma - \tfrac{\rho_t}{2} \nabla_{\log\sigma} L

    with :math:`\rho_t = 0.5 / (1 + t/5)`, by one :math:`\sigma` and half a unit at most. Each looks at two pairs of
    latent draws, in turn from whole sets that are always the same; a row keeps its start where the mean bound over them
    has not risen. So rows are apart, and answers the same in every call. Where the start has a gradient, as in an
    attack on rows, the answer has it, too, through all steps.

    Parameters
    ----------
    vae : VAE
        The model, whose weights stay as they are.
    x : Tensor of shape (n, d)
        Rows; NaN is a missing value.
    start : Posterior
        The encoder's answer.
    n_steps : int
        Number of steps, which cost some 4 passes of the decoder each, forward and back.
    floor : float, default=0.0
        Least scale.

    Returns
    -------
    Posterior
        Of the rows.

    References
    ----------
    Cremer, Li and Duvenaud, "Inference suboptimality in variational autoencoders" (2018); Kim, Wiseman, Miller, Sontag
    and Rush, "Semi-amortized variational autoencoders" (2018); Amari, "Natural gradient works efficiently in learning"
    (1998).
    """
    attacked = torch.is_grad_enabled() and start.mean.requires_grad
    draws = _pairs(start.mean.shape[1]).to(start.mean)
    with torch.inference_mode(False), torch.enable_grad():
        if not attacked:  # a tensor of inference mode has no gradient
            x, start = x.clone(), Posterior(*(part.detach().clone() for part in start))
        mean, log_scale = start.mean, start.scale.log()
        for step in range(n_steps):
            if not attacked:
                mean, log_scale = mean.detach().requires_grad_(), log_scale.detach().requires_grad_()
            some = draws.roll(-step * _AT_ONCE, 0)[:_AT_ONCE]
            loss = _loss(vae, x, mean, log_scale.exp(), some).sum()
            by_mean, by_scale = torch.autograd.grad(loss, (mean, log_scale), create_graph=attacked)
            scale, rate = log_scale.exp(), _RATE / (1.0 + step / _SLOWER)
            moved = (rate * scale.square() * by_mean).nan_to_num(0.0)
            mean = mean - torch.minimum(torch.maximum(moved, -scale), scale)
            log_scale = log_scale - (0.5 * rate * by_scale).nan_to_num(0.0).clamp(-_FARTHEST, _FARTHEST)
            if floor > 0.0:
                log_scale = log_scale.clamp(min=math.log(floor))
        found = Posterior(mean, log_scale.exp())
        with torch.no_grad():
            judges = draws[:MOST_AT_ONCE]
            better = (_loss(vae, x, *found, judges) < _loss(vae, x, *start, judges))[:, None]
        answer = Posterior(*(torch.where(better, new, old) for new, old in zip(found, start, strict=True)))
        return answer if attacked else Posterior(*(part.detach() for part in answer))


def _loss(vae: Any, x: Tensor, mean: Tensor, scale: Tensor, draws: Tensor) -> Tensor:
    """Negative bounds (n,) of rows, the mean over draws."""
    nll = vae.nll_at(x, mean + scale * draws)
    return nll.mean(0) + kl_divergence(mean, scale)


@lru_cache(maxsize=8)
def _pairs(n_components: int) -> Tensor:
    """Whole sets of matched draws (n, 1, n_components), each followed by its opposite."""
    n = 2 * n_components * math.ceil(_FEWEST / (2 * n_components))
    with torch.inference_mode(False):  # whoever asks first, others may want gradients
        return matched_draws(n, n_components, 0).unflatten(0, (2, -1)).transpose(0, 1).flatten(0, 1).clone()
