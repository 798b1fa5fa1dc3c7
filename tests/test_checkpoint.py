"""A training that was interrupted goes on from its checkpoint, and ends as if it had not been."""

import os
import signal
import subprocess
import sys
import time
from collections import deque
from functools import partial

import numpy as np
import pytest
import torch
from helpers import small
from sklearn.model_selection import GridSearchCV
from skorch.callbacks import Callback, Freezer, LRScheduler, PrintLog
from skorch.callbacks import EarlyStopping as SkorchStopping
from torch.utils.data import TensorDataset

from riskvae import BetaTCVAE, BetaVAE, QuantileVAE, RiskAwareVAE, nets, risk
from riskvae.training import WeightedELBO, _checkpoint

ALL = [BetaVAE, BetaTCVAE, RiskAwareVAE, QuantileVAE]


class Halt(Exception):
    pass


class HaltAt(Callback):
    """Ends the work once some epoch, counted from 1, has begun."""

    def __init__(self, epoch):
        self.epoch = epoch

    def on_epoch_begin(self, net, **kwargs):
        if len(net.history) == self.epoch:
            raise Halt


def halted(make, X, epoch, **fit_params):
    """A fit that broke off, and then the same again from the start, without the break."""
    broken = make(callbacks=[*(make().callbacks or []), HaltAt(epoch)])
    with pytest.raises(Halt):
        broken.fit(X, **fit_params)
    assert not hasattr(broken, "net_")
    return make().fit(X, **fit_params)


def state(vae):
    return [*vae.module_.state_dict().values(), *vae.net_.criterion_.state_dict().values()]


def assert_same(a, b, X, **fit_params):
    assert all(torch.equal(x, y) for x, y in zip(state(a), state(b), strict=True))
    numbers = [[{k: v for k, v in row.items() if k != "dur"} for row in vae.history_] for vae in (a, b)]
    assert numbers[0] == numbers[1]
    assert a.best_iter_ == b.best_iter_
    np.testing.assert_array_equal(a.score_samples(X), b.score_samples(X))
    # And they go on alike.
    for vae in (a, b):
        vae.partial_fit(X, **fit_params)
    assert all(torch.equal(x, y) for x, y in zip(state(a), state(b), strict=True))


OPTIONS = {
    "plain": (BetaVAE, {}),
    "total correlation": (BetaTCVAE, {}),
    "early stopping": (
        BetaVAE,
        {"early_stopping": True, "n_iter_no_change": 3, "max_epochs": 40, "tol": 0.05, "lr": 0.02},
    ),
    "warm-ups": (RiskAwareVAE, {"eps_warmup": 4, "beta_warmup": 3}),
    "ema": (RiskAwareVAE, {"threshold": "ema", "eps": 0.2}),
    "learned": (RiskAwareVAE, {"threshold": "learned", "measure": risk.SmoothedCVaR(smoothing=0.5)}),
    "seeking": (RiskAwareVAE, {"risk": "seeking", "eps": 0.8}),
    "quantiles": (QuantileVAE, {"calibration_fraction": 0.2}),
    "schedule": (BetaVAE, {"callbacks": "schedule"}),
    "skorch stops": (BetaVAE, {"callbacks": "stop", "max_epochs": 40, "lr": 0.02}),
    "dropout": (BetaVAE, {"encoder": "dropout"}),
    "no seed": (BetaVAE, {"random_state": None}),
    "generator": (BetaVAE, {"random_state": "generator"}),
}


def dropout(n_in, n_out):
    return torch.nn.Sequential(torch.nn.Linear(n_in, 16), torch.nn.Dropout(0.3), torch.nn.Linear(16, n_out))


def maker(name, path):
    cls, options = OPTIONS[name]

    def make(**more):
        own = dict(options)
        if own.get("callbacks") == "schedule":
            own["callbacks"] = [LRScheduler("ExponentialLR", gamma=0.7)]
        if own.get("callbacks") == "stop":
            own["callbacks"] = [SkorchStopping("train_loss", patience=2, threshold=0.02)]
        if own.get("encoder") == "dropout":
            own["encoder"] = dropout
        if own.get("random_state") == "generator":
            own["random_state"] = np.random.RandomState(7)
        return small(cls, **{"max_epochs": 6, "batch_size": 100, "checkpoint": path, **own, **more})

    return make


@pytest.mark.parametrize("epoch", [2, 3, 6])
@pytest.mark.parametrize("name", OPTIONS)
def test_it_ends_as_if_it_had_never_been_interrupted(X, tmp_path, name, epoch):
    make = maker(name, tmp_path / "fit.pt")
    if name == "no seed":  # NumPy's generator gives the first fit's seed, and another one later
        np.random.seed(5)
    resumed = halted(make, X, epoch)
    if name == "no seed":
        np.random.seed(5)
    assert_same(resumed, make(checkpoint=None).fit(X), X)


def test_a_finished_training_is_only_read(X, tmp_path):
    make = maker("plain", str(tmp_path / "fit.pt"))
    first = make().fit(X)
    again = make(callbacks=[HaltAt(0), HaltAt(6)]).fit(X)
    assert_same(first, again, X)
    longer, whole = make(max_epochs=9).fit(X), make(max_epochs=9, checkpoint=None).fit(X)
    assert_same(longer, whole, X)
    with pytest.raises(ValueError, match="has 9 epochs already, more than max_epochs=6. Raise max_epochs, or delete"):
        make().fit(X)


def test_groups_and_datasets(X, tmp_path):
    groups = np.arange(300) % 4
    make = partial(small, RiskAwareVAE, risk_over="groups", max_epochs=4, checkpoint=tmp_path / "a.pt")
    assert_same(halted(make, X, 2, groups=groups), make(checkpoint=None).fit(X, groups=groups), X, groups=groups)
    with pytest.raises(ValueError, match="X is 300 rows of 6 features here, of other contents"):
        make().fit(X, groups=groups[::-1])
    make = partial(small, BetaVAE, max_epochs=4, checkpoint=tmp_path / "b.pt")
    rows = TensorDataset(torch.tensor(X))
    assert_same(halted(make, rows, 2), make(checkpoint=None).fit(rows), X)


# ------------------------------------------------------------------------------------------- killed

SCRIPT = """
import sys, time
import numpy as np
from skorch.callbacks import Callback
from riskvae import QuantileVAE

class Tell(Callback):
    def on_epoch_end(self, net, **kwargs):
        print(len(net.history), flush=True)
        time.sleep(0.01)

X = np.random.default_rng(0).normal(size=(200, 4)).astype("float32")
vae = QuantileVAE(2, hidden_layer_sizes=(16,), max_epochs=60, batch_size=50, calibration_fraction=0.2, random_state=0,
                  device="cpu", checkpoint=sys.argv[1] if len(sys.argv) > 2 else None, callbacks=[Tell()]).fit(X)
np.save(sys.argv[-1], np.concatenate((vae.score_samples(X), vae.conformal_p_values(X), [vae.offset_])))
print("done", flush=True)
"""


def test_a_killed_process_loses_an_epoch_at_most(tmp_path):
    """Killed at three moments that nobody chose, each within a few epochs of the last."""
    script, kept, out = tmp_path / "train.py", tmp_path / "fit.pt", tmp_path / "out.npy"
    script.write_text(SCRIPT)
    rng = np.random.default_rng()
    for _ in range(3):
        command = [sys.executable, str(script), str(kept), str(out)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            told = [process.stdout.readline() for _ in range(int(rng.integers(2, 15)))]
            time.sleep(float(rng.uniform(0, 0.02)))
            process.send_signal(signal.SIGKILL)
            told += process.stdout.read().split()
        done = int(told[-1])
        history = torch.load(kept, weights_only=True)["history"]
        assert done - 1 <= len(history) <= done + 1
    assert not out.exists()
    subprocess.run([sys.executable, str(script), str(kept), str(out)], check=True, stdout=subprocess.DEVNULL)
    resumed = np.load(out)
    subprocess.run([sys.executable, str(script), str(out)], check=True, stdout=subprocess.DEVNULL)
    np.testing.assert_array_equal(resumed, np.load(out))


def test_ctrl_c_says_what_is_left(X, tmp_path):
    def stop(estimator):
        class Stop(Callback):
            def on_epoch_begin(self, net, **kwargs):
                if len(net.history) == 2:
                    signal.raise_signal(signal.SIGINT)

        with pytest.raises(KeyboardInterrupt) as told:
            estimator.set_params(callbacks=[Stop()]).fit(X)
        return told.value.__notes__[0]

    assert "BetaVAE is as it was before this fit. With checkpoint='fit.pt'" in stop(small(BetaVAE))
    path = tmp_path / "fit.pt"
    assert f"checkpoint={str(path)!r} has the last whole epoch" in stop(small(BetaVAE, checkpoint=path))
    assert len(torch.load(path, weights_only=True)["history"]) == 1  # the second had begun


# ------------------------------------------------------------------------------------------ refused


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"beta": 2.0}, r"beta is 2.0 here, and was 1.0"),
        ({"lr": 0.1}, r"lr is 0.1 here, and was 0.001"),
        ({"random_state": 1}, "random_state is 1 here, and was 0"),
        ({"hidden_layer_sizes": (8, 8)}, r"hidden_layer_sizes is \(8, 8\) here, and was \(16,\)"),
        ({"encoder": dropout}, "encoder is dropout here, and was None"),
        ({"encoder": partial(nets.mlp, hidden_layer_sizes=(3,))}, r"encoder is partial here, and was None"),
    ],
)
def test_other_parameters_are_refused_by_name(X, tmp_path, change, message):
    path = tmp_path / "fit.pt"
    small(BetaVAE, checkpoint=path).fit(X)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=f"belongs to another training: {message}. Name another file, or delete"):
        small(BetaVAE, checkpoint=path, **change).fit(X)
    assert path.read_bytes() == before


def test_other_classes_measures_data_and_networks_are_refused(X, tmp_path):
    path = tmp_path / "fit.pt"
    small(RiskAwareVAE, checkpoint=path, measure=risk.CVaR(0.2)).fit(X)
    with pytest.raises(ValueError, match=r"measure is CVaR\(eps=0.3\) here, and was CVaR\(eps=0.2\)"):
        small(RiskAwareVAE, checkpoint=path, measure=risk.CVaR(0.3)).fit(X)
    with pytest.raises(ValueError, match="class is BetaVAE here, and was RiskAwareVAE"):
        small(BetaVAE, checkpoint=path).fit(X)
    other = X.copy()
    other[7, 3] += 1e-3
    for rows in (other, X[:-1], X[::-1]):
        with pytest.raises(ValueError, match=r"X is (300 rows of 6 features here, of other|299 .* was 300)"):
            small(RiskAwareVAE, checkpoint=path, measure=risk.CVaR(0.2)).fit(rows)

    def net(n_in, n_out):
        return torch.nn.Linear(n_in, n_out)

    first = net
    small(BetaVAE, checkpoint=tmp_path / "b.pt", encoder=first).fit(X)

    def net(n_in, n_out):  # the same name, another body
        return torch.nn.Sequential(torch.nn.Linear(n_in, n_out))

    with pytest.raises(ValueError, match="encoder is .*net here, of other contents"):
        small(BetaVAE, checkpoint=tmp_path / "b.pt", encoder=net).fit(X)


def test_files_that_are_no_checkpoints_are_refused_and_kept(X, tmp_path, monkeypatch):
    path = tmp_path / "fit.pt"
    path.write_text("precious")
    with pytest.raises(ValueError, match=r"is not a checkpoint of riskvae, or is damaged \(.*\). Name another file"):
        small(BetaVAE, checkpoint=path).fit(X)
    assert path.read_text() == "precious"
    path.unlink()
    with monkeypatch.context() as patch:
        patch.setattr(_checkpoint, "FORMAT", 99)
        small(BetaVAE, checkpoint=path).fit(X)
    with pytest.raises(ValueError, match=r"has format 99, written by riskvae .*reads up to format 1. Upgrade riskvae"):
        small(BetaVAE, checkpoint=path).fit(X)
    whole = path.read_bytes()
    for part in (whole[: len(whole) // 2], b""):
        path.write_bytes(part)
        with pytest.raises(ValueError, match="or is damaged"):
            small(BetaVAE, checkpoint=path).fit(X)


def test_reading_a_file_executes_nothing(X, tmp_path):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "exploded"),)

    path = tmp_path / "fit.pt"
    torch.save({"format": 1, "history": Bomb()}, path)
    with pytest.raises(ValueError, match="is not a checkpoint of riskvae"):
        small(BetaVAE, checkpoint=path).fit(X)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"checkpoint": 3}, TypeError, "checkpoint must be None, or the path of a file or folder; got 3"),
        ({"checkpoint": ""}, ValueError, "checkpoint must be None, or the path"),
        ({"checkpoint": "nowhere/fit.pt"}, ValueError, "needs the folder 'nowhere', which does not exist. Create it"),
        ({"checkpoint": "fit.pt", "warm_start": True}, ValueError, "is for fits from the start, but warm_start=True"),
    ],
)
def test_mistakes(X, tmp_path, monkeypatch, options, error, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        small(BetaVAE, **options).fit(X)


# ------------------------------------------------------------------------------------------- folders


def test_in_a_folder_each_training_has_its_own_file(X, tmp_path):
    search = GridSearchCV(small(BetaVAE, checkpoint=tmp_path), {"beta": [0.5, 1.0]}, cv=2, error_score="raise").fit(X)
    files = sorted(tmp_path.iterdir())
    assert len(files) == 5  # of two folds each, and of all rows
    assert all(file.name.startswith("BetaVAE-") and file.suffix == ".pt" for file in files)
    times = [file.stat().st_mtime_ns for file in files]
    again = GridSearchCV(small(BetaVAE, checkpoint=tmp_path), {"beta": [0.5, 1.0]}, cv=2, error_score="raise").fit(X)
    assert [file.stat().st_mtime_ns for file in sorted(tmp_path.iterdir())] == times  # all were read
    np.testing.assert_array_equal(search.cv_results_["mean_test_score"], again.cv_results_["mean_test_score"])


def test_a_checkpoint_is_no_part_of_a_pickle(X, tmp_path):
    import pickle

    vae = small(BetaVAE, checkpoint=tmp_path / "fit.pt").fit(X)
    (tmp_path / "fit.pt").unlink()
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(vae)).transform(X), vae.transform(X))


def test_networks_of_other_shapes_are_refused_where_their_factories_look_alike(X, tmp_path):
    sizes = [3, 4]

    class Factory:  # its size comes from elsewhere
        def __call__(self, n_in, n_out):
            return torch.nn.Sequential(torch.nn.Linear(n_in, sizes[0]), torch.nn.Linear(sizes[0], n_out))

    small(BetaVAE, checkpoint=tmp_path / "fit.pt", encoder=Factory()).fit(X)
    sizes.reverse()
    with pytest.raises(ValueError, match="belongs to other networks: .*size mismatch.*Name another file"):
        small(BetaVAE, checkpoint=tmp_path / "fit.pt", encoder=Factory()).fit(X)


# ------------------------------------------------------------------------------- what is in a file


class Records(Callback):
    """Writes what NumPy makes into the history and the optimizer, and keeps more than numbers."""

    def on_train_begin(self, net, **kwargs):
        self.last_, self.seen_, self.table_ = deque(maxlen=2), set(), np.zeros(2)

    def on_epoch_end(self, net, **kwargs):
        epoch = len(net.history)
        self.last_.append(epoch)
        self.seen_.add(epoch)
        self.table_ += epoch
        net.history.record("table", self.table_.copy())
        net.history.record("object", object())
        net.history.record("last", sum(self.last_) + len(self.seen_))
        net.optimizer_.param_groups[0]["lr"] = np.float64(1e-3 / epoch)


def test_numbers_of_numpy_and_states_of_callbacks_come_back(X, tmp_path):
    options = {"lr": np.float64(2e-3), "weight_decay": np.float32(0.01), "beta": np.float64(2.0), "beta_warmup": 2}

    def make(**more):
        own = [Records(), *more.pop("callbacks", [])]
        return small(
            BetaVAE, **{"max_epochs": 6, "checkpoint": tmp_path / "fit.pt", **options, **more, "callbacks": own}
        )

    broken = make(callbacks=[HaltAt(4)])
    with pytest.raises(Halt):
        broken.fit(X)
    resumed, whole = make().fit(X), make(checkpoint=None).fit(X)
    assert all(torch.equal(x, y) for x, y in zip(state(resumed), state(whole), strict=True))
    for a, b in zip(resumed.history_, whole.history_, strict=True):
        np.testing.assert_array_equal(a["table"], b["table"])
        assert a["last"] == b["last"]
    assert resumed.callbacks[0].last_ == whole.callbacks[0].last_


def test_frozen_layers_stay_frozen(X, tmp_path):
    def make(**more):
        own = [Freezer(lambda name: name.startswith("encoder")), *more.pop("callbacks", [])]
        return small(BetaVAE, **{"max_epochs": 6, "checkpoint": tmp_path / "fit.pt", **more, "callbacks": own})

    with pytest.raises(Halt):
        make(callbacks=[HaltAt(4)]).fit(X)
    assert all(
        torch.equal(x, y) for x, y in zip(state(make().fit(X)), state(make(checkpoint=None).fit(X)), strict=True)
    )


def test_schedules_are_a_part_of_a_training(X, tmp_path):
    path = tmp_path / "fit.pt"
    small(BetaVAE, checkpoint=path, callbacks=[LRScheduler("ExponentialLR", gamma=0.7)]).fit(X)
    small(BetaVAE, checkpoint=path, callbacks=[LRScheduler("ExponentialLR", gamma=0.7), PrintLog(sink=print)]).fit(X)
    for callbacks, message in (
        (None, r"callbacks is None here, and was \[LRScheduler\]"),
        ([LRScheduler("ExponentialLR", gamma=0.8)], "callbacks is .LRScheduler. here, of other contents"),
    ):
        with pytest.raises(ValueError, match=message):
            small(BetaVAE, checkpoint=path, callbacks=callbacks).fit(X)
    with pytest.raises(ValueError, match="beta is 2.0 here, and was 1.0; lr is 0.1 here, and was 0.001"):
        small(BetaVAE, checkpoint=path, lr=0.1, beta=2.0, callbacks=[LRScheduler("ExponentialLR", gamma=0.7)]).fit(X)


def test_two_objectives_of_one_name_are_told_apart(X, tmp_path):
    def make(weight):
        class MineVAE(BetaVAE):
            def make_objective(self):
                return WeightedELBO(weight)

        return MineVAE

    small(make(1.0), checkpoint=tmp_path / "fit.pt").fit(X)
    small(make(1.0), checkpoint=tmp_path / "fit.pt").fit(X)
    net = make(100.0)

    def other(self):
        return WeightedELBO(100.0)

    net.make_objective = other
    with pytest.raises(ValueError, match="class is MineVAE here, of other contents"):
        small(net, checkpoint=tmp_path / "fit.pt").fit(X)


def test_a_dataset_that_differs_late_is_noticed(X, tmp_path):
    rows = np.vstack([X] * 5)
    other = rows.copy()
    other[1000:] *= 3
    small(BetaVAE, checkpoint=tmp_path / "fit.pt").fit(TensorDataset(torch.tensor(rows)))
    with pytest.raises(ValueError, match="X is 1500 rows of 6 features here, of other contents"):
        small(BetaVAE, checkpoint=tmp_path / "fit.pt").fit(TensorDataset(torch.tensor(other)))


def test_a_grid_over_epochs_and_an_unseeded_fit_in_a_folder(X, tmp_path):
    for _ in range(2):
        found = GridSearchCV(
            small(BetaVAE, checkpoint=tmp_path), {"max_epochs": [4, 2]}, cv=2, error_score="raise"
        ).fit(X)
    assert np.isfinite(found.cv_results_["mean_test_score"]).all()
    with pytest.raises(
        ValueError, match="is a folder, in which .*random_state=None, no two trainings are the same. Set random"
    ):
        small(BetaVAE, checkpoint=tmp_path, random_state=None).fit(X)
    with pytest.raises(ValueError, match="needs the folder 'runs/', which does not exist. Create it first"):
        small(BetaVAE, checkpoint="runs/").fit(X)


def test_going_on_is_told(X, tmp_path, capsys):
    path = tmp_path / "fit.pt"
    small(BetaVAE, checkpoint=path, max_epochs=2).fit(X)
    small(BetaVAE, checkpoint=path, max_epochs=4, verbose=1).fit(X)
    assert f"BetaVAE goes on after epoch 2, from {str(path)!r}." in capsys.readouterr().out


def test_files_of_earlier_versions_know_no_lipschitz_penalty(X, tmp_path):
    """They go on with a weight of 0, and are of another training with any other."""
    options = {"checkpoint": tmp_path / "fit.pt", "max_epochs": 4}
    whole = small(BetaVAE, **options).fit(X)
    state = torch.load(tmp_path / "fit.pt", weights_only=True)
    del state["made_of"]["lipschitz_penalty"]
    torch.save(state, tmp_path / "fit.pt")
    again = small(BetaVAE, **options).fit(X)
    np.testing.assert_array_equal(again.transform(X), whole.transform(X))
    with pytest.raises(ValueError, match="lipschitz_penalty is 3.0 here, and was 0.0"):
        small(BetaVAE, **options, lipschitz_penalty=3.0).fit(X)
