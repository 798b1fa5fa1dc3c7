"""From what a caller passes, an estimator or any object with ``encode`` and ``decode``, to a coder of its rows."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_array, check_is_fitted
from torch import Tensor, nn

from riskvae._machine import device_for, prepare_process, torch_as_usual
from riskvae._validation import compute_dtype, feature_matrix, has_missing, host_array
from riskvae.nets import Linear
from riskvae.robustness._coder import Coder
from riskvae.robustness._copies import modules_called, own_copy, same_in_training

__all__ = ["Fitted", "open_coder", "where_it_computes", "whole_rows"]


# A median scale that is hardly one of a posterior, the prior's being 1.
_WIDE = 1.2


class Fitted:
    """Module of a fitted estimator."""

    def __init__(self, module: Any) -> None:
        self.module = module
        self.encode = module.encode
        self.decode = module.decode
        # Of refined posteriors, what the encoder gives is but the start, and steps are differentiated twice.
        self.mean_layers = None if module.refine else module.encoder  # gives raw scales after the mean
        self.fast_layers = [layer for layer in module.modules() if isinstance(layer, Linear) and not module.refine]

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        return -self.module.likelihood.nll(x, self.module.decoder(z))


@contextmanager
def open_coder(vae: Any, X: Any, refine: int | None = None) -> Iterator[Coder]:
    """Coder of a fitted estimator, or of any object with ``encode`` and ``decode``; checked on the rows of X.

    Posteriors of an estimator are refined by its own parameter, or by ``refine`` steps.

    It has copies of all modules, in evaluation mode: nothing of the caller's changes.
    """
    prepare_process()
    _check_kind(vae)
    if refine is not None and not isinstance(vae, BaseEstimator):
        raise ValueError(
            f"refine={refine!r} takes steps on the evidence bound of an estimator of this library; "
            f"{type(vae).__name__} has none that is known. Let its encode take the steps."
        )
    coder = _coder_of_estimator(vae, X, refine) if isinstance(vae, BaseEstimator) else _coder_of_object(vae, X)
    with torch_as_usual(coder.device):
        coder.check()
        if not isinstance(vae, BaseEstimator):
            _tell_of_wide_scales(coder)
        yield coder


def _check_kind(vae: Any) -> None:
    if isinstance(vae, BaseEstimator) and not hasattr(vae, "encode"):
        raise TypeError(
            "vae must be a single estimator of this library, or an object with encode and decode; got "
            f"{type(vae).__name__}. For a pipeline, pass the model, pipe[-1], and the rows that reach it, "
            "pipe[:-1].transform(X); for a search, its best_estimator_."
        )
    if isinstance(vae, type):
        raise TypeError(f"vae must be an object with encode and decode; got the class {vae.__name__}.")
    missing = [name for name in ("encode", "decode") if not callable(getattr(vae, name, None))]
    if missing and not isinstance(vae, BaseEstimator):
        raise TypeError(
            "vae must be a fitted estimator, or an object with encode(x) -> (mean, scale) and decode(z) -> mean on "
            f"tensors; {type(vae).__name__} has no {' and no '.join(missing)}. Where they have other names, pass "
            "riskvae.robustness.wrap(encode=..., decode=...)."
        )


def _coder_of_estimator(vae: Any, X: Any, refine: int | None) -> Coder:
    check_is_fitted(vae)
    rows = whole_rows(vae, X)
    dtype = compute_dtype(rows)
    device = device_for(dtype, vae.device_)
    module = vae.module_.of_whole_rows().to(device).to(dtype).eval().requires_grad_(False)
    module.refine = vae._steps_of_refinement(refine)
    return Coder(Fitted(module), rows, dtype, device)


def whole_rows(estimator: Any, X: Any) -> NDArray[Any]:
    """Rows of an estimator, in which no value is missing, and which its encoder sees as they are."""
    likelihood = estimator.module_.likelihood if hasattr(estimator, "module_") else None
    if not getattr(likelihood, "shows_rows", True):
        raise ValueError(
            "How far a row can be pushed can only be said of numbers that the encoder sees as they are; with "
            f"{likelihood!r}, it sees categories or counts in other terms. Use a model of the numeric columns alone."
        )
    rows = feature_matrix(estimator, X, reset=False)
    if has_missing(rows):
        incomplete = np.flatnonzero(np.isnan(rows).any(axis=1)).tolist()
        raise ValueError(
            f"X has missing values (NaN) in {len(incomplete)} of {len(rows)} rows, such as row {incomplete[0]}. How "
            "far a row can be pushed can only be said of whole rows: drop these, or fill them in first (impute(X)); "
            "the answer is then about the filled rows."
        )
    return rows


def _coder_of_object(vae: Any, X: Any) -> Coder:
    rows = check_array(host_array(X), allow_nd=True, ensure_2d=False, input_name="X", dtype="numeric")
    if rows.ndim < 2:
        raise ValueError(f"X must hold rows of features, with at least two dimensions; got shape {rows.shape}.")
    if rows.dtype == np.uint8 and rows.max() > 1:
        warnings.warn(
            f"X is uint8, from {rows.min()} to {rows.max()}, and is examined in these units. If the model was trained "
            "on X / 255, pass that: norms are then in the same units.",
            UserWarning,
            stacklevel=5,
        )
    model, originals = own_copy(vae)
    if any(part.training and not same_in_training(part) for module in originals for part in module.modules()):
        warnings.warn(
            "vae is in training mode, in which dropout and batch normalization make rows depend on chance and on each "
            "other; a copy is examined in evaluation mode. Call vae.eval() first.",
            UserWarning,
            stacklevel=5,
        )
    dtype, device = where_it_computes(model.encode, originals, rows)
    if dtype in (torch.float16, torch.bfloat16):
        raise TypeError(f"vae must compute in float32 or float64; its parameters are {dtype}. Pass vae.float().")
    return Coder(model, rows, dtype, device)


@torch.no_grad()
def _tell_of_wide_scales(coder: Coder) -> None:
    """Say so where posteriors are wider than the usual prior: a positive log-variance passes for a scale."""
    scale = coder.encode(coder.x[:1024])[1]
    middle = float(scale.median())
    if middle > _WIDE:
        warnings.warn(
            f"vae.encode returns (mean, scale) with a median scale of {middle:.3g}, and posteriors are seldom wider "
            "than the prior N(0, I). If scale is a log-variance, pass riskvae.robustness.wrap(encode=vae.encode, "
            "decode=vae.decode, log_variance=True); if it is a variance, return variance.sqrt().",
            UserWarning,
            stacklevel=5,
        )


def where_it_computes(
    function: Callable[[Tensor], Any], modules: list[nn.Module], rows: NDArray[Any]
) -> tuple[torch.dtype, torch.device]:
    """Of the parameters, also of modules that are seen only when they are called; else of the rows."""
    dtype, device = compute_dtype(rows), torch.device("cpu")
    if not any(True for module in modules for _ in module.parameters()):
        with modules_called() as modules, torch.no_grad(), suppress(Exception):
            function(torch.tensor(np.ascontiguousarray(rows[:2]), dtype=dtype))
    first = next((p for module in modules for p in module.parameters() if p.is_floating_point()), None)
    return (dtype, device) if first is None else (first.dtype, first.device)
