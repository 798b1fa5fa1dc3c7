"""The contract of all estimators: scikit-learn's checks, and what the documentation promises.

A new estimator adds its rows to ESTIMATORS.
"""

import copy
import pickle
import random
import signal
import threading
import time

import joblib
import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from helpers import small
from sklearn import config_context
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import MinMaxScaler
from sklearn.utils.estimator_checks import parametrize_with_checks
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from riskvae import BetaTCVAE, BetaVAE, QuantileVAE, RiskAwareVAE
from riskvae.risk import Extremile, SmoothedCVaR, Spectral

ESTIMATORS = [
    BetaVAE(),
    small(BetaVAE, early_stopping=True, noise_scale=0.5**0.5, output_activation="sigmoid", activation="tanh"),
    small(BetaTCVAE, beta=6.0, scale_offset=0.05),
    QuantileVAE(),
    small(QuantileVAE, calibration_fraction=0.3, quantiles=(0.05, 0.25, 0.6, 0.9), early_stopping=True),
    small(QuantileVAE, contamination=0.1, quantiles=(0.5,), n_score_samples=3, batch_size=7),
    RiskAwareVAE(),
    small(RiskAwareVAE, risk="seeking", eps=0.3, hidden_layer_sizes=(), scale_offset=0.1, batch_size=7),
    small(RiskAwareVAE, risk_over="nested", n_subsamples=4, eps_subsamples=0.5, threshold="ema", eps_warmup=1),
    small(RiskAwareVAE, measure=SmoothedCVaR(smoothing=0.5), threshold="learned", risk_on="elbo", early_stopping=True),
    small(RiskAwareVAE, measure=Spectral(Extremile(3)), risk_over="subsamples", n_subsamples=3, risk="seeking"),
    small(RiskAwareVAE, risk="neutral", activation="softplus", weight_decay=1e-2),
]
CLASSES = sorted({type(estimator) for estimator in ESTIMATORS}, key=lambda cls: cls.__name__)
WITH_MEANS = [cls for cls in CLASSES if cls is not QuantileVAE]  # whose likelihood can be chosen
METHODS = ("transform", "reconstruct", "reconstruction_loss", "score_samples")


@pytest.mark.filterwarnings("ignore:.*reconstructs worse than the mean")  # some checks use unscaled data
@pytest.mark.filterwarnings("ignore:QuantileVAE. .* rows are too few to tell which 5% of rows")  # and few rows
@parametrize_with_checks(ESTIMATORS)
def test_scikit_learn_contract(estimator, check):
    check(estimator)


@pytest.fixture(params=CLASSES, ids=lambda cls: cls.__name__)
def cls(request):
    return request.param


@pytest.fixture(scope="module")
def fitted(X):
    cache = {}

    def get(cls):
        if cls not in cache:
            cache[cls] = small(cls, max_epochs=5).fit(X)
        return cache[cls]

    return get


def outputs(estimator, X):
    return {method: getattr(estimator, method)(X) for method in METHODS}


def assert_same_weights(a, b):
    for (name, left), (_, right) in zip(a.module_.state_dict().items(), b.module_.state_dict().items(), strict=True):
        assert torch.equal(left, right), name


# ------------------------------------------------------------------------------------------- shapes


def test_shapes_and_names(cls, fitted, X):
    estimator = fitted(cls)
    n, d = X.shape
    assert estimator.transform(X).shape == (n, 2)
    assert estimator.reconstruct(X).shape == estimator.inverse_transform(estimator.transform(X)).shape == (n, d)
    assert estimator.reconstruction_loss(X).shape == estimator.score_samples(X).shape == (n,)
    assert estimator.sample(4).shape == (4, d)
    mean, scale = estimator.encode(X)
    assert mean.shape == scale.shape == (n, 2)
    assert (scale > 0).all()
    assert estimator.score(X) == pytest.approx(estimator.score_samples(X).mean(), rel=1e-12)
    prefix = cls.__name__.lower()
    assert list(estimator.get_feature_names_out()) == [f"{prefix}0", f"{prefix}1"]
    assert estimator.n_iter_ == 5
    assert estimator.device_ == torch.device("cpu") or torch.cuda.is_available() or torch.backends.mps.is_available()


def test_reconstruct_is_decode_of_encode(cls, fitted, X):
    estimator = fitted(cls)
    np.testing.assert_array_equal(estimator.transform(X), estimator.encode(X).mean)
    np.testing.assert_allclose(
        estimator.reconstruct(X), estimator.inverse_transform(estimator.transform(X)), rtol=1e-12, atol=1e-14
    )


def test_history_is_a_dict_per_epoch_and_losses_fall(cls, X):
    estimator = small(cls, max_epochs=20, lr=1e-2).fit(X)
    losses = [epoch["train_loss"] for epoch in estimator.history_]
    assert [epoch["epoch"] for epoch in estimator.history_] == list(range(1, 21))
    assert losses[-1] < losses[0]
    assert all(epoch["dur"] > 0 and np.isfinite(epoch["train_kl"]) for epoch in estimator.history_)


# --------------------------------------------------------------------------------------- determinism


def test_same_seed_same_weights_other_seed_other_weights(cls, fitted, X):
    again = small(cls, max_epochs=5).fit(X)
    assert_same_weights(fitted(cls), again)
    other = small(cls, max_epochs=5, random_state=1).fit(X)
    assert not np.allclose(other.transform(X), again.transform(X))


def test_random_state_instance_and_none_follow_scikit_learn(cls, X):
    a = small(cls, random_state=np.random.RandomState(3)).fit(X)
    b = small(cls, random_state=np.random.RandomState(3)).fit(X)
    assert_same_weights(a, b)
    c, d = small(cls, random_state=None).fit(X), small(cls, random_state=None).fit(X)
    assert not np.allclose(c.transform(X), d.transform(X))


def test_global_generators_are_neither_used_nor_moved(cls, X):
    def state():
        return random.getstate(), np.random.get_state()[1].tolist(), np.random.get_state()[2], torch.get_rng_state()

    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    before = state()
    first = small(cls, decoder=dropout_decoder).fit(X)
    first.score_samples(X), first.sample(3)
    for dataset in (TensorDataset(torch.tensor(X)), Stream(X), Noisy(X)):
        small(cls).fit(dataset)
    after = state()
    assert before[:3] == after[:3]
    assert torch.equal(before[3], after[3])
    noisy = small(cls).fit(Noisy(X))
    torch.manual_seed(99)
    assert_same_weights(noisy, small(cls).fit(Noisy(X)))
    assert_same_weights(first, small(cls, decoder=dropout_decoder).fit(X))


def dropout_decoder(n_in, n_out):
    return torch.nn.Sequential(torch.nn.Linear(n_in, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, n_out))


def test_fits_in_threads_do_not_disturb_each_other(cls, X):
    alone = [small(cls, random_state=seed).fit(X).transform(X) for seed in range(4)]
    together = joblib.Parallel(n_jobs=4, backend="threading")(
        joblib.delayed(lambda seed: small(cls, random_state=seed).fit(X).transform(X))(seed) for seed in range(4)
    )
    np.testing.assert_array_equal(alone, together)


def test_a_thread_that_uses_the_global_generator_changes_nothing(cls, fitted):
    done = threading.Event()

    def draw():
        while not done.is_set():
            torch.rand(1000)

    thread = threading.Thread(target=draw)
    thread.start()
    try:
        again = [small(cls, max_epochs=5, random_state=0).fit(ROWS) for _ in range(5)]
    finally:
        done.set()
        thread.join()
    for model in again[1:]:
        assert_same_weights(again[0], model)
    assert_same_weights(again[0], small(cls, max_epochs=5, random_state=0).fit(ROWS))


def test_inference_is_deterministic_and_keeps_rows_apart(cls, fitted, X):
    estimator = fitted(cls)
    whole = outputs(estimator, X)
    rng = np.random.default_rng(0)
    order = rng.permutation(len(X))
    for method, expected in whole.items():
        call = getattr(estimator, method)
        np.testing.assert_array_equal(call(X), expected)
        np.testing.assert_allclose(call(X[order]), expected[order], rtol=1e-10, atol=1e-12)
        one_by_one = np.concatenate([call(X[i : i + 1]) for i in range(20)])
        np.testing.assert_allclose(one_by_one, expected[:20], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("cls", CLASSES)
def test_no_layer_sees_more_values_at_once_than_a_chunk_has(cls):
    """Of narrow rows, too: 60,000 of 5 features took 4.9 GB through layers of 512."""
    X = np.random.default_rng(0).normal(size=(40_000, 3)).astype("float32")
    estimator = cls(n_components=2, max_epochs=1, random_state=0).fit(X[:1000])
    seen = []
    hook = torch.nn.modules.module.register_module_forward_hook(lambda module, given, out: seen.append(out))
    try:
        methods = [*METHODS, "encode", "inverse_transform"]
        methods += ["predict", "predict_quantiles", "z_scores", "p_values"] if cls is QuantileVAE else []
        for method in methods:
            seen.clear()
            getattr(estimator, method)(X[:, :2] if method == "inverse_transform" else X)
            most = max(out.numel() for out in seen if isinstance(out, torch.Tensor))
            assert 2**20 < most <= 2**22, method  # large enough to keep the cores busy
    finally:
        hook.remove()


def test_inference_by_chunks_equals_inference_at_once(cls, fitted, X, monkeypatch):
    estimator = fitted(cls)
    whole = outputs(estimator, X)
    monkeypatch.setattr("riskvae.estimators._mapping.CHUNK", 50)
    for method, expected in outputs(estimator, X).items():
        np.testing.assert_allclose(expected, whole[method], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("cls", WITH_MEANS)
def test_samples_repeat_with_the_estimators_random_state(cls, fitted):
    estimator = fitted(cls)
    np.testing.assert_array_equal(estimator.sample(5), estimator.sample(5))
    assert not np.allclose(estimator.sample(5), estimator.sample(5, random_state=1))
    noisy = estimator.sample(20_000, observation_noise=True, random_state=2)
    residual = noisy - estimator.sample(20_000, random_state=2)
    # 120,000 draws: a relative standard error of .2 %, so 1.5 % is over seven of them.
    assert residual.std() == pytest.approx(estimator.noise_scale_, rel=0.015)


@pytest.mark.parametrize("cls", WITH_MEANS)
def test_scores_are_evidence_bounds_whatever_beta_and_risk(cls, fitted, X):
    """The bound is below the log-likelihood that importance sampling estimates, and close to it."""
    estimator = fitted(cls)
    rows = X[:20]
    mean, scale = estimator.encode(rows)
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(4000, 1, 2))
    z = mean + scale * noise
    decoded = estimator.inverse_transform(z.reshape(-1, 2)).reshape(4000, 20, -1)
    s, d = estimator.noise_scale_, X.shape[1]
    log_x = -0.5 * ((rows - decoded) ** 2).sum(-1) / s**2 - d * np.log(s) - 0.5 * d * np.log(2 * np.pi)
    log_prior, log_posterior = -0.5 * (z**2).sum(-1), -0.5 * (noise**2).sum(-1) - np.log(scale).sum(-1)
    bound = (log_x + log_prior - log_posterior).mean(0)
    tight = copy.deepcopy(estimator).set_params(n_score_samples=4000).score_samples(rows)
    np.testing.assert_allclose(tight, bound, atol=0.15)
    log_likelihood = np.logaddexp.reduce(log_x + log_prior - log_posterior, axis=0) - np.log(4000)
    assert (tight < log_likelihood + 0.1).all()


@pytest.mark.parametrize("cls", WITH_MEANS)
def test_antithetic_draws_cancel_what_is_linear(cls, X):
    """With a linear decoder a pair z, -z leaves the loss at the mean plus a square: the bound is below it."""
    estimator = small(cls, hidden_layer_sizes=(), n_score_samples=2, beta=0.01, lr=0.01, max_epochs=100).fit(X)
    mean, scale = estimator.encode(X)
    kl = (0.5 * (mean**2 + scale**2 - 1) - np.log(scale)).sum(1)
    assert (estimator.score_samples(X) <= -(estimator.reconstruction_loss(X) + kl) + 1e-9).all()


# -------------------------------------------------------------------------------------------- dtypes


def test_maths_runs_in_the_dtype_of_the_input(cls, fitted, X):
    estimator = fitted(cls)
    double, single = outputs(estimator, X), outputs(estimator, X.astype(np.float32))
    for method in METHODS:
        assert double[method].dtype == np.float64
        assert single[method].dtype == np.float32
        np.testing.assert_allclose(single[method], double[method], rtol=1e-3, atol=1e-3)
    # Float64 maths throughout: a change of one part in 10^12 shows.
    nudged = estimator.transform(X * (1 + 1e-12))
    assert 0 < np.abs(nudged - double["transform"]).max() < 1e-9


@pytest.mark.parametrize(
    "convert",
    [
        np.asfortranarray,
        lambda X: X.astype(np.float16),
        lambda X: X.astype(">f8"),
        lambda X: (255 * X).astype(np.uint8),
        lambda X: X > 0.5,
        lambda X: X[::2, ::-1],
        lambda X: X.tolist(),
        lambda X: pd.DataFrame(X),
        lambda X: torch.tensor(X, requires_grad=True),
    ],
    ids=["fortran", "float16", "big-endian", "uint8", "bool", "strided", "list", "dataframe", "tensor"],
)
def test_array_likes(cls, X, convert):
    rows = convert(X)
    estimator = small(cls).fit(rows)
    assert np.isfinite(estimator.score_samples(rows)).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_read_only_memory_maps_are_enough_and_stay_as_they_are(cls, X, dtype, tmp_path):
    path = tmp_path / "rows.npy"
    np.save(path, X.astype(dtype))
    rows = np.load(path, mmap_mode="r")
    estimator = small(cls).fit(rows)
    estimator.score_samples(rows)
    assert_same_weights(estimator, small(cls).fit(X.astype(dtype)))
    np.testing.assert_array_equal(rows, X.astype(dtype))


# --------------------------------------------------------------------------------------- composition


def test_clone_and_parameters_round_trip(cls):
    estimator = small(cls, beta=2.5, lr=0.01)
    assert clone(estimator).get_params() == estimator.get_params()
    assert cls().set_params(**estimator.get_params()).get_params() == estimator.get_params()


def test_pickle_joblib_and_deepcopy_round_trips(cls, fitted, X, tmp_path):
    estimator = fitted(cls)
    joblib.dump(estimator, tmp_path / "model.joblib")
    for twin in (
        pickle.loads(pickle.dumps(estimator)),
        joblib.load(tmp_path / "model.joblib"),
        copy.deepcopy(estimator),
    ):
        for method, expected in outputs(estimator, X).items():
            np.testing.assert_array_equal(getattr(twin, method)(X), expected)
        trained_on = [copy.deepcopy(model).partial_fit(X) for model in (twin, estimator)]
        assert_same_weights(*trained_on)


def test_grid_search_in_two_processes(cls, X):
    y = (X[:, 0] > X[:, 0].mean()).astype(int)
    pipe = make_pipeline(MinMaxScaler(), small(cls), LogisticRegression())
    grid = {f"{cls.__name__.lower()}__beta": [0.5, 2.0]}
    one = GridSearchCV(pipe, grid, cv=2, error_score="raise").fit(X, y)
    two = GridSearchCV(pipe, grid, cv=2, n_jobs=2, error_score="raise").fit(X, y)
    np.testing.assert_allclose(one.cv_results_["mean_test_score"], two.cv_results_["mean_test_score"])


def test_grid_search_by_the_models_own_score(cls, X):
    search = GridSearchCV(small(cls, lr=1e-2), {"max_epochs": [1, 40]}, cv=2, error_score="raise").fit(X)
    assert search.best_params_ == {"max_epochs": 40}


def test_feature_union(cls, X):
    union = FeatureUnion([("vae", small(cls)), ("pca", PCA(2))]).set_output(transform="pandas").fit(X)
    names = [f"vae__{cls.__name__.lower()}{i}" for i in range(2)] + ["pca__pca0", "pca__pca1"]
    assert list(union.transform(X).columns) == names


@pytest.mark.parametrize(("container", "frame"), [("pandas", pd.DataFrame), ("polars", pl.DataFrame)])
def test_set_output(cls, X, container, frame):
    rows = frame(X, columns=[f"f{i}" for i in range(6)]) if container == "pandas" else frame(X, schema=list("abcdef"))
    estimator = small(cls).set_output(transform=container).fit(rows)
    assert isinstance(estimator.transform(rows), frame)
    assert list(estimator.feature_names_in_) == list(rows.columns)
    for found in (estimator.reconstruct(rows), estimator.impute(rows), estimator.sample(2)):
        assert isinstance(found, frame)
        assert list(found.columns) == list(rows.columns)


def test_html_representation_links_the_documentation(cls, fitted):
    for estimator in (small(cls), fitted(cls)):
        html = estimator._repr_html_()
        assert f"riskvae.{cls.__name__}.html" in html


def test_metadata_routing_does_not_disturb(cls, X):
    with config_context(enable_metadata_routing=True):
        small(cls).fit(X)


# ------------------------------------------------------------------------------------ going on, stopping


def test_warm_start_equals_one_long_fit(cls, X):
    long = small(cls, max_epochs=6).fit(X)
    parts = small(cls, max_epochs=2, warm_start=True).fit(X)
    parts = pickle.loads(pickle.dumps(parts)).fit(X).set_params(max_epochs=2).fit(X)
    assert_same_weights(long, parts)
    assert parts.n_iter_ == len(parts.history_) == 6
    assert_same_weights(small(cls, max_epochs=6, warm_start=False).fit(X[:50]).fit(X), long)


def test_partial_fit_is_one_epoch(cls, X):
    parts = small(cls)
    for _ in range(3):
        parts.partial_fit(X)
    assert_same_weights(parts, small(cls, max_epochs=3).fit(X))
    parts.partial_fit(X[:1])
    assert parts.n_iter_ == 4


def test_a_changed_network_cannot_be_trained_on(cls, fitted, X):
    estimator = copy.deepcopy(fitted(cls)).set_params(n_components=5)
    with pytest.raises(ValueError, match=r"n_components=5 differs from the fitted model's 2"):
        estimator.partial_fit(X)
    assert estimator.set_params(n_components=2, beta=0.1, lr=0.5).partial_fit(X).n_iter_ == 6
    assert estimator.net_.optimizer_.param_groups[0]["lr"] == 0.5


def test_early_stopping_restores_the_best_epoch(cls, X):
    make = {"early_stopping": True, "lr": 0.05, "validation_fraction": 0.2}
    tol = 0.1 if cls is QuantileVAE else 0.5
    estimator = small(cls, max_epochs=300, n_iter_no_change=4, tol=tol, **make).fit(X)
    losses = np.array([epoch["valid_loss"] for epoch in estimator.history_])
    best_so_far = np.minimum.accumulate(losses)
    improved = np.concatenate([[True], losses[1:] <= best_so_far[:-1] - tol])
    assert 5 < estimator.n_iter_ < 300
    assert not improved[-4:].any()  # four epochs without an improvement by tol end it,
    assert all(improved[i : i + 4].any() for i in range(len(losses) - 4))  # and no four before them did
    assert losses.argmin() > np.flatnonzero(improved)[-1]  # a smaller improvement came later, and is kept
    assert estimator.best_iter_ == losses.argmin() + 1
    shorter = small(cls, max_epochs=int(losses.argmin()) + 1, n_iter_no_change=300, **make).fit(X)
    assert_same_weights(estimator, shorter)
    held_out = small(cls, max_epochs=1, batch_size=1, **make).fit(X).history_[0]
    assert (held_out["train_batch_count"], held_out["valid_batch_count"]) == (240, 60)
    assert "valid_loss" not in small(cls).fit(X).history_[0]


def test_ctrl_c_stops_the_fit_and_is_raised(cls, X, fitted):
    estimator = copy.deepcopy(fitted(cls)).set_params(max_epochs=10_000_000, warm_start=True)
    before = outputs(estimator, X)
    timer = threading.Timer(0.5, signal.raise_signal, [signal.SIGINT])
    timer.start()
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        estimator.fit(X)
    assert time.monotonic() - start < 60
    assert estimator.n_iter_ == 5
    for method, expected in before.items():
        np.testing.assert_array_equal(getattr(estimator, method)(X), expected)
    fresh = small(cls, max_epochs=10_000_000)
    threading.Timer(0.5, signal.raise_signal, [signal.SIGINT]).start()
    with pytest.raises(KeyboardInterrupt):
        fresh.fit(X)
    with pytest.raises(NotFittedError):
        fresh.transform(X)


# ------------------------------------------------------------------------------------- data of all kinds


ROWS = np.random.default_rng(1).random((300, 6))


class Noisy(Dataset):
    """Augments with torch's global generator."""

    def __init__(self, X):
        self.X = torch.tensor(X, dtype=torch.float32)

    def __len__(self):
        return len(self.X)

    def __getitem__(self, i):
        return self.X[i] + 0.1 * torch.randn(6)


class Stream(IterableDataset):
    def __init__(self, X):
        self.X = X

    def __iter__(self):
        return iter(self.X.astype(np.float32))


def test_torch_datasets(cls, X):
    rows = torch.tensor(X, dtype=torch.float32)
    for dataset in (TensorDataset(rows), TensorDataset(rows.reshape(-1, 2, 3), torch.zeros(len(X))), Stream(X)):
        estimator = small(cls, max_epochs=10, lr=1e-2).fit(dataset)
        assert estimator.n_features_in_ == 6
        assert estimator.history_[-1]["train_loss"] < estimator.history_[0]["train_loss"]
        assert estimator.transform(X).shape == (300, 2)


class Once(IterableDataset):
    """Can be read only once."""

    def __init__(self, X):
        self.iterator = iter(X.astype(np.float32))

    def __iter__(self):
        return self.iterator


def test_a_stream_that_can_be_read_once_is_read_whole(cls, X):
    rows = np.concatenate([X] * 5)
    once = small(cls, batch_size=100).partial_fit(Once(rows))
    assert once.history_[0]["train_batch_count"] == 15
    assert_same_weights(once, small(cls, batch_size=100).partial_fit(Stream(rows)))
    with pytest.raises(ValueError, match="gave no rows in this epoch; give one that can be iterated again"):
        small(cls, max_epochs=2).fit(Once(rows))


def test_the_callers_modes_and_default_dtype_do_not_matter(cls, fitted, X):
    expected = fitted(cls)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            assert_same_weights(expected, small(cls, max_epochs=5).fit(X))
    torch.set_default_dtype(torch.float64)
    try:
        estimator = small(cls, max_epochs=5).fit(X)
    finally:
        torch.set_default_dtype(torch.float32)
    assert {p.dtype for p in estimator.module_.parameters()} == {torch.float32}
    estimator.partial_fit(X)


def test_the_module_is_left_in_evaluation_mode(cls, X):
    estimator = small(cls).fit(X)
    for model in (estimator, estimator.partial_fit(X)):
        assert not any(module.training for module in model.module_.modules())
    mean = torch.func.vmap(torch.func.jacrev(lambda x: estimator.module_.encode(x).mean))(torch.rand(4, 6))
    assert mean.shape == (4, 2, 6)


@pytest.mark.parametrize("cls", WITH_MEANS)
def test_parameters_reach_the_model(cls, X):
    def fit(**parameters):
        return small(cls, **{"hidden_layer_sizes": (7, 5), **parameters}).fit(X)

    def widths(net):
        return [(m.in_features, m.out_features) for m in net.modules() if isinstance(m, torch.nn.Linear)]

    plain = fit()
    assert widths(plain.module_.encoder) == [(6, 7), (7, 5), (5, 4)]
    assert widths(plain.module_.decoder) == [(2, 5), (5, 7), (7, 6)]
    assert any(isinstance(m, torch.nn.Tanh) for m in fit(activation="tanh").module_.modules())
    assert fit(scale_offset=3.0).encode(X).scale.min() >= 3.0
    bounded = fit(output_activation="sigmoid").inverse_transform(100 * np.eye(2))
    assert ((bounded >= 0) & (bounded <= 1)).all()
    decayed, free = (fit(weight_decay=decay, lr=0.01, max_epochs=50) for decay in (50.0, 0.0))
    size = [sum(p.square().sum().item() for p in model.module_.parameters()) for model in (decayed, free)]
    assert size[0] < 0.1 * size[1]
    assert plain.net_.criterion_.beta == plain.beta
    assert plain.set_params(beta=0.3).partial_fit(X).net_.criterion_.beta == 0.3
    assert "valid_loss" not in fit(early_stopping=True).partial_fit(X).history_[-1]


def test_a_changed_factory_cannot_be_trained_on(X, tmp_path):
    estimator = small(BetaVAE, decoder=dropout_decoder).fit(X)
    pickle.loads(pickle.dumps(estimator)).partial_fit(X)
    with pytest.raises(ValueError, match="decoder=None differs from the fitted model's"):
        estimator.set_params(decoder=None).partial_fit(X)


def test_device_names(X):
    for device in ("cpu", "cpu:0", torch.device("cpu"), torch.device("cpu", 0)):
        estimator = small(BetaVAE, device=device).fit(X)
        assert estimator.device_ == torch.device("cpu")
        estimator.set_params(device="cpu").partial_fit(X)


@pytest.mark.parametrize("cls", WITH_MEANS)
def test_bernoulli_pixels(cls, X):
    estimator = small(cls, likelihood="bernoulli", max_epochs=10).fit(X)
    probabilities = estimator.reconstruct(X)
    assert ((probabilities > 0) & (probabilities < 1)).all()
    p = np.clip(probabilities, 1e-12, 1 - 1e-12)
    entropy = -(X * np.log(p) + (1 - X) * np.log(1 - p)).sum(1)
    np.testing.assert_allclose(estimator.reconstruction_loss(X), entropy, rtol=1e-9)
    assert set(np.unique(estimator.sample(50, observation_noise=True))) <= {0.0, 1.0}
    assert np.isnan(estimator.noise_scale_)


@pytest.mark.filterwarnings("ignore:.*reconstructs worse than the mean")
@pytest.mark.filterwarnings("ignore:QuantileVAE. .* rows are too few to tell which 5% of rows")
def test_constant_columns_one_batch_and_two_rows(cls, X):
    rows = X.copy()
    rows[:, 2:4] = 7.0
    for data in (rows, rows[:2], np.full((50, 3), 2.0), np.zeros((5, 1))):
        estimator = small(cls, batch_size=10_000, max_epochs=200).fit(data)
        assert np.isfinite(estimator.score_samples(data)).all()
        assert estimator.history_[-1]["train_batch_count"] == 1


@pytest.mark.parametrize("cls", WITH_MEANS)
def test_extreme_scales_train_or_fail_clearly(cls, X):
    """Unscaled data are the commonest mistake: huge, tiny and mixed units must not give NaN."""
    for data in (X * 1e6, X * 10.0 ** np.arange(-3, 3), np.vstack([X, 1e4 * X[:1]])):
        estimator = small(cls).fit(data)
        assert np.isfinite(estimator.score_samples(data)).all()
    for data in (X * 1e-3, X + 1e3):
        told = r"(posterior collapse: 0 of|features are reconstructed worse than by their mean).*StandardScaler"
        with pytest.warns(ConvergenceWarning, match=told):
            estimator = small(cls).fit(data)
        assert np.isfinite(estimator.score_samples(data)).all()


def test_digits_as_in_the_readme():
    X, y = load_digits(return_X_y=True)
    pipe = make_pipeline(
        MinMaxScaler(), RiskAwareVAE(n_components=16, random_state=0), LogisticRegression(max_iter=1000)
    )
    assert pipe.fit(X[:1000], y[:1000]).score(X[1000:], y[1000:]) > 0.85
