"""RiskAwareVAE: trains on the tail of the reconstruction losses."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from riskvae import risk as risk_measures
from riskvae._base import BaseVAE
from riskvae._docs import document_parameters
from riskvae._model import WeightedELBO
from riskvae._risk_objective import RiskObjective
from riskvae._validation import Rule, choice, integer, real

_EPS_REMEDY = "eps is the share of the losses that count; eps=1.0 or risk='neutral' takes the mean of all."


def _measure_remedy(value: Any) -> str:
    if isinstance(value, type):
        return "Measures are objects: pass risk.CVaR(), not the class."
    if callable(value) and not isinstance(value, risk_measures.Measure):
        return "Wrap a function of losses in a subclass of risk.Measure; spectra go in risk.Spectral(...)."
    return ""


_RISK = choice("averse", "seeking", "neutral")


@document_parameters(beta=1.0)
class RiskAwareVAE(BaseVAE):
    r"""Variational autoencoder that is trained on the tail of its reconstruction losses.

    With the reconstruction losses :math:`l_i = -\log p(x_i | z_i)` of a batch, minimizes

    .. math:: C_\epsilon(l_1, \dots, l_N) + \beta \, \frac1N \sum_i \mathrm{KL}(q(z|x_i) \,\|\, N(0, I)),

    where :math:`C_\epsilon` is the conditional value at risk, the mean of the worst fraction eps of the
    losses (:func:`riskvae.risk.cvar`). ``risk="seeking"`` takes the best fraction instead, and
    ``risk="neutral"`` the mean, which gives ``BetaVAE(beta=beta)``.

    The losses come from latent draws, one per row or, with ``n_subsamples``, several: :math:`l_{ij}` for
    draw j of row i. ``risk_over`` says over what the risk :math:`\rho` is taken:

    - "batch": :math:`\rho_i(\frac1B \sum_j l_{ij})`, rows that are reconstructed badly on average;
    - "subsamples": :math:`\frac1N \sum_i \rho_j(l_{ij})`, each row's unlucky draws;
    - "nested": :math:`\rho_i(\rho_j(l_{ij}))`, the unlucky draws of bad rows;
    - "joint": :math:`\rho_{ij}(l_{ij})`, all draws of all rows as one sample.

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
        Over what the risk is taken; all but "batch" need ``n_subsamples`` of at least 2.
    n_subsamples : int, default=1
        B, latent draws per row and step, decoded in one pass.
    eps_subsamples : float, default=None
        Share of a row's draws that count ("subsamples" and "nested", of a measure that takes the estimator's
        eps); None means ``eps``.
    measure : "cvar" or object, default="cvar"
        Risk measure: any of :mod:`riskvae.risk`, such as ``risk.SmoothedCVaR(smoothing=1.0)``,
        ``risk.Entropic(0.1)`` or ``risk.Spectral(risk.Extremile(3))``, or a subclass of ``risk.Measure``. A
        measure whose own ``eps`` is None takes the estimator's; those without one do not use ``eps``.
    threshold : {"batch", "ema", "learned"}, default="batch"
        Where the tail begins in training: at the batch's own quantile; at its moving average, corrected for the
        lag of one (:class:`riskvae.risk.EMAThreshold`); or where a learned quantile has got to
        (:class:`riskvae.risk.LearnedThreshold`). The last two need a measure of a tail ("cvar",
        ``SmoothedCVaR``) over rows, and batches in which eps * batch_size is above 1: a batch without losses beyond
        the threshold teaches nothing about reconstruction. Held-out losses are always the risk itself.
    threshold_decay : float, default=0.9
        Weight of the old average for ``threshold="ema"``, in [0, 1).
    risk_on : {"reconstruction", "elbo"}, default="reconstruction"
        Take the risk of the reconstruction losses, and add the mean KL term; or of the rows' whole negative
        evidence bounds, with the KL term weighted by ``beta``; then "train_loss" is that risk.
    eps_warmup : int, default=0
        Epochs over which eps, and ``eps_subsamples``, fall in equal steps from 1 to their values; helps
        ``risk="seeking"``, which otherwise gives up more of the other rows. Epochs of earlier calls count under
        ``warm_start`` and ``partial_fit``; early stopping begins to look after them.

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
        "risk": replace(
            _RISK,
            remedy=lambda value: (
                "Pass it as measure." if isinstance(value, risk_measures.Measure) else _RISK.remedy(value)
            ),
        ),
        "risk_over": choice("batch", "subsamples", "nested", "joint"),
        "n_subsamples": integer(1),
        "eps_subsamples": Rule(lambda value: value is None, "None") | real(0.0, 1.0, closed="right"),
        "measure": choice("cvar")
        | Rule(
            lambda value: isinstance(value, risk_measures.Measure),
            "a measure of riskvae.risk, such as risk.SmoothedCVaR(smoothing=1.0)",
            _measure_remedy,
            kind=lambda value: False,
        ),
        "threshold": choice("batch", "ema", "learned"),
        "threshold_decay": real(0.0, 1.0, closed="left"),
        "risk_on": choice("reconstruction", "elbo"),
        "eps_warmup": integer(0),
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

    def _n_draws(self) -> int:
        return self.n_subsamples

    def _measure(self) -> Any:
        return risk_measures.CVaR() if isinstance(self.measure, str) else self.measure

    def _check_parameters(self) -> None:
        super()._check_parameters()
        if self.risk == "neutral":
            return
        measure, of_tail = self._measure(), isinstance(self._measure(), risk_measures.TailMeasure)
        if self.risk_over != "batch" and self.n_subsamples == 1:
            self._refuse(
                f"risk_over={self.risk_over!r} takes the risk over latent draws, of which n_subsamples=1 gives one",
                "Set n_subsamples to 2 or more (8, say), or risk_over='batch'.",
            )
        if self.threshold != "batch" and not of_tail:
            self._refuse(
                f"threshold={self.threshold!r} needs a measure with a threshold; {measure!r} has none",
                "Use measure='cvar' or risk.SmoothedCVaR, or threshold='batch'.",
            )
        if self.threshold != "batch" and self.risk_over == "subsamples":
            self._refuse(
                f"threshold={self.threshold!r} is one for all rows, but risk_over='subsamples' has one per row",
                "Use threshold='batch', or risk_over='batch', 'nested' or 'joint'.",
            )
        if self.eps_warmup and not (of_tail and measure.eps is None):
            self._refuse(
                f"eps_warmup={self.eps_warmup} lowers the estimator's eps, which {measure!r} does not use",
                "Use measure='cvar' or one that leaves its eps to the estimator, such as "
                "risk.SmoothedCVaR(smoothing=1.0), or eps_warmup=0.",
            )
        if self.eps_subsamples is not None and not (
            self.risk_over in ("subsamples", "nested") and of_tail and measure.eps is None
        ):
            self._refuse(
                f"eps_subsamples={self.eps_subsamples!r} is not used by risk_over={self.risk_over!r} with "
                f"measure={measure!r}",
                "Leave it None, or use risk_over='subsamples' or 'nested' and a measure without an eps, as 'cvar'.",
            )
        self._try_measure(measure)
        if isinstance(measure, risk_measures.Entropic) and measure.theta < 0:
            self._refuse(
                f"measure={measure!r} prefers the best losses",
                "Use a positive theta, with risk='seeking' for the best tail.",
            )

    def _try_measure(self, measure: Any) -> None:
        """Find a bad parameter of a measure before training does."""
        losses = torch.linspace(0.0, 1.0, 512).square().view(2, 256)
        for tail in ("worst", "best"):
            try:
                found = measure.with_eps(self.eps)(losses, tail=tail, dim=-1)
            except Exception as error:
                kind = TypeError if isinstance(error, TypeError) else ValueError
                raise kind(
                    f"{type(self).__name__}: measure={measure!r} fails on losses of shape (2, 256) with tail={tail!r}, "
                    f"dim=-1: {type(error).__name__}: {error}"
                ) from error
            if not isinstance(found, Tensor) or found.shape != (2,):
                given = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
                self._refuse(
                    f"measure={measure!r} must reduce one dimension, losses of shape (2, 256) with dim=-1 to (2,); it "
                    f"gave {given}",
                    "Let its __call__(losses, *, tail, dim) reduce dim.",
                )

    def _refuse(self, what: str, remedy: str) -> None:
        raise ValueError(f"{type(self).__name__}: {what}. {remedy}")

    def _train(self, X: Any, epochs: int | None) -> Self:
        self._check_parameters()
        if epochs is None and not self.warm_start and self.risk != "neutral" and self.eps_warmup >= self.max_epochs:
            self._refuse(
                f"eps_warmup={self.eps_warmup} epochs leave none of max_epochs={self.max_epochs} for eps={self.eps:g}",
                "Set max_epochs above eps_warmup.",
            )
        return super()._train(X, epochs)

    def _make_objective(self) -> WeightedELBO:
        if self.risk == "neutral":
            return super()._make_objective()
        tail = "worst" if self.risk == "averse" else "best"
        measure = self._measure()
        rows = measure.with_eps(self.eps)
        threshold: risk_measures.Threshold | None = None
        if self.threshold == "ema":
            threshold = risk_measures.EMAThreshold(rows, decay=self.threshold_decay, tail=tail)
        elif self.threshold == "learned":
            threshold = risk_measures.LearnedThreshold(rows, tail=tail)
        return RiskObjective(
            self.beta,
            rows,
            measure.with_eps(self.eps if self.eps_subsamples is None else self.eps_subsamples),
            tail=tail,
            over=self.risk_over,
            threshold=threshold,
            on=self.risk_on,
            warmup=self.eps_warmup,
        )
