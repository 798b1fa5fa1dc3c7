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
from riskvae.studies._drawing import OTHERS, OURS, PLAIN, SMALL, entitle, headline, name_rows, panels
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


# Rows of the figure: names, and the colors of what is ours and of what is not.
DRAWN = {
    "quantiles": ("QuantileVAE, equal steps", OURS),
    "quantiles, default epochs": ("QuantileVAE, default epochs", OURS),
    "quantiles, no scale": ("quantiles as published", OTHERS),
    "variance": ("variances", OTHERS),
    "beta-nll": ("beta-NLL: variances", OTHERS),
    "sigma-vae": ("sigma-VAE: one variance", OTHERS),
}
PANELS = {"lesions": "heads, 32 x 32 pixels", "curve": "curve, 8 features", "surface": "surface, 4 features"}


def _figure(records: list[dict[str, Any]]) -> Any:
    """Estimated over true standard deviation with its tenths, and what intervals hold, with few rows and with many."""
    shown = {setting: title for setting, title in PANELS.items() if setting in SETTINGS}
    figure, axes = panels(2, len(shown), 6.2, sharey="row", height_ratios=(6, 7))
    told = "With enough images, quantiles estimate the noise best;\ncalibrated intervals hold what they promise anyway"
    headline(figure, told)
    for (above, below), (setting, title) in zip(axes.T, shown.items(), strict=True):
        here = [record for record in records if record["setting"] == setting]
        few, many = (bound({record["n"] for record in here}) for bound in (min, max))
        for place, model in enumerate(DRAWN):
            for n, aside in ((few, -0.17), (many, 0.17)):
                group = [record for record in here if (record["model"], record["n"]) == (model, n)]
                _dot(above, group, "ratio", place + aside, n == few)
                _dot(below, group, "70", place + 1 + aside, n == few)
                if model == "quantiles":
                    _dot(below, group, "conformal 70", aside, n == few)
        entitle(above, f"{title}\n○ {few:,}   ● {many:,} rows")
        above.axvline(1.0, color=PLAIN, lw=1, zorder=0)
        above.set(xscale="log", xlim=(0.18, 12), xlabel="estimated / true sd")
        above.set_xticks([0.3, 1, 3, 10], ["0.3", "1", "3", "10"])
        above.minorticks_off()
        below.axvline(70.0, color=PLAIN, lw=1, zorder=0)
        for ax in (above, below):
            ax.tick_params(axis="y", length=0)
        below.set(xlim=(0, 100), xlabel="values inside (%)")
    note = {"textcoords": "offset points", "va": "center", "color": PLAIN, "fontsize": SMALL}
    axes[0, 0].annotate("true", (1.0, 0.0), (6, 0), **note)
    axes[1, 0].annotate("promised", (70.0, 0.0), (-6, 0), ha="right", **note)
    names, colors = zip(*DRAWN.values(), strict=True)
    name_rows(axes[0, 0], names, colors)
    name_rows(axes[1, 0], ("QuantileVAE, calibrated", *names), (OURS, *colors))
    axes[0, 0].set_ylabel("estimated noise", weight="bold")
    axes[1, 0].set_ylabel("70 % intervals", weight="bold")
    return figure


def _dot(ax: Any, group: list[dict[str, Any]], key: str, place: float, hollow: bool) -> None:
    """Mean over seeds and small dots for them; a bar between the tenths of a ratio."""
    color = DRAWN[group[0]["model"]][1]
    percent = 1.0 if key == "ratio" else 100.0
    if key == "ratio":
        low, high = (_mean(group, f"ratio {end}") for end in ("low", "high"))
        ax.plot([low, high], [place, place], color=color, lw=1.3, alpha=0.6, zorder=1)
    seeds = [percent * record[key] for record in group]
    ax.plot(seeds, [place] * len(seeds), ".", color=color, ms=3, alpha=0.6)
    ax.plot(np.mean(seeds), place, "o", color=color, ms=5.5, mfc="white" if hollow else color)
