"""Every mistake gets a message that says what to do, and loses nothing."""

import copy
from fractions import Fraction

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from helpers import small
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from skorch.callbacks import Callback
from torch.utils.data import TensorDataset

from riskvae import BetaVAE, QuantileVAE, RiskAwareVAE, robustness_margin
from riskvae._validation import derive_seed, to_float32
from riskvae.risk import CVaR, Extremile

BAD_PARAMETERS = [
    ("eps", 0, ValueError, r"eps must be a number in \(0, 1\]; got 0\..*eps=1\.0 or risk='neutral'"),
    ("eps", -0.1, ValueError, r"eps must be a number in \(0, 1\]; got -0\.1"),
    ("eps", 1.01, ValueError, r"eps must be a number in \(0, 1\]; got 1\.01"),
    ("eps", float("nan"), ValueError, r"eps must be a number in \(0, 1\]; got nan"),
    ("eps", "0.5", TypeError, r"eps must be a number in \(0, 1\]; got '0\.5'"),
    ("eps", True, TypeError, r"eps must be a number in \(0, 1\]; got True"),
    ("beta", -1.0, ValueError, r"beta must be a finite number of at least 0; got -1\.0"),
    ("beta", float("inf"), ValueError, r"beta must be a finite number of at least 0; got inf"),
    ("n_components", 0, ValueError, r"n_components must be an integer of at least 1; got 0"),
    ("n_components", 2.0, TypeError, r"n_components must be an integer of at least 1; got 2\.0"),
    ("hidden_layer_sizes", (16, 0), ValueError, r"hidden_layer_sizes must be a sequence of positive integers"),
    ("hidden_layer_sizes", 64, TypeError, r"hidden_layer_sizes must be a sequence .* such as \(512, 256\); got 64"),
    ("activation", "rleu", ValueError, r"activation must be one of .*; got 'rleu'\. Did you mean 'relu'\?"),
    ("likelihood", "bernouli", ValueError, r"likelihood must be one of .* Did you mean 'bernoulli'\?"),
    ("output_activation", "sigmod", ValueError, r"output_activation .* Did you mean 'sigmoid'\?"),
    ("risk", "avers", ValueError, r"risk must be one of 'averse', .* Did you mean 'averse'\?"),
    ("risk", None, TypeError, r"risk must be one of 'averse', 'seeking', 'neutral'; got None"),
    ("risk_over", "subsample", ValueError, r"risk_over .* Did you mean 'subsamples'\?"),
    ("measure", "cvra", ValueError, r"measure must be 'cvar', or a measure of riskvae\.risk.* mean 'cvar'\?"),
    ("measure", "CVaR", ValueError, r"measure must be .*; got 'CVaR'\. Did you mean 'cvar'\?"),
    ("measure", Extremile(3), TypeError, r"measure must be .* spectra go in risk\.Spectral"),
    ("risk", CVaR(0.1), TypeError, r"risk must be one of .*; got CVaR\(eps=0\.1\)\. Pass it as measure\."),
    ("noise_scale", 0.0, ValueError, r"noise_scale must be 'learned', or a finite number above 0; got 0\.0"),
    ("noise_scale", "learn", ValueError, r"noise_scale .* Did you mean 'learned'\?"),
    ("scale_offset", -1e-9, ValueError, r"scale_offset must be a finite number of at least 0"),
    ("max_epochs", 0, ValueError, r"max_epochs must be 'auto', or an integer of at least 1"),
    ("batch_size", -1, ValueError, r"batch_size must be an integer of at least 1"),
    ("lr", 0.0, ValueError, r"lr must be a finite number above 0"),
    ("validation_fraction", 1.0, ValueError, r"validation_fraction must be a number in \(0, 1\)"),
    ("early_stopping", "yes", TypeError, r"early_stopping must be True or False; got 'yes'"),
    ("callbacks", 3, TypeError, r"callbacks must be None or a list of skorch callbacks; got 3"),
    ("callbacks", [3], TypeError, r"callbacks must be None or a list of skorch callbacks; got \[3\]"),
    ("beta", Fraction(1, 2), TypeError, r"beta must be a finite number of at least 0; got Fraction"),
    ("n_score_samples", 0, ValueError, r"n_score_samples must be 'auto', or an integer of at least 1"),
    ("encoder", torch.nn.Linear(2, 2), TypeError, r"encoder must be .* Pass what makes the module"),
    ("decoder", "conv", TypeError, r"decoder must be None or a callable \(n_in, n_out\) -> nn\.Module; got 'conv'"),
    ("device", "cuda:99", ValueError, r"device='cuda:99' is not available here; this machine has .*cpu.*device='auto'"),
    ("device", "gpu", ValueError, r"device must be 'auto', a name such as 'cpu', .*; got 'gpu'"),
    ("device", 0, TypeError, r"device must be 'auto'.*; got 0"),
    ("random_state", "zero", ValueError, r"random_state must be None, an integer .*; got 'zero'"),
    ("random_state", -1, ValueError, r"random_state must be None, an integer .*; got -1"),
]


@pytest.mark.parametrize(("name", "value", "error", "message"), BAD_PARAMETERS)
def test_bad_parameters(X, name, value, error, message):
    estimator = small(RiskAwareVAE, **{name: value})
    with pytest.raises(error, match=message):
        estimator.fit(X)
    assert not hasattr(estimator, "net_")
    assert not hasattr(estimator, "n_features_in_") or name == "random_state"


def test_bernoulli_predicts_probabilities(X):
    with pytest.raises(ValueError, match="likelihood='bernoulli' predicts probabilities, so output_activation"):
        small(BetaVAE, likelihood="bernoulli", output_activation="identity").fit(X)


def with_value(X, value):
    rows = X.copy()
    rows[3, 1] = value
    return rows


BAD_DATA = [
    (lambda X: with_value(X, -np.inf), ValueError, "infinity"),
    (lambda X: with_value(X, np.inf), ValueError, "infinity"),
    (lambda X: with_value(X, 1e300), ValueError, "too large for float32.*StandardScaler"),
    (lambda X: X[:1], ValueError, "1 sample"),
    (lambda X: X[:0], ValueError, "0 sample"),
    (lambda X: X[:, :0], ValueError, "0 feature"),
    (lambda X: X[0], ValueError, "Expected 2D array, got 1D"),
    (lambda X: X.reshape(-1, 2, 3), ValueError, r"array with dim 3.*X\.reshape\(len\(X\), -1\)"),
    (lambda X: X.astype(str), ValueError, "dtype='numeric' is not compatible with arrays of bytes/strings"),
    (lambda X: np.full((5, 2), "a", object), ValueError, "could not convert string to float"),
    (lambda X: X + 1j, ValueError, "Complex data not supported"),
    (lambda X: sp.csr_matrix(X), TypeError, r"[Ss]parse.*\.toarray\(\)"),
    (lambda X: TensorDataset(torch.tensor(X)[:0]), ValueError, "X is a Dataset without rows"),
    (lambda X: TensorDataset(torch.arange(5)), TypeError, "items must be rows of features"),
]


@pytest.mark.parametrize(("make", "error", "message"), BAD_DATA)
def test_bad_data(X, make, error, message):
    rows = make(X)
    estimator = small(BetaVAE)
    with pytest.raises(error, match=message):
        estimator.fit(rows)
    assert not hasattr(estimator, "net_")
    fitted = small(BetaVAE).fit(X)
    before = fitted.transform(X)
    with pytest.raises(error, match=message):
        fitted.fit(rows)
    np.testing.assert_array_equal(fitted.transform(X), before)  # what was fitted is not lost


def test_bernoulli_needs_the_unit_interval(X):
    message = r"likelihood='bernoulli' needs X in \[0, 1\]; got values from .* to 2\. .*MinMaxScaler"
    with pytest.raises(ValueError, match=message):
        small(BetaVAE, likelihood="bernoulli").fit(with_value(X, 2.0))
    with pytest.raises(ValueError, match=message):
        small(BetaVAE, likelihood="bernoulli").fit(TensorDataset(torch.tensor(with_value(X, 2.0))))
    fitted = small(BetaVAE, likelihood="bernoulli").fit(X)
    with pytest.raises(ValueError, match=message):
        fitted.score_samples(with_value(X, 2.0))
    assert np.isfinite(fitted.transform(with_value(X, 2.0))).all()


def test_bernoulli_forgives_rounding(X):
    rows = with_value(X, 1 + 2.3e-16)
    assert np.isfinite(small(BetaVAE, likelihood="bernoulli").fit(rows).score(rows))
    with pytest.raises(ValueError, match=r"values from .* to 1\.00001"):
        small(BetaVAE, likelihood="bernoulli").fit(with_value(X, 1.00001))


def test_a_dataset_needs_rows(vae, X):
    with pytest.raises(TypeError, match="X is a torch Dataset, .* Pass an array of its rows"):
        robustness_margin(vae, TensorDataset(torch.tensor(X)))
    with pytest.raises(ValueError, match="X is a Dataset with 1 sample; a minimum of 2 is required"):
        small(BetaVAE).fit(TensorDataset(torch.tensor(X[:1])))


def test_n_score_samples_is_checked_when_it_is_used(vae, X):
    with pytest.raises(ValueError, match="n_score_samples must be 'auto', or an integer of at least 1; got 0"):
        copy.deepcopy(vae).set_params(n_score_samples=0).score_samples(X)


def test_wrong_number_of_features(vae, X):
    for method in (vae.transform, vae.score_samples, vae.reconstruct, copy.deepcopy(vae).partial_fit):
        with pytest.raises(ValueError, match="X has 5 features, but BetaVAE is expecting 6 features"):
            method(X[:, :5])
    with pytest.raises(ValueError, match="X has 3 columns, but inverse_transform expects .* n_components=2"):
        vae.inverse_transform(np.zeros((4, 3)))
    ragged = TensorDataset(torch.rand(5, 4))
    with pytest.raises(ValueError, match="X is a Dataset with rows of 4 features; expected 6"):
        copy.deepcopy(vae).partial_fit(ragged)


def test_sample_needs_a_count(vae):
    with pytest.raises(ValueError, match="n_samples must be an integer of at least 1; got 0"):
        vae.sample(0)


@pytest.mark.parametrize("which", ["encoder", "decoder"])
def test_networks_of_the_wrong_width(X, which):
    def wrong(n_in, n_out):
        return torch.nn.Linear(n_in, 3)

    def picky(n_in, n_out):
        return torch.nn.Linear(n_in + 1, n_out)

    def stub(n_in, n_out):
        return n_out

    class Pair(torch.nn.Linear):
        def forward(self, x):
            return super().forward(x), x

    class InPlace(torch.nn.Linear):
        def forward(self, x):
            return super().forward(x.sub_(0.5))

    n_in, n_out = (6, 4) if which == "encoder" else (2, 6)
    message = rf"{which}: .* must map \(n, {n_in}\) to \(n, {n_out}\).* it gave \(2, 3\)"
    with pytest.raises(ValueError, match=message):
        small(BetaVAE, **{which: wrong}).fit(X)
    with pytest.raises(ValueError, match=rf"{which}: the module .* fails on {n_in} inputs"):
        small(BetaVAE, **{which: picky}).fit(X)
    with pytest.raises(ValueError, match=rf"{which}: .* on 2 rows it gave tuple"):
        small(BetaVAE, **{which: Pair}).fit(X)
    with pytest.raises(ValueError, match=rf"{which}: .* changes its input in place"):
        small(BetaVAE, **{which: InPlace}).fit(X)
    with pytest.raises(TypeError, match=rf"{which}\(n_in, n_out\) must return a torch\.nn\.Module; got int"):
        small(BetaVAE, **{which: stub}).fit(X)


class Poison(Callback):
    """Spoils a weight before a given epoch."""

    def __init__(self, epoch, value=float("nan")):
        self.epoch = epoch
        self.value = value

    def on_epoch_begin(self, net, **kwargs):
        if len(net.history) == self.epoch:
            with torch.no_grad():
                next(net.module_.decoder.parameters())[0] = self.value


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_stops_being_finite(X, value):
    message = r"Training diverged: the loss became nan in epoch 3, batch 1\. .*lr=0\.001.*Lower lr, or scale X first"
    estimator = small(BetaVAE, max_epochs=5, callbacks=[Poison(3, value)])
    with pytest.raises(ValueError, match=message):
        estimator.fit(X)
    assert not hasattr(estimator, "net_")


def test_divergence_leaves_a_fitted_estimator_as_it_was(X):
    estimator = small(BetaVAE, max_epochs=2).fit(X)
    before, state = estimator.score_samples(X), copy.deepcopy(estimator.net_.optimizer_.state_dict())
    estimator.set_params(callbacks=[Poison(3)], warm_start=True)
    for train in (estimator.partial_fit, estimator.fit):
        with pytest.raises(ValueError, match="Training diverged"):
            train(X)
        np.testing.assert_array_equal(estimator.score_samples(X), before)
        assert estimator.n_iter_ == 2
    estimator.set_params(lr=0.5, batch_size=3, beta=9.0)
    with pytest.raises(ValueError, match="Training diverged"):
        estimator.partial_fit(X)
    assert (estimator.net_.lr, estimator.net_.batch_size, estimator.net_.criterion_.beta) == (1e-3, 256, 1.0)
    again = estimator.net_.optimizer_.state_dict()
    assert again["param_groups"][0]["lr"] == 1e-3
    assert all(torch.equal(again["state"][i]["exp_avg"], s["exp_avg"]) for i, s in state["state"].items())


def test_a_learning_rate_that_is_too_high(X):
    with pytest.raises(ValueError, match=r"Training diverged.*lr=1e\+30"):
        small(BetaVAE, lr=1e30, max_epochs=50).fit(X)


def test_a_weight_spoiled_by_the_last_step_is_noticed(X):
    class SpoilAtTheEnd(Callback):
        def on_batch_end(self, net, training, **kwargs):
            with torch.no_grad():
                next(net.module_.decoder.parameters())[0] = float("inf")

    with pytest.raises(ValueError, match="a weight became infinite or NaN in epoch 1"):
        small(BetaVAE, max_epochs=1, batch_size=1000, callbacks=[SpoilAtTheEnd()]).fit(X)


def test_float32_rows_are_shared_and_others_copied_once(X):
    rows = X.astype(np.float32)
    rows.flags.writeable = False
    assert to_float32(rows).data_ptr() == rows.ctypes.data
    for other in (X, X.astype(np.float32)[:, ::-1], X.astype(np.float16), (9 * X).astype(np.int16), X.astype(">f4")):
        tensor = to_float32(other)
        np.testing.assert_array_equal(tensor.numpy(), other.astype(np.float32))


def test_derived_seeds_differ_in_every_argument():
    seeds = {derive_seed(a, b, c) for a in range(5) for b in ("training", "score") for c in range(50)}
    assert len(seeds) == 500
    assert derive_seed(1, "training", 2) == derive_seed(1, "training", 2)


# --------------------------------------------------------------------------- arguments of other libraries


@pytest.mark.parametrize("cls", [BetaVAE, RiskAwareVAE, QuantileVAE])
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("sample_weight", r"rows count alike here. Repeat rows, or let rare groups count .*risk_over='groups'\)"),
        ("X_val", "held-out rows of your own cannot be passed. early_stopping=True holds out validation_fraction"),
        ("epochs", "set max_epochs, a parameter of the estimator"),
        ("nonsense", "its arguments are X, groups, y"),
    ],
)
def test_arguments_that_fit_does_not_take(cls, X, name, reason):
    for method in ("fit", "partial_fit"):
        with pytest.raises(TypeError, match=rf"{cls.__name__}.{method}\(\) takes no {name}: {reason}"):
            getattr(small(cls), method)(X, **{name: X})
    with pytest.raises(TypeError, match=rf"{cls.__name__}.fit\(\) takes X and y by position; pass others by name"):
        small(cls).fit(X, None, X)
    with pytest.raises(TypeError, match=rf"{cls.__name__}.fit\(\) takes no {name}: "):
        make_pipeline(small(cls), LogisticRegression()).fit(X, X[:, 0] > 0.5, **{f"{cls.__name__.lower()}__{name}": X})
