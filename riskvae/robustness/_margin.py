"""The margin of robustness: bounds from below, an estimate, and an attack's bound from above."""

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from riskvae._validation import Rule, check_parameters, choice, derive_seed, draw_seed, integer, real
from riskvae.robustness._below import BOUNDS, bounds_below
from riskvae.robustness._box import Box
from riskvae.robustness._checks import NORM, RULES, in_block
from riskvae.robustness._coder import Coder, noise_bank, paired_bank
from riskvae.robustness._jacobian import leading_directions, linearize
from riskvae.robustness._known import Known
from riskvae.robustness._noise import clopper_pearson, probit
from riskvae.robustness._opening import open_coder
from riskvae.robustness._progress import examine_all
from riskvae.robustness._projection import ascent
from riskvae.robustness._radius import radius_of
from riskvae.robustness._result import METHODS, RobustnessMargin
from riskvae.robustness._search import Rays
from riskvae.robustness._upper import ATTEMPTS, Settings, attacked_margin, linearized_margin

Array = NDArray[np.float64]

# Decoded values for each row with n_draws="auto".
_DECODED = 24_000_000

_METHODS_RULE = Rule(
    lambda value: (
        (isinstance(value, str) and value in METHODS)
        or (isinstance(value, list | tuple) and len(value) > 0 and all(name in METHODS for name in value))
    ),
    "one or several of " + ", ".join(map(repr, METHODS)),
    kind=lambda value: isinstance(value, str | list | tuple),
)
_RULES = {
    "methods": _METHODS_RULE,
    "confidence": real(0.5, 1.0, closed="left"),
    "n_draws": integer(100) | choice("auto"),
    "norm": NORM,
    "max_norm": Rule(lambda value: value is None, "None") | real(0.0, closed="neither"),
    **RULES,
}


def robustness_margin(
    vae: Any,
    X: Any,
    *,
    r: float | ArrayLike | str = "auto",
    methods: str | Sequence[str] = METHODS,
    norm: float = 2,
    perturb: str = "mean",
    bounds: tuple[ArrayLike, ArrayLike] | None = None,
    mask: ArrayLike | None = None,
    confidence: float = 0.999,
    n_draws: int | Literal["auto"] = "auto",
    max_norm: float | None = None,
    n_steps: int = 20,
    n_restarts: int = 4,
    batch_size: int = 32,
    refine: int | None = None,
    random_state: Any = None,
    verbose: int = 0,
) -> RobustnessMargin:
    r"""Robustness margin of each row: how far it can be perturbed before its reconstruction moves by r.

    With the posterior N(mu(x), diag sigma(x)^2), the decoder's mean g and eta ~ N(0, I), let

    .. math:: \Delta(x, \delta) = g(\mu(x + \delta) + \eta \circ \sigma(x)) - g(\mu(x)).

    The model is r-robust at :math:`\delta` if :math:`P(\lVert \Delta \rVert_2 \le r) > \frac12`. The margin R is the
    largest radius within which it is r-robust for every :math:`\delta`. Lower bounds, with p the probability without a
    perturbation and J the Jacobian of mu:

    - "theorem1": :math:`\min_i \sigma_i \, \Phi^{-1}(p) / \lVert J \rVert_F`, the bound of the paper; for a norm other
      than 2, that of the Euclidean ball that contains the ball;
    - "whitened": :math:`\Phi^{-1}(p) / \lVert \mathrm{diag}(1/\sigma) J \rVert_{q \to 2}`, never smaller. The matrix
      norm is the largest singular value in norm 2 and the length of the longest column in norm 1. In norm infinity it
      is an upper bound by semidefinite relaxation, at most :math:`\sqrt{\pi / 2}` times the true value once it has
      converged;
    - "second_order": the same with another numerator than :math:`\Phi^{-1}(p)`, which follows from how fast the
      probability can fall at :math:`\delta = 0`. Antithetic draws estimate that; it hardly falls at all if the event is
      nearly symmetric. Never smaller than "whitened";
    - "third_order": the same, using the curvature, too: how far out the draws lie at which the event fails. Never
      smaller than "second_order";
    - "lipschitz": "whitened" with a proven Lipschitz constant of the encoder in place of the Jacobian. It has no
      first-order error, but is considerably smaller;
    - "proven": also without first-order error, and far larger. Inside a ball, each activation deviates from its tangent
      by no more than the range of its pre-activation allows. These ranges follow layer by layer from the network's own
      linear maps at the row, and bound how far the mean can be from its linearization.

    p is estimated from draws; bounds use its Clopper-Pearson lower limit, which caps :math:`\Phi^{-1}(p)` at 3.3 for
    30,000 draws and a confidence of .999. The upper bound is

    - "attack": the smallest norm at which a perturbation was found that breaks r-robustness, confirmed on fresh draws.

    An estimate between them is far cheaper than the attack:

    - "linearized": the smallest crossing along the leading singular directions of :math:`J_g J`, with the encoder
      linearized and the decoder as it is. In norm infinity, the directions are signs derived from these; in norm 1,
      their largest entries and the features that move the output most by themselves.

    Parameters
    ----------
    vae : estimator or object
        A fitted estimator, or any object with ``encode(x) -> (mean, scale)`` and ``decode(z) -> mean`` on tensors, such
        as a torch module.
    X : array-like of shape (n_samples, n_features)
        Rows. Estimators compute in the dtype of X: float32 is twice as fast. For other objects, any shape (n_samples,
        ...) that ``encode`` takes.
    r : float, array-like of shape (n_samples,) or "auto", default="auto"
        Radius of the reconstructions, above 0: a distance over all features, in the units of the decoder's output.
        "auto" is 1.5 times the median of :math:`\lVert \Delta(x, 0) \rVert` over rows and draws, that is, of the
        model's own noise. To compare models, use the same number for all of them.
    methods : str or sequence of str, default=all
        Bounds and estimates to compute.
    norm : {1, 2, numpy.inf}, default=2
        Norm of changes, in bounds and attack: 1 for changes of few features, numpy.inf for small changes of all.
    perturb : {"mean", "both"}, default="mean"
        Whether the attack moves only the posterior mean, as in the definition, or its scale, too. The lower bounds
        always refer to "mean".
    bounds : (low, high), default=None
        Box that changed rows must stay in, such as (0, 1) for pixels: numbers, or arrays of shape (n_features,) or of
        the shape of X. The margin is then that of changes inside the box; lower bounds hold for it, too.
    mask : array-like of bool, of shape (n_features,) or of the shape of X, default=None
        True for the features that may change; None for all. First-order bounds consider only these.
    confidence : float, default=0.999
        Joint confidence of each row's lower bounds, and confidence of its upper bound, in [0.5, 1). All that is
        estimated from draws for the chosen methods (p, slopes, curvatures) shares the error.
    n_draws : int or "auto", default="auto"
        Number of draws for the probability, and for each confirmation; at least 100. "auto" uses as many as give 24
        million decoded values, from 10,000 to 100,000: 30,612 for rows of 784 values.
    max_norm : float, default=None
        Largest norm that the attack and "linearized" try. None is a hundred times the norm that can move the row's
        latent distribution by one standard deviation, :math:`1/\lVert \mathrm{diag}(1/\sigma) J \rVert_{q \to 2}`.
    n_steps, n_restarts : int, default=20, 4
        Number of steps of the attack, and of its starts: the directions of "linearized" with both signs, then random
        ones.
    batch_size : int, default=32
        Number of rows processed together. Blocks are padded to this size, or to the next power of two if X has fewer
        rows, so a row's result depends on the other rows only by rounding.
    refine : int, default=None
        Number of steps that refine the posteriors (:meth:`riskvae.BetaVAE.encode`); the attack goes through them. None
        uses the estimator's own parameter. Nothing is certified for refined posteriors, and everything takes many times
        as long.
    random_state : int, RandomState or None, default=None
        Determines the draws, which all rows share.
    verbose : int, default=0
        1 shows progress.

    Returns
    -------
    RobustnessMargin
        Arrays of shape (n_samples,).

    Raises
    ------
    TypeError, ValueError
        For an invalid parameter; for a model whose outputs are not finite or whose scales are not positive.

    Notes
    -----
    Work per row: the decoder runs on ``n_draws`` points for the probability, as many for "second_order", "third_order"
    and "proven" together, as many for the confirmation, and about ``400 * n_steps * n_restarts / 3`` with their
    gradients in the attack (five times as many in norms 1 and infinity). To save time, in this order: pass float32
    rows; leave out "attack", to which "linearized" comes close; lower ``n_draws`` (at 2,000, bounds are 8 to 16%
    smaller), then ``n_steps``; for wide convolutions, leave out "proven", which then takes seconds per row. Memory per
    block: ``batch_size * n_restarts * 128`` decoded rows with their graph.

    References
    ----------
    Camuto, Willetts, Roberts, Holmes and Rainforth, "Towards a theoretical understanding of the robustness of
    variational autoencoders" (AISTATS 2021). Levine, Kumar, Goldstein and Feizi, "Tight second-order certificates for
    randomized smoothing" (2020).

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from riskvae import BetaVAE
    >>> from riskvae.robustness import robustness_margin
    >>> X = load_digits().data / 16
    >>> vae = BetaVAE(n_components=4, hidden_layer_sizes=(64,), random_state=0).fit(X)
    >>> margin = robustness_margin(vae, X[:8], n_draws=1000, random_state=0)
    >>> bool((margin.theorem1 <= margin.whitened).all() and (margin.whitened <= margin.upper).all())
    True
    """
    arguments = {name: value for name, value in locals().items() if name in _RULES}
    check_parameters("robustness_margin", arguments, _RULES)
    methods = (methods,) if isinstance(methods, str) else tuple(methods)
    seed = draw_seed(random_state)
    with open_coder(vae, X, refine) as coder:
        shape, k = tuple(coder.x.shape), coder.n_components
        n, d = shape[0], coder.x[0].numel()
        n_draws = _draws(coder) if isinstance(n_draws, str) else n_draws

        def bank(purpose: str, size: int, width: int = k, index: int = 0) -> Tensor:
            return noise_bank(size, width, derive_seed(seed, purpose, index), coder.x)

        random_starts = bank("starts", n_restarts, d)
        settings = Settings(
            methods,
            perturb,
            confidence,
            bank("probability", n_draws),
            paired_bank(128, k, derive_seed(seed, "search"), coder.x),
            bank("select", min(n_draws, max(2048, n_draws // 4))),
            [bank("confirm", n_draws, index=i) for i in range(ATTEMPTS)] if "attack" in methods else [],
            ascent(random_starts, 2),
            n_steps,
            norm,
        )
        radius = radius_of("robustness_margin", r, coder, seed, batch_size)
        if np.ndim(radius) == 0 and radius == 0:
            raise ValueError(
                "r='auto' is a multiple of how far the encoder's noise moves reconstructions, which is 0 here: the "
                "decoder does not look at z. Give r as a number, and check the model."
            )
        known = Known.of(coder, methods)
        box = Box.of("robustness_margin", coder, bounds, mask)

        def examine(rows: slice, x: Tensor) -> dict[str, Array]:
            at = in_block(radius, coder, rows, x)
            walls = None if box is None else box.around(rows, x)
            return _examine(coder, x, rows.stop - rows.start, at, settings, known, max_norm, walls)

        columns, stopped = examine_all("robustness_margin", coder.blocks(batch_size), n, verbose, examine)
    return _assemble(columns, radius, settings, known, shape, stopped)


def _draws(coder: Coder) -> int:
    """More draws where a reconstruction has fewer values."""
    with torch.no_grad():
        width = coder.decode(coder.mean(coder.x[:1])).shape[-1]
    return min(max(_DECODED // width, 10_000), 100_000)


def _examine(
    coder: Coder,
    x: Tensor,
    count: int,
    r: Tensor,
    settings: Settings,
    known: Known,
    max_norm: float | None,
    box: tuple[Tensor, Tensor] | None,
) -> dict[str, Array]:
    """Everything about one block of rows."""
    local = linearize(coder, x, None if box is None else (box[1] > box[0]).to(x), settings.norm)
    out = bounds_below(coder, x, count, local, r, settings, known, box)
    abstained = out["p_low"] <= 0.5
    out["linearized"], out["upper"] = (np.full(len(x), math.nan) for _ in range(2))
    out["delta"] = torch.zeros_like(x).flatten(1).cpu().numpy()
    if not {"linearized", "attack"} & set(settings.methods) or abstained.all():
        return out
    # The norm that moves the latent distribution by one standard deviation.
    slope = local.whitened.to(x)
    start = torch.where(slope > 0, 1.0 / slope.clamp(min=torch.finfo(x.dtype).tiny), 1.0)
    cap = torch.full_like(start, max_norm) if max_norm is not None else 100.0 * start
    rays = Rays(coder, x, local, settings.perturb, box, settings.norm)
    directions = leading_directions(coder, local, 3, settings.norm)
    if "linearized" in settings.methods:
        found = linearized_margin(rays, r, directions, start, cap, settings)
        out["linearized"] = np.where(abstained, math.nan, found.cpu().double().numpy())
    if "attack" in settings.methods:
        upper, delta = attacked_margin(rays, r, directions, start, cap, settings)
        out["upper"] = np.where(abstained, math.nan, upper.cpu().double().numpy())
        out["delta"][~abstained] = delta.cpu().numpy()[~abstained]  # zero where nothing was found
    return out


def _assemble(
    columns: dict[str, Array],
    radius: float | Array,
    settings: Settings,
    known: Known,
    shape: tuple[int, ...],
    stopped: str,
) -> RobustnessMargin:
    abstained, n_draws = columns["p_low"] <= 0.5, len(settings.bank)
    lower = np.fmax.reduce([columns[name] for name in BOUNDS])
    attacked = "attack" in settings.methods
    cap = probit(clopper_pearson(n_draws, n_draws, settings.bound_confidence)[0])
    notes = [stopped] if stopped else []
    capped = int((columns["p_robust"] == 1).sum())
    if capped:
        notes.append(
            f"Phi^-1(p_low) is at its cap of {cap:.2f} in {capped} rows: more than {n_draws:,} draws would raise their "
            "lower bounds"
        )
    notes += known.notes
    delta = columns.pop("delta").reshape(shape)
    return RobustnessMargin(
        **columns,
        lower=lower,
        abstained=abstained,
        censored=np.isinf(columns["upper"]) if attacked else np.zeros_like(abstained),
        r=radius,
        confidence=settings.confidence,
        perturb=settings.perturb,
        norm=settings.norm,
        delta=delta if attacked else None,
        notes=tuple(notes),
    )
