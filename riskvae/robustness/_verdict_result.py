"""How far rows are from another verdict, and how that prints."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from riskvae.robustness._frame import to_frame

__all__ = ["VerdictMargin"]

Array = NDArray[Any]

MASKING, FALSE_ALARM = "masking", "false alarm"


@dataclass(frozen=True, repr=False, eq=False)
class VerdictMargin:
    r"""Margins of the verdicts on n rows, as returned by :func:`verdict_margin`: proven <= margin <= upper.

    Attributes
    ----------
    verdict : ndarray of int of shape (n,)
        ``predict`` of the unchanged rows: 1 for inliers, -1 for outliers.
    kind : ndarray of str of shape (n,)
        What a flip means: "masking" of an outlier, a "false alarm" for an inlier.
    upper : ndarray of shape (n,)
        Smallest norm at which the attack flipped the verdict, confirmed by the detector itself, in the units of X;
        infinite if censored.
    estimate : ndarray of shape (n,)
        Norm at which Newton steps reach the threshold; not a bound. NaN if the detector is flat.
    proven : ndarray of shape (n,)
        No change of a smaller norm flips the verdict; NaN if nothing is proven.
    censored : ndarray of bool of shape (n,)
        No flip was found up to ``max_norm``.
    score : ndarray of shape (n,)
        ``score_samples`` of the rows: their decisions plus ``offset``.
    offset : float
        Threshold: rows that score below it are outliers. 0 for a detector that has only decisions.
    X_adv : ndarray of the shape of X
        Changed rows; the row itself if censored.
    delta : ndarray of the shape of X
        ``X_adv - X``.
    norm : float
        Norm of changes.
    max_norm : float, ndarray of shape (n,) or None
        Largest norm that was searched.
    notes : tuple of str
        What could not be proven, and why; what interrupted the search.
    """

    verdict: NDArray[np.int_]
    kind: NDArray[np.str_]
    upper: Array
    estimate: Array
    proven: Array
    censored: NDArray[np.bool_]
    score: Array
    offset: float
    X_adv: Array
    delta: Array
    norm: float
    max_norm: float | Array | None = None
    notes: tuple[str, ...] = field(default=())

    def to_frame(self) -> Any:
        """Convert to a pandas DataFrame with one line per row and one column per number."""
        return to_frame(self, offset=self.offset, norm=self.norm)

    def __repr__(self) -> str:
        n = len(self.verdict)
        lines = [f"VerdictMargin of {n} row{'s' if n != 1 else ''}: norm {self.norm:g}, in the units of X"]
        for kind, what in ((MASKING, "outliers, to pass for inliers"), (FALSE_ALARM, "inliers, to become outliers")):
            of_kind = self.kind == kind
            if of_kind.any():
                lines += [f"  {kind}: {of_kind.sum()} {what}", *self._lines(of_kind)]
        return "\n".join([*lines, *(f"  {note}" for note in self.notes)])

    def _lines(self, rows: NDArray[np.bool_]) -> list[str]:
        told = []
        for name, meaning in (
            ("proven", "no smaller change"),
            ("estimate", "near it"),
            ("upper", "a change that does"),
        ):
            values = getattr(self, name)[rows]
            known = values[np.isfinite(values)]
            if len(known):
                ends = f"{known.min():>10.4g} to {known.max():.4g}"
                told.append(f"    {name:9}{np.median(known):>10.4g} (median){ends:24}{meaning}")
            else:
                told.append(f"    {name:9}{'none':>10}")
        never = np.isposinf(self.proven[rows]).sum()
        if never:
            told.append(f"    proven for {never} of them: no change that is allowed does")
        if self.censored[rows].any():
            told.append(f"    censored: {self.censored[rows].sum()}, no flip found up to max_norm; not in upper")
        return told
