"""What a training came to: whether codes tell rows apart, and which features are worse off than with their mean."""

import warnings
from typing import Any, NamedTuple, Self

import torch
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from riskvae._validation import level_of_the_user

__all__ = ["Diagnosis", "warn_of_failure"]

N_ROWS = 2_000
# A coordinate whose posterior means vary less is as good as switched off (Burda, Grosse and Salakhutdinov 2016).
ACTIVE = 0.01
# A code that explains less of the variance has collapsed in all but name.
EXPLAINED = 0.1
# A feature is reconstructed worse than by a constant where its errors are larger by so much ...
WORSE = 1.1
# ... and a model where that holds for more than this share of the features.
FEW = 0.1


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
    """

    active: int
    n_components: int
    explained: float
    varying: Tensor
    worse: Tensor
    center: Tensor
    spread: Tensor

    @classmethod
    @torch.no_grad()
    def of(cls, module: Any, x: Tensor, share: float = 1.0) -> Self:
        """Diagnosis of rows, or of the share of them that is reconstructed best."""
        mean = module.encode(x).mean
        raw = module.decoder(mean)
        if share < 1:
            best = module.likelihood.nll(x, raw).argsort()[: max(2, round(share * len(x)))]
            x, mean, raw = x[best], mean[best], raw[best]
        error, spread, ordered = module.likelihood.mean(raw) - x, x.std(0, correction=0), x.sort(0).values
        varying = ordered[len(x) // 4] < ordered[-1 - len(x) // 4]
        worse = (error.square().mean(0) > WORSE * spread.square()) & (
            error.abs().mean(0) > WORSE * (x - ordered[len(x) // 2]).abs().mean(0)
        )
        explained = 1 - float(error.square().mean(0).sum() / spread.square().sum())
        active = int((mean.var(0, correction=0) > ACTIVE).sum())
        return cls(active, mean.shape[1], explained, varying, worse & varying, x.mean(0), spread)


def warn_of_failure(estimator: Any, x: Tensor, share: float) -> None:
    """Warn where a model that was trained on rows hardly tells them apart, or ignores features; with the remedy."""
    found = Diagnosis.of(estimator.module_, x, share)
    if not found.spread.any():  # a constant needs no code
        return
    message = _of_features(estimator, found) or _of_collapse(estimator, found)
    if message:
        warnings.warn(f"{type(estimator).__name__}: {message}", ConvergenceWarning, stacklevel=level_of_the_user())


def _of_features(estimator: Any, found: Diagnosis) -> str:
    n_worse, n = int(found.worse.sum()), int(found.varying.sum())
    if n_worse <= FEW * n:
        return ""
    spread = found.spread[found.varying]
    low, high, away = float(spread.min()), float(spread.max()), float(found.center.abs().max())
    what = f"{n_worse} of {n} features are reconstructed worse than by their mean."
    longer = f"rain longer (max_epochs, {estimator.n_iter_} so far), or change lr ({estimator.lr:g})."
    if low > 0.1 and max(high, away) < 10:
        return f"{what} T{longer}"
    return (
        f"{what} Their standard deviations range from {low:.2g} to {high:.2g} and means reach {away:.2g}, while errors "
        f"count in units of X: scale X first (StandardScaler). Otherwise t{longer}"
    )


def _of_collapse(estimator: Any, found: Diagnosis) -> str:
    if found.active and found.explained >= EXPLAINED:
        return ""
    what = "posterior collapse" if 2 * found.active < found.n_components else "hardly anything was learned"
    return (
        f"{what}: {found.active} of {found.n_components} latent coordinates are active (posterior means with a "
        f"variance above {ACTIVE:g}), and reconstructions explain {max(found.explained, 0.0):.0%} of the variance of "
        f"X. Lower beta ({estimator.beta:g}), train longer (max_epochs, {estimator.n_iter_} so far), or let the KL "
        "term set in later (beta_warmup). Where features are independent of each other, there is nothing to encode."
    )
