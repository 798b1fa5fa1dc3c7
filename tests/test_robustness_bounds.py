"""What bounds are made of: Jacobians, Lipschitz constants, linear radii, and how far a shift may reach."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from helpers import LinearGaussian, small
from scipy.optimize import linprog
from scipy.stats import norm
from torch import nn

from riskvae import BetaVAE, nets
from riskvae.robustness import encoder_sensitivity, robustness_margin, wrap
from riskvae.robustness._jacobian import encoder_jacobian, jacobian_columns, leading_directions, linearize
from riskvae.robustness._lipschitz import _slope, encoder_layers, encoder_of, linear_radius, whitened_lipschitz
from riskvae.robustness._opening import open_coder
from riskvae.robustness._reach import _largest_square, mean_limit, second_order_reach, slope_limit

few = partial(robustness_margin, n_draws=2000, random_state=0)


# ---------------------------------------------------------------------------------------- first order


def test_inside_the_linear_radius_there_is_no_first_order_error(X):
    vae = small(BetaVAE, beta=0.5, max_epochs=10, hidden_layer_sizes=(12, 8)).fit(X)
    with open_coder(vae, X[:20]) as coder:
        layers = encoder_layers(encoder_of(coder))
        radius = linear_radius(layers, coder.x)
        local = linearize(coder, coder.x)
        rng = np.random.default_rng(0)
        direction = torch.as_tensor(rng.normal(size=(20, X.shape[1])))
        direction /= direction.norm(dim=1, keepdim=True)

        def error(step):
            delta = step[:, None] * direction
            linear = local.mean + torch.einsum("nkd,nd->nk", local.encoder, delta)
            return (coder.mean(coder.x + delta) - linear).norm(dim=1)

        assert (radius > 0).all()
        assert error(0.999 * radius).max() < 1e-12
        assert (error(50 * radius) > 1e-6).any()


def test_linear_radius_by_kind_of_encoder(X):
    expected = {"relu": None, "leaky_relu": None, "tanh": 0.0, "softplus": 0.0}
    for activation, value in expected.items():
        radius = few(small(BetaVAE, activation=activation).fit(X), X[:3], methods="whitened").linear_radius
        assert ((radius > 0) & np.isfinite(radius)).all() if value is None else (radius == value).all()
    linear = few(small(BetaVAE, hidden_layer_sizes=()).fit(X), X[:3], methods=("whitened", "lipschitz"))
    assert np.isinf(linear.linear_radius).all()
    # One linear layer: its constant is its Jacobian, and the bound is certified.
    np.testing.assert_allclose(linear.lipschitz, linear.whitened, rtol=1e-9)
    np.testing.assert_allclose(linear.certified, linear.whitened, rtol=1e-9)


def test_lipschitz_constant_bounds_the_encoder(X):
    rows = np.random.default_rng(0).random((40, 64))
    convolutional = small(BetaVAE, encoder=nets.conv_encoder, decoder=nets.conv_decoder).fit(rows)
    for vae, data in ((small(BetaVAE, activation="gelu").fit(X), X), (convolutional, rows)):
        with open_coder(vae, data[:20]) as coder:
            layers = encoder_layers(encoder_of(coder))
            scale = coder.encode(coder.x)[1]
            constant = whitened_lipschitz(layers, scale)
            mean = coder.mean(coder.x) / scale
            other = coder.mean(coder.x.flip(0)) / scale
            slope = (mean - other).norm(dim=1) / (coder.x - coder.x.flip(0)).norm(dim=1)
            assert (slope <= constant).all()
            assert (linearize(coder, coder.x).whitened <= constant * (1 + 1e-9)).all()


def test_linear_radius_of_a_convolutional_encoder():
    rows = np.random.default_rng(0).random((30, 64))
    vae = small(BetaVAE, encoder=partial(nets.conv_encoder, channels=(3, 4)), decoder=nets.conv_decoder).fit(rows)
    with open_coder(vae, rows[:5]) as coder:
        radius = linear_radius(encoder_layers(encoder_of(coder)), coder.x)
        local = linearize(coder, coder.x)
        delta = torch.randn(5, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        delta *= 0.99 * radius[:, None] / delta.norm(dim=1, keepdim=True)
        linear = local.mean + torch.einsum("nkd,nd->nk", local.encoder, delta)
        torch.testing.assert_close(coder.mean(coder.x + delta), linear, rtol=0, atol=1e-12)


def test_jacobians_are_those_of_finite_differences(X, vae):
    with open_coder(vae, X[:5]) as coder:
        step = 1e-6
        basis = torch.eye(X.shape[1], dtype=torch.float64)
        slope = torch.stack([(coder.mean(coder.x + step * e) - coder.mean(coder.x - step * e)) for e in basis], -1)
        torch.testing.assert_close(encoder_jacobian(coder, coder.x), slope / (2 * step), atol=1e-6, rtol=1e-5)
        z = coder.mean(coder.x)
        basis = torch.eye(z.shape[1], dtype=torch.float64)
        slope = torch.stack([(coder.decode(z + step * e) - coder.decode(z - step * e)) for e in basis], -1)
        torch.testing.assert_close(jacobian_columns(coder.decode, z), slope / (2 * step), atol=1e-6, rtol=1e-5)


def test_leading_directions_are_singular_vectors(X, vae):
    with open_coder(vae, X[:5]) as coder:
        local = linearize(coder, coder.x)
        found = leading_directions(coder, local, 2)
        whole = jacobian_columns(coder.decode, local.mean) @ local.encoder
        vectors = torch.linalg.svd(whole).Vh[:, :2]
        torch.testing.assert_close((found * vectors).sum(-1).abs(), torch.ones(5, 2, dtype=torch.float64))
        sensitivity = encoder_sensitivity(vae, X[:5])
        singular = torch.linalg.svdvals(local.encoder)
        np.testing.assert_allclose(sensitivity.jacobian_spectral, singular[:, 0], rtol=1e-9)
        np.testing.assert_allclose(sensitivity.jacobian_frobenius, singular.square().sum(1).sqrt(), rtol=1e-9)
    _, scale = vae.encode(X[:5])
    np.testing.assert_allclose(sensitivity.scale_min, scale.min(1))
    np.testing.assert_allclose(sensitivity.variance_mean, (scale**2).mean(1))
    assert "scale_mean" in sensitivity.to_frame().columns


# --------------------------------------------------------------------------------------- second order


@pytest.mark.parametrize("p", [0.55, 0.8, 0.97])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("shift", [0.2, 0.8, 1.6])
def test_no_event_of_that_probability_and_slope_holds_less_often(p, share, shift):
    # Over all events (weights h in [0, 1] on a grid of the line), a linear program finds the one that holds least
    # often after a shift; ours has to be that one.
    slope = share * norm.pdf(norm.ppf(p))
    edges = np.linspace(-8, 8, 1601)
    t = 0.5 * (edges[1:] + edges[:-1])
    mass, moved = np.diff(norm.cdf(edges)), np.diff(norm.cdf(edges - shift))
    least = linprog(moved, A_ub=[-mass, -mass * t], b_ub=[-p, slope], bounds=(0, 1), method="highs").fun
    reach = float(second_order_reach(p, slope))
    if least > 0.5 + 1e-3:
        assert reach > shift - 1e-2
    elif least < 0.5 - 1e-3:
        assert reach < shift + 1e-2
    # At the reach itself the worst event holds just half of the time.
    at_reach = np.diff(norm.cdf(edges - reach))
    worst = linprog(at_reach, A_ub=[-mass, -mass * t], b_ub=[-p, slope], bounds=(0, 1), method="highs").fun
    assert worst == pytest.approx(0.5, abs=2e-3)


def test_reach_between_the_half_space_and_the_slab():
    p = np.linspace(0.501, 0.9999, 60)
    steepest = norm.pdf(norm.ppf(p))
    np.testing.assert_allclose(second_order_reach(p, steepest), norm.ppf(p), atol=1e-9)
    np.testing.assert_allclose(second_order_reach(p, 9.0), norm.ppf(p), atol=1e-9)
    flat = second_order_reach(p, 0.0)
    half = norm.ppf((1 + p) / 2)
    np.testing.assert_allclose(norm.cdf(half - flat) - norm.cdf(-half - flat), 0.5)
    assert (flat > norm.ppf(p)).all()
    assert np.isnan(second_order_reach([0.5, 0.2, 1.0], 0.1)).all()


def test_in_an_ellipsoid_the_longest_axis_is_the_worst():
    # A shift of theta times the longest axis bears a slope of M / theta: its reach must not fall as fast.
    theta = np.linspace(0.02, 1, 50)
    for level in (0.5, 0.7, 0.95):
        p = np.linspace(level + 0.001, 0.9999, 40)[:, None, None]
        slope = np.linspace(1e-4, 1, 200)[:, None] * norm.pdf(norm.ppf(p))
        scaled = second_order_reach(p, slope / theta, level) / theta
        assert (scaled >= scaled[..., -1:] - 1e-9).all()
        np.testing.assert_allclose(second_order_reach(p, 9.0, level), norm.ppf(p) - norm.ppf(level), atol=1e-9)
    assert np.isnan(second_order_reach(0.7, 0.1, [0.7, 0.8])).all()


def test_slope_limit_lies_above_the_slope_and_near_it():
    # Event {eta_1 < b}: its gradient is -phi(b) e_1. The limit fails with probability .001 a time.
    n, k, b = 20_000, 5, 1.0
    for seed in range(20):
        bank = torch.randn(n, k, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        inside, mirrored = (bank[:, 0] < b)[None], (-bank[:, 0] < b)[None]
        for weights in (torch.eye(k), torch.diag(torch.tensor([1.0, 0.1, 0.1, 0.0, 0.0]))):
            limit = slope_limit(inside, mirrored, bank, weights[None].double(), 0.999)[0]
            assert norm.pdf(b) <= limit <= norm.pdf(b) + 0.06
    nothing = slope_limit(inside, inside, bank, torch.eye(k, dtype=torch.float64)[None], 0.999)[0]
    assert 0 < nothing < 0.01  # of an event that is symmetric in every draw


def test_the_largest_square_is_that_of_the_outermost_draws():
    eta = np.random.default_rng(0).normal(size=(400_000, 3))
    square = np.sort((eta**2).sum(1))[::-1]
    for probability in (0.02, 0.3, 1.0):
        count = int(probability * len(square))
        assert _largest_square(probability, 3) == pytest.approx(square[:count].sum() / len(square), rel=0.02)


def test_second_order_is_larger_where_the_event_is_symmetric():
    # A linear decoder: the ball around its mean is symmetric, and two-sided.
    model = LinearGaussian(2, 4, seed=1)
    margin = few(model, np.zeros((1, 4)), r=2.5, n_draws=20_000, methods=("whitened", "second_order"))
    assert 1.05 * margin.whitened[0] < margin.second_order[0] < model.margin(2.5)
    assert margin.lower[0] == margin.second_order[0]


# ------------------------------------------------------------------------------ proven constants


def layers_of(*layers, k=1):
    """What encoder_layers makes of layers that a caller names."""
    encoder = nn.Sequential(*layers).double().eval()
    model = wrap(
        lambda x: (encoder(x)[:, :k], torch.ones_like(x[:, :k])), nn.Linear(k, 4).double(), mean_layers=encoder
    )
    with open_coder(model, np.random.default_rng(0).normal(size=(3, 4))) as coder:
        return encoder_layers(encoder_of(coder))


def test_lipschitz_constant_is_attained_where_it_can_be():
    # Positive weights of rank one and positive inputs: every layer stretches the same direction fully.
    first, last = nets.Linear(4, 3), nn.Linear(3, 4)
    with torch.no_grad():
        first.weight.copy_(torch.outer(torch.tensor([1.0, 2.0, 2.0]), torch.tensor([1.0, 1.0, 1.0, 1.0])))  # norm 6
        last.weight.copy_(torch.outer(torch.tensor([1.0, 1.0, 9.0, 9.0]), torch.tensor([1.0, 2.0, 2.0])))
    layers = layers_of(first, nn.ReLU(), last, k=2)
    scale = torch.tensor([[0.5, 0.5]], dtype=torch.float64)
    expected = 6 * 3 * math.sqrt(2) / 0.5  # norms: |first|, |last's direction|, of the two means
    np.testing.assert_allclose(whitened_lipschitz(layers, scale).numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(3, 1, 1), (3, 2, 1), (4, 2, 0), (5, 3, 2)])
def test_lipschitz_constant_of_a_convolution_bounds_its_matrix(kernel, stride, padding):
    conv = nn.Conv2d(2, 3, kernel, stride=stride, padding=padding).double()
    with torch.no_grad():
        conv.weight.fill_(1.0)  # all windows add up: where a bound is nearly attained
    basis = torch.eye(2 * 9 * 9, dtype=torch.float64).view(-1, 2, 9, 9)
    with torch.no_grad():
        matrix = (conv(basis) - conv(torch.zeros_like(basis))).flatten(1)
    exact = float(torch.linalg.matrix_norm(matrix, 2))
    assert 0.4 * _slope(conv) < exact <= _slope(conv) * (1 + 1e-9)


class Residual(nn.Sequential):
    def forward(self, x):
        return x + 5 * super().forward(x)


class Doubled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


def test_layers_that_do_something_else_have_no_constant():
    hooked = nn.ReLU()
    hooked.register_forward_hook(lambda module, args, out: 9 * out)
    for layer in (Residual(nn.Linear(4, 4)), Doubled(4, 4), hooked, nn.BatchNorm1d(4), nn.MaxPool1d(2)):
        found = layers_of(layer, nn.Linear(2 if isinstance(layer, nn.MaxPool1d) else 4, 2))
        assert found == f"no constant is known for {type(layer).__name__}"
    assert "ends in ReLU" in layers_of(nn.Linear(4, 2), nn.ReLU())


def test_weights_measure_a_slope_in_the_metric_of_the_ellipsoid():
    with open_coder(LinearGaussian(4, 6), np.zeros((2, 6))) as coder:
        local = linearize(coder, coder.x)
    J = local.encoder / local.scale[:, :, None]
    U, S, _ = torch.linalg.svd(J, full_matrices=False)
    m = torch.randn(2, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = ((U * (S / S[:, :1])[:, None]).transpose(1, 2) @ m[..., None]).norm(dim=(1, 2))
    torch.testing.assert_close((local.weights @ m[..., None]).norm(dim=(1, 2)), expected)


def test_the_limit_of_a_mean_holds_where_large_values_are_rare():
    # One in a hundred is 1: half of the samples of 70 have none. Each limit fails at most once in a hundred times.
    rng = np.random.default_rng(0)
    means = rng.binomial(70, 0.01, size=10_000) / 70
    limits = mean_limit(means, 0.01, 70, 0.01)
    assert np.mean(limits < 0.01) <= 0.013
    assert np.median(limits - 0.01) < 0.06
