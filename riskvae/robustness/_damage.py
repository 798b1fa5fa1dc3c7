"""The search for damage that single attacks and whole curves share: in one ball, or in balls inside each other."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from riskvae._validation import derive_seed
from riskvae.robustness._checks import in_block
from riskvae.robustness._coder import CHUNK
from riskvae.robustness._envelope import Envelope
from riskvae.robustness._noise import noise_distances
from riskvae.robustness._radius import auto_radius
from riskvae.robustness._starts import first_directions

__all__ = ["damage_figures", "damage_search"]

Array = NDArray[Any]


def damage_search(
    attack: Envelope, radii: Sequence[float | Array], *, keep: bool = True
) -> Callable[[slice, Tensor], dict[str, Tensor]]:
    """What is to be done with a block of rows: the worst perturbation for each radius, and how far it moves.

    Parameters
    ----------
    attack : Envelope
        Settings, and the fresh draws.
    radii : sequence of m floats or ndarrays of shape (n,)
        Of the balls, from the smallest on; 0 is the row itself. What was found in one is where the search in the next
        begins, and is kept there where nothing does more on the fresh draws.
    keep : bool, default=True
        Whether perturbations are kept, ``delta`` (n, m, d).
    """
    coder, both = attack.coder, attack.settings.perturb == "both"

    def examine(rows: slice, x: Tensor) -> dict[str, Tensor]:
        with torch.no_grad():
            mean, scale = coder.encode(x)
            reference = coder.decode(mean)
        noise = noise_distances(coder, mean, scale, reference, attack.fresh)
        directions, *features = _starts(attack, rows, x)

        def damage(moved: Tensor, draws: Tensor) -> Tensor:
            return attack.distances(moved, draws, reference, scale).mean(0)

        delta, distances, posterior = torch.zeros_like(x).flatten(1), noise, (mean, scale)
        likelihood = clean = _log_likelihood(attack, x, mean, scale)
        parts: list[tuple[Tensor, Tensor, Tensor]] = []
        for radius in radii:
            if np.any(radius):
                size = in_block(radius, coder, rows, x)
                found = attack.climb(rows, x, directions, damage, size, delta if parts else None, *features)
                with torch.no_grad():
                    moved, own = coder.encode(x + found.view_as(x))
                posterior = (moved, own if both else scale)
                reached = noise_distances(coder, *posterior, reference, attack.fresh, attacked=True)
                better = (reached.mean(1) >= distances.mean(1))[:, None]
                delta, distances = torch.where(better, found, delta), torch.where(better, reached, distances)
                likelihood = torch.where(better[:, 0], _log_likelihood(attack, x, *posterior), likelihood)
            parts.append((delta, distances, likelihood))
        deltas, moves, likelihoods = (torch.stack(part, 1) for part in zip(*parts, strict=True))
        figures = {
            "done": torch.ones(len(x), dtype=torch.bool),
            "noise": noise,
            "distances": moves,
            "log_likelihood": clean,
            "log_likelihood_adv": likelihoods,
        }
        return {**figures, "delta": deltas} if keep else figures

    return examine


def damage_figures(attack: Envelope, found: dict[str, Array], r: float | Array | None) -> dict[str, Any]:
    """Figures of all rows, (n,) or (m, n) over radii, from the distances at the fresh draws; r is None for "auto"."""
    done, noise, distances = found["done"], found["noise"], found["distances"]
    radius = auto_radius(torch.from_numpy(noise[done])) if r is None else r
    clean, adv = found["log_likelihood"], np.where(done[:, None], found["log_likelihood_adv"], np.nan).T
    broken = (distances > np.reshape(radius, (-1, 1, 1))).mean(-1, dtype=distances.dtype)
    p_broken = np.where(done[:, None], broken, np.nan).T
    return {
        "damage": np.where(done[:, None], distances.mean(-1), np.nan).T,
        "clean_damage": np.where(done, noise.mean(-1), np.nan),
        "log_likelihood": clean,
        "log_likelihood_adv": adv,
        "degradation": np.abs(adv - clean) / np.abs(clean),
        "p_broken": p_broken,
        "success": attack.surely(p_broken),
        "r": radius,
    }


def _starts(attack: Envelope, rows: slice, x: Tensor) -> list[Tensor]:
    """Directions (n, c, d) and, in norm 1, features, each way."""
    coder, settings = attack.coder, attack.settings
    length = attack.radius(rows, x)
    if settings.norm == math.inf:
        length = length * math.sqrt(x[0].numel())
    features = 8 * settings.n_restarts if settings.norm == 1 else 0
    seed = derive_seed(attack.seed, "outputs")
    found = first_directions(coder, x, attack.free(rows, x), length, seed, 2 * settings.n_restarts, features)
    return [torch.cat((part, -part), 1) for part in found]


def _log_likelihood(attack: Envelope, x: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """Mean log-likelihoods (n,) of rows at fresh draws from a posterior; NaN without one."""
    coder, total = attack.coder, mean.new_zeros(len(mean))
    with torch.no_grad():
        for noise in attack.fresh.split(max(1, CHUNK // x.numel())):
            found = coder.log_likelihood(x.flatten(1), mean + scale * noise[:, None])
            total += math.nan if found is None else found.sum(0)
    return total / len(attack.fresh)
