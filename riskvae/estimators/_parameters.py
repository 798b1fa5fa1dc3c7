"""The parameters that all estimators share: their rules, how they are kept, and how a subclass adds its own."""

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import FunctionType
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from riskvae import nets
from riskvae._sklearn import BaseEstimator
from riskvae._validation import Rule, boolean, check_parameters, choice, integer, real
from riskvae._value import key_of
from riskvae.likelihoods import Likelihood, Mixed
from riskvae.training._precision import PRECISIONS

__all__ = ["ParametersMixin"]

_factory = Rule(
    lambda value: value is None or (callable(value) and not isinstance(value, nn.Module)),
    "None or a callable (n_in, n_out) -> nn.Module",
    lambda value: "Pass what makes the module, such as riskvae.nets.conv_encoder, or lambda n_in, n_out: module.",
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


def _likelihood_remedy(value: Any) -> str:
    if value is Mixed or (isinstance(value, str) and value.lower() in ("mixed", "auto", "table")):
        return "For a table, pass riskvae.likelihoods.Mixed.from_frame(X)."
    if isinstance(value, type):
        return f"Likelihoods are objects: pass {value.__name__}(), not the class."
    if isinstance(value, Likelihood):
        return "Let its __init__ begin with super().__init__()."
    return ""


_likelihood = choice("gaussian", "bernoulli") | Rule(
    lambda value: isinstance(value, Likelihood) and "_buffers" in vars(value),
    "an object of riskvae.likelihoods, such as likelihoods.Poisson(), or of a subclass of likelihoods.Likelihood",
    _likelihood_remedy,
    lambda value: isinstance(value, Likelihood),
)


class ParametersMixin(BaseEstimator):
    """Parameters as scikit-learn has them: constructors remember, ``fit`` checks.

    A subclass with some parameters of its own hands on the others,
    ``def __init__(self, n_components=10, *, mine=1.0, **parameters)``: they are spelled out in its signature, where
    ``get_params``, ``clone`` and grid searches look for them.
    """

    # What a model is made of; training on cannot change it.
    _made_of: ClassVar[tuple[str, ...]] = (
        "n_components", "hidden_layer_sizes", "activation", "encoder", "decoder", "likelihood", "noise_scale",
        "output_activation", "scale_offset",
    )  # fmt: skip

    _rules: ClassVar[Mapping[str, Rule]] = {
        "n_components": integer(1),
        "beta": real(0.0),
        "hidden_layer_sizes": _widths,
        "activation": choice(*nets.ACTIVATIONS),
        "encoder": _factory,
        "decoder": _factory,
        "likelihood": _likelihood,
        "noise_scale": choice("learned") | real(0.0, closed="neither"),
        "output_activation": choice("auto", "identity", "sigmoid"),
        "scale_offset": real(0.0),
        "max_epochs": choice("auto") | integer(1),
        "beta_warmup": integer(0),
        "batch_size": integer(1),
        "lr": real(0.0, closed="neither"),
        "weight_decay": real(0.0),
        "lipschitz_penalty": real(0.0),
        "early_stopping": boolean,
        "validation_fraction": real(0.0, 1.0, closed="neither"),
        "n_iter_no_change": integer(1),
        "tol": real(0.0),
        "callbacks": _callbacks,
        "n_score_samples": choice("auto") | integer(1),
        "refine": integer(0),
        "warm_start": boolean,
        "checkpoint": Rule(
            lambda value: value is None or (isinstance(value, str | os.PathLike) and str(value) != ""),
            "None, or the path of a file or folder",
            kind=lambda value: isinstance(value, str),
        ),
        "verbose": integer(0) | boolean,
        "distributed": Rule(lambda value: value is None, "None") | choice("replicated", "sharded"),
        "precision": choice(*PRECISIONS),
        "compile": boolean,
    }

    n_components: Any
    beta: float
    hidden_layer_sizes: Sequence[int]
    activation: str
    encoder: Callable[[int, int], nn.Module] | None
    decoder: Callable[[int, int], nn.Module] | None
    likelihood: Any
    noise_scale: Any
    output_activation: str
    scale_offset: float
    max_epochs: Any
    beta_warmup: int
    batch_size: int
    lr: float
    weight_decay: float
    lipschitz_penalty: float
    early_stopping: bool
    validation_fraction: float
    n_iter_no_change: int
    tol: float
    callbacks: Sequence[Any] | None
    n_score_samples: Any
    refine: int
    warm_start: bool
    checkpoint: str | os.PathLike[str] | None
    random_state: int | np.random.RandomState | None
    verbose: int
    device: str | torch.device
    distributed: str | None
    precision: str
    compile: bool

    _structure: dict[str, tuple[Any, str]]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__init__" in vars(cls):
            _spell_out(cls)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Of an earlier version's pickle, parameters that it did not have yet are at their defaults."""
        super().__setstate__(state)  # type: ignore[misc]  # scikit-learn has no types
        for name, parameter in inspect.signature(type(self).__init__).parameters.items():
            if parameter.default is not parameter.empty:
                self.__dict__.setdefault(name, parameter.default)

    def _remember(self, arguments: dict[str, Any]) -> None:
        """Store the arguments of a constructor as they are."""
        self.__dict__.update({name: value for name, value in arguments.items() if name not in ("self", "__class__")})

    def _check_stored(self) -> None:
        """Raise for parameters of a user's own class, or of an object given to it, that are not where they are read."""
        columns = getattr(vars(self).get("likelihood"), "columns", None)
        for part in (self, *vars(self).values(), *(columns.values() if isinstance(columns, dict) else ())):
            if isinstance(part, BaseEstimator) and (lost := _not_stored(part)):
                which = ", ".join(map(repr, lost[:3])) + (" and others" if len(lost) > 3 else "")
                raise TypeError(
                    f"{type(part).__name__}: __init__ must store each parameter under its own name, where scikit-learn "
                    f"reads it; not stored: {which}. Call super().__init__(...) first, with what it takes, and then "
                    f"set self.{lost[0]} = {lost[0]}."
                )

    def _check_parameters(self) -> None:
        # Not get_params: a subclass may leave parameters of its base out of its constructor.
        check_parameters(type(self).__name__, {name: getattr(self, name) for name in self._rules}, self._rules)
        if self.likelihood == "bernoulli" and self.output_activation == "identity":
            self._refuse(
                "likelihood='bernoulli' predicts probabilities, so output_activation must be 'auto' or 'sigmoid'; got "
                "'identity'",
                "",
            )
        if self.lipschitz_penalty and isinstance(self.likelihood, Likelihood) and not self.likelihood.shows_rows:
            self._refuse(
                f"lipschitz_penalty={self.lipschitz_penalty!r} compares moves of rows and of their reconstructions, "
                f"and of likelihood={type(self.likelihood).__name__}(...) the encoder sees standardized columns, "
                "categories or counts",
                "Set lipschitz_penalty=0.0, or train on the numeric columns alone, scaled, with likelihood='gaussian'.",
            )
        if isinstance(self.likelihood, Likelihood) and "noise_scale" in self._rules:
            for name, default in (("noise_scale", "learned"), ("output_activation", "auto")):
                if getattr(self, name) != default:
                    self._refuse(
                        f"{name}={getattr(self, name)!r} is for likelihood='gaussian', and not used by "
                        f"likelihood={self.likelihood!r}",
                        f"Give it to the object, as in likelihoods.Gaussian(noise_scale=0.5), and leave {name} out.",
                    )

    def _refuse(self, what: str, remedy: str) -> None:
        raise ValueError(f"{type(self).__name__}: {what}. {remedy}".rstrip())

    def _current_structure(self) -> dict[str, tuple[Any, str]]:
        """What the model is made of: values to compare, and to show."""
        values = {name: getattr(self, name) for name in self._made_of}
        return {name: (key_of(_without_state(value)), repr(value)) for name, value in values.items()}

    def _check_structure(self) -> None:
        for name, (value, shown) in self._current_structure().items():
            before, shown_before = self._structure[name]
            if value != before:
                self._refuse(
                    f"{name}={shown} differs from the fitted model's {shown_before}; warm_start and partial_fit go on "
                    "with the same network",
                    "Use clone(estimator) to start anew.",
                )


def _not_stored(part: Any) -> list[str]:
    """Parameters of its constructor, and those that all estimators have, for which an object has no attributes."""
    own = inspect.signature(type(part).__init__).parameters.values()
    names = [p.name for p in own if p.name != "self" and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    return [name for name in {**dict.fromkeys(names), **getattr(part, "_rules", {})} if not hasattr(part, name)]


def _without_state(value: Any) -> Any:
    """Of an object that makes networks, its class: it may count what it made, or remember them."""
    known = isinstance(value, FunctionType | partial | type | BaseEstimator | np.ndarray | torch.Tensor)
    return type(value) if callable(value) and not known else value


def _spell_out(cls: Any) -> None:
    """Put the parameters that a constructor hands on as ``**parameters`` into its signature."""
    own = inspect.signature(cls.__init__)
    parameters = {p.name: p for p in own.parameters.values() if p.kind is not p.VAR_KEYWORD}
    if len(parameters) == len(own.parameters):
        return
    for base in cls.__mro__[1:-1]:  # as far as each hands on
        if "__init__" in vars(base):
            given = inspect.signature(base.__init__).parameters.values()
            named = [p for p in given if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
            parameters |= {p.name: p.replace(kind=p.KEYWORD_ONLY) for p in named if p.name not in parameters}
            if not any(p.kind is p.VAR_KEYWORD for p in given):
                break
    cls.__init__.__signature__ = own.replace(parameters=list(parameters.values()))
