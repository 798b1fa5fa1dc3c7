r"""
How far can a digit be pushed?
==============================

A small change of the input can make a variational autoencoder reconstruct something else. This example examines a
model written by hand in plain torch, and three models of this library. For each digit it measures the *margin*, which
is the largest change that the digit withstands: a lower bound, an estimate, and the smallest change with which an
attack succeeds. It also shows what the attack does to some digits. A larger beta, or a constant added to the encoder's
scale (tau), widens the margin; both make reconstructions worse.

    python examples/plot_robustness.py [FOLDER]

prints a table and writes ``margins.png``, ``curves.png`` and ``attack.png`` to FOLDER (default: ``demo``).
"""

import sys
import time
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

from riskvae import BetaVAE, max_damage_attack, robustness_margin
from riskvae.plotting import AttackDisplay, MarginDisplay, ReconstructionDisplay, RobustnessCurveDisplay
from riskvae.robustness import encoder_sensitivity

RADIUS = 1.5  # how far a reconstruction may move, over 64 pixels in [0, 1]

# Where figures are written.
FOLDER = Path(sys.argv[1] if len(sys.argv) > 1 else "demo")
FOLDER.mkdir(exist_ok=True)
start = time.perf_counter()


# %%
# Four models
# -----------
# The first is written by hand. Margins need no more than its ``encode`` and ``decode``.


class PlainVAE(nn.Module):
    """A model as a torch user writes it; it needs ``encode`` and ``decode``, and nothing else."""

    def __init__(self, n_features, n_components):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(n_features, 64), nn.ReLU(), nn.Linear(64, 2 * n_components))
        self.decoder = nn.Sequential(nn.Linear(n_components, 64), nn.ReLU(), nn.Linear(64, n_features))

    def encode(self, x):
        mean, log_variance = self.encoder(x).chunk(2, dim=-1)
        return mean, (0.5 * log_variance).exp()

    def decode(self, z):
        return self.decoder(z).sigmoid()


def train_by_hand(X):
    """Train the plain model with an ordinary training loop."""
    torch.manual_seed(0)
    vae, X = PlainVAE(X.shape[1], 8), torch.tensor(X)
    optimizer = torch.optim.Adam(vae.parameters(), lr=2e-3)
    for _ in range(150):
        for x in X[torch.randperm(len(X))].split(128):
            mean, scale = vae.encode(x)
            rebuilt = vae.decode(mean + scale * torch.randn_like(scale))
            nll = nn.functional.binary_cross_entropy(rebuilt, x, reduction="sum")
            kl = (0.5 * (mean**2 + scale**2 - 1) - scale.log()).sum()
            optimizer.zero_grad()
            ((nll + kl) / len(x)).backward()
            optimizer.step()
    return vae.eval()


def fit(X, **options):
    """Fit a model of this library with networks of the same shape."""
    vae = BetaVAE(
        8, hidden_layer_sizes=(64,), likelihood="bernoulli", max_epochs=150, lr=2e-3, batch_size=128, random_state=0,
        **options,
    )  # fmt: skip
    return vae.fit(X)


X, y = load_digits(return_X_y=True)
X = (X / 16).astype(np.float32)
X, X_test, _, y_test = train_test_split(X, y, test_size=200, random_state=0, stratify=y)
print("Training four models; the whole takes one or two minutes on two cores ...", file=sys.stderr, flush=True)
models = {
    "plain torch module": train_by_hand(X),
    "BetaVAE, beta=0.25": fit(X, beta=0.25),
    "BetaVAE, beta=0.25, tau=0.7": fit(X, beta=0.25, scale_offset=0.7),
    "BetaVAE, beta=1.5": fit(X, beta=1.5),
}

# %%
# How large a change each digit withstands
# ----------------------------------------
# ``lower`` is a bound: no smaller change breaks a digit. ``attack`` is a change that does. First-order bounds are
# enough for the comparison with the attack.


def error(vae, X):
    """Return the mean squared error of the reconstructions, per pixel."""
    if hasattr(vae, "reconstruct"):
        return np.mean((vae.reconstruct(X) - X) ** 2)
    with torch.no_grad():
        return float(((vae.decode(vae.encode(torch.tensor(X))[0]) - torch.tensor(X)) ** 2).mean())


def print_table(models, margins, X):
    """Print medians over the digits."""
    print(
        f"\nMedian over {len(X)} test digits, r = {RADIUS:g} (margins are Euclidean norms of the change in 64 pixels)"
    )
    print(f"  {'':30}{'lower':>8}{'estimate':>10}{'attack':>8}{'scale':>8}{'Jacobian':>10}{'error x 1000':>14}")
    for name, vae in models.items():
        margin, local = margins[name], encoder_sensitivity(vae, X)
        values = (margin.lower, margin.linearized, margin.upper, local.scale_mean, local.jacobian_frobenius)
        low, estimate, high, scale, jacobian = (np.nanmedian(v) for v in values)
        row = f"{low:8.2f}{estimate:10.2f}{high:8.2f}{scale:8.2f}{jacobian:10.2f}{1000 * error(vae, X):14.1f}"
        print(f"  {name:30}{row}")
    for name, margin in margins.items():
        good = ~margin.abstained
        share = np.mean(margin.lower[good] <= margin.upper[good])
        print(f"  {name}: lower <= attack in {share:.0%} of {good.sum()} digits, {margin.abstained.sum()} abstained")


options = {"r": RADIUS, "methods": ("theorem1", "second_order", "linearized", "attack"), "random_state": 0}
margins = {}
for name, vae in models.items():
    print(f"Margins of {len(X_test)} digits: {name} ...", file=sys.stderr, flush=True)
    margins[name] = robustness_margin(vae, X_test, **options)
print_table(models, margins, X_test)

# %%
# Do the bounds hold?
# -------------------
# On the left, each point is a digit: both bounds lie below the diagonal, and the estimate on both sides of it. On the
# right is the damage that an attack of each norm does.


def plot_margins(margins, models, X, path):
    """Draw bounds against the attack, and damage against the norm of the change."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(12.5, 4.6), layout="constrained")
    name = next(iter(models))
    MarginDisplay.from_margin(margins[name], ax=left)
    left.set_title("Bounds lie below what the attack finds")
    radii = [0.25, 0.5, 1, 1.5, 2, 3]
    AttackDisplay.from_estimator(models, X[:64], max_norms=radii, bounds=(0, 1), n_steps=20, random_state=0, ax=right)
    right.set_title("Damage: less with a larger beta or tau")
    figure.savefig(path, dpi=130)


plot_margins(margins, models, X_test, FOLDER / "margins.png")

# %%
# How many digits are safe?
# -------------------------
# At each norm, a digit is certified, broken or neither. Certificates take longer than first-order bounds, so they are
# computed for fewer digits, from fewer draws.


def plot_curves(models, X, path):
    """Draw the shares of digits that are certified, unknown and broken, against the norm of the change."""
    options = {"r": RADIUS, "methods": ("proven", "linearized", "attack"), "n_draws": 2000, "random_state": 0}
    margins = {name: robustness_margin(vae, X, **options) for name, vae in models.items()}
    figure, (left, right) = plt.subplots(1, 2, figsize=(12.5, 4.2), layout="constrained")
    name = next(iter(margins))
    shares = RobustnessCurveDisplay.from_margin(margins[name], ax=left).share_at(0.5)["model"]
    left.set_title(f"{name}: {shares['certified']:.0%} certified at norm 0.5")
    RobustnessCurveDisplay.from_margin(margins, ax=right)
    right.set_title("Two models: the further right, the more robust")
    figure.savefig(path, dpi=130)


print("Certificates of 32 digits for two models ...", file=sys.stderr, flush=True)
two = {name: models[name] for name in ("BetaVAE, beta=1.5", "BetaVAE, beta=0.25")}
plot_curves(two, X_test[:32], FOLDER / "curves.png")

# %%
# What does the worst change look like?
# -------------------------------------
# One digit of each kind, the change that moves its reconstruction most, and what the model makes of the sum.


def plot_attack(vae, X, path):
    """Draw ten digits, the worst change of norm 1.5 to each, and the reconstructions after it."""
    result = max_damage_attack(vae, X, max_norm=1.5, bounds=(0, 1), random_state=0)
    print(f"\n{result}")
    display = ReconstructionDisplay.from_attack(vae, X, result)
    display.figure_.suptitle("The change of norm 1.5 that moves each reconstruction most")
    display.figure_.savefig(path, dpi=130)


ten = X_test[[np.flatnonzero(y_test == digit)[0] for digit in range(10)]]
plot_attack(models["plain torch module"], ten, FOLDER / "attack.png")
names = ", ".join(str(FOLDER / f"{name}.png") for name in ("margins", "curves", "attack"))
print(f"\nFigures: {names}   ({time.perf_counter() - start:.0f} s)")
