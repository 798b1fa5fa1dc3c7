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
from riskvae.studies import _drawing as drawing
from riskvae.studies._drawing import OTHERS, OURS, entitle, headline, name_lines, panels
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

# What is drawn, how, and what it is called: an attack's margin before all.
LINES: dict[str, tuple[str, dict[str, Any]]] = {
    "scale": ("encoder's scale", {"color": "0.55", "lw": 1, "ls": "--"}),
    "Jacobian": ("norm of its Jacobian", {"color": "0.55", "lw": 1, "ls": ":"}),
    "theorem1": ("bound (theorem 1)", {"color": OTHERS, "lw": 1.8}),
    "upper": ("margin that an attack finds", {"color": OURS, "lw": 3}),
}


def _sweep_figure(records: Records) -> Any:
    """Margin, bound, scale and Jacobian against beta, total correlation and tau: times what the plain model has."""
    sweeps: dict[str, tuple[Sequence[float], list[dict[str, Any]]]] = {
        "beta, of the KL term": (BETAS, [PLAIN | {"beta": beta} for beta in BETAS]),
        "beta, of total correlation": (BETAS, [beta_sweep()[f"BetaTCVAE, {beta:g}"] for beta in BETAS]),
        "tau, added to the scale": (TAUS, list(tau_sweep().values())),
    }
    figure, axes = panels(1, len(sweeps), 4.3, sharey=True)
    headline(figure, "The provable bound grows with beta and with tau;\nthe margin that an attack finds hardly does")
    for ax, (title, (x, kinds)) in zip(axes[0], sweeps.items(), strict=True):
        ends = [_line(ax, records, kinds, x, what) for what in LINES]
        ax.axhline(1.0, color=drawing.PLAIN, lw=0.8, zorder=0)
        ax.set(xlabel=title, yscale="log")
        ax.set_xscale("linear" if x is TAUS else "log")
        ax.set_xticks(x, [f"{value:g}" for value in x])
        ax.minorticks_off()
    axes[0, 0].set_yticks([0.5, 1, 2, 4], ["x 0.5", "x 1", "x 2", "x 4"])
    axes[0, 0].minorticks_off()
    axes[0, 0].set_ylabel("times that of the plain model (beta = 1, tau = 0)")
    name_lines(axes[0, -1], [name for name, _ in LINES.values()], ends, [look["color"] for _, look in LINES.values()])
    return figure


def _line(
    ax: Any, records: Records, kinds: Sequence[dict[str, Any]], x: Sequence[float], what: str
) -> tuple[float, float]:
    """A line over the value of the first kind, with dots for seeds; its right end."""
    values = []
    for kind in kinds:
        found = of_kind(records, kind)
        values.append(column(found, what) if what in ("scale", "Jacobian") else _median(found, what))
    with np.errstate(invalid="ignore"):  # where no attack breaks a model, margins are infinite
        ratios = np.array(values) / np.mean(values[0])
    look = LINES[what][1]
    ax.plot(x, ratios.mean(1), marker="o", ms=4, **look)
    ax.plot(x, ratios, ".", color=look["color"], ms=3, alpha=0.6)
    return x[-1], float(ratios[-1].mean())


def _damage_figure(records: Records) -> Any:
    """Damage and lost log-likelihood against the norm of the perturbation."""
    figure, axes = panels(1, 2, 4.3, sharex=True)
    headline(figure, "A large beta protects against large perturbations, not against small ones")
    kinds: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
        "plain: beta = 1": (PLAIN, {"color": drawing.PLAIN, "lw": 2.0}),
        **{f"beta = {beta:g}": (PLAIN | {"beta": beta}, {"color": OURS, "lw": 0.3 * beta}) for beta in BETAS[1:]},
        "BetaTCVAE, beta = 8": (PLAIN | {"class": "BetaTCVAE", "beta": 8.0}, {"color": OURS, "ls": "--"}),
        "tau = 0.6": (PLAIN | {"tau": 0.6}, {"color": OTHERS, "ls": ":"}),
    }
    shown = {"damage": "Damage: distance between reconstructions", "lost nats": "Lost log-likelihood (nats)"}
    for ax, (what, title) in zip(axes[0], shown.items(), strict=True):
        ends = []
        for kind, look in kinds.values():
            values = _by_norm(of_kind(records, kind), what)
            ax.plot(NORMS, values.mean(0), marker="o", ms=3.5, **look)
            ax.plot(NORMS, values.T, ".", ms=3, color=look["color"], alpha=0.5)
            ends.append((NORMS[-1], float(values[:, -1].mean())))
        entitle(ax, f"{title}   better ↓")
        ax.set(xlabel="size of the change", xscale="log", ylim=(0, None))
        ax.set_xticks(NORMS, [f"{norm:g}" for norm in NORMS])
        ax.minorticks_off()
        name_lines(ax, list(kinds), ends, [look["color"] for _, look in kinds.values()])
    return figure
