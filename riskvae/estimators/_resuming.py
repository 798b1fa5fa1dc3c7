"""What a checkpoint is of: the parameters and data of a fit, as texts to compare."""

import hashlib
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from torch import Tensor

from riskvae._validation import draw_seed
from riskvae.training._checkpoint import Checkpoint
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
    if estimator.warm_start:
        raise ValueError(
            f"{type(estimator).__name__}: checkpoint={str(estimator.checkpoint)!r} is for fits from the start, and "
            "warm_start=True goes on from the last one. Set warm_start=False; with a larger max_epochs a checkpoint "
            "goes on, too."
        )
    seed = draw_seed(estimator.random_state)
    made_of = {"class": type(estimator).__name__, **_parameters(estimator, seed), "X": _digest(rows)}
    path = Path(os.path.expanduser(estimator.checkpoint))
    if path.is_dir():
        key = hashlib.sha256(repr(sorted(made_of.items())).encode()).hexdigest()[:16]
        path = path / f"{made_of['class']}-{key}.pt"
    elif not path.parent.is_dir():
        raise ValueError(
            f"{type(estimator).__name__}: checkpoint={str(estimator.checkpoint)!r} is in the folder "
            f"{str(path.parent)!r}, which does not exist. Create it first."
        )
    if not os.access(path.parent, os.W_OK):
        raise ValueError(
            f"{type(estimator).__name__}: checkpoint={str(estimator.checkpoint)!r} is in a folder that cannot be "
            "written to. Name a file elsewhere."
        )
    checkpoint = Checkpoint(path, made_of, seed)
    n_epochs = estimator._n_epochs(rows.n_rows)
    if checkpoint.n_epochs > n_epochs:
        raise ValueError(
            f"{type(estimator).__name__}: checkpoint={str(path)!r} has {checkpoint.n_epochs} epochs already, more than "
            f"max_epochs={n_epochs}. Raise max_epochs, or delete the file to start anew."
        )
    return checkpoint


def _parameters(estimator: Any, seed: int) -> dict[str, str]:
    parameters = estimator.get_params(deep=False)
    told = {name: _text(value) for name, value in parameters.items() if name not in _FREE}
    state = estimator.random_state
    if isinstance(state, np.random.RandomState):
        told["random_state"] = f"one that gives {seed}"
    elif state is not None:  # of None the seed in the file goes on
        told["random_state"] = str(state)
    return told


def _text(value: Any) -> str:
    """A text that is the same in every process."""
    if isinstance(value, BaseEstimator):  # measures and likelihoods
        parts = ", ".join(f"{name}={_text(part)}" for name, part in value.get_params(deep=False).items())
        return f"{type(value).__name__}({parts})"
    if isinstance(value, partial):
        return f"partial({_text(value.func)}, {_text(value.args)}, {_text(value.keywords)})"
    if isinstance(value, np.ndarray | Tensor):
        array = np.asarray(value.detach().cpu() if isinstance(value, Tensor) else value)
        return repr(tuple(array.tolist())) if array.ndim == 1 and array.size < 100 else _hash(array)
    if isinstance(value, Mapping):
        return repr({str(key): _text(part) for key, part in value.items()})
    if isinstance(value, list | tuple):
        return "(" + ", ".join(map(_text, value)) + ")"
    if isinstance(value, bool | int | float | str | np.generic) or value is None:
        return repr(value.item() if isinstance(value, np.generic) else value)
    return getattr(value, "__qualname__", type(value).__qualname__)


def _hash(*arrays: Any) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for array in arrays:
        digest.update(repr((array.shape, str(array.dtype))).encode())
        digest.update(np.ascontiguousarray(array).view(np.uint8).data)
    return digest.hexdigest()


def _digest(rows: Rows | Stream) -> str:
    """Rows and their groups; of a Dataset, the first thousand and their number."""
    x, group = (rows.data.x, rows.data.group) if isinstance(rows, Rows) else (rows.head(), rows.group)
    key = _hash(*(part.numpy(force=True) for part in (x, group) if part is not None))
    n = "unknown" if rows.n_rows is None else rows.n_rows
    return f"{n} rows of {x.shape[1]} features with the digest {key}"
