"""How figures of studies look: one color for each kind of model, titles that say what came out, names at lines."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.isotonic import isotonic_regression

__all__ = [
    "OTHERS",
    "OURS",
    "PLAIN",
    "SEEKING",
    "SMALL",
    "apart",
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
SMALL = 9.0  # points, of the smallest text


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


def apart(places: Sequence[float], gap: float) -> NDArray[np.float64]:
    """The places, moved as little as puts a gap between any two."""
    moved = np.array(places, dtype=np.float64)
    if len(moved) == 0:
        return moved
    order = np.argsort(moved, kind="stable")
    steps = gap * np.arange(len(order))
    moved[order] = isotonic_regression(moved[order] - steps) + steps
    return moved


def name_rows(ax: Any, names: Sequence[str], colors: Sequence[Any], places: Sequence[float] | None = None) -> None:
    """Names of rows, from above, in their colors."""
    ax.set_yticks(range(len(names)) if places is None else places, names, fontsize=SMALL)
    ax.invert_yaxis()
    for text, color in zip(ax.get_yticklabels(), colors, strict=True):
        text.set_color(color)


def name_lines(
    ax: Any,
    names: Sequence[str],
    ends: Sequence[tuple[float, float]],
    colors: Sequence[Any],
    left: bool = False,
    aside: float = 9.0,
) -> None:
    """Names beside the ends of lines, moved apart where they would overlap; to call when all else is drawn."""
    aside = -aside if left else aside
    look: dict[str, Any] = {"fontsize": SMALL, "va": "center", "ha": "right" if left else "left"}
    look |= {"textcoords": "offset points", "annotation_clip": False}
    thread: dict[str, Any] = {
        "arrowstyle": "-",
        "lw": 0.6,
        "shrinkA": 0.0,
        "shrinkB": 3.0,
        "relpos": (float(left), 0.5),
    }
    low, high = sorted(ax.get_ylim())  # names of lines that leave the axes stay at their border
    notes = [
        ax.annotate(
            name, (x, min(max(y, low), high)), (aside, 0), color=color, arrowprops=thread | {"color": color}, **look
        )
        for name, (x, y), color in zip(names, ends, colors, strict=True)
        if np.isfinite(y)
    ]
    ax.figure.draw_without_rendering()  # the layout decides how far apart the ends are
    heights = [ax.transData.transform(note.xy)[1] * 72.0 / ax.figure.dpi for note in notes]
    for note, height, moved in zip(notes, heights, apart(heights, 1.25 * SMALL), strict=True):
        note.xyann = (aside, moved - height)
