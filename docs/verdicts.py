"""Draw ``images/verdicts.png``: how small a change hides an anomaly, and how small a one makes a false alarm.

Run it as ``python docs/verdicts.py`` where the environment variable ``RISKVAE_DATA`` names a folder with ADBench's
tables.
"""

import os
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import numpy as np
from sklearn.preprocessing import StandardScaler

from riskvae import QuantileVAE, verdict_margin
from riskvae.plotting import VerdictMarginDisplay

PICTURE = Path(__file__).parent / "images" / "verdicts.png"
TABLE, N_ROWS = "7_Cardiotocography", 80
# Values of fewer kinds than this share of the rows are no measurements, and are left as they are.
FEW = 0.02


def main():
    """Fit, examine some rows of either verdict, print and draw."""
    table = np.load(Path(os.environ["RISKVAE_DATA"]) / "adbench" / f"{TABLE}.npz")
    X = StandardScaler().fit_transform(table["X"])
    measured = np.array([len(np.unique(column)) > FEW * len(X) for column in X.T])
    vae = QuantileVAE(random_state=0).fit(X)
    verdict = vae.predict(X)
    rows = np.concatenate([np.flatnonzero(verdict == side)[:N_ROWS] for side in (-1, 1)])
    margin = verdict_margin(vae, X[rows], mask=measured, random_state=0)
    print(f"{TABLE}: {measured.sum()} of {X.shape[1]} features may change")
    print(margin)
    display = VerdictMarginDisplay.from_margin(margin)
    display.ax_.set_xlabel("size of the change (norm 2; 1 is a standard deviation of one feature)")
    display.figure_.savefig(PICTURE, dpi=130)


if __name__ == "__main__":
    main()
