"""The parameters that say which losses count: their rules, and which of them go together."""

from dataclasses import replace
from itertools import product
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from riskvae import risk as risk_measures
from riskvae._machine import torch_as_usual
from riskvae._validation import Rule, choice, integer, isolated_rng, real
from riskvae.estimators._parameters import ParametersMixin

__all__ = ["Risk", "RiskOver", "RiskParametersMixin", "Threshold"]

Risk = Literal["averse", "seeking", "neutral"]
RiskOver = Literal["batch", "subsamples", "nested", "joint", "groups"]
Threshold = Literal["batch", "ema", "learned"]

_EPS_REMEDY = "eps is the share of the losses that count; eps=1.0 or risk='neutral' takes the mean of all."


def _measure_remedy(value: Any) -> str:
    if isinstance(value, type):
        name = f"risk.{value.__name__}" if value.__module__.startswith("riskvae.") else value.__name__
        return f"Measures are objects: pass {name}(), not the class."
    if callable(value) and not isinstance(value, risk_measures.Measure):
        return "Wrap a function of losses in a subclass of risk.Measure; spectra go in risk.Spectral(...)."
    return ""


_RISK = choice("averse", "seeking", "neutral")


class RiskParametersMixin(ParametersMixin):
    """Parameters of an estimator that minimizes a risk of its losses."""

    _rules: ClassVar = {
        **ParametersMixin._rules,
        "eps": real(0.0, 1.0, closed="right", remedy=_EPS_REMEDY),
        "risk": replace(
            _RISK,
            remedy=lambda value: (
                "Pass it as measure." if isinstance(value, risk_measures.Measure) else _RISK.remedy(value)
            ),
        ),
        "risk_over": choice("batch", "subsamples", "nested", "joint", "groups"),
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
        "risk_per": choice("row", "value"),
        "eps_warmup": integer(0),
    }

    eps: float
    risk: Risk
    risk_over: RiskOver
    n_subsamples: int
    eps_subsamples: float | None
    measure: Literal["cvar"] | risk_measures.Measure
    threshold: Threshold
    threshold_decay: float
    risk_on: Literal["reconstruction", "elbo"]
    risk_per: Literal["row", "value"]
    eps_warmup: int

    def _measure(self) -> Any:
        return risk_measures.CVaR() if isinstance(self.measure, str) else self.measure

    def _check_parameters(self) -> None:
        super()._check_parameters()
        if self.risk == "neutral":
            return
        measure, of_tail = self._measure(), isinstance(self._measure(), risk_measures.TailMeasure)
        if self.risk_over in ("subsamples", "nested", "joint") and self.n_subsamples == 1:
            self._refuse(
                f"risk_over={self.risk_over!r} takes the risk over latent draws, and n_subsamples=1 gives only one",
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
        if self.threshold == "learned" and self.risk_over == "groups":
            self._refuse(
                "threshold='learned' needs a tail of some ten losses, and risk_over='groups' has one loss per group",
                "Use threshold='batch' or 'ema'.",
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
                "Leave it None, or use risk_over='subsamples' or 'nested' with a measure without an eps, like 'cvar'.",
            )
        with torch_as_usual(torch.device("cpu")):
            self._try_measure(measure)
        if isinstance(measure, risk_measures.Entropic) and measure.theta < 0:
            self._refuse(
                f"measure={measure!r} prefers the best losses",
                "Use a positive theta, with risk='seeking' for the best tail.",
            )

    @torch.inference_mode(False)
    @torch.enable_grad()
    def _try_measure(self, measure: Any) -> None:
        """Find a bad parameter of a measure, or a mistake in a user's own, before training does."""
        losses, found = torch.linspace(0.0, 1.0, 512).square().view(2, 256).requires_grad_(), {}
        dims = (-1,) if self.risk_over in ("batch", "joint", "groups") else (-1, 0)
        for dim, tail in product(dims, ("worst", "best")):
            given = losses if dim == -1 else losses.T
            where = f"losses of shape {tuple(given.shape)} with tail={tail!r}, dim={dim}"
            try:
                with isolated_rng(0, torch.device("cpu")):  # a measure may draw
                    risk = measure.with_eps(self.eps)(given, tail=tail, dim=dim)
            except Exception as error:
                kind = TypeError if isinstance(error, TypeError) else ValueError
                name = type(self).__name__
                raise kind(f"{name}: measure={measure!r} fails on {where}: {type(error).__name__}: {error}") from error
            if not isinstance(risk, Tensor) or risk.shape != (2,):
                came = tuple(risk.shape) if isinstance(risk, Tensor) else type(risk).__name__
                self._refuse(
                    f"measure={measure!r} must reduce one dimension, {where} to (2,); it gave {came}",
                    "Let its __call__(losses, *, tail, dim) reduce dim.",
                )
            if not risk.requires_grad:
                self._refuse(
                    f"measure={measure!r} has no gradient, so reconstruction would not be learned",
                    "Let its __call__ return a differentiable function of the losses; do not detach them.",
                )
            found[tail] = risk
        alike = torch.equal(found["worst"], found["best"]) and not torch.allclose(found["worst"], losses.mean(-1))
        if self.risk == "seeking" and alike:
            self._refuse(
                f"measure={measure!r} ignores tail: the risk of the best losses is that of the worst",
                "Let its __call__ look at tail; -measure(-losses) is the mirror image.",
            )
