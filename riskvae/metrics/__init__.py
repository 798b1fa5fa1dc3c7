"""Evaluate fitted models: tails of their losses, quality of their intervals, realism of generated rows.

In the house: this package evaluates arrays, and uses only the public methods of fitted models.
"""

from riskvae.metrics._detectors import anomaly_scorer
from riskvae.metrics._intervals import coverage, interval_score
from riskvae.metrics._samples import TwoSampleResult, kernel_mmd, mixture_log_likelihood, nearest_neighbor_two_sample
from riskvae.metrics._tails import row_losses, tail_curve, tail_loss_scorer, tail_mean

__all__ = [
    "TwoSampleResult",
    "anomaly_scorer",
    "coverage",
    "interval_score",
    "kernel_mmd",
    "mixture_log_likelihood",
    "nearest_neighbor_two_sample",
    "row_losses",
    "tail_curve",
    "tail_loss_scorer",
    "tail_mean",
]
