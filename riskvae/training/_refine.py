"""Posteriors that fit each row by itself: some gradient steps on its own bound, from the encoder's answer."""

from typing import Any

import torch
from torch import Tensor

from riskvae.losses import kl_divergence
from riskvae.nets import Posterior

__all__ = ["refined"]

_STEP = 0.05


def refined(vae: Any, x: Tensor, draws: Tensor, n_steps: int) -> Posterior:
    """Posteriors of rows (n, d) after steps of Adam on each row's own evidence bound at ``draws`` (n_draws, 1, k).

    An encoder gives all rows answers by one function; a row that is unlike the others, or has missing values, deserves
    a better one. Rows are apart, and their networks stay as they are.
    """
    with torch.inference_mode(False), torch.enable_grad():
        x = x.clone()  # a tensor of inference mode has no gradient
        start = vae.encode(x)
        mean, log_scale = (part.detach().clone().requires_grad_() for part in (start.mean, start.scale.log()))
        steps = torch.optim.Adam((mean, log_scale), lr=_STEP)
        draws = draws.to(x)
        for _ in range(n_steps):
            scale = log_scale.exp()
            z = mean + scale * draws
            raw = vae.decoder(z.flatten(0, 1)).unflatten(0, z.shape[:2])
            loss = (vae.nll(x, raw).mean(0) + kl_divergence(mean, scale)).sum()
            mean.grad, log_scale.grad = torch.autograd.grad(loss, (mean, log_scale))
            steps.step()
        return Posterior(mean.detach(), log_scale.detach().exp())
