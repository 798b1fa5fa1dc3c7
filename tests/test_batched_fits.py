"""Many fits at once: the same models as one by one, whatever trains beside them, and an end where one fails."""

import os
import threading
import time
import warnings

import numpy as np
import pytest
import torch
from helpers import small
from joblib import Parallel, delayed
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV, KFold, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from skorch.callbacks import Callback

from riskvae import BetaTCVAE, BetaVAE, QuantileVAE, RiskAwareVAE, _machine, batched_fits, nets, risk
from riskvae.likelihoods import StudentT
from riskvae.nets import Posterior
from riskvae.training import Batch, RiskObjective, Terms, WeightedELBO
from riskvae.training._gathering import Gathering, gathering
from riskvae.training._objective import NearELBO, told_of
from riskvae.training._stack import Stack
from riskvae.training._stacked_loss import StackedLoss, kind_of, tail_weights

DRAWS = {"n_subsamples": 4}


@pytest.fixture(scope="module")
def X():
    rng = np.random.default_rng(0)
    return (rng.normal(size=(150, 3)) @ rng.normal(size=(3, 6)) + 0.3 * rng.normal(size=(150, 6))).astype(np.float32)


@pytest.fixture
def threads(monkeypatch):
    """Fits stay in this process, as where there is a GPU."""
    monkeypatch.setattr("riskvae.estimators._batched_fits.resolve_device", lambda device: torch.device("cuda"))


@pytest.fixture
def stacks(monkeypatch, threads):
    """How many models were trained in each stacked epoch."""
    sizes = []

    def steps(self, batches, of=Stack.steps):
        sizes.append(len(self.nets))
        return of(self, batches)

    monkeypatch.setattr(Stack, "steps", steps)
    return sizes


def fit_all(estimators, parts, **options):
    with batched_fits(**options):
        return Parallel(n_jobs=2)(delayed(type(e).fit)(e, part) for e, part in zip(estimators, parts, strict=True))


def agree(found, alone, rtol=2e-4):
    """Models, histories and learned scales are the same up to rounding."""
    assert [row["epoch"] for row in found.history_] == [row["epoch"] for row in alone.history_]
    for name in ("train_loss", "train_kl", "valid_loss"):
        if name in alone.history_[0]:
            a, b = ([row[name] for row in e.history_] for e in (found, alone))
            assert np.allclose(a, b, rtol=rtol, atol=1e-5), name
    a, b = (torch.cat([value.flatten() for value in e.net_.module_.state_dict().values()]) for e in (found, alone))
    away = (a - b).abs() / (1.0 + b.abs())
    # Adam moves a weight whose gradient is near 0, of pinball losses above all, by its sign: a few differ by more.
    assert away.max() < 3e-3
    assert (away > 2e-4).float().mean() < 0.02


def layers(a, b):
    return torch.nn.Sequential(torch.nn.Linear(a, 8), torch.nn.LayerNorm(8), torch.nn.SiLU(), torch.nn.Linear(8, b))


def normed(a, b):
    return torch.nn.Sequential(torch.nn.Linear(a, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, b))


CONVOLUTIONS = {"encoder": nets.conv_encoder, "decoder": nets.conv_decoder}
FAMILIES = {
    "beta": [BetaVAE, [{"beta": 0.5}, {"beta": 2.0}, {"beta": 1.0, "random_state": 1}]],
    "beta warm-up": [BetaVAE, [{"beta": 0.5, "beta_warmup": 2}, {"beta": 2.0}]],
    "bernoulli": [BetaVAE, [{"beta": 0.5, "likelihood": "bernoulli"}, {"beta": 2.0, "likelihood": "bernoulli"}]],
    "trained noise": [BetaVAE, [{"beta": 0.5, "likelihood": StudentT()}, {"beta": 2.0, "likelihood": StudentT()}]],
    "convolutions": [
        BetaVAE,
        [{"beta": b, "encoder": nets.conv_encoder, "decoder": nets.conv_decoder} for b in (1, 3)],
    ],
    "own layers": [BetaVAE, [{"beta": b, "encoder": layers, "decoder": layers} for b in (1.0, 3.0)]],
    "tails": [RiskAwareVAE, [{"eps": 0.2}, {"eps": 0.5, "beta": 3.0}, {"eps": 1.0}]],
    "warm-up": [RiskAwareVAE, [{"eps": 0.2, "eps_warmup": 2}, {"eps": 0.5, "eps_warmup": 3}]],
    "seeking": [RiskAwareVAE, [{"eps": 0.4, "risk": "seeking"}, {"eps": 0.8, "risk": "seeking"}]],
    "elbo": [RiskAwareVAE, [{"eps": 0.2, "risk_on": "elbo"}, {"eps": 0.8, "risk_on": "elbo"}]],
    "nested": [RiskAwareVAE, [{"eps": e, "risk_over": "nested", "eps_subsamples": 0.5, **DRAWS} for e in (0.2, 0.6)]],
    "joint": [RiskAwareVAE, [{"eps": e, "risk_over": "joint", **DRAWS} for e in (0.2, 0.6)]],
    "subsamples": [RiskAwareVAE, [{"eps": e, "risk_over": "subsamples", **DRAWS} for e in (0.3, 0.6)]],
    "detectors": [QuantileVAE, [{"beta": 0.5, "n_folds": 1}, {"beta": 2.0, "n_folds": 1}]],
    "contaminated": [QuantileVAE, [{"risk": "seeking", "eps": e, "n_folds": 1} for e in (0.8, 0.9)]],
}


@pytest.mark.parametrize("family", FAMILIES)
def test_models_are_those_of_fits_one_by_one(X, family, stacks):
    make, variants = FAMILIES[family]
    if family == "bernoulli":
        X = (X - X.min()) / (X.max() - X.min())
    if family == "convolutions":
        X = np.concatenate([X, X[:, :3]], 1)  # nine pixels
    # Folds of 149, 148 and 147 rows: batches differ by a row.
    estimators = [small(make, batch_size=50, max_epochs=4, **v) for v in variants]
    parts = [X[i:] for i in range(len(estimators))]
    found = fit_all([clone(e) for e in estimators], parts)
    assert stacks == [len(estimators)] * 4
    for a, e, part in zip(found, estimators, parts, strict=True):
        agree(a, e.fit(part))


def test_batches_may_differ_in_size_between_models_and_between_batches(X, stacks):
    """Of 79 rows in batches of at most 27 the first has 26, of 80 and 81 others: the longest is not always so long."""
    estimators = [small(RiskAwareVAE, eps=0.5, batch_size=27, max_epochs=3, random_state=i) for i in range(3)]
    parts = [X[:79], X[:80], X[:79]]
    alone = [clone(estimator).fit(part) for estimator, part in zip(estimators, parts, strict=True)]
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.simplefilter("ignore", ConvergenceWarning)
        together = fit_all(estimators, parts)
    assert stacks == [3] * 3
    for one, other, part in zip(alone, together, parts, strict=True):
        np.testing.assert_allclose(other.transform(part), one.transform(part), rtol=2e-4, atol=2e-5)


def test_each_stops_by_itself_and_keeps_its_best_epoch(X, stacks):
    estimators = [
        small(RiskAwareVAE, eps=eps, lr=0.02, max_epochs=40, early_stopping=True, n_iter_no_change=3, random_state=seed)
        for seed, eps in enumerate((0.3, 0.6, 1.0))
    ]
    found = fit_all([clone(e) for e in estimators], [X] * 3)
    alone = [e.fit(X) for e in estimators]
    lengths = {len(e.history_) for e in alone}
    assert len(lengths) > 1  # or this test says nothing
    assert [len(e.history_) for e in found] == [len(e.history_) for e in alone]
    for a, b in zip(found, alone, strict=True):
        assert a.net_.best_epoch == b.net_.best_epoch
        assert np.allclose(a.transform(X), b.transform(X), atol=5e-2)
    assert set(stacks) <= {2, 3}


def test_a_fitted_model_goes_on_alone_with_what_its_optimizer_knows(X):
    estimators = [small(BetaVAE, beta=beta, warm_start=True) for beta in (0.5, 2.0)]
    found = fit_all([clone(e) for e in estimators], [X] * 2)
    for a, e in zip(found, estimators, strict=True):
        agree(a.fit(X), e.fit(X).fit(X))
    again = fit_all([clone(e).fit(X) for e in estimators], [X] * 2)  # and one that began alone, in company
    for a, e in zip(again, estimators, strict=True):
        agree(a, e)


class Slower(Callback):
    """Changes the learning rate after two epochs."""

    def __init__(self, factor):
        self.factor = factor

    def on_epoch_end(self, net, **kwargs):
        if len(net.history) == 2:
            net.optimizer_.param_groups[0]["lr"] *= self.factor


def test_callbacks_and_learning_rates_are_each_models_own(X, stacks):
    factors = {0.5: 1e-3, 2.0: 1e-3, 1.0: 0.1}
    estimators = [
        small(BetaVAE, beta=beta, lr=0.05, max_epochs=4, callbacks=[Slower(f)]) for beta, f in factors.items()
    ]
    found = fit_all([clone(e) for e in estimators], [X] * 3)
    assert stacks == [3, 3, 2, 2]  # then the third has a learning rate of its own
    for a, e in zip(found, estimators, strict=True):
        agree(a, e.fit(X))


# ------------------------------------------------------------------------------------ scikit-learn's searches


class Changes(Callback):
    """Does something to a net after its second epoch."""

    def __init__(self, what):
        self.what = what

    def on_epoch_end(self, net, **kwargs):
        if len(net.history) == 2:
            self.what(net)


def other_weights(net):
    layer = net.module_.encoder[0]
    layer.bias = torch.nn.Parameter(torch.ones_like(layer.bias))
    net.optimizer_.param_groups[0]["params"] = list(net.module_.parameters())


def no_momentum(net):
    for kept in net.optimizer_.state.values():
        kept["exp_avg"].zero_()


CHANGES = {
    "frozen": lambda net: net.module_.encoder[0].requires_grad_(False),
    "other activation": lambda net: setattr(net.module_.decoder, "1", torch.nn.Sigmoid()),
    "other weights": other_weights,
    "other offset": lambda net: setattr(net.module_, "scale_offset", 1.0),
    "hook": lambda net: net.module_.encoder[0].weight.register_hook(lambda gradient: 0 * gradient),
    "no momentum": no_momentum,
    "no state": lambda net: net.optimizer_.state.clear(),
    "other optimizer": lambda net: net._initialize_optimizer(),
    "other kind of optimizer": lambda net: setattr(net, "optimizer_", torch.optim.SGD(net.module_.parameters(), 0.01)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_a_callback_changes_in_a_training_is_heard(X, change, stacks):
    estimators = [
        small(BetaVAE, max_epochs=4, random_state=seed, callbacks=[Changes(CHANGES[change])]) for seed in range(3)
    ]
    alone = [clone(e).fit(X) for e in estimators]
    for found, expected in zip(fit_all(estimators, [X] * 3), alone, strict=True):
        agree(found, expected)
    assert stacks == [3, 3] + ([] if change in ("hook", "other kind of optimizer") else [3, 3])


@pytest.mark.parametrize(("name", "value"), [("batch_size", 25), ("n_draws", 3)])
def test_a_model_whose_batches_change_leaves_the_others(X, name, value, stacks):
    change = Changes(lambda net: setattr(net, name, value))
    estimators = [
        small(BetaVAE, max_epochs=4, random_state=seed, callbacks=[change] * (seed == 1)) for seed in range(3)
    ]
    alone = [clone(e).fit(X) for e in estimators]
    for found, expected in zip(fit_all(estimators, [X] * 3), alone, strict=True):
        agree(found, expected)
    assert stacks == [3, 3, 2, 2]


def test_layers_that_thaw_at_different_times_have_their_own_numbers_of_steps(X, stacks):
    class Thaws(Callback):
        def __init__(self, epoch):
            self.epoch = epoch

        def on_train_begin(self, net, **kwargs):
            net.module_.encoder[0].requires_grad_(False)

        def on_epoch_end(self, net, **kwargs):
            net.module_.encoder[0].requires_grad_(len(net.history) >= self.epoch)

    estimators = [small(BetaVAE, max_epochs=5, callbacks=[Thaws(epoch)]) for epoch in (1, 1, 3, 3)]
    alone = [clone(e).fit(X) for e in estimators]
    for found, expected in zip(fit_all(estimators, [X] * 4), alone, strict=True):
        agree(found, expected)
    assert stacks == [4] + 8 * [2]


def test_a_grid_in_a_pipeline_finds_what_it_finds_without(X, stacks):
    pipe = make_pipeline(StandardScaler(), small(RiskAwareVAE, max_epochs=5))
    grid = {"riskawarevae__eps": [0.2, 0.6, 1.0], "riskawarevae__beta": [0.1, 4.0]}
    search = GridSearchCV(pipe, grid, cv=KFold(3), n_jobs=2)
    alone = clone(search).fit(X)
    with batched_fits():
        found = clone(search).fit(X)
    assert sum(stacks) == 18 * 5  # all candidates and folds; the last fit is alone
    assert min(stacks) >= 8
    assert np.allclose(found.cv_results_["mean_test_score"], alone.cv_results_["mean_test_score"], rtol=1e-3)
    assert found.best_params_ == alone.best_params_


@pytest.mark.parametrize("n_jobs", [None, 1, -1])
def test_any_number_of_jobs_will_do_and_few_fits_at_a_time(X, n_jobs, stacks):
    with batched_fits(max_fits=2):
        scores = cross_validate(small(BetaVAE), X, cv=5, n_jobs=n_jobs)["test_score"]
    assert np.allclose(scores, cross_validate(small(BetaVAE), X, cv=5)["test_score"], rtol=1e-3)
    assert max(stacks) == 2


@pytest.mark.parametrize("max_fits", [64, 4])
def test_processes_share_the_fits_and_train_their_own_in_company(X, max_fits):
    estimators = [small(BetaVAE, beta=beta) for beta in (0.2, 0.5, 1.0, 1.5, 2.0, 3.0)]

    def work(estimator):
        fitted = estimator.fit(X)
        return fitted, os.getpid(), max(map(len, gathering()._stacks))

    with batched_fits(max_fits):
        found = Parallel(n_jobs=2)(delayed(work)(clone(e)) for e in estimators)
    assert {company for _, _, company in found} == {3 if max_fits == 64 else 2}
    processes = [process for _, process, _ in found]
    assert len(set(processes)) == 2
    assert os.getpid() not in processes
    for (a, _, _), e in zip(found, estimators, strict=True):
        agree(a, e.fit(X))


def test_calls_of_joblib_may_overlap():
    with batched_fits():
        first = Parallel(n_jobs=2, return_as="generator", pre_dispatch=2)(delayed(abs)(-i) for i in range(6))
        found = [next(first)]
        assert Parallel(n_jobs=2)(delayed(abs)(-i) for i in range(4)) == [0, 1, 2, 3]
        found += first
    assert found == [0, 1, 2, 3, 4, 5]


def test_no_jobs_are_refused(X):
    with batched_fits(), pytest.raises(ValueError, match="n_jobs == 0"):
        Parallel(n_jobs=0)([delayed(abs)(1)])


def test_freed_memory_is_kept_where_the_c_library_can(monkeypatch):
    _machine.keep_freed_memory()
    calls = []

    class Library:
        def mallopt(self, *setting):
            calls.append(setting)

    monkeypatch.setattr(_machine.ctypes, "CDLL", lambda name: Library())
    _machine.keep_freed_memory()
    assert calls == [(-3, 2**25), (-1, 2**29)]  # M_MMAP_THRESHOLD at its maximum, M_TRIM_THRESHOLD
    monkeypatch.setattr(_machine.ctypes, "CDLL", lambda name: object())
    _machine.keep_freed_memory()


def test_outside_and_in_other_threads_fits_are_alone(X, stacks):
    with batched_fits():
        small(BetaVAE).fit(X)
        thread = threading.Thread(target=small(BetaVAE).fit, args=(X,))
        thread.start()
        thread.join()
    Parallel(n_jobs=2, prefer="threads")(delayed(small(BetaVAE).fit)(X) for _ in range(2))
    assert not stacks


def test_inner_models_of_a_detector_train_with_those_of_others(X, stacks):
    estimators = [small(QuantileVAE, beta=beta, max_epochs=2, n_folds=3) for beta in (0.5, 2.0)]
    found = fit_all([clone(e) for e in estimators], [X] * 2)
    assert len(stacks) > 2
    for a, e in zip(found, estimators, strict=True):
        assert np.allclose(a.score_samples(X), e.fit(X).score_samples(X), rtol=1e-2, atol=0.05)


# ----------------------------------------------------------------------------------------- who is alone


class PerBatch(Callback):
    def on_batch_end(self, net, **kwargs):
        pass


class OwnLoss(WeightedELBO):
    pass


class OwnVAE(BetaVAE):
    def make_objective(self):
        return OwnLoss(self.beta)


def holes(X):
    X = X.copy()
    X[0, 0] = np.nan
    return X


@pytest.mark.parametrize(
    ("make", "parameters", "data"),
    [
        (BetaVAE, {"callbacks": [PerBatch()]}, None),
        (BetaVAE, {}, holes),
        (BetaVAE, {"encoder": lambda a, b: torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.Linear(a, b))}, None),
        (BetaVAE, {"encoder": normed}, None),
        (OwnVAE, {}, None),
        (BetaTCVAE, {}, None),
        (RiskAwareVAE, {"threshold": "ema"}, None),
        (BetaVAE, {"precision": "bfloat16"}, None),
        (RiskAwareVAE, {"measure": risk.Entropic(0.1)}, None),
    ],
)
def test_what_cannot_be_stacked_trains_alone_and_is_the_same_bit_for_bit(X, make, parameters, data, stacks):
    X = X if data is None else data(X)
    estimators = [small(make, beta=beta, **parameters) for beta in (0.5, 2.0)]
    found = fit_all([clone(e) for e in estimators], [X] * 2)
    assert not stacks
    for a, e in zip(found, estimators, strict=True):
        assert [row["train_loss"] for row in a.history_] == [row["train_loss"] for row in e.fit(X).history_]


def test_other_structures_have_their_own_stacks(X, stacks):
    estimators = [small(BetaVAE, n_components=k, beta=beta) for k in (1, 2) for beta in (0.5, 2.0)]
    found = fit_all([clone(e) for e in estimators], [X] * 4)
    assert stacks == [2] * 6
    for a, e in zip(found, estimators, strict=True):
        agree(a, e.fit(X))


# --------------------------------------------------------------------------------------------- failures


class Spoil(Callback):
    def on_epoch_end(self, net, **kwargs):
        with torch.no_grad():
            next(net.module_.parameters()).mul_(1e30)


def test_a_model_that_diverges_fails_alone(X, stacks):
    estimators = [small(BetaVAE), small(BetaVAE, callbacks=[Spoil()]), small(BetaVAE, random_state=1)]

    def attempt(estimator):
        try:
            return estimator.fit(X)
        except ValueError as error:
            return error

    with batched_fits():
        found = Parallel(n_jobs=2)(delayed(attempt)(clone(e)) for e in estimators)
    assert "diverged: the loss became inf in epoch 2, batch 1" in str(found[1])
    assert stacks == [3, 3, 2]
    agree(found[0], estimators[0].fit(X))
    agree(found[2], estimators[2].fit(X))


@pytest.mark.parametrize("where", ["threads", "processes"])
def test_an_error_in_a_task_ends_all(X, where, request):
    if where == "threads":
        request.getfixturevalue(where)

    def work(i):
        if i == 0:
            time.sleep(0.3)
            raise KeyError("mine")
        return small(BetaVAE, max_epochs=100_000).fit(X)

    start = time.monotonic()
    with batched_fits(), pytest.raises(KeyError, match="mine"):
        Parallel(n_jobs=2)(delayed(work)(i) for i in range(3))
    assert time.monotonic() - start < 60
    assert not any(thread.name.startswith("ThreadPool") and thread.is_alive() for thread in threading.enumerate())


def test_where_a_stack_fails_models_train_one_by_one(X, monkeypatch, threads):
    def fail(self, batches):
        raise MemoryError("too many")

    monkeypatch.setattr(Stack, "steps", fail)
    estimators = [small(BetaVAE, beta=beta) for beta in (0.5, 2.0)]
    with pytest.warns(UserWarning, match=r"one by one.*MemoryError: too many"):
        found = fit_all([clone(e) for e in estimators], [X] * 2)
    for a, e in zip(found, estimators, strict=True):
        assert [row["train_loss"] for row in a.history_] == [row["train_loss"] for row in e.fit(X).history_]


def test_a_slow_task_is_not_waited_for(X, stacks, monkeypatch):
    monkeypatch.setattr("riskvae.training._gathering._MORE_PATIENCE", 1.5)
    done = threading.Event()

    def work(i):
        if i == 0:
            assert done.wait(60)  # until the others are through
            return None
        fitted = small(BetaVAE, random_state=i).fit(X)
        left.remove(i)
        if not left:
            done.set()
        return fitted

    left = [1, 2]
    with batched_fits():
        Parallel(n_jobs=4)(delayed(work)(i) for i in range(3))
    assert done.is_set()


@pytest.mark.parametrize(("given", "error"), [(0, ValueError), (2.5, TypeError), (True, TypeError), ("8", TypeError)])
def test_bad_numbers_are_refused(given, error):
    with pytest.raises(error, match="max_fits must be an integer of at least 1"), batched_fits(given):
        pass


def test_filters_of_warnings_are_as_before(X, threads):
    before = list(warnings.filters)
    fit_all([small(BetaVAE, random_state=i) for i in range(4)], [X] * 4)
    assert warnings.filters == before


def test_work_that_waits_for_its_turn_is_not_waited_for():
    gathering = Gathering(2, 1)
    works = [gathering.hand_in(lambda: None) for _ in range(5)]
    assert sum(task.expected for task in gathering._tasks) == 2
    for work in works:
        work()
    assert not gathering._tasks


# ----------------------------------------------------------------------------------------------- losses


@pytest.mark.parametrize("n_draws", [1, 3])
@pytest.mark.parametrize("even", [True, False])
@pytest.mark.parametrize(
    "make",
    [
        lambda eps: WeightedELBO(2 * eps),
        lambda eps: NearELBO(2 * eps),
        *(
            lambda eps, options=options: RiskObjective(2 * eps, risk.CVaR(eps), risk.CVaR(1 - eps / 2), **options)
            for tail in ("worst", "best")
            for options in (
                {"tail": tail},
                {"tail": tail, "over": "nested"},
                {"tail": tail, "over": "joint"},
                {"tail": tail, "over": "subsamples"},
                {"tail": tail, "on": "elbo"},
                {"tail": tail, "all_pay": True},
            )
        ),
    ],
)
def test_losses_weights_and_gradients_are_those_of_the_objectives(make, even, n_draws):
    objectives, sizes = [make(eps) for eps in (0.05, 0.37, 1.0)], [20, 20, 20] if even else [20, 19, 21]
    generator = torch.Generator().manual_seed(3)
    nll = 5 + torch.randn(3, n_draws, max(sizes), generator=generator, dtype=torch.float64)
    nll[0, :, 4] = 500.0  # far off
    nll[:, :, :6] = nll[:, :1, :6].round()  # ties
    kl = torch.rand(3, max(sizes), generator=generator, dtype=torch.float64)
    nll.requires_grad_(), kl.requires_grad_()
    assert len({kind_of(objective) for objective in objectives}) == 1
    stacked = StackedLoss([o.train() for o in objectives], sizes, torch.device("cpu"))
    stacked.beta, stacked.even = stacked.beta.double(), stacked.live.double().div(stacked.n_rows.double())[:, None]
    losses, parts, counted = stacked(nll, kl)
    losses.sum().backward()
    for i, (objective, n) in enumerate(zip(objectives, sizes, strict=True)):
        own_nll, own_kl = (part[i, ..., :n].detach().requires_grad_() for part in (nll, kl))
        terms = Terms(own_nll, own_kl, None, Posterior(None, None), Batch(torch.zeros(n, 1)))
        loss = objective(terms)
        told, known = told_of(objective, terms, loss)
        loss.backward()
        assert torch.allclose(losses[i], loss, rtol=1e-6)
        assert torch.allclose(parts[i], told, rtol=1e-6)
        assert torch.allclose(counted[i], known, rtol=1e-6)
        assert torch.allclose(nll.grad[i, :, :n], own_nll.grad, rtol=1e-6, atol=1e-9)
        assert torch.allclose(kl.grad[i, :n], own_kl.grad, rtol=1e-6, atol=1e-9)
        assert not nll.grad[i, :, n:].any()
        assert not kl.grad[i, n:].any()


def test_tail_weights_for_many_masses_are_those_of_one():
    values = torch.randn(4, 50, generator=torch.Generator().manual_seed(0)).round(decimals=1)
    for eps in (0.01, 0.3, 0.5, 1.0):
        mass = torch.full((4, 1), max(50 * eps, 1.0))
        assert torch.allclose(tail_weights(values, mass), risk.tail_weights(values, eps), atol=1e-7)
