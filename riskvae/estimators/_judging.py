"""Which rows a fit keeps from training, to judge the model by: a part of many rows, each of few rows in turn."""

import copy
import math
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from riskvae._validation import derive_seed
from riskvae.detection._left_out import judged, left_out, looking_for_missing, n_affordable
from riskvae.detection._marginals import FEW_VALUES, Marginals
from riskvae.detection._noise import CHUNK
from riskvae.detection._parts import blocks_of, cut, row_keys
from riskvae.detection._score import Judged, RowScore
from riskvae.estimators._starting import begin
from riskvae.training._callbacks import Snapshots
from riskvae.training._loop import train
from riskvae.training._rows import Rows, share_of
from riskvae.training._stream import Stream

__all__ = [
    "YOUNG",
    "Aside",
    "TrainedRows",
    "blind_residuals_of",
    "judged_parts",
    "keys_of",
    "residuals_of",
    "set_aside",
    "split_by_blocks",
    "young_of",
]

# From so many rows on a fifth of them judges, at most 2,000; of fewer, each does in turn.
_MANY, _SHARE, _MOST = 1_000, 0.2, 2_000
_FOLDS, _FEWEST = 5, 10
# The young model is the last one that was kept in this share of the epochs.
YOUNG = 0.2
# Keys of rows that are remembered, to know them again.
_KEYS = 100_000


class Aside(NamedTuple):
    """What a fit keeps from training.

    Parameters
    ----------
    calibration : ndarray, Rows or None
        Places in the table of rows that calibrate; of a stream, or in several processes, these rows.
    held_out : Rows or None
        Rows that judge the model, which has not seen them.
    n_folds : int
        Parts of the training rows, each of which is judged by a model that was trained on the others; 0 for none.
    goes_on : bool
        Whether the model knows other rows from before.
    """

    calibration: NDArray[np.intp] | Rows | None
    held_out: Rows | None
    n_folds: int
    goes_on: bool = False

    @property
    def judges(self) -> bool:
        """Whether there are rows that the model has not seen."""
        return self.held_out is not None or self.n_folds > 0


class TrainedRows(NamedTuple):
    """Keys of rows that a model was trained on, to know them again: the smallest ones, of which others are no part.

    Parameters
    ----------
    keys : ndarray of uint64, ascending
        All keys below the largest of these.
    complete : bool
        Whether they are all there are.
    repeated : float
        Share of the rows that are there more than once.
    n_rows : int
        Rows that this share is of.
    """

    keys: NDArray[np.uint64]
    complete: bool
    repeated: float
    n_rows: int

    @classmethod
    def of(cls, keys: NDArray[np.uint64], earlier: "TrainedRows | None" = None) -> "TrainedRows":
        """Those of some rows, and of earlier ones."""
        distinct, counts = np.unique(keys, return_counts=True)
        repeated, n_rows = float(counts[counts > 1].sum() / max(1, len(keys))), len(keys)
        if earlier is not None:
            distinct, n_rows = np.union1d(distinct, earlier.keys), n_rows + earlier.n_rows
            repeated = max(repeated, earlier.repeated)
        complete = len(distinct) <= _KEYS and (earlier is None or earlier.complete)
        return cls(distinct[:_KEYS], complete, repeated, n_rows)

    @classmethod
    def from_state(cls, state: Any) -> "TrainedRows":
        """From a dict of its fields, as a file holds them; a ValueError where they do not go together."""
        keys, n_rows = state["keys"], state["n_rows"]
        if not isinstance(keys, np.ndarray) or keys.dtype != np.uint64 or keys.ndim != 1 or not len(keys):
            raise ValueError("trained: keys must be whole numbers, one for each row")
        if (keys[1:] <= keys[:-1]).any():
            raise ValueError("trained: keys must ascend, each once")
        if type(n_rows) is not int or not 1 <= n_rows < 2**63 or not 0 <= float(state["repeated"]) <= 1:
            raise ValueError("trained: n_rows and repeated are not valid")
        return cls(keys, bool(state["complete"]), float(state["repeated"]), n_rows)

    def recognize(self, keys: NDArray[np.uint64]) -> tuple[int, int, float]:
        """How many of some rows are known, how many could be, and how many may be where none of them was there.

        The chance of a new row to equal one of n is about the share of these that are there more than once (Good and
        Turing). Where some of the rows are equal to each other, that share may be small by luck.
        """
        could = keys if self.complete else keys[keys <= self.keys[-1]]
        share, n = self.repeated, len(could)
        if len(np.unique(keys)) < len(keys):
            share += (3.0 * math.sqrt(share * self.n_rows) + 3.0) / self.n_rows
        return int(np.isin(could, self.keys).sum()), n, share * n + 3.0 * math.sqrt(share * n)


def keys_of(rows: Rows) -> NDArray[np.uint64]:
    """Keys of rows."""
    return (
        rows.of_each(lambda x: torch.from_numpy(row_keys(x.numpy(force=True)).view(np.int64))).numpy().view(np.uint64)
    )


def set_aside(estimator: Any, rows: Rows | Stream, seed: int, *, judge: bool) -> tuple[Rows | Stream, Aside]:
    """Training rows, and what ``calibration_fraction`` and ``n_folds`` keep; equal rows and groups stay together."""
    if isinstance(rows, Stream):
        return _set_aside_of_stream(estimator, rows, seed, judge)
    blocks = _blocks(rows)
    calibration: NDArray[np.intp] | Rows | None = None
    places, held_out = np.arange(len(rows)), None
    if estimator.calibration_fraction not in (0, "cross"):
        n = share_of(estimator.calibration_fraction, len(rows))
        part = cut(blocks, [len(rows) - n, n], derive_seed(seed, "calibration"))
        places, calibration = np.flatnonzero(part == 0), np.flatnonzero(part == 1)
        if rows.world is not None:  # no process may have them all
            calibration = rows.only(torch.from_numpy(calibration))
    n_folds = _n_folds(estimator, len(np.unique(blocks[places]))) if judge else 0
    if n_folds == 1:
        n = min(round(_SHARE * len(places)), _MOST)
        part = cut(blocks[places], [len(places) - n, n], derive_seed(seed, "judge"))
        held_out, places, n_folds = rows.only(torch.from_numpy(places[part == 1])), places[part == 0], 0
    train_rows = rows if len(places) == len(rows) else rows.only(torch.from_numpy(places))
    return train_rows, Aside(calibration, held_out, n_folds, goes_on=not judge)


def _set_aside_of_stream(estimator: Any, rows: Stream, seed: int, judge: bool) -> tuple[Stream, Aside]:
    """The same of rows that are never all there: no two of them are taken for one, and there are no folds."""
    calibration = held_out = None
    if estimator.calibration_fraction not in (0, "cross"):
        rows, calibration = rows.split(estimator.calibration_fraction, derive_seed(seed, "calibration"))
    n, cross = rows.n_rows, estimator.calibration_fraction == "cross"
    if judge and estimator.n_folds != 0 and (cross or (n is not None and n >= _MANY)):
        share = _SHARE if n is None else min(_SHARE, _MOST / n)
        rows, held_out = rows.split(share, derive_seed(seed, "judge"))
    return rows, Aside(calibration, held_out, 0, goes_on=not judge)


def _blocks(rows: Rows) -> NDArray[np.intp]:
    group, some = rows.groups(), Marginals(rows.sample(Marginals.N_ROWS, 0))
    # Of categories alone rows are equal by chance, and no kind of them must be missing in a part.
    keys = np.arange(len(rows), dtype=np.uint64) if bool((some.distinct <= FEW_VALUES).all()) else keys_of(rows)
    return blocks_of(keys) if group is None else blocks_of(keys, group.numpy(force=True))


def _n_folds(estimator: Any, n_blocks: int) -> int:
    if n_blocks < _FEWEST and estimator.n_folds == "auto":
        return 0
    if estimator.n_folds == "auto":
        return 1 if n_blocks >= _MANY else _FOLDS
    return min(int(estimator.n_folds), n_blocks) if n_blocks > 1 else 0


def split_by_blocks(rows: Rows, fraction: float, seed: int) -> tuple[Rows, Rows]:
    """Training and held-out rows, the latter in random order; equal rows and groups stay together."""
    n = share_of(fraction, len(rows))
    part = torch.from_numpy(cut(_blocks(rows), [len(rows) - n, n], seed))
    train, held_out = (torch.nonzero(part == k)[:, 0] for k in (0, 1))
    if not len(held_out):  # all rows are equal, or of one group
        return rows.split(fraction, seed)
    order = torch.randperm(len(held_out), generator=torch.Generator().manual_seed(seed))
    return rows.only(train), rows.only(held_out[order])


def residuals_of(vae: Any, x: Tensor) -> Tensor:
    """Values of rows minus their predicted quantiles, (n, n_features, n_levels)."""
    return _residuals(judged(vae, x, vae.encode(x).mean))


def _residuals(answers: Tensor) -> Tensor:
    """Values minus quantiles."""
    return answers[..., :1] - answers[..., 2:]


def blind_residuals_of(parts: list[Judged], seed: int) -> tuple[NDArray[np.intp], NDArray[Any]] | None:
    """The same of quantiles that are predicted without the value itself, for some rows, and the places of these.

    None if rows are too wide.
    """
    sizes = [len(part.held_out) for part in parts]
    n = n_affordable(sum(sizes), parts[0].held_out.shape[1])
    order = torch.randperm(sum(sizes), generator=torch.Generator().manual_seed(seed))
    chosen = (order.argsort() < n).split(sizes)
    found = []
    for part, here in zip(parts, chosen, strict=True):
        vae, rows = looking_for_missing(part.vaes[0]), part.held_out[here.to(part.held_out.device)]
        size = max(1, CHUNK // (rows.shape[1] * max(vae.likelihood.n_values, vae.widest)))
        found += [_residuals(left_out(vae, x)) for x in rows.split(size) if len(x)]
    places = torch.cat(chosen).nonzero()[:, 0].numpy()
    return (places, torch.cat(found).numpy(force=True)) if found else None


def young_of(model: Any, state: Any) -> Any:
    """A model with earlier weights."""
    young = copy.deepcopy(model).train()
    young.load_state_dict(state)
    return young.eval()  # as a model comes to rest, normalizations of its layers become exact


def judged_parts(
    estimator: Any, rows: Rows | Stream, aside: Aside, ages: list[Any], epochs: int, seed: int
) -> list[Judged]:
    """Models at their ages, and rows that they have not seen: the trained one, or one for each fold."""
    if aside.held_out is not None:
        n = min(RowScore.N_ROWS, estimator._n_looked_at())
        return [Judged(ages, rows.sample(n, seed), aside.held_out.sample(n, seed))]
    assert isinstance(rows, Rows)  # a stream has no folds
    parts, n = [], len(rows)
    folds = cut(_blocks(rows), [n // aside.n_folds] * aside.n_folds, derive_seed(seed, "judge"))
    for fold in np.unique(folds):
        others, these = (rows.only(torch.from_numpy(np.flatnonzero(here))) for here in (folds != fold, folds == fold))
        net, _ = begin(estimator, estimator.device_, derive_seed(seed, "fold", int(fold)))
        estimator._fit_units(net.module_, others.head())
        net.isolate_rng = estimator._has_foreign_parts(net.criterion_)
        # As many gradient steps as the model itself: its batches may be more.
        n_batches, n_own = (math.ceil(len(part) / estimator.batch_size) for part in (rows, others))
        n_epochs = max(1, round(epochs * n_batches / n_own))
        snapshots = Snapshots(0.5 * YOUNG * n_epochs)
        train(net, others, None, epochs=n_epochs, callbacks=[snapshots])
        young = snapshots.latest(YOUNG * n_epochs)
        vaes = [net.module_] + ([] if young is None else [young_of(net.module_, young)])
        parts.append(Judged(vaes, others.sample(len(others), seed), these[:].to(estimator.device_)))
    return parts
