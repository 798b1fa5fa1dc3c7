"""A user's script, as type checkers read it (`test_typing.py`); nothing here runs."""

from typing import assert_type

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from riskvae import BetaTCVAE, BetaVAE, QuantileVAE, RiskAwareVAE, max_damage_attack, risk, robustness_margin
from riskvae.likelihoods import Gaussian, Likelihood
from riskvae.robustness import AttackResult, RobustnessMargin
from riskvae.training import Objective, Terms

X = np.zeros((100, 3), dtype=np.float32)

vae = RiskAwareVAE(n_components=2, eps=0.2, risk="averse", measure=risk.SmoothedCVaR(smoothing=1.0), device="cpu")
assert_type(vae.fit(X), RiskAwareVAE)
assert_type(vae.fit(X, groups=["a"] * 100).partial_fit(X), RiskAwareVAE)
assert_type(BetaVAE().fit(X), BetaVAE)
assert_type(BetaTCVAE(beta=6.0).fit(X), BetaTCVAE)
assert_type(vae.set_params(eps=0.1), RiskAwareVAE)
assert_type(vae.score(X), float)
scores: NDArray[np.float64] = vae.score_samples(X)
rows: NDArray[np.float64] = vae.inverse_transform(vae.transform(X))

detector = QuantileVAE(calibration_fraction=0.2, contamination="auto", max_epochs=3).fit(X)
assert_type(detector, QuantileVAE)
assert_type(detector.detect(X, fdr=0.1), NDArray[np.bool_])
assert_type(detector.conformalize(X).predict(X), NDArray[np.int_])
assert_type(robustness_margin(vae, X), RobustnessMargin)
assert_type(max_damage_attack(vae, X, max_norm=1.0), AttackResult)
assert_type(risk.cvar(torch.zeros(3), 0.1), Tensor)


class StudentT(Likelihood):
    """A likelihood of one's own."""

    def __init__(self, nu: float = 4.0) -> None:
        super().__init__()
        self.nu = nu

    def mean(self, raw: Tensor) -> Tensor:
        return raw

    def nll(self, x: Tensor, raw: Tensor) -> Tensor:
        return (1 + (x - raw).square() / self.nu).log().sum(-1)

    def draw(self, raw: Tensor, generator: torch.Generator) -> Tensor:
        return raw + torch.randn(raw.shape, generator=generator)


class Worst(Objective):
    """An objective of one's own."""

    def __init__(self, beta: float) -> None:
        super().__init__()
        self.beta = beta

    def forward(self, terms: Terms) -> Tensor:
        return risk.cvar(terms.nll.mean(0), 0.1) + self.beta * terms.kl.mean()


class WorstVAE(BetaVAE):
    """An estimator of one's own."""

    def make_objective(self) -> Objective:
        return Worst(self.beta)


assert_type(WorstVAE(likelihood=StudentT(nu=3.0)).fit(X), WorstVAE)
assert_type(RiskAwareVAE(likelihood=Gaussian(0.5)).fit(X), RiskAwareVAE)

# Each of the next lines has one mistake that a checker must see.
BetaVAE(activation="rleu")  # WRONG
RiskAwareVAE(risk="adverse")  # WRONG
RiskAwareVAE(risk_over="group")  # WRONG
RiskAwareVAE(epsilon=0.5)  # WRONG
QuantileVAE(contamination="automatic")  # WRONG
BetaVAE().fit(X).detect(X)  # WRONG
