"""Variational autoencoders that care about the tail, as scikit-learn estimators.

Importing the package is cheap: torch and scikit-learn load with the first name that needs them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from riskvae._beta_vae import BetaTCVAE, BetaVAE
    from riskvae._quantile_vae import QuantileVAE
    from riskvae._risk_aware_vae import RiskAwareVAE
    from riskvae.robustness import max_damage_attack, robustness_margin, targeted_attack

    from . import datasets, losses, metrics, nets, plotting, risk, robustness

__all__ = [
    "BetaTCVAE", "BetaVAE", "QuantileVAE", "RiskAwareVAE", "__version__", "datasets", "losses", "max_damage_attack",
    "metrics", "nets", "plotting", "risk", "robustness", "robustness_margin", "targeted_attack",
]  # fmt: skip
__version__ = "0.1.0"

_HOMES = {
    "BetaTCVAE": "riskvae._beta_vae",
    "BetaVAE": "riskvae._beta_vae",
    "QuantileVAE": "riskvae._quantile_vae",
    "RiskAwareVAE": "riskvae._risk_aware_vae",
    "max_damage_attack": "riskvae.robustness",
    "robustness_margin": "riskvae.robustness",
    "targeted_attack": "riskvae.robustness",
}
_MODULES = ("datasets", "losses", "metrics", "nets", "plotting", "risk", "robustness")


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
