"""Training steps on a CUDA device, recorded once and played again: what starts kernels would cost more than they do."""

import threading
import warnings
from collections.abc import Callable, Hashable, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from riskvae._validation import is_ours
from riskvae._value import key_of
from riskvae.training._objective import TotalCorrelationELBO
from riskvae.training._sparing import has_hooks
from riskvae.training._stacked_loss import kind_of

__all__ = ["Recorder", "are_recorded_on", "has_known_layers", "made_of", "recorder_of", "settings_of"]

Step = Callable[..., tuple[Tensor, ...]]

# Layers whose rows are apart, and that draw nothing and keep nothing, so that their passes are the same every time.
_LAYERS = {
    nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.Identity, nn.Flatten, nn.Unflatten, nn.Linear, nn.Bilinear,
    nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.LayerNorm, nn.GroupNorm,
    nn.ReLU, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid, nn.Softplus,
}  # fmt: skip

_PLAIN = (bool, int, float, str, np.generic)
_OF_TORCH = vars(nn.Module()).keys() - {"training"}  # attributes of any module
_ON = ("cuda",)  # kinds of devices
_one_at_a_time = threading.Lock()  # of recordings
_of_stream: dict[Any, threading.Lock] = {}  # torch has 32 streams of a device, and gives them out again


class Recording(NamedTuple):
    """A step that was recorded: what it reads from, and what it writes to."""

    graph: Any
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    gradients: tuple[tuple[Tensor, Tensor | None], ...] = ()  # of weights, where others may look at them

    def play(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """What the step gives for other inputs of the same shapes."""
        for place, value in zip(self.inputs, inputs, strict=True):
            place.copy_(value)
        self.graph.replay()
        for weights, gradient in self.gradients:
            weights.grad = gradient
        return tuple(output.clone() for output in self.outputs)


class Recorder:
    """A training step that is taken as it is the first time, recorded the second, and played from then on.

    A small network's step is some hundred kernels of microseconds, each of which the host takes longer to start than
    the device to run; a recording is started as a whole. It holds as long as nothing of it has moved: what the
    optimizer keeps and is set to, and what else ``standing`` tells. Then all begins anew, as what a step does the first
    time, such as the optimizer's setting its state to 0, must not be in it. A step that cannot be recorded is taken as
    before.

    Parameters
    ----------
    step : callable
        From the kind of a batch and its tensors to tensors; it computes gradients and moves weights.
    optimizer : Optimizer
        That steps in it.
    standing : callable
        What a recording hangs on beside its inputs and the optimizer, as something to compare.
    device : torch.device
        A CUDA device.
    shown : bool, default=False
        Whether others may look at the weights' gradients between steps: those are of the last one, then.
    """

    def __init__(
        self,
        step: Step,
        optimizer: Any,
        standing: Callable[[], Hashable],
        device: torch.device,
        *,
        shown: bool = False,
    ) -> None:
        self.step, self.optimizer, self.standing, self.shown = step, optimizer, standing, shown
        # All steps are on a stream of their own: what autograd knows of the weights must not be of another.
        self.stream = torch.cuda.Stream(device)
        self.alone = _of_stream.setdefault(self.stream, threading.Lock())  # what another starts there is recorded, too
        self.pool = torch.cuda.graph_pool_handle()
        self.works = True
        self._seen: set[Hashable] = set()
        self._recordings: dict[Hashable, Recording] = {}
        self._stood_at: Hashable = None  # after the last step that was taken or recorded

    def begin_epoch(self) -> None:
        """Forget what has been seen and recorded if something of it has moved."""
        if self._seen and self._stands_at() != self._stood_at:
            self._recordings.clear()
            self._seen.clear()
            self.pool = torch.cuda.graph_pool_handle()  # torch refuses one whose recordings have all gone

    def _stands_at(self) -> Hashable:
        kept = [value for state in self.optimizer.state.values() for value in state.values()]
        places = tuple(value.data_ptr() for value in kept if isinstance(value, Tensor))
        return places, settings_of(self.optimizer), self.standing()

    def __call__(self, kind: Hashable, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Take a step."""
        caller = torch.cuda.current_stream(self.stream.device)
        with self.alone:
            self.stream.wait_stream(caller)
            with torch.cuda.stream(self.stream):
                found = self._take(kind, inputs)
            caller.wait_stream(self.stream)
        return found

    def _take(self, kind: Hashable, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        key = kind, *(value.shape for value in inputs)
        if key not in self._recordings and self.works and key in self._seen:
            self._record(key, partial(self.step, kind), inputs)
        if key in self._recordings:
            return self._recordings[key].play(inputs)
        found = self.step(kind, *inputs)
        if self.works:
            self._seen.add(key)
            self._stood_at = self._stands_at()
        return found

    def _record(self, key: Hashable, step: Step, inputs: tuple[Tensor, ...]) -> None:
        try:
            with _one_at_a_time, _capturable(self.optimizer):
                found = record(step, inputs, self.stream, self.pool)
            if self.shown:
                weights = [value for group in self.optimizer.param_groups for value in group["params"]]
                found = found._replace(gradients=tuple((value, value.grad) for value in weights))
            self._recordings[key], self._stood_at = found, self._stands_at()
        except Exception as error:
            self.works = False
            self._recordings.clear()
            warnings.warn(
                "Training goes on kernel by kernel, with the same results, because its steps cannot be recorded as a "
                f"graph on {self.stream.device} ({type(error).__name__}: {' '.join(str(error).split())[:200]}).",
                stacklevel=2,
            )


def record(step: Step, inputs: tuple[Tensor, ...], stream: Any, pool: Any) -> Recording:
    """A step as a CUDA graph, which has not run yet."""
    inputs = tuple(value.clone() for value in inputs)
    graph = torch.cuda.CUDAGraph()
    # Other threads may go on meanwhile: their streams are not recorded.
    with torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
        outputs = step(*inputs)
    return Recording(graph, inputs, outputs)


@contextmanager
def _capturable(optimizer: Any) -> Any:
    """Let an optimizer be recorded, which a fused one on a device can be whatever it says."""
    before = [group["capturable"] for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["capturable"] = True
    try:
        yield
    finally:
        for group, value in zip(optimizer.param_groups, before, strict=True):
            group["capturable"] = value


def settings_of(optimizer: Any) -> Hashable:
    """What an optimizer is set to."""
    return tuple(
        (name, key_of(value)) for group in optimizer.param_groups for name, value in group.items() if name != "params"
    )


def made_of(net: Any) -> Hashable:
    """What steps of a net hang on and a callback may change or exchange, beside what its optimizer keeps.

    Weights and buffers by their places, modules by their kinds and plain attributes (weights of a loss, slopes, modes).
    """
    parts = [part for module in (net.module_, net.criterion_) for part in module.modules()]
    tensors = [value for part in parts for kept in (part._parameters, part._buffers) for value in kept.values()]
    places = tuple((id(value), value.data_ptr(), value.requires_grad) for value in tensors if value is not None)
    plain = tuple(
        (
            type(part),
            *[(name, kept[name]) for name in sorted(kept.keys() - _OF_TORCH) if isinstance(kept[name], _PLAIN)],
        )
        for part, kept in ((part, vars(part)) for part in parts)
    )
    return id(net.optimizer_), net.precision, net.batch_size, net.n_draws, _is_watched(net), places, plain


def _is_watched(net: Any) -> bool:
    """Whether somebody looks on, by hooks of modules, weights or the optimizer."""
    weights = [*net.module_.parameters(), *net.criterion_.parameters()]
    of_weights = any(value._backward_hooks or value._post_accumulate_grad_hooks for value in weights)
    optimizer = net.optimizer_
    of_steps = optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks
    return bool(of_weights or of_steps) or has_hooks(net.module_) or has_hooks(net.criterion_)


def has_known_layers(net: Any) -> bool:
    """Whether nothing but kernels happens in the passes of a model, and nobody looks on."""
    return not _is_watched(net) and all(type(part) in _LAYERS or is_ours(part) for part in net.module_.modules())


def are_recorded_on(device: torch.device) -> bool:
    """Whether steps can be recorded on a device."""
    return device.type in _ON


def recorder_of(net: Any) -> Recorder | None:
    """What records the steps of a net in an epoch, or None where that does not serve.

    It is for CUDA devices; for steps without a compiler's graph, other processes, and anything that looks at single
    batches; and for layers, measures and losses that are known to do nothing beside their kernels.
    """
    device = torch.device(net.device)
    alone = net.compile_step or net.world is not None or not net.optimizer_.param_groups[0].get("fused")
    if not are_recorded_on(device) or alone or net._has_batch_callbacks():
        return None
    objective = net.criterion_
    if kind_of(objective) is None and type(objective) is not TotalCorrelationELBO:
        return None
    asks = net.module_.holes and net.module_.told is None  # of each batch, whether values are missing
    if asks or not has_known_layers(net):
        return None
    recorder = net.recorder
    if recorder is None or recorder.optimizer is not net.optimizer_:

        def at_present() -> Hashable:
            return made_of(net), key_of(getattr(net.criterion_, "current", None))

        recorder = Recorder(net.take_step, net.optimizer_, at_present, device, shown=True)
    recorder.begin_epoch()
    return recorder
