"""Networks that move their output by no more than a constant times the move of their input."""

import pickle
from functools import partial

import numpy as np
import pytest
import torch
from helpers import small
from torch import nn

import riskvae
from riskvae import BetaVAE, QuantileVAE, RiskAwareVAE, nets
from riskvae.robustness import max_damage_attack, robustness_margin

NETWORKS = {
    "encoder": lambda layers: nets.lipschitz_encoder(24, 6, constant=3.0, hidden_layer_sizes=(16, 8), layers=layers),
    "no hidden layer": lambda layers: nets.lipschitz_encoder(24, 6, constant=3.0, hidden_layer_sizes=(), layers=layers),
    "decoder": lambda layers: nets.lipschitz_decoder(6, 24, constant=3.0, hidden_layer_sizes=(8, 16), layers=layers),
    "convolutions": lambda layers: nets.lipschitz_encoder(
        90, 6, constant=3.0, image_shape=(2, 5, 9), channels=(4, 8), hidden_layer_sizes=(16,), layers=layers
    ),
    "transposed convolutions": lambda layers: nets.lipschitz_decoder(
        6, 90, constant=3.0, image_shape=(2, 5, 9), channels=(4, 8), hidden_layer_sizes=(16,), layers=layers
    ),
}
networks = pytest.mark.parametrize("name", NETWORKS)
both = pytest.mark.parametrize("layers", ["spectral", "orthogonal"])


def _moved(name, layers, steps=60):
    """A network whose weights have gone far from where they began, at rest, and some rows for it."""
    torch.manual_seed(0)
    net = NETWORKS[name](layers)
    width = 24 if name in ("encoder", "no hidden layer") else 90 if name == "convolutions" else 6
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    x, wanted = torch.randn(50, width), 5 * torch.randn(50, net(torch.zeros(2, width)).shape[1])
    for _ in range(steps):
        optimizer.zero_grad()
        (net(x) - wanted).square().mean().backward()
        optimizer.step()
    return net.eval().double(), x.double()


def _slopes(net, x):
    """Singular values of the network's Jacobian at each row."""
    return torch.linalg.svdvals(torch.func.vmap(torch.func.jacrev(lambda row: net(row[None])[0]))(x))


@networks
@both
def test_the_constant_bounds_the_slope_everywhere(name, layers):
    """After training that would make it steeper: somewhere half of it is reached, nowhere exceeded."""
    net, x = _moved(name, layers)
    slopes = _slopes(net, torch.cat((x, 100 * x, torch.zeros_like(x[:1]))))
    assert slopes.max() <= 3.0 * (1 + 1e-6)
    assert slopes.max() >= 3.0 * 0.4


def test_orthogonal_layers_keep_every_direction():
    """Of layers that narrow, all singular values of the Jacobian are the constant, at every row."""
    net, x = _moved("encoder", "orthogonal")
    torch.testing.assert_close(_slopes(net, x), torch.full((50, 6), 3.0).double(), rtol=1e-5, atol=0)


@networks
@both
def test_of_images_of_any_size_no_pixel_is_lost(name, layers):
    """A network at rest depends on all inputs, and all outputs vary."""
    net, x = _moved(name, layers)
    slopes = torch.func.vmap(torch.func.jacrev(lambda row: net(row[None])[0]))(x).abs().amax(0)
    assert (slopes.amax(0) > 0).all()
    assert (slopes.amax(1) > 0).all()


def test_pairs_are_sorted():
    """Whatever the shape: the larger of a unit and its partner first; a gradient keeps its length."""
    x = torch.randn(7, 6, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    out = nets.GroupSort()(x)
    a, b = x[:, :3], x[:, 3:]
    torch.testing.assert_close(out, torch.cat((torch.where(a > b, a, b), torch.where(a > b, b, a)), 1))
    given = torch.randn(out.shape)
    (slope,) = torch.autograd.grad(out, x, given)
    torch.testing.assert_close(slope.norm(), given.norm())


# -------------------------------------------------------------------------------------- in estimators

LIPSCHITZ = {
    "encoder": partial(nets.lipschitz_encoder, constant=1.0, hidden_layer_sizes=(16, 8)),
    "decoder": partial(nets.lipschitz_decoder, constant=1.0, hidden_layer_sizes=(8, 16)),
}


@pytest.mark.parametrize("cls", [BetaVAE, RiskAwareVAE, QuantileVAE])
@both
def test_they_learn_save_and_pickle(X, tmp_path, cls, layers):
    networks = {name: partial(make, layers=layers) for name, make in LIPSCHITZ.items()}
    vae = small(cls, **networks, max_epochs=40, lr=1e-2).fit(X)
    losses = [row["train_loss"] for row in vae.history_]
    assert losses[-1] < losses[0] - 1.0
    vae.save(tmp_path / "model")
    for other in (pickle.loads(pickle.dumps(vae)), riskvae.load(tmp_path / "model")):
        np.testing.assert_array_equal(other.transform(X), vae.transform(X))
        np.testing.assert_array_equal(other.score_samples(X), vae.score_samples(X))


def test_the_constant_holds_of_a_detector_s_young_model(X):
    vae = small(QuantileVAE, **LIPSCHITZ, max_epochs=20, lr=5e-2).fit(X)
    vaes = list(vae._scoring()["module"])[1:]
    assert len(vaes) == 2
    layers = [layer for vae in vaes for layer in vae.modules() if isinstance(layer, nn.Linear)]
    norms = [float(torch.linalg.matrix_norm(layer.weight.detach(), 2)) for layer in layers]
    np.testing.assert_allclose(norms, 1.0, rtol=1e-5)


@pytest.mark.filterwarnings("ignore")  # of the compiler itself
def test_they_compile(X):
    plain, compiled = (small(BetaVAE, **LIPSCHITZ, compile=on).fit(X) for on in (False, True))
    np.testing.assert_allclose(compiled.transform(X), plain.transform(X), rtol=1e-3, atol=1e-4)


def test_they_are_told_of_missing_values(X):
    """Margins of whole rows are those of an encoder that sees no more than them."""
    holes = np.where(np.random.default_rng(0).random(X.shape) < 0.1, np.nan, X)
    vae = small(BetaVAE, **LIPSCHITZ, max_epochs=100, lr=1e-2, scale_offset=0.3).fit(holes)
    whole = vae.module_.of_whole_rows().eval().encode(torch.tensor(X[:3]).float()).mean
    np.testing.assert_allclose(whole.numpy(force=True), vae.transform(X[:3].astype(np.float32)), rtol=1e-4, atol=1e-5)
    margin = robustness_margin(vae, X[:3], r=1.0, n_draws=2000, random_state=0)
    assert not margin.abstained.any()
    assert (margin.certified <= margin.upper).all()
    assert (margin.certified > 0.5 * margin.lower).all()


def test_certificates_are_tight(X):
    """Proven without an "if" is what first-order bounds say, and most of what an attack needs."""
    vae = small(BetaVAE, **LIPSCHITZ, max_epochs=300, lr=1e-2, scale_offset=0.3).fit(X)
    margin = robustness_margin(vae, X[:8], r=1.0, n_draws=4000, random_state=0)
    assert not margin.abstained.any()
    assert (margin.certified <= margin.upper).all()
    assert (margin.certified >= 0.95 * margin.lower).all()
    assert np.median(margin.certified / margin.upper) > 0.7
    assert (margin.lipschitz >= 0.8 * margin.certified).all()  # even by the product of the layers' constants
    attack = max_damage_attack(vae, X[:8], max_norm=0.5, random_state=0)
    assert attack.damage.max() <= 0.5 * (1 + 1e-4)  # of constants 1 and 1


# ------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize("make", [nets.lipschitz_encoder, nets.lipschitz_decoder])
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"constant": -1.0}, "constant, the Lipschitz constant, must be a finite number above 0; got -1.0"),
        ({"constant": 0}, "finite number above 0; got 0"),
        ({"constant": float("nan")}, "finite number above 0; got nan"),
        ({"constant": float("inf")}, "finite number above 0; got inf"),
        ({"constant": "1"}, "finite number above 0; got '1'"),
        ({"constant": True}, "finite number above 0; got True"),
        (
            {"hidden_layer_sizes": (8, 5)},
            "even and at least 2, because GroupSort sorts pairs of units; got 5. Take 6.",
        ),
        ({"channels": (3,)}, "even and at least 2, because GroupSort sorts pairs of units; got 3. Take 4."),
        ({"layers": "householder"}, "layers must be 'spectral' or 'orthogonal'; got 'householder'"),
        ({"channels": (4,)}, r"does not describe rows of \d+ pixels"),
    ],
)
def test_bad_input(make, given, message):
    with pytest.raises(ValueError, match=message):
        make(24, 24, **given)


def test_an_odd_width_is_found_before_training(X):
    with pytest.raises(ValueError, match="encoder.*GroupSort sorts pairs of units; got 5 units, an odd number"):
        small(BetaVAE, activation="groupsort", hidden_layer_sizes=(5,)).fit(X)
