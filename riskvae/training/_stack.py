"""Several models of one structure as one: their weights in stacked tensors, their steps in batched products."""

import copy
import math
from collections.abc import Hashable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from riskvae._value import key_of
from riskvae.training._batch import Batch
from riskvae.training._recording import Recorder, are_recorded_on, has_known_layers, made_of, settings_of
from riskvae.training._rows import Rows
from riskvae.training._stacked_loss import StackedLoss, kind_of, state_of
from riskvae.training._stacked_rows import StackedBatch
from riskvae.training._vae import VAE

__all__ = ["Stack", "structure_of"]


def structure_of(net: Any, rows: Any) -> Hashable | None:
    """What nets must have in common to train as one, or None where one trains alone.

    Alone train models with layers or losses that are not known here, rows with missing values, and what looks at single
    batches.
    """
    made = made_of(net)
    if net.structure is None or net.structure[0] != made:
        net.structure = made, _lasting(net, rows)
    lasting = net.structure[1]
    return None if lasting is None else (lasting, settings_of(net.optimizer_), _n_steps(net))


def _lasting(net: Any, rows: Any) -> Hashable | None:
    """What of it stays in a training, as long as nobody exchanges a part."""
    vae, kind = net.module_, kind_of(net.criterion_)
    alone = net.compile_step or net.precision != "float32" or net.world is not None or net._has_batch_callbacks()
    alone = alone or net.lipschitz_penalty or vae.holes or not has_known_layers(net)
    alone = alone or type(net.optimizer_) is not torch.optim.AdamW or len(net.optimizer_.param_groups) > 1
    if kind is None or alone or type(rows) is not Rows or rows.missing:
        return None
    state = tuple((name, value.shape, value.requires_grad) for name, value in named_state(vae))
    networks = repr(vae.encoder), repr(vae.decoder), key_of(vae.likelihood), vae.scale_offset
    return net.device, kind, state, networks, net.n_draws, math.ceil(len(rows) / net.batch_size)


def named_state(vae: VAE) -> Iterator[tuple[str, Tensor]]:
    """Weights and buffers of a model."""
    yield from vae.named_parameters()
    yield from vae.named_buffers()


def _n_steps(net: Any) -> tuple[float, ...]:
    """Gradient steps that an optimizer has taken with each weight."""
    states = [net.optimizer_.state.get(weights, {}) for weights in net.optimizer_.param_groups[0]["params"]]
    steps = [state["step"] for state in states if "step" in state]
    counts = iter(torch.stack(steps).tolist() if steps else [])  # read back at once, where it is on a device
    return tuple(next(counts) if "step" in state else 0.0 for state in states)


def _state_at(net: Any) -> tuple[object, ...]:
    """Which tensors an optimizer keeps, and what has been written to them how often."""
    kept = [value for state in net.optimizer_.state.values() for value in state.values()]
    return tuple((id(value), value._version) for value in kept)


class Stack:
    """Models of one structure that take their gradient steps together, each on its own rows by its own loss.

    Parameters
    ----------
    nets : sequence of Net
        Which have one structure, learning rate and number of steps behind them.
    """

    def __init__(self, nets: Sequence[Any]) -> None:
        self.nets = nets
        self.device = torch.device(nets[0].device)
        template = copy.deepcopy(nets[0].module_).eval()  # in training, layers may take products that do not stack
        trained = [name for name, p in template.named_parameters() if p.requires_grad]
        self.states = [dict(named_state(net.module_)) for net in nets]
        stacked = {name: torch.stack([state[name].detach() for state in self.states]) for name in self.states[0]}
        self.parameters = {name: stacked.pop(name).requires_grad_() for name in trained}
        self.buffers = stacked
        group = nets[0].optimizer_.param_groups[0]
        self.optimizer = torch.optim.AdamW(
            list(self.parameters.values()),
            lr=group["lr"], betas=group["betas"], eps=group["eps"], weight_decay=group["weight_decay"],
            fused=bool(group["fused"]),
        )  # fmt: skip
        self.made_of = [net.structure[0] for net in nets]  # another stack is to be made where these differ
        self._states_at: list[tuple[object, ...]] | None = None  # of the optimizers, as they were left
        self._forward, self._update = _stacked(_Forward(template)), _stacked(_Update(template))
        self._losses: dict[tuple[int, ...], StackedLoss] = {}
        self._losses_of: Hashable = None  # what they were made of
        self._recorder = None
        if are_recorded_on(self.device):
            self._recorder = Recorder(self._step, self.optimizer, self._standing, self.device)

    @torch.no_grad()
    def load(self) -> None:
        """Take the models' present weights, and what their optimizers know if these took steps elsewhere."""
        for name, values in (self.parameters | self.buffers).items():
            torch._foreach_copy_(list(values.unbind()), [state[name] for state in self.states])
        group = self.nets[0].optimizer_.param_groups[0]  # whose learning rate a callback may have changed
        self.optimizer.param_groups[0].update({name: value for name, value in group.items() if name != "params"})
        if self._states_at != [_state_at(net) for net in self.nets]:
            self._take_state()

    @torch.no_grad()
    def store(self) -> None:
        """Give the models their weights, and the state of the optimizer."""
        for name, values in (self.parameters | self.buffers).items():
            torch._foreach_copy_([state[name] for state in self.states], list(values.unbind()))
        for name, parameter in self.parameters.items():
            kept = self.optimizer.state[parameter]
            own = [net.optimizer_.state[state[name]] for net, state in zip(self.nets, self.states, strict=True)]
            for key, value in kept.items():
                parts = [value] * len(own) if key == "step" else list(value.unbind())
                if any(key not in known for known in own):
                    for known, part in zip(own, parts, strict=True):
                        known[key] = part.clone()
                else:
                    torch._foreach_copy_([known[key] for known in own], parts)
        self._states_at = [_state_at(net) for net in self.nets]

    def finite(self) -> list[bool]:
        """Of each model, whether all weights are numbers; a device is asked once."""
        sums = [values.detach().flatten(1).sum(1) for values in self.parameters.values()]
        return torch.stack(sums).isfinite().all(0).tolist() if sums else [True] * len(self.nets)

    def _take_state(self) -> None:
        self.optimizer.state.clear()
        for name, parameter in self.parameters.items():
            found = [
                net.optimizer_.state.get(state[name], {}) for net, state in zip(self.nets, self.states, strict=True)
            ]
            for key, value in found[0].items():
                parts = [own[key] for own in found]
                self.optimizer.state[parameter][key] = value.clone() if key == "step" else torch.stack(parts)

    def steps(self, batches: Iterator[StackedBatch]) -> tuple[Tensor, list[tuple[int, ...]]]:
        """Gradient steps on the models' batches; what histories tell (batches, models, 3), and the batches' sizes."""
        told, sizes = [], []
        objectives = [net.criterion_ for net in self.nets]
        if (weighing := state_of(objectives)) != self._losses_of:
            self._losses, self._losses_of = {}, weighing
        if self._recorder is not None:
            self._recorder.begin_epoch()
        take = self._recorder or self._step
        for batch in batches:
            if batch.sizes not in self._losses:
                self._losses[batch.sizes] = StackedLoss(objectives, batch.sizes, self.device)
            told.append(take(batch.sizes, batch.x, batch.noise)[0])
            sizes.append(batch.sizes)
        return torch.stack(told), sizes

    def _step(self, sizes: tuple[int, ...], x: Tensor, noise: Tensor) -> tuple[Tensor]:
        self.optimizer.zero_grad(set_to_none=True)
        nll, kl = self._forward(self.parameters, self.buffers, x, noise.transpose(1, 2))
        losses, parts, counted = self._losses[sizes](nll, kl)
        losses.sum().backward()  # apart, as no model's loss hangs on another's weights
        self.optimizer.step()
        with torch.no_grad():
            self._update({}, self.buffers, counted)
        return (parts,)

    def _standing(self) -> Hashable:
        return self._losses_of  # weights stay where they are


class _Forward(nn.Module):
    """Terms of whole rows."""

    def __init__(self, vae: VAE) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        terms = self.vae(Batch(x), noise)
        return terms.nll, terms.kl


class _Update(nn.Module):
    """Moves a learned noise scale, in place."""

    def __init__(self, vae: VAE) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, counted: Tensor) -> Tensor:
        self.vae.likelihood.update_scale(counted)
        return counted


def _stacked(module: nn.Module) -> Any:
    """Function of stacked parameters, buffers and inputs, by one pass for all models."""

    def one(parameters: dict[str, Tensor], buffers: dict[str, Tensor], *inputs: Tensor) -> Any:
        state = {f"vae.{name}": value for name, value in (parameters | buffers).items()}
        return torch.func.functional_call(module, state, inputs)

    return torch.vmap(one)
