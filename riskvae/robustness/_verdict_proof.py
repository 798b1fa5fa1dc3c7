"""Balls in which a detector's networks are proven to leave a verdict as it is."""

from typing import Any

import torch
from torch import Tensor

from riskvae.robustness._gain import gain, longest
from riskvae.robustness._network import Network
from riskvae.robustness._proven import Deviation, largest_radius

__all__ = ["Balls", "network_proof"]

# For rounding, in double precision.
_ROUNDED = 1.0 + 1e-9
# Halvings of the largest radius, and bisections from there; Jacobians' entries at once.
_HALVINGS, _BISECTIONS, _CHUNK = 14, 7, 2**23


def network_proof(
    line: Any,
    networks: list[tuple[Network, Network]],
    x: Tensor,
    side: Tensor,
    error: Tensor,
    most: Tensor,
    norm: float,
    free: Tensor | None,
) -> Tensor:
    """Radii (n,) in which all network verdicts stay above the line, of inliers; in which one stays below, else.

    Encoder and decoder leave their linearization by no more than what each activation can add; from how far their
    outputs reach follow the least and the largest evidence bound.

    Parameters
    ----------
    line : module
        With ``network_range``, in double precision.
    networks : list of (Network, Network)
        Encoder and decoder of each of its verdicts but the last.
    x : Tensor of shape (n, d)
        Rows, in double precision.
    side : Tensor of shape (n,)
        1 for outliers, -1 for inliers.
    error : Tensor of shape (n,)
        Rounding errors of the verdicts.
    most : Tensor of shape (n,)
        Largest radius that is tried.
    norm : {1, 2, inf}
        Of the ball.
    free : Tensor of shape (n, 1, d) or None
        0 for features that may not change.
    """
    size = max(1, _CHUNK // (x.shape[1] * max(1, line.widest)))
    found = []
    for start in range(0, len(x), size):
        rows = slice(start, start + size)
        balls = [
            Balls(line, i, *pair, x[rows], norm, None if free is None else free[rows])
            for i, pair in enumerate(networks)
        ]
        found.append(_largest(balls, side[rows], error[rows], most[rows]))
    return torch.cat(found)


def _reach_of(deviation: Deviation, rho: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """How far outputs may go down and up in balls of radius rho (n,), (n, k) each; linear share of it."""
    linear = rho[:, None] * longest(deviation.whitened, deviation.norm)
    down = up = linear
    if deviation.layers:
        found = deviation.remainders(rho)
        for layer, low, high, size in zip(deviation.layers, found.low, found.high, found.size, strict=True):
            plus, minus = layer.out.clamp(min=0.0), layer.out.clamp(max=0.0)
            low, high = low[..., None], high[..., None]
            by_norm = layer.out.norm(dim=2) * size[:, None]
            up = up + torch.minimum((plus @ high + minus @ low)[..., 0], by_norm)
            down = down + torch.minimum(-(plus @ low + minus @ high)[..., 0], by_norm)
    return _ROUNDED * down, _ROUNDED * up, linear


class Balls:
    """What one verdict can become in balls around n rows."""

    def __init__(
        self, line: Any, which: int, encoder: Any, decoder: Any, x: Tensor, norm: float, free: Tensor | None
    ) -> None:
        self.line, self.which, self.x, self.norm = line, which, x, norm
        out, _ = encoder(x)
        self.k = out.shape[1] // 2
        self.encoder = Deviation(encoder, x, torch.ones_like(out), free, norm)
        self.steep = _ROUNDED * gain(self.encoder.whitened[:, : self.k], norm)
        values, _ = decoder(out[:, : self.k])
        self.decoder = Deviation(decoder, out[:, : self.k], torch.ones_like(values))

    def range(self, radius: Tensor) -> tuple[Tensor, Tensor]:
        """Least and largest values (n,) above the line."""
        *posterior, linear = _reach_of(self.encoder, radius)
        each = torch.maximum(*posterior)[:, : self.k]
        # As a whole means move by no more than their Jacobian and what is beyond it allow.
        latent = torch.minimum(each.norm(dim=1), self.steep * radius + (each - linear[:, : self.k]).norm(dim=1))
        *decoded, _ = _reach_of(self.decoder, latent)
        return self.line.network_range(self.which, self.x, radius, self.norm, posterior, latent, decoded)


def _largest(balls: list[Balls], side: Tensor, error: Tensor, most: Tensor) -> Tensor:
    def holds(radius: Tensor) -> Tensor:
        low, high = (torch.stack(ends) for ends in zip(*(ball.range(radius) for ball in balls), strict=True))
        return torch.where(side > 0, (high < -error).any(0), (low > error).all(0))

    return largest_radius(holds, most, _HALVINGS, _BISECTIONS)
