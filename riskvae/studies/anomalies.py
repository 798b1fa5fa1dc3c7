"""Finding anomalies in tables: QuantileVAE, its candidate scores, and other detectors.

Half of the normal rows train (at most 10,000), the others and all anomalies test (at most 10,000 of each);
features are standardized on the training rows. No label is used in training, every detector has one setting for
all sets. A file of the folder "adbench" is an npz with X and y (1: anomaly), as ADBench gives them.
"""

import importlib.util
import time
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.covariance import EmpiricalCovariance
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.neighbors import LocalOutlierFactor, NearestNeighbors
from sklearn.preprocessing import StandardScaler
from sklearn.svm import OneClassSVM

from riskvae import BetaVAE, QuantileVAE
from riskvae.metrics import coverage
from riskvae.studies._frame import Config, StudyResult, markdown, measure_all, spread
from riskvae.training import Batch

Array = NDArray[np.float64]
Scores = Mapping[str, Array]

MOST = 10_000
DEFAULT = "QuantileVAE"
WHAT = {
    "QuantileVAE": "the default: `score_samples`",
    "QuantileVAE, evidence bound": "of the networks: pinball noise, standard normal prior",
    "QuantileVAE, importance-weighted bound": "the same, 16 draws inside the logarithm",
    "QuantileVAE, reconstruction": "pinball loss at the posterior mean",
    "QuantileVAE, squared error": "of the median",
    "QuantileVAE, squared z": "summed over features, each row's own scales",
    "QuantileVAE, scaled error": "squared, in units of each feature's error in training",
    "QuantileVAE, scaled error + KL": "the default with a standard normal prior",
    "QuantileVAE, latent KL": "of the posterior from the prior",
    "QuantileVAE, latent distance": "squared, of the posterior mean from those of training rows (Mahalanobis)",
    "BetaVAE": "beta = 1, learned noise, the same sizes and steps: evidence bound",
    "BetaVAE, squared error": "",
    "5-NN": "distance to the fifth neighbor",
    "1-NN": "distance to the nearest neighbor",
    "LOF": "scikit-learn's default",
    "OCSVM": "scikit-learn's default, at most 3,000 rows",
    "PCA": "squared coordinates over their variances, all components",
    "isolation forest": "scikit-learn's default",
    "PyOD VAE": "as it comes: its own scaling, layers, 30 epochs of batches of 32",
}


def split(file: Path, seed: int) -> tuple[Array, Array, NDArray[np.int_]]:
    """Training rows, test rows, and which of those are anomalies."""
    with np.load(file) as data:
        X, y = data["X"].astype(np.float64), data["y"].astype(int)
    rng = np.random.default_rng(seed)
    normal, anomalies = (rng.permutation(np.flatnonzero(y == label)) for label in (0, 1))
    half = len(normal) // 2
    test = np.concatenate((normal[half:][:MOST], anomalies[:MOST]))
    scaler = StandardScaler().fit(X[normal[:half][:MOST]])
    return scaler.transform(X[normal[:half][:MOST]]), scaler.transform(X[test]), y[test]


# ------------------------------------------------------------------------------------------ detectors


def quantile_scores(vae: QuantileVAE, train: Array, test: Array, seed: int) -> Scores:
    """Scores of one QuantileVAE; larger is more unusual."""
    bound, weighted, kl = _bounds(vae, test, seed)
    mean, new = vae.transform(train), vae.transform(test)
    scale = np.sqrt(np.square(train - vae.reconstruct(train)).mean(0)).clip(1e-3)
    error = test - vae.reconstruct(test)
    scaled = 0.5 * np.square(error / scale).sum(1)
    scores = {
        "": -vae.score_samples(test),
        "evidence bound": bound,
        "importance-weighted bound": weighted,
        "reconstruction": vae.reconstruction_loss(test),
        "squared error": np.square(error).sum(1),
        "squared z": np.square(vae.z_scores(test)).sum(1),
        "scaled error": scaled,
        "scaled error + KL": scaled + kl,
        "latent KL": kl,
        "latent distance": EmpiricalCovariance().fit(mean).mahalanobis(new),
    }
    return {f"{DEFAULT}, {name}" if name else DEFAULT: values for name, values in scores.items()}


def conformal_coverage(vae: QuantileVAE, normal: Array) -> dict[str, float]:
    """What conformal intervals hold of half of some normal rows, calibrated with the other half; mean of features."""
    half = min(len(normal) // 2, 1000)
    vae.conformalize(normal[:half])
    found = {}
    for name, alpha in (("70", 0.3), ("95", 0.05)):
        if half + 1 >= 1 / alpha:
            found[name] = float(coverage(normal[half:], vae.predict_interval(normal[half:], alpha)).mean())
    return found


def beta_vae(train: Array, test: Array, seed: int, epochs: int | Literal["auto"], device: str) -> Scores:
    """Scores of a BetaVAE that is as large, and as long trained, as the default QuantileVAE."""
    d = train.shape[1]
    vae = BetaVAE(
        min(d, 64), beta=1.0, hidden_layer_sizes=(256, 128), max_epochs=epochs, random_state=seed, device=device
    ).fit(train)
    error = np.square(test - vae.reconstruct(test)).sum(1)
    return {"BetaVAE": -vae.score_samples(test), "BetaVAE, squared error": error}


def _bounds(vae: Any, rows: Array, seed: int, n_draws: int = 16) -> tuple[Array, Array, Array]:
    """Negative evidence bound of the networks, its importance-weighted form, and the KL term."""
    module = vae.module_
    half = torch.randn(n_draws // 2, 1, module.n_components, generator=torch.Generator().manual_seed(seed))
    noise = torch.cat((half, -half)).to(vae.device_)
    parts: list[tuple[torch.Tensor, ...]] = []
    with torch.inference_mode():
        for x in torch.from_numpy(rows).float().to(vae.device_).split(512):
            terms = module(Batch(x), noise)
            # log q(z|x) - log p(z): their constants cancel.
            log_ratio = 0.5 * (terms.z.square() - noise.square()).sum(-1) - terms.posterior.scale.log().sum(-1)
            weighted = np.log(n_draws) - (-terms.nll - log_ratio).logsumexp(0)
            parts.append((terms.nll.mean(0) + terms.kl, weighted, terms.kl))
    bound, weighted, kl = (torch.cat(part).double().cpu().numpy() for part in zip(*parts, strict=True))
    return bound, weighted, kl


def neighbors(train: Array, test: Array, seed: int) -> Scores:
    """Distances to neighbors among the training rows."""
    distance = NearestNeighbors(n_neighbors=5).fit(train).kneighbors(test)[0]
    return {"5-NN": distance[:, 4], "1-NN": distance[:, 0]}


def components(train: Array, test: Array, seed: int) -> Scores:
    """Principal components, those of hardly any variance left out."""
    pca = PCA().fit(train)
    kept = pca.explained_variance_ratio_ > 1e-9
    return {"PCA": (np.square(pca.transform(test))[:, kept] / pca.explained_variance_[kept]).sum(1)}


def others(name: str, train: Array, test: Array, seed: int) -> Scores:
    """Detectors of scikit-learn."""
    detector = {
        "LOF": LocalOutlierFactor(novelty=True),
        "OCSVM": OneClassSVM(),
        "isolation forest": IsolationForest(random_state=seed),
    }[name]
    some = np.random.default_rng(seed).permutation(len(train))[: 3000 if name == "OCSVM" else None]
    return {name: -detector.fit(train[some]).score_samples(test)}


def pyod_vae(train: Array, test: Array, seed: int) -> Scores:
    """PyOD's VAE with its defaults, and as many latent coordinates as a few features allow."""
    from pyod.models.vae import VAE

    detector = VAE(random_state=seed, verbose=0, device="cpu")
    return {"PyOD VAE": detector.fit(train).decision_function(test)}


DETECTORS: dict[str, Callable[..., Scores]] = {
    "BetaVAE": beta_vae,
    "neighbors": neighbors,
    "PCA": components,
    **{name: partial(others, name) for name in ("LOF", "OCSVM", "isolation forest")},
    "PyOD VAE": pyod_vae,
}
TRAINED = (DEFAULT, "BetaVAE")


# ---------------------------------------------------------------------------------------------- study


def measure(task: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Area under the curve and average precision of one detector on one set."""
    train, test, truth = split(folder / f"{task['set']}.npz", task["seed"])
    options = {name: task[name] for name in ("epochs", "device")} if task["detector"] in TRAINED else {}
    start = time.perf_counter()
    held: dict[str, float] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # constant features, scores of duplicates
        if task["detector"] == DEFAULT:
            vae = QuantileVAE(max_epochs=task["epochs"], random_state=task["seed"], device=task["device"]).fit(train)
            scores = quantile_scores(vae, train, test, task["seed"])
            held = conformal_coverage(vae, test[truth == 0])
        else:
            scores = DETECTORS[task["detector"]](train, test, task["seed"], **options)
    seconds = time.perf_counter() - start
    finite = {
        name: np.nan_to_num(values.astype(np.float64), nan=1e300, posinf=1e300) for name, values in scores.items()
    }
    return {
        "n_train": len(train),
        "n_features": train.shape[1],
        "seconds": seconds,
        "conformal": held,
        "auroc": {name: float(roc_auc_score(truth, values)) for name, values in finite.items()},
        "precision": {name: float(average_precision_score(truth, values)) for name, values in finite.items()},
    }


def run(config: Config) -> StudyResult:
    """Measure all detectors on all sets."""
    folder = config.folder("adbench")
    sets = sorted((file.stem for file in folder.glob("*.npz")), key=lambda name: int(name.split("_")[0]))
    if config.quick:
        sets = [name for name in sets if (folder / f"{name}.npz").stat().st_size < 50_000]
    names = [DEFAULT, *DETECTORS] if importlib.util.find_spec("pyod") else [DEFAULT, *DETECTORS][:-1]
    epochs = config.epochs or (5 if config.quick else "auto")
    tasks = [
        {"set": name, "bytes": (folder / f"{name}.npz").stat().st_size, "seed": seed, "detector": detector}
        | ({"epochs": epochs, "device": config.device} if detector in TRAINED else {})
        for detector in names
        for seed in range(config.n_seeds)
        for name in sets
    ]
    records = measure_all(config, "anomalies", tasks, partial(measure, folder=folder))
    result = StudyResult("anomalies", {"sets": sets, "at most": MOST, "detectors": names}, records)
    result.tables = {
        "Means over sets and seeds": _summary(records),
        "AUROC by set": _by_set(records),
        "What conformal intervals hold of normal rows, mean of features, seeds and sets": _coverage(records),
    }
    result.figures = {"auroc": _figure(records)}
    return result


def by_set(records: list[dict[str, Any]], measure: str = "auroc") -> dict[str, dict[str, float]]:
    """Mean over seeds of each score on each set."""
    values: dict[str, dict[str, list[float]]] = {}
    for record in records:
        for name, value in record[measure].items():
            values.setdefault(name, {}).setdefault(record["set"], []).append(value)
    return {name: {key: float(np.mean(group)) for key, group in sets.items()} for name, sets in values.items()}


def _summary(records: list[dict[str, Any]]) -> str:
    auroc, precision = by_set(records), by_set(records, "precision")
    reference = auroc["5-NN"]
    rows = []
    for name in sorted(auroc, key=lambda name: -np.mean(list(auroc[name].values()))):
        values = auroc[name]
        wins = sum(values[key] > reference[key] for key in values)
        width = spread([_mean_of_seed(records, name, seed) for seed in sorted({r["seed"] for r in records})])
        means = (float(np.mean(list(part.values()))) for part in (values, precision[name]))
        rows.append((name, *means, width, "" if name == "5-NN" else f"{wins} of {len(values)}", WHAT[name]))
    return markdown(("score", "AUROC", "average precision", "sd of AUROC over seeds", "above 5-NN on", ""), rows)


def _mean_of_seed(records: list[dict[str, Any]], name: str, seed: int) -> float:
    found = [record["auroc"][name] for record in records if record["seed"] == seed and name in record["auroc"]]
    return float(np.mean(found))


def _by_set(records: list[dict[str, Any]]) -> str:
    auroc = by_set(records)
    shown = [name for name in auroc if "," not in name]
    sizes = {record["set"]: (record["n_train"], record["n_features"]) for record in records}
    rows = [(key, *size, *(auroc[name][key] for name in shown)) for key, size in sizes.items()]
    return markdown(("set", "training rows", "features", *shown), rows)


def _coverage(records: list[dict[str, Any]]) -> str:
    rows = []
    for level in ("70", "95"):
        held = [record["conformal"][level] for record in records if level in record["conformal"]]
        rows.append((f"{level} %", float(np.mean(held)), float(np.min(held)), len(held)))
    return markdown(("nominal", "mean", "least of a set and seed", "sets and seeds"), rows)


def _figure(records: list[dict[str, Any]]) -> Any:
    """Mean AUROC of each score as a dot in a line, best on top."""
    import matplotlib.pyplot as plt

    auroc = by_set(records)
    means = {name: float(np.mean(list(values.values()))) for name, values in auroc.items()}
    order = sorted(means, key=lambda name: means[name])
    figure, ax = plt.subplots(figsize=(7.2, 0.26 * len(order) + 1.0), layout="constrained")
    for line, name in enumerate(order):
        color = "C3" if name == DEFAULT else "C0" if name.startswith(("QuantileVAE", "BetaVAE")) else "0.35"
        ax.plot([0.5, means[name]], [line, line], color=color, lw=1, alpha=0.4)
        ax.plot(means[name], line, "o", color=color)
        ax.annotate(f"{means[name]:.3f}", (means[name], line), (7, 0), textcoords="offset points", va="center")
    ax.set_yticks(range(len(order)), order)
    for text, name in zip(ax.get_yticklabels(), order, strict=True):
        text.set(color="C3" if name == DEFAULT else "k", weight="bold" if name == DEFAULT else "normal")
    n_sets = len({record["set"] for record in records})
    ax.set(xlim=(min(means.values()) - 0.02, max(means.values()) + 0.03), xlabel=f"AUROC, mean over {n_sets} sets")
    ax.spines[["top", "right"]].set_visible(False)
    return figure
