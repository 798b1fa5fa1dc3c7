"""Attacks: inside ball and box, at the optimum where it is known, fair to every row."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from helpers import LinearGaussian, small
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize
from sklearn.exceptions import NotFittedError

from riskvae import BetaVAE
from riskvae.robustness import max_damage_attack, robustness_margin, targeted_attack
from riskvae.robustness._projection import NORMS, ascent, norm_of, project

norms = pytest.mark.parametrize("norm", NORMS)
quick = partial(max_damage_attack, n_steps=15, random_state=0)
towards = partial(targeted_attack, n_steps=15, random_state=0)


# ----------------------------------------------------------------------------------------- projection


@given(st.integers(0, 10**6), st.sampled_from(NORMS), st.floats(0.05, 5.0), st.booleans())
def test_projection_is_inside_and_nearest(seed, norm, radius, boxed):
    rng = np.random.default_rng(seed)
    delta = torch.as_tensor(rng.normal(size=(4, 6)) * 10 ** rng.uniform(-1, 1))
    low = torch.as_tensor(-rng.random((4, 6))) if boxed else None
    high = torch.as_tensor(rng.random((4, 6))) if boxed else None
    reach = torch.full((4,), radius, dtype=torch.float64)
    found = project(delta, reach, norm, low, high)
    assert (norm_of(found, norm) <= radius * (1 + 1e-9)).all()
    if boxed:
        assert ((found >= low) & (found <= high)).all()
    # Nearest: no feasible point lies in the direction of delta (the variational inequality of projections).
    for _ in range(20):
        other = torch.as_tensor(rng.normal(size=(4, 6)))
        other = project(other, reach, norm, low, high)
        assert (((delta - found) * (other - found)).sum(-1) <= 1e-7 * (1 + delta.norm())).all()
    torch.testing.assert_close(project(found, reach, norm, low, high), found, atol=1e-9, rtol=1e-9)


@norms
def test_ascent_is_steepest(norm):
    gradient = torch.as_tensor(np.random.default_rng(0).normal(size=(5, 30)))
    step = ascent(gradient, norm, share=1 / 30)
    np.testing.assert_allclose(norm_of(step, norm), 1.0)
    dual = {1: math.inf, 2: 2, math.inf: 1}[norm]
    np.testing.assert_allclose((step * gradient).sum(-1), norm_of(gradient, dual))
    assert not ascent(torch.zeros(2, 30), norm).any()


# --------------------------------------------------------------------------------- known optima


def test_damage_of_a_linear_model_is_known():
    model = LinearGaussian(3, 8, seed=1)
    X = np.random.default_rng(0).normal(size=(4, 8))
    result = max_damage_attack(model, X, max_norm=2.0, random_state=0)
    # The best direction is the leading singular vector of the whitened encoder; the scale does not move.
    whitened = (model.A / model.scale[:, None]).numpy()
    _, singular, vectors = np.linalg.svd(whitened)
    along = np.abs(result.delta @ vectors[0]) / 2.0
    assert (along > 0.99).all()  # of the mean over 16 draws, not of the expectation
    # E||shift + eta|| for a shift much larger than the noise: sqrt(shift^2 + k - 1), nearly.
    shift = 2.0 * singular[0]
    np.testing.assert_allclose(result.damage, math.sqrt(shift**2 + 2), rtol=0.03)
    np.testing.assert_allclose(result.clean_damage, math.sqrt(2) * math.gamma(2) / math.gamma(1.5), rtol=0.1)
    assert result.success.all()


@pytest.mark.parametrize("norm", [1, math.inf])
def test_damage_in_other_norms_is_that_of_brute_force(norm):
    model = LinearGaussian(2, 4, seed=5)
    result = max_damage_attack(
        model, np.zeros((1, 4)), max_norm=3.0, norm=norm, n_restarts=4, n_steps=100, random_state=0
    )
    whitened = (model.A / model.scale[:, None]).numpy()
    # A convex function of delta: its maximum is at a corner of the ball.
    corners = np.array(np.meshgrid(*[[-1, 1]] * 4)).reshape(4, -1).T * 1.0 if norm == math.inf else np.eye(4)
    best = 3.0 * np.linalg.norm(corners @ whitened.T, axis=1).max()
    reached = np.linalg.norm(whitened @ result.delta[0])
    assert reached == pytest.approx(best, rel=1e-3)


def test_finds_as_much_as_a_general_optimizer(X, vae):
    # Of the clean problem, perturb="mean" and no noise to speak of, from the same number of starts.
    result = quick(vae, X[:3], max_norm=0.5, n_steps=60, perturb="mean", n_draws=64)
    A = vae.module_.double().eval()
    try:
        for i in range(3):
            x = torch.tensor(X[i : i + 1])
            with torch.no_grad():
                mean, scale = A.encode(x)
                reference = A.decode(mean)
            noise = torch.randn(256, 2, generator=torch.Generator().manual_seed(9), dtype=torch.float64)

            def damage(d, x=x, scale=scale, reference=reference, noise=noise):
                d = torch.as_tensor(d)
                d = 0.5 * d / d.norm().clamp(min=0.5)
                with torch.no_grad():
                    return -float((A.decode(A.encode(x + d)[0] + scale * noise) - reference).norm(dim=1).mean())

            rng = np.random.default_rng(i)
            starts = [0.5 * v / np.linalg.norm(v) for v in rng.normal(size=(6, 6))]
            rival = max(-minimize(damage, start, method="L-BFGS-B").fun for start in starts)
            assert result.damage[i] >= 0.95 * rival
    finally:
        vae.module_.float()


def test_more_norm_more_damage(X, vae):
    damage = np.array([quick(vae, X[:10], max_norm=size).damage for size in (0.1, 0.3, 1.0, 3.0)])
    assert (np.diff(damage, axis=0) > 0).all()


# ------------------------------------------------------------------------------------- constraints


@norms
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("bounds", [None, (0, 1), (np.zeros(6), np.full(6, 1.0))])
def test_stays_in_ball_and_box(X, vae, norm, dtype, bounds):
    rows, size = X[:5].astype(dtype), 0.7
    for result in (
        quick(vae, rows, max_norm=size, norm=norm, bounds=bounds),
        towards(vae, rows, rows[::-1].copy(), max_norm=size, norm=norm, bounds=bounds),
    ):
        assert (np.linalg.norm(result.delta, norm, axis=1) <= size + 1e-6).all()
        np.testing.assert_array_equal(result.X_adv - rows, result.delta)
        if bounds is not None:
            assert result.X_adv.min() >= 0
            assert result.X_adv.max() <= 1
        assert result.X_adv.dtype == dtype


def test_each_row_has_its_own_norm(X, vae):
    size = np.array([0.1, 0.5, 1.0])
    result = quick(vae, X[:3], max_norm=size)
    lengths = np.linalg.norm(result.delta, axis=1)
    assert (lengths <= size + 1e-6).all()
    assert (lengths > [0, 0.1, 0.5]).all()
    alone = quick(vae, X[1:2], max_norm=0.5)
    np.testing.assert_allclose(alone.damage[0], result.damage[1], rtol=1e-9)


# ------------------------------------------------------------------------------------------ result


def test_likelihoods_and_degradation(X, vae):
    result = quick(vae, X[:10], max_norm=1.0)
    expected = np.abs((result.log_likelihood_adv - result.log_likelihood) / result.log_likelihood)
    np.testing.assert_allclose(result.degradation, expected)
    assert (result.log_likelihood_adv < result.log_likelihood).all()
    # The clean one is what the estimator says of its evidence, without the KL term.
    mean, scale = vae.encode(X[:10])
    kl = (0.5 * (mean**2 + scale**2 - 1) - np.log(scale)).sum(1)
    np.testing.assert_allclose(result.log_likelihood, vae.score_samples(X[:10]) + kl, atol=0.6)
    assert "0 broken (moved by more than r = 0.684 in most draws)" in repr(result)
    assert {"damage", "degradation", "norm"} <= set(result.to_frame().columns)
    assert "degradation" in repr(result)


def test_models_without_a_likelihood_have_none():
    model = LinearGaussian(2, 4)
    result = quick(model, np.zeros((2, 4)), max_norm=1.0)
    assert np.isnan(result.degradation).all()
    assert "degradation" not in repr(result)
    model.log_likelihood = lambda x, z: -((x - model.decode(z)) ** 2).sum(1)
    assert np.isfinite(quick(model, np.zeros((2, 4)), max_norm=1.0).degradation).all()


def test_one_seed_one_answer(X, vae):
    a, b = quick(vae, X[:5], max_norm=1.0), quick(vae, X[:5], max_norm=1.0)
    np.testing.assert_array_equal(a.X_adv, b.X_adv)
    other = max_damage_attack(vae, X[:5], max_norm=1.0, n_steps=15, random_state=1)
    assert (other.damage != a.damage).any()


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_row_is_attacked_alike_in_any_company(X, vae, dtype):
    rows = X[:40].astype(dtype)
    whole = quick(vae, rows, max_norm=1.0)
    parts = [quick(vae, part, max_norm=1.0) for part in (rows[:1], rows[1:7], rows[7:])]
    # Products of other numbers of rows round differently, and in single precision the ascent amplifies that. Near its
    # maximum the damage hardly moves: a share of 1e-5 of it is a way of some 3e-3.
    rtol, atol = (1e-5, 1e-6) if dtype == np.float64 else (1e-4, 3e-3)
    np.testing.assert_allclose(np.concatenate([part.damage for part in parts]), whole.damage, rtol=rtol)
    np.testing.assert_allclose(np.concatenate([part.X_adv for part in parts]), whole.X_adv, atol=atol)


class Deaf(LinearGaussian):
    """Encoder that does not look at its input."""

    def encode(self, x):
        mean, scale = super().encode(x)
        return mean * 0, scale


def test_a_zero_gradient_is_told():
    with pytest.warns(UserWarning, match="the gradient is zero at every start for 3 rows"):
        result = quick(Deaf(2, 4), np.ones((3, 4)), max_norm=1.0)
    assert not result.success.any()
    assert not result.delta.any()
    assert ": 0 broken" in repr(result)


# ----------------------------------------------------------------------------------------- targeted


def test_latent_target_of_a_linear_model_is_reached():
    model = LinearGaussian(2, 5, seed=4)
    X, target = np.zeros((3, 5)), np.random.default_rng(0).normal(size=(3, 5))
    far = targeted_attack(model, X, target, max_norm=50.0, space="latent", n_steps=200, random_state=0)
    assert (far.distance < 1e-2 * far.clean_distance).all()
    near = targeted_attack(model, X, target, max_norm=0.2, space="latent", n_steps=200, random_state=0)
    A = model.A.numpy()
    for i in range(3):
        goal = A @ target[i]
        # Ridge regression with its multiplier at the ball's surface.
        best = minimize(
            lambda d, goal=goal: np.linalg.norm(A @ d - goal),
            0.1 * target[i],
            constraints={"type": "ineq", "fun": lambda d: 0.04 - d @ d},
        ).fun
        assert near.distance[i] == pytest.approx(best, rel=1e-2)


@pytest.mark.parametrize("space", ["reconstruction", "latent"])
def test_comes_nearer_to_targets(X, vae, space):
    distances = [towards(vae, X[:10], X[20], max_norm=size, space=space).distance for size in (0.2, 0.6)]
    result = towards(vae, X[:10], X[20], max_norm=0.6, space=space)
    assert result.success.mean() > 0.8
    assert (distances[1] <= distances[0] + 0.02).mean() > 0.8  # of the clean distance, 1 and more
    assert f"distance in {space} space" in repr(result)


def test_a_row_that_is_its_own_target_stays_there(X, vae):
    result = towards(vae, X[:3], X[:3], max_norm=0.5, space="latent")
    assert result.success.all()
    assert not result.delta.any()
    np.testing.assert_array_equal(result.distance, 0)


# ------------------------------------------------------------------------------------------ mistakes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_norm": 0.0}, "max_norm must be a number above 0, or 5 of them, one per row; got 0.0"),
        ({"max_norm": -1.0}, "max_norm must be"),
        ({"max_norm": [1.0, 2.0]}, "or 5 of them"),
        ({"max_norm": float("inf")}, "max_norm must be"),
        ({"max_norm": "one"}, "max_norm must be"),
        ({"norm": 3}, "norm must be 1, 2 or numpy.inf; got 3"),
        ({"norm": "l2"}, "norm must be 1, 2 or numpy.inf; got 'l2'"),
        ({"perturb": "scale"}, "perturb must be one of 'mean', 'both'"),
        ({"n_steps": 0}, "n_steps must be"),
        ({"n_draws": 0}, "n_draws must be"),
        ({"bounds": (0.4, 0.6)}, r"X must lie in bounds=\(0.4, 0.6\); .* rows do not.* Widen bounds, or clip X"),
        ({"bounds": (1, 0)}, "bounds must have low below high"),
        ({"bounds": 1}, r"bounds must be a pair \(low, high\)"),
        ({"bounds": (np.zeros(5), np.ones(5))}, "arrays with 6 features"),
        ({"batch_size": 0}, "batch_size must be"),
    ],
)
def test_bad_parameters(X, vae, options, message):
    options = {"max_norm": 1.0, **options}
    with pytest.raises((TypeError, ValueError), match=message):
        max_damage_attack(vae, X[:5], **options)
    with pytest.raises((TypeError, ValueError), match=message):
        targeted_attack(vae, X[:5], X[5:10], **options)


def test_bad_models_and_targets(X, vae):
    with pytest.raises(NotFittedError):
        max_damage_attack(BetaVAE(), X, max_norm=1.0)
    with pytest.raises(ValueError, match="X has 3 features"):
        max_damage_attack(vae, X[:, :3], max_norm=1.0)
    with pytest.raises(
        ValueError, match=r"X_target must have the shape of X, \(5, 6\), or be one row; got shape \(4, 6\)"
    ):
        targeted_attack(vae, X[:5], X[:4], max_norm=1.0)
    with pytest.raises(ValueError, match="X_target must be finite; row 0 holds NaN"):
        targeted_attack(vae, X[:5], np.full(6, np.nan), max_norm=1.0)
    with pytest.raises(ValueError, match="space must be one of 'reconstruction', 'latent'"):
        targeted_attack(vae, X[:5], X[5:10], max_norm=1.0, space="pixel")


def test_attack_and_margin_agree(X):
    # At the margin's upper end, half of the draws lie beyond r: so does about the mean damage.
    vae = small(BetaVAE, beta=0.5, max_epochs=20).fit(X)
    margin = robustness_margin(vae, X[:10], n_draws=2000, random_state=0)
    result = quick(vae, X[:10], max_norm=margin.upper, perturb="mean", n_steps=40)
    assert (result.damage > 0.9 * margin.r).all()


@norms
def test_rounding_does_not_leave_the_ball(norm):
    # Float32 rows of many large values: X + delta rounds by more than 1e-6 of a ball of norm 1.
    model = LinearGaussian(2, 784, dtype=torch.float32)
    rows = (255 * np.random.default_rng(0).random((3, 784))).astype(np.float32)
    result = quick(model, rows, max_norm=1.0, norm=norm, bounds=(0, 255))
    exact = result.X_adv.astype(np.float64) - rows
    assert (np.linalg.norm(exact, norm, axis=1) <= 1 + 1e-6).all()
    assert result.success.all()


def test_damage_is_judged_on_draws_that_the_attack_did_not_see():
    # With one draw to fit, the damage on that draw is far above the expected one; the report must not be of it.
    model = LinearGaussian(6, 8, seed=3)
    result = max_damage_attack(model, np.zeros((1, 8)), max_norm=0.05, n_draws=1, random_state=0)
    noise = torch.randn(20_000, 6, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    with torch.no_grad():
        shift = torch.tensor(result.delta) @ model.A.T
        expected = float(model.decode(shift + model.scale * noise).norm(dim=1).mean())
    assert result.damage[0] == pytest.approx(expected, rel=0.04)


def test_numpy_norms_are_norms(X, vae):
    assert quick(vae, X[:2], max_norm=1.0, norm=np.int64(2), r=0.3).success.all()


class Noisier(LinearGaussian):
    """Encoder whose mean stays where it is, and whose scale grows with the input."""

    def encode(self, x):
        mean, scale = super().encode(x)
        return mean * 0, scale * (1 + x.square().sum(1, keepdim=True))


def test_only_both_moves_the_scale():
    model, rows = Noisier(2, 4), np.zeros((2, 4))
    both = quick(model, rows, max_norm=2.0)
    # The scale is (1 + 4) times the clean one at the surface of the ball, and so is the damage.
    np.testing.assert_allclose(both.damage / both.clean_damage, 5, rtol=1e-6)
    with pytest.warns(UserWarning, match="gradient is zero"):
        mean = quick(model, rows, max_norm=2.0, perturb="mean")
    np.testing.assert_array_equal(mean.damage, mean.clean_damage)
