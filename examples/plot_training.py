"""
Train with networks and a schedule of your own
==============================================

Networks are functions that return a torch module. A schedule of the learning rate is a callback. Training can stop by
itself when held-out rows stop improving, and can go on later. This example puts these together, and compares
convolutions with the default network on digits.
"""

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from skorch.callbacks import LRScheduler
from torch import nn

from riskvae import BetaVAE
from riskvae.metrics import row_losses
from riskvae.nets import conv_decoder, conv_encoder

FOLDER = Path(sys.argv[1] if len(sys.argv) > 1 else "demo")
FOLDER.mkdir(exist_ok=True)

# %%
# Three kinds of networks
# -----------------------
# A factory takes the widths of what goes in and what comes out. The encoder has two outputs for each coordinate of the
# code, its mean and its scale; the estimator asks for the right width.


def small_net(n_in, n_out):
    """Return a network with one hidden layer."""
    return nn.Sequential(nn.Linear(n_in, 32), nn.SiLU(), nn.Linear(32, n_out))


networks = {
    "own, 32 units": {"encoder": small_net, "decoder": small_net},
    "default": {},
    "convolutions": {"encoder": conv_encoder, "decoder": conv_decoder},
}

# %%
# A schedule, and an end
# ----------------------
# The learning rate shrinks by 5 % in each epoch. Training ends when five epochs in a row bring less than ``tol`` on
# held-out rows, and the best weights are kept.

X, X_test = train_test_split(load_digits().data / 16, test_size=0.25, random_state=0)
models = {}
for name, nets in networks.items():
    schedule = [LRScheduler("ExponentialLR", gamma=0.95)]
    options = {"lr": 6e-3, "batch_size": 128, "max_epochs": 100, "early_stopping": True, "tol": 0.05}
    vae = BetaVAE(8, callbacks=schedule, random_state=0, **options, **nets).fit(X)
    models[name] = vae
    print(f"{name:14} {vae.n_iter_:3d} epochs, kept {vae.best_iter_:3d}; ", end="")
    print(f"test error x 1000: {1000 * row_losses(vae, X_test).mean():.1f}")

# %%
# Held-out loss by epoch
# ----------------------
# Dots mark the epoch whose weights were kept.

figure, ax = plt.subplots(figsize=(7.5, 3.8), layout="constrained")
for (name, vae), color in zip(models.items(), ("0.45", "C0", "C3"), strict=True):
    losses = [entry["valid_loss"] for entry in vae.history_]
    ax.plot(range(1, len(losses) + 1), losses, color=color, lw=2)
    ax.plot(vae.best_iter_, losses[vae.best_iter_ - 1], "o", color=color)
    ax.annotate(name, (len(losses), losses[-1]), (6, 0), textcoords="offset points", color=color, va="center")
ax.set(xlabel="epoch", ylabel="held-out loss (nats per row)", title="Lower is better")
ax.margins(x=0.2)
ax.set_xlim(left=0)
ax.spines[["top", "right"]].set_visible(False)
figure.savefig(FOLDER / "training.png", dpi=110)
