"""Normal noise around means, of one standard deviation or one for each feature."""

from typing import Literal

import torch
from torch import Tensor

from riskvae._validation import boolean, check_parameters, choice, real
from riskvae.likelihoods._scaled import ScaledLikelihood
from riskvae.losses import LOG_2PI, gaussian_nll

__all__ = ["Gaussian"]

_RULES = {
    "noise_scale": choice("learned") | real(0.0, closed="neither"),
    "sigmoid": boolean,
    "per_feature": boolean,
}


class Gaussian(ScaledLikelihood):
    r"""Rows with normal noise: a single standard deviation s, fixed or learned, or one for each feature.

    .. math:: -\log p(x|z) = \frac{\lVert x - m(z) \rVert^2}{2 s^2} + d \log s + \frac d2 \log 2\pi

    A learned s follows the optimal one for a batch,

    .. math:: \frac{s_*^2}{s^2} = \frac{\overline{\lVert x - m \rVert^2}}{d s^2}
              = 2 \left(\frac{\overline{\mathrm{nll}}}{d} - \log s - \tfrac12 \log 2\pi \right)

    ``likelihood="gaussian"`` is short for this class, with the estimator's ``noise_scale`` and ``output_activation``.

    Parameters
    ----------
    noise_scale : float or "learned", default="learned"
        Standard deviation s, in units of X.
    sigmoid : bool, default=False
        Whether to squash means to (0, 1).
    per_feature : bool, default=False
        Whether to learn a standard deviation for each feature, along with the networks and by the minimized loss (an
        averse loss makes them larger). Features that are noisier than others then count for less.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from riskvae import BetaVAE
    >>> from riskvae.likelihoods import Gaussian
    >>> vae = BetaVAE(likelihood=Gaussian(noise_scale=0.5), random_state=0).fit(load_digits().data / 16)
    >>> vae.noise_scale_
    0.5
    """

    def __init__(
        self, noise_scale: float | Literal["learned"] = "learned", sigmoid: bool = False, per_feature: bool = False
    ) -> None:
        super().__init__()
        self.noise_scale = noise_scale
        self.sigmoid = sigmoid
        self.per_feature = per_feature

    def setup(self, n_features: int) -> None:
        check_parameters("Gaussian", self.get_params(), _RULES)
        if self.per_feature and self.noise_scale != "learned":
            raise ValueError(
                f"Gaussian: per_feature=True learns the noise of each feature, and noise_scale={self.noise_scale!r} "
                "fixes one for all. Leave one of them out."
            )
        self.by_gradient = self.by_gradient or self.per_feature
        self.setup_scale(None if self.noise_scale == "learned" else float(self.noise_scale))

    @property
    def affine(self) -> bool:  # type: ignore[override]
        return not self.sigmoid

    @property
    def beside_normal(self) -> bool:  # type: ignore[override]
        return not self.sigmoid

    def mean(self, raw: Tensor) -> Tensor:
        return raw.sigmoid() if self.sigmoid else raw

    def nll(self, x: Tensor, raw: Tensor) -> Tensor:
        return self.each(x, raw).sum(-1) if self.by_gradient else gaussian_nll(x, self.mean(raw), self.log_scale)

    def each(self, x: Tensor, raw: Tensor) -> Tensor:
        square = (x - self.mean(raw)).square()
        log_scale = self.log_noise
        return 0.5 * square * (-2.0 * log_scale).exp() + log_scale + 0.5 * LOG_2PI

    def draw(self, raw: Tensor, generator: torch.Generator) -> Tensor:
        return self.mean(raw) + self.log_noise.exp() * torch.randn(raw.shape, generator=generator, dtype=raw.dtype)

    def log_gap(self, nll: Tensor) -> Tensor:
        ratio = 2.0 * (nll / self.n_features - self.log_scale) - LOG_2PI
        return 0.5 * ratio.clamp(min=1e-4).log()
