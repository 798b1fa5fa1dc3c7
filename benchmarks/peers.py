"""How fast an epoch is beside other libraries: tables and images, perceptrons and convolutions, two sizes of each.

    python benchmarks/peers.py [--json FILE] [--rounds 5] [--threads 2] [--settings NAME ...] [--quick]

Contenders are RiskAwareVAE and BetaVAE with default parameters, a hand-written torch loop, the same loop with its step
compiled by torch.compile, skorch as it comes, pythae, and PyOD's VAE (perceptrons only) at its default batch of 32 and
at 256. All others train batches of 256, and all have networks of the same shapes and Adam; those of the others are
torch's own layers. What is not installed is left out and named, as is torch.compile where it finds no C++ compiler.

One epoch's time is the difference between a training of some epochs and one of a single epoch, so start-up,
compilation, and what a library does after training do not count. Contenders take turns; each round begins with
another; ratios are medians of the rounds' ratios. Images are MNIST where RISKVAE_DATA is set, else random numbers of
its shape, and scikit-learn's digits. --quick runs one round on few rows, to see that everything works; its times mean
nothing. Peers come with the extra "bench".
"""

import argparse
import importlib.metadata
import importlib.util
import json
import statistics
import sys
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from machine import load, machine
from torch import nn
from training import BATCH, HandVAE, careful_loop, compare, elbo, estimator, hand, load_rows, plain_mlp, pyod
from training import pythae as pythae_trains
from training import skorch_plain as skorch_trains

from riskvae import nets

OURS = ("BetaVAE", "RiskAwareVAE")


class Setting(NamedTuple):
    """Rows and a network; the widths of its hidden layers, or the channels of its convolutions."""

    rows: str
    n_rows: int
    latent: int
    epochs: int  # enough that their difference stands out from the clock's noise
    widths: tuple[int, ...] = ()
    channels: tuple[int, ...] = ()

    def networks(self, d):
        """Encoder and decoder as torch has them, which peers train."""
        if not self.channels:
            return plain_mlp(d, *self.widths, 2 * self.latent), plain_mlp(self.latent, *self.widths[::-1], d)
        encoder = nets.conv_encoder(d, 2 * self.latent, channels=self.channels)
        decoder = nets.conv_decoder(self.latent, d, channels=self.channels)
        return plain_linear(encoder), plain_linear(decoder)

    def parameters(self):
        """The same networks, as our estimators take them."""
        if not self.channels:
            return {"n_components": self.latent, "hidden_layer_sizes": self.widths}
        parts = {
            part: partial(getattr(nets, f"conv_{part}"), channels=self.channels) for part in ("encoder", "decoder")
        }
        return {"n_components": self.latent, **parts}

    def describe(self):
        kind = f"convolutions, channels {self.channels}" if self.channels else f"perceptron, hidden {self.widths}"
        return f"{kind}, {self.latent} latent coordinates"


SETTINGS = {
    "table, 20 columns": Setting("table 20", 5_000, 4, 41, widths=(64, 32)),
    "table, 100 columns": Setting("table 100", 50_000, 10, 5, widths=(256, 128)),
    "digits, perceptron": Setting("digits", 1_797, 4, 81, widths=(64,)),
    "digits, convolutions": Setting("digits", 1_797, 4, 41, channels=(16, 32)),
    "MNIST, perceptron": Setting("mnist", 15_360, 10, 4, widths=(512, 256)),
    "MNIST, convolutions": Setting("mnist", 5_120, 10, 3, channels=(32, 64)),
}


def plain_linear(network):
    """A network whose affine layers are torch's own, as whoever writes it by hand has them."""
    for name, layer in network.named_children():
        if isinstance(layer, nn.Linear):
            setattr(network, name, nn.Linear(layer.in_features, layer.out_features))
    return network


def rows_of(setting, n):
    if setting.rows == "mnist":
        return load_rows(n)
    if setting.rows == "digits":
        from sklearn.datasets import load_digits

        return (load_digits().data[:n] / 16).astype(np.float32)
    return table(n, int(setting.rows.split()[1]))


def table(n, d):
    """Columns that a fifth as many causes explain, but for noise; each of mean 0 and variance 1."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, d // 5)) @ rng.normal(size=(d // 5, d)) + rng.normal(size=(n, d))
    return ((x - x.mean(0)) / x.std(0)).astype(np.float32)


def compiled(networks):
    """The careful loop with a compiled step, of one model that starts anew at each call: compiled in the warm-up."""
    made = {}

    def fit(X, epochs):
        if not made:
            model = HandVAE(X.shape[1], networks)
            # The last batch of an epoch is smaller, and has a step of its own.
            made["step"] = torch.compile(lambda batch: elbo(model(batch), batch), dynamic=False)
            made["model"] = model
        for layer in made["model"].modules():
            if hasattr(layer, "reset_parameters"):
                layer.reset_parameters()
        careful_loop(torch.from_numpy(X), epochs, made["model"], made["step"])

    return fit


def can_compile():
    """Whether torch.compile works here, and if not, what it says."""
    try:
        torch.compile(lambda x: (x.sin() + 1).sum(), dynamic=False)(torch.rand(8, requires_grad=True)).backward()
    except Exception as error:
        return False, str(error).strip().splitlines()[0]
    return True, ""


def left_out():
    """Contenders that cannot run here, and why."""
    missing = {
        name: "not installed"
        for name, module in {"pythae": "pythae", "PyOD": "pyod"}.items()
        if importlib.util.find_spec(module) is None
    }
    works, message = can_compile()
    return missing if works else missing | {"torch.compile": f"it does not work here: {message}"}


def contenders(setting, without):
    """Trainings by name, each a function of rows and epochs; ours first."""
    networks = setting.networks
    trainings = {name: estimator(name, **setting.parameters()) for name in OURS}
    trainings["hand-written loop"] = partial(hand, networks=networks)
    if "torch.compile" not in without:
        trainings["hand-written loop, torch.compile"] = compiled(networks)
    trainings["skorch as it comes"] = partial(skorch_trains, networks=networks)
    if "pythae" not in without:
        trainings["pythae"] = partial(pythae_trains, networks=networks)
    if "PyOD" not in without and not setting.channels:
        trainings["PyOD, its default batch of 32"] = pyod(32, setting.widths, setting.latent)
        trainings[f"PyOD, batch {BATCH}"] = pyod(BATCH, setting.widths, setting.latent)
    return trainings


def measure(setting, without, rounds, quick):
    """Rows per second of each contender, and how many times as fast each of ours is."""
    X = rows_of(setting, 600 if quick else setting.n_rows)
    torch.compiler.reset()
    seconds = compare(contenders(setting, without), X, 1 if quick else rounds, 2 if quick else setting.epochs)
    results = {}
    for name, times in seconds.items():
        results[name] = {"rows_per_second": len(X) / statistics.median(times), "seconds": times}
        for ours in OURS:
            ratios = [theirs / mine for theirs, mine in zip(times, seconds[ours], strict=True)]
            results[name][f"{ours} is faster by"] = [statistics.median(ratios), min(ratios), max(ratios)]
    return {**setting._asdict(), "n_rows": len(X), "n_columns": X.shape[1], "load": load(), "results": results}


def print_long(name, found, network):
    print(f"\n**{name}** ({found['n_rows']:,} rows of {found['n_columns']}; {network})\n")
    print(f"| contender | rows/s | {OURS[0]} is faster by (min-max) | {OURS[1]} (min-max) |\n|---|---|---|---|")
    for contender, result in found["results"].items():
        ratios = [spread(result, ours) if contender != ours else "" for ours in OURS]
        print(f"| {contender} | {result['rows_per_second']:,.0f} | {ratios[0]} | {ratios[1]} |")


def spread(result, ours):
    middle, low, high = result[f"{ours} is faster by"]
    return f"{middle:.2f} ({low:.2f}-{high:.2f})"


def print_short(document):
    """One line for each contender, one column for each setting: how many times as fast BetaVAE is."""
    names = list(document)
    print(f"\n{OURS[0]} is faster by (medians):\n\n| | {' | '.join(names)} |\n|---|{'---|' * len(names)}")
    every = dict.fromkeys(contender for found in document.values() for contender in found["results"])
    for contender in every:
        if contender == OURS[0]:
            continue
        cells = [found["results"].get(contender) for found in document.values()]
        cells = ["" if cell is None else f"{cell[f'{OURS[0]} is faster by'][0]:.2f}" for cell in cells]
        print(f"| {contender} | {' | '.join(cells)} |")


def versions():
    found = {}
    for name in ("riskvae", "torch", "skorch", "pythae", "pyod"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS), metavar="NAME")
    parser.add_argument("--quick", action="store_true", help="one round on few rows, to see that everything works")
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    without, document = left_out(), {}
    here = machine()
    print(f"{here['processor']}, {here['instructions']}, {here['cores']} cores, {args.threads} threads")
    print(", ".join(f"{name} {version}" for name, version in versions().items() if version))
    for name, reason in without.items():
        print(f"{name} is left out: {reason}")
    for name in args.settings:
        print(f"{name}, load {load()}", file=sys.stderr)
        document[name] = measure(SETTINGS[name], without, args.rounds, args.quick)
        print_long(name, document[name], SETTINGS[name].describe())
    print_short(document)
    if args.json:
        whole = {"machine": here, "versions": versions(), "left_out": without, **vars(args), "settings": document}
        Path(args.json).write_text(json.dumps(whole, indent=1) + "\n")


if __name__ == "__main__":
    main()
