"""Why a row is unusual: what each value should have been, and how much of the row's score it takes."""

import warnings
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from riskvae._validation import Rule, check_parameters, integer, level_of_the_user, real
from riskvae.detection._explanation import causes, rises, shares
from riskvae.estimators._detection import DetectionMixin
from riskvae.estimators._in_parts import checked_rows

__all__ = ["Explained", "ExplanationMixin", "check_explain", "pandas", "table_of"]

Array = NDArray[Any]

_nothing = Rule(lambda value: value is None, "None")
# Values that are as near to what is expected as those of half of the rows are no causes, though the score may rise
# without them: others have moved the code of the row.
_USUAL = 0.5
_RULES = {"alpha": real(0.0, 1.0, closed="neither"), "max_features": integer(1) | _nothing}


class Explained(NamedTuple):
    """What is said of each value of some rows; arrays of shape (n_samples, n_features)."""

    value: Array
    expected: Array
    lower: Array
    upper: Array
    p: Array
    share: Array
    cause: NDArray[np.bool_]
    outlier: NDArray[np.bool_]  # of the row, (n_samples,)


class ExplanationMixin(DetectionMixin):
    """A fitted detector that says why."""

    def explain(self, X: Any, *, alpha: float = 0.1, max_features: int | None = None) -> Any:
        r"""Explain why each row is unusual, in a table with one line for each row and feature.

        The expected value of feature j is decoded from the other values of the row, as with ``left_out=True`` in
        :meth:`predict_interval` and :meth:`p_values`. Its share of the row's score s (:meth:`score_samples`) follows
        from how much the score would rise if the value were missing; a missing value counts as a typical one:

        .. math:: \text{share}_j = \frac{\max(0, r_j)}{\sum_k \max(0, r_k)}, \qquad
                  r_j = s(x \text{ without } x_j) - s(x).

        For a normal density, :math:`r_j = z_j^2 / 2` up to a constant, with z the error of the prediction from all
        other values, in standard deviations. If a single value was changed, it has the largest :math:`|z_j|`, although
        all features that usually go with it are mispredicted, too. If several values were changed, each masks the
        others a little.

        ``cause`` separates features that make the row an outlier from those that only changed along with them. The
        value with the largest rise is removed, then the one with the largest rise among the rest, until ``predict`` no
        longer flags the row (ten at most, and only those that help). Those that were not needed are put back. A value
        with a left-out p-value of .5 or more, which is as usual as that of half of the rows, is no cause.

        This takes ``n_features`` passes and scores per row.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or torch Dataset
            Rows. Missing values have an interval, but no p-value and no share.
        alpha : float, default=0.1
            One minus the coverage of the intervals, in (0, 1).
        max_features : int, default=None
            Keep only this many features of each row, those with the largest shares, in that order. None keeps all, in
            the order of the columns.

        Returns
        -------
        pandas.DataFrame
            One line for each row and feature:

            - ``row``, its label in the index of a DataFrame, or else its position, counted from 0;
            - ``feature``, the name of the column, or "x0", "x1", ... if it has none;
            - ``value``, and ``expected``, the left-out median, or the most likely category;
            - ``lower`` and ``upper``, the left-out interval, calibrated if the model is; NaN for categories;
            - ``p``, the two-sided left-out p-value, from the calibration rows if there are any;
            - ``share`` of the row's score: a row's shares add up to 1, or are all 0 if no value makes it less normal;
            - ``cause``, True for the values that make the row an outlier; all False for rows that :meth:`predict` does
              not flag, and where no value helps.

            The labels of rows that :meth:`predict` flags are in ``attrs["outliers"]``.

        Raises
        ------
        ImportError
            If pandas is not installed.
        ValueError
            With fewer than two levels.

        Warns
        -----
        UserWarning
            If the model is not calibrated, or its calibration left no values out
            (``conformalize(X_cal, left_out=True)`` does). Intervals and p-values are then the model's own: too narrow,
            or too small.

        See Also
        --------
        riskvae.explain : The same for a pipeline, in the units of its input.
        riskvae.plotting.ExplanationDisplay : Plots explanations.

        Examples
        --------
        >>> import numpy as np
        >>> from riskvae import QuantileVAE
        >>> rng = np.random.default_rng(0)
        >>> t = rng.normal(size=(1000, 1))
        >>> X = np.hstack((t, t, t, -t)) + 0.2 * rng.normal(size=(1000, 4))
        >>> vae = QuantileVAE(hidden_layer_sizes=(32,), calibration_fraction=0.3, random_state=0).fit(X)
        >>> table = vae.explain([[1.0, 1.0, -2.0, -1.0]])  # the third should have been 1
        >>> table.loc[table["cause"], ["feature", "value"]]
          feature  value
        2      x2   -2.0
        """
        pandas("explain")
        check_explain(self, alpha, max_features)
        rows = checked_rows(self, X)
        return table_of(self._explained(rows, alpha), index_of(X, len(rows)), names_of(self, X, rows), max_features)

    def _explained(self, rows: Array, alpha: float) -> Explained:
        rows = rows if rows.dtype.kind == "f" else rows.astype(np.float64)
        self._warn_of_own("explain")
        calibration = self._calibration
        residuals = None if calibration is None else calibration.blind
        judged, measure = self._judged(rows, left_out=True), self._measure(True)
        interval = self._in_units(self._interval(judged.quantiles, alpha, residuals))
        lower, upper = np.moveaxis(interval, -1, 0)
        z = self._z_of(judged.values, judged.quantiles, measure)
        p = self._p_of(z, "two-sided", np.ones(z.shape, dtype=bool), residuals, measure)
        scores = self._score(rows)
        found = rises(self._score, rows, scores)
        cause = causes(self._score, rows, scores, scores.dtype.type(self.offset_), found, p < _USUAL)
        expected = self._in_units(self._at(judged.quantiles, 0.5))[..., 0]
        if judged.central is not None:
            expected = np.where(np.isnan(expected), judged.central, expected)  # of categories the likeliest
        named = self.module_.likelihood.named
        value, expected = (_labelled(values, named(values)) for values in (rows, expected))
        outlier = scores < scores.dtype.type(self.offset_)
        return Explained(value, expected, lower, upper, p, shares(found), cause, outlier)

    def _warn_of_own(self, method: str) -> None:
        """Say so where intervals and p-values are the model's own."""
        if self._calibration is not None and self._calibration.blind is not None:
            return
        why, remedy = (
            ("the model is not calibrated", "Fit with calibration_fraction=0.2 or 'cross', or call conformalize(X_cal)")
            if self._calibration is None
            else ("its calibration left no values out", "Call conformalize(X_cal, left_out=True)")
        )
        warnings.warn(
            f"{method}: {why}, so lower, upper and p are the model's own: intervals are too narrow, and p-values too "
            f"small. Shares do not depend on that. {remedy}, with rows that were not trained on and hold no anomalies.",
            UserWarning,
            stacklevel=level_of_the_user(),
        )


def _labelled(values: Array, columns: list[Array] | None) -> Array:
    """Values with the names of categories, if there are any."""
    return values if columns is None else np.stack([column.astype(object) for column in columns], -1)


def check_explain(estimator: Any, alpha: Any, max_features: Any) -> None:
    """Raise for what cannot be explained, before any work."""
    estimator._check_two_levels("explain")
    check_parameters("explain", {"alpha": alpha, "max_features": max_features}, _RULES)


def pandas(what: str) -> Any:
    """The pandas module, or how to get it."""
    try:
        import pandas as pd
    except ImportError as error:
        raise ImportError(f"{what} makes a pandas DataFrame; install pandas (pip install pandas).") from error
    return pd


def index_of(X: Any, n: int) -> Any:
    """Labels of rows: those of a pandas DataFrame, or positions."""
    pd = pandas("explain")
    if not isinstance(X, pd.DataFrame):
        return pd.RangeIndex(n)
    return X.index.to_flat_index() if isinstance(X.index, pd.MultiIndex) else X.index


def names_of(estimator: Any, X: Any, rows: Array) -> list[Any]:
    """Names of columns: those of the table, or those of fit, or x0, x1 and so on."""
    names = getattr(X, "columns", None)
    names = getattr(estimator, "feature_names_in_", None) if names is None else names
    return [f"x{j}" for j in range(rows.shape[1])] if names is None else list(names)


def table_of(explained: Explained, index: Any, names: list[Any], max_features: int | None) -> Any:
    """One line for each row and feature, in the order of both; or the features with the largest shares of each row."""
    pd = pandas("explain")
    n, d = explained.share.shape
    kept = d if max_features is None else min(int(max_features), d)
    order = np.argsort(-explained.share, axis=1, kind="stable")[:, :kept]
    if max_features is None:
        order = np.broadcast_to(np.arange(d), (n, d))
    cells = {name: values for name, values in explained._asdict().items() if name != "outlier"}
    columns = {name: np.take_along_axis(values, order, 1).ravel() for name, values in cells.items()}
    features = pd.Index(names)[order.ravel()]
    table = pd.DataFrame({"row": index.repeat(kept), "feature": features, **columns})
    table.attrs["outliers"] = index[explained.outlier].tolist()
    return table
