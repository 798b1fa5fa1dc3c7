"""Robustness of variational autoencoders: how far a row can be pushed before its reconstruction breaks.

Everything takes a fitted estimator, or any object with ``encode(x) -> (mean, scale)`` and ``decode(z) -> mean`` on
tensors: models of other libraries and plain torch modules can be examined too.
"""

from riskvae.robustness._attack import AttackResult, TargetedAttackResult, max_damage_attack, targeted_attack
from riskvae.robustness._margin import robustness_margin
from riskvae.robustness._noise import clopper_pearson
from riskvae.robustness._result import RobustnessMargin
from riskvae.robustness._sensitivity import EncoderSensitivity, encoder_sensitivity

__all__ = [
    "AttackResult",
    "EncoderSensitivity",
    "RobustnessMargin",
    "TargetedAttackResult",
    "clopper_pearson",
    "encoder_sensitivity",
    "max_damage_attack",
    "robustness_margin",
    "targeted_attack",
]
