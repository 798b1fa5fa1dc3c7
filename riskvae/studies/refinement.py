"""What refined posteriors buy after training: smaller tails at equal rate; detection, also of anomalies that hide.

One model answers twice, as its encoder says and after ten steps on each row's own bound. Images are trained and
compared as in the study of tails, tables as in that of anomalies; an attack then looks for the smallest change of a
flagged row after which the detector lets it pass.
"""

import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from riskvae import QuantileVAE
from riskvae.losses import kl_divergence
from riskvae.metrics import tail_mean
from riskvae.robustness import verdict_margin
from riskvae.studies._anomaly_tables import load as load_table
from riskvae.studies._anomaly_tables import names_of
from riskvae.studies._drawing import OURS, PLAIN, SMALL, entitle, headline, panels
from riskvae.studies._frame import Config, StudyResult, column, markdown, measure_all, plus_minus
from riskvae.studies._published import SETTING, TITLES, at_equal_rate, fit, load, of_kind, sizes

Records = list[dict[str, Any]]

STEPS = 10
MODELS: dict[str, dict[str, Any]] = {
    **{f"plain, beta = {beta:g}": {"beta": beta} for beta in (0.35, 0.5, 0.7, 1.0, 1.5)},
    **{f"averse 0.5, beta = {beta:g}": {"risk": "averse", "eps": 0.5, "beta": beta} for beta in (1.0, 1.5)},
    "averse 0.2, beta = 1.5": {"risk": "averse", "eps": 0.2, "beta": 1.5},
}
ERRORS = ("worst 10 %", "mean")
MOST_BYTES = 60_000  # of a table: an attack through refined posteriors takes minutes
N_HIDING = 4  # flagged rows of each table that an attack tries to hide


def measure(task: Mapping[str, Any], config: Config) -> dict[str, Any]:
    """One model of images or of a table, unrefined and refined."""
    if "images" in task:
        return _measure_images(task, config.data)
    return _measure_table(task, config.folder("adbench"))


def _measure_images(task: Mapping[str, Any], data: Path | None) -> dict[str, Any]:
    images = load(task, data)
    vae = fit(task, images.train)
    found = {}
    for refine in (0, STEPS):
        losses = np.square(vae.reconstruct(images.held_out, refine=refine) - images.held_out).mean(1)
        rate = kl_divergence(*map(torch.from_numpy, vae.encode(images.held_out, refine=refine)))
        found[str(refine)] = {
            "worst 10 %": tail_mean(losses, 0.1),
            "mean": float(losses.mean()),
            "rate": float(rate.mean()),
        }
    return {"refined": found}


def _measure_table(task: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    train, test, truth = load_table(folder / f"{task['set']}.npz", "halves", task["seed"])
    found: dict[str, Any] = {}
    rows = hidden = None
    for refine in (0, STEPS):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # constant features
            vae = QuantileVAE(
                max_epochs=task["epochs"], random_state=task["seed"], device=task["device"], refine=refine
            ).fit(train)
        flagged = vae.predict(test) == -1
        told: dict[str, Any] = {
            "whole": float(roc_auc_score(truth, -vae.score_samples(test))),
            "networks": float(roc_auc_score(truth, -vae._score_parts(test)[:, 0])),
            "false alarms": float(flagged[truth == 0].mean()),
            "found": float(flagged[truth == 1].mean()),
        }
        if rows is None:  # the same rows are hidden from both
            rows = test[(truth == 1) & flagged][: task["n_hiding"]]
        elif hidden is not None:
            told["seen through"] = (vae.predict(hidden) == -1).tolist()  # what is hidden from the encoder alone
        told["hidden by"] = []
        if len(rows):  # of some tables no anomaly is flagged
            margin = verdict_margin(vae, rows, n_steps=20, n_restarts=2, random_state=task["seed"])
            hidden = margin.X_adv
            told["hidden by"] = [float(f"{value:.4g}") for value in margin.upper]
        found[str(refine)] = told
    return {"refined": found}


def run(config: Config) -> StudyResult:
    """Train all models on both sets of images, and detectors on the smaller tables."""
    folder = config.folder("adbench")
    tables = [name for name in names_of(folder) if (folder / f"{name}.npz").stat().st_size <= MOST_BYTES]
    tables = tables[:2] if config.quick else tables
    shared = {**sizes(config), "steps": STEPS}
    tasks: list[dict[str, Any]] = [
        {"images": images, "seed": seed, "model": model, **shared}
        for seed in range(config.n_seeds)
        for images in TITLES
        for model in MODELS.values()
    ]
    epochs = config.epochs or (5 if config.quick else "auto")
    also = {"epochs": epochs, "device": config.device, "n_hiding": 1 if config.quick else N_HIDING, "steps": STEPS}
    tasks += [
        {"set": name, "bytes": (folder / f"{name}.npz").stat().st_size, "seed": seed, **also}
        for seed in range(config.n_seeds)
        for name in tables
    ]
    records = measure_all(config, "refinement", tasks, partial(measure, config=config))
    result = StudyResult("refinement", {**SETTING, "tables": tables, "steps": STEPS}, records)
    result.tables = {
        "At equal rate: change against plain, unrefined models of the same rate": _tails_table(records),
        "Detection: as the encoder says, and refined": _detection_table(records, tables),
    }
    result.figures = {"refinement": _figure(records, tables)}
    return result


# ------------------------------------------------------------------------------------------- answers


def answer(record: Mapping[str, Any], refine: int) -> dict[str, Any]:
    """What one model says, after some steps."""
    return dict(record["refined"][str(refine)])


def against_plain(records: Records, record: Mapping[str, Any], refine: int, what: str) -> float:
    """Relative change of an error against plain, unrefined models of the same seed at the same rate."""
    plain = [
        answer(found, 0)
        for name, model in MODELS.items()
        if name.startswith("plain")
        for found in of_kind(_images(records), record["images"], **model)
        if found["seed"] == record["seed"]
    ]
    told = answer(record, refine)
    return at_equal_rate(plain, told["rate"], told[what], what)


def _images(records: Records) -> Records:
    return [record for record in records if "images" in record]


def _of_table(records: Records, name: str) -> Records:
    return [record for record in records if record.get("set") == name]


def changes(records: Records, images: str, model: Mapping[str, Any], refine: int, what: str) -> list[float]:
    """In per cent, seed by seed."""
    found = of_kind(_images(records), images, **model)
    return [100 * against_plain(records, record, refine, what) for record in found]


# -------------------------------------------------------------------------------------------- tables


def _tails_table(records: Records) -> str:
    rows = []
    for images, title in TITLES.items():
        for name, model in MODELS.items():
            for refine in (0, STEPS):
                found = [answer(record, refine) for record in of_kind(_images(records), images, **model)]
                errors = [plus_minus(column(found, what), 4) for what in ERRORS]
                told = [changes(records, images, model, refine, what) for what in ERRORS]
                shares = ["" if np.isnan(values).any() else f"{plus_minus(values, 1)} %" for values in told]
                rows.append((title, name, refine, plus_minus(column(found, "rate"), 1), *errors, *shares))
    header = ("images", "model", "steps", "rate (nats)", *ERRORS)
    return markdown((*header, *(f"{what} against plain" for what in ERRORS)), rows)


_TOLD = {"whole": 3, "networks": 3, "false alarms": 3, "found": 3}


def _detection_table(records: Records, tables: Sequence[str]) -> str:
    rows = []
    for name in tables:
        found = _of_table(records, name)
        cells = []
        for what, digits in _TOLD.items():
            cells.append(" → ".join(f"{_mean(found, refine, what):.{digits}f}" for refine in (0, STEPS)))
        cells.append(" → ".join(f"{hiding(found, refine):.2f}" for refine in (0, STEPS)))
        rows.append((name, *cells, f"{100 * _mean(found, STEPS, 'seen through'):.0f} %"))
    means = [" → ".join(f"{np.mean([_mean(_of_table(records, name), refine, what) for name in tables]):.3f}"
                        for refine in (0, STEPS)) for what in _TOLD]  # fmt: skip
    rows.append(("mean", *means, "", ""))
    header = ("table", "AUROC", "AUROC of the networks alone", "false alarms", "anomalies found")
    return markdown((*header, "change that hides one", "hidden ones that steps see through"), rows)


def _mean(found: Records, refine: int, what: str) -> float:
    """Over seeds, and rows where there are some."""
    told = [np.mean(values) for record in found if np.size(values := answer(record, refine).get(what, []))]
    return float(np.mean(told)) if told else float("nan")


def hiding(found: Records, refine: int) -> float:
    """Median over rows and seeds of the smallest change that hides a flagged anomaly, in standard units."""
    told = [value for record in found for value in answer(record, refine)["hidden by"]]
    return float(np.median(told)) if told else float("nan")


# ------------------------------------------------------------------------------------------- figures


def _figure(records: Records, tables: Sequence[str]) -> Any:
    """Errors of images against the rate, as the encoder says and after steps; and what it takes to hide an anomaly."""
    figure, (axes,) = panels(1, 3, 3.6)
    for ax, what, name in zip(axes, ERRORS, ("Worst tenth", "All images"), strict=False):
        for images, title in TITLES.items():
            for refine, color in ((0, PLAIN), (STEPS, OURS)):
                _draw_errors(ax, records, (images, title), refine, color, what)
        entitle(ax, f"{name}, better ↓")
        ax.set(xlabel="rate (nats per image)", ylim=(0, None))
        ax.set_xlim(None, 1.25 * ax.get_xlim()[1])  # for the names
    axes[0].set_ylabel("squared error per pixel, x 1000")
    for place, (told, color) in enumerate(
        (("▲ averse, eps = 0.5", "0.2"), (f"● after {STEPS} steps", OURS), ("● as the encoder says", PLAIN))
    ):
        axes[0].text(0.03, 0.03 + 0.08 * place, told, color=color, transform=axes[0].transAxes, fontsize=SMALL)
    _draw_hiding(axes[2], records, tables)
    headline(figure, f"{STEPS} steps on each row make errors smaller at equal rate;\ndetectors stay as easy to deceive")
    return figure


def _draw_errors(ax: Any, records: Records, images: tuple[str, str], refine: int, color: Any, what: str) -> None:
    """The curve of plain models along beta, named where it begins, and the averse model."""

    def point(model: Mapping[str, Any]) -> tuple[float, float]:
        found = [answer(record, refine) for record in of_kind(_images(records), images[0], **model)]
        return float(np.mean(column(found, "rate"))), 1000 * float(np.mean(column(found, what)))

    rates, errors = np.array([point(model) for name, model in MODELS.items() if name.startswith("plain")]).T
    ax.plot(rates, errors, "o-", color=color, ms=4)
    ax.plot(*point(MODELS["averse 0.5, beta = 1"]), "^", color=color, ms=8, mec="white")
    if not refine:
        ax.annotate(images[1], (rates[0], errors[0]), (5, 0), textcoords="offset points", va="center", fontsize=SMALL)


def _draw_hiding(ax: Any, records: Records, tables: Sequence[str]) -> None:
    sizes = np.array([[hiding(_of_table(records, name), refine) for refine in (0, STEPS)] for name in tables])
    known = np.isfinite(sizes).all(1)
    ax.loglog(*sizes[known].T, "o", color=OURS)
    for name, place, good in zip(tables, sizes, known, strict=True):
        if good:
            short = name.split("_", 1)[1]
            aside, side = {"Hepatitis": ((-5, 4), "right"), "Pima": ((0, -13), "center")}.get(short, ((6, -3), "left"))
            ax.annotate(short, place, aside, textcoords="offset points", fontsize=SMALL, ha=side)  # some lie close
    span = [np.nanmin(sizes) / 1.3, np.nanmax(sizes) * 1.3] if known.any() else [0.1, 1.0]
    ax.plot(span, span, ":", color="0.4")
    entitle(ax, "Change that hides an anomaly, safer ↑")
    ax.set(xlabel="as the encoder says", ylabel=f"after {STEPS} steps")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_ticks((0.1, 1.0, 10.0), ("0.1", "1", "10"))
