"""Explanations of a pipeline's detector, in the units of the table that the pipeline takes."""

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_array

from riskvae.estimators._explanation import (
    Explained,
    ExplanationMixin,
    check_explain,
    index_of,
    names_of,
    pandas,
    table_of,
)

__all__ = ["explain"]

Array = NDArray[Any]

_SUCH = "StandardScaler, RobustScaler, MinMaxScaler, PowerTransformer or QuantileTransformer"
# What a step must give back: so much of the values that it changed, up to so much of their column's largest.
_BACK, _CLOSE = 0.5, 1e-3
# Rows that show what a step does.
_SHOWN = 100


def explain(model: Any, X: Any, *, alpha: float = 0.1, max_features: int | None = None) -> Any:
    """Explain why rows are unusual, as :meth:`riskvae.QuantileVAE.explain` does, for models and pipelines.

    The steps of a pipeline before its last are inverted for ``value``, ``expected``, ``lower`` and ``upper``, so that
    these are in the units of X. Such steps must be invertible column by column, as scalers are. Others, such as PCA,
    are rejected, because an explanation of their columns does not apply to those of X.

    Parameters
    ----------
    model : QuantileVAE or sklearn.pipeline.Pipeline
        Fitted model, or a pipeline whose last step is one.
    X : array-like of shape (n_samples, n_features)
        Rows, in the form that the model or the pipeline takes.
    alpha : float, default=0.1
        One minus the coverage of the intervals, in (0, 1).
    max_features : int, default=None
        Keep only this many features of each row, those with the largest shares, in that order.

    Returns
    -------
    pandas.DataFrame
        One line for each row and feature: ``row``, ``feature``, ``value``, ``expected``, ``lower``, ``upper``, ``p``,
        ``share`` and ``cause``, as described in :meth:`riskvae.QuantileVAE.explain`. The end of an interval is infinite
        if it has no counterpart in the units of X.

    Raises
    ------
    ImportError
        If pandas is not installed.
    TypeError
        If the model, or the last step, is not a QuantileVAE.
    ValueError
        If a step cannot be inverted column by column.

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> import riskvae
    >>> X = load_wine(as_frame=True).data
    >>> pipe = make_pipeline(StandardScaler(), riskvae.QuantileVAE(calibration_fraction="cross", random_state=0)).fit(X)
    >>> row = X.iloc[[17]].assign(ash=5.0)  # of 1.4 to 3.2
    >>> riskvae.explain(pipe, row, max_features=1)[["row", "feature", "value", "cause"]]
       row feature  value  cause
    0   17     ash    5.0   True
    """
    last = model[-1] if isinstance(model, Pipeline) else model
    if not isinstance(last, ExplanationMixin):
        what = "model must be a QuantileVAE, or a pipeline that ends in one; got"
        what = what if last is model else "the last step of the pipeline must be a QuantileVAE; it is"
        raise TypeError(
            f"explain: {what} {type(last).__name__}, which has neither intervals nor a line between usual and unusual "
            "rows. Train a QuantileVAE on the same rows, with calibration_fraction=0.2 or 'cross'."
        )
    pandas("explain")
    check_explain(last, alpha, max_features)
    if last is model or len(model.steps) == 1:
        return last.explain(X, alpha=alpha, max_features=max_features)
    acts = any(step is not None and step != "passthrough" for _, step in model.steps[:-1])
    if acts and last.module_.likelihood.categories is not None:
        raise ValueError(
            "explain: the model takes a table with categories, and the pipeline has steps before it. To explain the "
            "table that the model sees: riskvae.explain(pipe[-1], pipe[:-1].transform(X)). Mixed scales columns by "
            "itself, so it needs no scaler."
        )
    steps, rows = _column_by_column(model, X)
    if not steps:
        return last.explain(rows, alpha=alpha, max_features=max_features)
    found = last._explained(last._check_rows(rows), alpha)
    values = check_array(X, dtype=np.float64, ensure_all_finite="allow-nan")
    expected, *ends = (_undone(steps, part) for part in (found.expected, found.lower, found.upper))
    lower, upper = (np.where(np.isnan(end), sign * np.inf, end) for end, sign in zip(ends, (-1, 1), strict=True))
    lower, upper = np.minimum(lower, upper), np.maximum(lower, upper)  # a step may turn them round
    told = Explained(values, expected, lower, upper, found.p, found.share, found.cause, found.outlier)
    named = model if hasattr(model, "feature_names_in_") else None
    return table_of(told, index_of(X, len(values)), names_of(named, X, values), max_features)


def _column_by_column(model: Pipeline, X: Any) -> tuple[list[Any], Any]:
    """Steps before the last, and what they make of X; a ValueError where they mix columns or cannot be undone."""
    steps, rows = [], X
    for name, step in model.steps[:-1]:
        if step is None or step == "passthrough":
            continue
        before, rows = rows, step.transform(rows)
        if why := _not_by_columns(step, before, rows):
            raise ValueError(
                f"explain: step {name!r} ({type(step).__name__}) {why}, so nothing can be said about the columns of X. "
                f"Use only steps that can be undone column by column, such as {_SUCH}. To explain in the units that "
                "the model sees: riskvae.explain(pipe[-1], pipe[:-1].transform(X))."
            )
        steps.append(step)
    return steps, rows


def _not_by_columns(step: Any, given: Any, made: Any) -> str:
    """Why a step cannot be undone column by column; nothing if it can."""
    before, after = (check_array(rows, dtype=np.float64, ensure_all_finite="allow-nan") for rows in (given, made))
    if before.shape[1] != after.shape[1]:
        return f"makes {after.shape[1]} columns of {before.shape[1]}"
    if not hasattr(step, "inverse_transform"):
        return "has no inverse_transform"
    before, after, d = before[:_SHOWN], after[:_SHOWN], after.shape[1]
    back = _inverse(step, after)
    size = np.max(np.abs(before), axis=0, where=~np.isnan(before), initial=0.0)
    # Values beyond what a step has seen may be cut, and do not come back: then they are cut to the same again.
    table = pandas("explain").DataFrame(back, columns=given.columns) if hasattr(given, "columns") else back
    changed = ~np.isnan(before) & (before != after)
    close = np.abs(back - before) <= _CLOSE * size
    if changed.any() and close[changed].mean() < _BACK:
        again = np.asarray(step.transform(table), dtype=np.float64)
        if np.isclose(again, after, rtol=_CLOSE, atol=_CLOSE)[changed].mean() < _BACK:
            return "is not undone by its inverse_transform"
    # One row, and the same with one other value: only that column may change.
    row = np.nan_to_num(after[0])
    moved = np.tile(row, (d, 1))
    moved[np.arange(d), np.arange(d)] += 0.1 * np.where(row > 0.5, -1.0, 1.0)
    change = np.abs(_inverse(step, moved) - _inverse(step, row[None]))
    change[np.arange(d), np.arange(d)] = 0.0
    return "mixes columns" if (change > 1e-9 * (1.0 + size)).any() else ""


def _undone(steps: list[Any], rows: Array) -> Array:
    for step in reversed(steps):
        rows = _inverse(step, rows)
    return rows


def _inverse(step: Any, rows: Array) -> Array:
    """Rows before a step; infinite values stay infinite, and those beyond what it can give are NaN."""
    known = np.where(np.isinf(rows), np.nan, rows).astype(np.float64)
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="X does not have valid feature names")  # by scikit-learn before 1.7
        back = np.asarray(step.inverse_transform(known), dtype=np.float64)
    return np.where(np.isinf(rows), rows, back)
