"""The processes that train one model together, and how they speak with each other: by torch.distributed."""

import io
import pickle
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from itertools import pairwise
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["LOOK", "World"]

# How often a waiting process looks whether another one has failed.
LOOK = timedelta(seconds=2)


class World:
    """Processes that train one model together, each with a part of the rows of a batch.

    All of them call the same methods in the same order. What one of them misses, because it failed or was killed, ends
    the others at once, or within seconds, with what it said.

    Parameters
    ----------
    group : torch.distributed.ProcessGroup
        Of the gloo backend; tensors of other devices travel by the CPU.
    sharded : bool
        Whether each process has rows of its own; otherwise all have all rows.
    store : torch.distributed.Store or None
        Where a process that fails leaves word.

    Attributes
    ----------
    rank, size : int
        Number of this process, counted from 0, and how many there are.
    sent : int
        Bytes that this process gave to others so far.
    """

    def __init__(self, group: Any, *, sharded: bool, store: Any = None) -> None:
        self.group, self.sharded, self._store = group, sharded, store
        self.rank, self.size = dist.get_rank(group), dist.get_world_size(group)
        self.sent = 0
        self._heard = False  # that another one failed
        self._place = f"riskvae/{group.group_name}"

    # ------------------------------------------------------------------------------------------ shares

    def span(self, n: int) -> slice:
        """The part of n rows, all of which every process knows, that this one takes."""
        return slice(n * self.rank // self.size, n * (self.rank + 1) // self.size)

    def most(self, batch_size: int) -> int:
        """Rows of a batch that one process may have, at most."""
        return batch_size if self.sharded else -(-batch_size // self.size)

    # --------------------------------------------------------------------------------------- messages

    def sum_(self, values: Tensor) -> Tensor:
        """Sum of tensors over processes, in place and the same for all, bit for bit."""
        there = values if values.device.type == "cpu" else values.cpu()
        self._finish(lambda: dist.all_reduce(there, group=self.group, async_op=True))
        # Of a ring each process sends its share twice, but for its own.
        self.sent += 2 * there.nbytes * (self.size - 1) // self.size
        return values if there is values else values.copy_(there)

    def first_(self, values: Tensor) -> Tensor:
        """The values of the first process, in place of the others' own."""
        there = values if values.device.type == "cpu" else values.cpu()
        self._finish(lambda: dist.broadcast(there, src=0, group=self.group, async_op=True))
        self.sent += 0 if self.rank else there.nbytes
        return values if there is values else values.copy_(there)

    def rows(self, fields: Sequence[Tensor], most: int) -> list[list[Tensor]]:
        """Rows of all processes, one after another, of each of some tensors (n, ...); n may differ, up to ``most``.

        Returns the parts of the processes for each field. All travel as bytes in one message.
        """
        n = len(fields[0])
        flat = [_as_bytes(field, n) for field in fields]
        widths = [part.shape[1] for part in flat] if n else [_bytes(field) for field in fields]
        ends = [0]
        for width in widths:
            ends.append(ends[-1] + width)
        message = torch.zeros(8 + most * ends[-1], dtype=torch.uint8)
        message[:8] = torch.tensor([n]).view(torch.uint8)
        if n:
            message[8 : 8 + n * ends[-1]] = torch.cat(flat, 1).flatten()
        found: list[list[Tensor]] = [[] for _ in fields]
        for told in self._gather(message):
            m = int(told[:8].view(torch.int64))
            table = told[8 : 8 + m * ends[-1]].view(m, ends[-1])
            for parts, field, (a, b) in zip(found, fields, pairwise(ends), strict=True):
                part = table[:, a:b].contiguous().view(-1).view(field.dtype)
                parts.append(part.view(m, *field.shape[1:]).to(field.device))
        return found

    def tell(self, value: Any) -> list[Any]:
        """What each process says, in their order; picklable."""
        message = torch.frombuffer(bytearray(pickle.dumps(value)), dtype=torch.uint8)
        sizes = [int(size) for size in self._gather(torch.tensor([len(message)]))]
        padded = torch.zeros(max(sizes), dtype=torch.uint8)
        padded[: len(message)] = message
        return [_read(told[:size]) for told, size in zip(self._gather(padded), sizes, strict=True)]

    def from_first(self, value: Any) -> Any:
        """What the first process says, as it came: tensors and all."""
        with io.BytesIO() as file:
            if self.rank == 0:
                torch.save(value, file)
            message = torch.frombuffer(bytearray(file.getvalue() or b"-"), dtype=torch.uint8)
        size = int(self.first_(torch.tensor([len(message)])))
        message = message if self.rank == 0 else torch.empty(size, dtype=torch.uint8)
        self.first_(message)
        if self.rank == 0:
            return value
        return torch.load(io.BytesIO(message.numpy().tobytes()), weights_only=False)  # from a process of the same run

    def _gather(self, message: Tensor) -> list[Tensor]:
        told = [torch.empty_like(message) for _ in range(self.size)]
        self._finish(lambda: dist.all_gather(told, message, group=self.group, async_op=True))
        self.sent += message.nbytes * (self.size - 1)
        return told

    # --------------------------------------------------------------------------------------- failures

    def _finish(self, begin: Callable[[], Any]) -> None:
        """Wait for a message to get through, or for word that it never will."""
        try:
            work = begin()
            while True:
                try:
                    work.wait(LOOK)
                    return
                except RuntimeError:
                    if work.is_completed() or self._left_word():
                        raise
        except RuntimeError as error:
            self._heard = True
            raise RuntimeError(self._what_happened(error)) from None

    def fail(self, error: BaseException) -> None:
        """Leave word that this process failed, for the others: why, or what it heard from another one."""
        what = str(error).strip() or type(error).__name__
        with suppress(Exception):
            self._store.set(f"{self._place}/{self.rank}", what if self._heard else f"{type(error).__name__}: {what}")
            if not self._heard:
                self._store.set(f"{self._place}/why", str(self.rank))

    def _left_word(self) -> dict[int, str]:
        """What other processes said at their end."""
        with suppress(Exception):
            keys = {rank: f"{self._place}/{rank}" for rank in range(self.size) if rank != self.rank}
            return {rank: self._store.get(key).decode() for rank, key in keys.items() if self._store.check([key])}
        return {}

    def _what_happened(self, error: BaseException) -> str:
        with suppress(Exception):
            for _ in range(20):  # the word of a process that failed may come later than the end of its connection
                if self._store.check([f"{self._place}/why"]):
                    rank = int(self._store.get(f"{self._place}/why"))
                    reason = self._left_word().get(rank, "")
                    return f"distributed: process {rank} of {self.size} failed, so the others end: {reason}"
                time.sleep(0.1)
        heard = [what for what in self._left_word().values() if what.startswith("distributed: ")]
        if heard:
            return heard[0]
        return (
            f"distributed: one of {self.size} processes is gone, so this one, number {self.rank}, ends. It was killed, "
            f"perhaps because memory ran out, or it ended without an error. ({' '.join(str(error).split())[:200]})"
        )


def _as_bytes(field: Tensor, n: int) -> Tensor:
    """Rows (n, ...) as bytes (n, width)."""
    rows = field.detach().cpu().reshape(n, -1) if n else field.new_empty((0, 1), device="cpu")
    return rows.clone(memory_format=torch.contiguous_format).view(torch.uint8)


def _bytes(field: Tensor) -> int:
    """Bytes for each row of a tensor that has none."""
    return int(torch.Size(field.shape[1:]).numel()) * field.element_size()


def _read(message: Tensor) -> Any:
    return pickle.loads(message.numpy().tobytes())  # from a process of the same run
