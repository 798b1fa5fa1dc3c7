"""From what a user passes to ``fit`` to a source of batches, checked before any training."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    default_collate,
)

from riskvae._validation import (
    check_finite,
    column_name,
    feature_matrix,
    host_array,
    isolated_rng,
    to_float32,
)
from riskvae.likelihoods._columns import is_missing, shortly
from riskvae.training import Batch
from riskvae.training._blocks import Blocks, gives_blocks
from riskvae.training._rows import Rows
from riskvae.training._stream import Stream

__all__ = ["check_names", "checked_labels", "load_rows", "taken_apart"]


def load_rows(
    estimator: Any,
    X: Any,
    groups: Any,
    device: torch.device,
    check: Callable[[Tensor], None],
    *,
    reset: bool,
    min_samples: int,
) -> Rows | Stream:
    """Rows of an array or a Dataset, and the group of each.

    ``check`` raises where rows are impossible for the likelihood. With ``reset``, the estimator remembers their
    features; otherwise they must be those that it remembers.
    """

    def check_rows(x: Tensor) -> None:
        if check_finite(x, getattr(X, "columns", None)):
            _check_missing(x)
        check(x)

    loading: dict[str, Any] = {}
    if isinstance(X, DataLoader):
        X, loading = taken_apart(X)
    if not isinstance(X, Dataset):
        x = to_float32(feature_matrix(estimator, X, reset=reset, min_samples=min_samples))
        check_rows(x)
        _check_columns(x, getattr(X, "columns", None))
        return Rows(Batch(x, group=_numbered(groups, len(x), estimator._groups)), device)
    with isolated_rng(0, torch.device("cpu")):  # a dataset may augment by chance
        plain = not gives_blocks(X)
        stream = Stream(X, device, check_rows, loading=loading) if plain else Blocks(X, device, check_rows)
    n_head, n_features = stream.head().shape
    n_rows = n_head if stream.n_rows is None else stream.n_rows
    if n_rows < min_samples:
        raise ValueError(f"X is a Dataset with {n_rows} sample; a minimum of {min_samples} is required.")
    if groups is not None:
        if stream.n_rows is None:
            raise ValueError(
                "groups must hold one label for each row, but X is an iterable Dataset, whose rows only come in turn. "
                "Make its items dicts with the row as 'x' and its group, an integer, as 'group'."
            )
        stream.group = _numbered(groups, stream.n_rows, estimator._groups)
    if reset:
        estimator.n_features_in_ = n_features
        estimator.__dict__.pop("feature_names_in_", None)
        if gives_blocks(X):
            estimator.feature_names_in_ = np.asarray(X.columns, dtype=object)  # type: ignore[attr-defined]
    check_names(estimator, X)
    stream.expect(estimator.n_features_in_)
    return stream


def _check_missing(x: Tensor) -> None:
    """Raise for rows of which nothing is known."""
    empty = x.isnan().all(1).nonzero()[:, 0]
    if len(empty):
        raise ValueError(
            f"X holds {len(empty)} rows in which all values are missing, such as row {int(empty[0])}: nothing can be "
            "learned from them. Drop them (pandas: X.dropna(how='all'))."
        )


def _check_columns(x: Tensor, names: Any) -> None:
    """Raise for features of which nothing is known."""
    if x[0].isnan().any():
        empty = x.isnan().all(0).nonzero()[:, 0].tolist()
        if empty:
            told = ", ".join(column_name(column, names) for column in empty[:8])
            raise ValueError(
                f"X holds nothing but missing values in {told}{', ...' if len(empty) > 8 else ''}. Leave such columns "
                "out (pandas: X.dropna(axis=1, how='all'))."
            )


def taken_apart(loader: DataLoader[Any]) -> tuple[Dataset[Any], dict[str, Any]]:
    """The dataset of a DataLoader, and its workers; batches are the estimator's own."""
    if loader.collate_fn is not default_collate or not _takes_all(loader):
        raise TypeError(
            "X is a DataLoader with a sampler or collate_fn of its own, which would be lost: batches are made here, by "
            "batch_size and random_state. Pass a Dataset whose items are rows, such as torch.utils.data.Subset."
        )
    names = ("num_workers", "worker_init_fn", "multiprocessing_context", "prefetch_factor", "timeout")
    return loader.dataset, {name: getattr(loader, name) for name in names} if loader.num_workers else {}


def _takes_all(loader: DataLoader[Any]) -> bool:
    """Whether a loader gives each item once, whatever the order."""
    if isinstance(loader.dataset, IterableDataset):
        return True
    plain = type(loader.batch_sampler) in (BatchSampler, type(None))
    sampler: Any = loader.sampler if loader.batch_sampler is None else getattr(loader.batch_sampler, "sampler", None)
    if not plain or type(sampler) not in (RandomSampler, SequentialSampler):
        return False
    return not getattr(sampler, "replacement", False) and len(sampler) == len(loader.dataset)  # type: ignore[arg-type]


def check_names(estimator: Any, X: Any) -> None:
    """Raise where a table has other columns than those that were fitted, or in another order."""
    names, known = X.columns if gives_blocks(X) else None, getattr(estimator, "feature_names_in_", None)
    if names is not None and known is not None and list(names) != list(known):
        raise ValueError(
            f"X has the columns {shortly(names)}, but {type(estimator).__name__} was fitted with {shortly(known)}, "
            "in this order. Name them: ParquetRows(path, columns=[...])."
        )


def checked_labels(groups: Any, n: int, of: str = "X") -> NDArray[Any]:
    """Labels of groups, one for each row: integers, or others of one kind."""
    names = np.asarray(host_array(groups))
    if names.shape != (n,):
        raise ValueError(
            f"groups must hold one label for each of {n} rows of {of}, shape ({n},); got shape {names.shape}."
        )
    if names.dtype.kind in "iub":
        return names.astype(np.int64)
    labels = names.tolist()
    if any(map(is_missing, labels)):
        raise ValueError("groups must name a group for each row; some are missing (None or NaN). Name those, too.")
    kinds = {type(label).__name__ for label in labels}
    if len(kinds) > 1:
        raise TypeError(
            f"groups must be labels of one kind, such as integers or strings; got {', '.join(sorted(kinds))}."
        )
    return np.asarray(labels)


def _numbered(groups: Any, n: int, known: dict[Any, int]) -> Tensor | None:
    """Groups as whole numbers: integers as they are, other labels as they were numbered before, or the next ones."""
    if groups is None:
        return None
    names = checked_labels(groups, n)
    if names.dtype == np.int64:
        return torch.from_numpy(names)
    labels = names.tolist()
    for label in labels:
        known.setdefault(label, len(known))
    return torch.tensor([known[label] for label in labels])
