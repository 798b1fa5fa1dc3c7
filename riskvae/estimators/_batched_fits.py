"""A context in which concurrent fits train as one model: whole grids at once."""

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from joblib import parallel_config
from joblib.parallel import SequentialBackend, ThreadingBackend

from riskvae._validation import check_parameters, integer
from riskvae.training._gathering import Gathering

__all__ = ["batched_fits"]


@contextmanager
def batched_fits(max_fits: int = 64) -> Iterator[None]:
    """Train the models of a grid search as one, in the block of a ``with`` statement.

    A grid over ``eps``, ``beta`` or seeds is many small models of one structure, each of which spends its time between
    small products. Here they are fitted in as many threads, and meet at each epoch: those of one structure train it as
    one stacked model, by batched products and one optimizer, each on its own rows and by its own loss, seed and
    early stopping. All else stays with scikit-learn: pipelines, folds, scoring.

    It serves whatever fits estimators by joblib, such as ``GridSearchCV`` and ``cross_validate``, with any ``n_jobs``,
    which says how many of them compute between epochs. Models are those of fits one by one up to rounding, which hangs
    on who trains together; where that must be the same bit for bit, fit without it.

    A model trains alone where it has a likelihood, a measure or an objective of your own, networks with other layers
    than affine maps, convolutions, layer or group norms and activations, missing values, a threshold or groups,
    ``compile=True``, another ``precision``, or callbacks that look at batches; so does one of another structure than
    all others.

    Parameters
    ----------
    max_fits : int, default=64
        Fits that go on at a time, each with its rows in memory.

    Raises
    ------
    TypeError, ValueError
        If ``max_fits`` is no positive integer.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.model_selection import GridSearchCV
    >>> from riskvae import RiskAwareVAE, batched_fits
    >>> X = load_digits().data[:300] / 16
    >>> vae = RiskAwareVAE(n_components=2, hidden_layer_sizes=(16,), max_epochs=20, random_state=0)
    >>> grid = {"eps": [0.2, 0.5, 1.0], "beta": [0.5, 2.0]}
    >>> with batched_fits():
    ...     search = GridSearchCV(vae, grid, cv=3, n_jobs=2).fit(X)
    >>> len(search.cv_results_["params"])
    6
    """
    check_parameters("batched_fits", {"max_fits": max_fits}, {"max_fits": integer(1)})
    # Threads that set and restore filters of warnings cross each other's ways: what was there comes back at the end.
    with warnings.catch_warnings(), parallel_config(backend=_Gathered(max_fits)):
        yield


class _Gathered(ThreadingBackend):
    """Joblib's threads, as many as there are fits, whose tasks a :class:`Gathering` knows of."""

    def __init__(self, max_fits: int = 64, **options: Any) -> None:
        super().__init__(**options)
        self.max_fits = max_fits
        self._gathering: Gathering | None = None

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """Threads, whatever the number of jobs that is asked for."""
        super().effective_n_jobs(n_jobs)  # refuses 0
        return self.max_fits

    def configure(self, n_jobs: int = 1, parallel: Any = None, **options: Any) -> int:
        asked = super().effective_n_jobs(n_jobs)
        self._gathering = Gathering(self.max_fits, max(1, min(asked, os.cpu_count() or 1)))
        return int(super().configure(n_jobs, parallel, **options))

    def submit(self, func: Callable[[], Any], callback: Any = None) -> Any:
        return super().submit(self._gathering.hand_in(func), callback)  # type: ignore[union-attr]

    def apply_async(self, func: Callable[[], Any], callback: Any = None) -> Any:  # as joblib before 1.5 calls it
        return super().apply_async(self._gathering.hand_in(func), callback)  # type: ignore[union-attr]

    def terminate(self) -> None:
        if self._gathering is not None:
            self._gathering.close()  # the pool waits for its threads
        super().terminate()

    def get_nested_backend(self) -> tuple[Any, None]:
        return SequentialBackend(nesting_level=(self.nesting_level or 0) + 1), None
