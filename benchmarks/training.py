"""Training speed of the estimators against a hand-written torch loop, skorch, pythae and PyOD.

    python benchmarks/training.py [--json FILE] [--rounds 5] [--rows 15360] [--epochs 4] [--threads 2]
                                  [--compile] [--plain]

Every contender trains the same network (784-512-256-10 and mirror, batch 256, Adam) on the same rows: MNIST
where RISKVAE_DATA is set, else random numbers of its shape. One epoch's time is the difference between a
training of some epochs and one of a single epoch, so start-up and what a library does after training do not
count. Contenders take turns; ratios are medians of the rounds' ratios. Peak memory is measured in a process
of its own, beyond what was resident before training. Peers come with the extra "bench".
"""

import argparse
import contextlib
import importlib.util
import itertools
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import nn

from riskvae import nets

BATCH, LATENT, WIDTHS, LR = 256, 10, (512, 256), 1e-3
OURS = "RiskAwareVAE"
# What the design asks of ours against each, as a ratio of rows per second.
BARS = {
    "BetaVAE": 0.97,  # risk costs at most 3 % of an epoch
    "hand-written loop": 1.0,
    "skorch as it comes": 1.6,
    "pythae": 1.35,
    "PyOD, its default batch of 32": 3.0,
    "PyOD, batch 256": 3.0,
}
RESET = Path("/proc/self/clear_refs")


def load_rows(n):
    if os.environ.get("RISKVAE_DATA"):
        from riskvae.datasets import fetch_mnist

        return fetch_mnist().data[:n]
    return np.random.default_rng(0).random((n, 784), dtype=np.float32)


def plain_mlp(*widths):
    layers = []
    for a, b in itertools.pairwise(widths):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def default_networks(d):
    """Encoder and decoder of the default network, as torch has them."""
    return plain_mlp(d, *WIDTHS, 2 * LATENT), plain_mlp(LATENT, *WIDTHS[::-1], d)


class HandVAE(nn.Module):
    """What one writes from memory: Gaussian encoder with log-variances, mean decoder."""

    def __init__(self, d=784, networks=default_networks):
        super().__init__()
        self.encoder, self.decoder = networks(d)

    def forward(self, x):
        mean, log_var = self.encoder(x).chunk(2, dim=-1)
        z = mean + (0.5 * log_var).exp() * torch.randn_like(mean)
        return self.decoder(z), mean, log_var


def elbo(output, x):
    reconstruction, mean, log_var = output
    squared_error = (reconstruction - x).square().sum(-1).mean()
    return squared_error - 0.5 * (1 + log_var - mean.square() - log_var.exp()).sum(-1).mean()


def hand(X, epochs, networks=default_networks):
    """The careful loop: rows in one tensor, a permutation per epoch, fused Adam, no read-back."""
    model = HandVAE(X.shape[1], networks)
    careful_loop(torch.from_numpy(X), epochs, model, lambda batch: elbo(model(batch), batch))


def careful_loop(x, epochs, model, loss_of):
    optimizer = torch.optim.Adam(model.parameters(), LR, fused=True)
    for _ in range(epochs):
        order = torch.randperm(len(x))
        for i in range(0, len(x), BATCH):
            batch = x[order[i : i + BATCH]]
            loss = loss_of(batch)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()


def skorch_plain(X, epochs, networks=default_networks):
    from skorch import NeuralNet

    class Criterion(nn.Module):
        def forward(self, output, x):
            return elbo(output, x)

    NeuralNet(
        HandVAE, module__d=X.shape[1], module__networks=networks, criterion=Criterion, optimizer=torch.optim.Adam,
        lr=LR, batch_size=BATCH, max_epochs=epochs, train_split=None, iterator_train__shuffle=True, verbose=0,
    ).fit(X, X)  # fmt: skip


def pythae(X, epochs, networks=default_networks):
    import logging

    from pythae.models import VAE, VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder
    from pythae.pipelines import TrainingPipeline
    from pythae.trainers import BaseTrainerConfig

    logging.disable(logging.CRITICAL)
    encoder, decoder = networks(X.shape[1])

    class Encoder(BaseEncoder):
        def __init__(self):
            super().__init__()
            self.net = encoder

        def forward(self, x):
            mean, log_var = self.net(x.flatten(1)).chunk(2, dim=-1)
            return ModelOutput(embedding=mean, log_covariance=log_var)

    class Decoder(BaseDecoder):
        def __init__(self):
            super().__init__()
            self.net = decoder

        def forward(self, z):
            return ModelOutput(reconstruction=self.net(z))

    with tempfile.TemporaryDirectory() as folder:
        config = BaseTrainerConfig(
            output_dir=folder, num_epochs=epochs, learning_rate=LR, per_device_train_batch_size=BATCH, no_cuda=True
        )
        shape = VAEConfig(input_dim=(X.shape[1],), latent_dim=encoder(torch.from_numpy(X[:2])).shape[1] // 2)
        model = VAE(shape, encoder=Encoder(), decoder=Decoder())
        TrainingPipeline(model=model, training_config=config)(train_data=X)


def pyod(batch_size, widths=WIDTHS, latent=LATENT):
    def fit(X, epochs):
        from pyod.models.vae import VAE

        VAE(
            latent_dim=latent, encoder_neuron_list=list(widths), decoder_neuron_list=list(widths[::-1]),
            batch_size=batch_size, epoch_num=epochs, lr=LR, dropout_rate=0.0, verbose=0, device="cpu",
        ).fit(X)  # fmt: skip

    return fit


def estimator(name, **parameters):
    parameters = {"n_components": LATENT, "hidden_layer_sizes": WIDTHS, **parameters}

    def fit(X, epochs):
        import riskvae

        model = getattr(riskvae, name)(batch_size=BATCH, device="cpu", random_state=0, **parameters)
        model.set_params(max_epochs=epochs).fit(X)

    return fit


def matrix_products(product):
    """The floor: the products of the forward and the backward pass, and nothing else."""
    shapes = [*pairwise((784, *WIDTHS, 2 * LATENT)), *pairwise((LATENT, *WIDTHS[::-1], 784))]
    parts = [(torch.rand(BATCH, a), torch.rand(b, a), torch.rand(BATCH, b)) for a, b in shapes]

    @torch.no_grad()
    def run(X, epochs):
        for _ in range(epochs * (len(X) // BATCH)):
            for i, (x, w, g) in enumerate(parts):
                product(x, w)
                product(g.t(), x.t())
                if i:  # no gradient for the data
                    product(g, w.t())

    return run


def contenders(with_compile):
    """Trainings by name, each a function of rows and epochs; ours first."""
    table = {
        OURS: estimator("RiskAwareVAE"),
        "BetaVAE": estimator("BetaVAE"),
        "hand-written loop": hand,
        "skorch as it comes": skorch_plain,
    }
    if with_compile:
        table["RiskAwareVAE(compile=True)"] = estimator("RiskAwareVAE", compile=True)
    if importlib.util.find_spec("pythae"):
        table["pythae"] = pythae
    if importlib.util.find_spec("pyod"):
        table["PyOD, its default batch of 32"] = pyod(32)
        table["PyOD, batch 256"] = pyod(BATCH)
    table["matrix products alone, torch"] = matrix_products(lambda x, w: x @ w.t())
    if nets._linear._ONEDNN:
        table["matrix products alone, oneDNN"] = matrix_products(nets._linear._onednn)
    return table


@contextlib.contextmanager
def silence():
    with open(os.devnull, "w") as sink, contextlib.redirect_stdout(sink), contextlib.redirect_stderr(sink):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield


def epoch_seconds(fit, X, epochs):
    with silence():
        start = time.perf_counter()
        fit(X, 1)
        middle = time.perf_counter()
        fit(X, epochs)
        end = time.perf_counter()
    return ((end - middle) - (middle - start)) / (epochs - 1)


def peak_mib(name, rows, threads):
    """Growth of resident memory in a fresh process that trains for one epoch; None where it cannot be told."""
    if not RESET.exists() or name.startswith("matrix"):
        return None
    command = [sys.executable, __file__, "--rows", str(rows), "--threads", str(threads), "--memory-of", name]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def memory_of(name, rows):
    X = load_rows(rows)
    fit = contenders(with_compile=True)[name]
    with silence():
        fit(X[:512], 1)  # imports and buffers of the libraries
    RESET.write_text("5")  # makes the present size the peak (Linux)
    before = peak_kib()
    with silence():
        fit(X, 1)
    print((peak_kib() - before) / 1024)


def peak_kib():
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1])


def product_share(X):
    """Share of an epoch of RiskAwareVAE that is matrix products, by the profiler."""
    fit = estimator("RiskAwareVAE")
    fit(X, 1)
    activities = [torch.profiler.ProfilerActivity.CPU]
    with silence(), torch.profiler.profile(activities=activities) as once:
        fit(X, 1)
    with silence(), torch.profiler.profile(activities=activities) as thrice:
        fit(X, 3)
    products, whole = np.subtract(products_and_whole(thrice), products_and_whole(once))
    return products / whole


def products_and_whole(profiler):
    times = {event.key: event.self_cpu_time_total for event in profiler.key_averages()}
    names = ("aten::mm", "aten::addmm", "mkldnn::_linear_pointwise")
    return sum(times.get(name, 0.0) for name in names), sum(times.values())


def compare(table, X, rounds, epochs):
    """Seconds per epoch of each contender, one per round; the first warms up, and each begins with another."""
    seconds = {name: [] for name in table}
    for turn in range(rounds + 1):
        names = list(table)
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            taken = epoch_seconds(table[name], X, epochs)
            if turn:
                seconds[name].append(taken)
                print(f"round {turn}: {name} {len(X) / taken:,.0f} rows/s", file=sys.stderr)
    return seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=15360)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count()))
    parser.add_argument("--compile", action="store_true", help="also time compile=True")
    parser.add_argument("--plain", action="store_true", help="without oneDNN, as on processors that gain nothing by it")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    nets._linear._ONEDNN = nets._linear._ONEDNN and not args.plain
    if args.memory_of:
        return memory_of(args.memory_of, args.rows)

    X = load_rows(args.rows)
    table = contenders(args.compile)
    seconds = compare(table, X, args.rounds, args.epochs)
    results = {}
    print(f"\n| contender | rows/s | {OURS} is faster by (min-max) | bar | peak memory |\n|---|---|---|---|---|")
    for name, times in seconds.items():
        ratios = [t / o for t, o in zip(times, seconds[OURS], strict=True)]
        peak = peak_mib(name, args.rows, args.threads)
        result = {
            "rows_per_second": len(X) / statistics.median(times),
            "ours_is_faster_by": statistics.median(ratios),
            "range": [min(ratios), max(ratios)],
            "bar": BARS.get(name),
            "peak_mib": peak,
        }
        results[name] = result
        ratio = "" if name == OURS else f"{result['ours_is_faster_by']:.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
        memory = "" if peak is None else f"{peak:.0f} MiB"
        print(f"| {name} | {result['rows_per_second']:,.0f} | {ratio} | {BARS.get(name, '')} | {memory} |")
    share = product_share(X)
    machine = f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}, {args.threads} threads"
    print(f"\n{len(X)} rows of {X.shape[1]} values ({X.nbytes / 2**20:.0f} MiB), {args.rounds} rounds, {machine},")
    backend = f"oneDNN from {nets._linear._LEAST:,} multiplications on" if nets._linear._ONEDNN else "torch"
    print(f"torch {torch.__version__}; matrix products of our layers by {backend}, of all others by torch.")
    print(f"Matrix products are {share:.0%} of an epoch of {OURS}.")
    if args.json:
        machine = {"machine": machine, "torch": torch.__version__, "onednn": nets._linear._ONEDNN}
        document = {"results": results, "product_share": share, **machine, **vars(args)}
        Path(args.json).write_text(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
