"""
Find anomalies, and calibrate the uncertainty
=============================================

The first part looks for malignant tumors among benign ones. It compares how well several detectors rank them, finds
rows at a chosen false discovery rate (the expected share of false alarms among the rows found), and says what makes a
row unusual. The second part finds lesions in simulated slices of a head, pixel by pixel. The third part draws how many
held-out values lie in the model's intervals, before and after calibration.
"""

import sys
import time
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import IsolationForest
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler

from riskvae import QuantileVAE
from riskvae.datasets import make_heteroscedastic, make_lesions
from riskvae.plotting import AnomalyMapDisplay, CalibrationDisplay

SIDE = 32

# Where figures are written.
FOLDER = Path(sys.argv[1] if len(sys.argv) > 1 else "demo")
FOLDER.mkdir(exist_ok=True)
start = time.perf_counter()


# %%
# Which tumors are malignant?
# ---------------------------
# The detector is trained on benign tumors alone. Other benign tumors calibrate it, so that the false discovery rate
# holds on average.


def tumors():
    """Return benign rows to train, calibrate and test with, malignant rows to find, and the names of the features."""
    data = load_breast_cancer()
    benign, malignant = data.data[data.target == 1], data.data[data.target == 0]
    train, others = train_test_split(benign, test_size=0.5, random_state=0)
    held_out, test = train_test_split(others, test_size=0.4, random_state=0)
    scaler = StandardScaler().fit(train)
    return [scaler.transform(rows) for rows in (train, held_out, test, malignant)], data.feature_names


def print_ranking(vae, train, rows, truth):
    """Print the area under the curve of detectors that were trained on benign rows alone."""
    forest = IsolationForest(random_state=0).fit(train)
    neighbors = NearestNeighbors(n_neighbors=5).fit(train)
    scores = {
        "QuantileVAE": -vae.score_samples(rows),
        "5 nearest neighbors": neighbors.kneighbors(rows)[0][:, -1],
        "isolation forest": -forest.score_samples(rows),
    }
    print("\nTrained on benign tumors alone: area under the curve of malignant against benign ones")
    for name, values in scores.items():
        print(f"  {name:22}{roc_auc_score(truth, values):.3f}")


def print_detection(vae, rows, truth, n_calibration):
    """Print what is found at several false discovery rates."""
    print(
        f"\nRows found among {len(rows)}, {truth.sum()} of them malignant; calibrated with {n_calibration} benign rows"
    )
    print("  false discovery rate   found   false among them   share of the malignant")
    for fdr in (0.1, 0.2):
        found = vae.detect(rows, fdr)
        false = (found & ~truth).sum() / max(found.sum(), 1)
        print(f"  {fdr:20.2f}{found.sum():8d}{false:19.3f}{(found & truth).sum() / truth.sum():25.3f}")
    flagged = vae.predict(rows) == -1
    print(f"  predict, 'auto'     {flagged.sum():8d}{(flagged & ~truth).sum() / flagged.sum():19.3f}", end="")
    print(f"{(flagged & truth).sum() / truth.sum():25.3f}")


(train, held_out, benign, malignant), names = tumors()
rows = np.vstack((benign, malignant))
truth = np.arange(len(rows)) >= len(benign)
vae = QuantileVAE(random_state=0).fit(train).conformalize(held_out)
print_ranking(vae, train, rows, truth)
print_detection(vae, rows, truth, len(held_out))

# %%
# Why is a row found?
# -------------------
# Its values are compared with the medians that the model expects of them.


def print_reasons(vae, rows, names):
    """Print the features that make a row unusual; the row is one from the middle of those found."""
    row = np.argsort(vae.score_samples(rows))[len(rows) // 4]
    z = vae.z_scores(rows[row : row + 1])[0]
    print("\nWhy one of the rows found is unusual: distances from medians, in standard deviations")
    for j in np.argsort(-np.abs(z))[:4]:
        print(f"  {names[j]:24}{z[j]:+7.1f}")


print_reasons(vae, rows, names)

# %%
# Where is the lesion?
# --------------------
# Pixels are tested one by one. Brightness alone ranks them worse, because other tissue is bright, too.


def lesions(folder):
    """Find lesions in slices of simulated heads, with a model that was trained on healthy ones."""
    healthy = make_lesions(1500, size=SIDE, n_lesions=0, random_state=0)
    ill = make_lesions(200, size=SIDE, random_state=1)
    options = {"hidden_layer_sizes": (256, 128), "max_epochs": 150, "random_state": 0}
    others = make_lesions(300, size=SIDE, n_lesions=0, random_state=2)
    vae = QuantileVAE(n_components=16, **options).fit(healthy.data).conformalize(others.data)
    inside, truth = ill.inside, ill.lesions[ill.inside]
    found = vae.detect_features(ill.data, fdr=0.05, alternative="greater", mask=inside)[inside]
    print(f"\nPixels of lesions in {len(ill.data)} simulated slices of {SIDE} x {SIDE}")
    print(f"  area under the curve: z-scores {roc_auc_score(truth, vae.z_scores(ill.data)[inside]):.3f}", end="")
    print(f", brightness alone {roc_auc_score(truth, ill.data[inside]):.3f}")
    print(f"  at a false discovery rate of .05: {found[truth].mean():.0%} found; ", end="")
    print(f"{1 - truth[found].mean():.0%} of what is found lies outside")
    display = AnomalyMapDisplay.from_estimator(
        vae, ill.data[:8], mask=inside[:8], truth=ill.lesions[:8], alternative="greater"
    )
    display.figure_.suptitle("Lesions, found pixel by pixel where values are higher than expected")
    display.figure_.savefig(folder / "anomaly_maps.png", dpi=130)


lesions(FOLDER)

# %%
# Do the intervals hold what they say?
# ------------------------------------
# On new rows, the quantiles of the model hold more values than they should. After ``conformalize``, intervals hold the
# share that they promise.


def calibration(folder):
    """Draw how many values lie in the intervals, before and after calibration."""
    draws = (make_heteroscedastic(2000, n_features=8, n_latent=1, random_state=seed).data for seed in range(3))
    train, held_out, test = draws
    options = {"n_components": 1, "hidden_layer_sizes": (50,), "random_state": 0}
    wide = QuantileVAE(quantiles=(0.025, 0.15, 0.5, 0.85, 0.975), max_epochs=150, **options).fit(train)
    alphas = np.linspace(0.05, 0.95, 10)
    display = CalibrationDisplay.from_estimator({"quantiles of the model": wide}, test, alphas=alphas)
    CalibrationDisplay.from_estimator({"conformal": wide.conformalize(held_out)}, test, alphas=alphas, ax=display.ax_)
    display.ax_.set_title("Conformal intervals hold what they promise")
    display.figure_.savefig(folder / "calibration.png", dpi=130)


calibration(FOLDER)
plt.close("all")
print(f"\nFigures: {FOLDER / 'anomaly_maps.png'}, {FOLDER / 'calibration.png'}   ", end="")
print(f"({time.perf_counter() - start:.0f} s)")
