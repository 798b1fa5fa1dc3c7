"""Thresholds that live longer than a batch: a moving average, or one that learns by steps of its own."""

import torch
from torch import Tensor, nn

from riskvae.risk._measures import TailMeasure
from riskvae.risk._order import at_least_float32, check_losses, check_number


class Threshold(nn.Module):
    """Base class of thresholds: called with a batch of losses, updated by it in training, fixed in evaluation.

    The state is stored in buffers, so ``state_dict``, ``.to(device)`` and pickling include it. Until the first batch in
    training, the threshold is that of the batch itself.
    """

    def __init__(self, measure: TailMeasure, tail: str = "worst") -> None:
        super().__init__()
        if not isinstance(measure, TailMeasure):
            raise TypeError(
                f"measure must have a threshold, as risk.CVaR(eps) and risk.SmoothedCVaR(eps) have; got {measure!r}."
            )
        if tail not in ("worst", "best"):
            raise ValueError(f"tail must be 'worst' or 'best'; got {tail!r}.")
        self.measure = measure
        self.tail = tail

    @torch.no_grad()
    def forward(self, losses: Tensor, measure: TailMeasure | None = None) -> Tensor:
        """Threshold for these losses, a float32 scalar detached from the graph.

        Parameters
        ----------
        losses : Tensor
            Floating-point tensor; all dimensions form one sample.
        measure : CVaR or SmoothedCVaR, default=None
            Measure to use instead of the module's own, for a tail mass that changes.
        """
        check_losses(losses, -1)
        measure = self.measure if measure is None else measure
        sample = at_least_float32(losses.detach()).flatten()
        own = measure.threshold(sample, tail=self.tail).float()
        before = [buffer.clone() for buffer in self.buffers()]
        found = self._follow(measure, sample, own)
        # A batch that is not finite must not spoil the state: its step can be left out, and training go on.
        good = sample.isfinite().all()
        for buffer, old in zip(self.buffers(), before, strict=True):
            buffer.copy_(torch.where(good, buffer, old))
        return found

    def _follow(self, measure: TailMeasure, losses: Tensor, own: Tensor) -> Tensor:
        raise NotImplementedError

    def extra_repr(self) -> str:
        return f"{self.measure!r}, tail={self.tail!r}"


class EMAThreshold(Threshold):
    r"""Moving average of the thresholds of all batches so far, including the current one, corrected for lag.

    .. math:: m_n = \frac{\sum_{k=1}^n d^{\,n-k} v_k}{\sum_{k=1}^n d^{\,n-k}}, \qquad t_n = 2 m_n - m'_n

    with the thresholds v of the batches, and m' the same average of the averages m. The denominator corrects the bias
    towards the start. While losses fall, m lags d/(1 - d) batches behind, so that no loss exceeds it and nothing is
    learned. As m' lags twice as far, t has no lag behind a steady decrease (Brown's double exponential smoothing; the
    newest batch has the weight 1 - d^2 in it).

    If eps * N is below 1, a batch's own threshold is its maximum, which no loss of that batch exceeds: use larger
    batches.

    Parameters
    ----------
    measure : CVaR or SmoothedCVaR
        Measure whose threshold is averaged.
    decay : float, default=0.9
        d, weight of the old average, in [0, 1); 0 uses each batch's own threshold.
    tail : {"worst", "best"}, default="worst"
        Which tail.
    trend : bool, default=True
        Whether to correct the lag; False gives m, the plain average.

    Examples
    --------
    >>> import torch
    >>> from riskvae import risk
    >>> threshold = risk.EMAThreshold(risk.CVaR(0.25), decay=0.5, trend=False)
    >>> for losses in torch.tensor([[4.0, 1.0, 2.0, 3.0], [9.0, 2.0, 6.0, 0.0]]):
    ...     t = threshold(losses)
    ...     print(t, risk.cvar(losses, 0.25, threshold=t))  # 5 = (1 * 3 + 2 * 6) / (1 + 2)
    tensor(3.) tensor(4.)
    tensor(5.) tensor(10.)
    """

    weight: Tensor
    first: Tensor
    second: Tensor

    def __init__(self, measure: TailMeasure, decay: float = 0.9, tail: str = "worst", *, trend: bool = True) -> None:
        super().__init__(measure, tail)
        check_number("decay", decay, 0.0, 1.0)
        if decay == 1:
            raise ValueError("decay must be below 1; got 1, at which new batches would have no weight.")
        self.decay = decay
        self.trend = trend
        self.register_buffer("weight", torch.tensor(0.0, dtype=torch.float32))
        self.register_buffer("first", torch.tensor(0.0, dtype=torch.float32))  # averages times the weight
        self.register_buffer("second", torch.tensor(0.0, dtype=torch.float32))

    def _follow(self, measure: TailMeasure, losses: Tensor, own: Tensor) -> Tensor:
        if self.training:
            new = 1.0 - self.decay
            self.weight.mul_(self.decay).add_(new)
            self.first.mul_(self.decay).add_(own, alpha=new)
            self.second.mul_(self.decay).add_(self.first / self.weight, alpha=new)
        average = self.first / self.weight
        if self.trend:
            average = 2.0 * average - self.second / self.weight
        return torch.where(self.weight > 0, average, own)


class LearnedThreshold(Threshold):
    r"""Threshold learned by gradient steps on the risk's own objective, scaled by its distance from the losses.

    .. math:: t \leftarrow t - s \, \mathrm{clip}\Bigl(a \bigl(1 - \sum_i q_i(t)\bigr), -1, 1\Bigr), \qquad
              s^2 = \frac1N \sum_i (l_i - t)^2

    after each batch, with the weights q of the losses beyond t (1/(eps N) each for the conditional value at risk). The
    inner bracket is the gradient in t of the objective :math:`t + \frac1N \sum_i (l_i - t)_+ / \epsilon`. The step a is
    ``step``; it is reduced to ``step * min(1, eps * N / 10)`` if the tail holds fewer than ten losses, because their
    number is then noisy. So t follows the quantile of all batches, not the average of the batches' quantiles, which is
    biased for small batches. As s includes the distance, t keeps up with falling losses. It starts at the first batch's
    threshold, and shifts and scales with the losses.

    Parameters
    ----------
    measure : CVaR or SmoothedCVaR
        Measure whose threshold is learned.
    step : float, default=0.3
        Largest step a, above 0.
    tail : {"worst", "best"}, default="worst"
        Which tail.

    Examples
    --------
    >>> import torch
    >>> from riskvae import risk
    >>> threshold = risk.LearnedThreshold(risk.CVaR(0.25))
    >>> losses = torch.tensor([0.0, 1.0, 2.0, 3.0])
    >>> for _ in range(2):
    ...     print(threshold(losses), threshold.value)  # used, and moved: one of four lies beyond 2, as should be
    tensor(2.) tensor(2.)
    tensor(2.) tensor(2.)
    """

    value: Tensor
    started: Tensor

    def __init__(self, measure: TailMeasure, step: float = 0.3, tail: str = "worst") -> None:
        super().__init__(measure, tail)
        check_number("step", step, 0.0, open_low=True)
        self.step = step
        self.register_buffer("value", torch.tensor(0.0, dtype=torch.float32))
        self.register_buffer("started", torch.tensor(False))

    def _follow(self, measure: TailMeasure, losses: Tensor, own: Tensor) -> Tensor:
        current = torch.where(self.started, self.value, own)
        if self.training:
            t = current.to(losses.dtype)
            slope = 1.0 - measure.weight_beyond(losses, t, tail=self.tail)
            step = self.step * min(1.0, (measure.eps or 1.0) * len(losses) / 10)
            move = (step * slope).clamp(-1.0, 1.0) * (losses - t).square().mean().sqrt()
            self.value.copy_(current - move if self.tail == "worst" else current + move)
            self.started.fill_(True)
        return current
