"""Margins of robustness against beta, total correlation and tau, on MNIST (Camuto et al. 2021).

The four panels against beta, for a weighted KL term and for a weighted total correlation; damage and degradation
against the norm of the perturbation; a constant tau added to the encoder's scale in training. The paper's r, beta, tau
and numbers of draws are not known: what can be compared is the direction of each effect. How bounds compare with the
attack is in the study of bounds.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from riskvae import BetaTCVAE, BetaVAE, robustness_margin
from riskvae.robustness import encoder_sensitivity, max_damage_attack
from riskvae.studies._frame import Config, StudyResult, column, markdown, measure_all, plus_minus
from riskvae.studies._published import images_of

Records = list[dict[str, Any]]

CLASSES: dict[str, type[BetaVAE]] = {"BetaVAE": BetaVAE, "BetaTCVAE": BetaTCVAE}
BETAS, TAUS, NORMS = (1.0, 2.0, 4.0, 8.0), (0.0, 0.1, 0.3, 0.6), (0.25, 0.5, 1.0, 2.0, 4.0)
R = 3.0  # of all models that are compared: above what the noise of any of them does to most digits
METHODS = ("theorem1", "whitened", "second_order", "linearized", "attack")
PLAIN: dict[str, Any] = {
    "images": "mnist",
    "network": "784-512-256-10",
    "class": "BetaVAE",
    "beta": 1.0,
    "tau": 0.0,
    "r": R,
}


def measure(task: Mapping[str, Any], data: Path | None) -> dict[str, Any]:
    """Train one model; margins of some test images, and damage by norm."""
    vae = CLASSES[task["class"]](
        10,
        beta=task["beta"],
        scale_offset=task["tau"],
        likelihood="bernoulli",
        max_epochs=task["epochs"],
        random_state=task["seed"],
        device=task["device"],
    ).fit(images_of(task["images"], "train", data)[0][: task["n_train"]])
    rows = images_of(task["images"], "test", data)[0][: task["n_rows"]]
    options = {"batch_size": min(32, len(rows)), "random_state": task["seed"]}
    work = {name: task[name] for name in ("n_draws", "n_restarts")}
    margin = robustness_margin(vae, rows, r=task["r"], methods=METHODS, **work, **options)
    local = encoder_sensitivity(vae, rows)
    return {
        "radius": float(np.median(margin.r)),
        "abstained": int(margin.abstained.sum()),
        "censored": int(margin.censored.sum()),
        "scale": float(np.median(local.scale_mean)),
        "Jacobian": float(np.median(local.jacobian_frobenius)),
        **{name: _rounded(getattr(margin, name)) for name in ("theorem1", "whitened", "lower", "linearized", "upper")},
        "by norm": {f"{norm:g}": damage(vae, rows, norm, options) for norm in NORMS},
    }


def damage(vae: Any, rows: NDArray[np.floating], norm: float, options: Mapping[str, Any]) -> dict[str, float]:
    """Medians of what the attack does at one norm, within [0, 1]."""
    attack = max_damage_attack(vae, rows, max_norm=norm, bounds=(0, 1), n_steps=30, **options)
    return {
        "damage": float(np.median(attack.damage)),
        "clean": float(np.median(attack.clean_damage)),
        "degradation": float(np.median(attack.degradation)),
        "lost nats": float(np.median(attack.log_likelihood - attack.log_likelihood_adv)),
    }


def _rounded(values: NDArray[np.floating]) -> list[float | None]:
    """Five digits for the file; None where there is no value, which JSON can tell."""
    return [float(f"{value:.5g}") if np.isfinite(value) else None for value in values]


def sizes(config: Config) -> dict[str, Any]:
    """Rows, epochs and work of the attack: less where it must be quick."""
    n_train, n_rows, epochs = (3000, 8, 3) if config.quick else (30_000, 64, 10)
    work = {"n_rows": n_rows, "n_restarts": 4, "n_draws": 2000}
    return {"n_train": n_train, "epochs": config.epochs or epochs, "device": config.device, **work}


def run(config: Config) -> StudyResult:
    """Train all models, and measure their margins."""
    kinds = [*beta_sweep().values(), *tau_sweep().values()]
    kinds = [kind for i, kind in enumerate(kinds) if kind not in kinds[:i]]  # with beta = 1 both classes are one model
    tasks = [{**kind, "seed": seed, **sizes(config)} for seed in range(config.n_seeds) for kind in kinds]
    records = measure_all(config, "margins", tasks, partial(measure, data=config.data))
    result = StudyResult("margins", {"likelihood": "bernoulli", "r of the sweeps": R}, records)
    result.tables = {
        f"Against beta on MNIST, r = {R:g} for all": _sweep_table(records, beta_sweep(), "beta"),
        f"Against tau on MNIST, r = {R:g} for all, beta = 1": _sweep_table(records, tau_sweep(), "tau"),
        "Attack by norm: median damage, by noise alone, and median loss of log-likelihood": _damage_table(records),
    }
    result.figures = {"beta": _sweep_figure(records), "damage": _damage_figure(records)}
    return result


# ------------------------------------------------------------------------------------------ selection


def beta_sweep() -> dict[str, dict[str, Any]]:
    """Models by name; the one with beta = 1 belongs to both classes."""
    return {
        f"{name}, {beta:g}": PLAIN | {"beta": beta, "class": "BetaVAE" if beta == 1.0 else name}
        for name in CLASSES
        for beta in BETAS
    }


def tau_sweep() -> dict[str, dict[str, Any]]:
    """Models by their tau."""
    return {f"{tau:g}": PLAIN | {"tau": tau} for tau in TAUS}


def of_kind(records: Records, kind: Mapping[str, Any]) -> Records:
    """Records of one model: one per seed."""
    return [record for record in records if all(record[key] == value for key, value in kind.items())]


def array(record: Mapping[str, Any], name: str) -> NDArray[np.float64]:
    """Values of rows, NaN where there is none."""
    return np.array([np.nan if value is None else value for value in record[name]], dtype=np.float64)


# -------------------------------------------------------------------------------------------- tables


def _median(found: Iterable[Mapping[str, Any]], name: str) -> list[float]:
    """Median over rows of each seed; a row that abstains breaks at once, one that is censored never."""
    values = []
    for record in found:
        told = array(record, name)
        if name in ("upper", "linearized"):  # none was found up to the largest norm
            told[np.isnan(told)] = np.inf
        told[np.isnan(array(record, "theorem1"))] = 0.0
        values.append(float(np.median(told)))
    return values


def _sweep_table(records: Records, kinds: Mapping[str, dict[str, Any]], name: str) -> str:
    rows = []
    for title, kind in kinds.items():
        found = of_kind(records, kind)
        medians = (plus_minus(_median(found, what)) for what in ("upper", "linearized", "lower", "theorem1"))
        local = (plus_minus(column(found, what)) for what in ("scale", "Jacobian"))
        abstained = plus_minus([100 * record["abstained"] / record["n_rows"] for record in found], 0)
        rows.append((title, *medians, *local, abstained + " %"))
    header = (name, "attack", "linearized estimate", "largest bound", "theorem 1", "encoder's scale", "its Jacobian")
    return markdown((*header, "abstained"), rows)


def _by_norm(found: Records, what: str) -> NDArray[np.float64]:
    """Of shape (seeds, norms)."""
    return np.array([[record["by norm"][f"{norm:g}"][what] for norm in NORMS] for record in found])


def _damage_table(records: Records) -> str:
    rows = []
    kinds = {f"BetaVAE, beta = {beta:g}": PLAIN | {"beta": beta} for beta in BETAS}
    kinds |= {f"BetaTCVAE, beta = {beta:g}": PLAIN | {"class": "BetaTCVAE", "beta": beta} for beta in BETAS[1:]}
    kinds |= {f"tau = {tau:g}": PLAIN | {"tau": tau} for tau in TAUS[1:]}
    for title, kind in kinds.items():
        found = of_kind(records, kind)
        clean = plus_minus(_by_norm(found, "clean")[:, 0].tolist(), 2)
        cells = []
        for i in range(len(NORMS)):
            damage, lost = _by_norm(found, "damage")[:, i], _by_norm(found, "lost nats")[:, i]
            cells.append(f"{plus_minus(damage.tolist(), 2)}; {lost.mean():.0f} nats")
        rows.append((title, clean, *cells))
    return markdown(("model", "noise alone", *(f"norm {norm:g}" for norm in NORMS)), rows)


# ------------------------------------------------------------------------------------------- figures


def _sweep_figure(records: Records) -> Any:
    """The four panels against beta, and tau beside them."""
    import matplotlib.pyplot as plt

    panels = {"upper": "margin (attack)", "theorem1": "bound (theorem 1)", "scale": "encoder's scale"}
    panels |= {"Jacobian": "norm of its Jacobian"}
    figure, axes = plt.subplots(2, 4, figsize=(13, 6.2), layout="constrained")
    lines = {
        name: [PLAIN | {"class": name if beta > 1 else "BetaVAE", "beta": beta} for beta in BETAS] for name in CLASSES
    }
    for (top, bottom), (what, title) in zip(axes.T, panels.items(), strict=True):
        for name, color in (("BetaVAE", "C3"), ("BetaTCVAE", "C0")):
            _line(top, records, lines[name], BETAS, what, color, name)
        _line(bottom, records, [PLAIN | {"tau": tau} for tau in TAUS], TAUS, what, "C2", "BetaVAE, beta = 1")
        top.set(title=title, xlabel="beta", xscale="log", ylim=(0, None))
        top.set_xticks(BETAS, [f"{beta:g}" for beta in BETAS])
        top.minorticks_off()
        bottom.set(xlabel="tau", ylim=(0, None))
    for ax in axes.flat:
        ax.spines[["top", "right"]].set_visible(False)
    axes[0, 0].legend(frameon=False)
    axes[1, 0].legend(frameon=False)
    return figure


def _line(
    ax: Any, records: Records, kinds: Sequence[dict[str, Any]], x: Sequence[float], what: str, color: str, label: str
) -> None:
    values = []
    for kind in kinds:
        found = of_kind(records, kind)
        values.append(column(found, what) if what in ("scale", "Jacobian") else _median(found, what))
    ax.plot(x, np.mean(values, axis=1), "o-", color=color, label=label)
    for position, points in zip(x, values, strict=True):
        ax.plot([position] * len(points), points, ".", color=color, ms=4, alpha=0.5)


def _damage_figure(records: Records) -> Any:
    """Damage and degradation against the norm of the perturbation."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(12, 4), layout="constrained", sharex=True)
    kinds = {f"beta = {beta:g}": PLAIN | {"beta": beta} for beta in BETAS}
    kinds |= {f"tau = {tau}": PLAIN | {"tau": tau} for tau in (0.3, 0.6)}
    colors = ["#fcae91", "#fb6a4a", "#de2d26", "#a50f15", "#74c476", "#006d2c"]
    panels = {"damage": "damage", "degradation": "degradation", "lost nats": "lost log-likelihood (nats)"}
    for ax, (what, title) in zip(axes, panels.items(), strict=True):
        for (label, kind), color in zip(kinds.items(), colors, strict=True):
            found = of_kind(records, kind)
            values = _by_norm(found, what)
            ax.plot(NORMS, values.mean(0), "o--" if "tau" in label else "o-", ms=4, color=color, label=label)
        ax.set(title=f"median {title}", xlabel="norm of the perturbation", xscale="log")
        ax.set_xticks(NORMS, [f"{norm:g}" for norm in NORMS])
        ax.minorticks_off()
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].legend(frameon=False)
    return figure
