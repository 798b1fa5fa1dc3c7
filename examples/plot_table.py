"""
From a CSV file to a decision
=============================

The table holds the orders of a shop as they are exported: words, numbers in different units, skewed columns and missing
values. About one row in ten has a wrong value. Which rows should somebody look at, and which value of each?
"""

import sys
import tempfile
import time
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from riskvae import QuantileVAE
from riskvae.likelihoods import Mixed
from riskvae.plotting import ExplanationDisplay

# The first orders of the file are known to be right.
CHECKED = 500

# Where figures are written.
FOLDER = Path(sys.argv[1] if len(sys.argv) > 1 else "demo")
FOLDER.mkdir(parents=True, exist_ok=True)
start = time.time()


# %%
# A file of orders
# ----------------
# The first orders are known to be right. Later ones have misplaced decimal points, wrong countries and late deliveries.


def write_orders(path, n=3500, seed=0):
    """Write orders to a CSV file; return the name of the wrong value of each row, or "" where none is wrong."""
    rng = np.random.default_rng(seed)
    size, far = rng.normal(size=n), rng.normal(size=n)
    orders = pd.DataFrame(
        {
            "customer": np.where(size + 0.3 * rng.normal(size=n) > 0.7, "company", "private"),
            "articles": 1 + rng.poisson(np.exp(1 + 0.7 * size)),
            "price": np.exp(4 + size + 0.15 * rng.normal(size=n)).round(2),
            "weight": np.exp(1 + 0.9 * size + 0.15 * rng.normal(size=n)).round(1),
            "country": np.select([far > 1.0, far > 0.3], ["Norway", "Austria"], "Switzerland"),
            "days": (2 + 3 * (far > 0.3) + 4 * (far > 1.0) + rng.integers(0, 2, n)).astype(float),
        }
    )
    wrong = np.where(
        rng.random(n) < np.where(np.arange(n) < CHECKED, 0.0, 0.1),
        rng.choice(["price", "weight", "country", "days"], n),
        "",
    )
    for name in ("price", "weight"):
        orders.loc[wrong == name, name] *= rng.choice([0.01, 100.0], (wrong == name).sum())  # a misplaced decimal point
    orders.loc[wrong == "days", "days"] += 30
    other = orders["country"].map({"Norway": "Switzerland", "Austria": "Norway", "Switzerland": "Norway"})
    orders.loc[wrong == "country", "country"] = other[wrong == "country"]
    orders.mask(rng.random(orders.shape) < 0.05).to_csv(path, index=False)  # one value in twenty is missing
    return wrong


scratch = tempfile.TemporaryDirectory()
wrong = write_orders(Path(scratch.name) / "orders.csv")

# %%
# Which rows should somebody look at?
# -----------------------------------
# This function does all of the work: words, counts, amounts and missing values go in as they are.


def decide(path):
    """Read the file, fit a model, calibrate it, find unusual rows and explain them."""
    orders = pd.read_csv(path).dropna(how="all")
    checked, known, new = orders.iloc[:CHECKED], orders.iloc[CHECKED:-500], orders.iloc[-500:]
    detector = QuantileVAE(likelihood=Mixed.from_frame(orders), random_state=0)
    detector.fit(known)  # including wrong rows
    detector.conformalize(checked)  # rows that somebody has checked
    found = new[detector.detect(new, fdr=0.1)]  # about one in ten of these is a false alarm
    return detector, new, found, detector.explain(found)


detector, new, found, why = decide(Path(scratch.name) / "orders.csv")
scratch.cleanup()

# %%
# Are they the wrong ones?
# ------------------------
# The rows found are compared with those that are really wrong, which only an example can know.

truth = pd.Series(wrong).loc[new.index]
print(f"{len(new)} new orders, {(truth != '').sum()} of them wrong; {len(found)} found, ", end="")
print(f"{(truth[found.index] == '').sum()} of them false alarms")
top = why.loc[why.groupby("row")["share"].idxmax()].set_index("row")
real = found.index[truth[found.index] != ""]
print(f"the wrong value is named first in {(top['feature'] == truth[found.index])[real].mean():.0%} of those found\n")
shown = top.join(truth.rename("wrong in truth")).head(8)
print(shown[["feature", "value", "expected", "p", "share", "wrong in truth"]].round(3).to_string())

# %%
# Which value of each?
# --------------------
# For one row, values are drawn among the intervals where they were expected. For several rows, a map has the share of
# each value in the score of its row.

ExplanationDisplay.from_estimator(detector, found.loc[[real[0]]])
plt.savefig(FOLDER / "table_row.png", dpi=120, bbox_inches="tight")
# sphinx_gallery_thumbnail_number = 2
ExplanationDisplay.from_estimator(detector, found.head(20))
plt.savefig(FOLDER / "table_rows.png", dpi=120, bbox_inches="tight")
print(f"\nfigures in {FOLDER}; {time.time() - start:.0f} s")
