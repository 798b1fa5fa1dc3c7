"""Rows that a fitted model makes up."""

import copy
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from riskvae._machine import torch_as_usual
from riskvae._validation import check_parameters, integer, isolated_rng
from riskvae.estimators._inference import InferenceMixin
from riskvae.estimators._naming import named_rows

__all__ = ["SamplingMixin"]

Array = NDArray[Any]


class SamplingMixin(InferenceMixin):
    """The method of a fitted estimator that needs no rows."""

    @named_rows
    def sample(self, n_samples: int = 1, *, observation_noise: bool = False, random_state: Any = None) -> Array:
        """Generate rows from the prior.

        Parameters
        ----------
        n_samples : int, default=1
            Number of rows.
        observation_noise : bool, default=False
            Whether to draw from p(x|z). False returns its mean, as is usual for VAEs.
        random_state : int, RandomState or None, default=None
            Seed of the draws; None uses the estimator's own.

        Returns
        -------
        ndarray of shape (n_samples, n_features)
            Generated rows.
        """
        check_is_fitted(self)
        check_parameters("sample", {"n_samples": n_samples}, {"n_samples": integer(1)})
        chance = check_random_state(self.random_state if random_state is None else random_state)
        rng = np.random.default_rng(chance.randint(np.iinfo(np.int32).max))
        Z = rng.standard_normal((n_samples, self._n_features_out))
        if not observation_noise:
            return self._decoded(Z)
        seed, cpu = int(rng.integers(2**63)), torch.device("cpu")
        generator = torch.Generator().manual_seed(seed)
        likelihood = copy.deepcopy(self.module_.likelihood).cpu().double()

        def draw(vae: Any, z: Tensor) -> tuple[Tensor]:
            rows = likelihood.draw(vae.decoder(z).cpu().double(), generator)
            if rows.shape != (len(z), self.n_features_in_):
                raise ValueError(
                    f"likelihood={likelihood!r}: draw(raw, generator) must return a row of {self.n_features_in_} "
                    f"features for each of {len(z)}; got shape {tuple(rows.shape)}."
                )
            return (rows,)

        with torch_as_usual(cpu), isolated_rng(seed, cpu):
            return self._map_rows(draw, Z, width=likelihood.n_values)[0]
