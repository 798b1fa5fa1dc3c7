"""Score rows of numbers from standard input with a saved model: a line of commas in, a line with score and verdict out.

python examples/score_rows.py model.riskvae < rows.csv
"""

import sys

import numpy as np

import riskvae


def main(path):
    """Load the model once, and answer line by line."""
    vae = riskvae.load(path, device="cpu")
    for line in sys.stdin:
        try:
            row = np.array(line.split(","), dtype=float)[None]
            print(f"{vae.score_samples(row)[0]:.4f},{'inlier' if vae.predict(row)[0] == 1 else 'outlier'}", flush=True)
        except ValueError as error:  # of another length, or no numbers
            print(f"error: {str(error).splitlines()[0]}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
