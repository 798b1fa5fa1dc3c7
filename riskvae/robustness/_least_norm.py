"""The smallest perturbation of each row that an attack needs: balls that shrink while it succeeds."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from riskvae._validation import derive_seed
from riskvae.robustness._coder import noise_bank
from riskvae.robustness._envelope import Envelope
from riskvae.robustness._projection import norm_of

__all__ = ["least_norm"]

# Balls that are tried in turn: after the first two the unknown factor is 2, and each one takes its root.
BALLS = 9
# Share of draws by which an attack must be clearer in the search than it must be at the end, where draws are fresh: two
# standard errors.
_CLEARER = 0.06


def least_norm(
    attack: Envelope, rows: slice, x: Tensor, towards: Tensor, gap: Callable[[Tensor, Tensor], Tensor], r: Tensor
) -> tuple[Tensor, Tensor]:
    """Smallest perturbations (n, d) with a gap of at most r in most fresh draws, and their norms (n,).

    The ball's radius is halved until the attack fails, and then bisected in the geometric scale, row by row; the
    search in each ball begins from the best of the others. The smallest that the fresh draws confirm is returned, at a
    confidence that is shared by all that were found. Where there is none, the norm is infinite, and the perturbation
    is that of the largest ball.

    Parameters
    ----------
    attack : Envelope
        With the largest ball.
    rows : slice
        Which rows of X the block holds.
    x : Tensor of shape (n, ...)
        The block.
    towards : Tensor of shape (n, d)
        From rows to their targets.
    gap : callable
        Distances (m, n * copies) of perturbed rows (n * copies, ...) to their targets, at draws (m, k).
    r : Tensor of shape (n,)
        Within which a target counts as reached.
    """
    seed, norm = derive_seed(attack.seed, "check"), attack.settings.norm
    check = noise_bank(len(attack.fresh), attack.bank.shape[1], seed, x)
    level = 1.0 - (1.0 - attack.settings.confidence) / (BALLS + 1)
    enough = min(1.0, attack.least_share(level) + _CLEARER)

    def share(delta: Tensor, draws: Tensor) -> Tensor:
        moved = x + delta.view_as(x)
        return (attack.judge(lambda noise: gap(moved, noise), x, draws) <= r).to(x).mean(0)

    nothing = torch.zeros_like(towards)
    kept = [nothing]
    high = torch.where(share(nothing, check) >= enough, 0.0, math.inf)
    low, best, size = torch.zeros_like(high), towards, attack.radius(rows, x)
    for _ in range(BALLS):
        found = attack.climb(rows, x, towards[:, None], lambda moved, noise: -gap(moved, noise).mean(0), size, best)
        length = norm_of(found, norm)
        reached = share(found, check) >= enough
        kept.append(found)
        best = torch.where((reached & (length < high))[:, None], found, best)
        low = torch.where(reached, low, torch.maximum(low, size))
        high = torch.where(reached, torch.minimum(high, length), high)
        # A row whose target is out of reach looks where it did before; one that is there already, next to itself.
        size = torch.where(low > 0, (low * high).sqrt(), 0.5 * high)
        size = torch.where(high.isfinite(), size, low).clamp(min=torch.finfo(size.dtype).tiny ** 0.5)
    shares = torch.stack([share(delta, attack.fresh) for delta in kept], 1)
    lengths = torch.stack([norm_of(delta, norm) for delta in kept], 1)
    sure = torch.from_numpy(attack.surely(shares.cpu().numpy(), level)).to(x.device)
    norms, chosen = torch.where(sure, lengths, math.inf).min(1)
    chosen = torch.where(norms.isfinite(), chosen, 1)
    # Where the target is reached, or is the row itself, a zero gradient on the way is no fault of the model.
    attack.still[rows] &= norms.isinf().cpu().numpy()[: rows.stop - rows.start]
    return torch.stack(kept, 1)[torch.arange(len(x), device=x.device), chosen], norms
