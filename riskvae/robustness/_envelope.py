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
from riskvae.robustness._ascent import SHARES, Ascent
from riskvae.robustness._box import Box
from riskvae.robustness._checks import NORM, RULES, in_block, positive_per_row
from riskvae.robustness._coder import CHUNK, Coder, distance, noise_bank, paired_bank
from riskvae.robustness._noise import clopper_pearson
from riskvae.robustness._progress import examine_all
from riskvae.robustness._projection import ascent, norm_of, project
from riskvae.robustness._radius import auto_bank

Array = NDArray[Any]

# Draws of the bank on which starts are tried.
_FEW = 4

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
        self.bank = paired_bank(settings.n_draws, coder.n_components, derive_seed(seed, "search"), coder.x)
        # Behind every reported figure. Those of "auto", so that what the noise alone does is found once.
        self.fresh = auto_bank(coder, seed)
        d = coder.x[0].numel()
        self.random = noise_bank(settings.n_restarts, d, derive_seed(seed, "starts"), coder.x)
        self.overflows = False
        self.still = np.zeros(n, dtype=bool)  # rows without a gradient at any start

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
                f"{self.owner}: max_norm for each feature must be finite, 0 or more, and above 0 for at least one; got "
                f"values from {budget.min():.3g} to {budget.max():.3g}."
            )
        return budget

    def free(self, rows: slice, x: Tensor) -> Tensor | None:
        """1 for the values (n, 1, d) that may change, which alone take part in directions; None for all."""
        return None if self.box is None else torch.lt(*self.box.around(rows, x)).to(x)

    def climb(
        self,
        rows: slice,
        x: Tensor,
        directions: Tensor,
        objective: Callable[[Tensor, Tensor], Tensor],
        radius: Tensor,
        known: Tensor | None = None,
        features: Tensor | None = None,
    ) -> Tensor:
        """Perturbations (n, d) of the largest objective that was met.

        Parameters
        ----------
        rows : slice
            Which rows of X the block holds; it may be longer, filled up.
        x : Tensor of shape (n, ...)
            The block.
        directions : Tensor of shape (n, c, d)
            Where to look first, beside random directions; in norm 1, along the largest entries of both.
        objective : callable
            From perturbed rows (n * copies, ...), copies of a row side by side, and draws (m, k) to (n * copies,).
        radius : Tensor of shape (n,)
            Of the ball.
        known : Tensor of shape (n, d), default=None
            Perturbations such as those of another ball: to begin from as they are and as long as the ball is wide, and
            to beat. None is doing nothing.
        features : Tensor of shape (n, c, d), default=None
            Unit vectors to begin from as well, as they are.
        """
        n, norm = len(x), self.settings.norm
        reach = radius[:, None]
        low, high = (None, None) if self.box is None else self.box.around(rows, x)
        free, random = self.free(rows, x), self.random
        if free is not None:
            directions, random = directions * free, random * free

        def inside(delta: Tensor) -> Tensor:
            return project(delta, reach.expand(delta.shape[:2]), norm, low, high)

        def value(delta: Tensor, bank: Tensor = self.bank) -> Tensor:
            moved = x[:, None] + delta.view(*delta.shape[:2], *x.shape[1:])
            return objective(moved.flatten(0, 1), bank).view(delta.shape[:2])

        shares = SHARES if norm == 1 else (1.0,)
        pools = [ascent(torch.cat((directions, random.expand(n, -1, -1)), 1), norm, share) for share in shares]
        if features is not None:
            pools.append(features if free is None else features * free)
        pools = [inside(pool * reach[..., None]) for pool in pools]
        if known is None:
            known = torch.zeros_like(pools[0][:, 0])
        else:
            known = inside(known[:, None])[:, 0]
            longer = known * (radius / norm_of(known, norm).clamp(min=1e-30))[:, None]
            pools.append(torch.cat((known[:, None], inside(longer[:, None])), 1))
        few = self.bank[:: max(1, len(self.bank) // _FEW)]
        search = Ascent(value, lambda delta: value(delta, few), inside, norm, free, self.coder.first_order)
        found = search.best(pools, known, reach, self.settings.n_steps, self.settings.n_restarts)
        self.overflows |= search.overflows
        if search.still is not None:
            self.still[rows] |= host_array(search.still[: rows.stop - rows.start])
        return found

    def distances(self, moved: Tensor, noise: Tensor, goal: Tensor, clean_scale: Tensor) -> Tensor:
        """Distances of perturbed rows' reconstructions from goals at draws (m, k), (m, n * copies).

        Perturbed rows (n * copies, ...), copies of a row side by side; goals (n, d) and clean scales (n, k).
        """
        copies = len(moved) // len(goal)
        mean, own = self.coder.encode(moved)
        scale = own if self.settings.perturb == "both" else clean_scale.repeat_interleave(copies, 0)
        decoded = self.coder.decode(mean + scale * noise[:, None])
        return distance(decoded, goal.repeat_interleave(copies, 0))

    def radius(self, rows: slice, x: Tensor) -> Tensor:
        """Of the ball, for the rows of a block."""
        return in_block(self.max_norm, self.coder, rows, x)

    def judge(self, values: Callable[[Tensor], Tensor], x: Tensor, draws: Tensor | None = None) -> Tensor:
        """Values (m, n) at fresh draws, or at others, by a function of the draws it is given."""
        count = max(1, CHUNK // x.numel())
        with torch.no_grad():
            return torch.cat([values(part) for part in (self.fresh if draws is None else draws).split(count)])

    def surely(self, share: Array, confidence: float | None = None) -> NDArray[np.bool_]:
        """Whether shares of fresh draws show a probability above one half, at the stated confidence or another."""
        known = np.isfinite(share)
        count = np.rint(np.where(known, share, 0.0) * len(self.fresh))
        low, _ = clopper_pearson(count, len(self.fresh), confidence or self.settings.confidence)
        return known & (low > 0.5)

    def least_share(self, confidence: float) -> float:
        """Smallest share of fresh draws that shows a probability above one half."""
        shares = np.arange(len(self.fresh) + 1) / len(self.fresh)
        return float(shares[self.surely(shares, confidence)].min(initial=1.0))

    def run(self, examine: Callable[[slice, Tensor], dict[str, Tensor]]) -> dict[str, Array]:
        """Results of all blocks, by name; and what must be said of them."""

        def on_host(rows: slice, x: Tensor) -> dict[str, Array]:
            return {name: host_array(values) for name, values in examine(rows, x).items()}

        blocks = self.coder.blocks(self.settings.batch_size)
        found, _ = examine_all(self.owner, blocks, len(self.coder.x), self.settings.verbose, on_host)
        if self.still.any():
            warnings.warn(
                f"{self.owner}: the gradient is zero at every start for {self.still.sum()} rows: the model does not "
                "react to its input there, so nothing was optimized. Look for a collapsed posterior, saturated units, "
                "or a detach inside.",
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
        return found

    def landed(self, delta: Array) -> tuple[Array, Array]:
        """Changed rows as the caller gets them, and their differences, for perturbations (n, d)."""
        x = self.coder.x.flatten(1)
        change = torch.from_numpy(delta).to(x)
        moved = x + change
        # The sum rounds: towards the row, entry by entry, so that the difference stays in the ball.
        too_far = (moved - x).abs() > change.abs()
        moved = torch.where(too_far, torch.nextafter(moved, x), moved)
        if self.box is not None:
            moved = self.box.clip(moved, x)  # rounding in the sum
        shape = self.coder.x.shape
        return host_array(moved.view(shape)), host_array((moved - x).view(shape))
