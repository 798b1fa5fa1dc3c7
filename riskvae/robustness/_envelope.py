"""What all attacks share: checked settings, starts, the ascent, and honest figures at the end."""

import math
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from riskvae._validation import check_parameters, derive_seed, draw_seed, host_array, integer, real
from riskvae.robustness._box import Box
from riskvae.robustness._checks import NORM, RULES, in_block, positive_per_row
from riskvae.robustness._coder import CHUNK, Coder, distance, gradient_of, noise_bank, paired_bank
from riskvae.robustness._noise import clopper_pearson
from riskvae.robustness._progress import examine_all
from riskvae.robustness._projection import ascent, project

Array = NDArray[Any]

# Fresh draws behind every reported figure.
_REPORT_DRAWS = 256
# Steps without a better point after which a step size halves.
_PATIENCE = 3
# Starts per restart that are tried for a few steps.
_EXPLORE = 3
# Times that a start is halved where the model overflows.
_NEARER = 20
# Shares of the entries that a step in norm 1 moves, in turn: the best perturbations have few entries, and which ones
# is found by steps of few and of many.
_SHARES = (0.0015, 0.01, 0.05, 0.2)

_RULES = {
    "norm": NORM,
    "n_draws": integer(1),
    "confidence": real(0.5, 1.0, closed="left"),
    **RULES,
}


class Settings(NamedTuple):
    """Parameters that attacks have in common."""

    max_norm: Any
    norm: float
    perturb: str
    n_steps: int
    n_restarts: int
    n_draws: int
    bounds: Any
    mask: Any
    batch_size: int
    random_state: Any
    verbose: int
    r: Any
    confidence: float

    def check(self, owner: str) -> None:
        """Raise on the first parameter that cannot be."""
        check_parameters(owner, self._asdict(), _RULES)


class _Climb(NamedTuple):
    """Where the ascents of n rows from c starts each have got to."""

    delta: Tensor  # (n, c, d)
    before: Tensor  # (n, c, d)
    step: Tensor  # (n, c)
    misses: Tensor  # (n, c): steps since the last better point
    best: Tensor  # (n, c, d)
    best_value: Tensor  # (n, c)

    @classmethod
    def at(cls, delta: Tensor, radius: Tensor) -> "_Climb":
        """Before the first step."""
        step = 2.0 * radius.expand(delta.shape[:2])
        return cls(delta, delta, step, torch.zeros_like(step), torch.zeros_like(delta), torch.zeros_like(step))

    def only(self, index: Tensor) -> "_Climb":
        """Some of the starts, by index (n, m)."""
        return _Climb(*(_take(part, index) for part in self))


def _take(values: Tensor, index: Tensor) -> Tensor:
    if values.dim() == 3:
        index = index[..., None].expand(-1, -1, values.shape[-1])
    return values.gather(1, index)


class Envelope:
    """One attack on the rows of a coder.

    Parameters
    ----------
    owner : str
        Name for messages.
    coder : Coder
        Model and rows.
    settings : Settings
        Checked but for what depends on the rows.
    """

    def __init__(self, owner: str, coder: Coder, settings: Settings) -> None:
        self.owner = owner
        self.coder = coder
        self.settings = settings
        n = len(coder.x)
        budget = self._budget()
        self.max_norm = (
            positive_per_row(f"{owner}: max_norm", settings.max_norm, n) if budget is None else budget.max(-1)
        )
        self.box = Box.of(owner, coder, settings.bounds, settings.mask, budget)
        self.seed = seed = draw_seed(settings.random_state)
        k = coder.n_components
        self.bank = paired_bank(settings.n_draws, k, derive_seed(seed, "search"), coder.x)
        self.fresh = noise_bank(_REPORT_DRAWS, k, derive_seed(seed, "report"), coder.x)
        d = coder.x[0].numel()
        self.random = noise_bank(settings.n_restarts, d, derive_seed(seed, "starts"), coder.x)
        self.flat = 0
        self.overflows = False
        self.still: Tensor | None = None  # rows of the block without a gradient at any start

    def _budget(self) -> Array | None:
        """Largest change of each feature, (1 or n, d), where ``max_norm`` says so for norm infinity."""
        n, d = len(self.coder.x), self.coder.x[0].numel()
        shape = np.shape(self.settings.max_norm)
        if shape not in ((d,), (1, d), (n, d)) or shape in ((n,), (1,)):
            return None
        if self.settings.norm != math.inf:
            raise ValueError(
                f"{self.owner}: max_norm can be given for each feature for norm=numpy.inf only; got norm="
                f"{self.settings.norm!r}. For other norms give the ball one max_norm, and limit features by bounds."
            )
        budget = np.asarray(self.settings.max_norm, dtype=np.float64).reshape(-1, d)
        if not (np.isfinite(budget) & (budget >= 0)).all() or not (budget > 0).any(1).all():
            raise ValueError(
                f"{self.owner}: max_norm for each feature must be finite, 0 or more, and above 0 for one at least; got "
                f"values from {budget.min():.3g} to {budget.max():.3g}."
            )
        return budget

    def free(self, rows: slice, x: Tensor) -> Tensor | None:
        """1 for the values (n, 1, d) that may change, which alone take part in directions; None for all."""
        return None if self.box is None else torch.lt(*self.box.around(rows, x)).to(x)

    def climb(
        self, rows: slice, x: Tensor, directions: Tensor, objective: Callable[[Tensor, Tensor], Tensor]
    ) -> Tensor:
        """Perturbations (n, d) of the largest objective that was met.

        Parameters
        ----------
        rows : slice
            Which rows of X the block holds; it may be longer, filled up.
        x : Tensor of shape (n, ...)
            The block.
        directions : Tensor of shape (n, c, d)
            Where to look first, beside random directions.
        objective : callable
            From perturbed rows (n * copies, ...), copies of a row side by side, and draws (m, k) to (n * copies,).
        """
        n = len(x)
        norm, copies = self.settings.norm, self.settings.n_restarts
        radius = in_block(self.max_norm, self.coder, rows, x)[:, None]
        low, high = (None, None) if self.box is None else self.box.around(rows, x)
        free = self.free(rows, x)

        def inside(delta: Tensor) -> Tensor:
            return project(delta, radius.expand(delta.shape[:2]), norm, low, high)

        def value(delta: Tensor) -> Tensor:
            moved = x[:, None] + delta.view(*delta.shape[:2], *x.shape[1:])
            return objective(moved.flatten(0, 1), self.bank).view(delta.shape[:2])

        with torch.no_grad():
            random = self.random
            if free is not None:
                directions, random = directions * free, random * free
            some = [ascent(directions, norm, share=1.0), ascent(random, norm).expand(n, -1, -1)]
            if norm == 1:
                some += [ascent(directions, norm, share=share) for share in _SHARES[:2]]
            pool = inside(torch.cat(some, 1) * radius[..., None])
            for _ in range(_NEARER):
                values = torch.stack([value(pool[:, i : i + 1])[:, 0] for i in range(pool.shape[1])], 1)
                known = values.isfinite()
                if known.all():
                    break
                self.overflows = True
                pool = torch.where(known[..., None], pool, 0.5 * pool)  # where the model overflows, nearer
            values = self._known(values)
            state = _Climb.at(_take(pool, values.topk(min(_EXPLORE * copies, pool.shape[1]), dim=1).indices), radius)
            # Doing nothing is the point to beat.
            state = state._replace(best_value=value(torch.zeros_like(state.best)))
        # More starts than restarts for a few steps, the best of them for the rest: no more work than without.
        early = self.settings.n_steps // (2 * _EXPLORE) if state.best.shape[1] > copies else 0
        state = self._ascend(state, value, inside, free, early)
        with torch.no_grad():
            state = state.only(state.best_value.topk(min(copies, state.best.shape[1]), dim=1).indices)
        late = self.settings.n_steps - early * (_EXPLORE if early else 0)
        state = self._ascend(state, value, inside, free, late + 1)  # the last step too is looked at
        if self.still is not None:
            self.flat += int(self.still[: rows.stop - rows.start].sum())
            self.still = None
        chosen = state.best_value.argmax(1)
        return state.best[torch.arange(n, device=x.device), chosen]

    def _ascend(
        self,
        state: "_Climb",
        value: Callable[[Tensor], Tensor],
        inside: Callable[[Tensor], Tensor],
        free: Tensor | None,
        n_steps: int,
    ) -> "_Climb":
        """Steps of projected ascent with momentum."""
        norm = self.settings.norm
        delta, before, step, misses, best, best_value = state
        for i in range(n_steps):
            with torch.enable_grad(), self.coder.first_order():
                here = delta.detach().requires_grad_()
                found = value(here)
                gradient = gradient_of(found, here)
            found, gradient = self._known(found), gradient.nan_to_num(0.0, 0.0, 0.0)
            gradient = gradient if free is None else gradient * free
            if self.still is None:
                self.still = (gradient == 0).all(-1).all(-1)
            better = found.detach() > best_value
            best_value = torch.where(better, found.detach(), best_value)
            best = torch.where(better[..., None], delta, best)
            misses = torch.where(better, 0.0, misses + 1.0)
            stuck = misses >= _PATIENCE
            step = torch.where(stuck, 0.5 * step, step)
            misses = torch.where(stuck, 0.0, misses)
            goal = inside(delta + step[..., None] * ascent(gradient, norm, _SHARES[i % 4]))
            ahead = inside(delta + 0.75 * (goal - delta) + 0.25 * (delta - before))
            # Where it is stuck, from the best point on; its momentum is of elsewhere.
            before = torch.where(stuck[..., None], best, delta)
            delta = torch.where(stuck[..., None], best, ahead)
        return _Climb(delta, before, step, misses, best, best_value)

    def _known(self, values: Tensor) -> Tensor:
        """Values of candidates; one that the model overflows at is not better than any."""
        known = values.isfinite()
        if not known.all():
            self.overflows = True
        return torch.where(known, values, -torch.inf)

    def distances(self, moved: Tensor, noise: Tensor, goal: Tensor, clean_scale: Tensor) -> Tensor:
        """Distances of perturbed rows' reconstructions from goals at draws (m, k), (m, n * copies).

        Perturbed rows (n * copies, ...), copies of a row side by side; goals (n, d) and clean scales (n, k).
        """
        copies = len(moved) // len(goal)
        mean, own = self.coder.encode(moved)
        scale = own if self.settings.perturb == "both" else clean_scale.repeat_interleave(copies, 0)
        decoded = self.coder.decode(mean + scale * noise[:, None])
        return distance(decoded, goal.repeat_interleave(copies, 0))

    def judge(self, values: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """Values (m, n) at fresh draws, by a function of the draws it is given."""
        count = max(1, CHUNK // x.numel())
        with torch.no_grad():
            return torch.cat([values(part) for part in self.fresh.split(count)])

    def surely(self, share: Array) -> NDArray[np.bool_]:
        """Whether shares of fresh draws show a probability above one half, at the stated confidence."""
        known = np.isfinite(share)
        count = np.rint(np.where(known, share, 0.0) * len(self.fresh))
        return known & (clopper_pearson(count, len(self.fresh), self.settings.confidence)[0] > 0.5)

    def run(self, examine: Callable[[slice, Tensor], dict[str, Tensor]]) -> dict[str, Array]:
        """Examine all blocks; their results, with the attacked rows as the caller gets them."""

        def on_host(rows: slice, x: Tensor) -> dict[str, Array]:
            return {name: host_array(values) for name, values in examine(rows, x).items()}

        blocks = self.coder.blocks(self.settings.batch_size)
        found, _ = examine_all(self.owner, blocks, len(self.coder.x), self.settings.verbose, on_host)
        if self.flat:
            warnings.warn(
                f"{self.owner}: the gradient is zero at every start for {self.flat} rows: the model does not react to "
                "its input there, so nothing was optimized. Look for a collapsed posterior, saturated units, or a "
                "detach inside.",
                UserWarning,
                stacklevel=3,
            )
        if self.overflows:
            warnings.warn(
                f"{self.owner}: the model answers NaN or infinity for some perturbed rows, though not for the rows "
                "themselves; these were passed over. Look for an encoder or decoder that overflows away from the data; "
                "clamp it, or take a smaller max_norm.",
                UserWarning,
                stacklevel=3,
            )
        x = self.coder.x
        delta = torch.from_numpy(found["delta"]).to(x)
        moved = x.flatten(1) + delta
        # The sum rounds: towards the row, entry by entry, so that the difference stays in the ball.
        too_far = (moved - x.flatten(1)).abs() > delta.abs()
        moved = torch.where(too_far, torch.nextafter(moved, x.flatten(1)), moved)
        if self.box is not None:
            moved = self.box.clip(moved, x.flatten(1))  # rounding in the sum
        found["X_adv"] = host_array(moved.view_as(x))
        found["delta"] = host_array((moved - x.flatten(1)).view_as(x))
        return found
