"""Names written at what they name, instead of a legend that readers must match by color."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.isotonic import isotonic_regression

SMALL = 9.0  # points, of the smallest text
# Heights, in percent, at which an area may be named, those first that are preferred; the least width of one that holds
# a name at all, and that of a letter, in shares of the axes.
_HEIGHTS = (50.0, 35.0, 65.0, 20.0, 80.0, 90.0)
_NARROW, _LETTER = 0.07, 0.022
_HALF = 3.0  # percent, of the height of a letter


def apart(places: Sequence[float], gap: float) -> NDArray[np.float64]:
    """The places, moved as little as puts a gap between any two."""
    moved = np.array(places, dtype=np.float64)
    if len(moved) == 0:
        return moved
    order = np.argsort(moved, kind="stable")
    steps = gap * np.arange(len(order))
    moved[order] = isotonic_regression(moved[order] - steps) + steps
    return moved


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
    ax.figure.canvas.figure.draw_without_rendering()  # the layout decides how far apart the ends are
    heights = [ax.transData.transform(note.xy)[1] * 72.0 / ax.figure.dpi for note in notes]
    for note, height, moved in zip(notes, heights, apart(heights, 1.25 * SMALL), strict=True):
        note.xyann = (aside, moved - height)


def name_areas(
    ax: Any, x: NDArray[np.float64], areas: Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]], **look: Any
) -> list[str]:
    """Names inside areas; returns those for which there was room.

    Names stand upright where an area is narrower than they are long. Areas lie between two falling steps, in percent,
    which hold from one x to the next.
    """
    named: dict[str, float] = {}
    for name, (low, high) in areas.items():
        lines = name.splitlines()
        if not lines:
            continue
        others = [ends for other, ends in areas.items() if other != name]
        spans = {y: _alone(_span(ax, x, low, high, y), [_span(ax, x, *ends, y) for ends in others]) for y in _HEIGHTS}
        widths = {y: stop - start for y, (start, stop) in spans.items()}
        wide = [y for y in _HEIGHTS if widths[y] >= _LETTER * max(map(len, lines))]
        upright = [y for y in _HEIGHTS[:3] if widths[y] >= _NARROW * len(lines)]  # where there is room above and below
        if not wide and not upright:
            continue
        y = (wide or upright)[0]
        middle = sum(spans[y]) / 2
        if any(abs(middle - other) < _NARROW for other in named.values()):
            continue
        place = {"ha": "center", "va": "center", "rotation": 0.0 if wide else 90.0}
        ax.text(middle, y / 100, name, transform=ax.transAxes, **place, **look)
        named[name] = middle
    return list(named)


def _alone(span: tuple[float, float], others: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """The widest part of a span that none of the others reaches into."""
    free = [span]
    for low, high in others:
        free = [part for start, stop in free for part in ((start, min(stop, low)), (max(start, high), stop))]
        free = [(start, stop) for start, stop in free if stop > start]
    return max(free, key=lambda part: part[1] - part[0], default=(0.0, 0.0))


def _span(
    ax: Any, x: NDArray[np.float64], low: NDArray[np.float64], high: NDArray[np.float64], y: float
) -> tuple[float, float]:
    """Ends of the part of the area at the height y, in shares of the axes."""
    inside = np.flatnonzero((low[:-1] <= y - _HALF) & (y + _HALF <= high[:-1]))
    if not len(inside):
        return 0.0, 0.0
    ends = [(x[inside[0]], y), (x[inside[-1] + 1], y)]
    places = ax.transAxes.inverted().transform(ax.transData.transform(ends))[:, 0]
    return float(places[0]), float(places[1])
