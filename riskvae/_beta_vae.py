"""BetaVAE: the evidence lower bound with a weighted KL term; BetaTCVAE weighs only its total correlation."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from riskvae._base import BaseVAE
from riskvae._docs import document_parameters
from riskvae._model import Terms, WeightedELBO
from riskvae.losses import total_correlation


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
    BetaTCVAE : Weighs only the part of the KL term that entangles coordinates.
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


class _TotalCorrelationELBO(WeightedELBO):
    """Mean negative evidence lower bound, with the total correlation within the KL term weighted by ``beta``."""

    def forward(self, terms: Terms) -> Tensor:
        bound = terms.nll.mean() + terms.kl.mean()
        if self.beta == 1:
            return bound
        return bound + (self.beta - 1.0) * total_correlation(terms.z[0], *terms.posterior).mean()


@document_parameters(beta=4.0, meaning="Weight of the total correlation within the KL term, at least 0.")
class BetaTCVAE(BetaVAE):
    r"""Variational autoencoder with a weighted total correlation.

    The KL term of the evidence bound, averaged over rows, is the sum of the information between rows and latent
    points, of the total correlation, and of the coordinates' own KL terms. Only the second entangles
    coordinates, and only it is weighted:

    .. math:: \frac1N \sum_i -E_{q(z|x_i)} \log p(x_i|z) + \mathrm{KL}(q(z|x_i) \,\|\, N(0, I))
              + (\beta - 1) \, \mathrm{KL}\Bigl(q(z) \,\Big\|\, \prod_k q(z_k)\Bigr),

    with the aggregated posterior :math:`q(z) = \frac1N \sum_i q(z|x_i)` estimated within each batch
    (:func:`riskvae.losses.total_correlation`): take large batches. ``beta=1`` is ``BetaVAE(beta=1)``. Compared
    with :class:`BetaVAE` at the same beta it keeps more of what the latent points tell about the rows.

    Parameters
    ----------
    {parameters}

    Attributes
    ----------
    {attributes}

    See Also
    --------
    BetaVAE : Weighs the whole KL term.

    References
    ----------
    Chen, Li, Grosse and Duvenaud, "Isolating sources of disentanglement in variational autoencoders" (2018).

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from riskvae import BetaTCVAE
    >>> X = load_digits().data / 16
    >>> vae = BetaTCVAE(n_components=4, beta=6.0, random_state=0).fit(X)
    >>> vae.transform(X).shape
    (1797, 4)
    """

    def _make_objective(self) -> WeightedELBO:
        return _TotalCorrelationELBO(self.beta)
