"""What may be wrong where ``detect`` finds nothing, or nearly everything."""

import math
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from riskvae._validation import level_of_the_user
from riskvae.detection._calibration import Calibration

__all__ = ["FALSE_ALARMS", "warn_of_confidence", "warn_of_everything", "warn_of_nothing"]

Array = NDArray[Any]

# Share of rows like those of the training that contamination="auto" flags.
FALSE_ALARMS = 0.05
# Rows from which on their shares tell of drift: that of discoveries, and that of scores below the median of the
# calibration rows, of which half are below it, and three quarters where half of the rows are anomalies.
_ROWS, _FOUND, _LOWER = 20, 0.9, 0.8


def warn_of_confidence(calibration: Calibration, confidence: float, fdr: float, n: int) -> None:
    """Say so where a promise for one calibration set leaves nothing."""
    least = float(calibration.p_values(np.array([-np.inf]), None, confidence)[0])
    _warn(
        f"detect found none of {n} rows. With confidence={confidence:g} no p-value of {calibration.n} calibration "
        f"rows is below {least:.2g}, so {math.ceil(n * least / fdr)} rows or more must stand out to be found at "
        f"fdr={fdr:g}. Calibrate with more rows, ask for a larger fdr, or leave confidence out: the rate then "
        "holds on average."
    )


def warn_of_nothing(estimator: Any, scores: Array, p: Array) -> None:
    """Say so where detect finds nothing of what predict flags."""
    flagged, n = int((scores < estimator.offset_).sum()), len(scores)
    if not flagged:
        return
    found = f"detect found none of the {flagged:,} of {n:,} rows that predict flags"
    lower = float((p < 0.5).mean())
    if n >= _ROWS and lower > _LOWER:
        _warn(f"{found}, and {lower:.0%} of the rows score below the median of the calibration rows. {_DRIFT}")
        return
    usual = FALSE_ALARMS if estimator.contamination == "auto" else float(estimator.contamination)
    _warn(
        f"{found}. It would flag some {usual:.0%} of rows without anomalies, too. But anomalies among the calibration "
        "rows hide others: what is as unusual as they are is not a discovery. If the training table holds anomalies, "
        "keep rows apart (train_test_split), look at those of them with the lowest scores, drop what is wrong, and "
        "call conformalize(X_cal) with the rest. Or ask for a larger fdr."
    )


def warn_of_everything(found: Array) -> None:
    """Say so where nearly all rows are discoveries."""
    if len(found) >= _ROWS and found.mean() > _FOUND:
        _warn(f"detect found {found.sum():,} of {len(found):,} rows. {_DRIFT}")


_DRIFT = (
    "Unless X is made up of anomalies, its rows have changed since the calibration, and fdr does not hold. A column "
    "that runs on, such as a date or a counter, does that: leave it out. numpy.median(vae.z_scores(X), axis=0) is far "
    "from 0 for columns that have moved; calibrate anew with rows of today if the change is harmless."
)


def _warn(message: str) -> None:
    warnings.warn(message, UserWarning, stacklevel=level_of_the_user())
