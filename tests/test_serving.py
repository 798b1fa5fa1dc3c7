"""Copies for inference: made once, never stale, and the estimator's own module untouched."""

import copy
import io
import pickle
import threading

import numpy as np
import pytest
import torch
from helpers import small
from torch import nn

from riskvae import BetaVAE, QuantileVAE


def first(module):
    """First linear layer of an encoder; that of QuantileVAE begins with a layer that standardizes."""
    return next(layer for layer in module.encoder if isinstance(layer, nn.Linear))


def name_of_first(module):
    return next(name for name, _ in module.named_parameters() if name.startswith("encoder"))


@pytest.fixture(params=[BetaVAE, QuantileVAE])
def model(request, X):
    return small(request.param).fit(X)


def test_a_second_call_makes_no_second_copy(model, X, monkeypatch):
    model.score_samples(X), model.transform(X)
    expected = model.score_samples(X), model.transform(X)
    monkeypatch.setattr(copy, "deepcopy", None)
    np.testing.assert_array_equal(model.score_samples(X), expected[0])
    np.testing.assert_array_equal(model.transform(X), expected[1])


def scale_in_place(module):
    with torch.no_grad():
        first(module).weight.mul_(2.0)


def scale_data(module):
    first(module).weight.data.mul_(2.0)


def assign_data(module):
    first(module).weight.data = 2.0 * first(module).weight.data


def load(module):
    module.load_state_dict({**module.state_dict(), name_of_first(module): 2.0 * first(module).weight})


def replace_parameter(module):
    first(module).weight = nn.Parameter(2.0 * first(module).weight.detach())


@pytest.mark.parametrize("change", [scale_in_place, scale_data, assign_data, load, replace_parameter])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_changed_weights_are_noticed(model, X, change, dtype):
    rows = X.astype(dtype)
    before = model.transform(rows)
    change(model.module_)
    after = model.transform(rows)
    assert not np.allclose(before, after)
    fresh = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(after, fresh.transform(rows))


def test_training_on_is_noticed(model, X):
    before = model.reconstruct(X), model.score_samples(X)
    model.partial_fit(X)
    fresh = pickle.loads(pickle.dumps(model))
    for method, old in zip(("reconstruct", "score_samples"), before, strict=True):
        found = getattr(model, method)(X)
        assert not np.array_equal(found, old)
        np.testing.assert_array_equal(found, getattr(fresh, method)(X))


def test_copies_are_in_no_pickle_and_no_copy(model, X):
    alone = len(pickle.dumps(model))
    model.score_samples(X), model.transform(X.astype("float32"))
    assert model.net_.copies
    assert len(pickle.dumps(model)) == alone
    assert not copy.deepcopy(model).net_.copies
    buffer = io.BytesIO()
    torch.save(model.net_, buffer)
    assert len(model.net_.copies) >= 2


def test_the_module_itself_keeps_mode_and_dtype(model, X):
    model.module_.train()
    model.transform(X)
    assert all(module.training for module in model.module_.modules())
    assert all(parameter.dtype == torch.float32 for parameter in model.module_.parameters())


def test_threads_may_ask_while_one_trains(model, X):
    def ask():
        for _ in range(30):
            found.append(np.isfinite(model.score_samples(X)).all())

    found, threads = [], [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(5):
        model.partial_fit(X)
    for thread in threads:
        thread.join()
    assert len(found) == 90
    assert all(found)
    fresh = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(model.score_samples(X), fresh.score_samples(X))


def change_buffer(module):
    module.likelihood.log_scale.add_(1.0)


def exchange_layer(module):
    module.decoder[0] = nn.Linear(module.n_components, 16)


def exchange_decoder(module):
    module.decoder = nn.Linear(module.n_components, module.decoder[-1].out_features)


@pytest.mark.parametrize("change", [change_buffer, exchange_layer, exchange_decoder])
def test_changed_parts_are_noticed(X, change):
    model = small(BetaVAE).fit(X)
    before = model.score_samples(X)
    change(model.module_)
    after = model.score_samples(X)
    assert not np.allclose(before, after)
    np.testing.assert_array_equal(after, pickle.loads(pickle.dumps(model)).score_samples(X))


def test_weights_whose_values_do_not_lie_side_by_side(X):
    model = small(BetaVAE).fit(X)
    layer = first(model.module_)
    layer.weight = nn.Parameter(layer.weight.detach().t().contiguous().t())
    before = model.transform(X)
    layer.weight.data.mul_(2.0)
    assert not np.allclose(model.transform(X), before)


@pytest.mark.parametrize("cls", [BetaVAE, QuantileVAE])
def test_the_short_way_through_validation_says_what_the_long_one_says(cls, X):
    model = small(cls).fit(X)
    bad = X.copy()
    bad[3, 2] = np.inf
    far = X.copy()
    far[0] = 1e308  # a sum beyond float64 of finite values
    assert np.isfinite(model.score_samples(far)).all()
    for rows, message in (
        (bad, "Input X contains infinity"),
        (X[:, :3], "X has 3 features"),
        (X[:0], "0 sample"),
        (X[0], "1D array"),
    ):
        with pytest.raises(ValueError, match=message):
            model.transform(rows)
    np.testing.assert_array_equal(model.transform(X), model.transform(X.tolist()))


def test_settings_and_hooks_are_noticed(X):
    model = small(BetaVAE, activation="leaky_relu").fit(X)
    before = model.transform(X)
    model.module_.encoder[1].negative_slope = 1.0
    after = model.transform(X)
    assert not np.allclose(after, before)
    handle = model.module_.encoder.register_forward_hook(lambda module, given, out: torch.zeros_like(out))
    assert not np.allclose(model.transform(X), after)
    handle.remove()
    np.testing.assert_array_equal(model.transform(X), after)


@pytest.fixture
def threads():
    """Set torch's number of threads; put back afterwards."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("cls", [BetaVAE, QuantileVAE])
def test_answers_are_the_same_on_any_number_of_threads(cls, dtype, threads):
    """Also of few rows, whose products torch's libraries cut by the number of threads."""
    if not torch.backends.cpu.get_cpu_capability().startswith("AVX512"):
        pytest.skip("single precision is MKL's here, and hangs on the number of threads")
    rows = np.random.default_rng(0).normal(size=(300, 13)).astype(dtype)
    vae = cls(max_epochs=1, random_state=0, device="cpu").fit(rows)

    def answers(n):
        x = rows[:n]
        return [*vae.encode(x), vae.reconstruct(x), vae.score_samples(x), vae.sample(n)]

    for n in (1, 2, 4, 5, 7, 13, 19, 26, 34, 39, 50, 77, 99, 130, 300):
        threads(1)
        expected = answers(n)
        for number in (2, 3):
            threads(number)
            assert all(map(np.array_equal, answers(n), expected)), n
            assert torch.get_num_threads() == number
