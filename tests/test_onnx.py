"""Methods as ONNX files: the same answers by onnxruntime, for any number of rows."""

import sys
from functools import partial

import numpy as np
import pytest
import torch
from test_columns import make_table

from riskvae import BetaTCVAE, BetaVAE, QuantileVAE, RiskAwareVAE
from riskvae.detection import _marginals
from riskvae.likelihoods import Likelihood, Mixed, Poisson
from riskvae.nets import conv_decoder, conv_encoder, lipschitz_decoder, lipschitz_encoder

pytest.importorskip("onnxscript")
onnx = pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")

KW = {"max_epochs": 3, "hidden_layer_sizes": (8, 4), "random_state": 0}
IMAGES = {
    "encoder": partial(conv_encoder, image_shape=(2, 3), channels=(3,)),
    "decoder": partial(conv_decoder, image_shape=(2, 3), channels=(3,)),
}
LIPSCHITZ = {
    "encoder": partial(lipschitz_encoder, image_shape=(2, 3), channels=(4,), hidden_layer_sizes=(8,)),
    "decoder": partial(lipschitz_decoder, image_shape=(2, 3), channels=(4,), hidden_layer_sizes=(8,)),
}
CASES = [
    (lambda: BetaVAE(2, **KW), "encode"),
    (lambda: BetaVAE(2, **IMAGES, **KW), "reconstruct"),
    (lambda: BetaVAE(2, **IMAGES, **KW), "score_samples"),
    (lambda: BetaVAE(2, **LIPSCHITZ, **KW), "reconstruct"),
    (lambda: RiskAwareVAE(2, likelihood="bernoulli", activation="gelu", **KW), "score_samples"),
    (lambda: BetaTCVAE(2, **KW), "score_samples"),
    (lambda: QuantileVAE(2, quantiles=(0.1, 0.4, 0.9), **KW), "reconstruct"),
    (lambda: QuantileVAE(2, **{**KW, "max_epochs": 12}), "score_samples"),
    (lambda: QuantileVAE(2, quantiles=(0.1, 0.4, 0.9), n_score_samples="auto", **KW), "score_samples"),
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", range(len(CASES)))
def test_onnxruntime_answers_as_the_method_does(X, tmp_path, case, capfd):
    """Within 1e-5 of the size of the answers, for one row and many, ties and far values among them."""
    make, what = CASES[case]
    rows = X.astype(np.float32)
    estimator = make().fit(rows)
    estimator.export_onnx(tmp_path / "m.onnx", what)
    far = rows if estimator.get_params().get("likelihood") == "bernoulli" else np.vstack((rows, 3 * rows[:9] - 1))
    session = runtime.InferenceSession(tmp_path / "m.onnx")
    names = [output.name for output in session.get_outputs()]
    assert names == (["mean", "scale"] if what == "encode" else [what])
    for n in (1, 7, len(far)):
        own = getattr(estimator, what)(far[:n])
        for found, expected in zip(session.run(None, {"X": far[:n]}), own if what == "encode" else (own,), strict=True):
            assert found.shape == expected.shape
            assert np.abs(found - expected).max() <= 1e-5 * (1 + np.abs(expected).max())
    told = {prop.key: prop.value for prop in onnx.load(tmp_path / "m.onnx").metadata_props}
    assert told["made_by"] == f"{type(estimator).__name__}.{what}"
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]
    assert capfd.readouterr() == ("", "")


class Reconstruct(torch.nn.Module):
    """What a user would export by hand."""

    def __init__(self, vae):
        super().__init__()
        self.vae = vae

    def forward(self, x):
        return self.vae.decode(self.vae.encode(x)[0])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("what", ["encode", "reconstruct", "score_samples"])
@pytest.mark.parametrize("make", [BetaVAE, QuantileVAE])
def test_tables_are_exported_by_their_codes(tmp_path, make, what):
    table = make_table(100)
    estimator = make(2, likelihood=Mixed({**Mixed.from_frame(table).columns, "visits": Poisson()}), **KW).fit(table)
    codes = estimator.likelihood.codes(table).to_numpy(np.float32)
    estimator.export_onnx(tmp_path / "m.onnx", what)
    found = runtime.InferenceSession(tmp_path / "m.onnx").run(None, {"X": codes})[0]
    if what == "reconstruct":
        expected = estimator._decoded(estimator.transform(codes))  # with codes for categories
    else:
        expected = estimator.score_samples(codes) if what == "score_samples" else estimator.encode(codes).mean
    assert np.abs(found - expected).max() <= 1e-5 * (1 + np.abs(expected).max())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_modules_export_by_hand_whatever_the_mode(X, tmp_path, mode):
    rows = X.astype(np.float32)
    vae = BetaVAE(2, **KW).fit(rows)
    with mode():
        torch.onnx.export(
            Reconstruct(vae.module_), (torch.tensor(rows),), str(tmp_path / "m.onnx"), dynamo=True, verbose=False
        )
        vae.export_onnx(tmp_path / "own.onnx")
    session = runtime.InferenceSession(tmp_path / "m.onnx")
    (found,) = session.run(None, {session.get_inputs()[0].name: rows})
    assert np.abs(found - vae.reconstruct(rows)).max() < 1e-5


def test_the_rank_of_exported_models_is_that_of_searchsorted():
    """Ties, ends, one value alone."""
    for m in (1, 2, 3, 8, 13):
        values = torch.randint(0, 5, (4, m)).float().sort(1).values
        x = torch.randint(-1, 6, (4, 50)).float()
        for right in (False, True):
            expected = torch.searchsorted(values, x, right=right)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(torch.compiler, "is_compiling", lambda: True)
                assert torch.equal(_marginals._rank(values, x, right=right), expected)


class Bessel(Likelihood):
    """Its mean has a function that ONNX lacks."""

    def mean(self, raw):
        return raw + torch.special.i1(raw)

    def nll(self, x, raw):
        return (x - raw).square().sum(-1)


def test_mistakes_are_told(X, tmp_path, monkeypatch):
    vae = BetaVAE(2, **KW).fit(X)
    with pytest.raises(ValueError, match="what must be one of 'encode', 'reconstruct', 'score_samples'; got 'predict'"):
        vae.export_onnx(tmp_path / "m.onnx", "predict")
    with pytest.raises(ValueError, match="must name a file in a folder that exists"):
        vae.export_onnx(tmp_path / "no" / "m.onnx")
    vae = BetaVAE(2, likelihood=Bessel(), **KW).fit(X)
    with pytest.raises(ValueError, match=r"BetaVAE.reconstruct cannot be written as ONNX: .*bessel_i1.*save the model"):
        vae.export_onnx(tmp_path / "m.onnx", "reconstruct")
    assert not list(tmp_path.iterdir())
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    monkeypatch.setattr("riskvae.persistence._onnx.find_spec", lambda name: None)
    with pytest.raises(ImportError, match="the extra onnx"):
        vae.export_onnx(tmp_path / "m.onnx")
