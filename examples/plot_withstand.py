"""
Train a model that withstands more
==================================

An attack looks for the smallest change of a digit that moves its reconstruction by more than ``r``.
``lipschitz_penalty`` makes the change that it needs larger, at little cost in reconstruction error.
"""

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from riskvae import BetaVAE, robustness_margin
from riskvae.metrics import row_losses

FOLDER = Path(sys.argv[1] if len(sys.argv) > 1 else "demo")
FOLDER.mkdir(exist_ok=True)

# %%
# Three strengths of the penalty
# ------------------------------
# The penalty charges a model for moving a reconstruction farther than its row was moved. It is in nats per row, as the
# loss is.

X, X_test = train_test_split((load_digits().data / 16).astype("float32"), test_size=0.25, random_state=0)
setting = {"n_components": 8, "hidden_layer_sizes": (64, 32), "max_epochs": 60, "lr": 3e-3, "random_state": 0}
models = {penalty: BetaVAE(lipschitz_penalty=penalty, **setting).fit(X) for penalty in (0.0, 3.0, 10.0)}

# %%
# What an attack needs
# --------------------
# ``upper`` is the norm of the smallest change with which an attack on a digit succeeds.

margins, errors = {}, {}
for penalty, vae in models.items():
    margin = robustness_margin(vae, X_test[:32], r=1.5, methods=("attack",), n_draws=1000, random_state=0)
    margins[penalty], errors[penalty] = margin.upper, 1000 * row_losses(vae, X_test).mean()
    print(f"penalty {penalty:4g}: attack needs {np.median(margin.upper):.2f} (median of 32 digits); ", end="")
    print(f"error x 1000: {errors[penalty]:.1f}")

# %%
# Digit by digit
# --------------
# A dot is a digit, and a line the median. Every digit gains.

figure, ax = plt.subplots(figsize=(7.5, 3.4), layout="constrained")
places = np.random.default_rng(0).uniform(-0.22, 0.22, 32)
for row, (penalty, upper) in enumerate(margins.items()):
    color = "0.45" if penalty == 0 else "C3"
    ax.scatter(upper, row + places, s=22, color=color, alpha=0.6, linewidths=0)
    ax.plot([np.median(upper)] * 2, [row - 0.36, row + 0.36], color=color, lw=3)
    ax.text(np.median(upper), row - 0.44, f"{np.median(upper):.2f}", color=color, ha="center", weight="bold")
ax.set_yticks(range(3), [f"penalty {penalty:g}\nerror {errors[penalty]:.1f}" for penalty in margins])
ax.set(xlim=(0, None), xlabel="change that the attack needs (better →)", ylim=(2.6, -0.75))
ax.spines[["top", "right"]].set_visible(False)
figure.savefig(FOLDER / "withstand.png", dpi=110)
