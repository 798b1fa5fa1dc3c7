r"""
Averse and seeking models on MNIST
==================================

The settings of the Risk-Aware VAE paper: a 784-512-256-20 perceptron and its mirror, summed squared error,
ten epochs on 48,000 digits, 12,000 held out. An averse model (trained on the worse half of each batch) should
draw the worst digits better than the plain one, a seeking model (the better half) the best digits.

Run it with ``python examples/plot_mnist_tails.py [folder] [seeds]``; some three minutes on two cores for three
seeds. MNIST comes from the folder that the environment variable RISKVAE_DATA names, or from OpenML.
"""

# sphinx_gallery_thumbnail_path = "images/mnist_tails.png"

import sys
import time
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from riskvae import RiskAwareVAE
from riskvae.datasets import fetch_mnist
from riskvae.metrics import row_losses, tail_mean
from riskvae.plotting import TailCurveDisplay

PAPER = {
    "n_components": 20,
    "hidden_layer_sizes": (512, 256),
    "noise_scale": 0.5**0.5,  # so that the negative log-likelihood is the summed squared error, plus a constant
    "output_activation": "sigmoid",
    "max_epochs": 10,
}
MODELS = {
    "vanilla": {"risk": "neutral"},
    "averse": {"eps": 0.5},
    "averse, moving threshold": {"eps": 0.5, "threshold": "ema"},
    "averse, learned threshold": {"eps": 0.5, "threshold": "learned"},
    "seeking": {"eps": 0.5, "risk": "seeking"},
    "seeking, warmed up": {"eps": 0.5, "risk": "seeking", "eps_warmup": 5},
}
COLUMNS = {
    "best 10 %": lambda errors: tail_mean(errors, 0.1, tail="best"),
    "all": np.mean,
    "worst 50 %": lambda errors: tail_mean(errors, 0.5),
    "worst 10 %": lambda errors: tail_mean(errors, 0.1),
}


def rate(vae, X):
    """Mean KL term in nats: what the latent code carries."""
    mean, scale = vae.encode(X)
    return (0.5 * (mean**2 + scale**2 - 1) - np.log(scale)).sum(1).mean()


def main(folder, seeds):
    """Train every model with every seed, print the table, draw the curves."""
    start = time.perf_counter()
    digits = fetch_mnist().data
    order = np.random.default_rng(0).permutation(60_000)
    train, held_out = digits[order[:48_000]], digits[order[48_000:]]
    errors, rates = {}, {}
    for name, options in MODELS.items():
        models = [RiskAwareVAE(**PAPER, **options, random_state=seed).fit(train) for seed in range(seeds)]
        errors[name] = np.stack([row_losses(model, held_out) for model in models])
        rates[name] = np.mean([rate(model, held_out) for model in models])
        print(f"{name}: trained, {time.perf_counter() - start:.0f} s", flush=True)

    print(f"\nMean squared error per pixel of held-out digits x 1000, mean of {seeds} seeds (share of vanilla's)")
    print(f"{'':26}" + "".join(f"{column:>16}" for column in COLUMNS) + f"{'KL, nats':>10}")
    vanilla = {column: np.mean([f(row) for row in errors["vanilla"]]) for column, f in COLUMNS.items()}
    for name, rows in errors.items():
        cells = ""
        for column, f in COLUMNS.items():
            value = np.mean([f(row) for row in rows])
            cells += f"{f'{1000 * value:.1f} ({value / vanilla[column]:.2f})':>16}"
        print(f"{name:26}{cells}{rates[name]:>10.1f}")

    folder.mkdir(parents=True, exist_ok=True)
    figure, axes = plt.subplots(1, 2, figsize=(10.5, 4.3), layout="constrained")
    for ax, tail, rival, color in zip(
        axes, ("worst", "best"), ("averse", "seeking"), ("tab:red", "tab:blue"), strict=True
    ):
        ax.set_prop_cycle(color=["tab:gray", color])
        shown = {name: errors[name] for name in ("vanilla", rival)}
        TailCurveDisplay.from_losses(shown, tail=tail, loss_name="squared error per pixel", ax=ax)
        ax.set(ylim=(0, None), title=f"Error of the {tail} digits of MNIST")
    figure.savefig(folder / "mnist_tails.png", dpi=130)
    print(f"\nFigure: {folder / 'mnist_tails.png'}   ({time.perf_counter() - start:.0f} s)")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "demo"), int(sys.argv[2]) if len(sys.argv) > 2 else 3)
