"""Gradients of a tail from the graph of what weighs alone: the same gradients, for less work, where rows are apart."""

import numpy as np
import pytest
import torch
from helpers import small
from skorch.callbacks import Callback
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from riskvae import BetaTCVAE, BetaVAE, QuantileVAE, RiskAwareVAE, nets
from riskvae.likelihoods import StudentT
from riskvae.risk import SmoothedCVaR
from riskvae.training import VAE, WeightedELBO
from riskvae.training._own_terms import OwnTerms, spared_loss
from riskvae.training._sparing import Sparing, rows_are_apart

CPU = torch.device("cpu")
DRAWS = {"n_subsamples": 4}


@pytest.fixture(scope="module")
def X():
    rng = np.random.default_rng(0)
    return (rng.normal(size=(300, 3)) @ rng.normal(size=(3, 9)) + 0.3 * rng.normal(size=(300, 9))).astype(np.float32)


def holes(X):
    X = X.copy()
    X[np.random.default_rng(1).random(X.shape) < 0.1] = np.nan
    return X


def gradients(net, batch, spare):
    """Loss and gradients of a batch in double precision, by name."""
    net.spare = spare
    net.module_.zero_grad()
    net.criterion_.zero_grad()
    if spare is None:
        loss = net._loss(batch)[0]
        loss.backward()
    else:
        loss = spared_loss(net, batch)[0]
    return loss.detach(), {name: p.grad for name, p in net.module_.named_parameters()}


def prepared(estimator, X):
    """Net of a fitted estimator and a batch of rows, in double precision and in training mode."""
    net = estimator.fit(X).net_
    net._set_training(True)
    net.module_.double()
    net.criterion_.double()
    generator = torch.Generator().manual_seed(5)
    x = torch.from_numpy(X[:128]).double()
    noise = torch.randn(128, net.n_draws, net.module_.n_components, generator=generator, dtype=torch.float64)
    batch = next(estimator._load(X, None, CPU, True, min_samples=1).batches(128, None, net.draws(0)))
    return net, batch._replace(x=x, noise=noise, index=torch.arange(128))


MODES = {
    "batch": {"eps": 0.1},
    "a share of a row": {"eps": 0.001},
    "half": {"eps": 0.5},
    "ema": {"eps": 0.1, "threshold": "ema"},
    "learned": {"eps": 0.1, "threshold": "learned"},
    "subsamples": {"risk_over": "subsamples", "eps": 0.3, **DRAWS},
    "nested": {"risk_over": "nested", "eps": 0.2, "eps_subsamples": 0.5, **DRAWS},
    "joint": {"risk_over": "joint", "eps": 0.05, **DRAWS},
    "smoothed": {"eps": 0.1, "measure": SmoothedCVaR(smoothing=0.5)},
    "elbo": {"eps": 0.1, "risk_on": "elbo"},
    "elbo, joint": {"eps": 0.05, "risk_on": "elbo", "risk_over": "joint", **DRAWS},
    "seeking": {"eps": 0.4, "risk": "seeking"},
    "seeking, nested": {"eps": 0.4, "risk": "seeking", "risk_over": "nested", **DRAWS},
    "trained noise": {"eps": 0.1, "likelihood": StudentT()},
    "values": {"eps": 0.2, "risk_per": "value"},
}


@pytest.mark.parametrize("spare", ["decoder", "rows"])
@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_gradients_are_those_of_the_whole_graph(X, mode, missing, spare):
    net, batch = prepared(small(RiskAwareVAE, **MODES[mode]), holes(X) if missing else X)
    loss, expected = gradients(net, batch, None)
    if "threshold" in MODES[mode]:  # it has learned from the batch meanwhile
        net, batch = prepared(small(RiskAwareVAE, **MODES[mode]), holes(X) if missing else X)
    found_loss, found = gradients(net, batch, spare)
    assert found_loss == pytest.approx(loss.item(), rel=1e-12)
    for name, gradient in expected.items():
        assert torch.allclose(found[name], gradient, rtol=1e-9, atol=1e-11 * float(gradient.abs().max())), name


@pytest.mark.parametrize("make", [QuantileVAE, BetaVAE, BetaTCVAE])
def test_other_losses_have_the_same_gradients_without_a_graph_of_the_decoder(X, make):
    net, batch = prepared(small(make), X)
    loss, expected = gradients(net, batch, None)
    found_loss, found = gradients(net, batch, "decoder")
    assert found_loss == pytest.approx(loss.item(), rel=1e-12)
    for name, gradient in expected.items():
        assert torch.allclose(found[name], gradient, rtol=1e-9, atol=1e-12), name


class Counting(nn.Module):
    """Counts the rows that pass with a graph, and without one."""

    def __init__(self, module):
        super().__init__()
        self.module = module
        self.rows = {True: 0, False: 0}

    def forward(self, z):
        self.rows[torch.is_grad_enabled()] += len(z)
        return self.module(z)


@pytest.mark.parametrize(
    ("mode", "spare", "decoded", "encoded"),
    [("batch", "decoder", 13, 128), ("nested", "decoder", 26 * 2, 128), ("elbo", "rows", 13, 13)],
)
def test_only_what_weighs_has_a_graph(X, mode, spare, decoded, encoded):
    """128 rows, of which a tenth are 12.8, and of a fifth, two draws of four."""
    net, batch = prepared(small(RiskAwareVAE, **MODES[mode]), X)
    vae = net.module_
    vae.encoder, vae.decoder = Counting(vae.encoder), Counting(vae.decoder)
    gradients(net, batch, spare)
    assert vae.decoder.rows == {True: decoded, False: 128 * net.n_draws}
    assert vae.encoder.rows[True] == encoded


def test_a_loss_that_hangs_on_nothing_leaves_no_gradient(X):
    net, batch = prepared(small(RiskAwareVAE, eps=0.1, risk_on="elbo"), X)
    for spare in ("decoder", "rows"):
        net.module_.zero_grad()
        own = OwnTerms(net.module_, batch, spare)
        own.backward({name: torch.zeros_like(own.values[name]) for name in ("nll", "kl")})
        assert all(p.grad is None or not p.grad.any() for p in net.module_.decoder.parameters())


# ------------------------------------------------------------------------------------------ where it pays


class Memory(nn.Module):
    """Counts its calls in a buffer."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return x


class Centred(nn.Module):
    def forward(self, x):
        return x - x.mean(0)


class Picky(nn.Module):
    def forward(self, x):
        if (x < 0).any():
            raise ValueError("numbers above 0, please")
        return x


class Noisy(nn.Module):
    def forward(self, x):
        return x + 1e-9 * torch.rand(())


def hooked():
    layer = nn.Linear(4, 4)
    layer.register_forward_hook(lambda module, given, out: None)
    return layer


@pytest.mark.parametrize(
    "layer", [nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Dropout(1e-6), spectral_norm(nn.Linear(4, 4)), Memory(), Centred(),
              Picky(), Noisy(), hooked()], ids=lambda layer: type(layer).__name__,
)  # fmt: skip
def test_networks_whose_rows_meet_are_found(layer):
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    network, state = nn.Sequential(nn.Linear(4, 4), layer), torch.get_rng_state()
    assert not rows_are_apart(network, torch.randn(6, 4, generator=torch.Generator()))
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())


@pytest.mark.parametrize(
    "network",
    [
        lambda: nets.mlp(4, 16), lambda: nets.conv_decoder(4, 16), lambda: weight_norm(nn.Linear(4, 4)),
        lambda: nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.GELU(), nn.Unflatten(1, (2, 4)), nn.GroupNorm(2, 2)),
    ],
)  # fmt: skip
def test_networks_whose_rows_are_apart_are_known(network):
    assert rows_are_apart(network(), torch.randn(6, 4, generator=torch.Generator()))


class Own(WeightedELBO):
    """A loss of a tail that says how much of it weighs."""

    def forward(self, terms):
        return terms.nll.mean(0).topk(10).values.mean() + self.weighted(terms.kl.mean())

    def weighing(self, n_draws):
        return 0.05, 0.05


DROPPING = nn.Dropout(0.1), nn.Linear(500, 500)


def normed(a, b):
    return nn.Sequential(nn.Linear(a, b), nn.BatchNorm1d(b))


def chosen(X, **parameters):
    estimator = small(RiskAwareVAE, **{"hidden_layer_sizes": (256, 256), "max_epochs": 1, **parameters}).fit(X)
    net = estimator.net_
    net._set_training(True)
    return Sparing(net.module_, CPU).choose(net.criterion_, net.batch_size, net.n_draws)


@pytest.mark.parametrize(
    ("parameters", "spare"),
    [
        ({"eps": 0.1}, "decoder"),
        ({"eps": 0.4, "hidden_layer_sizes": (500, 500)}, "decoder"),
        ({"eps": 0.5, "hidden_layer_sizes": (500, 500)}, None),
        ({"eps": 1.0}, None),
        ({"risk": "neutral"}, None),
        ({"eps": 0.1, "hidden_layer_sizes": (16,)}, None),
        ({"eps": 0.1, "risk_on": "elbo"}, "rows"),
        ({"eps": 0.1, "risk": "seeking"}, "rows"),
        ({"eps": 0.8, "risk_over": "nested", "eps_subsamples": 0.5, **DRAWS}, "decoder"),
        ({"eps": 0.1, "measure": SmoothedCVaR(smoothing=1.0)}, None),
        ({"eps": 0.1, "decoder": lambda a, b: nn.Sequential(nn.Linear(a, 500), *DROPPING, nn.Linear(500, b))}, None),
        ({"eps": 0.1, "risk_on": "elbo", "encoder": normed}, "decoder"),
    ],
)  # fmt: skip
def test_a_graph_waits_where_that_pays_and_is_exact(X, parameters, spare):
    assert chosen(X, **parameters) == spare


def test_a_graph_waits_for_more_where_the_step_could_be_recorded(X):
    """A step that a GPU plays as a whole costs less than one that waits, unless much is saved."""
    net = small(RiskAwareVAE, hidden_layer_sizes=(256, 256), max_epochs=1, eps=0.1).fit(X).net_
    sparing = Sparing(net.module_, CPU)
    assert sparing.choose(net.criterion_, 256, 8) == "decoder"
    assert sparing.choose(net.criterion_, 256, 8, recorded=True) is None
    assert sparing.choose(net.criterion_, 2**20, 8, recorded=True) == "decoder"


def test_of_a_loss_of_ones_own_the_encoder_keeps_its_graph(X):
    """It may look at what a row's posterior is, beside the terms that wait."""
    net = small(BetaVAE, hidden_layer_sizes=(256, 256)).fit(X).net_
    net._set_training(True)
    assert Sparing(net.module_, CPU).choose(Own(1.0), 256, 1) == "decoder"


@pytest.mark.parametrize("parameters", [{"eps": 0.1}, {"eps": 0.1, "risk_on": "elbo"}, {"eps": 0.3, "risk": "seeking"}])
def test_training_is_the_same_up_to_rounding(X, parameters, monkeypatch):
    estimator = small(RiskAwareVAE, hidden_layer_sizes=(256, 256), max_epochs=2, **parameters)
    used = []
    monkeypatch.setattr(VAE, "nll_at", lambda self, x, z, of=VAE.nll_at: used.append(len(z.shape)) or of(self, x, z))
    found = estimator.fit(X).history_
    assert 2 in used  # pairs of draws and rows
    monkeypatch.setattr(Sparing, "choose", lambda *args, **of: None)
    expected = estimator.fit(X).history_
    assert np.allclose([row["train_loss"] for row in found], [row["train_loss"] for row in expected], rtol=1e-5)


def test_a_tail_that_narrows_begins_to_spare_where_that_pays(X):
    spared = []

    class Look(Callback):
        def on_epoch_end(self, net, **kwargs):
            spared.append(net.spare)

    small(RiskAwareVAE, eps=0.1, eps_warmup=3, max_epochs=5, hidden_layer_sizes=(256, 256), callbacks=[Look()]).fit(X)
    assert spared == [None, None, "decoder", "decoder", "decoder"]
