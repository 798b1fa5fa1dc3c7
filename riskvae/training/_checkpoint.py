"""A training that goes on after its process was killed: its state in a file, written after each epoch."""

import os
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from riskvae.training._callbacks import Callback

__all__ = ["Checkpoint", "Part"]

# A digest to compare, and a text to show.
Part = tuple[str, str]

FORMAT = 1


class Checkpoint(Callback):
    """Keep the state of a training in a file, and go on from it.

    The file holds weights, optimizer, history and the state of callbacks as tensors and plain values; nothing in it is
    executed when it is read. It is replaced in one step, so it is always whole.

    Parameters
    ----------
    file : Path
        Read at once, if it is there.
    made_of : dict of str to Part
        What the training is made of: class, parameters, data. A file that was made of something else is refused.
    seed : int
        Of a training that begins here.

    Attributes
    ----------
    seed : int
        Of the training in the file, if there is one.

    Raises
    ------
    ValueError
        For a file that is none of ours, is damaged, is of a newer format, or is of another training.
    """

    def __init__(self, file: Path, made_of: Mapping[str, Part], seed: int) -> None:
        self.file = file
        self.made_of = dict(made_of)
        self.state: dict[str, Any] | None = self._read() if file.exists() else None
        self.seed: int = seed if self.state is None else self.state["seed"]
        self.others: list[Callback] = []

    @property
    def n_epochs(self) -> int:
        """Epochs in the file."""
        return 0 if self.state is None else len(self.state["history"])

    def _read(self) -> dict[str, Any]:
        try:
            state = torch.load(self.file, map_location="cpu", weights_only=True)
            number = state["format"]
        except Exception as error:
            raise ValueError(
                f"checkpoint={str(self.file)!r} is not a checkpoint of riskvae, or is damaged "
                f"({type(error).__name__}). Name another file, or delete this one to start anew."
            ) from error
        if number > FORMAT:
            raise ValueError(
                f"checkpoint={str(self.file)!r} has format {number}, written by riskvae {state['riskvae']}; this "
                f"version reads up to format {FORMAT}. Upgrade riskvae, or name another file."
            )
        for name, (key, shown) in self.made_of.items():
            before, shown_before = state["made_of"].get(name, ("", "not there"))
            if before != key:
                was = f"was {shown_before}" if shown != shown_before else "was of other contents"
                raise ValueError(
                    f"checkpoint={str(self.file)!r} is of another training: {name} is {shown} here, and {was}. "
                    "Name another file, or a folder, in which each training has a file of its own; or delete this one "
                    "to start anew."
                )
        return state

    def restore(self, net: Any) -> None:
        """Put the state of the file into a net whose callbacks have begun."""
        self.others = [callback for _, callback in net.callbacks_ if callback is not self]
        if self.state is None:
            return
        try:
            net.module_.load_state_dict(self.state["module"])
            net.criterion_.load_state_dict(self.state["criterion"])
            net.optimizer_.load_state_dict(self.state["optimizer"])
        except (RuntimeError, ValueError, KeyError) as error:
            what = " ".join(str(error).split())
            raise ValueError(
                f"checkpoint={str(self.file)!r} is of other networks: {what} Name another file, or delete this one to "
                "start anew."
            ) from error
        net.history_[:] = self.state["history"]
        net.stop_requested = self.state["stopped"]
        waiting = list(self.state["callbacks"])
        for callback in self.others:
            found = next((told for told in waiting if told[0] == type(callback).__name__), None)
            if found is not None:
                waiting.remove(found)
                _restore(callback, found[1])
        self.state = None  # may be large

    def on_epoch_end(self, net: Any, **kwargs: Any) -> None:
        state = {
            "format": FORMAT,
            "riskvae": version("riskvae"),
            "made_of": self.made_of,
            "seed": net.seed,
            "module": net.module_.state_dict(),
            "criterion": net.criterion_.state_dict(),
            "optimizer": net.optimizer_.state_dict(),
            "history": _plain(list(net.history)),
            "stopped": net.stop_requested,
            "callbacks": [(type(callback).__name__, _state(callback)) for callback in self.others],
        }
        part = self.file.with_name(f".{self.file.name}.{os.getpid()}.part")
        try:
            torch.save(state, part)
            os.replace(part, self.file)
        finally:
            part.unlink(missing_ok=True)


def _plain(value: Any) -> Any:
    """A value made of tensors, numbers and texts alone; a TypeError where there is more to it."""
    if value is None or isinstance(value, bool | int | float | str | Tensor):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_plain, value)) if type(value) in (list, tuple) else [_plain(part) for part in value]
    raise TypeError(f"no plain value: {type(value).__name__}")


def _state(callback: Callback) -> dict[str, Any]:
    """What a callback knows: attributes that end in "_", as skorch's do, where they are plain or tell their state."""
    state = {}
    for name, value in vars(callback).items():
        if name.endswith("_") and not name.startswith("_"):
            with suppress(TypeError):
                state[name] = _plain(value.state_dict()) if hasattr(value, "state_dict") else _plain(value)
    return state


def _restore(callback: Callback, state: Mapping[str, Any]) -> None:
    for name, value in state.items():
        load = getattr(getattr(callback, name, None), "load_state_dict", None)
        if load is not None:
            load(value)
        else:
            setattr(callback, name, value)
