"""Values so far from the others of their feature that a model, or a scaler, sees nothing but them."""

from typing import NamedTuple

import torch
from torch import Tensor

from riskvae.training._rows import Rows

__all__ = ["Ends", "Extremes", "ends_of", "extremes_of"]

# Distances from the median, in standard deviations of the middle half, at which a value is far away.
FAR = 100.0
# Far values are exceptions in at most this share of the rows; otherwise the feature is like that.
FEW = 0.01
# A single value outweighs the others if it adds this many times the variance of all of them together.
OUTWEIGHS = 10.0
CHUNK = 2**21  # values that are looked at at once


class Ends(NamedTuple):
    """The smallest and the largest known value of each feature, and the number of rows."""

    lowest: Tensor
    highest: Tensor
    n_rows: int


class Extremes(NamedTuple):
    """What is far away among rows, by feature.

    Parameters
    ----------
    far : Tensor of bool, of shape (n_rows, n_features)
        Values that are far from the middle half of their feature's known values.
    squeezed : Tensor of bool
        Features of which one value, of few rows or always the same, outweighs all others.
    furthest : Tensor
        The value of each feature that is furthest from its median.
    variance : Tensor
        Variance of each feature among the values that are not far away.
    """

    far: Tensor
    squeezed: Tensor
    furthest: Tensor
    variance: Tensor


def ends_of(rows: Rows) -> Ends:
    """Ends of all rows, some of them at a time; of a feature without a known value, infinite ones."""
    step = max(1, CHUNK // max(1, rows[:1].shape[1]))
    lowest, highest = [], []
    for first in range(0, len(rows), step):
        part = rows[first : first + step]
        missing = part.isnan()
        lowest.append(part.masked_fill(missing, torch.inf).amin(0))
        highest.append(part.masked_fill(missing, -torch.inf).amax(0))
    return Ends(torch.stack(lowest).amin(0), torch.stack(highest).amax(0), len(rows))


def extremes_of(x: Tensor, ends: Ends | None = None) -> Extremes:
    """Extremes of rows, which may be a sample: then ``ends`` are those of all rows."""
    known = ~x.isnan()
    ordered = x.sort(0).values  # missing values come last
    last = (known.sum(0) - 1).clamp(min=0)
    low, middle, high = (ordered.gather(0, (share * last).round().long()[None])[0] for share in (0.25, 0.5, 0.75))
    limit = FAR * (high - low) / 1.35  # the middle half of a normal variable is 1.35 standard deviations wide
    far = (high > low) & ((x - middle).abs() > limit)
    if ends is None:
        ends = Ends(ordered[0], ordered.gather(0, last[None])[0], len(x))
    lowest, highest = ends.lowest.to(x.device), ends.highest.to(x.device)
    below, above = middle - lowest, highest - middle
    away, variance = torch.maximum(below, above), variance_of(x, ~far & known)
    furthest, n_far = torch.where(above > below, highest, lowest), far.sum(0)
    # What repeats far away stands for something else, such as -9999 for what is not known.
    same = (~far | (x == furthest)).all(0)
    squeezed = (high > low) & (away > limit) & ((n_far <= FEW * len(x)) | same)
    n_times = torch.where(same, n_far.clamp(min=1) * (ends.n_rows / len(x)), 1.0)
    squeezed &= n_times * away.square() > OUTWEIGHS * ends.n_rows * variance
    return Extremes(far, squeezed, furthest, variance)


def variance_of(x: Tensor, counted: Tensor) -> Tensor:
    """Variance of each feature, among the values that count."""
    n = counted.sum(0).clamp(min=1)
    center = torch.where(counted, x, 0.0).sum(0) / n
    return torch.where(counted, (x - center).square(), 0.0).sum(0) / n
