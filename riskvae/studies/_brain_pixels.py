"""Brains with lesions, pixel by pixel: slices from NIfTI files, healthy rows to train with, what is found.

- Images are skull-stripped: the brain is where FLAIR is above 0. A patient's intensities are divided by their median
  in the brain, which needs no mask of lesions and brings the white matter of patients together.
- Pixels are means of 2 x 2 in the axial plane, cut to the box that holds all brains. A pixel is a lesion if the mask
  covers half of it or more, and healthy if the mask does not touch it.
- Slices are those with at least a third of the patient's largest brain area; further out little is left of it.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, gaussian_filter
from scipy.stats import false_discovery_control, norm

__all__ = [
    "TRAININGS",
    "Array",
    "Mask",
    "Patient",
    "best_threshold",
    "calibrated",
    "dice",
    "discoveries",
    "prepare",
    "read_patients",
    "spread",
    "training_rows",
]

Array = NDArray[np.float32]
Mask = NDArray[np.bool_]

TRAININGS = {
    "lesion-free slices": "only slices that no lesion touches",
    "lesions filled in": "all slices; lesions, and a pixel around, get the mean of the healthy brain around them",
    "filled in, dark cut off": "the same; in all images what is darker than 0.7 of the median is set to that, as most "
    "of an error is of fluid, and lesions are bright",
}
SHIFT, BRIGHTER, NOISE, DARK = 2, 0.05, 0.02, 0.7  # pixels; shares of the median
FDR = 0.05


@dataclass(frozen=True)
class Patient:
    """Slices of one patient, (n, height, width)."""

    flair: Array  # the median of the brain is 1, outside is 0
    brain: Mask
    lesion: Mask
    touched: Mask  # some of the pixel is lesion

    @property
    def healthy(self) -> Mask:
        """Brain that no lesion touches."""
        return self.brain & ~self.touched


@cache
def read_patients(folder: Path) -> dict[str, Patient]:
    """All patients of a folder, in one box."""
    try:
        import nibabel
    except ImportError as error:
        raise ImportError("The study of lesions reads NIfTI by nibabel: install riskvae[studies].") from error
    load: Any = nibabel.load  # its type does not know that images of this kind have data
    volumes = {}
    for file in sorted(folder.glob("*_flair.nii.gz")):
        name = file.name.removesuffix("_flair.nii.gz")
        flair, mask = (_read(load, one) for one in (file, folder / f"{name}_lesion.nii.gz"))
        volumes[name] = _halve(flair.clip(0)), _halve(flair > 0) >= 0.5, _halve(mask > 0)
    somewhere = np.any([brain.any(0) for _, brain, _ in volumes.values()], 0)
    ends = [np.flatnonzero(side)[[0, -1]] for side in (somewhere.any(1), somewhere.any(0))]
    box = tuple(slice(max(int(low) - SHIFT, 0), int(high) + SHIFT + 1) for low, high in ends)
    patients = {}
    for name, (flair, brain, share) in volumes.items():
        area = brain.sum((1, 2))
        here = (area >= area.max() / 3, *box)
        brain, share = brain[here], share[here]
        flair = np.where(brain, flair[here] / np.median(flair[here][brain]), 0.0).astype(np.float32)
        patients[name] = Patient(flair, brain, brain & (share >= 0.5), share > 0)
    return patients


def _read(load: Any, file: Path) -> Array:
    try:
        return np.asarray(load(file).get_fdata(dtype=np.float32))
    except FileNotFoundError:
        raise FileNotFoundError(f"{file} does not exist, and every patient needs both images.") from None
    except Exception as error:  # of nibabel, gzip or zlib
        raise OSError(f"{file} is cut short, or is not a NIfTI file: {error}") from error


def _halve(volume: NDArray[Any]) -> Array:
    """Axial slices (z, x, y) of means of 2 x 2 pixels; an odd last one is left out."""
    x, y = (side // 2 for side in volume.shape[:2])
    means = volume[: 2 * x, : 2 * y].reshape(x, 2, y, 2, -1).mean((1, 3), dtype=np.float32)
    return np.moveaxis(means, 2, 0)


def spread(patients: list[Patient]) -> float:
    """Standard deviation of the brains' intensities, from their quartiles."""
    low, high = np.percentile(np.concatenate([patient.flair[patient.brain] for patient in patients]), (25, 75))
    return float((high - low) / (norm.ppf(0.75) - norm.ppf(0.25)))


def prepare(flair: Array, training: str) -> Array:
    """Images as models of a kind of training see them, as rows."""
    return (flair.clip(DARK) if "dark" in training else flair).reshape(len(flair), -1)


def training_rows(patients: list[Patient], training: str, n: int, seed: int) -> tuple[Array, int]:
    """Slices mirrored, shifted and brightened at random, with noise, as rows; and the number that there was.

    Without noise the constant background would reward a variance that shrinks without bound.
    """
    if training.startswith("lesion-free"):
        slices = np.concatenate([patient.flair[~patient.touched.any((1, 2))] for patient in patients])
    else:
        slices = np.concatenate([_filled(patient) for patient in patients])
    rng = np.random.default_rng(seed)
    images = slices[rng.permutation(np.resize(np.arange(len(slices)), n))]
    for i, image in enumerate(images):
        image = image[::-1] if rng.random() < 0.5 else image  # the first axis is from left to right
        image = np.roll(image, rng.integers(-SHIFT, SHIFT + 1, 2), (0, 1))
        images[i] = image * (1.0 + BRIGHTER * rng.uniform(-1, 1))
    rows = prepare(images, training)
    return rows + np.float32(NOISE) * rng.standard_normal(rows.shape, dtype=np.float32), len(slices)


def _filled(patient: Patient) -> Array:
    """Slices whose lesions are replaced by the mean of the healthy brain around, near pixels weighing more."""
    slices = patient.flair.copy()
    for image, brain, touched in zip(slices, patient.brain, patient.touched, strict=True):
        hole = brain & binary_dilation(touched)
        known = (brain & ~hole).astype(np.float32)
        mean = gaussian_filter(image * known, 3.0) / gaussian_filter(known, 3.0).clip(1e-6)
        image[hole] = mean[hole]
    return slices


def rarity(values: Array, reference: Array) -> Array:
    r"""Minus the logarithm of the share of a reference that is at least as large, the value itself counted.

    .. math:: -\log \frac{1 + \#\{r \ge v\}}{1 + n}

    The share is a p-value if value and reference are exchangeable, which pixels of two patients are not quite.
    """
    count = len(reference) - np.searchsorted(np.sort(reference), values, side="left")
    return np.log((1 + len(reference)) / (1 + count)).astype(np.float32)


def calibrated(scores: list[dict[str, Array]], patients: list[Patient]) -> list[dict[str, Array]]:
    """Rarity of each patient's scores among healthy pixels of all patients but the first, the one that is tested.

    Beside each score, how rare both the first one (brightness) and the second one (a model's) are: the larger of two
    p-values is one of "not both".
    """
    rare: list[dict[str, Array]] = [{} for _ in scores]
    for method in scores[0]:
        known = zip(scores[1:], patients[1:], strict=True)
        reference = np.concatenate([one[method][patient.healthy] for one, patient in known])
        for here, one in zip(rare, scores, strict=True):
            here[method] = rarity(one[method], reference)
    for here in rare:
        if len(here) > 1:
            first, second = list(here)[:2]
            here[f"{first} and {second}"] = np.minimum(here[first], here[second])
    return rare


def discoveries(p: NDArray[np.floating], brain: Mask) -> Mask:
    """Benjamini-Hochberg among the brain's pixels of each slice, as in ``QuantileVAE.detect_features``."""
    found = np.zeros(brain.shape, dtype=bool)
    for here, pixels, values in zip(found, brain, p, strict=True):
        here[pixels] = false_discovery_control(values[pixels]) <= FDR
    return found


def dice(found: Mask, truth: Mask) -> float:
    """Overlap of two sets of pixels."""
    return 2.0 * float((found & truth).sum()) / max(float(found.sum() + truth.sum()), 1.0)


def best_threshold(values: list[Array], truth: list[Mask]) -> float:
    """Threshold of the best Dice, of what is pooled."""
    pooled, lesions = np.concatenate(values), np.concatenate(truth)
    order = np.argsort(-pooled, kind="stable")
    overlap = lesions[order].cumsum() / (np.arange(1, len(order) + 1) + lesions.sum())
    overlap[:-1][np.diff(pooled[order]) == 0] = 0.0  # equal values go together
    return float(pooled[order[overlap.argmax()]])
