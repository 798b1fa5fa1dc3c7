"""BaseVAE: what all estimators share, and how they are trained; what they do once fitted is in `_inference.py`."""

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from riskvae._machine import prepare_process, resolve_device, torch_as_usual
from riskvae._sklearn import HAS_CALLBACKS, CallbackSupportMixin, with_callbacks
from riskvae._validation import check_parameters, derive_seed, is_ours
from riskvae.estimators._diagnosis import warn_of_failure, warn_of_other_units
from riskvae.estimators._fit_checks import (
    check_batch_norm,
    check_epochs,
    check_needs,
    known_arguments,
    warn_of_precision,
)
from riskvae.estimators._imputation import ImputationMixin
from riskvae.estimators._in_parts import is_source
from riskvae.estimators._loading import load_rows
from riskvae.estimators._processes import agreed_start, own_device, shared
from riskvae.estimators._sampling import SamplingMixin
from riskvae.estimators._saving import SavingMixin
from riskvae.estimators._sklearn_callbacks import EpochTasks
from riskvae.estimators._starting import begin, go_on_with
from riskvae.estimators._summary import SummaryMixin
from riskvae.likelihoods import Bernoulli, Gaussian, Likelihood, Mixed
from riskvae.training import Objective, WeightedELBO
from riskvae.training._callbacks import EarlyStopping
from riskvae.training._loop import restored_on_failure, train
from riskvae.training._meeting import joined
from riskvae.training._monitors import check_monitors
from riskvae.training._rows import Rows
from riskvae.training._stream import Stream
from riskvae.training._trial import try_model
from riskvae.training._world import World

__all__ = ["BaseVAE"]

# Epochs of max_epochs="auto" where nobody knows how many rows there are.
_UNKNOWN_EPOCHS = 30


class BaseVAE(CallbackSupportMixin, ImputationMixin, SamplingMixin, SavingMixin, SummaryMixin):
    """Base class of the variational autoencoders; subclasses choose the objective.

    To minimize another loss, override :meth:`make_objective`. If the subclass adds parameters, its constructor passes
    the others on as ``**parameters`` (:class:`riskvae.training.Objective` has a complete example).
    """

    # What a training sets.
    _fitted: ClassVar[tuple[str, ...]] = (
        "net_", "n_features_in_", "feature_names_in_", "_seed", "_structure", "_groups", "_placed", "_has_missing",
        "_lacking",
    )  # fmt: skip

    net_: Any  # skorch's NeuralNet, which carries no types
    n_features_in_: int
    _seed: int
    _lacking: Sequence[int] = ()  # features of which values were missing in training

    # ------------------------------------------------------------------------------------- choices

    def make_objective(self) -> Objective:
        """Return the loss as a module; called before training, meant to be overridden.

        Returns
        -------
        riskvae.training.Objective
            Maps the terms of a batch to the loss, using the estimator's parameters.
        """
        return WeightedELBO(self.beta, beta_warmup=self.beta_warmup)

    def _checked_objective(self) -> Objective:
        objective = self.make_objective()
        if not isinstance(objective, Objective) or "_modules" not in vars(objective):
            raise TypeError(
                f"{type(self).__name__}: make_objective must return a riskvae.training.Objective whose __init__ begins "
                f"with super().__init__(); got {type(objective).__name__}."
            )
        for name in ("beta_warmup", "eps_warmup"):
            asked = getattr(self, name, 0)
            neutral = name == "eps_warmup" and is_ours(objective)  # whose loss has no tail
            if asked and not neutral and getattr(objective, name, 0) != asked:
                self._refuse(
                    f"{name}={asked} is not used by the objective {type(objective).__name__}",
                    "Return training.Penalized(super().make_objective(), penalty), or derive the objective from "
                    f"training.{'WeightedELBO' if name == 'beta_warmup' else 'RiskObjective'}, and hand it {name}.",
                )
        return objective

    def _make_likelihood(self) -> Likelihood:
        """Observation model, not yet set up."""
        if isinstance(self.likelihood, Likelihood):
            return copy.deepcopy(self.likelihood)
        if self.likelihood == "bernoulli":
            return Bernoulli()
        return Gaussian(self.noise_scale, sigmoid=self.output_activation == "sigmoid")

    def _n_draws(self) -> int:
        """Latent draws per row and training step."""
        return 1

    def _n_latent(self, n_features: int) -> int:
        """Latent dimensions for rows of some width."""
        return self.n_components

    # max_epochs="auto" makes so many gradient steps, within these numbers of epochs.
    _epochs_by_steps: ClassVar[tuple[int, int, int]] = (2_000, 30, 200)

    def _n_epochs(self, n_rows: int | None) -> int:
        """Epochs of a fit to some rows; their number is None where it is not known."""
        if self.max_epochs != "auto":
            return self.max_epochs
        if n_rows is None:
            return _UNKNOWN_EPOCHS
        steps, least, most = self._epochs_by_steps
        return min(max(math.ceil(steps / math.ceil(n_rows / self.batch_size)), least), most)

    def _set_aside(self, rows: Rows | Stream, seed: int) -> tuple[Rows | Stream, Any]:
        """Rows to train on, and what to keep for :meth:`_after_training`."""
        return rows, None

    def _after_training(self, X: Any, rows: Rows | Stream, kept: Any, *, part: bool) -> None:
        """Fit what the networks alone do not provide; ``rows`` are those of X that they were trained on.

        With ``part`` they are a further part of the data, whose other parts an earlier call has seen.
        """

    def _own_callbacks(self, n_epochs: int) -> list[Any]:
        """Callbacks that a fit of some epochs brings along."""
        return []

    def _default_networks(self, make: Any) -> tuple[Any, Any]:
        """Factories of the encoder and the decoder, where the user has none, from one of multilayer perceptrons."""
        widths = tuple(int(width) for width in self.hidden_layer_sizes)
        return partial(make, hidden_layer_sizes=widths), partial(make, hidden_layer_sizes=widths[::-1])

    def _fit_units(self, module: Any, x: Tensor) -> None:
        """Learn from rows to train on in which units they come."""
        module.likelihood.fit_scale(x)
        module.fit_fill(x)

    # ------------------------------------------------------------------------------------ training

    @known_arguments
    @with_callbacks
    def fit(self, X: Any, y: Any = None, *, groups: Any = None) -> Self:
        """Fit the model to rows.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or torch Dataset
            Numbers, with NaN for missing values; at least two rows. X is not changed, and copied only if it is not
            float32 (one float32 copy). Items of a Dataset are rows, tuples that start with a row, or dicts with a row
            as "x" and, if needed, its group as "group" (an integer). For a DataLoader, only the dataset and the workers
            are used; ``batch_size`` and ``random_state`` determine the batches.
        y : ignored
            Not used; present for API consistency.
        groups : array-like of shape (n_samples,), default=None
            Group label of each row, integers or strings, for losses that use groups, such as that of
            ``RiskAwareVAE(risk_over="groups")``. Scikit-learn can route it: use
            ``pipe.fit(X, riskawarevae__groups=...)``, or, in a grid search with metadata routing enabled,
            ``RiskAwareVAE(...).set_fit_request(groups=True)``.

        Returns
        -------
        self

        Raises
        ------
        TypeError, ValueError
            For invalid parameters or data, before training starts; or if the loss stops being finite. A fit that fails
            or is interrupted leaves the estimator unchanged.
        """
        return self._train(X, epochs=None, groups=groups)

    @known_arguments
    def partial_fit(self, X: Any, y: Any = None, *, groups: Any = None) -> Self:
        """Train for one epoch on a part of the data, continuing from the previous fit.

        No rows are held out: ``early_stopping`` applies only to :meth:`fit`.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or torch Dataset
            The first call determines the number of features and the initial value of a learned noise scale.
        y : ignored
            Not used; present for API consistency.
        groups : array-like of shape (n_samples,), default=None
            As in :meth:`fit`. A label means the same group in every call.

        Returns
        -------
        self
        """
        return self._train(X, epochs=1, groups=groups)

    def _train(self, X: Any, *, epochs: int | None, groups: Any) -> Self:
        """Train for some epochs on a part of the data, or with None as ``fit`` does."""
        self._check_stored()
        check_parameters(type(self).__name__, vars(self), {"distributed": self._rules["distributed"]})
        with joined(self.distributed) as world:  # first of all: what fails here must fail in all processes
            self._check_parameters()
            prepare_process()
            device = resolve_device(own_device(self.device, world))
            warn_of_precision(self, device)
            go_on = self.__sklearn_is_fitted__() and (epochs is not None or self.warm_start)
            with torch_as_usual(device), self._all_or_nothing(go_on):
                rows = self._train_on(X, groups, device, go_on, epochs, world)
                if epochs is None:
                    warn_of_failure(self, rows, self._counted_share())
        return self

    def _train_on(
        self, X: Any, groups: Any, device: torch.device, go_on: bool, epochs: int | None, world: World | None
    ) -> Rows | Stream:
        """Train, and return the rows that were trained on."""
        partial_fit = epochs is not None
        own = self._load(X, groups, device, go_on, min_samples=1 if partial_fit else 2)
        rows = shared(self, own, world, go_on=go_on, call="partial_fit" if partial_fit else "fit")
        if not go_on:
            self._has_missing = rows.missing if isinstance(rows, Rows) else bool(rows.head().isnan().any())
        kept, seed = agreed_start(self, own, device, world, keeps=not partial_fit and self.checkpoint is not None)
        net, seed = go_on_with(self, device) if go_on else begin(self, device, seed)
        net.module_.holes |= self._has_missing or rows.missing
        self._lacking = sorted({*rows.lacking, *(self._lacking if go_on else ())})
        check_needs(self, net.criterion_, rows, groups)
        train_rows, kept_aside = (rows, None) if partial_fit else self._set_aside(rows, seed)
        if go_on:
            warn_of_other_units(self, train_rows.head())
        self._fit_units(net.module_, train_rows.head())
        try_model(net, train_rows.first(self.batch_size, net.draws(epoch=0)))
        check_batch_norm(self, net, train_rows)
        net.isolate_rng = isinstance(rows, Stream) or self._has_foreign_parts(net.criterion_)
        fitted = {"net_": net, "_seed": seed, "_structure": self._current_structure(), "_placed": self.device}
        n_epochs = epochs or self._n_epochs(train_rows.n_rows)
        if not partial_fit and not self.warm_start:
            check_epochs(self, net.criterion_, n_epochs, kept)
        callbacks, valid = [*(self.callbacks or ()), *([] if partial_fit else self._own_callbacks(n_epochs))], None
        if self.early_stopping and not partial_fit:
            train_rows, valid = self._hold_out(train_rows, self.validation_fraction, derive_seed(seed, "hold out"))
            callbacks.append(EarlyStopping(self.n_iter_no_change, self.tol))
        check_monitors(type(self).__name__, callbacks, held_out=valid is not None, partial=partial_fit)
        if HAS_CALLBACKS and not partial_fit:
            callbacks.insert(0, EpochTasks(self, X, n_epochs, partial(copy.deepcopy, fitted)))
        verbose = bool(self.verbose)
        train(net, train_rows, valid, epochs=n_epochs, callbacks=callbacks, verbose=verbose, checkpoint=kept)
        self.__dict__.update(fitted)
        self._weigh_answers(train_rows)
        self._after_training(X, train_rows, kept_aside, part=partial_fit and go_on)
        return train_rows

    def _load(self, X: Any, groups: Any, device: torch.device, go_on: bool, *, min_samples: int) -> Rows | Stream:
        likelihood = self.net_.module_.likelihood if go_on else self._make_likelihood()
        if not is_source(X):
            X = likelihood.codes(X)
        columns = getattr(X, "columns", None)
        if columns is not None:
            likelihood.check_names(list(columns))
        likelihood.names = None if columns is None else list(columns)

        def check(x: Tensor) -> None:
            if "n_features" not in vars(likelihood):
                likelihood.prepare(x.shape[1])
            likelihood.check(x)

        self._groups = dict(self._groups) if go_on else {}
        return load_rows(self, X, groups, device, check, reset=not go_on, min_samples=min_samples)

    # Whether groups may come along unused, so that a grid compares a loss that looks at them with others.
    _may_ignore_groups: ClassVar[bool] = False

    def _has_foreign_parts(self, *others: Any) -> bool:
        """Whether modules of the user's take part, which may draw from torch's global generators."""
        parts = self.likelihood.columns.values() if isinstance(self.likelihood, Mixed) else ()
        own = [part for part in (self.likelihood, *parts, *others) if not isinstance(part, str)]
        own += [part.written for part in others if isinstance(part, Objective)]
        return self.encoder is not None or self.decoder is not None or not all(map(is_ours, own))

    def _counted_share(self) -> float:
        """Share of the rows that the model is meant for."""
        return 1.0

    def _hold_out(self, rows: Rows | Stream, fraction: float, seed: int) -> tuple[Rows | Stream, Rows]:
        """Training rows, and a share of the rows that are kept from them."""
        return rows.split(fraction, seed)

    def _after_interrupt(self) -> str:
        """What is left of a training that was interrupted."""
        if self.checkpoint is None:
            return (
                f"{type(self).__name__} is as it was before this fit. With checkpoint='fit.pt', a fit that was "
                "interrupted goes on from its last epoch."
            )
        return (
            f"{type(self).__name__} is as it was before this fit; checkpoint={str(self.checkpoint)!r} has the last "
            "whole epoch, and the same fit goes on from there."
        )

    @contextmanager
    def _all_or_nothing(self, go_on: bool) -> Iterator[None]:
        """A training that fails or is interrupted leaves the estimator as it was."""
        before = {name: self.__dict__[name] for name in self._fitted if name in self.__dict__}
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode(False))
            if go_on:
                self._check_structure()
                stack.enter_context(restored_on_failure(self.net_))
            try:
                yield
            except BaseException as error:
                for name in self._fitted:
                    self.__dict__.pop(name, None)
                self.__dict__.update(before)
                if isinstance(error, KeyboardInterrupt):
                    error.add_note(self._after_interrupt())
                raise

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        tags.input_tags.allow_nan = True
        return tags

    _doc_link_module = "riskvae"
    _doc_link_template = "https://riskvae.readthedocs.io/en/stable/api/generated/riskvae.{estimator_name}.html"
