"""
Did the training go well?
=========================

``summary`` says after ``fit`` what came out: epochs, rate, active coordinates of the code, noise. Learning curves show
how it came about. Here, one training goes well, and one ends in a *posterior collapse*: the weight of the KL term,
``beta``, is so large that nothing is encoded.
"""

import sys
import warnings
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from riskvae import BetaVAE
from riskvae.plotting import LearningCurveDisplay

FOLDER = Path(sys.argv[1] if len(sys.argv) > 1 else "demo")
FOLDER.mkdir(exist_ok=True)

# %%
# A training that goes well
# -------------------------
# A tenth of the rows is held out, to see whether the model overfits the others.

X, X_test = train_test_split(load_digits().data / 16, test_size=0.25, random_state=0)
setting = {"n_components": 8, "hidden_layer_sizes": (64,), "lr": 3e-3, "early_stopping": True, "random_state": 0}
good = BetaVAE(**setting).fit(X)
print(good.summary())

# %%
# Its curves
# ----------
# Both losses fall together, so the model does not overfit. All eight coordinates of the code are in use throughout.

display = LearningCurveDisplay.from_estimator(good)
display.figure_.savefig(FOLDER / "learning.png", dpi=110)

# %%
# A training that collapses
# -------------------------
# ``fit`` warns. The message names what to change.

with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    collapsed = BetaVAE(beta=60.0, **setting).fit(X)
for warning in told:
    print(str(warning.message)[:108], "...")

# %%
# Side by side
# ------------
# The number of active coordinates tells the two apart within the first epochs.

# sphinx_gallery_thumbnail_number = 2
figure, ax = plt.subplots(figsize=(7, 3.6), layout="constrained")
for name, vae, color in (("beta = 1", good, "C0"), ("beta = 60", collapsed, "C3")):
    epochs, active = zip(
        *[(entry["epoch"], entry["active"]) for entry in vae.history_ if "active" in entry], strict=True
    )
    ax.plot(epochs, active, color=color, lw=2.5)
    ax.annotate(name, (epochs[-1], active[-1]), (6, 0), textcoords="offset points", color=color, va="center")
ax.set(xlabel="epoch", ylabel="active coordinates of 8", ylim=(-0.3, 8.6), title="A code in use, and a collapsed one")
ax.margins(x=0.15)
ax.set_xlim(left=0)
ax.spines[["top", "right"]].set_visible(False)
figure.savefig(FOLDER / "collapse.png", dpi=110)
