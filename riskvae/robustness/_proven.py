"""How far an encoder's mean may be from its linearization in a ball, proven; and the margin that follows from that."""

import copy
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri
from torch import Tensor

from riskvae.robustness._gain import gain, largest_singular, longest
from riskvae.robustness._network import Activation, Network
from riskvae.robustness._reach import Event
from riskvae.robustness._sectors import sector_norm

__all__ = ["Deviation", "largest_radius", "proven_margin"]

Array = NDArray[np.float64]

# Halvings of the radius until it holds, and bisections from there.
_HALVINGS, _STEPS = 60, 10
# Activations whose slopes are taken together.
_BENT = 96
# For rounding, in double precision.
_ROUNDED = 1.0 + 1e-9


class _Layer(NamedTuple):
    """One activation at n rows, with u units."""

    activation: Activation
    a: Tensor  # (n, u): pre-activations
    jacobian: Tensor  # (n, u, d): of these, by the row
    length: Tensor  # (n, u): how far a unit of radius moves each
    earlier: list[Tensor]  # (n, u, v): of these, by what is added to earlier activations
    out: Tensor  # (n, k, u): of the whitened mean, by what is added to this one


class Deviation:
    r"""Bounds of how far an encoder's whitened mean moves beyond its linearization, in balls around some rows.

    At a row the pre-activations of layer l move by :math:`t_l = A_l \delta + \sum_{j<l} G_{lj} e_j` under a
    perturbation :math:`\delta`, with A and G the network's own linear maps at the row, and e_j by how much the
    activations j leave their tangents, which follows from how far t_j reaches. So, layer by layer, for a radius rho,

    .. math:: |t_{lu}| \le \rho \lVert A_{lu} \rVert_* + \sup_e \bigl| \textstyle\sum_j G_{lju} e_j \bigr|,

    and the whitened mean leaves its linearization by at most :math:`\sup_e \lVert \sum_j G_j e_j \rVert`. Of this the
    least of several bounds counts; each holds for all perturbations of norm rho. ||.||_* is the dual norm.

    Parameters
    ----------
    network : Network
        The mean first among its outputs.
    x : Tensor of shape (n, ...)
        Rows, in double precision.
    scale : Tensor of shape (n, k)
        Posterior standard deviations at the rows.
    free : Tensor of shape (n, 1, d), default=None
        0 for features that may not change; None where all may.
    norm : {1, 2, inf}, default=2
        Of perturbations.
    """

    def __init__(self, network: Network, x: Tensor, scale: Tensor, free: Tensor | None = None, norm: float = 2) -> None:
        self.n, self.k = scale.shape
        self.norm = norm
        self.weights: Tensor | None = None  # to go on with
        self.layers: list[_Layer] = []
        activations = network.activations
        _, shapes = network(x)
        taps = [torch.zeros_like(a) for a in shapes]

        def outputs(x: Tensor, *taps: Tensor) -> tuple[Tensor, ...]:
            mean, before = network(x, list(taps))
            return (*(a.flatten(1) for a in before), mean.flatten(1)[:, : self.k] / scale)

        values, pull = torch.func.vjp(outputs, x, *taps)  # type: ignore[misc]
        maps = [self._maps(values, pull, i) for i in range(len(values))]
        if free is not None:
            maps = [[found[0] * free, *found[1:]] for found in maps]
        self.whitened = maps[-1][0]
        for i, activation in enumerate(activations):
            jacobian = maps[i][0]
            self.layers.append(
                _Layer(activation, values[i], jacobian, longest(jacobian, norm), maps[i][1 : i + 1], maps[-1][i + 1])
            )
        self.reach = gain(self.whitened, norm)
        if self.layers:
            self.out = torch.cat([layer.out for layer in self.layers], 2)
            self.length = torch.cat([layer.length for layer in self.layers], 1)

    def _maps(self, values: tuple[Tensor, ...], pull: Callable[..., tuple[Tensor, ...]], which: int) -> list[Tensor]:
        """Jacobians (n, units, inputs) of one of the outputs, by rows and by what is added to activations before."""
        n, units = values[which].shape
        parts = []
        for start in range(0, units, 64):
            basis = torch.eye(units, dtype=values[which].dtype)[start : start + 64]
            wanted = [
                basis[:, None].expand(-1, n, -1) if i == which else value.new_zeros(()).expand(len(basis), *value.shape)
                for i, value in enumerate(values)
            ]
            found = torch.func.vmap(pull)(tuple(wanted))
            parts.append(
                [part.flatten(2).transpose(0, 1) for part in found[: which + 1 if which < len(values) - 1 else None]]
            )
        return [torch.cat(part, 1) for part in zip(*parts, strict=True)]

    def remainders(self, rho: Tensor) -> "_Remainders":
        """How far each activation may leave its tangent in balls of radius rho (n,)."""
        low: list[Tensor] = []
        high: list[Tensor] = []
        size: list[Tensor] = []
        slopes: list[Tensor] = []
        shares: list[Tensor] = []
        more: list[Tensor] = []
        for layer in self.layers:
            down, up = self._reach(layer, rho, low, high, size)
            least, most = layer.activation.remainder(layer.a, down, up)
            reach = layer.activation.reach(layer.a, down, up).clamp(min=1e-300)
            largest = torch.maximum(least.abs(), most.abs())
            share = largest / reach  # |e| <= share |t|, as a bound of |e| is convex in t
            added = (torch.maximum(down, up) - rho[:, None] * layer.length).clamp(min=0.0)
            low.append(least)
            high.append(most)
            size.append(torch.minimum(self._moved(rho, share, layer.jacobian, added), largest.norm(dim=1)))
            slopes.append(layer.activation.slopes(layer.a, least / reach, most / reach))
            shares.append(share)
            more.append(added)
        return _Remainders(low, high, size, slopes, shares, more)

    @staticmethod
    def _reach(
        layer: _Layer, rho: Tensor, least: list[Tensor], most: list[Tensor], size: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """How far pre-activations may go down and up, (n, u) each."""
        down = up = rho[:, None] * layer.length
        for matrix, low, high, norm in zip(layer.earlier, least, most, size, strict=True):
            plus, minus = matrix.clamp(min=0.0), matrix.clamp(max=0.0)
            by_norm = matrix.norm(dim=2) * norm[:, None]
            up = up + torch.minimum(_apply(plus, high) + _apply(minus, low), by_norm)
            down = down + torch.minimum(-_apply(plus, low) - _apply(minus, high), by_norm)
        return down, up

    def deviation(self, rho: Tensor, found: "_Remainders") -> Tensor:
        """Bound (n,) of how far the whitened mean leaves its linearization."""
        if not self.layers:
            return torch.zeros(self.n, dtype=self.whitened.dtype)
        each = torch.zeros_like(found.size[0])
        for layer, low, high, share, more in zip(
            self.layers, found.low, found.high, found.share, found.more, strict=True
        ):
            weight = _balance(layer.out, layer.length)
            by_norm = largest_singular((layer.out * (share * weight).sqrt()[:, None]).transpose(1, 2))
            by_norm = by_norm * self._moved(rho, (share / weight).sqrt(), layer.jacobian, more)
            each = each + torch.minimum(_box_norm(layer.out, low, high), by_norm)
        together = _box_norm(self.out, torch.cat(found.low, 1), torch.cat(found.high, 1))
        return _ROUNDED * torch.minimum(each, together)

    def turned(self, metric: Tensor) -> "Deviation":
        """The same with moves w of the whitened mean measured as T w, T (n, k, k)."""
        other = copy.copy(self)
        other.whitened, other.weights = metric @ self.whitened, None
        other.reach = gain(other.whitened, self.norm)
        if self.layers:
            other.out = metric @ self.out
        return other

    def move(self, rho: Tensor, found: "_Remainders") -> Tensor:
        r"""Bound (n,) of the whole whitened move in balls of radius rho.

        Where an activation leaves its tangent by e, it acts as one of another slope: e = kappa t, with kappa in an
        interval. Of those that matter most that is used as it is (see :func:`sector_norm`); the remainders of the
        others are added, also as they reach the former.
        """
        if not self.layers:
            return self.reach * rho
        return torch.stack([self._move(i, float(rho[i]), found) for i in range(self.n)])

    def _move(self, i: int, rho: float, found: "_Remainders") -> Tensor:
        low, high = torch.cat(found.low, 1)[i], torch.cat(found.high, 1)[i]
        kappa = torch.cat(found.slopes, 2)[:, i]
        effect = (kappa[1] - kappa[0]) * self.out[i].norm(dim=0) * self.length[i]
        bent = high > low  # also where the effect seems to be 0: units may wake each other up
        some = torch.where(bent, effect, -1.0).topk(min(_BENT, int(bent.sum()))).indices.sort().values
        if not len(some):  # the network is affine in this ball
            return _ROUNDED * self.reach[i] * rho
        rest = torch.ones_like(low, dtype=torch.bool).index_fill(0, some, False) & (high > low)
        inner, rows = self._inner(i, some), self._rows(i, some)
        norm, self.weights = sector_norm(
            self.whitened[i], self.out[i][:, some], rows, inner[:, some], kappa[:, some], self.norm, self.weights
        )
        if not rest.any():
            return _ROUNDED * norm * rho
        low, high, onward = low[rest], high[rest], self.out[i][:, rest]
        weight = _balance(self.out[i], self.length[i])[rest]
        share, more = (torch.cat(parts, 1)[i, rest] for parts in (found.share, found.more))
        outer = largest_singular((onward * (share * weight).sqrt())[None].transpose(1, 2))
        radius, inward = low.new_full((1,), rho), (share / weight).sqrt()[None]
        by_norm = outer * self._moved(radius, inward, self._rows(i, rest)[None], more[None])
        others = torch.minimum(by_norm[0], _box_norm(onward, low, high))
        # What they add to the pre-activations of the former, which pass it on.
        size = torch.maximum(low.abs(), high.abs())
        steepest = kappa[:, some].abs().amax(0)
        inside = inner[:, some].abs() * steepest
        passed = torch.linalg.solve(torch.eye(len(some), dtype=low.dtype) - inside, inner[:, rest].abs() @ size)
        return _ROUNDED * (norm * rho + others + (self.out[i][:, some].abs() @ (steepest * passed)).norm())

    def _moved(self, rho: Tensor, share: Tensor, jacobian: Tensor, more: Tensor) -> Tensor:
        """Bound (n,) of the norm of moves t = A delta + r, each times its share, with |r| at most ``more``."""
        return rho * gain(share[..., None] * jacobian, self.norm) + (share * more).norm(dim=1)

    def _rows(self, i: int, units: Tensor) -> Tensor:
        """Jacobians (units, d) of some pre-activations of row i, by the row."""
        return torch.cat([layer.jacobian[i] for layer in self.layers])[units]

    def _inner(self, i: int, units: Tensor) -> Tensor:
        """The same by what is added to all activations, (units, all): 0 for those that do not come before."""
        found = self.out.new_zeros(len(units), self.out.shape[2])
        for row, unit in enumerate(units.tolist()):
            place = unit
            for layer in self.layers:
                if place < layer.a.shape[1]:
                    before = [matrix[i, place] for matrix in layer.earlier]
                    if before:
                        joined = torch.cat(before)
                        found[row, : len(joined)] = joined
                    break
                place -= layer.a.shape[1]
        return found


class _Remainders(NamedTuple):
    """By layer: least and largest remainder (n, u), bound of their norm (n,), ends (2, n, u) of e / t.

    And the largest |e / t| (n, u), and by how much more than by the row itself t can move (n, u).
    """

    low: list[Tensor]
    high: list[Tensor]
    size: list[Tensor]
    slopes: list[Tensor]
    share: list[Tensor]
    more: list[Tensor]


def _balance(out: Tensor, length: Tensor) -> Tensor:
    """Weights of units that make what goes in and what comes out equally large: any are right, these are good."""
    return (length / out.norm(dim=-2).clamp(min=1e-300)).clamp(1e-12, 1e12)


def _apply(matrix: Tensor, vector: Tensor) -> Tensor:
    return (matrix @ vector[..., None])[..., 0]


def _box_norm(matrix: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Bound of ||M e|| over low <= e <= high: each entry by itself, or by the entries of M'M that add up."""
    plus, minus = matrix.clamp(min=0.0), matrix.clamp(max=0.0)
    up, down = _apply(plus, high) + _apply(minus, low), _apply(plus, low) + _apply(minus, high)
    return torch.maximum(up.abs(), down.abs()).norm(dim=-1)


def proven_margin(
    network: Network,
    x: Tensor,
    scale: Tensor,
    event: Event,
    wide: Event,
    metric: Tensor,
    stretch: Tensor,
    free: Tensor | None = None,
    norm: float = 2,
) -> Array:
    """Largest radii (n,) at which an event is proven to keep a probability above one half.

    With w the whitened move of the mean, ||w - W J d|| <= E(rho) in the ball. As Phi^-1 of the event's probability is
    1-Lipschitz in w, the event holds with more than 1/2 if it does with more than Phi(E) at W J d, of which
    probability, slope and curvature tell; or if w as a whole stays in a ball, by p alone, or in a wider ellipsoid, of
    which the others tell, too.

    Parameters
    ----------
    network : Network
        The mean first among its outputs.
    x, scale : Tensor of shape (n, ...) and (n, k)
        Rows, and their posterior standard deviations.
    event : Event
        What is known of the event at the rows, after shifts in the ellipsoid W J d.
    wide, metric : Event and Tensor of shape (n, k, k)
        The same after shifts w, ||T w|| being their norm, with T the metric.
    stretch : Tensor of shape (n, 1, d)
        Half axes of the ellipsoid of changes that the former comes from, which holds the ball.
    free : Tensor of shape (n, 1, d), default=None
        0 for features that may not change; None where all may.
    norm : {1, 2, inf}, default=2
        Of changes.
    """
    found = np.full(len(event.p), math.nan)
    known = np.flatnonzero(event.p > 0.5)
    x, scale, metric, stretch = (values.detach().cpu().double() for values in (x, scale, metric, stretch))
    for row in known:
        one = slice(row, row + 1)
        mask = None if free is None else free[one].cpu().double()
        deviation = Deviation(network, x[one], scale[one], mask, norm)
        found[one] = _largest(deviation, event.only(one), wide.only(one), metric[one], stretch[one])
    return found


def _largest(deviation: Deviation, event: Event, wide: Event, metric: Tensor, stretch: Tensor) -> Array:
    """Of one row."""
    # In the ellipsoid that the event was asked about.
    steep = largest_singular(deviation.whitened * stretch) if deviation.norm == math.inf else deviation.reach
    start = torch.as_tensor(event.reach()) / steep.clamp(min=1e-12)
    # The whole move in a ball, or in the wider ellipsoid: whichever is nearer to what is allowed, half way out.
    halfway = deviation.remainders(0.5 * start)
    ball, ellipsoid = (deviation, ndtri(event.p)), (deviation.turned(metric), wide.reach())
    whole, allowed_whole = min(
        ((one, torch.as_tensor(reach)) for one, reach in (ball, ellipsoid)),
        key=lambda way: float(way[0].move(0.5 * start, halfway) / way[1]),
    )

    def holds(rho: Tensor) -> Tensor:
        found = deviation.remainders(rho)
        allowed = event.reach(ndtr(deviation.deviation(rho, found).numpy()))
        good = steep * rho * _ROUNDED <= torch.as_tensor(np.nan_to_num(allowed, nan=-1.0))
        return good if good.all() else good | (whole.move(rho, found) <= allowed_whole)

    return largest_radius(holds, (1.0 - 1e-8) * start, _HALVINGS, _STEPS).numpy()


def largest_radius(holds: Callable[[Tensor], Tensor], most: Tensor, halvings: int, bisections: int) -> Tensor:
    """Radii (n,) up to ``most`` at which something holds: by halvings from there until it does, and bisections back."""
    radius = most
    good = holds(radius)
    for _ in range(halvings):
        if good.all():
            break
        radius = torch.where(good, radius, 0.5 * radius)
        good = good | holds(radius)
    low, high = torch.where(good, radius, 0.0), torch.where(good, torch.minimum(2.0 * radius, most), radius)
    if torch.equal(low, high):
        return low
    for _ in range(bisections):
        middle = 0.5 * (low + high)
        good = holds(middle)
        low, high = torch.where(good, middle, low), torch.where(good, high, middle)
    return low
