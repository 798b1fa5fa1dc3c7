"""Changes of some features only, each by its own amount: for attacks, and for margins."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from helpers import LinearGaussian

from riskvae import max_damage_attack
from riskvae.robustness import robustness_margin, targeted_attack

quick = partial(max_damage_attack, n_steps=15, random_state=0)
few = partial(robustness_margin, n_draws=2000, random_state=0)
FREE = np.array([True, False, False, True, True, False])
norms = pytest.mark.parametrize("norm", [1, 2, math.inf])


@norms
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_mask_a_frozen_feature_and_a_box_of_each_row_are_one_thing(X, vae, norm, dtype):
    rows, size = X[:5].astype(dtype), 0.3
    ends = np.where(FREE, 9.0, 0.0).astype(dtype)
    told = {
        "mask": {"mask": FREE},
        "numbers": {"mask": FREE.astype(float).tolist()},
        "mask of each row": {"mask": np.tile(FREE, (5, 1))},
        "frozen": {"bounds": (rows - ends, rows + ends)},
        "both": {"mask": FREE, "bounds": (-20, 20)},
    }
    found = {name: quick(vae, rows, max_norm=size, norm=norm, **options) for name, options in told.items()}
    for name, result in found.items():
        assert not result.delta[:, ~FREE].any(), name
        assert (np.linalg.norm(result.delta, norm, axis=1) <= size * (1 + 1e-5)).all(), name
        np.testing.assert_allclose(result.damage, found["mask"].damage, rtol=1e-4, err_msg=name)
    assert (found["mask"].damage > found["mask"].clean_damage).all()
    # The whole ball holds more; what 16 draws take for the best may be a few percent less on fresh ones.
    assert (found["mask"].damage <= quick(vae, rows, max_norm=size, norm=norm, n_steps=60).damage * 1.03).all()
    target = targeted_attack(vae, rows, X[9], max_norm=size, norm=norm, mask=FREE, n_steps=9, random_state=0)
    assert not target.delta[:, ~FREE].any()


def test_each_row_and_each_feature_has_its_own_box(X, vae):
    rng = np.random.default_rng(0)
    low, high = X[:5] - rng.uniform(0, 0.2, (5, 6)), X[:5] + rng.uniform(0, 0.2, (5, 6))
    for norm in (1, 2, math.inf):
        result = quick(vae, X[:5], max_norm=0.4, norm=norm, bounds=(low, high))
        assert ((result.X_adv >= low) & (result.X_adv <= high)).all()
        alone = quick(vae, X[2:3], max_norm=0.4, norm=norm, bounds=(low[2], high[2]))
        np.testing.assert_allclose(alone.damage[0], result.damage[2], rtol=1e-6)


def test_budgets_of_features():
    model, budget = LinearGaussian(2, 4, seed=5), np.array([0.1, 0.0, 0.3, 0.4])
    result = quick(model, np.zeros((3, 4)), max_norm=budget, norm=math.inf, n_steps=60)
    assert (np.abs(result.delta) <= budget).all()
    # A convex function of delta has its maximum at a corner.
    whitened = (model.A / model.scale[:, None]).numpy()
    corners = budget * np.array(np.meshgrid(*[[-1, 1]] * 4)).reshape(4, -1).T
    best = np.linalg.norm(corners @ whitened.T, axis=1).max()
    np.testing.assert_allclose(np.linalg.norm(result.delta @ whitened.T, axis=1), best, rtol=1e-3)
    each = quick(model, np.zeros((3, 4)), max_norm=np.tile(budget, (3, 1)) * [[1], [2], [3]], norm=math.inf, n_steps=60)
    np.testing.assert_allclose(np.linalg.norm(each.delta @ whitened.T, axis=1), best * np.arange(1, 4), rtol=1e-3)


def test_a_masked_margin_is_that_of_a_model_that_sees_those_features_alone():
    free = np.array([1, 0, 1, 1, 0, 1])
    model, blind = LinearGaussian(2, 6, seed=3), LinearGaussian(2, 6, seed=3)
    blind.A = blind.A * torch.tensor(free, dtype=blind.A.dtype)
    X = np.random.default_rng(0).normal(size=(3, 6))
    masked, expected = few(model, X, r=2.5, mask=free), few(blind, X, r=2.5)
    exact = blind.margin(2.5)
    for name in ("theorem1", "whitened", "second_order"):
        np.testing.assert_allclose(getattr(masked, name), getattr(expected, name), rtol=1e-9)
    assert exact > 1.05 * model.margin(2.5)
    assert (masked.lower <= exact).all()
    assert ((masked.upper >= 0.985 * exact) & (masked.upper <= 1.12 * exact)).all()
    np.testing.assert_allclose(masked.linearized, expected.linearized, rtol=0.02)
    assert not masked.delta[:, free == 0].any()
    np.testing.assert_allclose(np.linalg.norm(masked.delta, axis=1), masked.upper)


def test_a_margin_in_a_box_is_no_smaller_and_its_change_stays_inside():
    # One latent dimension: mean a . x. Inside a narrow box the least change goes along its walls, and is known.
    model = LinearGaussian(1, 3, seed=0)
    with torch.no_grad():
        model.A.copy_(torch.tensor([[3.0, 1.0, 0.5]]))
    X, wide = np.zeros((1, 3)), few(model, np.zeros((1, 3)), r=2.5)
    need = model.margin(2.5) * float(model.A.norm())  # of a . delta
    low, high = np.array([-0.2, -9, -9]), np.array([0.2, 9, 9])
    boxed = few(model, X, r=2.5, bounds=(low, high))
    rest = (need - 0.6) / np.hypot(1.0, 0.5)
    exact = math.hypot(0.2, rest)
    assert exact > 1.1 * wide.upper[0]
    assert 0.985 * exact <= boxed.upper[0] <= 1.12 * exact
    assert boxed.lower[0] <= exact
    assert ((boxed.delta >= low - 1e-12) & (boxed.delta <= high + 1e-12)).all()
    np.testing.assert_allclose(np.linalg.norm(boxed.delta[0]), boxed.upper[0])
    assert few(model, X, r=2.5, bounds=(low / 1000, high / 1000)).censored.all()  # nothing in there breaks it


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mask": [True, False]}, "mask must say for each of 6 features"),
        ({"mask": np.full(6, 0.5)}, "mask must say"),
        ({"mask": "all"}, "mask must say"),
        ({"mask": np.zeros(6)}, "mask leaves nothing that may change"),
        ({"bounds": (np.zeros((4, 6)), np.ones((4, 6)))}, "arrays of the shape of X"),
        ({"bounds": (np.ones(6), np.zeros(6))}, "low below high"),
    ],
)
def test_mistakes(X, vae, options, message):
    with pytest.raises(ValueError, match=message):
        max_damage_attack(vae, X[:5], max_norm=1.0, **options)
    with pytest.raises(ValueError, match=message):
        robustness_margin(vae, X[:5], **options)


def test_budgets_are_of_norm_infinity(X, vae):
    with pytest.raises(ValueError, match=r"for each feature for norm=numpy.inf only; got norm=2"):
        max_damage_attack(vae, X[:5], max_norm=np.ones(6))
    with pytest.raises(ValueError, match="max_norm for each feature must be finite, 0 or more"):
        max_damage_attack(vae, X[:5], max_norm=-np.ones(6), norm=math.inf)
