"""The net of a training: a new one, or one that goes on."""

from contextlib import nullcontext
from functools import partial
from typing import Any

import torch

from riskvae import nets
from riskvae._validation import derive_seed, draw_seed, isolated_rng
from riskvae.training._loop import exchange_objective, make_net
from riskvae.training._net import Net
from riskvae.training._precision import precision_on
from riskvae.training._vae import build_vae

__all__ = ["begin", "go_on_with"]


def begin(estimator: Any, device: torch.device, seed: int | None = None) -> tuple[Net, int]:
    """Net with new weights, and the seed that decides all that is random about it."""
    seed = draw_seed(estimator.random_state) if seed is None else seed
    start = derive_seed(seed, "weights")
    generator = torch.Generator().manual_seed(start)
    encoder, decoder = estimator._default_networks(
        partial(nets.mlp, activation=estimator.activation, generator=generator, dtype=torch.float32)
    )
    likelihood = estimator._make_likelihood()
    likelihood.names = getattr(estimator, "feature_names_in_", None)
    isolated = isolated_rng(derive_seed(seed, "modules"), torch.device("cpu"))
    # On the CPU, whatever the device: the same initial weights everywhere.
    with isolated if estimator._has_foreign_parts() else nullcontext():
        module = build_vae(
            estimator.n_features_in_,
            estimator._n_latent(estimator.n_features_in_),
            encoder=estimator.encoder or encoder,
            decoder=estimator.decoder or decoder,
            likelihood=likelihood,
            scale_offset=estimator.scale_offset,
            told=_how_told(estimator),
        )
    with isolated_rng(derive_seed(seed, "objective"), torch.device("cpu")):  # it may have modules, too
        objective = estimator._checked_objective()
    net = make_net(
        module,
        objective,
        lr=estimator.lr,
        weight_decay=estimator.weight_decay,
        device=device,
        batch_size=estimator.batch_size,
        seed=seed,
        n_draws=estimator._n_draws(),
        compile_step=estimator.compile,
        precision=precision_on(estimator.precision, device)[0],
        lipschitz_penalty=estimator.lipschitz_penalty,
        refine=estimator.refine,
    )
    return net, seed


def _how_told(estimator: Any) -> str | None:
    """How the encoder is told of missing values, where there are some; a user's has as many inputs as features."""
    if not estimator._has_missing:
        return None
    return "values" if estimator.encoder is not None else "places"


def go_on_with(estimator: Any, device: torch.device) -> tuple[Net, int]:
    """The fitted net, with what may change between two trainings: loss, optimizer's settings, device."""
    net = estimator.net_
    exchange_objective(net, estimator._checked_objective())
    net.set_params(lr=estimator.lr, optimizer__weight_decay=estimator.weight_decay, batch_size=estimator.batch_size)
    net.n_draws, net.compile_step = estimator._n_draws(), estimator.compile
    net.lipschitz_penalty, net.refine = estimator.lipschitz_penalty, estimator.refine
    net.precision = precision_on(estimator.precision, device)[0]
    net.move_to(device)
    return net, estimator._seed
