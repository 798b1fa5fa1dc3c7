"""Rows that are anomalies: a score, a threshold, and p-values from held-out rows."""

import copy
import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from riskvae._machine import device_for
from riskvae._validation import LARGEST, check_parameters, has_missing, level_of_the_user, limited, real
from riskvae.detection._calibration import score_at
from riskvae.detection._line import Line
from riskvae.estimators._conformal import ConformalMixin
from riskvae.estimators._discoveries import FALSE_ALARMS
from riskvae.estimators._in_parts import in_parts
from riskvae.estimators._judging import young_of
from riskvae.likelihoods import Categorical, Mixed

__all__ = ["DetectionMixin"]

Array = NDArray[Any]

_offset = real(-math.inf, remedy="It is a score: rows below it are outliers.")

_OF_PYOD = {
    "labels_": "predict(X) is -1 for outliers and 1 for inliers",
    "decision_scores_": "score_samples(X) is larger for more normal rows",
    "threshold_": "offset_ is the score below which rows are outliers",
    "predict_proba": "conformal_p_values(X) says how likely a normal row is as unusual",
    "predict_confidence": "conformal_p_values(X) says how likely a normal row is as unusual",
}

# Rows this many interquartile ranges below the median are of another kind.
_FAR = 100.0


class DetectionMixin(ConformalMixin):
    """Methods of a fitted estimator that has a density of rows."""

    def __getattr__(self, name: str) -> Any:
        """Of what PyOD's detectors have, say what it is called here."""
        if name in _OF_PYOD:
            raise AttributeError(
                f"{type(self).__name__} has no {name}, as PyOD's detectors have: {_OF_PYOD[name]}. For PyOD's names "
                "and signs, use riskvae.estimators.PyODAdapter."
            )
        further = getattr(super(), "__getattr__", None)  # of a class beside this one
        return object.__getattribute__(self, name) if further is None else further(name)

    @in_parts
    def score_samples(self, X: Any, *, refine: int | None = None) -> Array:
        r"""How normal each row is: the smallest of three scores, in nats.

        .. math:: b(x) = E_{q(z|x)} \Bigl[ \sum_j \log p(x_j; m_j(z), s_j)
                  + \log \frac{\tilde q(z)}{q(z|x)} \Bigr], \qquad
                  t(x) = \sum_j \log \min(1, 2 F_j(x_j), 2 - 2 F_j(x_j))

        - b, the evidence bound of the trained networks. Values are normal around the decoder's medians m. The standard
          deviation s of a feature is its root mean squared error on unseen rows, or follows the decoded quantiles if
          its errors do. With a chance of one row in n + 1, a value can be anything. The prior :math:`\tilde q` is the
          mean posterior of 500 training rows;
        - the same bound of the networks after a fifth of their training, when they have not yet adapted to anomalies;
        - t, from single features: how far out each value lies in the distribution F of its feature.

        The last two are shifted and scaled to the median and the interquartile range of b on unseen rows. After
        ``partial_fit`` there is no early model, and so no second score. The expectation is evaluated at the posterior
        mean or, with ``n_score_samples`` above 1, as a mean over draws: pairs of orthogonal directions, the same for
        every row and every call.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or torch Dataset
            Rows.
        refine : int, default=None
            Number of steps that refine each row's posterior, as in :meth:`encode`. None uses the number that was used
            in fit. ``offset_`` and p-values belong to that number; scores with another have a threshold of their own.

        Returns
        -------
        ndarray of shape (n_samples,)
            Nats per row; smaller is more unusual.

        Warns
        -----
        UserWarning
            If values are missing and none were in training.

        References
        ----------
        Hoffman and Johnson, "ELBO surgery: yet another way to carve up the variational evidence lower bound" (2016).
        Li, Zhao, Hu, Botta, Ionescu and Chen, "ECOD: unsupervised outlier detection using empirical cumulative
        distribution functions" (2022).
        """
        rows = self._check_rows(X)
        if len(self._lacking) < self.n_features_in_ and has_missing(rows):
            _warn_of_holes(self, rows)
        return self._score(rows, refine=refine)

    def decision_function(self, X: Any) -> Array:
        """Score of each row minus the threshold: ``score_samples(X) - offset_``.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or torch Dataset
            Rows.

        Returns
        -------
        ndarray of shape (n_samples,)
            Negative for outliers.
        """
        scores = self.score_samples(X)
        check_parameters(type(self).__name__, {"offset_": self.offset_}, {"offset_": _offset})
        if self.contamination != self._line[0] and not self._is_set_by_hand():
            warnings.warn(
                f"{type(self).__name__}: contamination={self.contamination!r} was set after fit, which drew the line "
                f"for {self._line[0]!r}, so that line is still in use. Call fit again, or set offset_.",
                UserWarning,
                stacklevel=level_of_the_user(),
            )
        return scores - scores.dtype.type(self.offset_)

    def predict(self, X: Any) -> NDArray[np.int_]:
        """Predict whether each row is an inlier.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or torch Dataset
            Rows.

        Returns
        -------
        ndarray of int, of shape (n_samples,)
            1 for inliers, -1 for outliers. Rows are compared with the threshold one by one, as set by
            ``contamination``; to control the false discovery rate, use :meth:`detect`.
        """
        return np.where(self.decision_function(X) < 0, -1, 1)

    def _allow_false_alarms(self, scores: Array, level: Callable[[Array, float], float] = score_at) -> None:
        """Put the threshold where the usual share of some ascending scores is flagged."""
        self._draw_line(level(scores, FALSE_ALARMS))
        low, middle, high = np.percentile(scores, (25, 50, 75))
        far = scores < middle - _FAR * (high - low)
        if high > low and far.sum() >= 3 and far.mean() >= FALSE_ALARMS:
            warnings.warn(
                f"{type(self).__name__}: {far.sum()} of {len(scores)} rows score as low as {scores[0]:.2g}, while half "
                f"of them lie between {low:.3g} and {high:.3g}. The line that flags {FALSE_ALARMS:.0%} lies among "
                "these, so hardly anything will be flagged. Leave such rows (fill values?) out, or set offset_.",
                UserWarning,
                stacklevel=level_of_the_user(),
            )

    def _warn_of_few(self, n: int, *, calibrated: bool = False) -> None:
        """Say so where too few rows tell of the threshold."""
        fewest = math.ceil(1 / FALSE_ALARMS) - 1
        if n >= fewest:
            return
        if calibrated:
            rows = "calibration rows"
            remedy = (
                f"Set calibration_fraction='cross', with which every row counts, or a share of {fewest} rows or more"
            )
        else:
            rows = "rows"
            remedy = (
                f"Fit with {fewest} rows or more (with n_folds=5, each of them counts), set offset_, or set "
                "contamination to the share of these rows that you take for anomalies"
            )
        warnings.warn(
            f"{type(self).__name__}: {n} {rows} are too few to tell which {FALSE_ALARMS:.0%} of rows like them are "
            f"the most unusual, so predict may flag many more, or none. {remedy}.",
            UserWarning,
            stacklevel=level_of_the_user(),
        )

    def _draw_line(self, offset: float) -> None:
        """Put the threshold somewhere, and remember for what: whoever has set it since has the last word."""
        self.offset_ = offset
        self._line = (self.contamination, offset)

    def _is_set_by_hand(self) -> bool:
        return self.offset_ != self._line[1]

    def _score_parts(self, rows: Array) -> Array:
        """Verdicts that the score is the least favorable of, (n, n_verdicts), before they are aligned."""

        def verdicts(modules: Any, x: Tensor) -> tuple[Tensor]:
            score, *vaes = modules
            return (score.verdicts(vaes, x).T,)

        rows = limited(self._check_rows(rows))[0]
        return self._map_rows(verdicts, rows, **self._scoring())[0]

    def _scoring(self) -> dict[str, Any]:
        """The score, the model, and what it was early in its training, where that is known; and their width."""
        score, model = self._row_score, self.module_
        ages = [model]
        if score.young is not None:
            mark, young = self.net_.copies.get("young", (None, None))
            if mark is not score.young or next(young.parameters()).device != self.device_:
                young = young_of(model, score.young)
                self.net_.copies["young"] = score.young, young
            ages.append(young)
        return {"width": score.values_per_row(model), "module": nn.ModuleList((score, *ages))}

    def _line_on_tensors(self, dtype: torch.dtype) -> Line:
        """What :meth:`predict` decides by, as a module of tensors: copies, so that nothing here changes."""
        score, *vaes = self._scoring()["module"]
        score, vaes = copy.deepcopy(score), [vae.of_whole_rows() for vae in vaes]
        line = Line(score, vaes, float(self.offset_), LARGEST)
        device = device_for(torch.float64, self.device_)  # proofs take double precision, whatever the rows
        return line.to(device).to(dtype).eval().requires_grad_(False)

    def _score(self, rows: Array, refine: int | None = None) -> Array:
        def bound(modules: Any, x: Tensor) -> tuple[Tensor]:
            score, *vaes = modules
            return (score(vaes, x),)

        rows, excess = limited(rows)
        return self._scored(bound, rows, excess, refine=refine, **self._scoring())


def _warn_of_holes(estimator: Any, rows: Array) -> None:
    """Say so where values are missing in features that were known in all rows of the training."""
    holes, likelihood = np.isnan(rows), estimator.likelihood
    holes[:, estimator._lacking] = False
    names = getattr(estimator, "feature_names_in_", range(rows.shape[1]))
    if isinstance(likelihood, Mixed) and likelihood.unknown == "missing":  # as asked for
        holes[:, [isinstance(one, Categorical) for one in likelihood.columns.values()]] = False
    if not holes.any():
        return
    first = np.flatnonzero(holes.any(0))
    such = ", ".join(repr(names[j]) for j in first[:3]) + (", ..." if len(first) > 3 else "")
    n = int(holes.any(1).sum())
    warnings.warn(
        f"{type(estimator).__name__}: values are missing in {n:,} row{'' if n == 1 else 's'} of X (features {such}) "
        "that were known in all rows of the training. The networks have not learned to do without them, so such rows "
        "may look unusual. Fill them in first, as by impute(X), or fit with rows in which they are missing.",
        UserWarning,
        stacklevel=level_of_the_user(),
    )
