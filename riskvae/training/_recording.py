"""Training steps on a CUDA device, recorded once and played again: what starts kernels would cost more than they do."""

import threading
import warnings
from collections.abc import Callable, Hashable, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from riskvae._validation import is_ours
from riskvae._value import key_of
from riskvae.training._objective import TotalCorrelationELBO
from riskvae.training._sparing import has_hooks
from riskvae.training._stacked_loss import kind_of

__all__ = ["Recorder", "has_known_layers", "recorder_of", "standing"]

Step = Callable[..., tuple[Tensor, ...]]

# Layers whose rows are apart, and that draw nothing and keep nothing, so that their passes are the same every time.
_LAYERS = {
    nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.Identity, nn.Flatten, nn.Unflatten, nn.Linear, nn.Bilinear,
    nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.LayerNorm, nn.GroupNorm,
    nn.ReLU, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid, nn.Softplus,
}  # fmt: skip

_ON = ("cuda",)  # kinds of devices
_one_at_a_time = threading.Lock()  # of recordings


class Recording(NamedTuple):
    """A step that was recorded: what it reads from, and what it writes to."""

    graph: Any
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]

    def play(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """What the step gives for other inputs of the same shapes."""
        for place, value in zip(self.inputs, inputs, strict=True):
            place.copy_(value)
        self.graph.replay()
        return tuple(output.clone() for output in self.outputs)


class Recorder:
    """A training step that is taken as it is the first time, recorded the second, and played from then on.

    A small network's step is some hundred kernels of microseconds, each of which the host takes longer to start than
    the device to run; a recording is started as a whole. It holds as long as nothing of it has moved: weights, the
    optimizer's state and settings, and what else ``standing`` tells. A step that cannot be recorded is taken as before.

    Parameters
    ----------
    step : callable
        From the kind of a batch and its tensors to tensors; it computes gradients and moves weights.
    optimizers : sequence of Optimizer
        That step in it.
    standing : callable
        What a recording hangs on beside its inputs, as something to compare.
    device : torch.device
        A CUDA device.
    """

    def __init__(
        self, step: Step, optimizers: Sequence[Any], standing: Callable[[], Hashable], device: torch.device
    ) -> None:
        self.step, self.optimizers, self.standing = step, optimizers, standing
        # All steps are on a stream of their own: what autograd knows of the weights must not be of another.
        self.stream = torch.cuda.Stream(device)
        self.pool = torch.cuda.graph_pool_handle()
        self.works = True
        self._seen: set[Hashable] = set()
        self._recordings: dict[Hashable, Recording] = {}
        self._recorded_at: Hashable = None

    def begin_epoch(self) -> None:
        """Forget what has been recorded if something of it has moved."""
        if self._recordings and self.standing() != self._recorded_at:
            self._recordings.clear()

    def __call__(self, kind: Hashable, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Take a step; inputs of one kind have the same shapes."""
        caller = torch.cuda.current_stream(self.stream.device)
        self.stream.wait_stream(caller)
        with torch.cuda.stream(self.stream):
            found = self._take(kind, inputs)
        caller.wait_stream(self.stream)
        return found

    def _take(self, kind: Hashable, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        if kind not in self._recordings and self.works and kind in self._seen:
            self._record(kind, inputs)
        if kind in self._recordings:
            return self._recordings[kind].play(inputs)
        self._seen.add(kind)
        return self.step(kind, *inputs)

    def _record(self, kind: Hashable, inputs: tuple[Tensor, ...]) -> None:
        try:
            with _one_at_a_time, _capturable(self.optimizers):
                self._recordings[kind] = record(partial(self.step, kind), inputs, self.stream, self.pool)
            self._recorded_at = self.standing()
        except Exception as error:
            self.works = False
            self._recordings.clear()
            warnings.warn(
                "Training goes on kernel by kernel, with the same results, as its steps cannot be recorded as a graph "
                f"on {self.stream.device} ({type(error).__name__}: {' '.join(str(error).split())[:200]}).",
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
def _capturable(optimizers: Sequence[Any]) -> Any:
    """Let optimizers be recorded, which a fused one on a device can be whatever it says."""
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    before = [group["capturable"] for group in groups]
    for group in groups:
        group["capturable"] = True
    try:
        yield
    finally:
        for group, value in zip(groups, before, strict=True):
            group["capturable"] = value


def standing(tensors: Sequence[Tensor], optimizer: Any) -> Hashable:
    """Where weights, buffers and the optimizer's state are, and what the optimizer is set to."""
    state = [value for kept in optimizer.state.values() for value in kept.values() if isinstance(value, Tensor)]
    trained = tuple(value.requires_grad for value in tensors)
    groups = tuple(
        (name, value) for group in optimizer.param_groups for name, value in group.items() if name != "params"
    )
    return tuple(value.data_ptr() for value in (*tensors, *state)), trained, groups


def _settings(modules: Sequence[nn.Module]) -> Hashable:
    """Plain attributes of modules, which a callback may change: weights of a loss, slopes, modes."""
    parts = [part for module in modules for part in module.modules()]
    return tuple(
        (name, value)
        for part in parts
        for name, value in vars(part).items()
        if isinstance(value, bool | int | float | str)
    )


def has_known_layers(vae: nn.Module) -> bool:
    """Whether nothing but kernels happens in the passes of a model, and nobody looks on."""
    return not has_hooks(vae) and all(type(part) in _LAYERS or is_ours(part) for part in vae.modules())


def recorder_of(net: Any) -> Recorder | None:
    """What records the steps of a net in an epoch, or None where that does not serve.

    It is for CUDA devices; for steps without a compiler's graph, other processes, and anything that looks at single
    batches; and for layers, measures and losses that are known to do nothing beside their kernels.
    """
    device = torch.device(net.device)
    alone = net.compile_step or net.world is not None
    if device.type not in _ON or alone or net._has_batch_callbacks() or not net.optimizer_.param_groups[0].get("fused"):
        return None
    objective = net.criterion_
    if kind_of(objective) is None and type(objective) is not TotalCorrelationELBO:
        return None
    if not has_known_layers(net.module_):
        return None
    recorder = net.recorder
    if recorder is None:
        modules = (net.module_, objective)

        def at_present() -> Hashable:
            tensors = [value for module in modules for value in (*module.parameters(), *module.buffers())]
            current = key_of(getattr(objective, "current", None))
            return standing(tensors, net.optimizer_), _settings(modules), current

        recorder = Recorder(net.take_step, [net.optimizer_], at_present, device)
    recorder.begin_epoch()
    return recorder
