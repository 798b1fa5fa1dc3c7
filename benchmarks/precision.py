"""What lower precision buys on a device, and whether it trains as well: speed and losses against float32.

    python benchmarks/precision.py [--device auto] [--threads 2] [--rows 15360] [--epochs 10] [--seeds 3] [--json FILE]

Trains some networks in each precision, which take turns, seed by seed, on MNIST where RISKVAE_DATA is set, else on
random numbers of its shape. Speed is the ratio of an epoch's median time, with the least and the largest of the seeds.
The loss after the last epoch is compared with that of float32 and the same seed, and the largest difference with
the spread of float32 over seeds. Precisions that gain nothing on the device are named, with the reason.
"""

import argparse
import json
import statistics
import sys
from pathlib import Path

import numpy as np
import torch
from training import BATCH, LATENT, LR, load_rows

import riskvae
from riskvae import BetaVAE, RiskAwareVAE, nets
from riskvae._machine import resolve_device
from riskvae.training._precision import PRECISIONS, precision_on

# Estimators, and of how many rows one is taken.
NETWORKS = {
    "784-512-256, the default": (BetaVAE(), 1),
    "784-128": (BetaVAE(hidden_layer_sizes=(128,)), 1),
    "64-64": (BetaVAE(hidden_layer_sizes=(64,)), 1),
    "convolutions": (BetaVAE(encoder=nets.conv_encoder, decoder=nets.conv_decoder), 8),
    "the default, tail of 8 draws": (RiskAwareVAE(eps=0.1, risk_over="joint", n_subsamples=8), 4),
}


def train(model, X, seed, precision, device, epochs):
    """Median seconds of an epoch, and the loss after the last."""
    parameters = {**model.get_params(), "n_components": LATENT, "batch_size": BATCH, "lr": LR, "max_epochs": epochs}
    parameters |= {"random_state": seed, "precision": precision, "device": str(device)}
    history = type(model)(**parameters).fit(X).history_
    return statistics.median(epoch["dur"] for epoch in history[1:]), history[-1]["train_loss"]


def compare(name, model, X, precisions, device, args):
    """Results of a network by precision."""
    found = {precision: [] for precision in precisions}
    train(model, X[: 2 * BATCH], 0, "float32", device, 2)  # warms up
    for seed in range(args.seeds):
        for precision in precisions[seed % len(precisions) :] + precisions[: seed % len(precisions)]:
            found[precision].append(train(model, X, seed, precision, device, args.epochs))
            print(f"{name}, seed {seed}, {precision}: {len(X) / found[precision][-1][0]:,.0f} rows/s", file=sys.stderr)
    seconds, losses = ({p: [run[i] for run in runs] for p, runs in found.items()} for i in (0, 1))
    spread = max(losses["float32"]) - min(losses["float32"])
    results = {}
    for precision in precisions:
        ratios = [one / other for one, other in zip(seconds["float32"], seconds[precision], strict=True)]
        away = max(abs(one - other) for one, other in zip(losses["float32"], losses[precision], strict=True))
        results[precision] = {
            "rows_per_second": len(X) / statistics.median(seconds[precision]),
            "faster_by": statistics.median(ratios), "range": [min(ratios), max(ratios)], "losses": losses[precision],
            "largest_difference": away, "spread_of_seeds": spread,
        }  # fmt: skip
    return results


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rows", type=int, default=15360)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    device = resolve_device(args.device)
    riskvae.show_versions()
    told = {asked: precision_on(asked, device) for asked in PRECISIONS}
    precisions = [asked for asked, (found, _) in told.items() if found == asked]
    print(f"\nOn {device}, {args.threads} threads, batches of {BATCH}, {args.epochs} epochs, {args.seeds} seeds.")
    for asked, (_, why) in told.items():
        if why:
            print(f"precision={asked!r} is not used here: {why}.")
    X, results = load_rows(args.rows), {}
    print("\n| network | precision | rows/s | times float32 (min-max) | loss, nats | largest difference | of seeds |")
    print("|---|---|---|---|---|---|---|")
    for name, (model, fewer) in NETWORKS.items():
        rows = X[::fewer, 300:364] if name == "64-64" else X[::fewer]
        results[name] = compare(name, model, np.ascontiguousarray(rows), precisions, device, args)
        for precision, of in results[name].items():
            speed = f"{of['faster_by']:.2f} ({of['range'][0]:.2f}-{of['range'][1]:.2f})"
            loss = f"{statistics.mean(of['losses']):.2f} | {of['largest_difference']:.2f} | {of['spread_of_seeds']:.2f}"
            print(f"| {name} | {precision} | {of['rows_per_second']:,.0f} | {speed} | {loss} |", flush=True)
    if args.json:
        Path(args.json).write_text(json.dumps({"torch": torch.__version__, **vars(args), "results": results}, indent=1))


if __name__ == "__main__":
    main()
