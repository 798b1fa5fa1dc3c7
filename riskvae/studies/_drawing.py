"""How figures of studies look: one color for each kind of model, titles that say what came out, names at lines."""

from collections.abc import Sequence
from typing import Any

from riskvae.plotting._names import SMALL, name_lines

__all__ = [
    "OTHERS",
    "OURS",
    "PLAIN",
    "SEEKING",
    "SMALL",
    "cut",
    "entitle",
    "headline",
    "name_lines",
    "name_rows",
    "panels",
    "shade",
]

# Averse training and quantiles; neutral training; seeking training; other libraries, and what was published.
OURS, PLAIN, SEEKING, OTHERS = "C3", "0.45", "C0", "0.1"
WIDTH = 8.0  # inches; pages show figures at some 800 pixels, so a point is about a point there


def shade(color: str, share: float) -> tuple[float, float, float]:
    """The color for half of the losses or more, darker for smaller shares."""
    from matplotlib.colors import to_rgb

    red, green, blue = to_rgb(color)
    light = {0.5: 1.0, 0.2: 0.7, 0.1: 0.5, 0.05: 0.3}.get(share, 1.0)
    return light * red, light * green, light * blue


def panels(rows: int, columns: int, height: float, **options: Any) -> tuple[Any, Any]:
    """A figure as wide as a page, and its axes, always in two dimensions, without frames."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(rows, columns, figsize=(WIDTH, height), layout="constrained", squeeze=False, **options)
    for ax in axes.flat:
        ax.spines[["top", "right"]].set_visible(False)
    return figure, axes


def headline(figure: Any, text: str) -> None:
    """What came out, in words."""
    figure.suptitle(text, x=0.01, ha="left", fontsize=12.5, weight="bold")


def entitle(ax: Any, text: str) -> None:
    """What a panel shows."""
    ax.set_title(text, loc="left", fontsize=10)


def cut(ax: Any, which: str = "y") -> None:
    """Two strokes across an axis that does not begin at 0."""
    along = [0.03, 0.05]
    slanted = [(-1.0, -0.5), (1.0, 0.5)] if which == "y" else [(-0.5, -1.0), (0.5, 1.0)]
    x, y = ([0.0, 0.0], along) if which == "y" else (along, [0.0, 0.0])
    ax.plot(x, y, ls="none", marker=slanted, ms=9, mew=1.0, color="k", transform=ax.transAxes, clip_on=False)


def name_rows(ax: Any, names: Sequence[str], colors: Sequence[Any], places: Sequence[float] | None = None) -> None:
    """Names of rows, from above, in their colors."""
    ax.set_yticks(range(len(names)) if places is None else places, names, fontsize=SMALL)
    ax.invert_yaxis()
    for text, color in zip(ax.get_yticklabels(), colors, strict=True):
        text.set_color(color)
