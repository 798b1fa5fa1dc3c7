"""Results as pandas frames, where pandas is there."""

from typing import Any

import numpy as np


def as_frame(columns: dict[str, Any]) -> Any:
    """DataFrame of columns."""
    try:
        import pandas as pd
    except ImportError as error:
        raise ImportError("to_frame makes a pandas DataFrame; install pandas.") from error
    return pd.DataFrame(columns)


def to_frame(result: Any, **more: Any) -> Any:
    """DataFrame of the attributes of a result that hold one number per row, and of ``more``."""
    columns = {name: values for name, values in vars(result).items() if getattr(values, "ndim", 0) == 1}
    n = len(next(iter(columns.values())))
    return as_frame({**columns, **{name: np.broadcast_to(values, n) for name, values in more.items()}})
