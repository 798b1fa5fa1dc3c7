"""How unusual the values of a row are, each by itself: tails of the features' own distributions."""

import torch
from torch import Tensor, nn

__all__ = ["FEW_VALUES", "Marginals"]

# Numbers that are kept of all features together.
_KEPT = 2**20
# Features of no more values are taken as categories.
FEW_VALUES = 10


class Marginals(nn.Module):
    r"""Features one by one: sum of the log-shares of values that lie as far out as those of a row.

    .. math:: t(x) = \sum_j \log \min\Bigl(1,\; 2 \min\Bigl(\frac{1 + \#\{i : x_{ij} \le x_j\}}{n + 2},\;
              \frac{1 + \#\{i : x_{ij} \ge x_j\}}{n + 2}\Bigr)\Bigr)

    Ranks do not hang on units, no row counts for more than one, and none is memorized. Beyond the outermost value the
    share shrinks as one over the distance in spreads, so that a more extreme value has a smaller one.

    Parameters
    ----------
    x : Tensor of shape (n, n_features)
        Rows, in random order; at most some million of their values are kept, sorted by feature. Missing values
        come last, as infinity, and count for nothing. That of a row asked for adds -1, the mean of what others add.

    References
    ----------
    Li, Zhao, Hu, Botta, Ionescu and Chen, "ECOD: unsupervised outlier detection using empirical cumulative
    distribution functions" (2022), for sums of log tail probabilities.
    """

    values: Tensor
    spread: Tensor
    _count: Tensor | None = None

    N_ROWS = 2_000  # so that a tail of a thousandth is seen

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        kept = x[: min(self.N_ROWS, max(2, _KEPT // x.shape[1]))]
        ordered = kept.T.sort(-1).values.contiguous()
        self.register_buffer("values", ordered.masked_fill_(ordered.isnan(), torch.inf))
        self.register_buffer("spread", self._spread())

    def _spread(self) -> Tensor:
        n = self.count
        middle = self._at(torch.minimum(n - 1, (3 * n) // 4)) - self._at(n // 4)
        whole = self._at(n - 1) - self.values[:, 0]
        spread = torch.where(middle > 0, middle, whole).nan_to_num(0.0)  # of nothing, it is none
        return torch.where(spread > 0, spread, 1e-3 * spread.square().mean().sqrt() + 1e-12)

    @property
    def count(self) -> Tensor:
        """Known values of each feature; a copy for serving counts them once."""
        if self._count is not None and self._count.device == self.values.device:
            return self._count
        count = self.values.isfinite().sum(1)
        if not self.training:
            self._count = count
        return count

    def _at(self, place: Tensor) -> Tensor:
        """The value of each feature at its place."""
        return self.values.gather(1, place.clamp(min=0)[:, None])[:, 0]

    @property
    def distinct(self) -> Tensor:
        """Number of values of each feature."""
        steps = self.values.diff(dim=1)
        return ((steps != 0) & steps.isfinite()).sum(1) + 1

    @property
    def discrete(self) -> Tensor:
        """Features whose values repeat: no more than half as many values as rows."""
        return self.distinct <= self.count / 2

    @property
    def gap(self) -> Tensor:
        """Smallest distance between the values of each feature that has few of them, such as a category; else 0."""
        steps = self.values.diff(dim=1)
        if not steps.shape[1]:
            return torch.zeros_like(self.spread)
        few = (self.distinct <= FEW_VALUES) & self.discrete
        least = torch.where(steps > 0, steps, torch.inf).amin(1)
        return torch.where(few & torch.isfinite(least), least, torch.zeros_like(self.spread))

    def forward(self, x: Tensor, *, seen: bool = False) -> Tensor:
        """Sums (n,) for rows; ``seen`` rows are among those kept, and do not count for themselves."""
        return self.each(x, seen=seen).sum(0).to(x.dtype)

    def each(self, x: Tensor, *, seen: bool = False) -> Tensor:
        """What each feature adds to the sums, (n_features, n)."""
        count, own = self.count[:, None], int(seen)
        columns = x.float().to(self.values).T.contiguous()  # rounded as the values are: ties must stay ties
        below = _rank(self.values, columns, right=True) - own
        above = count - _rank(self.values, columns) - own
        share = (2.0 * (torch.minimum(below, above) + 1) / (count - own + 2)).to(columns).clamp(max=1.0)
        last = self._at(self.count - 1)[:, None]
        out = torch.maximum(self.values[:, :1] - columns, columns - last).clamp(min=0.0)
        out = torch.where(count > 0, out, torch.zeros_like(out))  # of a feature without values nothing lies outside
        told = share.log() - (out / self.spread[:, None]).log1p()
        return torch.where(columns.isnan(), -1.0, told)

    def join(self, earlier: "Marginals", kept: tuple[Tensor, Tensor]) -> None:
        """Take some rows' worth of values of an earlier part, and of this one, by their places (old, new)."""
        old, new = (places.to(self.values.device) for places in kept)
        self.values = torch.cat((earlier.values[:, old], self.values[:, new]), 1).sort(-1).values.contiguous()
        self.spread = self._spread()


def _rank(values: Tensor, x: Tensor, *, right: bool = False) -> Tensor:
    """Number of ``values`` (d, m), ascending, below each of ``x`` (d, n); with ``right``, or equal to it."""
    if not torch.compiler.is_compiling():
        return torch.searchsorted(values, x, right=right)
    # What torch exports a model to has no such function: halve the range, step by step.
    m, rank = values.shape[1], torch.zeros_like(x, dtype=torch.int64)
    for bit in reversed(range(m.bit_length())):
        further = rank + 2**bit
        value = values.gather(1, (further - 1).clamp(max=m - 1))
        rank = torch.where((further <= m) & ((value <= x) if right else (value < x)), further, rank)
    return rank
