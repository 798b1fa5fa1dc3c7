"""The times that `device.py` prints: epochs, margins, attacks and scores on a device, and what repeating costs.

Contenders take turns, the device is synchronized round each of them, and medians are compared.
"""

import contextlib
import copy
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple
from unittest import mock

import numpy as np
import torch
from sklearn.base import clone
from training import BATCH, LATENT, LR, WIDTHS, HandVAE, elbo, load_rows

from riskvae import BetaVAE, RiskAwareVAE, max_damage_attack, nets, robustness_margin

CONVOLUTIONS = {"encoder": nets.conv_encoder, "decoder": nets.conv_decoder}


class Line(NamedTuple):
    """A line of the table; ``holds`` is None where it is no check."""

    name: str
    value: str
    holds: bool | None = None


def synchronize(device):
    if device.type != "cpu":
        getattr(torch, device.type).synchronize()


class HandConvVAE(HandVAE):
    """The same loop's model, of convolutions."""

    def __init__(self, d=784):
        torch.nn.Module.__init__(self)
        self.encoder, self.decoder = nets.conv_encoder(d, 2 * LATENT), nets.conv_decoder(LATENT, d)


class HandDrawsVAE(HandVAE):
    """With eight latent draws for each row."""

    def forward(self, x):
        mean, log_var = self.encoder(x).chunk(2, dim=-1)
        z = mean + (0.5 * log_var).exp() * torch.randn(8, *mean.shape, device=x.device)
        return self.decoder(z.flatten(0, 1)).unflatten(0, z.shape[:2]), mean, log_var


EPOCHS = {
    "default network": (BetaVAE(), HandVAE, 1),
    "convolutions": (BetaVAE(**CONVOLUTIONS), HandConvVAE, 4),  # of which fewer rows do
    "8 draws": (RiskAwareVAE(risk_over="joint", n_subsamples=8), HandDrawsVAE, 1),
}


def epochs_of_ours(model, X, epochs, device, **parameters):
    """Seconds of each epoch but the first; an epoch ends when its losses have come from the device."""
    vae = clone(model).set_params(
        n_components=LATENT, hidden_layer_sizes=WIDTHS, batch_size=BATCH, max_epochs=epochs, lr=LR, random_state=0,
        device=str(device), **parameters,
    )  # fmt: skip
    return [epoch["dur"] for epoch in vae.fit(X).history_[1:]]


def epochs_by_hand(kind, X, epochs, device):
    """The same of a careful loop: rows on the device, a permutation per epoch, fused Adam, no read-back."""
    x, model, seconds = torch.from_numpy(X).to(device), kind(X.shape[1]).to(device), []
    optimizer = torch.optim.Adam(model.parameters(), LR, fused=device.type in ("cpu", "cuda"))
    for _ in range(epochs):
        synchronize(device)
        start = time.perf_counter()
        order = torch.randperm(len(x), device=device)
        for i in range(0, len(x), BATCH):
            batch = x[order[i : i + BATCH]]
            loss = elbo(model(batch), batch)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        synchronize(device)
        seconds.append(time.perf_counter() - start)
    return seconds[1:]


@contextlib.contextmanager
def any_order():
    """CuDNN by its fastest algorithms, whatever the order of their sums."""
    cudnn = torch.backends.cudnn
    before = cudnn.benchmark
    cudnn.benchmark = True
    try:
        with mock.patch("riskvae._machine._repeatable_cudnn", contextlib.nullcontext):
            yield
    finally:
        cudnn.benchmark = before


def medians(contenders: dict[str, Callable[[], list[float]]], rounds):
    """Median seconds of each; they take turns, each round begins with another, and the first round warms up."""
    seconds = {name: [] for name in contenders}
    for turn in range(rounds + 1):
        names = list(contenders)
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            taken = contenders[name]()
            seconds[name] += taken if turn else []
    return {name: statistics.median(taken) for name, taken in seconds.items()}


def timed(function, device):
    synchronize(device)
    start = time.perf_counter()
    function()
    synchronize(device)
    return [time.perf_counter() - start]


class Times:
    """Lines of times on a device."""

    def __init__(self, device, quick):
        self.device, self.quick = device, quick
        self.rounds, self.epochs = (1, 2) if quick else (3, 4)
        self.X = load_rows(512 if quick else 15360)

    def lines(self):
        for name, (model, kind, fewer) in EPOCHS.items():
            yield from self.epoch(name, model, kind, self.X[:: 1 if self.quick else fewer])
        vae = BetaVAE(LATENT, hidden_layer_sizes=WIDTHS, max_epochs=2, device="cpu", random_state=0).fit(self.X)
        yield from self.robustness(vae)
        yield self.dtypes(vae.set_params(device=str(self.device)))

    def epoch(self, name, model, kind, X):
        X = np.ascontiguousarray(X)
        size = X, self.epochs, self.device
        contenders = {"ours": lambda: epochs_of_ours(model, *size), "hand": lambda: epochs_by_hand(kind, *size)}
        convolved = model.encoder is not None
        if convolved and self.device.type == "cuda":

            def unordered():
                with any_order():
                    return epochs_of_ours(model, *size)

            contenders["any order"] = unordered
        found = medians(contenders, self.rounds)
        ours = found["ours"]
        rate = f"{len(X) / ours:,.0f} rows/s"
        yield Line(f"epoch, {name}", f"{rate}, {found['hand'] / ours:.2f} times as fast as the hand-written loop")
        if name == "default network" or not self.quick:
            yield Line(f"epoch, {name}, compile=True", self.compiled(model, size, ours))
        if convolved:
            price = f"{ours / found['any order'] - 1:+.1%} of an epoch" if "any order" in found else "no cuDNN here"
            yield Line("price of a cuDNN that repeats itself", price)

    def compiled(self, model, size, plain):
        try:
            taken = statistics.median(epochs_of_ours(model, *size, compile=True))
        except Exception as error:  # no compiler, no Triton, or a device that torch.compile does not know
            return f"not to be had here: {' '.join(str(error).split())[:100]}"
        return f"{plain / taken:.2f} times as fast as without"

    def robustness(self, vae):
        rows = self.X[: 2 if self.quick else 32]
        for name, function in {
            "margins": lambda device: robustness_margin(self.on(vae, device), rows, n_draws=400, random_state=0),
            "attacks": lambda device: max_damage_attack(self.on(vae, device), rows, max_norm=2.0, random_state=0),
        }.items():
            devices = {str(device): device for device in (self.device, torch.device("cpu"))}
            contenders = {key: lambda d=device: timed(lambda: function(d), d) for key, device in devices.items()}
            found = medians(contenders, 1)
            value = ", ".join(f"{len(rows) / taken:.1f} rows/s on {key}" for key, taken in found.items())
            yield Line(name, value)

    def on(self, vae, device):
        return copy.deepcopy(vae).set_params(device=str(device))

    def dtypes(self, vae):
        rows = {dtype: np.ascontiguousarray(self.X, dtype=dtype) for dtype in ("float32", "float64")}
        contenders = {dtype: lambda x=x: timed(lambda: vae.score_samples(x), self.device) for dtype, x in rows.items()}
        found = medians(contenders, self.rounds)
        rate = f"{len(self.X) / found['float32']:,.0f} rows/s in float32"
        return Line("score_samples", f"{rate}, {found['float64'] / found['float32']:.1f} times as long in float64")
