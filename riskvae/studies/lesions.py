"""Finding lesions in brain MRI: QuantileVAE, other autoencoders, and thresholding; three patients, no more.

FLAIR images and consensus masks of three patients with multiple sclerosis, from Lesjak et al., "A novel public MR image
dataset of multiple sclerosis patients with lesion segmentations based on multi-rater consensus", Neuroinformatics
(2017), CC BY. Each patient tests what the other two have trained.

Slices without any lesion are few, and most are from the lower and the upper end of the brain. So models are trained in
three ways (``TRAININGS``), which all take from the training patients' masks what is healthy, and use no mask of the
test patient. Within a training all models have the same rows, less their mean, the same networks and the same steps.

With n = 3 nothing here is significant. The settings were tried on these very patients, and the second and the third
training were thought of after the first had failed on them. A network that has learned nothing leaves the intensity
itself as its error, which is a strong score: a better score need not be a better model.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_fill_holes
from scipy.stats import norm
from sklearn.metrics import average_precision_score, roc_auc_score

from riskvae import BetaVAE, QuantileVAE
from riskvae.metrics import coverage
from riskvae.nets import conv_decoder, conv_encoder
from riskvae.studies import _brain_pixels as pixels
from riskvae.studies._brain_pixels import TRAININGS, Array, Patient, best_threshold, dice, discoveries, prepare
from riskvae.studies._drawing import OTHERS, OURS, SMALL, entitle, headline, name_rows, panels
from riskvae.studies._frame import Config, StudyResult, markdown, measure_all, spread
from riskvae.studies._gaussian_rivals import NormalVAE

PICTURED = "filled in, dark cut off"
MODELS = {
    "QuantileVAE": "z-scores from the levels .15, .5 and .85",
    "Gaussian VAE": "a variance for each pixel",
    "BetaVAE": "beta = 1, one learned noise",
}
METHODS = {
    "FLAIR": "thresholding: the intensity itself, nothing trained",
    "QuantileVAE, z": "one-sided: lesions are bright",
    "QuantileVAE, two-sided z": "its absolute value",
    "QuantileVAE, error": "above the median, one-sided",
    "QuantileVAE, absolute error": "of the median",
    "Gaussian VAE, z": "one-sided",
    "Gaussian VAE, two-sided z": "its absolute value",
    "BetaVAE, error": "in units of the noise, one-sided",
    "BetaVAE, absolute error": "plain reconstruction error",
    "FLAIR and QuantileVAE, z": "the larger of their calibrated p-values: bright for a brain, and for this place",
    "FLAIR and Gaussian VAE, z": "the same",
    "FLAIR and BetaVAE, error": "the same",
}
# Sides that a score's own p-value counts, where it has one: as in ``QuantileVAE.p_values``.
OWN_P = {
    "FLAIR": 1,
    "QuantileVAE, z": 1,
    "QuantileVAE, two-sided z": 2,
    "Gaussian VAE, z": 1,
    "Gaussian VAE, two-sided z": 2,
    "BetaVAE, error": 1,
    "BetaVAE, absolute error": 2,
}
# Of pixels, by whether they were found and whether they are of a lesion.
COLORS = {(1, 1): (0.2, 0.8, 0.3), (1, 0): (0.9, 0.2, 0.2), (0, 1): (0.3, 0.6, 1.0)}
COLUMNS = {
    "AUROC": "AUROC",
    "AP": "AP",
    "best Dice": "best Dice",
    "Dice": "Dice at the others' threshold",
    "own Dice": "Dice at BH .05",
    "own flagged": "healthy pixels flagged",
    "calibrated Dice": "Dice at BH .05, calibrated",
    "calibrated flagged": "healthy pixels flagged",
}
NETWORK: dict[str, Any] = {"channels": (16, 32, 64), "n_components": 32, "batch_size": 32, "lr": 1e-3}
SOURCE = (
    "Lesjak et al., A novel public MR image dataset of multiple sclerosis patients with lesion segmentations based on "
    "multi-rater consensus, Neuroinformatics 2017, CC BY"
)
PUBLISHED = (
    "Published for a larger set of such patients (MSLUB; Meissen et al.), in 3D and otherwise prepared, so not to be "
    "compared in detail: Dice of FLAIR thresholding .374, of VAE restoration .333, of a dense autoencoder .271."
)


def train(task: Mapping[str, Any], rows: Array, shape: tuple[int, ...]) -> Any:
    """Fit one model; all have the same convolutions."""
    size, steps = task["n_components"], {name: task[name] for name in ("batch_size", "lr")}
    convolutions: dict[str, Any] = {"channels": tuple(task["channels"])}
    n_channels = {"QuantileVAE": 3, "Gaussian VAE": 2, "BetaVAE": 1}[task["model"]]
    networks: dict[str, Any] = {
        "encoder": partial(conv_encoder, image_shape=shape, **convolutions),
        "decoder": partial(conv_decoder, image_shape=(n_channels, *shape), **convolutions),
    }
    if task["model"] == "Gaussian VAE":
        normal = NormalVAE(rows.shape[1], size, (), "variance", task["seed"], **networks)
        return normal.fit(rows, task["epochs"] * -(-len(rows) // steps["batch_size"]), **steps)
    options = {**networks, **steps, "max_epochs": task["epochs"], "random_state": task["seed"]}
    if task["model"] == "QuantileVAE":
        return QuantileVAE(size, quantiles=(0.15, 0.5, 0.85), device=task["device"], **options).fit(rows)
    return BetaVAE(size, beta=1.0, device=task["device"], **options).fit(rows)


def scores(name: str, model: Any, rows: Array, patient: Patient, unit: float) -> dict[str, Array]:
    """Scores of each pixel, larger for lesions; the first is brightness in units of the spread of brains."""
    found = {"FLAIR": (patient.flair - np.float32(1.0)) / np.float32(unit)}
    if name == "QuantileVAE":
        z, error = model.z_scores(rows), rows - model.reconstruct(rows)
        trained = {"z": z, "two-sided z": abs(z), "error": error, "absolute error": abs(error)}
    elif name == "Gaussian VAE":
        center, scale = model.predict(rows)
        z = (rows - center) / scale
        trained = {"z": z, "two-sided z": abs(z)}
    elif name == "BetaVAE":
        z = (rows - model.reconstruct(rows)) / model.noise_scale_
        trained = {"error": z, "absolute error": abs(z)}
    else:
        trained = {}
    return found | {f"{name}, {kind}": values.reshape(patient.flair.shape) for kind, values in trained.items()}


def judge(values: Array, patient: Patient, threshold: float, **p_values: Array) -> dict[str, float]:
    """How well the lesions of a brain are told from the rest of it; ``threshold`` comes from other patients."""
    inside, truth = values[patient.brain], patient.lesion[patient.brain]
    told = {
        "AUROC": float(roc_auc_score(truth, inside)),
        "AP": float(average_precision_score(truth, inside)),
        "best Dice": dice(inside >= best_threshold([inside], [truth]), truth),
        "Dice": dice(inside >= threshold, truth),
    }
    for kind, p in p_values.items():
        found = discoveries(p, patient.brain)
        told |= {f"{kind} Dice": dice(found, patient.lesion), f"{kind} flagged": float(found[patient.healthy].mean())}
    return told


def measure(task: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Train one model on all patients but one, and look for that one's lesions."""
    name, training, everyone = task["model"], task["training"], pixels.read_patients(folder)
    test, others = everyone[task["test"]], [one for key, one in everyone.items() if key != task["test"]]
    told: dict[str, Any] = {"lesion share": float(test.lesion.sum() / test.brain.sum()), "methods": {}}
    model: Any = None
    center: Any = 0
    if name != "FLAIR":
        rows, told["slices"] = pixels.training_rows(others, training, task["rows"], task["seed"])
        center = rows.mean(0)
        model = train(task, rows - center, test.flair.shape[1:])
    inputs = [(prepare(one.flair, training) - center, one, pixels.spread(others)) for one in (test, *others)]
    each = [scores(name, model, *given) for given in inputs]
    rare = pixels.calibrated(each, [test, *others])
    # Slices with lesions have not been trained with, or not as they are here.
    where = [one.brain & one.lesion.any((1, 2), keepdims=True) for one in others]
    truth = [one.lesion[part] for one, part in zip(others, where, strict=True)]
    limits = {}
    for method in list(rare[0])[model is not None :]:
        from_all = each if method in each[0] else rare
        known = [one[method][part] for one, part in zip(from_all[1:], where, strict=True)]
        limits[method] = best_threshold(known, truth)
        p = {"calibrated": np.exp(-rare[0][method])}
        if method in OWN_P:
            p["own"] = OWN_P[method] * norm.sf(each[0][method])
        told["methods"][method] = judge(from_all[0][method], test, limits[method], **p)
    if name in ("QuantileVAE", "Gaussian VAE"):
        rows, healthy = inputs[0][0], test.healthy.reshape(len(test.flair), -1)
        ends = model.predict_interval(rows, 0.3)[healthy]
        told["70"] = coverage(rows[healthy][:, None], ends[:, None]).item()
        told["p < .05"] = float(np.mean(each[0][f"{name}, z"][test.healthy] > norm.isf(0.05)))
    if name == "QuantileVAE" and training == PICTURED and task["seed"] == 0:
        both = "FLAIR and QuantileVAE, z"
        told["picture"] = picture(each[0]["QuantileVAE, z"], rare[0][both] >= limits[both], test)
    return told


def picture(z: Array, by_both: pixels.Mask, patient: Patient) -> dict[str, list[str]]:
    """What the figure shows of the slice with most lesion pixels, as rows of bytes in hexadecimal."""
    i = int(patient.lesion.sum((1, 2)).argmax())
    images = {
        "flair": patient.flair[i] * 120,
        "z": z[i] * 12 + 128,
        "brain": patient.brain[i],
        "lesion": patient.lesion[i],
        "found": discoveries(norm.sf(z), patient.brain)[i],
        "found by both": by_both[i] & patient.brain[i],
    }
    whole = {key: np.clip(np.rint(image), 0, 255).astype(np.uint8) for key, image in images.items()}
    return {key: [row.tobytes().hex() for row in image] for key, image in whole.items()}


def run(config: Config) -> StudyResult:
    """Measure all models, trained in all ways, on each patient."""
    folder = config.folder("ms_lesions").resolve()
    names = sorted(file.name.removesuffix("_flair.nii.gz") for file in folder.glob("*_flair.nii.gz"))
    same: dict[str, Any] = {"bytes": sum(file.stat().st_size for file in folder.glob("*.nii.gz"))}
    tasks = [{"test": test, "model": "FLAIR", "training": "", "seed": 0, **same} for test in names]
    same |= {"rows": 128 if config.quick else 1024, "epochs": config.epochs or (2 if config.quick else 16)}
    same |= {"device": config.device, **NETWORK}
    tasks += [
        {"test": test, "model": model, "training": training, "seed": seed, **same}
        for seed in range(config.n_seeds)
        for model in MODELS
        for training in TRAININGS
        for test in names
    ]
    records = measure_all(config, "lesions", tasks, partial(measure, folder=folder))
    result = StudyResult("lesions", {"data": SOURCE, "models": MODELS, "patients": names, **NETWORK}, records)
    for training, what in TRAININGS.items():
        result.tables[f"Trained on {training} ({what})"] = _table(records, training, names)
    result.tables["What the scores are"] = markdown(("score", ""), METHODS.items())
    result.tables["Slices, and what is said of healthy pixels"] = _healthy(records, names)
    result.tables["Sources"] = f"Data: {SOURCE}.\n\n{PUBLISHED}"
    result.figures = {"average_precision": _points(records, names), "maps": _maps(records, names)}
    return result


def _values(records: list[dict[str, Any]], method: str, key: str, training: str, **which: Any) -> list[float]:
    """One measure of a method, of the records that are asked for."""
    found = [r for r in records if r["training"] in ("", training) and method in r["methods"]]
    return [r["methods"][method].get(key, np.nan) for r in found if all(r[name] == one for name, one in which.items())]


def _table(records: list[dict[str, Any]], training: str, names: list[str]) -> str:
    seeds = {record["seed"] for record in records}
    rows = []
    for method in METHODS:
        means = [float(np.mean(_values(records, method, key, training))) for key in COLUMNS]
        each = [float(np.mean(_values(records, method, "AP", training, test=name))) for name in names]
        by_seed = [_values(records, method, "AP", training, seed=seed) for seed in seeds]
        rows.append((method, *means, *each, spread([float(np.mean(values)) for values in by_seed if values])))
    header = ("score", *COLUMNS.values(), *(f"AP of {name}" for name in names), "sd of AP over seeds")
    return markdown(header, rows)


def _healthy(records: list[dict[str, Any]], names: list[str]) -> str:
    rows = []
    for name in names:
        for training in TRAININGS:
            here = [record for record in records if (record["test"], record["training"]) == (name, training)]
            shares = (
                float(np.mean([record[key] for record in here if record["model"] == model]))
                for model in ("QuantileVAE", "Gaussian VAE")
                for key in ("70", "p < .05")
            )
            rows.append((name, f"{here[0]['lesion share']:.2%}", training, here[0]["slices"], *shares))
    columns = [f"{model}: {what}" for model in ("QuantileVAE", "Gaussian VAE") for what in ("70 % hold", "p < .05")]
    return markdown(("test patient", "lesion pixels", "trained on", "slices", *columns), rows)


# Rows of the figure, and what they are called there.
DRAWN = {
    "FLAIR": "brightness alone",
    "QuantileVAE, z": "QuantileVAE alone",
    "Gaussian VAE, z": "variances alone",
    "BetaVAE, error": "BetaVAE's error alone",
    "FLAIR and QuantileVAE, z": "brightness and QuantileVAE",
    "FLAIR and Gaussian VAE, z": "brightness and variances",
    "FLAIR and BetaVAE, error": "brightness and BetaVAE",
}


def _points(records: list[dict[str, Any]], names: list[str]) -> Any:
    """Average precision of some scores: patients as dots, their mean as a bar."""
    figure, axes = panels(1, len(TRAININGS), 4.2, sharey=True, sharex=True)
    told = "Alone, no autoencoder finds lesions as well as brightness does; added to\nbrightness, QuantileVAE helps in "
    headline(figure, f"{told}two of three ways to train (3 patients)")
    for ax, training in zip(axes[0], TRAININGS, strict=True):
        for line, method in enumerate(DRAWN):
            color = OURS if "Quantile" in method else OTHERS
            values = [np.mean(_values(records, method, "AP", training, test=name)) for name in names]
            mean = np.mean(_values(records, method, "AP", training))
            ax.plot([min(values), max(values)], [line, line], color=color, lw=0.8, alpha=0.5)
            ax.plot(values, [line] * len(values), "o", color=color, ms=4)
            ax.plot(mean, line, "|", color=color, ms=15, mew=3)
            ax.annotate(
                f"{mean:.3f}".removeprefix("0"), (0.99, line), color=color, fontsize=SMALL, ha="right", va="center"
            )
            for name, value in zip(names, values, strict=True) if method == "FLAIR" else ():
                note = (name.removeprefix("patient"), (value, line - 0.33))
                ax.annotate(*note, fontsize=SMALL, ha="center", va="center", color=color)
        ax.axvline(np.mean(_values(records, "FLAIR", "AP", training)), color=OTHERS, lw=0.8, ls=":")
        ax.annotate("mean", (0.99, -0.75), fontsize=SMALL, ha="right", va="center")
        entitle(ax, f"trained on\n{training}")
        ax.set(xlabel="average precision   better →", xlim=(0, 1))
        ax.tick_params(axis="y", length=0)
    name_rows(axes[0, 0], list(DRAWN.values()), [OURS if "Quantile" in method else OTHERS for method in DRAWN])
    axes[0, 0].set_ylim(len(DRAWN) - 0.5, -1.0)
    return figure


def pictured(records: list[dict[str, Any]], name: str) -> dict[str, NDArray[np.int64]]:
    """Images of a patient's slice, by what :func:`picture` calls them."""
    kept = next(record["picture"] for record in records if record["test"] == name and "picture" in record)
    return {key: np.array([list(bytes.fromhex(line)) for line in lines]).T for key, lines in kept.items()}


def outcome(found: NDArray[np.int64], lesion: NDArray[np.int64]) -> NDArray[np.float64]:
    """Colors to lay over a slice: lesions found are green, false discoveries red, missed lesions blue."""
    over = np.zeros((*found.shape, 4))
    for (is_found, is_lesion), color in COLORS.items():
        over[(found == is_found) & (lesion == is_lesion)] = (*color, 1.0)
    return over


def _maps(records: list[dict[str, Any]], names: list[str]) -> Any:
    """A slice of each patient: lesions, z-scores, and what is found; below, what the colors are."""
    figure, axes = panels(len(names) + 1, 4, 2.4 * len(names) + 1.2, height_ratios=(*[1.0] * len(names), 0.05))
    told = "QuantileVAE finds lesions, and false ones at the rim of the brain;\njudged with brightness, fewer are false"
    headline(figure, f"{told} in two of three patients")
    for row, name in zip(axes, names, strict=False):
        share = next(record["lesion share"] for record in records if record["test"] == name)
        drawn = _slices(row, pictured(records, name))
        row[0].set_ylabel(f"{name}\n{100 * share:.2g} % lesions", fontsize=SMALL)
    titles = ["Scan, lesions outlined\nby experts", "How unusual: z-scores\nof QuantileVAE"]
    titles += ["Found by z-scores\nalone", "Found by z-scores\nand brightness"]
    for ax, title in zip(axes[0], titles, strict=True):
        ax.set_title(title, fontsize=10)
    for ax in axes[-1, [0, 2, 3]]:
        ax.set_axis_off()
    figure.colorbar(drawn, cax=axes[-1, 1], orientation="horizontal", ticks=(-6, 0, 6))
    axes[-1, 1].set_xlabel("z-score", fontsize=SMALL)
    for told, color, x in zip(("lesion found", "false", "lesion missed"), COLORS.values(), (0, 0.75, 1.2), strict=True):
        key = axes[-1, 2].annotate(f"■ {told}", (x, -0.5), xycoords="axes fraction", color=color, va="center")
        key.set_in_layout(False)  # the last column is empty down there
    return figure


def _slices(row: Any, image: Mapping[str, NDArray[np.int64]]) -> Any:
    """One patient's pictures, cut to the brain and white around it; the picture of z-scores, for its scale."""
    brain = binary_fill_holes(image["brain"] == 1)
    high, wide = np.flatnonzero(brain.any(1)), np.flatnonzero(brain.any(0))
    for ax in row:
        ax.imshow(np.ma.masked_where(~brain, image["flair"]), cmap="gray", vmin=30, vmax=210, interpolation="nearest")
        ax.set(xticks=[], yticks=[], xlim=(wide[0] - 2, wide[-1] + 2), ylim=(high[0] - 2, high[-1] + 2))
        ax.spines[:].set_visible(False)
    row[0].contour(image["lesion"], [0.5], colors="C1", linewidths=0.9)
    for ax, key in zip(row[2:], ("found", "found by both"), strict=True):
        ax.imshow(outcome(image[key], image["lesion"]), interpolation="nearest")
        found, lesion = image[key] == 1, image["lesion"] == 1
        told = f"{(found & lesion).sum()} of {lesion.sum()} found, {(found & ~lesion).sum()} false"
        ax.set_xlabel(told, fontsize=SMALL)
    z = np.ma.masked_where(~brain, (image["z"] - 128) / 12)
    row[1].contour(brain, [0.5], colors="0.6", linewidths=0.6)
    return row[1].imshow(z, cmap="RdBu_r", vmin=-6, vmax=6, interpolation="nearest")
