"""The margins of robustness of some rows, and how they print."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from riskvae.robustness._frame import to_frame

Array = NDArray[np.float64]

METHODS = ("theorem1", "whitened", "second_order", "third_order", "lipschitz", "proven", "linearized", "attack")
# What a line of the summary is.
_IN_WORDS = {
    **dict.fromkeys(METHODS[:4], "first-order bound"),
    **dict.fromkeys(("lipschitz", "proven", "certified"), "proven bound"),
    "linearized": "estimate",
    "lower": "largest of the bounds",
    "upper": "attack, confirmed",
}


@dataclass(frozen=True, repr=False, eq=False)
class RobustnessMargin:
    r"""Robustness margins of n rows, as returned by :func:`robustness_margin`.

    Attributes
    ----------
    theorem1, whitened, second_order, third_order : ndarray of shape (n,)
        First-order lower bounds, in the units of X. They are exact if the encoder's mean is affine, as that of a ReLU
        network is within ``linear_radius``. Here and below, NaN if abstained or not requested.
    lipschitz : ndarray of shape (n,)
        Lower bound without first-order error.
    proven : ndarray of shape (n,)
        The same, from the encoder's own linear maps at the row and what each activation can add to them; larger.
    linearized : ndarray of shape (n,)
        Estimate, not a bound.
    certified : ndarray of shape (n,)
        Lower bound without first-order error: the largest of ``lipschitz``, ``proven`` and the first-order bounds cut
        at ``linear_radius``; NaN for ``perturb="both"``.
    lower_is_certified : ndarray of bool of shape (n,)
        Whether ``lower`` has no first-order error, too.
    lower : ndarray of shape (n,)
        Largest of the requested lower bounds, row by row.
    upper : ndarray of shape (n,)
        Smallest norm at which the attack broke r-robustness, confirmed on fresh draws; infinite if censored.
    p_robust, p_low : ndarray of shape (n,)
        Share of draws within r of the unperturbed row, and its lower confidence limit, which the bounds use.
    linear_radius : ndarray of shape (n,)
        Radius within which the encoder's mean is exactly affine: 0 for curved activations, infinite for a linear
        encoder, NaN if the layers of the encoder are not known.
    abstained : ndarray of bool of shape (n,)
        No statement about the row: its own noise breaks r-robustness, or may do so (``p_low`` at most 1/2).
    censored : ndarray of bool of shape (n,)
        No break was confirmed up to ``max_norm``.
    r : float or ndarray of shape (n,)
        Radius of the reconstructions.
    confidence : float
        Joint confidence of each row's lower bounds, and confidence of its upper bound.
    perturb : {"mean", "both"}
        What the attack moved.
    norm : {1, 2, inf}
        Norm of changes.
    delta : ndarray of the shape of X, or None
        Perturbations of norm ``upper`` that the attack found; zero if it found none.
    notes : tuple of str
        What could not be computed, and why; limits of the method.
    """

    theorem1: Array
    whitened: Array
    second_order: Array
    third_order: Array
    lipschitz: Array
    proven: Array
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
    norm: float = 2
    delta: NDArray[Any] | None = None
    notes: tuple[str, ...] = field(default=())

    @property
    def certified(self) -> Array:
        """Lower bound without first-order error, at the stated confidence.

        The largest of ``lipschitz``, ``proven`` and the first-order bounds cut at ``linear_radius``. NaN if none is
        known, and for ``perturb="both"``, to which these bounds do not apply.
        """
        if not self.guaranteed:
            return np.full_like(self.lower, np.nan)
        first_order = np.fmax.reduce([self.theorem1, self.whitened, self.second_order, self.third_order])
        proven = np.fmax(self.lipschitz, self.proven)
        return np.fmax(proven, np.minimum(first_order, self.linear_radius))

    @property
    def lower_is_certified(self) -> NDArray[np.bool_]:
        """Whether each row's ``lower`` has no first-order error: no attack breaks such a row below it."""
        return np.asarray(self.lower <= self.certified)

    @property
    def guaranteed(self) -> bool:
        """Whether the bounds apply to the perturbation that the attack made: for ``perturb="mean"``.

        Then lower <= margin <= upper, each side at the stated confidence, and up to first order for all bounds but
        ``lipschitz`` and ``proven``.
        """
        return self.perturb == "mean"

    def to_frame(self) -> Any:
        """Convert to a pandas DataFrame with one column per array; ``lower_is`` describes each row's bound."""
        first_order = np.where(np.isnan(self.lower), "none", "first-order bound")
        told = np.where(self.lower_is_certified, "proven bound", first_order)
        known = {"certified": self.certified, "lower_is_certified": self.lower_is_certified, "lower_is": told}
        return to_frame(self, **known, r=self.r)

    def __repr__(self) -> str:
        n = len(self.lower)
        r = f"{self.r:.4g}" if np.ndim(self.r) == 0 else f"{np.min(self.r):.4g} to {np.max(self.r):.4g}"
        lines = [
            f"RobustnessMargin of {n} row{'s' if n > 1 else ''}: r = {r}, perturb = {self.perturb!r}, "
            f"confidence = {self.confidence:g}; norm {self.norm:g}, in the units of X",
            f"  {'':14}{'median':>10}{'least':>10}{'largest':>10}",
        ]
        for name in (*METHODS[:-1], "certified", "lower", "upper"):
            values = getattr(self, name)
            known = values[np.isfinite(values)]
            if len(known):
                cells = "".join(f"{value:>10.4g}" for value in (np.median(known), known.min(), known.max()))
                lines.append(f"  {name:14}{cells}   {_IN_WORDS[name]}")
        both = ~np.isnan(self.lower) & np.isfinite(self.upper)
        if both.any():
            share = np.mean(self.lower[both] <= self.upper[both])
            meaning = (
                "as must be, up to first order" if share == 1 else "first-order bounds fail where the encoder bends"
            )
            meaning = meaning if self.guaranteed else "not guaranteed for perturb='both'"
            lines.append(f"  lower <= upper in {share:.1%} of {both.sum()} rows ({meaning})")
            lines.append(f"  upper / lower {np.median(self.upper[both] / self.lower[both]):.2f} (median)")
        flat = np.isinf(self.lower)
        if flat.any():
            lines.append(
                f"  flat: {flat.sum()} rows, at which the encoder's mean does not move to first order, so that these "
                f"bounds are infinite; the attack broke {(flat & np.isfinite(self.upper)).sum()} of them"
            )
        if self.abstained.any():
            why = "their own noise moves the reconstruction by more than r; take a larger r"
            lines.append(f"  abstained: {self.abstained.sum()} rows ({why})")
        if self.censored.any():
            lines.append(
                f"  censored: {self.censored.sum()} rows, no break confirmed up to max_norm; not counted above"
            )
        lines += [f"  {note}" for note in self.notes]
        return "\n".join(lines)
