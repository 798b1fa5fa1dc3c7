"""What a caller has switched on in torch, what callbacks ask for, and modules that are not like ours."""

import copy
import datetime
import pickle
import warnings
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import small
from sklearn.base import clone
from skorch.callbacks import (
    Callback,
    Checkpoint,
    EarlyStopping,
    EpochScoring,
    GradientNormClipping,
    LRScheduler,
    TrainEndCheckpoint,
)  # fmt: skip
from torch import nn
from torch.nn.utils import parametrizations, spectral_norm, weight_norm

from riskvae import BetaVAE, QuantileVAE, RiskAwareVAE, max_damage_attack, robustness_margin
from riskvae.nets._parametrized import parametrized

# ------------------------------------------------------------------------------------------- modules


def net(n_in, n_out, *, layer):
    return nn.Sequential(layer(nn.Linear(n_in, 8)), nn.ReLU(), nn.Linear(8, n_out))


def of(layer):
    return partial(net, layer=layer)


class Casts(nn.Module):
    """Computes in single precision whatever comes."""

    def __init__(self, n_in, n_out):
        super().__init__()
        self.layer = nn.Linear(n_in, n_out)

    def forward(self, x):
        return self.layer(x.float())


class CastsBack(Casts):
    def forward(self, x):
        return super().forward(x).double()


class MakesTensors(Casts):
    def forward(self, x):
        return self.layer(x) + torch.zeros(self.layer.out_features)


def compiled(n_in, n_out):
    return torch.compile(nn.Linear(n_in, n_out), backend="eager")


MODULES = {
    "weight_norm": of(parametrizations.weight_norm),
    "spectral_norm": of(parametrizations.spectral_norm),
    "orthogonal": of(parametrizations.orthogonal),
    "casts": Casts,
    "casts back": CastsBack,
    "makes tensors": MakesTensors,
    "compiled": compiled,
}


# torch.compile reads the gradient of a tensor inside a graph, once per process, and hides torch's warning about
# it from people, but not from Python's filter "error", which the tests run under.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
@pytest.mark.parametrize("where", ["encoder", "decoder"])
@pytest.mark.parametrize("name", MODULES)
def test_modules_of_many_kinds_work_throughout(X, name, where):
    vae = small(BetaVAE, **{where: MODULES[name]}).fit(X)
    single, double = (rows.astype(dtype) for rows, dtype in ((X, "float32"), (X, "float64")))
    for method in ("transform", "reconstruct", "score_samples", "reconstruction_loss"):
        a, b = getattr(vae, method)(single), getattr(vae, method)(double)
        assert (a.dtype, b.dtype) == (np.float32, np.float64)
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)
    vae.sample(3, observation_noise=True)
    again, deep = pickle.loads(pickle.dumps(vae)), copy.deepcopy(vae)
    for other in (again, deep):
        np.testing.assert_array_equal(other.transform(X), vae.transform(X))
        other.partial_fit(X)
    before = vae.transform(X)
    vae.partial_fit(X)
    assert not np.allclose(vae.transform(X), before)
    for other in (again, deep):  # they go on as the original does, from what it was
        np.testing.assert_array_equal(other.transform(X), vae.transform(X))
    assert clone(vae).fit(X).n_iter_ == 3
    assert len(parametrized(again.module_)) == len(parametrized(vae.module_))


@pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated")
@pytest.mark.parametrize("norm", [weight_norm, spectral_norm])
@pytest.mark.parametrize("where", ["encoder", "decoder"])
def test_modules_that_cannot_be_copied_are_refused(X, norm, where):
    with pytest.raises(
        ValueError, match=rf"{where}: the module from .* cannot be copied.*torch.nn.utils.parametrizations"
    ):
        small(BetaVAE, **{where: of(norm)}).fit(X)


def test_modules_in_half_precision_are_refused(X):
    class Half(Casts):
        def forward(self, x):
            return self.layer(x.half()).float()

    with pytest.raises(ValueError, match="fails on 6 inputs in float32, in which training is done: mat1 and mat2"):
        small(BetaVAE, encoder=Half).fit(X)


def test_margins_of_a_parametrized_model(X):
    vae = small(BetaVAE, encoder=of(parametrizations.spectral_norm)).fit(X)
    for model in (vae, pickle.loads(pickle.dumps(vae))):
        assert (max_damage_attack(model, X[:3], max_norm=0.5, random_state=0).damage > 0).all()
        assert robustness_margin(model, X[:3], r=5.0, n_draws=200, random_state=0).lower.shape == (3,)


# ------------------------------------------------------------------------------------------- torch


@pytest.mark.parametrize("cls", [BetaVAE, RiskAwareVAE, QuantileVAE])
def test_autocast_and_a_default_device_change_nothing(X, cls):
    def all_of_it():
        vae = small(cls, device="cpu").fit(X)
        vae.partial_fit(X)
        attack = max_damage_attack(vae, X[:2], max_norm=0.5, random_state=0)
        return vae.transform(X), vae.score_samples(X), vae.sample(3, observation_noise=True), attack.delta

    expected = all_of_it()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = all_of_it()
    torch.set_default_device("meta")
    try:
        elsewhere = all_of_it()
    finally:
        torch.set_default_device(None)
    for found in (inside, elsewhere):
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_array_equal(a, b)


# --------------------------------------------------------------------------------------- callbacks


def mean_code(net, X, y):
    return float(net.module_.encode(X[:]).mean.detach().mean())


def test_epoch_scoring_records_what_a_function_of_the_rows_says(X):
    held = small(BetaVAE, early_stopping=True, callbacks=[EpochScoring(mean_code, on_train=False)]).fit(X)
    on_train = small(BetaVAE, callbacks=[EpochScoring(mean_code, on_train=True, name="code")]).fit(X)
    assert all(isinstance(row["mean_code"], float) for row in held.history_)
    assert on_train.history_[-1]["code"] == pytest.approx(float(on_train.transform(X).mean()), abs=1e-6)


@pytest.mark.parametrize(
    ("callback", "message"),
    [
        (
            EpochScoring(mean_code, on_train=False),
            "EpochScoring: 'mean_code' is computed on held-out rows",
        ),
        (
            EpochScoring("r2"),
            r"EpochScoring\(scoring='r2'\) compares predictions with y.*Pass a function \(net, X, y\)",
        ),
        (
            EarlyStopping("train_los"),
            "EarlyStopping watches 'train_los', which is not recorded.*Did you mean 'train_loss'",
        ),
        (Checkpoint(monitor="nonsense_best"), "Checkpoint watches 'nonsense_best', which is not recorded"),
        (EarlyStopping(), "EarlyStopping watches 'valid_loss', which is recorded where rows are held out"),
        (EarlyStopping, "EarlyStopping watches 'valid_loss', which is recorded where rows are held out"),
        (
            LRScheduler("OneCycleLR"),
            r"LRScheduler: policy='OneCycleLR' is not one .*torch.optim.lr_scheduler.OneCycleLR",
        ),
    ],
)
def test_callbacks_that_could_not_work_are_refused_before_training(X, callback, message):
    with pytest.raises(ValueError, match=f"BetaVAE: callbacks: {message}"):
        small(BetaVAE, callbacks=[callback]).fit(X)


def test_a_misspelled_schedule_is_answered_with_one_that_exists(X):
    with pytest.raises(ValueError, match="policy='CosineLR' .* such as torch.optim.lr_scheduler.Co"):
        small(BetaVAE, callbacks=[LRScheduler("CosineLR")]).fit(X)


def test_partial_fit_holds_out_no_rows_for_callbacks_to_watch(X):
    vae = small(BetaVAE, early_stopping=True, callbacks=[EarlyStopping()]).fit(X)
    with pytest.raises(ValueError, match="partial_fit trains on all rows it gets: call fit with early_stopping=True"):
        vae.partial_fit(X)


def test_callbacks_of_skorch_work(X, tmp_path):
    callbacks = [
        EpochScoring(mean_code, on_train=True, name="code"),
        EarlyStopping("code", patience=100),
        Checkpoint(monitor="train_loss_best", dirname=tmp_path),
        Checkpoint(monitor="code_best", dirname=tmp_path / "b"),
        TrainEndCheckpoint(dirname=tmp_path),
        GradientNormClipping(1.0),
    ]
    assert small(BetaVAE, callbacks=callbacks).fit(X).n_iter_ == 3


# ------------------------------------------------------------------------------------------- values


def test_dates_are_refused_by_name():
    days = np.array(["2020-01-01", "2020-01-03"], dtype="datetime64[D]").repeat(10).reshape(10, 2)
    frame = pd.DataFrame({"when": pd.date_range("2020", periods=10), "x": np.arange(10.0)})
    for rows, where in (
        (days, r"\(datetime64\[D\]\)"),
        (days - days[0, 0], r"\(timedelta64\[D\]\)"),
        (frame, "in 'when'"),
        (frame[["when"]], "in 'when'"),
        (pd.DataFrame({"d": frame["when"] - frame["when"][0], "x": frame["x"]}), "in 'd'"),
        (frame.assign(when=frame["when"].dt.tz_localize("UTC")), "in 'when'"),
    ):
        with pytest.raises(
            ValueError, match=f"X holds dates or durations {where}, which are not numbers. Turn them into"
        ):
            small(BetaVAE).fit(rows)
    vae = small(BetaVAE).fit(np.random.default_rng(0).normal(size=(10, 2)))
    with pytest.raises(ValueError, match="X holds dates or durations"):
        vae.transform(days)


@pytest.mark.parametrize("cls", [BetaVAE, RiskAwareVAE, QuantileVAE])
@pytest.mark.parametrize("scale", [1e-25, 1e-40, 1e25, 1e35])
def test_absurd_units_are_told(X, cls, scale):
    """Too small to be learned, which is warned of, or too large for squares in float32, which is an error."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            vae = small(cls).fit(X * scale)
        except ValueError as error:
            assert "scale X first" in str(error)  # noqa: PT017
        else:
            assert scale < 1
            assert any("scale X first (StandardScaler)" in str(warning.message) for warning in told)
            assert np.isfinite(vae.score_samples(X * scale)).all()


def test_what_other_callbacks_record_may_be_watched(X):
    class Records(Callback):
        def on_epoch_end(self, net, **kwargs):
            net.history.record("valid_mse", 1.0)

    for callbacks in (
        [Records(), EarlyStopping("valid_mse", patience=50)],
        [EpochScoring(mean_code, on_train=True, name="valid_code"), EarlyStopping("valid_code", patience=50)],
        [EarlyStopping("dur", patience=50)],
    ):
        assert small(BetaVAE, callbacks=callbacks).fit(X).n_iter_ == 3


def test_columns_of_text_are_named(X):
    frame = pd.DataFrame({"x": [1.0, 2.0, 3.0], "color": ["red", "blue", "red"]})
    with pytest.raises(
        ValueError, match="X holds str values in 'color', such as 'red', which are not numbers. Say what"
    ):
        small(BetaVAE).fit(frame)
    with pytest.raises(ValueError, match="X holds date values in 'when'"):
        small(BetaVAE).fit(frame[["x"]].assign(when=[datetime.date(2020, 1, day) for day in (1, 2, 3)]))


def test_an_offset_is_a_number(X):
    vae = small(QuantileVAE).fit(X)
    for value in (float("nan"), "x", np.zeros(2)):
        vae.offset_ = value
        with pytest.raises((TypeError, ValueError), match="QuantileVAE: offset_ must be a finite number"):
            vae.predict(X)
