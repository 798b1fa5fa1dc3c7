"""Attacks: the perturbation in a ball that moves a reconstruction most, or brings it nearest to another."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from riskvae._validation import check_parameters, choice, host_array
from riskvae.robustness._coder import Coder, distance, fill_up, open_coder
from riskvae.robustness._envelope import Envelope, Settings
from riskvae.robustness._frame import to_frame
from riskvae.robustness._jacobian import leading_directions, linearize

Array = NDArray[Any]


@dataclass(frozen=True, repr=False, eq=False)
class AttackResult:
    r"""What :func:`max_damage_attack` found for n rows.

    Attributes
    ----------
    X_adv : ndarray of the shape of X
        Attacked rows.
    delta : ndarray of the shape of X
        ``X_adv - X``.
    damage : ndarray of shape (n,)
        Mean distance of the attacked row's reconstructions from the clean one, in the units of the decoder's
        output, over draws that the attack did not see.
    clean_damage : ndarray of shape (n,)
        The same without a perturbation: what the noise alone does.
    log_likelihood, log_likelihood_adv : ndarray of shape (n,)
        Mean over draws of log p(x | z) for z of the clean and of the attacked row, in nats; NaN for models
        without a likelihood.
    degradation : ndarray of shape (n,)
        ``|log_likelihood_adv - log_likelihood| / |log_likelihood|``, of the paper. A log-density may lie near
        0; the difference in nats then says more.
    success : ndarray of bool of shape (n,)
        Whether the perturbation does more damage than the noise alone.
    norm : float
        Of the ball.
    max_norm : float or ndarray of shape (n,)
        Its radius.
    """

    X_adv: Array
    delta: Array
    damage: Array
    clean_damage: Array
    log_likelihood: Array
    log_likelihood_adv: Array
    degradation: Array
    success: NDArray[np.bool_]
    norm: float
    max_norm: float | Array

    def to_frame(self) -> Any:
        """Rows as a pandas DataFrame, one column per number."""
        return to_frame(self, norm=self.norm, max_norm=self.max_norm)

    def __repr__(self) -> str:
        n = len(self.damage)
        damage, clean = np.median(self.damage), np.median(self.clean_damage)
        lines = [
            f"AttackResult of {n} rows, norm {self.norm:g} up to {_range(self.max_norm)}: "
            f"{self.success.sum()} did more damage than the noise alone",
            f"  damage         {damage:.4g} (median), by noise alone {clean:.4g}",
        ]
        if np.isfinite(self.degradation).any():
            lines.append(
                f"  log-likelihood {np.median(self.log_likelihood_adv):.4g} nats (median), clean "
                f"{np.median(self.log_likelihood):.4g}; degradation {np.median(self.degradation):.1%}"
            )
        return "\n".join(lines)


@dataclass(frozen=True, repr=False, eq=False)
class TargetedAttackResult:
    """What :func:`targeted_attack` found for n rows.

    Attributes
    ----------
    X_adv, delta : ndarray of the shape of X
        Attacked rows, and their difference from X.
    distance, clean_distance : ndarray of shape (n,)
        Mean distance to the target, attacked and clean, over draws that the attack did not see.
    success : ndarray of bool of shape (n,)
        Whether the attack came nearer to the target.
    space : {"reconstruction", "latent"}
        Where the distance is.
    norm : float
        Of the ball.
    max_norm : float or ndarray of shape (n,)
        Its radius.
    """

    X_adv: Array
    delta: Array
    distance: Array
    clean_distance: Array
    success: NDArray[np.bool_]
    space: str
    norm: float
    max_norm: float | Array

    def to_frame(self) -> Any:
        """Rows as a pandas DataFrame, one column per number."""
        return to_frame(self, norm=self.norm, max_norm=self.max_norm)

    def __repr__(self) -> str:
        return (
            f"TargetedAttackResult of {len(self.distance)} rows, norm {self.norm:g} up to {_range(self.max_norm)}: "
            f"{self.success.sum()} came nearer\n"
            f"  distance in {self.space} space {np.median(self.distance):.4g} (median), "
            f"clean {np.median(self.clean_distance):.4g}"
        )


def _range(values: Any) -> str:
    low, high = np.min(values), np.max(values)
    return f"{low:.4g}" if low == high else f"{low:.4g}-{high:.4g}"


def max_damage_attack(
    vae: Any,
    X: Any,
    *,
    max_norm: float | ArrayLike,
    norm: float = 2,
    perturb: str = "both",
    n_steps: int = 50,
    n_restarts: int = 2,
    n_draws: int = 16,
    bounds: tuple[ArrayLike, ArrayLike] | None = None,
    batch_size: int = 32,
    random_state: Any = None,
    verbose: int = 0,
) -> AttackResult:
    r"""Perturbation of each row that moves its reconstruction most.

    Maximizes over :math:`\lVert \delta \rVert \le` ``max_norm``

    .. math:: E_\eta \lVert g(\mu(x + \delta) + \eta \circ \sigma(x + \delta)) - g(\mu(x)) \rVert_2

    by projected gradient ascent with momentum and steps that halve where they stop to help (as in APGD), on a
    fixed bank of draws. It starts at the surface of the ball, along the singular directions in which the
    linearized model moves most and at random: at :math:`\delta = 0` there may be no gradient. The best point met
    is kept, and judged on draws that the attack did not see.

    Parameters
    ----------
    vae : estimator or object
        A fitted estimator, or any object with ``encode(x) -> (mean, scale)`` and ``decode(z) -> mean`` on
        tensors, such as a torch module. With ``log_likelihood(x, z)`` on tensors (n, d), (n, k), the result
        has likelihoods.
    X : array-like of shape (n_samples, n_features)
        Rows. Estimators compute in its dtype: float32 is twice as fast.
    max_norm : float or array-like of shape (n_samples,)
        Radius of the ball, in the units of X, above 0.
    norm : {1, 2, inf}, default=2
        Of the ball.
    perturb : {"mean", "both"}, default="both"
        Whether the perturbation moves the posterior's mean only, as theory has it, or its scale too.
    n_steps, n_restarts : int, default=50, 2
        Gradient steps per restart, and restarts. Three times as many starts are tried for a sixth of the steps each,
        and the best go on for what is left.
    n_draws : int, default=16
        Draws in the bank.
    bounds : (low, high), default=None
        Box that attacked rows must stay in, numbers or arrays of shape (n_features,), such as (0, 1) for
        pixels; X must lie in it.
    batch_size : int, default=32
        Rows that are worked on together. Blocks are filled up to this size, so a row's answer does not depend
        on its company.
    random_state : int, RandomState or None, default=None
        Decides draws and starts, which all rows share.
    verbose : int, default=0
        1 shows progress.

    Returns
    -------
    AttackResult

    Raises
    ------
    TypeError, ValueError
        For a bad parameter; for a model whose answers are not finite or whose scales are not positive.

    Warns
    -----
    UserWarning
        Where the gradient is zero at every start: the model does not react to its input.

    References
    ----------
    Camuto, Willetts, Roberts, Holmes and Rainforth, "Towards a theoretical understanding of the robustness of
    variational autoencoders" (AISTATS 2021). Croce and Hein, "Reliable evaluation of adversarial robustness
    with an ensemble of diverse parameter-free attacks" (2020).

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from riskvae import BetaVAE
    >>> from riskvae.robustness import max_damage_attack
    >>> X = load_digits().data / 16
    >>> vae = BetaVAE(n_components=4, hidden_layer_sizes=(64,), random_state=0).fit(X)
    >>> result = max_damage_attack(vae, X[:8], max_norm=1.0, bounds=(0, 1), n_steps=10, random_state=0)
    >>> bool((result.damage > result.clean_damage).all())
    True
    """
    settings = Settings(**{name: value for name, value in locals().items() if name in Settings._fields})
    settings.check("max_damage_attack")
    with open_coder(vae, X) as coder:
        attack = Envelope("max_damage_attack", coder, settings)

        def examine(rows: slice, x: Tensor) -> dict[str, Tensor]:
            local = linearize(coder, x)
            directions = leading_directions(coder, local, 2 * n_restarts)

            def damage(moved: Tensor, noise: Tensor) -> Tensor:
                return attack.mean_distance(moved, noise, local.reconstruction, local.scale)

            delta = attack.climb(rows, x, torch.cat((directions, -directions), 1), damage)
            moved = x + delta.view_as(x)
            with torch.no_grad():
                mean, scale = coder.encode(moved)
            scale = scale if perturb == "both" else local.scale
            return {
                "delta": delta,
                "damage": attack.report(lambda noise: damage(moved, noise), x),
                "clean_damage": attack.report(lambda noise: damage(x, noise), x),
                "log_likelihood": attack.report(_likelihood(coder, x, local.mean, local.scale), x),
                "log_likelihood_adv": attack.report(_likelihood(coder, x, mean, scale), x),
            }

        found = attack.run(examine)
    clean, adv = found["log_likelihood"], found["log_likelihood_adv"]
    return AttackResult(
        **found,
        degradation=np.abs(adv - clean) / np.abs(clean),
        success=found["damage"] > found["clean_damage"],
        norm=norm,
        max_norm=attack.max_norm,
    )


def _likelihood(coder: Coder, x: Tensor, mean: Tensor, scale: Tensor) -> Callable[[Tensor], Tensor]:
    """Mean log-likelihood of rows at draws from a posterior, as a function of the draws; NaN without one."""

    def average(noise: Tensor) -> Tensor:
        found = coder.log_likelihood(x.flatten(1), mean + scale * noise[:, None])
        return torch.full_like(mean[:, 0], math.nan) if found is None else found.mean(0)

    return average


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
    batch_size: int = 32,
    random_state: Any = None,
    verbose: int = 0,
) -> TargetedAttackResult:
    r"""Perturbation of each row that brings it nearest to a target.

    Minimizes over :math:`\lVert \delta \rVert \le` ``max_norm`` the distance to the target's reconstruction,

    .. math:: E_\eta \lVert g(\mu(x + \delta) + \eta \circ \sigma(x + \delta)) - g(\mu(x_t)) \rVert_2,

    or, with ``space="latent"``, to its embedding, :math:`\lVert \mu(x + \delta) - \mu(x_t) \rVert_2`. Search, draws
    and checks are those of :func:`max_damage_attack`; it starts towards the target, then at random.

    Parameters
    ----------
    vae, X, max_norm, norm, perturb, n_steps, n_restarts, n_draws, bounds, batch_size, random_state, verbose
        As in :func:`max_damage_attack`.
    X_target : array-like of the shape of X, or one row
        Targets.
    space : {"reconstruction", "latent"}, default="reconstruction"
        Where to come near.

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
        targets = _targets(coder, X_target)

        def examine(rows: slice, x: Tensor) -> dict[str, Tensor]:
            target = fill_up(targets[rows], len(x))
            with torch.no_grad():
                clean_scale = coder.encode(x)[1]
                goal = coder.mean(target)
                goal = goal if space == "latent" else coder.decode(goal)

            def gap(moved: Tensor, noise: Tensor) -> Tensor:
                if space == "latent":
                    return distance(coder.mean(moved), goal.repeat_interleave(len(moved) // len(goal), 0))
                return attack.mean_distance(moved, noise, goal, clean_scale)

            towards = (target - x).flatten(1)[:, None]
            delta = attack.climb(rows, x, towards, lambda moved, noise: -gap(moved, noise))
            moved = x + delta.view_as(x)
            return {
                "delta": delta,
                "distance": attack.report(lambda noise: gap(moved, noise), x),
                "clean_distance": attack.report(lambda noise: gap(x, noise), x),
            }

        found = attack.run(examine)
    success = found["distance"] < found["clean_distance"]
    return TargetedAttackResult(**found, success=success, space=space, norm=norm, max_norm=attack.max_norm)


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
