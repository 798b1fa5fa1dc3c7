"""Margins in norms 1 and infinity: maps of such balls, models whose margin is known, and relations between norms."""

import itertools
import math
from functools import partial

import numpy as np
import pytest
import torch
from helpers import LinearGaussian, small, true_gain
from torch import nn

from riskvae import BetaVAE
from riskvae.plotting import MarginDisplay, RobustnessCurveDisplay
from riskvae.robustness import robustness_margin
from riskvae.robustness._gain import ellipsoid, gain, longest
from riskvae.robustness._lipschitz import linear_radius

few = partial(robustness_margin, n_draws=2000, n_steps=10, random_state=0)
NORMS = [1, 2, math.inf]
norms = pytest.mark.parametrize("norm", NORMS)


# --------------------------------------------------------------------------------------------- maps of balls


@norms
@pytest.mark.parametrize("shape", [(1, 7), (3, 10), (10, 3), (8, 8)])
def test_a_gain_is_a_bound_and_nearly_the_truth(norm, shape):
    generator = torch.Generator().manual_seed(0)
    matrices = torch.randn(30, *shape, generator=generator, dtype=torch.float64)
    matrices = matrices * torch.rand(30, 1, shape[1], generator=generator, dtype=torch.float64) ** 3
    matrices[0, :, 1:3] = 0.0  # features that it does not see
    found = gain(matrices, norm).numpy()
    true = np.array([true_gain(matrix, norm) for matrix in matrices])
    assert (found >= true * (1 - 1e-12)).all()
    if norm == math.inf:
        assert (found <= math.sqrt(math.pi / 2) * true).all()
        assert np.median(found / true) < 1.02
    else:
        np.testing.assert_allclose(found, true, rtol=1e-9)


def test_of_one_row_the_ellipsoid_touches_the_ball_where_it_is_longest():
    row = torch.tensor([[[3.0, -0.5, 0.01]]], dtype=torch.float64)
    torch.testing.assert_close(gain(row, math.inf), torch.tensor([3.51], dtype=torch.float64))
    torch.testing.assert_close(longest(row, math.inf), torch.tensor([[3.51]], dtype=torch.float64))


def test_the_ellipsoid_holds_every_corner():
    matrices = torch.randn(20, 4, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    matrices[0] = 0.0
    axes = ellipsoid(matrices, math.inf)
    # All corners are as far out as one of them.
    assert (axes.pow(-2).sum(2) <= 1 + 1e-9).all()
    assert ellipsoid(matrices, 1).eq(1).all()


# ------------------------------------------------------------------------------- models whose margin is known


@norms
@pytest.mark.parametrize("k", [1, 3])
def test_known_margins_lie_between_the_ends(norm, k):
    model = LinearGaussian(k, 8, seed=k)
    true = model.margin(2.5, norm)
    margin = few(model, np.zeros((4, 8)), r=2.5, norm=norm, n_draws=20_000, max_norm=100 * true)
    for name in ("theorem1", "whitened", "second_order", "third_order"):
        assert (getattr(margin, name) <= true).all(), name
    assert (margin.lower >= 0.5 * true).all()
    assert (margin.upper >= 0.999 * true).all()
    assert (margin.upper <= 1.05 * true).all()
    np.testing.assert_allclose(margin.linearized, true, rtol=0.12)  # 512 draws: an error of 4 %
    np.testing.assert_allclose(np.linalg.norm(margin.delta, ord=norm, axis=1), margin.upper, rtol=1e-6)


def test_with_one_latent_dimension_all_norms_tell_the_same():
    """All changes of the mean are multiples of one another, so that margins are in the ratio of the dual norms."""
    model = LinearGaussian(1, 8)
    whole = {norm: few(model, np.zeros((1, 8)), r=2.5, norm=norm, max_norm=1000.0) for norm in NORMS}
    lengths = {norm: float(longest((model.A / model.scale[:, None])[None], norm)) for norm in NORMS}
    for name in ("whitened", "second_order", "third_order", "upper", "linearized"):
        values = [float(getattr(whole[norm], name)[0]) * lengths[norm] for norm in NORMS]
        np.testing.assert_allclose(values, values[0], rtol=0.03 if name in ("upper", "linearized") else 1e-6)


class Squares:
    """Its mean is the sum of squares, twice: at 0 it does not move to first order."""

    def encode(self, x):
        return x.square().sum(1, keepdim=True).expand(-1, 2), torch.full((len(x), 2), 0.2).to(x)

    def decode(self, z):
        return z[:, :1]


@norms
@pytest.mark.parametrize("mask", [None, [False, False, False, True]])
def test_rows_at_which_the_encoder_is_flat_are_attacked_from_random_directions(norm, mask):
    margin = few(Squares(), np.zeros((2, 4)), r=0.8, norm=norm, mask=mask, max_norm=20.0)
    # The mean has to move by r.
    true = math.sqrt(0.8 / 4) if norm == math.inf and mask is None else math.sqrt(0.8)
    assert (margin.upper >= 0.99 * true).all()
    assert (margin.upper <= 1.1 * true).all()


@norms
def test_the_affine_radius_is_the_distance_from_the_nearest_kink(norm):
    torch.manual_seed(0)
    first = nn.Linear(5, 7).double()
    layers = [first, nn.ReLU(), nn.Linear(7, 2).double()]
    x = torch.randn(6, 5, dtype=torch.float64)
    found = linear_radius(layers, x, norm)
    # The change of norm 1 that does most for a unit, at which this unit is at 0.
    w, radius = first.weight.detach(), []
    for a in first(x).detach():
        radius.append(min(abs(float(a[u])) / float(longest(w[None, u : u + 1], norm)) for u in range(7)))
    np.testing.assert_allclose(found, radius)


# ------------------------------------------------------------------------------------------- trained models


@pytest.fixture(scope="module")
def rows():
    return np.random.default_rng(0).random((200, 12)).astype(np.float32)


@pytest.fixture(scope="module")
def vae(rows):
    return small(BetaVAE, hidden_layer_sizes=(16,), beta=0.05, max_epochs=30).fit(rows)


@norms
@pytest.mark.parametrize("box", [None, (0, 1)])
def test_ends_are_in_order(vae, rows, norm, box):
    margin = few(vae, rows[:8], norm=norm, bounds=box)
    known = ~margin.abstained
    assert known.sum() > 4
    names = ("theorem1", "whitened", "second_order", "third_order")
    for less, more in itertools.pairwise(names):
        assert (getattr(margin, less)[known] <= getattr(margin, more)[known] * (1 + 1e-9)).all(), more
    assert (margin.proven[known] > 0).all()
    assert (margin.lipschitz[known] <= margin.whitened[known] * (1 + 1e-9)).all()
    assert (margin.certified[known] <= margin.upper[known]).all()
    assert np.isfinite(margin.upper[known]).mean() > 0.7  # in the box, r can hardly be reached
    if box is not None:
        moved = rows[:8] + margin.delta
        assert moved.min() >= -1e-6
        assert moved.max() <= 1 + 1e-6


def test_a_ball_in_a_ball_has_the_larger_margin(vae, rows):
    """norm inf <= norm 2 <= norm 1 <= sqrt(d) norm 2 <= d norm inf."""
    found = {norm: few(vae, rows[:8], norm=norm, methods=("theorem1", "whitened")) for norm in NORMS}
    one, two, most = (found[norm].whitened for norm in NORMS)
    assert (most <= two * (1 + 1e-9)).all()
    assert (two <= one * (1 + 1e-9)).all()
    assert (one <= math.sqrt(12) * two * (1 + 1e-9)).all()
    assert (two <= math.sqrt(12) * most * (1 + 1e-6)).all()
    # Theorem 1 is about Euclidean balls.
    np.testing.assert_allclose(found[1].theorem1, found[2].theorem1, rtol=1e-6)
    np.testing.assert_allclose(found[math.inf].theorem1, found[2].theorem1 / math.sqrt(12), rtol=1e-6)


@norms
def test_a_mask_helps_in_every_norm(vae, rows, norm):
    mask = np.arange(12) < 4
    masked, free = (few(vae, rows[:6], norm=norm, mask=some) for some in (mask, None))
    known = ~free.abstained
    for name in ("theorem1", "whitened", "lipschitz", "proven"):
        least = getattr(free, name)[known] * (1 - 1e-6)
        assert (getattr(masked, name)[known] >= least).all(), name
    assert (masked.certified[known] <= masked.upper[known]).all()
    assert not masked.delta[:, ~mask].any()


def test_attacks_in_norm_1_are_sparse(vae, rows):
    margin = few(vae, rows[:8], norm=1, methods="attack")
    known = np.isfinite(margin.upper)
    assert known.sum() > 4
    assert np.median((margin.delta[known] != 0).sum(1)) <= 4


def test_summary_and_displays_name_the_norm(vae, rows):
    import matplotlib.pyplot as plt

    found = {norm: few(vae, rows[:6], r=0.8, norm=norm, methods=("proven", "attack")) for norm in (1, math.inf)}
    assert "norm inf, in the units of X" in repr(found[math.inf])
    assert found[1].norm == 1
    display = MarginDisplay.from_margin(found[1], methods=("proven",))
    assert "norm 1, units of X" in display.ax_.get_xlabel()
    curve = RobustnessCurveDisplay.from_margin(found[math.inf])
    assert "norm inf" in curve.ax_.get_xlabel()
    with pytest.raises(ValueError, match="margins must have the same norm to be compared"):
        RobustnessCurveDisplay.from_margin({"a": found[1], "b": found[math.inf]})
    plt.close("all")


def test_other_norms_are_refused(vae, rows):
    with pytest.raises(ValueError, match=r"norm must be 1, 2 or numpy.inf"):
        few(vae, rows[:2], norm=3)
    with pytest.raises(TypeError, match=r"norm must be 1, 2 or numpy.inf"):
        few(vae, rows[:2], norm="inf")
