"""Autoencoders with a normal decoder, by hand: what quantiles are compared with."""

import math
from collections.abc import Callable
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import norm
from torch import Tensor, nn

from riskvae.losses import kl_divergence
from riskvae.nets import mlp

__all__ = ["KINDS", "NormalVAE"]

Array = NDArray[np.float64]
Factory = Callable[[int, int], nn.Module]

KINDS = {
    "variance": "a variance for each value, by maximum likelihood (Kingma and Welling 2014)",
    "beta-nll": "the same, gradients weighted by the variance to the power 1/2 (Seitzer et al. 2022)",
    "sigma-vae": "one variance for all values, the best of each batch (Rybkin et al. 2021)",
}


class NormalVAE(nn.Module):
    """VAE whose decoder gives a mean and, but for "sigma-vae", a log-variance of each feature.

    Parameters
    ----------
    n_features, n_components : int
        Widths.
    hidden_layer_sizes : sequence of int
        Of the encoder; the decoder mirrors them.
    kind : str
        A key of ``KINDS``.
    seed : int
        Decides weights, batches and draws.
    encoder, decoder : callable, default=None
        Factories ``(n_in, n_out) -> nn.Module`` in place of the layers, as those of the estimators; the decoder gives
        all means, then all log-variances (two channels of an image).
    """

    log_variance: Tensor

    def __init__(
        self,
        n_features: int,
        n_components: int,
        hidden_layer_sizes: tuple[int, ...],
        kind: str,
        seed: int,
        encoder: Factory | None = None,
        decoder: Factory | None = None,
    ) -> None:
        super().__init__()
        self.kind = kind
        self.generator = torch.Generator().manual_seed(seed)
        n_out = n_features if kind == "sigma-vae" else 2 * n_features
        with torch.random.fork_rng(devices=[]):  # factories draw their weights from torch's global generator
            torch.manual_seed(seed)
            self.encoder = (encoder or self._layers(hidden_layer_sizes))(n_features, 2 * n_components)
            self.decoder = (decoder or self._layers(hidden_layer_sizes[::-1]))(n_components, n_out)
        self.register_buffer("log_variance", torch.zeros(()))

    def _layers(self, sizes: tuple[int, ...]) -> Factory:
        return lambda n_in, n_out: mlp(n_in, n_out, hidden_layer_sizes=sizes, generator=self.generator)

    def loss(self, x: Tensor) -> Tensor:
        """Mean negative evidence bound of a batch."""
        mean, raw = self.encoder(x).chunk(2, dim=-1)
        scale = nn.functional.softplus(raw) + 1e-6
        z = mean + scale * torch.randn(mean.shape, generator=self.generator)
        return self._reconstruction(x, z).mean() + kl_divergence(mean, scale).mean()

    def _reconstruction(self, x: Tensor, z: Tensor) -> Tensor:
        """Loss of each row, decoded from its latent draw."""
        center, log_variance = self._decode(z)
        if self.kind == "sigma-vae":
            log_variance = (x - center).square().mean().log()
            with torch.no_grad():
                self.log_variance.lerp_(log_variance, 0.05)  # for what comes after training
        nll = 0.5 * ((x - center).square() * (-log_variance).exp() + log_variance + math.log(2 * math.pi))
        if self.kind == "beta-nll":
            nll = nll * log_variance.detach().mul(0.5).exp()
        return nll.sum(-1)

    def _decode(self, z: Tensor) -> tuple[Tensor, Tensor]:
        out = self.decoder(z)
        if self.kind == "sigma-vae":
            return out, self.log_variance.expand_as(out)
        center, log_variance = out.chunk(2, dim=-1)
        return center, log_variance

    def fit(self, X: NDArray[np.floating], n_steps: int, batch_size: int, lr: float) -> Self:
        """Train by Adam; stops where the loss stops being finite."""
        x = torch.from_numpy(np.asarray(X, dtype=np.float32))
        optimizer = torch.optim.Adam(self.parameters(), lr=lr)
        step = 0
        while step < n_steps:
            for rows in torch.randperm(len(x), generator=self.generator).split(batch_size):
                loss = self.loss(x[rows])
                if not loss.isfinite():
                    return self
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                step += 1
        return self

    @torch.no_grad()
    def predict(self, X: NDArray[np.floating]) -> tuple[Array, Array]:
        """Mean and standard deviation of each value, decoded from the posterior mean."""
        x = torch.from_numpy(np.asarray(X, dtype=np.float32))
        center, log_variance = self._decode(self.encoder(x).chunk(2, dim=-1)[0])
        return center.double().numpy(), log_variance.double().mul(0.5).exp().numpy()

    def predict_interval(self, X: NDArray[np.floating], alpha: float) -> Array:
        """Central intervals of the normal distribution."""
        center, scale = self.predict(X)
        return center[..., None] + scale[..., None] * norm.ppf([alpha / 2, 1 - alpha / 2])
