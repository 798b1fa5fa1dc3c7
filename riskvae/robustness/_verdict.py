"""How far a row must be moved until a detector says otherwise: between what is proven and what an attack finds."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from riskvae._validation import check_parameters
from riskvae.robustness._checks import NORM, RULES
from riskvae.robustness._detector import open_detector
from riskvae.robustness._progress import examine_all
from riskvae.robustness._verdict_result import FALSE_ALARM, MASKING, VerdictMargin
from riskvae.robustness._verdict_search import Search, Settings

__all__ = ["verdict_margin"]

_RULES = {"norm": NORM, **{name: RULES[name] for name in ("n_steps", "n_restarts", "batch_size", "verbose")}}


def verdict_margin(
    detector: Any,
    X: Any,
    *,
    norm: float = 2,
    max_norm: float | ArrayLike | None = None,
    bounds: tuple[ArrayLike, ArrayLike] | None = None,
    mask: ArrayLike | None = None,
    references: Any = None,
    n_steps: int = 60,
    n_restarts: int = 4,
    batch_size: int = 64,
    random_state: Any = None,
    verbose: int = 0,
) -> VerdictMargin:
    r"""Smallest change of each row that flips ``predict``: hides an outlier, or turns an inlier into a false alarm.

    .. math:: R(x) = \min \{ \lVert \delta \rVert : \operatorname{predict}(x + \delta) \ne \operatorname{predict}(x) \}

    An outlier with a small margin can be hidden; an inlier with a small margin may set off a false alarm under noise of
    this size. The margin is bracketed, ``proven`` :math:`\le R \le` ``upper``:

    - ``upper`` is found by an attack and confirmed by the detector itself on ``X_adv``. The attack first follows rays:
      along gradients of each score and single features, in random directions, and towards the row's reconstruction and
      rows that the model generates. From the best of these it alternates gradient steps on shrinking balls with small
      trials, which need no gradient.
    - ``proven`` needs QuantileVAE, whose verdict is the smallest of several scores
      (:meth:`~riskvae.QuantileVAE.score_samples`). An outlier is hidden only if all of them rise above the threshold,
      so it suffices to prove that one cannot; for an inlier, all must be proven to stay above. The score of single
      features is a sum, and Lagrangian duality bounds what a change of some norm can add to it. For the networks,
      bounds on how far each activation deviates from its tangent give bounds on the posterior, the decoded values and
      the evidence bound.
    - ``estimate`` follows the smallest score with a few Newton steps, and guarantees nothing.

    Parameters
    ----------
    detector : estimator or object
        A fitted :class:`~riskvae.QuantileVAE`, or any object with ``decision_function(x)`` from a tensor of rows (n, d)
        to a tensor (n,), negative for outliers, such as a torch module. It is not modified.
    X : array-like of shape (n_samples, n_features)
        Rows, in the form that the detector takes; norms are in their units. Estimators compute in the dtype of X.
    norm : {1, 2, inf}, default=2
        Norm of changes. In norm 1 few features change, in norm infinity all change by the same amount.
    max_norm : float or array-like of shape (n_samples,), default=None
        Largest norm to search, above 0; None uses 100 times the norm of a row plus that of the spreads of the features.
    bounds : (low, high), default=None
        Box that changed rows must stay in: numbers, or arrays of shape (n_features,) or of the shape of X. X must lie
        in it. A feature with ``low == high`` may not change.
    mask : array-like of bool, of shape (n_features,) or of the shape of X, default=None
        True for the features that may change; None for all.
    references : array-like of shape (n, n_features), default=None
        Rows to start towards if they have the other verdict, such as the training rows. They help with a detector whose
        gradients vanish in places; QuantileVAE has its own.
    n_steps, n_restarts : int, default=60, 4
        Number of steps, and of small trials, in each round; number of starts.
    batch_size : int, default=64
        Number of rows processed together. A row's result depends on the other rows only by rounding.
    random_state : int, RandomState or None, default=None
        Determines directions and trials, which all rows share.
    verbose : int, default=0
        1 shows progress.

    Returns
    -------
    VerdictMargin

    Raises
    ------
    TypeError, ValueError
        For an invalid parameter; for a detector that does not decide with torch, such as an isolation forest; for a
        pipeline (pass its last step and transformed rows instead).

    References
    ----------
    Pintor, Roli, Brendel and Biggio, "Fast minimum-norm adversarial attacks through adaptive norm constraints" (2021).
    Brendel, Rauber and Bethge, "Decision-based adversarial attacks" (2018).

    Examples
    --------
    >>> import torch
    >>> from riskvae.robustness import verdict_margin
    >>> class Disk:
    ...     def decision_function(self, x):
    ...         return 1 - x.norm(dim=1)
    >>> margin = verdict_margin(Disk(), [[3.0, 4.0], [0.0, 0.5]], random_state=0)
    >>> margin.verdict, margin.upper.round(3)
    (array([-1,  1]), array([4. , 0.5]))
    """
    settings = Settings(**{name: value for name, value in locals().items() if name in Settings._fields})
    check_parameters("verdict_margin", locals(), _RULES)
    with open_detector(detector, X) as opened:
        search = Search("verdict_margin", opened, settings)
        blocks = opened.blocks(batch_size)
        found, stopped = examine_all("verdict_margin", blocks, len(opened.x), verbose, search.examine)
        confirmed = search.confirmed(found["delta"])
    outlier = search.decision < 0
    return VerdictMargin(
        verdict=np.where(outlier, -1, 1),
        kind=np.where(outlier, MASKING, FALSE_ALARM),
        estimate=found["estimate"].astype(np.float64),
        proven=found["proven"],
        **confirmed,
        score=search.decision + opened.offset,
        offset=opened.offset,
        norm=float(norm),
        max_norm=max_norm if max_norm is None else search.max_norm,
        notes=(*search.notes, *([stopped] if stopped else [])),
    )
