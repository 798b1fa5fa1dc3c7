"""Observation models p(x|z), which define the meaning of the decoder's output: ``likelihood`` of the estimators.

In the house: this package depends on torch, the losses and the networks, but not on the estimators. To write your own
likelihood, subclass :class:`Likelihood` in a file of its own.
"""

from riskvae.likelihoods._bernoulli import Bernoulli
from riskvae.likelihoods._categorical import Categorical
from riskvae.likelihoods._counts import NegativeBinomial, Poisson
from riskvae.likelihoods._gaussian import Gaussian
from riskvae.likelihoods._likelihood import Likelihood
from riskvae.likelihoods._log_normal import LogNormal
from riskvae.likelihoods._mixed import Mixed
from riskvae.likelihoods._quantiles import Quantiles
from riskvae.likelihoods._student_t import StudentT

__all__ = [
    "Bernoulli", "Categorical", "Gaussian", "Likelihood", "LogNormal", "Mixed", "NegativeBinomial", "Poisson",
    "Quantiles", "StudentT",
]  # fmt: skip
