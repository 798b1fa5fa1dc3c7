"""Time and quality of anomaly detection: QuantileVAE against PyOD's VAE and isolation forest, set by set.

    python benchmarks/anomaly.py [--json FILE] [--epochs 30] [--threads 2] [--sets 21]

On the tables of the folder "adbench" in RISKVAE_DATA (the protocol of halves of ``riskvae.studies.anomalies``, seed 0):
seconds to fit, which includes scores of training rows for the threshold, seconds to score the test rows, and the area
under the curve. The three autoencoders have the same widths (256 and 128), latent coordinates (as many as
features, at most 64) and epochs; PyOD's at its default batch of 32 and at our 256. They take turns on each set;
ratios are of that set. Peers come with the extra "bench".
"""

import argparse
import json
import math
import os
import statistics
import sys
import time
import warnings
from pathlib import Path

import torch
from sklearn.ensemble import IsolationForest
from sklearn.metrics import roc_auc_score

from riskvae import QuantileVAE
from riskvae.studies._anomaly_tables import load

WIDTHS = [256, 128]
OURS = "QuantileVAE"
ASKED = 3.0


def ours(d, epochs):
    model = QuantileVAE(min(d, 64), hidden_layer_sizes=WIDTHS, max_epochs=epochs, random_state=0, device="cpu")
    return model.fit, lambda X: -model.score_samples(X)


def pyod(batch_size):
    def make(d, epochs):
        from pyod.models.vae import VAE

        model = VAE(
            latent_dim=min(d, 64), encoder_neuron_list=WIDTHS, decoder_neuron_list=WIDTHS[::-1], epoch_num=epochs,
            batch_size=batch_size, random_state=0, verbose=0, device="cpu",
        )  # fmt: skip
        return model.fit, model.decision_function

    return make


def forest(d, epochs):
    model = IsolationForest(random_state=0)
    return model.fit, lambda X: -model.score_samples(X)


CONTENDERS = {
    OURS: ours,
    "PyOD VAE, batch 32": pyod(32),
    "PyOD VAE, batch 256": pyod(256),
    "isolation forest": forest,
}


def measure(make, train, test, truth, epochs):
    fit, score = make(train.shape[1], epochs)
    start = time.perf_counter()
    try:
        fit(train)
    except UnboundLocalError:  # PyOD drops a batch that is not full, and has no other
        return dict.fromkeys(("fit", "score", "auroc"), math.nan)
    fitted = time.perf_counter()
    scores = score(test)
    return {
        "fit": fitted - start,
        "score": time.perf_counter() - fitted,
        "auroc": float(roc_auc_score(truth, scores)),
    }


def run(files, epochs):
    table = {}
    for i, file in enumerate(files):
        data = load(file, "halves", 0)
        names = list(CONTENDERS)
        for name in names[i % len(names) :] + names[: i % len(names)]:
            table.setdefault(file.stem, {})[name] = measure(CONTENDERS[name], *data, epochs)
        own = table[file.stem]
        ratio = own["PyOD VAE, batch 32"]["fit"] / own[OURS]["fit"]
        print(f"{file.stem:20} {len(data[0]):6} x {data[0].shape[1]:<5}", end="")
        for name in CONTENDERS:
            print(f"  {own[name]['fit']:6.2f} {own[name]['score']:5.2f} {own[name]['auroc']:.3f}", end="")
        print(f"  {ratio:5.1f}", flush=True)
    return table


def summarize(table):
    for name in CONTENDERS:
        done = [own for own in table.values() if not math.isnan(own[name]["fit"])]
        rows = [own[name] for own in done]
        ratios = [own[name]["fit"] / own[OURS]["fit"] for own in done]
        large = [own[name]["fit"] / own[OURS]["fit"] for own in done if own[OURS]["fit"] > 1]
        fit, score = (sum(row[part] for row in rows) for part in ("fit", "score"))
        quality = statistics.mean(row["auroc"] for row in rows)
        print(f"{name:22} {len(done)} sets, fit {fit:7.1f} s, score {score:6.1f} s, AUROC {quality:.3f}, ", end="")
        print(f"fit / ours: median {statistics.median(ratios):.2f}, least {min(ratios):.2f}", end="")
        print(f", where ours takes over a second {statistics.median(large):.2f}" if large else "")
    ratios = [own["PyOD VAE, batch 32"]["fit"] / own[OURS]["fit"] for own in table.values()]
    ratios = [ratio for ratio in ratios if not math.isnan(ratio)]
    verdict = "reached" if statistics.median(ratios) >= ASKED else "missed"
    print(f"asked for: fit {ASKED:g} times as fast as PyOD's VAE: {verdict} at its default batch")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--sets", type=int, default=21, help="the first so many sets")
    options = parser.parse_args()
    folder = Path(os.environ.get("RISKVAE_DATA", "")) / "adbench"
    files = sorted(folder.glob("*.npz"), key=lambda file: int(file.stem.split("_")[0]))[: options.sets]
    if not files:
        sys.exit("RISKVAE_DATA names no folder with adbench/*.npz")
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")
    print(f"{'set':20} {'rows x features':14}", *(f"  {name:>19}" for name in CONTENDERS), " PyOD/ours")
    table = run(files, options.epochs)
    summarize(table)
    if options.json:
        options.json.write_text(json.dumps(table, indent=1))


if __name__ == "__main__":
    main()
