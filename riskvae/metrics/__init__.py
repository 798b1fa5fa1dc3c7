"""Measures of fitted models: tails of their losses, and how close generated rows are to real ones."""

from riskvae.metrics._samples import TwoSampleResult, kernel_mmd, mixture_log_likelihood, nearest_neighbor_two_sample
from riskvae.metrics._tails import row_losses, tail_curve, tail_loss_scorer, tail_mean

__all__ = [
    "TwoSampleResult",
    "kernel_mmd",
    "mixture_log_likelihood",
    "nearest_neighbor_two_sample",
    "row_losses",
    "tail_curve",
    "tail_loss_scorer",
    "tail_mean",
]
