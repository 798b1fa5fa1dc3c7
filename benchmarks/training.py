"""Training speed of the estimators against a hand-written torch loop, skorch, pythae and PyOD.

    python benchmarks/training.py [--json FILE] [--rounds 5] [--rows 15360] [--epochs 4] [--threads 2] [--compile]

Every contender trains the same network (784-512-256-10 and mirror, batch 256, Adam) on the same rows: MNIST
where RISKVAE_DATA is set, else random numbers of its shape. One epoch's time is the difference between a
training of some epochs and one of a single epoch, so start-up and what a library does after training do not
count. Contenders take turns; ratios are medians of the rounds' ratios. Peak memory is measured in a process
of its own, beyond what was resident before training.
"""

import argparse
import contextlib
import importlib.util
import itertools
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings

import numpy as np
import torch
from torch import nn

BATCH, LATENT, WIDTHS, LR = 256, 10, (512, 256), 1e-3


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


class HandVAE(nn.Module):
    """What one writes from memory: Gaussian encoder with log-variances, mean decoder."""

    def __init__(self, d=784):
        super().__init__()
        self.encoder = plain_mlp(d, *WIDTHS, 2 * LATENT)
        self.decoder = plain_mlp(LATENT, *WIDTHS[::-1], d)

    def forward(self, x):
        mean, log_var = self.encoder(x).chunk(2, dim=-1)
        z = mean + (0.5 * log_var).exp() * torch.randn_like(mean)
        return self.decoder(z), mean, log_var


def elbo(output, x):
    reconstruction, mean, log_var = output
    squared_error = (reconstruction - x).square().sum(-1).mean()
    return squared_error - 0.5 * (1 + log_var - mean.square() - log_var.exp()).sum(-1).mean()


def hand(X, epochs):
    """The careful loop: rows in one tensor, a permutation per epoch, fused Adam, no read-back."""
    x, model = torch.from_numpy(X), HandVAE(X.shape[1])
    optimizer = torch.optim.Adam(model.parameters(), LR, fused=True)
    for _ in range(epochs):
        order = torch.randperm(len(x))
        for i in range(0, len(x), BATCH):
            batch = x[order[i : i + BATCH]]
            loss = elbo(model(batch), batch)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()


def skorch_plain(X, epochs):
    from skorch import NeuralNet

    class Criterion(nn.Module):
        def forward(self, output, x):
            return elbo(output, x)

    NeuralNet(
        HandVAE, criterion=Criterion, optimizer=torch.optim.Adam, lr=LR, batch_size=BATCH, max_epochs=epochs,
        train_split=None, iterator_train__shuffle=True, verbose=0,
    ).fit(X, X)  # fmt: skip


def pythae(X, epochs):
    import logging

    from pythae.models import VAE, VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder
    from pythae.pipelines import TrainingPipeline
    from pythae.trainers import BaseTrainerConfig

    logging.disable(logging.CRITICAL)

    class Encoder(BaseEncoder):
        def __init__(self):
            super().__init__()
            self.net = plain_mlp(784, *WIDTHS, 2 * LATENT)

        def forward(self, x):
            mean, log_var = self.net(x.flatten(1)).chunk(2, dim=-1)
            return ModelOutput(embedding=mean, log_covariance=log_var)

    class Decoder(BaseDecoder):
        def __init__(self):
            super().__init__()
            self.net = plain_mlp(LATENT, *WIDTHS[::-1], 784)

        def forward(self, z):
            return ModelOutput(reconstruction=self.net(z))

    with tempfile.TemporaryDirectory() as folder:
        config = BaseTrainerConfig(
            output_dir=folder, num_epochs=epochs, learning_rate=LR, per_device_train_batch_size=BATCH, no_cuda=True
        )
        model = VAE(VAEConfig(input_dim=(784,), latent_dim=LATENT), encoder=Encoder(), decoder=Decoder())
        TrainingPipeline(model=model, training_config=config)(train_data=X)


def pyod(X, epochs):
    from pyod.models.vae import VAE

    VAE(
        latent_dim=LATENT, encoder_neuron_list=list(WIDTHS), decoder_neuron_list=list(WIDTHS[::-1]), batch_size=BATCH,
        epoch_num=epochs, lr=LR, dropout_rate=0.0, verbose=0, device="cpu",
    ).fit(X)  # fmt: skip


def estimator(name, **parameters):
    def fit(X, epochs):
        import riskvae

        getattr(riskvae, name)(
            n_components=LATENT, hidden_layer_sizes=WIDTHS, batch_size=BATCH, max_epochs=epochs, device="cpu",
            random_state=0, **parameters,
        ).fit(X)  # fmt: skip

    return fit


def matrix_products(X, epochs):
    """The floor that torch's own products set: those of forward and backward pass, and nothing else."""
    shapes = list(zip((784, *WIDTHS), (*WIDTHS, 2 * LATENT), strict=True))
    shapes += list(zip((LATENT, *WIDTHS[::-1]), (*WIDTHS[::-1], 784), strict=True))
    parts = [(torch.rand(BATCH, a), torch.rand(b, a), torch.rand(BATCH, b)) for a, b in shapes]
    with torch.no_grad():
        for _ in range(epochs * (len(X) // BATCH)):
            for i, (x, w, g) in enumerate(parts):
                x @ w.t()
                g.t() @ x
                if i:  # no gradient for the data
                    g @ w


def contenders(compiled):
    table = {
        "hand-written loop": hand,
        "BetaVAE": estimator("BetaVAE"),
        "RiskAwareVAE": estimator("RiskAwareVAE"),
        "skorch as it comes": skorch_plain,
        "matrix products alone (torch)": matrix_products,
    }
    if compiled:
        table["BetaVAE(compile=True)"] = estimator("BetaVAE", compile=True)
    for module, fit in (("pythae", pythae), ("pyod", pyod)):
        if importlib.util.find_spec(module):
            table[module] = fit
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


def peak_mib(name, rows):
    """Growth of resident memory in a fresh process that trains for one epoch."""
    command = [sys.executable, __file__, "--rows", str(rows), "--memory-of", name]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def memory_of(name, rows):
    X = load_rows(rows)
    fit = contenders(compiled=True)[name]
    with silence():
        fit(X[:512], 1)  # imports and buffers of the libraries
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with silence():
        fit(X, 1)
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)


def product_share(X):
    """Share of an epoch of RiskAwareVAE that is matrix products, by the profiler."""
    fit = estimator("RiskAwareVAE")
    fit(X, 1)
    with silence(), torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        fit(X, 1)
    times = {event.key: event.self_cpu_time_total for event in profiler.key_averages()}
    products = sum(t for key, t in times.items() if key in ("aten::mm", "aten::addmm", "mkldnn::_linear_pointwise"))
    return products / sum(times.values())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=15360)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--compile", action="store_true", help="also time BetaVAE(compile=True)")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.memory_of:
        return memory_of(args.memory_of, args.rows)

    X = load_rows(args.rows)
    table = contenders(args.compile)
    seconds = {name: [] for name in table}
    for turn in range(args.rounds + 1):
        for name, fit in table.items():
            taken = epoch_seconds(fit, X, args.epochs)
            if turn:  # the first round warms up
                seconds[name].append(taken)
            print(f"round {turn} {name}: {len(X) / taken:,.0f} rows/s", file=sys.stderr)

    results = {}
    for name, times in seconds.items():
        ratios = [h / t for h, t in zip(seconds["hand-written loop"], times, strict=True)]
        results[name] = {
            "rows_per_second": len(X) / statistics.median(times),
            "times_hand_written": statistics.median(ratios),
            "range": [min(ratios), max(ratios)],
            "peak_mib": None if name.startswith("matrix") else peak_mib(name, args.rows),
        }
    share = product_share(X)
    print(f"\n| contender | rows/s | x hand-written (min-max) | peak memory, MiB |\n|{'---|' * 4}")
    for name, r in results.items():
        peak = "" if r["peak_mib"] is None else f"{r['peak_mib']:.0f}"
        spread = f"{r['times_hand_written']:.2f} ({r['range'][0]:.2f}-{r['range'][1]:.2f})"
        print(f"| {name} | {r['rows_per_second']:,.0f} | {spread} | {peak} |")
    machine = f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}, {args.threads} threads"
    print(f"\n{len(X)} rows of {X.shape[1]}, {args.rounds} rounds, {machine}, torch {torch.__version__}.")
    print(f"Matrix products take {share:.0%} of an epoch of RiskAwareVAE.")
    if args.json:
        document = {
            "results": results,
            "product_share": share,
            "machine": machine,
            "torch": torch.__version__,
            **vars(args),
        }
        with open(args.json, "w") as out:
            json.dump(document, out, indent=1)


if __name__ == "__main__":
    main()
