"""The perturbation in a ball that brings a reconstruction nearest to another."""

from collections.abc import Callable
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
from riskvae.robustness._least_norm import least_norm
from riskvae.robustness._opening import open_coder
from riskvae.robustness._projection import norm_of
from riskvae.robustness._radius import radius_of

__all__ = ["targeted_attack"]

# Radius of the ball round a row that is its own target.
_TINY = 1e-12


def targeted_attack(
    vae: Any,
    X: Any,
    X_target: Any,
    *,
    max_norm: float | ArrayLike | None = None,
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
    r"""Find the perturbation of each row that brings it closest to a target.

    Minimizes, over :math:`\lVert \delta \rVert \le` ``max_norm``, the distance to the target's reconstruction,

    .. math:: E_\eta \lVert g(\mu(x + \delta) + \eta \circ \sigma(x + \delta)) - g(\mu(x_t)) \rVert_2,

    or, with ``space="latent"``, to its embedding, :math:`\lVert \mu(x + \delta) - \mu(x_t) \rVert_2`. Search, draws and
    checks are those of :func:`max_damage_attack`. The search starts in the direction of the target, then at random.

    Without ``max_norm``, it finds the smallest perturbation that brings the row within r of the target,

    .. math:: \min \lVert \delta \rVert \quad \text{where} \quad P(\text{distance to the target} \le r) > 1/2,

    in balls that shrink as long as it succeeds. There are nine of them, so the cost is that of nine attacks.
    ``least_norm`` of the result is the norm of the perturbation found, confirmed on fresh draws; it does not prove that
    no smaller one exists.

    Parameters
    ----------
    vae, X, norm, perturb, n_steps, n_restarts, n_draws, bounds, mask
        As in :func:`max_damage_attack`.
    batch_size, random_state, verbose, confidence
        As in :func:`max_damage_attack`.
    X_target : array-like of the shape of X, or one row
        Targets.
    max_norm : float or array-like, default=None
        Radius of the ball, as in :func:`max_damage_attack`. None searches for the smallest one, up to the row's
        distance from its target.
    space : {"reconstruction", "latent"}, default="reconstruction"
        Space in which to approach the target.
    r : float, array-like of shape (n_samples,) or "auto", default="auto"
        A target counts as reached within this distance. "auto" is 1.5 times the median distance by which the model's
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

    The smallest change that makes one digit pass for another:

    >>> least = targeted_attack(vae, X[:8], X[9], n_steps=10, random_state=0)
    >>> bool((least.least_norm[least.success] < np.linalg.norm(X[9] - X[:8], axis=1)[least.success]).all())
    True
    """
    settings = Settings(**{name: value for name, value in locals().items() if name in Settings._fields})
    settings.check("targeted_attack")
    check_parameters("targeted_attack", {"space": space}, {"space": choice("reconstruction", "latent")})
    with open_coder(vae, X) as coder:
        targets = _targets(coder, X_target)
        if max_norm is None:
            lengths = norm_of((targets - coder.x).flatten(1), norm).cpu().double().numpy()
            settings = settings._replace(max_norm=np.maximum(lengths, _TINY))
        attack = Envelope("targeted_attack", coder, settings)
        radius = radius_of("targeted_attack", r, coder, attack.seed, batch_size, latent=space == "latent")

        def examine(rows: slice, x: Tensor) -> dict[str, Tensor]:
            target, within = fill_up(targets[rows], len(x)), in_block(radius, coder, rows, x)
            gap = _gap(attack, x, target, space)
            towards = (target - x).flatten(1)
            found = {}
            if max_norm is None:
                delta, found["least_norm"] = least_norm(attack, rows, x, towards, gap, within)
            else:
                size = attack.radius(rows, x)
                delta = attack.climb(rows, x, towards[:, None], lambda moved, noise: -gap(moved, noise).mean(0), size)
            moved = x + delta.view_as(x)
            reached = attack.judge(lambda noise: gap(moved, noise), x)
            return {
                **found,
                "delta": delta,
                "distance": reached.mean(0),
                "clean_distance": attack.judge(lambda noise: gap(x, noise), x).mean(0),
                "p_reached": (reached <= within).to(x).mean(0),
            }

        found = attack.run(examine)
        X_adv, delta = attack.landed(found.pop("delta"))
    success = attack.surely(found["p_reached"])
    if max_norm is None:
        success &= np.isfinite(found["least_norm"])
    return TargetedAttackResult(
        X_adv, delta, **found, success=success, space=space, norm=norm, max_norm=attack.max_norm, r=radius
    )


def _gap(attack: Envelope, x: Tensor, target: Tensor, space: str) -> Callable[[Tensor, Tensor], Tensor]:
    """Distances (m, n * copies) of perturbed rows to their targets, as a function of rows and draws."""
    coder = attack.coder
    with torch.no_grad():
        clean_scale = coder.encode(x)[1]
        goal = coder.mean(target)
        goal = goal if space == "latent" else coder.decode(goal)

    def gap(moved: Tensor, noise: Tensor) -> Tensor:
        if space == "latent":
            near = distance(coder.mean(moved), goal.repeat_interleave(len(moved) // len(goal), 0))
            return near.expand(len(noise), -1)
        return attack.distances(moved, noise, goal, clean_scale)

    return gap


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
