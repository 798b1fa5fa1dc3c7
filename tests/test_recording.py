"""Training steps that a GPU plays as a whole, held with a stand-in that takes them again."""

import copy
import pickle
import threading
import warnings
import weakref
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from joblib import Parallel, delayed
from sklearn.base import clone
from skorch.callbacks import Callback
from torch.utils._python_dispatch import TorchDispatchMode

from riskvae import BetaTCVAE, BetaVAE, QuantileVAE, RiskAwareVAE, _machine, batched_fits
from riskvae._machine import _on_gpu
from riskvae.likelihoods import Categorical, Gaussian, Mixed
from riskvae.training import _recording
from riskvae.training._objective import WeightedELBO
from riskvae.training._recording import Recorder, Recording, recorder_of
from riskvae.training._stack import Stack

SMALL = {"n_components": 2, "hidden_layer_sizes": (8,), "max_epochs": 4, "batch_size": 32, "random_state": 0}


class Player:
    """In place of a CUDA graph: takes the step again on what lies in the inputs, and writes to the outputs."""

    def __init__(self, step, inputs, told):
        self.step, self.inputs, self.told = step, inputs, told
        self.outputs = tuple(value.clone() for value in step(*inputs))

    def replay(self):
        self.told[1] += 1
        for place, value in zip(self.outputs, self.step(*self.inputs), strict=True):
            place.copy_(value)


class Stream:
    device = torch.device("cpu")

    def __init__(self, *args):
        pass

    def wait_stream(self, other):
        pass


def copied_numbers(owner):
    """What a stack has put on the device for its losses."""
    losses = owner._losses if isinstance(owner, Stack) else {}
    return [(sizes, mass) for sizes, loss in losses.items() for mass in loss._masses]


@pytest.fixture
def played(monkeypatch):
    """Recorders work on the CPU; a list of the recordings, each with how often it was played."""
    found = []
    players = {}  # by their pools

    def record(step, inputs, stream, pool):
        if pool in players and not any(player() for player in players[pool]):
            raise RuntimeError("use_count > 0 INTERNAL ASSERT FAILED")  # as torch does
        inputs = tuple(value.clone() for value in inputs)
        owner = step.func.__self__
        if isinstance(owner, Stack):
            tensors, optimizer = [*owner.parameters.values(), *owner.buffers.values()], owner.optimizer
        else:
            tensors = [value for part in (owner.module_, owner.criterion_) for value in part.state_dict().values()]
            optimizer = owner.optimizer_
        known = len(copied_numbers(owner))
        kept = [value for state in optimizer.state.values() for value in state.values()]
        before = [value.detach().clone() for value in (*tensors, *kept)]
        found.append([len(inputs[0]), 0])
        player = Player(step, inputs, found[-1])
        players.setdefault(pool, []).append(weakref.ref(player))
        # What a graph sets to 0 it sets to 0 each time, and it cannot copy what is not on the device yet.
        assert len(kept) == sum(map(len, optimizer.state.values()))
        assert known == len(copied_numbers(owner))
        # A graph is recorded without a step being taken: what the stand-in did is undone.
        with torch.no_grad():
            for value, was in zip((*tensors, *kept), before, strict=True):
                value.copy_(was)
        return Recording(player, inputs, player.outputs)

    monkeypatch.setattr(_recording, "record", record)
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", object)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: Stream())
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(_recording, "_ON", ("cuda", "cpu"))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "Training goes on kernel by kernel")
        yield found


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
    vae = clone(model).set_params(**SMALL).fit(X)
    assert played
    n_played = sum(times for _, times in played)
    played.clear()
    _recording._ON = ("cuda",)
    alone = clone(model).set_params(**SMALL).fit(X)
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


def empty_state(net):
    net.optimizer_.state.clear()


def other_optimizer(net):
    net._initialize_optimizer()


def other_objective(net):
    net.criterion_ = WeightedELBO(4.0).train()


def other_activation(net):
    net.module_.decoder[1] = torch.nn.Sigmoid()


def other_weights(net):
    layer = net.module_.encoder[0]
    layer.weight = torch.nn.Parameter(layer.weight.detach() / 2)
    net.optimizer_.param_groups[0]["params"] = list(net.module_.parameters())


CHANGES = [
    lower_rate, raise_beta, freeze, other_state, empty_state, other_optimizer, other_objective, other_activation,
    other_weights,
]  # fmt: skip


@pytest.mark.parametrize("what", CHANGES)
def test_what_a_callback_changes_is_recorded_anew(what, played):
    vae = BetaVAE(**SMALL, callbacks=[Lowers(what)]).fit(rows(160))
    assert [times for _, times in played] == [9, 9]
    _recording._ON = ("cuda",)
    alone = BetaVAE(**SMALL, callbacks=[Lowers(what)]).fit(rows(160))
    np.testing.assert_array_equal(vae.transform(rows()), alone.transform(rows()))


class Thaws(Callback):
    """Trains the first layer from the third epoch on."""

    def on_train_begin(self, net, **kwargs):
        net.module_.encoder[0].requires_grad_(False)

    def on_epoch_end(self, net, **kwargs):
        net.module_.encoder[0].requires_grad_(len(net.history) >= 2)


@pytest.mark.parametrize(("batch_size", "times"), [(32, [9, 9]), (160, [1, 1])])
def test_a_layer_that_thaws_gets_its_state_before_it_is_recorded(batch_size, times, played):
    small = {**SMALL, "batch_size": batch_size}
    vae = BetaVAE(**small, callbacks=[Thaws()]).fit(rows(160))
    assert [n for _, n in played] == times
    _recording._ON = ("cuda",)
    alone = BetaVAE(**small, callbacks=[Thaws()]).fit(rows(160))
    np.testing.assert_array_equal(vae.transform(rows()), alone.transform(rows()))


def test_other_draws_are_recorded_anew(played):
    def more_draws(net):
        net.n_draws = 3

    vae = BetaVAE(**SMALL, callbacks=[Lowers(more_draws)]).fit(rows(160))
    assert [times for _, times in played] == [9, 9]
    _recording._ON = ("cuda",)
    alone = BetaVAE(**SMALL, callbacks=[Lowers(more_draws)]).fit(rows(160))
    np.testing.assert_array_equal(vae.transform(rows()), alone.transform(rows()))


def test_a_single_batch_of_an_epoch_is_recorded_when_nothing_moves_any_more(played):
    model = RiskAwareVAE(**{**SMALL, "batch_size": 160, "max_epochs": 6}, eps=0.5, eps_warmup=2)
    vae = model.fit(rows(160))  # eps moves before the second and the third epoch
    assert played == [[160, 3]]
    _recording._ON = ("cuda",)
    np.testing.assert_array_equal(vae.transform(rows()), model.fit(rows(160)).transform(rows()))


@pytest.mark.parametrize("parameters", [{}, {"eps_warmup": 3}, {"beta_warmup": 3}, {"callbacks": [Lowers(lower_rate)]}])
def test_stacks_are_recorded_and_train_the_same_models(parameters, played, monkeypatch):
    monkeypatch.setattr("riskvae.estimators._batched_fits.resolve_device", lambda device: torch.device("cuda"))

    def fit_all():
        models = [RiskAwareVAE(**{**SMALL, **parameters, "eps": eps}) for eps in (0.3, 0.6)]
        with batched_fits():
            return Parallel(n_jobs=2)(delayed(model.fit)(rows(158)) for model in models)

    found = fit_all()
    assert sum(times for _, times in played) >= 8
    assert {n for n, _ in played} == {2}
    _recording._ON = ("cuda",)
    for vae, alone in zip(found, fit_all(), strict=True):  # rows lie elsewhere, which moves last digits
        np.testing.assert_allclose(vae.transform(rows()), alone.transform(rows()), rtol=0, atol=1e-5)


class Gradients(Callback):
    """Keeps the gradients that an epoch leaves behind."""

    def on_train_begin(self, net, **kwargs):
        self.seen_ = []

    def on_epoch_end(self, net, **kwargs):
        self.seen_.append([weights.grad for weights in net.module_.parameters()])


def test_gradients_are_those_of_the_recording_that_was_played(played):
    X, callback = rows(158), Gradients()  # the last batch has 32 rows, of which the first was recorded
    BetaVAE(**SMALL, callbacks=[callback]).fit(X)
    assert len(played) == 2
    third, fourth = callback.seen_[2:]
    assert all(a is b for a, b in zip(third, fourth, strict=True))


def watch_module(net):
    net.module_.encoder.register_forward_hook(lambda *args: None)


def watch_loss(net):
    net.criterion_.register_forward_hook(lambda *args: None)


def watch_gradient(net):
    net.module_.encoder[0].weight.register_hook(lambda gradient: None)


def watch_sum(net):
    net.module_.encoder[0].weight.register_post_accumulate_grad_hook(lambda weight: None)


def watch_optimizer(net):
    net.optimizer_.register_step_post_hook(lambda *args: None)


@pytest.mark.parametrize("what", [watch_module, watch_loss, watch_gradient, watch_sum, watch_optimizer])
def test_from_when_somebody_looks_on_nothing_is_played(what, played):
    BetaVAE(**SMALL, callbacks=[Lowers(what)]).fit(rows(160))
    assert played == [[32, 9]]


def test_steps_on_one_stream_wait_for_each_other(played, monkeypatch):
    stream = Stream()
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: stream)  # torch has few, and gives them out again
    inside, began, most = [], threading.Barrier(2, timeout=30), []

    def step(kind, x):
        inside.append(kind)
        most.append(len(inside))
        threading.Event().wait(0.1)
        inside.remove(kind)
        return (x,)

    optimizer = torch.optim.AdamW([torch.zeros(1, requires_grad=True)], lr=0.1)

    def take(kind):
        recorder = Recorder(step, optimizer, lambda: None, Stream.device)
        began.wait()
        recorder(kind, torch.zeros(1))

    threads = [threading.Thread(target=take, args=(kind,)) for kind in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert most == [1, 1]


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


def test_what_asks_of_each_batch_whether_values_are_missing_is_not_recorded(played):
    X = rows()
    X[::7, 2] = np.nan
    vae = BetaVAE(**SMALL).fit(X)  # is told of them
    assert played
    vae = BetaVAE(**SMALL).fit(rows())
    played.clear()
    vae.partial_fit(X)  # was trained on whole rows
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


def test_numbers_that_a_recording_may_read_stay_where_they_are():
    first = _on_gpu((0.5,), torch.float32, torch.device("cpu"))
    for i in range(200):
        _on_gpu((float(i),), torch.float32, torch.device("cpu"))
    assert _on_gpu((0.5,), torch.float32, torch.device("cpu")) is first


class Copied(TorchDispatchMode):
    """Notes numbers of the host that become tensors."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if "lift_fresh" in str(function):
            self.found.append(function)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("make", [BetaVAE, QuantileVAE])
def test_places_of_mixed_columns_are_copied_to_a_gpu_once(make, monkeypatch):
    X = rows()
    X[:, 3:] = X[:, 3:] > 0
    columns = [Gaussian()] * 3 + [Categorical(2)] * 3
    vae = make(**SMALL, likelihood=Mixed(dict(enumerate(columns)))).fit(X)
    x, likelihood = torch.from_numpy(X), vae.module_.likelihood
    raw = torch.zeros(150, likelihood.n_values)
    expected = likelihood.nll(x, raw), likelihood.each(x, raw), likelihood.inputs(x)
    monkeypatch.setattr(_machine, "_FAR", ("cuda", "cpu"))
    for _ in range(2):
        with Copied() as copied:
            found = likelihood.nll(x, raw), likelihood.each(x, raw), likelihood.inputs(x)
    assert not copied.found
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
