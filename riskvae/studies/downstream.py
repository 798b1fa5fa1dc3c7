"""What embeddings are good for after averse and seeking training: Table 1 of the risk-aware VAE, and further.

Logistic regression on posterior means of MNIST, k-means on them, and generated digits against held-out ones. The
paper's table has risks over B = 10 latent draws of each row ("subsamples"); risks over the batch are measured beside
them. A tenth of ten draws is one, and so is any smaller share: eps = 0.05 and eps = 0.1 are the same model. The
regression, with scikit-learn's default penalty, takes the means as they are and standardized, which blows up what has
collapsed. The kernel of the maximum mean discrepancy is that of the real digits, the same for all models.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial.distance import pdist
from sklearn.cluster import KMeans
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import adjusted_rand_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from riskvae.metrics import kernel_mmd, mixture_log_likelihood, nearest_neighbor_two_sample, row_losses
from riskvae.studies._drawing import OTHERS, OURS, PLAIN, SEEKING, SMALL, entitle, headline, name_rows, panels
from riskvae.studies._frame import Config, StudyResult, column, markdown, measure_all, plus_minus
from riskvae.studies._published import EPS, SETTING, fit, load, rate_and_active, sizes

Records = list[dict[str, Any]]

PUBLISHED: dict[str, tuple[float, ...]] = {
    "plain": (0.146,),
    "averse, draws, eps = 0.1": (0.515, 0.494),  # at 0.05 and at 0.1
    "averse, draws, eps = 0.2": (0.451,),
    "seeking, draws, eps = 0.1": (0.149, 0.146),
    "seeking, draws, eps = 0.2": (0.148,),
}
RISKS = ("averse", "seeking")
MODELS: dict[str, dict[str, Any]] = {
    "plain": {"beta": 1.0},
    **{f"plain, beta = {beta}": {"beta": beta} for beta in (0.5, 2.0)},
    **{f"{risk}, batch, eps = {eps}": {"risk": risk, "eps": eps, "beta": 1.0} for risk in RISKS for eps in EPS},
    **{
        f"{risk}, draws, eps = {eps}": {
            "risk": risk,
            "eps": eps,
            "beta": 1.0,
            "risk_over": "subsamples",
            "n_subsamples": 10,
        }
        for risk in RISKS
        for eps in EPS[1:3]
    },
}
N_GENERATED = 2000
REGRESSION: Any = LogisticRegression(max_iter=1000)
CLASSIFIERS: dict[str, Any] = {"error": REGRESSION, "error, standardized": make_pipeline(StandardScaler(), REGRESSION)}
COLUMNS = {
    "error": ("error of logistic regression", 3),
    "error, standardized": ("of standardized embeddings", 3),
    "active": ("active coordinates of 20", 1),
    "rate": ("rate (nats)", 1),
    "squared error": ("squared error per pixel", 4),
    "rand": ("adjusted Rand index of 10-means", 3),
    "neighbor": ("1-NN two-sample accuracy", 3),
    "mmd": ("squared MMD, x 1000", 2),
    "mixture": ("mixture log-likelihood of generated digits", 1),
}


def measure(task: Mapping[str, Any], data: Path | None) -> dict[str, Any]:
    """Train one model; classes, clusters and generated rows."""
    images, seed = load(task, data), task["seed"]
    vae = fit(task, images.train)
    train, held_out = vae.transform(images.train), vae.transform(images.held_out)
    clusters = KMeans(10, n_init=5, random_state=seed).fit_predict(held_out)
    n = min(task["n_generated"], len(images.held_out))
    real, generated = images.held_out[:n], vae.sample(n, random_state=seed)
    likely = mixture_log_likelihood(images.train[:5000], np.concatenate((generated, real)), random_state=seed)
    return {
        **{
            name: 1.0 - classifier.fit(train, images.train_classes).score(held_out, images.held_out_classes)
            for name, classifier in CLASSIFIERS.items()
        },
        "rand": float(adjusted_rand_score(images.held_out_classes, clusters)),
        "neighbor": nearest_neighbor_two_sample(real, generated, n_permutations=0, random_state=seed).statistic,
        "mmd": 1000 * kernel_mmd(real, generated, gamma=0.5 / np.median(pdist(real)) ** 2).statistic,
        "mixture": float(likely[:n].mean()),
        "mixture, real": float(likely[n:].mean()),
        "squared error": float(row_losses(vae, images.held_out).mean()),
        **rate_and_active(vae, images.held_out),
    }


def run(config: Config) -> StudyResult:
    """Train all models on MNIST."""
    tasks = [
        {"images": "mnist", "name": name, "model": model, "seed": seed, "n_generated": N_GENERATED, **sizes(config)}
        for seed in range(config.n_seeds)
        for name, model in MODELS.items()
    ]
    records = measure_all(config, "downstream", tasks, partial(measure, data=config.data))
    result = StudyResult("downstream", SETTING, records)
    real = plus_minus(column([record for record in records if record["name"] == "plain"], "mixture, real"), 1)
    result.tables = {
        "Table 1: error of logistic regression on embeddings of MNIST": _published_table(records),
        f"All models and tasks (mixture log-likelihood of held-out digits: {real})": _table(records),
    }
    result.figures = {"tasks": _figure(records)}
    return result


def _of(records: Records, name: str) -> Records:
    return [record for record in records if record["name"] == name]


def _published_table(records: Records) -> str:
    rows = []
    for name, published in PUBLISHED.items():
        found = _of(records, name)
        told = ", ".join(f"{value:.3f}" for value in published)
        active = plus_minus(column(found, "active"), 1)
        measured = (plus_minus(column(found, what)) for what in CLASSIFIERS)
        rows.append((name.replace("0.1", "0.05 and 0.1"), told, *measured, active))
    return markdown(("model", "published", "measured", "standardized first", "active coordinates of 20"), rows)


def _table(records: Records) -> str:
    rows = [
        (name, *(plus_minus(column(_of(records, name), what), digits) for what, (_, digits) in COLUMNS.items()))
        for name in MODELS
    ]
    return markdown(("model", *(title for title, _ in COLUMNS.values())), rows)


# Groups of rows of the figure, and the color of each.
GROUPS = {
    ("averse", "batch"): ("averse over the batch", OURS),
    ("averse", "draws"): ("averse over draws", OURS),
    ("seeking", "batch"): ("seeking over the batch", SEEKING),
    ("seeking", "draws"): ("seeking over draws", SEEKING),
}


def _figure(records: Records) -> Any:
    """Each task's measure of each model as a dot, models as rows; the plain model as a line down."""
    shown = {
        "error": ("Classifying   ← better", "error of logistic regression"),
        "rand": ("Clustering   better →", "adjusted Rand index"),
        "mmd": ("Generating   ← better", "squared MMD x 1000"),
    }
    figure, axes = panels(1, len(shown), 5.4, sharey=True)
    told = "Averse training over the batch keeps codes useful, over latent draws it\nruins them; "
    headline(figure, f"{told}with seeking training it is the other way round")
    rows = _rows()
    for ax, (what, (title, measured)) in zip(axes[0], shown.items(), strict=True):
        for name, (place, _, color) in rows.items():
            found = column(_of(records, name), what)
            ax.plot(found, [place] * len(found), ".", color=color, ms=3, alpha=0.6)
            ax.plot(np.mean(found), place, "o", color=color, ms=6, mfc="white" if "draws" in name else color)
        ax.axvline(np.mean(column(_of(records, "plain"), what)), color=PLAIN, lw=1, zorder=0)
        ax.set(xlim=(0, 1.05 * ax.get_xlim()[1]), xlabel=measured)
        ax.tick_params(axis="y", length=0)
        entitle(ax, title)
    _published_dots(axes[0, 0], rows)
    places, names, colors = zip(*rows.values(), strict=True)
    name_rows(axes[0, 0], names, colors, places)
    return figure


def _rows() -> dict[str, tuple[float, str, str]]:
    """Height, name and color of each model's row; a gap between groups."""
    rows = {"plain": (0.0, "plain", PLAIN)}
    place = 0.6
    for (risk, over), (title, color) in GROUPS.items():
        for i, eps in enumerate(sorted((eps for eps in EPS if f"{risk}, {over}, eps = {eps}" in MODELS), reverse=True)):
            place += 1.0
            rows[f"{risk}, {over}, eps = {eps}"] = (place, f"{title}, eps = {eps:g}" if i == 0 else f"{eps:g}", color)
        place += 0.6
    return rows


def _published_dots(ax: Any, rows: Mapping[str, tuple[float, str, str]]) -> None:
    """Diamonds where the paper's table has values."""
    for name, values in PUBLISHED.items():
        ax.plot(values, [rows[name][0]] * len(values), "D", color=OTHERS, ms=4.5, mfc="none", mew=1)
    value, place = PUBLISHED["averse, draws, eps = 0.2"][0], rows["averse, draws, eps = 0.2"][0]
    ax.annotate("◇ published", (value, place), (0, 9), textcoords="offset points", color=OTHERS, fontsize=SMALL)
