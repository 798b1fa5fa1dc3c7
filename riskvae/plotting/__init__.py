"""Displays in the style of scikit-learn, which compute, store and draw results with matplotlib (extra "plot").

In the house: this package shows what metrics and robustness measured, and what detectors explain.
"""

from riskvae.plotting._anomaly_map import AnomalyMapDisplay
from riskvae.plotting._attack import AttackDisplay
from riskvae.plotting._calibration import CalibrationDisplay
from riskvae.plotting._explanation import ExplanationDisplay
from riskvae.plotting._learning_curve import LearningCurveDisplay
from riskvae.plotting._margin import MarginDisplay
from riskvae.plotting._reconstruction import ReconstructionDisplay
from riskvae.plotting._robustness_curve import RobustnessCurveDisplay
from riskvae.plotting._tail_curve import TailCurveDisplay
from riskvae.plotting._verdict import VerdictMarginDisplay

__all__ = [
    "AnomalyMapDisplay",
    "AttackDisplay",
    "CalibrationDisplay",
    "ExplanationDisplay",
    "LearningCurveDisplay",
    "MarginDisplay",
    "ReconstructionDisplay",
    "RobustnessCurveDisplay",
    "TailCurveDisplay",
    "VerdictMarginDisplay",
]
