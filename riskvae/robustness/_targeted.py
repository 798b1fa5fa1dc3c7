"""The perturbation in a ball that brings a reconstruction nearest to another."""

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from riskvae._validation import check_parameters, choice, host_array
from riskvae.robustness._attack_results import TargetedAttackResult
from riskvae.robustness._checks import in_block
from riskvae.robustness._coder import Coder, distance, fill_up
from riskvae.robustness._envelope import Envelope, Settings
from riskvae.robustness._opening import open_coder
from riskvae.robustness._radius import radius_of

__all__ = ["targeted_attack"]


def targeted_attack(
    vae: Any,
    X: Any,
    X_target: Any,
    *,
    max_norm: float | ArrayLike,
    space: str = "reconstruction",
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
) -> TargetedAttackResult:
    r"""Perturbation of each row that brings it nearest to a target.

    Minimizes over :math:`\lVert \delta \rVert \le` ``max_norm`` the distance to the target's reconstruction,

    .. math:: E_\eta \lVert g(\mu(x + \delta) + \eta \circ \sigma(x + \delta)) - g(\mu(x_t)) \rVert_2,

    or, with ``space="latent"``, to its embedding, :math:`\lVert \mu(x + \delta) - \mu(x_t) \rVert_2`. Search, draws
    and checks are those of :func:`max_damage_attack`; it starts towards the target, then at random.

    Parameters
    ----------
    vae, X, max_norm, norm, perturb, n_steps, n_restarts, n_draws, bounds, mask
        As in :func:`max_damage_attack`.
    batch_size, random_state, verbose, confidence
        As in :func:`max_damage_attack`.
    X_target : array-like of the shape of X, or one row
        Targets.
    space : {"reconstruction", "latent"}, default="reconstruction"
        Where to come near.
    r : float, array-like of shape (n_samples,) or "auto", default="auto"
        Within this distance a target counts as reached. "auto" is 1.5 times the median distance by which the model's
        own noise moves reconstructions, or latent points.

    Returns
    -------
    TargetedAttackResult

    References
    ----------
    Kos, Fischer and Song, "Adversarial examples for generative models" (2018).

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from riskvae import BetaVAE
    >>> from riskvae.robustness import targeted_attack
    >>> X = load_digits().data / 16
    >>> vae = BetaVAE(n_components=4, hidden_layer_sizes=(64,), random_state=0).fit(X)
    >>> result = targeted_attack(vae, X[:8], X[9], max_norm=1.0, n_steps=10, random_state=0)
    >>> bool((result.distance < result.clean_distance).all())
    True
    """
    settings = Settings(**{name: value for name, value in locals().items() if name in Settings._fields})
    settings.check("targeted_attack")
    check_parameters("targeted_attack", {"space": space}, {"space": choice("reconstruction", "latent")})
    with open_coder(vae, X) as coder:
        attack = Envelope("targeted_attack", coder, settings)
        radius = radius_of("targeted_attack", r, coder, attack.seed, batch_size, latent=space == "latent")
        targets = _targets(coder, X_target)

        def examine(rows: slice, x: Tensor) -> dict[str, Tensor]:
            target = fill_up(targets[rows], len(x))
            with torch.no_grad():
                clean_scale = coder.encode(x)[1]
                goal = coder.mean(target)
                goal = goal if space == "latent" else coder.decode(goal)

            def gap(moved: Tensor, noise: Tensor) -> Tensor:
                if space == "latent":
                    near = distance(coder.mean(moved), goal.repeat_interleave(len(moved) // len(goal), 0))
                    return near.expand(len(noise), -1)
                return attack.distances(moved, noise, goal, clean_scale)

            towards = (target - x).flatten(1)[:, None]
            size = in_block(attack.max_norm, coder, rows, x)
            delta = attack.climb(rows, x, towards, lambda moved, noise: -gap(moved, noise).mean(0), size)
            moved = x + delta.view_as(x)
            found = attack.judge(lambda noise: gap(moved, noise), x)
            return {
                "delta": delta,
                "distance": found.mean(0),
                "clean_distance": attack.judge(lambda noise: gap(x, noise), x).mean(0),
                "p_reached": (found <= in_block(radius, coder, rows, x)).to(x).mean(0),
            }

        found = attack.run(examine)
        X_adv, delta = attack.landed(found.pop("delta"))
    success = attack.surely(found["p_reached"])
    return TargetedAttackResult(
        X_adv, delta, **found, success=success, space=space, norm=norm, max_norm=attack.max_norm, r=radius
    )


def _targets(coder: Coder, X_target: Any) -> Tensor:
    """Targets as rows of the coder, one for each."""
    rows = torch.as_tensor(np.array(host_array(X_target)), dtype=coder.dtype, device=coder.device)
    shape = tuple(coder.x.shape)
    if rows.shape == shape[1:] or (rows.shape[1:] == shape[1:] and len(rows) == 1):
        rows = rows.expand(shape)
    if tuple(rows.shape) != shape:
        raise ValueError(
            f"targeted_attack: X_target must have the shape of X, {shape}, or be one row; got shape "
            f"{tuple(rows.shape)}."
        )
    if not rows.isfinite().all():
        bad = int((~rows.isfinite().flatten(1).all(1)).nonzero()[0])
        raise ValueError(f"targeted_attack: X_target must be finite; row {bad} holds NaN or infinity.")
    return rows
