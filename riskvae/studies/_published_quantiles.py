"""The quantile autoencoder as published, by hand: pinball losses without a scale, so that their units weigh the KL."""

from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import norm
from torch import Tensor, nn

from riskvae.losses import pinball_loss
from riskvae.nets import mlp
from riskvae.studies._gaussian_rivals import NormalVAE

__all__ = ["UnitPinballVAE"]

Array = NDArray[np.float64]


class UnitPinballVAE(NormalVAE):
    """VAE whose decoder gives a lowest quantile and steps above it; pinball loss summed over features and levels.

    Parameters
    ----------
    n_features, n_components : int
        Widths.
    hidden_layer_sizes : sequence of int
        Of the encoder; the decoder mirrors them.
    levels : sequence of float
        Increasing and symmetric, with 0.5 in the middle.
    seed : int
        Decides weights, batches and draws.
    """

    def __init__(
        self,
        n_features: int,
        n_components: int,
        hidden_layer_sizes: tuple[int, ...],
        levels: tuple[float, ...],
        seed: int,
    ) -> None:
        super().__init__(n_features, n_components, hidden_layer_sizes, "variance", seed)
        self.levels = levels
        make: Any = partial(mlp, hidden_layer_sizes=hidden_layer_sizes[::-1], generator=self.generator)
        self.decoder = make(n_components, n_features * len(levels))

    def _quantiles(self, z: Tensor) -> Tensor:
        raw = self.decoder(z).unflatten(-1, (-1, len(self.levels)))
        return torch.cat((raw[..., :1], nn.functional.softplus(raw[..., 1:])), dim=-1).cumsum(-1)

    def _reconstruction(self, x: Tensor, z: Tensor) -> Tensor:
        return len(self.levels) * pinball_loss(x, self._quantiles(z), self.levels)

    @torch.no_grad()
    def _predicted(self, X: NDArray[np.floating]) -> Array:
        x = torch.from_numpy(np.asarray(X, dtype=np.float32))
        return self._quantiles(self.encoder(x).chunk(2, dim=-1)[0]).double().numpy()

    def predict(self, X: NDArray[np.floating]) -> tuple[Array, Array]:
        """Median, and standard deviation of a normal distribution with the two quantiles nearest to it."""
        quantiles, middle = self._predicted(X), len(self.levels) // 2
        width = quantiles[..., middle + 1] - quantiles[..., middle - 1]
        return quantiles[..., middle], width / (2 * norm.ppf(self.levels[middle + 1]))

    def predict_interval(self, X: NDArray[np.floating], alpha: float) -> Array:
        """The two quantiles of levels alpha / 2 and 1 - alpha / 2, which must be among those trained."""
        ends = [int(np.flatnonzero(np.isclose(self.levels, level))[0]) for level in (alpha / 2, 1 - alpha / 2)]
        return self._predicted(X)[..., ends]
