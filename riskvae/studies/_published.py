"""The published setting of the risk-aware VAE, which three studies share (Li and Zhu, "Risk-aware VAE")."""

from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from riskvae import RiskAwareVAE
from riskvae.datasets import fetch_cifar10, fetch_fashion_mnist, fetch_mnist
from riskvae.losses import kl_divergence
from riskvae.studies._frame import Config
from riskvae.training import Objective, RiskObjective

__all__ = [
    "EPS",
    "SETTING",
    "TITLES",
    "Images",
    "at_equal_rate",
    "fit",
    "images_of",
    "load",
    "of_kind",
    "rate_and_active",
    "sizes",
]

Array = NDArray[np.floating]

EPS = (0.05, 0.1, 0.2, 0.5)
TITLES = {"mnist": "MNIST", "fashion_mnist": "Fashion-MNIST"}
SETTING = {
    "network": "784-512-256-20 and its mirror, ReLU, sigmoid output",
    "loss": "summed squared error + beta KL",
    "training": "Adam 1e-3, batches of 256; n_train of the 60,000 training images, others held out",
}
FETCH = {"mnist": fetch_mnist, "fashion_mnist": fetch_fashion_mnist, "cifar10": fetch_cifar10}
_ACTIVE = 0.01  # variance of the posterior mean over rows (Burda et al. 2016)


class Images(NamedTuple):
    """Rows that train, and held-out ones, with their classes."""

    train: Array
    held_out: Array
    train_classes: NDArray[np.int64]
    held_out_classes: NDArray[np.int64]


def sizes(config: Config) -> dict[str, Any]:
    """What tasks share: rows and epochs, smaller where it must be quick."""
    n_train, n_held_out, epochs = (6000, 2000, 3) if config.quick else (48_000, 12_000, 10)
    return {"n_train": n_train, "n_held_out": n_held_out, "epochs": config.epochs or epochs, "device": config.device}


def load(task: Mapping[str, Any], data: Path | None) -> Images:
    """Split of the training images, by the task's seed."""
    images, classes = images_of(task["images"], "train", data)
    order = np.random.default_rng(task["seed"]).permutation(len(images))
    train, held_out = order[: task["n_train"]], order[-task["n_held_out"] :]
    return Images(images[train], images[held_out], classes[train], classes[held_out])


@cache
def images_of(name: str, subset: str, data: Path | None) -> tuple[Array, NDArray[np.int64]]:
    """Images as rows, and their classes; an OSError names a file that is not as published."""
    try:
        images: tuple[Array, NDArray[np.int64]] = FETCH[name](subset=subset, data_home=data, return_X_y=True)
    except ValueError as error:
        raise OSError(str(error)) from error
    return images


class Published(RiskAwareVAE):
    """As published: under seeking training all rows pay for their KL terms, not only those that count."""

    def make_objective(self) -> Objective:
        objective = super().make_objective()
        if isinstance(objective, RiskObjective):
            objective.all_pay = True
        return objective


def fit(task: Mapping[str, Any], rows: Array) -> RiskAwareVAE:
    """Train the model of a task; noise of this scale is the summed squared error."""
    return Published(
        20,
        noise_scale=0.5**0.5,
        output_activation="sigmoid",
        max_epochs=task["epochs"],
        random_state=task["seed"],
        device=task["device"],
        **{"risk": "neutral", **task["model"]},
    ).fit(rows)


def rate_and_active(vae: Any, rows: Array) -> dict[str, float]:
    """Mean KL term in nats, and latent coordinates that tell rows apart."""
    mean, scale = vae.encode(rows)
    rate = float(kl_divergence(torch.from_numpy(mean), torch.from_numpy(scale)).mean())
    return {"rate": rate, "active": int((mean.var(0) > _ACTIVE).sum())}


def at_equal_rate(plain: Iterable[Mapping[str, Any]], rate: float, value: float, what: str) -> float:
    """Relative change of an error against plain models, interpolated along beta to the same rate; NaN beyond them.

    Linear in logarithms: along beta the frontier is convex, and a chord of it would flatter what lies between.
    """
    found = sorted(plain, key=lambda one: float(one["rate"]))
    rates, values = (np.log([one[name] for one in found]) for name in ("rate", what))
    if not rates[0] <= np.log(rate) <= rates[-1]:
        return float("nan")
    return float(value / np.exp(np.interp(np.log(rate), rates, values)) - 1)


def of_kind(records: Iterable[Mapping[str, Any]], images: str, **model: Any) -> list[Mapping[str, Any]]:
    """Records of one model on one set of images: one per seed."""
    return [record for record in records if record["images"] == images and record["model"] == model]
