"""Margins of verdicts: known where the line is known, confirmed by the detector, below no attack where proven."""

import math
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import small
from sklearn.ensemble import IsolationForest
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from riskvae import BetaVAE, QuantileVAE, verdict_margin
from riskvae.datasets import make_heteroscedastic
from riskvae.robustness._network import take_apart
from riskvae.robustness._projection import NORMS, ascent, norm_of, project
from riskvae.robustness._separable import Moves, least_norm
from riskvae.robustness._verdict_proof import Balls

norms = pytest.mark.parametrize("norm", NORMS)
quick = partial(verdict_margin, n_steps=30, n_restarts=3, random_state=0)
DUAL = {1: math.inf, 2: 2, math.inf: 1}


class Plane:
    """Inliers are on one side of a plane."""

    def __init__(self, weight, offset=0.0):
        self.weight, self.offset = torch.as_tensor(weight), offset

    def decision_function(self, x):
        return x @ self.weight.to(x) + self.offset


class Ball(nn.Module):
    """Inliers are in a ball of a norm."""

    def __init__(self, center, radius, norm):
        super().__init__()
        self.center, self.radius, self.norm = nn.Parameter(torch.as_tensor(center)), radius, norm
        self.dropout = nn.Dropout(0.9)

    def decision_function(self, x):
        return self.radius - torch.linalg.vector_norm(self.dropout(x - self.center), self.norm, dim=1)


@pytest.fixture(scope="module")
def plane():
    rng = np.random.default_rng(0)
    return Plane(rng.normal(size=6), 0.4), 2.0 * rng.normal(size=(12, 6))


@pytest.fixture(scope="module")
def table():
    """A detector, and 24 rows of which a third are outliers."""
    rng = np.random.default_rng(1)
    z = rng.normal(size=(400, 2))
    X = np.tanh(z @ rng.normal(size=(2, 5))) + 0.2 * rng.normal(size=(400, 5))
    vae = small(QuantileVAE, max_epochs=30).fit(X)
    far = X[:8] + 1.5 * rng.normal(size=(8, 5))
    return vae, np.concatenate((far, X[8:24]))


# ------------------------------------------------------------------------------------- known margins


@norms
def test_margin_of_a_plane_is_the_distance_in_the_dual_norm(plane, norm):
    detector, X = plane
    margin = quick(detector, X, norm=norm)
    decision = X @ detector.weight.numpy() + detector.offset
    known = np.abs(decision) / np.linalg.norm(detector.weight, DUAL[norm])
    np.testing.assert_allclose(margin.upper, known, rtol=2e-3)
    np.testing.assert_allclose(margin.estimate, known, rtol=1e-9)
    np.testing.assert_array_equal(margin.verdict, np.where(decision < 0, -1, 1))
    np.testing.assert_array_equal(margin.kind == "masking", decision < 0)
    np.testing.assert_allclose(margin.score, decision)


@norms
def test_margin_of_a_ball_is_the_distance_from_its_surface(norm):
    X = np.random.default_rng(0).normal(size=(10, 4)) * np.linspace(0.1, 3, 10)[:, None]
    center = np.full(4, 0.3)
    margin = quick(Ball(center, 1.5, norm).eval(), X, norm=norm)
    known = np.abs(np.linalg.norm(X - center, norm, axis=1) - 1.5)
    np.testing.assert_allclose(margin.upper, known, rtol=1e-2)
    assert (margin.upper >= known * (1 - 1e-9)).all()


@norms
def test_mask_and_bounds_leave_the_margin_of_what_is_free(plane, norm):
    detector, X = plane
    mask = np.array([True, False, True, True, False, True])
    margin = quick(detector, X, norm=norm, mask=mask)
    decision = np.abs(X @ detector.weight.numpy() + detector.offset)
    np.testing.assert_allclose(margin.upper, decision / np.linalg.norm(detector.weight[mask], DUAL[norm]), rtol=2e-3)
    assert not margin.delta[:, ~mask].any()
    low, high = X - 0.1, X + 0.1
    boxed = quick(detector, X, norm=norm, bounds=(low, high))
    assert ((boxed.X_adv >= low) & (boxed.X_adv <= high)).all()
    reached = 0.1 * np.abs(detector.weight.numpy()).sum()
    np.testing.assert_array_equal(boxed.censored, decision > reached)


def test_margin_does_not_hang_on_the_units_of_decisions_and_follows_those_of_rows(plane):
    detector, X = plane
    weight = detector.weight
    margin = quick(detector, X)
    louder = quick(Plane(1e6 * weight, 1e6 * detector.offset), X)
    np.testing.assert_allclose(louder.upper, margin.upper, rtol=1e-4)
    wider = quick(Plane(weight / 10, detector.offset), 10 * X)
    np.testing.assert_allclose(wider.upper, 10 * margin.upper, rtol=1e-2)


def test_a_line_without_gradients_is_found_by_references():
    class Steps:
        def decision_function(self, x):
            return torch.where((x.round() == 0).all(1), 1.0, -1.0)

    X = np.array([[3.0, 2.0, -2.0], [0.0, 4.0, 0.0]])
    margin = quick(Steps(), X, references=np.zeros((1, 3)), n_steps=200)
    np.testing.assert_allclose(margin.upper, [math.sqrt(2.5**2 + 1.5**2 + 1.5**2), 3.5], rtol=0.03)
    assert np.isnan(margin.estimate).all()


# -------------------------------------------------------------------------------- what a flip must be


@norms
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_upper_flips_predict_and_less_of_it_along_the_ray_does_not(table, norm, dtype):
    vae, X = table
    X = X.astype(dtype)
    before = X.copy()
    margin = quick(vae, X, norm=norm)
    np.testing.assert_array_equal(X, before)
    np.testing.assert_array_equal(margin.verdict, vae.predict(X))
    assert not margin.censored.any()
    assert margin.X_adv.dtype == dtype
    assert (vae.predict(margin.X_adv) == -margin.verdict).all()
    np.testing.assert_array_equal(margin.delta, margin.X_adv - X)
    np.testing.assert_allclose(margin.upper, np.linalg.norm(margin.delta.astype(float), norm, axis=1), rtol=1e-5)
    less = X.astype(float) + 0.99 * margin.delta
    assert (vae.predict(less) == margin.verdict).mean() > 0.9


@norms
def test_no_long_attack_gets_below_what_is_proven_or_far_below_upper(table, norm):
    vae, X = table
    margin = quick(vae, X, norm=norm)
    long = verdict_margin(vae, X, norm=norm, n_steps=250, n_restarts=8, random_state=5, references=X)
    for kind in ("masking", "false alarm"):
        rows = margin.kind == kind
        assert (margin.proven[rows] <= long.upper[rows]).all()
        assert np.median(margin.proven[rows]) > 0
    best = np.minimum(margin.upper, long.upper)
    assert np.median(margin.upper / best) <= 1.03


@norms
def test_random_changes_within_what_is_proven_flip_no_row(table, norm):
    vae, X = table
    margin = quick(vae, X, norm=norm)
    rng = np.random.default_rng(0)
    for row in range(len(X)):
        # Few or many features, and towards the middle or away from it, as well as at random.
        delta = rng.normal(size=(1500, 5)) * (rng.random((1500, 5)) < rng.uniform(0.2, 1, size=(1500, 1)))
        delta[:500] = np.abs(delta[:500]) * np.sign(np.median(X, 0) - X[row])
        delta[500:1000] = -np.abs(delta[500:1000]) * np.sign(np.median(X, 0) - X[row])
        length = np.linalg.norm(delta, norm, axis=1, keepdims=True).clip(1e-12)
        moved = X[row] + 0.999 * min(margin.proven[row], 1e6) * delta / length
        assert (vae.predict(moved) == margin.verdict[row]).all()


@norms
@pytest.mark.parametrize("activation", ["relu", "gelu", "tanh"])
def test_verdicts_of_networks_stay_in_their_ranges(norm, activation):
    """Of large and of small balls, also where the decoder's own quantiles are the scales."""
    X = make_heteroscedastic(400, n_features=5, n_latent=2, random_state=0).data.astype(np.float64)
    vae = small(QuantileVAE, activation=activation, max_epochs=40).fit(X)
    x = torch.as_tensor(X[:6])
    line = vae._line_on_tensors(torch.float64)
    generator = torch.Generator().manual_seed(0)
    for which, networks in enumerate(line.networks):
        balls = Balls(line, which, *map(take_apart, networks), x, norm, None)
        for radius in (1e-4, 0.02, 0.3, 3.0):
            low, high = balls.range(torch.full((6,), radius, dtype=torch.float64))
            noise = torch.randn(6, 400, 5, generator=generator, dtype=torch.float64)
            noise[:, :200] *= torch.rand(6, 200, 5, generator=generator) < 0.3
            delta = radius * noise / norm_of(noise, norm).clamp(min=1e-9)[..., None]
            for _ in range(5):  # at random, then along gradients
                delta.requires_grad_()
                found = line((x[:, None] + delta).flatten(0, 1))[which].view(6, 400)
                assert (found >= low[:, None] - 1e-9).all()
                assert (found <= high[:, None] + 1e-9).all()
                (slope,) = torch.autograd.grad(found.sum(), delta)
                slope[:, ::2] *= -1
                reach = torch.full((6, 400), radius, dtype=torch.float64)
                delta = project(delta.detach() + 0.5 * radius * ascent(slope, norm, 0.2), reach, norm, None, None)


def test_a_tight_ball_tells_the_value_itself(table):
    vae, X = table
    line, x = vae._line_on_tensors(torch.float64), torch.as_tensor(X)
    for which, networks in enumerate(line.networks):
        ends = Balls(line, which, *map(take_apart, networks), x, 2, None).range(
            torch.zeros(len(X), dtype=torch.float64)
        )
        for end in ends:
            torch.testing.assert_close(end, line(x)[which], rtol=1e-6, atol=1e-5)


def test_what_is_not_understood_is_not_proven(table):
    _, X = table
    odd = small(QuantileVAE, activation="elu").fit(X)
    margin = quick(odd, X, n_steps=5)
    assert np.isnan(margin.proven[margin.kind == "false alarm"]).all()
    assert (margin.proven[margin.kind == "masking"] >= 0).all()
    assert "ELU" in repr(margin)
    drawn = small(QuantileVAE, n_score_samples=4).fit(X)
    assert "means over draws" in repr(quick(drawn, X, n_steps=5))


def test_max_norm_censors_and_is_kept(table):
    vae, X = table
    free = quick(vae, X)
    limit = float(np.median(free.upper))
    margin = quick(vae, X, max_norm=limit)
    assert (margin.upper[~margin.censored] <= limit).all()
    assert np.isinf(margin.upper[margin.censored]).all()
    assert margin.censored.any()
    assert not margin.censored.all()
    assert not margin.delta[margin.censored].any()
    each = quick(vae, X, max_norm=np.where(np.arange(len(X)) % 2, 1e-9, limit))
    np.testing.assert_array_equal(each.censored[1::2], free.upper[1::2] > 1e-9)


def test_rows_are_apart_and_the_detector_stays_as_it_is(table):
    vae, X = table
    state = {name: value.clone() for name, value in vae.module_.state_dict().items()}
    together, alone = quick(vae, X), quick(vae, X[3:4])
    np.testing.assert_allclose(together.upper[3], alone.upper[0], rtol=0.02)
    np.testing.assert_allclose(together.proven[3], alone.proven[0], rtol=1e-6)
    for name, value in vae.module_.state_dict().items():
        assert torch.equal(value, state[name])
    ball = Ball(np.zeros(3), 1.0, 2).train()
    margin = quick(ball, [[0.0, 0.0, 2.0]])
    np.testing.assert_allclose(margin.upper, 1.0, rtol=1e-3)  # without dropout
    assert ball.training
    assert ball.center.requires_grad


def test_values_that_scores_cut_are_cut_here_too(table):
    vae, X = table
    rows = X[:2].copy()
    rows[0, 0] = 3e12
    margin = quick(vae, rows)
    assert margin.verdict[0] == -1
    assert margin.score[0] == pytest.approx(vae.score_samples(rows)[0])
    if not margin.censored[0]:
        assert vae.predict(margin.X_adv)[0] == 1


# ------------------------------------------------------------------------------------------- duality


def subsets(moves, need, norm):
    """Least norm by trying everything: each feature makes one of its moves, or none."""
    cost, gain = (part[0].numpy() for part in (moves.cost, moves.gain))
    best = math.inf
    choices = [np.append(-1, np.flatnonzero(g > 0)) for g in gain]
    for picked in np.stack(np.meshgrid(*choices), -1).reshape(-1, len(gain)):
        c = [0.0 if m < 0 else cost[j, m] for j, m in enumerate(picked)]
        if sum(0.0 if m < 0 else gain[j, m] for j, m in enumerate(picked)) >= need:
            best = min(best, np.linalg.norm(c, norm))
    return best


@norms
def test_least_norm_lies_below_every_choice_of_moves_and_near_the_best(norm):
    rng = np.random.default_rng(3)
    for _ in range(20):
        cost, gain = torch.as_tensor(rng.random((1, 3, 6))), torch.as_tensor(rng.random((1, 3, 6)))
        moves = Moves(cost, gain, cost)
        need = torch.as_tensor([rng.uniform(0.1, 0.9) * float(gain.amax(-1).sum())])
        bound, _, moved = least_norm(moves, need, norm)
        best = subsets(moves, float(need), norm)
        assert float(bound) <= best * (1 + 1e-9)
        assert float(bound) >= (1 - 1e-6 if norm == math.inf else 0.2) * best
        assert moved.any()
    assert torch.isinf(least_norm(moves, 2.0 * gain.amax(-1).sum()[None], norm)[0]).all()
    assert not least_norm(moves, torch.zeros(1), norm)[0].any()


# ------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"norm": 3}, ValueError, "norm must be 1, 2 or numpy.inf; got 3"),
        ({"max_norm": -1.0}, ValueError, "max_norm must be None, a number above 0"),
        ({"n_steps": 0}, ValueError, "n_steps must be an integer of at least 1"),
        ({"n_restarts": 1.5}, TypeError, "n_restarts must be an integer"),
        ({"mask": np.zeros(6)}, ValueError, "mask leaves nothing"),
        ({"bounds": (0, 1e-3)}, ValueError, "X must lie in bounds"),
        ({"references": np.zeros((2, 3))}, ValueError, "references must have the 6 features of X; got rows of 3"),
    ],
)
def test_bad_parameters_are_told(plane, options, error, match):
    detector, X = plane
    with pytest.raises(error, match=match):
        verdict_margin(detector, X, **options)


def test_detectors_that_cannot_be_examined_are_refused(table):
    _, X = table
    with pytest.raises(TypeError, match=r"pipe\[-1\].*pipe\[:-1\].transform"):
        verdict_margin(make_pipeline(StandardScaler(), small(QuantileVAE)), X)
    with pytest.raises(TypeError, match="IsolationForest does not"):
        verdict_margin(IsolationForest(n_estimators=5).fit(X), X)
    with pytest.raises(TypeError, match="BetaVAE has no line"):
        verdict_margin(small(BetaVAE).fit(X), X)
    with pytest.raises(NotFittedError):
        verdict_margin(small(QuantileVAE), X)
    with pytest.raises(TypeError, match="got the class Plane"):
        verdict_margin(Plane, X)
    with pytest.raises(TypeError, match="object has none"):
        verdict_margin(object(), X)


@pytest.mark.parametrize(
    ("answer", "error", "match"),
    [
        (lambda x: np.zeros(len(x)), TypeError, "must return a tensor; got ndarray"),
        (lambda x: x.numpy().sum(1), ValueError, "fails on a tensor"),
        (lambda x: x, ValueError, "one number per row"),
        (lambda x: x.sum(1) + torch.randn(len(x)), ValueError, "a different answer at each call"),
    ],
)
def test_answers_that_make_no_sense_are_told(answer, error, match):
    class Odd:
        def decision_function(self, x):
            return answer(x)

    with pytest.raises(error, match=match):
        verdict_margin(Odd(), np.ones((3, 2)))


def test_result_as_a_table_and_in_words(table):
    pytest.importorskip("pandas")
    vae, X = table
    margin = quick(vae, X, max_norm=0.3)
    frame = margin.to_frame()
    assert len(frame) == len(X)
    assert {"verdict", "kind", "upper", "estimate", "proven", "score", "offset"} <= set(frame)
    told = repr(margin)
    assert f"masking: {(margin.verdict < 0).sum()} outliers" in told
    assert f"false alarm: {(margin.verdict > 0).sum()} inliers" in told
    assert "no smaller change" in told
    assert "censored" in told


def test_of_values_that_are_cut_nothing_is_proven_by_features():
    rows = np.random.default_rng(0).standard_normal((100, 3))
    detector = QuantileVAE(2, hidden_layer_sizes=(8,), max_epochs=5, random_state=0).fit(rows)
    margin = verdict_margin(detector, [[1e13, 0.0, 0.0]], norm=1, n_steps=10, random_state=0)
    assert detector.predict([[1e13, 0.0, 0.0], [0.0, 0.0, 0.0]]).tolist() == [-1, 1]
    assert margin.proven[0] <= 1e13


def test_radii_near_the_largest_number_are_no_error():
    rows = np.random.default_rng(0).standard_normal((100, 3)).astype("float32")
    detector = QuantileVAE(2, hidden_layer_sizes=(8,), max_epochs=5, random_state=0).fit(rows)
    margin = verdict_margin(detector, rows[:4], max_norm=1e300, n_steps=10, random_state=0)
    assert (margin.proven <= margin.upper).all()


def test_what_is_proven_of_a_row_does_not_depend_on_its_company():
    rng = np.random.default_rng(0)
    rows = pd.DataFrame(rng.standard_normal((200, 4)), columns=list("abcd"))
    detector = QuantileVAE(hidden_layer_sizes=(16,), max_epochs=10, random_state=0).fit(rows)
    inliers = rows[detector.predict(rows) > 0][:16]
    free = verdict_margin(detector, inliers, n_steps=20, random_state=0).upper
    middle = float(np.median(free))  # some flip, and others are censored
    margin = verdict_margin(detector, inliers, max_norm=middle, n_steps=20, random_state=0)
    alone = [
        verdict_margin(detector, inliers[i : i + 1], max_norm=middle, n_steps=20, random_state=0).proven[0]
        for i in range(4)
    ]
    assert 0 < margin.censored.sum() < len(inliers)
    np.testing.assert_allclose(margin.proven[:4], alone, rtol=0.02)
    assert (margin.proven[margin.censored] > 0).all()
