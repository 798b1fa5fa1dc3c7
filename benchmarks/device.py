"""What the package promises, held on a device, and what it costs there.

    python benchmarks/device.py [--device auto] [--json FILE] [--quick]

Checks come first, at small size. Models that were fitted on the CPU are put on the device, and must give the CPU's
answers in both dtypes: every method on rows, margins, attacks and proofs. Fits on the device must repeat themselves
bit for bit, also where they went on (warm_start, checkpoint), and agree with the CPU's. On NVIDIA's, steps that are
recorded as a graph must do what they do without. A pickle must open without the device, and memory must not grow. The
exit status is 1 where a check fails.

Times follow, each round after a synchronization of the device and beside its rivals, as medians: an epoch against a
hand-written torch loop and `compile=True`, margins, attacks, scores in both dtypes, and what it costs that cuDNN
repeats itself. Rows are MNIST's where RISKVAE_DATA is set, else random ones. --quick makes all of it smaller: its
checks are the same, its times mean little. Set OMP_NUM_THREADS to choose the number of threads on a CPU.
"""

import argparse
import contextlib
import copy
import json
import pickle
import re
import sys
import tempfile
import time
import warnings
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from device_times import CONVOLUTIONS, Line, Times, synchronize
from joblib import Parallel, delayed
from sklearn.base import clone
from skorch.callbacks import Callback, LRScheduler

from riskvae import (
    BetaTCVAE,
    BetaVAE,
    QuantileVAE,
    RiskAwareVAE,
    batched_fits,
    max_damage_attack,
    risk,
    robustness_margin,
    verdict_margin,
)
from riskvae._machine import resolve_device

SMALL = {"n_components": 3, "hidden_layer_sizes": (32,), "random_state": 0}
MODELS = {
    "BetaVAE": BetaVAE(),
    "BetaVAE, bernoulli": BetaVAE(likelihood="bernoulli", early_stopping=True),
    "BetaVAE, convolutions": BetaVAE(**CONVOLUTIONS),
    "BetaTCVAE": BetaTCVAE(),
    "QuantileVAE": QuantileVAE(calibration_fraction=0.4),
    "RiskAwareVAE, batch": RiskAwareVAE(),
    "RiskAwareVAE, subsamples": RiskAwareVAE(risk_over="subsamples", n_subsamples=4),
    "RiskAwareVAE, nested": RiskAwareVAE(risk_over="nested", n_subsamples=4),
    "RiskAwareVAE, joint": RiskAwareVAE(risk_over="joint", n_subsamples=4),
    "RiskAwareVAE, warm-ups": RiskAwareVAE(eps_warmup=1, beta_warmup=1),
    "RiskAwareVAE, lr falls": RiskAwareVAE(callbacks=[LRScheduler(torch.optim.lr_scheduler.StepLR, step_size=1)]),
    "RiskAwareVAE, groups": RiskAwareVAE(risk_over="groups"),
    "RiskAwareVAE, ema": RiskAwareVAE(threshold="ema"),
    "RiskAwareVAE, learned": RiskAwareVAE(threshold="learned"),
    "RiskAwareVAE, seeking": RiskAwareVAE(risk="seeking", eps=0.5),
    "RiskAwareVAE, smoothed": RiskAwareVAE(measure=risk.SmoothedCVaR(smoothing=0.5)),
    "RiskAwareVAE, spectral": RiskAwareVAE(measure=risk.Spectral(risk.Extremile(3))),
}
METHODS = (
    "transform", "encode", "reconstruct", "reconstruction_loss", "score_samples", "predict", "decision_function",
    "predict_quantiles", "predict_interval", "predict_scale", "z_scores", "p_values", "conformal_p_values", "detect",
    "detect_features",
)  # fmt: skip
OPTIONS = {"predict_interval": {"alpha": 0.1}}
# Answers may differ by this share of their largest. P-values and verdicts move in steps, searches amplify rounding,
# and convolutions on an NVIDIA GPU round to ten bits as torch sets it up (TF32).
EXACT = {"float32": 2e-3, "float64": 1e-6}
STEPS = ("predict", "p_values", "conformal_p_values", "detect", "detect_features")
OF_PLAYING = 1e-4
OF_STEPS, OF_CONVOLUTIONS, OF_SEARCHES, OF_FITS = 0.02, 0.02, 0.1, 0.02
MOST_GROWTH = 16  # MiB


def difference(found, expected):
    """Largest difference as a share of the largest value; of labels and verdicts the share that differ."""
    found, expected = (np.asarray(values) for values in (found, expected))
    if found.shape != expected.shape or found.dtype != expected.dtype or found.size == 0:
        return np.inf
    if found.dtype.kind != "f":
        return float((found != expected).mean())
    known = np.isfinite(expected)
    if not np.array_equal(found[~known], expected[~known], equal_nan=True) or not np.isfinite(found[known]).all():
        return np.inf
    a, b = found[known].astype(float), expected[known].astype(float)
    return float(np.abs(a - b).max(initial=0.0) / max(np.abs(b).max(initial=0.0), 1e-12))


def agree(name, pairs, tolerance):
    """Line of a check that values (found, expected) by name differ by no more than is allowed of each."""
    found = {key: difference(*pair) for key, pair in pairs.items()}
    allowed = tolerance if isinstance(tolerance, dict) else dict.fromkeys(found, tolerance)
    worst = max(found, key=lambda key: found[key] / allowed[key])
    value = f"{len(found)} answers, {worst} differs by {found[worst]:.1e} (allowed {allowed[worst]:.0e})"
    return Line(name, value, all(found[key] <= allowed[key] for key in found))


# ------------------------------------------------------------------------------------------- checks


class Checks:
    """Lines of checks on a device, of small models and rows."""

    def __init__(self, device, quick):
        self.device, self.where = device, str(device)
        rng, n = np.random.default_rng(0), 300 if quick else 1000
        shape = np.outer(np.sin(np.arange(8)), np.cos(np.arange(8))).ravel()
        rows = 0.5 + 0.3 * rng.normal(size=(n, 1)) * shape + 0.1 * rng.random((n, 64))
        self.X = rows.clip(0.0, 1.0).astype(np.float32)
        self.epochs, self.few = (2, 2) if quick else (4, 6)
        self.extra = {"groups": np.arange(n) % 7}

    def fit(self, model, device, **parameters):
        vae = clone(model).set_params(**SMALL, max_epochs=self.epochs, batch_size=64, device=device, **parameters)
        return vae.fit(self.X, **(self.extra if getattr(vae, "risk_over", None) == "groups" else {}))

    def lines(self):
        for name, model in MODELS.items():
            here = self.fit(model, "cpu")
            there = copy.deepcopy(here).set_params(device=self.where)
            yield self.answers(name, here, there)
            fitted = self.fit(model, self.where)
            yield self.repeats(f"{name}: fit again", fitted, self.fit(model, self.where))
            if self.device.type == "cuda":
                yield self.played(name, model, fitted)
            pair = {"score": tuple(np.array([vae.score(self.X)]) for vae in (fitted, here))}
            yield agree(f"{name}: fit as on the CPU", pair, OF_FITS)
            if name in ("BetaVAE", "BetaVAE, convolutions", "QuantileVAE"):
                yield from self.robustness(name, here, there)
            if name in ("BetaVAE, convolutions", "RiskAwareVAE, learned"):
                yield from self.going_on(name, model)
            if name in ("BetaVAE", "QuantileVAE"):
                yield self.travels(name, there)
        yield self.company()
        yield self.memory()

    def answers(self, name, here, there):
        pairs, allowed = {}, {}
        for method in METHODS:
            for dtype, most in EXACT.items() if hasattr(here, method) else ():
                rows = self.X[:200].astype(dtype)
                options, key = OPTIONS.get(method, {}), f"{method} of {dtype}"
                found = [getattr(vae, method)(rows, **options) for vae in (there, here)]
                pairs[key] = [np.concatenate(part, 1) if isinstance(part, tuple) else part for part in found]
                convolved = here.encoder is not None and dtype == "float32"
                allowed[key] = OF_STEPS if method in STEPS else OF_CONVOLUTIONS if convolved else most
        codes = here.transform(self.X[:50])
        pairs["inverse_transform"] = [vae.inverse_transform(codes) for vae in (there, here)]
        pairs["sample"] = [vae.sample(50, random_state=0) for vae in (there, here)]
        allowed |= {"inverse_transform": OF_CONVOLUTIONS, "sample": EXACT["float64"]}
        line = agree(f"{name}: answers", pairs, allowed)
        return line._replace(holds=line.holds and there.device_.type == self.device.type)

    def repeats(self, name, a, b):
        states = [[*vae.module_.state_dict().items(), *vae.net_.criterion_.state_dict().items()] for vae in (a, b)]
        equal = [torch.equal(x.cpu(), y.cpu()) for (_, x), (_, y) in zip(*states, strict=True)]
        scores = [vae.score_samples(self.X) for vae in (a, b)]
        where = f"{a.device_.type}, {sum(equal)} of {len(equal)} tensors equal"
        return Line(name, where, all(equal) and np.array_equal(*scores) and a.device_.type == self.device.type)

    def played(self, name, model, fitted):
        """Steps that a GPU plays as a whole do what steps do that the host starts kernel by kernel."""
        with mock.patch("riskvae.training._net.recorder_of", return_value=None):
            taken = self.fit(model, self.where)
        weights = [
            np.concatenate([p.detach().cpu().numpy().ravel() for p in vae.module_.parameters()])
            for vae in (fitted, taken)
        ]
        line = agree(f"{name}: steps played as taken", {"weights": weights}, OF_PLAYING)
        equal = "bit for bit" if np.array_equal(*weights) else "not bit for bit"
        return line._replace(value=f"{line.value}, {equal}")

    def going_on(self, name, model):
        """Two and two epochs are four, on the device; so are two in a file and two."""
        whole, half = self.fit(model, self.where, warm_start=True), clone(model)
        half.set_params(**SMALL, max_epochs=self.epochs - 1, batch_size=64, device=self.where, warm_start=True)
        half.fit(self.X).set_params(max_epochs=1).fit(self.X)
        yield self.repeats(f"{name}: warm start", half, whole)
        with tempfile.TemporaryDirectory() as folder:
            file = str(Path(folder) / "fit.pt")
            with contextlib.suppress(Halt):
                self.fit(model, self.where, checkpoint=file, callbacks=[HaltAt()])
            kept = Path(file).exists()
            line = self.repeats(f"{name}: checkpoint", self.fit(model, self.where, checkpoint=file), whole)
        yield line._replace(holds=line.holds and kept)

    def robustness(self, name, here, there):
        rows, options = self.X[: self.few], {"random_state": 0}
        a, b = (robustness_margin(vae, rows, n_draws=400, **options) for vae in (there, here))
        pairs = {key: (getattr(a, key), getattr(b, key)) for key in ("proven", "lower", "linearized")}
        pairs["upper"] = [np.median(found.upper, keepdims=True) for found in (a, b)]
        line = agree(f"{name}: margins", pairs, OF_SEARCHES)
        yield line._replace(holds=line.holds and a.notes == b.notes)
        a, b = (max_damage_attack(vae, rows, max_norm=1.0, n_steps=20, **options) for vae in (there, here))
        yield agree(
            f"{name}: attacks", {"damage": [np.median(found.damage, keepdims=True) for found in (a, b)]}, OF_SEARCHES
        )
        if isinstance(here, QuantileVAE):
            a, b = (verdict_margin(vae, rows, **options) for vae in (there, here))
            pairs = {key: (getattr(a, key), getattr(b, key)) for key in ("proven", "score", "verdict")}
            line = agree(f"{name}: verdict margins", pairs, OF_SEARCHES)
            yield line._replace(holds=line.holds and a.notes == b.notes)

    def company(self):
        """Models that train as one are those of fits one by one, up to rounding; batches differ by a row."""
        models = [RiskAwareVAE(eps=eps, eps_warmup=1, beta_warmup=1) for eps in (0.2, 0.5, 1.0)]
        for i, vae in enumerate(models):
            vae.set_params(**SMALL | {"random_state": i}, max_epochs=self.epochs, batch_size=64, device=self.where)
        parts = [self.X[i:] for i in range(len(models))]
        alone = [clone(vae).fit(rows) for vae, rows in zip(models, parts, strict=True)]
        with batched_fits():
            found = Parallel(n_jobs=2)(
                delayed(type(vae).fit)(vae, rows) for vae, rows in zip(models, parts, strict=True)
            )
        pairs = {
            f"scores of model {i}": (a.score_samples(self.X), b.score_samples(self.X))
            for i, (a, b) in enumerate(zip(found, alone, strict=True))
        }
        return agree("batched_fits as one by one", pairs, EXACT["float32"])

    def travels(self, name, there):
        """Pickled on the device, opened as where there is none."""
        told = pickle.dumps(there)
        with mock.patch("riskvae.training._net.is_available", return_value=False):
            opened = pickle.loads(told)
        assert opened.device_.type == "cpu"
        pair = {"scores": [vae.score_samples(self.X.astype(float)) for vae in (opened, there)]}
        return agree(f"{name}: pickle opens on the CPU", pair, EXACT["float64"])

    def memory(self):
        sizes = []
        for _ in range(4):
            self.fit(MODELS["RiskAwareVAE, smoothed"], self.where).score_samples(self.X)
            sizes.append(mib_in_use(self.device))
        if None in sizes:
            return Line("memory after fits", "cannot be told here")
        growth = sizes[-1] - sizes[1]  # the first two load what is loaded once
        return Line("memory after fits", f"{growth:+.1f} MiB (allowed {MOST_GROWTH})", growth <= MOST_GROWTH)


class Halt(Exception):
    """The end of a fit that goes on later."""


class HaltAt(Callback):
    """Ends a fit once its second epoch has begun."""

    def on_epoch_begin(self, net, **kwargs):
        if len(net.history) == 2:
            raise Halt


def mib_in_use(device):
    """Memory that tensors take on a device, or this process on the CPU; None where that is not known."""
    synchronize(device)
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device) / 2**20
    if device.type == "mps":
        return torch.mps.current_allocated_memory() / 2**20
    status = Path("/proc/self/status")
    return int(re.search(r"VmRSS:\s+(\d+)", status.read_text())[1]) / 1024 if status.exists() else None


# --------------------------------------------------------------------------------------------- main


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args(arguments)
    try:
        device = resolve_device(args.device)
    except ValueError as error:
        parser.error(str(error))
    warnings.simplefilter("ignore")  # models so small do not converge
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    start, lines = time.perf_counter(), []
    print(f"{name}, torch {torch.__version__}, {torch.get_num_threads()} threads\n\n| what | found | |\n|---|---|---|")
    for part in (Checks(device, args.quick), Times(device, args.quick)):
        for line in part.lines():
            lines.append(line)
            verdict = "" if line.holds is None else "holds" if line.holds else "FAILED"
            print(f"| {line.name} | {line.value} | {verdict} |", flush=True)
    failed = [line.name for line in lines if line.holds is False]
    n_checks = sum(line.holds is not None for line in lines)
    print(f"\n{n_checks} checks, {len(failed)} failed, in {time.perf_counter() - start:.0f} s.")
    if args.json:
        machine = {"device": name, "torch": torch.__version__, "threads": torch.get_num_threads(), "quick": args.quick}
        document = {**machine, "failed": failed, "lines": [line._asdict() for line in lines]}
        Path(args.json).write_text(json.dumps(document, indent=1) + "\n")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
