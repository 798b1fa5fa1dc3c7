r"""
Choose a model by its worst cases
=================================

A variational autoencoder that compresses each digit into four numbers reconstructs most digits well and some badly,
because it is trained on the average loss. Here, a grid search chooses the share of the worst losses to train on (eps)
and the strength of the compression (beta). It scores each model by the error of the *worst tenth* of the held-out
digits. A logistic regression shows whether the codes stay useful. The chosen model is then compared with the best plain
autoencoder of the same grid (eps = 1, at its best beta), on digits that neither has seen.

Run it with ``python examples/plot_quickstart.py``. It takes about a minute on two cores, and writes its figures to
``demo/``.
"""

import sys
import time
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler

from riskvae import RiskAwareVAE
from riskvae.metrics import row_losses, tail_loss_scorer, tail_mean
from riskvae.plotting import TailCurveDisplay

EPS, BETAS, SEEDS = [0.2, 0.4, 0.7, 1.0], [0.5, 1.0, 2.0, 4.0], range(8)
PLAIN, AVERSE = "tab:gray", "tab:red"

# Where figures are written.
FOLDER = Path(sys.argv[1] if len(sys.argv) > 1 else "demo")
FOLDER.mkdir(exist_ok=True)
start = time.perf_counter()


# %%
# Which eps and beta?
# -------------------
# Each of 16 pairs is trained on two thirds of the digits and scored on the last third, three times. Two scores are
# kept: the error of the worst tenth, which decides, and the accuracy of a classifier that sees the codes.


def search(X, y):
    """Run a cross-validated grid search over eps and beta."""
    vae = RiskAwareVAE(n_components=4, hidden_layer_sizes=(64,), max_epochs=150, lr=2e-3, random_state=0)
    pipe = make_pipeline(MinMaxScaler(clip=True), vae, LogisticRegression(max_iter=1000))
    grid = {"riskawarevae__eps": EPS, "riskawarevae__beta": BETAS}
    scoring = {"accuracy": "accuracy", "worst_tenth": tail_loss_scorer(0.1)}
    return GridSearchCV(pipe, grid, scoring=scoring, refit="worst_tenth", cv=3, n_jobs=2).fit(X, y)


def print_grid(grid):
    """Print both scores for each cell of the grid."""
    results = grid.cv_results_
    shape = (len(BETAS), len(EPS))
    accuracy = results["mean_test_accuracy"].reshape(shape)
    tail = -results["mean_test_worst_tenth"].reshape(shape)
    print("\nCross-validation: error of the worst tenth (x 1000) | accuracy of the classifier")
    print("  beta   " + "".join(f"{f'eps={eps:g}':>18}" for eps in EPS))
    for i, beta in enumerate(BETAS):
        cells = (f"{1000 * t:8.1f} | {a:.3f}" for t, a in zip(tail[i], accuracy[i], strict=True))
        print(f"  {beta:<7g}" + "".join(f"{cell:>18}" for cell in cells))


X, y = load_digits(return_X_y=True)
X, X_test, y, y_test = train_test_split(X, y, test_size=0.25, random_state=0, stratify=y)
print(f"Grid search over {len(EPS)} eps x {len(BETAS)} beta, 3 folds of {len(X)} digits ...", flush=True)
grid = search(X, y)
print_grid(grid)

# %%
# What does the choice change?
# ----------------------------
# The chosen model and the best plain one are trained anew with eight seeds each. On the test digits, the worst tenth is
# reconstructed better, and the average worse; the accuracy stays.


def rate(pipe, X):
    """Return the rate, the mean KL term in nats: how much information the latent code carries."""
    mean, scale = pipe[1].encode(pipe[0].transform(X))
    return (0.5 * (mean**2 + scale**2 - 1) - np.log(scale)).sum(1).mean()


def best_of(grid, plain):
    """Return the parameters with the smallest error of the worst tenth, among plain models (eps = 1) or all models."""
    results = grid.cv_results_
    cells = [i for i, p in enumerate(results["params"]) if not plain or p["riskawarevae__eps"] == 1.0]
    return results["params"][max(cells, key=lambda i: results["mean_test_worst_tenth"][i])]


def refit(grid, parameters, X, y):
    """Fit models with the same parameters and different seeds."""
    pipes = [clone(grid.estimator).set_params(**parameters, riskawarevae__random_state=seed) for seed in SEEDS]
    return [pipe.fit(X, y) for pipe in pipes]


def print_comparison(models, X, y):
    """Print tail errors, rate and accuracy of both kinds of model on the test digits."""
    rows = {
        "worst 5 % of digits, error x 1000": lambda m: 1000 * tail_mean(row_losses(m, X), 0.05),
        "worst 10 %": lambda m: 1000 * tail_mean(row_losses(m, X), 0.1),
        "worst 50 %": lambda m: 1000 * tail_mean(row_losses(m, X), 0.5),
        "all digits": lambda m: 1000 * row_losses(m, X).mean(),
        "KL, nats": lambda m: rate(m, X),
        "accuracy, %": lambda m: 100 * m.score(X, y),
    }
    print(f"\nTest digits, mean of {len(SEEDS)} seeds (standard deviation)")
    print(f"  {'':34}" + "".join(f"{name:>28}" for name in models) + f"{'change':>10}")
    for label, measure in rows.items():
        values = [np.array([measure(m) for m in group]) for group in models.values()]
        cells = "".join(f"{f'{v.mean():.1f} ({v.std(ddof=1):.1f})':>28}" for v in values)
        print(f"  {label:34}{cells}{values[1].mean() / values[0].mean() - 1:>+10.0%}")


models = {}
for name in ("plain", "chosen"):
    parameters = best_of(grid, plain=name == "plain")
    eps, beta = parameters["riskawarevae__eps"], parameters["riskawarevae__beta"]
    models[f"{name} (eps={eps:g}, beta={beta:g})"] = refit(grid, parameters, X, y)
print_comparison(models, X_test, y_test)

# %%
# Where along the tail?
# ---------------------
# The gain is largest for the worst digits. It turns into a loss where the share includes the easy ones.


def plot_tails(models, X, eps, path):
    """Draw the error of the worst share of the digits against that share, and its change: means, and single seeds."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10.5, 4.3), layout="constrained")
    left.set_prop_cycle(color=[PLAIN, AVERSE])
    losses = {name: [row_losses(m, X) for m in group] for name, group in models.items()}
    display = TailCurveDisplay.from_losses(losses, shares=np.geomspace(0.02, 1, 40), ax=left)
    left.set(ylim=(0, None), ylabel="mean squared error per pixel", title="Error of the worst digits")

    shares, curves = display.shares, list(display.curves.values())
    left.get_legend().remove()  # names at the lines are read faster
    tenth = np.abs(shares - 0.1).argmin()
    for (name, line), (height, side) in zip(display.lines_.items(), ((24, "left"), (-30, "right")), strict=True):
        place = {"xytext": (0, height), "textcoords": "offset points", "ha": side}
        left.annotate(name, line.get_xydata()[tenth], color=line.get_color(), **place)
    change = 100 * (curves[1].mean(0) / curves[0].mean(0) - 1)
    right.axhline(0, color=PLAIN, lw=2.5)
    right.plot(100 * shares, 100 * (curves[1] / curves[0] - 1).T, color=AVERSE, lw=0.8, alpha=0.4)
    right.plot(100 * shares, change, color=AVERSE, lw=3)
    right.fill_between(100 * shares, change, 0, color=AVERSE, alpha=0.12, lw=0)
    at = np.abs(shares - 0.05).argmin()
    style = {"textcoords": "offset points", "color": AVERSE, "fontsize": 14, "weight": "bold"}
    right.annotate(f"tail {change[at]:+.0f} %", (5, change[at] / 2), (-28, -6), **style)
    right.annotate(f"average {change[-1]:+.0f} %", (100, change[-1]), (-130, 0), **style)
    right.set(ylabel="change against plain (%)", title=f"Change when trained on the worst {eps:.0%} of the losses")
    for ax in (left, right):
        ax.set(xscale="log", xlim=(2, 100), xlabel="share of the digits, worst first (%)")
        ax.set_xticks([2, 5, 10, 20, 50, 100], ["2", "5", "10", "20", "50", "all"])
        ax.minorticks_off()
        ax.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)


plot_tails(models, X_test, eps, FOLDER / "tail_curve.png")

# %%
# Which digits are these?
# -----------------------
# The ten hardest test digits, as they are and as both models reconstruct them. The last row has new digits, decoded
# from random codes.


def plot_digits(models, X, path):
    """Draw the digits that are hardest for both models together, their reconstructions, and new samples."""
    plain, chosen = (group[0] for group in models.values())
    errors = {"plain": row_losses(plain, X), "chosen": row_losses(chosen, X)}
    order = np.argsort(errors["plain"] + errors["chosen"])[::-1][:10]
    x = plain[0].transform(X[order])
    rows = {
        "digit": x,
        "plain": plain[1].reconstruct(x),
        "chosen": chosen[1].reconstruct(x),
        "samples": chosen[1].sample(10, random_state=1),
    }
    figure, axes = plt.subplots(len(rows), 10, figsize=(10, 4.9), layout="constrained")
    for line, (name, images) in zip(axes, rows.items(), strict=True):
        color = AVERSE if name in ("chosen", "samples") else "k"
        line[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=13, color=color)
        for i, (ax, image) in enumerate(zip(line, images, strict=True)):
            ax.imshow(image.reshape(8, 8), cmap="gray_r", vmin=0, vmax=1)
            ax.set(xticks=[], yticks=[])
            if name in errors:
                ax.set_xlabel(f"{1000 * errors[name][order[i]]:.0f}", labelpad=2, color=color)
    figure.suptitle("The ten hardest test digits, as both models draw them (error x 1000 below), and new samples")
    figure.savefig(path, dpi=130)


plot_digits(models, X_test, FOLDER / "digits.png")
print(f"\nFigures: {FOLDER / 'tail_curve.png'}, {FOLDER / 'digits.png'}   ({time.perf_counter() - start:.0f} s)")
