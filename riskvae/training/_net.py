"""Skorch's net with an epoch that costs little beside the matrix products.

Small networks are bound by what surrounds those. So rows live on the device as one tensor, an epoch is a permutation
and slices of it, losses are read back once per epoch, and hooks per batch run only for callbacks that define them.
"""

import copy
import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from skorch import NeuralNet
from skorch.callbacks import Callback, EpochTimer
from skorch.utils import TeeGenerator, noop
from torch import Tensor, nn

from riskvae._machine import is_available
from riskvae._validation import derive_seed, isolated_rng
from riskvae.nets._parametrized import parametrized, put_back, take_off
from riskvae.training._batch import Batch
from riskvae.training._chance import Chance
from riskvae.training._compiling import differentiable_loss
from riskvae.training._draws import RowDraws
from riskvae.training._gains import excess_gains
from riskvae.training._gathering import gathering
from riskvae.training._objective import told_of
from riskvae.training._own_terms import spared_loss
from riskvae.training._precision import computed_in
from riskvae.training._recording import Recorder, recorder_of
from riskvae.training._shared_loss import SharedLoss, add_gradients, agree_on_the_end, same_weights, shared_loss
from riskvae.training._sparing import Sparing, what_to_spare
from riskvae.training._stopping import StopTraining, all_finite, divergence, raised_by_statement
from riskvae.training._world import World

__all__ = ["Net"]

# Losses are read back at least this often, so that a long epoch notices early that it diverged.
_READ_BACK = 1000


class Net(NeuralNet):
    """Skorch net whose module gives the terms of a loss and whose criterion sums them up.

    The order of rows in epoch e comes from a generator seeded by ``(seed, e)``, and the latent draws of a row hang on
    seed, epoch and its place in the data alone (:class:`RowDraws`). So a resumed training equals an uninterrupted one,
    bit for bit.

    Parameters
    ----------
    seed : int
        The only source of chance.
    n_draws : int
        Latent draws per row and step.
    compile_step : bool
        Compile the forward pass and its gradient.
    isolate_rng : bool
        Seed torch's global generators during an epoch, for layers such as dropout that draw from them, and
        restore them after it.
    precision : {"float32", "tf32", "bfloat16"}
        In which the networks compute in training.
    lipschitz_penalty : float
        Weight of what squared gains of reconstructions exceed 1 by, which the history's losses leave out.
    refine : int
        Steps by which the trained model's posteriors come to fit their rows.
    progress : callable
        Called with the number of rows after some batches.
    """

    # Also of nets that were pickled before there were others.
    precision = "float32"
    lipschitz_penalty, refine = 0.0, 0
    recorder: Recorder | None = None  # plays steps on a GPU, in a training

    def __init__(
        self,
        module: nn.Module,
        *,
        seed: int = 0,
        n_draws: int = 1,
        compile_step: bool = False,
        isolate_rng: bool = False,
        precision: str = "float32",
        lipschitz_penalty: float = 0.0,
        refine: int = 0,
        progress: Callable[[int], None] = noop,
        **kwargs: Any,
    ) -> None:
        super().__init__(module, **kwargs)
        self.seed = seed
        self.n_draws = n_draws
        self.compile_step = compile_step
        self.isolate_rng = isolate_rng
        self.precision = precision
        self.lipschitz_penalty = lipschitz_penalty
        self.refine = refine
        self.progress = progress
        self.stop_requested = False
        self.best_epoch: int | None = None  # whose weights early stopping kept
        self.copies: dict[Any, Any] = {}  # of the module, for inference
        self.sparing: Sparing | None = None  # what is known of the networks, in a training
        self.structure: Any = None  # what others must have in common with it to train beside it, in a training
        self.spare: str | None = None  # whose graph waits, in an epoch
        self.world: World | None = None  # processes that train together, while they do
        self.chances: dict[str, Chance] = {}  # what modules and the objective draw from, while they do

    @property
    def _default_callbacks(self) -> list[tuple[str, Any]]:
        return [("epoch_timer", EpochTimer())]

    def get_split_datasets(self, X: Any, y: Any = None, **fit_params: Any) -> Any:
        return X

    def get_iterator(self, dataset: Any, training: bool = False) -> Any:
        return dataset

    def notify(self, method_name: str, **cb_kwargs: Any) -> None:
        """Run callbacks; after an epoch, end the training where one asked for it.

        Skorch's callbacks ask by ``raise KeyboardInterrupt``. Ctrl-C is told from that by the instruction at
        which it came: the interpreter delivers signals between instructions, never at a raise.
        """
        if method_name == "on_epoch_end" and self.world is not None:
            same_weights(self)
        try:
            super().notify(method_name, **cb_kwargs)
        except KeyboardInterrupt as interrupt:
            if not raised_by_statement(interrupt):
                raise
            if self.world is None:
                raise StopTraining from None
            self._request_stop(method_name)
        if method_name == "on_epoch_end":
            if self.world is not None:
                agree_on_the_end(self)
            if self.stop_requested:
                raise StopTraining

    def _request_stop(self, when: str) -> None:
        if when != "on_epoch_end":
            raise RuntimeError(
                f"A callback asked for the end of the training in {when}, in one of several processes that train "
                "together. Let it ask at the end of an epoch (on_epoch_end): then all of them hear of it."
            )
        self.stop_requested = True

    def move_to(self, device: torch.device) -> None:
        """Put weights and the optimizer's state on a device."""
        self.device = str(device)
        for module in (self.module_, self.criterion_):
            module.to(device)
        self.optimizer_.load_state_dict(self.optimizer_.state_dict())  # casts the state to the weights' device

    def draws(self, epoch: int) -> RowDraws:
        """What makes the latent noise of an epoch."""
        return RowDraws(derive_seed(self.seed, "noise", epoch), self.n_draws, self.module_.n_components)

    def run_single_epoch(self, iterator: Any, training: bool, prefix: str, step_fn: Any, **fit_params: Any) -> None:
        """One pass; records the mean loss, negative log-likelihood and KL, in nats per row."""
        if iterator is None:
            return
        epoch = len(self.history)
        device = torch.device(self.device)
        # Validation draws are the same in every epoch (of number 0): its losses differ by the weights alone.
        order, modules = (derive_seed(self.seed, purpose, epoch if training else 0) for purpose in ("order", "modules"))
        if self.world is not None:
            modules = self._share_chance(modules, device)
        shuffled = partial(torch.Generator().manual_seed, order)
        draw = self.draws(epoch if training else 0)
        self._set_training(training)
        if training:
            for name, value in self.criterion_.begin_epoch(epoch - 1).items():
                self.history.record(name, value)
        self._hooked = hooked = self._has_batch_callbacks()
        company = gathering() if training else None
        found = company and company.epoch(self, iterator, shuffled, draw)
        log, sizes, finite = found or ([], [], None)
        means = []
        if training and not found:
            self.recorder = recorder_of(self)
            self.spare = what_to_spare(self)
            if self.recorder is not None and self.spare is None:
                step_fn = self._played_step
        isolated = isolated_rng(modules, device) if self.isolate_rng else nullcontext()
        with isolated, computed_in(self.module_, self.precision if training else "float32"):
            for batch in () if found else iterator.batches(self.batch_size, shuffled() if training else None, draw):
                if hooked:
                    self.notify("on_batch_begin", batch=batch.pair, training=training)
                step = step_fn(batch)
                if step is None:  # of several processes none has rows any more
                    break
                if hooked:
                    self.history.record_batch(prefix + "_loss", step["loss"].item())
                    self.history.record_batch(prefix + "_batch_size", step["n_rows"])
                    self.notify("on_batch_end", batch=batch.pair, training=training, **step)
                log.append(step["parts"])
                sizes.append(step["n_rows"])
                if len(log) == _READ_BACK:
                    means.append(self._read_back(log, len(sizes)))
                    self._advance(training, sizes[-_READ_BACK:])
        if log:
            means.append(self._read_back(log, len(sizes)))
            self._advance(training, sizes[len(sizes) - len(means[-1]) :])
        if not sizes:
            raise ValueError("X is a Dataset that gave no rows in this epoch; give one that can be iterated again.")
        self._record(prefix, torch.cat(means), sizes)
        if training and not (all_finite(self.module_) if finite is None else finite):
            raise divergence("a weight became infinite or NaN", len(self.history), len(sizes), self.lr)

    def _share_chance(self, seed: int, device: torch.device) -> int:
        """Let processes draw alike for the objective, and apart for layers such as dropout; the seed of Datasets.

        A Dataset that all of them read has to come in the same order everywhere.
        """
        world: Any = self.world
        own = derive_seed(seed, "process", world.rank)
        if self.isolate_rng:
            seeds = {"module": derive_seed(own, "module"), "objective": derive_seed(seed, "objective")}
            self.chances = {name: Chance(value, device) for name, value in seeds.items()}
        return own if world.sharded else seed

    def drawing(self, name: str) -> AbstractContextManager[None]:
        """Where the module, or the objective, draws from torch's global generators, of several processes."""
        return self.chances[name].drawn() if name in self.chances else nullcontext()

    def _advance(self, training: bool, sizes: list[int]) -> None:
        if training:
            self.progress(sum(sizes))

    def _read_back(self, log: list[Tensor], done: int) -> Tensor:
        """Log as a (batches, 3) tensor on the CPU, emptied; raises where a loss is not finite."""
        values = torch.stack(log).cpu().double()
        bad = (~values[:, 0].isfinite()).nonzero()
        if len(bad):
            index = int(bad[0])
            raise divergence(
                f"the loss became {values[index, 0].item()}", len(self.history), done - len(log) + index + 1, self.lr
            )
        log.clear()
        return values

    def _record(self, prefix: str, values: Tensor, sizes: list[int]) -> None:
        weights = torch.tensor(sizes, dtype=torch.float64)
        loss, nll, kl = ((weights @ values) / weights.sum()).tolist()
        best = next((row[prefix + "_loss"] for row in self.history[-2::-1] if row.get(prefix + "_loss_best")), math.inf)
        if not self._hooked:  # skorch's checkpoints look for a batch
            self.history.new_batch()
            self.history.record_batch(prefix + "_loss", loss)
        self.history.record(prefix + "_loss", loss)
        self.history.record(prefix + "_loss_best", loss < best)
        self.history.record(prefix + "_reconstruction", nll)
        self.history.record(prefix + "_kl", kl)
        self.history.record(prefix + "_batch_count", len(sizes))

    def _has_batch_callbacks(self) -> bool:
        hooks = ("on_batch_begin", "on_batch_end", "on_grad_computed")
        return any(
            getattr(type(cb), hook) is not getattr(Callback, hook) for _, cb in self.callbacks_ for hook in hooks
        )

    def train_step(self, batch: Batch, **fit_params: Any) -> dict[str, Any] | None:
        """Gradient step on one batch; None where it has no rows in any process."""
        self.optimizer_.zero_grad(set_to_none=True)
        if self.world is None:
            if self.spare is None:
                loss, parts, counted = differentiable_loss(self, batch)
                loss.backward()
            else:
                loss, parts, counted = spared_loss(self, batch)
            n_rows = batch.n_rows
        else:
            shared = shared_loss(self, batch)
            if shared is None:
                return None
            shared.backward()
            loss, parts, counted, n_rows = shared[:4]
        if self.lipschitz_penalty and batch.n_rows:
            with self.drawing("module"):
                penalty = self.lipschitz_penalty / n_rows * excess_gains(self.module_, batch).sum()
            if penalty.requires_grad:
                penalty.backward()
        if self.world is not None:
            add_gradients(self)
        if self._hooked:
            named = TeeGenerator(self.get_all_learnable_params())
            self.notify("on_grad_computed", named_parameters=named, batch=batch.pair, training=True)
        self.optimizer_.step()
        self.module_.likelihood.update_scale(counted)
        return {"loss": loss.detach(), "y_pred": None, "parts": parts, "n_rows": n_rows}

    def take_step(self, kind: int, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Gradient step on rows alone, as recorders take it; the loss, and what the history tells of it."""
        step: Any = self.train_step(Batch(x, noise=noise))
        return step["loss"], step["parts"]

    def _played_step(self, batch: Batch, **fit_params: Any) -> dict[str, Any]:
        loss, parts = self.recorder(batch.n_rows, batch.x, batch.noise)  # type: ignore[misc, arg-type]
        return {"loss": loss, "y_pred": None, "parts": parts, "n_rows": batch.n_rows}

    @torch.no_grad()
    def validation_step(self, batch: Batch, **fit_params: Any) -> dict[str, Any] | None:
        """Loss of one batch; None where it has no rows in any process."""
        found = self._loss(batch) if self.world is None else shared_loss(self, batch)
        if found is None:
            return None
        n_rows = found.n_rows if isinstance(found, SharedLoss) else batch.n_rows
        return {"loss": found[0], "y_pred": None, "parts": found[1], "n_rows": n_rows}

    def _loss(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Loss, what the history tells of it, and the nats that a learned noise is fitted to."""
        terms = self.module_(batch, batch.noise.transpose(0, 1))  # type: ignore[union-attr]  # drawn for every epoch
        loss = self.criterion_(terms)
        parts, counted = told_of(self.criterion_, terms, loss)
        return loss, parts, counted

    def __getstate__(self) -> dict[str, Any]:
        """All there is, with tensors on the CPU: a pickle can be opened where there is no GPU.

        Skorch pickles a pickle of the modules, in which classes of a notebook cannot be found again.
        """
        state = dict(self.__dict__)
        for name in ("_hooked", "_compiled"):
            state.pop(name, None)
        taken = None
        if torch.device(self.device).type != "cpu" or parametrized(self.module_, self.criterion_):
            names = ("module_", "criterion_", "optimizer_")
            module, criterion, optimizer = parts = copy.deepcopy(tuple(state[name] for name in names))
            module.cpu()
            criterion.cpu()
            optimizer.load_state_dict(optimizer.state_dict())  # casts the state to the weights' device
            state.update(zip(names, parts, strict=True))
            taken = take_off(module, criterion)
        # Callbacks may hold data, weights or open files; the other two are there already.
        state |= {"progress": noop, "callbacks_": [], "copies": {}, "chances": {}, "recorder": None}
        state |= dict.fromkeys(
            ("callbacks", "module", "criterion", "world", "sparing", "spare", "structure", "recorder")
        )
        return {"taken": taken, **state}

    def __setstate__(self, state: dict[str, Any]) -> None:
        put_back(state.pop("taken") or [])
        self.__dict__.update(state)
        self.module, self.criterion = self.module_, self.criterion_
        device, self.device = torch.device(self.device), "cpu"
        if device.type != "cpu" and is_available(device):
            self.move_to(device)
