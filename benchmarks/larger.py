"""A table larger than memory: trained on and scored from Parquet files, against the same rows in memory.

    python benchmarks/larger.py [--json FILE] [--gigabytes 6] [--features 100] [--threads 2] [--folder DIR]

Writes a table of random float32 numbers of that size as Parquet files, then in processes of their own trains BetaVAE
(default networks, batches of 256) for one epoch and scores all rows: from the files, and with a twentieth of them, read
into memory, for the speed to compare with. Peak resident memory is the process's own, torch included.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

BARS = {"speed": 0.7, "resident": 1024}
N_FILES, GROUP = 12, 100_000


def write(folder, n_rows, n_features):
    """Rows on a plane and noise, in files of some row groups."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = np.random.default_rng(0)
    plane = rng.normal(size=(10, n_features)).astype(np.float32)
    names = [f"x{j}" for j in range(n_features)]
    for i in range(N_FILES):
        left = n_rows // N_FILES
        with pq.ParquetWriter(
            folder / f"part{i:02}.parquet", pa.schema([(name, pa.float32()) for name in names]), compression="none",
            use_dictionary=False,
        ) as writer:  # fmt: skip
            while left:
                n = min(left, GROUP)
                x = rng.standard_normal((n, 10), np.float32) @ plane + rng.standard_normal((n, n_features), np.float32)
                writer.write_table(pa.table(list(x.T), names=names), row_group_size=GROUP)
                left -= n


def work(kind, folder, threads):
    """Train for an epoch and score, in this process; print what it took."""
    from riskvae import BetaVAE
    from riskvae.datasets import ParquetRows

    torch.set_num_threads(threads)
    rows = ParquetRows(folder)
    if kind == "memory":
        n = max(len(rows) // 20, 10_000)
        x = np.empty((n, len(rows.columns)), np.float32)
        for places, part in rows.blocks():
            if places[0] >= n:
                break
            x[places[0] : places[0] + len(part)] = part[: n - places[0]]
        rows = x
    vae = BetaVAE(max_epochs=1, batch_size=256, device="cpu", random_state=0)
    start = time.perf_counter()
    vae.fit(rows)
    trained = time.perf_counter() - start
    start = time.perf_counter()
    scores = vae.score_samples(rows)
    scored = time.perf_counter() - start
    megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    told = {"rows": len(scores), "train": len(scores) / trained, "score": len(scores) / scored, "resident": megabytes}
    print(json.dumps(told))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--gigabytes", type=float, default=6.0)
    parser.add_argument("--features", type=int, default=100)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="where to write; default: a temporary folder")
    parser.add_argument("--work", choices=["files", "memory"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        work(args.work, args.folder, args.threads)
        return
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        write(Path(folder), int(args.gigabytes * 1e9 / 4 / args.features), args.features)
        size = sum(file.stat().st_size for file in Path(folder).iterdir()) / 1e9
        found = {"gigabytes": size}
        for kind in ("memory", "files"):
            command = [sys.executable, __file__, "--work", kind, "--folder", folder, "--threads", str(args.threads)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found[kind] = json.loads(done.stdout.splitlines()[-1])
    print(f"{'':8}{'rows':>12}{'trained/s':>12}{'scored/s':>12}{'peak MiB':>10}      table of {size:.2f} GB")
    for kind in ("memory", "files"):
        told = found[kind]
        print(f"{kind:8}{told['rows']:12,}{told['train']:12,.0f}{told['score']:12,.0f}{told['resident']:10,.0f}")
    ratios = {name: found["files"][name] / found["memory"][name] for name in ("train", "score")}
    print(", ".join(f"{name} {ratio:.2f} of the speed in memory" for name, ratio in ratios.items()), end="")
    print(f", asked for {BARS['speed']}; {found['files']['resident']:,.0f} MiB, asked for {BARS['resident']:,}")
    if args.json:
        args.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
