"""Damage against the norm of the perturbation, for balls inside each other."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from riskvae._validation import boolean, check_parameters
from riskvae.robustness._attack_results import DamageCurve
from riskvae.robustness._damage import damage_figures, damage_search
from riskvae.robustness._envelope import Envelope, Settings
from riskvae.robustness._opening import open_coder
from riskvae.robustness._radius import given_radius

__all__ = ["damage_curve"]


def damage_curve(
    vae: Any,
    X: Any,
    max_norms: ArrayLike,
    *,
    norm: float = 2,
    perturb: str = "both",
    n_steps: int = 50,
    n_restarts: int = 2,
    n_draws: int = 16,
    bounds: tuple[ArrayLike, ArrayLike] | None = None,
    mask: ArrayLike | None = None,
    batch_size: int = 32,
    random_state: Any = None,
    verbose: int = 0,
    r: float | ArrayLike | str = "auto",
    confidence: float = 0.999,
    keep_rows: bool = False,
) -> DamageCurve:
    r"""Largest damage of a perturbation as a function of its norm, for each row.

    For each :math:`\rho` of ``max_norms``,

    .. math:: \max_{\lVert \delta \rVert \le \rho} E_\eta \lVert g(\mu(x + \delta) + \eta \circ \sigma(x + \delta))
        - g(\mu(x)) \rVert_2,

    as :func:`max_damage_attack` finds it, at a lower cost than an attack at each norm. The balls are nested, so a
    perturbation found in one is allowed in the next. The search there also starts from it, as it is and scaled to the
    new norm, and keeps it if nothing does more damage on the fresh draws. So no curve decreases. (This choice is made
    on the draws that are reported, between perturbations that differ by less than these draws can resolve.)

    Parameters
    ----------
    vae, X, norm, perturb, n_steps, n_restarts, n_draws, bounds, mask
        As in :func:`max_damage_attack`. Steps and restarts apply to each norm.
    batch_size, random_state, verbose, r, confidence
        As in :func:`max_damage_attack`.
    max_norms : array-like of shape (n_norms,)
        Radii of the balls, in the units of X, at least 0, in any order. 0 is the row itself: the effect of the noise
        alone.
    keep_rows : bool, default=False
        Whether the result contains the attacked rows of each norm.

    Returns
    -------
    DamageCurve

    Raises
    ------
    TypeError, ValueError
        As :func:`max_damage_attack`; also for norms that are negative or not finite, or if there are none.

    References
    ----------
    Carlini et al., "On evaluating adversarial robustness" (2019), who recommend such curves.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from riskvae import BetaVAE
    >>> from riskvae.robustness import damage_curve
    >>> X = load_digits().data / 16
    >>> vae = BetaVAE(n_components=4, hidden_layer_sizes=(64,), random_state=0).fit(X)
    >>> curve = damage_curve(vae, X[:8], [0, 0.5, 1.0], bounds=(0, 1), n_steps=10, random_state=0)
    >>> curve.damage.shape
    (3, 8)
    >>> bool((curve.damage[0] == curve.clean_damage).all() and (curve.damage[2] >= curve.damage[1]).all())
    True
    """
    radii = _radii(max_norms)
    max_norm = float(radii[-1])
    settings = Settings(**{name: value for name, value in locals().items() if name in Settings._fields})
    settings.check("damage_curve")
    check_parameters("damage_curve", {"keep_rows": keep_rows}, {"keep_rows": boolean})
    with open_coder(vae, X) as coder:
        attack = Envelope("damage_curve", coder, settings)
        radius = given_radius("damage_curve", r, len(coder.x))
        found = attack.run(damage_search(attack, [float(size) for size in radii], keep=keep_rows))
        figures = damage_figures(attack, found, radius)
        delta = found["delta"].swapaxes(0, 1) if keep_rows else ()
        X_adv = np.stack([attack.landed(part)[0] for part in delta]) if keep_rows else None
    return DamageCurve(max_norms=radii, X_adv=X_adv, norm=norm, **figures)


def _radii(max_norms: ArrayLike) -> NDArray[np.float64]:
    """Norms from the smallest on, each once."""
    message = (
        "damage_curve: max_norms must hold at least one radius above 0, all of them finite and 0 or more; got "
        f"{max_norms!r}."
    )
    try:
        radii = np.unique(np.asarray(max_norms, dtype=np.float64))
    except (TypeError, ValueError):
        raise TypeError(message) from None
    if np.ndim(max_norms) > 1 or not radii.size or not np.isfinite(radii).all() or radii[0] < 0 or radii[-1] == 0:
        raise ValueError(message)
    return radii
