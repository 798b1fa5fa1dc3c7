"""Files of models that were made to do harm, and models that are hard to write: what load and save must bear."""

import copy
import hashlib
import io
import json
import resource
import subprocess
import sys
import threading
import warnings
import zipfile

import numpy as np
import pytest
import torch
from safetensors.numpy import load as tensors_of
from safetensors.numpy import save as as_bytes
from torch import nn

import riskvae
from riskvae import BetaVAE, QuantileVAE, RiskAwareVAE
from riskvae.inspect import describe, main

KW = {"max_epochs": 2, "hidden_layer_sizes": (4,), "random_state": 0}
MADE = {
    "mean": lambda: BetaVAE(2, **KW),
    "tail": lambda: RiskAwareVAE(2, eps=0.3, **KW),
    "chance": lambda: BetaVAE(2, **{**KW, "random_state": np.random.RandomState(0)}),
    "detector": lambda: QuantileVAE(2, calibration_fraction=0.2, **KW),
}


@pytest.fixture(scope="module")
def parts(X, tmp_path_factory):
    """Document and tensors of each model's file."""
    found, file = {}, tmp_path_factory.mktemp("parts") / "m"
    for name, make in MADE.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            make().fit(X).save(file, training=True)
        with zipfile.ZipFile(file) as archive:
            found[name] = json.loads(archive.read("model.json")), archive.read("tensors.safetensors")
    return found


def packed(document, content):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("model.json", json.dumps({**document, "sha256": hashlib.sha256(content).hexdigest()}))
        archive.writestr("tensors.safetensors", content)
    return out.getvalue()


def made(parts, name, features=None, tensors=None, fitted=None, settings=None, **parameters):
    """A file with other values."""
    document, content = copy.deepcopy(parts[name])
    document["parameters"].update(parameters)
    document["fitted"].update(fitted or {})
    document["fitted"]["optimizer"][0].update(settings or {})
    document["fitted"]["n_features"] = features or document["fitted"]["n_features"]
    return packed(document, as_bytes({**tensors_of(content), **(tensors or {})}) if tensors else content)


def call(function, *arguments, **keywords):
    name = f"riskvae.nets:{function}"
    return {"is": "partial", "function": name, "arguments": arguments, "keywords": keywords}


def spectral(spectrum):
    return {"is": "object", "class": "riskvae.risk:Spectral", "parameters": {"spectrum": spectrum}}


LONG = [2 * 10**4, 2 * 10**4]
IMAGE = {"image_shape": [200, 200], "channels": []}
LARGE = {
    "linear": ("mean", {"features": 30_000, "n_components": 9999,
                        "encoder": call("Linear"), "decoder": call("Linear")}),
    "negative": ("mean", {"encoder": call("mlp", hidden_layer_sizes=[*LONG, -(10**9)])}),
    "latent": ("mean", {"features": 40_000, "n_components": 20_000,
                        "encoder": call("conv_encoder", **IMAGE), "decoder": call("conv_decoder", **IMAGE)}),
    "outputs": ("mean", {"features": 10**6, "encoder": call("conv_encoder", channels=[3000, 1]),
                         "decoder": call("conv_decoder", channels=[1])}),
    "layers": ("mean", {"hidden_layer_sizes": [1] * 20_000}),
    "spectrum": ("tail", {"measure": spectral(call("mlp", 20_000, hidden_layer_sizes=LONG))}),
}  # fmt: skip


@pytest.mark.parametrize("name", LARGE)
def test_parameters_ask_for_no_more_memory_than_weights_need(parts, tmp_path, name):
    kind, changes = LARGE[name]
    (tmp_path / "bad").write_bytes(made(parts, kind, **changes))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match="far larger than the weights in the file"):
        riskvae.load(tmp_path / "bad")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # KB


def generator(place):
    return {"random_state": {"is": "RandomState", "of": {"is": "tuple", "of": ["MT19937", [0] * 624, place, 0, 0.0]}}}


NAN, ONES = {"is": "number", "value": "nan"}, np.ones((4, 6), np.float32)
BAD = {
    "no function": ("mean", {"encoder": call("ACTIVATIONS")}, "no such name"),
    "place beyond": ("chance", generator(10**9), r"place must be in \[0, 624\]"),
    "place before": ("chance", generator(-5), r"place must be in \[0, 624\]"),
    "betas": ("mean", {"settings": {"betas": "x"}}, "must have betas"),
    "rate": ("mean", {"settings": {"eps": NAN}}, "must have eps"),
    "moments": ("mean", {"tensors": {"optimizer.0.exp_avg_sq": -ONES}}, "at least 0"),
    "more": ("mean", {"tensors": {"optimizer.0.more": ONES}}, "does not have the parts"),
    "best": ("mean", {"fitted": {"best_epoch": 9}}, "best_epoch is 9"),
    "losses": ("mean", {"fitted": {"history": [{"train_loss": "x"}]}}, "no number for train_loss of epoch 1"),
    "unit": ("detector", {"tensors": {"module.encoder.0.scale": np.zeros((), np.float32)}}, "above 0"),
    "steps": ("detector", {"tensors": {"module.likelihood.unit": -np.ones(6, np.float32)}}, "above 0"),
    "keys": ("detector", {"tensors": {"fitted.trained.keys": np.arange(9, 0, -1).astype(np.uint64)}}, "must ascend"),
    "groups": ("mean", {"fitted": {"groups": {"a": 10**30}}}, "must map labels to numbers"),
    "rows": ("detector", {"tensors": {"fitted.calibration.residuals": np.zeros((1, 6, 3), np.float32)}}, "same rows"),
    "blind": ("detector", {"tensors": {"fitted.calibration.blind": np.zeros((99, 6, 3), np.float32)}}, "no more rows"),
    "array": ("mean", {"lr": {"is": "array", "of": [{"is": "tensor", "name": "module.encoder.0.bias"}]}}, "array of"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_values_that_would_do_harm_later_are_refused(parts, tmp_path, name):
    kind, changes, said = BAD[name]
    (tmp_path / "bad").write_bytes(made(parts, kind, **changes))
    with pytest.raises(ValueError, match=said) as refused:
        riskvae.load(tmp_path / "bad")
    assert str(tmp_path / "bad") in str(refused.value)


def test_a_file_names_no_path_to_write_to_and_no_callbacks(parts, tmp_path):
    (tmp_path / "m").write_bytes(made(parts, "mean", checkpoint=str(tmp_path / "c"), callbacks=[NAN]))
    loaded = riskvae.load(tmp_path / "m")
    assert loaded.checkpoint is None
    assert loaded.callbacks is None


def test_switches_of_the_optimizer_are_those_of_this_machine(parts, tmp_path):
    settings = {"fused": "x", "capturable": True, "lr": 0.5, "initial_lr": 0.1}
    (tmp_path / "m").write_bytes(made(parts, "mean", settings=settings))
    group = riskvae.load(tmp_path / "m").net_.optimizer_.param_groups[0]
    own = BetaVAE(2, **KW).fit(np.eye(6)).net_.optimizer_.param_groups[0]
    assert {**group, "params": 0} == {**own, "params": 0, "lr": 0.5, "initial_lr": 0.1}


def test_inspection_bears_any_document_and_steers_no_terminal(parts, tmp_path, capsys):
    document, content = copy.deepcopy(parts["mean"])
    deep = NAN
    for _ in range(300):
        deep = {"is": "tuple", "of": [deep]}
    document["parameters"] |= {"lr": {"is": "tuple", "of": 5}, "beta": deep}
    (tmp_path / "m").write_bytes(packed(document, content))
    assert "lr = ..." in describe(str(tmp_path / "m"))
    (tmp_path / "m").write_bytes(packed({**document, "format": 99, "riskvae": "\x1b[2J"}, content))
    assert main([str(tmp_path / "m")]) == 2
    assert "\x1b" not in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------- saving


def test_a_line_that_was_drawn_by_hand_comes_back(X, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        vae = QuantileVAE(2, **KW).fit(X)
    vae.offset_ = -3
    vae.save(tmp_path / "m")
    assert riskvae.load(tmp_path / "m").offset_ == -3.0


class Masked(nn.Module):
    """A network with a constant that is infinite."""

    def __init__(self, n_in, n_out):
        super().__init__()
        self.layer = nn.Linear(n_in, n_out)
        self.register_buffer("mask", torch.tensor([0.0, -torch.inf]))

    def forward(self, x):
        return self.layer(x) + self.mask.softmax(0)[1].to(x)


def test_constants_of_networks_may_be_infinite(X, tmp_path):
    vae = BetaVAE(2, encoder=Masked, **KW).fit(X)
    vae.save(tmp_path / "m", trusted=[__name__])
    np.testing.assert_array_equal(riskvae.load(tmp_path / "m", trusted=[__name__]).transform(X), vae.transform(X))


def test_threads_save_to_one_file_and_leave_nothing_else(X, tmp_path):
    vae, file, failed = BetaVAE(2, **KW).fit(X), tmp_path / ("x" * 250), []

    def work():
        try:
            for _ in range(20):
                vae.save(file)
                riskvae.load(file)
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert list(tmp_path.iterdir()) == [file]


def test_a_model_that_was_loaded_in_inference_mode_can_train(X, tmp_path):
    BetaVAE(2, **KW).fit(X).save(tmp_path / "m")
    with torch.inference_mode():
        loaded = riskvae.load(tmp_path / "m")
    assert loaded.partial_fit(X).n_iter_ == 3


def test_a_device_that_is_not_there_is_no_damage_of_the_file(X, tmp_path):
    BetaVAE(2, **KW).fit(X).save(tmp_path / "m")
    with pytest.raises(ValueError, match="^device='nonsense|^device must be"):
        riskvae.load(tmp_path / "m", device="nonsense")


def test_arrays_of_objects_and_what_is_no_list_of_modules_are_refused(X, tmp_path):
    vae = BetaVAE(2, **KW).fit(X)
    vae.save(tmp_path / "m")
    vae.beta = np.array([np.zeros(2), np.zeros(3)], dtype=object)
    with pytest.raises(ValueError, match="beta must be an array of finite numbers or strings"):
        vae.save(tmp_path / "n")
    with pytest.raises(TypeError, match="trusted must be a list"):
        riskvae.load(tmp_path / "m", trusted=None)


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pipes among files")
def test_nothing_but_a_file_is_replaced(X, tmp_path):
    subprocess.run(["mkfifo", tmp_path / "pipe"], check=True)
    with pytest.raises(ValueError, match="it is not a regular file"):
        BetaVAE(2, **KW).fit(X).save(tmp_path / "pipe")
