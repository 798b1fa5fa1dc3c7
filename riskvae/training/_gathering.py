"""Fits in several threads that meet at each epoch, so that models of one structure train it as one."""

import threading
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from riskvae.training._batch import Batch
from riskvae.training._stack import Stack, structure_of

__all__ = ["Gathering", "gathering"]

# Seconds without a change after which nobody waits for a task that does something else, and for one that has not come
# to an epoch yet: it may be reading its data, and whoever goes on without it has no company in it later.
_PATIENCE, _MORE_PATIENCE = 1.0, 10.0
_SETTLED = 0.02  # seconds in which others may still be handed in

Told = tuple[list[Tensor], list[int]]  # what a history tells of each batch, and the batches' sizes

_here = threading.local()


def gathering() -> "Gathering | None":
    """Where the fits of this thread meet others, if anywhere."""
    task = getattr(_here, "task", None)
    return None if task is None else task.gathering


class _Task:
    """A piece of work in a thread of its own, which may fit models."""

    def __init__(self, gathering: "Gathering", *, expected: bool) -> None:
        self.gathering = gathering
        self.expected = expected  # whether others wait for it
        self.came = False


class _Epoch:
    """An epoch of one model that waits for company, and then what came of it."""

    def __init__(self, net: Any, key: object, batches: Callable[[], Iterator[Batch]], task: _Task) -> None:
        self.net, self.key, self.batches, self.task = net, key, batches, task
        self.all: list[_Epoch] | None = None  # those that this thread is to train
        self.done = False
        self.found: Told | None = None


class Gathering:
    """Tasks in threads, whose models train epochs together where their structure allows it.

    Epochs wait until every task that is expected has come to one, or is done; then one thread trains all of them, those
    of one structure as a :class:`Stack`. What is between epochs, such as callbacks, validation and scoring, goes on in
    each task's own thread, of a few tasks at a time. A task that does something else for a second (of ten, before its
    first) is not waited for, until it comes to an epoch again.

    Parameters
    ----------
    n_threads : int
        Tasks that are under way at a time; others that were handed in wait for their turn.
    most_at_once : int
        Tasks that compute at a time.
    """

    def __init__(self, n_threads: int, most_at_once: int) -> None:
        self._n_threads = n_threads
        self._changed = threading.Condition()
        self._free = threading.Semaphore(most_at_once)
        self._share = max(1, torch.get_num_threads() // most_at_once)  # threads of torch, of each of them
        self._all_threads = torch.get_num_threads()
        self._tasks: set[_Task] = set()
        self._waiting: list[_Epoch] = []
        self._moved = time.monotonic()
        self._stacks: dict[tuple[int, ...], Stack] = {}
        self._closed = False

    # ----------------------------------------------------------------------------------------- tasks

    def hand_in(self, work: Callable[[], Any]) -> Callable[[], Any]:
        """Work that others wait for from now on, to be called in a thread of its own."""
        with self._changed:
            task = _Task(self, expected=len(self._tasks) < self._n_threads)
            self._tasks.add(task)
            self._move()

        def run() -> Any:
            _here.task, task.expected = task, True
            torch.set_num_threads(self._share)
            try:
                with self._free:
                    return work()
            finally:
                _here.task = None
                with self._changed:
                    self._tasks.discard(task)
                    self._move()

        return run

    def close(self) -> None:
        """End what waits: nobody asks for it any longer."""
        with self._changed:
            self._closed = True
            self._stacks = {}
            self._changed.notify_all()

    def _move(self) -> None:
        self._moved = time.monotonic()
        self._changed.notify_all()

    # ---------------------------------------------------------------------------------------- epochs

    def epoch(
        self, net: Any, rows: Any, batches: Callable[[], Iterator[Batch]]
    ) -> tuple[list[Tensor], list[int]] | None:
        """Train a net for an epoch in company; what a history tells of its batches, and their sizes.

        None where it is to train alone, as nothing of its structure has come.
        """
        key = structure_of(net, rows)
        if key is None:
            return None
        epoch = _Epoch(net, key, batches, _here.task)
        self._free.release()
        try:
            with self._changed:
                epoch.task.expected = epoch.task.came = True
                self._waiting.append(epoch)
                self._move()
                while not (epoch.done or epoch.all or self._closed):
                    if not self._begin():
                        self._changed.wait(_SETTLED)
        finally:
            self._free.acquire()
        if epoch.all:
            self._train(epoch.all)
        elif self._closed and not epoch.done:
            raise RuntimeError("batched_fits has ended while this model was in training, as after an error in another.")
        return epoch.found

    def _begin(self) -> bool:
        """Let the first of the epochs that wait train all of them, if nobody is waited for."""
        quiet = time.monotonic() - self._moved
        if not self._waiting or quiet < _SETTLED:
            return False
        for task in self._tasks - {epoch.task for epoch in self._waiting} if quiet >= _PATIENCE else ():
            task.expected &= not task.came and quiet < _MORE_PATIENCE
        if len(self._waiting) < sum(task.expected for task in self._tasks):
            return False
        self._waiting[0].all, self._waiting = self._waiting, []
        self._changed.notify_all()
        return True

    def _train(self, epochs: list[_Epoch]) -> None:
        """Train those of one structure together; leave to themselves those that have no company, or fail in it."""
        groups: dict[object, list[_Epoch]] = {}
        for epoch in epochs:
            groups.setdefault(epoch.key, []).append(epoch)
        stacks = {}
        torch.set_num_threads(self._all_threads)
        try:
            for group in groups.values():
                if len(group) > 1:
                    nets = tuple(id(epoch.net) for epoch in group)
                    stacks[nets] = self._stacks.get(nets) or Stack([epoch.net for epoch in group])
                    self._train_stack(stacks[nets], group)
        except Exception as error:
            warnings.warn(
                f"batched_fits: models train one by one, as together they fail ({type(error).__name__}: {error}).",
                stacklevel=2,
            )
        finally:
            torch.set_num_threads(self._share)
            self._stacks = stacks
            with self._changed:
                for epoch in epochs:
                    epoch.done = True
                self._move()

    def _train_stack(self, stack: Stack, group: list[_Epoch]) -> None:
        stack.load()
        told, sizes = stack.steps(zip(*(epoch.batches() for epoch in group), strict=True))
        stack.store()
        for i, epoch in enumerate(group):
            epoch.found = list(told[:, i].unbind()), [size[i] for size in sizes]
