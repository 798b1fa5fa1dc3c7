"""Draw ``images/verdicts.png``: how small a change hides an anomaly, and how small a one makes a false alarm.

Run it as ``python docs/verdicts.py`` where the environment variable ``RISKVAE_DATA`` names a folder with ADBench's
tables.
"""

import os
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from sklearn.preprocessing import StandardScaler

from riskvae import QuantileVAE, verdict_margin
from riskvae.plotting import VerdictMarginDisplay

PICTURE = Path(__file__).parent / "images" / "verdicts.png"
TABLE, N_ROWS = "7_Cardiotocography", 80
# Values of fewer kinds than this share of the rows are no measurements, and are left as they are.
FEW = 0.02
# Where to write it, in shares of a panel.
UNKNOWN = {"masking": (0.85, 0.85), "false alarm": (0.76, 0.95)}


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
    draw(VerdictMarginDisplay.from_margin(margin)).savefig(PICTURE, dpi=130)


def draw(both):
    """Each kind in a panel of its own, with the areas named."""
    figure, axes = plt.subplots(1, 2, figsize=(9.5, 4.0), sharex=True, sharey=True, layout="constrained")
    titles = {"masking": "Outliers that pass for inliers", "false alarm": "Inliers that pass for outliers"}
    for (kind, title), ax in zip(titles.items(), axes, strict=True):
        display = VerdictMarginDisplay({kind: both.upper[kind]}, {kind: both.proven[kind]}).plot(ax=ax)
        line = display.lines_[kind]
        ax.fill_between(*line.get_data(), color=line.get_color(), alpha=0.25, lw=0)
        half = both.upper[kind][(len(both.upper[kind]) - 1) // 2]
        ax.set(title=f"{title}: half of them by {half:.2g}", xlabel="")
        ax.text(0.95, 0.1, "flipped", transform=ax.transAxes, ha="right", fontsize="large")
        ax.text(*UNKNOWN[kind], "unknown", transform=ax.transAxes, ha="center", va="center")
        ax.get_legend().remove()
    axes[1].set_ylabel("")
    ends = [ax.get_xlim() for ax in axes]
    axes[0].set_xlim(0.01, max(high for _, high in ends))
    figure.supxlabel("size of the change (norm 2; 1 is a standard deviation of one feature)", fontsize="medium")
    return figure


if __name__ == "__main__":
    main()
