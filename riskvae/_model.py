"""The VAE itself as a torch module, its observation models, and the loss it is trained on."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from riskvae.losses import LOG_2PI, bernoulli_nll, gaussian_nll, kl_divergence
from riskvae.nets import Posterior

Factory = Callable[[int, int], nn.Module]

# softplus(raw + _UNIT) is 1 at raw = 0: an untrained encoder starts near the prior.
_UNIT = math.log(math.e - 1.0)
# Keeps log(scale) finite. A posterior this narrow is a point for every purpose.
_MIN_SCALE = 1e-6


class Terms(NamedTuple):
    """What a loss is made of: per-row terms in nats for ``n_draws`` latent draws of ``n`` rows."""

    nll: Tensor  # (n_draws, n): -log p(x|z)
    kl: Tensor  # (n,)
    z: Tensor  # (n_draws, n, n_components)
    posterior: Posterior


class VAE(nn.Module):
    """Variational autoencoder: ``encode`` rows to a posterior, ``decode`` latent points to mean rows.

    Parameters
    ----------
    encoder, decoder : nn.Module
        (n, n_features) to (n, 2 n_components), and (n, n_components) to what the likelihood takes.
    likelihood : Likelihood
        Observation model.
    n_components : int
        Latent dimensions.
    scale_offset : float, default=0.0
        Constant tau added to the posterior standard deviation.
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        likelihood: "Likelihood",
        n_components: int,
        scale_offset: float = 0.0,
    ) -> None:
        super().__init__()
        self.n_components = n_components
        self.encoder = encoder
        self.decoder = decoder
        self.likelihood = likelihood
        self.scale_offset = scale_offset

    def encode(self, x: Tensor) -> Posterior:
        """Posterior mean and scale of rows. The scale's softplus grows linearly, so outliers stay finite."""
        mean, raw = self.encoder(x).chunk(2, dim=-1)
        return Posterior(mean, F.softplus(raw + _UNIT) + (_MIN_SCALE + self.scale_offset))

    def decode(self, z: Tensor) -> Tensor:
        """Mean rows of latent points."""
        return self.likelihood.mean(self.decoder(z))

    def forward(self, x: Tensor, noise: Tensor) -> Terms:
        """Terms of the evidence bound of ``x`` (n, d) at the standard normal draws ``noise`` (n_draws, n, k)."""
        posterior = self.encode(x)
        z = posterior.mean + posterior.scale * noise
        raw = self.decoder(z.flatten(0, 1)).unflatten(0, z.shape[:2])
        return Terms(self.likelihood.nll(x, raw), kl_divergence(*posterior), z, posterior)


def build_vae(
    n_features: int,
    n_components: int,
    *,
    encoder: Factory,
    decoder: Factory,
    likelihood: "Likelihood",
    scale_offset: float,
) -> VAE:
    """VAE from factories of its networks, tried on two rows of zeros so that a wrong shape is found at once."""
    modules = {
        "encoder": _build("encoder", encoder, n_features, 2 * n_components, "means and then raw scales in one tensor"),
        "decoder": _build("decoder", decoder, n_components, n_features, "one value per feature"),
    }
    # Training is float32, whatever torch's default dtype.
    return VAE(**modules, likelihood=likelihood, n_components=n_components, scale_offset=scale_offset).float()


def _build(name: str, factory: Factory, n_in: int, n_out: int, meaning: str) -> nn.Module:
    module = factory(n_in, n_out)
    if not isinstance(module, nn.Module):
        raise TypeError(f"{name}(n_in, n_out) must return a torch.nn.Module; got {type(module).__name__}.")
    made = f"{name}: the module from {name}({n_in}, {n_out})"
    rows = torch.zeros(2, n_in)
    try:
        with torch.no_grad():
            out = module.eval()(rows)
    except Exception as error:
        raise ValueError(f"{made} fails on {n_in} inputs: {error}") from error
    shape = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
    if shape != (2, n_out):
        raise ValueError(
            f"{made} must map (n, {n_in}) to (n, {n_out}), {meaning}; on 2 rows it gave {shape}. "
            "Let its last layer have n_out outputs."
        )
    if rows.any():
        raise ValueError(f"{made} changes its input in place; give its first layer inplace=False, or a copy.")
    return module


class Likelihood(nn.Module):
    """Observation model p(x|z): reads the decoder's raw output."""

    unit_interval = False  # whether rows must lie in [0, 1]

    def mean(self, raw: Tensor) -> Tensor:
        """Expected rows."""
        raise NotImplementedError

    def nll(self, x: Tensor, raw: Tensor) -> Tensor:
        """Nats per row, over any leading dimensions of ``raw``."""
        raise NotImplementedError

    def sample(self, mean: NDArray[np.floating], rng: np.random.Generator) -> NDArray[np.floating]:
        """Rows drawn around their means."""
        raise NotImplementedError

    def excess(self) -> float:
        """A learned scale relative to the spread that it started at: above 1, the mean of the rows does better."""
        return 0.0

    def fit_scale(self, x: Tensor) -> None:
        """Start a learned scale from the spread of rows, once; nothing to do without one."""

    def update_scale(self, nll: Tensor) -> None:
        """Move a learned scale towards the best one for a batch, known by its mean negative log-likelihood."""


class BernoulliLikelihood(Likelihood):
    """Pixels in [0, 1] with probabilities sigmoid(raw)."""

    unit_interval = True

    def mean(self, raw: Tensor) -> Tensor:
        return raw.sigmoid()

    def nll(self, x: Tensor, raw: Tensor) -> Tensor:
        return bernoulli_nll(x, raw)

    def sample(self, mean: NDArray[np.floating], rng: np.random.Generator) -> NDArray[np.floating]:
        return (rng.random(mean.shape) < mean).astype(mean.dtype)


class GaussianLikelihood(Likelihood):
    r"""Rows with one standard deviation s for all features, fixed or learned.

    A learned s is the maximum-likelihood one, whatever the loss of the networks: risk reweighs rows, it does
    not change what noise is. The mean negative log-likelihood of a batch tells the best s in closed form,

    .. math:: \frac{s_*^2}{s^2} = \frac{\overline{\lVert x - m \rVert^2}}{d s^2}
              = 2 \left(\frac{\overline{\mathrm{nll}}}{d} - \log s - \tfrac12 \log 2\pi \right),

    and each step goes a tenth of the way there in log s: a geometric moving average over about ten batches,
    whatever the learning rate (cf. the optimal variance of Rybkin et al. 2021). It starts at the spread of
    the first rows that have one.

    Parameters
    ----------
    n_features : int
        d, the width of a row.
    noise_scale : float or None
        Fixed standard deviation; None learns it.
    sigmoid : bool, default=False
        Squash means to (0, 1).
    """

    RATE = 0.1
    # A decoder that memorizes its rows would drive s to 0 and the bound to infinity (variance shrinkage).
    SMALLEST = 1e-3

    log_scale: Tensor
    log_floor: Tensor
    started: Tensor

    def __init__(self, n_features: int, noise_scale: float | None = None, sigmoid: bool = False) -> None:
        super().__init__()
        self.n_features = n_features
        self.sigmoid = sigmoid
        self.learned = noise_scale is None
        self.register_buffer("log_scale", torch.tensor(math.log(noise_scale or 1.0)))
        self.register_buffer("log_floor", self.log_scale + math.log(self.SMALLEST))
        self.register_buffer("started", torch.tensor(not self.learned))

    def mean(self, raw: Tensor) -> Tensor:
        return raw.sigmoid() if self.sigmoid else raw

    def nll(self, x: Tensor, raw: Tensor) -> Tensor:
        return gaussian_nll(x, self.mean(raw), self.log_scale)

    def sample(self, mean: NDArray[np.floating], rng: np.random.Generator) -> NDArray[np.floating]:
        return mean + float(self.log_scale.exp()) * rng.standard_normal(mean.shape)

    @torch.no_grad()
    def fit_scale(self, x: Tensor) -> None:
        if self.started:
            return  # before a pass over all rows
        spread = float(x.var(0, correction=0).mean().sqrt())
        if spread > 0:  # constant rows have no spread to start at
            self.log_scale.fill_(math.log(spread))
            self.log_floor.copy_(self.log_scale + math.log(self.SMALLEST))
            self.started.fill_(True)

    def excess(self) -> float:
        return float((self.log_scale - self.log_floor).exp()) * self.SMALLEST if self.learned else 0.0

    @torch.no_grad()
    def update_scale(self, nll: Tensor) -> None:
        if self.learned:
            ratio = 2.0 * (nll / self.n_features - self.log_scale) - LOG_2PI
            self.log_scale.add_(ratio.clamp_(min=1e-4).log_(), alpha=0.5 * self.RATE).clamp_(min=self.log_floor)


class WeightedELBO(nn.Module):
    """Mean negative evidence lower bound with the KL term weighted by ``beta``."""

    def __init__(self, beta: float) -> None:
        super().__init__()
        self.beta = beta

    warmup = 0  # epochs in which the loss is not yet the one that is wanted

    def begin_epoch(self, epoch: int) -> dict[str, float]:
        """Hear which epoch of the training begins, counted from 0, and tell the history what it changes."""
        return {}

    def continues(self, other: nn.Module) -> bool:
        """Whether the state of another loss, from an earlier training, can be taken over."""
        return False

    def forward(self, terms: Terms) -> Tensor:
        return terms.nll.mean() + self.beta * terms.kl.mean()
