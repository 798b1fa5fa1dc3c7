"""Tables with known anomalies, cut in three ways, and what was published of them."""

import csv
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray
from sklearn.preprocessing import StandardScaler

__all__ = ["MOST", "PROTOCOLS", "Table", "load", "names_of", "published", "read"]

Array = NDArray[np.float64]

# Rows of each kind, at most, in the protocol of halves.
MOST = 10_000
PROTOCOLS = {
    "halves": (
        "half of the normal rows, at random, train (at most 10,000); the others and all anomalies test (at most 10,000 "
        "of each)"
    ),
    "published": (
        "the first half of the normal rows, in the order of the file, trains; the others and all anomalies test. "
        "Tables of fewer than 1,000 rows are first resampled to 1,000 with replacement, larger than 50,000 subsampled"
    ),
    "unsupervised": (
        "all rows test, and as many drawn from them with replacement train; resampled and subsampled as in the "
        "published protocol"
    ),
}


class Table(NamedTuple):
    """Training and test rows in standard units of the training rows, and which test rows are anomalies."""

    train: Array
    test: Array
    truth: NDArray[np.int_]


def names_of(folder: Path) -> list[str]:
    """Names of the tables, by their numbers."""
    names = [file.stem for file in folder.glob("*.npz")]
    other = [name for name in names if not name.split("_")[0].isdigit()]
    if other or not names:
        what = f"holds {other[0]}.npz" if other else "holds no npz file"
        raise OSError(f"{folder} {what}; its files are to be named as in ADBench, a number first: 45_wine.npz.")
    return sorted(names, key=lambda name: int(name.split("_")[0]))


def read(file: Path) -> tuple[Array, NDArray[np.int_]]:
    """Rows of a table, and which are anomalies; an OSError names a file that is cut short or holds something else."""
    try:
        with file.open("rb") as opened:
            data = np.load(opened)
            return data["X"].astype(np.float64), data["y"].astype(int)
    except (BadZipFile, EOFError, IndexError, KeyError, ValueError) as error:
        raise OSError(f"{file} is cut short, or is not an npz file with arrays X and y: {error}") from error


def load(file: Path, protocol: str, seed: int) -> Table:
    """A table of the folder "adbench", cut by a protocol: an npz with X and y (1: anomaly), as ADBench gives them."""
    X, y = read(file)
    if protocol == "halves":
        return _halves(X, y, seed)
    rng = np.random.RandomState(seed)  # as published
    if len(X) < 1_000 or len(X) > 50_000:
        places = rng.choice(len(X), 1_000 if len(X) < 1_000 else 50_000, replace=len(X) < 1_000)
        X, y = X[places], y[places]
    if protocol == "published":
        normal, anomalies = np.flatnonzero(y == 0), np.flatnonzero(y == 1)
        half = round(0.5 * len(normal))
        return _scaled(X, y, normal[:half], np.concatenate((normal[half:], anomalies)))
    X = StandardScaler().fit_transform(X)
    return Table(X[np.random.RandomState(seed).choice(len(X), len(X))], X, y)


def _halves(X: Array, y: NDArray[np.int_], seed: int) -> Table:
    rng = np.random.default_rng(seed)
    normal, anomalies = (rng.permutation(np.flatnonzero(y == label)) for label in (0, 1))
    half = len(normal) // 2
    return _scaled(X, y, normal[:half][:MOST], np.concatenate((normal[half:][:MOST], anomalies[:MOST])))


def _scaled(X: Array, y: NDArray[np.int_], train: NDArray[np.intp], test: NDArray[np.intp]) -> Table:
    scaler = StandardScaler().fit(X[train])
    return Table(scaler.transform(X[train]), scaler.transform(X[test]), y[test])


def published(folder: Path, protocol: str) -> dict[str, dict[str, float]]:
    """Published mean AUROC by detector and table (Livernoche et al. 2024); empty where the files are missing."""
    kind = {"published": "semi_supervised", "unsupervised": "unsupervised"}.get(protocol)
    file = folder / f"auroc_{kind}.csv"
    if kind is None or not file.is_file():
        return {}
    with file.open(newline="") as lines:
        rows: list[dict[str, Any]] = list(csv.DictReader(lines))
    detectors = [name for name in rows[0] if name != "set"]
    return {name: {row["set"].lower(): float(row[name]) for row in rows} for name in detectors}
