"""Tables and the figure of the study of anomalies."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from riskvae.studies._anomaly_tables import PROTOCOLS
from riskvae.studies._frame import markdown, spread

__all__ = ["all_tables", "by_set", "draw"]

Records = Sequence[Mapping[str, Any]]
Published = Mapping[str, Mapping[str, Mapping[str, float]]]

DEFAULT = "QuantileVAE"
# What others are compared with, and the set that a mean should not hang on.
RIVAL = {"halves": "5-NN", "published": "5-NN", "unsupervised": "isolation forest"}
WIDE = "internetads"


def by_set(records: Records, protocol: str, measure: str = "auroc") -> dict[str, dict[str, float]]:
    """Mean over seeds of each score on each set."""
    values: dict[str, dict[str, list[float]]] = {}
    for record in records:
        if record["protocol"] == protocol:
            for name, value in record[measure].items():
                values.setdefault(name, {}).setdefault(record["set"], []).append(value)
    return {name: {key: float(np.mean(group)) for key, group in sets.items()} for name, sets in values.items()}


def short(name: str) -> str:
    """Name of a set in published tables."""
    return name.split("_", 1)[1].lower()


def _known(known: Published, protocol: str, sets: Sequence[str]) -> dict[str, dict[str, float]]:
    """Published numbers of the sets that were measured, where there are all of them."""
    found = {}
    for name, values in known.get(protocol, {}).items():
        if all(short(key) in values for key in sets):
            found[f"{name} (published)"] = {key: values[short(key)] for key in sets}
    return found


def _with_published(records: Records, known: Published, protocol: str) -> dict[str, dict[str, float]]:
    measured = by_set(records, protocol)
    return measured | _known(known, protocol, list(measured[DEFAULT]))


def all_tables(records: Records, known: Published, what: Mapping[str, str]) -> dict[str, str]:
    """Markdown by title."""
    tables = {f"Means, protocol: {protocol}": _means(records, known, protocol, what) for protocol in PROTOCOLS}
    for protocol in PROTOCOLS:
        tables[f"AUROC by set, protocol: {protocol}"] = _by_set(records, known, protocol)
    tables["New normal rows that the default flags (5 % are meant)"] = _flagged(records)
    tables["What conformal intervals hold of normal rows, mean of features, seeds and sets"] = _coverage(records)
    return tables


def _means(records: Records, known: Published, protocol: str, what: Mapping[str, str]) -> str:
    auroc, rival = _with_published(records, known, protocol), RIVAL[protocol]
    ours, rows = auroc[DEFAULT], []
    for name in sorted(auroc, key=lambda name: -np.mean(list(auroc[name].values()))):
        values = auroc[name]
        without = [value for key, value in values.items() if short(key) != WIDE]
        of_seeds = [_mean_of_seed(records, protocol, name, seed) for seed in sorted({r["seed"] for r in records})]
        versus = "" if name == DEFAULT else f"{sum(ours[key] > values[key] for key in values)} of {len(values)}"
        rows.append((
            name, float(np.mean(list(values.values()))), float(np.mean(without or [np.nan])),
            spread(of_seeds) if np.isfinite(of_seeds).all() else float("nan"), spread(list(values.values())), versus,
            what.get(name, "") + (" **(rival)**" if name == rival else ""),
        ))  # fmt: skip
    header = ("score", "AUROC", "without InternetAds", "sd over seeds", "sd over sets", f"{DEFAULT} above it on", "")
    return markdown(header, rows)


def _mean_of_seed(records: Records, protocol: str, name: str, seed: int) -> float:
    found = [
        record["auroc"][name]
        for record in records
        if record["protocol"] == protocol and record["seed"] == seed and name in record["auroc"]
    ]
    return float(np.mean(found)) if found else float("nan")


def _by_set(records: Records, known: Published, protocol: str) -> str:
    auroc = _with_published(records, known, protocol)
    shown = [name for name in auroc if "," not in name and "(published)" not in name]
    shown += [f"{name} (published)" for name in ("KNN", "DTE-NP", "VAE", "IForest", "PCA")]
    shown = [name for name in shown if name in auroc]
    sizes = {r["set"]: (r["n_train"], r["n_features"]) for r in records if r["protocol"] == protocol}
    rows = [(key, *size, *(auroc[name][key] for name in shown)) for key, size in sizes.items()]
    return markdown(("set", "training rows", "features", *shown), rows)


def _flagged(records: Records) -> str:
    rows = []
    for protocol in ("halves", "published"):
        found = [r["held"]["flagged"] for r in records if r["protocol"] == protocol and "flagged" in r["held"]]
        rows.append((protocol, float(np.mean(found)), float(np.min(found)), float(np.max(found)), len(found)))
    return markdown(("protocol", "mean", "least", "most", "sets and seeds"), rows)


def _coverage(records: Records) -> str:
    rows = []
    for level in ("70", "95"):
        held = [record["held"][level] for record in records if level in record["held"]]
        rows.append((f"{level} %", float(np.mean(held)), float(np.min(held)), len(held)))
    return markdown(("nominal", "mean", "least of a set and seed", "sets and seeds"), rows)


def draw(records: Records, known: Published) -> Any:
    """Mean AUROC of each detector as a dot in a line, best on top; a panel for each protocol."""
    import matplotlib.pyplot as plt

    panels = {protocol: _shown(_with_published(records, known, protocol)) for protocol in PROTOCOLS}
    most = max(len(means) for means in panels.values())
    figure, axes = plt.subplots(1, len(panels), figsize=(13.0, 0.27 * most + 1.2), layout="constrained")
    for ax, (protocol, means) in zip(axes, panels.items(), strict=True):
        for line, (name, value) in enumerate(sorted(means.items(), key=lambda item: item[1])):
            color = "C3" if name == DEFAULT else "0.6" if "(published)" in name else "0.2"
            ax.plot([0.5, value], [line, line], color=color, lw=1, alpha=0.4)
            ax.plot(value, line, "o", color=color)
            ax.annotate(f"{value:.3f}", (value, line), (7, 0), textcoords="offset points", va="center", fontsize=8)
        ax.set_yticks(range(len(means)), sorted(means, key=lambda name: means[name]), fontsize=8)
        for text in ax.get_yticklabels():
            ours = text.get_text() == DEFAULT
            text.set(color="C3" if ours else "k", weight="bold" if ours else "normal")
        ax.set(xlim=(min(means.values()) - 0.02, max(means.values()) + 0.04), title=protocol)
        ax.spines[["top", "right"]].set_visible(False)
    figure.supxlabel(f"mean AUROC over {len({record['set'] for record in records})} sets; gray: published")
    return figure


def _shown(auroc: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Means of whole detectors, the dozen best of the published ones among them."""
    means = {name: float(np.mean(list(values.values()))) for name, values in auroc.items() if "," not in name}
    theirs = sorted((name for name in means if "(published)" in name), key=lambda name: -means[name])[12:]
    return {name: value for name, value in means.items() if name not in theirs}
