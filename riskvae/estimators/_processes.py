"""What must be alike in the processes that train one model together, checked before they begin."""

import os
from typing import Any

import torch
from torch import Tensor

from riskvae import __version__
from riskvae._validation import draw_seed
from riskvae._value import key_of
from riskvae.estimators._resuming import data_part, open_checkpoint, parameter_parts
from riskvae.training._checkpoint import Checkpoint, Part, made_part
from riskvae.training._rows import Rows
from riskvae.training._shards import sharded
from riskvae.training._stream import Stream
from riskvae.training._world import World

__all__ = ["agreed_start", "own_device", "shared"]

# What processes may differ in; where nobody sets a seed, it is that of the first.
_OWN = frozenset({"callbacks", "checkpoint", "device", "random_state", "verbose"})


def own_device(device: Any, world: World | None) -> Any:
    """The device of this process: where several processes of a machine each take "the GPU", one GPU for each."""
    if world is None or str(device) not in ("auto", "cuda") or not torch.cuda.is_available():
        return device
    return f"cuda:{int(os.environ.get('LOCAL_RANK', world.rank)) % torch.cuda.device_count()}"


def shared(estimator: Any, rows: Rows | Stream, world: World | None, *, go_on: bool, call: str) -> Rows | Stream:
    """Rows of this process as its part of all; raises where processes do not agree on what is to be trained.

    ``call`` is the method by which they are to be trained.

    Raises
    ------
    ValueError
        Names what differs, and between which processes.
    """
    if world is None:
        return rows
    name = type(estimator).__name__
    if estimator.compile:
        raise ValueError(f"{name}: compile=True is for one process. Set compile=False, or distributed=None.")
    told = world.tell((_parts(estimator, rows, go_on, call), data_part(rows)))
    first = told[0][0]
    for rank, (parts, _) in enumerate(told):
        for what in [*first, *(what for what in parts if what not in first)]:  # the most telling comes first
            one, other = (of.get(what, ("", "not there")) for of in (first, parts))
            if one[0] != other[0]:
                shown = other[1] if other[1] != one[1] else f"another {other[1]}"
                raise ValueError(
                    f"{name}: processes that train together must agree, but {what} is {one[1]} in process 0 and "
                    f"{shown} in process {rank}. Give all of them the same in the script."
                )
    different = [rank for rank, (_, part) in enumerate(told) if part[0] != told[0][1][0]]
    if not world.sharded and different:
        one, other = told[0][1][1], told[different[0]][1][1]
        raise ValueError(
            f"{name}: distributed='replicated' expects the same rows in all processes, but X is {one} in process 0 and "
            f"{other if other != one else f'{other}, of other contents,'} in process {different[0]}. Load the same "
            "rows in the same order everywhere, or set distributed='sharded', where each process has rows of its own."
        )
    digests = [part[0] for _, part in told]
    twice = [rank for rank, digest in enumerate(digests) if digests.count(digest) > 1]
    if world.sharded and twice:
        raise ValueError(
            f"{name}: distributed='sharded' expects different rows in each process, but X is {told[twice[0]][1][1]}, "
            f"the same ones, in processes {', '.join(map(str, twice))}, so each would count more than once. Set "
            "distributed='replicated', or give each process its part, such as X[rank::size] or files[rank::size], with "
            "RANK and WORLD_SIZE from os.environ."
        )
    if not world.sharded:
        rows.world = world
        return rows
    _number_groups(estimator, rows, world)
    return sharded(rows, world)


def agreed_start(
    estimator: Any, own: Rows | Stream, device: torch.device, world: World | None, *, keeps: bool
) -> tuple[Checkpoint | None, int | None]:
    """Checkpoint, if there is to be one, and the seed, if that does not draw it: those of the first process for all."""
    kept = None
    data = _data_of_all(own, world) if keeps else ("", "")
    if keeps and (world is None or world.rank == 0):
        kept = open_checkpoint(estimator, data, estimator._checked_objective(), device)
    if world is not None and keeps:
        kept = world.from_first(kept)
    if kept is not None:
        return kept, kept.seed
    return None, None if world is None else world.from_first(draw_seed(estimator.random_state))


def _data_of_all(own: Rows | Stream, world: World | None) -> Part:
    """What a checkpoint is compared by: of shards, those of all processes."""
    part = data_part(own)
    if world is None or not world.sharded or world.size == 1:
        return part
    told = world.tell(part)
    return made_part([digest for digest, _ in told], "; ".join(shown for _, shown in told[:4]))


def _parts(estimator: Any, rows: Rows | Stream, go_on: bool, call: str) -> dict[str, Part]:
    names = getattr(estimator, "feature_names_in_", None)
    parts = {
        "the version of riskvae": made_part(__version__, __version__),
        "the version of torch": made_part(torch.__version__, torch.__version__),
        "the class": made_part(key_of(type(estimator)), type(estimator).__name__),
        "the method that was called": made_part(call, call),
        "the number of features of X": made_part(estimator.n_features_in_, estimator.n_features_in_),
        "the kind of X": made_part(isinstance(rows, Rows), "an array" if isinstance(rows, Rows) else "a Dataset"),
        "checkpoint": made_part(estimator.checkpoint is None, str(estimator.checkpoint)),
        **parameter_parts(estimator, 0),
        **{
            name: made_part(key_of(value), value)
            for name, value in estimator.get_params(deep=False).items()
            if name not in _OWN
        },
    }
    for i, column in enumerate(() if names is None else names):
        parts[f"column {i} of X"] = made_part(str(column), repr(column))
    if isinstance(rows, Stream):
        transform = getattr(rows.dataset, "transform", None)
        state = vars(transform) if hasattr(transform, "transform") else None
        parts["the transform of X"] = made_part(key_of(state), repr(transform))
    if rows.has("group"):
        kind = "labels" if estimator._groups else "integers"
        parts["groups"] = made_part(kind, f"given as {kind}")
    if go_on:
        epochs = len(estimator.net_.history)
        parts["the fitted model"] = made_part((estimator._seed, epochs), f"one of {epochs} epochs")
    return parts


def _number_groups(estimator: Any, rows: Rows | Stream, world: World) -> None:
    """Labels that each process has numbered for itself, numbered as if their rows stood one after another."""
    told = world.tell(estimator._groups)
    known: dict[Any, int] = {}
    for labels in told:
        for label in labels:
            known.setdefault(label, len(known))
    if not known:
        return
    numbers = torch.tensor([known[label] for label in estimator._groups], dtype=torch.int64)
    if isinstance(rows, Rows):
        rows.data = rows.data._replace(group=_looked_up(numbers, rows.data.group))
    else:
        rows.group = _looked_up(numbers, rows.group)
    estimator._groups = known


def _looked_up(numbers: Tensor, group: Tensor | None) -> Tensor | None:
    return None if group is None else numbers.to(group.device)[group]
