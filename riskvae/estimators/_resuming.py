"""What a checkpoint is of: the parameters and data of a fit, to compare and to show."""

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

from riskvae._validation import draw_seed
from riskvae._value import key_of
from riskvae.training import Objective
from riskvae.training._checkpoint import Checkpoint, Part, made_part
from riskvae.training._precision import precision_on
from riskvae.training._rows import Rows
from riskvae.training._stream import Stream

__all__ = ["data_part", "open_checkpoint", "parameter_parts"]

# What a training may change on the way without becoming another one.
_FREE = frozenset(
    {"callbacks", "checkpoint", "compile", "contamination", "device", "distributed", "max_epochs", "n_score_samples",
     "precision", "refine", "verbose", "warm_start", "random_state"}
)  # fmt: skip


def open_checkpoint(estimator: Any, data: Part, objective: Objective, device: torch.device) -> Checkpoint:
    """Checkpoint of a fit to some data on a device, in the file that ``checkpoint`` names, or in the folder."""
    kind = type(estimator)
    name = kind.__name__
    if estimator.warm_start:
        raise ValueError(
            f"{name}: checkpoint={str(estimator.checkpoint)!r} is for fits from the start, but warm_start=True "
            "continues the last one. Set warm_start=False; a checkpoint can be continued, too, with a larger "
            "max_epochs."
        )
    seed = draw_seed(estimator.random_state)
    made_of = {
        "class": made_part((key_of(kind), key_of(type(objective))), name),
        **parameter_parts(estimator, seed),
        "X": data,
    }
    precision = precision_on(estimator.precision, device)[0]
    if precision != "float32":  # files of earlier versions know no other
        made_of["precision"] = made_part(precision, repr(precision))
    given = os.fspath(estimator.checkpoint)
    path = Path(os.path.expanduser(given))
    where = f"{name}: checkpoint={given!r}"
    if path.is_dir():
        if estimator.random_state is None:
            raise ValueError(
                f"{where} is a folder, in which a training is found again by its data and parameters; with "
                "random_state=None, no two trainings are the same. Set random_state."
            )
        made_of["max_epochs"] = made_part(estimator.max_epochs, estimator.max_epochs)  # a grid may search over them
        key = hashlib.sha256(repr(sorted(made_of.items())).encode()).hexdigest()[:16]
        path = path / f"{name}-{key}.pt"
    else:
        folder = given if given.endswith(("/", os.sep)) else str(path.parent)
        if not os.path.isdir(folder):
            raise ValueError(f"{where} needs the folder {folder!r}, which does not exist. Create it first.")
    if not os.access(path.parent, os.W_OK):
        raise ValueError(f"{where} is in a folder that cannot be written to. Name a file elsewhere.")
    kept = Checkpoint(path, made_of, seed)
    if kept.n_epochs and estimator.verbose:
        print(f"{name} goes on after epoch {kept.n_epochs}, from {str(path)!r}.", flush=True)
    return kept


def parameter_parts(estimator: Any, seed: int) -> dict[str, Part]:
    """Parameters that decide what a training comes to."""
    parameters = estimator.get_params(deep=False)
    told = {name: made_part(key_of(value), value) for name, value in parameters.items() if name not in _FREE}
    steering = [_initial(callback) for callback in estimator.callbacks or () if _steers(callback)]
    if steering:
        told["callbacks"] = made_part(key_of(steering), f"[{', '.join(kind for kind, _ in steering)}]")
    state = estimator.random_state
    if isinstance(state, np.random.RandomState):
        told["random_state"] = made_part(seed, f"one that gives {seed}")
    elif state is not None:  # of None the seed in the file goes on
        told["random_state"] = made_part(int(state), state)
    return told


def _steers(entry: Any) -> bool:
    """Whether a callback of skorch's changes a training; those of others are taken to be the same."""
    callback = entry[-1] if isinstance(entry, tuple) else entry
    module = (callback if isinstance(callback, type) else type(callback)).__module__
    return module in ("skorch.callbacks.lr_scheduler", "skorch.callbacks.regularization") or (
        module == "skorch.callbacks.training" and not hasattr(callback, "f_pickle")  # not those that save
    )


def _initial(entry: Any) -> tuple[str, Any]:
    """Class of a callback, and what it was told, without its state."""
    callback = entry[-1] if isinstance(entry, tuple) else entry
    if isinstance(callback, type):
        return callback.__name__, ()
    return type(callback).__name__, {name: value for name, value in vars(callback).items() if not name.endswith("_")}


def data_part(rows: Rows | Stream) -> Part:
    """Rows and their groups; of a Dataset, the first thousand, some hundred of all, and their number."""
    x, group = (rows.data.x, rows.data.group) if isinstance(rows, Rows) else (rows.head(), rows.group)
    digest = hashlib.blake2b()
    some = rows.sample(500, 0) if isinstance(rows, Stream) else None
    for array in (part.numpy(force=True) for part in (x, group, some) if part is not None):
        digest.update(np.ascontiguousarray(array).view(np.uint8).data)
    n = "unknown" if rows.n_rows is None else rows.n_rows
    return made_part((digest.hexdigest(), n, x.shape[1]), f"{n} rows of {x.shape[1]} features")
