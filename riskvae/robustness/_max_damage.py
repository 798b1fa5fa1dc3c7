"""The perturbation in a ball that moves a reconstruction most."""

from typing import Any

from numpy.typing import ArrayLike

from riskvae.robustness._attack_results import AttackResult
from riskvae.robustness._damage import damage_figures, damage_search
from riskvae.robustness._envelope import Envelope, Settings
from riskvae.robustness._opening import open_coder
from riskvae.robustness._radius import given_radius

__all__ = ["max_damage_attack"]


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
    mask: ArrayLike | None = None,
    batch_size: int = 32,
    refine: int | None = None,
    random_state: Any = None,
    verbose: int = 0,
    r: float | ArrayLike | str = "auto",
    confidence: float = 0.999,
) -> AttackResult:
    r"""Find the perturbation of each row that moves its reconstruction most.

    Maximizes, over :math:`\lVert \delta \rVert \le` ``max_norm``,

    .. math:: E_\eta \lVert g(\mu(x + \delta) + \eta \circ \sigma(x + \delta)) - g(\mu(x)) \rVert_2

    by projected gradient ascent with momentum on a fixed bank of draws, with steps that are halved when they no longer
    help (as in APGD). It starts on the surface of the ball, in random directions and along the singular directions in
    which the linearized model moves most, because there may be no gradient at :math:`\delta = 0`. The best point found
    is kept, and evaluated on draws that the attack did not see.

    Parameters
    ----------
    vae : estimator or object
        A fitted estimator, or any object with ``encode(x) -> (mean, scale)`` and ``decode(z) -> mean`` on tensors, such
        as a torch module. If it has ``log_likelihood(x, z)`` on tensors (n, d), (n, k), the result contains
        likelihoods.
    X : array-like of shape (n_samples, n_features)
        Rows. Estimators compute in the dtype of X: float32 is twice as fast.
    max_norm : float or array-like of shape (n_samples,)
        Radius of the ball, in the units of X, above 0. For ``norm=numpy.inf`` it may also be given for each feature, in
        shape (n_features,), (1, n_features) or (n_samples, n_features): 0 for features that may not change. As many
        numbers as there are rows count as one per row.
    norm : {1, 2, inf}, default=2
        Norm of the ball.
    perturb : {"mean", "both"}, default="both"
        Whether the perturbation moves only the posterior mean, as in theory, or its scale, too.
    n_steps, n_restarts : int, default=50, 2
        Gradient steps per restart, and number of restarts. Up to eight times as many starts are tried on four draws,
        for a sixth of the steps each, and the best continue for the rest.
    n_draws : int, default=16
        Number of draws in the bank.
    bounds : (low, high), default=None
        Box that attacked rows must stay in, such as (0, 1) for pixels: numbers, or arrays of shape (n_features,) or of
        the shape of X, a box for each row. X must lie in it. A feature with ``low == high`` may not change.
    mask : array-like of bool, of shape (n_features,) or of the shape of X, default=None
        True for the features that may change; None for all.
    batch_size : int, default=32
        Number of rows processed together. Blocks are padded to this size, or to the next power of two if X has fewer
        rows, so a row's result depends on the other rows only by rounding.
    refine : int, default=None
        Number of steps that refine the posteriors (:meth:`riskvae.BetaVAE.encode`); the attack goes through them. None
        uses the estimator's own parameter. Nothing is certified for refined posteriors, and everything takes many times
        as long.
    random_state : int, RandomState or None, default=None
        Determines draws and starts, which all rows share.
    verbose : int, default=0
        1 shows progress.
    r : float, array-like of shape (n_samples,) or "auto", default="auto"
        A reconstruction that moves farther than r counts as broken, as in
        :func:`~riskvae.robustness.robustness_margin`. This determines ``success``, not the direction of the attack.
        "auto" is 1.5 times the median distance by which the model's own noise moves reconstructions.
    confidence : float, default=0.999
        Confidence of ``success``, for each row, in [0.5, 1).

    Returns
    -------
    AttackResult

    Raises
    ------
    TypeError, ValueError
        For an invalid parameter; for a model whose outputs are not finite or whose scales are not positive.

    Warns
    -----
    UserWarning
        If the gradient is zero at every start, so that the model does not react to its input.

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
    with open_coder(vae, X, refine) as coder:
        attack = Envelope("max_damage_attack", coder, settings)
        radius = given_radius("max_damage_attack", r, len(coder.x))
        found = attack.run(damage_search(attack, [attack.max_norm]))
        figures = damage_figures(attack, found, radius)
        X_adv, delta = attack.landed(found["delta"][:, 0])
    for name in ("damage", "log_likelihood_adv", "degradation", "p_broken", "success"):
        (figures[name],) = figures[name]
    return AttackResult(X_adv=X_adv, delta=delta, **figures, norm=norm, max_norm=attack.max_norm)
