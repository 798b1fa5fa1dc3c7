"""The estimators, and the base class that they share.

In the house: this is the one package that implements scikit-learn's contract. Users import the estimators from
``riskvae``. :class:`BaseVAE` holds what they have in common; to write your own, subclass one of them, such as
``BetaVAE``.
"""

from riskvae.estimators._base import BaseVAE
from riskvae.estimators._batched_fits import batched_fits
from riskvae.estimators._beta_tcvae import BetaTCVAE
from riskvae.estimators._beta_vae import BetaVAE
from riskvae.estimators._explain import explain
from riskvae.estimators._pyod import PyODAdapter
from riskvae.estimators._quantile_vae import QuantileVAE
from riskvae.estimators._risk_aware_vae import RiskAwareVAE
from riskvae.estimators._summary import Summary

__all__ = [
    "BaseVAE",
    "BetaTCVAE",
    "BetaVAE",
    "PyODAdapter",
    "QuantileVAE",
    "RiskAwareVAE",
    "Summary",
    "batched_fits",
    "explain",
]
