"""Robustness of variational autoencoders: how far a row can be perturbed before its reconstruction breaks.

Functions take a fitted estimator, or any object with ``encode(x) -> (mean, scale)`` and ``decode(z) -> mean`` on
tensors, so models of other libraries and plain torch modules can be examined, too. :func:`verdict_margin` takes a
detector.

In the house: this package examines models and does not depend on the estimators. To write an attack of your own, write
a function that an ``Envelope`` calls (`_max_damage.py` is an example).
"""

from riskvae.robustness._attack_results import AttackResult, DamageCurve, TargetedAttackResult
from riskvae.robustness._damage_curve import damage_curve
from riskvae.robustness._margin import robustness_margin
from riskvae.robustness._max_damage import max_damage_attack
from riskvae.robustness._noise import clopper_pearson
from riskvae.robustness._result import RobustnessMargin
from riskvae.robustness._sensitivity import EncoderSensitivity, encoder_sensitivity
from riskvae.robustness._targeted import targeted_attack
from riskvae.robustness._verdict import verdict_margin
from riskvae.robustness._verdict_result import VerdictMargin
from riskvae.robustness._wrap import wrap

__all__ = [
    "AttackResult",
    "DamageCurve",
    "EncoderSensitivity",
    "RobustnessMargin",
    "TargetedAttackResult",
    "VerdictMargin",
    "clopper_pearson",
    "damage_curve",
    "encoder_sensitivity",
    "max_damage_attack",
    "robustness_margin",
    "targeted_attack",
    "verdict_margin",
    "wrap",
]
