"""The margin of a verdict, block by block: starts, rounds of the attack, a proof, and the detector's own word."""

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from riskvae._validation import derive_seed, draw_seed, host_array
from riskvae.robustness._box import Box
from riskvae.robustness._checks import in_block, positive_per_row
from riskvae.robustness._coder import noise_bank
from riskvae.robustness._detector import Detector
from riskvae.robustness._flips import Flips, Found
from riskvae.robustness._projection import norm_of
from riskvae.robustness._separable import Moves, least_norm

__all__ = ["Search", "Settings"]

Array = NDArray[Any]

# Without max_norm a flip is looked for up to so many times the length of a row.
_FAR = 100.0
# Rows to start towards, the nearest ones; single features to start along; random directions for each restart.
_NEAREST, _FEATURES, _RANDOM = 6, 32, 3
# Rays whose crossings are found, for each restart.
_RAYS = 3
# Rounds of steps and trials; the first that gains less is the last.
_ROUNDS, _GAIN = 4, 2e-3
# Rounding errors that a flip must exceed, and those that proofs allow for, in units of the dtype's own.
_BEYOND, _ERRORS = 16.0, 256.0
# Attempts to confirm, each a little further.
_ATTEMPTS, _FURTHER = 8, 1e-6


class Settings(NamedTuple):
    """Parameters of the search."""

    norm: float
    max_norm: Any
    bounds: Any
    mask: Any
    references: Any
    n_steps: int
    n_restarts: int
    random_state: Any


class Search:
    """Margins of one detector's verdicts.

    Parameters
    ----------
    owner : str
        Name for messages.
    detector : Detector
        And rows.
    settings : Settings
        Checked but for what depends on the rows.
    """

    def __init__(self, owner: str, detector: Detector, settings: Settings) -> None:
        self.detector, self.settings = detector, settings
        x = detector.x
        n, d = x.shape
        self.eps = torch.finfo(detector.dtype).eps
        self.max_norm = None
        if settings.max_norm is not None:
            self.max_norm = positive_per_row(f"{owner}: max_norm", settings.max_norm, n, otherwise="None, ")
        self.box = Box.of(owner, detector, settings.bounds, settings.mask)
        self.decision = detector.decide(host_array(x))
        self.references = detector.rows_of(settings.references)
        self.seed = draw_seed(settings.random_state)
        self.random = noise_bank(_RANDOM * settings.n_restarts, d, derive_seed(self.seed, "directions"), x)
        self.notes: list[str] = []

    def examine(self, rows: slice, x: Tensor) -> dict[str, Array]:
        """Smallest changes that flip, estimates and proofs of a block."""
        settings = self.settings
        count = rows.stop - rows.start
        with torch.no_grad():
            verdicts = self.detector.verdicts(x)
        decision = verdicts.amin(0)
        # Where rounding makes the block see the other verdict, the detector's own word counts.
        own = torch.as_tensor(self.decision[rows] < 0).to(x.device)
        side = torch.where(torch.cat((own, own[-1:].expand(len(x) - count))), 1.0, -1.0).to(x)
        slack = _BEYOND * self.eps * (decision.abs() + abs(self.detector.offset))
        box = None if self.box is None else self.box.around(rows, x)
        flips = Flips(self.detector, x, side, slack, self._cap(rows, x), settings.norm, box)
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "trials"))
        proven, solved = self._proven(flips, verdicts)
        found = self._attack(flips, self._starts(flips, solved), generator)
        delta = torch.where(found.size.isfinite()[:, None], found.delta, torch.nan)
        return {name: host_array(values) for name, values in
                {"delta": delta, "estimate": flips.estimate(), "proven": proven}.items()}  # fmt: skip

    def _cap(self, rows: slice, x: Tensor) -> Tensor:
        if self.max_norm is not None:
            return in_block(self.max_norm, self.detector, rows, x) * (1.0 - 4.0 * self.eps)
        spread = self.detector.spread(x)
        return _FAR * (norm_of(x, self.settings.norm) + norm_of(spread, self.settings.norm))

    # ---------------------------------------------------------------------------------------- starts

    @torch.no_grad()
    def _starts(self, flips: Flips, solved: Tensor | None) -> Tensor:
        """Changes (n, c, d) at whose ends, or on the way to which, the verdict may flip."""
        x, norm = flips.x, self.settings.norm
        n, d = x.shape
        some = [flips.gradients(), flips.straight(self.random.expand(n, -1, -1))]
        features = some[0].abs().amax(1)
        top = features.topk(min(d, _FEATURES), dim=1).indices
        ends = torch.zeros(n, top.shape[1], d).to(x).scatter_(2, top[..., None], 1.0)
        some.append(flips.straight(torch.cat((ends, -ends), 1)))
        if solved is not None:
            some.append(solved[:, None])
        if hasattr(self.detector.line, "inliers"):
            towards = self.detector.line.inliers(x) - x[:, None]
            away = flips.straight(-towards)
            masks = (flips.side > 0)[..., None]
            some += [torch.where(masks, towards, away[:, : towards.shape[1]])]
        for rows in self._targets():
            some.append(self._nearest(flips, rows))
        return flips.clip(torch.cat(some, 1))

    def _targets(self) -> list[Tensor]:
        """Rows whose verdict may be the other one."""
        made = self.detector.line.examples() if hasattr(self.detector.line, "examples") else None
        return [rows for rows in (made, self.references) if rows is not None]

    def _nearest(self, flips: Flips, rows: Tensor) -> Tensor:
        """Changes to the nearest of some rows that have the other verdict; none where there are none."""
        norm, x = self.settings.norm, flips.x
        inlier = self.detector.verdicts(rows).amin(0) >= 0
        distance = torch.cdist(x, rows, p=float(norm))
        distance = torch.where(inlier == (flips.side > 0), distance, torch.inf)
        near, which = distance.topk(min(_NEAREST, len(rows)), dim=1, largest=False)
        return torch.where(near.isfinite()[..., None], rows[which] - x[:, None], 0.0)

    # ---------------------------------------------------------------------------------------- attack

    def _attack(self, flips: Flips, starts: Tensor, generator: torch.Generator) -> Found:
        settings, x = self.settings, flips.x
        found = Found(torch.zeros_like(x), torch.full_like(flips.cap, torch.inf))
        crossed, size = flips.crossings(starts, _RAYS * settings.n_restarts)
        found = found.better(crossed, size)
        first = crossed[:, : settings.n_restarts]
        again = torch.cat((first, first), 1)  # for either half of the aims
        for i in range(_ROUNDS):
            before = found.size
            found = flips.descend(again, found, settings.n_steps)
            found = flips.refine(found, settings.n_steps, generator)
            again = torch.where(found.size.isfinite()[:, None, None], found.delta[:, None], again[:, :2])
            if i and not (found.size < (1.0 - _GAIN) * before).any():
                break
        return found

    # ----------------------------------------------------------------------------------------- proof

    @torch.no_grad()
    def _proven(self, flips: Flips, verdicts: Tensor) -> tuple[Tensor, Tensor | None]:
        """Norms (n,) below which no change flips, NaN where nothing is known; and changes that would do for one verdict."""
        x, detector = flips.x, self.detector
        nothing = torch.full((len(x),), torch.nan, dtype=torch.float64, device=x.device)
        if not detector.separable:
            return nothing, None
        sums = detector.line.shares(x).abs().sum(1) + abs(detector.offset) + verdicts[-1].abs()
        error = _ERRORS * self.eps * sums
        limits = self._limits(flips)
        masks = flips.side[:, 0] > 0
        bound, up, moved_up = least_norm(Moves.up(detector.line, x, limits), -verdicts[-1] - error, self.settings.norm)
        # Rows that are inliers: what the features alone would take.
        _, down, moved_down = least_norm(
            Moves.down(detector.line, x, limits, flips.cap.double()), verdicts[-1] + error, self.settings.norm
        )
        goal, moved = (torch.where(masks[:, None], a, b) for a, b in ((up, down), (moved_up, moved_down)))
        solved = torch.where(moved, goal.to(x) - x, 0.0)
        return torch.where(masks, bound, nothing), solved

    def _limits(self, flips: Flips) -> tuple[Tensor, Tensor]:
        """Least and largest values (n, d) that the box and the largest norm leave."""
        x = flips.x.double()
        low, high = x - flips.cap[:, None], x + flips.cap[:, None]
        if flips.box is not None:
            low, high = torch.maximum(low, x + flips.box[0][:, 0]), torch.minimum(high, x + flips.box[1][:, 0])
        return low, high

    # -------------------------------------------------------------------------------------- confirm

    def confirmed(self, delta: Array) -> dict[str, Array]:
        """Changed rows that the detector itself takes for the other kind; the rows themselves where it does not."""
        x = self.detector.x
        change = torch.from_numpy(np.nan_to_num(delta)).to(x)
        hoped = torch.from_numpy(np.isfinite(delta).all(1)).to(x.device) & (change != 0).any(1)
        found = torch.zeros_like(hoped)
        moved = x
        for i in range(_ATTEMPTS):
            further = x + change * (1.0 + _FURTHER * (4.0**i - 1.0))
            further = further if self.box is None else self.box.clip(further, x)
            moved = torch.where((hoped & ~found)[:, None], further, moved)
            flipped = (self.detector.decide(host_array(moved)) < 0) != (self.decision < 0)
            found = hoped & torch.from_numpy(flipped).to(x.device)
            if (found == hoped).all():
                break
        moved = torch.where(found[:, None], moved, x)
        size = norm_of((moved - x).double(), self.settings.norm)
        if self.max_norm is not None:
            found &= size <= torch.as_tensor(self.max_norm).to(size)
            moved = torch.where(found[:, None], moved, x)
        rows = host_array(moved)
        return {
            "upper": host_array(torch.where(found, size, torch.inf)),
            "censored": ~host_array(found),
            "X_adv": rows,
            "delta": rows - host_array(x),
        }
