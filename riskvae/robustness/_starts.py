"""Where an attack looks first: the directions in which a model's output moves most."""

import torch
from torch import Tensor

from riskvae.robustness._coder import Coder, gradient_of, noise_bank
from riskvae.robustness._jacobian import leading_directions, leading_features, linearize

__all__ = ["first_directions"]

# Directions that are followed beside those asked for, and how often: enough for starts, which the ascent improves on.
_SPARE, _PASSES = 4, 2
# Length of the differences, of the ball's: as large as the attack's, so that rounding does not matter.
_SHARE = 0.1


def first_directions(
    coder: Coder, x: Tensor, free: Tensor | None, length: Tensor, seed: int, count: int, n_features: int = 0
) -> list[Tensor]:
    r"""Directions (n, c, d) in which the output moves most; and, where asked for, features that move it most alone.

    The first are the leading right singular vectors of the Jacobian :math:`J` of ``decode(mean(x))``, the others its
    longest columns. Where there are few latent dimensions, they are taken from both Jacobians. Elsewhere these would
    cost more than the attack. Then a sketch of :math:`J^T` by random outputs :math:`u` begins (Halko, Martinsson and
    Tropp 2011), and subspace iteration goes on,

    .. math:: J^T J v \approx \nabla_v \frac{1}{2 h^2} \lVert f(x + h v) - f(x) \rVert^2 ,

    one backward pass for each direction, whatever the layers are. Lengths of columns are estimated by the sketch,
    :math:`E (J^T u)_i^2 = \lVert J_i \rVert^2` (Hutchinson 1989).

    Parameters
    ----------
    coder : Coder
        Model.
    x : Tensor of shape (n, ...)
        Rows.
    free : Tensor of shape (n, 1, d) or None
        1 for the values that may change; None for all.
    length : Tensor of shape (n,)
        Euclidean length of the largest change that is allowed.
    seed : int
        Of the random outputs.
    count, n_features : int
        How many directions, and features; there are fewer where the model has fewer.

    Returns
    -------
    list of Tensor
        Unit vectors: the directions, and features if ``n_features`` is not 0.
    """
    width = count + _SPARE
    if coder.n_components <= (1 + _PASSES) * width:
        local = linearize(coder, x, free)
        found = [leading_directions(coder, local, count)]
        return [*found, leading_features(coder, local, n_features)] if n_features else found
    pulled = _sketch(coder, x, free, seed, width)
    found = [_iterate(coder, x, free, _SHARE * length, pulled)[:, :count]]
    if n_features:
        places = pulled.square().sum(1).topk(min(n_features, pulled.shape[-1]), dim=1).indices
        found.append(torch.nn.functional.one_hot(places, pulled.shape[-1]).to(pulled))
    return found


def _output(coder: Coder, rows: Tensor) -> Tensor:
    return coder.decode(coder.mean(rows))


def _sketch(coder: Coder, x: Tensor, free: Tensor | None, seed: int, width: int) -> Tensor:
    """Products J^T u (n, width, d) with random outputs."""
    rows = x.repeat_interleave(width, 0).requires_grad_()
    with torch.enable_grad(), coder.first_order():
        output = _output(coder, rows)
        random = noise_bank(width, output.shape[-1], seed, output)
        pulled = gradient_of(output * random.repeat(len(x), 1), rows)
    return _allowed(pulled.view(len(x), width, -1), free)


def _iterate(coder: Coder, x: Tensor, free: Tensor | None, step: Tensor, directions: Tensor) -> Tensor:
    """Orthonormal directions (n, c, d) from subspace iteration, the strongest first."""
    n, width = directions.shape[:2]
    still = _output(coder, x).detach()[:, None]
    step = step[:, None, None]
    for _ in range(_PASSES):
        basis = torch.linalg.qr(directions.transpose(1, 2)).Q.transpose(1, 2)
        width = basis.shape[1]
        rows = (x.flatten(1)[:, None] + step * basis).view(n * width, *x.shape[1:]).requires_grad_()
        with torch.enable_grad(), coder.first_order():
            moved = _output(coder, rows).view(n, width, -1) - still
            pulled = gradient_of(0.5 * moved.square(), rows).view(n, width, -1)
        directions = _allowed(pulled, free) / step
    # Of the projected problem (Rayleigh and Ritz), from what the last pass gave.
    inner = basis @ directions.transpose(1, 2)
    _, vectors = torch.linalg.eigh(0.5 * (inner + inner.transpose(1, 2)))
    found = vectors.flip(-1).transpose(1, 2) @ directions
    return found / found.norm(dim=-1, keepdim=True).clamp(min=torch.finfo(found.dtype).tiny)


def _allowed(pulled: Tensor, free: Tensor | None) -> Tensor:
    pulled = pulled.nan_to_num(0.0, 0.0, 0.0)
    return pulled if free is None else pulled * free
