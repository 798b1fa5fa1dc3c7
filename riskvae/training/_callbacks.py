"""Skorch callbacks of our own: when to stop, and how far it is."""

import copy
import math
from typing import Any

from skorch.callbacks import Callback

__all__ = ["Callback", "EarlyStopping", "Progress", "Snapshots"]


class EarlyStopping(Callback):
    """Follow the held-out loss as scikit-learn's perceptrons do.

    Stop after ``patience`` epochs in a row that did not beat the best loss so far by ``tol``; at the end,
    restore the epoch with the smallest loss.
    """

    def __init__(self, patience: int, tol: float) -> None:
        self.patience = patience
        self.tol = tol

    def on_train_begin(self, net: Any, **kwargs: Any) -> None:
        self.best_, self.misses_, self.best_epoch_ = math.inf, 0, 0
        self.states_: tuple[Any, Any] | None = None

    def on_epoch_end(self, net: Any, **kwargs: Any) -> None:
        if net.history[-1, "epoch"] <= net.criterion_.warmup:
            return
        loss = net.history[-1, "valid_loss"]
        self.misses_ = self.misses_ + 1 if loss > self.best_ - self.tol else 0
        if loss < self.best_:
            self.best_, self.best_epoch_ = loss, net.history[-1, "epoch"]
            self.states_ = copy.deepcopy((net.module_.state_dict(), net.criterion_.state_dict()))
        if self.misses_ == self.patience:
            net.stop_requested = True

    def on_train_end(self, net: Any, **kwargs: Any) -> None:
        if self.states_ is not None:
            net.module_.load_state_dict(self.states_[0])
            net.criterion_.load_state_dict(self.states_[1])
            net.best_epoch = self.best_epoch_


class Snapshots(Callback):
    """Keep the weights of epochs 1, 2, 4, 8 ... beyond ``after``: which one is wanted is known at the end."""

    def __init__(self, after: float = 0.0) -> None:
        self.after = after
        self.states_: dict[str, dict[str, Any]] = {}

    def on_train_begin(self, net: Any, **kwargs: Any) -> None:
        self.states_ = {}

    def on_epoch_end(self, net: Any, **kwargs: Any) -> None:
        epoch = net.history[-1, "epoch"]
        if epoch > self.after and epoch & (epoch - 1) == 0:
            weights = net.module_.state_dict()
            self.states_[str(epoch)] = {name: value.detach().cpu().clone() for name, value in weights.items()}

    def latest(self, epoch: float) -> dict[str, Any] | None:
        """Weights of the last kept epoch that is not beyond some other."""
        kept = [number for number in map(int, self.states_) if number <= epoch]
        return self.states_[str(max(kept))] if kept else None


class Progress(Callback):
    """Progress bar over all rows of all epochs; without tqdm, a line per epoch."""

    def __init__(self, epochs: int, n_rows: int | None) -> None:
        self.epochs = epochs
        self.n_rows = n_rows
        self.bar: Any = None

    def on_train_begin(self, net: Any, **kwargs: Any) -> None:
        try:
            from tqdm.auto import tqdm
        except ImportError:
            return
        total = None if self.n_rows is None else self.epochs * self.n_rows
        self.bar = tqdm(total=total, unit=" rows", unit_scale=True)
        net.progress = self.bar.update

    def on_epoch_end(self, net: Any, **kwargs: Any) -> None:
        row = net.history[-1]
        losses = {name: f"{row[name]:.4g}" for name in ("train_loss", "valid_loss") if name in row}
        if self.bar is not None:
            self.bar.set_postfix(epoch=row["epoch"], **losses)
        else:
            print(f"epoch {row['epoch']}", *(f"{k} {v}" for k, v in losses.items()), f"{row['dur']:.1f} s", flush=True)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
