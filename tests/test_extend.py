"""Objectives, estimators and measures of a user's own: as good as the package's, and mistakes told by name."""

import numpy as np
import pytest
import torch
from helpers import small
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from skorch.callbacks import Callback, LRScheduler
from torch import nn

from riskvae import BetaVAE, QuantileVAE, RiskAwareVAE, likelihoods, risk
from riskvae.likelihoods import Likelihood
from riskvae.training import Batch, Objective, Penalized
from riskvae.training._own_terms import looked_at
from riskvae.training._vitals import noise_of


class Scaled(Objective):
    """Learns a weight of its own."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, terms):
        return terms.nll.mean() * torch.exp(-self.weight) + self.weight + terms.kl.mean()

    def continues(self, other):
        return isinstance(other, Scaled)


class ScaledVAE(BetaVAE):
    def make_objective(self):
        return Scaled()


class Noisy(Objective):
    """Draws from torch's global generator."""

    def forward(self, terms):
        return terms.nll.mean() + (terms.z[0] - torch.randn_like(terms.z[0])).square().mean()


class NoisyVAE(BetaVAE):
    def make_objective(self):
        return Noisy()


class NoisyMeasure(risk.Measure):
    def __call__(self, losses, *, tail="worst", dim=-1):
        return (losses * (1 + 0.1 * torch.randn_like(losses))).mean(dim)


class WorstFive(risk.Measure):
    def __call__(self, losses, *, tail="worst", dim=-1):
        return losses.topk(5, dim, largest=tail == "worst").values.mean(dim)


class Tagged(BetaVAE):
    def __init__(self, n_components=3, *, tag="a", **parameters):
        super().__init__(n_components, **parameters)
        self.tag = tag


class TwiceTagged(Tagged):
    def __init__(self, *, other=1, **parameters):
        super().__init__(**parameters)
        self.other = other


class Mixin:
    def __init__(self, *, mixed=True, **parameters):
        super().__init__(**parameters)
        self.mixed = mixed


class Mixed(Mixin, QuantileVAE):
    def __init__(self, *, mine=0, **parameters):
        super().__init__(**parameters)
        self.mine = mine


def same_weights(a, b):
    states = (estimator.net_.module_.state_dict() | estimator.net_.criterion_.state_dict() for estimator in (a, b))
    return all(torch.equal(left, right) for left, right in zip(*(state.values() for state in states), strict=True))


# -------------------------------------------------------------------------------------- objectives


def test_parameters_of_an_objective_are_trained_on(X):
    """Three epochs and three more are six, bit for bit, for what the objective learns, too."""
    straight = small(ScaledVAE, max_epochs=6, lr=1e-2).fit(X)
    in_parts = small(ScaledVAE, lr=1e-2, warm_start=True).fit(X).fit(X)
    assert straight.net_.criterion_.weight.abs() > 0.01
    assert same_weights(straight, in_parts)
    before = in_parts.net_.criterion_.weight.item()
    with pytest.raises(ValueError, match="diverged"):
        in_parts.partial_fit(X * 1e25)
    assert in_parts.net_.criterion_.weight.item() == before
    assert same_weights(in_parts.partial_fit(X), straight.partial_fit(X))


@pytest.mark.parametrize("make", [NoisyVAE, lambda **options: RiskAwareVAE(measure=NoisyMeasure(), **options)])
def test_chance_in_parts_of_ones_own_is_seeded(make, X):
    before = torch.get_rng_state()
    options = {"n_components": 2, "hidden_layer_sizes": (8,), "max_epochs": 2, "random_state": 0}
    first = make(**options).fit(X)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(5)
    assert same_weights(first, make(**options).fit(X))


def test_a_trial_changes_nothing(X):
    def encoder(n_in, n_out):
        return nn.Sequential(nn.Linear(n_in, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, n_out))

    vae = small(BetaVAE, encoder=encoder, max_epochs=2, batch_size=100).fit(X)
    assert vae.module_.encoder[1].num_batches_tracked == 6


class PenalizedVAE(RiskAwareVAE):
    def __init__(self, n_components=10, *, strength=0.0, **parameters):
        super().__init__(n_components, **parameters)
        self.strength = strength

    def make_objective(self):
        strength = self.strength
        return Penalized(super().make_objective(), lambda terms: strength * terms.z.square().mean())


@pytest.mark.parametrize(
    "options",
    [
        {"eps": 0.3},
        {"eps": 0.1, "eps_warmup": 3},
        {"eps": 0.2, "risk": "seeking"},
        {"eps": 0.5, "threshold": "ema"},
        {"eps": 0.5, "threshold": "learned"},
        {"eps": 0.5, "risk_over": "groups"},
        {"eps": 0.5, "risk_over": "nested", "n_subsamples": 4, "beta_warmup": 2},
        {"risk": "neutral"},
    ],
)
def test_a_penalty_of_nothing_changes_nothing(options, X):
    options = {"n_components": 2, "max_epochs": 5, "hidden_layer_sizes": (8,), "random_state": 0, **options}
    groups = {"groups": np.arange(len(X)) % 5} if "groups" in options.values() else {}
    plain, same = RiskAwareVAE(**options).fit(X, **groups), PenalizedVAE(**options).fit(X, **groups)
    for one, other in zip(plain.module_.parameters(), same.module_.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert [row.get("eps") for row in plain.history_] == [row.get("eps") for row in same.history_]
    assert noise_of(plain.module_.likelihood) == pytest.approx(noise_of(same.module_.likelihood), rel=1e-4)


def test_a_penalty_counts(X):
    options = {"n_components": 2, "max_epochs": 60, "lr": 1e-2, "hidden_layer_sizes": (8,), "random_state": 0}
    free, held = (PenalizedVAE(**options, strength=strength).fit(X) for strength in (0.0, 100.0))
    assert np.abs(held.transform(X)).mean() < 0.5 * np.abs(free.transform(X)).mean()


def test_mistakes_in_a_penalty_are_told(X):
    class Nothing(RiskAwareVAE):
        def make_objective(self):
            return Penalized(super().make_objective(), lambda terms: terms.z.mean() * float("nan"))

    with pytest.raises(ValueError, match=r"Penalized: forward\(terms\) gives nan"):
        Nothing(2).fit(X)
    with pytest.raises(TypeError, match="objective must be a riskvae.training.Objective, such as super"):
        Penalized(nn.Linear(1, 1), len)
    with pytest.raises(TypeError, match="penalty must be a function of the terms of a batch; got 0.1"):
        Penalized(Scaled(), 0.1)

    class Forgetful(RiskAwareVAE):
        def make_objective(self):
            return Scaled()

    with pytest.raises(ValueError, match="eps_warmup=3 is not used by the objective Scaled. Return training.Penalized"):
        Forgetful(eps_warmup=3).fit(X)


def test_a_module_that_a_factory_returns_again_starts_anew_in_every_fit(X):
    module = nn.Linear(X.shape[1], 4)
    start = module.weight.detach().clone()
    options = {"encoder": lambda n_in, n_out: module, "max_epochs": 3}
    first = small(BetaVAE, n_components=2, **options).fit(X)
    codes = first.transform(X)
    second = small(BetaVAE, n_components=2, **options).fit(X)
    assert torch.equal(module.weight, start)
    np.testing.assert_array_equal(second.transform(X), codes)
    np.testing.assert_array_equal(first.transform(X), codes)
    assert not torch.equal(first.module_.encoder.weight, start)


class Short(BetaVAE):
    """Its constructor leaves the parameters of its base out."""

    def __init__(self, n_components=2, *, strength=1.0):
        super().__init__(n_components, hidden_layer_sizes=(8,), max_epochs=2, random_state=0)
        self.strength = strength


def test_a_constructor_may_leave_parameters_out(X):
    assert clone(Short(3)).fit(X).transform(X).shape == (len(X), 3)
    assert set(Short().get_params()) == {"n_components", "strength"}
    model = Short()
    model.beta = -1.0
    with pytest.raises(ValueError, match="Short: beta must be"):
        model.fit(X)


def test_an_objective_needs_what_batches_have(X):
    class Weighted(BetaVAE):
        def make_objective(self):
            objective = Scaled()
            objective.needs = ("weight",)
            return objective

    with pytest.raises(ValueError, match="needs of Scaled must name fields of .*x, index, group, noise; got 'weight'"):
        Weighted().fit(X)


class Sgd(Callback):
    def on_train_begin(self, net, **kwargs):
        net.optimizer_ = torch.optim.SGD([*net.module_.parameters(), *net.criterion_.parameters()], lr=0.01)


def test_an_optimizer_of_ones_own_comes_before_what_schedules_it(X, tmp_path):
    schedule = LRScheduler("ExponentialLR", gamma=0.5)
    vae = small(BetaVAE, callbacks=[Sgd(), schedule], max_epochs=3).fit(X)
    assert type(vae.net_.optimizer_) is torch.optim.SGD
    assert vae.net_.optimizer_.param_groups[0]["lr"] == pytest.approx(0.01 * 0.5**3)
    with pytest.raises(ValueError, match="LRScheduler schedules a AdamW that does not train"):
        small(BetaVAE, callbacks=[LRScheduler("ExponentialLR", gamma=0.5), Sgd()]).fit(X)
    with pytest.raises(ValueError, match="training=True keeps the state of AdamW, and a callback has put SGD in"):
        vae.set_params(callbacks=None).save(tmp_path / "m", training=True)
    vae.save(tmp_path / "m")


class Tied:
    """A decoder with the encoder's weights."""

    def encoder(self, n_in, n_out):
        self.layer = nn.Linear(n_in, n_out)
        return self.layer

    def decoder(self, n_in, n_out):
        return Transposed(self.layer)


class Transposed(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, z):
        return z @ self.layer.weight[: z.shape[1]]


def test_weights_that_networks_share_stay_shared(X):
    tied = Tied()
    vae = small(BetaVAE, n_components=2, encoder=tied.encoder, decoder=tied.decoder, max_epochs=3).fit(X)
    assert vae.module_.decoder.layer.weight is vae.module_.encoder.weight
    assert tied.layer.weight is not vae.module_.encoder.weight


class LearnedPenalty(RiskAwareVAE):
    def make_objective(self):
        return Penalized(super().make_objective(), SizeOfRows())


class SizeOfRows(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 1)

    def forward(self, terms):
        return (self.layer(terms.z).square().mean() + terms.batch.x.square().mean()) / 10


def test_a_penalty_may_have_weights_and_look_at_rows(X):
    first, second = (small(LearnedPenalty, n_components=2, max_epochs=3).fit(X) for _ in range(2))
    assert same_weights(first, second)  # whatever torch's global generator has given meanwhile
    objective, batch = first.net_.criterion_, Batch(torch.zeros(3, 2), index=torch.arange(3))
    assert looked_at(objective, batch) == (("nll", "kl", "z", "mean", "scale"), ("x", "index"))
    assert looked_at(objective.objective, batch) == (objective.objective.reads, ())


class Lost(BetaVAE):
    def __init__(self, n_components=4, *, free=0.1, **parameters):
        super().__init__(n_components, **parameters)
        self.free_bits = free


class Started(BetaVAE):
    def __init__(self, n_components=4, *, free=0.1):
        self.n_components, self.free = n_components, free


class LostLikelihood(Likelihood):
    def __init__(self, shape=2.0):
        super().__init__()
        self.power = shape


class LostMeasure(risk.Measure):
    def __init__(self, power=2.0):
        self.exponent = power


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (Lost, "Lost: .* not stored: 'free'. .* self.free = free"),
        (Started, "Started: .* not stored: 'beta', .* and others. Call super"),
        (lambda: BetaVAE(likelihood=LostLikelihood()), "LostLikelihood: .*'shape'"),
        (lambda: RiskAwareVAE(measure=LostMeasure()), "LostMeasure: .*'power'"),
        (lambda: BetaVAE(likelihood=likelihoods.Mixed({"a": LostLikelihood()})), "LostLikelihood: .*'shape'"),
    ],
)
def test_parameters_under_other_names_are_told(make, name, X):
    with pytest.raises(TypeError, match=f"^{name}"):
        make().fit(X)


class Wide(Likelihood):
    """Takes two numbers for each feature."""

    def mean(self, raw):
        return raw[..., : raw.shape[-1] // 2]

    def nll(self, x, raw):
        mean, log_scale = raw.chunk(2, -1)
        return (((x - mean) / log_scale.exp()).square() / 2 + log_scale).sum(-1)


def test_too_few_numbers_for_each_feature_are_told(X):
    with pytest.raises(ValueError, match=r"nll\(x, raw\) fails .*raw has shape \(1, .*\), as values_per_feature=1$"):
        small(BetaVAE, likelihood=Wide()).fit(X)
    Wide.values_per_feature = 2
    small(BetaVAE, likelihood=Wide()).fit(X)
    with pytest.raises(ValueError, match=r"must map .*, 2 values per feature, a whole row of each in turn; .* it gave"):
        small(BetaVAE, likelihood=Wide(), decoder=lambda n_in, n_out: nn.Linear(n_in, n_out // 2)).fit(X)


def test_two_sigmoids_in_a_row_are_told(X):
    def decoder(n_in, n_out):
        return nn.Sequential(nn.Linear(n_in, n_out), nn.Sigmoid())

    shares = 1.0 / (1.0 + np.exp(-X))
    with pytest.warns(UserWarning, match="likelihood=Bernoulli.*the decoder gives numbers from .* as after a sigmoid"):
        small(BetaVAE, decoder=decoder, likelihood="bernoulli", max_epochs=1).fit(shares)
    small(BetaVAE, decoder=decoder, max_epochs=1).fit(shares)  # means may be shares


@pytest.mark.parametrize("options", [{}, {"risk_over": "subsamples", "n_subsamples": 8}])
def test_measures_may_need_many_losses(options, X):
    assert np.isfinite(small(RiskAwareVAE, measure=WorstFive(), **options).fit(X).score(X))


def returns(value):
    class Wrong(Objective):
        def forward(self, terms):
            return value(terms)

    return Wrong


class Unready(Objective):
    def __init__(self):
        pass


@pytest.mark.parametrize(
    ("objective", "error", "message"),
    [
        (lambda: None, TypeError, "make_objective must return a riskvae.training.Objective.*got NoneType"),
        (lambda: Scaled, TypeError, "make_objective must return a riskvae.training.Objective.*got type"),
        (lambda: nn.Identity(), TypeError, "got Identity"),
        (Unready, TypeError, r"begins with super\(\).__init__\(\); got Unready"),
        (Objective, ValueError, r"Objective has no forward\(terms\); define it"),
        (returns(lambda terms: terms.nll), ValueError, r"Wrong: forward\(terms\) must return .* shape \(\); got \(1, "),
        (returns(lambda terms: terms.nll.mean().item()), ValueError, "got float"),
        (returns(lambda terms: terms.nll.mean().detach()), ValueError, "has no gradient"),
        (returns(lambda terms: terms.nll.mean() / 0), ValueError, "gives inf, though all losses are finite"),
        (returns(lambda terms: terms.losses.mean()), ValueError, "fails on the first rows of X: AttributeError"),
        (returns(lambda terms: terms.batch.group.float().mean()), ValueError, "fails on the first rows of X"),
    ],
)
def test_mistakes_in_an_objective_are_found_before_training(objective, error, message, X):
    class Mistaken(BetaVAE):
        def make_objective(self):
            return objective()

    with pytest.raises(error, match=message):
        small(Mistaken).fit(X)


# -------------------------------------------------------------------------------------- estimators


@pytest.mark.parametrize("cls", [Tagged, TwiceTagged, Mixed])
def test_parameters_that_are_handed_on_are_spelled_out(cls, X):
    parameters = cls().get_params()
    base = QuantileVAE if cls is Mixed else BetaVAE
    own = {Tagged: {"tag"}, TwiceTagged: {"tag", "other"}, Mixed: {"mixed", "mine"}}[cls]
    assert set(parameters) == set(base().get_params()) | own
    assert not {"args", "kwargs", "kw", "parameters"} & set(parameters)
    estimator = cls(lr=0.5, **dict.fromkeys(own, 7))
    copy = clone(estimator)
    assert (copy.lr, *(getattr(copy, name) for name in own)) == (0.5, *(7 for _ in own))
    assert "lr=0.5" in repr(copy)
    assert "beta" not in repr(copy)
    assert small(cls).fit(X).n_iter_ == 3


def test_a_grid_reaches_a_parameter_of_ones_own(X):
    search = GridSearchCV(small(Tagged), {"tag": ["a", "b"], "beta": [1.0]}, cv=2).fit(X)
    assert search.best_params_["beta"] == 1.0


# ----------------------------------------------------------------------------------------- measures


class Detached(risk.Measure):
    def __call__(self, losses, *, tail="worst", dim=-1):
        return losses.detach().mean(dim)


class LastOnly(risk.Measure):
    def __call__(self, losses, *, tail="worst", dim=-1):
        return losses.square().mean(-1)


class WorstAlways(risk.Measure):
    def __call__(self, losses, *, tail="worst", dim=-1):
        return losses.amax(dim)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"measure": Detached()}, r"measure=Detached\(\) has no gradient, so reconstruction would not be learned"),
        (
            {"measure": LastOnly(), "risk_over": "nested", "n_subsamples": 3},
            r"\(256, 2\) with .* dim=0 to \(2,\); it gave",
        ),
        ({"measure": WorstAlways(), "risk": "seeking"}, r"measure=WorstAlways\(\) ignores tail"),
    ],
)
def test_mistakes_in_a_measure_are_found_before_training(options, message, X):
    with pytest.raises(ValueError, match=message):
        small(RiskAwareVAE, **options).fit(X)
    small(RiskAwareVAE, measure=WorstAlways()).fit(X)  # averse, it need not look at tail
