"""What must go together in a fit, beyond single parameters: rows, networks, objective and callbacks."""

from typing import Any

from torch import nn

from riskvae.training import Objective
from riskvae.training._net import Net
from riskvae.training._rows import Rows
from riskvae.training._stream import Stream

__all__ = ["check_batch_norm", "check_monitors", "check_needs", "check_warmup"]


def check_needs(estimator: Any, objective: Objective, rows: Rows | Stream, groups: Any) -> None:
    """Raise where rows lack what the objective needs to know of them, or bring groups that nobody looks at."""
    name = type(estimator).__name__
    for field in objective.needs:
        if not rows.has(field):
            raise ValueError(
                f"{name}: what it minimizes needs the {field} of each row, which was not given. Call "
                "fit(X, groups=...) with one label for each row, or of a pipeline "
                f"fit(X, {name.lower()}__groups=...); in a grid search, let the estimator "
                "set_fit_request(groups=True) under sklearn.set_config(enable_metadata_routing=True)."
            )
    if groups is not None and "group" not in objective.needs and not estimator._may_ignore_groups:
        raise ValueError(
            f"{name}: groups were given, and {type(objective).__name__} does not look at them. Leave them out, or use "
            "RiskAwareVAE(risk_over='groups')."
        )


def check_batch_norm(estimator: Any, net: Net, rows: Rows | Stream) -> None:
    """Raise where a layer compares the rows of a batch, and batches have one."""
    layers = [layer for layer in net.module_.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    if layers and min(rows.n_rows or 2, estimator.batch_size) == 1:
        raise ValueError(
            f"{type(estimator).__name__}: {layers[0]} needs two rows in a batch at least, and batches have one. Pass "
            "more rows, set a larger batch_size, or use a layer that keeps rows apart, such as LayerNorm."
        )


def check_warmup(estimator: Any, objective: Objective, n_epochs: int) -> None:
    """Raise where a training would end before it minimizes what was asked for."""
    for name, of in (("eps_warmup", "eps"), ("beta_warmup", "beta")):
        warmup = getattr(objective, name, 0)
        if warmup >= n_epochs > 0 and warmup:
            raise ValueError(
                f"{type(estimator).__name__}: {name}={warmup} epochs leave none of max_epochs={n_epochs} for "
                f"{of}={getattr(estimator, of):g}. Set max_epochs above {name}."
            )


def check_monitors(estimator: Any, callbacks: list[Any], valid: Rows | None) -> None:
    """Raise where a callback watches a held-out loss, and nothing is held out."""
    if valid is not None:
        return
    for entry in callbacks:
        callback = entry[-1] if isinstance(entry, tuple) else entry
        callback = callback() if isinstance(callback, type) else callback
        monitor, name = getattr(callback, "monitor", None), type(callback).__name__
        if isinstance(monitor, str) and monitor.startswith("valid_"):
            raise ValueError(
                f"{type(estimator).__name__}: callbacks: {name} watches {monitor!r}, which is recorded where rows are "
                "held out. Set early_stopping=True, or let it watch the training, as by "
                f"{name}(monitor={monitor.replace('valid', 'train')!r})."
            )
