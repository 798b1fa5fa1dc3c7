"""What skorch's callbacks watch, checked before training: most of them would fail after an epoch, or say nothing."""

import difflib
from typing import Any

import torch
from skorch.callbacks import EpochScoring, LRScheduler, lr_scheduler

__all__ = ["check_monitors"]


def check_monitors(owner: str, callbacks: list[Any], *, held_out: bool, partial: bool = False) -> None:
    """Raise where a skorch callback watches what nobody records, or needs held-out rows or labels that are missing."""
    remedy = "partial_fit trains on all rows it gets: call fit with early_stopping=True"
    remedy = remedy if partial else "Set early_stopping=True"
    made = [_made(entry) for entry in callbacks]
    recorded = {*_RECORDED, *_ALWAYS} | {name.replace("train", "valid") for name in _RECORDED if held_out}
    for callback in made:
        if "Scoring" in type(callback).__name__:
            recorded |= {f"{_scored(callback)}", f"{_scored(callback)}_best"}
    known = all(type(callback).__module__.startswith(("skorch.", "riskvae.")) for callback in made)
    for callback in made:
        name = f"{owner}: callbacks: {type(callback).__name__}"
        monitor = getattr(callback, "monitor", None)
        _check_policy(name, callback)
        if isinstance(callback, EpochScoring):
            if not callable(callback.scoring):
                raise ValueError(
                    f"{name}(scoring={callback.scoring!r}) compares predictions with y, but there is no y. Pass a "
                    "function (net, X, y) -> float, in which net.module_ is the model and X[:] are the rows."
                )
            if not callback.on_train and not held_out:
                raise ValueError(
                    f"{name}: {_scored(callback)!r} is computed on held-out rows, and there are none. "
                    f"{remedy}, or set on_train=True."
                )
        elif monitor in _OF_HELD_OUT and monitor not in recorded:
            raise ValueError(
                f"{name} watches {monitor!r}, which is recorded where rows are held out. {remedy}, or "
                f"let it watch the training, as by {type(callback).__name__}("
                f"monitor={monitor.replace('valid', 'train')!r})."
            )
        elif isinstance(monitor, str) and known and monitor not in recorded:
            near = difflib.get_close_matches(monitor, recorded, n=1)
            guess = f" Did you mean {near[0]!r}?" if near else ""
            raise ValueError(
                f"{name} watches {monitor!r}, which is not recorded; recorded are {', '.join(sorted(recorded))}.{guess}"
            )


def _check_policy(name: str, callback: Any) -> None:
    """Raise for a schedule that skorch does not know by its name."""
    policy = getattr(callback, "policy", None)
    if not isinstance(callback, LRScheduler) or not isinstance(policy, str) or hasattr(lr_scheduler, policy):
        return
    remedy = f"Pass its class: LRScheduler(torch.optim.lr_scheduler.{policy}, ...)."
    if not hasattr(torch.optim.lr_scheduler, policy):
        near = [*difflib.get_close_matches(policy, dir(torch.optim.lr_scheduler), n=1, cutoff=0.5), "StepLR"]
        remedy = f"Pass the class of a schedule of torch, such as torch.optim.lr_scheduler.{near[0]}."
    raise ValueError(f"{name}: policy={policy!r} is not one of the schedules that skorch knows by name. {remedy}")


# What the history has of each epoch that skorch's callbacks could watch.
_RECORDED = ("train_loss", "train_loss_best", "train_reconstruction", "train_kl", "train_batch_count")
_ALWAYS = ("epoch", "dur", "beta", "eps")
_OF_HELD_OUT = [name.replace("train", "valid") for name in _RECORDED]


def _made(entry: Any) -> Any:
    callback = entry[-1] if isinstance(entry, tuple) else entry
    try:
        return callback() if isinstance(callback, type) else callback
    except TypeError:  # it needs to be told something, as skorch will say
        return None


def _scored(callback: Any) -> str:
    scoring = getattr(callback, "scoring", None)
    return str(getattr(callback, "name", None) or getattr(scoring, "__name__", scoring))
