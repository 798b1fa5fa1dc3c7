"""Finding anomalies in tables, in three protocols: QuantileVAE, its parts, other detectors, and published numbers.

No label is used in training, every detector has one setting for all sets.
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
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.neighbors import LocalOutlierFactor, NearestNeighbors
from sklearn.svm import OneClassSVM

from riskvae import BetaVAE, QuantileVAE
from riskvae.metrics import coverage
from riskvae.studies._anomaly_reports import all_tables, draw
from riskvae.studies._anomaly_tables import MOST, PROTOCOLS, load, names_of, published
from riskvae.studies._frame import Config, StudyResult, measure_all
from riskvae.training import Batch

Array = NDArray[np.float64]
Scores = Mapping[str, Array]

DEFAULT = "QuantileVAE"
WHAT = {
    "QuantileVAE": "the default: `score_samples`",
    "QuantileVAE, networks": "the bound of the trained networks alone",
    "QuantileVAE, features": "tails of the features one by one, alone",
    "QuantileVAE, evidence bound": "of the networks as trained: pinball noise, standard normal prior",
    "QuantileVAE, importance-weighted bound": "the same, 16 draws inside the logarithm",
    "QuantileVAE, reconstruction": "pinball loss at the posterior mean",
    "QuantileVAE, squared error": "of the median",
    "QuantileVAE, squared z": "summed over features, each row's own scales",
    "QuantileVAE, latent KL": "of the posterior from the prior",
    "BetaVAE": "beta = 1, learned noise, the same sizes and steps: evidence bound",
    "BetaVAE, squared error": "",
    "5-NN": "distance to the fifth neighbor",
    "1-NN": "distance to the nearest neighbor",
    "20-NN": "distance to the twentieth neighbor",
    "LOF": "scikit-learn's default",
    "OCSVM": "scikit-learn's default, at most 3,000 rows",
    "PCA": "squared coordinates over their variances, all components",
    "isolation forest": "scikit-learn's default",
    "PyOD VAE": "as it comes: its own scaling, layers, 30 epochs of batches of 32",
}


# ------------------------------------------------------------------------------------------ detectors


def quantile_scores(vae: QuantileVAE, test: Array, seed: int) -> Scores:
    """Scores of one QuantileVAE; larger is more unusual."""
    bound, weighted, kl = _bounds(vae, test, seed)
    verdicts = vae._score_parts(test)
    scores = {
        "": -vae.score_samples(test),
        "networks": -verdicts[:, 0],
        "features": -verdicts[:, -1],
        "evidence bound": bound,
        "importance-weighted bound": weighted,
        "reconstruction": vae.reconstruction_loss(test),
        "squared error": np.square(test - vae.reconstruct(test)).sum(1),
        "squared z": np.square(vae.z_scores(test)).sum(1),
        "latent KL": kl,
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
    bound, weighted, kl = (torch.cat(part).cpu().double().numpy() for part in zip(*parts, strict=True))
    return bound, weighted, kl


def neighbors(train: Array, test: Array, seed: int) -> Scores:
    """Distances to neighbors among the training rows."""
    k = min(20, len(train))
    distance = NearestNeighbors(n_neighbors=k).fit(train).kneighbors(test)[0]
    return {"5-NN": distance[:, min(4, k - 1)], "1-NN": distance[:, 0], "20-NN": distance[:, -1]}


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


# Detectors that are measured where most are published already.
_IN_ALL = (DEFAULT, "neighbors", "PCA", "isolation forest")


# ---------------------------------------------------------------------------------------------- study


def measure(task: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Area under the curve and average precision of one detector on one set."""
    train, test, truth = load(folder / f"{task['set']}.npz", task["protocol"], task["seed"])
    options = {name: task[name] for name in ("epochs", "device")} if task["detector"] in TRAINED else {}
    start = time.perf_counter()
    held: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # constant features, scores of duplicates
        if task["detector"] == DEFAULT:
            vae = QuantileVAE(max_epochs=task["epochs"], random_state=task["seed"], device=task["device"]).fit(train)
            scores: Scores = {DEFAULT: -vae.score_samples(test)}
            held["flagged"] = float((vae.predict(test[truth == 0]) == -1).mean())
            if task["protocol"] == "halves":
                scores = quantile_scores(vae, test, task["seed"])
                held |= conformal_coverage(vae, test[truth == 0])
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
        "held": held,
        "auroc": {name: float(roc_auc_score(truth, values)) for name, values in finite.items()},
        "precision": {name: float(average_precision_score(truth, values)) for name, values in finite.items()},
    }


def run(config: Config) -> StudyResult:
    """Measure all detectors on all sets, in three protocols."""
    folder = config.folder("adbench")
    sets = names_of(folder)
    if config.quick:
        sets = [name for name in sets if (folder / f"{name}.npz").stat().st_size < 50_000]
    names = [DEFAULT, *DETECTORS] if importlib.util.find_spec("pyod") else [DEFAULT, *DETECTORS][:-1]
    epochs = config.epochs or (5 if config.quick else "auto")
    tasks = [
        {"protocol": protocol, "set": name, "bytes": (folder / f"{name}.npz").stat().st_size, "seed": seed}
        | {"detector": detector}
        | ({"epochs": epochs, "device": config.device} if detector in TRAINED else {})
        for protocol in PROTOCOLS
        for detector in (names if protocol == "halves" else _IN_ALL)
        for seed in range(config.n_seeds)
        for name in sets
    ]
    records = measure_all(config, "anomalies", tasks, partial(measure, folder=folder))
    result = StudyResult("anomalies", {"sets": sets, "at most": MOST, "detectors": names}, records)
    known = {protocol: published(folder.parent / "published", protocol) for protocol in PROTOCOLS}
    result.tables = all_tables(records, known, WHAT)
    result.figures = {"auroc": draw(records, known)}
    return result
