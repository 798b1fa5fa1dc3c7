"""Grids of many small models: fitted by joblib's processes, and as one stacked model by ``batched_fits``.

    python benchmarks/grids.py [--json FILE] [--rounds 3] [--jobs 2] [--candidates 16] [--device cpu]
                               [--networks NAME ...]

The demo's grid: digits scaled to [0, 1], RiskAwareVAE over four eps and four beta, three folds, its scores (a
classifier and the tail of the error) and all; 150 epochs. Other networks are tried on the same rows with 20 epochs.
Both ways take turns, in this process, whose workers are started before the clock. Each worker has one thread.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler

from riskvae import RiskAwareVAE, batched_fits
from riskvae.metrics import tail_loss_scorer

NETWORKS = {"64, the demo's": ((64,), 150), "256-128": ((256, 128), 20), "512-256": ((512, 256), 20)}
EPS, BETAS, BAR = [0.2, 0.4, 0.7, 1.0], [0.5, 1.0, 2.0, 4.0], 2.0


def search(X, y, widths, epochs, args):
    """The demo's search, without the last fit to all rows."""
    vae = RiskAwareVAE(4, hidden_layer_sizes=widths, max_epochs=epochs, lr=2e-3, random_state=0, device=args.device)
    pipe = make_pipeline(MinMaxScaler(clip=True), vae, LogisticRegression(max_iter=1000))
    grid = {"riskawarevae__beta": BETAS[: args.candidates // len(EPS)], "riskawarevae__eps": EPS}
    scoring = {"accuracy": "accuracy", "worst_tenth": tail_loss_scorer(0.1)}
    return GridSearchCV(pipe, grid, scoring=scoring, refit=False, cv=3, n_jobs=args.jobs).fit(X, y)


def times(X, y, widths, epochs, args):
    """Wall-clock and processor seconds (with workers'), and the scores, by either way."""
    found = {}
    for name in ("processes", "batched"):
        start, before = time.perf_counter(), sum(os.times()[:4])
        if name == "batched":
            with batched_fits():
                result = search(X, y, widths, epochs, args)
        else:
            result = search(X, y, widths, epochs, args)
        found[name] = {
            "seconds": time.perf_counter() - start,
            "processor seconds": sum(os.times()[:4]) - before,  # of workers once they have ended only
            "scores": result.cv_results_["mean_test_worst_tenth"].tolist(),
        }
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--candidates", type=int, default=16, help="a multiple of 4")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--networks", nargs="+", choices=tuple(NETWORKS), default=list(NETWORKS), metavar="NAME")
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    os.environ["PYTHONWARNINGS"] = "ignore"
    X, y = load_digits(return_X_y=True)
    search(X[:300], y[:300], (8,), 1, args)  # starts the workers
    document = {**vars(args), "processor": platform.processor(), "threads": torch.get_num_threads(), "rounds of": {}}
    print(f"{args.candidates} candidates, 3 folds, n_jobs={args.jobs}, {args.device}, torch {torch.__version__}")
    print("\n| network | processes, s | batched, s | faster by (min-max) | scores differ by |\n|---|---|---|---|---|")
    for name in args.networks:
        rounds = [times(X, y, *NETWORKS[name], args) for _ in range(args.rounds)]
        ratios = [r["processes"]["seconds"] / r["batched"]["seconds"] for r in rounds]
        a, b = (statistics.median(r[way]["seconds"] for r in rounds) for way in ("processes", "batched"))
        scores = [np.array(rounds[0][way]["scores"]) for way in ("processes", "batched")]
        away = np.abs(scores[0] / scores[1] - 1).max()
        bar = f", asked for {BAR:g}" if "demo" in name else ""
        middle = statistics.median(ratios)
        print(f"| {name} | {a:.1f} | {b:.1f} | {middle:.2f} ({min(ratios):.2f}-{max(ratios):.2f}){bar} | {away:.1%} |")
        sys.stdout.flush()
        document["rounds of"][name] = rounds
    if args.json:
        Path(args.json).write_text(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
