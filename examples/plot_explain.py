"""
Why is a row flagged?
=====================

A detector says which wine is unusual. ``explain`` says which of its values make it so: what each value should have
been, given the other values of the row, and whether the row would be an outlier without it.
"""

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from sklearn.datasets import load_wine
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from riskvae import QuantileVAE, explain
from riskvae.plotting import ExplanationDisplay

FOLDER = Path(sys.argv[1] if len(sys.argv) > 1 else "demo")
FOLDER.mkdir(exist_ok=True)

# %%
# A wine with a wrong value
# -------------------------
# Two values of one wine are changed. Its ash becomes much larger than that of any such wine. Its proline becomes one
# that other wines have, but not wines like this one.

X = load_wine(as_frame=True).data
detector = QuantileVAE(calibration_fraction="cross", random_state=0)
pipe = make_pipeline(StandardScaler(), detector).fit(X)
wine = X.iloc[[17]].assign(ash=4.5, proline=350)
print(f"ash was {X.ash[17]}, and proline {X.proline[17]:.0f}")
print("flagged" if pipe.predict(wine)[0] == -1 else "not flagged")

# %%
# Which values?
# -------------
# ``expected`` comes from a model that has not seen the value. ``share`` is the part of the row's score that the value
# accounts for. A ``cause`` is a value without which the row would not be flagged.

table = explain(pipe, wine, alpha=0.1)
print(table.nlargest(4, "share").round(2).to_string(index=False))

# %%
# The same as a picture
# ---------------------
# Bands are the intervals that hold nine values in ten, given the other values of the row. The cause is red.

display = ExplanationDisplay.from_estimator(pipe, wine)
display.figure_.savefig(FOLDER / "why.png", dpi=120, bbox_inches="tight")
