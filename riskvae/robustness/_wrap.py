"""Models that return other things than a mean and a scale, brought into the form that is examined."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Wrapped", "wrap"]

# Attributes of an answer that hold mean and spread, and whether the spread is a log-variance.
_PAIRS = (("embedding", "log_covariance", True), ("mean", "stddev", False), ("mean", "std", False))
# Attributes that hold something of this kind, or what was decoded.
_INSIDE = ("latent_dist",)
_DECODED = ("reconstruction", "sample", "mean")


def wrap(
    encode: Callable[[Tensor], Any],
    decode: Callable[[Tensor], Any],
    *,
    log_variance: bool = False,
    mean_layers: nn.Sequential | None = None,
) -> "Wrapped":
    r"""Wrap any model as an object that margins and attacks can examine.

    ``encode`` may return

    - a pair of tensors (mean, spread), or three tensors of which one is a draw, which is ignored;
    - a normal distribution of :mod:`torch.distributions`, or another object with tensors ``mean`` and ``std`` or
      ``stddev``; or an object with such a distribution as ``latent_dist``, like the autoencoders of diffusion models;
    - an object with ``embedding`` and ``log_covariance``, as returned by the encoders of pythae.

    Latent points of any shape, such as images, are flattened, and reshaped for ``decode``. This may return a tensor, a
    distribution (its mean is used), or an object with ``reconstruction`` or ``sample``.

    Parameters
    ----------
    encode : callable
        Maps a tensor of rows to their posterior, with gradients enabled.
    decode : callable
        Maps latent points to mean rows.
    log_variance : bool, default=False
        Whether the spread in a pair or three of tensors is a log-variance v; otherwise it is a standard deviation. If
        you have a variance, return ``variance.sqrt()``.
    mean_layers : nn.Sequential, default=None
        All layers that map rows to the posterior mean. They make proven bounds possible, which depend on the structure
        of the network. Whether they do give that mean is tested on the rows and around them.

    Returns
    -------
    Wrapped
        Object with ``encode(x) -> (mean, scale)`` and ``decode(z) -> mean`` on tensors.

    Raises
    ------
    TypeError
        If an argument is not a function, or not a sequence of layers; later, if ``encode`` or ``decode`` returns none
        of the above.

    Examples
    --------
    Two heads on a shared trunk, the usual layout:

    >>> import torch
    >>> from torch import nn
    >>> from riskvae.robustness import robustness_margin, wrap
    >>> _ = torch.manual_seed(0)
    >>> trunk = nn.Sequential(nn.Linear(4, 16), nn.ReLU())
    >>> mean, log_variance, decoder = nn.Linear(16, 2), nn.Linear(16, 2), nn.Linear(2, 4)
    >>> def encode(x):
    ...     h = trunk(x)
    ...     return mean(h), log_variance(h)
    >>> model = wrap(encode, decoder, log_variance=True, mean_layers=nn.Sequential(trunk, mean))
    >>> margin = robustness_margin(model, torch.randn(3, 4).numpy(), n_draws=1000, random_state=0)
    >>> bool((margin.certified <= margin.upper).all())
    True
    """
    for name, value in (("encode", encode), ("decode", decode)):
        if not callable(value) or isinstance(value, type):
            raise TypeError(f"wrap: {name} must be a function of a tensor, or a module; got {type(value).__name__}.")
    if mean_layers is not None and (type(mean_layers) is not nn.Sequential or not len(mean_layers)):
        raise TypeError(
            "wrap: mean_layers must be an nn.Sequential of the layers that give the mean, such as "
            f"nn.Sequential(trunk, mean_head), or None; got {type(mean_layers).__name__} of length "
            f"{_length(mean_layers)}."
        )
    return Wrapped(encode, decode, log_variance, mean_layers)


def _length(layers: Any) -> int:
    return len(layers) if isinstance(layers, nn.Sequential) else 1


class Wrapped:
    """A wrapped model, as returned by :func:`wrap`.

    Parameters
    ----------
    encode, decode, log_variance, mean_layers
        As in :func:`wrap`.
    """

    def __init__(
        self,
        encode: Callable[[Tensor], Any],
        decode: Callable[[Tensor], Any],
        log_variance: bool = False,
        mean_layers: nn.Sequential | None = None,
    ) -> None:
        self._encode = encode
        self._decode = decode
        self._log_variance = log_variance
        self.mean_layers = mean_layers
        self._places: tuple[int, ...] | None = None  # of mean and spread among three tensors
        self._shape: torch.Size | None = None  # of latent points that are not flat

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation (n, k) of rows."""
        mean, spread, is_log = self._pair(self._encode(x), x)
        if mean.dim() != 2:
            self._shape = mean.shape[1:]
        scale = (0.5 * spread).exp() if is_log else spread
        return mean.flatten(1), scale.expand_as(mean).flatten(1)

    def decode(self, z: Tensor) -> Tensor:
        """Mean rows (n, ...) of latent points (n, k)."""
        found = self._decode(z if self._shape is None else z.unflatten(1, self._shape))
        for name in _DECODED:
            if not isinstance(found, Tensor) and isinstance(getattr(found, name, None), Tensor):
                found = getattr(found, name)
        if not isinstance(found, Tensor):
            raise TypeError(
                "wrap: decode must return a tensor, a distribution, or an object with one of "
                f"{', '.join(_DECODED)}; got {type(found).__name__}. Pass a function that returns the mean row."
            )
        return found

    def _pair(self, answer: Any, x: Tensor) -> tuple[Tensor, Tensor, bool]:
        for name in _INSIDE:
            answer = getattr(answer, name, answer)
        if isinstance(answer, tuple | list) and all(isinstance(part, Tensor) for part in answer):
            if len(answer) == 3:
                self._places = self._places or self._without_draw(answer, x)
                answer = [answer[place] for place in self._places]
            if len(answer) == 2:
                return answer[0], answer[1], self._log_variance
        for mean, spread, is_log in _PAIRS:
            pair = getattr(answer, mean, None), getattr(answer, spread, None)
            if isinstance(pair[0], Tensor) and isinstance(pair[1], Tensor):
                return pair[0], pair[1], is_log
        what = f"{len(answer)} values" if isinstance(answer, tuple | list) else type(answer).__name__
        raise TypeError(
            "wrap: encode must return a pair of tensors (mean, scale), three of which one is a draw, a normal "
            f"distribution, or an object with {' or '.join(f'{a} and {b}' for a, b, _ in _PAIRS)}; got {what}. Pass a "
            "function that returns the pair, such as encode=lambda x: model.encode(x)[1:]."
        )

    def _without_draw(self, answer: Any, x: Tensor) -> tuple[int, ...]:
        """Places of the two that are the same at a second call."""
        with torch.no_grad():
            again = self._encode(x)
        same = tuple(i for i in range(3) if torch.equal(answer[i], again[i]))
        if len(same) != 2:
            raise TypeError(
                f"wrap: encode returns three tensors, of which {3 - len(same)} change from call to call, so it is not "
                "clear which are mean and scale. Pass a function that returns these two, such as "
                "encode=lambda x: model.encode(x)[:2]."
            )
        return same
