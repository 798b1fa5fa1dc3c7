"""The score of a row: the least favorable of some verdicts, of its values together and of each by itself."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from riskvae.detection._density import RowDensity
from riskvae.detection._marginals import Marginals
from riskvae.detection._noise import Errors, Noise

__all__ = ["Judged", "RowScore"]


class Judged(NamedTuple):
    """Rows that a model has not seen, and the model.

    Parameters
    ----------
    vaes : list of VAE
        Trained on the rows ``trained``; the model first, then what it was earlier in its training.
    trained, held_out : Tensor of shape (n, n_features)
        Rows, in random order.
    """

    vaes: list[Any]
    trained: Tensor
    held_out: Tensor


class RowScore(nn.Module):
    r"""Evidence bound of a row under the :class:`RowDensity`, or what others say of it if that is less.

    .. math:: s(x) = \min_v \Bigl(\bar b + \frac{\Delta b}{\Delta v} (v(x) - \bar v)\Bigr)

    over verdicts v: the bound b of the trained model, that of the model early in its training, and the log-shares of
    :class:`Marginals`; with their medians and interquartile ranges on rows that the models have not seen. Networks that
    train for long come to know the anomalies among their rows; young ones hardly do, and the features' own
    distributions cannot. So a row is normal only if all find it so.

    Parameters
    ----------
    densities : sequence of RowDensity
        Of all training rows: of the model first.
    marginals : Marginals
        Of the same rows.
    verdicts : Tensor of shape (n_verdicts, n)
        What each of these says of rows as if they were new, the marginals last.
    n_rows : int
        Training rows.
    """

    N_ROWS = 10_000  # that are looked at, where they are not too wide

    scores: Tensor
    middle: Tensor
    slope: Tensor

    def __init__(self, densities: Sequence[RowDensity], marginals: Marginals, verdicts: Tensor, n_rows: int) -> None:
        super().__init__()
        self.densities = nn.ModuleList(densities)
        self.marginals = marginals
        self.n_rows = n_rows
        self.share = 1.0
        self.young: dict[str, Tensor] | None = None  # weights of the young model, where there is one
        quartiles = torch.tensor([0.25, 0.5, 0.75], dtype=verdicts.dtype, device=verdicts.device)
        low, middle, high = torch.quantile(verdicts, quartiles, dim=1)
        spread = high - low
        # Where half of the rows are alike to a verdict, there is nothing to compare with.
        slope = torch.where(spread > 0, spread[0] / spread.clamp(min=1e-30), torch.zeros_like(spread))
        self.register_buffer("middle", middle)
        self.register_buffer("slope", slope)
        self.register_buffer("scores", verdicts.new_zeros(0))

    @property
    def noise(self) -> Noise:
        """What is known of the model's errors."""
        return self.densities[0].noise  # type: ignore[return-value]

    @classmethod
    @torch.no_grad()
    def judged(
        cls, parts: Sequence[Judged], vaes: Sequence[Any], rows: Tensor, draws: Tensor, seed: int, n_rows: int
    ) -> tuple[Self, Tensor]:
        """Score of a model that was trained on ``rows``, by models that have not seen some rows; scores of the latter.

        Errors are those of all held-out rows, and none is measured by a scale that it took part in.
        """
        marginals, densities, verdicts = Marginals(vaes[0].likelihood.ordered(rows)), [], []
        n_ages = min(len(vaes), *(len(part.vaes) for part in parts))
        for age, vae in enumerate(vaes[:n_ages]):
            errors = Errors.join([Errors.of(part.vaes[age], part.held_out, seed) for part in parts])
            noise = Noise(errors, vae.likelihood.unit, marginals, n_rows, vae.likelihood.categories)
            scales = noise.without(errors).split([len(part.held_out) for part in parts])
            bounds = [
                RowDensity(part.vaes[age], part.trained, draws, noise).bounds(part.vaes[age], part.held_out, scale=s)
                for part, s in zip(parts, scales, strict=True)
            ]
            noise.forget()
            verdicts.append(torch.cat(bounds))
            densities.append(RowDensity(vae, rows, draws, noise))
        verdicts.append(torch.cat([_of_features(part) for part in parts]))
        found = torch.stack(verdicts)
        score = cls(densities, marginals, found, n_rows)
        return score, score.least(found)

    @classmethod
    @torch.no_grad()
    def of_seen(
        cls, vae: Any, rows: Tensor, draws: Tensor, seed: int, n_rows: int, earlier: Self | None = None
    ) -> tuple[Self, Tensor]:
        """The same by the training rows themselves, each left out of what it is compared with; their scores.

        Networks know these rows, so that errors are too small. With ``earlier``, the rows are a further part of the
        data: one as large as the largest before takes its place, since the networks have changed meanwhile; a smaller
        one, of m rows to M, gets the share m / M of all that is remembered. One row must not decide.
        """
        ordered = vae.likelihood.ordered(rows)
        marginals = Marginals(ordered)
        noise = Noise(Errors.of(vae, rows, seed), vae.likelihood.unit, marginals, n_rows, vae.likelihood.categories)
        noise.forget()
        density = RowDensity(vae, rows, draws, noise)
        share = 1.0 if earlier is None else min(1.0, n_rows / earlier.n_rows)
        if earlier is not None and share < 1:
            noise.blend(earlier.noise, share)
            before: Any = earlier.densities[0]
            density.join(before, _kept(share, len(before.prior_mean), len(density.prior_mean), seed))
            n_old, n_new = (part.values.shape[1] for part in (earlier.marginals, marginals))
            marginals.join(earlier.marginals, _kept(share, n_old, n_new, seed))
        n = min(RowDensity.N_MIXED, marginals.values.shape[1], len(rows))
        seen = share == 1 and n > 1
        found = torch.stack((density.bounds(vae, rows[:n], seen=seen), marginals(ordered[:n], seen=seen)))
        score = cls([density], marginals, found, n_rows)
        if earlier is not None and share < 1:
            score.share, score.n_rows = share, earlier.n_rows
            ends = [0, len(earlier.middle) - 1]  # what the young model said is gone with it
            score.middle, score.slope = earlier.middle[ends], earlier.slope[ends]
        return score, score.least(found)

    def forward(self, vaes: Sequence[Any], x: Tensor) -> Tensor:
        """Scores (n,) of rows, by the model and, if there is one, the young one."""
        return self.least(self.verdicts(vaes, x))

    def verdicts(self, vaes: Sequence[Any], x: Tensor) -> Tensor:
        """What each says of rows, (n_verdicts, n)."""
        bounds = [density.bound(vae, x) for density, vae in zip(self.densities, vaes, strict=True)]  # type: ignore[operator]
        return torch.stack((*bounds, self.marginals(vaes[0].likelihood.ordered(x))))

    def least(self, verdicts: Tensor) -> Tensor:
        """The least favorable one for each row, in nats of the model's bound."""
        return self.aligned(verdicts).amin(0)

    def aligned(self, verdicts: Tensor) -> Tensor:
        """All of them in nats of the model's bound, (n_verdicts, n); infinite where one cannot tell rows apart."""
        middle, slope = (part.to(verdicts)[:, None] for part in (self.middle, self.slope))
        aligned = torch.where(slope > 0, middle[0] + slope * (verdicts - middle), torch.inf)
        return torch.cat((verdicts[:1], aligned[1:]))

    def values_per_row(self, vae: Any) -> int:
        """Numbers that are held for each row."""
        return max(self.densities[0].values_per_row(vae), 4 * self.marginals.values.shape[0])  # type: ignore[operator]

    def remember(self, scores: Tensor, earlier: "RowScore | None", seed: int) -> Tensor:
        """Scores that tell where a threshold lies, with those kept of an earlier part; some of them are kept."""
        if earlier is not None and self.share < 1 and len(earlier.scores):
            old, new = _kept(self.share, len(earlier.scores), len(scores), seed)
            scores = torch.cat((earlier.scores[old].to(scores), scores[new]))
        order = torch.randperm(len(scores), generator=torch.Generator().manual_seed(seed))
        self.scores = scores[order[: RowDensity.N_MIXED]].to(self.middle)
        return scores


def _of_features(part: Judged) -> Tensor:
    """What the marginals of the rows that were trained on say of the others."""
    ordered = part.vaes[0].likelihood.ordered
    return Marginals(ordered(part.trained))(ordered(part.held_out))


def _kept(share: float, n_old: int, n_new: int, seed: int) -> tuple[Tensor, Tensor]:
    """Places of what stays of an earlier part, and of what comes in for the rest of as many."""
    n_in = min(max(round(share * n_old), 1), n_new, n_old)
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(n_old, generator=generator)[n_in:], torch.randperm(n_new, generator=generator)[:n_in]
