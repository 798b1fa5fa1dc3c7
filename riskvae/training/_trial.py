"""A model and its objective, tried on the first batch: a mistake in a user's own part is found before training."""

import copy
import warnings
from typing import Any

import torch
from torch import Tensor

from riskvae._validation import is_ours, isolated_rng, level_of_the_user
from riskvae.likelihoods import Bernoulli, Likelihood
from riskvae.losses import kl_divergence
from riskvae.nets import Posterior
from riskvae.training._batch import Batch
from riskvae.training._precision import computed_in
from riskvae.training._vae import Terms

__all__ = ["try_model"]

# From so many features on, it is no chance that all that an untrained decoder gives is between 0 and 1.
_WIDE = 4


def try_model(net: Any, batch: Batch) -> None:
    """Raise a TypeError or ValueError that names what is wrong with the likelihood or the objective.

    In evaluation mode, without an optimizer and apart from all generators, so that a trial changes nothing.
    """
    module, objective = net.module_, net.criterion_
    modes = module.training, objective.training
    module.eval()
    objective.eval()  # thresholds learn nothing here
    try:
        with isolated_rng(0, torch.device(net.device)), computed_in(module, net.precision):
            posterior, z, raw = _try_networks(net, batch)
            nll = _try_likelihood(module, batch.x, raw, new=not len(net.history))
            known = module.known(batch.x)
            _try_objective(objective, Terms(nll, kl_divergence(*posterior), z, posterior, batch, known))
    finally:
        module.train(modes[0])
        objective.train(modes[1])


def _try_networks(net: Any, batch: Batch) -> tuple[Posterior, Tensor, Tensor]:
    module = net.module_
    try:
        posterior = module.encode(batch.x)
        z = posterior.mean + posterior.scale * batch.noise.transpose(0, 1)  # type: ignore[union-attr]
        return posterior, z, module.through(module.decoder, z.flatten(0, 1)).unflatten(0, z.shape[:2])
    except Exception as error:
        if net.precision == "float32":
            raise
        raise ValueError(
            f"precision={net.precision!r}: the encoder or the decoder fails in it on the first rows of X: "
            f"{type(error).__name__}: {error}. Set precision='float32', or let its layers take operands of this type."
        ) from error


def _try_likelihood(module: Any, x: Tensor, raw: Tensor, *, new: bool) -> Tensor:
    likelihood = module.likelihood
    owner = f"likelihood={likelihood!r}"
    n, d = x.shape
    if module.missing(x) is not None and type(likelihood).each is Likelihood.each:
        raise ValueError(
            f"{owner}: X has missing values, but only nll(x, raw) is defined, which is of whole rows. Define each(x, "
            "raw), the nats (..., n, n_features) of single values, or impute X first."
        )
    if new and isinstance(likelihood, Bernoulli) and d >= _WIDE and 0.0 <= raw.min() < raw.max() <= 1.0:
        warnings.warn(
            f"{owner}: the decoder gives numbers from {raw.min():.2g} to {raw.max():.2g}, as after a sigmoid, and they "
            "go through a sigmoid again: no value below 0.5 or above 0.73 could be reconstructed. Let the decoder end "
            "before its sigmoid.",
            UserWarning,
            stacklevel=level_of_the_user(),
        )
    losses = f"a loss for each of {len(raw)} draws of {n} rows"
    hint = f". raw has shape {tuple(raw.shape)}, as values_per_feature={likelihood.values_per_feature}"
    nll = _answer(owner, "nll(x, raw)", lambda: module.nll(x, raw), (len(raw), n), losses, hint)
    if not nll.requires_grad:
        raise ValueError(f"{owner}: nll(x, raw) has no gradient, so nothing can be learned. Do not detach inside.")
    if not is_ours(likelihood) and not nll.isfinite().all():
        raise ValueError(
            f"{owner}: nll(x, raw) is not finite on the first rows of X. Make check(x) refuse rows that are "
            "impossible, make nll accept any raw value, and scale X first (StandardScaler) where its values are far "
            "from 1."
        )
    _answer(owner, "mean(raw)", lambda: likelihood.mean(raw), (len(raw), n, d), "rows of features")
    if type(likelihood).draw is not Likelihood.draw and not is_ours(likelihood):
        apart, generator = copy.deepcopy(likelihood).cpu().double(), torch.Generator().manual_seed(0)
        rows = raw[0].detach().cpu().double()
        _answer(owner, "draw(raw, generator)", lambda: apart.draw(rows, generator), (n, d), "a row for each of raw")
    return nll


def _try_objective(objective: Any, terms: Terms) -> None:
    owner = type(objective).__name__
    remedy = "Reduce the losses of the rows, as by terms.nll.mean(), and do not detach them."
    loss = _answer(owner, "forward(terms)", lambda: objective(terms), (), f"one number. {remedy}")
    if not loss.requires_grad:
        raise ValueError(f"{owner}: forward(terms) has no gradient, so nothing can be learned. {remedy}")
    if not is_ours(objective.written) and terms.nll.isfinite().all() and not loss.isfinite():
        raise ValueError(f"{owner}: forward(terms) gives {loss.item()}, though all losses are finite.")


def _answer(owner: str, method: str, call: Any, shape: tuple[int, ...], meaning: str, hint: str = "") -> Tensor:
    try:
        found = call()
    except Exception as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"{owner}: {method} fails on the first rows of X: {type(error).__name__}: {error}{hint}") from error
    if not isinstance(found, Tensor) or found.shape != shape:
        given = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise ValueError(f"{owner}: {method} must return a tensor of shape {shape}; got {given}. It is {meaning}")
    return found
