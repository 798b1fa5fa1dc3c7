"""One model in several processes of one thread, against one process of one thread; and what they send each other.

    python benchmarks/distributed.py [--json FILE] [--rounds 3] [--rows 15360] [--processes 2]

RiskAwareVAE with the default network (784-512-256-10 and mirror) on MNIST where RISKVAE_DATA is set, else on random
numbers of its shape, in batches of 256, 1024 and 4096 rows. One process and several take turns; a round's speed is by
its fastest epoch but the first, and ratios are medians of the rounds'. Sent are the bytes that one process gives to
others, for each gradient step: the gradient, and the losses of its rows.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import torch
from skorch.callbacks import Callback

BATCHES = (256, 1024, 4096)
EPOCHS = 4


def load_rows(n):
    if os.environ.get("RISKVAE_DATA"):
        from riskvae.datasets import fetch_mnist

        return fetch_mnist().data[:n]
    return np.random.default_rng(0).random((n, 784), dtype=np.float32)


class Sent(Callback):
    """Bytes that this process has sent at the end of each epoch."""

    def __init__(self):
        self.at = []

    def on_epoch_end(self, net, **kwargs):
        self.at.append(0 if net.world is None else net.world.sent)


def work(n_rows):
    """Train with each batch size in this process, alone or as one of several; the first one prints what it took."""
    from riskvae import RiskAwareVAE

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    X, together, told = load_rows(n_rows), "RANK" in os.environ, {}
    for batch_size in BATCHES:
        sent = Sent()
        vae = RiskAwareVAE(
            max_epochs=EPOCHS, batch_size=batch_size, callbacks=[sent], device="cpu", random_state=0,
            distributed="replicated" if together else None,
        ).fit(X)  # fmt: skip
        seconds = min(row["dur"] for row in vae.history_[1:])
        steps = vae.history_[-1]["train_batch_count"]
        told[batch_size] = {"rows": len(X) / seconds, "sent": (sent.at[-1] - sent.at[-2]) / steps}
    if os.environ.get("RANK", "0") == "0":
        print(json.dumps(told), flush=True)


def run(processes, n_rows):
    """One round of one process, or of several."""
    launch = [] if processes == 1 else ["-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
    command = [sys.executable, *launch, __file__, "--work", "--rows", str(n_rows)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    return {int(size): told for size, told in json.loads(done.stdout.splitlines()[-1]).items()}


def processor():
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {os.cpu_count()} cores"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=15_360)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        return work(options.rows)
    rounds = [(run(1, options.rows), run(options.processes, options.rows)) for _ in range(options.rounds)]
    print(f"{processor()}; torch {torch.__version__}; {options.rows} rows, {options.rounds} rounds")
    print(f"{'batch':>6} {'one, rows/s':>12} {f'{options.processes}, rows/s':>12} {'ratio':>6} {'sent per step':>14}")
    found = {"processor": processor(), "torch": torch.__version__, **vars(options), "json": str(options.json)}
    for size in BATCHES:
        one, several = (statistics.median(part[size]["rows"] for part in parts) for parts in zip(*rounds, strict=True))
        ratio = statistics.median(b[size]["rows"] / a[size]["rows"] for a, b in rounds)
        sent = rounds[0][1][size]["sent"]
        print(f"{size:>6} {one:>12,.0f} {several:>12,.0f} {ratio:>6.2f} {sent / 1e6:>11.2f} MB")
        found[str(size)] = {"one": one, "several": several, "ratio": ratio, "sent": sent}
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")
    return None


if __name__ == "__main__":
    main()
