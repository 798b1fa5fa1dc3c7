"""The one place that imports matplotlib, when something is drawn."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray


def pyplot() -> Any:
    """Return matplotlib.pyplot, or say how to get it."""
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError(
            "Displays draw with matplotlib; install it, or riskvae with its extra: riskvae[plot]."
        ) from error
    return plt


def axes_or_new(ax: Any, **figure_options: Any) -> Any:
    """The axes given, or those of a new figure."""
    return pyplot().subplots(layout="constrained", **figure_options)[1] if ax is None else ax


def line_options(defaults: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a line, those given first, whether called ``lw`` or ``linewidth``."""
    plt = pyplot()
    from matplotlib.cbook import normalize_kwargs

    return {**defaults, **normalize_kwargs(dict(given), plt.Line2D)}


def drawable(values: NDArray[np.floating]) -> NDArray[np.floating]:
    """Those that have a place on a logarithmic axis: finite, and above 0."""
    return values[np.isfinite(values) & (values > 0)]


def spans_a_decade(values: NDArray[np.floating]) -> bool:
    """Whether norms want a logarithmic axis."""
    known = drawable(values)
    return bool(len(known) and known.max() >= 10 * known.min())


def logarithmic(ax: Any, which: str, low: float, high: float) -> None:
    """Make an axis, "x" or "y", logarithmic between two ends, with three ticks or more, written out."""
    from matplotlib.ticker import NullLocator

    decades = 10.0 ** np.arange(np.floor(np.log10(low)), np.ceil(np.log10(high)) + 1)
    for within in ((1,), (1, 3), (1, 2, 5), np.arange(1, 10), np.arange(10, 100) / 10):
        ticks = np.outer(decades, within).ravel()
        ticks = ticks[(low <= ticks) & (ticks <= high)]
        if len(ticks) >= 3:
            break
    ax.set(**{f"{which}scale": "log", f"{which}lim": (low, high)})
    getattr(ax, f"{which}axis").set_ticks(ticks, [f"{tick:g}" for tick in ticks])
    getattr(ax, f"{which}axis").set_minor_locator(NullLocator())
