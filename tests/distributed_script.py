"""What tests/test_distributed.py trains, in one process and in several: torchrun distributed_script.py FOLDER."""

import atexit
import os
import signal
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from distributed_parts import (
    ContrastVAE,
    Double,
    InTurn,
    Items,
    Once,
    PermutedVAE,
    Scales,
    Shuffled,
    dropping,
    own_start,
    small_decoder,
    small_encoder,
    spare_encoder,
)
from sklearn.model_selection import GridSearchCV
from sklearn.preprocessing import StandardScaler
from skorch.callbacks import Callback, GradientNormClipping, LRScheduler
from torch import nn

from riskvae import BetaTCVAE, BetaVAE, QuantileVAE, RiskAwareVAE
from riskvae.datasets import ParquetRows
from riskvae.risk import Entropic, Extremile, MeanSemideviation, SmoothedCVaR, Spectral

N, D = 403, 12
# Rows of each of 2, and of 3 processes: unequal shares.
CUTS = {1: [0, N], 2: [0, 150, N], 3: [0, 100, 150, N]}


def table():
    """Rows near three dimensions, and a label of each."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(N, 3)) @ rng.normal(size=(3, D)) + 0.3 * rng.normal(size=(N, D))
    return X.astype(np.float32), np.array(list("gbadcfe"))[rng.integers(0, 7, N)]


KW = {"max_epochs": 3, "batch_size": 64, "random_state": 0, "hidden_layer_sizes": (16, 8), "device": "cpu"}


def risk(**parameters):
    """RiskAwareVAE of three components."""
    return RiskAwareVAE(3, **{"eps": 0.2, **KW, **parameters})


CASES = {
    "mean": lambda: BetaVAE(3, **KW),
    "batch": lambda: risk(),
    "nested": lambda: risk(risk_over="nested", n_subsamples=4, eps_subsamples=0.5),
    "subsamples": lambda: risk(risk_over="subsamples", n_subsamples=4),
    "joint, learned": lambda: risk(risk_over="joint", n_subsamples=4, threshold="learned"),
    "moving": lambda: risk(threshold="ema", eps_warmup=2),
    "elbo": lambda: risk(risk_on="elbo", beta_warmup=2),
    "wide": lambda: risk(hidden_layer_sizes=(400, 400)),
    "wide, elbo": lambda: risk(hidden_layer_sizes=(400, 400), risk_on="elbo"),
    "groups": lambda: risk(risk_over="groups", eps=0.4),
    "seeking": lambda: risk(risk="seeking", eps=0.8),
    "smoothed": lambda: risk(measure=SmoothedCVaR(smoothing=0.5)),
    "entropic": lambda: risk(measure=Entropic(0.1)),
    "spectral": lambda: risk(measure=Spectral(Extremile(3))),
    "semideviation": lambda: risk(measure=MeanSemideviation(0.5)),
    "lipschitz": lambda: risk(lipschitz_penalty=3.0),
    "correlation": lambda: BetaTCVAE(3, **KW),
    "objective": lambda: ContrastVAE(3, **KW),
    "likelihood": lambda: BetaVAE(3, likelihood=Scales(), **KW),
    "spare": lambda: BetaVAE(3, encoder=spare_encoder, weight_decay=0.1, **KW),
    "images": lambda: BetaVAE(3, encoder=small_encoder, decoder=small_decoder, **KW),
    "early": lambda: risk(early_stopping=True, n_iter_no_change=2, lr=0.02, **{**KW, "max_epochs": 60}),
    "callbacks": lambda: risk(callbacks=[GradientNormClipping(0.5), LRScheduler("StepLR", step_size=1, gamma=0.5)]),
    "few": lambda: risk(batch_size=2, **{k: v for k, v in KW.items() if k != "batch_size"} | {"max_epochs": 1}),
    "detector": lambda: QuantileVAE(3, **KW),
    "held out": lambda: QuantileVAE(3, calibration_fraction=0.2, contamination=0.1, **KW),
    "cross": lambda: QuantileVAE(3, calibration_fraction="cross", **KW),
    "parts": lambda: QuantileVAE(3, **KW),
    "holes": lambda: risk(eps=0.4),
    "holes, per value": lambda: risk(risk="seeking", eps=0.8, risk_per="value"),
    "holes, seeking": lambda: risk(risk="seeking", eps=0.8),
    "holes, detector": lambda: QuantileVAE(3, calibration_fraction=0.2, **KW),
}


# Two processes are asked all, three of them what may depend on how many there are.
OF_THREE = ("batch", "nested", "groups", "seeking", "objective", "early", "few", "held out", "parts")


def answers(estimator):
    """Everything that a fit leaves behind, as arrays."""
    state = torch.cat([value.flatten().double() for value in estimator.module_.state_dict().values()])
    rows = np.random.default_rng(5).normal(size=(20, D)).astype(np.float32)
    found = {
        "weights": state.numpy(),
        "loss": np.array([[row["train_loss"], row.get("valid_loss", 0.0)] for row in estimator.history_]),
        "history": np.array([[v for v in row.values() if isinstance(v, float)] for row in estimator.history_]),
        "scores": estimator.score_samples(rows),
    }
    if isinstance(estimator, QuantileVAE):
        found["offset"] = np.array(estimator.offset_)
        if estimator.is_calibrated:
            found["p"] = estimator.conformal_p_values(rows)
    return found


def train(name, mode=None, rank=0, size=1):
    """Train a case in this process, as its part of several."""
    X, groups = table()
    if name.startswith("holes"):  # in the last rows alone: some processes have none
        X[300:][np.random.default_rng(1).random((N - 300, D)) < 0.3] = np.nan
    if mode == "sharded":
        here = slice(*CUTS[size][rank : rank + 2])
        X, groups = X[here], groups[here]
    estimator = CASES[name]().set_params(distributed=mode)
    if name == "groups":
        return estimator.fit(X, groups=groups)
    if name == "parts":
        estimator.partial_fit(X[: len(X) // 2])
        return estimator.partial_fit(X[len(X) // 2 :])
    return estimator.fit(X)


def all_cases(folder, rank, size):
    """Each case in both modes; what comes of it in files."""
    for name in CASES if size == 2 else OF_THREE:
        for mode in ("replicated", "sharded"):
            np.savez(folder / f"{name} {mode} {size} {rank}.npz", **answers(train(name, mode, rank, size)))
    for kind in (Items, InTurn):
        for mode in ("replicated", "sharded"):
            X = table()[0]
            X = X[slice(*CUTS[size][rank : rank + 2])] if mode == "sharded" else X
            estimator = QuantileVAE(3, distributed=mode, early_stopping=True, **KW).fit(kind(X))
            np.savez(folder / f"{kind.__name__} {mode} {size} {rank}.npz", **answers(estimator))


# ------------------------------------------------------------------------------------------------- what goes wrong


class At(Callback):
    """Does something in the second process, after the first epoch."""

    def __init__(self, what, hook="on_epoch_end"):
        self.what, self.hook = what, hook

    def on_epoch_end(self, net, **kwargs):
        if self.hook == "on_epoch_end" and os.environ["RANK"] == "1":
            self.what(net)

    def on_batch_end(self, net, training=True, **kwargs):
        if self.hook == "on_batch_end" and os.environ["RANK"] == "1":
            self.what(net)

    def on_train_end(self, net, **kwargs):
        if self.hook == "on_train_end" and os.environ["RANK"] == "1":
            self.what(net)


def _fail(net):
    raise OSError("the disk is full")


def _stop(net):
    raise KeyboardInterrupt


def _change(net):
    next(net.module_.parameters()).data.add_(1.0)


def _killed(net):
    os.kill(os.getpid(), signal.SIGKILL)


def failures(folder, rank):
    """By name, a training that cannot go well."""
    X, labels = table()
    labels = np.arange(N) if rank else labels
    spoiled = X.copy()
    spoiled[3, 2] = np.inf if rank else 0.0
    half = X[: N // 2] if rank else X[N // 2 :]
    norm = lambda n_in, n_out: nn.Sequential(nn.Linear(n_in, 8), nn.BatchNorm1d(8), nn.Linear(8, n_out))  # noqa: E731
    yield "parameter", lambda: risk(lr=0.01 if rank else 0.02, distributed="replicated").fit(X)
    yield "invalid", lambda: risk(lr=-1.0 if rank else 0.02, distributed="replicated").fit(X)
    yield "features", lambda: risk(distributed="sharded").fit(half[:, rank:])
    yield "data", lambda: risk(distributed="replicated").fit(half)
    yield "same", lambda: risk(distributed="sharded").fit(X)
    yield "infinity", lambda: risk(distributed="replicated").fit(spoiled)
    yield "callback", lambda: risk(callbacks=[At(_fail)], distributed="replicated").fit(X)
    yield "within", lambda: risk(callbacks=[At(_stop, "on_batch_end")], distributed="replicated").fit(X)
    yield "weights", lambda: risk(callbacks=[At(_change, "on_batch_end")], distributed="replicated").fit(X)
    yield "norm", lambda: risk(encoder=norm, distributed="replicated").fit(X)
    yield "call", lambda: getattr(risk(distributed="replicated"), "partial_fit" if rank else "fit")(X)
    yield "file", lambda: risk(checkpoint=None if rank else folder / "one.pt", distributed="replicated").fit(X)
    yield "labels", lambda: risk(risk_over="groups", eps=0.4, distributed="replicated").fit(X, groups=labels)
    yield "item", lambda: ContrastVAE(3, distributed="sharded", **KW).fit(Items(half, rank or None))
    yield "once", lambda: risk(distributed="sharded").fit((Once if rank else InTurn)(half))
    yield "end", lambda: risk(callbacks=[At(_fail, "on_train_end")], distributed="replicated").fit(X)
    yield "changed", lambda: risk(callbacks=[At(_change, "on_train_end")], distributed="replicated").fit(X)
    yield "further", lambda: risk(warm_start=True).fit(half).set_params(distributed="sharded").fit(half)
    yield "compile", lambda: risk(compile=True, distributed="replicated").fit(X)
    yield "transform", lambda: risk(distributed="sharded").fit(scaled_by_itself(half))
    yield (
        "worker",
        lambda: GridSearchCV(
            risk(distributed="replicated"), {"eps": [0.1, 0.2]}, cv=2, n_jobs=2, error_score="raise"
        ).fit(X),
    )
    yield "killed", lambda: risk(callbacks=[At(_killed)], distributed="replicated").fit(X)


def scaled_by_itself(X):
    """A table whose rows are scaled by what this process alone has seen."""
    batch = pa.RecordBatch.from_pandas(pd.DataFrame(X, columns=[f"x{j}" for j in range(D)]))
    return ParquetRows([batch], transform=StandardScaler().fit(X))


def all_failures(folder, rank):
    """Each, one after another, in the same processes; what was said in files."""
    for name, fit in failures(folder, rank):
        start = time.monotonic()
        try:
            fit()
            told = "nothing"
        except Exception as error:
            told = f"{type(error).__name__}: {error}"
        (folder / f"{name} {rank}.txt").write_text(f"{time.monotonic() - start:.1f}\n{told}")


def _tell_of_threads(file):
    file.write_text("".join(path.read_text() for path in Path("/proc/self/task").glob("*/comm")))


def others(folder, rank):
    """What is neither: seeds that nobody sets, an end that one asks for, a checkpoint, threads at the very end."""
    atexit.register(_tell_of_threads, folder / f"threads {rank}.txt")  # what is registered first comes last
    X, _ = table()
    free = risk(random_state=None, distributed="replicated", encoder=dropping).fit(X)
    ended = risk(callbacks=[At(_stop)], distributed="replicated").fit(X)
    kept = risk(checkpoint=folder / "kept.pt", distributed="replicated", **{**KW, "max_epochs": 2}).fit(X)
    kept = kept.set_params(max_epochs=3).fit(X)
    drawn = PermutedVAE(3, encoder=dropping, distributed="replicated", **KW).fit(Shuffled(X))
    start = risk(encoder=own_start, distributed="replicated").fit(X)
    low = risk(precision="bfloat16", distributed="replicated").fit(X)
    few = BetaVAE(3, likelihood=Double(), distributed="sharded", **KW).fit(X[:2] if rank else X[2:])
    made = {"free": free, "ended": ended, "kept": kept, "drawn": drawn, "start": start, "few": few, "low": low}
    for name, estimator in made.items():
        np.savez(folder / f"{name} {rank}.npz", **answers(estimator))
    n_different = len(set(drawn.net_.criterion_.seen[-N:]))
    (folder / f"seen {rank}.txt").write_text(str(n_different))
    if rank == 0:  # the other one ends
        try:
            risk(distributed="replicated").fit(X)
        except RuntimeError as error:
            (folder / "left.txt").write_text(str(error))


def main(what, folder):
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    if what == "cases":
        all_cases(Path(folder), rank, size)
    elif what == "others":
        others(Path(folder), rank)
    else:
        all_failures(Path(folder), rank)


if __name__ == "__main__":
    main(*sys.argv[1:])
