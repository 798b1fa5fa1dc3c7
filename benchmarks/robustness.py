"""Speed of margins, attacks and Jacobians against what one would write by hand, at the damage that each finds.

    python benchmarks/robustness.py [--json FILE] [--rows 200] [--peer-rows 6] [--rounds 3] [--threads 2]

On a model of 784-512-256-10 and its mirror (bernoulli; MNIST where RISKVAE_DATA is set, else random rows):

attack    max_damage_attack against L-BFGS image by image (scipy, maximal damage in a ball through a change of
          variables, 20 draws, 10 restarts, as in Barrett et al. 2022), at the same norm; the damage of both is
          judged on the same fresh draws.
margin    robustness_margin's attack (2,000 draws, confirmed on as many) against the same L-BFGS on a grid of norms in
          steps of 10 %, searched downwards from 3 until r is no longer broken in 1,000 draws (Barrett et al.).
jacobian  Jacobians of the encoder, with all norms of them, against torch.autograd.functional.jacobian row by row.
directions  leading singular directions of the whole model's Jacobian (where attacks start and the linearized
          estimate goes), against the same function and torch.linalg.svd row by row.

Contenders take turns; medians over rounds; the peer works on a few of the rows, on one thread, which suits single
images better than two.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import minimize
from training import load_rows

from riskvae import BetaVAE, max_damage_attack, robustness_margin
from riskvae.robustness._jacobian import leading_directions, linearize
from riskvae.robustness._opening import open_coder

BARS = {"attack": 50, "margin": 50, "jacobian": 20, "directions": 20}
MAX_NORM, DRAWS, RESTARTS = 3.0, 20, 10


class Peer:
    """One image at a time, by scipy's L-BFGS and torch's autograd."""

    def __init__(self, module, seed=0):
        self.module = module
        self.noise = torch.randn(DRAWS, 10, generator=torch.Generator().manual_seed(seed))
        self.rng = np.random.default_rng(seed)

    def attack(self, x, max_norm):
        """Perturbation of one image (1, d)."""
        module, noise = self.module, self.noise
        with torch.no_grad():
            reference = module.decode(module.encode(x).mean)

        def damage(free):
            free = torch.tensor(free, dtype=torch.float32, requires_grad=True)
            delta = free * (max_norm / free.norm().clamp(min=max_norm))
            mean, scale = module.encode(x + delta)
            found = (module.decode(mean + scale * noise) - reference).norm(dim=1).mean()
            found.backward()
            return -float(found.detach()), -free.grad.numpy().astype(np.float64)

        best = None
        for _ in range(RESTARTS):
            start = self.rng.normal(size=x.shape[1])
            start *= max_norm / np.linalg.norm(start)
            end = minimize(damage, start, jac=True, method="L-BFGS-B")
            if best is None or end.fun < best.fun:
                best = end
        return best.x * min(1.0, max_norm / np.linalg.norm(best.x))

    def margin(self, x, r):
        """Smallest norm of a grid, downwards, at which its attack breaks r-robustness."""
        broken = np.inf
        for norm in 3.0 / 1.1 ** np.arange(60):
            if self.judge(x, self.attack(x, norm), r) <= 0.5:
                return broken
            broken = norm
        return broken

    @torch.no_grad()
    def judge(self, x, delta, r):
        """Share of fresh draws beyond r, the scale unmoved."""
        noise = torch.randn(1000, 10, generator=torch.Generator().manual_seed(99))
        mean, _ = self.module.encode(x + torch.tensor(delta, dtype=torch.float32))
        clean, scale = self.module.encode(x)
        moved = self.module.decode(mean + scale * noise)
        return float(((moved - self.module.decode(clean)).norm(dim=1) > r).float().mean())


@torch.no_grad()
def fresh_damage(module, X, delta):
    """Mean damage of each row over 1,000 draws that no contender saw."""
    noise = torch.randn(1000, 1, 10, generator=torch.Generator().manual_seed(77))
    out = []
    for x, d in zip(X, delta, strict=True):
        mean, scale = module.encode((x + d)[None])
        reference = module.decode(module.encode(x[None]).mean)
        out.append(float((module.decode((mean + scale * noise)[:, 0]) - reference).norm(dim=1).mean()))
    return np.array(out)


def timed(function, threads):
    torch.set_num_threads(threads)
    start = time.perf_counter()
    value = function()
    return value, time.perf_counter() - start


def report(name, ours, theirs, quality):
    ratio = ours / theirs
    print(
        f"{name:10} {ours:12.1f} rows/s  peer {theirs:9.2f}  {ratio:6.0f}x, asked for {BARS[name]}x   {quality}",
        flush=True,
    )
    return {"ours": ours, "peer": theirs, "ratio": ratio, "quality": quality}


WHAT = {
    "attack": "damage found relative to the peer's: median {:.3f}, least {:.3f}",
    "margin": "norm found by the peer relative to ours: median {:.2f}, least {:.2f} (above 1: ours is tighter)",
    "jacobian": "the same matrices",
    "directions": "the same directions",
}


class Rounds:
    """One round of each part: rows per second of ours and of the peer, and what each found relative to the other."""

    def __init__(self, vae, X, args):
        self.vae, self.X, self.threads, self.peer_rows = vae, X, args.threads, args.peer_rows
        self.module = vae.module_.eval().requires_grad_(False)
        self.rows = np.ascontiguousarray(X[: args.rows])
        self.x = torch.from_numpy(self.rows)

    def attack(self, turn):
        ours, t = timed(lambda: max_damage_attack(self.vae, self.rows, max_norm=MAX_NORM, random_state=0), self.threads)
        peer, some = Peer(self.module, turn), range(turn * self.peer_rows, (turn + 1) * self.peer_rows)
        theirs, u = timed(lambda: np.stack([peer.attack(self.x[i : i + 1], MAX_NORM) for i in some]), 1)
        few = slice(some.start, some.stop)
        a = fresh_damage(self.module, self.x[few], torch.from_numpy(ours.delta[few]))
        b = fresh_damage(self.module, self.x[few], torch.from_numpy(theirs).float())
        return len(self.rows) / t, len(some) / u, list(a / b)

    def margin(self, turn):
        ours, t = timed(
            lambda: robustness_margin(self.vae, self.rows, methods="attack", n_draws=2000, random_state=0), self.threads
        )
        peer = Peer(self.module, turn)
        norm, u = timed(lambda: peer.margin(self.x[turn : turn + 1], ours.r), 1)
        return len(self.rows) / t, 1 / u, [norm / ours.upper[turn]]

    def jacobian(self, turn):
        with open_coder(self.vae, self.X[:2048]) as coder:
            _, t = timed(lambda: [linearize(coder, part) for part in coder.x.split(256)], self.threads)
        mean = lambda row: self.module.encode(row[None]).mean[0]  # noqa: E731
        _, u = timed(lambda: [torch.autograd.functional.jacobian(mean, row) for row in self.x[:100]], 1)
        return 2048 / t, 100 / u, [1.0]

    def directions(self, turn):
        with open_coder(self.vae, self.X[:512]) as coder:
            parts = coder.x.split(128)
            _, t = timed(lambda: [leading_directions(coder, linearize(coder, part), 3) for part in parts], self.threads)
        whole = lambda row: self.module.decode(self.module.encode(row[None]).mean)[0]  # noqa: E731
        jacobian = torch.autograd.functional.jacobian
        _, u = timed(lambda: [torch.linalg.svd(jacobian(whole, row), full_matrices=False) for row in self.x[:4]], 1)
        return 512 / t, 4 / u, [1.0]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--peer-rows", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--part", choices=sorted(BARS))
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args()
    X = load_rows(15360)
    vae = BetaVAE(10, beta=1.0, likelihood="bernoulli", max_epochs=10, device="cpu", random_state=0).fit(X)
    rounds, document = Rounds(vae, X, args), {**vars(args), "torch": torch.__version__}
    for name in [args.part] if args.part else BARS:
        results = [getattr(rounds, name)(turn) for turn in range(args.rounds)]
        ours, theirs, found = zip(*results, strict=True)
        found = [value for part in found for value in part]
        text = WHAT[name].format(statistics.median(found), min(found))
        document[name] = report(name, statistics.median(ours), statistics.median(theirs), text)
    if args.json:
        Path(args.json).write_text(json.dumps(document, indent=1, default=str))


if __name__ == "__main__":
    main()
