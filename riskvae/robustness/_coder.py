"""One view of every model that can be examined: tensors in, tensors out, one block of rows at a time."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from riskvae.robustness._copies import HiddenModuleError, modules_called

Array = NDArray[Any]

# Values of decoded rows that are held at once.
CHUNK = 2**22
# Rows that a model is tried on at once.
_TRIED = 1024
_WRAP = "For a model that returns something else, see riskvae.robustness.wrap."


class Examined:
    """A model, and rows that it is examined at, one block at a time.

    Parameters
    ----------
    model : object
        Of tensors.
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

    def blocks(self, size: int) -> Iterator[tuple[slice, int, Tensor]]:
        """Blocks of exactly ``size`` rows, the last filled up: a row's answer must not hang on its company.

        Matrix products of another shape round otherwise, and an attack would amplify that. Of fewer rows than ``size``
        the block is the next power of two, so that one row does not cost as much as many.
        """
        size = min(size, 2 ** (len(self.x) - 1).bit_length())
        for start in range(0, len(self.x), size):
            x = self.x[start : start + size]
            yield slice(start, start + len(x)), len(x), fill_up(x, size)


class Coder(Examined):
    """Encoder and decoder of a model, with their answers checked.

    Parameters
    ----------
    model : object
        With ``encode(x) -> (mean, scale)`` and ``decode(z) -> mean`` on tensors; and, where it has one,
        ``log_likelihood(x, z)``.
    rows, dtype, device
        As above.
    """

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
        with modules_called():  # those that hide are found before they run
            self._check_gradient()
        with torch.no_grad():
            for start in range(0, len(self.x), _TRIED):
                x = self.x[start : start + _TRIED]
                mean, scale = self._try("encode", x)
                if mean.dim() != 2 or len(mean) != len(x) or mean.shape != scale.shape:
                    raise ValueError(
                        f"vae.encode(x) must return mean and scale of shape (n, k); for {len(x)} rows they have shapes "
                        f"{tuple(mean.shape)} and {tuple(scale.shape)}. {_WRAP}"
                    )
                self._check_finite("vae.encode(x)", mean + scale, start)
                if not (scale > 0).all():
                    raise ValueError(
                        f"vae.encode(x) must return (mean, scale) with positive standard deviations as scale; got one "
                        f"of {float(scale.min()):.3g}. If the second value is a log-variance, pass "
                        "riskvae.robustness.wrap(encode=vae.encode, decode=vae.decode, log_variance=True). If you do, "
                        "the log-variance is so low that its scale is 0: is X in the units of the training?"
                    )
                decoded = self._decoded(mean)
                self._check_finite("vae.decode(z) at the posterior means", decoded, start)
                if start == 0:
                    self._check_apart("encode", lambda rows: self._try("encode", rows)[0], x)
                    self._check_apart("decode", self._decoded, mean)

    def _decoded(self, z: Tensor) -> Tensor:
        with modules_called():
            decoded = self._try("decode", z)
        if not isinstance(decoded, Tensor) or decoded.dim() < 2 or len(decoded) != len(z):
            found = tuple(decoded.shape) if isinstance(decoded, Tensor) else type(decoded).__name__
            raise TypeError(
                f"vae.decode(z) must return a tensor with one mean row for each of {len(z)} latent points; got "
                f"{found}. {_WRAP}"
            )
        return decoded

    def _check_apart(self, name: str, function: Callable[[Tensor], Tensor], rows: Tensor) -> None:
        """Rows must be apart: the first must have the same answer alone."""
        together = rows if len(rows) > 1 else torch.cat((rows, 0.5 * rows))
        with_others, alone = function(together)[0], function(together[:1])[0]
        size = 1.0 + float(with_others.abs().max())
        if not torch.allclose(with_others, alone, rtol=0.0, atol=size * self.dtype_error):
            raise ValueError(
                f"vae.{name} gives a different answer for a row alone than for the same row among {len(together)}, by "
                f"up to {float((with_others - alone).abs().max()):.3g}. Rows must not affect each other. Look for "
                "statistics over the batch, such as batch normalization in training mode, and call .eval() on that "
                "module."
            )

    @property
    def dtype_error(self) -> float:
        """Relative difference that rounding may make."""
        return 1e-3 if self.dtype == torch.float32 else 1e-8

    def _check_gradient(self) -> None:
        x = self.x[:2].clone().requires_grad_()
        with torch.enable_grad():
            answer = self._try("encode", x)
            if not isinstance(answer, tuple | list) or len(answer) != 2:
                what = f"{len(answer)} values" if isinstance(answer, tuple | list) else type(answer).__name__
                raise TypeError(f"vae.encode(x) must return a pair of tensors (mean, scale); got {what}. {_WRAP}")
            if not all(isinstance(part, Tensor) for part in answer):
                kinds = ", ".join(type(part).__name__ for part in answer)
                raise TypeError(f"vae.encode(x) must return a pair of tensors (mean, scale); got ({kinds}). {_WRAP}")
            if not answer[0].requires_grad:
                raise ValueError(
                    "vae.encode(x) has a mean without a gradient, so nothing can be said about perturbations. Take it "
                    "out of torch.no_grad(), and do not detach inside."
                )
            again = self._try("encode", x)
        if not torch.equal(answer[0], again[0]):
            raise ValueError(
                "vae.encode(x) gives a different mean at each call for the same rows. Return the posterior's mean and "
                "scale, not a draw from it; noise is added here."
            )

    def _try(self, name: str, values: Tensor) -> Any:
        try:
            return getattr(self.model, name)(values)
        except HiddenModuleError:
            raise
        except Exception as error:
            raise ValueError(
                f"vae.{name} fails on a tensor of shape {tuple(values.shape)}, {values.dtype}: "
                f"{type(error).__name__}: {error}. Pass X in the shape and units that vae.encode takes."
            ) from error

    @staticmethod
    def _check_finite(what: str, values: Tensor, start: int) -> None:
        bad = (~values.isfinite().flatten(1).all(1)).nonzero().flatten()
        if len(bad):
            raise ValueError(
                f"{what} is NaN or infinite for {len(bad)} rows; the first is row {start + int(bad[0])} of X. Look for "
                "a model that diverged in training, or for rows far outside the data that it was trained on."
            )


def fill_up(values: Tensor, size: int) -> Tensor:
    """Values of a block's rows, the last repeated until there are ``size``."""
    return torch.cat((values, values[-1:].expand(size - len(values), *values.shape[1:])))


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
