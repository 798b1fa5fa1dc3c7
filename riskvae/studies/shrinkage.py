"""Estimated noise against the true one: quantiles, and decoders with a variance.

Simulations whose noise is known: a curve and a surface (``make_heteroscedastic``), and slices of a head
(``make_lesions``). All models have the same networks, batches and steps, but for QuantileVAE with its own default of
epochs. Intervals are judged on held-out rows.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from riskvae import QuantileVAE
from riskvae.datasets import make_heteroscedastic, make_lesions
from riskvae.metrics import coverage, interval_score
from riskvae.studies._frame import Config, StudyResult, markdown, measure_all
from riskvae.studies._gaussian_rivals import KINDS, NormalVAE
from riskvae.studies._published_quantiles import UnitPinballVAE

SETTINGS: dict[str, dict[str, Any]] = {
    "curve": {"n_components": 1, "hidden": (50,), "steps": 6000, "sizes": (500, 2000, 10_000, 50_000)},
    "surface": {"n_components": 2, "hidden": (50,), "steps": 6000, "sizes": (500, 2000, 10_000, 50_000)},
    "lesions": {"n_components": 16, "hidden": (256, 128), "steps": 2000, "sizes": (500, 4000)},
}
WHAT = {
    "curve": "8 features on a curve",
    "surface": "4 features on a surface, 4-50-2-50-4Q as published",
    "lesions": "heads of 32 x 32 pixels, tested with lesions",
}
WIDE = (0.025, 0.15, 0.5, 0.85, 0.975)
QUANTILES = {
    "quantiles": f"QuantileVAE with levels {WIDE}",
    "quantiles, default epochs": "the same, epochs as they come: 2,000 steps, but 30 epochs at least and 200 at most",
}
PUBLISHED = {"quantiles, no scale": "pinball losses of weight one, as published (Akrami et al. 2020)"}
MODELS = {**QUANTILES, **PUBLISHED, **KINDS}
N_CALIBRATION, N_CALIBRATIONS = 1000, 10  # rows, and sets of them
LEVELS = {"70": 0.3, "95": 0.05}


def simulate(setting: str, n: int, seed: int, lesions: bool = False) -> Any:
    """Rows with their known noise; ``scale`` is its standard deviation."""
    if setting == "lesions":
        return make_lesions(n, size=32, n_lesions=int(lesions), random_state=seed)
    n_features, n_latent = {"curve": (8, 1), "surface": (4, 2)}[setting]
    return make_heteroscedastic(n, n_features=n_features, n_latent=n_latent, random_state=seed)


def measure(task: Mapping[str, Any]) -> dict[str, Any]:
    """Train one model and judge its intervals."""
    setting, n, seed = task["setting"], task["n"], task["seed"]
    options = SETTINGS[setting]
    train, test = simulate(setting, n, 2 * seed), simulate(setting, task["n_test"], 2 * seed + 1)
    lesions = simulate(setting, 300, 1000 + seed, lesions=True) if setting == "lesions" else None
    if task["model"] in QUANTILES:
        n_epochs: Any = "auto" if task["steps"] == "auto" else max(1, round(task["steps"] / np.ceil(n / 256)))
        model: Any = QuantileVAE(
            options["n_components"],
            quantiles=WIDE,
            hidden_layer_sizes=options["hidden"],
            max_epochs=n_epochs,
            random_state=seed,
            device=task["device"],
        ).fit(train.data)
        scale, z = model.predict_scale(test.data), model.z_scores
    else:
        sizes: Any = (train.data.shape[1], options["n_components"], options["hidden"])
        published = task["model"] in PUBLISHED
        rival: Any = partial(UnitPinballVAE, levels=WIDE) if published else partial(NormalVAE, kind=task["model"])
        model = rival(*sizes, seed=seed)
        model.fit(train.data, task["steps"], batch_size=256, lr=1e-3)
        scale = model.predict(test.data)[1]

        def z(rows: NDArray[np.floating]) -> NDArray[np.float64]:
            center, spread = model.predict(rows)
            return (rows - center) / spread

    found = _judge(model, test, scale)
    if lesions is not None:
        found["pixel AUROC"] = float(roc_auc_score(lesions.lesions[lesions.inside], z(lesions.data)[lesions.inside]))
    if task["model"] in QUANTILES:
        found |= _conformal(model, setting, test, seed)
    return found


def _conformal(model: QuantileVAE, setting: str, test: Any, seed: int) -> dict[str, float]:
    """What conformal intervals hold, on average over calibration sets: for one it scatters by a point and a half."""
    held: dict[str, list[float]] = {name: [] for name in LEVELS}
    for i in range(N_CALIBRATIONS):
        model.conformalize(simulate(setting, N_CALIBRATION, 10_000 + 100 * seed + i).data)
        for name, alpha in LEVELS.items():
            held[name].append(coverage(*_judged(test, model.predict_interval(test.data, alpha))).item())
    return {f"conformal {name}": float(np.mean(values)) for name, values in held.items()}


def _where(test: Any) -> NDArray[np.bool_]:
    """Values that are judged: of images, those inside the head."""
    return test.inside if "inside" in test else np.ones(test.data.shape, dtype=bool)


def _judged(test: Any, ends: NDArray[np.floating]) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """The values that are judged, as one feature, and their intervals."""
    return test.data[_where(test)][:, None], ends[_where(test)][:, None]


def _judge(model: Any, test: Any, scale: NDArray[np.floating]) -> dict[str, float]:
    where = _where(test)
    ratio = (scale / test.scale)[where]
    if not np.isfinite(ratio).all():
        return {name: float("nan") for name in ("70", "95", "score 70", "ratio", "ratio low", "ratio high")}
    intervals = {name: model.predict_interval(test.data, alpha) for name, alpha in LEVELS.items()}
    # The best score that intervals around the true mean can have, to compare with.
    best = 2 * norm.pdf(norm.ppf(0.15)) / 0.15 * test.scale[where].mean()
    return {
        **{name: coverage(*_judged(test, ends)).item() for name, ends in intervals.items()},
        "score 70": interval_score(*_judged(test, intervals["70"]), 0.3).item() / best,
        "ratio": float(np.median(ratio)),
        "ratio low": float(np.quantile(ratio, 0.1)),
        "ratio high": float(np.quantile(ratio, 0.9)),
    }


def steps_of(config: Config, model: str, n: int, usual: int) -> int | str:
    """Gradient steps of a training; "auto" leaves them to the default of the estimator."""
    if config.epochs:
        return config.epochs * int(np.ceil(n / 256))
    return 60 if config.quick else "auto" if model == "quantiles, default epochs" else usual


def run(config: Config) -> StudyResult:
    """Measure all models on all simulations and sizes."""
    tasks = [
        {
            "setting": setting,
            "n": n,
            "model": model,
            "seed": seed,
            "steps": steps_of(config, model, n, options["steps"]),
            "n_test": 500 if config.quick else 10_000 if setting != "lesions" else 2000,
            "device": config.device,
        }
        for setting, options in SETTINGS.items()
        for n in (options["sizes"][:1] if config.quick else options["sizes"])
        for model in MODELS
        for seed in range(config.n_seeds)
    ]
    records = measure_all(config, "shrinkage", tasks, measure)
    result = StudyResult("shrinkage", {"settings": WHAT, "models": MODELS}, records)
    result.tables = {WHAT[setting]: _table(records, setting) for setting in SETTINGS}
    result.figures = {"ratio": _figure(records)}
    return result


COLUMNS = (
    ("70", "holds at 70 %"),
    ("95", "at 95 %"),
    ("conformal 70", "conformal 70 %"),
    ("conformal 95", "95 %"),
    ("score 70", "interval score / best"),
    ("ratio", "estimated / true sd"),
    ("ratio low", "lowest tenth"),
    ("ratio high", "highest tenth"),
    ("pixel AUROC", "pixel AUROC"),
)


def _mean(records: list[dict[str, Any]], key: str) -> float:
    return float(np.mean([record.get(key, np.nan) for record in records]))


def _table(records: list[dict[str, Any]], setting: str) -> str:
    here = [record for record in records if record["setting"] == setting]
    columns = [(key, title) for key, title in COLUMNS if any(key in record for record in here)]
    rows = []
    for n in sorted({record["n"] for record in here}):
        for model in MODELS:
            group = [record for record in here if (record["n"], record["model"]) == (n, model)]
            rows.append((f"{n:,}", model, *(_mean(group, key) for key, _ in columns)))
    return markdown(("rows", "model", *(title for _, title in columns)), rows)


COLORS = dict(zip(MODELS, ("C3", "C1", "C5", "C0", "C2", "C4"), strict=True))


def _figure(records: list[dict[str, Any]]) -> Any:
    """Estimated over true standard deviation against the number of rows, with its tenths."""
    import matplotlib.pyplot as plt

    size = (3.6 * len(SETTINGS), 6.2)
    figure, axes = plt.subplots(2, len(SETTINGS), figsize=size, layout="constrained", sharex="col", squeeze=False)
    for column, setting in zip(axes.T, SETTINGS, strict=True):
        for i, model in enumerate(MODELS):
            groups: dict[int, list[dict[str, Any]]] = {}
            for record in records:
                if (record["setting"], record["model"]) == (setting, model):
                    groups.setdefault(record["n"], []).append(record)
            n = np.array(list(groups)) * (1 + 0.04 * (i - 2.5))
            color = COLORS[model]
            middle, low, high = (
                np.array([_mean(group, key) for group in groups.values()])
                for key in ("ratio", "ratio low", "ratio high")
            )
            column[0].errorbar(
                n,
                middle,
                np.stack((middle - low, high - middle)),
                fmt="o-",
                color=color,
                label=model,
                lw=1.5,
                elinewidth=1,
                ms=4,
            )
            held = [100 * _mean(group, "70") for group in groups.values()]
            column[1].plot(n, held, "o-", color=color, ms=4)
            if model == "quantiles":
                held = [100 * _mean(group, "conformal 70") for group in groups.values()]
                column[1].plot(n, held, "s--", color=color, ms=4, label="quantiles, conformal")
        column[0].axhline(1.0, color="gray", lw=1, ls=":")
        column[1].axhline(70.0, color="gray", lw=1, ls=":")
        column[0].set(title=WHAT[setting].replace(", ", "\n", 1), xscale="log", yscale="log")
        column[0].set_yticks([0.1, 0.3, 1, 3], ["0.1", "0.3", "1", "3"])
        column[0].minorticks_off()
        column[1].set(xlabel="training rows", ylim=(0, 100))
    axes[0, 0].set_ylabel("estimated / true sd,\nmedian, and a tenth on each side")
    axes[1, 0].set_ylabel("held-out values inside\n70 % intervals (%)")
    axes[0, 0].legend(frameon=False, fontsize=9)
    axes[1, 0].legend(frameon=False, fontsize=9, loc="lower right")
    for ax in axes.flat:
        ax.spines[["top", "right"]].set_visible(False)
    return figure
