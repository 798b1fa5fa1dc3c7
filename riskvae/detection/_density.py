"""The density of rows that a trained autoencoder stands for, fitted when its networks are done."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from riskvae.detection._noise import CHUNK, Noise

__all__ = ["RowDensity"]


class RowDensity(nn.Module):
    r"""A trained VAE as a density: latent points spread as those of training rows, noise around decoded rows.

    .. math:: \tilde p(x) = \int \tilde q(z) \prod_j p(x_j; m_j(z), s_j) \, dz, \qquad
              \tilde q(z) = \frac1M \sum_{i \le M} q(z | x_i)

    No prior is better for training rows than the aggregated posterior, no scales than those of the :class:`Noise`.

    Parameters
    ----------
    vae : VAE
        Trained module, whose likelihood is of quantiles. Not kept: it goes on training, and is stored elsewhere.
    x : Tensor of shape (n, n_features)
        Training rows, in random order: the first M make the prior.
    draws : Tensor of shape (n_draws, 1, n_components)
        Standard normal draws for :meth:`bound`; all that is compared is scored with the same ones.
    noise : Noise
        What is known of errors.

    References
    ----------
    Hoffman and Johnson, "ELBO surgery: yet another way to carve up the variational evidence lower bound" (2016).
    Tomczak and Welling, "VAE with a VampPrior" (2018).
    """

    N_MIXED = 500  # M

    draws: Tensor
    prior_mean: Tensor
    prior_scale: Tensor
    _known: tuple[Tensor, Tensor, Tensor] | None = None  # what a copy for serving has computed of the prior

    def __init__(self, vae: Any, x: Tensor, draws: Tensor, noise: Noise) -> None:
        super().__init__()
        self.noise = noise
        self.register_buffer("draws", draws)
        prior = vae.encode(x[: self.N_MIXED])
        self.register_buffer("prior_mean", prior.mean)
        self.register_buffer("prior_scale", prior.scale)

    def values_per_row(self, vae: Any) -> int:
        """Numbers that are held for each row that :meth:`bound` takes."""
        return len(self.draws) * max(vae.likelihood.n_values, vae.widest, len(self.prior_mean))

    def bound(self, vae: Any, x: Tensor, *, own: Tensor | None = None, scale: Tensor | None = None) -> Tensor:
        """Evidence lower bound of rows (n, d), in nats.

        ``own`` are the rows' places in the prior, to leave them out; ``scale`` (n, d) other scales of the noise.
        """
        posterior = vae.encode(x)
        z = posterior.mean + posterior.scale * self.draws
        raw = vae.decoder(z.flatten(0, 1)).unflatten(0, z.shape[:2])
        # E log q(z|x), up to the constant that the prior's lacks too.
        log_posterior = -posterior.scale.log().sum(-1) - 0.5 * self.draws.square().sum(-1)
        return (self.noise.log_density(vae, x, raw, scale) + self.log_prior(z, own) - log_posterior).mean(0)

    def bounds(self, vae: Any, x: Tensor, *, seen: bool = False, scale: Tensor | None = None) -> Tensor:
        """Bounds of many rows by chunks; ``seen`` rows are those of the prior, and each is scored without its own."""
        size, found = max(1, CHUNK // self.values_per_row(vae)), []
        places = torch.arange(len(x), device=x.device) if seen and len(x) > 1 else None
        for start in range(0, len(x), size):
            part = slice(start, start + size)
            own, s = (None if rows is None else rows[part] for rows in (places, scale))
            found.append(self.bound(vae, x[part], own=own, scale=s))
        return torch.cat(found)

    def join(self, earlier: "RowDensity", kept: tuple[Tensor, Tensor]) -> None:
        """Take some parts of an earlier prior, and of this one, by their places (old, new)."""
        for name in ("prior_mean", "prior_scale"):
            setattr(self, name, torch.cat((getattr(earlier, name)[kept[0]], getattr(self, name)[kept[1]])))

    def _mixture(self, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """Precisions of the prior's parts, means times these, and constants; a copy for serving computes them once."""
        if self._known is not None:
            return self._known
        precision = self.prior_scale.to(dtype).pow(-2)
        centered = self.prior_mean.to(dtype) * precision
        constant = -0.5 * (self.prior_mean.to(dtype) * centered).sum(-1) + 0.5 * precision.log().sum(-1)
        known = precision, centered, constant
        if not self.training:
            self._known = known
        return known

    def log_prior(self, z: Tensor, own: Tensor | None = None) -> Tensor:
        """Log-density of latent points under the aggregated posterior, up to -k/2 log(2 pi)."""
        # Squares multiplied out are matrix products. Their terms cancel: in double precision, where there is one.
        dtype = z.dtype if z.device.type == "mps" else torch.float64
        precision, centered, constant = self._mixture(dtype)
        points = z.to(dtype).flatten(0, -2)
        log_density = torch.addmm(constant, points, centered.t()).addmm_(points.square(), precision.t(), alpha=-0.5)
        log_density = log_density.view(*z.shape[:-1], -1)
        if own is not None:
            log_density.scatter_(-1, own[:, None].expand(*z.shape[:-1], 1), -math.inf)
        # What is below the largest by more than single precision tells does not count.
        largest = log_density.amax(-1, keepdim=True)
        shares = (log_density - largest).float()
        # The exporter of torch 2.6 bears nothing that changes in place.
        shares = shares.exp() if torch.compiler.is_compiling() else shares.exp_()
        total = shares.sum(-1).to(dtype)
        return (largest[..., 0] + total.log() - math.log(len(constant) - (own is not None))).to(z)
