"""Left-out intervals, shares and causes of QuantileVAE, on tables of which it is known what they should say.

    python benchmarks/explanations.py [--part intervals|values|masks] [--seeds 4]

Tables: wine, breast cancer and diabetes of scikit-learn, five factors and a curve with noise (simulated), and, where
RISKVAE_DATA is set, the normal rows of Cardiotocography and PageBlocks (ADBench); at most 1,500 rows, standardized.

intervals: what calibrated left-out intervals hold of new rows (half of the rows train, a quarter calibrates), and how
wide they are and how they score, over the interval of each feature by itself.

values: one or two values of new rows are changed, by six or three spreads or to those of another row. Of rows that are
outliers by that alone: how often the values with the largest share, or another measure, are the changed ones; and
whether ``cause`` names them. "contribution" is what a value adds to the verdict that decides.

masks: error of left-out medians of a model, of one trained on four copies of the rows, and of one trained on these with
a fifth of the values of three copies missing, which takes the same number of steps.
"""

import argparse
import os
import warnings
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine
from sklearn.preprocessing import StandardScaler

from riskvae import QuantileVAE, metrics

MOST = 1_500
CHANGES = (("six spreads", 1), ("three spreads", 1), ("another row's", 1), ("six spreads", 2), ("another row's", 2))


def tables():
    rng = np.random.default_rng(0)
    found = {"wine": load_wine().data, "breast cancer": load_breast_cancer().data, "diabetes": load_diabetes().data}
    found["factors"] = rng.normal(size=(MOST, 3)) @ rng.normal(size=(3, 12)) + 0.3 * rng.normal(size=(MOST, 12))
    t, curve = rng.uniform(-1, 1, (MOST, 2)), rng.normal(size=(2, 8))
    found["curve"] = np.column_stack((np.tanh(2 * t @ curve[:, :4]), np.sin(3 * t @ curve[:, 4:])))
    found["curve"] += 0.1 * rng.normal(size=found["curve"].shape)
    for path in sorted(Path(os.environ.get("RISKVAE_DATA", ""), "adbench").glob("*_[CP]a[rg]*.npz")):
        held = np.load(path)
        found[path.stem.split("_", 1)[1]] = held["X"][held["y"] == 0][:MOST]
    return found


def parts(X, seed):
    """Rows to train on, to calibrate with, and new ones."""
    order, n = np.random.default_rng(seed).permutation(len(X)), len(X)
    scaler = StandardScaler().fit(X[order[: n // 2]])
    return [scaler.transform(X[part]) for part in np.split(order, [n // 2, 3 * n // 4])]


def intervals(X, seed, found):
    train, held_out, new = parts(X, seed)
    vae = QuantileVAE(n_folds=0, random_state=seed).fit(train).conformalize(held_out)
    for alpha in (0.1, 0.2):
        ends = vae.predict_interval(new, alpha, left_out=True)
        alone = np.quantile(held_out, [alpha / 2, 1 - alpha / 2], axis=0).T
        score, by_itself = (
            metrics.interval_score(new, each, alpha).mean() for each in (ends, np.broadcast_to(alone, ends.shape))
        )
        found[f"{1 - alpha:.0%} held"].append(metrics.coverage(new, ends).mean())
        found[f"{1 - alpha:.0%} width"].append(np.median(np.diff(ends)[..., 0].mean(0) / np.diff(alone)[:, 0]))
        found[f"{1 - alpha:.0%} score"].append(score / by_itself)
        found[f"p <= {alpha}"].append((vae.p_values(new, left_out=True) <= alpha).mean())


def change(rows, what, k, rng):
    """Rows with k values changed, and which."""
    changed, where = rows.copy(), np.zeros(rows.shape, dtype=bool)
    for i in range(len(rows)):
        for j in rng.choice(rows.shape[1], k, replace=False):
            where[i, j] = True
            by = {"six spreads": 6, "three spreads": 3}.get(what, 0) * rows[:, j].std() * rng.choice([-1, 1])
            changed[i, j] = rows[i, j] + by if by else rows[rng.integers(len(rows)), j]
    return changed, where


@torch.no_grad()
def contributions(vae, rows):
    """What each value adds to the verdict that decides on its row."""
    score, *vaes = vae._scoring()["module"]
    x, each = torch.tensor(rows), []
    decides = score.aligned(score.verdicts(vaes, x)).argmin(0)
    for density, module in zip(score.densities, vaes, strict=True):
        error = x - module.decode(module.encode(x).mean)
        each.append(0.5 * (error / density.noise.error_scale) ** 2)
    each.append(-score.marginals.each(x).T)
    return torch.stack(each)[decides, torch.arange(len(x))].numpy()


def values(X, seed, found):
    train, held_out, new = parts(X.astype(np.float32), seed)
    vae = QuantileVAE(n_folds=1, random_state=seed).fit(train).conformalize(held_out)
    for what, k in CHANGES:
        rows, where = change(new, what, k, np.random.default_rng(seed))
        alone = (vae.predict(rows) == -1) & (vae.predict(new) == 1)
        rows, where = rows[alone], where[alone]
        if len(rows) < 4:
            continue
        table = vae.explain(rows)
        share, cause = (table[name].to_numpy().reshape(rows.shape) for name in ("share", "cause"))
        measures = {"share": share, "contribution": contributions(vae, rows), "z": np.abs(vae.z_scores(rows))}
        measures["left-out z"] = np.abs(vae.z_scores(rows, left_out=True))
        for name, measure in measures.items():
            top = np.argsort(-measure, axis=1)[:, :k]
            found[f"{k} x {what}: {name}"].append(np.take_along_axis(where, top, 1).mean())
        found[f"{k} x {what}: causes that were changed"].append((cause & where).sum() / cause.sum())
        found[f"{k} x {what}: cause is what was changed"].append((cause == where).all(1).mean())


def masks(X, seed, found):
    train, _, new = parts(X, seed)
    rng = np.random.default_rng(seed)
    masked = [np.where(rng.random(train.shape) < 0.2, np.nan, train) for _ in range(3)]
    for name, rows in {
        "once": train,
        "four times": np.vstack([train] * 4),
        "masked": np.vstack([train, *masked]),
    }.items():
        vae = QuantileVAE(n_folds=0, random_state=seed).fit(rows)
        error = new - vae.predict_quantiles(new, left_out=True)[..., 1]
        found[name].append(np.sqrt((error**2).mean()))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("intervals", "values", "masks"))
    parser.add_argument("--seeds", type=int, default=4)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    for part in (intervals, values, masks):
        if options.part in (None, part.__name__):
            means = defaultdict(list)
            for name, X in tables().items():
                found = defaultdict(list)
                for seed in range(options.seeds):
                    part(X, seed, found)
                tell(f"{part.__name__}, {name}", found)
                for key, figures in found.items():
                    means[key].append(np.mean(figures))
            tell(f"{part.__name__}, mean", means)


def tell(what, found):
    print(f"{what}:", ", ".join(f"{key} {np.mean(figures):.3f}" for key, figures in found.items()), flush=True)


if __name__ == "__main__":
    main()
