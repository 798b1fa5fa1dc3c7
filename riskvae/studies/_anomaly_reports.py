"""Tables and the figure of the study of anomalies."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from riskvae.studies._anomaly_tables import PROTOCOLS
from riskvae.studies._drawing import OTHERS, OURS, SMALL, cut, headline, name_lines, panels
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


# What the columns of the figure are, and the published detectors that have names there.
COLUMNS = {
    "halves": "clean training rows,\nrandom halves",
    "published": "clean training rows,\nas in published tables",
    "unsupervised": "anomalies among\nthe training rows",
}
NAMED = ("DTE-NP", "DTE-C", "DDPM", "KNN", "VAE")


def draw(records: Records, known: Published) -> Any:
    """Mean AUROC of each detector as a line across the protocols, ours before all others."""
    figure, axes = panels(1, 1, 6.6)
    ax, means = axes[0, 0], _by_protocol(records, known)
    told = f"{DEFAULT} is near the best on clean and on contaminated training rows;\nneighbors lead on clean ones, "
    headline(figure, f"{told}isolation forests on contaminated ones")
    for name, values in means.items():
        color, style = _style(name)
        places = [list(COLUMNS).index(protocol) for protocol in values]
        ax.plot(places, list(values.values()), color=color, **style)
    for place, protocol in enumerate(COLUMNS):
        for name in means:
            seeds = [_mean_of_seed(records, protocol, name, seed) for seed in sorted({r["seed"] for r in records})]
            ax.plot([place] * len(seeds), seeds, ".", color=_style(name)[0], ms=3, alpha=0.5)
    ax.set_xticks(range(len(COLUMNS)), COLUMNS.values())
    n_sets = len({record["set"] for record in records})
    ax.set(xlim=(-0.74, 2.05), ylim=(0.46, 0.88), ylabel=f"mean AUROC of {n_sets} tables      better ↑")
    ax.axhline(0.5, color="0.6", lw=1, ls=":", zorder=0)
    ax.annotate("chance", (-0.71, 0.503), color="0.4", fontsize=SMALL)
    cut(ax)
    for place, protocol in ((0, "halves"), (2, "unsupervised")):
        found = {name: means[name][protocol] for name in means if protocol in means[name] and _is_named(name)}
        names = [f"{name.replace('(published)', '*')}  {value:.3f}".replace("0.", ".") for name, value in found.items()]
        colors = [_style(name)[0] for name in found]
        name_lines(ax, names, [(place, value) for value in found.values()], colors, place == 0, aside=16.0)
    ax.annotate("* and thin: published\n(Livernoche et al.)", (0.02, 0.25), xycoords="axes fraction", fontsize=SMALL)
    return figure


def _by_protocol(records: Records, known: Published) -> dict[str, dict[str, float]]:
    """Means of whole detectors, by protocol; those published first, and ours last, to be drawn above others."""
    means: dict[str, dict[str, float]] = {}
    for protocol in COLUMNS:
        for name, values in _with_published(records, known, protocol).items():
            if "," not in name:
                means.setdefault(name, {})[protocol] = float(np.mean(list(values.values())))
    return dict(sorted(means.items(), key=lambda item: (item[0] == DEFAULT, "(published)" not in item[0])))


def _is_named(name: str) -> bool:
    return "(published)" not in name or name.split()[0] in NAMED


def _style(name: str) -> tuple[str, dict[str, Any]]:
    if name == DEFAULT:
        return OURS, {"lw": 2.5, "marker": "o", "ms": 7}
    if "(published)" not in name:
        return OTHERS, {"lw": 1.2, "marker": "o", "ms": 4.5}
    return ("0.35" if _is_named(name) else "0.75"), {"lw": 0.7, "marker": "o", "ms": 3.5, "mfc": "white"}
