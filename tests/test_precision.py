"""Training in lower precision: networks alone compute in it, losses follow those of float32, and files know of it."""

import pickle
import re
import threading
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from helpers import small
from skorch.callbacks import Callback
from torch import nn

import riskvae
from riskvae import BetaTCVAE, BetaVAE, QuantileVAE, RiskAwareVAE, nets
from riskvae._processor import Processor
from riskvae.likelihoods import Categorical, Gaussian, Mixed
from riskvae.training import WeightedELBO, _precision
from riskvae.training._precision import computed_in, precision_on

ALL = [BetaVAE, BetaTCVAE, RiskAwareVAE, QuantileVAE]
CPU, CUDA, MPS = torch.device("cpu"), torch.device("cuda", 0), torch.device("mps")
CUDNN, MATMUL = torch.backends.cudnn, torch.backends.cuda.matmul


@pytest.fixture(autouse=True)
def gains(monkeypatch):
    """A processor with bfloat16, whatever this one is: what has no units for it computes the same, only slower."""
    monkeypatch.setattr(_precision, "processor", lambda: Processor("test", bfloat16="AMX"))


def low(cls, **parameters):
    return small(cls, precision="bfloat16", device="cpu", **parameters)


# ------------------------------------------------------------------------------------- which device gains


def test_devices_that_gain(monkeypatch):
    assert precision_on("bfloat16", CPU) == ("bfloat16", "")
    assert precision_on("tf32", CPU) == ("float32", "TF32 is for CUDA devices")
    assert precision_on("bfloat16", MPS) == ("float32", "no gain is known there")
    for device in (CPU, CUDA, MPS):
        assert precision_on("float32", device) == ("float32", "")
    for capability, gained in (((7, 5), False), ((8, 0), True), ((9, 0), True), ((12, 0), True)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, found=capability: found)
        for asked in ("tf32", "bfloat16"):
            found, why = precision_on(asked, CUDA)
            assert (found == asked, why == "") == (gained, gained)


@pytest.mark.parametrize(
    ("asked", "why"),
    [("tf32", "TF32 is for CUDA devices"), ("bfloat16", "old is not known to have AMX or AVX-512 for bfloat16")],
)
def test_no_gain_is_told_and_training_goes_on_in_float32(X, monkeypatch, asked, why):
    monkeypatch.setattr(_precision, "processor", lambda: Processor("old"))
    message = f"BetaVAE: precision='{asked}' is not used on device 'cpu' ({why}), and training goes on in float32. Set"
    with pytest.warns(UserWarning, match=re.escape(message)) as told:
        found = small(BetaVAE, precision=asked, device="cpu").fit(X)
    assert sum("precision" in str(warning.message) for warning in told) == 1
    np.testing.assert_array_equal(found.transform(X), small(BetaVAE, device="cpu").fit(X).transform(X))
    assert found.get_params()["precision"] == asked


def test_another_word_is_refused(X):
    with pytest.raises(ValueError, match="precision must be one of 'float32', 'tf32', 'bfloat16'; got 'float16'"):
        small(BetaVAE, precision="float16").fit(X)


# ------------------------------------------------------------------------------------- what computes in it


class Watched(nn.Module):
    """A network that notes the precision of its layers, in training and in evaluation."""

    def __init__(self, n_in, n_out, seen):
        super().__init__()
        self.layer, self.seen = nn.Linear(n_in, n_out), seen

    def __deepcopy__(self, memo):
        other = Watched(self.layer.in_features, self.layer.out_features, self.seen)
        other.load_state_dict(self.state_dict())
        return other

    def forward(self, x):
        out = self.layer(x)
        self.seen.append((torch.is_grad_enabled() and self.training, x.dtype, out.dtype))
        return out


class Noting(WeightedELBO):
    seen: ClassVar[list] = []

    def forward(self, terms):
        self.seen.append({terms.nll.dtype, terms.kl.dtype, terms.z.dtype, terms.posterior.scale.dtype})
        return super().forward(terms)


class NotingVAE(BetaVAE):
    def make_objective(self):
        return Noting(self.beta)


def test_networks_compute_in_it_in_training_alone(X):
    seen, Noting.seen = [], []
    watched = partial(Watched, seen=seen)
    vae = low(NotingVAE, encoder=watched, decoder=watched, early_stopping=True)
    seen.clear()
    vae.fit(X)
    assert {(x, out) for training, x, out in seen if training} == {(torch.float32, torch.bfloat16)}
    evaluated = [out for training, _, out in seen if not training]
    assert evaluated.count(torch.bfloat16) == 2  # the trial of both before training
    assert evaluated.count(torch.float32) >= 2 * vae.n_iter_  # validation
    assert all(dtypes == {torch.float32} for dtypes in Noting.seen)
    assert {p.dtype for p in vae.module_.parameters()} == {torch.float32}
    assert vae.module_.lower is None
    seen.clear()
    for dtype in ("float32", "float64"):
        assert vae.transform(X.astype(dtype)).dtype == dtype
    assert torch.bfloat16 not in {out for *_, out in seen}


def test_losses_of_three_seeds_follow_those_of_float32():
    """The curve within 2 % of the way that the loss goes, its end within 2 % (at most .6 % when this was written)."""
    rng = np.random.default_rng(0)
    X = np.tanh(rng.normal(size=(600, 2)) @ rng.normal(size=(2, 12)) + 0.1 * rng.normal(size=(600, 12)))
    for seed in range(3):
        curves = []
        for precision in ("float32", "bfloat16"):
            vae = BetaVAE(
                2, hidden_layer_sizes=(64, 32), max_epochs=40, batch_size=64, random_state=seed, device="cpu",
                precision=precision,
            ).fit(X)  # fmt: skip
            curves.append(np.array([row["train_loss"] for row in vae.history_]))
        single, lower = curves
        assert (single != lower).all()
        assert abs(single[-1] - lower[-1]) < 0.02 * abs(single[-1])
        assert np.abs(single - lower).max() < 0.02 * (single[0] - single[-1])


def holes(X):
    X = X.copy()
    X[np.random.default_rng(1).random(X.shape) < 0.2] = np.nan
    return X


def coded(X):
    return np.column_stack((X[:, :3], X[:, 3] > 0.5))


IMAGE = {"image_shape": (2, 3), "channels": (4,)}
CASES = {
    "correlation": (BetaTCVAE, {"beta": 3.0}, None),
    "tail": (RiskAwareVAE, {"eps": 0.2}, None),
    "draws": (RiskAwareVAE, {"risk_over": "nested", "n_subsamples": 4, "eps_subsamples": 0.5}, None),
    "quantiles": (QuantileVAE, {"n_folds": 2}, None),
    "calibrated": (QuantileVAE, {"calibration_fraction": 0.3}, None),
    "holes": (BetaVAE, {}, holes),
    "holes, detector": (QuantileVAE, {"n_folds": 1}, holes),
    "bernoulli": (BetaVAE, {"likelihood": "bernoulli"}, None),
    "columns": (BetaVAE, {"likelihood": Mixed({**dict.fromkeys(range(3), Gaussian()), 3: Categorical()})}, coded),
    "early": (BetaVAE, {"early_stopping": True}, None),
    "images": (
        BetaVAE,
        {"encoder": partial(nets.conv_encoder, **IMAGE), "decoder": partial(nets.conv_decoder, **IMAGE)},
        None,
    ),
    "normalized": (
        BetaVAE,
        {"encoder": lambda a, b: nn.Sequential(nn.Linear(a, 8), nn.BatchNorm1d(8), nn.ELU(), nn.Linear(8, b))},
        None,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_it_works_with_all_else(X, name):
    """As float32 up to what bfloat16 rounds: its numbers have 8 bits, and the first epochs differ by few of them."""
    cls, parameters, change = CASES[name]
    rows = X if change is None else change(X)
    single, lower = small(cls, device="cpu", **parameters).fit(rows), low(cls, **parameters).fit(rows)
    losses = [np.array([row["train_loss"] for row in vae.history_]) for vae in (single, lower)]
    assert (losses[0] != losses[1]).any()
    np.testing.assert_allclose(losses[1], losses[0], rtol=0.02, atol=0.02)
    assert np.isfinite(lower.score_samples(rows)).all()
    np.testing.assert_allclose(lower.transform(rows), single.transform(rows), rtol=0.1, atol=0.1)
    assert lower.net_.module_.lower is None


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch by torch, while it compiles
def test_compiled_training_agrees(X):
    compiled, eager = low(BetaVAE, max_epochs=2, compile=True).fit(X), low(BetaVAE, max_epochs=2).fit(X)
    np.testing.assert_allclose(compiled.transform(X), eager.transform(X), rtol=2e-2, atol=1e-2)
    assert compiled.history_[-1]["train_loss"] == pytest.approx(eager.history_[-1]["train_loss"], rel=1e-2)


def test_a_callers_autocast_changes_nothing(X):
    """Nor do weights that are cast once stay cast: every step takes the present ones."""
    expected = low(BetaVAE).fit(X).transform(X)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = low(BetaVAE).fit(X).transform(X)
    np.testing.assert_array_equal(found, expected)


def test_training_goes_on_in_another(X):
    vae = low(BetaVAE, warm_start=True).fit(X)
    assert vae.net_.precision == "bfloat16"
    vae.set_params(precision="float32").fit(X)
    assert vae.net_.precision == "float32"
    single = small(BetaVAE, warm_start=True, device="cpu").fit(X).set_params(precision="bfloat16")
    assert single.partial_fit(X).net_.precision == "bfloat16"


class OfFloat32(nn.Linear):
    def forward(self, x):
        out = super().forward(x)
        if out.dtype == torch.bfloat16:
            raise RuntimeError("float32 alone")
        return out


def test_networks_that_fail_in_it_are_found_before_training(X):
    vae = low(BetaVAE, decoder=OfFloat32)
    message = (
        "precision='bfloat16': the encoder or the decoder fails in it on the first rows of X: RuntimeError: float32 "
    )
    with pytest.raises(ValueError, match=message + r"alone\. Set precision='float32'"):
        vae.fit(X)
    assert not hasattr(vae, "net_")
    vae.set_params(precision="float32").fit(X)


# ------------------------------------------------------------------------------------- TF32


def settings():
    found = [MATMUL.allow_tf32, CUDNN.allow_tf32, torch.get_float32_matmul_precision()]
    return [*found, MATMUL.fp32_precision, CUDNN.conv.fp32_precision] if hasattr(CUDNN, "conv") else found


@pytest.fixture(params=[(False, True), (False, False), (True, True)], ids=str)
def tf32(request, monkeypatch):
    """What a caller has switched on, and a device that gains."""
    before = MATMUL.allow_tf32, CUDNN.allow_tf32
    for room in ("_starting", "_fit_checks"):
        monkeypatch.setattr(f"riskvae.estimators.{room}.precision_on", lambda asked, device: (asked, ""))
    MATMUL.allow_tf32, CUDNN.allow_tf32 = request.param
    yield settings()
    MATMUL.allow_tf32, CUDNN.allow_tf32 = before
    if hasattr(CUDNN, "conv"):
        MATMUL.fp32_precision = "none"


class Look(Callback):
    def __init__(self, fails=False):
        self.fails, self.seen = fails, {True: [], False: []}

    def on_batch_end(self, net, training, **kwargs):
        self.seen[training].append(settings())
        if self.fails:
            raise OSError("the disk is full")


def test_tf32_is_on_in_training_alone(X, tf32):
    look = Look()
    vae = small(BetaVAE, precision="tf32", device="cpu", early_stopping=True, callbacks=[look]).fit(X)
    assert settings() == tf32
    assert all(found[:3] == [True, True, "high"] for found in look.seen[True])
    assert all(found == tf32 for found in look.seen[False])
    assert vae.net_.precision == "tf32"


def test_tf32_is_put_back_where_training_fails(X, tf32):
    with pytest.raises(OSError, match="the disk is full"):
        small(BetaVAE, precision="tf32", device="cpu", callbacks=[Look(fails=True)]).fit(X)
    assert settings() == tf32


def test_tf32_of_threads_ends_with_the_last(tf32):
    inside, out = threading.Event(), threading.Event()

    def other():
        with computed_in(None, "tf32"):
            inside.set()
            out.wait(10)

    thread = threading.Thread(target=other)
    with computed_in(None, "tf32"):
        thread.start()
        assert inside.wait(10)
    assert settings()[:2] == [True, True]  # the other one goes on
    out.set()
    thread.join()
    assert settings() == tf32


# ------------------------------------------------------------------------------------- what is kept


def test_files_have_it(X, tmp_path):
    vae = low(BetaVAE).fit(X)
    vae.save(tmp_path / "m.riskvae", training=True)
    loaded = riskvae.load(tmp_path / "m.riskvae", device="cpu")
    assert loaded.precision == "bfloat16"
    np.testing.assert_array_equal(loaded.transform(X), vae.transform(X))
    copy = pickle.loads(pickle.dumps(vae))
    weights = [other.partial_fit(X).transform(X) for other in (vae, loaded, copy)]
    np.testing.assert_array_equal(weights[1], weights[0])
    np.testing.assert_array_equal(weights[2], weights[0])


def test_files_of_earlier_versions_are_of_float32():
    loaded = riskvae.load(Path(__file__).with_name("data") / "format1.riskvae", device="cpu")
    assert (loaded.precision, loaded.net_.precision) == ("float32", "float32")


@pytest.mark.parametrize("cls", ALL)
def test_a_checkpoint_goes_on_in_its_own_precision_alone(X, tmp_path, cls, monkeypatch):
    kept = low(cls, max_epochs=2, checkpoint=tmp_path / "kept.pt").fit(X)
    monkeypatch.setattr(_precision, "processor", lambda: Processor("old"))
    with pytest.raises(ValueError, match="another training: precision is 'float32' here, and was 'bfloat16'"):
        small(cls, device="cpu", checkpoint=tmp_path / "kept.pt").fit(X)
    with (
        pytest.warns(UserWarning, match="training goes on in float32"),
        pytest.raises(ValueError, match="precision is 'float32' here, and was 'bfloat16'"),
    ):
        low(cls, checkpoint=tmp_path / "kept.pt").fit(X)
    monkeypatch.undo()
    monkeypatch.setattr(_precision, "processor", lambda: Processor("new", bfloat16="AVX-512"))
    longer = kept.set_params(max_epochs=3).fit(X)
    np.testing.assert_array_equal(longer.transform(X), low(cls).fit(X).transform(X))


def test_a_checkpoint_of_float32_does_not_go_on_in_another(X, tmp_path):
    small(BetaVAE, device="cpu", max_epochs=2, checkpoint=tmp_path / "kept.pt").fit(X)
    assert "precision" not in torch.load(tmp_path / "kept.pt")["made_of"]  # as of earlier versions
    with pytest.raises(ValueError, match="precision is 'bfloat16' here, and was 'float32'"):
        low(BetaVAE, checkpoint=tmp_path / "kept.pt").fit(X)
    assert small(BetaVAE, device="cpu", checkpoint=tmp_path / "kept.pt").fit(X).n_iter_ == 3
