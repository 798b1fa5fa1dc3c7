"""RiskAwareVAE: trains on the tail of the reconstruction losses."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from riskvae import risk as risk_measures
from riskvae._base import BaseVAE
from riskvae._docs import document_parameters
from riskvae._model import Terms, WeightedELBO
from riskvae._validation import Rule, choice, integer, real

_EPS_REMEDY = "eps is the share of the losses that count; eps=1.0 or risk='neutral' takes the mean of all."


class TailObjective(WeightedELBO):
    """CVaR of the batch's reconstruction losses, plus the mean KL term weighted by ``beta``."""

    def __init__(self, beta: float, eps: float, tail: str) -> None:
        super().__init__(beta)
        self.eps = eps
        self.tail = tail

    def forward(self, terms: Terms) -> Tensor:
        losses = terms.nll.mean(0)
        return risk_measures.cvar(losses, self.eps, tail=self.tail) + self.beta * terms.kl.mean()


@document_parameters(beta=1.0)
class RiskAwareVAE(BaseVAE):
    r"""Variational autoencoder that is trained on the tail of its reconstruction losses.

    With the reconstruction losses :math:`l_i = -\log p(x_i | z_i)` of a batch, minimizes

    .. math:: C_\epsilon(l_1, \dots, l_N) + \beta \, \frac1N \sum_i \mathrm{KL}(q(z|x_i) \,\|\, N(0, I)),

    where :math:`C_\epsilon` is the conditional value at risk, the mean of the worst fraction eps of the
    losses (:func:`riskvae.risk.cvar`). ``risk="seeking"`` takes the best fraction instead, and
    ``risk="neutral"`` the mean, which gives ``BetaVAE(beta=beta)``.

    The tail weighs more against the KL term than the mean does, so part of what is gained in the tail is a
    weaker regularization: compare models along beta.

    Parameters
    ----------
    eps : float, default=0.5
        Share of the losses that count, in (0, 1]; 1 is the mean, eps * batch_size <= 1 the maximum.
    risk : {"averse", "seeking", "neutral"}, default="averse"
        Train on the worst losses, on the best, or on all.
    {parameters}
    risk_over : {"batch", "subsamples", "nested", "joint"}, default="batch"
        Over what the tail is taken. Only "batch" is implemented.
    n_subsamples : int, default=1
        Latent draws per row and step. Only 1 is implemented.
    eps_subsamples : float, default=None
        Share of the draws that count; None means ``eps``. Only None is implemented.
    measure : str or object, default="cvar"
        Risk measure. Only "cvar" is implemented.
    threshold : {"batch", "ema", "learned"}, default="batch"
        Where the tail begins. Only "batch", the batch's own quantile, is implemented.
    threshold_decay : float, default=0.9
        Weight of the old value in the moving average for ``threshold="ema"``.
    risk_on : {"reconstruction", "elbo"}, default="reconstruction"
        Loss whose tail is taken. Only "reconstruction" is implemented.
    eps_warmup : int, default=0
        Epochs over which eps falls from 1 to its value. Only 0 is implemented.

    Attributes
    ----------
    {attributes}

    See Also
    --------
    BetaVAE : Trains on the mean.

    References
    ----------
    Li and Zhu, "Risk-aware variational autoencoder".
    Rockafellar and Uryasev, "Optimization of conditional value-at-risk", Journal of Risk 2 (2000).

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from riskvae import RiskAwareVAE
    >>> X = load_digits().data / 16
    >>> vae = RiskAwareVAE(n_components=4, eps=0.2, random_state=0).fit(X)
    >>> vae.reconstruction_loss(X).shape
    (1797,)
    """

    _rules: ClassVar = {
        **BaseVAE._rules,
        "eps": real(0.0, 1.0, closed="right", remedy=_EPS_REMEDY),
        "risk": choice("averse", "seeking", "neutral"),
        "risk_over": choice("batch", "subsamples", "nested", "joint"),
        "n_subsamples": integer(1),
        "eps_subsamples": Rule(lambda value: value is None, "None") | real(0.0, 1.0, closed="right"),
        "measure": choice("cvar") | Rule(callable, "an object of riskvae.risk", kind=callable),
        "threshold": choice("batch", "ema", "learned"),
        "threshold_decay": real(0.0, 1.0, closed="left"),
        "risk_on": choice("reconstruction", "elbo"),
        "eps_warmup": integer(0),
    }
    _implemented: ClassVar = {
        "risk_over": "batch",
        "n_subsamples": 1,
        "eps_subsamples": None,
        "measure": "cvar",
        "threshold": "batch",
        "risk_on": "reconstruction",
        "eps_warmup": 0,
    }

    def __init__(
        self,
        n_components: int = 10,
        *,
        eps: float = 0.5,
        risk: str = "averse",
        beta: float = 1.0,
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
        risk_over: str = "batch",
        n_subsamples: int = 1,
        eps_subsamples: float | None = None,
        measure: Any = "cvar",
        threshold: str = "batch",
        threshold_decay: float = 0.9,
        risk_on: str = "reconstruction",
        eps_warmup: int = 0,
    ) -> None:
        self._remember(locals())

    def _check_parameters(self) -> None:
        super()._check_parameters()
        for name, value in self._implemented.items():
            if getattr(self, name) != value:
                raise NotImplementedError(
                    f"RiskAwareVAE: {name}={getattr(self, name)!r} is not implemented yet; use {value!r}."
                )

    def _make_objective(self) -> nn.Module:
        if self.risk == "neutral":
            return super()._make_objective()
        return TailObjective(self.beta, self.eps, "worst" if self.risk == "averse" else "best")
