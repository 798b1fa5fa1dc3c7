"""The one place that imports matplotlib, when something is drawn."""

from typing import Any


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
