"""A model and its objective, tried on two rows, so that a mistake in a user's own part is found before training."""

from typing import Any

import torch
from torch import Tensor, nn

from riskvae._validation import isolated_rng
from riskvae.likelihoods import Likelihood
from riskvae.losses import kl_divergence
from riskvae.training._batch import Batch
from riskvae.training._vae import Terms

__all__ = ["try_model"]


def try_model(module: Any, objective: nn.Module, batch: Batch) -> None:
    """Raise a TypeError or ValueError that names what is wrong with the likelihood or the objective."""
    modes = module.training, objective.training
    module.eval()
    objective.eval()  # thresholds learn nothing here
    try:
        posterior = module.encode(batch.x)
        z = posterior.mean.expand(2, *posterior.mean.shape)
        raw = module.decoder(z.flatten(0, 1)).unflatten(0, z.shape[:2])
        nll = _try_likelihood(module.likelihood, batch.x, raw)
        _check_loss(type(objective).__name__, objective(Terms(nll, kl_divergence(*posterior), z, posterior, batch)))
    finally:
        module.train(modes[0])
        objective.train(modes[1])


def _try_likelihood(likelihood: Likelihood, x: Tensor, raw: Tensor) -> Tensor:
    owner = f"likelihood={likelihood!r}"
    n, d = x.shape
    losses = f"a loss for each of 2 draws of {n} rows"
    nll = _answer(owner, "nll(x, raw)", lambda: likelihood.nll(x, raw), (2, n), losses)
    if not nll.requires_grad:
        raise ValueError(f"{owner}: nll(x, raw) has no gradient, so nothing can be learned. Do not detach inside.")
    if not nll.isfinite().all():
        raise ValueError(
            f"{owner}: nll(x, raw) is not finite for the first rows of X under an untrained decoder. Let check(x) "
            "refuse rows that are impossible, and nll bear any raw value."
        )
    _answer(owner, "mean(raw)", lambda: likelihood.mean(raw), (2, n, d), "rows of features")
    return nll


def _answer(owner: str, method: str, call: Any, shape: tuple[int, ...], meaning: str) -> Tensor:
    try:
        with isolated_rng(0, torch.device("cpu")):
            found = call()
    except Exception as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"{owner}: {method} fails on the first rows of X: {type(error).__name__}: {error}") from error
    if not isinstance(found, Tensor) or found.shape != shape:
        given = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise ValueError(f"{owner}: {method} must return a tensor of shape {shape}, {meaning}; got {given}.")
    return found


def _check_loss(owner: str, loss: Any) -> None:
    if not isinstance(loss, Tensor) or loss.dim() > 0 or not loss.requires_grad:
        given = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) and loss.dim() else type(loss).__name__
        given = "one that was detached" if isinstance(loss, Tensor) and not loss.dim() else given
        raise ValueError(
            f"{owner}: forward(terms) must return one differentiable number, a tensor of shape (); got {given}. "
            "Reduce the losses of the rows, as by terms.nll.mean(), and do not detach them."
        )
