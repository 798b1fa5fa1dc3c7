"""Draw ``images/overview.png``, the README's first picture, from the results of three studies.

Run it as ``python docs/overview.py`` after ``python -m riskvae.studies NAME --out docs/results`` for tails, anomalies
and levers.
"""

import json
from itertools import pairwise
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from riskvae.studies import levers, tails

DOCS = Path(__file__).parent
OURS, OTHER = "C3", "0.45"
DETECTORS = {"QuantileVAE": "QuantileVAE", "5-NN": "5 neighbors", "isolation forest": "isolation forest", "PCA": "PCA"}
LEVERS = {
    "plain, beta = 1": "plain",
    "lipschitz_penalty = 3": "lipschitz_penalty\n= 3",
    "Lipschitz encoder, penalty 3": "the same, and a\nLipschitz encoder",
}


def records(name):
    """Read what a study measured."""
    return json.loads((DOCS / "results" / name / "results.json").read_text())["records"]


def draw_tails(ax):
    """Draw the error of the worst tenth against rate."""
    found = records("tails")
    for name, label, color in (("plain", "plain VAE", OTHER), ("averse 0.5", "RiskAwareVAE", OURS)):
        groups = [tails.of_kind(found, "mnist", **tails.model_of(name, beta)) for beta in tails.BETAS[name]]
        points = [
            [np.mean([record[key] for record in group]) for key in ("rate", "worst 10 %", "mean")] for group in groups
        ]
        rate, worst, _ = np.transpose(points)
        ax.plot(rate, 1000 * worst, "o-", color=color, lw=2)
        above = name == "plain"
        place, offset = (rate[2], 1000 * worst[2]), (8, 6) if above else (-10, -8)
        side = {"ha": "left", "va": "bottom"} if above else {"ha": "right", "va": "top"}
        ax.annotate(label, place, offset, textcoords="offset points", color=color, weight="bold", **side)
    ax.set(xlabel="rate: information per image (nats)", ylabel="error of the worst tenth (x 1000), better ↓")
    ax.set_title("Reconstruct the worst rows better", weight="bold")
    ax.margins(x=0.12)


def draw_anomalies(ax):
    """Draw the mean AUROC over tables, trained on clean rows and on rows with anomalies among them."""
    found = records("anomalies")
    ends = {}
    for name in DETECTORS:
        ends[name] = [
            np.mean(
                [
                    record["auroc"][name]
                    for record in found
                    if record["protocol"] == protocol and name in record["auroc"]
                ]
            )
            for protocol in ("halves", "unsupervised")
        ]
    places = {side: _apart([ends[name][side] for name in DETECTORS], 0.0105) for side in (0, 1)}
    for i, (name, label) in enumerate(DETECTORS.items()):
        color = OURS if name == "QuantileVAE" else OTHER
        ax.plot([0, 1], ends[name], "o-", color=color, lw=3 if color == OURS else 1.5)
        for side, align in ((0, "right"), (1, "left")):
            told = f"{label} {ends[name][side]:.2f}" if side else f"{ends[name][side]:.2f}"
            ax.annotate(
                told, (side, places[side][i]), (-8 if side == 0 else 8, 0), textcoords="offset points", ha=align,
                va="center", color=color, weight="bold" if color == OURS else None,
            )  # fmt: skip
    ax.set(xlim=(-0.35, 1.8), ylabel="mean AUROC of 21 tables, better ↑")
    ax.set_yticks([])
    ax.spines[["bottom", "left"]].set_visible(False)
    ax.tick_params(bottom=False)
    ax.set_xticks([0, 1], ["trained on\nclean rows", "anomalies among\nthe training rows"])
    ax.set_title("Find anomalies, clean rows or not", weight="bold")


def _apart(values, least):
    """Places of labels at some values, moved apart where they would overlap."""
    places = np.array(values)
    order = np.argsort(places)
    for _ in range(100):
        for low, high in pairwise(order):
            short = least - (places[high] - places[low])
            if short > 0:
                places[low] -= short / 2
                places[high] += short / 2
    return places


def draw_levers(ax):
    """Draw what is certified, and what an attack needs, of three models."""
    found = records("levers")
    for place, name in enumerate(reversed(LEVERS)):
        group = levers.of_lever(found, name)
        low, high = (np.mean([record[key] for record in group]) for key in ("certified", "margin"))
        color = OTHER if place == len(LEVERS) - 1 else OURS
        ax.barh(place, high, color=color, alpha=0.35, height=0.55)
        ax.barh(place, low, color=color, height=0.55)
        ax.annotate(
            f"{high:.1f}", (high, place), (5, 0), textcoords="offset points", va="center", color=color, weight="bold"
        )
        if place == 0:
            ax.annotate("certified", (low / 2, place), ha="center", va="center", color="white", weight="bold")
            ax.annotate("an attack needs", (high - 0.05, place), ha="right", va="center", color=color)
    ax.set_yticks(range(len(LEVERS)), list(reversed(LEVERS.values())))
    ax.set(xlabel="size of the change that breaks a digit, better →", ylim=(-0.5, len(LEVERS) - 0.3))
    ax.set_title("Withstand nearly three times the change", weight="bold")


def main():
    """Draw the three panels."""
    figure, axes = plt.subplots(1, 3, figsize=(13.5, 4.0), layout="constrained")
    for ax, draw in zip(axes, (draw_tails, draw_anomalies, draw_levers), strict=True):
        draw(ax)
        ax.spines[["top", "right"]].set_visible(False)
    figure.get_layout_engine().set(w_pad=0.15, wspace=0.04)
    figure.savefig(DOCS / "images" / "overview.png", dpi=110)


if __name__ == "__main__":
    main()
