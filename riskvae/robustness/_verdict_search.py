"""The margin of a verdict, block by block: starts, rounds of the attack, a proof, and the detector's own word."""

import copy
import math
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
from riskvae.robustness._network import Network, UnknownLayerError, take_apart
from riskvae.robustness._projection import norm_of
from riskvae.robustness._separable import Moves, least_norm
from riskvae.robustness._verdict_proof import network_proof

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
        self.proof: Any = None  # the same line, on the CPU, in double precision
        self.networks: list[tuple[Network, Network]] = []  # of it, taken apart
        if detector.separable:
            self.proof = copy.deepcopy(detector.line).cpu().double()
            self._take_apart()
        else:
            self.notes.append("proven: nothing is known of this detector but its decisions")
        with torch.no_grad():
            self.targets = [(rows, detector.verdicts(rows).amin(0) >= 0) for rows in self._targets()]

    def _take_apart(self) -> None:
        """Networks that can be followed; a note where they cannot."""
        reason = "scores are means over draws, or of refined posteriors, or have no medians of their own"
        try:
            self.networks = [(take_apart(encoder), take_apart(decoder)) for encoder, decoder in self.proof.networks]
        except UnknownLayerError as error:
            reason = f"of the networks, {error}"
        if not self.networks:
            self.notes.append(f"proven by single features alone, and for outliers alone: {reason}")

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
        by_features, solved, error = self._by_features(flips, verdicts)
        found = self._attack(flips, self._starts(flips, solved), generator)
        proven = self._proven(flips, by_features, found.size, error)
        delta = torch.where(found.size.isfinite()[:, None], found.delta, torch.nan)
        return {name: host_array(values) for name, values in
                {"delta": delta, "estimate": flips.estimate(), "proven": proven}.items()}  # fmt: skip

    def _cap(self, rows: slice, x: Tensor) -> Tensor:
        if self.max_norm is not None:
            # Squares of larger norms are no numbers.
            most = np.minimum(self.max_norm, math.sqrt(torch.finfo(x.dtype).max))
            return in_block(most, self.detector, rows, x) * (1.0 - 4.0 * self.eps)
        spread = self.detector.spread(x)
        return _FAR * (norm_of(x, self.settings.norm) + norm_of(spread, self.settings.norm))

    # ---------------------------------------------------------------------------------------- starts

    @torch.no_grad()
    def _starts(self, flips: Flips, solved: Tensor | None) -> Tensor:
        """Changes (n, c, d) at whose ends, or on the way to which, the verdict may flip."""
        x = flips.x
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
        some += [self._nearest(flips, rows, inlier) for rows, inlier in self.targets]
        return flips.clip(torch.cat(some, 1))

    def _targets(self) -> list[Tensor]:
        """Rows whose verdict may be the other one."""
        made = self.detector.line.examples() if hasattr(self.detector.line, "examples") else None
        return [rows for rows in (made, self.references) if rows is not None]

    def _nearest(self, flips: Flips, rows: Tensor, inlier: Tensor) -> Tensor:
        """Changes to the nearest of some rows that have the other verdict; none where there are none."""
        norm, x = self.settings.norm, flips.x
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
    def _by_features(self, flips: Flips, verdicts: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        """Norms (n,) below which the verdict on single features stays; changes that would turn it; rounding errors."""
        x, detector, norm = flips.x, self.detector, self.settings.norm
        if not detector.separable:
            return torch.full((len(x),), torch.nan).to(x.device), None, torch.zeros_like(flips.cap)
        sums = detector.line.shares(x).abs().sum(1) + abs(detector.offset) + verdicts.abs().amax(0)
        error = _ERRORS * self.eps * sums
        limits, cap = self._limits(flips), flips.cap.double()
        masks = flips.side[:, 0] > 0
        rise = least_norm(Moves.up(detector.line, x, limits), -verdicts[-1] - error, norm)
        fall = least_norm(Moves.down(detector.line, x, limits, cap), verdicts[-1] - error, norm)
        goal, moved = (torch.where(masks[:, None], a, b) for a, b in zip(rise[1:], fall[1:], strict=True))
        bound = torch.where(masks, rise[0], torch.minimum(fall[0], cap))
        # Of values that are cut, scores fall by other rules.
        bound = torch.where(x.abs().amax(1) < detector.line.largest, bound, 0.0)
        return bound, torch.where(moved, goal.to(x) - x, 0.0), error

    @torch.no_grad()
    def _proven(self, flips: Flips, by_features: Tensor, size: Tensor, error: Tensor) -> Tensor:
        """Norms (n,) below which no change flips; NaN where nothing is known.

        To mask a row all verdicts must be won, and any that cannot is proof enough; no false alarm needs all to stay.
        """
        masks = flips.side[:, 0] > 0
        if not self.networks:
            return torch.where(masks, by_features, torch.nan)
        most = torch.where(masks, size.double(), torch.minimum(by_features, size.double()))
        most = torch.minimum(most, flips.cap.double())
        free = None if flips.free is None else flips.free.cpu().double()
        x, side = flips.x.cpu().double(), flips.side[:, 0].cpu()
        radius = network_proof(self.proof, self.networks, x, side, error.cpu(), most.cpu(), self.settings.norm, free)
        radius = radius.to(most)
        # Where values are cut scores fall by other rules.
        radius = torch.where(flips.x.abs().amax(1) + most < self.proof.largest, radius, 0.0)
        return torch.where(masks, torch.maximum(by_features, radius), radius)

    @staticmethod
    def _limits(flips: Flips) -> tuple[Tensor, Tensor]:
        """Least and largest values (n, d) that bounds and mask leave."""
        x = flips.x.double()
        if flips.box is None:
            far = torch.full_like(x, torch.inf)
            return -far, far
        return x + flips.box[0][:, 0], x + flips.box[1][:, 0]

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
