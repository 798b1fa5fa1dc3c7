"""Draw ``images/overview.png``, the README's first picture, from the results of three studies.

Run it as ``python docs/overview.py`` after ``python -m riskvae.studies NAME --out docs/results`` for tails, margins and
lesions.
"""

import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import NullLocator

from riskvae.studies import lesions, margins, tails

DOCS = Path(__file__).parent
PATIENT = "patient19"


def records(name):
    """Read what a study measured."""
    return json.loads((DOCS / "results" / name / "results.json").read_text())["records"]


def draw_tails(ax):
    """Draw the error of the worst tenth against rate."""
    found = records("tails")
    for name, label, color in (("plain", "plain", "0.35"), ("averse 0.5", "RiskAwareVAE, eps = 0.5", "C3")):
        groups = [tails.of_kind(found, "mnist", **tails.model_of(name, beta)) for beta in tails.BETAS[name]]
        points = [[np.mean([record[key] for record in group]) for key in ("rate", "worst 10 %")] for group in groups]
        ax.plot(*np.transpose(points), "o-", color=color, label=label)
    ax.set(title="Draw the worst cases better", xlabel="rate of the code (nats)", ylabel="error of the worst tenth")
    ax.legend(frameon=False)


def draw_margins(ax):
    """Draw bound and estimate of each digit against the attack."""
    found = margins.of_kind(records("margins"), margins.PLAIN | {"r": "auto"})
    upper = np.concatenate([margins.array(record, "upper") for record in found])
    for name, label, color in (("lower", "lower bound", "C0"), ("linearized", "estimate", "C3")):
        values = np.concatenate([margins.array(record, name) for record in found])
        ax.plot(upper, values, ".", color=color, alpha=0.7, label=label)
    ends = np.array([np.nanmin(upper), np.nanmax(upper)])
    ax.plot(ends, ends, color="0.35", lw=1, ls=":", label="equal to the attack")
    ax.set(
        title="Know how far a row can be pushed",
        xlabel="norm at which an attack breaks the digit",
        ylabel="bound or estimate of it",
    )
    ax.set(xscale="log", yscale="log")
    for axis, ticks in ((ax.xaxis, (0.1, 0.2, 0.3, 0.5)), (ax.yaxis, (0.01, 0.03, 0.1, 0.3))):
        axis.set_ticks(ticks, [f"{tick:g}" for tick in ticks])
        axis.set_minor_locator(NullLocator())
    ax.legend(frameon=False)


def draw_lesions(figure):
    """Draw a slice of a brain, and the pixels that a model of healthy ones finds unusual."""
    image = lesions.pictured(records("lesions"), PATIENT)
    left, right = figure.subplots(1, 2)
    for ax, title in ((left, "brain MRI"), (right, "green: lesion found\nred: false   blue: missed")):
        ax.imshow(image["flair"], cmap="gray", vmin=30, vmax=210, origin="lower")
        ax.set_title(title, fontsize=10)
        ax.set_axis_off()
    right.imshow(lesions.outcome(image["found"], image["lesion"]), origin="lower")
    figure.suptitle("Find what is unusual")


def main():
    """Draw the three panels."""
    figure = plt.figure(figsize=(13, 4.2), layout="constrained")
    left, middle, right = figure.subfigures(1, 3, width_ratios=(1, 1, 1.1))
    for part, draw in ((left, draw_tails), (middle, draw_margins)):
        ax = part.subplots()
        draw(ax)
        ax.spines[["top", "right"]].set_visible(False)
    draw_lesions(right)
    figure.savefig(DOCS / "images" / "overview.png", dpi=110)


if __name__ == "__main__":
    main()
