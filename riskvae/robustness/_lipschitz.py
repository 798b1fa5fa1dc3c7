"""What can be proved of an encoder that is a chain of known layers: a Lipschitz constant, a radius of linearity."""

import math
from collections.abc import Iterator
from itertools import chain

import torch
from torch import Tensor, nn

from riskvae.nets import GroupSort, Linear, Standardize
from riskvae.nets._parametrized import kind_of
from riskvae.robustness._coder import CHUNK, Coder
from riskvae.robustness._copies import hooked
from riskvae.robustness._gain import longest
from riskvae.robustness._opening import Fitted
from riskvae.robustness._wrap import Wrapped

# Largest slope of each activation; that of GELU is 1.12898..., of SiLU 1.09983...
_SLOPES: dict[type[nn.Module], float] = {
    nn.Identity: 1.0, nn.Flatten: 1.0, nn.Unflatten: 1.0, nn.Dropout: 1.0, nn.ReLU: 1.0, nn.Tanh: 1.0,
    nn.Softplus: 1.0, nn.Sigmoid: 0.25, GroupSort: 1.0, nn.ZeroPad2d: 1.0, nn.GELU: 1.129, nn.SiLU: 1.1,
}  # fmt: skip
_EXACT = (nn.Linear, Linear, Standardize, nn.Conv2d, nn.LeakyReLU, nn.ELU)  # by their own parameters
_AFFINE = (nn.Identity, nn.Flatten, nn.Unflatten, nn.Dropout, nn.Linear, Standardize, nn.Conv2d, nn.ZeroPad2d)
_KINKED = (nn.ReLU, nn.LeakyReLU, GroupSort)
# Rows that layers are tried on.
_TRIED = 256


def encoder_of(coder: Coder) -> nn.Module | str:
    """Module that gives the encoder's mean first; else the reason why none is known.

    It is that of an estimator, or the layers that the caller names: nobody can tell by names what a model of others
    does with its layers. Whether they give that mean is tried.
    """
    model = coder.model
    encoder = model.mean_layers if isinstance(model, Fitted | Wrapped) else None
    if encoder is None and isinstance(model, Fitted):
        return "refined posteriors (refine) are not layers of a network"
    if encoder is None:
        return "an object with encode and decode is not looked into; name the layers of its mean, wrap(mean_layers=...)"
    if _gives_the_mean(encoder, coder):
        return encoder
    if isinstance(model, Wrapped):
        raise ValueError(
            "wrap: mean_layers give a different mean than encode does, on the rows of X or near them. Name all layers "
            "from the row to the mean, in order: nothing may be done to the rows before them, or to the mean after "
            "them."
        )
    return "the encoder's first outputs are not the mean"


def encoder_layers(encoder: nn.Module) -> list[nn.Module] | str:
    """Layers of a chain, if all have a known constant; else the reason why not."""
    layers = list(_flatten(encoder))
    for layer in layers:
        if _slope(layer) is None:
            return f"no constant is known for {type(layer).__name__}"
    if not isinstance(layers[-1], nn.Linear):
        return f"the encoder ends in {type(layers[-1]).__name__}, not in a linear layer"
    return layers


def around(coder: Coder) -> Iterator[Tensor]:
    """Some rows, and others at several distances from them."""
    x = coder.x[:_TRIED]
    generator = torch.Generator().manual_seed(0)
    spread = x.cpu().double().std().to(x) if x.numel() > 1 else x.new_ones(())
    spread = spread if spread > 0 else torch.ones_like(spread)
    for size in (0.0, 0.01, 0.1, 1.0, 10.0):
        yield x + size * spread * torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x)


@torch.no_grad()
def _gives_the_mean(encoder: nn.Module, coder: Coder) -> bool:
    """Whether the first outputs of some layers are the mean, on the rows and around them."""
    for rows in around(coder):
        mean = coder.mean(rows)
        try:
            found = encoder(rows.clone()).flatten(1)[:, : mean.shape[1]]
        except Exception:
            return False
        if found.shape != mean.shape:
            return False
        known = mean.isfinite().all(1)
        error = coder.dtype_error * (1.0 + mean[known].abs())
        if not ((found - mean)[known].abs() <= error).all():
            return False
    return True


def _flatten(module: nn.Module) -> chain[nn.Module]:
    if isinstance(module, nn.Sequential) and _one_after_another(module):
        return chain.from_iterable(_flatten(child) for child in module)
    return chain((module,))


def _one_after_another(module: nn.Sequential) -> bool:
    """Whether parts follow each other, and nothing else is done: a subclass may do more."""
    kind = type(module)
    return kind.forward is nn.Sequential.forward and kind.__call__ is nn.Module.__call__ and not hooked(module)


def _slope(layer: nn.Module) -> float | None:
    """Lipschitz constant of a layer in the Euclidean norm; None where it is not known. Subclasses are not known."""
    if hooked(layer) or kind_of(layer) not in (*_SLOPES, *_EXACT):
        return None
    if isinstance(layer, nn.Linear):
        return float(torch.linalg.matrix_norm(layer.weight.detach().cpu().double(), 2))
    if isinstance(layer, Standardize):
        return 1.0 / float(layer.scale)
    if isinstance(layer, nn.Conv2d):
        # A pixel lies in at most this many windows, and on each window the kernel acts as one matrix.
        windows = math.prod(math.ceil(k / s) for k, s in zip(layer.kernel_size, layer.stride, strict=True))
        if layer.groups > 1 or layer.padding_mode != "zeros" or any(d > 1 for d in layer.dilation):
            return None
        matrix = layer.weight.detach().cpu().double().flatten(1)
        return float(torch.linalg.matrix_norm(matrix, 2)) * math.sqrt(windows)
    if isinstance(layer, nn.Softplus) and layer.threshold / layer.beta < 20:  # there it jumps
        return None
    if isinstance(layer, nn.LeakyReLU):
        return max(1.0, abs(layer.negative_slope))
    if isinstance(layer, nn.ELU):
        return max(1.0, abs(layer.alpha))
    return _SLOPES.get(kind_of(layer))


def whitened_lipschitz(layers: list[nn.Module], scale: Tensor) -> Tensor:
    """Constant L, in norm 2, of x -> mean(x) / scale, scale fixed, for each row of ``scale`` (n, k): (n,), float64."""
    before = math.prod(slope for layer in layers[:-1] if (slope := _slope(layer)) is not None)
    head = layers[-1].weight.detach().cpu().double()[: scale.shape[1]]  # type: ignore[operator]
    inverse = 1.0 / scale.cpu().double()
    gram = inverse[:, :, None] * (head @ head.T) * inverse[:, None]
    return before * torch.linalg.eigvalsh(gram)[:, -1].clamp(min=0.0).sqrt()


def linear_radius(layers: list[nn.Module], x: Tensor, norm: float = 2) -> Tensor:
    r"""Radius around each row in which the encoder's mean is exactly affine, (n,), in float64.

    .. math:: \min_u \frac{|a_u(x)|}{\lVert \nabla a_u(x) \rVert_*}

    over all hidden units u with a kinked activation (ReLU, leaky ReLU) of pre-activation a, in the dual norm. Infinite
    without any, zero with a curved activation.
    """
    radius = torch.full((len(x),), math.inf, dtype=torch.float64)
    for i, layer in enumerate(layers[:-1]):
        if isinstance(layer, _KINKED):
            # A pair is kinked where its units are equal.
            before = nn.Sequential(*layers[:i], *([_Difference()] if isinstance(layer, GroupSort) else []))
            same_everywhere = all(isinstance(earlier, _AFFINE) for earlier in layers[:i])
            radius = torch.minimum(radius, _distance_to_kinks(before, x, same_everywhere, norm))
        elif not isinstance(layer, _AFFINE):
            return torch.zeros_like(radius)
    return radius


class _Difference(nn.Module):
    """Of pairs."""

    def forward(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, dim=1)
        return a - b


def _distance_to_kinks(before: nn.Module, x: Tensor, same_everywhere: bool, norm: float) -> Tensor:
    rows = x[:1] if same_everywhere else x
    with torch.enable_grad():
        units, pull = torch.func.vjp(lambda rows: before(rows.clone()).flatten(1), rows)  # type: ignore[misc]
    n, count = units.shape
    norms = torch.empty(count, n, dtype=torch.float64)
    step = max(1, CHUNK // rows.numel())
    for start in range(0, count, step):
        basis = torch.eye(count, dtype=x.dtype, device=x.device)[start : start + step, None]
        (gradients,) = torch.func.vmap(pull)(basis.expand(-1, n, count))
        norms[start : start + step] = longest(gradients.detach().flatten(2), norm).cpu()
    with torch.no_grad():
        distances = before(x.clone()).flatten(1).abs().cpu().double() / norms.T
    return torch.where(norms.T > 0, distances, math.inf).amin(1)
