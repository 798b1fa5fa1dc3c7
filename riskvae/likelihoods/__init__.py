"""Observation models p(x|z), the argument ``likelihood`` of estimators: what the decoder's output means.

In the house: this room knows the losses and networks of torch, and no estimator. Import the classes below; one of
your own is a subclass of :class:`Likelihood` in a file of its own.
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
