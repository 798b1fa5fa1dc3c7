"""Certificates: what they are made of, and that no attack breaks them, on networks of every kind."""

import itertools
import math
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import LinearGaussian, small, true_gain
from torch import nn
from torch.nn.utils import parametrizations

from riskvae import BetaVAE, nets
from riskvae.robustness import robustness_margin, wrap
from riskvae.robustness._network import UnknownLayerError, activation_of, take_apart
from riskvae.robustness._proven import Deviation
from riskvae.robustness._sectors import sector_norm

few = partial(robustness_margin, n_draws=2000, n_steps=10, random_state=0)
D, K = 6, 2


class Residual(nn.Module):
    """As people write them: functions, sums, a shape that is asked for."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = nn.Linear(D, 12), nn.Linear(12, 12), nn.Linear(12, K)

    def forward(self, x):
        h = F.relu(self.first(x.view(x.size(0), -1)))
        h = h + 0.5 * torch.tanh(self.second(h))
        h += h.relu()
        return self.last(h)


def _seen(*layers):
    """Layers that have seen a batch, for running statistics and power iterations."""
    net = nn.Sequential(*layers)
    for _ in range(20):
        net(torch.randn(50, D))
    return net


KINDS = {
    "relu": lambda: nn.Sequential(nn.Linear(D, 16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, K)),
    "leaky": lambda: nn.Sequential(nn.Linear(D, 16), nn.LeakyReLU(0.2), nn.Linear(16, K)),
    "steeper left": lambda: nn.Sequential(nn.Linear(D, 16), nn.LeakyReLU(1.7), nn.Linear(16, K)),
    "tanh": lambda: nn.Sequential(nn.Linear(D, 16), nn.Tanh(), nn.Linear(16, 12), nn.Tanh(), nn.Linear(12, K)),
    "gelu": lambda: nn.Sequential(nn.Linear(D, 16), nn.GELU(), nn.Linear(16, K)),
    "silu": lambda: nn.Sequential(nn.Linear(D, 16), nn.SiLU(), nn.Linear(16, K)),
    "softplus": lambda: nn.Sequential(nn.Linear(D, 16), nn.Softplus(), nn.Linear(16, K)),
    "sigmoid": lambda: nn.Sequential(nn.Linear(D, 16), nn.Sigmoid(), nn.Linear(16, K)),
    "batch norm": lambda: _seen(nn.Linear(D, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, K)),
    "orthogonal": lambda: nn.Sequential(parametrizations.orthogonal(nn.Linear(D, D)), nn.ReLU(), nn.Linear(D, K)),
    "spectral norm": lambda: _seen(parametrizations.spectral_norm(nn.Linear(D, 16)), nn.Tanh(), nn.Linear(16, K)),
    "sorted pairs": lambda: nn.Sequential(nn.Linear(D, 16), nets.GroupSort(), nn.Linear(16, 12), nn.Tanh(),
                                          nn.Linear(12, 8), nets.GroupSort(), nn.Linear(8, K)),
    "lipschitz": lambda: nets.lipschitz_encoder(
        D, K, constant=4.0, image_shape=(2, 3), channels=(4,), hidden_layer_sizes=(8,)
    ),
    "convolutions": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 2, 3)), nn.Conv2d(1, 4, 2, padding=1), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(),
        nn.Linear(8, K),
    ),
    "max pooling": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 2, 3)), nn.Conv2d(1, 4, 2, padding=1), nn.MaxPool2d(2, 1), nn.Tanh(), nn.Flatten(),
        nn.Linear(24, K),
    ),
    "padded max pooling": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 2, 3)), nn.Conv2d(1, 4, 2, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2, padding=1),
        nn.Flatten(), nn.Linear(16, K),
    ),
    "residual": Residual,
}  # fmt: skip
kinds = pytest.mark.parametrize("kind", KINDS)


def _trained(kind, seed=0):
    """Encoder of a kind and a decoder, trained by hand for a moment: its mean, and a scale of .1 to .3."""
    torch.manual_seed(seed)
    mean, spread, decoder = KINDS[kind](), nn.Linear(D, K), nn.Sequential(nn.Linear(K, 16), nn.Tanh(), nn.Linear(16, D))
    x = torch.tanh(torch.randn(200, K) @ torch.randn(K, D)) + 0.1 * torch.randn(200, D)
    optimizer = torch.optim.Adam([*mean.parameters(), *decoder.parameters()], 1e-2)
    for _ in range(150):
        optimizer.zero_grad()
        (decoder(mean(x) + 0.2 * torch.randn(200, K)) - x).square().mean().backward()
        optimizer.step()
    for part in (mean, spread, decoder):
        part.double().eval()
    named = nn.Sequential(mean)
    encode = lambda x: (mean(x), 0.1 + 0.2 * spread(x).sigmoid())  # noqa: E731
    return wrap(encode, decoder, mean_layers=named), x[:8].double()


# ------------------------------------------------------------------------------------ no attack breaks them


@pytest.mark.parametrize("norm", [1, 2, math.inf])
@kinds
def test_no_attack_breaks_a_certificate(kind, norm):
    """By gradient ascent of its own on the mean distance, at the certified norm, from 30 starts; 20,000 draws judge.

    The bounds hold with .999 a row: 8 rows, 14 kinds, 3 norms, at most a chance of .3 that any is wrong by its draws,
    and then by a hair, which half a percent of slack takes.
    """
    model, x = _trained(kind)
    margin = few(model, x.numpy(), r=1.0, norm=norm)
    known = ~margin.abstained
    assert known.sum() >= 3, "nothing to test"
    assert (margin.proven[known] > 0).all(), margin.notes
    assert (margin.certified[known] <= margin.upper[known]).all()
    radius = torch.tensor(margin.certified[known])
    rows, copies = x[known], 30
    generator = torch.Generator().manual_seed(1)
    eta = torch.randn(64, 1, K, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        clean, scale = model.encode(rows)
        reference = model.decode(clean)
    many = rows.repeat_interleave(copies, 0)
    delta = torch.randn(many.shape, generator=generator, dtype=torch.float64)
    scale, reference = scale.repeat_interleave(copies, 0), reference.repeat_interleave(copies, 0)
    reach = radius.repeat_interleave(copies)[:, None]
    size = partial(torch.linalg.vector_norm, ord=norm, dim=1, keepdim=True)
    corners = torch.cat((torch.eye(D), -torch.eye(D))).double() if norm == 1 else delta.sign()[:12]
    if norm != 2:
        delta = delta.view(-1, copies, D)
        delta[:, :12] = corners
        delta = delta.flatten(0, 1)

    def distances(delta, eta):
        z = model.encode(many + delta)[0] + scale * eta
        return (model.decode(z.flatten(0, 1)).view(len(eta), len(many), -1) - reference).norm(dim=-1)

    for _ in range(40):
        delta = (reach * delta / size(delta)).requires_grad_()
        (slope,) = torch.autograd.grad(distances(delta, eta).mean(), delta)
        step = slope.sign() if norm == math.inf else slope
        delta = delta.detach() + 0.5 * reach * step / size(step).clamp(min=1e-30)
        delta = delta.clamp(-reach, reach) if norm == math.inf else delta
    delta = reach * delta / size(delta)
    with torch.no_grad():
        fresh = torch.randn(20_000, 1, K, generator=generator, dtype=torch.float64)
        beyond = torch.stack([(distances(delta, part) > 1.0).double().mean(0) for part in fresh.split(2000)]).mean(0)
    assert beyond.max() < 0.505


@pytest.mark.parametrize("norm", [1, 2, math.inf])
@pytest.mark.parametrize("seed", range(6))
@kinds
def test_the_mean_stays_within_the_proven_deviation(kind, seed, norm):
    torch.manual_seed(seed)
    net = KINDS[kind]().double().eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(1.5)
    network = take_apart(net)
    x = torch.randn(3, D, dtype=torch.float64)
    scale = 0.1 + torch.rand(3, K, dtype=torch.float64)
    bounds = Deviation(network, x, scale, norm=norm)
    length = partial(torch.linalg.vector_norm, ord=norm, dim=-1, keepdim=True)
    for size in (0.01, 0.1, 0.5, 2.0):
        rho = torch.full((3,), size, dtype=torch.float64)
        found = bounds.remainders(rho)
        deviation, move = bounds.deviation(rho, found), bounds.move(rho, found)
        delta = torch.randn(3, 400, D, dtype=torch.float64)
        delta[:, :100] = delta[:, :100].sign()  # corners
        delta[:, 100:106], delta[:, 106:112] = torch.eye(D), -torch.eye(D)
        for _ in range(8):  # towards the worst
            delta = (size * delta / length(delta)).requires_grad_()
            moved = (net((x[:, None] + delta).flatten(0, 1)).view(3, 400, K) - net(x)[:, None]) / scale[:, None]
            away = (moved - delta @ bounds.whitened.transpose(1, 2)).norm(dim=-1)
            assert (away <= deviation[:, None] * (1 + 1e-9) + 1e-9).all()
            assert (moved.norm(dim=-1) <= move[:, None] * (1 + 1e-9) + 1e-9).all()
            (slope,) = torch.autograd.grad(away.sum() + moved.norm(dim=-1).sum(), delta)
            delta = delta.detach() + size * slope / length(slope).clamp(min=1e-30)


@pytest.mark.parametrize("bent", [1, 96])
def test_tiny_networks_of_one_feature_are_bounded_everywhere(bent, monkeypatch):
    """60 networks of one to four units a layer, dead ones among them, with all moves tried on a fine grid."""
    monkeypatch.setattr("riskvae.robustness._proven._BENT", bent)
    kinds = [nn.ReLU, nn.Tanh, nn.GELU, nn.SiLU, nn.Softplus, partial(nn.LeakyReLU, -0.5), partial(nn.LeakyReLU, 2.0)]
    for seed in range(60):
        rng = np.random.default_rng(seed)
        torch.manual_seed(seed)
        widths = [1, *rng.integers(1, 5, rng.integers(1, 4))]
        layers = []
        for a, b in itertools.pairwise(widths):
            layers += [nn.Linear(int(a), int(b)), kinds[rng.integers(len(kinds)) if seed % 2 else 0]()]
            with torch.no_grad():
                layers[-2].weight.mul_(float(rng.choice([1, 3, 10])))
                layers[-2].bias.copy_(torch.randn(int(b)) * float(rng.choice([0, 1, 3])))
        net = nn.Sequential(*layers, nn.Linear(int(widths[-1]), 1)).double()
        x = torch.zeros(1, 1).double() if seed % 3 else torch.randn(1, 1).double()
        bounds = Deviation(take_apart(net), x, torch.ones(1, 1).double())
        for size in (0.05, 0.7, 8.0):
            rho = torch.tensor([size]).double()
            found = bounds.remainders(rho)
            delta = torch.linspace(-size, size, 2001).double()[:, None]
            moved = net(x + delta) - net(x)
            away = (moved - delta @ bounds.whitened[0].T).abs().max()
            assert away <= bounds.deviation(rho, found) + 1e-7 * (1 + away), seed
            assert moved.abs().max() <= bounds.move(rho, found) + 1e-7 * (1 + moved.abs().max()), seed


def test_of_an_affine_encoder_it_is_the_first_order_bound(X):
    vae = small(BetaVAE, hidden_layer_sizes=()).fit(X)
    margin = few(vae, X[:4])
    np.testing.assert_allclose(margin.proven, margin.third_order, rtol=1e-6)
    assert margin.lower_is_certified.mean() > 0.4  # equal but for rounding
    np.testing.assert_allclose(margin.certified, margin.lower, rtol=1e-6)


def test_it_is_many_times_the_product_of_norms():
    rows = np.random.default_rng(0).random((200, 64))
    dense = small(BetaVAE, hidden_layer_sizes=(32, 16), beta=0.1, max_epochs=30).fit(rows)
    conv = partial(nets.conv_encoder, channels=(4, 8))
    convolutional = small(BetaVAE, encoder=conv, decoder=nets.conv_decoder, beta=0.1, max_epochs=10).fit(rows)
    for vae, times in ((dense, 2), (convolutional, 2)):
        margin = few(vae, rows[:5], methods=("whitened", "lipschitz", "proven"), r=1.0)
        assert (margin.proven > times * margin.lipschitz).all()
        assert (margin.proven <= margin.whitened * (1 + 1e-9)).all()
        np.testing.assert_array_equal(margin.certified, margin.proven)


def test_a_mask_helps_a_certificate(X, vae):
    mask = np.array([1, 0, 0, 1, 0, 0])
    masked, free = few(vae, X[:4], mask=mask), few(vae, X[:4])
    assert (masked.proven > free.proven).all()
    assert (masked.proven <= masked.upper).all()


# ---------------------------------------------------------------------------------------- what they are made of


@pytest.mark.parametrize(
    "layer",
    [nn.ReLU(), nn.LeakyReLU(0.1), nn.LeakyReLU(1.5), nn.Tanh(), nn.Sigmoid(), nn.SiLU(), nn.GELU(), nn.Softplus()],
    ids=repr,
)
def test_remainders_hold_what_activations_do_beyond_their_tangents(layer):
    activation, generator = activation_of(layer), torch.Generator().manual_seed(0)
    a = 4 * torch.randn(3000, 1, generator=generator, dtype=torch.float64)
    down, up = (3 * torch.rand(3000, 1, generator=generator, dtype=torch.float64) ** 2 for _ in range(2))
    a.requires_grad_()
    (tangent,) = torch.autograd.grad(layer(a).sum(), a)
    a = a.detach()
    t = -down + (down + up) * torch.linspace(0, 1, 201, dtype=torch.float64)
    e = layer(a + t) - layer(a) - tangent * t
    low, high = activation.remainder(a, down, up)
    assert (e >= low - 1e-12).all()
    assert (e <= high + 1e-12).all()
    reach = activation.reach(a, down, up)
    slopes = activation.slopes(a, low / reach, high / reach)
    kappa = torch.where(t.abs() > 1e-9, e / t, 0.0)
    assert (kappa >= slopes[0] - 1e-7).all()
    assert (kappa <= slopes[1] + 1e-7).all()
    most = torch.maximum(high, -low)[:, 0]
    assert (e.abs().amax(1) / most)[most > 1e-6].max() > 0.8  # and hardly more
    assert activation.steepest >= tangent.abs().max() - 1e-9


@pytest.mark.parametrize("norm", [1, 2, math.inf])
@pytest.mark.parametrize("m", [1, 3, 6])
@pytest.mark.parametrize("seed", range(4))
def test_the_norm_over_slopes_holds_all_of_them_and_hardly_more(m, seed, norm):
    g = torch.Generator().manual_seed(seed)
    J, G, A = (torch.randn(*shape, generator=g, dtype=torch.float64) for shape in ((2, 5), (2, m), (m, 5)))
    N = torch.randn(m, m, generator=g, dtype=torch.float64).tril(-1)
    ends = torch.rand(2, m, generator=g, dtype=torch.float64).sort(0).values - 0.5
    bound, _ = sector_norm(J, G, A, N, ends, norm)
    corners = torch.cartesian_prod(*ends.T).view(-1, m)
    inside = ends[0] + (ends[1] - ends[0]) * torch.rand(300, m, generator=g, dtype=torch.float64)

    def farthest(c):
        return true_gain(J + G @ torch.linalg.solve(torch.eye(m) - torch.diag(c) @ N, torch.diag(c)) @ A, norm)

    largest = max(farthest(c) for c in torch.cat((corners, inside)))
    assert largest <= bound * (1 + 1e-9)
    assert bound <= {1: 1.5, 2: 1.001 if m == 1 else 1.35, math.inf: 1.6}[norm] * largest
    exact, _ = sector_norm(J, G, A, N, torch.zeros(2, m, dtype=torch.float64), norm)
    least, most = (1 - 1e-6, 1 + 1e-6) if norm != math.inf else (1 - 1e-9, 1.1)
    assert least <= exact / true_gain(J, norm) <= most


def test_steps_that_are_not_understood_are_named():
    class Product(nn.Module):
        def forward(self, x):
            return x[:, :2] * x[:, 2:4]

    class Branches(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    hooked = nn.Linear(D, K)
    hooked.register_forward_hook(lambda module, args, out: 2 * out)
    for net, message in (
        (nn.Sequential(nn.LayerNorm(D), nn.Linear(D, K)), "nothing is known of LayerNorm"),
        (nn.Sequential(nn.Linear(D, K), nn.GELU(approximate="tanh")), "nothing is known of GELU"),
        (Product(), "nothing is known of mul"),
        (Branches(), "its steps cannot be followed"),
        (nn.Sequential(hooked), "a Linear has a hook"),
    ):
        with pytest.raises(UnknownLayerError, match=message):
            take_apart(net)
    net = nn.Sequential(nn.Linear(D, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, K)).double()
    model = wrap(lambda x: (net(x), torch.ones(len(x), K).double()), nn.Linear(K, D).double(), mean_layers=net)
    margin = few(model, np.zeros((2, D)), r=5.0)
    assert np.isnan(margin.proven).all()
    assert "proven is not known: nothing is known of LayerNorm" in repr(margin)
    assert not margin.lower_is_certified.any()


def _line(weight, bias=0.0, n=1):
    layer = nn.Linear(n, 1).double()
    with torch.no_grad():
        layer.weight.fill_(weight)
        layer.bias.fill_(bias)
    return layer


def _margin_of(net, x, r=3.0):
    """Of a model of one feature whose mean a net gives, with a scale and a decoder of 1."""
    model = wrap(lambda x: (net(x), torch.ones_like(x)), lambda z: z, mean_layers=net)
    return few(model, np.array([[x]]), r=r, max_norm=30.0)


@pytest.mark.parametrize("beside", [False, True])
def test_units_that_sleep_may_wake_each_other(beside):
    """At 0 both layers are dead, so that no unit seems to matter; beyond 3 the mean rises by 100 a step."""

    class Beside(nn.Module):
        def __init__(self, deep):
            super().__init__()
            self.deep = deep

        def forward(self, x):
            return x + self.deep(x)

    deep = nn.Sequential(_line(1, -1), nn.ReLU(), _line(1, -1), nn.ReLU(), _line(100))
    margin = _margin_of(nn.Sequential(Beside(deep)) if beside else deep, 0.0)
    assert np.isfinite(margin.upper).all()
    assert (margin.certified > 0).all()
    assert (margin.certified <= margin.upper).all()


class _Forward(nn.Module):
    def __init__(self, function, **parts):
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x):
        return self.function(self, x)


def _hidden(self, x):
    h = self.up(x)
    if torch.is_tensor(h):
        h = torch.sin(3 * h)
    return h


def _in_place(self, x):
    h = self.up(x)
    a = F.relu(h, inplace=True)
    return a + 10 * h


def _aliased(self, x):
    g = h = self.up(x)
    h += 1
    return 3 * g + F.relu(h)


class _Named(nn.Module):
    """Children whose names are those of methods that tell of shapes."""

    def __init__(self):
        super().__init__()
        self.size, self.dim = _line(1, -1), nn.ELU()

    def forward(self, x):
        return self.dim(self.size(x))


FOREIGN = {
    "product": lambda: _Forward(lambda self, x: x + x * x),
    "product by method": lambda: _Forward(lambda self, x: x + x.mul(x)),
    "quotient": lambda: _Forward(lambda self, x: x / x),
    "floor": lambda: _Forward(lambda self, x: x + torch.div(10 * x, 1, rounding_mode="floor")),
    "names": _Named,
    "other code": lambda: _Forward(_hidden, up=_line(1)),
    "in place": lambda: _Forward(_in_place, up=_line(1)),
    "aliased": lambda: _Forward(_aliased, up=_line(1)),
    "jump": lambda: nn.Softplus(threshold=0.0),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_what_is_no_chain_of_known_steps_is_not_certified(kind):
    """Each of these was once taken for something that it is not."""
    torch.manual_seed(0)
    margin = _margin_of(nn.Sequential(FOREIGN[kind](), _line(1)).double(), 0.4)
    assert np.isnan(margin.proven).all()
    assert "proven is not known" in repr(margin)


def test_a_hook_on_the_whole_is_seen():
    net = nn.Sequential(_line(1))
    net.register_forward_hook(lambda module, args, out: 50 * out)
    assert np.isnan(_margin_of(net, 0.4).certified).all()
    net = nn.Sequential(_line(1))
    net[0].register_full_backward_hook(lambda module, *grads: None)
    assert "a Linear has a hook" in repr(_margin_of(net, 0.4))
    net = nn.Sequential(_line(1), nn.ReLU(), _line(1))
    net[0].register_full_backward_hook(lambda module, *grads: None)
    assert np.isnan(_margin_of(net, 0.4).linear_radius).all()  # nor followed through a hook


def test_buffers_and_plain_tensors_of_a_module_are_constants():
    class Weights(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("w", torch.tensor([2.0, 3.0]))
            self.bias = torch.tensor([1.0])

        def forward(self, x):
            return torch.relu(x * self.w[1] + self.bias)

    margin = _margin_of(nn.Sequential(Weights(), _line(1)), 0.4)
    assert (margin.proven > 0).all()
    assert (margin.proven <= margin.upper).all()


def test_what_takes_more_than_memory_is_told():
    net = nn.Sequential(nn.Unflatten(1, (1, 64, 64)), nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.Flatten())
    head = nn.Sequential(net, nn.AdaptiveAvgPool1d(K)).double()
    model = wrap(lambda x: (head(x), torch.ones(len(x), K).double()), nn.Linear(K, 4096).double(), mean_layers=head)
    margin = few(model, np.zeros((1, 4096)), r=5.0, methods=("whitened", "proven"))
    assert "linear maps of one row have" in repr(margin)


def test_a_linear_model_keeps_its_margin_above_every_bound():
    model = LinearGaussian(2, 6, seed=1)
    layer = nn.Linear(6, 2, bias=False).double()
    with torch.no_grad():
        layer.weight.copy_(model.A)
    named = wrap(model.encode, model.decode, mean_layers=nn.Sequential(layer))
    margin = robustness_margin(named, np.zeros((2, 6)), r=2.5, n_draws=20_000, random_state=0)
    assert (margin.certified <= model.margin(2.5)).all()
    np.testing.assert_allclose(margin.certified, margin.lower, rtol=1e-6)
    assert math.isclose(margin.proven[0], margin.third_order[0], rel_tol=1e-6)


class Call(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x).flatten(1)


@pytest.mark.parametrize(
    ("pool", "rounds"),
    [
        (nn.MaxPool2d(2), 2),
        (nn.MaxPool2d(3, 2), 4),
        (nn.MaxPool2d((1, 3), (2, 1)), 2),
        (nn.MaxPool3d((2, 2, 1)), 2),
        (lambda x: F.max_pool2d(x, kernel_size=2, stride=1), 2),
        (lambda x: torch.max_pool2d(x, 3), 4),
        (nn.MaxPool2d(3, 2, padding=1), 4),
        (nn.MaxPool2d((2, 3), (3, 1), padding=(0, 1)), 3),
        (lambda x: F.max_pool2d(x, 2, 2, 1), 2),
        (lambda x: F.max_pool2d(x, 3, padding=1), 4),
    ],
)
def test_max_pooling_is_sums_and_rectifiers(pool, rounds):
    x = torch.randn(5, 2, 9, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    network = take_apart(Call(pool).double())
    found, before = network(x)
    torch.testing.assert_close(found, pool(x).flatten(1), rtol=0, atol=1e-12)
    assert len(before) == len(network.activations) == rounds


def test_max_pooling_with_holes_is_not_understood():
    for pool in (nn.MaxPool2d(2, dilation=2), nn.MaxPool2d(2, ceil_mode=True)):
        with pytest.raises(UnknownLayerError, match="nothing is known of MaxPool2d"):
            take_apart(Call(pool))
    with pytest.raises(UnknownLayerError, match="nothing is known of max_pool2d"):
        take_apart(Call(lambda x: F.max_pool2d(x, 2, dilation=2)))


@pytest.mark.parametrize("angle", [0.3, 1.1, 2.0])
def test_a_mean_that_bends_out_of_its_tangent_is_followed(angle):
    # At the row the encoder has one axis; beyond a kink the mean moves along another one, to which the decoder listens.
    turn = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]).double()
    encoder = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 2)).double()
    with torch.no_grad():
        encoder[0].weight.fill_(1.0)
        encoder[0].bias.copy_(torch.tensor([100.0, -0.2]))
        encoder[2].weight.copy_(turn @ torch.diag(torch.tensor([1.0, 50.0])).double())
        encoder[2].bias.copy_(turn @ torch.tensor([-100.0, 0.0]).double())
    model = wrap(
        lambda x: (encoder(x), torch.ones(len(x), 2).double()),
        lambda z: (z @ turn) * torch.tensor([0.01, 1.0]).double(),
        mean_layers=encoder,
    )
    margin = robustness_margin(model, np.zeros((1, 1)), r=3.0, n_draws=20_000, random_state=0)
    assert 0.2 <= margin.proven[0] <= margin.upper[0] < 0.3
