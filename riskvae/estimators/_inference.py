"""What a fitted estimator does with rows and latent points, in the dtype of the input."""

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils.validation import check_array, check_is_fitted
from torch import Tensor

from riskvae import nets
from riskvae._machine import torch_as_usual
from riskvae._sklearn import ClassNamePrefixFeaturesOutMixin, DensityMixin, TransformerMixin
from riskvae._validation import (
    borrowed,
    check_parameters,
    derive_seed,
    feature_matrix,
    host_array,
    limited,
)
from riskvae.estimators._in_parts import in_parts
from riskvae.estimators._mapping import CHUNK, MappingMixin
from riskvae.estimators._naming import named_rows
from riskvae.likelihoods._scaled import ScaledLikelihood
from riskvae.training import Batch
from riskvae.training._draws import matched_draws

__all__ = ["InferenceMixin"]

Array = NDArray[Any]

# n_score_samples="auto" takes whole sets of draws, so many at least.
_DRAWS = 16


class InferenceMixin(ClassNamePrefixFeaturesOutMixin, TransformerMixin, DensityMixin, MappingMixin):
    """Methods of a fitted estimator: all deterministic, none moves the module or its mode."""

    n_features_in_: int
    _seed: int
    _takes_codes = False  # whether rows are parts of a Dataset, of numbers alone

    def transform(self, X: Any, *, refine: int | None = None) -> Array:
        """Posterior means of the latent coordinates.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or torch Dataset
            Rows.
        refine : int, default=None
            Number of steps that refine each row's posterior, as in :meth:`encode`.

        Returns
        -------
        ndarray of shape (n_samples, n_components)
            Latent codes, in the dtype of X if that is float32 or float64.
        """
        return self.encode(X, refine=refine).mean

    @in_parts
    def encode(self, X: Any, *, refine: int | None = None) -> nets.Posterior:
        r"""Posterior mean and scale of each latent coordinate.

        The encoder maps all rows with one function. With ``refine``, gradient steps on each row's own evidence bound
        then move its posterior, starting from the encoder's, so that the code fits the row better:

        .. math:: \mu \gets \mu + \rho_t\, \sigma^2 \nabla_\mu \mathrm{ELBO}, \qquad
            \log\sigma \gets \log\sigma + \tfrac{\rho_t}{2} \nabla_{\log\sigma} \mathrm{ELBO}

        This is the natural gradient, with :math:`\rho_t = 0.5 / (1 + t/5)` and steps of at most one :math:`\sigma`.
        Each step uses four latent draws, in rotation from complete sets that are the same in every call. A row keeps
        the encoder's posterior if its mean bound over these draws has not risen. Ten steps achieve most of the possible
        gain. Each costs about twelve passes through the decoder.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or torch Dataset
            Rows.
        refine : int, default=None
            Number of steps; None uses the parameter ``refine``.

        Returns
        -------
        Posterior
            Named tuple of ``mean`` and ``scale`` (standard deviation), each (n_samples, n_components).

        References
        ----------
        Cremer, Li and Duvenaud, "Inference suboptimality in variational autoencoders" (2018).
        """
        rows = self._check_rows(X)
        return nets.Posterior(*self._map_rows(lambda vae, x: vae.encode(x), rows, refine=refine))

    @named_rows
    def inverse_transform(self, X: Any) -> Array:
        """Decode latent points to mean rows (medians for QuantileVAE).

        Parameters
        ----------
        X : array-like of shape (n_samples, n_components)
            Latent points.

        Returns
        -------
        ndarray of shape (n_samples, n_features)
            Decoded rows.
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
    def reconstruct(self, X: Any, *, refine: int | None = None) -> Array:
        """Reconstruct rows: decode their posterior means to mean rows (medians for QuantileVAE).

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or torch Dataset
            Rows.
        refine : int, default=None
            Number of steps that refine each row's posterior, as in :meth:`encode`.

        Returns
        -------
        ndarray of shape (n_samples, n_features)
            Reconstructions.
        """
        rows = self._check_rows(X)
        return self._map_rows(lambda vae, x: (vae.decode(vae.encode(x).mean),), rows, refine=refine)[0]

    @in_parts
    def reconstruction_loss(self, X: Any, *, refine: int | None = None) -> Array:
        r"""Negative log-likelihood of each row, decoded from its posterior mean.

        .. math:: -\log p(x \mid z = \mu(x))

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or torch Dataset
            Rows.
        refine : int, default=None
            Number of steps that refine each row's posterior, as in :meth:`encode`.

        Returns
        -------
        ndarray of shape (n_samples,)
            Nats per row.
        """

        def bound(vae: Any, x: Tensor) -> tuple[Tensor]:
            return (-vae.nll(x, vae.decoder(vae.encode(x).mean)),)

        rows, excess = self._check_scored(X)
        return -self._scored(bound, rows, excess, refine=refine)

    @in_parts
    def score_samples(self, X: Any, *, refine: int | None = None) -> Array:
        r"""Evidence lower bound of each row.

        .. math:: E_{q(z|x)} \log p(x|z) - \mathrm{KL}(q(z|x) \,\|\, p(z))

        The bound always contains the full KL term and no risk, whatever ``beta`` and the loss were in training, so that
        models can be compared. The expectation is a mean over ``n_score_samples`` draws, which are the same for every
        row and every call: antithetic pairs of orthogonal directions. Complete sets of 2 ``n_components`` draws, which
        "auto" uses, make the mean of any quadratic function exact, so scores have almost no sampling noise.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or torch Dataset
            Rows.
        refine : int, default=None
            Number of steps that refine each row's posterior, as in :meth:`encode`, which brings the bound closer to log
            p(x).

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
        width = len(bank) * max(self.n_features_in_, self.module_.widest)
        return self._scored(bound, rows, excess, width=width, refine=refine)

    def score(self, X: Any, y: Any = None) -> float:
        """Mean evidence lower bound: the average of :meth:`score_samples`.

        A mean favors models that were trained on the mean. To choose ``eps``, score the tail instead.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or torch Dataset
            Rows.
        y : ignored
            Not used; present for API consistency.

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

    def _check_rows(self, X: Any, *, scored: bool = False) -> Array:
        self._check_fitted()
        likelihood = self.net_.module_.likelihood
        rows = feature_matrix(self, X if self._takes_codes else likelihood.codes(X), reset=False)
        # Of an encoder that does not see rows as they are, what is impossible would be NaN, or some other value.
        if scored or not likelihood.shows_rows:
            check = likelihood.check if scored else likelihood.check_seen
            step = max(1, CHUNK // rows.shape[1])
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

    @property
    def history_(self) -> list[dict[str, Any]]:
        """One dict per epoch."""
        return [{name: value for name, value in row.items() if name != "batches"} for row in self.net_.history]

    @property
    def n_iter_(self) -> int:
        """Number of epochs trained."""
        return len(self.net_.history)

    @property
    def best_iter_(self) -> int:
        """Epoch whose weights were kept, counted from 1: the last, or the best one with early stopping."""
        best = self.net_.best_epoch
        return self.n_iter_ if best is None else best

    @property
    def noise_scale_(self) -> Any:
        """Standard deviation of the observation noise (for QuantileVAE, its Laplace scale), or one per feature.

        NaN for likelihoods without a scale, such as Bernoulli.
        """
        likelihood = self.module_.likelihood
        if not isinstance(likelihood, ScaledLikelihood):
            return float("nan")
        scale = likelihood.log_noise.exp().numpy(force=True)
        return scale if likelihood.by_gradient else float(scale)

    @property
    def _n_features_out(self) -> int:
        return self.module_.n_components
