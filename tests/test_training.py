"""The engine: what an epoch visits, what callbacks may do, what is recorded."""

import io
import pickle
import signal
from collections import Counter
from contextlib import redirect_stderr, redirect_stdout

import numpy as np
import pytest
import torch
from helpers import small
from skorch.callbacks import Callback, Checkpoint, EarlyStopping, GradientNormClipping, LRScheduler, TrainEndCheckpoint
from torch import nn
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from riskvae import BetaVAE, QuantileVAE, RiskAwareVAE, likelihoods, nets
from riskvae._sklearn import HAS_CALLBACKS
from riskvae.nets import _linear
from riskvae.training import Batch, WeightedELBO
from riskvae.training._rows import Rows
from riskvae.training._stream import Stream

CPU = torch.device("cpu")


@pytest.mark.parametrize(("n", "batch_size"), [(10, 3), (10, 10), (10, 99), (1, 1), (257, 256), (1000, 7), (7, 1)])
@pytest.mark.parametrize("shuffled", [True, False])
@pytest.mark.parametrize("part", [True, False])
def test_an_epoch_visits_every_row_once_in_even_batches(n, batch_size, shuffled, part):
    x, index = torch.arange(3 * n, dtype=torch.float32)[:, None], torch.arange(0, 3 * n, 3) if part else None
    rows = Rows(Batch(x, group=10 * torch.arange(3 * n)), CPU, index)
    n = len(rows)
    generator = torch.Generator().manual_seed(0) if shuffled else None
    batches = list(rows.batches(batch_size, generator))
    visited = torch.cat([batch.x for batch in batches])[:, 0]
    expected = x[::3, 0] if part else x[:, 0]
    assert torch.equal(visited.sort().values, expected)
    if not shuffled:
        assert torch.equal(visited, expected)
    # What comes with a row stays with it; its index is its place among all rows.
    assert torch.equal(torch.cat([batch.index for batch in batches]).float(), visited)
    assert torch.equal(torch.cat([batch.group for batch in batches]).float(), 10 * visited)
    sizes = [batch.n_rows for batch in batches]
    assert len(sizes) == -(-n // batch_size)
    assert max(sizes) <= batch_size
    assert max(sizes) - min(sizes) <= 1


def test_rows_that_do_not_fit_travel_in_chunks(monkeypatch):
    """As on a GPU that is too small, with the copies to it replaced by copies in host memory."""
    data = Batch(torch.randn(1000, 3), group=torch.arange(1000) % 7)
    here, away = Rows(data, CPU), Rows(data, CPU)
    away.device = torch.device("meta")
    copied = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self)

    def to(self, device, **kwargs):
        if device == torch.device("meta"):
            copied.append(self.numel())
        return self

    monkeypatch.setattr(torch.Tensor, "to", to)
    for seed in (None, 3):
        orders = [None if seed is None else torch.Generator().manual_seed(seed) for _ in range(2)]
        for a, b in zip(here.batches(9, orders[0]), away.batches(9, orders[1]), strict=True):
            assert torch.equal(a.x, b.x)
            assert torch.equal(a.index, b.index)
            assert torch.equal(a.group, b.group)
    assert max(copied) <= 3 * 9 * Rows.chunk
    assert sum(copied) == 2 * 1000 * (3 + 1 + 1)  # rows, groups and places


class Items(IterableDataset):
    """Rows that only come in turn."""

    def __init__(self, items):
        self.items = items

    def __iter__(self):
        return iter(self.items)


@pytest.mark.parametrize("path", ["map", "map with groups", "iterable", "batched"])
def test_what_comes_with_a_row_comes_through_a_dataset(path):
    x, group = torch.arange(50.0)[:, None], 10 * torch.arange(50)
    items = [{"x": row, "group": int(g)} for row, g in zip(x, group, strict=True)]
    if path == "iterable":
        stream = Stream(Items(items), CPU, check=lambda x: None)
    elif path == "map":
        stream = Stream(TensorDataset(x, torch.zeros(50)), CPU, check=lambda x: None, group=group)
    else:
        dataset = Listed(items) if path == "map with groups" else Batched(items)
        stream = Stream(dataset, CPU, check=lambda x: None)
    assert stream.has("group")
    for _ in range(2):  # an iterable dataset begins with what was read for its head
        batches = list(stream.batches(8, torch.Generator().manual_seed(0)))
        visited = torch.cat([batch.x for batch in batches])[:, 0]
        assert torch.equal(visited.sort().values, x[:, 0])
        assert torch.equal(torch.cat([batch.index for batch in batches]).float(), visited)
        assert torch.equal(torch.cat([batch.group for batch in batches]).float(), 10 * visited)


class Listed(Dataset):
    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, i):
        return self.items[i]


class Batched(Listed):
    """A dataset that fetches a batch at once."""

    def __getitems__(self, places):
        return [self.items[i] for i in places]


def test_a_record_goes_through_the_model_to_the_objective(X):
    seen = []

    class Watching(WeightedELBO):
        def forward(self, terms):
            if self.training:
                seen.append(terms.batch)
            return super().forward(terms)

    class Watched(BetaVAE):
        def make_objective(self):
            return Watching(self.beta)

    small(Watched, batch_size=100, max_epochs=1).fit(X)
    index = torch.cat([batch.index for batch in seen])
    assert torch.equal(index.sort().values, torch.arange(300))
    assert torch.equal(torch.cat([batch.x for batch in seen]), torch.tensor(X, dtype=torch.float32)[index])
    assert all(batch.group is None for batch in seen)


def test_held_out_rows_are_disjoint_views():
    rows = Rows(Batch(torch.arange(100.0)[:, None]), CPU)
    train, valid = rows.split(0.2, seed=0)
    assert (len(train), len(valid)) == (80, 20)
    assert train.data.x.data_ptr() == valid.data.x.data_ptr() == rows.data.x.data_ptr()
    together = torch.cat([batch.x for part in (train, valid) for batch in part.batches(9, None)])
    assert torch.equal(together.sort(0).values, rows.data.x)
    assert [len(part) for part in Rows(Batch(torch.zeros(2, 1)), CPU).split(0.9, 0)] == [1, 1]


def test_epoch_losses_are_means_over_rows(X):
    """With weights that do not move, the recorded terms are the evidence bound's, drawn once per row."""
    estimator = small(BetaVAE, beta=3.0, lr=1e-30, noise_scale=0.5, max_epochs=200, batch_size=64).fit(X)
    epochs = estimator.history_
    mean, scale = estimator.encode(X)
    kl = (0.5 * (mean**2 + scale**2 - 1) - np.log(scale)).sum(1).mean()
    for epoch in epochs:
        assert epoch["train_loss"] == pytest.approx(epoch["train_reconstruction"] + 3.0 * epoch["train_kl"], rel=1e-5)
        assert epoch["train_kl"] == pytest.approx(kl, rel=1e-4)
        assert epoch["train_batch_count"] == 5
    drawn = np.array([epoch["train_reconstruction"] for epoch in epochs])
    z = mean + scale * np.random.default_rng(0).normal(size=(200, *mean.shape))
    errors = ((X - estimator.inverse_transform(z.reshape(-1, 2)).reshape(200, *X.shape)) ** 2).sum(2).mean(1)
    expected = errors / (2 * 0.25) + 6 * (np.log(0.5) + 0.5 * np.log(2 * np.pi))
    # Two means of 200 draws: five standard errors of their difference.
    assert drawn.mean() == pytest.approx(expected.mean(), abs=5 * np.hypot(drawn.std(), expected.std()) / np.sqrt(200))


def test_validation_losses_differ_by_the_weights_alone(X):
    epochs = small(BetaVAE, early_stopping=True, lr=1e-30, noise_scale=0.5).fit(X).history_
    assert len({epoch["valid_loss"] for epoch in epochs}) == 1
    assert len({epoch["train_loss"] for epoch in epochs}) == 3


def squared_errors(estimator, X):
    """Mean squared error of each row (columns) for 50 draws from its posterior."""
    mean, scale = estimator.encode(X)
    z = mean + scale * np.random.default_rng(0).normal(size=(50, *mean.shape))
    return ((X - estimator.inverse_transform(z.reshape(-1, 2)).reshape(50, *X.shape)) ** 2).mean(2)


def test_a_learned_noise_scale_is_that_of_the_residuals(X):
    """At its fixed point the scale is the root mean squared error of draws from the posterior."""
    estimator = small(BetaVAE, beta=1.0, max_epochs=1000, lr=3e-3).fit(X)
    assert estimator.noise_scale_ == pytest.approx(np.sqrt(squared_errors(estimator, X).mean()), rel=0.03)
    # Free of units.
    scaled = small(BetaVAE, beta=1.0, max_epochs=3, lr=1e-12).fit(1000 * X)
    plain = small(BetaVAE, beta=1.0, max_epochs=3, lr=1e-12).fit(X)
    assert scaled.noise_scale_ == pytest.approx(1000 * plain.noise_scale_, rel=0.3)
    assert small(BetaVAE, noise_scale=0.25).fit(X).noise_scale_ == 0.25


@pytest.mark.parametrize("risk", ["averse", "seeking"])
def test_a_learned_scale_is_that_of_all_rows_or_of_those_that_a_seeking_risk_counts(X, risk):
    estimator = small(RiskAwareVAE, risk=risk, eps=0.5, lr=1e-12, max_epochs=60).fit(X)
    errors = squared_errors(estimator, X)  # (draws, rows); a step draws once
    counted = np.sort(errors, axis=1)[:, :150] if risk == "seeking" else errors
    assert estimator.noise_scale_ == pytest.approx(np.sqrt(counted.mean()), rel=0.03)


# ----------------------------------------------------------------------------------------- callbacks


class Count(Callback):
    def __init__(self):
        self.calls = Counter()

    def on_epoch_end(self, net, **kwargs):
        self.calls["epoch"] += 1


class CountBatches(Count):
    def on_batch_begin(self, net, batch, training, **kwargs):
        self.calls["begin", training] += 1

    def on_batch_end(self, net, batch, training, loss, **kwargs):
        self.calls["end", training] += 1
        assert np.isfinite(float(loss))

    def on_grad_computed(self, net, named_parameters, **kwargs):
        self.calls["grad"] += 1
        assert all(parameter.grad is not None for _, parameter in named_parameters)


def test_callbacks_are_called_and_change_nothing_by_that(X):
    plain, count, batches = small(BetaVAE, early_stopping=True).fit(X), Count(), CountBatches()
    for callback in (count, batches):
        watched = small(BetaVAE, early_stopping=True, callbacks=[callback]).fit(X)
        np.testing.assert_array_equal(watched.transform(X), plain.transform(X))
        recorded, expected = watched.history_[-1], plain.history_[-1]
        assert recorded["train_loss"] == pytest.approx(expected["train_loss"], rel=1e-12)
    assert count.calls == {"epoch": 3}
    # 270 rows in 2 batches of at most 256; 30 held-out rows in one.
    assert batches.calls == {"epoch": 3, "grad": 6, ("begin", True): 6, ("end", True): 6, ("begin", False): 3,
                             ("end", False): 3}  # fmt: skip


@pytest.mark.parametrize("make", [Checkpoint, TrainEndCheckpoint])
def test_checkpoints_hold_the_weights(X, tmp_path, make):
    extra = {"monitor": "train_loss_best", "f_history": None} if make is Checkpoint else {"fn_prefix": ""}
    estimator = small(BetaVAE, callbacks=[make(dirname=tmp_path, **extra)]).fit(X)
    saved = torch.load(tmp_path / "params.pt", weights_only=True)
    assert all(torch.equal(value, saved[name]) for name, value in estimator.module_.state_dict().items())


def test_a_schedule_changes_the_learning_rate(X):
    rates = []

    class Watch(Callback):
        def on_epoch_end(self, net, **kwargs):
            rates.append(net.optimizer_.param_groups[0]["lr"])

    schedule = LRScheduler(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.5)
    estimator = small(BetaVAE, callbacks=[Watch(), schedule]).fit(X)
    assert rates == [1e-3, 5e-4, 2.5e-4]
    assert pickle.loads(pickle.dumps(estimator.net_)).callbacks_ == []


def test_a_callback_may_end_the_training(X):
    patient = EarlyStopping(monitor="train_loss", patience=2, threshold=1e9, threshold_mode="abs", sink=print_nothing)
    assert small(BetaVAE, max_epochs=50, callbacks=[patient]).fit(X).n_iter_ == 3
    # Without source code at hand, as in a frozen application, and before the first epoch.
    scope = {"Callback": Callback}
    exec("class Stop(Callback):\n def on_epoch_end(self, net, **kwargs):\n  raise KeyboardInterrupt", scope)
    exec("class Refuse(Callback):\n def on_train_begin(self, net, **kwargs):\n  raise KeyboardInterrupt", scope)
    assert small(BetaVAE, max_epochs=50, callbacks=[scope["Stop"]()]).fit(X).n_iter_ == 1
    untrained = small(BetaVAE, max_epochs=50, callbacks=[scope["Refuse"]()]).fit(X)
    assert untrained.n_iter_ == 0
    assert untrained.summary().rows["training"].startswith("0 epochs, 0 gradient steps")


@pytest.mark.parametrize("cls", [BetaVAE, QuantileVAE])
def test_a_callback_may_end_the_training_within_an_epoch(cls, X):
    class Stop(Callback):
        def __init__(self, n):
            self.n = n

        def on_train_begin(self, net, **kwargs):
            if not self.n:
                raise KeyboardInterrupt

        def on_batch_end(self, net, **kwargs):
            if len(net.history) == self.n:
                raise KeyboardInterrupt

    for n in (0, 1, 3):
        estimator = small(cls, max_epochs=9, batch_size=100, callbacks=[Stop(n)]).fit(X)
        assert estimator.n_iter_ == n
        assert f"{n} epoch" in estimator.summary().rows["training"]


def test_the_epoch_that_a_callback_went_back_to_is_known(X, tmp_path):
    """Skorch's early stopping and checkpoints, too, may restore the best weights."""
    options = {"monitor": "train_loss", "patience": 3, "threshold": 0, "sink": print_nothing}
    estimators = {
        back: small(BetaVAE, max_epochs=40, lr=0.3, callbacks=[EarlyStopping(**options, load_best=back)]).fit(X)
        for back in (True, False)
    }
    best = 1 + int(np.argmin([row["train_loss"] for row in estimators[True].history_]))
    assert (estimators[True].best_iter_, estimators[True].n_iter_) == (best, best + 3)
    assert estimators[False].best_iter_ == best + 3
    assert f"the weights are those of epoch {best}" in str(estimators[True].summary())
    names = {"dirname": str(tmp_path), "f_optimizer": None, "f_criterion": None, "f_history": None}
    kept = Checkpoint(monitor="train_loss_best", load_best=True, sink=print_nothing, **names)
    again = small(BetaVAE, max_epochs=best + 3, lr=0.3, callbacks=[kept]).fit(X)
    assert again.best_iter_ == best
    np.testing.assert_array_equal(again.transform(X), estimators[True].transform(X))


def test_ctrl_c_inside_a_callback_is_raised(X):
    class Interrupted(Callback):
        def on_epoch_end(self, net, **kwargs):
            signal.raise_signal(signal.SIGINT)  # delivered here, on a line that says raise

    with pytest.raises(KeyboardInterrupt):
        small(BetaVAE, callbacks=[Interrupted()]).fit(X)


def print_nothing(text):
    pass


def test_gradient_clipping_has_an_effect(X):
    clipped = small(BetaVAE, callbacks=[GradientNormClipping(1e-12)], weight_decay=0.0).fit(X)
    assert not np.allclose(clipped.transform(X), small(BetaVAE).fit(X).transform(X))


class Recorder:
    """A callback of scikit-learn's kind, which ends the training after some epochs."""

    def __init__(self, X, last=None):
        self.X = X
        self.last = last
        self.events = []
        self.models = []

    def setup(self, estimator, context):
        self.events.append("setup")

    def on_fit_task_begin(self, estimator, context):
        self.events.append(f"begin {context.task_name}")

    def on_fit_task_end(self, estimator, context, *, fitted_estimator=None):
        self.events.append(f"end {context.task_name}")
        self.models.append((fitted_estimator, fitted_estimator.score(self.X)))
        return context.task_name == "epoch" and context.task_id == self.last

    def teardown(self, estimator, context):
        self.events.append("teardown")


@pytest.mark.skipif(not HAS_CALLBACKS, reason="scikit-learn has callbacks from 1.9 on")
class TestScikitLearnCallbacks:
    def events(self, n):
        return ["setup", "begin fit", *n * ["begin epoch", "end epoch"], "end fit", "teardown"]

    def test_every_epoch_is_told_with_a_model_of_its_own(self, X):
        recorder = Recorder(X)
        estimator = small(BetaVAE, max_epochs=3).set_callbacks(recorder).fit(X)
        assert recorder.events == self.events(3)
        scores = [score for _, score in recorder.models]
        assert [model.score(X) for model, _ in recorder.models] == scores
        assert len(set(scores)) == 3  # three epochs; the fit ends with the third
        assert scores[-1] == estimator.score(X)
        plain = small(BetaVAE, max_epochs=3).fit(X)
        np.testing.assert_array_equal(estimator.transform(X), plain.transform(X))
        recorder.models[0][0].partial_fit(X)
        np.testing.assert_array_equal(estimator.transform(X), plain.transform(X))
        pickle.dumps(estimator)

    def test_a_callback_may_end_the_training(self, X):
        recorder = Recorder(X, last=1)
        assert small(BetaVAE, max_epochs=9).set_callbacks(recorder).fit(X).n_iter_ == 2
        assert recorder.events == self.events(2)

    def test_early_stopping_ends_the_last_epoch_too(self, X):
        recorder = Recorder(X)
        make = {"early_stopping": True, "tol": 1e9, "n_iter_no_change": 1}
        assert small(BetaVAE, **make).set_callbacks(recorder).fit(X).n_iter_ == 2
        assert recorder.events == self.events(2)

    def test_scoring_monitor(self, X):
        from sklearn.callback import ScoringMonitor

        monitor = ScoringMonitor(scoring=lambda estimator, X, y=None: estimator.score(X))
        small(BetaVAE, max_epochs=4).set_callbacks(monitor).fit(X)
        assert len(monitor.get_logs().data) >= 4


# ------------------------------------------------------------------------------------------ the rest


def test_verbose_shows_progress(X, monkeypatch):
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        small(BetaVAE, verbose=1, max_epochs=2).fit(X)
    assert "600/600" in err.getvalue()
    assert "epoch=2" in err.getvalue()
    monkeypatch.setitem(__import__("sys").modules, "tqdm.auto", None)
    with redirect_stdout(out):
        small(BetaVAE, verbose=1, max_epochs=2).fit(X)
    assert out.getvalue().startswith("epoch 1 train_loss ")
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
        small(BetaVAE).fit(X)
    assert out.getvalue() == err.getvalue() == ""


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch by torch, while it compiles
@pytest.mark.parametrize("onednn", [False, True] if _linear._AVAILABLE else [False])
def test_compiled_training_agrees(X, onednn, monkeypatch):
    monkeypatch.setattr(_linear, "_ONEDNN", onednn)
    monkeypatch.setattr(_linear, "_LEAST", 0)
    eager = small(BetaVAE, max_epochs=2).fit(X)
    compiled = small(BetaVAE, max_epochs=2, compile=True).fit(X)
    np.testing.assert_allclose(compiled.transform(X), eager.transform(X), rtol=1e-3, atol=1e-4)
    pickle.loads(pickle.dumps(compiled)).partial_fit(X)


class Threads(Callback):
    """Notes in how many threads an epoch is trained."""

    def on_epoch_end(self, net, **kwargs):
        self.seen.append(torch.get_num_threads())

    def __init__(self):
        self.seen = []


@pytest.mark.parametrize(
    ("parameters", "threads"),
    [
        ({"hidden_layer_sizes": (64, 32)}, 1),
        ({"hidden_layer_sizes": (512, 256)}, 3),  # 512 x 256 x 256 rows are 2^25
        ({"hidden_layer_sizes": (512, 256), "batch_size": 64}, 1),
        ({"encoder": nets.conv_encoder, "decoder": nets.conv_decoder}, 3),
        ({"encoder": lambda a, b: nn.Sequential(nn.Linear(a, 9), nn.LayerNorm(9), nn.Linear(9, b))}, 1),
        ({"encoder": lambda a, b: nn.Sequential(nn.Linear(a, 9), nn.PReLU(), nn.Linear(9, b))}, 3),  # who knows
        ({"likelihood": likelihoods.Gaussian(per_feature=True)}, 1),
    ],
)
def test_small_networks_train_in_one_thread(X, parameters, threads):
    """A second thread gains them little, and beside other processes costs many times the work."""
    before, note = torch.get_num_threads(), Threads()
    X = np.concatenate([X, X, X], 1)[:, :9]
    try:
        torch.set_num_threads(3)
        small(BetaVAE, max_epochs=1, callbacks=[note], **parameters).fit(X)
        assert note.seen == [threads]
        assert torch.get_num_threads() == 3
        with pytest.raises(RuntimeError, match="mine"):
            small(BetaVAE, callbacks=[Failing()]).fit(X)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


class Failing(Callback):
    def on_epoch_end(self, net, **kwargs):
        raise RuntimeError("mine")


def test_long_epochs_are_read_back_in_parts(X, monkeypatch):
    whole = small(BetaVAE, batch_size=10).fit(X).history_
    monkeypatch.setattr("riskvae.training._net._READ_BACK", 7)
    parts = small(BetaVAE, batch_size=10).fit(X).history_
    for a, b in zip(whole, parts, strict=True):
        assert {**a, "dur": 0} == {**b, "dur": 0}


@pytest.mark.parametrize(
    "callback", [EarlyStopping(), EarlyStopping, ("stop", EarlyStopping()), Checkpoint(dirname="kept")]
)
def test_callbacks_that_watch_what_is_not_held_out_are_refused(X, callback):
    message = (
        r"BetaVAE: callbacks: \w+ watches 'valid_loss(_best)?', which is recorded where rows are held out.*'train_loss"
    )
    with pytest.raises(ValueError, match=message):
        small(BetaVAE, callbacks=[callback]).fit(X)


def test_callbacks_that_watch_the_training_need_nothing_held_out(X):
    assert small(BetaVAE, callbacks=[EarlyStopping(monitor="train_loss", patience=1000)]).fit(X).n_iter_ == 3


@pytest.mark.parametrize("cls", [BetaVAE, RiskAwareVAE])
def test_the_default_dtype_changes_no_weight(X, cls):
    expected = small(cls).fit(X).module_.state_dict()
    torch.set_default_dtype(torch.float64)
    try:
        found = small(cls).fit(X).module_.state_dict()
    finally:
        torch.set_default_dtype(torch.float32)
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


def test_a_pickle_holds_every_weight_once(X):
    """Weights and the two moments of each: three numbers per weight, where there were four."""
    for estimator in (
        BetaVAE(random_state=0, max_epochs=1),
        RiskAwareVAE(random_state=0, max_epochs=1, threshold="ema"),
    ):
        estimator.fit(np.random.default_rng(0).random((300, 200)))
        weights = sum(p.nbytes for p in estimator.module_.parameters())
        told = pickle.dumps(estimator)
        assert 3 * weights < len(told) < 3.1 * weights
        again = pickle.loads(told)
        assert again.net_.module is again.module_
        assert again.net_.criterion is again.net_.criterion_
