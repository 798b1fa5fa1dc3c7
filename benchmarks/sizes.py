"""What a fit needs: rows for a good model, processor time for an epoch, memory.

    python benchmarks/sizes.py [--json FILE] [--seeds 3] [--parts quality time memory] [--quick]

Quality: BetaVAE with its defaults, but as many latent coordinates as there are factors, is fitted to 100 to 10,000 rows
of a simulated table (20 columns, which bend with 4 hidden factors, and noise). Its error on 5,000 other rows is the
share of their variance that reconstructions do not explain. PCA with as many components stands beside it; noise is the
share that no model explains. Time: processor seconds of one thread for a million rows times epochs, by network, median
of three fits that take turns. They hardly depend on what else runs on the machine, while the time that passes does.
Memory: how far the peak of the resident memory rises in a fit, beyond that of the process with X in it. Times and
memory are those of processes of their own, after a first small fit. Linux and macOS alone tell them. --parts measures
some parts anew, and keeps the others of FILE.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np

ROWS = (100, 300, 1_000, 3_000, 10_000)
D, FACTORS, NOISE, N_TEST = 20, 4, 0.3, 5_000
# Rows, columns, hidden layers, latent coordinates, epochs: a second or more of one thread.
TIME = {
    "20-64-32": (10_000, 20, (64, 32), 4, 20),
    "100-256-128": (10_000, 100, (256, 128), 10, 5),
    "20-512-256, the default": (10_000, 20, (512, 256), 10, 3),
    "784-512-256, the default": (10_000, 784, (512, 256), 10, 3),
}
# Estimator, dtype, rows, columns.
MEMORY = [
    ("BetaVAE", "float32", 10_000, 20),
    ("BetaVAE", "float32", 1_000_000, 20),
    ("BetaVAE", "float64", 1_000_000, 20),
    ("BetaVAE", "float32", 30_000, 784),
    ("QuantileVAE", "float32", 10_000, 20),
    ("QuantileVAE", "float32", 1_000_000, 20),
    ("QuantileVAE", "float32", 30_000, 784),
]


def table(n, seed):
    """Rows of columns that bend with some factors, each of variance 1 but for the noise; and the noise-free rows."""
    shape = np.random.default_rng(0)
    one, two = (shape.normal(size=(FACTORS, D)) / FACTORS**0.5 for _ in range(2))
    rng = np.random.default_rng([1, seed])
    factors = rng.normal(size=(n, FACTORS))
    rows = factors @ one + np.sin(2 * factors @ two)
    return (rows + NOISE * rng.normal(size=rows.shape)).astype(np.float32)


def quality(seeds, quick):
    """Unexplained shares of held-out variance, by number of rows."""
    from sklearn.decomposition import PCA
    from sklearn.preprocessing import StandardScaler

    from riskvae import BetaVAE

    found = []
    for n in ROWS[: 2 if quick else None]:
        row = {"rows": n, "BetaVAE": [], "PCA": [], "noise": []}
        for seed in range(seeds):
            train, test = table(n, seed), table(N_TEST, 1_000 + seed)
            scaler = StandardScaler().fit(train)
            x, y = scaler.transform(train), scaler.transform(test)
            vae = BetaVAE(FACTORS, random_state=seed, device="cpu").fit(x)
            pca = PCA(FACTORS).fit(x)
            total = y.var(0).sum()
            for name, back in (("BetaVAE", vae.reconstruct(y)), ("PCA", pca.inverse_transform(pca.transform(y)))):
                row[name].append(float(np.square(back - y).sum(1).mean() / total))
            row["noise"].append(float(np.square(NOISE / scaler.scale_).sum() / total))
        found.append(row)
        print(", ".join(f"{name} {np.mean(row[name]):.3f}" for name in ("BetaVAE", "PCA", "noise")), f"of {n} rows")
    return found


def work_time(kind, epochs):
    """Fit in this process; tell its processor seconds."""
    from riskvae import BetaVAE

    n, d, widths, latent, _ = TIME[kind]
    X = np.random.default_rng(0).random((n, d), dtype=np.float32)
    vae = BetaVAE(latent, hidden_layer_sizes=widths, max_epochs=1, random_state=0, device="cpu").fit(X)
    vae.set_params(max_epochs=epochs)
    start, before = time.perf_counter(), processor_seconds()
    vae.fit(X)
    return {"processor": processor_seconds() - before, "wall": time.perf_counter() - start}


def work_memory(name, dtype, n, d):
    """Fit in this process; tell how far the peak of its memory rises, in MiB."""
    import riskvae

    def model():
        return getattr(riskvae, name)(hidden_layer_sizes=(64, 32), max_epochs=1, random_state=0, device="cpu")

    rng = np.random.default_rng(0)
    model().fit(rng.random((2_000, d), dtype=np.float32))
    X = rng.random((n, d), dtype=dtype)
    before = peak()
    model().fit(X)
    return {"X": X.nbytes / 2**20, "fit": peak() - before}


def processor_seconds():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def peak():
    """Peak of the resident memory so far, in MiB; macOS tells it in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def alone(*arguments):
    """What a process of its own tells, with one thread."""
    command = [sys.executable, __file__, "--work", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def times(quick):
    """Processor seconds for a million rows times epochs, by network."""
    taken = {kind: [] for kind in TIME}
    for _ in range(1 if quick else 3):
        for kind, (*_, epochs) in TIME.items():
            taken[kind].append(alone("time", kind, 1 if quick else epochs))
    found = []
    for kind, fits in taken.items():
        n, *_, epochs = TIME[kind]
        each = [fit["processor"] / (n * (1 if quick else epochs)) * 1e6 for fit in fits]
        found.append({"network": kind, "processor_seconds": statistics.median(each), "all": each, "fits": fits})
        print(f"{kind}: {statistics.median(each):.1f} s ({min(each):.1f}-{max(each):.1f}) of one thread for 1e6 rows")
    return found


def memory(quick):
    """Rise of the peak in a fit, by estimator and table."""
    found = []
    for name, dtype, n, d in MEMORY[: 1 if quick else None]:
        told = alone("memory", name, dtype, n, d)
        found.append({"estimator": name, "dtype": dtype, "rows": n, "columns": d, **told})
        print(f"{name}, {n:,} x {d} {dtype}, {told['X']:.0f} MiB: the peak rises by {told['fit']:.0f} MiB")
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--parts", nargs="+", choices=["quality", "time", "memory"], help="measure these alone")
    parser.add_argument("--quick", action="store_true", help="little of each, to see that it works")
    parser.add_argument("--work", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # of so few epochs nobody expects much
    if options.work:
        part, *given = options.work
        told = work_time(given[0], int(given[1])) if part == "time" else work_memory(*given[:2], *map(int, given[2:]))
        return print(json.dumps(told))

    from machine import load, machine

    before, parts = load(), options.parts or ["quality", "time", "memory"]
    company = before is not None and before > 0.5
    print(f"{machine()['processor']}, load before {before}{': in company' if company else ''}")
    kept = json.loads(options.json.read_text()) if options.parts and options.json and options.json.exists() else {}
    found = kept | {"machine": machine() | {"load_before": before, "in_company": company}, "quick": options.quick}
    if "quality" in parts:
        found["quality"] = quality(1 if options.quick else options.seeds, options.quick)
    if "time" in parts:
        found["time"] = times(options.quick)
    if "memory" in parts:
        found["memory"] = memory(options.quick)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
