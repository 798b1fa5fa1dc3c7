"""What a checkpoint is of: the parameters and data of a fit, to compare and to show."""

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np

from riskvae._validation import draw_seed
from riskvae._value import key_of
from riskvae.training._checkpoint import Checkpoint, Part
from riskvae.training._rows import Rows
from riskvae.training._stream import Stream

__all__ = ["open_checkpoint"]

# What a training may change on the way without becoming another one.
_FREE = frozenset(
    {"callbacks", "checkpoint", "compile", "contamination", "device", "max_epochs", "n_score_samples", "verbose",
     "warm_start", "random_state"}
)  # fmt: skip


def open_checkpoint(estimator: Any, rows: Rows | Stream) -> Checkpoint:
    """Checkpoint of a fit to some rows, in the file that ``checkpoint`` names, or in the folder."""
    name = type(estimator).__name__
    if estimator.warm_start:
        raise ValueError(
            f"{name}: checkpoint={str(estimator.checkpoint)!r} is for fits from the start, and "
            "warm_start=True goes on from the last one. Set warm_start=False; with a larger max_epochs a checkpoint "
            "goes on, too."
        )
    seed = draw_seed(estimator.random_state)
    made_of = {"class": _part(name, name), **_parameters(estimator, seed), "X": _data(rows)}
    path = Path(os.path.expanduser(estimator.checkpoint))
    if path.is_dir():
        key = hashlib.sha256(repr(sorted(made_of.items())).encode()).hexdigest()[:16]
        path = path / f"{name}-{key}.pt"
    elif not path.parent.is_dir():
        raise ValueError(
            f"{name}: checkpoint={str(estimator.checkpoint)!r} is in the folder "
            f"{str(path.parent)!r}, which does not exist. Create it first."
        )
    if not os.access(path.parent, os.W_OK):
        raise ValueError(
            f"{name}: checkpoint={str(estimator.checkpoint)!r} is in a folder that cannot be "
            "written to. Name a file elsewhere."
        )
    return Checkpoint(path, made_of, seed)


def _parameters(estimator: Any, seed: int) -> dict[str, Part]:
    parameters = estimator.get_params(deep=False)
    told = {name: _part(key_of(value), value) for name, value in parameters.items() if name not in _FREE}
    state = estimator.random_state
    if isinstance(state, np.random.RandomState):
        told["random_state"] = _part(seed, f"one that gives {seed}")
    elif state is not None:  # of None the seed in the file goes on
        told["random_state"] = _part(int(state), state)
    return told


def _part(key: Any, shown: Any) -> Part:
    text = shown if isinstance(shown, str) else repr(shown)
    text = text if " at 0x" not in text and len(text) < 200 else getattr(shown, "__qualname__", type(shown).__name__)
    return hashlib.sha256(repr(key).encode()).hexdigest(), text


def _data(rows: Rows | Stream) -> Part:
    """Rows and their groups; of a Dataset, the first thousand and their number."""
    x, group = (rows.data.x, rows.data.group) if isinstance(rows, Rows) else (rows.head(), rows.group)
    digest = hashlib.blake2b()
    for array in (part.numpy(force=True) for part in (x, group) if part is not None):
        digest.update(np.ascontiguousarray(array).view(np.uint8).data)
    n = "unknown" if rows.n_rows is None else rows.n_rows
    return _part((digest.hexdigest(), n, x.shape[1]), f"{n} rows of {x.shape[1]} features")
