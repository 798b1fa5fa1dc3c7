"""What models withstand on MNIST, by what lever, and what it costs: training, networks, inference.

Margins at one r, by the attack and certified, beside squared errors and rates; errors also against plain models of the
same rate, as a larger rate by itself makes errors smaller.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from riskvae import BetaVAE, robustness_margin
from riskvae.nets import lipschitz_encoder
from riskvae.robustness import max_damage_attack
from riskvae.studies import _drawing as drawing
from riskvae.studies._frame import Config, StudyResult, column, markdown, measure_all, plus_minus
from riskvae.studies._published import at_equal_rate, images_of, rate_and_active

Records = list[dict[str, Any]]

R = 3.0  # as in the study of margins
NORM = 2.0  # of the attack whose damage is told
PLAIN = {f"plain, beta = {beta:g}": {"beta": beta} for beta in (0.7, 1.0, 1.5, 2.5)}
LEVERS: dict[str, dict[str, Any]] = {
    **PLAIN,
    "scale_offset = 0.6": {"scale_offset": 0.6},
    **{f"lipschitz_penalty = {weight:g}": {"lipschitz_penalty": weight} for weight in (3.0, 10.0, 30.0)},
    "Lipschitz encoder": {"network": "Lipschitz"},
    **{
        f"Lipschitz encoder, penalty {weight:g}": {"network": "Lipschitz", "lipschitz_penalty": weight}
        for weight in (3.0, 10.0, 30.0)
    },
    "refine = 10": {"refine": 10},
    "penalty 10, refine = 10": {"lipschitz_penalty": 10.0, "refine": 10},
}
NETWORKS: dict[str, dict[str, Any]] = {
    "plain": {},
    "Lipschitz": {"encoder": partial(lipschitz_encoder, constant=2.0, hidden_layer_sizes=(512,))},
}


def measure(task: Mapping[str, Any], data: Path | None) -> dict[str, Any]:
    """Train one model; errors of test images, margins of some, and the damage at one norm."""
    model = dict(task["model"])
    vae = BetaVAE(
        10,
        likelihood="bernoulli",
        max_epochs=task["epochs"],
        random_state=task["seed"],
        device=task["device"],
        **NETWORKS[model.pop("network", "plain")],
        **model,
    ).fit(images_of("mnist", "train", data)[0][: task["n_train"]])
    test = images_of("mnist", "test", data)[0]
    held_out, rows = test[-task["n_held_out"] :], test[: task["n_rows"]]
    options = {"random_state": task["seed"], "batch_size": min(32, len(rows))}
    margin = robustness_margin(
        vae,
        rows,
        r=R,
        methods=("second_order", "proven", "attack"),
        n_draws=task["n_draws"],
        n_restarts=task["n_restarts"],
        **options,
    )
    attack = max_damage_attack(vae, rows, max_norm=NORM, bounds=(0, 1), n_steps=30, **options)
    return {
        "error": float(np.square(vae.reconstruct(held_out) - held_out).sum(1).mean()),
        "bound": float(vae.score(held_out)),
        "rate": rate_and_active(vae, held_out)["rate"],
        "margin": _median(margin.upper, margin.abstained, np.inf),
        "certified": _median(margin.certified, margin.abstained, np.nan),
        "lower": _median(margin.lower, margin.abstained, np.nan),
        "abstained": int(margin.abstained.sum()),
        "damage": float(np.median(attack.damage)),
        "clean": float(np.median(attack.clean_damage)),
    }


def _median(values: Any, abstained: Any, unknown: float) -> float | None:
    """Over rows; one that abstains breaks at once. None where it is not known."""
    told = np.where(abstained, 0.0, np.where(np.isnan(values), unknown, values))
    middle = float(np.median(told))
    return float(f"{middle:.5g}") if np.isfinite(middle) else None


def sizes(config: Config, model: Mapping[str, Any]) -> dict[str, Any]:
    """Rows, epochs and the attack's work: less through refined posteriors, each of whose steps is differentiated."""
    n_train, n_rows, epochs = (3000, 4, 2) if config.quick else (30_000, 64, 10)
    work = {"n_rows": n_rows, "n_restarts": 4, "n_draws": 2000, "n_held_out": 500 if config.quick else 5000}
    if model.get("refine"):
        work |= {"n_rows": n_rows // 4, "n_restarts": 1, "n_draws": 1000, "n_held_out": work["n_held_out"] // 5}
    return {"n_train": n_train, "epochs": config.epochs or epochs, "device": config.device, **work}


def run(config: Config) -> StudyResult:
    """Train and attack all models."""
    tasks = [
        {"model": model, "seed": seed, **sizes(config, model)}
        for seed in range(config.n_seeds)
        for model in LEVERS.values()
    ]
    records = measure_all(config, "levers", tasks, partial(measure, data=config.data))
    result = StudyResult("levers", {"likelihood": "bernoulli", "r": R, "images": "MNIST"}, records)
    title = f"What each lever buys on MNIST: r = {R:g}, damage within norm {NORM:g}"
    result.tables = {title: _table(records)}
    result.figures = {"levers": _figure(records)}
    return result


def of_lever(records: Records, name: str) -> Records:
    """Records of one model: one per seed."""
    return [record for record in records if record["model"] == LEVERS[name]]


def against_plain(records: Records, record: Mapping[str, Any]) -> float:
    """Relative change of the error against plain models of the same seed at the same rate."""
    plain = [found for name in PLAIN for found in of_lever(records, name) if found["seed"] == record["seed"]]
    return at_equal_rate(plain, record["rate"], record["error"], "error")


def _table(records: Records) -> str:
    rows = []
    for name in LEVERS:
        found = of_lever(records, name)
        changes = [100 * against_plain(records, record) for record in found]
        change = "" if name in PLAIN or np.isnan(changes).any() else f"{plus_minus(changes, 1)} %"
        told = [_cell(found, what, digits) for what, digits in _COLUMNS.items()]
        rows.append((name, *told[:2], change, *told[2:]))
    header = ("lever", "error", "rate (nats)", "error at equal rate", "attack needs", "certified", "largest bound")
    return markdown((*header, "damage", "by noise alone"), rows)


_COLUMNS = {"error": 1, "rate": 1, "margin": 2, "certified": 2, "lower": 2, "damage": 2, "clean": 2}


def _cell(found: Records, what: str, digits: int) -> str:
    values = column(found, what)
    return "not known" if None in values else plus_minus(values, digits)


def _figure(records: Records) -> Any:
    """What is certified and what the attack needs, lever by lever; the truth lies between."""
    import matplotlib.pyplot as plt

    figure, ax = plt.subplots(figsize=(8.5, 0.38 * len(LEVERS) + 1.4), layout="constrained")
    for place, name in enumerate(reversed(LEVERS)):
        found = of_lever(records, name)
        low, high = (
            np.mean([0.0 if value is None else value for value in column(found, what)])
            for what in ("certified", "margin")
        )
        color = drawing.PLAIN if name in PLAIN else drawing.OURS
        ax.plot([low, high], [place, place], color=color, lw=3, alpha=0.35, solid_capstyle="butt")
        if low > 0:
            ax.plot(low, place, "|", color=color, ms=12, mew=2)
        ax.plot(high, place, "o", color=color, ms=7)
        ax.plot(column(found, "margin"), [place - 0.28] * len(found), ".", color=color, ms=4, alpha=0.6)
        change = np.mean([100 * against_plain(records, record) for record in found])
        if name not in PLAIN and np.isfinite(change):
            ax.annotate(f"error {change:+.0f} %", (high, place), (9, 0), textcoords="offset points", va="center")
    ax.set_yticks(range(len(LEVERS)), list(reversed(LEVERS)))
    ax.set_xlabel(
        f"change of a digit at r = {R:g}: certified (bar) to what an attack needs (dot; small: seeds), better →"
    )
    drawing.headline(figure, "The penalty triples what an attack needs, at a few per cent more error")
    ax.set_xlim(0, None)
    ax.margins(x=0.18)
    ax.spines[["top", "right"]].set_visible(False)
    return figure
