"""Files of models: the same answers anywhere, nothing that is executed, and a reason for every file that is none."""

import copy
import hashlib
import io
import json
import os
import random
import subprocess
import sys
import warnings
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load as tensors_of
from safetensors.numpy import save as as_bytes
from torch import nn

import riskvae
from riskvae import BetaTCVAE, BetaVAE, QuantileVAE, RiskAwareVAE
from riskvae.inspect import describe, main
from riskvae.likelihoods import Gaussian
from riskvae.nets import conv_decoder, conv_encoder
from riskvae.risk import Extremile, SmoothedCVaR, Spectral

KW = {"max_epochs": 3, "hidden_layer_sizes": (8, 4), "random_state": 0}
IMAGES = {"encoder": partial(conv_encoder, image_shape=(2, 3), channels=(3,))}
IMAGES["decoder"] = partial(conv_decoder, image_shape=(2, 3), channels=(3,))
MADE = {
    "mean": lambda: BetaVAE(2, **KW),
    "fixed noise": lambda: BetaVAE(2, likelihood=Gaussian(noise_scale=0.5), **KW),
    "bits": lambda: BetaVAE(2, likelihood="bernoulli", **KW),
    "images": lambda: BetaVAE(2, **IMAGES, **KW),
    "correlation": lambda: BetaTCVAE(2, **KW),
    "tail": lambda: RiskAwareVAE(2, eps=0.3, threshold="learned", measure=SmoothedCVaR(smoothing=0.5), **KW),
    "spectrum": lambda: RiskAwareVAE(2, measure=Spectral(Extremile(3)), **KW),
    "early": lambda: RiskAwareVAE(2, early_stopping=True, **{**KW, "random_state": np.random.RandomState(3)}),
    "detector": lambda: QuantileVAE(2, **KW),
    "calibrated": lambda: QuantileVAE(2, calibration_fraction=0.2, contamination=0.1, **KW),
    "crosswise": lambda: QuantileVAE(2, calibration_fraction="cross", **{**KW, "max_epochs": 12}),
}
METHODS = (
    "transform", "reconstruct", "reconstruction_loss", "score_samples", "predict", "decision_function", "detect",
    "conformal_p_values", "p_values", "z_scores", "predict_quantiles",
)  # fmt: skip


def answers(estimator, X):
    """What each method says of rows in both precisions; methods that need a calibration where there is one."""
    found = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in METHODS:
            needs = name in ("detect", "conformal_p_values") and not getattr(estimator, "is_calibrated", False)
            if hasattr(estimator, name) and not needs:
                for rows in (X, X.astype(np.float32)):
                    found[f"{name} {rows.dtype}"] = getattr(estimator, name)(rows)
        if getattr(estimator, "is_calibrated", False):
            found["interval"] = estimator.predict_interval(X, 0.2)
            found["interval without the value"] = estimator.predict_interval(X, 0.2, left_out=True)
    return found


@pytest.fixture(scope="module")
def fitted(X):
    """Each kind of model, trained a little."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {name: make().fit(X) for name, make in MADE.items()}


@pytest.mark.parametrize("name", MADE)
@pytest.mark.parametrize("training", [False, True])
def test_a_loaded_model_gives_the_same_answers(fitted, X, tmp_path, name, training):
    estimator, file = fitted[name], tmp_path / "model.riskvae"
    estimator.save(file, training=training)
    loaded = riskvae.load(file)
    assert type(loaded) is type(estimator)
    if name != "early":  # a generator prints its place in memory
        assert repr(loaded) == repr(estimator)
    assert loaded.history_ == estimator.history_
    assert (loaded.n_iter_, loaded.best_iter_) == (estimator.n_iter_, estimator.best_iter_)
    for key, value in answers(estimator, X).items():
        np.testing.assert_array_equal(answers(loaded, X)[key], value, err_msg=key)
    assert not any("part" in other.name for other in tmp_path.iterdir())
    again = tmp_path / "again.riskvae"
    loaded.save(again, training=training)
    assert again.read_bytes() == file.read_bytes()


@pytest.mark.parametrize("name", ["mean", "tail", "detector"])
def test_training_goes_on_bit_for_bit(X, tmp_path, name):
    file = tmp_path / "model.riskvae"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        one = MADE[name]().fit(X)
        one.save(file, training=True)
        other = riskvae.load(file)
        for estimator in (one, other):
            estimator.set_params(warm_start=True).fit(X)
            estimator.partial_fit(X[:100])
    assert one.history_[-1]["train_loss"] == other.history_[-1]["train_loss"]
    np.testing.assert_array_equal(one.score_samples(X), other.score_samples(X))


def test_another_process_on_other_threads_answers_alike(fitted, X, tmp_path):
    fitted["calibrated"].save(tmp_path / "model.riskvae")
    np.save(tmp_path / "X.npy", X)
    code = (
        "import sys, numpy as np, torch, riskvae; torch.set_num_threads(int(sys.argv[2])); "
        "m = riskvae.load(sys.argv[1] + '/model.riskvae'); X = np.load(sys.argv[1] + '/X.npy'); "
        "np.save(sys.argv[1] + '/s.npy', np.c_[m.score_samples(X), m.conformal_p_values(X)])"
    )
    own = np.c_[fitted["calibrated"].score_samples(X), fitted["calibrated"].conformal_p_values(X)]
    for threads in ("1", "2"):
        subprocess.run([sys.executable, "-c", code, tmp_path, threads], check=True, timeout=120)
        np.testing.assert_array_equal(np.load(tmp_path / "s.npy"), own)


def test_names_of_columns_groups_and_frozen_layers_come_back(X, tmp_path):
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame(X, columns=list("abcdef"))
    vae = RiskAwareVAE(2, risk_over="groups", **KW).fit(table, groups=np.array(list("xyz"))[np.arange(len(X)) % 3])
    vae.net_.module_.encoder[0].weight.requires_grad_(False)
    vae.save(tmp_path / "m")
    loaded = riskvae.load(tmp_path / "m", device="cpu")
    assert list(loaded.feature_names_in_) == list("abcdef")
    assert loaded._groups == {"x": 0, "y": 1, "z": 2}
    assert [n for n, p in loaded.module_.named_parameters() if not p.requires_grad] == ["encoder.0.weight"]
    assert loaded.device == "cpu"
    with pytest.raises(ValueError, match="feature names"):
        loaded.transform(table[list("bacdef")])


# ------------------------------------------------------------------------------------------------- trust

MODULE = """
import pathlib
from torch import nn
pathlib.Path(__file__).with_suffix(".ran").touch()
def encoder(n_in, n_out, width=4):
    return nn.Sequential(nn.Linear(n_in, width), nn.Tanh(), nn.Linear(width, n_out))
"""


def test_only_trusted_modules_are_imported(X, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "my_networks.py").write_text(MODULE)
    import my_networks

    vae = BetaVAE(2, encoder=partial(my_networks.encoder, width=3), **KW).fit(X)
    file = tmp_path / "m.riskvae"
    with pytest.raises(ValueError, match=r"encoder is encoder of my_networks.*trusted=\['my_networks'\]"):
        vae.save(file)
    vae.save(file, trusted=["my_networks"])
    del sys.modules["my_networks"]
    (tmp_path / "my_networks.ran").unlink()
    with pytest.raises(ValueError, match=r"m\.riskvae.*model\.json.*not trusted.*trusted=\['my_networks'\]"):
        riskvae.load(file)
    assert "my_networks" not in sys.modules
    assert not (tmp_path / "my_networks.ran").exists()
    loaded = riskvae.load(file, trusted=["my_networks"])
    np.testing.assert_array_equal(loaded.transform(X), vae.transform(X))
    del sys.modules["my_networks"]


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"encoder": lambda a, b: nn.Linear(a, b)}, "encoder is a lambda"),
        ({"encoder": nn.Linear}, r"encoder is Linear of torch\.nn.*trusted="),
        ({"callbacks": []}, r"callbacks.*set_params\(callbacks=None\)"),
    ],
)
def test_what_no_file_can_hold_is_refused_at_save(X, tmp_path, parameters, said):
    vae = BetaVAE(2, **parameters, **KW).fit(X)
    with pytest.raises(ValueError, match=said):
        vae.save(tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


def test_paths_and_states_are_checked(fitted, tmp_path):
    with pytest.raises(ValueError, match="must name a file in a folder that exists"):
        fitted["mean"].save(tmp_path / "no" / "m")
    with pytest.raises(ValueError, match="it is a folder"):
        fitted["mean"].save(tmp_path)
    with pytest.raises(ValueError, match="not fitted"):
        BetaVAE().save(tmp_path / "m")
    with pytest.raises(FileNotFoundError, match="there is no such file"):
        riskvae.load(tmp_path / "m")
    with pytest.raises(TypeError, match="trusted must be a list of names"):
        fitted["mean"].save(tmp_path / "m", trusted="torch")


# ------------------------------------------------------------------------------------------------- hostile files


MEMBERS = ("model.json", "tensors.safetensors")


class Mutable:
    """A file, taken apart."""

    def __init__(self, file):
        self.raw = file.read_bytes()
        with zipfile.ZipFile(file) as archive:
            self.document = json.loads(archive.read("model.json"))
            self.content = archive.read("tensors.safetensors")

    def packed(
        self, document=None, content=None, *, names=("model.json", "tensors.safetensors"), pack=zipfile.ZIP_STORED
    ):
        content = self.content if content is None else content
        document = {**(self.document if document is None else document), "sha256": hashlib.sha256(content).hexdigest()}
        out = io.BytesIO()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of names that are there twice
            with zipfile.ZipFile(out, "w", pack) as archive:
                for name in names:
                    archive.writestr(name, json.dumps(document) if "json" in name else content)
        return out.getvalue()

    def with_tensor(self, name, value):
        return self.packed(content=as_bytes({**tensors_of(self.content), name: value}))


@pytest.fixture(scope="module")
def whole(X, tmp_path_factory):
    """A small calibrated detector, with all that a file may hold."""
    file = tmp_path_factory.mktemp("whole") / "m.riskvae"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        vae = QuantileVAE(2, calibration_fraction=0.2, **{**KW, "hidden_layer_sizes": (4,)}).fit(X)
    vae.save(file, training=True)
    return Mutable(file)


def swap(m):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("model.json", m.content)
        archive.writestr("tensors.safetensors", json.dumps(m.document))
    return out.getvalue()


def with_value(m, value, *path):
    document = copy.deepcopy(m.document)
    inner = document
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = value
    return m.packed(document)


def large_header(m):
    header = json.dumps({"module.encoder.1.weight": {"dtype": "F32", "shape": [10**6, 10**6], "data_offsets": [0, 4]}})
    return m.packed(content=len(header).to_bytes(8, "little") + header.encode() + bytes(4))


WIDE = {"is": "tuple", "of": [10**9]}
OWN = {
    "is": "partial",
    "function": "riskvae.nets:conv_encoder",
    "arguments": [],
    "keywords": {"channels": [10**9], "image_shape": [2, 3]},
}
HOSTILE = {
    "truncated": (lambda m: m.raw[: len(m.raw) // 2], "the file: it is not a model of riskvae, or not complete"),
    "empty": (lambda m: b"", "the file: it is not a model"),
    "pickle": (lambda m: b"\x80\x04\x95\x00", "the file: it is a pickle"),
    "flipped": (lambda m: m.raw[:3000] + bytes([m.raw[3000] ^ 1]) + m.raw[3001:], "is not complete"),
    "swapped": (swap, "model.json: it is not JSON"),
    "other order": (lambda m: m.packed(names=("tensors.safetensors", "model.json")), "its members are"),
    "twice": (lambda m: m.packed(names=("model.json", "tensors.safetensors", "model.json")), "its members are"),
    "outside": (lambda m: m.packed(names=("model.json", "../tensors.safetensors")), "its members are"),
    "bomb": (lambda m: m.packed(content=bytes(10**8), pack=zipfile.ZIP_DEFLATED), "model.json: it is packed"),
    "newer": (lambda m: with_value(m, 99, "format"), "format 99, written by riskvae .* Upgrade riskvae"),
    "no format": (lambda m: with_value(m, "1", "format"), "format must be an integer"),
    "other class": (lambda m: with_value(m, "riskvae.risk:CVaR", "class"), "must be an estimator of riskvae"),
    "unknown class": (lambda m: with_value(m, "riskvae.estimators:os", "class"), "no such name"),
    "private": (lambda m: with_value(m, "riskvae._machine:os.system", "class"), "not trusted"),
    "code": (lambda m: with_value(m, {"is": "name", "of": "os:system"}, "parameters", "encoder"), "not trusted"),
    "wide": (lambda m: with_value(m, WIDE, "parameters", "hidden_layer_sizes"), "far larger"),
    "channels": (lambda m: with_value(m, OWN, "parameters", "encoder"), "far larger"),
    "features": (lambda m: with_value(m, 10**12, "fitted", "n_features"), "far larger"),
    "parameter": (lambda m: with_value(m, -1, "parameters", "lr"), "lr must be"),
    "unknown parameter": (lambda m: with_value(m, -1, "parameters", "nonsense"), "nonsense"),
    "class of another": (lambda m: with_value(m, "riskvae.estimators:BetaVAE", "class"), "unexpected keyword"),
    "huge": (large_header, "tensors.safetensors: it holds no tensors"),
    "nan": (lambda m: m.with_tensor("module.encoder.1.bias", np.full(4, np.nan, np.float32)), "is not finite"),
    "shape": (lambda m: m.with_tensor("module.encoder.1.bias", np.zeros(5, np.float32)), "shape"),
    "dtype": (lambda m: m.with_tensor("module.encoder.1.bias", np.zeros(4)), "float64"),
    "spare": (lambda m: m.with_tensor("module.more", np.zeros(4, np.float32)), "does not have the parts"),
    "score": (lambda m: m.with_tensor("score.marginals.spread", np.zeros(6, np.float32)), "above 0"),
    "steps": (
        lambda m: m.with_tensor("optimizer.0.exp_avg", np.zeros(3, np.float32)),
        "optimizer.0.exp_avg is torch.float32 of shape",
    ),
    "deep": (lambda m: m.packed({**m.document, "parameters": json.loads("[" * 500 + "]" * 500)}), "parameters"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused_with_file_and_part(whole, tmp_path, name):
    file = tmp_path / "bad.riskvae"
    make, said = HOSTILE[name]
    file.write_bytes(make(whole))
    with pytest.raises(ValueError, match=said) as refused:
        riskvae.load(file)
    assert str(file) in str(refused.value)


VALUES = [
    None, True, -1, 0, 1, 10**12, 10**400, 1e308, -0.5, "", "x", [], {}, [[]], {"is": "tuple", "of": []},
    {"is": "name", "of": "os:system"}, {"is": "name", "of": "riskvae.estimators:BetaVAE"},
    {"is": "number", "value": "nan"},
    {"is": "object", "class": "riskvae.risk:CVaR", "parameters": {"eps": 3}}, {"is": "tensor", "name": "trained.keys"},
    {"is": "partial", "function": "riskvae.nets:mlp", "arguments": [], "keywords": {"hidden_layer_sizes": [10**9]}},
    OWN,
]  # fmt: skip


def places(tree, path=()):
    """Ways to all parts of a document."""
    if path:
        yield path
    parts = tree.items() if isinstance(tree, dict) else enumerate(tree[:5]) if isinstance(tree, list) else ()
    for name, part in parts:
        yield from places(part, (*path, name))


def mutated(m, chance, ways):
    """The file with some bits flipped, its end cut off, or other values, headers and numbers, well packed."""
    kind = chance.choice(["flip", "cut", "value", "header", "numbers"])
    if kind == "flip":
        raw = bytearray(m.raw)
        for _ in range(chance.choice([1, 3, 20])):
            raw[chance.randrange(len(raw))] ^= 1 << chance.randrange(8)
        return bytes(raw)
    if kind == "cut":
        return m.raw[: chance.randrange(len(m.raw))]
    if kind == "value":
        return with_value(m, copy.deepcopy(chance.choice(VALUES)), *chance.choice(ways))
    content = bytearray(m.content)
    end = 8 + int.from_bytes(m.content[:8], "little") if kind == "header" else len(content)
    for _ in range(chance.choice([1, 3, 50])):
        content[chance.randrange(end)] = chance.randrange(256)
    return m.packed(content=bytes(content))


def loaded_or_reason(file):
    try:
        return riskvae.load(file), None
    except ValueError as error:
        return None, str(error)


def test_no_mutation_does_more_than_fail_with_a_reason(whole, X, tmp_path):
    """2,000 mutations, or as many as RISKVAE_MUTATIONS says: refused by file, or a model that answers."""
    chance, ways, file = random.Random(0), list(places(whole.document)), tmp_path / "bad.riskvae"
    answered, n = 0, int(os.environ.get("RISKVAE_MUTATIONS", 2_000))
    before = set(sys.modules)
    for _ in range(n):
        file.write_bytes(mutated(whole, chance, ways))
        loaded, reason = loaded_or_reason(file)
        if loaded is None:
            assert str(file) in reason
            continue
        answered += 1
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert len(loaded.score_samples(X)) == len(X)
            loaded.predict(X)
    assert 0 < answered < 0.3 * n
    assert {name for name in set(sys.modules) - before if name.split(".")[0] != "riskvae"} <= set()


def test_the_file_of_format_1_loads_for_ever():
    """Written by riskvae 0.1.0; on another processor the last bits may differ."""
    folder = Path(__file__).with_name("data")
    loaded, rows = riskvae.load(folder / "format1.riskvae"), np.load(folder / "format1_rows.npy")
    expected = np.load(folder / "format1_answers.npy")
    np.testing.assert_allclose(np.c_[loaded.score_samples(rows), loaded.conformal_p_values(rows)], expected, rtol=1e-4)
    assert loaded.n_iter_ == 3


# ------------------------------------------------------------------------------------------------- inspection


def test_inspection_tells_what_is_inside_without_torch(fitted, tmp_path, capsys):
    file = tmp_path / "m.riskvae"
    fitted["tail"].save(file)
    told = describe(str(file))
    for line in ("riskvae.estimators:RiskAwareVAE, format 1", "features: 6", "epochs: 3; the last: train_loss",
                 "  measure = riskvae.risk:SmoothedCVaR(eps=None, penalty='l2', smoothing=0.5)"):  # fmt: skip
        assert line in told
    code = f"import sys; from riskvae.inspect import main; main([{str(file)!r}]); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, capture_output=True)
    file.write_bytes(b"no")
    assert main([str(file)]) == 2
    assert "is not a model of riskvae" in capsys.readouterr().err
    assert main([]) == 2


def scored(lines, *arguments):
    """What the example answers to lines, and its exit status."""
    script = Path(__file__).parents[1] / "examples" / "score_rows.py"
    text = "\n".join([*lines, ""])
    done = subprocess.run([sys.executable, script, *arguments], input=text, capture_output=True, text=True, timeout=120)
    return done.stdout.splitlines(), done.returncode, done.stderr


@pytest.mark.filterwarnings("ignore:.*values are missing in 1 row")  # of a model of whole rows
def test_the_example_scores_rows_from_standard_input(fitted, X, tmp_path):
    vae = fitted["calibrated"]
    vae.save(tmp_path / "m.riskvae")
    np.savez(tmp_path / "scaler.npz", mean=np.full(6, 2.0), scale=np.full(6, 4.0))
    hole = X[1].copy()
    hole[2] = np.nan
    lines = [",".join(map(repr, (4.0 * X[0] + 2.0).tolist())), "1,2", "a,b,c,d,e,f"]
    lines.append(",".join("" if np.isnan(value) else repr(4.0 * value + 2.0) for value in hole.tolist()))
    answers, status, _ = scored(lines, tmp_path / "m.riskvae", tmp_path / "scaler.npz")
    assert answers[0] == f"{vae.score_samples(X[:1])[0]:.4f},inlier"
    assert [answer[:16] for answer in answers[1:3]] == ["error in line 2:", "error in line 3:"]
    assert answers[3].split(",")[0] == f"{vae.score_samples(hole[None])[0]:.4f}"
    assert status == 1
    fitted["tail"].save(tmp_path / "other.riskvae")
    assert scored([",".join(map(repr, X[0].tolist()))], tmp_path / "other.riskvae")[:2] == (
        [f"{fitted['tail'].score_samples(X[:1])[0]:.4f}"], 0,
    )  # fmt: skip
    assert "there is no such file" in scored([], tmp_path / "none.riskvae")[2]
    assert "scaler.npz" in scored([])[2]


def test_a_model_that_was_on_a_gpu_opens_here(X, tmp_path):
    """Tensors are written from wherever they are; this one believes to be on cuda."""
    vae = BetaVAE(2, **KW).fit(X)
    vae.device = "cuda"
    vae._placed = "cuda"
    vae.save(tmp_path / "m")
    loaded = riskvae.load(tmp_path / "m")
    assert loaded.device == "auto"
    assert loaded.device_ == torch.device(riskvae._machine.resolve_device("auto"))
