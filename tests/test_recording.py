"""Training steps that a GPU plays as a whole, held with a stand-in that takes them again."""

import copy
import pickle
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from skorch.callbacks import Callback

from riskvae import BetaTCVAE, BetaVAE, QuantileVAE, RiskAwareVAE
from riskvae.training import _recording
from riskvae.training._recording import Recording, recorder_of

SMALL = {"n_components": 2, "hidden_layer_sizes": (8,), "max_epochs": 4, "batch_size": 32, "random_state": 0}


class Player:
    """In place of a CUDA graph: takes the step again on what lies in the inputs, and writes to the outputs."""

    def __init__(self, step, inputs):
        self.step, self.inputs = step, inputs
        self.outputs = tuple(value.clone() for value in step(*inputs))

    def replay(self):
        for place, value in zip(self.outputs, self.step(*self.inputs), strict=True):
            place.copy_(value)


class Stream:
    device = torch.device("cpu")

    def __init__(self, *args):
        pass

    def wait_stream(self, other):
        pass


@pytest.fixture
def played(monkeypatch):
    """Recorders work on the CPU; a list of the recordings, each with how often it was played."""
    found = []

    def record(step, inputs, stream, pool):
        inputs = tuple(value.clone() for value in inputs)
        net = step.func.__self__
        # A graph is recorded without a step being taken: what the stand-in did is undone.
        before = [{k: v.clone() for k, v in part.state_dict().items()} for part in (net.module_, net.criterion_)]
        state = {k: {n: v.clone() for n, v in kept.items()} for k, kept in net.optimizer_.state.items()}
        player = Player(step, inputs)
        for part, values in zip((net.module_, net.criterion_), before, strict=True):
            part.load_state_dict(values)
        for key, kept in state.items():
            for name, value in kept.items():
                net.optimizer_.state[key][name].copy_(value)
        found.append([len(inputs[0]), 0])
        told, replay = found[-1], player.replay

        def counted():
            told[1] += 1
            replay()

        player.replay = counted
        return Recording(player, inputs, player.outputs)

    monkeypatch.setattr(_recording, "record", record)
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: Stream())
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(_recording, "_ON", ("cuda", "cpu"))
    return found


def rows(n=150):
    return np.random.default_rng(0).normal(size=(n, 6)).astype(np.float32)


MODELS = [
    BetaVAE(beta_warmup=3), BetaVAE(likelihood="bernoulli"), BetaTCVAE(beta=2.0), QuantileVAE(),
    RiskAwareVAE(eps=0.5), RiskAwareVAE(eps=0.5, eps_warmup=3), RiskAwareVAE(risk="seeking", eps=0.5),
    RiskAwareVAE(eps=0.5, risk_over="joint", n_subsamples=3), BetaVAE(early_stopping=True, n_iter_no_change=1),
]  # fmt: skip


@pytest.mark.parametrize("model", MODELS, ids=str)
def test_played_steps_train_the_same_model(model, played):
    X = rows() if model.likelihood != "bernoulli" else (rows() > 0).astype(np.float32)
    vae = model.set_params(**SMALL).fit(X)
    assert played
    n_played = sum(times for _, times in played)
    played.clear()
    _recording._ON = ("cuda",)
    alone = model.set_params(**SMALL).fit(X)
    assert not played
    assert n_played > 0
    for name, value in vae.module_.state_dict().items():
        assert torch.equal(value, alone.module_.state_dict()[name]), name
    np.testing.assert_array_equal(
        [row["train_loss"] for row in vae.history_], [row["train_loss"] for row in alone.history_]
    )


def test_a_step_is_taken_recorded_and_played(played):
    BetaVAE(**SMALL).fit(rows(160))  # 5 batches of 32
    assert played == [[32, 4 * 5 - 1]]


def test_each_size_of_batch_is_recorded(played):
    BetaVAE(**SMALL).fit(rows(150))  # 5 batches of 30
    assert played == [[30, 19]]
    played.clear()
    BetaVAE(**SMALL).fit(rows(158))  # 3 of 32 and 2 of 31
    assert sorted(played) == [[31, 2 * 4 - 1], [32, 3 * 4 - 1]]


class Lowers(Callback):
    """Changes something after the second epoch."""

    def __init__(self, what):
        self.what = what

    def on_epoch_end(self, net, **kwargs):
        if len(net.history) == 2:
            self.what(net)


def lower_rate(net):
    net.optimizer_.param_groups[0]["lr"] /= 10


def raise_beta(net):
    net.criterion_.beta = 4.0


def freeze(net):
    net.module_.encoder[0].requires_grad_(False)


def other_state(net):
    net.optimizer_.load_state_dict(copy.deepcopy(net.optimizer_.state_dict()))


@pytest.mark.parametrize("what", [lower_rate, raise_beta, freeze, other_state])
def test_what_a_callback_changes_is_recorded_anew(what, played):
    vae = BetaVAE(**SMALL, callbacks=[Lowers(what)]).fit(rows(160))
    assert [times for _, times in played] == [9, 10]
    _recording._ON = ("cuda",)
    alone = BetaVAE(**SMALL, callbacks=[Lowers(what)]).fit(rows(160))
    np.testing.assert_array_equal(vae.transform(rows()), alone.transform(rows()))


class Looks(Callback):
    def on_batch_end(self, net, **kwargs):
        pass


@pytest.mark.parametrize(
    "model",
    [
        BetaVAE(callbacks=[Looks()]),
        BetaVAE(encoder=lambda a, b: torch.nn.Sequential(torch.nn.Dropout(), torch.nn.Linear(a, b))),
        RiskAwareVAE(threshold="ema"),
        RiskAwareVAE(risk_over="groups"),
    ],
    ids=["batch callbacks", "dropout", "threshold", "groups"],
)
def test_what_does_more_than_its_kernels_is_not_recorded(model, played):
    groups = {"groups": np.arange(150) % 3} if getattr(model, "risk_over", None) == "groups" else {}
    model.set_params(**SMALL).fit(rows(), **groups)
    assert not played


def test_steps_that_cannot_be_recorded_are_taken_as_before(played, monkeypatch):
    alone = BetaVAE(**SMALL).fit(rows())

    def refuse(*args):
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(_recording, "record", refuse)
    with pytest.warns(UserWarning, match=r"kernel by kernel, with the same results.*not permitted"):
        vae = BetaVAE(**SMALL).fit(rows())
    np.testing.assert_array_equal(vae.transform(rows()), alone.transform(rows()))


def test_it_is_for_a_gpu():
    vae = BetaVAE(**SMALL).fit(rows())
    assert recorder_of(vae.net_) is None
    assert vae.net_.recorder is None


def test_recordings_do_not_travel(played):
    vae = BetaVAE(**SMALL).fit(rows())
    assert played
    assert pickle.loads(pickle.dumps(vae)).net_.recorder is None
