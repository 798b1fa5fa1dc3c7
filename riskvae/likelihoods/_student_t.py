"""Student's t around locations: rows with outliers, which do not bend the rest."""

import math
from typing import Literal

import torch
from torch import Tensor

from riskvae._validation import check_parameters, choice, real
from riskvae.likelihoods._scaled import ScaledLikelihood

__all__ = ["StudentT"]

_RULES = {"nu": real(0.0, closed="neither"), "noise_scale": choice("learned") | real(0.0, closed="neither")}


class StudentT(ScaledLikelihood):
    r"""Rows with Student's t noise, with nu degrees of freedom and a scale s for each feature.

    .. math:: -\log p(x|z) = \sum_j \frac{\nu + 1}{2} \log\Bigl(1 + \frac{(x_j - m_j(z))^2}{\nu s_j^2}\Bigr)
              + \log s_j + \tfrac12 \log \nu \pi + \log\Gamma\bigl(\tfrac\nu2\bigr)
              - \log\Gamma\bigl(\tfrac{\nu + 1}2\bigr)

    Outliers hardly affect the model: the cost of a distant value grows with the logarithm of its distance, while for
    normal noise it grows with the square. As nu grows, the noise becomes normal.

    Parameters
    ----------
    nu : float, default=4.0
        Degrees of freedom.
    noise_scale : float or "learned", default="learned"
        Scale s in units of X, one number for all features. "learned" learns one for each feature along with the
        networks. The standard deviation is :math:`s \sqrt{\nu / (\nu - 2)}`, for nu above 2.

    Examples
    --------
    >>> from riskvae import BetaVAE, datasets
    >>> from riskvae.likelihoods import StudentT
    >>> X = datasets.make_heteroscedastic(200, random_state=0).data
    >>> X[::20] += 100  # outliers
    >>> vae = BetaVAE(n_components=2, likelihood=StudentT(), random_state=0).fit(X)
    >>> bool((abs(vae.reconstruct(X[1:20])) < 10).all())
    True
    """

    affine: bool = True

    def __init__(self, nu: float = 4.0, noise_scale: float | Literal["learned"] = "learned") -> None:
        super().__init__()
        self.nu = nu
        self.noise_scale = noise_scale

    def setup(self, n_features: int) -> None:
        check_parameters("StudentT", self.get_params(), _RULES)
        self.by_gradient = True  # unless it is fixed
        self.setup_scale(None if self.noise_scale == "learned" else float(self.noise_scale))

    def start(self, spread: Tensor) -> float:
        return super().start(spread) * math.sqrt(max(self.nu - 2.0, 0.25) / max(self.nu, 2.25))

    def mean(self, raw: Tensor) -> Tensor:
        return raw

    def each(self, x: Tensor, raw: Tensor) -> Tensor:
        nu, log_scale = float(self.nu), self.log_noise
        constant = 0.5 * math.log(nu * math.pi) + math.lgamma(0.5 * nu) - math.lgamma(0.5 * (nu + 1))
        far = (x - raw) * (-log_scale).exp()
        return 0.5 * (nu + 1) * (far.square() / nu).log1p() + log_scale + constant

    def draw(self, raw: Tensor, generator: torch.Generator) -> Tensor:
        normal = torch.randn(raw.shape, generator=generator, dtype=raw.dtype)
        # From the global generator, which is seeded for the time of the call.
        chi_square = torch.distributions.Chi2(torch.tensor(float(self.nu), dtype=raw.dtype)).sample(raw.shape)
        return raw + self.log_noise.exp() * normal * (self.nu / chi_square).sqrt()
