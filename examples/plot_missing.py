"""
Fill in missing values
======================

Every estimator takes NaN as a value that is not known. Here a fifth of a table's values are hidden. ``impute`` fills
them in, and says by random draws how sure it is. As the values are known, the errors can be compared with those of
other imputers.
"""

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.impute import KNNImputer, SimpleImputer
from sklearn.preprocessing import StandardScaler

from riskvae import BetaVAE

FOLDER = Path(sys.argv[1] if len(sys.argv) > 1 else "demo")
FOLDER.mkdir(exist_ok=True)

# %%
# A table with missing values
# ---------------------------
# The columns have unit variance, so an error of 1 is what the mean of a column gives.

X = StandardScaler().fit_transform(load_breast_cancer().data)
missing = np.random.default_rng(0).random(X.shape) < 0.2
table = np.where(missing, np.nan, X)
print(
    f"{len(table)} rows, {missing.sum()} of {missing.size} values missing, in {missing.any(axis=1).mean():.0%} of rows"
)

# %%
# Three ways to fill them
# -----------------------
# The model learns from the values that are there. No row is dropped.

vae = BetaVAE(hidden_layer_sizes=(128,), lr=3e-3, random_state=0).fit(table)
answers = {
    "mean of the column": SimpleImputer().fit_transform(table),
    "nearest neighbors": KNNImputer().fit_transform(table),
    "BetaVAE": vae.impute(table),
}
errors = {name: np.sqrt(np.mean((filled - X)[missing] ** 2)) for name, filled in answers.items()}
for name, error in errors.items():
    print(f"{name:20} error {error:.2f}")

# %%
# How sure is it?
# ---------------
# Fifty completed tables differ where the values are uncertain. The range of nine draws in ten should hold nine hidden
# values in ten.

draws = vae.impute(table, n_draws=50, random_state=0)[:, missing]
low, high = np.quantile(draws, [0.05, 0.95], axis=0)
held = np.mean((low <= X[missing]) & (X[missing] <= high))
print(f"90 % ranges of the draws hold {held:.0%} of the hidden values")

# %%
# Filled values against true ones
# -------------------------------
# The nearer to the diagonal, the better.

figure, axes = plt.subplots(1, 3, figsize=(10.5, 3.7), sharex=True, sharey=True, layout="constrained")
for ax, (name, filled) in zip(axes, answers.items(), strict=True):
    color = "C3" if name == "BetaVAE" else "0.45"
    ax.plot([-3, 5], [-3, 5], color="0.8", lw=1.5, zorder=0)
    ax.scatter(X[missing], filled[missing], s=4, alpha=0.4, color=color, linewidths=0)
    ax.set(xlim=(-3, 5), ylim=(-3, 5), xlabel="true value", aspect="equal")
    ax.set_title(f"{name}: error {errors[name]:.2f}", color=color)
    ax.spines[["top", "right"]].set_visible(False)
axes[0].set_ylabel("filled in")
figure.savefig(FOLDER / "missing.png", dpi=110)
