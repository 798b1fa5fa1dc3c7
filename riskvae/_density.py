"""The density of rows that a trained autoencoder stands for, fitted when its networks are done."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from riskvae.losses import LOG_2PI

__all__ = ["RowDensity"]


class RowDensity(nn.Module):
    r"""A trained VAE as a density: latent points spread as those of training rows, normal errors around decoded rows.

    .. math:: \tilde p(x) = \int \tilde q(z) \prod_j N(x_j; m_j(z), s_j^2) \, dz, \qquad
              \tilde q(z) = \frac1M \sum_{i \le M} q(z | x_i), \qquad
              s_j^2 = \frac1n \sum_i E_{q(z|x_i)} (x_{ij} - m_j(z))^2

    Each part maximizes the mean evidence bound of its rows while the networks stay as they are: no prior is better
    than the aggregated posterior, and no normal errors than those with the mean squared ones.

    Parameters
    ----------
    vae : VAE
        Trained module, whose likelihood is of quantiles; becomes a part of this one.
    x : Tensor of shape (n, n_features)
        Training rows, or a sample of them, in random order: the first M make the prior.
    noise : Tensor of shape (n_draws, 1, n_components)
        Standard normal draws for the errors.

    References
    ----------
    Hoffman and Johnson, "ELBO surgery: yet another way to carve up the variational evidence lower bound" (2016).
    Tomczak and Welling, "VAE with a VampPrior" (2018).
    """

    N_MIXED = 2_000  # M
    N_ROWS = 10_000  # whose errors are looked at

    prior_mean: Tensor
    prior_scale: Tensor
    error_scale: Tensor

    # Least s_j, in units of the feature's spread: what was always reconstructed exactly is not known without bound.
    SMALLEST = 1e-3

    def __init__(self, vae: Any, x: Tensor, noise: Tensor) -> None:
        super().__init__()
        self.vae = vae
        prior = vae.encode(x[: self.N_MIXED])
        self.register_buffer("prior_mean", prior.mean)
        self.register_buffer("prior_scale", prior.scale)
        squares = torch.zeros_like(x[0])
        for part in x.split(self.N_MIXED):
            posterior = vae.encode(part)
            for draw in noise:
                squares += (part - vae.decode(posterior.mean + posterior.scale * draw)).square().sum(0)
        s = (squares / (len(x) * len(noise))).sqrt()
        self.register_buffer("error_scale", torch.maximum(s, self.SMALLEST * vae.likelihood.unit))

    def bound(self, x: Tensor, noise: Tensor) -> Tensor:
        """Evidence lower bound of rows (n, d), in nats, from standard normal draws (n_draws, 1, n_components)."""
        posterior = self.vae.encode(x)
        z = posterior.mean + posterior.scale * noise
        decoded = self.vae.decode(z.flatten(0, 1)).unflatten(0, z.shape[:2])
        s = self.error_scale
        log_noise = -0.5 * ((x - decoded) / s).square().sum(-1) - s.log().sum() - 0.5 * LOG_2PI * len(s)
        # E log q(z|x), up to the constant that the prior's lacks too.
        log_posterior = -posterior.scale.log().sum(-1) - 0.5 * noise.square().sum(-1)
        return (log_noise + self.log_prior(z) - log_posterior).mean(0)

    def log_prior(self, z: Tensor) -> Tensor:
        """Log-density of latent points under the aggregated posterior, up to -k/2 log(2 pi)."""
        # Squares multiplied out are matrix products. Their terms cancel: in double precision, where there is one.
        dtype = z.dtype if z.device.type == "mps" else torch.float64
        precision = self.prior_scale.to(dtype).pow(-2)
        centered = self.prior_mean.to(dtype) * precision
        constant = -0.5 * (self.prior_mean.to(dtype) * centered).sum(-1) + 0.5 * precision.log().sum(-1)
        points = z.to(dtype).flatten(0, -2)
        log_density = torch.addmm(constant, points, centered.t()).addmm_(points.square(), precision.t(), alpha=-0.5)
        return (log_density.logsumexp(-1) - math.log(len(constant))).view(z.shape[:-1]).to(z)
