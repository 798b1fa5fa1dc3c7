"""What decides a margin: the encoder's scale and its Jacobian."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from riskvae._validation import check_parameters, integer
from riskvae.robustness._frame import to_frame
from riskvae.robustness._jacobian import linearize
from riskvae.robustness._opening import open_coder

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class EncoderSensitivity:
    r"""Scale and Jacobian of the encoder at n rows, as returned by :func:`encoder_sensitivity`.

    Attributes
    ----------
    scale_mean, scale_min, scale_max : ndarray of shape (n,)
        Mean, smallest and largest posterior standard deviation over the latent dimensions.
    variance_mean : ndarray of shape (n,)
        Mean posterior variance.
    jacobian_frobenius, jacobian_spectral : ndarray of shape (n,)
        Frobenius norm and largest singular value of the Jacobian of the posterior mean.
    whitened_spectral : ndarray of shape (n,)
        Largest singular value of diag(1 / scale) times that Jacobian; the "whitened" bound is :math:`\Phi^{-1}(p)`
        divided by it.
    """

    scale_mean: Array
    scale_min: Array
    scale_max: Array
    variance_mean: Array
    jacobian_frobenius: Array
    jacobian_spectral: Array
    whitened_spectral: Array

    def to_frame(self) -> Any:
        """Convert to a pandas DataFrame with one line per row and one column per array."""
        return to_frame(self)


def encoder_sensitivity(vae: Any, X: Any, *, batch_size: int = 256) -> EncoderSensitivity:
    r"""Scale of the encoder's noise, and how fast its mean moves, at each row.

    In theory, margins grow with the scale and shrink with the Jacobian. Disentangling (a larger ``beta``) and
    ``scale_offset`` increase the one and reduce the other.

    Parameters
    ----------
    vae : estimator or object
        A fitted estimator, or any object with ``encode`` and ``decode`` on tensors.
    X : array-like of shape (n_samples, n_features)
        Rows.
    batch_size : int, default=256
        Number of rows whose Jacobians, (n_components, n_features) each, are held in memory together.

    Returns
    -------
    EncoderSensitivity
        Arrays of shape (n_samples,).

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from riskvae import BetaVAE
    >>> X = load_digits().data / 16
    >>> vae = BetaVAE(n_components=4, hidden_layer_sizes=(64,), random_state=0).fit(X)
    >>> found = encoder_sensitivity(vae, X[:8])
    >>> bool((found.jacobian_spectral <= found.jacobian_frobenius).all())
    True
    """
    check_parameters("encoder_sensitivity", {"batch_size": batch_size}, {"batch_size": integer(1)})
    blocks = []
    with open_coder(vae, X) as coder:
        for x in coder.x.split(batch_size):
            local = linearize(coder, x)
            scale, spectral = local.scale, torch.linalg.eigvalsh(local.gram)[:, -1].clamp(min=0.0).sqrt()
            columns = (
                scale.mean(1), scale.amin(1), scale.amax(1), scale.square().mean(1),
                local.frobenius, spectral, local.whitened,
            )  # fmt: skip
            blocks.append([values.cpu().double().numpy() for values in columns])
    return EncoderSensitivity(*(np.concatenate(column) for column in zip(*blocks, strict=True)))
