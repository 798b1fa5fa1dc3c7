"""Which studies there are, what each needs, and how long it takes."""

from typing import NamedTuple

__all__ = ["STUDIES", "Study"]


class Study(NamedTuple):
    """A study, as its command presents it.

    Parameters
    ----------
    about : str
        What it measures.
    time : str
        How long a full run takes, without results of an earlier one.
    folders : tuple of str
        What it reads of the folder of data.
    data : str
        Where these come from.
    """

    about: str
    time: str
    folders: tuple[str, ...] = ()
    data: str = "none: simulations and tables of scikit-learn"


_IMAGES = ("mnist", "fashion_mnist")
_MNIST = "MNIST, downloaded from OpenML unless the folder of data holds it"
_FETCHED = "MNIST and Fashion-MNIST, downloaded from OpenML unless the folder of data holds them"
_THREE = "MNIST, Fashion-MNIST and CIFAR-10, downloaded from OpenML unless the folder of data holds them"
_ADBENCH = "tables of ADBench, in the folder 'adbench' of the folder of data"

STUDIES = {
    "anomalies": Study(
        "Finding anomalies in 21 tables: QuantileVAE, its candidate scores, and other detectors.",
        "25 minutes on two cores",
        ("adbench", "published"),
        _ADBENCH,
    ),
    "imputation": Study(
        "Missing values: errors and ranges of `impute`, other imputers, and detectors of rows with holes.",
        "45 minutes on one core",
        ("adbench",),
        _ADBENCH,
    ),
    "tails": Study(
        "Figure 4 of the risk-aware VAE: tails of errors under averse and seeking training; both at equal rate.",
        "98 minutes on two cores",
        _IMAGES,
        _FETCHED,
    ),
    "distortion": Study(
        "Figure 5 of the risk-aware VAE: elastic distortions of Fashion-MNIST, seen and measured.",
        "5 minutes on two cores",
        _IMAGES,
        _FETCHED,
    ),
    "downstream": Study(
        "Table 1 of the risk-aware VAE: classes from embeddings; clusters and generated digits as well.",
        "19 minutes on two cores",
        _IMAGES,
        _FETCHED,
    ),
    "margins": Study(
        "Robustness: margins and damage by norm under beta, total correlation and tau.",
        "50 minutes on one core",
        ("mnist",),
        _MNIST,
    ),
    "levers": Study(
        "Robustness: what a Lipschitz penalty, Lipschitz networks and refined posteriors buy, and cost.",
        "an hour on two cores",
        ("mnist",),
        _MNIST,
    ),
    "bounds": Study(
        "Robustness: bounds of margins against the attack, on three sets of images and two kinds of network.",
        "an hour on two cores",
        (*_IMAGES, "cifar10"),
        _THREE,
    ),
    "refinement": Study(
        "What refined posteriors buy after training: tails at equal rate, detection, and attacks on a detector.",
        "an hour on two cores",
        (*_IMAGES, "adbench"),
        f"{_FETCHED}; {_ADBENCH}",
    ),
    "lesions": Study(
        "Finding lesions in brain MRI: QuantileVAE, other autoencoders, and thresholding; three patients.",
        "25 minutes on one core",
        ("ms_lesions",),
        "FLAIR images and lesion masks, in the folder 'ms_lesions' of the folder of data",
    ),
    "shrinkage": Study(
        "Estimated noise against the true one: quantiles, and decoders with a variance.",
        "70 minutes on one core",
    ),
}
"""By name; a study is a module of that name in this package, with ``run(config) -> StudyResult``."""
