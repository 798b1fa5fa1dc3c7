"""The margin of robustness: bounds from below, an estimate, and an attack's bound from above."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from riskvae._validation import Rule, check_parameters, derive_seed, draw_seed, integer, real
from riskvae.robustness._checks import RULES, positive_per_row
from riskvae.robustness._coder import Coder, fill_up, noise_bank, open_coder, paired_bank
from riskvae.robustness._frame import to_frame
from riskvae.robustness._jacobian import Local, leading_directions, linearize
from riskvae.robustness._lipschitz import encoder_layers, linear_radius, whitened_lipschitz
from riskvae.robustness._noise import clopper_pearson, noise_distances, probit
from riskvae.robustness._progress import progress
from riskvae.robustness._reach import second_order_reach, slope_limit
from riskvae.robustness._search import Rays, crossing, least_norm_attack

Array = NDArray[np.float64]

METHODS = ("theorem1", "whitened", "second_order", "lipschitz", "linearized", "attack")
_BOUNDS = METHODS[:4]
# Attempts to confirm an upper end on fresh draws; each goes this much further out than the last.
_ATTEMPTS, _FURTHER = 4, 1.03


@dataclass(frozen=True, repr=False, eq=False)
class RobustnessMargin:
    r"""Margins of robustness of n rows, as :func:`robustness_margin` returns them.

    Attributes
    ----------
    theorem1, whitened, second_order : ndarray of shape (n,)
        First-order lower bounds, in the units of X: exact if the encoder's mean is affine, as a network of
        rectifiers is within ``linear_radius``. NaN where abstained or not asked for, as everywhere below.
    lipschitz : ndarray of shape (n,)
        Lower bound without a first-order error.
    linearized : ndarray of shape (n,)
        Estimate, no bound.
    certified : ndarray of shape (n,)
        Lower bound without a first-order error: the larger of ``lipschitz`` and of the first-order bounds cut at
        ``linear_radius``.
    lower : ndarray of shape (n,)
        Largest of the lower bounds asked for, row by row.
    upper : ndarray of shape (n,)
        Smallest norm at which the attack broke r-robustness, confirmed on fresh draws; infinite where censored.
    p_robust, p_low : ndarray of shape (n,)
        Share of draws within r of the unperturbed row, and its lower confidence limit as the bounds use it.
    linear_radius : ndarray of shape (n,)
        Radius in which the encoder's mean is exactly affine: 0 for curved activations, infinite for a linear
        encoder, NaN where the encoder cannot be looked into.
    abstained : ndarray of bool of shape (n,)
        Nothing is said of the row: its own noise breaks r-robustness, or may (``p_low`` at most 1/2).
    censored : ndarray of bool of shape (n,)
        No break was confirmed up to ``max_norm``.
    r : float or ndarray of shape (n,)
        Radius of the reconstructions.
    confidence : float
        Of each row's bounds together, and of its upper end.
    perturb : {"mean", "both"}
        What the perturbation moved.
    delta : ndarray of the shape of X, or None
        Perturbations of norm ``upper`` that the attack found; zero where it found none.
    notes : tuple of str
        What could not be computed, and why; caps of the method.
    """

    theorem1: Array
    whitened: Array
    second_order: Array
    lipschitz: Array
    linearized: Array
    lower: Array
    upper: Array
    p_robust: Array
    p_low: Array
    linear_radius: Array
    abstained: NDArray[np.bool_]
    censored: NDArray[np.bool_]
    r: float | Array
    confidence: float
    perturb: str
    delta: NDArray[Any] | None = None
    notes: tuple[str, ...] = field(default=())

    @property
    def certified(self) -> Array:
        """Lower bound without a first-order error, at the stated confidence.

        The larger of ``lipschitz`` and of the first-order bounds cut at ``linear_radius``; NaN where neither is known.
        """
        first_order = np.fmax(np.fmax(self.theorem1, self.whitened), self.second_order)
        return np.fmax(self.lipschitz, np.minimum(first_order, self.linear_radius))

    @property
    def guaranteed(self) -> bool:
        """Whether the bounds are about the perturbation that the attack made: for ``perturb="mean"``.

        Then lower <= margin <= upper, up to first order for all bounds but ``lipschitz``, and each side at the stated
        confidence.
        """
        return self.perturb == "mean"

    def to_frame(self) -> Any:
        """Rows as a pandas DataFrame, one column per array."""
        return to_frame(self, certified=self.certified, r=self.r)

    def __repr__(self) -> str:
        n = len(self.lower)
        r = f"{self.r:.4g}" if np.ndim(self.r) == 0 else f"{np.min(self.r):.4g} to {np.max(self.r):.4g}"
        lines = [
            f"RobustnessMargin of {n} row{'s' if n > 1 else ''}: r = {r}, perturb = {self.perturb!r}, "
            f"confidence = {self.confidence:g}; norms in the units of X",
            f"  {'':14}{'median':>10}{'least':>10}{'largest':>10}",
        ]
        for name in (*METHODS[:-1], "certified", "lower", "upper"):
            values = getattr(self, name)
            known = values[np.isfinite(values)]
            if len(known):
                cells = "".join(f"{value:>10.4g}" for value in (np.median(known), known.min(), known.max()))
                lines.append(f"  {name:14}{cells}")
        both = np.isfinite(self.lower) & np.isfinite(self.upper)
        if both.any():
            share = np.mean(self.lower[both] <= self.upper[both])
            meaning = (
                "as must be, up to first order" if share == 1 else "first-order bounds fail where the encoder bends"
            )
            meaning = meaning if self.guaranteed else "not guaranteed for perturb='both'"
            ratio = np.median(self.upper[both] / self.lower[both])
            lines.append(f"  lower <= upper in {share:.1%} of {both.sum()} rows ({meaning})")
            lines.append(f"  upper / lower {ratio:.2f} (median)")
        if self.abstained.any():
            why = "their own noise moves the reconstruction by more than r; take a larger r"
            lines.append(f"  abstained: {self.abstained.sum()} rows ({why})")
        if self.censored.any():
            lines.append(
                f"  censored: {self.censored.sum()} rows, no break confirmed up to max_norm; not counted above"
            )
        lines += [f"  {note}" for note in self.notes]
        return "\n".join(lines)


class _Settings(NamedTuple):
    methods: tuple[str, ...]
    perturb: str
    confidence: float
    bank: Tensor  # n_draws: the probability
    search: Tensor  # few: what the attack optimizes
    select: Tensor  # more: which ray it takes, and where this crosses
    fresh: list[Tensor]  # n_draws each: confirmation
    starts: Tensor  # random unit directions
    n_steps: int

    @property
    def bound_confidence(self) -> float:
        """Of p_low: where a slope is estimated too, both share the error, so that all bounds hold together."""
        return 0.5 * (1.0 + self.confidence) if "second_order" in self.methods else self.confidence

    @property
    def attempt_confidence(self) -> float:
        """Of each attempt to confirm an upper end, so that all together keep the stated confidence."""
        return 1.0 - (1.0 - self.confidence) / _ATTEMPTS


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
    "n_draws": integer(100),
    "max_norm": Rule(lambda value: value is None, "None") | real(0.0, closed="neither"),
    **RULES,
}


def robustness_margin(
    vae: Any,
    X: Any,
    *,
    r: float | ArrayLike | str = "auto",
    methods: str | Sequence[str] = METHODS,
    perturb: str = "mean",
    confidence: float = 0.999,
    n_draws: int = 10_000,
    max_norm: float | None = None,
    n_steps: int = 20,
    n_restarts: int = 4,
    batch_size: int = 32,
    random_state: Any = None,
    verbose: int = 0,
) -> RobustnessMargin:
    r"""Margin of robustness of each row: how far it can be pushed before its reconstruction moves by r.

    With the posterior N(mu(x), diag sigma(x)^2), the decoder's mean g and eta ~ N(0, I), let

    .. math:: \Delta(x, \delta) = g(\mu(x + \delta) + \eta \circ \sigma(x)) - g(\mu(x)).

    The model is r-robust at :math:`\delta` if :math:`P(\lVert \Delta \rVert_2 \le r) > \frac12`, and the margin R
    is the largest radius in which it is for every :math:`\delta`. Lower bounds, with p the probability without
    a perturbation and J the Jacobian of mu:

    - "theorem1": :math:`\min_i \sigma_i \, \Phi^{-1}(p) / \lVert J \rVert_F`, of the paper;
    - "whitened": :math:`\Phi^{-1}(p) / \lVert \mathrm{diag}(1/\sigma) J \rVert_2`, never smaller;
    - "second_order": the same with another reach than :math:`\Phi^{-1}(p)`, from how fast the probability can fall
      at :math:`\delta = 0`, which antithetic draws tell: hardly at all where the event is nearly symmetric. Never
      smaller than "whitened";
    - "lipschitz": "whitened" with a proven Lipschitz constant of the encoder in place of the Jacobian: no
      first-order error, and a good deal smaller.

    p is estimated from draws and enters by its Clopper-Pearson lower limit, which caps :math:`\Phi^{-1}(p)` at
    3.2 for 10,000 draws and a confidence of .999. From above:

    - "attack": the smallest norm at which a perturbation was found that breaks r-robustness, confirmed on
      fresh draws.

    And an estimate between them, by far cheaper than the attack:

    - "linearized": the smallest crossing along the leading singular directions of :math:`J_g J`, with the
      encoder linearized and the decoder as it is.

    Parameters
    ----------
    vae : estimator or object
        A fitted estimator, or any object with ``encode(x) -> (mean, scale)`` and ``decode(z) -> mean`` on
        tensors, such as a torch module.
    X : array-like of shape (n_samples, n_features)
        Rows. Estimators compute in its dtype: float32 is twice as fast. For other objects any shape
        (n_samples, ...) that ``encode`` takes.
    r : float, array-like of shape (n_samples,) or "auto", default="auto"
        Radius, in the units of the decoder's output, over all features: above 0. "auto" is 1.5 times the median
        of :math:`\lVert \Delta(x, 0) \rVert` over rows and draws: the model's own noise. To compare models, give all
        of them the same number.
    methods : str or sequence of str, default=all
        What to compute.
    perturb : {"mean", "both"}, default="mean"
        Whether the attack moves the posterior's mean, as in the definition, or its scale too. The lower bounds
        are about "mean" in either case.
    confidence : float, default=0.999
        Of each row's lower bounds, together, and of its upper end, in [0.5, 1). With "second_order" among the methods p
        and the slope take half of the error each, for all bounds.
    n_draws : int, default=10000
        Draws for the probability, and for each confirmation; at least 100.
    max_norm : float, default=None
        Largest norm that the attack and "linearized" try; None is a hundred times the norm that can move the row's
        latent distribution by one standard deviation, :math:`1/\lVert \mathrm{diag}(1/\sigma) J \rVert_2`.
    n_steps, n_restarts : int, default=20, 4
        Steps of the attack, and its starts: the leading singular directions with both signs, then random ones.
    batch_size : int, default=32
        Rows that are worked on together. Blocks are filled up to this size, so a row's answer does not depend
        on its company.
    random_state : int, RandomState or None, default=None
        Decides the draws, which all rows share.
    verbose : int, default=0
        1 shows progress.

    Returns
    -------
    RobustnessMargin
        Arrays of shape (n_samples,).

    Raises
    ------
    TypeError, ValueError
        For a bad parameter; for a model whose answers are not finite or whose scales are not positive.

    Notes
    -----
    Work per row: the decoder runs on ``n_draws`` points for the probability, as many for "second_order" and for the
    confirmation, and some ``400 * n_steps * n_restarts / 3`` with their gradients in the attack. To save time, in this
    order: give float32 rows; leave "attack" out, "linearized" comes near it; lower ``n_draws`` (the bounds
    lose little down to 2,000), then ``n_steps``. Memory per block: ``batch_size * n_restarts * 128`` decoded
    rows with their graph. A block costs as much for one row as for ``batch_size``.

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
    with open_coder(vae, X) as coder:
        shape, k = tuple(coder.x.shape), coder.n_components
        n, d = shape[0], coder.x[0].numel()

        def bank(purpose: str, size: int, width: int = k, index: int = 0) -> Tensor:
            return noise_bank(size, width, derive_seed(seed, purpose, index), coder.x)

        random_starts = bank("starts", n_restarts, d)
        settings = _Settings(
            methods,
            perturb,
            confidence,
            bank("probability", n_draws),
            paired_bank(128, k, derive_seed(seed, "search"), coder.x),
            bank("select", min(n_draws, 2048)),
            [bank("confirm", n_draws, index=i) for i in range(_ATTEMPTS)] if "attack" in methods else [],
            random_starts / random_starts.norm(dim=1, keepdim=True),
            n_steps,
        )
        radius = _radius(r, coder, bank("radius", min(n_draws, 256)), batch_size)
        layers = encoder_layers(coder.model)
        parts = []
        with progress("robustness_margin", n, verbose) as tell:
            for rows, count, x in coder.blocks(batch_size):
                at = fill_up(torch.as_tensor(np.broadcast_to(radius, n)[rows].copy()).to(coder.x), len(x))
                part = _examine(coder, x, at, settings, layers, max_norm)
                parts.append({name: values[:count] for name, values in part.items()})
                tell(count)
    return _assemble(parts, radius, settings, layers, shape)


def _radius(r: Any, coder: Coder, bank: Tensor, batch_size: int) -> float | Array:
    """Radius as a number or one per row."""
    if isinstance(r, str) and r == "auto":
        found = []
        for _, count, x in coder.blocks(batch_size):
            with torch.no_grad():
                mean, scale = coder.encode(x)
                found.append(noise_distances(coder, mean, scale, coder.decode(mean), bank)[:count].flatten().cpu())
        median = float(torch.cat(found).double().median())
        if median == 0:
            raise ValueError(
                "r='auto' is a multiple of how far the encoder's noise moves reconstructions, which is 0 here: the "
                "decoder does not look at z. Give r as a number, and check the model."
            )
        return 1.5 * median
    return positive_per_row("robustness_margin: r", r, len(coder.x), otherwise="'auto', ")


def _examine(
    coder: Coder, x: Tensor, r: Tensor, settings: _Settings, layers: Any, max_norm: float | None
) -> dict[str, Array]:
    """Everything about one block of rows."""
    local = linearize(coder, x)
    n_draws = len(settings.bank)
    noise = noise_distances(coder, local.mean, local.scale, local.reconstruction, settings.bank)
    inside = noise <= r[:, None]
    count = inside.sum(1).cpu().numpy()
    p_low, _ = clopper_pearson(count, n_draws, settings.bound_confidence)
    reach = np.where(p_low > 0.5, probit(np.maximum(p_low, 0.5)), math.nan)
    norms = {name: getattr(local, name).cpu().double().numpy() for name in ("frobenius", "whitened")}
    out = {"p_robust": count / n_draws, "p_low": p_low, "linear_radius": np.full(len(x), math.nan)}
    least = local.scale.amin(1).cpu().double().numpy()
    with np.errstate(divide="ignore"):
        whitened = reach / norms["whitened"]
        # No larger than the other in exact arithmetic either: one has relaxations that the other lacks.
        theorem1 = np.fmin(least * reach / norms["frobenius"], whitened)
    known = isinstance(layers, list)
    if known:
        out["linear_radius"] = linear_radius(layers, x).cpu().numpy()
    unknown = np.full(len(x), math.nan)
    out["theorem1"] = theorem1 if "theorem1" in settings.methods else unknown
    out["whitened"] = whitened if "whitened" in settings.methods else unknown
    out["second_order"] = unknown
    if "second_order" in settings.methods:
        reach_2 = _second_order_reach(coder, local, inside, p_low, r, settings)
        with np.errstate(divide="ignore"):
            out["second_order"] = np.where(np.isnan(reach), math.nan, reach_2 / norms["whitened"])
    out["lipschitz"] = unknown
    if known and "lipschitz" in settings.methods:
        with np.errstate(divide="ignore"):
            out["lipschitz"] = reach / whitened_lipschitz(layers, local.scale).numpy()
    out["linearized"], out["upper"] = unknown, unknown
    out["delta"] = np.zeros((len(x), x[0].numel()), dtype=x.cpu().numpy().dtype)
    if not {"linearized", "attack"} & set(settings.methods) or np.isnan(reach).all():
        return out
    # The norm that moves the latent distribution by one standard deviation.
    slope = local.whitened.to(x)
    scale_of_search = torch.where(slope > 0, 1.0 / slope.clamp(min=torch.finfo(x.dtype).tiny), 1.0)
    cap = torch.full_like(scale_of_search, max_norm) if max_norm is not None else 100.0 * scale_of_search
    rays = Rays(coder, x, local, settings.perturb)
    directions = leading_directions(coder, local, 3)
    if "linearized" in settings.methods:
        found = _linearized(rays, r, directions, scale_of_search, cap, settings)
        out["linearized"] = np.where(np.isnan(reach), math.nan, found.cpu().double().numpy())
    if "attack" in settings.methods:
        upper, delta = _attack(rays, r, directions, scale_of_search, cap, settings)
        out["upper"] = np.where(np.isnan(reach), math.nan, upper.cpu().double().numpy())
        found_one = np.isfinite(out["upper"])[:, None]
        out["delta"] = np.where(found_one, delta.cpu().numpy(), 0.0).astype(out["delta"].dtype)
    return out


def _second_order_reach(
    coder: Coder, local: Local, inside: Tensor, p_low: Array, r: Tensor, settings: _Settings
) -> Array:
    """Reach by probability and slope, each at half of the error that the confidence leaves.

    Shifts of the latent distribution lie in an ellipsoid, so the slope counts in the metric of its axes: a shift w of
    length theta times the longest axis x has a slope of at most M / theta, M the norm of diag(axes / x) U^T grad f. As
    the reach at M / theta falls by less than theta, theta = 1 is the worst.
    """
    mirrored = noise_distances(coder, local.mean, local.scale, local.reconstruction, -settings.bank) <= r[:, None]
    slope = slope_limit(inside, mirrored, settings.bank, local.weights, settings.bound_confidence)
    return second_order_reach(p_low, slope)


def _linearized(rays: Rays, r: Tensor, directions: Tensor, start: Tensor, cap: Tensor, settings: _Settings) -> Tensor:
    """Smallest crossing of the median over both signs of the directions, encoder linearized."""
    both = torch.cat((directions, -directions), 1)
    moves = torch.einsum("nkd,ncd->nck", rays.local.encoder, both)
    scale = rays.local.scale[:, None]

    def excess(bank: Tensor, moves: Tensor) -> Any:
        def measure(norm: Tensor) -> Tensor:
            mean = rays.local.mean[:, None] + norm[..., None] * moves
            return rays.quantile(mean, scale.expand_as(mean), bank, 0.5) - r[:, None]

        return measure

    count = both.shape[1]
    many = cap[:, None].expand(-1, count)
    coarse = crossing(
        excess(settings.search[:64], moves), 3.0 * start[:, None].expand(-1, count), many, spread=0.5, steps=2
    )
    near, best = coarse.min(1, keepdim=True)
    chosen = moves.gather(1, best[..., None].expand(-1, -1, moves.shape[-1]))
    near = torch.where(near.isfinite(), near, cap[:, None])
    return crossing(excess(settings.select[:512], chosen), near, cap[:, None], spread=0.1, steps=2)[:, 0]


def _attack(
    rays: Rays, r: Tensor, directions: Tensor, start: Tensor, cap: Tensor, settings: _Settings
) -> tuple[Tensor, Tensor]:
    """Smallest confirmed norm of a perturbation that breaks r-robustness, and the perturbation."""
    n, d = len(r), directions.shape[-1]
    signed = torch.stack((directions, -directions), 2).flatten(1, 2)
    random = settings.starts.expand(n, -1, -1)
    starts = torch.cat((signed, random), 1)[:, : len(settings.starts)]
    # A little below the median, so that fresh draws can show it: by what the limit asks, and for errors of both banks.
    n_draws, n_select = len(settings.bank), len(settings.select)
    error = 0.5 * math.sqrt(1 / n_draws + 1 / n_select)
    level = 0.5 - min(float(probit(settings.attempt_confidence)) * 0.5 / math.sqrt(n_draws) + 1.5 * error, 0.45)
    found, size = least_norm_attack(rays, r, level, starts, 2.0 * start, cap, settings.search, settings.n_steps)

    def excess(directions: Tensor, bank: Tensor) -> Any:
        def measure(norm: Tensor) -> Tensor:
            with torch.no_grad():
                mean, scale = rays.latent(norm[..., None] * directions)
            return rays.quantile(mean, scale, bank, level) - r[:, None]

        return measure

    # The ray that crosses first, by half as many draws again that the search did not see.
    few = settings.select[: 2 * len(settings.search)]
    coarse = crossing(excess(found, few), size, cap[:, None].expand_as(size), spread=0.05, steps=2)
    near, best = coarse.min(1, keepdim=True)
    chosen = found.gather(1, best[..., None].expand(-1, -1, d))
    near = torch.where(near.isfinite(), near, cap[:, None])
    norm = crossing(excess(chosen, settings.select), near, cap[:, None], spread=0.05, steps=3)[:, 0]
    upper = _confirm(rays, r, chosen, norm, cap, settings)
    return upper, torch.where(upper.isfinite(), upper, 0.0)[:, None] * chosen[:, 0]


def _confirm(rays: Rays, r: Tensor, chosen: Tensor, norm: Tensor, cap: Tensor, settings: _Settings) -> Tensor:
    """Norms at which fresh draws show that robustness is broken; inf where they do not."""
    upper = torch.full_like(norm, math.inf)
    for bank in settings.fresh:
        rows = (upper.isinf() & norm.isfinite() & (norm <= cap)).nonzero().flatten()
        if not len(rows):
            break
        part = rays.at(rows)
        with torch.no_grad():
            mean, scale = part.latent(norm[rows, None, None] * chosen[rows])
        distances = noise_distances(rays.coder, mean[:, 0], scale[:, 0], part.local.reconstruction, bank)
        count = (distances <= r[rows, None]).sum(1).cpu().numpy()
        _, high = clopper_pearson(count, len(bank), settings.attempt_confidence)
        broken = torch.as_tensor(high < 0.5).to(norm.device)
        upper[rows] = torch.where(broken, norm[rows], upper[rows])
        norm = torch.minimum(_FURTHER * norm, torch.where(norm < cap, cap, math.inf))
    return upper


def _assemble(
    parts: list[dict[str, Array]], radius: float | Array, settings: _Settings, layers: Any, shape: tuple[int, ...]
) -> RobustnessMargin:
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    abstained, n_draws = columns["p_low"] <= 0.5, len(settings.bank)
    lower = np.fmax.reduce([columns[name] for name in _BOUNDS])
    attacked = "attack" in settings.methods
    cap = probit(clopper_pearson(n_draws, n_draws, settings.bound_confidence)[0])
    notes = []
    capped = int((columns["p_robust"] == 1).sum())
    if capped:
        notes.append(
            f"Phi^-1(p_low) is at its cap of {cap:.2f} in {capped} rows: more than {n_draws:,} draws would raise their "
            "lower bounds"
        )
    if isinstance(layers, str):
        notes.append(f"lipschitz and linear_radius are not known: {layers}")
    delta = columns.pop("delta").reshape(shape)
    return RobustnessMargin(
        **columns,
        lower=lower,
        abstained=abstained,
        censored=np.isinf(columns["upper"]) if attacked else np.zeros_like(abstained),
        r=radius,
        confidence=settings.confidence,
        perturb=settings.perturb,
        delta=delta if attacked else None,
        notes=tuple(notes),
    )
