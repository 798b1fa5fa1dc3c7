"""A training that goes on after its process was killed: its state in a file, written after each epoch."""

import hashlib
import os
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from riskvae import __version__
from riskvae._value import key_of
from riskvae.training._callbacks import Callback

__all__ = ["Checkpoint", "Part", "made_part", "plain_history"]

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
        now, before, missing = self.made_of, state["made_of"], ("", "None")
        now, before = (_ONCE_UNKNOWN | parts for parts in (now, before))
        names = [*now, *(name for name in before if name not in now)]
        changed = [name for name in names if now.get(name, missing)[0] != before.get(name, missing)[0]]
        if changed:
            told = "; ".join(_change(name, before.get(name, missing)[1], now.get(name, missing)[1]) for name in changed)
            raise ValueError(
                f"checkpoint={str(self.file)!r} belongs to another training: {told}. Name another file, or delete this "
                "one to start anew. For a grid search, make a folder and name that: it holds a file for each training."
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
                f"checkpoint={str(self.file)!r} belongs to other networks: {what} Name another file, or delete this "
                "one to start anew."
            ) from error
        for name, parameter in net.module_.named_parameters():  # a callback may have frozen some
            parameter.requires_grad_(self.state["trainable"][name])
        net.history_[:] = map(_as_it_was, self.state["history"])
        net.stop_requested = self.state["stopped"]
        waiting = list(self.state["callbacks"])
        for callback in self.others:
            found = next((told for told in waiting if told[0] == type(callback).__name__), None)
            if found is not None:
                waiting.remove(found)
                _restore(callback, found[1])
        self.state = None  # may be large

    def on_epoch_end(self, net: Any, **kwargs: Any) -> None:
        if net.world is not None and net.world.rank > 0:  # all of them are at the same place
            return
        state = {
            "format": FORMAT,
            "riskvae": __version__,
            "made_of": self.made_of,
            "seed": net.seed,
            "module": dict(net.module_.state_dict()),
            "criterion": dict(net.criterion_.state_dict()),
            "optimizer": _plain(net.optimizer_.state_dict()),
            "trainable": {name: p.requires_grad for name, p in net.module_.named_parameters()},
            "history": plain_history(net.history),
            "stopped": net.stop_requested,
            "callbacks": [(type(callback).__name__, _state(callback)) for callback in self.others],
        }
        part = self.file.with_name(f".{self.file.name}.{os.getpid()}.part")
        try:
            torch.save(state, part)
            os.replace(part, self.file)
        finally:
            part.unlink(missing_ok=True)


def made_part(key: Any, shown: Any) -> Part:
    """Digest of a value that is told by a key, and a text of it."""
    text = shown if isinstance(shown, str) else repr(shown)
    text = text if " at 0x" not in text and len(text) < 200 else getattr(shown, "__qualname__", type(shown).__name__)
    return hashlib.sha256(repr(key).encode()).hexdigest(), text


# Of what files of earlier versions say nothing, what they are of.
_ONCE_UNKNOWN = {"precision": made_part("float32", "'float32'"), "lipschitz_penalty": made_part(key_of(0.0), "0.0")}


def _change(name: str, before: str, now: str) -> str:
    return f"{name} is {now} here, and was {before}" if now != before else f"{name} is {now} here, of other contents"


def _plain(value: Any) -> Any:
    """A value made of tensors, numbers and texts alone; a TypeError where there is more to it."""
    if isinstance(value, np.generic):
        return _plain(value.item())
    if value is None or isinstance(value, Tensor):
        return value
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value)  # subclasses lose what they add
    if isinstance(value, np.ndarray):
        return {_KIND: "array", "of": torch.from_numpy(np.array(value))}
    if isinstance(value, set | frozenset | deque):
        return {_KIND: "deque" if isinstance(value, deque) else "set", "of": [_plain(part) for part in value],
                "maxlen": getattr(value, "maxlen", None)}  # fmt: skip
    if isinstance(value, Mapping):
        return {_plain(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        parts = [_plain(part) for part in value]
        return tuple(parts) if isinstance(value, tuple) else parts
    raise TypeError(f"no plain value: {type(value).__name__}")


_KIND = "<kind>"


def _as_it_was(value: Any) -> Any:
    """What :func:`_plain` was given."""
    if isinstance(value, dict):
        kind = value.get(_KIND)
        if kind == "array":
            return value["of"].numpy()
        if kind is not None:
            parts = map(_as_it_was, value["of"])
            return deque(parts, value["maxlen"]) if kind == "deque" else set(parts)
        return {key: _as_it_was(part) for key, part in value.items()}
    return type(value)(map(_as_it_was, value)) if isinstance(value, list | tuple) else value


def plain_history(rows: Any) -> list[dict[str, Any]]:
    """Rows of a history, without what a callback recorded that is no plain value."""
    kept: list[dict[str, Any]] = []
    for row in rows:
        kept.append({})
        for name, value in row.items():
            with suppress(TypeError):
                kept[-1][name] = _plain(value)
    return kept


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
            load(_as_it_was(value))
        else:
            setattr(callback, name, _as_it_was(value))
