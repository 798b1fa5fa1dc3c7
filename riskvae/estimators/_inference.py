"""What a fitted estimator does with rows and latent points, in the dtype of the input."""

import math
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils.validation import check_array, check_is_fitted
from torch import Tensor

from riskvae import nets
from riskvae._machine import device_for, in_one_thread, prepare_process, resolve_device, torch_as_usual
from riskvae._sklearn import ClassNamePrefixFeaturesOutMixin, DensityMixin, TransformerMixin
from riskvae._validation import (
    borrowed,
    check_parameters,
    compute_dtype,
    derive_seed,
    feature_matrix,
    has_missing,
    host_array,
    limited,
)
from riskvae.estimators._in_parts import in_parts
from riskvae.estimators._naming import named_rows
from riskvae.estimators._parameters import ParametersMixin
from riskvae.estimators._serving import serving_copy
from riskvae.likelihoods._scaled import ScaledLikelihood
from riskvae.training import Batch
from riskvae.training._draws import matched_draws

__all__ = ["InferenceMixin"]

Array = NDArray[Any]

# Values per chunk of rows: large enough to keep the cores busy, small beside the data.
_CHUNK = 2**22
# Values that one thread computes as soon as several do.
_FEW = 2**17
# n_score_samples="auto" takes whole sets of draws, so many at least.
_DRAWS = 16


class InferenceMixin(ClassNamePrefixFeaturesOutMixin, TransformerMixin, DensityMixin, ParametersMixin):
    """Methods of a fitted estimator: all deterministic, none moves the module or its mode."""

    n_features_in_: int
    net_: Any  # skorch's NeuralNet, which carries no types
    _seed: int
    _placed: Any  # what device was when the model was put there
    _takes_codes = False  # whether rows are parts of a Dataset, of numbers alone

    def __sklearn_is_fitted__(self) -> bool:
        return "net_" in self.__dict__

    def transform(self, X: Any) -> Array:
        """Posterior means of the latent coordinates.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or torch Dataset
            Rows.

        Returns
        -------
        ndarray of shape (n_samples, n_components)
            Of X's dtype, if float32 or float64.
        """
        return self.encode(X).mean

    @in_parts
    def encode(self, X: Any) -> nets.Posterior:
        """Posterior mean and scale of each latent coordinate.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or torch Dataset
            Rows.

        Returns
        -------
        Posterior
            Named tuple of ``mean`` and ``scale`` (standard deviation), each (n_samples, n_components).
        """
        return nets.Posterior(*self._map_rows(lambda vae, x: vae.encode(x), self._check_rows(X)))

    @named_rows
    def inverse_transform(self, X: Any) -> Array:
        """Mean rows (of QuantileVAE medians) of latent points.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_components)
            Latent points.

        Returns
        -------
        ndarray of shape (n_samples, n_features)
            Decoder means.
        """
        check_is_fitted(self)
        Z = check_array(host_array(X), input_name="X")
        if Z.shape[1] != self._n_features_out:
            raise ValueError(
                f"X has {Z.shape[1]} columns, but inverse_transform expects latent points with "
                f"n_components={self._n_features_out} columns, as transform gives."
            )
        return self._decoded(Z)

    def _decoded(self, Z: Array) -> Array:
        return self._map_rows(lambda vae, z: (vae.decode(z),), Z, width=self.module_.likelihood.n_values)[0]

    @named_rows
    @in_parts
    def reconstruct(self, X: Any) -> Array:
        """Decoder means (of QuantileVAE medians) at the posterior means.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or torch Dataset
            Rows.

        Returns
        -------
        ndarray of shape (n_samples, n_features)
            Reconstructions.
        """
        return self._map_rows(lambda vae, x: (vae.decode(vae.encode(x).mean),), self._check_rows(X))[0]

    @in_parts
    def reconstruction_loss(self, X: Any) -> Array:
        r"""Negative log-likelihood of each row, decoded from its posterior mean.

        .. math:: -\log p(x \mid z = \mu(x))

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or torch Dataset
            Rows.

        Returns
        -------
        ndarray of shape (n_samples,)
            Nats per row.
        """

        def bound(vae: Any, x: Tensor) -> tuple[Tensor]:
            return (-vae.nll(x, vae.decoder(vae.encode(x).mean)),)

        rows, excess = self._check_scored(X)
        return -self._scored(bound, rows, excess)

    @in_parts
    def score_samples(self, X: Any) -> Array:
        r"""Evidence lower bound of each row.

        .. math:: E_{q(z|x)} \log p(x|z) - \mathrm{KL}(q(z|x) \,\|\, p(z))

        Always with the KL term in full and without risk, whatever ``beta`` and the loss were in training, so
        that models compare. The expectation is a mean over ``n_score_samples`` draws, the same for every row and every
        call. They are antithetic pairs of orthogonal directions; whole sets of 2 ``n_components``, which "auto" takes,
        make the mean of any quadratic function exact, so that hardly any chance is left in a score.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or torch Dataset
            Rows.

        Returns
        -------
        ndarray of shape (n_samples,)
            Nats per row; larger is more likely.
        """
        self._check_fitted()
        with torch_as_usual(torch.device("cpu")):
            bank = self._score_draws()

        def bound(vae: Any, x: Tensor) -> tuple[Tensor]:
            terms = vae(Batch(x), bank.to(x))
            return (-(terms.nll.mean(0) + terms.kl),)

        rows, excess = self._check_scored(X)
        return self._scored(bound, rows, excess, width=len(bank) * max(self.n_features_in_, self.module_.widest))

    def score(self, X: Any, y: Any = None) -> float:
        """Mean evidence lower bound: :meth:`score_samples`, averaged.

        As a mean it favors models that were trained on the mean: to choose ``eps``, score the tail.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or torch Dataset
            Rows.
        y : ignored
            Present by convention.

        Returns
        -------
        float
            Nats per row; larger is better.
        """
        return float(self.score_samples(X).mean(dtype=np.float64))

    def _score_draws(self) -> Tensor:
        """Standard normal draws (n, 1, n_components), always the same."""
        rule = {"n_score_samples": self._rules["n_score_samples"]}  # it may be set after fit
        check_parameters(type(self).__name__, {"n_score_samples": self.n_score_samples}, rule)
        k, n = self._n_features_out, self.n_score_samples
        n = 2 * k * math.ceil(_DRAWS / (2 * k)) if n == "auto" else n
        return matched_draws(n, k, derive_seed(self._seed, "score"))

    def _check_fitted(self) -> None:
        if not self.__sklearn_is_fitted__():
            check_is_fitted(self)

    def _check_rows(self, X: Any, *, scored: bool = False) -> Array:
        self._check_fitted()
        likelihood = self.net_.module_.likelihood
        rows = feature_matrix(self, X if self._takes_codes else likelihood.codes(X), reset=False)
        # Of an encoder that does not see rows as they are, what is impossible would be NaN, or some other value.
        if scored or not likelihood.shows_rows:
            check = likelihood.check if scored else likelihood.check_seen
            step = max(1, _CHUNK // rows.shape[1])
            for start in range(0, len(rows), step):
                check(borrowed(rows[start : start + step]))
        return rows

    def _check_scored(self, X: Any) -> tuple[Array, Array | None]:
        """Rows that the likelihood allows, cut to what arithmetic bears, and how far they go beyond."""
        return limited(self._check_rows(X, scored=True))

    def _scored(self, bound: Any, rows: Array, excess: Array | None, **options: Any) -> Array:
        """Scores by a function of (module, rows), finite and in order for every finite row."""
        scores = self._map_rows(bound, rows, **options)[0]
        return scores if excess is None else scores - (np.abs(scores) * excess).astype(scores.dtype)

    def _map_rows(
        self,
        function: Callable[[Any, Tensor], tuple[Tensor, ...]],
        rows: Array,
        *,
        width: int | None = None,
        module: Any = None,
        holes: bool | None = None,
    ) -> tuple[Array, ...]:
        """Outputs of a function of (module, rows) by chunks, computed in the rows' dtype.

        With ``holes`` the module looks for missing values, which the function makes; None asks the rows.
        """
        prepare_process()
        dtype = compute_dtype(rows)
        device = device_for(dtype, self.device_)
        numpy_dtype = np.float32 if dtype == torch.float32 else np.float64
        chunk = max(1, _CHUNK // max(width or 0, rows.shape[1], self.module_.widest))
        outputs: tuple[Array, ...] = ()
        holes = has_missing(rows) if holes is None else holes
        with torch_as_usual(device), torch.inference_mode():
            module = serving_copy(self.net_.copies, self.module_ if module is None else module, device, dtype, holes)
            for start in range(0, len(rows), chunk):
                x = torch.tensor(np.ascontiguousarray(rows[start : start + chunk], numpy_dtype), device=device)
                # So that answers are the same on any number of threads.
                few = len(x) * max(width or 0, x.shape[1], self.module_.widest) <= _FEW
                with in_one_thread() if few and device.type == "cpu" else nullcontext():
                    parts = function(module, x)
                if not outputs:
                    outputs = tuple(np.empty((len(rows), *part.shape[1:]), numpy_dtype) for part in parts)
                for output, part in zip(outputs, parts, strict=True):
                    output[start : start + chunk] = part.numpy(force=True)
        return outputs

    @property
    def module_(self) -> Any:
        """Fitted model, a torch module, on the device that the parameter now names."""
        if self.device != self._placed:
            self.net_.move_to(resolve_device(self.device))
            self._placed = self.device
        return self.net_.module_

    @property
    def history_(self) -> list[dict[str, Any]]:
        """One dict per epoch."""
        return [{name: value for name, value in row.items() if name != "batches"} for row in self.net_.history]

    @property
    def n_iter_(self) -> int:
        """Epochs trained."""
        return len(self.net_.history)

    @property
    def best_iter_(self) -> int:
        """Epoch whose weights were kept, counted from 1: the last, or the best one under early stopping."""
        best = self.net_.best_epoch
        return self.n_iter_ if best is None else best

    @property
    def noise_scale_(self) -> Any:
        """Standard deviation of the observation noise (of QuantileVAE its Laplace scale), or that of each feature.

        NaN for likelihoods without one, such as bernoulli.
        """
        likelihood = self.module_.likelihood
        if not isinstance(likelihood, ScaledLikelihood):
            return float("nan")
        scale = likelihood.log_noise.exp().numpy(force=True)
        return scale if likelihood.by_gradient else float(scale)

    @property
    def device_(self) -> torch.device:
        """Where the model is."""
        return next(self.module_.parameters()).device

    @property
    def _n_features_out(self) -> int:
        return self.module_.n_components
