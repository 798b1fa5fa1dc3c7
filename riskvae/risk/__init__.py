r"""Risk measures of a loss vector, for any torch model.

Orientation: *losses*, so larger is worse. ``eps`` is the mass of the tail, in (0, 1]: ``eps=0.1`` looks at
the worst tenth, ``eps=1`` at everything (the mean). When ``eps * N`` is not a whole number, the boundary
loss counts by its fraction; losses tied at the boundary share its weight equally. When ``eps * N <= 1``
the result is the maximum. ``tail="best"`` is the mirror image, ``-risk(-losses)``.

Every measure takes a floating tensor on any device, reduces ``dim``, computes half precision in float32,
and has an exact gradient: weights that are not negative and sum to one. They work under :mod:`torch.func`
transforms, ``torch.compile`` and second derivatives. A NaN gives NaN; an infinite loss in the tail gives
infinity or NaN.

In the house: this room knows torch alone. Import the names below; a measure of your own is a subclass of
:class:`Measure`.

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
