r"""Risk measures of a loss vector, for any torch model.

Measures take *losses*, so larger is worse. ``eps`` is the mass of the tail, in (0, 1]: ``eps=0.1`` uses the worst tenth
of the losses, ``eps=1`` all of them (the mean). If ``eps * N`` is not a whole number, the boundary loss counts by the
fraction that remains; losses tied at the boundary share its weight equally. If ``eps * N <= 1``, the result is the
maximum. ``tail="best"`` is the mirror image, ``-risk(-losses)``.

Every measure takes a floating-point tensor on any device and reduces ``dim``; half precision is computed in float32.
Its gradient is exact: nonnegative weights that sum to one. Measures work with :mod:`torch.func` transforms,
``torch.compile`` and second derivatives. A NaN gives NaN; an infinite loss in the tail gives infinity or NaN.

In the house: this package depends only on torch. To write a measure of your own, subclass :class:`Measure`.

>>> import torch
>>> from riskvae import risk
>>> losses = torch.tensor([0.1, 0.2, 0.4, 3.0], requires_grad=True)
>>> risk.cvar(losses, eps=0.5).backward()
>>> losses.grad
tensor([0.0000, 0.0000, 0.5000, 0.5000])
"""

from riskvae.risk._deviation import entropic_risk, mean_semideviation
from riskvae.risk._groups import group_means
from riskvae.risk._measures import CVaR, Entropic, MeanSemideviation, Measure, SmoothedCVaR, Spectral, TailMeasure
from riskvae.risk._smoothed import smoothed_cvar
from riskvae.risk._spectral import Exponential, Extremile, Superquantile, spectral_risk
from riskvae.risk._tail import cvar, nested_cvar, tail_weights, value_at_risk
from riskvae.risk._thresholds import EMAThreshold, LearnedThreshold, Threshold

__all__ = [
    "CVaR",
    "EMAThreshold",
    "Entropic",
    "Exponential",
    "Extremile",
    "LearnedThreshold",
    "MeanSemideviation",
    "Measure",
    "SmoothedCVaR",
    "Spectral",
    "Superquantile",
    "TailMeasure",
    "Threshold",
    "cvar",
    "entropic_risk",
    "group_means",
    "mean_semideviation",
    "nested_cvar",
    "smoothed_cvar",
    "spectral_risk",
    "tail_weights",
    "value_at_risk",
]
