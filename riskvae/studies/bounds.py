"""Bounds of margins against the attack: three sets of images, two kinds of network, with nothing tuned.

Camuto et al. (2021) publish the correlation of theorem 1's bound with the margin that an attack finds, for the same
sets. Their r, networks and numbers of draws are not known: r is 1.5 times each model's own noise here, and what can be
compared is how closely bound and attack go together. Beside theorem 1 stand the largest bounds of first order, what is
certified without an assumption on the encoder, and the linearized estimate.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import pearsonr, spearmanr

from riskvae import BetaVAE, robustness_margin
from riskvae.nets import conv_decoder, conv_encoder
from riskvae.studies._drawing import OURS, PLAIN, entitle, headline, name_lines, panels, shade
from riskvae.studies._frame import Config, StudyResult, column, markdown, measure_all, plus_minus
from riskvae.studies._published import TITLES, images_of

Records = list[dict[str, Any]]

IMAGES = TITLES | {"cifar10": "CIFAR-10"}
PUBLISHED = {"mnist": 0.840, "fashion_mnist": 0.831, "cifar10": 0.879}
NETWORKS = ("perceptrons", "convolutions")
METHODS = ("theorem1", "whitened", "second_order", "third_order", "lipschitz", "proven", "linearized", "attack")
BOUNDS = {"theorem1": "theorem 1", "third_order": "third order", "certified": "certified", "lower": "largest"}


def measure(task: Mapping[str, Any], data: Path | None) -> dict[str, Any]:
    """Train one model; margins of some test images by all methods."""
    train = images_of(task["images"], "train", data)[0][: task["n_train"]]
    vae = BetaVAE(
        10,
        beta=1.0,
        likelihood="bernoulli",
        max_epochs=task["epochs"],
        random_state=task["seed"],
        device=task["device"],
        **networks(task["images"], task["network"]),
    ).fit(train)
    rows = images_of(task["images"], "test", data)[0][: task["n_rows"]]
    work = {name: task[name] for name in ("n_draws", "n_restarts")}
    batch_size = min(32, len(rows))
    margin = robustness_margin(
        vae, rows, r="auto", methods=METHODS, batch_size=batch_size, random_state=task["seed"], **work
    )
    return {
        "n_train": len(train),
        "radius": float(np.median(margin.r)),
        "abstained": int(margin.abstained.sum()),
        "censored": int(margin.censored.sum()),
        **{name: _rounded(getattr(margin, name)) for name in (*BOUNDS, "whitened", "proven", "linearized", "upper")},
    }


def networks(images: str, kind: str) -> dict[str, Any]:
    """Hidden layers of 512 and 256, as by default, or two convolutions."""
    if kind == "perceptrons":
        return {}
    shape: dict[str, Any] = {"image_shape": (3, 32, 32) if images == "cifar10" else (28, 28), "channels": (16, 32)}
    return {"encoder": partial(conv_encoder, **shape), "decoder": partial(conv_decoder, **shape)}


def _rounded(values: NDArray[np.floating]) -> list[float | None]:
    """Five digits for the file; None where there is no value, which JSON can tell."""
    return [float(f"{value:.5g}") if np.isfinite(value) else None for value in values]


def sizes(config: Config, network: str) -> dict[str, Any]:
    """Rows, epochs and work of the attack: less where it must be quick, and for convolutions, which take longer."""
    n_train, n_rows, epochs = (3000, 8, 3) if config.quick else (30_000, 64, 10)
    work = (
        {"n_rows": n_rows // 2, "n_restarts": 2} if network == "convolutions" else {"n_rows": n_rows, "n_restarts": 4}
    )
    return {"n_train": n_train, "epochs": config.epochs or epochs, "device": config.device, "n_draws": 2000, **work}


def run(config: Config) -> StudyResult:
    """Train all models, and measure their margins."""
    tasks = [
        {"images": images, "network": network, "seed": seed, **sizes(config, network)}
        for seed in range(config.n_seeds)
        for images in IMAGES
        for network in NETWORKS
    ]
    records = measure_all(config, "bounds", tasks, partial(measure, data=config.data))
    result = StudyResult("bounds", {"likelihood": "bernoulli", "r": "1.5 times the noise of each model"}, records)
    result.tables = {"Bound against attack, r = 1.5 times the noise of each model": _table(records)}
    result.figures = {"bounds": _figure(records)}
    return result


def of_kind(records: Records, images: str, network: str) -> Records:
    """Records of one model: one per seed."""
    return [record for record in records if (record["images"], record["network"]) == (images, network)]


def array(record: Mapping[str, Any], name: str) -> NDArray[np.float64]:
    """Values of rows, NaN where there is none."""
    return np.array([np.nan if value is None else value for value in record[name]], dtype=np.float64)


def agreement(record: Mapping[str, Any]) -> dict[str, float]:
    """How bounds and estimate compare with the attack, where all are known."""
    values = {name: array(record, name) for name in (*BOUNDS, "linearized", "upper")}
    good = np.isfinite([values[name] for name in values]).all(0)
    if good.sum() < 3:
        return dict.fromkeys(("Pearson", "rank", *BOUNDS, "holds", "off"), float("nan"))
    values = {name: found[good] for name, found in values.items()}
    upper, linearized = values["upper"], values["linearized"]
    return {
        "Pearson": float(pearsonr(values["theorem1"], upper).statistic),
        "rank": float(spearmanr(linearized, upper).statistic),
        **{name: float(np.median(upper / values[name])) for name in BOUNDS},
        "holds": float(np.mean([values[name] <= upper for name in BOUNDS])),
        "off": float(np.median(np.abs(linearized / upper - 1))),
    }


def _table(records: Records) -> str:
    rows = []
    for images, title in IMAGES.items():
        for network in NETWORKS:
            found = of_kind(records, images, network)
            told = {name: [agreement(record)[name] for record in found] for name in agreement(found[0])}
            radius = plus_minus(column(found, "radius"), 2)
            ratios = [plus_minus(told[name], 1) for name in BOUNDS]
            holds = f"{100 * np.mean(told['holds']):.1f} %"
            compared = (f"{PUBLISHED[images]:.3f}", plus_minus(told["Pearson"], 2))
            rows.append((title, network, radius, *compared, *ratios, holds, *_estimate(told)))
    header = ("images", "network", "r", "published correlation", "measured: theorem 1 with attack")
    ratio = [f"attack / {name}" for name in BOUNDS.values()]
    return markdown((*header, *ratio, "bounds <= attack", "estimate off by", "its rank correlation"), rows)


def _estimate(told: Mapping[str, Sequence[float]]) -> tuple[str, str]:
    return plus_minus(told["off"], 2), plus_minus(told["rank"], 2)


def _figure(records: Records) -> Any:
    """Each bound and the estimate against the attack, row by row: sets of images side by side, networks below."""
    from matplotlib.ticker import NullLocator

    figure, axes = panels(len(NETWORKS), len(IMAGES), 6.2, sharey=True)
    shown: dict[str, tuple[str, Any]] = {
        "linearized": ("estimate", shade(OURS, 0.5)),
        "third_order": ("third order", shade(OURS, 0.2)),
        "certified": ("certified", shade(OURS, 0.05)),
        "theorem1": ("theorem 1", PLAIN),
    }
    names: list[list[tuple[float, float]]] = []
    for line, network in zip(axes, NETWORKS, strict=True):
        for ax, (images, title) in zip(line, IMAGES.items(), strict=True):
            found = of_kind(records, images, network)
            upper = np.concatenate([array(record, "upper") for record in found])
            ends = np.array([np.nanmin(upper), np.nanmax(upper)]) * (0.9, 1.1)
            heights = []
            for name, (_, color) in shown.items():
                values = np.concatenate([array(record, name) for record in found])
                ax.plot(upper, values, ".", color=color, ms=2.5, alpha=0.7)
                heights.append((ends[1], float(np.nanmedian(values))))
            ax.plot(ends, ends, color="0.35", lw=1, ls=":")
            pearson = np.mean([agreement(record)["Pearson"] for record in found])
            entitle(ax, f"{title}, {network}\nr = {pearson:.2f}, published {PUBLISHED[images]:.2f}")
            ax.set(xscale="log", yscale="log")
            for axis, ticks in ((ax.xaxis, (0.1, 0.2, 0.3, 0.5, 1.0)), (ax.yaxis, (0.003, 0.01, 0.03, 0.1, 0.3, 1.0))):
                axis.set_ticks(ticks, [f"{tick:g}" for tick in ticks])
                axis.set_minor_locator(NullLocator())
            ax.set_xlim(*ends)
        names.append(heights)
    figure.supylabel("bound or estimate of the margin (dotted: equal)", fontsize=10)
    figure.supxlabel("size of the smallest change that breaks a row (attack)", fontsize=10)
    headline(
        figure,
        "No bound lies above what the attack needs, and the estimate lies on it;\n"
        "r, the correlation of theorem 1 with the attack, depends on the network",
    )
    for line, heights in zip(axes, names, strict=True):
        labels, colors = zip(*shown.values(), strict=True)
        name_lines(line[-1], labels, heights, colors)
    return figure
