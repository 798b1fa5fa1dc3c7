"""BetaVAE: the evidence lower bound with a weighted KL term."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from riskvae._base import BaseVAE
from riskvae._docs import document_parameters


@document_parameters(beta=4.0)
class BetaVAE(BaseVAE):
    r"""Variational autoencoder with a weighted KL term.

    Minimizes, over the encoder q and the decoder p,

    .. math:: \frac1N \sum_i -E_{q(z|x_i)} \log p(x_i|z) + \beta \, \mathrm{KL}(q(z|x_i) \,\|\, N(0, I)).

    ``beta=1`` is the plain variational autoencoder; larger values trade reconstruction for latent
    coordinates that are closer to independent.

    Parameters
    ----------
    {parameters}

    Attributes
    ----------
    {attributes}

    See Also
    --------
    RiskAwareVAE : Trains on the tail of the reconstruction losses.

    References
    ----------
    Kingma and Welling, "Auto-encoding variational Bayes" (2014).
    Higgins et al., "beta-VAE: learning basic visual concepts with a constrained variational framework" (2017).

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from riskvae import BetaVAE
    >>> X = load_digits().data / 16
    >>> vae = BetaVAE(n_components=4, beta=2.0, random_state=0).fit(X)
    >>> vae.transform(X).shape
    (1797, 4)
    """

    def __init__(
        self,
        n_components: int = 10,
        *,
        beta: float = 4.0,
        hidden_layer_sizes: Sequence[int] = (512, 256),
        activation: str = "relu",
        encoder: Callable[[int, int], nn.Module] | None = None,
        decoder: Callable[[int, int], nn.Module] | None = None,
        likelihood: str = "gaussian",
        noise_scale: float | str = "learned",
        output_activation: str = "auto",
        scale_offset: float = 0.0,
        max_epochs: int = 30,
        batch_size: int = 256,
        lr: float = 1e-3,
        weight_decay: float = 0.0,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 5,
        tol: float = 1e-4,
        callbacks: Sequence[Any] | None = None,
        n_score_samples: int = 16,
        warm_start: bool = False,
        random_state: Any = None,
        verbose: int = 0,
        device: Any = "auto",
        compile: bool = False,
    ) -> None:
        self._remember(locals())
