"""Variational autoencoders that care about the tail, as scikit-learn estimators.

Importing the package is fast: torch and scikit-learn are loaded when a name that needs them is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from riskvae._versions import show_versions
    from riskvae.estimators import BetaTCVAE, BetaVAE, QuantileVAE, RiskAwareVAE, batched_fits, explain
    from riskvae.persistence import load
    from riskvae.robustness import max_damage_attack, robustness_margin, targeted_attack, verdict_margin

    from . import datasets, estimators, likelihoods, losses, metrics, nets, plotting, risk, robustness, training

__all__ = [
    "BetaTCVAE", "BetaVAE", "QuantileVAE", "RiskAwareVAE", "__version__", "batched_fits", "datasets", "estimators",
    "explain", "likelihoods", "load", "losses", "max_damage_attack", "metrics", "nets", "plotting", "risk",
    "robustness", "robustness_margin", "show_versions", "targeted_attack", "training", "verdict_margin",
]  # fmt: skip
__version__ = "0.2.0"

_HOMES = {
    "BetaTCVAE": "riskvae.estimators",
    "BetaVAE": "riskvae.estimators",
    "QuantileVAE": "riskvae.estimators",
    "RiskAwareVAE": "riskvae.estimators",
    "batched_fits": "riskvae.estimators",
    "explain": "riskvae.estimators",
    "load": "riskvae.persistence",
    "max_damage_attack": "riskvae.robustness",
    "robustness_margin": "riskvae.robustness",
    "show_versions": "riskvae._versions",
    "targeted_attack": "riskvae.robustness",
    "verdict_margin": "riskvae.robustness",
}
_MODULES = (
    "datasets", "estimators", "likelihoods", "losses", "metrics", "nets", "plotting", "risk", "robustness", "training",
)  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(import_module(_HOMES[name]), name)
    elif name in _MODULES:
        value = import_module(f"riskvae.{name}")
    else:
        raise AttributeError(f"module 'riskvae' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
