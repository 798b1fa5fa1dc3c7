"""Score rows from standard input by a saved model: lines of comma-separated numbers in, score and verdict out.

    python examples/score_rows.py model.riskvae [scaler.npz] < rows.csv

scaler.npz has the numbers of the StandardScaler that the model was fitted behind, written by
np.savez("scaler.npz", mean=scaler.mean_, scale=scaler.scale_). The first line may name the columns; an empty cell is a
missing value. Detectors (QuantileVAE) give a verdict, other models a score alone.
"""

import sys
import warnings

import numpy as np

import riskvae


def main(path, scaler=None):
    """Load the model once, and answer line by line; 1 if a line could not be answered."""
    vae, failed = riskvae.load(path, device="cpu"), 0
    units = np.load(scaler) if scaler else {"mean": 0.0, "scale": 1.0}
    warnings.filterwarnings("ignore", "X does not have valid feature names")  # they are compared here
    for number, line in enumerate(sys.stdin, 1):
        cells = line.strip("\ufeff\r\n").split(",")
        if number == 1 and cells == list(getattr(vae, "feature_names_in_", ())):
            continue
        try:
            row = (np.array([[cell.strip() or "nan" for cell in cells]], float) - units["mean"]) / units["scale"]
            answer = f"{vae.score_samples(row)[0]:.4f}"
            if hasattr(vae, "predict"):
                answer += ",outlier" if float(answer) < vae.offset_ else ",inlier"
        except ValueError as error:  # of another length, or no numbers
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
