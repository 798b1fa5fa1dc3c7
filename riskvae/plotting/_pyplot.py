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
