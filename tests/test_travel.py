"""A fitted model leaves the process and the machine that it was trained on."""

import copy
import functools
import os
import pickle
import subprocess
import sys
import textwrap

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import cloudpickle, small
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from torch import nn

from riskvae import BetaVAE, QuantileVAE, RiskAwareVAE, risk
from riskvae._value import key_of
from riskvae.training._net import Net

NOTEBOOK = textwrap.dedent("""
    import pickle, sys, warnings
    warnings.simplefilter("ignore")
    try:
        import cloudpickle
    except ImportError:  # which older versions of joblib bring along
        from joblib.externals import cloudpickle
    import numpy as np
    from sklearn.model_selection import cross_validate
    from sklearn.pipeline import FeatureUnion
    from torch import nn
    from riskvae import BetaVAE, QuantileVAE, RiskAwareVAE, risk
    from riskvae.likelihoods import Gaussian
    from riskvae.training import WeightedELBO

    class Encoder(nn.Module):
        def __init__(self, n_in, n_out):
            super().__init__()
            self.layer = nn.Linear(n_in, n_out)

        def forward(self, x):
            return self.layer(x)

    class Mine(WeightedELBO):
        pass

    class MineVAE(BetaVAE):
        def make_objective(self):
            return Mine(self.beta)

    class Noise(Gaussian):
        pass

    class Worst(risk.Measure):
        def __call__(self, losses, *, tail="worst", dim=-1):
            return losses.amax(dim) if tail == "worst" else losses.amin(dim)

    if __name__ == "__main__":
        X = np.random.default_rng(0).normal(size=(100, 4)).astype("float32")
        common = dict(hidden_layer_sizes=(8,), max_epochs=2, random_state=0, device="cpu")
        models = [
            BetaVAE(2, encoder=Encoder, **common),
            BetaVAE(2, encoder=lambda n_in, n_out: nn.Linear(n_in, n_out), **common),
            MineVAE(2, likelihood=Noise(), **common),
            RiskAwareVAE(2, measure=Worst(), **common),
            QuantileVAE(2, decoder=lambda n_in, n_out: nn.Linear(n_in, n_out), **common),
        ]
        for vae in models:
            found = cross_validate(vae, X, cv=2, n_jobs=2, return_estimator=True, error_score="raise")
            again = cloudpickle.loads(cloudpickle.dumps(found["estimator"][0]))
            assert (again.transform(X) == found["estimator"][0].transform(X)).all()
            again.partial_fit(X)
            again.set_params(warm_start=True).fit(X)
        union = FeatureUnion([(str(i), vae) for i, vae in enumerate(models)], n_jobs=2).fit(X)
        print(union.transform(X).shape)
""")


def test_classes_and_lambdas_of_a_notebook_reach_other_processes_and_come_back(tmp_path):
    script = tmp_path / "notebook.py"
    script.write_text(NOTEBOOK)
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
    assert done.stdout == "(100, 10)\n", done.stderr


def test_a_model_pickles_once_its_lambda_is_gone(X):
    vae = small(BetaVAE, encoder=lambda n_in, n_out: nn.Linear(n_in, n_out)).fit(X)
    with pytest.raises((pickle.PicklingError, AttributeError), match="lambda"):
        pickle.dumps(vae)
    vae.encoder = None
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(vae)).transform(X), vae.transform(X))


FORK = textwrap.dedent("""
    import multiprocessing, os, sys, warnings
    warnings.simplefilter("ignore")
    import numpy as np, torch
    from riskvae import BetaVAE, QuantileVAE, robustness_margin

    def work(task):
        what, model, X = task
        if what == "fit":
            return float(QuantileVAE(4, max_epochs=2, random_state=0).fit(X).score_samples(X).mean())
        if what == "margin":
            return float(robustness_margin(model, X[:4], r=5.0, n_draws=200, random_state=0).lower.mean())
        return float(model.score_samples(X).mean())

    if __name__ == "__main__":
        torch.set_num_threads(2)
        X = np.random.default_rng(0).normal(size=(2000, 100)).astype("float32")
        model = QuantileVAE(4, max_epochs=2, random_state=0).fit(X)
        tasks = [(what, model, X) for what in ("score", "fit", "margin")]
        here = list(map(work, tasks))
        with multiprocessing.get_context("fork").Pool(2) as pool:
            there = pool.map_async(work, tasks, chunksize=1).get(timeout=60)
        assert torch.get_num_threads() == 2
        print(np.allclose(here, there, rtol=1e-4))
""")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_forked_processes_work_after_a_fit_in_two_threads(tmp_path):
    """Torch's threads do not follow a fork; a process that waits for them hangs for ever."""
    script = tmp_path / "forks.py"
    script.write_text(FORK)
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, env=environment, timeout=120)
    assert done.stdout == "True\n", done.stderr


# ------------------------------------------------------------------------------------------- devices


@pytest.mark.parametrize("cls", [BetaVAE, QuantileVAE])
def test_a_model_of_another_device_opens_on_this_one(cls, X, monkeypatch):
    """What a GPU would have: the net believes to be on one, and its pickle is opened where there is none."""
    vae = small(cls).fit(X)
    before = vae.score_samples(X)
    vae.net_.device = "cuda"
    told = pickle.dumps(vae)
    again = pickle.loads(told)
    assert again.net_.device == "cpu"
    np.testing.assert_array_equal(again.score_samples(X), before)
    # The optimizer still holds the weights of the module, not copies.
    held = {id(p) for group in again.net_.optimizer_.param_groups for p in group["params"]}
    assert {id(p) for p in again.module_.parameters()} <= held
    vae.net_.device = "cpu"
    other = pickle.loads(pickle.dumps(vae))
    for model in (again, other):
        model.partial_fit(X)
    assert all(torch.equal(a, b) for a, b in zip(again.module_.parameters(), other.module_.parameters(), strict=True))
    moved = []
    monkeypatch.setattr("riskvae.training._net.is_available", lambda device: True)
    monkeypatch.setattr(Net, "move_to", lambda self, device: moved.append(device))
    vae.net_.device = "cuda:1"
    copy.deepcopy(vae.net_)
    assert moved == [torch.device("cuda:1")]  # where the device is there, it goes back
    vae.net_.device = "cpu"


def test_set_params_moves_a_fitted_model(X, monkeypatch):
    vae = small(BetaVAE, device="cpu").fit(X)
    before = vae.transform(X)
    with pytest.raises(ValueError, match="device='cuda:7' is not available here"):
        vae.set_params(device="cuda:7").transform(X)
    moved = []
    monkeypatch.setattr(Net, "move_to", lambda self, device: moved.append(device))
    np.testing.assert_array_equal(vae.set_params(device=torch.device("cpu")).transform(X), before)
    vae.score_samples(X)
    assert moved == [torch.device("cpu")]
    pickle.loads(pickle.dumps(vae)).transform(X)
    assert len(moved) == 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("cls", [BetaVAE, RiskAwareVAE, QuantileVAE])
def test_from_a_gpu_and_back(cls, X, monkeypatch):
    vae = small(cls, device="cuda").fit(X)
    told = pickle.dumps(vae)
    with monkeypatch.context() as patch:  # where there is no GPU
        patch.setattr("riskvae.training._net.is_available", lambda device: False)
        assert pickle.loads(told).device_.type == "cpu"
    scores = vae.score_samples(X)
    vae.set_params(device="cpu")
    np.testing.assert_allclose(vae.score_samples(X), scores, rtol=1e-4)
    assert vae.device_.type == "cpu"
    assert pickle.loads(told).device_.type == "cuda"


def test_a_device_that_nobody_calls_so(X, monkeypatch):
    monkeypatch.setattr("riskvae._machine._devices", lambda: ["cuda:0", "cpu"])
    with pytest.raises(ValueError, match="got 'gpu'. Did you mean 'cuda'"):
        small(BetaVAE, device="gpu").fit(X)
    monkeypatch.setattr("riskvae._machine._devices", lambda: ["cpu"])
    for name, meant in (("gpu", "auto"), ("GPU:0", "auto"), ("cdua", "auto"), ("CPU", "cpu")):
        with pytest.raises(ValueError, match=f"device must be .*got {name!r}. Did you mean {meant!r}"):
            small(BetaVAE, device=name).fit(X)


# ----------------------------------------------------------------------- measures with arrays in them


class Weighted(risk.Measure):
    """Mean of sorted losses with weights of one's own."""

    def __init__(self, weights):
        self.weights = weights

    def __call__(self, losses, *, tail="worst", dim=-1):
        order = losses.movedim(dim, -1).sort(-1, descending=tail == "worst").values
        weights = torch.as_tensor(np.asarray(self.weights), dtype=losses.dtype)
        n = min(len(weights), order.shape[-1])
        return (order[..., :n] * weights[:n] / weights[:n].sum()).sum(-1)


@pytest.mark.parametrize("make", [np.array, torch.tensor, list, tuple], ids=lambda make: make.__name__)
def test_measures_with_arrays_compare_hash_pickle_and_go_on(X, make):
    one, same, other = Weighted(make([3.0, 2.0, 1.0])), Weighted(make([3.0, 2.0, 1.0])), Weighted(make([3.0, 2.0, 2.0]))
    assert one == same == clone(one) == pickle.loads(pickle.dumps(one))
    assert one != other
    assert hash(one) == hash(same)
    assert len({one, same, other}) == 2
    vae = small(RiskAwareVAE, measure=one, warm_start=True).fit(X)
    assert vae.fit(X).set_params(measure=other).fit(X).n_iter_ == 9
    assert cloudpickle.loads(cloudpickle.dumps(vae)).fit(X).n_iter_ == 12


def test_results_of_a_search_over_measures_are_grouped(X):
    grid = {
        "measure": [Weighted(np.array([2.0, 1.0])), risk.CVaR(0.5), risk.Spectral(risk.Extremile(2))],
        "beta": [0.5, 1],
    }
    found = GridSearchCV(small(RiskAwareVAE, max_epochs=1), grid, cv=2, error_score="raise").fit(X)
    groups = pd.DataFrame(found.cv_results_).groupby("param_measure", sort=False)["mean_test_score"].count()
    assert groups.tolist() == [2, 2, 2]


def test_keys_tell_what_differs():
    def one(n_in, n_out):
        return nn.Linear(n_in, n_out)

    def two(n_in, n_out):
        return nn.Linear(n_in, n_out, bias=False)

    two.__qualname__ = one.__qualname__
    assert key_of(one) != key_of(two)
    assert key_of(risk.CVaR(1)) == key_of(risk.CVaR(1.0))
    assert key_of({"a": np.ones(2)}) == key_of({"a": torch.ones(2)}) != key_of({"a": np.zeros(2)})
    assert key_of({1, "b"}) == key_of({"b", 1})

    def itself(n):
        return itself(n - 1) if n else 0

    class Circle:
        def __init__(self):
            self.me = self

    assert key_of(itself) == key_of(itself)
    assert key_of(Circle()) == key_of(Circle())


def test_keys_see_what_functions_enclose_and_do_not_hang():
    def deco(f):
        def make(n_in, n_out):
            return nn.Sequential(nn.Linear(n_in, n_out), f())

        return make

    assert key_of(deco(lambda: nn.ReLU())) != key_of(deco(lambda: nn.Tanh()))
    assert key_of(functools.lru_cache(lambda u: u)) != key_of(functools.lru_cache(lambda u: 2 * u))

    class Twice:
        def __init__(self):
            self.a = self.b = self.run

        def run(self):
            return self

    assert hash(key_of(Twice())) == hash(key_of(Twice()))

    class Slotted:
        __slots__ = ("width",)

        def __init__(self, width):
            self.width = width

    assert key_of(Slotted(1)) == key_of(Slotted(1)) != key_of(Slotted(2))
    assert " at 0x" not in repr(key_of([Slotted(1), np.random.default_rng(0), Twice(), object()]))
    assert key_of({"a": 1, "b": 2}) == key_of({"b": 2, "a": 1})
    assert key_of(np.zeros((0, 3))) == key_of(np.zeros((0, 3)))
    large = np.arange(10_000.0)
    assert key_of(large) == key_of(torch.tensor(large)) != key_of(large.reshape(100, 100))
    assert len(repr(key_of(large))) < 100


def test_keys_are_the_same_in_every_process(tmp_path):
    script = tmp_path / "keys.py"
    script.write_text(
        "from riskvae._value import key_of\n"
        "def f(x):\n    return x in {'a', 'b', 'c', 'd'}\n"
        "print(key_of((f, {'x', 'y', 'z'})))\n"
    )
    runs = {
        subprocess.run(
            [sys.executable, str(script)], capture_output=True, text=True, env={**os.environ, "PYTHONHASHSEED": seed}
        ).stdout
        for seed in "123"
    }
    assert len(runs) == 1


def test_a_factory_that_counts_is_the_same_to_a_model_that_goes_on(X):
    class Counts:
        made = 0

        def __call__(self, n_in, n_out):
            self.made += 1
            return nn.Linear(n_in, n_out)

    kept = nn.Linear(6, 4)
    for encoder in (Counts(), lambda n_in, n_out: kept):
        small(BetaVAE, encoder=encoder).fit(X).partial_fit(X)
