"""Scikit-learn's callbacks (1.9 and later): a task per epoch, whose callbacks may end the training."""

from collections.abc import Callable
from typing import Any

from riskvae.training._callbacks import Callback

__all__ = ["EpochTasks"]


class EpochTasks(Callback):
    """Tell scikit-learn's callbacks of each epoch of one fit."""

    def __init__(self, estimator: Any, X: Any, n_epochs: int, fitted: Callable[[], dict[str, Any]]) -> None:
        self.context = estimator._init_callback_context(max_subtasks=n_epochs)
        self.hook = {"estimator": estimator, "X": X, "reconstruction_attributes": fitted}

    def on_train_begin(self, net: Any, **kwargs: Any) -> None:
        self.context.call_on_fit_task_begin(estimator=self.hook["estimator"], X=self.hook["X"])

    def on_epoch_begin(self, net: Any, **kwargs: Any) -> None:
        self.epoch = self.context.subcontext(task_name="epoch")
        self.epoch.call_on_fit_task_begin(estimator=self.hook["estimator"], X=self.hook["X"])

    def on_epoch_end(self, net: Any, **kwargs: Any) -> None:
        if self.epoch.call_on_fit_task_end(**self.hook):
            net.stop_requested = True

    def on_train_end(self, net: Any, **kwargs: Any) -> None:
        self.context.call_on_fit_task_end(**self.hook)
