"""Tables with values taken out, and the imputers of scikit-learn that fill them in."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine
from sklearn.ensemble import RandomForestRegressor
from sklearn.experimental import enable_iterative_imputer  # noqa: F401  # it is imported next
from sklearn.impute import IterativeImputer, KNNImputer, SimpleImputer

from riskvae.studies._anomaly_tables import read

__all__ = ["MECHANISMS", "MOST", "OF_ADBENCH", "OF_SKLEARN", "PEERS", "some_rows", "with_holes"]

Array = NDArray[np.float64]

OF_SKLEARN: dict[str, Callable[[], Any]] = {
    "wine": load_wine,
    "wdbc": load_breast_cancer,
    "diabetes": load_diabetes,
}
OF_ADBENCH = {
    "vertebral": "39_vertebral",
    "stamps": "37_Stamps",
    "pima": "29_Pima",
    "cardio": "7_Cardiotocography",
    "waveform": "41_Waveform",
    "pageblocks": "27_PageBlocks",
    "landsat": "19_landsat",
}
MOST = 500  # rows
MECHANISMS = {"MCAR": "at random", "MAR": "by another column"}


def forest(seed: int) -> Any:
    """Random forests in place of ridge regressions, small enough to wait for."""
    one = RandomForestRegressor(15, min_samples_leaf=3, max_features=0.5, random_state=seed)
    return IterativeImputer(one, max_iter=3, random_state=seed)


PEERS: dict[str, Callable[[int], Any]] = {
    "mean": lambda seed: SimpleImputer(),
    "neighbors": lambda seed: KNNImputer(),
    "iterative": lambda seed: IterativeImputer(random_state=seed),
    "forest": forest,
}


def hidden_at_random(X: Array, share: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Values that are missing, each with the same probability; something of every row and column stays."""
    missing = rng.random(X.shape) < share
    nothing = np.flatnonzero(missing.all(1))
    missing[nothing, rng.integers(X.shape[1], size=len(nothing))] = False
    missing[:, missing.all(0)] = False
    return missing


def hidden_by_a_column(X: Array, share: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Values that are missing by a logistic function of one column, which is known, and which a few rows do not decide.

    Rank by rank the odds of a missing value rise, or fall, by a factor of e^4 from the lowest row to the highest.
    """
    n, d = X.shape
    cause = int(rng.integers(d))
    rank = np.argsort(np.argsort(X[:, cause] + 1e-9 * rng.random(n))) / (n - 1) - 0.5
    slope = 4.0 * np.where(rng.random(d) < 0.5, -1.0, 1.0)
    low, high = -20.0, 20.0
    for _ in range(60):  # the offset at which the mean probability is the share
        middle = (low + high) / 2
        low, high = (middle, high) if expit(middle + 4.0 * rank).mean() < share else (low, middle)
    missing = rng.random(X.shape) < expit(low + rank[:, None] * slope)
    missing[:, cause] = False
    return missing


def some_rows(folder: Path, name: str, seed: int) -> tuple[Array, NDArray[np.int_]]:
    """At most 500 rows of a table, and which of them are anomalies (of scikit-learn's tables none)."""
    if name in OF_SKLEARN:
        X = OF_SKLEARN[name]().data
        y = np.zeros(len(X), dtype=int)
    else:
        X, y = read(folder / f"{OF_ADBENCH[name]}.npz")
    places = np.random.default_rng(seed).permutation(len(X))[:MOST]
    return X[places], y[places]


def with_holes(X: Array, mechanism: str, share: float, seed: int) -> tuple[Array, Array, NDArray[np.bool_]]:
    """Rows without their missing values and with them, in units of what is known, and where they are missing."""
    hide = hidden_at_random if mechanism == "MCAR" else hidden_by_a_column
    missing = hide(X, share, np.random.default_rng([seed, round(100 * share)]))
    table = np.where(missing, np.nan, X)
    center, scale = np.nanmean(table, 0), np.nanstd(table, 0)
    scale[scale == 0] = 1.0
    return (table - center) / scale, (X - center) / scale, missing
