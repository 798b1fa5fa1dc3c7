"""Observation models p(x|z), the argument ``likelihood`` of estimators: what the decoder's output means.

In the house: this room knows the losses and networks of torch, and no estimator. Import the classes below; one of
your own is a subclass of :class:`Likelihood` in a file of its own.
"""

from riskvae.likelihoods._bernoulli import Bernoulli
from riskvae.likelihoods._gaussian import Gaussian
from riskvae.likelihoods._likelihood import Likelihood
from riskvae.likelihoods._quantiles import Quantiles

__all__ = ["Bernoulli", "Gaussian", "Likelihood", "Quantiles"]
