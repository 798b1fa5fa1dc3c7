"""What a fit costs beside busy processes, by number of threads and by how threads wait for each other.

    python benchmarks/neighbours.py [--json FILE] [--rounds 3] [--busy 0 2 10] [--sizes] [--quick]

A process of its own fits BetaVAE and tells its processor time (of all its threads) and the time that passed, after a
first fit of one epoch, so that imports and the first calls do not count. Beside it, some processes do nothing but
count. Work is a table (5,000 rows of 20 columns, hidden layers 64 and 32), a wider one (100 columns, 256 and 128) and
images (8,192 rows of 784 pixels, the default network, 512 and 256, 20 latent coordinates). Threads of OpenMP that wait
spin for a while before they sleep; OMP_WAIT_POLICY=passive and GOMP_SPINCOUNT (libgomp's, 300,000 by default) ask them
to sleep at once, or sooner, and are read when the library is loaded. All take turns; ratios are those of medians over
the rounds. --sizes fits networks of many widths instead, alone unless --busy says otherwise, to see from which size on
a second thread pays. Linux and macOS alone tell processor times.
"""

import argparse
import contextlib
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

# Rows, columns, hidden layers, latent coordinates, epochs.
WORK = {
    "table": (5_000, 20, (64, 32), 4, 30),
    "wider table": (5_000, 100, (256, 128), 10, 15),
    "images": (8_192, 784, (512, 256), 20, 2),
}
# Of --sizes.
SIZES = {
    "20-64-32": (5_000, 20, (64, 32), 4, 40),
    "10-16": (5_000, 10, (16,), 2, 80),
    "64-128": (5_000, 64, (128,), 8, 50),
    "100-256-128": (5_000, 100, (256, 128), 10, 30),
    "200-256-128": (5_000, 200, (256, 128), 10, 20),
    "300-512-256": (5_000, 300, (512, 256), 10, 12),
    "784-512-256": (5_000, 784, (512, 256), 10, 6),
    "784-1024-512": (5_000, 784, (1024, 512), 10, 4),
}
WAITING = {
    "as it comes": {},
    "passive": {"OMP_WAIT_POLICY": "passive"},
    "no spinning": {"GOMP_SPINCOUNT": "0"},
    "10,000 spins": {"GOMP_SPINCOUNT": "10000"},
}
# One thread waits for nobody.
CASES = [("1", "as it comes"), *(("2", waiting) for waiting in WAITING)]


def work(kind, epochs):
    """Fit in this process; print its processor time and the time that passed, in seconds."""
    from threadpoolctl import threadpool_info

    from riskvae import BetaVAE

    warnings.simplefilter("ignore")  # of so few epochs nobody expects much
    n, d, widths, latent, _ = {**WORK, **SIZES}[kind]
    X = np.random.default_rng(0).random((n, d), dtype=np.float32)
    vae = BetaVAE(n_components=latent, hidden_layer_sizes=widths, max_epochs=1, random_state=0, device="cpu").fit(X)
    vae.set_params(max_epochs=epochs)
    start, before = time.perf_counter(), processor_seconds()
    vae.fit(X)
    found = {"processor": processor_seconds() - before, "wall": time.perf_counter() - start}
    pools = {f"{pool['internal_api']} ({Path(pool['filepath']).name})" for pool in threadpool_info()}
    print(json.dumps({**found, "pools": sorted(pools)}))


def processor_seconds():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


@contextlib.contextmanager
def busy(n):
    """Some processes that do nothing but count."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(n)]
    try:
        time.sleep(1.0 if n else 0.0)
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def fit_beside(n, kind, threads, waiting, epochs):
    """What a process of its own tells of a fit, beside n busy ones."""
    free = {k: v for k, v in os.environ.items() if k not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OMP_NUM_THREADS")}
    command = [sys.executable, __file__, "--work", kind, "--epochs", str(epochs)]
    environment = {**free, "OMP_NUM_THREADS": threads, **WAITING[waiting]}
    with busy(n):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def measure(options):
    """Every time, by work, threads, waiting and number of busy processes, one per round."""
    times, pools = {}, None
    for turn in range(options.rounds):
        for n in options.busy:
            for kind, (*_, epochs) in (SIZES if options.sizes else WORK).items():
                for threads, waiting in CASES[turn % len(CASES) :] + CASES[: turn % len(CASES)]:
                    taken = fit_beside(n, kind, threads, waiting, 2 if options.quick else epochs)
                    pools = taken.pop("pools")
                    times.setdefault((kind, threads, waiting, n), []).append(taken)
                    print(f"round {turn + 1}: {kind}, {threads}, {waiting}, {n} busy: {taken}", file=sys.stderr)
    return times, pools


def summarize(times):
    """Medians, and the ratio of each to the same alone."""
    rows = []
    for (kind, threads, waiting, n), taken in times.items():
        row = {"work": kind, "threads": int(threads), "waiting": waiting, "busy": n}
        for what in ("processor", "wall"):
            middle = statistics.median(time[what] for time in taken)
            alone = statistics.median(time[what] for time in times.get((kind, threads, waiting, 0), taken))
            row |= {what: middle, f"{what}_ratio": middle / alone, f"{what}_all": [time[what] for time in taken]}
        rows.append(row)
    return rows


def print_table(rows):
    times = " | ".join(f"{what} time, s (min-max) | to alone" for what in ("processor", "wall"))
    print(f"| work | threads | waiting | busy | {times} |\n|{8 * '---|'}")
    kinds = [*WORK, *SIZES]

    def place(row):
        return kinds.index(row["work"]), CASES.index((str(row["threads"]), row["waiting"])), row["busy"]

    for row in sorted(rows, key=place):
        cells = [row["work"], row["threads"], row["waiting"], row["busy"]]
        for what in ("processor", "wall"):
            every = row[f"{what}_all"]
            cells += [f"{row[what]:.2f} ({min(every):.2f}-{max(every):.2f})", f"{row[f'{what}_ratio']:.2f}"]
        print("| " + " | ".join(map(str, cells)) + " |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--busy", type=int, nargs="+", help="numbers of busy processes; 0 is alone")
    parser.add_argument("--sizes", action="store_true", help="networks of many widths instead")
    parser.add_argument("--quick", action="store_true", help="one round of two epochs, to see that it works")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--work", choices=[*WORK, *SIZES], help=argparse.SUPPRESS)
    parser.add_argument("--epochs", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        return work(options.work, options.epochs)

    from machine import load, machine

    options.rounds = 1 if options.quick else options.rounds
    options.busy = options.busy or ([0] if options.sizes else [0, 2, 10])
    before = load()
    times, pools = measure(options)
    rows = summarize(times)
    here = {**machine(), "load_before": before, "thread_pools": pools}
    print(
        f"{here['processor']}, {here['cores']} cores, load before {before}, torch {here['torch']}; {', '.join(pools)}\n"
    )
    print_table(rows)
    if options.json:
        Path(options.json).write_text(json.dumps({"machine": here, **vars(options), "results": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
