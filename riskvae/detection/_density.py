"""The density of rows that a trained autoencoder stands for, fitted when its networks are done."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from riskvae.losses import LOG_2PI

__all__ = ["RowDensity"]

# Values that are computed at once.
_CHUNK = 2**22


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
        Trained module, whose likelihood is of quantiles. Not kept: it goes on training, and is stored elsewhere.
    x : Tensor of shape (n, n_features)
        Training rows, or a sample of them, in random order: the first M make the prior.
    draws : Tensor of shape (n_draws, 1, n_components)
        Standard normal draws for :meth:`bound`; all that is compared is scored with the same ones.
    seed : int
        Decides the draws for the errors, a pair z, -z for each row.
    n_rows : int, default=None
        How many rows x is a sample of; None means no others.

    References
    ----------
    Hoffman and Johnson, "ELBO surgery: yet another way to carve up the variational evidence lower bound" (2016).
    Tomczak and Welling, "VAE with a VampPrior" (2018).
    """

    N_MIXED = 2_000  # M
    N_ROWS = 10_000  # whose errors are looked at, where they are not too wide

    draws: Tensor
    prior_mean: Tensor
    prior_scale: Tensor
    error_scale: Tensor
    scores: Tensor
    _known: tuple[Tensor, Tensor, Tensor] | None = None  # what a copy for serving has computed of the prior

    # Least s_j, in units of the feature's spread: what was always reconstructed exactly is not known without bound.
    SMALLEST = 1e-3

    def __init__(self, vae: Any, x: Tensor, draws: Tensor, seed: int, n_rows: int | None = None) -> None:
        super().__init__()
        self.n_rows = n_rows or len(x)
        self.share = 1.0
        self.register_buffer("draws", draws)
        self.register_buffer("scores", draws.new_zeros(0))
        prior = vae.encode(x[: self.N_MIXED])
        self.register_buffer("prior_mean", prior.mean)
        self.register_buffer("prior_scale", prior.scale)
        squares, generator = torch.zeros_like(x[0]), torch.Generator().manual_seed(seed)
        for part in x.split(max(1, _CHUNK // max(vae.likelihood.n_values, vae.widest))):
            posterior = vae.encode(part)
            step = posterior.scale * torch.randn(posterior.scale.shape, generator=generator).to(x)
            for z in (posterior.mean + step, posterior.mean - step):
                squares += (part - vae.decode(z)).square().sum(0)
        s = (0.5 * squares / len(x)).sqrt()
        self.register_buffer("error_scale", torch.maximum(s, self.SMALLEST * vae.likelihood.unit))

    def values_per_row(self, vae: Any) -> int:
        """Numbers that are held for each row that :meth:`bound` takes."""
        return len(self.draws) * max(vae.likelihood.n_values, vae.widest, len(self.prior_mean))

    def bound(self, vae: Any, x: Tensor, own: Tensor | None = None) -> Tensor:
        """Evidence lower bound of rows (n, d), in nats; ``own`` are their places in the prior, to leave them out."""
        posterior = vae.encode(x)
        z = posterior.mean + posterior.scale * self.draws
        decoded = vae.decode(z.flatten(0, 1)).unflatten(0, z.shape[:2])
        s = self.error_scale
        log_noise = -0.5 * ((x - decoded) / s).square().sum(-1) - s.log().sum() - 0.5 * LOG_2PI * len(s)
        # E log q(z|x), up to the constant that the prior's lacks too.
        log_posterior = -posterior.scale.log().sum(-1) - 0.5 * self.draws.square().sum(-1)
        return (log_noise + self.log_prior(z, own) - log_posterior).mean(0)

    @torch.no_grad()
    def join(self, earlier: "RowDensity", seed: int) -> None:
        """Go on from the density of an earlier part of the data.

        A part that is as large as the largest before takes its place, since the networks have changed meanwhile. A
        smaller one, of m rows to M, gets the share m / M of squared errors, prior and scores: one row must not decide.
        """
        self.share = min(1.0, self.n_rows / earlier.n_rows)
        self.n_rows = max(self.n_rows, earlier.n_rows)
        if self.share < 1:
            squares = self.share * self.error_scale.square() + (1 - self.share) * earlier.error_scale.square()
            self.error_scale = squares.sqrt()
            kept = self._kept(len(earlier.prior_mean), len(self.prior_mean), seed)
            for name in ("prior_mean", "prior_scale"):
                old, new = getattr(earlier, name)[kept[0]], getattr(self, name)[kept[1]]
                setattr(self, name, torch.cat((old, new)))

    def _kept(self, n_old: int, n_new: int, seed: int) -> tuple[Tensor, Tensor]:
        """Places of what stays of the earlier part, and of what comes in for the rest of as many."""
        n_in = min(max(round(self.share * n_old), 1), n_new, n_old)
        generator = torch.Generator().manual_seed(seed)
        return torch.randperm(n_old, generator=generator)[n_in:], torch.randperm(n_new, generator=generator)[:n_in]

    def remember(self, scores: Tensor, earlier: "RowDensity | None", seed: int) -> Tensor:
        """Scores that tell where a threshold lies, with those kept of an earlier part; some of them are kept."""
        if earlier is not None and self.share < 1 and len(earlier.scores):
            old, new = self._kept(len(earlier.scores), len(scores), seed)
            scores = torch.cat((earlier.scores[old].to(scores), scores[new]))
        order = torch.randperm(len(scores), generator=torch.Generator().manual_seed(seed))
        self.scores = scores[order[: self.N_MIXED]].to(self.error_scale)
        return scores

    def left_out(self, vae: Any, x: Tensor) -> Tensor:
        """Bounds of the rows that the prior is made of, each without its own part: as if it were new.

        After :meth:`join` few of the prior's parts are of these rows, and none is left out.
        """
        size = max(1, _CHUNK // self.values_per_row(vae))
        if self.share < 1:
            return torch.cat([self.bound(vae, part) for part in x.split(size)])
        places = torch.arange(len(self.prior_mean), device=x.device)
        return torch.cat([self.bound(vae, x[i], i if len(places) > 1 else None) for i in places.split(size)])

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
        return (log_density.logsumexp(-1) - math.log(len(constant) - (own is not None))).to(z)
