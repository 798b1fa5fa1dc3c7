"""What must go together in a fit, beyond single parameters: rows, networks, objective and callbacks."""

import inspect
import warnings
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import nn

from riskvae.training import Batch, Objective
from riskvae.training._checkpoint import Checkpoint
from riskvae.training._net import Net
from riskvae.training._precision import precision_on
from riskvae.training._rows import Rows
from riskvae.training._stream import Stream

__all__ = ["check_batch_norm", "check_epochs", "check_needs", "known_arguments", "warn_of_precision"]

P = ParamSpec("P")
T = TypeVar("T")

# What other libraries take in fit, and what to do here.
_ELSEWHERE = {
    "sample_weight": (
        "rows count alike here. Repeat rows, or let rare groups count as much as others by "
        "RiskAwareVAE(risk_over='groups') and fit(X, groups=...)"
    ),
    "X_val": "held-out rows of your own cannot be passed. early_stopping=True holds out validation_fraction of X",
    "epochs": "set max_epochs, a parameter of the estimator",
    "batch_size": "it is a parameter of the estimator",
}
_ELSEWHERE |= dict.fromkeys(("X_valid", "validation_data", "eval_set", "validation_split"), _ELSEWHERE["X_val"])
_ELSEWHERE |= dict.fromkeys(("sample_weights", "weights"), _ELSEWHERE["sample_weight"])
_ELSEWHERE |= dict.fromkeys(("max_epochs", "n_epochs"), _ELSEWHERE["epochs"])


def known_arguments(method: Callable[P, T]) -> Callable[P, T]:
    """Refuse keywords that a method does not have, in the name of the estimator, with what to do."""
    known = set(inspect.signature(method).parameters)

    @wraps(method)
    def checked(*args: P.args, **kwargs: P.kwargs) -> T:
        if len(args) > 3:
            given = f"{type(args[0]).__name__}.{method.__name__}()"
            raise TypeError(f"{given} takes X and y by position; pass others by name, as in groups=...")
        for unknown in kwargs.keys() - known:
            reason = _ELSEWHERE.get(unknown, f"its arguments are {', '.join(sorted(known - {'self'}))}")
            raise TypeError(f"{type(args[0]).__name__}.{method.__name__}() takes no {unknown}: {reason}.")
        return method(*args, **kwargs)

    return checked


def check_needs(estimator: Any, objective: Objective, rows: Rows | Stream, groups: Any) -> None:
    """Raise where rows lack what the objective needs to know of them, or bring groups that nobody looks at."""
    name = type(estimator).__name__
    for field in objective.needs:
        if field not in Batch._fields:
            raise ValueError(
                f"{name}: needs of {type(objective).__name__} must name fields of riskvae.training.Batch, which are "
                f"{', '.join(Batch._fields)}; got {field!r}. Hand what else it needs to its __init__."
            )
        if not rows.has(field):
            raise ValueError(
                f"{name}: the loss that it minimizes needs the {field} of each row, which was not given. Call fit(X, "
                f"groups=...) with one label for each row, or for a pipeline fit(X, {name.lower()}__groups=...); in a "
                "grid search, call set_fit_request(groups=True) on the estimator, under "
                "sklearn.set_config(enable_metadata_routing=True)."
            )
    if groups is not None and "group" not in objective.needs and not estimator._may_ignore_groups:
        raise ValueError(
            f"{name}: groups were given, but {type(objective).__name__} does not use them. Leave them out, or use "
            "RiskAwareVAE(risk_over='groups')."
        )


def check_batch_norm(estimator: Any, net: Net, rows: Rows | Stream) -> None:
    """Raise where a layer compares the rows of a batch, and batches have one."""
    layers = [layer for layer in net.module_.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    if layers and min(rows.n_rows or 2, estimator.batch_size) == 1:
        raise ValueError(
            f"{type(estimator).__name__}: {layers[0]} needs at least two rows in a batch, but batches have one. Pass "
            "more rows, set a larger batch_size, or use a layer that keeps rows apart, such as LayerNorm."
        )
    if layers and rows.world is not None:
        raise ValueError(
            f"{type(estimator).__name__}: {type(layers[0]).__name__} compares the rows of a batch, and in several "
            "processes it would see those of its own process alone. Use a layer that keeps rows apart, such as "
            "LayerNorm, or set distributed=None."
        )


def warn_of_precision(estimator: Any, device: torch.device) -> None:
    """Warn where the precision that was asked for gains nothing on a device, so that training is in float32."""
    found, why = precision_on(estimator.precision, device)
    if why:
        warnings.warn(
            f"{type(estimator).__name__}: precision={estimator.precision!r} is not used on device {str(device)!r} "
            f"({why}), and training goes on in {found}. Set precision={found!r}, or another device.",
            stacklevel=2,
        )


def check_epochs(estimator: Any, objective: Objective, n_epochs: int, kept: Checkpoint | None) -> None:
    """Raise where a training would end before it minimizes what was asked for, or has ended already."""
    name = type(estimator).__name__
    for parameter, of in (("eps_warmup", "eps"), ("beta_warmup", "beta")):
        warmup = getattr(objective, parameter, 0)
        if warmup and warmup >= n_epochs:
            raise ValueError(
                f"{name}: {parameter}={warmup} epochs leave none of max_epochs={n_epochs} for "
                f"{of}={getattr(estimator, of):g}. Set max_epochs above {parameter}."
            )
    if kept is not None and kept.n_epochs > n_epochs:
        raise ValueError(
            f"{name}: checkpoint={str(kept.file)!r} has {kept.n_epochs} epochs already, more than "
            f"max_epochs={n_epochs}. Raise max_epochs, or delete the file to start anew."
        )
