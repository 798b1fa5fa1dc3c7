"""What robustness costs in time: the Lipschitz penalty in training, refined posteriors in encoding.

    python benchmarks/levers.py [--json FILE] [--rounds 7] [--rows 5000] [--steps 10]

Processor time of one thread, in which other processes hardly show: an epoch of the default BetaVAE with the penalty
over one without, and encoding with refinement over plain encoding. They take turns; medians of the rounds. Images are
those of MNIST where RISKVAE_DATA is set, else random; the table has 30 random columns.
"""

import argparse
import json
import statistics
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from machine import load, machine
from training import load_rows

from riskvae import BetaVAE


def spent(function):
    """Seconds of processor time that a call takes."""
    start = time.process_time()
    function()
    return time.process_time() - start


def measure(X, rounds, steps, **options):
    """Median ratios of one kind of data, and milliseconds for a refined row."""
    models = {weight: BetaVAE(10, lipschitz_penalty=weight, random_state=0, **options) for weight in (0.0, 3.0)}
    for model in models.values():
        model.partial_fit(X)  # what only a first epoch does
    rows = X[:1000]
    penalty, refined, took = [], [], []
    for _ in range(rounds):
        epochs = {weight: spent(lambda model=model: model.partial_fit(X)) for weight, model in models.items()}
        penalty.append(epochs[3.0] / epochs[0.0])
        plain, took_now = (spent(lambda n=n: models[0.0].encode(rows, refine=n)) for n in (0, steps))
        refined.append(took_now / plain)
        took.append(1000 * took_now / len(rows))
    return {
        "penalty": statistics.median(penalty),
        "refined": statistics.median(refined),
        "milliseconds_per_refined_row": statistics.median(took),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--rows", type=int, default=5000)
    parser.add_argument("--steps", type=int, default=10)
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # one epoch is too little, which is no matter here
    table = np.random.default_rng(0).normal(size=(args.rows, 30)).astype(np.float32)
    data = {"images": (load_rows(args.rows), {"likelihood": "bernoulli"}), "table": (table, {})}
    document = {"machine": machine(), "load": load(), "rounds": args.rounds, "rows": args.rows, "steps": args.steps}
    for name, (X, options) in data.items():
        document[name] = found = measure(X, args.rounds, args.steps, **options)
        print(
            f"{name}: an epoch with lipschitz_penalty=3 takes {found['penalty']:.1f} times as long; encoding with "
            f"refine={args.steps} {found['refined']:.0f} times, {found['milliseconds_per_refined_row']:.2f} ms a row",
            flush=True,
        )
    if args.json:
        args.json.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
