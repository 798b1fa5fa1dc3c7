"""A context in which concurrent fits train as one model: whole grids at once."""

import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from typing import Any

from joblib import Parallel, cpu_count, delayed, parallel_config
from joblib.parallel import FallbackToBackend, LokyBackend, ParallelBackendBase, SequentialBackend, ThreadingBackend

from riskvae._machine import keep_freed_memory, resolve_device
from riskvae._validation import check_parameters, integer
from riskvae.training._gathering import Gathering

__all__ = ["batched_fits"]

_SETTLED = 0.1  # seconds without a further task after which those at hand are handed out

_Work = Callable[[], Any]


@contextmanager
def batched_fits(max_fits: int = 64) -> Iterator[None]:
    """Context manager that trains the models of a grid search together, as one stacked model.

    A grid over ``eps``, ``beta`` or seeds consists of many small models of one structure, and each spends its time
    between small matrix products. Inside this context, fits run side by side and meet at each epoch. Models of one
    structure train as one stacked model, with batched products and one optimizer, but each on its own rows and with its
    own loss, seed and early stopping. Everything else stays with scikit-learn: pipelines, folds, scoring.

    It works with anything that fits estimators through joblib, such as ``GridSearchCV`` and ``cross_validate``. On a
    CPU, ``n_jobs`` processes share the fits, and each stacks its own; with one job, or on a GPU, all fits run in
    threads of this process. Models equal those of separate fits up to rounding, which depends on the models that train
    together. If you need results that are reproducible bit for bit, fit without this context.

    A model trains alone if it has a likelihood, a measure or an objective of your own; layers other than affine maps,
    convolutions, layer or group norms and activations; missing values; a threshold or groups; ``compile=True``; another
    ``precision``; or callbacks that look at batches. So does a model whose structure no other has.

    Parameters
    ----------
    max_fits : int, default=64
        Maximum number of simultaneous fits, in all processes; each holds its rows in memory.

    Raises
    ------
    TypeError, ValueError
        If ``max_fits`` is not a positive integer.

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
    with warnings.catch_warnings(), parallel_config(backend=_Chosen(max_fits)):
        yield


class _ManyAtOnce(ParallelBackendBase):
    """A backend that takes many tasks at a time, whatever the number of jobs, so that their fits can meet."""

    def __init__(self, max_fits: int = 64, **options: Any) -> None:
        super().__init__(**options)
        self.max_fits = max_fits

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """Tasks that go on at a time."""
        ThreadingBackend().effective_n_jobs(n_jobs)  # refuses 0
        return self.max_fits

    def get_nested_backend(self) -> tuple[Any, None]:
        return SequentialBackend(nesting_level=(self.nesting_level or 0) + 1), None


class _Parted(_ManyAtOnce):
    """Joblib's processes, each of which has a part of the tasks in its threads."""

    supports_retrieve_callback = True

    def __init__(self, max_fits: int = 64, **options: Any) -> None:
        super().__init__(max_fits, **options)
        self._lock = threading.Lock()
        self._waiting: list[tuple[_Work, Future[Any]]] = []
        self._moved = 0.0
        self._processes: LokyBackend | None = None
        self._n_processes = 1

    def configure(self, n_jobs: int = 1, parallel: Any = None, **options: Any) -> int:
        processes = LokyBackend(nesting_level=self.nesting_level)
        jobs = min(processes.effective_n_jobs(n_jobs), self.max_fits)
        self._n_processes = processes.configure(jobs, parallel, **options)
        self.parallel, self._processes = parallel, processes
        return self.max_fits

    def submit(self, func: _Work, callback: Callable[[Any], Any] | None = None) -> Future[Any]:
        """Keep a task until nothing more comes, as tasks of one part meet from the beginning."""
        future: Future[Any] = Future()
        if callback is not None:
            future.add_done_callback(callback)
        with self._lock:
            self._waiting.append((func, future))
            self._moved = time.monotonic()
            first = len(self._waiting) == 1
        if first:
            threading.Thread(target=self._hand_out, daemon=True).start()
        return future

    apply_async = submit  # as joblib before 1.5 calls it

    def _hand_out(self) -> None:
        while (quiet := time.monotonic() - self._moved) < _SETTLED:
            time.sleep(_SETTLED - quiet)
        with self._lock:
            tasks, self._waiting = self._waiting, []
        most = max(1, self.max_fits // self._n_processes)
        for part in (tasks[i :: self._n_processes] for i in range(min(self._n_processes, len(tasks)))):
            works, futures = zip(*part, strict=True)
            submit = getattr(self._processes, "submit", None) or self._processes.apply_async  # type: ignore[union-attr]
            try:
                submit(partial(_fit_together, works, most), partial(_hand_back, futures))
            except Exception as error:  # a pool that has broken
                for future in futures:
                    future.set_exception(error)

    def retrieve_result_callback(self, future: Future[Any]) -> Any:
        """What a task gave, or its error."""
        return future.result()

    def terminate(self) -> None:
        if self._processes is not None:
            self._processes.terminate()

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """End the processes with their tasks."""
        with self._lock:
            self._waiting = []
        if self._processes is not None:
            self._processes.abort_everything(ensure_ready)


class _Chosen(_Parted):
    """Gives each call of joblib a backend of its own: processes, or threads alone by one job or where there is a GPU.

    Stacks in threads of one process would wait for each other at each operation, as Python has one lock; a GPU gains
    more from one large stack.
    """

    def configure(self, n_jobs: int = 1, parallel: Any = None, **options: Any) -> int:
        jobs = min(LokyBackend(nesting_level=self.nesting_level).effective_n_jobs(n_jobs), self.max_fits)
        kind = _Gathered if jobs == 1 or resolve_device("auto").type != "cpu" else _Parted
        raise FallbackToBackend(kind(self.max_fits, nesting_level=self.nesting_level))


def _fit_together(works: tuple[_Work, ...], most: int) -> list[Any]:
    """What tasks give, in a process of their own, some at a time."""
    keep_freed_memory()
    with batched_fits(most):
        return list(Parallel(n_jobs=1)(delayed(work)() for work in works))


def _hand_back(futures: tuple[Future[Any], ...], part: Future[Any]) -> None:
    """Give each task its own result, or all of them the error of one."""
    error = part.exception()
    for i, future in enumerate(futures):
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(part.result()[i])


class _Gathered(_ManyAtOnce, ThreadingBackend):
    """Joblib's threads, as many as there are fits, whose tasks a :class:`Gathering` knows of."""

    def __init__(self, max_fits: int = 64, **options: Any) -> None:
        super().__init__(max_fits, **options)
        self._gathering: Gathering | None = None

    def configure(self, n_jobs: int = 1, parallel: Any = None, **options: Any) -> int:
        asked = ThreadingBackend.effective_n_jobs(self, n_jobs)
        self._gathering = Gathering(self.max_fits, min(asked, cpu_count()))
        return int(super().configure(n_jobs, parallel, **options))

    def submit(self, func: Callable[[], Any], callback: Any = None) -> Any:
        return super().submit(self._gathering.hand_in(func), callback)  # type: ignore[union-attr]

    def apply_async(self, func: Callable[[], Any], callback: Any = None) -> Any:  # as joblib before 1.5 calls it
        return super().apply_async(self._gathering.hand_in(func), callback)  # type: ignore[union-attr]

    def terminate(self) -> None:
        if self._gathering is not None:
            self._gathering.close()  # the pool waits for its threads
        super().terminate()
