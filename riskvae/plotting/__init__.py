"""Displays in the manner of scikit-learn: they compute, hold arrays, and draw with matplotlib (extra "plot")."""

from riskvae.plotting._tail_curve import TailCurveDisplay

__all__ = ["TailCurveDisplay"]
