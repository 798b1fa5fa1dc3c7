"""From what a caller passes, an estimator or any object with ``decision_function``, to verdicts on its rows."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_array, check_is_fitted
from torch import Tensor

from riskvae._machine import prepare_process, torch_as_usual
from riskvae._validation import compute_dtype, host_array
from riskvae.robustness._coder import Examined
from riskvae.robustness._copies import own_copy
from riskvae.robustness._opening import where_it_computes, whole_rows

__all__ = ["Detector", "open_detector"]

Array = NDArray[Any]
# Rows that a detector is asked of at once.
_ASKED = 1024


class Detector(Examined):
    """A detector and rows, with its answers checked.

    Parameters
    ----------
    model : object
        The caller's own, whose decisions count.
    line : object
        Copy of what it decides by: a function from rows (n, d) to verdicts (n_verdicts, n), of which the least decides.
    rows, dtype, device
        As above.
    """

    def __init__(self, model: Any, line: Any, rows: Array, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__(model, rows, dtype, device)
        self.line = line
        self.offset = float(getattr(line, "offset", 0.0))

    def verdicts(self, x: Tensor, **options: Any) -> Tensor:
        """Verdicts (n_verdicts, n) of rows (n, d); below 0 where no number comes out: nobody is masked by that."""
        return self.line(x, **options)

    def decide(self, rows: Array) -> NDArray[np.float64]:
        """Decisions of the caller's own detector, (n,)."""
        if isinstance(self.model, BaseEstimator):
            with warnings.catch_warnings():  # names of columns were checked when X was
                warnings.filterwarnings("ignore", message="X does not have valid feature names")
                return np.asarray(self.model.decision_function(rows), dtype=np.float64)
        with torch.no_grad():
            x = torch.tensor(np.ascontiguousarray(rows), dtype=self.dtype, device=self.device)
            return np.concatenate([host_array(self.line(part)[0]) for part in x.split(_ASKED)]).astype(np.float64)

    def rows_of(self, X: Any) -> Tensor | None:
        """Other rows, checked as those of X are."""
        if X is None:
            return None
        rows = check_array(host_array(X), input_name="references", dtype="numeric")
        if rows.shape[1] != self.x.shape[1]:
            raise ValueError(
                f"references must have the {self.x.shape[1]} features of X; got rows of {rows.shape[1]}. Pass rows "
                "that went through the same steps as X."
            )
        return torch.tensor(np.ascontiguousarray(rows), dtype=self.dtype, device=self.device)

    def spread(self, x: Tensor) -> Tensor:
        """How far features usually differ, (d,); 1 where that is not known."""
        return self.line.spread.to(x) if self.separable else torch.ones_like(x[0])

    @property
    def separable(self) -> bool:
        """Whether the last verdict is a sum over features that is known."""
        return float(getattr(self.line, "steepness", 0.0)) > 0


class _Plain:
    """One verdict, that of an object's ``decision_function``."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def __call__(self, x: Tensor) -> Tensor:
        return self.model.decision_function(x)[None]


@contextmanager
def open_detector(detector: Any, X: Any) -> Iterator[Detector]:
    """Detector and rows of X, checked.

    It has copies of all modules, in evaluation mode: nothing of the caller's changes.
    """
    prepare_process()
    _check_kind(detector)
    opened = _of_estimator(detector, X) if isinstance(detector, BaseEstimator) else _of_object(detector, X)
    with torch_as_usual(opened.device):
        _check(opened)
        yield opened


def _check_kind(detector: Any) -> None:
    name = type(detector).__name__
    if isinstance(detector, BaseEstimator) and hasattr(detector, "_line_on_tensors"):
        return
    if isinstance(detector, BaseEstimator):
        if hasattr(detector, "steps") or hasattr(detector, "best_estimator_"):
            raise TypeError(
                f"detector must be a single estimator of this library, such as QuantileVAE; got {name}. For a "
                "pipeline, pass the model, pipe[-1], and the rows that reach it, pipe[:-1].transform(X); norms are "
                "then in the units of these. For a search, pass its best_estimator_."
            )
        if hasattr(detector, "encode"):
            raise TypeError(
                f"detector must have predict, such as QuantileVAE; {name} has no line between inliers and outliers."
            )
        raise TypeError(
            f"detector must compute its decisions with torch, so that they have gradients; {name} does not. Use "
            "QuantileVAE, or an object with decision_function(x), from a tensor of rows to a tensor of decisions, "
            "negative for outliers."
        )
    if isinstance(detector, type):
        raise TypeError(f"detector must be an object with decision_function; got the class {detector.__name__}.")
    if not callable(getattr(detector, "decision_function", None)):
        raise TypeError(
            "detector must be a fitted QuantileVAE, or an object with decision_function(x), from a tensor of rows to a "
            f"tensor of decisions, negative for outliers; {name} has none."
        )


def _of_estimator(detector: Any, X: Any) -> Detector:
    check_is_fitted(detector)
    rows = whole_rows(detector, X)
    dtype, line = compute_dtype(rows), detector._line_on_tensors(compute_dtype(rows))
    rows = rows.astype(np.float32 if dtype == torch.float32 else np.float64, copy=False)
    return Detector(detector, line, rows, dtype, next(line.parameters()).device)


def _of_object(detector: Any, X: Any) -> Detector:
    rows = check_array(host_array(X), input_name="X", dtype="numeric")
    model, originals = own_copy(detector)
    return Detector(detector, _Plain(model), rows, *where_it_computes(model.decision_function, originals, rows))


def _check(opened: Detector) -> None:
    """Try the detector on some rows, and raise where its answers make no sense."""
    if isinstance(opened.model, BaseEstimator):
        return
    name, x = type(opened.model).__name__, opened.x[:2].clone().requires_grad_()
    why = "A detector of NumPy arrays, such as those of PyOD and scikit-learn, has no gradients and cannot be examined."
    try:
        found = opened.line.model.decision_function(x)
    except Exception as error:
        raise ValueError(
            f"{name}.decision_function fails on a tensor of shape {tuple(x.shape)}, {x.dtype}: {type(error).__name__}: "
            f"{error}. {why}"
        ) from error
    if not isinstance(found, Tensor):
        raise TypeError(f"{name}.decision_function must return a tensor; got {type(found).__name__}. {why}")
    if found.shape != (len(x),):
        raise ValueError(
            f"{name}.decision_function must return one number per row; for {len(x)} rows it has shape "
            f"{tuple(found.shape)}. Return .squeeze(-1), or a sum over features."
        )
    if not torch.equal(found, opened.line.model.decision_function(x)):
        raise ValueError(f"{name}.decision_function gives a different answer at each call. Fix its random draws.")
