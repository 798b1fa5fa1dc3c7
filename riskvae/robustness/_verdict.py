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
    r"""Smallest change of each row that flips ``predict``: masks an outlier, or makes a false alarm of an inlier.

    .. math:: R(x) = \min \{ \lVert \delta \rVert : \operatorname{predict}(x + \delta) \ne \operatorname{predict}(x) \}

    A small margin of an outlier says that it can be hidden; one of an inlier, that noise of this size may set off an
    alarm. The margin is bracketed, ``proven`` :math:`\le R \le` ``upper``:

    - ``upper`` is found by attack, and the detector itself confirms it on ``X_adv``. Rays lead along gradients of each
      verdict and single features, at random, towards what the model makes of the row and rows that it would make. From
      the best of them go steps on shrinking balls, which gradients lead, and small trials, which need none, in turn.
    - ``proven`` needs QuantileVAE. To mask a row all verdicts must be won, and one that cannot be is proof enough; no
      false alarm needs all to stay. Features one by one are a sum, and what a change of some norm can add to it is
      bounded by Lagrange's duality. Of networks it is bounded how far each activation leaves its tangent, and from
      that how far posterior, decoded values and evidence bound may go.
    - ``estimate`` follows the verdict that is least by a few of Newton's steps, and promises nothing.

    Parameters
    ----------
    detector : estimator or object
        A fitted :class:`~riskvae.QuantileVAE`; or any object with ``decision_function(x)`` from a tensor of rows (n, d)
        to a tensor (n,), negative for outliers, such as a torch module. It is not changed.
    X : array-like of shape (n_samples, n_features)
        Rows, as the detector takes them: norms are in their units. Estimators compute in its dtype.
    norm : {1, 2, inf}, default=2
        Of changes. In norm 1 few features change, in norm infinity all by as much.
    max_norm : float or array-like of shape (n_samples,), default=None
        Up to where a flip is looked for, above 0; None for 100 times the norm of a row and of the features' spreads.
    bounds : (low, high), default=None
        Box that changed rows must stay in: numbers, or arrays of shape (n_features,) or of the shape of X. X must lie
        in it. A feature with ``low == high`` may not change.
    mask : array-like of bool, of shape (n_features,) or of the shape of X, default=None
        True for the features that may change; None for all.
    references : array-like of shape (n, n_features), default=None
        Rows to start towards where they have the other verdict, such as the training rows. They help with a detector
        that has no gradients in places; QuantileVAE has some of its own.
    n_steps, n_restarts : int, default=60, 4
        Steps, and as many small trials, in the first round; starts that take part.
    batch_size : int, default=64
        Rows that are worked on together. A row's answer depends on its company by rounding alone.
    random_state : int, RandomState or None, default=None
        Decides directions and trials, which all rows share.
    verbose : int, default=0
        1 shows progress.

    Returns
    -------
    VerdictMargin

    Raises
    ------
    TypeError, ValueError
        For a bad parameter; for a detector whose decisions are not made by torch, such as an isolation forest; for a
        pipeline, of which the model and transformed rows are to be passed.

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
