r"""
Margins of robustness on MNIST
==============================

How far can a digit be pushed? Three models (beta = 1, beta = 4, and beta = 1 with tau = 0.3 added to the encoder's
scale) of 784-512-256-10 and its mirror are trained on 30,000 digits, and margins of test digits taken at three radii:
1.5 times what each model's own noise moves its reconstructions by ("auto"), that of the plain model, and 6.

    RISKVAE_DATA=folder python examples/plot_mnist_margins.py [FOLDER] [ROWS]

prints tables and writes ``mnist_margins.png`` to FOLDER (default: ``demo``); some eight minutes on two cores with the
200 digits that are the default.
"""

# sphinx_gallery_thumbnail_path = "images/mnist_margins.png"

import sys
import time
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from scipy.stats import pearsonr, spearmanr

from riskvae import BetaVAE, robustness_margin
from riskvae.datasets import fetch_mnist
from riskvae.plotting import MarginDisplay
from riskvae.robustness import encoder_sensitivity

MODELS = {
    "beta = 1": {"beta": 1.0},
    "beta = 4": {"beta": 4.0},
    "beta = 1, tau = 0.3": {"beta": 1.0, "scale_offset": 0.3},
}


def print_row(name, margin, seconds):
    """Medians, and how bounds and estimate compare with the attack."""
    good = np.isfinite(margin.upper) & np.isfinite(margin.lower)
    upper = margin.upper[good]
    lower, theorem1, whitened, linearized = (
        getattr(margin, name)[good] for name in ("lower", "theorem1", "whitened", "linearized")
    )
    cells = (
        np.median(upper), np.median(upper / lower), np.median(upper / theorem1), np.median(whitened / theorem1),
        100 * np.mean(lower <= upper), np.median(np.abs(linearized / upper - 1)),
        spearmanr(linearized, upper).statistic, pearsonr(theorem1, upper).statistic, pearsonr(lower, upper).statistic,
        margin.abstained.sum(), margin.censored.sum(), seconds,
    )  # fmt: skip
    print(f"  {name:22}{margin.r:6.2f}" + "".join(f"{cell:9.3g}" for cell in cells), flush=True)


def main(folder, n_rows):
    """Train, measure, draw."""
    X = fetch_mnist().data[:30000]
    rows = fetch_mnist(subset="test").data[:n_rows]
    models = {}
    for name, options in MODELS.items():
        models[name] = BetaVAE(10, likelihood="bernoulli", max_epochs=15, random_state=0, **options).fit(X)
    print(f"{n_rows} test digits; medians\n  {'':22}{'scale':>8}{'Jacobian':>10}")
    for name, vae in models.items():
        local = encoder_sensitivity(vae, rows)
        print(f"  {name:22}{np.median(local.scale_mean):8.3f}{np.median(local.jacobian_frobenius):10.2f}")
    print(
        "\nattack: median margin that it finds; /lower, /thm 1: that over the bounds; w/t: whitened over theorem 1;\n"
        "holds: share of rows with lower <= attack, %; dev, rank: the linearized estimate's median deviation from the\n"
        "attack, and rank correlation with it; r t, r l: Pearson's correlation of theorem 1, and of lower, with it\n"
    )
    heads = (
        "attack",
        "/lower",
        "/thm 1",
        "w/t",
        "holds",
        "dev",
        "rank",
        "r t",
        "r l",
        "abstain",
        "censored",
        "seconds",
    )
    print(f"  {'':22}{'r':>6}" + "".join(f"{head:>9}" for head in heads))
    first, plain = {}, None
    for r in ("auto", "plain", 6.0):
        for name, vae in models.items():
            start = time.perf_counter()
            radius = plain if r == "plain" else r
            margin = robustness_margin(vae, rows, r=radius, random_state=0)
            if r == "auto":
                first[name] = margin
                plain = plain or margin.r
            print_row(name, margin, time.perf_counter() - start)
    folder.mkdir(exist_ok=True)
    figure, axes = plt.subplots(1, len(models), figsize=(5 * len(models), 4.6), layout="constrained")
    for ax, (name, margin) in zip(axes, first.items(), strict=True):
        MarginDisplay.from_margin(margin, methods=("theorem1", "second_order", "linearized"), ax=ax)
        ax.set_title(f"{name}, r = {margin.r:.2f}")
    figure.savefig(folder / "mnist_margins.png", dpi=110)
    print(f"\nFigure: {folder / 'mnist_margins.png'}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "demo"), int(sys.argv[2]) if len(sys.argv) > 2 else 200)
