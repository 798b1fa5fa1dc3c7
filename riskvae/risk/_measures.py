"""Risk measures as values: functions of a loss tensor with their parameters, to compare, clone and search over."""

import copy
from collections.abc import Callable
from typing import Self

from torch import Tensor

from riskvae._value import Value
from riskvae.risk._deviation import entropic_risk, mean_semideviation
from riskvae.risk._order import check_eps
from riskvae.risk._smoothed import smoothed_cvar, smoothed_mass, smoothed_threshold
from riskvae.risk._spectral import Superquantile, spectral_risk
from riskvae.risk._tail import as_threshold, cvar, value_at_risk


class Measure(Value):
    """Base class of risk measures: ``measure(losses, tail="worst", dim=-1)`` reduces ``dim`` to the risk.

    As in scikit-learn, constructors only store their parameters; values are checked when the measure is called.
    Measures are equal if their parameters are, :func:`sklearn.base.clone` copies them, and a grid search reaches their
    parameters, as in ``measure__smoothing``. For a measure of your own, list its parameters in ``__init__`` and
    override ``__call__``.
    """

    def __call__(self, losses: Tensor, *, tail: str = "worst", dim: int = -1) -> Tensor:
        raise NotImplementedError

    def with_eps(self, eps: float) -> Self:
        """Same measure, with this tail mass if it has a parameter ``eps`` that is None."""
        return self


class TailMeasure(Measure):
    """Base class of tail measures, which have a mass ``eps`` and a threshold at which the tail begins.

    They are minima over the threshold t: ``measure(losses, threshold=t)`` is the expression that is minimized, and
    ``measure.threshold(losses)`` is the minimizing t.
    """

    eps: float | None

    def __call__(
        self, losses: Tensor, *, tail: str = "worst", dim: int = -1, threshold: Tensor | float | None = None
    ) -> Tensor:
        raise NotImplementedError

    def threshold(self, losses: Tensor, *, tail: str = "worst", dim: int = -1) -> Tensor:
        """Threshold that attains the minimum, detached from the graph."""
        raise NotImplementedError

    def weight_beyond(self, losses: Tensor, threshold: Tensor, *, tail: str = "worst", dim: int = -1) -> Tensor:
        """Sum of the weights at a threshold: above 1 if it is too far inside, below 1 if too far outside."""
        raise NotImplementedError

    def with_eps(self, eps: float) -> Self:
        if self.eps is not None:
            return self
        return copy.copy(self).set_params(eps=eps)

    def _checked_eps(self) -> float:
        if self.eps is None:
            name = type(self).__name__
            raise ValueError(
                f"{name} has no eps, which only RiskAwareVAE fills in; give it one, as in {name}(eps=0.1), to call it."
            )
        return check_eps(self.eps)


class CVaR(TailMeasure):
    """Conditional value at risk as an object; see :func:`cvar`.

    Parameters
    ----------
    eps : float, default=None
        Mass of the tail, in (0, 1]; None uses that of the estimator that holds the measure.

    Examples
    --------
    >>> import torch
    >>> CVaR(0.5)(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    tensor(3.5000)
    >>> CVaR(0.5)
    CVaR(eps=0.5)
    """

    def __init__(self, eps: float | None = None) -> None:
        self.eps = eps

    def __call__(
        self, losses: Tensor, *, tail: str = "worst", dim: int = -1, threshold: Tensor | float | None = None
    ) -> Tensor:
        return cvar(losses, self._checked_eps(), tail=tail, dim=dim, threshold=threshold)

    def threshold(self, losses: Tensor, *, tail: str = "worst", dim: int = -1) -> Tensor:
        return value_at_risk(losses.detach(), self._checked_eps(), tail=tail, dim=dim)

    def weight_beyond(self, losses: Tensor, threshold: Tensor, *, tail: str = "worst", dim: int = -1) -> Tensor:
        t = as_threshold(threshold, losses, dim)
        beyond = losses > t if tail == "worst" else losses < t
        return beyond.to(losses.dtype).mean(dim) / self._checked_eps()


class SmoothedCVaR(TailMeasure):
    """Smoothed conditional value at risk as an object; see :func:`smoothed_cvar`.

    Parameters
    ----------
    eps : float, default=None
        Mass of the tail, in (0, 1]; None uses that of the estimator that holds the measure.
    smoothing : float, default=1.0
        Smoothing in units of the losses (nats in an estimator), at least 0.
    penalty : {"l2", "kl"}, default="l2"
        Distance to equal weights that is penalized.

    Examples
    --------
    >>> import torch
    >>> SmoothedCVaR(0.5, smoothing=2.0)(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    tensor(2.8125)
    """

    def __init__(self, eps: float | None = None, *, smoothing: float = 1.0, penalty: str = "l2") -> None:
        self.eps = eps
        self.smoothing = smoothing
        self.penalty = penalty

    def __call__(
        self, losses: Tensor, *, tail: str = "worst", dim: int = -1, threshold: Tensor | float | None = None
    ) -> Tensor:
        return smoothed_cvar(
            losses,
            self._checked_eps(),
            smoothing=self.smoothing,
            penalty=self.penalty,
            tail=tail,
            dim=dim,
            threshold=threshold,
        )

    def threshold(self, losses: Tensor, *, tail: str = "worst", dim: int = -1) -> Tensor:
        eps = self._checked_eps()
        return smoothed_threshold(losses, eps, smoothing=self.smoothing, penalty=self.penalty, tail=tail, dim=dim)

    def weight_beyond(self, losses: Tensor, threshold: Tensor, *, tail: str = "worst", dim: int = -1) -> Tensor:
        u = losses - as_threshold(threshold, losses, dim)
        u = u if tail == "worst" else -u
        return smoothed_mass(u, self._checked_eps(), smoothing=self.smoothing, penalty=self.penalty, dim=dim)


class Entropic(Measure):
    """Entropic risk as an object; see :func:`entropic_risk`.

    Parameters
    ----------
    theta : float, default=1.0
        Tilt, in inverse units of the losses.

    Examples
    --------
    >>> import torch
    >>> Entropic(1.0)(torch.tensor([0.0, 1.0]))
    tensor(0.6201)
    """

    def __init__(self, theta: float = 1.0) -> None:
        self.theta = theta

    def __call__(self, losses: Tensor, *, tail: str = "worst", dim: int = -1) -> Tensor:
        return entropic_risk(losses, self.theta, tail=tail, dim=dim)


class Spectral(Measure):
    """Spectral risk as an object; see :func:`spectral_risk`.

    Parameters
    ----------
    spectrum : callable, default=None
        Cumulative weight, such as :class:`Extremile`; None uses ``Superquantile()``.

    Examples
    --------
    >>> import torch
    >>> from riskvae.risk import Extremile
    >>> Spectral(Extremile(order=3))
    Spectral(spectrum=Extremile(order=3))
    >>> Spectral(Extremile(order=3))(torch.tensor([0.0, 1.0]))
    tensor(0.8750)
    """

    def __init__(self, spectrum: Callable[[Tensor], Tensor] | None = None) -> None:
        self.spectrum = spectrum

    def __call__(self, losses: Tensor, *, tail: str = "worst", dim: int = -1) -> Tensor:
        return spectral_risk(losses, Superquantile() if self.spectrum is None else self.spectrum, tail=tail, dim=dim)


class MeanSemideviation(Measure):
    """Mean plus a multiple of the upper semideviation as an object; see :func:`mean_semideviation`.

    Parameters
    ----------
    weight : float, default=1.0
        Weight of the semideviation, in [0, 1].
    order : float, default=1.0
        Power of the deviation, at least 1.

    Examples
    --------
    >>> import torch
    >>> MeanSemideviation(0.5)(torch.tensor([0.0, 2.0, 4.0]))
    tensor(2.3333)
    """

    def __init__(self, weight: float = 1.0, *, order: float = 1.0) -> None:
        self.weight = weight
        self.order = order

    def __call__(self, losses: Tensor, *, tail: str = "worst", dim: int = -1) -> Tensor:
        return mean_semideviation(losses, self.weight, order=self.order, tail=tail, dim=dim)
