"""The loss of a batch, by a compiled forward pass and gradient where that is asked for."""

import types
from typing import Any

import torch
from torch import Tensor

from riskvae.training._batch import Batch

__all__ = ["differentiable_loss"]


def differentiable_loss(net: Any, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Loss of a net's batch, what the history tells of it, and the nats that a learned noise is fitted to."""
    if not net.compile_step:
        return net._loss(batch)
    if "_compiled" not in net.__dict__:
        # Torch counts recompilations by code object and gives up after some: each net gets its own.
        given = type(net)._loss
        net._compiled = torch.compile(types.FunctionType(given.__code__.replace(), given.__globals__))
    try:
        return net._compiled(net, batch)
    except torch._dynamo.exc.TorchDynamoException as error:
        raise RuntimeError(
            "compile=True: torch.compile could not build the training step; it needs a C++ compiler and modules "
            f"that it can trace. Set compile=False to train without it. ({error})"
        ) from error
