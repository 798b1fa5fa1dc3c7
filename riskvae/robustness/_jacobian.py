"""Jacobians of encoder and decoder, for many rows at once, and what follows from them."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from riskvae.robustness._ascent import SHARES
from riskvae.robustness._coder import CHUNK, Coder, gradient_of
from riskvae.robustness._gain import ellipsoid, gain
from riskvae.robustness._projection import ascent

# Steps from a vector to signs that move the output far, and random vectors that are tried beside singular ones.
_STEPS, _RANDOM = 6, 32


def encoder_jacobian(coder: Coder, x: Tensor) -> Tensor:
    """Jacobians (n, k, ...) of the posterior mean: one backward pass per latent dimension, for all rows at once.

    Rows are apart, so the gradient of an output's sum over rows holds the row of each Jacobian. Plain autograd: every
    module has it, and it is twice as fast as vmap over torch.func.vjp.
    """
    with torch.enable_grad(), coder.first_order():
        rows = x.detach().requires_grad_()
        mean = coder.mean(rows)
        outputs = mean.unbind(1)
        return torch.stack([gradient_of(output, rows, keep=True) for output in outputs], 1)


def jacobian_columns(function: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
    """Jacobians (n, d, k) of a function of rows apart, (n, k) to (n, d): one pass per input.

    J^T u is linear in u, so its own reverse derivative in a direction v is J v. (Torch's forward mode would do
    with one pass less, but not every layer has it, and it warns of its own deprecated parts.)
    """
    n, k = z.shape
    with torch.enable_grad():
        y, pull = torch.func.vjp(function, z)  # type: ignore[misc]
        _, push = torch.func.vjp(lambda u: pull(u)[0], torch.zeros_like(y))  # type: ignore[misc]
        basis = torch.eye(k, dtype=z.dtype, device=z.device)[:, None].expand(k, n, k)
        chunk = max(1, CHUNK // max(1, y.numel()))
        (columns,) = torch.func.vmap(push, chunk_size=min(k, chunk))(basis)
    return columns.detach().permute(1, 2, 0)


class Local(NamedTuple):
    """First-order picture of a model at each of n rows."""

    mean: Tensor  # (n, k)
    scale: Tensor  # (n, k)
    reconstruction: Tensor  # (n, d) at the mean
    encoder: Tensor  # (n, k, d): Jacobian of the mean
    gram: Tensor  # (n, k, k): that Jacobian times its transpose
    frobenius: Tensor  # (n,): its Frobenius norm
    whitened: Tensor  # (n,): bound of how far diag(1 / scale) times it reaches in the ball; in norm 2, its largest
    # singular value
    stretch: Tensor  # (n, 1, d): half axes of an ellipsoid that holds the ball, see ellipsoid; ones in norms 1 and 2
    turn: Tensor  # (n, k, k): U^T of that product, so stretched, U S V^T
    weights: Tensor  # (n, k, k): diag(singular values over the largest) U^T; in norm 1, U^T, the ball that holds all

    def wider(self, share: float) -> tuple[Tensor, Tensor]:
        """Weights of an ellipsoid whose axes are no shorter than about a share of the longest, and its metric."""
        axes = self.weights.square().sum(2, keepdim=True)  # squared
        wide = ((axes + share**2) / (1.0 + share**2)).sqrt()
        return wide * self.turn, self.turn / wide


def linearize(coder: Coder, x: Tensor, free: Tensor | None = None, norm: float = 2) -> Local:
    """Encoder's Jacobian and its norms, these in float64, from its Gram matrix of k by k.

    ``free`` (n, 1, d) is 0 for features that may not change: their columns are 0, too. ``norm`` is that of the changes.
    """
    with torch.no_grad():
        mean, scale = coder.encode(x)
        reconstruction = coder.decode(mean)
    jacobian = encoder_jacobian(coder, x).flatten(2)
    jacobian = jacobian if free is None else jacobian * free
    gram = jacobian @ jacobian.transpose(1, 2)
    gram = gram.double() if x.device.type != "mps" else gram
    inverse = 1.0 / scale.to(gram)
    shape, stretch = inverse[:, :, None] * gram * inverse[:, None], torch.ones_like(jacobian[:, :1])
    whole = jacobian if norm == 2 else inverse[:, :, None] * jacobian.to(gram)  # norm 2 needs products alone
    if norm == torch.inf:
        stretch = ellipsoid(whole, norm)
        shape = whole * stretch.square() @ whole.transpose(1, 2)
    squares, vectors = torch.linalg.eigh(shape)
    axes = squares.clamp(min=0.0).sqrt()
    if norm == 1:  # a ball holds all
        axes = gain(whole, norm)[:, None].expand_as(axes)
    whitened = axes[:, -1]
    relative = torch.where(whitened[:, None] > 0, axes / whitened[:, None].clamp(min=1e-300), 1.0)
    turn = vectors.transpose(1, 2)
    frobenius = gram.diagonal(dim1=1, dim2=2).sum(1).sqrt()
    weights = relative[:, :, None] * turn
    return Local(mean, scale, reconstruction, jacobian, gram, frobenius, whitened, stretch, turn, weights)


def leading_features(coder: Coder, local: Local, count: int) -> Tensor:
    """Unit vectors of the features that move the output most by themselves, (n, count, d): where norm 1 begins.

    They have the longest columns of J_decoder J_encoder.
    """
    return _features(local, jacobian_columns(coder.decode, local.mean), count)


def _features(local: Local, decoder: Tensor, count: int) -> Tensor:
    """The same with the decoder's Jacobian (n, d, k)."""
    inner = decoder.transpose(1, 2) @ decoder @ local.encoder
    lengths = (local.encoder * inner).sum(1)
    places = lengths.topk(min(count, lengths.shape[1]), dim=1).indices
    return torch.nn.functional.one_hot(places, lengths.shape[1]).to(local.encoder)


def leading_directions(coder: Coder, local: Local, count: int, norm: float = 2) -> Tensor:
    """Leading right singular vectors of J_decoder J_encoder, (n, count, d): where the output moves most.

    In norm infinity what some steps of ascent make of the signs of these vectors; in norm 1 features that move it
    most, and the largest entries of these vectors, which a box does not stop so early; more than ``count`` then.

    From J_encoder^T = Q R the vectors are Q times the eigenvectors of R J_decoder^T J_decoder R^T, of k by k; fewer
    than ``count`` where k is smaller. Signs are fixed by the largest component.
    """
    decoder = jacobian_columns(coder.decode, local.mean)
    q, r = torch.linalg.qr(local.encoder.transpose(1, 2))
    inner = r @ (decoder.transpose(1, 2) @ decoder) @ r.transpose(1, 2)
    _, vectors = torch.linalg.eigh(inner)
    found = (q @ vectors.flip(-1)[..., : min(count, vectors.shape[-1])]).transpose(1, 2)
    if norm == torch.inf:
        found = _signs(local.encoder, decoder.transpose(1, 2) @ decoder, found)
    strongest = found.gather(-1, found.abs().argmax(-1, keepdim=True))
    found = found * strongest.sign()
    if norm == 1:
        sparse = [ascent(found, 1, share) for share in SHARES[1:]]
        return torch.cat((_features(local, decoder, 3 * count), *sparse), 1)
    return found


def _signs(encoder: Tensor, gram: Tensor, first: Tensor) -> Tensor:
    """Signs (n, c, d) at which the output moves far, from vectors; the last of them gives way to the best of many.

    Of s'Ms with M = J'GJ, s is replaced by the signs of Ms while that rises: it cannot fall.
    """
    generator = torch.Generator().manual_seed(0)
    random = torch.randn(_RANDOM, encoder.shape[1], generator=generator, dtype=torch.float64).to(encoder)
    found = torch.cat((first, random.expand(len(encoder), -1, -1) @ encoder), 1).sign()
    for _ in range(_STEPS):
        found = (found @ encoder.transpose(1, 2) @ gram @ encoder).sign()
    latent = found @ encoder.transpose(1, 2)
    far = ((latent @ gram) * latent).sum(2)
    count = first.shape[1]
    best = far.argmax(1)[:, None, None].expand(-1, 1, found.shape[2])
    better = far.amax(1) > (1.0 + 1e-6) * far[:, :count].amax(1)
    last = torch.where(better[:, None, None], found.gather(1, best), found[:, count - 1 : count])
    return torch.cat((found[:, : count - 1], last), 1)
