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


def logarithmic(ax: Any, which: str) -> None:
    """Make an axis, "x" or "y", logarithmic, with ticks at 1 and 3 of each decade, written out."""
    pyplot()
    from matplotlib.ticker import LogLocator, NullLocator

    ax.set(**{f"{which}scale": "log"})
    axis = getattr(ax, f"{which}axis")
    axis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_locator(NullLocator())
