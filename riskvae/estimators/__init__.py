"""The estimators, one file each, and what they share: parameters, training, what fitted ones do with rows.

In the house: the one room that knows scikit-learn's contract. Users import the estimators from ``riskvae``;
:class:`BaseVAE` is what they have in common; one of your own is a subclass of one of them, such as ``BetaVAE``.
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
