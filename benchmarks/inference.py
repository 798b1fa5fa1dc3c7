"""What a fitted model costs: memory of every method, rows per second, and one row at a time, against the bare module.

    python benchmarks/inference.py [--json FILE] [--rounds 5] [--rows 60000] [--threads 2]

Models have the default networks. Memory is the growth of resident memory beyond what a method returns, in a process
of its own, for --rows rows of 5 features and 15 times as many for methods that only encode. Rows per second are those
of 20,000 rows of 784 features in float32 (of 4,000 for scores). The bare module does the same on tensors, in a copy
of the right dtype, with as many draws; both take turns, and ratios are medians of the rounds' ratios. The bars are
those of the design.
"""

import argparse
import copy
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import torch

import riskvae
from riskvae.training import Batch

CLASSES = ("BetaVAE", "BetaTCVAE", "RiskAwareVAE", "QuantileVAE")
COMMON = ("transform", "encode", "inverse_transform", "reconstruct", "reconstruction_loss", "score_samples", "score")
OF_QUANTILES = (
    "predict", "decision_function", "predict_quantiles", "predict_interval", "predict_scale", "z_scores", "p_values",
    "conformal_p_values", "detect", "detect_features",
)  # fmt: skip
MOST_MIB, MOST_TIMES = 256, {"float32": 3.0, "float64": 5.0}
RESET = Path("/proc/self/clear_refs")


def methods_of(name):
    return COMMON + (OF_QUANTILES if name == "QuantileVAE" else ())


def fitted(name, n_features):
    rows = np.random.default_rng(0).random((3000, n_features), dtype=np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        vae = getattr(riskvae, name)(max_epochs=1, random_state=0, device="cpu").fit(rows[:2000])
    return vae.conformalize(rows[2000:]) if name == "QuantileVAE" else vae


def call(vae, method, rows):
    options = {"predict_interval": {"alpha": 0.1}}.get(method, {})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return getattr(vae, method)(rows, **options)


# ------------------------------------------------------------------------------------------- memory


def memory_of(name, method, n):
    """Print the MiB that a method needs beyond its result, in this process."""
    vae = fitted(name, 5)
    width = vae.module_.n_components if method == "inverse_transform" else 5
    rows = np.random.default_rng(0).random((n, width), dtype=np.float32)
    call(vae, method, rows[:100])
    RESET.write_text("5")  # makes the present size the peak (Linux)
    before = peak_kib()
    found = call(vae, method, rows)
    returned = sum(np.asarray(part).nbytes for part in (found if isinstance(found, tuple) else (found,)))
    print((peak_kib() - before) / 1024 - returned / 2**20)


def peak_kib():
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1])


def memory(args):
    """MiB of each method of each estimator."""
    if not RESET.exists():
        return {}
    found = {}
    for name in CLASSES:
        for method in methods_of(name):
            n = 15 * args.rows if method in ("transform", "encode") else args.rows
            asked = ["--memory-of", name, method, "--rows", str(n), "--threads", str(args.threads)]
            done = subprocess.run([sys.executable, __file__, *asked], capture_output=True, text=True, check=True)
            found[f"{name}.{method}"] = float(done.stdout.split()[-1])
            print(f"{name}.{method}, {n:,} rows: {found[f'{name}.{method}']:.0f} MiB", file=sys.stderr)
    return found


# --------------------------------------------------------------------------------------------- time


def bare(vae, method, dtype):
    """What a method computes, on a tensor by the module itself; None where there is no such thing."""
    module = copy.deepcopy(vae.module_).to(dtype)
    bank = vae._score_draws().to(dtype)
    if method == "transform":
        return lambda x: module.encode(x).mean
    if method == "reconstruct":
        return lambda x: module.decode(module.encode(x).mean)
    if isinstance(vae, riskvae.QuantileVAE):
        score, *vaes = copy.deepcopy(vae._scoring()["module"]).to(dtype).eval()
        return lambda x: score(vaes, x)
    return lambda x: module(Batch(x), bank)


def seconds(function, argument, repeats):
    start = time.perf_counter()
    for _ in range(repeats):
        function(argument)
    return (time.perf_counter() - start) / repeats


def compare(vae, method, rows, chunk, repeats, rounds):
    """Time of a method over that of the bare module, and rows per second, medians of rounds."""
    tensors, net = torch.tensor(rows).split(chunk), bare(vae, method, torch.tensor(rows).dtype)

    def alone(parts):
        with torch.inference_mode():
            return [net(part) for part in parts]

    def ours(some):
        return call(vae, method, some)

    pairs = []
    for turn in range(rounds + 1):
        order = [(ours, rows), (alone, tensors)]
        times = {f: seconds(f, given, repeats) for f, given in (order if turn % 2 else order[::-1])}
        if turn:
            pairs.append((times[ours], times[alone]))
    ratio = statistics.median(a / b for a, b in pairs)
    return {"times_bare": ratio, "rows_per_second": len(rows) / statistics.median(a for a, _ in pairs)}


def speed(args):
    """One row, in both dtypes, and many rows."""
    found = {}
    for name in ("BetaVAE", "QuantileVAE"):
        vae = fitted(name, 784)
        rows = np.random.default_rng(1).random((20_000, 784), dtype=np.float32)
        for method in ("transform", "reconstruct", "score_samples", *(("predict",) if name == "QuantileVAE" else ())):
            for dtype in MOST_TIMES:
                one = rows[:1].astype(dtype)
                found[f"{name}.{method}, one row of {dtype}"] = compare(vae, method, one, 1, 300, args.rounds)
            many = rows if method != "score_samples" and method != "predict" else rows[:4000]
            found[f"{name}.{method}, {len(many):,} rows"] = compare(vae, method, many, 1000, 1, args.rounds)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=60_000)
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count()))
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--memory-of", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.memory_of:
        return memory_of(*args.memory_of, args.rows)

    mib, times = memory(args), speed(args)
    print("\n| method | times the bare module | bar | rows/s |\n|---|---|---|---|")
    for name, result in times.items():
        bar = next((bar for dtype, bar in MOST_TIMES.items() if dtype in name), "")
        print(f"| {name} | {result['times_bare']:.2f} | {bar} | {result['rows_per_second']:,.0f} |")
    if mib:
        worst = sorted(mib.items(), key=lambda item: -item[1])[:5]
        print(f"\nMemory beyond the result, of {len(mib)} methods: at most {worst[0][1]:.0f} MiB (bar {MOST_MIB}).")
        print("The most: " + ", ".join(f"{name} {value:.0f}" for name, value in worst) + ".")
    capability = torch.backends.cpu.get_cpu_capability()
    machine = f"{platform.machine()}, {capability}, torch {torch.__version__}"
    print(f"\n{machine}, {args.threads} threads, {args.rounds} rounds.")
    if args.json:
        Path(args.json).write_text(json.dumps({"times": times, "mib": mib, **vars(args)}, indent=1) + "\n")
    return None


if __name__ == "__main__":
    main()
