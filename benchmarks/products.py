"""Which matrix products suit this processor: those of torch, or those of oneDNN, layer by layer.

    python benchmarks/products.py [--rounds 30] [--threads 2] [--json FILE]

Times forward and backward of one `riskvae.nets.Linear` in training, for the layers of some networks and their mirrors
at three batch sizes, by either product. Both take turns, and the ratio is the median of the rounds' ratios: above 1,
oneDNN is faster. "rule" is what riskvae takes here by itself; where the numbers say otherwise, set the environment
variable RISKVAE_MATMUL to "torch" or "onednn", and tell us, with what `riskvae.show_versions()` prints.
"""

import argparse
import json
import statistics
import time
from itertools import pairwise
from pathlib import Path

import torch

import riskvae
from riskvae.nets import Linear, _linear

NETWORKS = ((64, 64, 4), (256, 128), (512, 256), (784, 512, 256, 20))
BATCHES = (32, 256, 1024)


def layers(network):
    """Inputs and outputs of the layers of an encoder and of its mirror."""
    return [*pairwise(network), *pairwise(network[::-1])]


def step(n, n_in, n_out):
    """A function of the number of times that a layer is to be trained on n rows."""
    layer, x, grad = Linear(n_in, n_out).train(), torch.rand(n, n_in, requires_grad=True), torch.rand(n, n_out)
    learned = (x, layer.weight, layer.bias)

    def run(times):
        for _ in range(times):
            layer(x).backward(grad)
            for value in learned:
                value.grad = None

    return run


def seconds(run, times, onednn):
    """Time of one call, by either product; the size of a product decides nothing here."""
    before, _linear._ONEDNN, least, _linear._LEAST = _linear._ONEDNN, onednn, _linear._LEAST, 0
    try:
        start = time.perf_counter()
        run(times)
        return (time.perf_counter() - start) / times
    finally:
        _linear._ONEDNN, _linear._LEAST = before, least


def compare(n, n_in, n_out, rounds):
    """Seconds by torch and by oneDNN, and how many times faster oneDNN is."""
    run = step(n, n_in, n_out)
    taken = min(seconds(run, 3, onednn) for onednn in (True, False, True, False))
    times = max(1, round(2e-3 / taken))
    pairs = []
    for turn in range(rounds):
        first = bool(turn % 2)
        found = {onednn: seconds(run, times, onednn) for onednn in (first, not first)}
        pairs.append((found[False], found[True]))
    return {
        "torch": statistics.median(by_torch for by_torch, _ in pairs),
        "onednn": statistics.median(by_onednn for _, by_onednn in pairs),
        "ratio": statistics.median(by_torch / by_onednn for by_torch, by_onednn in pairs),
        "rule": "onednn" if _linear._ONEDNN and n * n_in * n_out >= _linear._LEAST else "torch",
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    riskvae.show_versions()
    if not _linear._AVAILABLE:
        raise SystemExit("\nThis torch has no product of oneDNN, so there is nothing to choose.")
    results = {}
    print("\n| batch | layer | torch, us | oneDNN, us | oneDNN is faster by | rule |\n|---|---|---|---|---|---|")
    for n in BATCHES:
        for n_in, n_out in sorted({layer for network in NETWORKS for layer in layers(network)}):
            found = results[n, n_in, n_out] = compare(n, n_in, n_out, args.rounds)
            micro = f"{1e6 * found['torch']:,.0f} | {1e6 * found['onednn']:,.0f}"
            print(f"| {n} | {n_in} x {n_out} | {micro} | {found['ratio']:.2f} | {found['rule']} |", flush=True)
    print("\nLayers of an encoder and its mirror together, in microseconds:\n")
    print("| batch | network | torch | oneDNN | the rule's | torch's time over the rule's |\n|---|---|---|---|---|---|")
    for n in BATCHES:
        for network in NETWORKS:
            parts = [results[n, *layer] for layer in layers(network)]
            by = {name: 1e6 * sum(part[name] for part in parts) for name in ("torch", "onednn")}
            rule = 1e6 * sum(part[part["rule"]] for part in parts)
            told = f"{by['torch']:,.0f} | {by['onednn']:,.0f} | {rule:,.0f} | {by['torch'] / rule:.2f}"
            print(f"| {n} | {'-'.join(map(str, network))} | {told} |")
    if args.json:
        told = [{"batch": n, "in": n_in, "out": n_out, **found} for (n, n_in, n_out), found in results.items()]
        document = {"capability": torch.backends.cpu.get_cpu_capability(), "torch": torch.__version__, **vars(args)}
        Path(args.json).write_text(json.dumps({**document, "results": told}, indent=1))


if __name__ == "__main__":
    main()
