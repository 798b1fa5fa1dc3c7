"""What a machine has, and what a process and its torch are set to: devices, forks, autocast, cuDNN."""

import ctypes
import difflib
import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from functools import cache
from typing import Any

import torch
from torch import Tensor

__all__ = [
    "constant",
    "device_for",
    "in_one_thread",
    "index",
    "is_available",
    "keep_freed_memory",
    "prepare_process",
    "resolve_device",
    "torch_as_usual",
]

_FAR = ("cuda",)  # kinds of devices to which a copy waits
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's mallopt


def _devices() -> list[str]:
    found = ["cpu"]
    if torch.backends.mps.is_available():
        found.insert(0, "mps")
    return [*(f"cuda:{i}" for i in range(torch.cuda.device_count())), *found]


def is_available(device: torch.device) -> bool:
    """Whether this machine has a device."""
    return (f"cuda:{device.index or 0}" if device.type == "cuda" else device.type) in _devices()


def resolve_device(device: Any) -> torch.device:
    """Torch device for the parameter ``device``; "auto" takes CUDA, then Apple's MPS, then the CPU."""
    available = _devices()
    if isinstance(device, str) and device == "auto":
        return torch.device(available[0])
    expected = "'auto', a name such as 'cpu', 'cuda', 'cuda:1' or 'mps', or a torch.device"
    if not isinstance(device, str | torch.device):
        raise TypeError(f"device must be {expected}; got {device!r}.")
    try:
        found = torch.device(device)
    except RuntimeError:
        name = str(device).lower().replace("gpu", "cuda").partition(":")[0]
        near = difflib.get_close_matches(name, ("auto", "cpu", "cuda", "mps"), 1)
        if near and near[0] == "cuda" and "cuda:0" not in available:
            near = ["auto"]  # the best there is
        remedy = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"device must be {expected}; got {device!r}.{remedy}") from None
    found = torch.device("cuda", found.index or 0) if found.type == "cuda" else torch.device(found.type)
    if str(found) not in available:
        raise ValueError(
            f"device={str(device)!r} is not available here; this machine has {', '.join(available)}. "
            "Use device='auto' to take the best of them."
        )
    return found


def device_for(dtype: torch.dtype, device: torch.device) -> torch.device:
    """Where to compute in a dtype what belongs on a device: MPS has no double precision, so that goes to the CPU."""
    return torch.device("cpu") if device.type == "mps" and dtype == torch.float64 else device


def constant(values: Iterable[float], like: Tensor) -> Tensor:
    """Numbers on the device and in the dtype of a tensor; on a GPU they are copied there once.

    A copy waits for the device, and a graph that records a training step cannot have one in it.
    """
    if like.device.type not in _FAR or torch.compiler.is_compiling():
        return torch.tensor(values, dtype=like.dtype, device=like.device)
    return _on_gpu(tuple(values), like.dtype, like.device)


def index(places: list[int], like: Tensor) -> Any:
    """Places as an index of a tensor; on a GPU they are copied there once, as a :func:`constant` is."""
    if like.device.type not in _FAR or torch.compiler.is_compiling():
        return places
    return _on_gpu(tuple(places), torch.int64, like.device)


@cache  # nobody writes to them, and recordings read them as long as they last
def _on_gpu(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # of the first who asks: the next may need gradients
        return torch.tensor(values, dtype=dtype, device=device)


def torch_as_usual(device: torch.device) -> AbstractContextManager[Any]:
    """Leave what a caller has switched on in torch: autocast, a default device, and sums of cuDNN in any order."""
    switched: list[AbstractContextManager[Any]] = [
        torch.autocast(kind, enabled=False) for kind in {"cpu", device.type} if torch.is_autocast_enabled(kind)
    ]
    if _default_device().type != "cpu":
        switched.append(torch.device("cpu"))
    if device.type == "cuda":
        switched.append(_repeatable_cudnn())
    if not switched:  # as nearly always
        return nullcontext()
    stack = ExitStack()
    for context in switched:
        stack.enter_context(context)
    return stack


def _default_device() -> torch.device:
    try:
        return torch.get_default_device()
    except AttributeError:  # of torch before 2.7, after set_default_device(None)
        return torch.device("cpu")


_CUDNN_LOCK = threading.Lock()
_cudnn_before: list[tuple[bool, bool]] = []  # found by each block that is inside; the first found the caller's


@contextmanager
def _repeatable_cudnn() -> Iterator[None]:
    """Convolutions whose gradients are the same in every run, by an algorithm that no stopwatch has chosen.

    The settings are those of the process. So of blocks in several threads the last to end puts back what the first
    found, whichever it is: the others found what they need.
    """
    cudnn = torch.backends.cudnn
    with _CUDNN_LOCK:
        before = cudnn.deterministic, cudnn.benchmark
        cudnn.deterministic, cudnn.benchmark = True, False
        _cudnn_before.append(before)
    try:
        yield
    finally:
        with _CUDNN_LOCK:
            cudnn.deterministic, cudnn.benchmark = _cudnn_before.pop()


@contextmanager
def in_one_thread(needed: bool = True) -> Iterator[None]:
    """Compute in one thread: small products are cut by the number of threads, which moves their last digits.

    It takes less than a microsecond, and the number is of the thread that calls.
    """
    before = torch.get_num_threads()
    if before == 1 or not needed:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


_IMPORTED_BY = os.getpid()
_prepared: set[int] = set()


def prepare_process() -> None:
    """Compute in one thread in a process made by ``fork``: torch's others are not there, and waiting for them hangs."""
    pid = os.getpid()
    if pid != _IMPORTED_BY and pid not in _prepared:
        _prepared.add(pid)
        torch.set_num_threads(1)


def keep_freed_memory() -> None:
    """Let this process use again what it frees, up to half a gigabyte, where glibc gives it back to the system.

    A stack of models needs tens of megabytes in each step, which it would take anew, page by page.
    """
    with suppress(OSError, AttributeError, TypeError):  # another C library
        library = ctypes.CDLL(None)
        for parameter, value in ((_M_MMAP_THRESHOLD, 2**25), (_M_TRIM_THRESHOLD, 2**29)):
            library.mallopt(parameter, value)
