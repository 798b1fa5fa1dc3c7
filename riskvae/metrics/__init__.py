"""Measures of fitted models: tails of their losses, worth of their intervals, and how real generated rows look.

In the house: this room measures arrays, and asks fitted models by their public methods. Import the names below.
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
