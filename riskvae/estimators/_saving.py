"""What of a fitted estimator goes into a file, and how it comes back."""

import copy
import math
import os
import platform
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from riskvae import __version__
from riskvae._machine import resolve_device, torch_as_usual
from riskvae._validation import LARGEST, check_parameters, choice
from riskvae.estimators._inference import InferenceMixin
from riskvae.estimators._starting import begin
from riskvae.likelihoods import Quantiles
from riskvae.nets import Standardize
from riskvae.persistence._archive import Tensors, write
from riskvae.persistence._budget import Budget
from riskvae.persistence._onnx import write_onnx
from riskvae.persistence._tensors import check_tensors, put, taken, whole
from riskvae.persistence._values import Names, Unsaveable, encode
from riskvae.training import Batch
from riskvae.training._checkpoint import plain_history
from riskvae.training._normal_rows import NormalRows

__all__ = ["SavingMixin"]

# What the optimizer keeps for a weight.
_MOMENTS = {"step", "exp_avg", "exp_avg_sq"}


class SavingMixin(InferenceMixin):
    """Save a fitted estimator, and restore one."""

    # Parameters that are no part of a model: of this machine, and of this training.
    _not_kept: ClassVar[frozenset[str]] = frozenset({"callbacks", "checkpoint", "device"})

    n_features_in_: int
    feature_names_in_: Any
    _groups: dict[Any, int]  # numbers of the labels of groups

    def save(self, path: str | os.PathLike[str], *, training: bool = False, trusted: Sequence[str] = ()) -> None:
        """Save the fitted model to a file that contains no code: a zip archive of JSON and safetensors.

        Read it with :func:`riskvae.load <riskvae.persistence.load>`; results are identical, bit for bit. The file is
        written atomically, so it is never incomplete, and equal models give equal files.

        Parameters
        ----------
        path : path
            File name, such as ``"model.riskvae"``. An existing file is replaced.
        training : bool, default=False
            Whether to also save the optimizer's state and a learned threshold, so that ``warm_start`` and
            ``partial_fit`` continue bit for bit. The file is then about three times as large.
        trusted : sequence of str, default=()
            Your own modules that define networks, measures, likelihoods or estimators used by the model. The file
            stores their names, not their code; pass the same modules to
            :func:`riskvae.load <riskvae.persistence.load>`.

        Raises
        ------
        ValueError
            For objects that cannot be saved, such as a lambda or a class defined in a notebook. The message says what
            to do.
        """
        check_is_fitted(self)
        name = type(self).__name__
        if self.callbacks is not None:
            raise Unsaveable(
                f"{name}: callbacks are objects of a training, which a file cannot hold. "
                "Call set_params(callbacks=None) before save."
            )
        if training and type(self.net_.optimizer_) is not self.net_.optimizer:
            raise Unsaveable(
                f"{name}: training=True keeps the state of {self.net_.optimizer.__name__}, and a callback has put "
                f"{type(self.net_.optimizer_).__name__} in its place. Leave training out; to go on after an "
                "interruption, fit with checkpoint='file.pt'."
            )
        names = Names(trusted)
        arrays: dict[str, Any] = {}
        parameters = {
            key: encode(value, names, arrays, key)
            for key, value in self.get_params(deep=False).items()
            if key not in self._not_kept
        }
        fitted = encode(self._fitted_state(arrays, training=bool(training)), names, arrays, "fitted")
        document = {
            "riskvae": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "class": names.of(type(self), "the estimator"),
            "parameters": parameters,
            "fitted": fitted,
        }
        write(path, document, arrays)

    def export_onnx(
        self,
        path: str | os.PathLike[str],
        what: Literal["encode", "reconstruct", "score_samples"] = "encode",
    ) -> None:
        """Export one method of the fitted model to an ONNX file, which runs without torch or riskvae.

        The input "X" takes float32 rows (n, n_features) for any n. Results agree with those of the method to a relative
        precision of about 1e-5. Input is not checked: missing values and invalid rows are not rejected, and for scores,
        values are clipped at 1e12. Needs the extra ``onnx``.

        Parameters
        ----------
        path : path
            File name, such as ``"model.onnx"``. An existing file is replaced.
        what : {"encode", "reconstruct", "score_samples"}, default="encode"
            Method to export. "encode" has two outputs, "mean" and "scale"; the others have one output, named after the
            method.

        Raises
        ------
        ImportError
            If the packages of the extra ``onnx`` are not installed.
        ValueError
            For networks that torch cannot export, and if ``refine`` is not 0.
        """
        check_is_fitted(self)
        check_parameters("export_onnx", {"what": what}, {"what": choice("encode", "reconstruct", "score_samples")})
        if steps := self._steps_of_refinement(None):
            raise ValueError(
                f"{type(self).__name__}: refine={steps} takes gradient steps for each row, which an ONNX file cannot "
                "do. Set refine=0, and fit a QuantileVAE again: it was fitted to refined posteriors."
            )
        outputs = ("mean", "scale") if what == "encode" else (what,)
        module = Method(*copy.deepcopy(self._answering(what))).cpu().float().eval().requires_grad_(False)
        for part in module.modules():
            if vars(part).get("told", "places") is None:
                vars(part)["holes"] = False  # whether a value is missing is no branch that can be exported
            if vars(part).get("refine"):
                vars(part)["refine"] = 0
        write_onnx(module, path, self.n_features_in_, outputs, f"{type(self).__name__}.{what}")

    def _answering(self, what: str) -> tuple[Any, nn.Module]:
        """A function of a module and rows that answers as a method does, and the module."""
        if what == "encode":
            return _encoded, self.module_
        if what == "reconstruct":
            return _reconstructed, self.module_
        return partial(_bound, self._score_draws()), self.module_

    def _fitted_state(self, arrays: dict[str, Any], *, training: bool) -> dict[str, Any]:
        """Fitted values; tensors go into ``arrays`` by their names."""
        net, module = self.net_, self.net_.module_
        put(arrays, "module", module.state_dict())
        state: dict[str, Any] = {
            "n_features": self.n_features_in_,
            "seed": self._seed,
            "groups": self._groups,
            "history": plain_history(net.history),
            "best_epoch": net.best_epoch,
            "frozen": [name for name, parameter in module.named_parameters() if not parameter.requires_grad],
            "training": training,
            "missing": {"told": self._has_missing, "met": module.holes, "features": self._lacking},
            "refine": module.refine,
        }
        if hasattr(self, "feature_names_in_"):
            state["feature_names"] = list(self.feature_names_in_)
        if training:
            put(arrays, "criterion", net.criterion_.state_dict())
            optimizer = net.optimizer_.state_dict()
            state["optimizer"] = optimizer["param_groups"]
            for i, values in optimizer["state"].items():
                put(arrays, f"optimizer.{i}", values)
        return state

    def _check_device(self) -> None:
        resolve_device(self.device)

    @torch.inference_mode(False)
    @torch.enable_grad()
    def _restored(self, state: Any, arrays: Tensors) -> None:
        """Take what :meth:`_fitted_state` gave; raises where it does not go together with the parameters."""
        device = resolve_device(self.device)
        self.n_features_in_ = whole(state, "n_features", 1)
        seed = whole(state, "seed", 0)
        if "feature_names" in state:
            found = state["feature_names"]
            if (
                not isinstance(found, list)
                or len(found) != self.n_features_in_
                or not all(isinstance(n, str) for n in found)
            ):
                raise ValueError("fitted: feature_names must be a list of one name for each feature")
            self.feature_names_in_ = np.asarray(found, dtype=object)
        weights, missing = taken(arrays, "module"), _checked_missing(state, self.n_features_in_)
        self._has_missing, self._lacking = missing["told"], missing["features"]
        with torch_as_usual(torch.device("cpu")), Budget(weights):
            self._check_parameters()
            net, _ = begin(self, torch.device("cpu"), seed)
        _load("module", net.module_, weights)
        for name in state["frozen"]:
            net.module_.get_parameter(name).requires_grad_(False)
        self._restore_training(net, state, arrays)
        net.history_[:] = _checked_history(state["history"])
        net.best_epoch = state["best_epoch"] if state["best_epoch"] is None else whole(state, "best_epoch", 1)
        if net.best_epoch is not None and net.best_epoch > len(net.history_):
            raise ValueError(f"fitted: best_epoch is {net.best_epoch}, and there are {len(net.history_)} epochs")
        net.module_.eval()
        net.module_.holes = missing["met"]
        net.module_.refine = whole(state, "refine", 0) if "refine" in state else 0
        net.criterion_.eval()
        self._groups = _checked_groups(state["groups"])
        self._restore_score(state, arrays, net)
        net.move_to(device)
        self._seed, self._placed, self._structure = seed, self.device, self._current_structure()
        self.net_ = net

    def _restore_training(self, net: Any, state: Mapping[str, Any], arrays: Tensors) -> None:
        if not state["training"]:
            return
        _load("criterion", net.criterion_, taken(arrays, "criterion"))
        parameters = [p for group in net.optimizer_.param_groups for p in group["params"]]
        values = {}
        for i, parameter in enumerate(parameters):
            moments = taken(arrays, f"optimizer.{i}")
            if moments:
                _check_moments(f"optimizer.{i}", moments, parameter)
                values[i] = moments
        groups = _checked_settings(net.optimizer_.state_dict()["param_groups"], state["optimizer"])
        net.optimizer_.load_state_dict({"state": values, "param_groups": groups})

    def _restore_score(self, state: Mapping[str, Any], arrays: Tensors, net: Any) -> None:
        """Take what a detector knows beyond its networks."""


def _load(prefix: str, module: nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    check_tensors(prefix, module.state_dict(), state)
    module.load_state_dict(dict(state))
    for name, part in module.named_modules():
        if isinstance(part, Standardize) and not part.scale > 0:
            raise ValueError(f"tensors: {prefix}.{name}.scale must be above 0")
        if isinstance(part, NormalRows) and not part.sound():
            raise ValueError(f"tensors: {prefix}.{name} must be a normal distribution with a weight in [0, 1]")
        if isinstance(part, Quantiles) and not (part.unit > 0).all():
            raise ValueError(f"tensors: {prefix}.{name}.unit must be above 0")


def _check_moments(prefix: str, moments: Mapping[str, torch.Tensor], weight: torch.Tensor) -> None:
    """Raise unless these are what the optimizer keeps for a weight."""
    step = torch.zeros((), dtype=torch.float32)
    check_tensors(prefix, {name: step if name == "step" else weight.detach() for name in _MOMENTS}, moments)
    for name in ("step", "exp_avg_sq"):
        if (moments[name] < 0).any():
            raise ValueError(f"tensors: {prefix}.{name} must be at least 0")


def _checked_settings(own: list[dict[str, Any]], told: Any) -> list[dict[str, Any]]:
    """Numbers of an optimizer's groups as a file has them; what is no number is that of this machine."""
    if not isinstance(told, list) or len(told) != len(own) or not all(isinstance(group, dict) for group in told):
        raise ValueError(f"fitted: optimizer must be a list of {len(own)} groups of settings")
    found = []
    for group, settings in zip(own, told, strict=True):
        kept = {name: value for name, value in settings.items() if _is_number(value) and value >= 0}
        kept |= {"betas": settings.get("betas"), "params": group["params"]}
        betas = kept["betas"]
        if not isinstance(betas, tuple) or len(betas) != 2 or not all(_is_number(b) and 0 <= b < 1 for b in betas):
            raise ValueError("fitted: optimizer must have betas, two numbers in [0, 1)")
        if missing := sorted({"lr", "eps", "weight_decay"} - kept.keys()):
            raise ValueError(f"fitted: optimizer must have {missing[0]}, a finite number of at least 0")
        numbers = {name: value for name, value in kept.items() if name not in group or not _is_switch(group[name])}
        found.append({**group, **numbers})
    return found


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _is_switch(value: Any) -> bool:
    return value is None or isinstance(value, bool)


def _checked_history(rows: Any) -> list[dict[str, Any]]:
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) and "train_loss" in row for row in rows):
        raise ValueError("fitted: history must be a list of epochs")
    for number, row in enumerate(rows, 1):
        for name, value in row.items():
            if name.endswith("_loss") and type(value) not in (int, float):
                raise ValueError(f"fitted: history has no number for {name[:50]} of epoch {number}")
    return rows


def _checked_missing(state: Mapping[str, Any], n_features: int) -> dict[str, Any]:
    """What a model knows of missing values; one of riskvae 0.1 knows nothing, and others not of which features."""
    found = state.get("missing", {"told": False, "met": False})
    if not isinstance(found, dict) or {*found} - {"features"} != {"told", "met"}:
        raise ValueError("fitted: missing must say whether the encoder is told of missing values, and has met some")
    told, met = found["told"], found["met"]
    features = found.get("features", [*range(n_features)] if told is True or met is True else [])
    known = isinstance(features, list) and all(type(j) is int and 0 <= j < n_features for j in features)
    if not (type(told) is type(met) is bool and known):
        raise ValueError("fitted: missing must say whether the encoder is told of missing values, and which it has met")
    return {"told": told, "met": met or told, "features": features}


def _checked_groups(groups: Any) -> dict[Any, int]:
    if not isinstance(groups, dict) or not all(type(n) is int and 0 <= n < 2**63 for n in groups.values()):
        raise ValueError("fitted: groups must map labels to numbers")
    return groups


class Method(nn.Module):
    """A module and what is asked of it."""

    def __init__(self, function: Any, module: nn.Module) -> None:
        super().__init__()
        self.function, self.module = function, module

    def forward(self, x: Tensor) -> Any:
        return self.function(self.module, x)


def _encoded(vae: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    return tuple(vae.encode(x))


def _reconstructed(vae: Any, x: Tensor) -> Tensor:
    return vae.decode(vae.encode(x).mean)


def _bound(bank: Tensor, vae: Any, x: Tensor) -> Tensor:
    terms = vae(Batch(x.clamp(-LARGEST, LARGEST)), bank.to(x))
    return -(terms.nll.mean(0) + terms.kl)
