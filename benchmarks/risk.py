"""Cost of the risk measures: alone on long loss vectors, and as a share of an epoch of RiskAwareVAE.

    python benchmarks/risk.py [--json FILE] [--rounds 7] [--max-n 10000000] [--rows 15360] [--threads 2]
                              [--part alone|epoch] [--network mlp|conv] [--whole] [--modes NAME ...]

Alone: forward and backward of each measure on N float32 losses, as multiples of the same for the plain mean, of
one torch.sort of the losses, and of one read of them (their sum). Peers are what one writes by hand: a mean over
torch.topk, over torch.sort, and the Rockafellar-Uryasev form on torch.quantile (which stops at 16 million).

Epoch: a training of some epochs less one of a single epoch (784-512-256-10 and mirror, batch 256; MNIST where
RISKVAE_DATA is set, else random rows), against risk="neutral" in the same round; with n_subsamples, against the
neutral model of as many draws. Contenders take turns, each round begins with another; medians over rounds. Where few
losses weigh, only these have a graph, which makes an epoch cheaper than the neutral one; --whole trains without that.
"""

import argparse
import json
import math
import os
import platform
import statistics
import sys
import time
from pathlib import Path

import torch
from training import BATCH, LATENT, LR, WIDTHS, load_rows

from riskvae import RiskAwareVAE, nets, risk
from riskvae.training._sparing import Sparing

EPS = 0.1
SIZES = (256, 4096, 100_000, 1_000_000, 10_000_000)
MEASURES = {
    "cvar": risk.CVaR(EPS),
    "cvar, eps=0.5": risk.CVaR(0.5),
    "smoothed, l2": risk.SmoothedCVaR(EPS, smoothing=0.5),
    "smoothed, kl": risk.SmoothedCVaR(EPS, smoothing=0.5, penalty="kl"),
    "entropic": risk.Entropic(1.0),
    "spectral, extremile": risk.Spectral(risk.Extremile(3)),
    "mean-semideviation": risk.MeanSemideviation(0.5),
}
PEERS = {
    "by hand: topk": lambda losses: losses.topk(math.ceil(EPS * len(losses))).values.mean(),
    "by hand: sort": lambda losses: losses.sort(descending=True).values[: math.ceil(EPS * len(losses))].mean(),
    "by hand: quantile": lambda losses: cvar_by_quantile(losses),
}
DRAWS = 8
MODES = {
    "batch": {},
    "batch, eps=0.1": {"eps": 0.1},
    "batch, eps=0.05": {"eps": 0.05},
    "batch, seeking": {"risk": "seeking"},
    "batch, on the evidence bound": {"risk_on": "elbo"},
    "eps=0.1, on the evidence bound": {"risk_on": "elbo", "eps": 0.1},
    "threshold ema": {"threshold": "ema"},
    "threshold learned": {"threshold": "learned"},
    "smoothed, l2": {"measure": risk.SmoothedCVaR(smoothing=1.0)},
    "smoothed, kl": {"measure": risk.SmoothedCVaR(smoothing=1.0, penalty="kl")},
    "entropic": {"measure": risk.Entropic(0.1)},
    "spectral, extremile": {"measure": risk.Spectral(risk.Extremile(3))},
    "mean-semideviation": {"measure": risk.MeanSemideviation(0.5)},
    f"subsamples, {DRAWS} draws": {"risk_over": "subsamples", "n_subsamples": DRAWS},
    f"nested, {DRAWS} draws": {"risk_over": "nested", "n_subsamples": DRAWS},
    f"nested, 0.2 of 0.5, {DRAWS} draws": {
        "risk_over": "nested",
        "n_subsamples": DRAWS,
        "eps": 0.2,
        "eps_subsamples": 0.5,
    },
    f"joint, {DRAWS} draws": {"risk_over": "joint", "n_subsamples": DRAWS},
}
# What modes may cost beyond the neutral epoch.
BARS = {"batch": 0.03, "batch, eps=0.1": -0.15, f"nested, 0.2 of 0.5, {DRAWS} draws": -0.45}


def cvar_by_quantile(losses):
    t = torch.quantile(losses.detach(), 1 - EPS)
    return t + (losses - t).relu().mean() / EPS


def seconds(function, at_least=0.05):
    """Median time of one call, over enough calls to see it."""
    function()
    times: list[float] = []
    while sum(times) < at_least or len(times) < 3:
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def forward_and_backward(measure, losses):
    losses = losses.clone().requires_grad_()

    def run():
        losses.grad = None
        measure(losses).backward()

    return run


def alone(n, rounds):
    """Medians of seconds by name, for the mean, a sort, a read, and each measure."""
    losses = torch.randn(n, generator=torch.Generator().manual_seed(0)).exp()
    calls = {"read": losses.sum, "sort": losses.sort, "mean": forward_and_backward(torch.mean, losses)}
    for name, measure in {**MEASURES, **PEERS}.items():
        if "quantile" not in name or n < 16_000_000:
            calls[name] = forward_and_backward(measure, losses)
    times = {name: [] for name in calls}
    for turn in range(rounds):
        names = list(calls)
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            times[name].append(seconds(calls[name]))
    return {name: statistics.median(values) for name, values in times.items()}


def print_alone(table):
    print(
        "\nForward and backward, in times of: the mean's | one torch.sort | one read of the losses (and microseconds)\n"
    )
    print("| measure | " + " | ".join(f"N = {n:,}" for n in table) + " |\n|---|" + "---|" * len(table))
    for name in [*MEASURES, *PEERS]:
        cells = []
        for times in table.values():
            if name not in times:
                cells.append("")
                continue
            t = times[name]
            ratios = (t / times["mean"], t / times["sort"], t / times["read"])
            cells.append(" | ".join(f"{r:.3g}" for r in ratios).replace(" | ", " / ") + f" ({1e6 * t:,.0f})")
        print(f"| {name} | " + " | ".join(cells) + " |")


NETWORKS = {"mlp": {"hidden_layer_sizes": WIDTHS}, "conv": {"encoder": nets.conv_encoder, "decoder": nets.conv_decoder}}


def epoch_seconds(options, X, epochs):
    def fit(n):
        start = time.perf_counter()
        RiskAwareVAE(LATENT, batch_size=BATCH, lr=LR, max_epochs=n, device="cpu", random_state=0, **options).fit(X)
        return time.perf_counter() - start

    first = fit(1)
    return (fit(epochs) - first) / (epochs - 1)


def epochs(X, rounds, n_epochs, network, modes):
    """Cost of each mode in each round, sorted, as a share of the neutral epoch with as many draws."""
    network = NETWORKS[network]
    neutral = {n: {"risk": "neutral", "n_subsamples": n, **network} for n in (1, DRAWS)}
    costs = {name: [] for name in modes}
    for turn in range(rounds + 1):
        names = list(modes)
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            options = {**MODES[name], **network}
            draws = options.get("n_subsamples", 1)
            few = n_epochs if draws == 1 else 2
            # Before and after: what drifts in the machine's speed cancels.
            before = epoch_seconds(neutral[draws], X, few)
            taken = epoch_seconds(options, X, few)
            after = epoch_seconds(neutral[draws], X, few)
            if turn:
                costs[name].append(2 * taken / (before + after) - 1)
                print(f"round {turn}: {name} {costs[name][-1]:+.1%}", file=sys.stderr)
    return {name: sorted(values) for name, values in costs.items()}


def print_epochs(costs, rounds):
    print(f"\n| mode of RiskAwareVAE | cost, share of an epoch (quartiles of {rounds} rounds) |\n|---|---|")
    for name, values in costs.items():
        low, middle, high = (values[round(q * (len(values) - 1))] for q in (0.25, 0.5, 0.75))
        bar = f", asked for {BARS[name]:+.0%}" if name in BARS else ""
        print(f"| {name} | {middle:+.1%} ({low:+.1%} to {high:+.1%}){bar} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--max-n", type=int, default=max(SIZES))
    parser.add_argument("--rows", type=int, default=15360)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count()))
    parser.add_argument("--network", choices=tuple(NETWORKS), default="mlp")
    parser.add_argument("--whole", action="store_true", help="always with the graph of all losses")
    parser.add_argument("--modes", nargs="+", choices=tuple(MODES), default=list(MODES), metavar="NAME")
    parser.add_argument("--part", choices=("alone", "epoch"))
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.whole:
        Sparing.choose = lambda *given: None
    document = {**vars(args), "machine": f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"}
    document["torch"] = torch.__version__
    print(f"{document['machine']}, {args.threads} threads, torch {torch.__version__}, {args.rounds} rounds")
    if args.part != "epoch":
        document["alone"] = {n: alone(n, args.rounds) for n in SIZES if n <= args.max_n}
        print_alone(document["alone"])
    if args.part != "alone":
        document["epoch"] = epochs(load_rows(args.rows), args.rounds, args.epochs, args.network, args.modes)
        print_epochs(document["epoch"], args.rounds)
    if args.json:
        Path(args.json).write_text(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
