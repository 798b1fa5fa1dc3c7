"""Damage against the norm, least norms, and starts: curves that do not fall, optima that are known."""

import math
import warnings
from functools import partial

import numpy as np
import pytest
import torch
from helpers import LinearGaussian

from riskvae import max_damage_attack, robustness_margin
from riskvae.robustness import damage_curve, targeted_attack
from riskvae.robustness._jacobian import leading_directions, leading_features, linearize
from riskvae.robustness._opening import open_coder
from riskvae.robustness._starts import first_directions

norms = pytest.mark.parametrize("norm", [1, 2, math.inf])
RADII = [0.1, 0.3, 0.6, 1.0]
quick = {"n_steps": 15, "random_state": 0}


# ------------------------------------------------------------------------------------------- curves


@norms
def test_curves_begin_at_the_noise_do_not_fall_and_stay_in_their_balls(X, vae, norm):
    curve = damage_curve(vae, X[:8], [0, *RADII], norm=norm, bounds=(0, 1), keep_rows=True, **quick)
    np.testing.assert_array_equal(curve.damage[0], curve.clean_damage)
    np.testing.assert_array_equal(curve.X_adv[0], X[:8])
    assert (np.diff(curve.damage, axis=0) >= 0).all()
    assert (curve.damage[-1] > curve.damage[1]).all()
    lengths = np.linalg.norm(curve.X_adv - X[:8], norm, axis=2)
    assert (lengths <= curve.max_norms[:, None] * (1 + 1e-6)).all()
    assert curve.X_adv.min() >= 0
    assert curve.X_adv.max() <= 1


@norms
@pytest.mark.parametrize("perturb", ["mean", "both"])
def test_a_curve_finds_as_much_as_attacks_one_by_one(X, vae, norm, perturb):
    options = {"norm": norm, "perturb": perturb, "bounds": (-1, 2), **quick}
    curve = damage_curve(vae, X[:16], RADII, **options)
    singles = np.stack([max_damage_attack(vae, X[:16], max_norm=q, **options).damage for q in RADII])
    assert (np.median(curve.damage / singles, axis=1) >= 0.99).all()


def test_a_curve_of_one_norm_is_the_attack(X, vae):
    curve, single = damage_curve(vae, X[:8], [0.5], **quick), max_damage_attack(vae, X[:8], max_norm=0.5, **quick)
    for name in ("damage", "log_likelihood_adv", "degradation", "p_broken", "success"):
        np.testing.assert_array_equal(getattr(curve, name)[0], getattr(single, name), err_msg=name)
    assert curve.X_adv is None
    assert curve.r == single.r


def test_a_curve_as_a_table(X, vae):
    curve = damage_curve(vae, X[:3], [0.4, 0.2, 0.4], r=[0.1, 0.2, 0.3], **quick)
    np.testing.assert_array_equal(curve.max_norms, [0.2, 0.4])
    table = curve.to_frame()
    assert list(table["row"]) == [0, 1, 2] * 2
    assert list(table["r"]) == [0.1, 0.2, 0.3] * 2
    np.testing.assert_array_equal(table.loc[table["max_norm"] == 0.4, "damage"], curve.damage[1])
    assert repr(curve).startswith("DamageCurve of 3 rows, norm 2; broken: moved by more than r = 0.1-0.3 in most draws")


@pytest.mark.parametrize("bad", [[], [-1.0, 2.0], [math.nan], [0.0], [math.inf], "far", [[1.0], [2.0]]])
def test_norms_that_make_no_curve(X, vae, bad):
    with pytest.raises((TypeError, ValueError), match="max_norms must hold at least one radius above 0, all of them"):
        damage_curve(vae, X[:3], bad)


def test_what_was_done_of_a_curve_is_kept(X):
    class Stops(LinearGaussian):
        calls = 0

        def decode(self, z):
            type(self).calls += 1
            if self.calls > 150:
                raise RuntimeError("out of memory")
            return super().decode(z)

    with pytest.warns(UserWarning, match="damage_curve stopped early"):
        curve = damage_curve(Stops(2, 6), X, [0.5, 1.0], n_steps=3, batch_size=4, random_state=0)
    assert np.isfinite(curve.damage[:, 0]).all()
    assert np.isnan(curve.damage[:, -1]).all()
    assert not curve.success[:, -1].any()
    # The radius is that of the rows that were done.
    done = int(np.isfinite(curve.damage[0]).sum())
    whole = damage_curve(LinearGaussian(2, 6), X[:done], [0.5], n_steps=3, batch_size=4, random_state=0)
    assert curve.r == pytest.approx(whole.r)


@pytest.mark.parametrize("perturb", ["mean", "both"])
def test_attacks_and_margins_have_one_radius(X, vae, perturb):
    margin = robustness_margin(vae, X[:9], methods="theorem1", n_draws=100, random_state=3)
    attack = max_damage_attack(vae, X[:9], max_norm=1.0, n_steps=1, perturb=perturb, random_state=3)
    assert attack.r == pytest.approx(margin.r, rel=1e-6)


# ------------------------------------------------------------------------------------------- starts


def wide(k=64, d=300):
    """Linear model of many dimensions whose output moves in few directions above all."""
    model = LinearGaussian(k, d, seed=2, uneven=False)
    model.A = model.A * (0.7 ** torch.arange(k, dtype=torch.float64))[:, None]
    return model


def test_starts_of_wide_models_are_singular_vectors():
    with open_coder(wide(), np.random.default_rng(0).normal(size=(3, 300))) as coder:
        found, features = first_directions(coder, coder.x, None, torch.ones(3), 0, 4, n_features=30)
        local = linearize(coder, coder.x)
        exact = leading_directions(coder, local, 4)
        # After two passes the first is met to a thousandth, and the space of four nearly.
        assert ((found[:, 0] * exact[:, 0]).sum(-1).abs() > 0.999).all()
        assert torch.linalg.svdvals(found @ exact.transpose(1, 2)).min() > 0.95
        assert torch.allclose(found.norm(dim=-1), torch.ones(3, 4, dtype=found.dtype))
        assert ((features == 1).sum(-1) == 1).all()
        longest = leading_features(coder, local, 30)
        shared = (features.sum(1) * longest.sum(1)).sum(-1)
        assert (shared > 15).all()  # by chance, 3 of 30


def test_starts_leave_alone_what_may_not_change():
    free = torch.zeros(1, 1, 300, dtype=torch.float64)
    free[..., :50] = 1
    with open_coder(wide(), np.zeros((2, 300))) as coder:
        found, features = first_directions(coder, coder.x, free.expand(2, 1, -1), torch.ones(2), 0, 3, n_features=5)
    assert not found[..., 50:].any()
    assert not features[..., 50:].any()


def test_a_wide_model_is_attacked_along_its_leading_direction():
    model = wide()
    result = max_damage_attack(model, np.zeros((2, 300)), max_norm=1.0, n_steps=20, random_state=0)
    _, _, vectors = np.linalg.svd(model.A.numpy())
    assert (np.abs(result.delta @ vectors[0]) > 0.97).all()


# --------------------------------------------------------------------------------------- least norms


def nearest(A, goal, r):
    """Length of the shortest d with |A d - goal| <= r: ridge regression, its multiplier by bisection."""
    low, high = 0.0, 1e9
    for _ in range(200):
        middle = 0.5 * (low + high)
        d = A.T @ np.linalg.solve(A @ A.T + middle * np.eye(len(A)), goal)
        low, high = (middle, high) if np.linalg.norm(A @ d - goal) < r else (low, middle)
    return np.linalg.norm(d)


def test_the_least_norm_of_a_linear_model_is_known():
    model = LinearGaussian(2, 5, seed=4)
    target = np.random.default_rng(0).normal(size=(3, 5))
    result = targeted_attack(model, np.zeros((3, 5)), target, space="latent", r=0.3, n_steps=100, random_state=0)
    exact = [nearest(model.A.numpy(), model.A.numpy() @ row, 0.3) for row in target]
    assert result.success.all()
    assert (result.distance <= 0.3 + 1e-9).all()
    np.testing.assert_allclose(result.least_norm, exact, rtol=0.03)
    assert (result.least_norm >= np.array(exact) * (1 - 1e-9)).all()
    np.testing.assert_allclose(np.linalg.norm(result.delta, axis=1), result.least_norm, rtol=1e-6)


@norms
def test_an_attack_of_the_least_norm_succeeds_and_one_of_half_of_it_does_not(norm):
    model, rows = LinearGaussian(2, 5, seed=4), np.zeros((4, 5))
    targets = 2.0 * np.random.default_rng(0).normal(size=(4, 5))
    options = {"norm": norm, "bounds": (-8, 8), "random_state": 0}
    least = targeted_attack(model, rows, targets, **options)
    assert least.success.all()
    np.testing.assert_allclose(np.linalg.norm(least.delta, norm, axis=1), least.least_norm, rtol=1e-6)
    assert (least.least_norm <= np.linalg.norm(targets, norm, axis=1)).all()
    # A single attack has no other balls to begin from, so it needs more steps.
    single = partial(targeted_attack, model, rows, targets, **{**options, "n_steps": 150, "n_restarts": 4})
    assert single(max_norm=1.1 * least.least_norm).success.all()
    assert not single(max_norm=0.5 * least.least_norm).success.any()
    assert "least norm" in repr(least)
    assert "least_norm" in least.to_frame()


def test_the_least_norm_respects_masks_and_boxes(X, vae):
    free = np.array([1, 1, 0, 1, 0, 1], dtype=bool)
    held = targeted_attack(vae, X[:6], X[20], mask=free, r=0.8, **quick)
    assert not held.delta[:, ~free].any()
    every = targeted_attack(vae, X[:6], X[20], r=0.8, **quick)
    assert (held.least_norm >= 0.97 * every.least_norm)[every.success].all()


def test_least_norms_at_the_ends():
    model, rows = LinearGaussian(2, 5, seed=4), np.random.default_rng(1).normal(size=(3, 5))
    own = targeted_attack(model, rows, rows, space="latent", r=0.1, **quick)
    np.testing.assert_array_equal(own.least_norm, 0)
    assert own.success.all()
    # Within r of any goal the noise never stays: no norm is enough.
    none = targeted_attack(model, rows, rows[::-1].copy(), r=1e-6, **quick)
    assert np.isinf(none.least_norm).all()
    assert not none.success.any()
    assert (none.distance < none.clean_distance)[[0, 2]].all()


def test_little_is_enough_where_the_target_is_near_and_nothing_warns(X, vae):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        near = partial(targeted_attack, vae, X[:4], X[20], **quick)
        loose, strict = near(r=1.0), near(r=0.5)
    assert (loose.least_norm <= strict.least_norm * 1.03).all()
