"""The VAE itself as a torch module, and what it says of a batch."""

import copy
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from riskvae.likelihoods import Likelihood
from riskvae.losses import kl_divergence
from riskvae.nets import Posterior, Standardize, unit_softplus
from riskvae.training._batch import Batch
from riskvae.training._normal_rows import NormalRows
from riskvae.training._refine import refined

__all__ = ["VAE", "Factory", "Terms", "build_vae"]

Factory = Callable[[int, int], nn.Module]

# Keeps log(scale) finite. A posterior this narrow is a point for every purpose.
_MIN_SCALE = 1e-6


class Terms(NamedTuple):
    """Terms that losses are made of, in nats, row by row, for ``n_draws`` latent draws of ``n`` rows.

    Parameters
    ----------
    nll : Tensor of shape (n_draws, n)
        Reconstruction losses, -log p(x|z).
    kl : Tensor of shape (n,)
        KL divergence of each row's posterior from the prior.
    z : Tensor of shape (n_draws, n, n_components)
        The latent draws.
    posterior : Posterior
        Mean and scale of each row's posterior.
    batch : Batch
        The rows and their data; NaN is a missing value.
    known : Tensor of shape (n,), default=None
        Share of each row's values that are known, if some are missing; ``nll`` then covers only these.
    """

    nll: Tensor
    kl: Tensor
    z: Tensor
    posterior: Posterior
    batch: Batch
    known: Tensor | None = None


class VAE(nn.Module):
    """Variational autoencoder: ``encode`` rows to a posterior, ``decode`` latent points to mean rows.

    Parameters
    ----------
    encoder, decoder : nn.Module
        Map (n, n_features) to (n, 2 n_components), and (n, n_components) to the input of the likelihood.
    likelihood : Likelihood
        Observation model.
    n_components : int
        Number of latent dimensions.
    scale_offset : float, default=0.0
        Constant tau added to the posterior standard deviation.
    told : {None, "values", "places"}, default=None
        How the encoder is informed about missing values (NaN): they are replaced by the means of the features; with
        "places", as many columns again are added, which are 0 where a value is known. None is for complete rows; the
        model then replaces missing values, if there are any, by its own expectations.
    """

    ROUNDS = 5  # in which a model that was trained on whole rows fills in others

    refine = 0  # steps by which a posterior of evaluation mode comes to fit its row
    lower: torch.dtype | None = None  # in which the networks compute, while a training of lower precision does

    holes: bool  # whether rows may have missing values
    fill: Tensor
    mark: Tensor  # what says that a value is missing: the features' spread, so that it is heard beside them

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        likelihood: Likelihood,
        n_components: int,
        scale_offset: float = 0.0,
        told: str | None = None,
    ) -> None:
        super().__init__()
        self.n_components = n_components
        self.told = told
        self.holes = told is not None
        if told is not None:
            self.register_buffer("fill", torch.zeros(likelihood.n_inputs))
            self.register_buffer("mark", torch.ones(()))
        self.normal: NormalRows | None = None
        if told is not None and likelihood.beside_normal and likelihood.n_features <= NormalRows.WIDEST:
            self.normal = NormalRows(likelihood.n_features)
        self.encoder = encoder
        self.decoder = decoder
        self.likelihood = likelihood
        self.scale_offset = scale_offset
        self.widest = 0  # values that a layer has for a row, where that is known

    def encode(self, x: Tensor) -> Posterior:
        """Posterior mean and scale of rows; an untrained encoder's scale is near the prior's, an outlier's is finite.

        In evaluation mode, the posterior is refined by ``refine`` steps on the row's own bound.
        """
        missing, seen = self.missing(x), self.likelihood.inputs(x)
        given = self.through(self.encoder, seen if missing is None else self._filled(seen, missing))
        mean, raw = given.chunk(2, dim=-1)
        posterior = Posterior(mean, self.scales(raw))
        if not self.refine or self.training:
            return posterior
        return refined(self, x, posterior, self.refine, floor=_MIN_SCALE + self.scale_offset)

    def through(self, network: nn.Module, x: Tensor) -> Tensor:
        """Output of the encoder or the decoder, computed in the precision of training, in the dtype of its input."""
        if self.lower is None:
            return network(x)
        # A cache of cast weights would outlive the step inside a caller's autocast.
        with torch.autocast(x.device.type, dtype=self.lower, cache_enabled=False):
            given = network(x)
        return given.to(x.dtype)

    def missing(self, x: Tensor) -> Tensor | None:
        """Where values of rows are missing, or None if all rows are complete."""
        if not self.holes:
            return None
        missing = x.isnan()
        return missing if self.told is not None or bool(missing.any()) else None

    def _filled(self, seen: Tensor, missing: Tensor) -> Tensor:
        """What the encoder sees of rows with missing values."""
        lacking = seen.isnan()
        if self.told is not None:
            filled = torch.where(lacking, self.fill, seen)
            return torch.cat((filled, missing * self.mark), -1) if self.told == "places" else filled
        rows = torch.where(lacking, self._expected(seen.new_zeros(1, self.n_components)).detach(), seen)
        for _ in range(0 if self.training else self.ROUNDS):
            rows = torch.where(lacking, self._expected(self.through(self.encoder, rows).chunk(2, dim=-1)[0]), seen)
        return rows

    def _expected(self, z: Tensor) -> Tensor:
        """What the encoder is expected to see of rows with latent points."""
        return self.likelihood.expected_inputs(self.through(self.decoder, z))

    @torch.no_grad()
    def fit_fill(self, x: Tensor) -> None:
        """Learn the means of the features from the first rows, as replacements of missing values."""
        if self.told is not None and not self.fill.any():
            seen = self.likelihood.inputs(x)
            self.fill.copy_(seen.nanmean(0).nan_to_num(0.0))
            spread = (seen - self.fill).square().nanmean().sqrt()
            self.mark.copy_(torch.where(spread > 0, spread, torch.ones_like(spread)))
            if self.normal is not None:
                self.normal.fit(x)

    def of_whole_rows(self) -> "VAE":
        """Copy that gives the same results for complete rows, and whose encoder has one input per feature."""
        other = copy.deepcopy(self)
        if self.told == "places":
            d = len(self.fill)
            for layer in other.encoder.modules():
                if isinstance(layer, Standardize):
                    layer.center = layer.center[:d]
                elif isinstance(layer, nn.Linear):
                    layer.weight = nn.Parameter(layer.weight[:, :d].clone(), layer.weight.requires_grad)
                    layer.in_features = d
                    break
        other.told, other.holes, other.normal = None, False, None
        return other

    def nll(self, x: Tensor, raw: Tensor) -> Tensor:
        """Reconstruction losses (..., n) of the known values of rows."""
        missing = self.missing(x)
        return self.likelihood.nll(x, raw) if missing is None else self.likelihood.known_nll(x, raw)

    def nll_at(self, x: Tensor, z: Tensor) -> Tensor:
        """Reconstruction losses (..., n) of rows at latent points (..., n, n_components)."""
        return self.nll(x, self.through(self.decoder, z.flatten(0, -2)).unflatten(0, z.shape[:-1]))

    def known(self, x: Tensor) -> Tensor | None:
        """Share of each row's values that are known; None if all rows are complete."""
        missing = self.missing(x)
        return None if missing is None else 1.0 - missing.to(x).mean(-1)

    def scales(self, raw: Tensor) -> Tensor:
        """Posterior scales from the second half of the encoder's output, in which they increase."""
        return unit_softplus(raw) + (_MIN_SCALE + self.scale_offset)

    def decode(self, z: Tensor) -> Tensor:
        """Mean rows of latent points."""
        return self.likelihood.mean(self.decoder(z))

    def forward(self, batch: Batch, noise: Tensor) -> Terms:
        """Terms of the evidence bound of a batch of n rows at the standard normal draws ``noise`` (n_draws, n, k)."""
        posterior = self.encode(batch.x)
        z = posterior.mean + posterior.scale * noise
        nll, known = self.nll_at(batch.x, z), self.known(batch.x)
        return Terms(nll, kl_divergence(*posterior), z, posterior, batch, known)


def build_vae(
    n_features: int,
    n_components: int,
    *,
    encoder: Factory,
    decoder: Factory,
    likelihood: Likelihood,
    scale_offset: float,
    told: str | None = None,
) -> VAE:
    """VAE from factories of its networks, tried on two rows of zeros so that a wrong shape is found at once."""
    likelihood.prepare(n_features)
    means_and_scales = "means and then raw scales in one tensor"
    n_seen = likelihood.n_inputs + (n_features if told == "places" else 0)
    copies: dict[int, Any] = {}  # of both networks: what they share stays shared
    encodes, encoder_width = _build("encoder", encoder, n_seen, 2 * n_components, means_and_scales, copies)
    decodes, decoder_width = _build(
        "decoder", decoder, n_components, likelihood.n_values, likelihood.decoder_gives, copies
    )
    vae = VAE(encodes, decodes, likelihood, n_components, scale_offset, told).float()
    vae.widest = max(encoder_width, decoder_width)
    return vae


def _build(
    name: str, factory: Factory, n_in: int, n_out: int, meaning: str, copies: dict[int, Any]
) -> tuple[nn.Module, int]:
    """Module of a factory, and the values that its widest layer has for a row."""
    try:
        inspect.signature(factory).bind(n_in, n_out)
    except TypeError as error:
        raise TypeError(
            f"{name} is called with the numbers of its inputs and outputs, here {name}({n_in}, {n_out}), and must "
            f"return a torch.nn.Module; {factory!r} does not take them: {error}."
        ) from None
    except ValueError:  # written in C, and without a signature
        pass
    module, widths = _copied(factory(n_in, n_out), copies), [n_in, n_out]
    if not isinstance(module, nn.Module):
        raise TypeError(f"{name}(n_in, n_out) must return a torch.nn.Module; got {type(module).__name__}.")
    made = f"{name}: the module from {name}({n_in}, {n_out})"
    rows = torch.zeros(2, n_in, dtype=torch.float32)
    try:
        # Training is float32, whatever torch's default dtype.
        out = module.float().eval()(rows)
    except Exception as error:
        raise ValueError(
            f"{made} fails on {n_in} inputs in float32, in which training is done: {error}. Rows are flat, of shape "
            f"(n, {n_in}): begin with torch.nn.Unflatten if its layers take images."
        ) from error
    shape = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
    if shape != (2, n_out):
        raise ValueError(
            f"{made} must map (n, {n_in}) to (n, {n_out}), {meaning}; on 2 rows it gave {shape}. {_remedy(out, n_out)}"
        )
    if rows.any():
        raise ValueError(f"{made} changes its input in place; give its first layer inplace=False, or a copy.")
    in_double = _follows_its_input(made, module, rows)
    _measure(module, rows, widths)
    return module if in_double else InFloat32(module), max(widths)


def _copied(module: Any, copies: dict[int, Any]) -> Any:
    """A copy of what a factory returns: it may return one module every time, and each fit must begin with it anew."""
    try:
        return copy.deepcopy(module, copies)
    except Exception:  # what cannot be copied is refused below, by name
        return module


def _remedy(out: Any, n_out: int) -> str:
    if isinstance(out, tuple | list):
        return "Join what it returns: torch.cat((means, raw_scales), dim=1)."
    if isinstance(out, Tensor) and out.numel() == 2 * n_out:
        return "End with torch.nn.Flatten()."
    return "Let its last layer have n_out outputs."


@torch.no_grad()
def _measure(module: nn.Module, rows: Tensor, widths: list[int]) -> None:
    """Note how many values the layers have for a row."""
    hooks = [part.register_forward_hook(lambda *given: widths.append(_width(given[2]))) for part in module.modules()]
    module(rows)
    for hook in hooks:
        hook.remove()


def _follows_its_input(made: str, module: nn.Module, rows: Tensor) -> bool:
    """Whether a module, as a copy in double precision, computes in it."""
    try:
        twin = copy.deepcopy(module)
    except Exception as error:
        raise ValueError(
            f"{made} cannot be copied, which predicting and pickling need. Use the weight_norm or spectral_norm of "
            f"torch.nn.utils.parametrizations, not those of torch.nn.utils. ({error})"
        ) from error
    try:
        with torch.no_grad():
            return bool(twin.double()(rows.double()).dtype == torch.float64)
    except Exception:
        return False


class InFloat32(nn.Module):
    """A module that casts its input, and so computes in single precision only; rows of others are cast around it."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        super()._apply(fn, recurse)
        self.module.float()
        return self

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x.float()).to(x.dtype)


def _width(out: Any) -> int:
    """Values for each of two rows."""
    return out.numel() // 2 if isinstance(out, Tensor) else 0
