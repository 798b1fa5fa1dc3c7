"""What fitted models make of values that are missing."""

import copy
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from riskvae._validation import check_parameters, derive_seed, draw_seed, integer, isolated_rng
from riskvae.estimators._in_parts import in_parts
from riskvae.estimators._inference import InferenceMixin
from riskvae.estimators._naming import named_rows
from riskvae.nets import Posterior
from riskvae.training._draws import matched_draws

__all__ = ["ImputationMixin"]

Array = NDArray[Any]

# Steps by which each row's posterior is refined, and draws that the mean of what is decoded looks at.
_STEPS, _DRAWS = 10, 4
# Draws that show how sure a model is.
_SEEN = 16


class ImputationMixin(InferenceMixin):
    """Methods of a fitted estimator for rows with missing values, which are NaN."""

    @named_rows
    def impute(
        self, X: Any, *, n_draws: int | None = None, random_state: Any = None, refine: int | None = None
    ) -> Array:
        r"""Fill in the missing values of rows.

        By default, missing values are replaced by conditional means given the known values,

        .. math:: \hat x_j = w \, E_{q(z \mid x_{\text{known}})} \, m_j(z)
                  + (1 - w) \left(\mu_j + \Sigma_{jk} \Sigma_{kk}^{-1} (x_k - \mu_k) \right),

        with decoded means m (medians for QuantileVAE) and a normal distribution of the training rows. The posterior q
        is the encoder's, refined by ten steps on each row's own evidence bound, as in :meth:`encode`. The weight w is
        the one with the smallest errors on known values that ``fit`` hid, a tenth at a time. It is 1, without a normal
        distribution, for models that were trained on complete rows, on more than 100 features, or with a likelihood
        other than normal noise or quantiles.

        With ``n_draws``, values are drawn around these means instead, for multiple imputation: results computed from
        each of the completed tables vary with the uncertainty of the missing values. The spread of the draws combines
        that of the model and that of the normal distribution with the same weight. It is scaled for each feature so
        that nine tenths of the hidden values lie within their ranges.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or torch Dataset
            Rows, NaN where values are missing.
        n_draws : int, default=None
            Number of completed tables; None returns a single one, with conditional means.
        random_state : int, RandomState or None, default=None
            Seed of the draws; None uses the estimator's own.
        refine : int, default=None
            Number of steps that refine each row's posterior; None uses 10, or the parameter ``refine`` if that is
            larger.

        Returns
        -------
        ndarray of shape (n_samples, n_features) or (n_draws, n_samples, n_features)
            Completed rows; known values are unchanged.

        References
        ----------
        Dempster, Laird and Rubin, "Maximum likelihood from incomplete data via the EM algorithm" (1977).
        Rubin, "Multiple imputation for nonresponse in surveys" (1987).
        Mattei and Frellsen, "MIWAE: deep generative modelling and imputation of incomplete data sets" (2019).

        Examples
        --------
        >>> import numpy as np
        >>> from riskvae import BetaVAE
        >>> rng = np.random.default_rng(0)
        >>> t = rng.normal(size=(500, 1))
        >>> X = np.hstack((t, 2 * t, -t)) + 0.1 * rng.normal(size=(500, 3))
        >>> X[::4, 0], X[1::4, 1], X[2::4, 2] = np.nan, np.nan, np.nan
        >>> vae = BetaVAE(n_components=2, max_epochs=100, random_state=0).fit(X)
        >>> vae.impute([[1.0, np.nan, np.nan]]).round()
        array([[ 1.,  2., -1.]])
        """
        self._check_fitted()
        if n_draws is None:
            return self._imputed(X, None, refine=refine)
        check_parameters("impute", {"n_draws": n_draws}, {"n_draws": integer(1)})
        seed = draw_seed(self.random_state if random_state is None else random_state)
        with isolated_rng(seed, torch.device("cpu")):
            drawn = self._imputed(X, n_draws, torch.Generator().manual_seed(seed), refine=refine)
        return np.moveaxis(drawn, 1, 0)

    @in_parts
    def _imputed(
        self, X: Any, n_draws: int | None, chance: torch.Generator | None = None, *, refine: int | None = None
    ) -> Array:
        """Filled rows (n, n_features), or drawn ones (n, n_draws, n_features)."""
        rows = self._check_rows(X)
        k, d = self._n_features_out, self.n_features_in_
        missing = np.isnan(rows)
        incomplete = np.flatnonzero(missing.any(1))
        dtype = rows.dtype if rows.dtype.kind == "f" else np.dtype(np.float64)
        filled = np.array(rows, dtype) if n_draws is None else np.repeat(rows[:, None].astype(dtype), n_draws, 1)
        if not len(incomplete):
            return filled
        bank = matched_draws(_DRAWS, k, derive_seed(self._seed, "impute"))
        likelihood = copy.deepcopy(self.module_.likelihood).cpu().double()
        normal = None if self.module_.normal is None else copy.deepcopy(self.module_.normal).cpu()

        def complete(vae: Any, x: Tensor) -> tuple[Tensor]:
            posterior = vae.encode(x)
            center = _decoded(vae, posterior, bank)
            if n_draws is None:
                return (center if normal is None else normal.mixed(center, normal.conditional(x)[0]),)
            drawn = _drawn(vae, likelihood, posterior, n_draws, chance)
            if normal is not None:
                own, rest = normal.conditional(x)
                away = normal.spread(drawn - center[:, None].to(drawn), rest, chance)
                drawn = normal.mixed(center, own).to(drawn)[:, None] + away
            return (drawn.to(x),)

        n = _DRAWS if n_draws is None else max(_DRAWS, n_draws)
        width = max(n * max(self.module_.likelihood.n_values, self.module_.widest), 0 if normal is None else d * d)
        steps = max(_STEPS, self._steps_of_refinement(None)) if refine is None else refine
        found = self._map_rows(complete, rows[incomplete], width=width, refine=steps)[0]
        where = missing[incomplete] if n_draws is None else np.repeat(missing[incomplete][:, None], n_draws, 1)
        filled[incomplete] = np.where(where, found, filled[incomplete])
        return filled

    def _weigh_answers(self, rows: Any) -> None:
        """Find out what the answers of a model that has just been trained are worth, where values were known."""
        module, seed = self.net_.module_, derive_seed(self._seed, "weigh")
        if module.normal is None:
            return
        bank, chance = matched_draws(_DRAWS, module.n_components, seed), torch.Generator().manual_seed(seed)
        likelihood, first = copy.deepcopy(module.likelihood).cpu().double(), next(module.parameters())

        def answer(x: Tensor) -> tuple[Tensor, Tensor]:
            posterior = module.encode(x.to(first))
            drawn = _drawn(module, likelihood, posterior, _SEEN, chance)
            return _decoded(module, posterior, bank), drawn.std(1)

        with torch.no_grad(), isolated_rng(seed, torch.device("cpu")):
            module.normal.weigh(rows.head(), answer)


def _decoded(vae: Any, posterior: Posterior, bank: Tensor) -> Tensor:
    """Mean (n, d) of what is decoded from some draws of posteriors."""
    z = posterior.mean + posterior.scale * bank.to(posterior.mean)
    return vae.likelihood.central(vae.decoder(z.flatten(0, 1)).unflatten(0, z.shape[:2]))


def _drawn(vae: Any, likelihood: Any, posterior: Posterior, n_draws: int, chance: torch.Generator | None) -> Tensor:
    """Rows (n, n_draws, d) of a model, on the CPU."""
    mean, scale = posterior
    noise = torch.randn((len(mean), n_draws, mean.shape[1]), generator=chance, dtype=torch.float64)
    z = mean[:, None] + scale[:, None] * noise.to(mean)
    return likelihood.draw(vae.decoder(z.flatten(0, 1)).cpu().double(), chance).unflatten(0, z.shape[:2])
