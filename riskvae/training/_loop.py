"""From a module to a trained one: a net is made, trained for some epochs, and put back where that fails."""

import copy
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import torch
from skorch.utils import noop
from torch import nn

from riskvae._machine import in_one_thread
from riskvae.likelihoods._scaled import FeatureScales
from riskvae.nets._linear import Linear
from riskvae.training._callbacks import Progress
from riskvae.training._checkpoint import Checkpoint
from riskvae.training._net import Net
from riskvae.training._objective import Objective
from riskvae.training._rows import Rows
from riskvae.training._shared_loss import same_weights
from riskvae.training._stopping import StopTraining
from riskvae.training._stream import Stream
from riskvae.training._vitals import Vitals

__all__ = ["exchange_objective", "is_small", "make_net", "restored_on_failure", "train"]


def make_net(
    module: nn.Module,
    criterion: nn.Module,
    *,
    lr: float,
    weight_decay: float,
    device: torch.device,
    **kwargs: Any,
) -> Net:
    """Initialized net with a fused AdamW (which is Adam where ``weight_decay`` is 0)."""
    net = Net(
        module,
        criterion=criterion,
        optimizer=torch.optim.AdamW,
        optimizer__weight_decay=weight_decay,
        optimizer__fused=device.type in ("cpu", "cuda"),
        lr=lr,
        device=str(device),
        train_split=None,
        verbose=0,
        **kwargs,
    )
    return net.initialize()


def train(
    net: Net,
    rows: Rows | Stream,
    valid: Rows | None,
    *,
    epochs: int,
    callbacks: list[Any],
    verbose: bool = False,
    checkpoint: Checkpoint | None = None,
) -> None:
    """Train for some more epochs, those in a checkpoint among them, and leave the modules in evaluation mode."""
    done = 0 if checkpoint is None else checkpoint.n_epochs
    bar = Progress(epochs - done, len(rows) if isinstance(rows, Rows) else None)
    net.world, first = rows.world, rows.world is None or rows.world.rank == 0
    # The checkpoint comes last: it keeps what the others know after an epoch.
    net.callbacks = [
        Vitals(rows),
        *callbacks,
        *([bar] if verbose and first else []),
        *([] if checkpoint is None else [checkpoint]),
    ]
    net.stop_requested, net.best_epoch, net.module_.refine = False, None, 0
    with ExitStack() as stack:
        stack.callback(_let_go, net, bar)
        stack.enter_context(in_one_thread(is_small(net)))
        # Whatever the caller's modes, gradients are needed here.
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        if net.world is not None:
            same_weights(net)
        net.initialize_callbacks()
        with suppress(StopTraining):
            net.notify("on_train_begin", X=rows, y=None)
            _check_schedules(net)
            if checkpoint is not None:
                checkpoint.restore(net)
            if not net.stop_requested:
                net.fit_loop((rows, valid), epochs=epochs - done)
        net.notify("on_train_end", X=rows, y=None)
        net.best_epoch = net.best_epoch or _restored_epoch(net)
        if net.world is not None:  # callbacks may have changed them, or failed in one process
            same_weights(net)
        net._set_training(False)
        net.module_.refine = net.refine


def _restored_epoch(net: Net) -> int | None:
    """Epoch that a callback of skorch went back to: EarlyStopping by its attribute, Checkpoint by its mark."""
    for _, callback in net.callbacks_:
        if getattr(callback, "load_best", False):
            mark = getattr(callback, "event_name", None)
            marked = [row["epoch"] for row in net.history if row.get(mark)]
            best = getattr(callback, "best_epoch_", marked[-1] if marked else None)
            if best:
                return int(best)
    return None


# Multiplications of the largest product of a training step from which on a second thread pays.
_LARGE = 2**24


def is_small(net: Net) -> bool:
    """Whether a second thread would gain nothing, or a fifth at best, and waste much where other processes compute.

    Threads wait for each other at the end of each product, and spin meanwhile; if one of them has lost its core to
    another process, the rest spins until it has it back.
    """
    layers = [part for part in net.module_.modules() if any(True for _ in part.parameters(recurse=False))]
    known = all(type(part) in (Linear, nn.Linear, nn.LayerNorm, FeatureScales) for part in layers)
    widest = max((part.weight.numel() for part in layers if isinstance(part, nn.Linear)), default=0)
    return known and net.batch_size * net.n_draws * widest < _LARGE


def _let_go(net: Net, bar: "Progress") -> None:
    bar.close()
    if net.recorder is not None:  # its memory holds the gradients
        net.optimizer_.zero_grad(set_to_none=True)
    net.progress, net.callbacks, net.callbacks_, net.world, net.chances = noop, None, [], None, {}
    net.sparing = net.spare = net.structure = net.recorder = None


def exchange_objective(net: Net, objective: Objective) -> None:
    """Let a trained net go on with another objective, which takes over the state of the present one if it can.

    The optimizer goes on with the new one's parameters, and with what it knows of those that were there before.
    """
    old, states = dict(net.criterion_.named_parameters()), net.optimizer_.state
    continues = objective.continues(net.criterion_)
    if continues:
        objective.load_state_dict(net.criterion_.state_dict())
    group = net.optimizer_.param_groups[0]
    gone = {id(parameter) for parameter in old.values()}
    group["params"] = [parameter for parameter in group["params"] if id(parameter) not in gone]
    for name, parameter in objective.named_parameters():
        group["params"].append(parameter)
        if continues and old[name] in states:
            states[parameter] = states[old[name]]
    for parameter in old.values():
        states.pop(parameter, None)
    net.criterion_ = objective


@contextmanager
def restored_on_failure(net: Net) -> Iterator[None]:
    """Undo what a block of code did to a trained net if it fails or is interrupted."""
    attributes, refine = dict(net.__dict__), net.module_.refine
    groups = [list(group["params"]) for group in net.optimizer_.param_groups]
    parts = (net.module_, net.criterion_, net.optimizer_)
    before = [copy.deepcopy(part.state_dict()) for part in parts]
    n_epochs = len(net.history)
    try:
        yield
    except BaseException:
        net.__dict__.update(attributes)
        net.module_.refine = refine
        for group, parameters in zip(net.optimizer_.param_groups, groups, strict=True):
            group["params"] = parameters
        kept = {id(parameter) for parameters in groups for parameter in parameters}
        for parameter in [parameter for parameter in net.optimizer_.state if id(parameter) not in kept]:
            del net.optimizer_.state[parameter]
        net.move_to(torch.device(net.device))
        for part, state in zip(parts, before, strict=True):
            part.load_state_dict(state)
        del net.history[n_epochs:]
        net._set_training(False)
        raise


def _check_schedules(net: Net) -> None:
    """Raise where a callback schedules an optimizer that another callback has replaced."""
    for _, callback in net.callbacks_:
        scheduled = getattr(getattr(callback, "lr_scheduler_", None), "optimizer", None)
        if scheduled is not None and scheduled is not net.optimizer_:
            raise ValueError(
                f"callbacks: {type(callback).__name__} schedules a {type(scheduled).__name__} that does not train, as "
                "another callback puts an optimizer in its place. Let that callback come before this one."
            )
