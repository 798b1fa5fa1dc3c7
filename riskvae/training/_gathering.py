"""Fits in several threads that meet at each epoch, so that models of one structure train it as one."""

import threading
import time
import warnings
from collections import deque
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from riskvae.training._draws import RowDraws
from riskvae.training._stack import Stack, structure_of
from riskvae.training._stacked_rows import OwnRows, stacked_batches

__all__ = ["Gathering", "gathering"]

# Seconds without a change after which nobody waits for a task that does something else, and for one that has not come
# to an epoch yet: it may be reading its data, and whoever goes on without it has no company in it later.
_PATIENCE, _MORE_PATIENCE = 1.0, 10.0
_SETTLED = 0.02  # seconds in which others may still be handed in

_ENDED = "batched_fits has ended while this model was in training, as after an error in another."

# What a history tells of each batch, the batches' sizes, and whether all weights are finite.
Told = tuple[list[Tensor], list[int], bool]

_here = threading.local()


def gathering() -> "Gathering | None":
    """Where the fits of this thread meet others, if anywhere."""
    task = getattr(_here, "task", None)
    return None if task is None else task.gathering


class _Task:
    """A piece of work in a thread of its own, which may fit models."""

    def __init__(self, gathering: "Gathering", number: int, *, expected: bool) -> None:
        self.gathering, self.number = gathering, number
        self.expected = expected  # whether others wait for it
        self.came = False


class _Turns:
    """A few tasks compute at a time, and each hands on to one that waits: to wake all of them costs more."""

    def __init__(self, most_at_once: int) -> None:
        self._lock = threading.Lock()
        self._free = most_at_once
        self._queue: deque[threading.Lock] = deque()

    def call(self, turn: threading.Lock) -> None:
        """Let a task go on that waits for a locked turn, as soon as another leaves off."""
        with self._lock:
            if not self._free:
                self._queue.append(turn)
                return
            self._free -= 1
        turn.release()

    def take(self) -> None:
        """Wait for a turn."""
        turn = _locked()
        self.call(turn)
        turn.acquire()

    def give(self) -> None:
        """Leave off."""
        with self._lock:
            if not self._queue:
                self._free += 1
                return
            turn = self._queue.popleft()
        turn.release()


def _locked() -> threading.Lock:
    lock = threading.Lock()
    lock.acquire()
    return lock


class _Epoch:
    """An epoch of one model that waits for company, and then what came of it."""

    def __init__(self, net: Any, key: object, rows: OwnRows, task: _Task) -> None:
        self.net, self.key, self.rows, self.task = net, key, rows, task
        self.first = not task.came
        self.turn = _locked()  # released when it is trained, or to be trained by this thread
        self.leads: list[_Epoch] = []  # others that this thread is to train with its own
        self.done = False
        self.found: Told | None = None


class Gathering:
    """Tasks in threads, whose models train epochs together where their structure allows it.

    Epochs wait until every task that is expected has come to one, or is done; then those of one structure are trained
    as a :class:`Stack`, by the thread of one of them. What is between epochs, such as callbacks, validation and
    scoring, goes on in each task's own thread, of a few tasks at a time. A task that does something else for a second
    (of ten, before its first) is not waited for, until it comes to an epoch again.

    Parameters
    ----------
    n_threads : int
        Tasks that are under way at a time; others that were handed in wait for their turn.
    most_at_once : int
        Tasks that compute at a time.
    """

    def __init__(self, n_threads: int, most_at_once: int) -> None:
        self._n_threads = n_threads
        self._lock = threading.Lock()
        self._turns = _Turns(most_at_once)
        self._all_threads = torch.get_num_threads()
        self._share = max(1, self._all_threads // most_at_once)  # threads of torch, of each task that computes
        self._tasks: set[_Task] = set()
        self._n_tasks = 0  # ever handed in
        self._waiting: list[_Epoch] = []
        self._moved = time.monotonic()
        self._stacks: dict[tuple[int, ...], Stack] = {}
        self._closed = False

    # ----------------------------------------------------------------------------------------- tasks

    def hand_in(self, work: Callable[[], Any]) -> Callable[[], Any]:
        """Work that others wait for from now on, to be called in a thread of its own."""
        with self._lock:
            task = _Task(self, self._n_tasks, expected=len(self._tasks) < self._n_threads)
            self._n_tasks += 1
            self._tasks.add(task)
            self._moved = time.monotonic()

        def run() -> Any:
            _here.task, task.expected = task, True
            torch.set_num_threads(self._share)
            self._turns.take()
            try:
                return work()
            finally:
                self._turns.give()
                _here.task = None
                with self._lock:
                    self._tasks.discard(task)
                    self._moved = time.monotonic()
                    self._begin()

        return run

    def close(self) -> None:
        """End what waits: nobody asks for it any longer."""
        with self._lock:
            self._closed, self._stacks = True, {}
            for epoch in self._waiting:
                self._turns.call(epoch.turn)
            self._waiting = []

    # ---------------------------------------------------------------------------------------- epochs

    def epoch(self, net: Any, rows: Any, generator: Callable[[], torch.Generator], draw: RowDraws) -> Told | None:
        """Train a net for an epoch in company; what a history tells of its batches, and their sizes.

        None where it is to train alone, as nothing of its structure has come.
        """
        key = structure_of(net, rows)
        if key is None:
            return None
        epoch = _Epoch(net, key, OwnRows(rows, rows.order(generator()), draw), _here.task)
        with self._lock:
            if self._closed:
                raise RuntimeError(_ENDED)
            epoch.task.expected = epoch.task.came = True
            self._waiting.append(epoch)
            looks_after = len(self._waiting) == 1  # whether nobody comes any more
            self._moved = time.monotonic()
            self._begin()
        self._turns.give()
        while not epoch.turn.acquire(timeout=_SETTLED if looks_after else -1):
            with self._lock:
                self._begin()
        if epoch.leads:
            self._train(epoch)
        if not epoch.done:
            raise RuntimeError(_ENDED)
        return epoch.found

    def _begin(self) -> None:
        """Choose who trains the epochs that wait, if nobody is waited for."""
        quiet = time.monotonic() - self._moved
        if not self._waiting or (quiet < _SETTLED and any(epoch.first for epoch in self._waiting)):
            return
        for task in self._tasks - {epoch.task for epoch in self._waiting} if quiet >= _PATIENCE else ():
            task.expected &= not task.came and quiet < _MORE_PATIENCE
        if len(self._waiting) < sum(task.expected for task in self._tasks):
            return
        groups: dict[object, list[_Epoch]] = {}
        for epoch in sorted(self._waiting, key=lambda epoch: epoch.task.number):
            groups.setdefault(epoch.key, []).append(epoch)
        self._waiting = []
        for group in groups.values():
            first = group[0]
            first.leads, first.done = group[1:], len(group) == 1  # without company it trains alone
            self._turns.call(first.turn)

    def _train(self, first: _Epoch) -> None:
        """Train models together, or leave them to themselves if they fail in company."""
        epochs = [first, *first.leads]
        nets = tuple(id(epoch.net) for epoch in epochs)
        before = torch.get_num_threads()
        torch.set_num_threads(self._all_threads)
        try:
            stack = self._stacks.pop(nets, None)
            if stack is None or stack.made_of != [epoch.net.structure[0] for epoch in epochs]:
                stack = Stack([epoch.net for epoch in epochs])
            stack.load()
            rows = [epoch.rows for epoch in epochs]
            told, sizes = stack.steps(stacked_batches(rows, first.net.batch_size, stack.device))
            stack.store()
            told, finite = told.cpu(), stack.finite()  # of all at once, as each look at a device waits for it
            for i, epoch in enumerate(epochs):
                epoch.found = list(told[:, i].unbind()), [size[i] for size in sizes], finite[i]
            with self._lock:
                members = set(nets)
                others = {key: other for key, other in self._stacks.items() if not members & set(key)}
                self._stacks = {} if self._closed else others | {nets: stack}
        except Exception as error:
            warnings.warn(
                f"batched_fits: models train one by one, because together they fail ({type(error).__name__}: {error}).",
                stacklevel=2,
            )
        finally:
            torch.set_num_threads(before)
            first.done = True
            for epoch in first.leads:
                epoch.done = True
                self._turns.call(epoch.turn)
