"""Filling in missing values: errors and 90 % ranges beside scikit-learn's imputers, and detectors of rows with holes.

Ten tables of at most 500 rows, values missing at random or by another column, each method with one setting for all
tables. Errors are those of missing values, in standard deviations of what is known of their column.
"""

import time
import warnings
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from riskvae import BetaVAE, QuantileVAE
from riskvae.metrics import interval_score
from riskvae.studies._drawing import OTHERS, OURS, SMALL, cut, entitle, headline, panels
from riskvae.studies._frame import Config, StudyResult, markdown, measure_all
from riskvae.studies._imputation_tables import (
    MECHANISMS,
    MOST,
    OF_ADBENCH,
    OF_SKLEARN,
    PEERS,
    some_rows,
    with_holes,
)

Array = NDArray[np.float64]

SHARES = (0.1, 0.3, 0.5)
# At this share QuantileVAE and detectors are measured, too; at others values that hang on a column, with one seed.
MIDDLE = 0.3
WHAT = {
    "BetaVAE": "`impute`, of the default model",
    "QuantileVAE": "`impute`, with `calibration_fraction=0.2`, and `n_folds=0`, as nobody asks for scores",
    "iterative": "IterativeImputer: ridge regressions, in turn",
    "forest": "the same with random forests: 15 trees, leaves of 3 rows, half of the features, 3 rounds",
    "neighbors": "KNNImputer",
    "mean": "of the column",
}
DETECTORS = {
    "as they are": "rows with holes",
    "iterative": "IterativeImputer before",
    "mean": "column means before",
}
N_DRAWS, ALPHA = 100, 0.1


# ---------------------------------------------------------------------------------------------- study


def ranges(low: Array, high: Array, truth: Array) -> dict[str, float]:
    """What ranges hold of some values, how wide they are, and their score."""
    ends = np.stack((low, high), -1)[:, None]
    held = (truth >= low) & (truth <= high)
    return {
        "holds": float(held.mean()),
        "width": float((high - low).mean()),
        "score": interval_score(truth[:, None], ends, ALPHA).item(),
    }


def filled(task: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Errors of one method on one table, and of a model what its ranges hold."""
    X, _ = some_rows(folder, task["table"], task["seed"])
    table, whole, missing = with_holes(X, task["mechanism"], task["share"], task["seed"])
    truth, start = whole[missing], time.perf_counter()
    if task["method"] in PEERS:
        found: dict[str, Any] = {}
        guess = PEERS[task["method"]](task["seed"]).fit_transform(table)[missing]
    else:
        own: dict[str, Any] = {"max_epochs": task["epochs"], "random_state": task["seed"], "device": task["device"]}
        calibrated = task["method"] == "QuantileVAE"
        model: Any = QuantileVAE(calibration_fraction=0.2, n_folds=0, **own) if calibrated else BetaVAE(**own)
        rows = table.astype(np.float32)
        guess = model.fit(rows).impute(rows)[missing]
        drawn = model.impute(rows, n_draws=N_DRAWS, random_state=task["seed"])[:, missing]
        low, high = np.quantile(drawn, (ALPHA / 2, 1 - ALPHA / 2), axis=0, method="weibull")
        found = {"draws": ranges(low, high, truth)}
        if calibrated:
            ends = model.predict_interval(rows, ALPHA)[missing]
            inside = np.isfinite(ends).all(1)
            found["interval"] = ranges(ends[inside, 0], ends[inside, 1], truth[inside])
    seconds = time.perf_counter() - start
    return {"error": float(np.sqrt(np.mean(np.square(guess - truth)))), "seconds": seconds, **found}


def detected(task: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Area under the curve of a detector that is trained on normal rows with holes, and asked about others."""
    X, y = some_rows(folder, task["table"], task["seed"])
    table, _, _ = with_holes(X, task["mechanism"], task["share"], task["seed"])
    normal = np.flatnonzero(y == 0)
    train, others = normal[: len(normal) // 2], np.concatenate((normal[len(normal) // 2 :], np.flatnonzero(y == 1)))
    rows, new = table[train], table[others]
    if task["method"] != "as they are":
        filling = PEERS[task["method"]](task["seed"]).set_params(keep_empty_features=True).fit(rows)
        rows, new = filling.transform(rows), filling.transform(new)
    model = QuantileVAE(max_epochs=task["epochs"], random_state=task["seed"], device=task["device"])
    return {"auroc": float(roc_auc_score(y[others], -model.fit(rows).score_samples(new)))}


def measure(task: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Errors of a method, or the detection of a detector."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # imputers that have not converged, infinite intervals
        return (filled if task["what"] == "errors" else detected)(task, folder)


def run(config: Config) -> StudyResult:
    """Measure all methods on all tables, mechanisms and shares."""
    folder = config.folder("adbench")
    names = [name for name in (*OF_SKLEARN, *OF_ADBENCH) if name in OF_SKLEARN or _is_there(folder, name)]
    if config.quick:
        names = [name for name in names if name in ("wine", "vertebral")]
    own = {"epochs": config.epochs or (5 if config.quick else "auto"), "device": config.device}
    shares = SHARES[1:2] if config.quick else SHARES
    cells = [(name, share, seed) for seed in range(config.n_seeds) for share in shares for name in names]
    tasks = [
        {"what": "errors", "table": name, "mechanism": mechanism, "share": share, "seed": seed, "method": method}
        | ({} if method in PEERS else own)
        for name, share, seed in cells
        for mechanism in MECHANISMS
        for method in WHAT
        if mechanism == "MCAR" or share == MIDDLE or seed == 0
        if method != "QuantileVAE" or share == MIDDLE
    ]
    tasks += [
        {"what": "detection", "table": name, "mechanism": "MCAR", "share": share, "seed": seed, "method": how} | own
        for name, share, seed in cells
        for how in DETECTORS
        if name in OF_ADBENCH and share == MIDDLE
    ]
    records = measure_all(config, "imputation", tasks, partial(measure, folder=folder))
    result = StudyResult("imputation", {"tables": names, "at most": MOST, "methods": WHAT, "draws": N_DRAWS}, records)
    result.tables = _tables(records)
    result.figures = {"errors": _figure(records)}
    return result


def _is_there(folder: Path, name: str) -> bool:
    return (folder / f"{OF_ADBENCH[name]}.npz").is_file()


# --------------------------------------------------------------------------------------------- report

Records = list[dict[str, Any]]


def chosen(records: Records, **fields: Any) -> Records:
    """Records with these fields."""
    return [record for record in records if all(record[name] == value for name, value in fields.items())]


def mean_error(records: Records, **fields: Any) -> float:
    """Mean error of some records; NaN where there are none."""
    return _mean([record["error"] for record in chosen(records, what="errors", **fields)])


def _mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else float("nan")


def _values(records: Records, name: str) -> list[Any]:
    return list(dict.fromkeys(record[name] for record in records))


def best_other(records: Records, **fields: Any) -> float:
    """Smallest error of the other methods."""
    return min(mean_error(records, method=method, **fields) for method in PEERS)


def _tables(records: Records) -> dict[str, str]:
    errors, detection = chosen(records, what="errors"), chosen(records, what="detection")
    tables = {"Where the default model errs less than the best of the others": _wins(errors)}
    tables["Methods: error, mean of all tables, and seconds for a table"] = _means(errors)
    for mechanism in MECHANISMS:
        for share in _values(errors, "share"):
            here = chosen(errors, mechanism=mechanism, share=share)
            rows = [
                (name, *(mean_error(here, table=name, method=method) for method in WHAT))
                for name in _values(errors, "table")
            ]
            tables[f"Error, {100 * share:.0f} % {mechanism}, missing {MECHANISMS[mechanism]}"] = markdown(
                ("table", *WHAT), rows
            )
    tables["What 90 % ranges hold at missing values (%), and their score (smaller is better)"] = _ranges(errors)
    if detection:
        tables["AUROC of QuantileVAE, rows with holes MCAR"] = _detection(detection)
    return tables


def _wins(errors: Records) -> str:
    rows = []
    for mechanism in MECHANISMS:
        for share in _values(errors, "share"):
            cell = {"mechanism": mechanism, "share": share}
            names = _values(errors, "table")
            ratios = {
                name: mean_error(errors, table=name, method="BetaVAE", **cell) / best_other(errors, table=name, **cell)
                for name in names
            }
            won = [name for name, ratio in ratios.items() if ratio < 1]
            ratio = float(np.exp(np.mean(np.log(list(ratios.values())))))
            rows.append((f"{mechanism}, {100 * share:.0f} %", f"{len(won)} of {len(names)}", ratio, ", ".join(won)))
    return markdown(("missing", "tables", "error over that of the best, geometric mean", "which"), rows)


def _means(errors: Records) -> str:
    rows = []
    for method, about in WHAT.items():
        cells = [mean_error(errors, method=method, share=share) for share in _values(errors, "share")]
        seconds = _mean([record["seconds"] for record in chosen(errors, method=method)])
        rows.append((method, *cells, f"{seconds:.1f}", about))
    return markdown(("method", *(f"{100 * share:.0f} %" for share in _values(errors, "share")), "seconds", ""), rows)


KINDS = {
    "BetaVAE, draws": ("BetaVAE", "draws"),
    "QuantileVAE, draws": ("QuantileVAE", "draws"),
    "QuantileVAE, predict_interval": ("QuantileVAE", "interval"),
}


def _ranges(errors: Records) -> str:
    rows = []
    for name in _values(errors, "table"):
        row: list[Any] = [name]
        for method, kind in KINDS.values():
            found = [record[kind] for record in chosen(errors, table=name, method=method)]
            row += [f"{100 * _mean([one['holds'] for one in found]):.1f}", _mean([one["score"] for one in found])]
        rows.append(row)
    means = [f"{np.mean([float(row[i]) for row in rows]):.1f}" if i % 2 else "" for i in range(1, 2 * len(KINDS) + 1)]
    rows.append(["mean", *means])
    return markdown(("table", *(title for name in KINDS for title in (name, "score"))), rows)


def _detection(detection: Records) -> str:
    rows = []
    for share in _values(detection, "share"):
        cell = {
            name: [
                _mean([r["auroc"] for r in chosen(detection, share=share, table=name, method=how)]) for how in DETECTORS
            ]
            for name in _values(detection, "table")
        }
        rows += [(f"{100 * share:.0f} %", name, *values) for name, values in cell.items()]
        rows.append((f"{100 * share:.0f} %", "mean", *np.mean(list(cell.values()), axis=0)))
    return markdown(("missing", "table", *DETECTORS.values()), rows)


def _figure(records: Records) -> Any:
    """Each case's error over that of the best other imputer, and what ranges hold, table by table."""
    errors = chosen(records, what="errors")
    shares, ratios = _values(errors, "share"), _ratios(errors)
    names = sorted(_values(errors, "table"), key=lambda name: np.mean([ratios[name, *cell] for cell in _cells(errors)]))
    figure, axes = panels(1, 2, 0.46 * len(names) + 1.7, sharey=True, width_ratios=(1.25, 1))
    won = sum(ratio < 1 for ratio in ratios.values())
    told = (
        f"A default BetaVAE fills in with smaller errors than the best of four others\nin {won} of {len(ratios)} cases"
    )
    headline(figure, f"{told}, and its draws tell how large errors are")
    left, right = axes[0]
    for line, name in enumerate(names):
        for share, mechanism in _cells(errors):
            ratio, place = ratios[name, share, mechanism], line + 0.27 * (shares.index(share) - (len(shares) - 1) / 2)
            face = OURS if mechanism == "MCAR" else "white"
            ends = _by_seed(errors, table=name, share=share, mechanism=mechanism)
            left.plot(ends, [place, place], **_THIN)
            left.plot(ratio, place, "o", color=OURS, mfc=face, ms=2.5 + 7 * share)
            if line == 0 and mechanism == "MCAR":
                least = min(ends[0], *(ratios[cell] for cell in ratios if cell[:2] == (name, share)))
                left.annotate(f"{100 * share:.0f} % missing", (least, place), **_BESIDE)
        _held(right, errors, name, line)
    left.axvline(1.0, color=OTHERS, lw=1)
    ticks = (0.7, 0.8, 0.9, 1.0, 1.2, 1.5)
    left.set(xscale="log", xlim=(0.66, 1.6), xlabel="error / that of the best other imputer   ← better")
    left.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    left.minorticks_off()
    entitle(left, "● missing at random   ○ by another column")
    left.set_yticks(range(len(names)), names)
    left.set_ylim(len(names) - 0.4, -0.7)
    right.axvline(100 * (1 - ALPHA), color=OTHERS, lw=1)
    right.set_xlabel("missing values in 90 % ranges (%)")
    entitle(right, "90 % are meant to be inside")
    for ax in (left, right):
        ax.grid(axis="y", color="0.9")
        ax.tick_params(axis="y", length=0)
        cut(ax, "x")
    return figure


_THIN: dict[str, Any] = {"color": OURS, "lw": 0.8, "alpha": 0.5}
_BESIDE: dict[str, Any] = {
    "xytext": (-9, 0), "textcoords": "offset points", "fontsize": SMALL, "va": "center", "ha": "right"
}  # fmt: skip


def _cells(errors: Records) -> list[tuple[float, str]]:
    """Shares and mechanisms that were measured."""
    return list(dict.fromkeys((record["share"], record["mechanism"]) for record in errors))


def _ratios(errors: Records) -> dict[tuple[str, float, str], float]:
    """Error of the default model over the least of the others, by table, share and mechanism."""
    found = {}
    for name in _values(errors, "table"):
        for share, mechanism in _cells(errors):
            cell = {"table": name, "share": share, "mechanism": mechanism}
            found[name, share, mechanism] = mean_error(errors, method="BetaVAE", **cell) / best_other(errors, **cell)
    return found


def _by_seed(errors: Records, **cell: Any) -> tuple[float, float]:
    """Range over seeds of the error over that of the best other imputer."""
    seeds = _values(chosen(errors, **cell), "seed")
    found = [
        mean_error(errors, method="BetaVAE", seed=seed, **cell) / best_other(errors, seed=seed, **cell)
        for seed in seeds
    ]
    return min(found), max(found)


def _held(ax: Any, errors: Records, name: str, line: int) -> None:
    """What three kinds of ranges hold on one table; thin bars for the range over seeds."""
    looks = (("o", OURS, OURS), ("o", "white", OURS), ("X", OTHERS, OTHERS))
    for i, ((told, (method, kind)), (marker, face, color)) in enumerate(zip(KINDS.items(), looks, strict=True)):
        found = chosen(errors, table=name, method=method)
        by_seed = [
            100 * _mean([record[kind]["holds"] for record in chosen(found, seed=seed)])
            for seed in _values(found, "seed")
        ]
        place, held = line + 0.27 * (i - 1), 100 * _mean([record[kind]["holds"] for record in found])
        ax.plot([min(by_seed), max(by_seed)], [place, place], **_THIN | {"color": color})
        ax.plot(held, place, marker, color=color, mfc=face, ms=6)
        if line == 0:
            ax.annotate(told, (min(by_seed), place), color=color, **_BESIDE)
