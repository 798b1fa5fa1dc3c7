"""Margins of robustness: bound against attack, and what beta and tau do (Camuto et al. 2021).

The published correlations of theorem 1 with the attack, on two sets of images and with two kinds of network; the four
panels against beta, for a weighted KL term and for a weighted total correlation; damage and degradation against the
norm of the perturbation; a constant tau added to the encoder's scale in training. The paper's r, beta, tau and numbers
of draws are not known: what can be compared is the direction of each effect.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import pearsonr, spearmanr

from riskvae import BetaTCVAE, BetaVAE, robustness_margin
from riskvae.nets import conv_decoder, conv_encoder
from riskvae.robustness import encoder_sensitivity, max_damage_attack
from riskvae.studies._frame import Config, StudyResult, column, markdown, measure_all, plus_minus
from riskvae.studies._published import TITLES, images_of

Records = list[dict[str, Any]]

PUBLISHED = {"mnist": 0.840, "fashion_mnist": 0.831}
NETWORKS: dict[str, dict[str, Any]] = {
    "784-512-256-10": {},
    "convolutional": {
        "encoder": partial(conv_encoder, channels=(16, 32)),
        "decoder": partial(conv_decoder, channels=(16, 32)),
    },
}
CLASSES: dict[str, type[BetaVAE]] = {"BetaVAE": BetaVAE, "BetaTCVAE": BetaTCVAE}
BETAS, TAUS, NORMS = (1.0, 2.0, 4.0, 8.0), (0.0, 0.1, 0.3, 0.6), (0.25, 0.5, 1.0, 2.0, 4.0)
R = 3.0  # of all models that are compared: above what the noise of any of them does to most digits
METHODS = ("theorem1", "whitened", "second_order", "linearized", "attack")
PLAIN: dict[str, Any] = {"images": "mnist", "network": "784-512-256-10", "class": "BetaVAE", "beta": 1.0, "tau": 0.0}


def measure(task: Mapping[str, Any], data: Path | None) -> dict[str, Any]:
    """Train one model; margins of some test images and, where radii are the same for all models, damage by norm."""
    vae = CLASSES[task["class"]](
        10,
        beta=task["beta"],
        scale_offset=task["tau"],
        likelihood="bernoulli",
        max_epochs=task["epochs"],
        random_state=task["seed"],
        device=task["device"],
        **NETWORKS[task["network"]],
    ).fit(images_of(task["images"], "train", data)[0][: task["n_train"]])
    rows = images_of(task["images"], "test", data)[0][: task["n_rows"]]
    options = {"batch_size": min(32, len(rows)), "random_state": task["seed"]}
    work = {name: task[name] for name in ("n_draws", "n_restarts")}
    margin = robustness_margin(vae, rows, r=task["r"], methods=METHODS, **work, **options)
    local = encoder_sensitivity(vae, rows)
    found: dict[str, Any] = {
        "radius": float(np.median(margin.r)),
        "abstained": int(margin.abstained.sum()),
        "censored": int(margin.censored.sum()),
        "scale": float(np.median(local.scale_mean)),
        "Jacobian": float(np.median(local.jacobian_frobenius)),
        **{name: _rounded(getattr(margin, name)) for name in ("theorem1", "whitened", "lower", "linearized", "upper")},
    }
    if task["r"] != "auto":
        found["by norm"] = {f"{norm:g}": damage(vae, rows, norm, options) for norm in NORMS}
    return found


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


def sizes(config: Config, network: str) -> dict[str, Any]:
    """Rows, epochs and work of the attack: less where it must be quick, and for convolutions, which take longer."""
    n_train, n_rows, epochs = (3000, 8, 3) if config.quick else (30_000, 64, 10)
    work = (
        {"n_rows": n_rows // 2, "n_restarts": 2} if network == "convolutional" else {"n_rows": n_rows, "n_restarts": 4}
    )
    return {"n_train": n_train, "epochs": config.epochs or epochs, "device": config.device, "n_draws": 2000, **work}


def run(config: Config) -> StudyResult:
    """Train all models, and measure their margins."""
    kinds = [PLAIN | {"images": images, "network": network, "r": "auto"} for images in TITLES for network in NETWORKS]
    kinds += [*beta_sweep().values(), *list(tau_sweep().values())[1:]]
    kinds = [kind for i, kind in enumerate(kinds) if kind not in kinds[:i]]  # with beta = 1 both classes are one model
    tasks = [
        {**kind, "seed": seed, **sizes(config, str(kind["network"]))}
        for seed in range(config.n_seeds)
        for kind in kinds
    ]
    records = measure_all(config, "margins", tasks, partial(measure, data=config.data))
    result = StudyResult("margins", {"likelihood": "bernoulli", "r of the sweeps": R}, records)
    result.tables = {
        "Bound against attack, r = 1.5 times the noise of each model": _bound_table(records),
        f"Against beta on MNIST, r = {R:g} for all": _sweep_table(records, beta_sweep(), "beta"),
        f"Against tau on MNIST, r = {R:g} for all, beta = 1": _sweep_table(records, tau_sweep(), "tau"),
        "Attack by norm: median damage, by noise alone, and median loss of log-likelihood": _damage_table(records),
    }
    result.figures = {
        "bounds": _bounds_figure(records),
        "beta": _sweep_figure(records),
        "damage": _damage_figure(records),
    }
    return result


# ------------------------------------------------------------------------------------------ selection


def beta_sweep() -> dict[str, dict[str, Any]]:
    """Models by name; the one with beta = 1 belongs to both classes."""
    return {
        f"{name}, {beta:g}": PLAIN | {"beta": beta, "class": "BetaVAE" if beta == 1.0 else name, "r": R}
        for name in CLASSES
        for beta in BETAS
    }


def tau_sweep() -> dict[str, dict[str, Any]]:
    """Models by their tau."""
    return {f"{tau:g}": PLAIN | {"tau": tau, "r": R} for tau in TAUS}


def of_kind(records: Records, kind: Mapping[str, Any]) -> Records:
    """Records of one model: one per seed."""
    return [record for record in records if all(record[key] == value for key, value in kind.items())]


def array(record: Mapping[str, Any], name: str) -> NDArray[np.float64]:
    """Values of rows, NaN where there is none."""
    return np.array([np.nan if value is None else value for value in record[name]], dtype=np.float64)


def agreement(record: Mapping[str, Any]) -> dict[str, float]:
    """How bounds and estimate compare with the attack, where both are known."""
    upper, lower, theorem1, linearized = (array(record, name) for name in ("upper", "lower", "theorem1", "linearized"))
    good = np.isfinite(upper) & np.isfinite(lower) & np.isfinite(linearized)
    if good.sum() < 3:
        return dict.fromkeys(("Pearson", "rank", "ratio 1", "ratio", "holds", "off"), float("nan"))
    upper, lower, theorem1, linearized = (values[good] for values in (upper, lower, theorem1, linearized))
    return {
        "Pearson": float(pearsonr(theorem1, upper).statistic),
        "rank": float(spearmanr(linearized, upper).statistic),
        "ratio 1": float(np.median(upper / theorem1)),
        "ratio": float(np.median(upper / lower)),
        "holds": float(np.mean(lower <= upper)),
        "off": float(np.median(np.abs(linearized / upper - 1))),
    }


# -------------------------------------------------------------------------------------------- tables


def _bound_table(records: Records) -> str:
    rows = []
    for images, title in TITLES.items():
        for network in NETWORKS:
            found = of_kind(records, PLAIN | {"images": images, "network": network, "r": "auto"})
            told = [agreement(record) for record in found]

            def cell(name: str, digits: int = 2, told: Sequence[Mapping[str, float]] = told) -> str:
                return plus_minus([values[name] for values in told], digits)

            published = f"{PUBLISHED[images]:.3f}"
            radius = plus_minus(column(found, "radius"), 2)
            holds = f"{100 * np.mean([values['holds'] for values in told]):.1f} %"
            cells = (cell("Pearson"), cell("ratio 1", 1), cell("ratio", 1), holds, cell("off"), cell("rank"))
            rows.append((title, network, radius, published, *cells))
    header = (
        "images",
        "network",
        "r",
        "published correlation",
        "measured: theorem 1 with attack",
        "attack / theorem 1",
    )
    return markdown((*header, "attack / lower", "lower <= attack", "estimate off by", "its rank correlation"), rows)


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
    kinds = {f"BetaVAE, beta = {beta:g}": PLAIN | {"beta": beta, "r": R} for beta in BETAS}
    kinds |= {f"BetaTCVAE, beta = {beta:g}": PLAIN | {"class": "BetaTCVAE", "beta": beta, "r": R} for beta in BETAS[1:]}
    kinds |= {f"tau = {tau:g}": PLAIN | {"tau": tau, "r": R} for tau in TAUS[1:]}
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


def _bounds_figure(records: Records) -> Any:
    """Theorem 1, the largest bound and the estimate against the attack, row by row."""
    import matplotlib.pyplot as plt
    from matplotlib.ticker import NullLocator

    figure, axes = plt.subplots(
        2, len(NETWORKS), figsize=(4.2 * len(NETWORKS), 7.6), squeeze=False, layout="constrained"
    )
    shown = {"theorem1": ("theorem 1", "0.5"), "lower": ("largest bound", "C0"), "linearized": ("estimate", "C3")}
    for line, (images, title) in zip(axes, TITLES.items(), strict=True):
        for ax, network in zip(line, NETWORKS, strict=True):
            found = of_kind(records, PLAIN | {"images": images, "network": network, "r": "auto"})
            upper = np.concatenate([array(record, "upper") for record in found])
            for name, (label, color) in shown.items():
                values = np.concatenate([array(record, name) for record in found])
                ax.plot(upper, values, ".", color=color, ms=4, alpha=0.7, label=label)
            ends = np.array([np.nanmin(upper), np.nanmax(upper)])
            ax.plot(ends, ends, color="0.35", lw=1, ls=":")
            ax.set(title=f"{title}, {network}", xscale="log", yscale="log")
            for axis, ticks in ((ax.xaxis, (0.1, 0.2, 0.3, 0.5, 1.0)), (ax.yaxis, (0.003, 0.01, 0.03, 0.1, 0.3, 1.0))):
                axis.set_ticks(ticks, [f"{tick:g}" for tick in ticks])
                axis.set_minor_locator(NullLocator())
            ax.set_xlim(*(ends * (0.9, 1.1)))
            ax.spines[["top", "right"]].set_visible(False)
        line[0].set_ylabel("bound or estimate of the margin")
    for ax in axes[1]:
        ax.set_xlabel("smallest norm that breaks the row (attack)")
    axes[0, 0].legend(frameon=False, title="dotted: equal")
    return figure


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
        found = of_kind(records, kind | {"r": R})
        values.append(column(found, what) if what in ("scale", "Jacobian") else _median(found, what))
    ax.plot(x, np.mean(values, axis=1), "o-", color=color, label=label)
    for position, points in zip(x, values, strict=True):
        ax.plot([position] * len(points), points, ".", color=color, ms=4, alpha=0.5)


def _damage_figure(records: Records) -> Any:
    """Damage and degradation against the norm of the perturbation."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(12, 4), layout="constrained", sharex=True)
    kinds = {f"beta = {beta:g}": PLAIN | {"beta": beta, "r": R} for beta in BETAS}
    kinds |= {f"tau = {tau}": PLAIN | {"tau": tau, "r": R} for tau in (0.3, 0.6)}
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
