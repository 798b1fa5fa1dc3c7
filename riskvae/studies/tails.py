"""Tails of reconstruction errors under averse and seeking training: Figure 4 of the risk-aware VAE, and further.

The published models with both thresholds; then averse, seeking and plain ones along beta, where the error can be
compared at equal rate (mean KL term): the tail outweighs the KL term, so that at equal beta an averse model also has a
larger rate, which by itself makes all errors smaller. Risks over latent draws and rows together are in the paper's
outlook.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from riskvae.metrics import row_losses, tail_curve, tail_mean
from riskvae.studies._drawing import OURS, PLAIN, SEEKING, SMALL, cut, entitle, headline, name_lines, panels, shade
from riskvae.studies._frame import Config, StudyResult, column, markdown, measure_all, plus_minus
from riskvae.studies._published import EPS, SETTING, TITLES, at_equal_rate, fit, load, of_kind, rate_and_active, sizes

Records = list[dict[str, Any]]

# Mean squared error per pixel on MNIST, read off Figure 4 (to .0003), times 728/784: the authors' code divides by 728.
PUBLISHED = {
    "plain": (0.0482, 0.0350, 0.0282),
    "averse 0.05": (0.0525, 0.0461, 0.0425),
    "averse 0.1": (0.0466, 0.0400, 0.0363),
    "averse 0.2": (0.0417, 0.0345, 0.0307),
    "averse 0.5": (0.0421, 0.0327, 0.0281),
}
PUBLISHED_BEST_TENTH = {
    "plain": 0.0092,
    "seeking 0.05": 0.023,
    "seeking 0.1": 0.0173,
    "seeking 0.2": 0.0135,
    "seeking 0.5": 0.0118,
}
SHARES = np.geomspace(0.01, 1.0, 41).round(4).tolist()
WORST = {"worst 10 %": 0.1, "worst 50 %": 0.5, "worst 90 %": 0.9}
NAMES = ("plain", *(f"{risk} {eps}{ema}" for risk in ("averse", "seeking") for eps in EPS for ema in ("", " ema")))
BETAS: dict[str, tuple[float, ...]] = {
    "plain": (0.35, 0.5, 0.7, 1.0, 1.5, 2.0),
    "averse 0.5": (0.5, 0.7, 1.0, 1.5, 2.0),
    "averse 0.2": (1.0, 1.5, 2.5),
    "seeking 0.5": (0.35, 0.5, 0.7, 1.0),
}
COMBINED = {
    "rows and draws, 0.5 of 0.5": {"eps": 0.5, "eps_subsamples": 0.5},
    "rows and draws, 0.2 of 0.5": {"eps": 0.2, "eps_subsamples": 0.5},
}
# Training on the worst 5 % at equal compute. A row of a plain epoch costs six passes of a network, forward and backward
# through two of them; of a tail of eps, 4 + 3 eps where all rows pay for their KL terms, and 2 + 6 eps where those that
# weigh do: the graph of the others is not made. What is saved buys epochs, or batches of more candidates.
_SMALL: dict[str, Any] = {"risk": "averse", "eps": 0.05, "beta": 1.0}
CANDIDATES: dict[str, tuple[dict[str, Any], float]] = {
    f"{told}, {size} candidates": ({**_SMALL, **options, "batch_size": size}, 6.0 / passes)
    for told, options, passes in (
        ("errors", {}, 4.0 + 3 * 0.05),
        ("bounds", {"risk_on": "elbo"}, 2.0 + 6 * 0.05),
    )
    for size in (256, 1024, 2048)
}


def model_of(name: str, beta: float = 1.0) -> dict[str, Any]:
    """Parameters of a model by its name: "plain", or a risk and an eps, and "ema" for the moving average."""
    if name == "plain":
        return {"beta": beta}
    risk, eps, *threshold = name.split()
    model = {"risk": risk, "eps": float(eps), "beta": beta}
    return model | {"threshold": threshold[0]} if threshold else model


def models() -> list[dict[str, Any]]:
    """All of one set of images and seed, each once."""
    named = [model_of(name) for name in NAMES]
    along = [model_of(name, beta) for name, betas in BETAS.items() for beta in betas]
    combined = [combine(options) for options in COMBINED.values()]
    return named + [model for model in along if model not in named] + combined


def combine(options: Mapping[str, float]) -> dict[str, Any]:
    """Parameters of a risk over the draws of rows, and over rows."""
    return {"risk": "averse", "risk_over": "nested", "n_subsamples": 4, **options, "beta": 1.0}


def measure(task: Mapping[str, Any], data: Path | None) -> dict[str, Any]:
    """Train one model; tails of its errors over all held-out images."""
    images = load(task, data)
    vae = fit(task, images.train)
    losses = row_losses(vae, images.held_out)
    return {
        **{name: tail_mean(losses, share) for name, share in WORST.items()},
        "mean": float(losses.mean()),
        "best 10 %": tail_mean(losses, 0.1, tail="best"),
        "best 50 %": tail_mean(losses, 0.5, tail="best"),
        **{tail: tail_curve(losses, SHARES, tail=tail)[1].round(6).tolist() for tail in ("worst", "best")},
        **rate_and_active(vae, images.held_out),
    }


def run(config: Config) -> StudyResult:
    """Train all models on both sets of images."""
    shared = [{"images": images, "seed": seed, **sizes(config)} for seed in range(config.n_seeds) for images in TITLES]
    tasks = [{**task, "model": model} for task in shared for model in models()]
    tasks += [
        {**task, "model": model, "epochs": round(task["epochs"] * more)}
        for task in shared
        for model, more in CANDIDATES.values()
    ]
    records = measure_all(config, "tails", tasks, partial(measure, data=config.data))
    settings = {**SETTING, "shares of the curves": SHARES}
    result = StudyResult("tails", settings, records)
    result.tables = {
        "MNIST: published and measured squared error per pixel": _published_table(records),
        "Every model at beta = 1, and what the threshold does": _all_table(records),
        "At equal rate: change against plain models of the same rate": _equal_rate_table(records),
        "The worst 5 % at equal compute: change against plain models of the same rate": _candidates_table(records),
    }
    result.figures = {"rate": _rate_figure(records), "curves": _curves_figure(records)}
    return result


# ---------------------------------------------------------------------------------------- equal rate


def against_plain(records: Records, record: Mapping[str, Any], what: str) -> float:
    """Relative change of an error against plain models of the same seed at the same rate."""
    plain = [
        found
        for beta in BETAS["plain"]
        for found in of_kind(records, record["images"], **model_of("plain", beta))
        if found["seed"] == record["seed"]
    ]
    return at_equal_rate(plain, record["rate"], record[what], what)


# -------------------------------------------------------------------------------------------- tables


def _published_table(records: Records) -> str:
    published = [
        (name, what, told) for name, values in PUBLISHED.items() for what, told in zip(WORST, values, strict=True)
    ]
    published += [(name, "best 10 %", told) for name, told in PUBLISHED_BEST_TENTH.items()]
    rows = []
    for name, what, told in published:
        moving = name if name == "plain" else f"{name} ema"
        found = (column(of_kind(records, "mnist", **model_of(one)), what) for one in (name, moving))
        rows.append((name, what, f"{told * 728 / 784:.4f}", *(plus_minus(values, 4) for values in found)))
    return markdown(("model", "share", "published", "measured, threshold of the batch", "moving average"), rows)


def _all_table(records: Records) -> str:
    kinds = {name: model_of(name) for name in NAMES} | {name: combine(options) for name, options in COMBINED.items()}
    columns = ("worst 10 %", "mean", "best 10 %")
    rows = []
    for images, title in TITLES.items():
        for name, model in kinds.items():
            found = of_kind(records, images, **model)
            errors = (plus_minus(column(found, what), 4) for what in columns)
            capacity = (plus_minus(column(found, what), 1) for what in ("rate", "active"))
            rows.append((title, name, *errors, *capacity))
    return markdown(("images", "model", *columns, "rate (nats)", "active coordinates of 20"), rows)


def _equal_rate_table(records: Records) -> str:
    rows = []
    kinds = [(name, beta, model_of(name, beta)) for name in BETAS for beta in BETAS[name] if name != "plain"]
    kinds += [(f"averse {eps}", 1.0, model_of(f"averse {eps}")) for eps in (0.05, 0.1)]
    kinds += [(name, 1.0, combine(options)) for name, options in COMBINED.items()]
    for images, title in TITLES.items():
        for name, beta, model in kinds:
            found = of_kind(records, images, **model)
            changes = []
            for what in ("worst 10 %", "mean", "best 10 %"):
                values = [100 * against_plain(records, record, what) for record in found]
                changes.append("" if np.isnan(values).any() else plus_minus(values, 1) + " %")
            rows.append((title, name, beta, plus_minus(column(found, "rate"), 1), *changes))
    return markdown(("images", "model", "beta", "rate (nats)", "worst 10 %", "mean", "best 10 %"), rows)


def _candidates_table(records: Records) -> str:
    rows = []
    for images, title in TITLES.items():
        for name, (model, _) in CANDIDATES.items():
            found = of_kind(records, images, **model)
            errors = (plus_minus(column(found, what), 4) for what in ("worst 10 %", "mean"))
            shares = ([against_plain(records, one, what) for one in found] for what in ("worst 10 %", "mean"))
            told = ("" if np.isnan(v).any() else plus_minus([100 * x for x in v], 1) + " %" for v in shares)
            rows.append((title, name, found[0]["epochs"], *errors, plus_minus(column(found, "rate"), 1), *told))
    columns = ("images", "tail of 5 %", "epochs", "worst 10 %", "mean", "rate (nats)")
    return markdown((*columns, "worst 10 % against plain", "mean against plain"), rows)


# ------------------------------------------------------------------------------------------- figures

COLORS = {
    "plain": PLAIN,
    "averse 0.5": shade(OURS, 0.5),
    "averse 0.2": shade(OURS, 0.2),
    "seeking 0.5": SEEKING,
}


def _rate_figure(records: Records) -> Any:
    """Errors against rate, each model along beta: what of the gain is left at equal rate."""
    columns = {"worst 10 %": "worst tenth", "mean": "all images", "best 50 %": "best half"}
    figure, axes = panels(2, 3, 5.9, sharex="row")
    headline(figure, "At equal rate, averse training draws the worst images better,\nand the average image worse")
    for row, (images, title) in zip(axes, TITLES.items(), strict=True):
        for ax, (what, told) in zip(row, columns.items(), strict=True):
            for name in BETAS:
                # Seeking models give up the others: their errors would squeeze all lines into one.
                if not name.startswith("seeking") or what == "best 50 %":
                    _along_beta(ax, records, images, name, what)
            if what != "best 50 %":
                _change_at_equal_rate(ax, records, images, what)
            entitle(ax, f"{title}: {told}")
        _name_along(row[2])
        for ax in row:
            cut(ax)
        row[0].set_ylabel("squared error per pixel\nbetter ↓")
    for ax in axes[1]:
        ax.set_xlabel("rate: mean KL term (nats)")
    plain = of_kind(records, "mnist", **model_of("plain"))
    ring = [np.mean(column(plain, key)) for key in ("rate", "worst 10 %")]
    axes[0, 0].annotate("ring: beta = 1", ring, (7, 6), textcoords="offset points", fontsize=SMALL)
    return figure


def _along_beta(ax: Any, records: Records, images: str, name: str, what: str) -> None:
    """A line of means, a ring at beta = 1, and a small dot for each seed."""
    groups = {beta: of_kind(records, images, **model_of(name, beta)) for beta in BETAS[name]}
    points = {beta: [np.mean(column(group, key)) for key in ("rate", what)] for beta, group in groups.items()}
    seeds = [(record["rate"], record[what]) for group in groups.values() for record in group]
    ax.plot(*np.transpose(list(points.values())), "o-", color=COLORS[name], ms=3.5, lw=1.5, label=name)
    ax.plot(*np.transpose(seeds), ".", color=COLORS[name], ms=3, alpha=0.5)
    ax.plot(*points[1.0], "o", color=COLORS[name], ms=9, mfc="none")


def _change_at_equal_rate(ax: Any, records: Records, images: str, what: str) -> None:
    """An arrow from the plain models to the averse one of beta = 1."""
    found = of_kind(records, images, **model_of("averse 0.5"))
    rate, error = (np.mean(column(found, key)) for key in ("rate", what))
    change = np.mean([against_plain(records, record, what) for record in found])
    if np.isfinite(change):
        ax.annotate("", (rate, error), (rate, error / (1 + change)), arrowprops={"arrowstyle": "->", "lw": 1.2})
        aside, ha = ((-6, -14), "right") if change < 0 else ((8, 6), "left")
        told = f"{100 * change:+.0f} %".replace("-", "\N{MINUS SIGN}")
        ax.annotate(told, (rate, error), aside, textcoords="offset points", ha=ha, weight="bold")


def _name_along(ax: Any) -> None:
    """Names at the right ends of lines, that of the lowest below it."""
    ax.set_ylim(ax.get_ylim()[0] - 0.12 * np.ptp(ax.get_ylim()))
    for line in ax.lines:
        if (name := line.get_label()) in BETAS:
            end, low = np.transpose(line.get_data()), name.startswith("seeking")
            aside, place = ((-4, -16), 0) if low else ((7, 0), int(np.argmax(line.get_xdata())))
            told = name.replace(" 0.", ", eps = .")
            ax.annotate(told, end[place], aside, textcoords="offset points", color=COLORS[name], fontsize=SMALL)


def _curves_figure(records: Records) -> Any:
    """Error of the worst and of the best share, against the plain model's."""
    figure, axes = panels(2, 2, 6.6, sharex="col")
    headline(figure, "Each training improves the images it is for, and the others pay")
    for row, (images, title) in zip(axes, TITLES.items(), strict=True):
        for ax, (risk, tail) in zip(row, (("averse", "worst"), ("seeking", "best")), strict=True):
            ends = [_curve(ax, records, images, f"{risk} {eps}", tail) for eps in EPS]
            entitle(ax, f"{title}: {risk} training, {tail} images")
            _ratio_axes(ax, risk)
            if images == "mnist":
                _published_ratios(ax, risk)
            names, colors = ["plain", *(f"eps = {eps:g}" for eps in EPS)], [PLAIN, *(_color(risk, eps) for eps in EPS)]
            name_lines(ax, names, [(1.0, 1.0), *ends], colors)
        row[0].set_ylabel("error / plain model's error\nbetter ↓")
    axes[1, 0].set_xlabel("worst share of held-out images")
    axes[1, 1].set_xlabel("best share of held-out images")
    return figure


def _color(risk: str, eps: float) -> Any:
    return shade(OURS if risk == "averse" else SEEKING, eps)


def _curve(ax: Any, records: Records, images: str, name: str, tail: str) -> tuple[float, float]:
    """Mean and range of seeds; the right end of the curve."""
    plain = {record["seed"]: record[tail] for record in of_kind(records, images, **model_of("plain"))}
    found = of_kind(records, images, **model_of(name))
    ratios = np.array([np.divide(record[tail], plain[record["seed"]]) for record in found])
    color = _color(name.split()[0], float(name.split()[1]))
    ax.plot(SHARES, ratios.mean(0), color=color)
    ax.fill_between(SHARES, ratios.min(0), ratios.max(0), color=color, alpha=0.2, lw=0)
    return SHARES[-1], float(ratios[:, -1].mean())


def _ratio_axes(ax: Any, risk: str) -> None:
    """Logarithmic, the same for both sets of images, and the plain model as a line."""
    from matplotlib.ticker import NullLocator

    ax.axhline(1.0, color=PLAIN, lw=1.5)
    ticks = (0.8, 0.9, 1.0, 1.2, 1.4, 1.7) if risk == "averse" else (0.4, 0.6, 1.0, 2.0, 4.0, 8.0)
    ax.set(xscale="log", yscale="log", ylim=(ticks[0], ticks[-1]))
    ax.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.yaxis.set_minor_locator(NullLocator())
    ax.set_xticks([0.01, 0.1, 1.0], ["1 %", "10 %", "all"])


def _published_ratios(ax: Any, risk: str) -> None:
    """Diamonds where the paper has values."""
    table = PUBLISHED if risk == "averse" else {name: (error,) for name, error in PUBLISHED_BEST_TENTH.items()}
    for eps in EPS:
        ratios = np.divide(table[f"{risk} {eps}"], table["plain"])
        ax.plot(list(WORST.values())[: len(ratios)], ratios, "D", ms=5, color=_color(risk, eps), mec="k", mew=0.8)
    ax.annotate("◆ published", (0.03, 0.93), xycoords="axes fraction", color="k", fontsize=SMALL)
