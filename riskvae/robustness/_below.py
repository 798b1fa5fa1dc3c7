"""Bounds of margins from below, at one block of rows."""

import math
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from riskvae.robustness._coder import Coder
from riskvae.robustness._jacobian import Local
from riskvae.robustness._known import Known
from riskvae.robustness._lipschitz import linear_radius, whitened_lipschitz
from riskvae.robustness._noise import clopper_pearson, noise_distances, probit
from riskvae.robustness._proven import proven_margin
from riskvae.robustness._reach import Event, slope_limit
from riskvae.robustness._result import METHODS
from riskvae.robustness._third_order import Failures, curvature_limit
from riskvae.robustness._upper import Settings

__all__ = ["BOUNDS", "bounds_below"]

Array = NDArray[np.float64]

BOUNDS = METHODS[:6]
# The move of a mean, as a whole, is looked for in an ellipsoid with axes of about this share of the longest, or more.
_SHARE = 0.7


class _Told(NamedTuple):
    """What draws tell of r-robustness at some rows, each part at its share of the error."""

    p_low: Array
    inside: Tensor  # (n, n_draws)
    mirrored: Tensor | None  # at the mirror images of the draws
    settings: Settings

    @classmethod
    def by(cls, coder: Coder, local: Local, inside: Tensor, p_low: Array, r: Tensor, settings: Settings) -> Self:
        """Decode the mirror images, where a limit needs them."""
        if settings.n_limits == 1:
            return cls(p_low, inside, None, settings)
        mirrored = noise_distances(coder, local.mean, local.scale, local.reconstruction, -settings.bank)
        return cls(p_low, inside, mirrored <= r[:, None], settings)

    def of(self, weights: Tensor) -> Event:
        """The event under shifts in an ellipsoid, diag(axes / x) U^T its weights, x the longest axis.

        A shift w of length theta times the longest axis has a slope of at most M / theta, M the norm of the weights
        times grad f. As the second-order reach at M / theta falls by less than theta, theta = 1 is the worst there.
        """
        if self.mirrored is None:
            return Event(self.p_low, np.full(len(self.p_low), math.inf))
        told = self.inside, self.mirrored, self.settings.bank, weights, self.settings.bound_confidence
        slope = slope_limit(*told)
        if self.settings.n_limits == 2:
            return Event(self.p_low, slope)
        return Event(self.p_low, slope, Failures.of(self.p_low, slope, curvature_limit(*told)))


def bounds_below(
    coder: Coder,
    x: Tensor,
    count: int,
    local: Local,
    r: Tensor,
    settings: Settings,
    known: Known,
    box: tuple[Tensor, Tensor] | None,
) -> dict[str, Array]:
    """Probability of one block's rows, and the lower bounds that follow from it; NaN where abstained or unknown."""
    noise = noise_distances(coder, local.mean, local.scale, local.reconstruction, settings.bank)
    inside = noise <= r[:, None]
    times = inside.sum(1).cpu().numpy()
    p_low, _ = clopper_pearson(times, len(settings.bank), settings.bound_confidence)
    reach = np.where(p_low > 0.5, probit(np.maximum(p_low, 0.5)), math.nan)
    frobenius, whitened = (norms.cpu().double().numpy() for norms in (local.frobenius, local.whitened))
    least = local.scale.amin(1).cpu().double().numpy()
    norm, longer = settings.norm, _longer(x, settings.norm, box)
    bounds = dict.fromkeys(BOUNDS, np.full(len(x), math.nan))
    with np.errstate(divide="ignore"):  # an encoder that does not move has no upper end
        if "whitened" in settings.methods:
            bounds["whitened"] = reach / whitened
        if "theorem1" in settings.methods:
            # No larger than the other in exact arithmetic either: one has relaxations that the other lacks.
            bounds["theorem1"] = np.fmin(least * reach / (frobenius * longer), reach / whitened)
        tell = _Told.by(coder, local, inside, p_low, r, settings)
        event = tell.of(local.weights)
        if "second_order" in settings.methods:
            bounds["second_order"] = event.second_order() / whitened
        if "third_order" in settings.methods:
            bounds["third_order"] = event.reach() / whitened
        if known.layers and "lipschitz" in settings.methods:
            bounds["lipschitz"] = reach / (whitened_lipschitz(known.layers, local.scale).numpy() * longer)
        if known.network is not None and "proven" in settings.methods:
            free = None if box is None else (box[1] > box[0])[:count]
            weights, metric = local.wider(_SHARE)
            some, wide = event.only(slice(count)), tell.of(weights).only(slice(count))
            rows = x[:count], local.scale[:count]
            ellipsoids = metric[:count], local.stretch[:count]
            first = proven_margin(known.network, *rows, some, wide, *ellipsoids, free, norm)
            bounds["proven"] = np.concatenate((first, np.full(len(x) - count, math.nan)))
    radius = linear_radius(known.layers, x, norm).cpu().numpy() if known.layers else np.full(len(x), math.nan)
    return {"p_robust": times / len(settings.bank), "p_low": p_low, "linear_radius": radius, **bounds}


def _longer(x: Tensor, norm: float, box: tuple[Tensor, Tensor] | None) -> Array:
    """How much longer a change can be in norm 2 than in the norm that is asked for, (1 or n,)."""
    if norm != math.inf:
        return np.ones(1)
    count = x.new_full((1,), x[0].numel()) if box is None else (box[1] > box[0]).sum((1, 2))
    return np.asarray(count.cpu().double().sqrt().numpy())
