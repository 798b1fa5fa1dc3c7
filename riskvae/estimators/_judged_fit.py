"""A fit that judges its model by rows that the model has not seen: scores, thresholds and calibration."""

import math
from dataclasses import fields
from typing import Any, ClassVar, Literal

import numpy as np
import torch

from riskvae._validation import LARGEST, derive_seed
from riskvae.detection._calibration import Calibration, excess, quantile_at
from riskvae.detection._density import RowDensity
from riskvae.detection._kept import score_from, score_parts
from riskvae.detection._score import RowScore
from riskvae.estimators._base import BaseVAE
from riskvae.estimators._detection import DetectionMixin
from riskvae.estimators._in_parts import is_source
from riskvae.estimators._judging import (
    YOUNG,
    Aside,
    TrainedRows,
    blind_residuals_of,
    judged_parts,
    keys_of,
    residuals_of,
    set_aside,
    split_by_blocks,
    young_of,
)
from riskvae.estimators._types import Auto
from riskvae.persistence._tensors import check_tensors, put, taken
from riskvae.training._callbacks import Snapshots
from riskvae.training._rows import Rows
from riskvae.training._stream import Stream

__all__ = ["JudgedFit"]


# What comes of judging.
_JUDGED = ("offset_", "_line", "_calibration", "_row_score", "_trained")


class JudgedFit(DetectionMixin, BaseVAE):
    """Estimator whose fit keeps rows to judge by, and fits a score to what it makes of them."""

    calibration_fraction: float | Literal["cross"]
    n_folds: int | Auto

    _fitted: ClassVar = (*BaseVAE._fitted, *_JUDGED, "_snapshots")
    _may_ignore_groups = True  # they stay together wherever rows are held out

    def _set_aside(self, rows: Rows | Stream, seed: int) -> tuple[Rows | Stream, Aside | None]:
        goes_on = self.__sklearn_is_fitted__() and self.warm_start
        if self.calibration_fraction and goes_on:
            raise ValueError(
                f"{type(self).__name__}: calibration_fraction={self.calibration_fraction!r} cannot keep rows from a "
                "training that goes on (warm_start=True): earlier fits may have seen them. Set "
                "calibration_fraction=0.0, and call conformalize(X_cal) with rows that were never trained on."
            )
        train, aside = set_aside(self, rows, seed, judge=not goes_on)
        n_calibration = 0 if aside.calibration is None else len(aside.calibration)
        n_rows = rows.n_rows or len(train.head()) + n_calibration
        if self.calibration_fraction == "cross" and not aside.judges:
            raise ValueError(
                f"{type(self).__name__}: calibration_fraction='cross' calibrates with rows that judge the model, but "
                f"with {n_rows} rows and n_folds={self.n_folds!r} there are none. Pass more rows, or set n_folds=5."
            )
        if aside.calibration is not None and min(n_calibration, n_rows - n_calibration) < 2:
            raise ValueError(
                f"{type(self).__name__}: calibration_fraction={self.calibration_fraction!r} of {n_rows} rows sets "
                f"{n_calibration} aside and leaves {n_rows - n_calibration} to train on; both need at least 2. Pass "
                "more rows, or call conformalize(X_cal) after a fit with calibration_fraction=0.0."
            )
        most = self._epochs_by_steps[0] * self.batch_size
        if self.max_epochs == "auto" and isinstance(train, Rows) and len(train) > most:
            train = train.split(1 - most / len(train), derive_seed(seed, "enough"))[0]
        return train, aside

    def _hold_out(self, rows: Rows | Stream, fraction: float, seed: int) -> tuple[Rows | Stream, Rows]:
        return rows.split(fraction, seed) if isinstance(rows, Stream) else split_by_blocks(rows, fraction, seed)

    def _own_callbacks(self, n_epochs: int) -> list[Any]:
        # Of early stopping nobody knows where it ends; a later fit may go on for more epochs.
        self._snapshots = Snapshots(0.0 if self.early_stopping else 0.5 * YOUNG * n_epochs)
        return [self._snapshots]

    def _score_draws(self) -> torch.Tensor:
        draws = super()._score_draws()
        return torch.zeros_like(draws) if len(draws) == 1 else draws  # a single one is the mean

    def _steps_of_refinement(self, refine: int | None) -> int:
        return super()._steps_of_refinement(self.module_.refine if refine is None else refine)

    def _n_looked_at(self) -> int:
        """Rows that the score is fitted to."""
        return min(max(RowDensity.N_MIXED, 4 * 10**7 // self.n_features_in_), RowScore.N_ROWS)

    @torch.no_grad()
    def _after_training(self, X: Any, rows: Rows | Stream, kept: Aside | None, *, part: bool) -> None:
        seed, module = derive_seed(self._seed, "density"), self.module_
        some = rows.sample(self._n_looked_at(), seed)
        draws, n_rows = self._score_draws().to(some), rows.n_rows or len(some)
        snapshots = vars(self).pop("_snapshots", None)
        young = None if snapshots is None else snapshots.latest(YOUNG * self.best_iter_)
        ages = [module] + ([] if young is None else [young_of(module, young)])
        earlier, parts = self._row_score if part else None, []
        if kept is not None and kept.judges:
            with torch.enable_grad():
                parts = judged_parts(self, rows, kept, ages, self.best_iter_, seed)
            score, scores = RowScore.judged(parts, ages, some, draws, seed, n_rows)
        else:
            before = None if earlier is None else earlier.to(some.device)
            score, scores = RowScore.of_seen(module, some, draws, seed, n_rows, before)
        if len(score.densities) > 1:
            score.young = young
        self._row_score = score
        self._trained = self._keys_of_trained(rows, part or (kept is not None and kept.goes_on))
        self._calibration = self._line = None  # earlier ones are of other weights
        if kept is not None and kept.calibration is not None:
            places = kept.calibration
            held_out = places[:].numpy(force=True) if isinstance(places, Rows) else self._check_rows(X)[places]
            self._calibrate(held_out, self._share_of_anomalies())
            if self.contamination == "auto" and not part:
                self._warn_of_few(len(held_out), calibrated=True)
        elif self.calibration_fraction == "cross" and parts:
            residuals = torch.cat([residuals_of(judged.vaes[0], judged.held_out) for judged in parts])
            blind, share = blind_residuals_of(parts, derive_seed(seed, "left out")), self._share_of_anomalies()
            self._calibrate_by(scores.numpy(force=True), residuals.numpy(force=True), blind, share)
        if self.contamination != "auto":
            seen = some.numpy(force=True) if is_source(X) else self._check_rows(X)
            found = self._score(seen)
            if rows.world is not None and rows.world.sharded and not is_source(X):
                found = np.concatenate(rows.world.tell(found))
            scores = score.remember(torch.from_numpy(found), earlier, seed)
            self._draw_line(float(np.percentile(scores.numpy(force=True), 100.0 * self.contamination)))
        else:
            ascending = score.remember(scores, earlier, seed).sort().values.numpy(force=True)
            if self._calibration is None:
                self._allow_false_alarms(ascending[excess(ascending) :], quantile_at)
                if not part:
                    self._warn_of_few(len(ascending))
        score.cpu()  # from where a model can be loaded anywhere
        if rows.world is not None:  # of other processors the last bits may be others
            vars(self).update(rows.world.from_first({name: vars(self)[name] for name in _JUDGED}))

    # ------------------------------------------------------------------------------------------ files

    def _fitted_state(self, arrays: dict[str, Any], *, training: bool) -> dict[str, Any]:
        numbers, tensors = score_parts(self._row_score)
        put(arrays, "score", tensors)
        state = {
            **super()._fitted_state(arrays, training=training),
            "offset": float(self.offset_),  # it may be set by hand
            "line": self._line,
            "score": numbers,
            "trained": None if self._trained is None else self._trained._asdict(),
        }
        calibration = self._calibration
        if calibration is not None:
            state["calibration"] = {field.name: getattr(calibration, field.name) for field in fields(calibration)}
        return state

    def _answering(self, what: str) -> Any:
        if what != "score_samples":
            return super()._answering(what)
        modules = self._scoring()["module"]
        for density in modules[0].densities:
            density.noise.uses_own = bool(density.noise.own.any())
        return _scores, modules

    def _restore_score(self, state: Any, arrays: Any, net: Any) -> None:
        d = self.n_features_in_
        self.offset_ = state["offset"]
        line = state["line"]
        if not isinstance(self.offset_, float) or math.isnan(self.offset_) or not isinstance(line, tuple):
            raise ValueError("fitted: offset must be a number, and line must say what it was drawn for")
        if len(line) != 2 or not isinstance(line[1], float) or math.isnan(line[1]):
            raise ValueError("fitted: line must be a contamination and the offset that was drawn for it")
        self._line = line
        self._row_score = score_from(state["score"], taken(arrays, "score"), d, net.module_.n_components)
        if self._row_score.young is not None:
            check_tensors("score.young", net.module_.state_dict(), self._row_score.young)
        self._trained = None if state["trained"] is None else TrainedRows.from_state(state["trained"])
        found = state.get("calibration")
        self._calibration = (
            None if found is None else Calibration.from_state(found, d, net.module_.likelihood.values_per_feature)
        )

    def _share_of_anomalies(self) -> float:
        """Share of the rows that the user takes for anomalies; 0 where that is not said."""
        return 0.0 if self.contamination == "auto" else min(float(self.contamination), 0.49)

    def _keys_of_trained(self, rows: Rows | Stream, goes_on: bool) -> TrainedRows | None:
        earlier = self._trained if goes_on else None
        if isinstance(rows, Stream) or (goes_on and earlier is None):
            return None  # nobody knows all of them
        return TrainedRows.of(keys_of(rows), earlier)


def _scores(modules: Any, x: torch.Tensor) -> torch.Tensor:
    score, *vaes = modules
    return score(vaes, x.clamp(-LARGEST, LARGEST))
