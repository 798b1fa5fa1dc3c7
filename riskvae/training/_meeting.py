"""How the processes that torchrun started find each other for a fit, and how they part."""

import atexit
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from importlib import import_module
from multiprocessing import current_process
from typing import Any

import torch
import torch.distributed as dist

from riskvae.training._world import LOOK, World

__all__ = ["joined"]

# How long processes wait for one that is alive but silent: it may be loading its data, or busy with a callback.
_PATIENCE = timedelta(minutes=10)
_SOON = 30  # seconds, after which one that waits for others to begin says so
_MOMENT = 0.05  # seconds, in which a thread puts a message away
_failed: list[Any] = []  # groups with messages that nobody answers
_parted: list[Any] = []  # the last group that was closed


@contextmanager
def joined(mode: str | None) -> Iterator[World | None]:
    """The processes that torchrun started, as one; None without a mode.

    What fails in one of them within the block ends the block in all.
    """
    if mode is None:
        yield None
        return
    if not dist.is_available():
        raise ValueError(
            f"distributed={mode!r} needs torch.distributed, which this build of torch lacks. Set distributed=None."
        )
    group = _meet(mode)
    world = World(group, sharded=mode == "sharded", store=_store())
    try:
        yield world
    except BaseException as error:
        # The group stays: closing it would wait for messages that nobody answers, Ctrl-C or not.
        world.fail(error)
        _failed.append(group)
        raise
    with suppress(Exception):
        dist.destroy_process_group(group)
    # Its threads may still be putting away the last message, for which they need Python's lock; where the end of the
    # group waits for them and holds that lock, as in torch 2.6, both would wait for ever. By the next fit they are
    # idle.
    _parted[:] = [group]


def _meet(mode: str) -> Any:
    """A group of all processes, once they have come to fit."""
    began = dist.is_initialized()
    if not began and ("RANK" not in os.environ or "WORLD_SIZE" not in os.environ):
        raise ValueError(
            f"distributed={mode!r} is for processes that torchrun started, but this one was started alone. Start the "
            "script with torchrun --nproc-per-node 2 train.py, or set_params(distributed=None)."
        )
    if not began and current_process().name != "MainProcess":
        raise ValueError(
            f"distributed={mode!r} is for the processes that torchrun started, but this one, {current_process().name}, "
            "was started by one of them. Use n_jobs=1 in searches, or set_params(distributed=None)."
        )
    rank = os.environ.get("RANK") or dist.get_rank()
    notice = threading.Timer(_SOON, _tell_of_waiting, (rank,))
    notice.daemon = True
    notice.start()
    try:
        if not began:
            # Its functions keep the group of all, if there is one when they are defined, as a default: for ever.
            import_module("torch.distributed.nn.functional")
            dist.init_process_group("gloo", timeout=_PATIENCE)
            atexit.register(_leave)
        _all_here()
        return dist.new_group(timeout=_PATIENCE, backend="gloo")
    except RuntimeError as error:
        raise RuntimeError(
            f"distributed={mode!r}: not all processes came to fit: one has ended, or stayed away for "
            f"{_PATIENCE.seconds // 60} minutes. Let all of them call it, equally often, outside of any "
            f"'if RANK == 0'. ({' '.join(str(error).split())[:200]})"
        ) from None
    finally:
        notice.cancel()


def _tell_of_waiting(rank: Any) -> None:
    print(
        f"riskvae: process {rank} has waited {_SOON} seconds for others that have not come to fit. All processes must "
        "call it, equally often.",
        file=sys.stderr,
        flush=True,
    )


def _leave() -> None:
    """Let groups end, and their threads with them: a thread that asks for Python's lock after that aborts the process.

    They ask for it to put the last message away.
    """
    if dist.is_initialized() and not _failed:
        time.sleep(_MOMENT)  # without the lock, which the end of a group keeps in torch 2.6
        _parted.clear()
        with suppress(Exception):
            dist.destroy_process_group()


def _all_here() -> None:
    """Wait until all processes are here; raises at once where one has ended, which a new group would wait for."""
    if dist.get_backend() != "gloo":
        return
    work = dist.all_reduce(torch.zeros(1), async_op=True)
    while True:
        try:
            work.wait(LOOK)
            return
        except RuntimeError:
            if work.is_completed():
                raise


def _store() -> Any:
    """Where processes find one another; there is no public way to that of a group that others made."""
    return getattr(dist.distributed_c10d, "_get_default_store", lambda: None)()
