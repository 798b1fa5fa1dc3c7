"""How a training ends before its last epoch."""

import dis

import torch
from torch import nn

__all__ = ["StopTraining", "all_finite", "divergence", "raised_by_statement"]


class StopTraining(Exception):
    """A callback asked for the end of the training."""


def raised_by_statement(error: BaseException) -> bool:
    """Whether a ``raise`` made an error, and not a signal."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and trace.tb_frame.f_code.co_code[trace.tb_lasti] == dis.opmap["RAISE_VARARGS"]


def all_finite(module: nn.Module) -> bool:
    """Whether all weights are numbers; a device is asked once."""
    sums = tuple(weights.detach().sum() for weights in module.parameters())
    return not sums or bool(torch.stack(sums).isfinite().all())


def divergence(what: str, epoch: int, batch: int, lr: float) -> ValueError:
    """The error of a training that diverged."""
    return ValueError(
        f"Training diverged: {what} in epoch {epoch}, batch {batch}. Usual causes are a learning rate too high for the "
        f"data (lr={lr:g}) and features on very different scales. Lower lr, or scale X first (StandardScaler, or "
        "MinMaxScaler for images)."
    )
