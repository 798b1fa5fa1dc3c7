"""What attacks find and what they cost, against plain projected gradient ascent (PGD) written by hand.

    python benchmarks/attacks.py [--part damage] [--json FILE] [--rows 16] [--steps 150] [--restarts 10] [--threads 2]

damage    max_damage_attack at default settings against a PGD of 15 times its gradient steps from random starts, for a
          perceptron and a convolutional model of MNIST (RISKVAE_DATA; else random rows), norms 1, 2 and infinity, with
          and without the box [0, 1]. In norm 1 it moves 1, 3, 10, 40 and 160 entries in turn. Both are judged on
          the same 1,000 draws that neither saw.
wide      seconds at 256 latent dimensions and 12,288 features against PGD of as many gradient steps and draws.
curve     damage_curve at eight norms against as many attacks: seconds, and damage.

With --json, cases that FILE holds already are not run again.
"""

import argparse
import itertools
import json
import math
import time
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from torch import nn
from training import load_rows

from riskvae import BetaVAE, max_damage_attack
from riskvae.nets import conv_decoder, conv_encoder
from riskvae.robustness import damage_curve
from riskvae.robustness._projection import project

# Euclidean length 3 is what the other benchmarks use; the others do about as much damage.
SIZES = {1: 20.0, 2: 3.0, math.inf: 0.15}
ENTRIES = (1, 3, 10, 40, 160)
K, D = 256, 12288
NORMS = [0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0]


def steepest(gradient, norm, count):
    """Direction of norm 1, or of a few entries of it."""
    if norm == 2:
        return gradient / gradient.norm(dim=-1, keepdim=True).clamp(min=1e-30)
    if norm == math.inf:
        return gradient.sign()
    _, places = gradient.abs().topk(count, dim=-1)
    return torch.zeros_like(gradient).scatter(-1, places, gradient.gather(-1, places).sign() / count)


def pgd(model, x, size, norm, *, box=False, steps, restarts, draws=16, seed=0):
    """Best perturbations met from random starts, with steps that shrink."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        mean, _ = model.encode(x)
        reference = model.decode(mean)
    noise = torch.randn(draws, mean.shape[1], generator=generator)
    low, high = (-x, 1 - x) if box else (None, None)
    radius = torch.full((restarts, len(x)), size)
    start = torch.randn(restarts, *x.shape, generator=generator)
    delta = project(2 * size * steepest(start, norm, x.shape[1] // 10), radius, norm, low, high)
    best, found = torch.zeros_like(x), torch.full((len(x),), -math.inf)
    for step in range(steps + 1):  # the last point too is looked at
        delta.requires_grad_()
        mean, scale = model.encode((x + delta).flatten(0, 1))
        decoded = model.decode((mean + scale * noise[:, None]).flatten(0, 1)).view(draws, restarts, len(x), -1)
        value = (decoded - reference).norm(dim=-1).mean(0)
        (gradient,) = torch.autograd.grad(value.sum(), delta)
        delta = delta.detach()
        top, which = value.detach().max(0)
        better = top > found
        best = torch.where(better[:, None], delta[which, torch.arange(len(x))], best)
        found = torch.where(better, top, found)
        length = size * (1.0 + math.cos(math.pi * step / (steps + 1)))
        way = steepest(gradient, norm, ENTRIES[step % len(ENTRIES)])
        delta = project(delta + length * way, radius, norm, low, high)
    return best


@torch.no_grad()
def judged(model, x, delta):
    """Mean damage of each row over 1,000 draws that no contender saw."""
    generator, out = torch.Generator().manual_seed(77), []
    clean, _ = model.encode(x)
    noise = torch.randn(1000, clean.shape[1], generator=generator)
    mean, scale = model.encode(x + delta)
    for i in range(len(x)):
        decoded = model.decode(mean[i] + scale[i] * noise)
        out.append(float((decoded - model.decode(clean[i : i + 1])).norm(dim=1).mean()))
    return np.array(out)


@cache
def trained(kind):
    """A model of MNIST of ten dimensions, trained in a minute, and rows."""
    X, nets, epochs = load_rows(8192), {}, 10
    if kind == "convolution":
        nets, epochs = {"encoder": partial(conv_encoder, channels=(16, 32))}, 12
        nets["decoder"] = partial(conv_decoder, channels=(16, 32))
    options = {
        "likelihood": "bernoulli",
        "max_epochs": epochs,
        "lr": 3e-3,
        "batch_size": 128,
        "device": "cpu",
        "random_state": 0,
    }
    vae = BetaVAE(10, beta=1.0, **nets, **options).fit(X)
    return vae, vae.module_.eval().requires_grad_(False), np.ascontiguousarray(X)


def damage_cases(args):
    """Damage found relative to the long PGD's, case by case."""
    for kind, norm, box in itertools.product(("perceptron", "convolution"), SIZES, (False, True)):

        def case(kind=kind, norm=norm, box=box):
            vae, model, X = trained(kind)
            rows = X[: args.rows]
            x = torch.from_numpy(rows)
            options = {"max_norm": SIZES[norm], "norm": norm, "bounds": (0, 1) if box else None}
            ours, ours_s = timed(lambda: max_damage_attack(vae, rows, random_state=0, **options))
            peer = {"steps": args.steps, "restarts": args.restarts}
            theirs, theirs_s = timed(lambda: pgd(model, x, SIZES[norm], norm, box=box, **peer))
            ratio = judged(model, x, torch.from_numpy(ours.delta)) / judged(model, x, theirs)
            return {"median": np.median(ratio), "least": ratio.min(), "seconds": ours_s, "peer_seconds": theirs_s}

        yield f"damage, {kind}, norm {norm:g}{', box' if box else ''}", case


class Wide(nn.Module):
    """Convolutions from 3 x 64 x 64 pixels to 256 dimensions and back, or a perceptron."""

    def __init__(self, convolutions):
        super().__init__()
        torch.manual_seed(0)
        if convolutions:
            down = [nn.Unflatten(1, (3, 64, 64)), nn.Conv2d(3, 16, 4, 2, 1), nn.SiLU(), nn.Conv2d(16, 32, 4, 2, 1)]
            up = [nn.Unflatten(1, (32, 16, 16)), nn.ConvTranspose2d(32, 16, 4, 2, 1), nn.SiLU()]
            up += [nn.ConvTranspose2d(16, 3, 4, 2, 1), nn.Sigmoid(), nn.Flatten()]
            self.down = nn.Sequential(*down, nn.SiLU(), nn.Flatten(), nn.Linear(8192, 2 * K))
            self.up = nn.Sequential(nn.Linear(K, 8192), *up)
        else:
            self.down = nn.Sequential(nn.Linear(D, 512), nn.ReLU(), nn.Linear(512, 2 * K))
            self.up = nn.Sequential(nn.Linear(K, 512), nn.ReLU(), nn.Linear(512, D), nn.Sigmoid())

    def encode(self, x):
        mean, scale = self.down(x).chunk(2, 1)
        return mean, (0.5 * scale - 1.0).exp()

    def decode(self, z):
        return self.up(z)


def wide_cases(args):
    """Seconds of an attack over those of PGD: both in turn, the median of three rounds."""
    X = np.random.default_rng(0).random((8, D), dtype=np.float32)
    for convolutions, norm in itertools.product((False, True), SIZES):

        def case(convolutions=convolutions, norm=norm):
            model, size = Wide(convolutions).eval().requires_grad_(False), 4 * SIZES[norm]
            rounds = []
            for _ in range(3):
                _, ours = timed(lambda: max_damage_attack(model, X, max_norm=size, norm=norm, random_state=0))
                _, theirs = timed(lambda: pgd(model, torch.from_numpy(X), size, norm, steps=50, restarts=2))
                rounds.append((ours / theirs, ours, theirs))
            ratio, ours, theirs = np.median(rounds, axis=0)
            return {"ratio": ratio, "seconds": ours, "peer_seconds": theirs}

        yield f"wide, {'convolution' if convolutions else 'perceptron'}, norm {norm:g}", case


def curve_cases(args):
    """Damage and seconds of a curve over those of single attacks."""

    def case():
        vae, _, X = trained("perceptron")
        rows = X[: args.rows]
        curve, ours = timed(lambda: damage_curve(vae, rows, NORMS, bounds=(0, 1), random_state=0))
        singles, theirs = timed(
            lambda: [max_damage_attack(vae, rows, max_norm=q, bounds=(0, 1), random_state=0) for q in NORMS]
        )
        ratio = curve.damage / np.stack([single.damage for single in singles])
        found = {"median": np.median(ratio), "least": ratio.min(), "least_median": np.median(ratio, axis=1).min()}
        return {**found, "seconds": ours, "peer_seconds": theirs}

    yield "curve, perceptron, norm 2, box", case


def timed(function):
    start = time.perf_counter()
    value = function()
    return value, time.perf_counter() - start


PARTS = {"damage": damage_cases, "wide": wide_cases, "curve": curve_cases}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--restarts", type=int, default=10)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--part", choices=sorted(PARTS))
    parser.add_argument("--json", metavar="FILE", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    done = json.loads(args.json.read_text()) if args.json and args.json.exists() else {}
    for name, case in (pair for part in ([args.part] if args.part else PARTS) for pair in PARTS[part](args)):
        if name not in done:
            done[name] = {key: float(value) for key, value in case().items()}
        print(f"{name:36}" + "  ".join(f"{key} {value:.3f}" for key, value in done[name].items()), flush=True)
        if args.json:
            args.json.write_text(json.dumps(done, indent=1))


if __name__ == "__main__":
    main()
