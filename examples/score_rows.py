"""Score rows with a saved model: reads lines of comma-separated numbers, writes a score and a verdict for each.

    python examples/score_rows.py model.riskvae [scaler.npz] < rows.csv

Rows come from standard input. If the model was fitted to rows from a StandardScaler, scaler.npz holds the numbers of
that scaler, written by np.savez("scaler.npz", mean=scaler.mean_, scale=scaler.scale_). The first line may name the
columns. An empty cell is a missing value. Detectors (QuantileVAE) give a score and a verdict, other models a score
alone.
"""

import sys
import warnings

import numpy as np

import riskvae


def main(path, scaler=None):
    """Load the model once, and answer line by line; return 1 if some line could not be answered."""
    vae, failed = riskvae.load(path, device="cpu"), 0
    units = np.load(scaler) if scaler else {"mean": 0.0, "scale": 1.0}
    warnings.filterwarnings("ignore", "X does not have valid feature names")  # the names are compared below
    for number, line in enumerate(sys.stdin, 1):
        cells = line.strip("\ufeff\r\n").split(",")
        if number == 1 and cells == list(getattr(vae, "feature_names_in_", ())):
            continue
        try:
            row = (np.array([[cell.strip() or "nan" for cell in cells]], float) - units["mean"]) / units["scale"]
            answer = f"{vae.score_samples(row)[0]:.4f}"
            if hasattr(vae, "predict"):
                answer += ",outlier" if float(answer) < vae.offset_ else ",inlier"
        except ValueError as error:  # wrong number of cells, or cells that are not numbers
            answer, failed = f"error in line {number}: {str(error).splitlines()[0][:100]}", 1
        print(answer, flush=True)
    return failed


if __name__ == "__main__":
    if not 2 <= len(sys.argv) <= 3 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    try:
        sys.exit(main(*sys.argv[1:]))
    except (OSError, ValueError) as error:
        sys.exit(str(error))
