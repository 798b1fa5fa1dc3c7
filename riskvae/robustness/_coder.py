"""One view of every model that can be examined: tensors in, tensors out, one block of rows at a time."""

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_array, check_is_fitted
from torch import Tensor, nn

from riskvae._machine import prepare_process, torch_as_usual
from riskvae._validation import compute_dtype, feature_matrix, host_array
from riskvae.nets import Linear

Array = NDArray[Any]

# Values of decoded rows that are held at once.
CHUNK = 2**22


class Coder:
    """Encoder and decoder of a model, with their answers checked.

    Parameters
    ----------
    model : object
        With ``encode(x) -> (mean, scale)`` and ``decode(z) -> mean`` on tensors; and, where it has one,
        ``log_likelihood(x, z)``.
    rows : ndarray of shape (n, ...)
        What is examined.
    dtype, device : torch.dtype, torch.device
        Of the maths.
    """

    def __init__(self, model: Any, rows: Array, dtype: torch.dtype, device: torch.device) -> None:
        self.model = model
        self.x = torch.tensor(np.ascontiguousarray(rows), dtype=dtype, device=device)
        self.dtype = dtype
        self.device = device

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and scale of rows, each (n, k)."""
        mean, scale = self.model.encode(x)
        return mean, scale

    @property
    def n_components(self) -> int:
        """Latent dimensions, k."""
        with torch.no_grad():
            return self.mean(self.x[:1]).shape[1]

    def mean(self, x: Tensor) -> Tensor:
        """Posterior means of rows."""
        return self.encode(x)[0]

    def decode(self, z: Tensor) -> Tensor:
        """Mean rows, flattened to (..., d), of latent points (..., k)."""
        return self.model.decode(z.reshape(-1, z.shape[-1])).reshape(*z.shape[:-1], -1)

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor | None:
        """Log p(x|z) of rows (n, d) at latent points (m, n, k), in nats; None if the model has no likelihood."""
        if not hasattr(self.model, "log_likelihood"):
            return None
        flat = self.model.log_likelihood(x.expand(len(z), *x.shape).flatten(0, 1), z.flatten(0, 1))
        return flat.reshape(z.shape[:2])

    @contextmanager
    def first_order(self) -> Iterator[None]:
        """Where nothing but one backward pass is asked for: layers of this library are faster then.

        They know by their mode; nothing else hangs on it.
        """
        layers = getattr(self.model, "fast_layers", ())
        for layer in layers:
            layer.training = True
        try:
            yield
        finally:
            for layer in layers:
                layer.training = False

    def check(self) -> None:
        """Try the model on the rows, and raise where an answer makes no sense."""
        self._check_gradient()
        with torch.no_grad():
            for start in range(0, len(self.x), 1024):
                x = self.x[start : start + 1024]
                mean, scale = self._try("encode", x)
                if mean.dim() != 2 or len(mean) != len(x) or mean.shape != scale.shape:
                    raise ValueError(
                        f"vae.encode(x) must return mean and scale of shape (n, k); for {len(x)} rows they have shapes "
                        f"{tuple(mean.shape)} and {tuple(scale.shape)}."
                    )
                self._check_finite("vae.encode(x)", mean + scale, start)
                if not (scale > 0).all():
                    raise ValueError(
                        f"vae.encode(x) must return (mean, scale) with positive standard deviations as scale; got one "
                        f"of {float(scale.min()):.3g}. If the second value is a log-variance v, wrap the model so that "
                        "encode returns exp(v / 2)."
                    )
                decoded = self._try("decode", mean)
                if not isinstance(decoded, Tensor) or decoded.dim() < 2 or len(decoded) != len(mean):
                    found = tuple(decoded.shape) if isinstance(decoded, Tensor) else type(decoded).__name__
                    raise TypeError(
                        f"vae.decode(z) must return a tensor with one mean row for each of {len(mean)} latent points; "
                        f"got {found}."
                    )
                self._check_finite("vae.decode(z) at the posterior means", decoded, start)

    def _check_gradient(self) -> None:
        x = self.x[:2].clone().requires_grad_()
        with torch.enable_grad():
            answer = self._try("encode", x)
            if not isinstance(answer, tuple | list) or len(answer) != 2:
                what = f"{len(answer)} values" if isinstance(answer, tuple | list) else type(answer).__name__
                raise TypeError(f"vae.encode(x) must return a pair of tensors (mean, scale); got {what}.")
            if not all(isinstance(part, Tensor) for part in answer):
                kinds = ", ".join(type(part).__name__ for part in answer)
                raise TypeError(f"vae.encode(x) must return a pair of tensors (mean, scale); got ({kinds}).")
            if not answer[0].requires_grad:
                raise ValueError(
                    "vae.encode(x) has a mean without a gradient, so nothing can be said of perturbations. Take it out "
                    "of torch.no_grad(), and do not detach inside."
                )
            again = self._try("encode", x)
        if not torch.equal(answer[0], again[0]):
            raise ValueError(
                "vae.encode(x) gives another mean at each call for the same rows. Return the posterior's mean and "
                "scale, not a draw from it; noise is added here."
            )

    def _try(self, name: str, values: Tensor) -> Any:
        try:
            return getattr(self.model, name)(values)
        except Exception as error:
            raise ValueError(
                f"vae.{name} fails on a tensor of shape {tuple(values.shape)}, {values.dtype}: "
                f"{type(error).__name__}: {error}"
            ) from error

    @staticmethod
    def _check_finite(what: str, values: Tensor, start: int) -> None:
        bad = (~values.isfinite().flatten(1).all(1)).nonzero().flatten()
        if len(bad):
            raise ValueError(
                f"{what} is NaN or infinite for {len(bad)} rows, the first of them row {start + int(bad[0])} of X. "
                "Look for a model that diverged in training, or for rows far outside the data that it was trained on."
            )

    def blocks(self, size: int) -> Iterator[tuple[slice, int, Tensor]]:
        """Blocks of exactly ``size`` rows, the last filled up: a row's answer must not hang on how many there are.

        Matrix products of another shape round otherwise, and an attack would amplify that.
        """
        for start in range(0, len(self.x), size):
            x = self.x[start : start + size]
            yield slice(start, start + len(x)), len(x), fill_up(x, size)


def fill_up(values: Tensor, size: int) -> Tensor:
    """Values of a block's rows, the last repeated until there are ``size``."""
    return torch.cat((values, values[-1:].expand(size - len(values), *values.shape[1:])))


class _Fitted:
    """Module of a fitted estimator."""

    def __init__(self, module: Any) -> None:
        self.module = module
        self.encode = module.encode
        self.decode = module.decode
        self.encoder = module.encoder
        self.n_components = module.n_components
        self.fast_layers = [layer for layer in module.modules() if isinstance(layer, Linear)]

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        return -self.module.likelihood.nll(x, self.module.decoder(z))


@contextmanager
def open_coder(vae: Any, X: Any) -> Iterator[Coder]:
    """Coder of a fitted estimator, or of any object with ``encode`` and ``decode``; checked on the rows of X."""
    prepare_process()
    if isinstance(vae, BaseEstimator) and not hasattr(vae, "encode"):
        raise TypeError(
            f"vae must be a single estimator of this library, or an object with encode and decode; got "
            f"{type(vae).__name__}. Of a pipeline take the model, pipe[-1], and the rows that reach it, "
            "pipe[:-1].transform(X); of a search its best_estimator_."
        )
    if isinstance(vae, type):
        raise TypeError(f"vae must be an object with encode and decode; got the class {vae.__name__}.")
    if isinstance(vae, BaseEstimator):
        check_is_fitted(vae)
        rows = feature_matrix(vae, X, reset=False)
        dtype, device = compute_dtype(rows), vae.device_
        if device.type == "mps" and dtype == torch.float64:  # which MPS does not have
            dtype = torch.float32
        # A copy: the estimator's module keeps its dtype and its mode.
        module = copy.deepcopy(vae.module_).to(device, dtype).eval().requires_grad_(False)
        coder = Coder(_Fitted(module), rows, dtype, device)
        with torch_as_usual(device):
            coder.check()
            yield coder
        return
    missing = [name for name in ("encode", "decode") if not callable(getattr(vae, name, None))]
    if missing:
        raise TypeError(
            "vae must be a fitted estimator, or an object with encode(x) -> (mean, scale) and decode(z) -> mean on "
            f"tensors; {type(vae).__name__} has no {' and no '.join(missing)}."
        )
    array = host_array(X)
    rows = check_array(array, allow_nd=True, ensure_2d=False, input_name="X", dtype="numeric")
    if rows.ndim < 2:
        raise ValueError(f"X must hold rows of features, with at least two dimensions; got shape {rows.shape}.")
    modules = _modules_of(vae)
    first = next((p for module in modules for p in module.parameters() if p.is_floating_point()), None)
    dtype, device = (compute_dtype(rows), torch.device("cpu")) if first is None else (first.dtype, first.device)
    if dtype in (torch.float16, torch.bfloat16):
        raise TypeError(f"vae must compute in float32 or float64; its parameters are {dtype}. Pass vae.float().")
    with _frozen(modules), torch_as_usual(device):
        coder = Coder(vae, rows, dtype, device)
        coder.check()
        yield coder


def _modules_of(vae: Any) -> list[nn.Module]:
    """The module itself, or those that an object holds as attributes."""
    if isinstance(vae, nn.Module):
        return [vae]
    held = list(vars(vae).values()) if hasattr(vae, "__dict__") else []
    owners = [getattr(getattr(vae, name), "__self__", None) for name in ("encode", "decode")]
    return [part for part in (*held, *owners) if isinstance(part, nn.Module)]


@contextmanager
def _frozen(modules: list[nn.Module]) -> Iterator[None]:
    """Modules in evaluation mode and without gradients of their weights, which are put back."""
    modes = {module: module.training for top in modules for module in top.modules()}
    wanted = [parameter for top in modules for parameter in top.parameters() if parameter.requires_grad]
    if any(training and not _same_in_training(module) for module, training in modes.items()):
        warnings.warn(
            "vae is in training mode, in which dropout and batch normalization make rows depend on chance and on each "
            "other; it is examined in evaluation mode. Call vae.eval() before.",
            UserWarning,
            stacklevel=5,
        )
    try:
        for module in modes:
            module.training = False
        for parameter in wanted:
            parameter.requires_grad_(False)
        yield
    finally:
        for module, training in modes.items():
            module.training = training
        for parameter in wanted:
            parameter.requires_grad_(True)


def _same_in_training(module: nn.Module) -> bool:
    """Containers, and layers that do the same in both modes."""
    return any(True for _ in module.children()) or isinstance(
        module, nn.Linear | nn.modules.conv._ConvNd | nn.ReLU | nn.LeakyReLU | nn.Tanh | nn.Flatten | nn.Unflatten
    )


def noise_bank(n_draws: int, k: int, seed: int, like: Tensor) -> Tensor:
    """Standard normal draws (n_draws, k), shared by all rows."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n_draws, k, generator=generator, dtype=torch.float64).to(like)


def paired_bank(n_draws: int, k: int, seed: int, like: Tensor) -> Tensor:
    """The same in antithetic pairs: better to optimize on, and not independent, so not to count with."""
    half = noise_bank((n_draws + 1) // 2, k, seed, like)
    return torch.cat((half, -half))[:n_draws]


def gradient_of(values: Tensor, at: Tensor, *, keep: bool = False) -> Tensor:
    """Gradient of the sum of values; zero where they do not depend on ``at``. ``keep`` keeps the graph."""
    if not values.requires_grad:
        return torch.zeros_like(at)
    (found,) = torch.autograd.grad(values.sum(), at, allow_unused=True, retain_graph=keep)
    return torch.zeros_like(at) if found is None else found


def distance(a: Tensor, b: Tensor) -> Tensor:
    """Euclidean distance along the last dimension, with a gradient of zero where it is zero; NaN where a value is."""
    squared = F.mse_loss(a, b.expand_as(a), reduction="none").sum(-1)
    return torch.where(squared == 0, 0.0, squared.clamp(min=torch.finfo(squared.dtype).tiny).sqrt())
