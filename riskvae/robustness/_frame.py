"""Results as pandas frames, where pandas is there."""

from typing import Any

import numpy as np


def to_frame(result: Any, **more: Any) -> Any:
    """DataFrame of the attributes of a result that hold one number per row, and of ``more``."""
    try:
        import pandas as pd
    except ImportError as error:
        raise ImportError("to_frame makes a pandas DataFrame; install pandas.") from error
    columns = {name: values for name, values in vars(result).items() if getattr(values, "ndim", 0) == 1}
    n = len(next(iter(columns.values())))
    return pd.DataFrame({**columns, **{name: np.broadcast_to(values, n) for name, values in more.items()}})
