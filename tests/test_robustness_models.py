"""Models of others: examined as they are, understood as they answer, never changed, and never certified by a guess."""

import math
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import LinearGaussian, Plain
from torch import nn
from torch.distributions import Independent, Normal

from riskvae import max_damage_attack
from riskvae.robustness import encoder_sensitivity, robustness_margin, targeted_attack, wrap

few = partial(robustness_margin, n_draws=1000, n_steps=8, random_state=0)


class TrunkAndHeads(nn.Module):
    """The usual layout. Its trunk has the name of an encoder and is none."""

    n_components = 2

    def __init__(self, gain=1.0):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.encoder, self.mean = nn.Linear(6, 4), nn.Sequential(nn.Tanh(), nn.Linear(4, 2))
        self.log_variance, self.decoder = nn.Linear(4, 2), nn.Linear(2, 6)
        self.gain = gain
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / math.sqrt(4))
            self.mean[1].weight.mul_(10)
            self.log_variance.weight.mul_(0.1)
        self.double()

    def encode(self, x):
        h = self.encoder(x)
        return self.gain * self.mean(h), (0.5 * self.log_variance(h)).exp()

    def decode(self, z):
        return self.decoder(z)


@pytest.fixture(scope="module")
def rows():
    return 2 * np.random.default_rng(0).normal(size=(32, 6))


# --------------------------------------------------------------------------- certificates without an "if"


def test_layers_are_not_guessed_by_their_names(rows):
    margin = few(TrunkAndHeads(), rows)
    assert np.isnan(margin.certified).all()
    assert "name the layers of its mean" in repr(margin)


def test_named_layers_certify_what_no_attack_breaks(rows):
    model = TrunkAndHeads()
    named = wrap(model.encode, model.decode, mean_layers=nn.Sequential(model.encoder, model.mean))
    margin = few(named, rows)
    known = ~margin.abstained
    assert known.mean() > 0.5
    assert (margin.certified[known] > 0).all()
    assert (margin.certified[known] <= margin.upper[known]).all()
    np.testing.assert_array_equal(margin.upper, few(model, rows).upper)  # the same model


def _swapped(model):
    return nn.Sequential(model.encoder, model.log_variance)


def _without_gain(model):
    return nn.Sequential(model.encoder, model.mean)


def _without_the_last(model):
    return nn.Sequential(model.encoder, model.mean[0], nn.Linear(4, 2).double())


@pytest.mark.parametrize(
    ("layers", "gain"), [(_swapped, 1.0), (_without_gain, 2.0), (_without_gain, 1.001), (_without_the_last, 1.0)]
)
def test_layers_that_give_another_mean_are_refused(rows, layers, gain):
    model = TrunkAndHeads(gain)
    with pytest.raises(ValueError, match="mean_layers give a different mean than encode does"):
        few(wrap(model.encode, model.decode, mean_layers=layers(model)), rows)


def test_what_differs_only_away_from_the_rows_is_refused(rows):
    model, x = TrunkAndHeads(), torch.tensor(rows)
    nearest = lambda given: torch.cdist(given, x).amin(1, keepdim=True) > 1e-6  # noqa: E731
    model.gain = 1.0

    def encode(given):
        mean, scale = model.encode(given)
        return torch.where(nearest(given), 2 * mean, mean), scale

    with pytest.raises(ValueError, match="on the rows of X or near them"):
        few(wrap(encode, model.decode, mean_layers=_without_gain(model)), rows)


def test_nothing_is_certified_of_a_scale_that_moves(X, vae):
    assert np.isnan(few(vae, X[:5], perturb="both").certified).all()
    assert (few(vae, X[:5]).certified > 0).all()


# ------------------------------------------------------------------------------------- forms of answers


def _answers(form, mean, scale):
    if form == "normal":
        return Normal(mean, scale)
    if form == "independent":
        return Independent(Normal(mean, scale), 1)
    if form == "three":
        return mean + scale * torch.randn_like(mean), mean, 2 * scale.log()
    if form == "pair":
        return mean, 2 * scale.log()
    if form == "pythae":
        return SimpleNamespace(embedding=mean, log_covariance=2 * scale.log())
    return SimpleNamespace(latent_dist=SimpleNamespace(mean=mean, std=scale))


@pytest.mark.parametrize("form", ["normal", "independent", "three", "pair", "pythae", "latent_dist"])
@pytest.mark.parametrize("images", [False, True])
def test_every_form_of_answer_is_the_same_model(rows, form, images):
    model = TrunkAndHeads()

    def encode(x):
        mean, scale = model.encode(x)
        shape = (len(x), 1, 1, 2) if images else (len(x), 2)
        return _answers(form, mean.view(shape), scale.view(shape))

    def decode(z):
        assert z.shape[1:] == ((1, 1, 2) if images else (2,))
        found = model.decode(z.flatten(1))
        decoded = {"normal": Normal(found, 1.0), "pythae": SimpleNamespace(reconstruction=found)}
        return decoded.get(form, SimpleNamespace(sample=found))

    wrapped = wrap(encode, decode, log_variance=form in ("three", "pair"))
    expected, found = few(model, rows[:6]), few(wrapped, rows[:6])
    np.testing.assert_allclose(found.upper, expected.upper, rtol=1e-6)
    np.testing.assert_allclose(found.whitened, expected.whitened, rtol=1e-6)


def test_answers_that_are_not_understood_are_told(rows):
    model = TrunkAndHeads()
    for wrong, message in (
        (lambda x: (*model.encode(x), model.encode(x)[0]), "three tensors, of which 0 change"),
        (lambda x: (*model.encode(x), 1, 2), "got 4 values"),
        (lambda x: {"mean": 1}, "got dict"),
    ):
        with pytest.raises(ValueError, match=message):
            few(wrap(wrong, model.decode), rows)
    with pytest.raises(ValueError, match="decode must return a tensor, a distribution"):
        few(wrap(model.encode, lambda z: {"x": z}), rows)
    with pytest.raises(TypeError, match="encode must be a function of a tensor, or a module; got int"):
        wrap(3, model.decode)
    for layers in (nn.Linear(6, 2), nn.Sequential()):
        with pytest.raises(TypeError, match="mean_layers must be an nn.Sequential"):
            wrap(model.encode, model.decode, mean_layers=layers)


def test_odd_units_are_told(rows):
    model = TrunkAndHeads()
    with pytest.warns(UserWarning, match="median scale of .*log_variance=True"):
        encoder_sensitivity(wrap(lambda x: (model.encode(x)[0], 3 + model.encode(x)[1]), model.decode), rows)
    with pytest.warns(UserWarning, match="X is uint8, from 0 to 255.*trained on X / 255, pass that"):
        encoder_sensitivity(Plain(), np.random.default_rng(0).integers(0, 256, (200, 6)).astype(np.uint8))


# ----------------------------------------------------------------------- nothing of the caller's changes


def _norm():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 4))
    net(torch.randn(100, 6))  # statistics
    return net, nn.Linear(2, 6)


def _pair(values):
    mean, raw = values.chunk(2, -1)
    return mean, (0.5 * raw).exp()


HELD = _norm()


def _call_a_global(x):
    return HELD[0](x)


def _holders(net, decoder):
    """A model behind functions and objects of many kinds."""

    class Attributes:
        def __init__(self):
            self.net, self.decoder = net, decoder

        def encode(self, x):
            return _pair(self.net(x))

        def decode(self, z):
            return self.decoder(z)

    class Lists(Attributes):
        def __init__(self):
            self.parts = [net, {"decoder": decoder}]

        def encode(self, x):
            return _pair(self.parts[0](x))

        def decode(self, z):
            return self.parts[1]["decoder"](z)

    first = Attributes()
    return {
        "attributes": first,
        "lists": Lists(),
        "closures": SimpleNamespace(encode=lambda x: _pair(net(x)), decode=lambda z: decoder(z)),
        "methods": SimpleNamespace(encode=first.encode, decode=first.decode),
        "globals": SimpleNamespace(encode=lambda x: _pair(_call_a_global(x)), decode=lambda z: HELD[1](z)),
        "partials": SimpleNamespace(encode=partial(lambda net, x: _pair(net(x)), net), decode=decoder),
        "wrapped": wrap(lambda x: net(x).chunk(2, -1), decoder, log_variance=True),
    }


@pytest.mark.parametrize("kind", ["attributes", "lists", "closures", "methods", "globals", "partials", "wrapped"])
def test_modules_in_training_are_examined_as_copies_in_evaluation(kind):
    rows = np.random.default_rng(1).normal(size=(6, 6)).astype(np.float32)
    net, decoder = HELD
    expected = few(_holders(net.eval(), decoder.eval())[kind], rows)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.warns(UserWarning, match="training mode"):
        found = few(_holders(net.train(), decoder.train())[kind], rows)
    np.testing.assert_array_equal(found.upper, expected.upper)
    np.testing.assert_array_equal(found.p_robust, expected.p_robust)
    assert all(module.training for module in net.modules())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in net.parameters())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_a_module_that_hides_too_well_is_refused_before_it_runs():
    net, decoder = _norm()
    shelf = {"deep": {"down": {"here": net}}}
    before = net[1].running_mean.clone()
    model = SimpleNamespace(encode=lambda x: _pair(shelf["deep"]["down"]["here"](x)), decode=decoder)
    net.train()
    shelf["deep"]["down"] = type("Shelf", (), {"__slots__": (), "__getitem__": lambda self, key: net})()
    with pytest.raises(ValueError, match=r"calls a BatchNorm1d in training mode.*Call .eval\(\) on it first"):
        few(model, np.zeros((4, 6), dtype=np.float32))
    assert torch.equal(net[1].running_mean, before)
    net.eval()
    few(model, np.zeros((4, 6)), r=1.0)  # in evaluation it is not changed; float64 rows, float32 weights


def test_threads_leave_a_module_as_it_was():
    model, rows = Plain().train(), np.random.default_rng(0).random((4, 6)).astype(np.float32)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda i: few(model, rows, batch_size=4).upper, range(8)))
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    for one in found:
        np.testing.assert_array_equal(one, found[0])


def test_rows_must_be_apart(rows):
    class Together(LinearGaussian):
        def encode(self, x):
            mean, scale = super().encode(x)
            return mean - 0.1 * mean.mean(0), scale

    class Later(LinearGaussian):
        def decode(self, z):
            decoded = super().decode(z)
            return decoded / (1 + decoded.norm())

    with pytest.raises(ValueError, match="vae.encode gives a different answer for a row alone than .* row among 32"):
        few(Together(2, 6), rows)
    with pytest.raises(ValueError, match="vae.encode gives a different answer for a row alone"):
        few(Together(2, 6), rows[:1])
    with pytest.raises(ValueError, match="vae.decode gives a different answer for a row alone"):
        few(Later(2, 6), rows)


def test_copies_that_are_none_leave_the_original_alone():
    class Single(nn.Linear):
        def __deepcopy__(self, memo):
            return self

    class Holder:
        def __init__(self):
            self.net, self.decoder = Plain(), nn.Linear(2, 6)

        def __copy__(self):
            return self

        def encode(self, x):
            return self.net.encode(x)

        def decode(self, z):
            return self.net.decode(z)

    holder, rows = Holder(), np.zeros((3, 6), dtype=np.float32)
    net = holder.net
    few(holder, rows)
    assert holder.net is net
    layers = nn.Sequential(Single(6, 2), nn.Linear(2, 2))
    model = wrap(lambda x: (layers(x), torch.ones(len(x), 2)), nn.Linear(2, 6), mean_layers=layers)
    margin = few(model, rows, r=5.0)
    assert all(p.dtype == torch.float32 and p.requires_grad for p in layers.parameters())
    assert layers[0].training
    assert "it cannot be copied as a whole" in repr(margin)


# ------------------------------------------------------------------------ flat rows, and work that stops


class Flat(nn.Module):
    """An encoder whose mean does not move to first order below .5, and does beyond."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.ones(1))
        self.eval()

    def encode(self, x):
        return torch.relu(x - 0.5) * 20 * self.w, torch.ones_like(x)

    def decode(self, z):
        return z


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_flat_rows_count_as_failures_of_first_order(dtype):
    X = np.r_[np.zeros((3, 2)), np.ones((3, 2))].astype(dtype)
    margin = few(Flat().to(torch.float64 if dtype == np.float64 else torch.float32), X, r=4.0)
    assert np.isinf(margin.lower[:3]).all()
    assert np.isfinite(margin.upper).all()
    told = repr(margin)
    assert "lower <= upper in 50.0% of 6 rows" in told
    assert "flat: 3 rows" in told
    assert "the attack broke 3 of them" in told


class Stops(LinearGaussian):
    """A model that fails at some row, as a machine does after an hour."""

    def __init__(self, error):
        super().__init__(2, 6)
        self.error, self.calls = error, []

    def encode(self, x):
        self.calls.append(len(x))
        if len(self.calls) > 60:
            raise self.error
        return super().encode(x)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("out of memory")])
def test_what_was_done_is_kept(rows, error):
    whole = few(LinearGaussian(2, 6), rows, batch_size=4)
    with pytest.warns(UserWarning, match=rf"stopped early.*rows \d+ to 31 were not examined: {type(error).__name__}"):
        margin = few(Stops(error), rows, batch_size=4)
    done = np.isfinite(margin.upper).sum()
    assert 4 <= done < 32
    np.testing.assert_array_equal(margin.upper[:done], whole.upper[:done])
    assert np.isnan(margin.p_robust[done:]).all()
    assert not margin.abstained.any()
    assert f"rows {done} to 31 were not examined" in repr(margin)
    with pytest.warns(UserWarning, match="max_damage_attack stopped early"):
        result = max_damage_attack(Stops(error), rows, max_norm=1.0, n_steps=3, batch_size=4, random_state=0)
    assert np.isfinite(result.damage[0])
    assert np.isnan(result.damage[-1])
    np.testing.assert_array_equal(result.X_adv[-1], rows[-1])
    assert not result.success[-1]


# ------------------------------------------------------------------------------------------- success


def test_success_is_a_break_and_not_a_hair(X, vae):
    tiny = max_damage_attack(vae, X[:8], max_norm=1e-4, n_steps=3, random_state=0)
    assert not tiny.success.any()
    margin = robustness_margin(vae, X[:8], n_draws=2000, random_state=0)
    beyond = max_damage_attack(vae, X[:8], max_norm=1.5 * margin.upper, perturb="mean", r=margin.r, random_state=0)
    within = max_damage_attack(vae, X[:8], max_norm=0.5 * margin.lower, perturb="mean", r=margin.r, random_state=0)
    assert beyond.success.all()
    assert not within.success.any()
    assert beyond.r == margin.r
    assert max_damage_attack(vae, X[:8], max_norm=1.0, n_steps=1, random_state=0).r == pytest.approx(margin.r)
    share = max_damage_attack(vae, X[:8], max_norm=1.0, r=beyond.damage.mean(), random_state=0).p_broken
    assert ((share >= 0) & (share <= 1)).all()


def test_a_target_is_reached_within_r(X, vae):
    near = targeted_attack(vae, X[:5], X[5:10], max_norm=5.0, n_steps=60, space="latent", r=0.05, random_state=0)
    assert (near.success == (near.distance <= 0.05)).all()
    none = targeted_attack(vae, X[:5], X[5:10], max_norm=1e-3, n_steps=3, space="latent", r=1e-6, random_state=0)
    assert not none.success.any()


# ------------------------------------------------------------------------------------------ models with conditions


def test_a_model_with_conditions_is_examined_one_condition_at_a_time(rows):
    """By the guide's recipe: the condition's share of the first layer goes into its bias."""
    torch.manual_seed(0)
    first, mean, log_variance = (nn.Linear(6 + 3, 8).double(), nn.Linear(8, 2).double(), nn.Linear(8, 2).double())
    decoder = nn.Sequential(nn.Linear(2 + 3, 8), nn.Tanh(), nn.Linear(8, 6)).double()

    def encode(x, y):
        h = torch.cat((x, y), 1).matmul(first.weight.T).add(first.bias).relu()
        return mean(h), log_variance(h)

    def under(condition, named=True):
        y = torch.eye(3).double()[condition : condition + 1]
        alone = nn.Linear(6, 8).double()
        with torch.no_grad():
            alone.weight.copy_(first.weight[:, :6])
            alone.bias.copy_(first.bias + first.weight[:, 6:] @ y[0])
        return wrap(
            lambda x: encode(x, y.expand(len(x), -1)),
            lambda z: decoder(torch.cat((z, y.expand(len(z), -1)), 1)),
            log_variance=True,
            mean_layers=nn.Sequential(alone, nn.ReLU(), mean) if named else None,
        )

    margins = [few(under(condition), rows[:4], r=1.0) for condition in range(3)]
    assert len({margin.upper.tobytes() for margin in margins}) == 3  # the condition matters
    for condition, margin in enumerate(margins):
        known = ~margin.abstained
        assert known.any()
        assert (margin.proven[known] > 0).all()
        assert (margin.certified[known] <= margin.upper[known]).all()
        # Naming the layers changes nothing but what can be certified.
        unnamed = few(under(condition, named=False), rows[:4], r=1.0)
        assert np.isnan(unnamed.certified).all()
        np.testing.assert_array_equal(unnamed.upper, margin.upper)
