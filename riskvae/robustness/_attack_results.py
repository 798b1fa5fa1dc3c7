"""What attacks found, row by row, and how it prints."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from riskvae.robustness._frame import as_frame, to_frame

__all__ = ["AttackResult", "DamageCurve", "TargetedAttackResult"]

Array = NDArray[Any]


@dataclass(frozen=True, repr=False, eq=False)
class AttackResult:
    r"""Result of :func:`max_damage_attack` for n rows.

    Attributes
    ----------
    X_adv : ndarray of the shape of X
        Attacked rows.
    delta : ndarray of the shape of X
        ``X_adv - X``.
    damage : ndarray of shape (n,)
        Mean distance of the attacked row's reconstructions from the clean reconstruction, in the units of the decoder's
        output, over draws that the attack did not see.
    clean_damage : ndarray of shape (n,)
        The same without a perturbation: the effect of the noise alone.
    log_likelihood, log_likelihood_adv : ndarray of shape (n,)
        Mean over draws of log p(x | z), with z of the clean row and of the attacked row, in nats; NaN for models
        without a likelihood.
    degradation : ndarray of shape (n,)
        ``|log_likelihood_adv - log_likelihood| / |log_likelihood|``, as in the paper. A log-density may be close to 0;
        the difference in nats is then more informative.
    p_broken : ndarray of shape (n,)
        Share of those draws for which the reconstruction moves by more than r.
    success : ndarray of bool of shape (n,)
        Whether the row is broken: ``p_broken`` shows, at the requested confidence, that the probability of moving by
        more than r exceeds one half.
    norm : float
        Norm of the ball.
    max_norm : float or ndarray of shape (n,)
        Radius of the ball.
    r : float or ndarray of shape (n,)
        Radius of the reconstructions.
    """

    X_adv: Array
    delta: Array
    damage: Array
    clean_damage: Array
    log_likelihood: Array
    log_likelihood_adv: Array
    degradation: Array
    p_broken: Array
    success: NDArray[np.bool_]
    norm: float
    max_norm: float | Array
    r: float | Array

    def to_frame(self) -> Any:
        """Convert to a pandas DataFrame with one line per row and one column per number."""
        return to_frame(self, norm=self.norm, max_norm=self.max_norm, r=self.r)

    def __repr__(self) -> str:
        n = len(self.damage)
        damage, clean = np.nanmedian(self.damage), np.nanmedian(self.clean_damage)
        lines = [
            f"AttackResult of {n} rows, norm {self.norm:g} up to {_range(self.max_norm)}: "
            f"{self.success.sum()} broken (moved by more than r = {_range(self.r)} in most draws)",
            f"  damage         {damage:.4g} (median), by noise alone {clean:.4g}",
        ]
        if np.isfinite(self.degradation).any():
            lines.append(
                f"  log-likelihood {np.nanmedian(self.log_likelihood_adv):.4g} nats (median), clean "
                f"{np.nanmedian(self.log_likelihood):.4g}; degradation {np.nanmedian(self.degradation):.1%}"
            )
        return "\n".join(lines)


@dataclass(frozen=True, repr=False, eq=False)
class DamageCurve:
    """Result of :func:`damage_curve` for n rows at m norms.

    Attributes
    ----------
    max_norms : ndarray of shape (m,)
        Radii of the balls, in ascending order.
    damage : ndarray of shape (m, n)
        Mean distance of the attacked row's reconstructions from the clean reconstruction, in the units of the decoder's
        output, over draws that the attack did not see. It never decreases from one norm to the next.
    clean_damage : ndarray of shape (n,)
        The same without a perturbation: the effect of the noise alone.
    log_likelihood, log_likelihood_adv, degradation : ndarrays of shape (n,), (m, n), (m, n)
        As in :class:`AttackResult`; NaN for models without a likelihood.
    p_broken, success : ndarrays of shape (m, n)
        Share of those draws for which the reconstruction moves by more than r, and whether the row is broken, at the
        requested confidence.
    norm : float
        Norm of the balls.
    r : float or ndarray of shape (n,)
        Radius of the reconstructions.
    X_adv : ndarray of shape (m, n_samples, ...) or None
        Attacked rows, if they were requested.
    """

    max_norms: Array
    damage: Array
    clean_damage: Array
    log_likelihood: Array
    log_likelihood_adv: Array
    degradation: Array
    p_broken: Array
    success: NDArray[np.bool_]
    norm: float
    r: float | Array
    X_adv: Array | None = None

    def to_frame(self) -> Any:
        """Convert to a pandas DataFrame with one line for each pair of ``row`` and ``max_norm``."""
        m, n = self.damage.shape
        names = ("damage", "log_likelihood_adv", "degradation", "p_broken", "success")
        each = {"row": np.tile(np.arange(n), m), "max_norm": np.repeat(self.max_norms, n)}
        each |= {name: getattr(self, name).ravel() for name in names}
        each |= {name: np.tile(getattr(self, name), m) for name in ("clean_damage", "log_likelihood")}
        return as_frame({**each, "norm": self.norm, "r": np.tile(np.broadcast_to(self.r, n), m)})

    def __repr__(self) -> str:
        n = self.damage.shape[1]
        lines = [
            f"DamageCurve of {n} rows, norm {self.norm:g}; broken: moved by more than r = {_range(self.r)} in most "
            "draws",
            f"{'norm up to':>12}{'damage (median)':>18}{'quartiles':>20}{'broken':>9}",
        ]
        for size, damage, success in zip(self.max_norms, self.damage, self.success, strict=True):
            low, middle, high = np.nanquantile(damage, [0.25, 0.5, 0.75])
            quartiles = f"{low:.4g} to {high:.4g}"
            lines.append(f"{size:>12.4g}{middle:>18.4g}{quartiles:>20}{success.mean():>9.1%}")
        return "\n".join([*lines, f"  by noise alone {np.nanmedian(self.clean_damage):.4g} (median)"])


@dataclass(frozen=True, repr=False, eq=False)
class TargetedAttackResult:
    """Result of :func:`targeted_attack` for n rows.

    Attributes
    ----------
    X_adv, delta : ndarray of the shape of X
        Attacked rows, and their difference from X.
    distance, clean_distance : ndarray of shape (n,)
        Mean distance to the target, of the attacked and of the clean row, over draws that the attack did not see.
    p_reached : ndarray of shape (n,)
        Share of those draws for which the distance to the target is at most r.
    success : ndarray of bool of shape (n,)
        Whether the target is reached: ``p_reached`` shows, at the requested confidence, that the probability of being
        within r exceeds one half.
    space : {"reconstruction", "latent"}
        Space of the distance.
    norm : float
        Norm of the ball.
    max_norm : float or ndarray of shape (n,)
        Radius of the ball. If the smallest perturbation was searched for, that of the largest ball tried.
    r : float or ndarray of shape (n,)
        Radius around the target.
    least_norm : ndarray of shape (n,) or None
        Norm of the smallest perturbation found that reaches the target, confirmed on fresh draws. Infinite if none
        does; ``X_adv`` is then the closest attempt. None if ``max_norm`` was given.
    """

    X_adv: Array
    delta: Array
    distance: Array
    clean_distance: Array
    p_reached: Array
    success: NDArray[np.bool_]
    space: str
    norm: float
    max_norm: float | Array
    r: float | Array
    least_norm: Array | None = None

    def to_frame(self) -> Any:
        """Convert to a pandas DataFrame with one line per row and one column per number."""
        return to_frame(self, norm=self.norm, max_norm=self.max_norm, r=self.r)

    def __repr__(self) -> str:
        least = ""
        if self.least_norm is not None and self.success.any():
            least = f"\n  least norm {np.median(self.least_norm[self.success]):.4g} (median of those)"
        return (
            f"TargetedAttackResult of {len(self.distance)} rows, norm {self.norm:g} up to {_range(self.max_norm)}: "
            f"{self.success.sum()} reached their target (within r = {_range(self.r)} in most draws)\n"
            f"  distance in {self.space} space {np.nanmedian(self.distance):.4g} (median), "
            f"clean {np.nanmedian(self.clean_distance):.4g}{least}"
        )


def _range(values: Any) -> str:
    low, high = np.min(values), np.max(values)
    return f"{low:.4g}" if low == high else f"{low:.4g}-{high:.4g}"
