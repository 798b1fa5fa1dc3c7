"""What a training came to: whether codes tell rows apart, and which features are worse off than with their mean."""

import warnings
from typing import Any, NamedTuple, Self

import torch
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from riskvae._validation import derive_seed, level_of_the_user
from riskvae.estimators._extremes import FAR, Ends, Extremes, ends_of, extremes_of, variance_of
from riskvae.training._rows import Rows
from riskvae.training._stream import Stream
from riskvae.training._vitals import ACTIVE

__all__ = ["Diagnosis", "warn_of_failure", "warn_of_other_units"]

N_ROWS = 2_000
CHUNK = 2**21  # values that are computed at once
# A code that explains less of the variance, or uses less than half of the coordinates, is suspected of having
# collapsed, and has where as many principal components explain twice as much.
EXPLAINED = 0.1
# A feature is reconstructed worse than by a constant where its errors are larger by so much ...
WORSE = 1.1
# ... and a model where that holds for more than this share of the features.
FEW = 0.1
# The rows that are reconstructed worst, at least one, are left out of the verdict: a broken value must not decide.
COUNTED = 0.99
# A feature is small beside others if its standard deviation is below this part of their median.
SMALL = 0.1
# Spreads that differ by more than this factor are in other units.
FOREIGN = 100.0
# Training was most likely too short after fewer gradient steps than this, ...
FEW_STEPS = 100
# ... or where the last fifth of the epochs brought more than this share of all that was gained.
STILL_FALLING = 0.1


class Diagnosis(NamedTuple):
    """How a model does on rows that it was trained on.

    Parameters
    ----------
    active, n_components : int
        Latent coordinates whose posterior means vary, and all of them.
    explained : float
        Share of the variance of the rows that reconstructions explain, over all features.
    varying : Tensor of bool
        Features whose middle half of values is not one value; pixels at the border of images are not among them.
    worse : Tensor of bool
        Those of them with larger errors than their mean has, and than their median.
    center, spread : Tensor
        Mean and standard deviation of each feature.
    each : Tensor
        Share of each feature's variance that reconstructions explain, extreme values aside.
    extremes : Extremes
        Values that are far away, also among rows that do not count.
    rows : Tensor
        Those that count, as the encoder sees them; the mean where a value is missing.
    """

    active: int
    n_components: int
    explained: float
    varying: Tensor
    worse: Tensor
    center: Tensor
    spread: Tensor
    each: Tensor
    extremes: Extremes
    rows: Tensor

    @classmethod
    @torch.no_grad()
    def of(cls, module: Any, x: Tensor, share: float = 1.0, ends: Ends | None = None) -> Self:
        """Diagnosis of rows, or of the share of them that is reconstructed best; ends are those of all rows."""
        means, errors, losses, seen = [], [], [], []
        for rows in x.split(max(1, CHUNK // max(1, module.widest))):
            means.append(module.encode(rows).mean)
            raw = module.decoder(means[-1])
            seen.append(module.likelihood.inputs(rows))
            errors.append(module.likelihood.expected_inputs(raw) - seen[-1])
            losses.append(module.nll(rows, raw))
        mean, error, x = torch.cat(means), torch.cat(errors), torch.cat(seen)
        extremes = extremes_of(x, ends if module.likelihood.shows_rows else None)
        near, missing = ~extremes.far, x.isnan()
        if missing.any():  # they add nothing to errors, nor to spreads
            x, error = torch.where(missing, x.nanmean(0).nan_to_num(), x), error.masked_fill(missing, 0.0)
        if share < 1:
            best = torch.cat(losses).argsort()[: max(2, int(share * len(x)))]
            x, mean, error, near = x[best], mean[best], error[best], near[best]
        spread, ordered = x.std(0, correction=0), x.sort(0).values
        varying = ordered[len(x) // 4] < ordered[-1 - len(x) // 4]
        worse = (error.square().mean(0) > WORSE * spread.square()) & (
            error.abs().mean(0) > WORSE * (x - ordered[len(x) // 2]).abs().mean(0)
        )
        explained = 1 - float(error.square().mean(0).sum() / spread.square().sum())
        active = int((mean.var(0, correction=0) > ACTIVE).sum())
        variance, unexplained = variance_of(x, near), torch.where(near, error.square(), 0.0).sum(0)
        each = 1 - unexplained / (near.sum(0).clamp(min=1) * torch.where(variance > 0, variance, 1.0))
        return cls(active, mean.shape[1], explained, varying, worse & varying, x.mean(0), spread, each, extremes, x)


def warn_of_failure(estimator: Any, rows: Rows | Stream, share: float) -> None:
    """Warn where a model that was trained on rows hardly tells them apart, or ignores features; with the remedy."""
    n = min(N_ROWS, max(100, CHUNK // estimator.n_features_in_))
    x = rows.sample(n, derive_seed(estimator._seed, "diagnosis")) if isinstance(rows, Rows) else rows.head()[:n]
    ends = ends_of(rows) if isinstance(rows, Rows) else None
    found = Diagnosis.of(estimator.module_, x.to(estimator.device_), min(share, COUNTED), ends)
    if not found.spread.any():  # a constant needs no code
        return
    message = (
        _of_extremes(estimator, found)
        or (found.explained < EXPLAINED and 2 * found.active < found.n_components and _of_collapse(estimator, found))
        or _of_features(estimator, found)
        or _of_units(estimator, found)
        or _of_collapse(estimator, found)
    )
    if message:
        warnings.warn(f"{type(estimator).__name__}: {message}", ConvergenceWarning, stacklevel=level_of_the_user())


def warn_of_other_units(estimator: Any, x: Tensor) -> None:
    """Warn where rows to train on with are of another order of magnitude than those that a model began with."""
    ratio = estimator.module_.likelihood.relative_spread(x.to(estimator.device_))
    if not 1 / FOREIGN < ratio < FOREIGN:
        warnings.warn(
            f"{type(estimator).__name__}: the rows of X are spread {ratio:.1g} times as widely as those of the first "
            "fit, whose units the model keeps. Start anew with clone(estimator), or scale X in the same way in all "
            "calls.",
            UserWarning,
            stacklevel=level_of_the_user(),
        )


def _of_extremes(estimator: Any, found: Diagnosis) -> str:
    """Where a few values are so large that a model, or a scaler, sees nothing but them."""
    known, hurt = found.extremes, found.each < EXPLAINED
    if hasattr(estimator, "detect") and found.varying.any():
        # A detector may reconstruct what a scaler has squeezed, and yet not see what is unusual in it.
        hurt = hurt | (known.variance < SMALL**2 * known.variance[found.varying].median())
    squeezed = (known.squeezed & found.varying & hurt).nonzero().ravel().tolist()
    if not squeezed or not estimator.module_.likelihood.shows_rows:
        return ""
    first = squeezed[0]
    names = getattr(estimator, "feature_names_in_", range(len(found.each)))
    furthest = float(known.furthest[first])
    others = f" (and {len(squeezed) - 1} more)" if squeezed[1:] else ""
    return (
        f"feature {names[first]!r}{others} hardly counts in this model: it has a value of {furthest:.3g}, more than "
        f"{FAR:g} standard deviations away from the middle half of its values, beside which those hardly count. If "
        "such values are mistakes, make them missing (NaN). Otherwise clip them, or transform the feature (a "
        "logarithm, QuantileTransformer), before it is scaled."
    )


def _of_features(estimator: Any, found: Diagnosis) -> str:
    n_worse, n = int(found.worse.sum()), int(found.varying.sum())
    if n_worse <= FEW * n:
        return ""
    longer = f"train longer (max_epochs; {_steps(estimator)}), or change lr, now {estimator.lr:g}."
    remedy = _remedies(_scales(estimator, found), longer)
    names = getattr(estimator, "feature_names_in_", None)
    first = found.worse.nonzero().ravel().tolist()[:3]
    such = ""
    if names is not None and len(names) == len(found.worse):
        such = f", such as {', '.join(str(names[i]) for i in first)}"
    hardly = len(found.varying) - n
    rest = f" ({hardly} more hardly vary)" if hardly else ""
    return f"{n_worse} of {n} features are reconstructed worse than by their mean{such}{rest}. {remedy}"


def _of_units(estimator: Any, found: Diagnosis) -> str:
    """Where features in small units are left out, because they count little in errors."""
    spread, each = found.spread[found.varying], found.each[found.varying]
    scales = _scales(estimator, found)
    if not scales or not len(spread) or float(spread.max()) < FOREIGN * float(spread.min()):
        return ""
    mean = float(each.clamp(min=0.0).mean())
    if mean > 0.5 * found.explained:
        return ""
    longer = f"train longer (max_epochs; {_steps(estimator)})."
    return (
        f"reconstructions explain {found.explained:.0%} of the variance of X, but of the variance of a feature only "
        f"{mean:.0%} on average. {_remedies(scales, longer)}"
    )


def _of_collapse(estimator: Any, found: Diagnosis) -> str:
    few = 2 * found.active < found.n_components
    spare = estimator.n_components == "auto"  # as many as there are features: not all are needed
    if (found.explained >= EXPLAINED and (spare or not few)) or found.explained > 0.5 * _principal(
        found.rows, found.n_components
    ):
        return ""
    what = "posterior collapse" if few else "hardly anything was learned"
    longer = f"train longer (max_epochs; {_steps(estimator)})"
    lower = f"lower beta, now {estimator.beta:g}"
    # A KL term that outweighs the rest may let go late in training, and hardly: more epochs are no remedy for it.
    too_short = _n_steps(estimator) < FEW_STEPS or (not few and _still_falling(estimator))
    first, then = (longer, lower) if too_short else (lower, longer)
    remedy = f"{first}, {then}, or let the KL term set in later (beta_warmup)."
    remedy = _remedies(_scales(estimator, found), remedy)
    return (
        f"{what}: {found.active} of {found.n_components} latent coordinates are active (posterior means with a "
        f"variance above {ACTIVE:g}), and reconstructions explain {max(found.explained, 0.0):.0%} of the variance of "
        f"X. {remedy} Where features are independent of each other, there is nothing to "
        "encode: leave out those that tell nothing of others."
    )


def _principal(x: Tensor, k: int) -> float:
    """Share of the variance that k principal components explain."""
    squares = torch.linalg.svdvals((x - x.nanmean(0)).nan_to_num().cpu().double()).square()
    return float(squares[:k].sum() / squares.sum())


def _scales(estimator: Any, found: Diagnosis) -> str:
    """Remedy where the units of X are far from 1, else nothing."""
    if not estimator.module_.likelihood.shows_rows or estimator.likelihood == "bernoulli":  # it has a scale of its own
        return ""
    spread = found.spread[found.varying if found.varying.any() else found.spread > 0]
    low, high, away = float(spread.min()), float(spread.max()), float(found.center.abs().max())
    if low > 0.1 and max(high, away) < 5:
        return ""
    learned = getattr(estimator.module_.likelihood, "by_gradient", False)  # a noise for each feature weighs its errors
    errors = "" if learned else ", and errors count in units of X"
    return (
        f"Standard deviations of the features range from {low:.2g} to {high:.2g} and means reach {away:.2g}, while "
        f"networks expect values of order one{errors}: scale X first (StandardScaler)."
    )


def _remedies(scale: str, other: str) -> str:
    return f"{scale} Otherwise {other}" if scale else other[0].upper() + other[1:]


def _n_steps(estimator: Any) -> int:
    return sum(row.get("train_batch_count", 0) for row in estimator.history_)  # a callback may end it within an epoch


def _still_falling(estimator: Any) -> bool:
    """Whether a training ended while reconstructions still became better."""
    errors = [row["train_reconstruction"] for row in estimator.history_ if "train_reconstruction" in row]
    gained = errors[0] - errors[-1]
    lately = errors[-1 - max(1, len(errors) // 5)] - errors[-1] if len(errors) > 1 else gained
    return bool(lately > STILL_FALLING * gained > 0)


def _steps(estimator: Any) -> str:
    n = estimator.n_iter_
    return f"{_n_steps(estimator):,} gradient steps in {n} epoch{'' if n == 1 else 's'} so far"
