"""Whether a graph may wait until it is known which losses of a batch weigh, and whether that pays."""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from riskvae._validation import is_ours, isolated_rng
from riskvae.training._objective import Objective
from riskvae.training._vae import VAE

__all__ = ["Sparing", "has_hooks", "what_to_spare"]

# Above this share of losses that weigh, what is saved is within the noise of an epoch: 2 % at a half.
_MOST = 0.4

# Floating-point operations in the time that another pass costs beside its products.
_WORTH = {"cpu": 2e7}
_WORTH_ELSEWHERE = 3e9  # on a GPU, the host waits until it is known which losses weigh
_WORTH_OF_RECORDING = 1e11  # and starts each kernel, in four milliseconds: a step that is played takes less than one

_ROWS = 6  # that networks are tried on


class Sparing:
    """What is known of a model's networks in a training: whether they treat rows apart, and what they cost.

    Nothing hangs on a stopwatch. With and without their graph, sums are rounded differently, and a training must be the
    same in every run.

    Parameters
    ----------
    vae : VAE
        The model, on its device.
    device : torch.device
        That device.
    """

    def __init__(self, vae: VAE, device: torch.device) -> None:
        self.device = device
        self.may_wait: dict[str, bool] = {}
        self.costs: dict[str, int] = {}
        marks = vae.likelihood.n_features if vae.told == "places" else 0
        widths = {"encoder": vae.likelihood.n_inputs + marks, "decoder": vae.n_components}
        for name, width in widths.items():
            rows = torch.randn(_ROWS, width, generator=torch.Generator().manual_seed(0), dtype=torch.float32).to(device)
            part = getattr(vae, name)
            self.may_wait[name] = rows_are_apart(part, rows)
            self.costs[name] = flops(part, rows[:1]) if self.may_wait[name] else 0

    def choose(self, objective: Objective, n_rows: int, n_draws: int, *, recorded: bool = False) -> str | None:
        """Whose graph waits, as :class:`OwnTerms` takes it, in an epoch with batches of some rows and draws.

        A step whose graph waits cannot be ``recorded``.
        """
        draws, rows = objective.weighing(n_draws)
        if draws > _MOST or not self.may_wait["decoder"]:
            return None
        saved = n_rows * n_draws * self.costs["decoder"] * (2.0 - 3.0 * draws)
        spare = "decoder"
        if rows <= _MOST and self.may_wait["encoder"] and is_ours(objective.written):
            saved += n_rows * self.costs["encoder"] * (2.0 - 3.0 * rows)
            spare = "rows"
        worth = _WORTH_OF_RECORDING if recorded else _WORTH.get(self.device.type, _WORTH_ELSEWHERE)
        return spare if saved > worth else None


def what_to_spare(net: Any) -> str | None:
    """Whose graph waits in an epoch of a net until it is known which losses weigh."""
    if net.compile_step or net.criterion_.weighing(net.n_draws)[0] == 1:
        return None
    if net.sparing is None:
        net.sparing = Sparing(net.module_, torch.device(net.device))
    recorded = net.recorder is not None
    return net.sparing.choose(net.criterion_, net.batch_size, net.n_draws, recorded=recorded)


@torch.no_grad()
def rows_are_apart(module: nn.Module, rows: Tensor) -> bool:
    """Whether in training a module gives a row the same answer in any company and every time, and keeps no record."""
    if has_hooks(module):
        return False
    twin, generator = copy.deepcopy(module).train(), torch.Generator().manual_seed(1)
    for weights in twin.parameters():  # away from where a power iteration stands still, as it does not in training
        step = torch.randn(weights.shape, generator=generator, dtype=torch.float32).to(weights)
        weights.add_(0.1 * step * weights.abs().mean())
    before = [value.clone() for value in twin.state_dict().values() if isinstance(value, Tensor)]
    with isolated_rng(0, rows.device):
        states = _states(rows.device)
        try:
            answers = [twin(rows.clone()) for _ in range(2)]
            some = twin(rows[::2].clone())
        except Exception:  # it takes rows of some kind only
            return False
        drawn = not all(torch.equal(a, b) for a, b in zip(states, _states(rows.device), strict=True))
    after = [value for value in twin.state_dict().values() if isinstance(value, Tensor)]
    kept = all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    alike = torch.equal(*answers) and torch.allclose(answers[0][::2], some, rtol=1e-4, atol=1e-5)
    return not drawn and kept and alike


def has_hooks(module: nn.Module) -> bool:
    """Whether somebody looks at the passes of a part of a module."""
    names = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return any(getattr(part, name, None) for part in module.modules() for name in names)


@torch.no_grad()
def flops(module: nn.Module, rows: Tensor) -> int:
    """Floating-point operations of the products in a forward pass, for each of some rows."""
    twin = copy.deepcopy(module).eval()
    with FlopCounterMode(display=False) as counter:
        twin(rows)
    return counter.get_total_flops() // len(rows)


def _states(device: torch.device) -> list[Tensor]:
    """States of the generators that a module on a device may draw from."""
    return [torch.get_rng_state(), *([] if device.type == "cpu" else [getattr(torch, device.type).get_rng_state()])]
