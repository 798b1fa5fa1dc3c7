"""What all estimators share: parameters and training; what they do once fitted is in `_inference.py`."""

import copy
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any, ClassVar, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from torch import nn
from torch.utils.data import Dataset

from riskvae import nets
from riskvae._inference import InferenceMixin
from riskvae._likelihoods import BernoulliLikelihood, GaussianLikelihood, Likelihood
from riskvae._model import WeightedELBO, build_vae
from riskvae._rows import Rows, Stream
from riskvae._sklearn_callbacks import SUPPORTED, CallbackSupportMixin, EpochTasks, with_callbacks
from riskvae._training import EarlyStopping, Net, make_net, restored_on_failure, train
from riskvae._validation import (
    Rule,
    boolean,
    check_parameters,
    check_range,
    choice,
    derive_seed,
    draw_seed,
    feature_matrix,
    integer,
    isolated_rng,
    real,
    resolve_device,
    to_float32,
)

_factory = Rule(
    lambda value: value is None or (callable(value) and not isinstance(value, nn.Module)),
    "None or a callable (n_in, n_out) -> nn.Module",
    lambda value: "Pass what makes the module, such as riskvae.nets.conv_encoder.",
    lambda value: False,
)
_callbacks = Rule(
    lambda value: (
        value is None
        or (isinstance(value, list | tuple) and all(isinstance(c, tuple) or hasattr(c, "on_epoch_end") for c in value))
    ),
    "None or a list of skorch callbacks",
    kind=lambda value: False,
)
_widths = Rule(
    lambda value: isinstance(value, list | tuple | np.ndarray) and all(integer(1).accepts(width) for width in value),
    "a sequence of positive integers, such as (512, 256)",
    kind=lambda value: isinstance(value, list | tuple | np.ndarray),
)


def _comparable(value: Any) -> Any:
    """A value that equals its copies, also after pickling."""
    if isinstance(value, partial):
        return value.func, value.args, value.keywords
    return tuple(value) if isinstance(value, list | np.ndarray) else value


class BaseVAE(InferenceMixin, CallbackSupportMixin, BaseEstimator):
    """Variational autoencoder as a scikit-learn estimator; subclasses choose the loss and the likelihood.

    A subclass lists its parameters in ``__init__``, adds their rules to ``_rules``, and overrides
    ``_make_objective`` (from per-row terms to a loss) or ``_make_likelihood``.
    """

    # What a model is made of; training on cannot change it.
    _made_of: ClassVar[tuple[str, ...]] = (
        "n_components", "hidden_layer_sizes", "activation", "encoder", "decoder", "likelihood", "noise_scale",
        "output_activation", "scale_offset",
    )  # fmt: skip
    # What a training sets.
    _fitted: ClassVar[tuple[str, ...]] = ("net_", "n_features_in_", "feature_names_in_", "_seed", "_structure")

    _rules: ClassVar[Mapping[str, Rule]] = {
        "n_components": integer(1),
        "beta": real(0.0),
        "hidden_layer_sizes": _widths,
        "activation": choice(*nets.ACTIVATIONS),
        "encoder": _factory,
        "decoder": _factory,
        "likelihood": choice("gaussian", "bernoulli"),
        "noise_scale": choice("learned") | real(0.0, closed="neither"),
        "output_activation": choice("auto", "identity", "sigmoid"),
        "scale_offset": real(0.0),
        "max_epochs": integer(1),
        "batch_size": integer(1),
        "lr": real(0.0, closed="neither"),
        "weight_decay": real(0.0),
        "early_stopping": boolean,
        "validation_fraction": real(0.0, 1.0, closed="neither"),
        "n_iter_no_change": integer(1),
        "tol": real(0.0),
        "callbacks": _callbacks,
        "n_score_samples": integer(1),
        "warm_start": boolean,
        "verbose": integer(0) | boolean,
        "compile": boolean,
    }

    n_components: Any
    beta: float
    hidden_layer_sizes: Any
    activation: str
    encoder: Callable[[int, int], nn.Module] | None
    decoder: Callable[[int, int], nn.Module] | None
    likelihood: str
    noise_scale: Any
    output_activation: str
    scale_offset: float
    max_epochs: Any
    batch_size: int
    lr: float
    weight_decay: float
    early_stopping: bool
    validation_fraction: float
    n_iter_no_change: int
    tol: float
    callbacks: Any
    n_score_samples: int
    warm_start: bool
    random_state: Any
    verbose: int
    device: Any
    compile: bool

    net_: Net
    n_features_in_: int
    _seed: int

    def _remember(self, arguments: dict[str, Any]) -> None:
        """Store the arguments of a constructor as they are."""
        self.__dict__.update({name: value for name, value in arguments.items() if name not in ("self", "__class__")})

    # ------------------------------------------------------------------------------------- choices

    def _make_objective(self) -> WeightedELBO:
        """Module from the terms of a batch to the loss."""
        return WeightedELBO(self.beta)

    def _make_likelihood(self, n_features: int) -> Likelihood:
        if self.likelihood == "bernoulli":
            return BernoulliLikelihood()
        scale = None if self.noise_scale == "learned" else float(self.noise_scale)
        return GaussianLikelihood(n_features, scale, sigmoid=self.output_activation == "sigmoid")

    def _n_draws(self) -> int:
        """Latent draws per row and training step."""
        return 1

    def _n_latent(self, n_features: int) -> int:
        """Latent dimensions for rows of some width."""
        return self.n_components

    def _n_epochs(self, n_rows: int | None) -> int:
        """Epochs of a fit to some rows; their number is None where it is not known."""
        return self.max_epochs

    def _set_aside(self, rows: Rows | Stream, seed: int) -> tuple[Rows | Stream, Rows | None]:
        """Rows to train on, and rows to keep for :meth:`_after_training`."""
        return rows, None

    def _after_training(self, X: Any, rows: Rows | Stream, held_out: Rows | None) -> None:
        """Fit what the networks alone do not tell; ``rows`` are those of X that they were trained on."""

    def _check_parameters(self) -> None:
        name = type(self).__name__
        check_parameters(name, self.get_params(deep=False), self._rules)
        if self.likelihood == "bernoulli" and self.output_activation == "identity":
            raise ValueError(
                f"{name}: likelihood='bernoulli' predicts probabilities, so output_activation must be 'auto' or "
                "'sigmoid'; got 'identity'."
            )

    # ------------------------------------------------------------------------------------ training

    @with_callbacks
    def fit(self, X: Any, y: Any = None) -> Self:
        """Fit the model to rows.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or torch Dataset
            Finite numbers; at least two rows. Neither changed nor copied, but for one float32 copy where it
            is of another dtype. Items of a Dataset are rows, or tuples that start with one.
        y : ignored
            Present by convention.

        Returns
        -------
        self

        Raises
        ------
        TypeError, ValueError
            For a bad parameter or bad data, before training; when the loss stops being finite. A fit that
            fails or is interrupted leaves the estimator as it was.
        """
        return self._train(X, epochs=None)

    def partial_fit(self, X: Any, y: Any = None) -> Self:
        """Train for one epoch on a part of the data, going on from what was fitted before.

        Nothing is held out: ``early_stopping`` is for :meth:`fit`.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or torch Dataset
            The first call decides the number of features and a learned noise scale's start.
        y : ignored
            Present by convention.

        Returns
        -------
        self
        """
        return self._train(X, epochs=1)

    def _train(self, X: Any, epochs: int | None) -> Self:
        self._check_parameters()
        device = resolve_device(self.device)
        partial_fit = epochs is not None
        go_on = self.__sklearn_is_fitted__() and (partial_fit or self.warm_start)
        with ExitStack() as stack:
            stack.enter_context(self._all_or_nothing())
            stack.enter_context(torch.inference_mode(False))
            if go_on:
                self._check_structure()
                stack.enter_context(restored_on_failure(self.net_))
            rows = self._load(X, device, reset=not go_on, min_samples=1 if partial_fit else 2)
            if go_on:
                net, seed = self._renew(self.net_, device), self._seed
            else:
                seed = draw_seed(self.random_state)
                net = self._build(device, seed)
            train_rows, held_out = (rows, None) if partial_fit else self._set_aside(rows, seed)
            net.module_.likelihood.fit_scale(train_rows.head())
            net.isolate_rng = isinstance(rows, Stream) or self.encoder is not None or self.decoder is not None
            fitted = {"net_": net, "_seed": seed, "_structure": self._current_structure()}
            callbacks, valid = list(self.callbacks or ()), None
            n_epochs = epochs or self._n_epochs(train_rows.n_rows)
            if self.early_stopping and not partial_fit:
                train_rows, valid = self._hold_out(
                    train_rows, self.validation_fraction, derive_seed(seed, "hold out"), "early_stopping", False
                )
                callbacks.append(EarlyStopping(self.n_iter_no_change, self.tol))
            if SUPPORTED and not partial_fit:
                callbacks.insert(0, EpochTasks(self, X, n_epochs, partial(copy.deepcopy, fitted)))
            train(net, train_rows, valid, epochs=n_epochs, callbacks=callbacks, verbose=bool(self.verbose))
            self.__dict__.update(fitted)
            self._after_training(X, train_rows, held_out)
        if not partial_fit and net.module_.likelihood.excess() > 5:
            warnings.warn(
                f"{type(self).__name__} reconstructs worse than the mean of X would: noise_scale_="
                f"{self.noise_scale_:.3g} is over five times that of the features' spread. "
                "Scale X (StandardScaler), train longer (max_epochs), or change lr.",
                ConvergenceWarning,
                stacklevel=3,
            )
        return self

    def _load(self, X: Any, device: torch.device, *, reset: bool, min_samples: int) -> Rows | Stream:
        unit = self.likelihood == "bernoulli"
        if not isinstance(X, Dataset):
            x = to_float32(feature_matrix(self, X, reset=reset, min_samples=min_samples))
            check_range(x, unit_interval=unit)
            return Rows(x, device)
        with isolated_rng(0, torch.device("cpu")):  # a dataset may augment by chance
            stream = Stream(X, device, unit_interval=unit)
        n_rows, n_features = stream.head().shape
        if n_rows < min_samples:
            raise ValueError(f"X is a Dataset with {n_rows} sample; a minimum of {min_samples} is required.")
        if reset:
            self.n_features_in_ = n_features
            self.__dict__.pop("feature_names_in_", None)
        stream.n_features = self.n_features_in_
        stream.check(stream.head())
        return stream

    def _hold_out(self, rows: Rows | Stream, fraction: float, seed: int, parameter: str, off: Any) -> tuple[Rows, Rows]:
        """Training rows, and a share of the rows that ``parameter`` asks to keep from them."""
        if isinstance(rows, Stream):
            raise ValueError(
                f"{type(self).__name__}: {parameter}={getattr(self, parameter)!r} holds out rows of an array, but X is "
                f"a Dataset. Pass an array, or set {parameter}={off!r}."
            )
        return rows.split(fraction, seed)

    def _build(self, device: torch.device, seed: int) -> Net:
        start = derive_seed(seed, "weights")
        widths = tuple(int(width) for width in self.hidden_layer_sizes)
        generator = torch.Generator().manual_seed(start)
        default = partial(nets.mlp, activation=self.activation, generator=generator)
        foreign = self.encoder is not None or self.decoder is not None
        # On the CPU, whatever the device: the same initial weights everywhere.
        with isolated_rng(derive_seed(seed, "modules"), torch.device("cpu")) if foreign else nullcontext():
            module = build_vae(
                self.n_features_in_,
                self._n_latent(self.n_features_in_),
                encoder=self.encoder or partial(default, hidden_layer_sizes=widths),
                decoder=self.decoder or partial(default, hidden_layer_sizes=widths[::-1]),
                likelihood=self._make_likelihood(self.n_features_in_),
                scale_offset=self.scale_offset,
            )
        return make_net(
            module,
            self._make_objective(),
            lr=self.lr,
            weight_decay=self.weight_decay,
            device=device,
            batch_size=self.batch_size,
            seed=seed,
            n_draws=self._n_draws(),
            compile_step=self.compile,
        )

    def _renew(self, net: Net, device: torch.device) -> Net:
        """Give a trained net what may change between two trainings: the loss, the optimizer's settings, the device."""
        objective = self._make_objective()
        if objective.continues(net.criterion_):
            objective.load_state_dict(net.criterion_.state_dict())
        net.criterion_ = objective
        net.set_params(lr=self.lr, optimizer__weight_decay=self.weight_decay, batch_size=self.batch_size)
        net.n_draws, net.compile_step = self._n_draws(), self.compile
        net.move_to(device)
        return net

    def _current_structure(self) -> dict[str, Any]:
        values = {name: getattr(self, name) for name in self._made_of}
        return {name: _comparable(value) for name, value in values.items()}

    def _check_structure(self) -> None:
        for name, value in self._current_structure().items():
            if value != self._structure[name]:
                raise ValueError(
                    f"{type(self).__name__}: {name}={value!r} differs from the fitted model's "
                    f"{self._structure[name]!r}; warm_start and partial_fit go on with the same network. "
                    "Use clone(estimator) to start anew."
                )

    @contextmanager
    def _all_or_nothing(self) -> Iterator[None]:
        before = {name: self.__dict__[name] for name in self._fitted if name in self.__dict__}
        try:
            yield
        except BaseException:
            for name in self._fitted:
                self.__dict__.pop(name, None)
            self.__dict__.update(before)
            raise

    def __sklearn_is_fitted__(self) -> bool:
        return "net_" in self.__dict__

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    _doc_link_module = "riskvae"
    _doc_link_template = "https://riskvae.readthedocs.io/en/stable/generated/{estimator_module}.{estimator_name}.html"
