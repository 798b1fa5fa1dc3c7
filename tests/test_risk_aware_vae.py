"""What training on the tail does: each mode by its definition, its limits, its state, its mistakes."""

import pickle
import re

import numpy as np
import pytest
import torch
from helpers import small
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV

from riskvae import BetaVAE, RiskAwareVAE, risk
from riskvae.nets import Posterior
from riskvae.risk import CVaR, cvar, nested_cvar
from riskvae.training import Batch, RiskObjective, Terms

MEASURES = [
    risk.SmoothedCVaR(smoothing=0.5),
    risk.SmoothedCVaR(0.2, smoothing=0.5, penalty="kl"),
    risk.Entropic(0.5),
    risk.Spectral(risk.Extremile(3)),
    risk.MeanSemideviation(0.5, order=2),
]


def terms(n=50, draws=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    nll = torch.randn(draws, n, generator=generator)
    kl = torch.rand(n, generator=generator)
    return Terms(
        nll, kl, torch.zeros(draws, n, 2), Posterior(torch.zeros(n, 2), torch.ones(n, 2)), Batch(torch.zeros(n, 3))
    )


def objective(**options):
    return RiskObjective(2.0, CVaR(0.2), CVaR(0.4), **options)


def weights_of(estimator):
    return list(estimator.module_.state_dict().values())


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(weights_of(a), weights_of(b), strict=True))


# ------------------------------------------------------------------------------------------- limits


@pytest.mark.parametrize("options", [{}, {"eps": 0.1, "threshold": "ema"}, {"measure": risk.Entropic(2.0)}], ids=str)
def test_neutral_is_beta_vae_bit_for_bit(X, options):
    neutral = small(RiskAwareVAE, risk="neutral", beta=1.0, **options).fit(X)
    assert same(neutral, small(BetaVAE, beta=1.0).fit(X))


@pytest.mark.parametrize(
    "options",
    [
        {"eps": 1.0},
        {"eps": 1.0, "risk": "seeking"},
        {"eps": 1.0, "risk_on": "elbo"},
        {"eps": 1.0, "threshold": "ema"},
        {"eps": 1.0, "threshold": "learned"},
        {"eps": 1.0, "measure": risk.SmoothedCVaR(smoothing=0.1)},
        {"measure": risk.Entropic(1e-6)},
        {"measure": risk.Spectral(risk.Extremile(1.0))},
        {"measure": risk.MeanSemideviation(0.0)},
    ],
    ids=str,
)
def test_a_risk_that_is_the_mean_is_neutral_up_to_rounding(X, options):
    neutral = small(RiskAwareVAE, risk="neutral").fit(X)
    np.testing.assert_allclose(
        small(RiskAwareVAE, **options).fit(X).transform(X), neutral.transform(X), rtol=1e-3, atol=1e-4
    )


@pytest.mark.parametrize("over", ["subsamples", "nested", "joint"])
def test_over_draws_too_the_whole_is_neutral(X, over):
    neutral = small(RiskAwareVAE, risk="neutral", n_subsamples=3).fit(X)
    whole = small(RiskAwareVAE, eps=1.0, n_subsamples=3, risk_over=over).fit(X)
    np.testing.assert_allclose(whole.transform(X), neutral.transform(X), rtol=1e-3, atol=1e-4)


# ------------------------------------------------------------------------------------------ the loss


@pytest.mark.parametrize("tail", ["worst", "best"])
def test_each_mode_is_its_definition(tail):
    batch = terms(draws=5)
    rows_by_draws, kl = batch.nll.T, batch.kl
    expected = {
        "batch": cvar(rows_by_draws.mean(1), 0.2, tail=tail),
        "subsamples": cvar(rows_by_draws, 0.4, tail=tail).mean(),
        "nested": nested_cvar(rows_by_draws, 0.2, 0.4, tail=tail),
        "joint": cvar(rows_by_draws.flatten(), 0.2, tail=tail),
    }
    for over, value in expected.items():
        found = objective(tail=tail, over=over, all_pay=True)(batch)
        assert float(found) == pytest.approx(float(value + 2.0 * kl.mean()), rel=1e-6)
        if tail == "worst":
            assert objective(tail=tail, over=over)(batch) == found


@pytest.mark.parametrize("over", ["batch", "subsamples", "nested", "joint"])
def test_of_the_best_tail_rows_that_count_pay_for_their_kl_terms(over):
    batch = terms(draws=5)
    nll = batch.nll.clone().requires_grad_()
    (weights,) = torch.autograd.grad(objective(tail="best", over=over, all_pay=True)(batch._replace(nll=nll)), nll)
    found = objective(tail="best", over=over)(batch)
    expected = (weights * batch.nll).sum() + 2.0 * (weights.sum(0) * batch.kl).sum()
    assert float(found) == pytest.approx(float(expected), rel=1e-5)
    if over == "batch":  # rows that are left out take no part at all
        kl = batch.kl.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(objective(tail="best")(batch._replace(kl=kl)), kl)
        assert ((gradient == 0) == (weights.sum(0) == 0)).all()


def test_risk_on_the_bound_counts_each_row_with_its_kl_term():
    batch = terms(draws=3)
    bounds = batch.nll.mean(0) + 2.0 * batch.kl
    assert float(objective(on="elbo")(batch)) == pytest.approx(float(cvar(bounds, 0.2)), rel=1e-6)
    found = objective(on="elbo", over="joint")(batch)
    assert float(found) == pytest.approx(float(cvar((batch.nll + 2.0 * batch.kl).flatten(), 0.2)), rel=1e-6)


def test_nested_lies_between_batch_and_joint():
    """C_eb(mean_j) <= nested <= joint at eps = eb * es."""
    batch = terms(n=40, draws=10)
    values = [
        RiskObjective(0.0, CVaR(0.2), CVaR(0.5), over="batch")(batch),
        RiskObjective(0.0, CVaR(0.2), CVaR(0.5), over="nested")(batch),
        RiskObjective(0.0, CVaR(0.1), CVaR(0.5), over="joint")(batch),
    ]
    assert values[0] < values[1] < values[2]


def test_parameters_reach_the_loss(X):
    for name, tail in (("averse", "worst"), ("seeking", "best")):
        estimator = small(RiskAwareVAE, risk=name, eps=0.2, beta=3.0, n_subsamples=4, risk_over="nested").fit(X)
        found = estimator.net_.criterion_
        assert (found.tail, found.final, found.beta, found.over) == (tail, (CVaR(0.2), CVaR(0.2)), 3.0, "nested")
        estimator.set_params(eps=0.7, eps_subsamples=0.4, beta=0.1, risk_on="elbo").partial_fit(X)
        found = estimator.net_.criterion_
        assert (found.final, found.beta, found.on, found.over) == ((CVaR(0.7), CVaR(0.4)), 0.1, "elbo", "nested")
        assert estimator.net_.n_draws == 4


def test_a_measure_without_eps_takes_the_estimators_and_its_own_wins(X):
    smooth = risk.SmoothedCVaR(smoothing=0.5)
    assert small(RiskAwareVAE, eps=0.3, measure=smooth).fit(X).net_.criterion_.final[0].eps == 0.3
    assert small(RiskAwareVAE, eps=0.3, measure=CVaR(0.1)).fit(X).net_.criterion_.final[0].eps == 0.1
    assert smooth.eps is None


@pytest.mark.parametrize("measure", MEASURES, ids=repr)
@pytest.mark.parametrize("mode", ["averse", "seeking"])
def test_every_measure_trains_either_tail_and_differs_from_the_mean(X, measure, mode):
    estimator = small(RiskAwareVAE, measure=measure, risk=mode).fit(X)
    row, sign = estimator.history_[-1], 1 if mode == "averse" else -1
    assert sign * (row["train_loss"] - row["train_kl"] - row["train_reconstruction"]) > 0
    assert not same(estimator, small(RiskAwareVAE, risk="neutral").fit(X))


def test_a_measure_of_ones_own(X):
    class Maximum(risk.Measure):
        def __call__(self, losses, *, tail="worst", dim=-1):
            return losses.amax(dim) if tail == "worst" else losses.amin(dim)

    mine = small(RiskAwareVAE, measure=Maximum()).fit(X)
    assert same(mine, small(RiskAwareVAE, eps=1e-9).fit(X))


def test_draws_are_decoded_in_one_pass(X):
    calls = []

    def decoder(n_in, n_out):
        layer = torch.nn.Linear(n_in, n_out)
        layer.register_forward_hook(lambda module, inputs, output: calls.append(len(output)))
        return layer

    small(RiskAwareVAE, decoder=decoder, n_subsamples=6, risk_over="joint", max_epochs=1, batch_size=100).fit(X)
    # Two rows in single and double precision and for the widths, losses of a batch, three batches, and all rows after.
    assert calls == [2, 2, 2, *[600] * 4, 300]


# --------------------------------------------------------------------------------------- thresholds


@pytest.mark.parametrize("over", ["batch", "nested", "joint"])
@pytest.mark.parametrize("measure", ["cvar", risk.SmoothedCVaR(smoothing=0.5)], ids=str)
def test_an_average_without_memory_is_the_batchs_own_threshold(X, over, measure):
    options = {"measure": measure, "risk_over": over, "n_subsamples": 1 if over == "batch" else 4, "eps": 0.3}
    own = small(RiskAwareVAE, **options).fit(X)
    average = small(RiskAwareVAE, threshold="ema", threshold_decay=0.0, **options).fit(X)
    np.testing.assert_allclose(average.transform(X), own.transform(X), rtol=2e-2, atol=2e-3)


@pytest.mark.parametrize("threshold", ["ema", "learned"])
@pytest.mark.parametrize("mode", ["averse", "seeking"])
def test_thresholds_follow_the_quantile_of_the_losses(X, threshold, mode):
    vae = small(RiskAwareVAE, threshold=threshold, risk=mode, eps=0.25, max_epochs=60, batch_size=150, noise_scale=0.2)
    vae.fit(X)
    module = vae.net_.criterion_.threshold
    x = torch.tensor(X, dtype=torch.float32)
    noise = torch.randn(50, len(X), 2, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        losses = vae.module_(Batch(x), noise).nll.flatten()
        share = float((losses > module(losses)).float().mean())  # frozen: the module evaluates
    assert share == pytest.approx(0.25 if mode == "averse" else 0.75, abs=0.12)


@pytest.mark.parametrize("threshold", ["ema", "learned"])
def test_a_pickled_model_with_a_threshold_goes_on_bit_for_bit(X, threshold):
    options = {"threshold": threshold, "eps": 0.2, "warm_start": True, "batch_size": 64}
    whole = small(RiskAwareVAE, max_epochs=6, **options).fit(X)
    half = pickle.loads(pickle.dumps(small(RiskAwareVAE, max_epochs=3, **options).fit(X))).fit(X)
    assert same(whole, half)
    states = [model.net_.criterion_.state_dict() for model in (whole, half)]
    assert states[0].keys() == states[1].keys() != set()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.parametrize(
    "change", [{"risk": "seeking"}, {"eps": 0.5}, {"risk_on": "elbo"}, {"measure": CVaR(0.2)}], ids=str
)
def test_a_threshold_of_other_losses_is_forgotten(X, change):
    vae = small(RiskAwareVAE, eps=0.05, threshold="ema", warm_start=True, max_epochs=4, batch_size=100).fit(X)
    assert float(vae.net_.criterion_.threshold.weight) == pytest.approx(1 - 0.9**12)
    vae.set_params(max_epochs=1, beta=3.0).fit(X)
    assert float(vae.net_.criterion_.threshold.weight) == pytest.approx(1 - 0.9**15)
    vae.set_params(**change).fit(X)
    assert float(vae.net_.criterion_.threshold.weight) == pytest.approx(1 - 0.9**3)


def test_held_out_rows_do_not_move_the_threshold(X):
    vae = small(RiskAwareVAE, threshold="ema", early_stopping=True, max_epochs=2, n_iter_no_change=9).fit(X)
    # 270 rows: two batches in each of two epochs, and one of held-out rows that does not count.
    assert float(vae.net_.criterion_.threshold.weight) == pytest.approx(1 - 0.9**4)


def test_held_out_losses_are_the_risk_itself():
    for threshold in (risk.EMAThreshold(CVaR(0.2)), risk.LearnedThreshold(CVaR(0.2))):
        loss = objective(threshold=threshold)
        loss(terms(seed=1))
        batch = terms(seed=2)
        assert float(loss(batch)) > float(objective()(batch))  # a bound, at a threshold of both batches
        assert float(loss.eval()(batch)) == float(objective()(batch))


def test_a_threshold_can_change_between_calls(X):
    vae = small(RiskAwareVAE, warm_start=True).fit(X)
    for threshold in ("ema", "learned", "batch", "ema"):
        vae.set_params(threshold=threshold).fit(X)
        assert (vae.net_.criterion_.threshold is None) == (threshold == "batch")


# ------------------------------------------------------------------------------------------ warm-up


def test_eps_falls_in_equal_steps_from_one_and_evaluation_is_at_its_value():
    loss = objective(eps_warmup=4)
    for epoch, (rows, draws) in enumerate([(1.0, 1.0), (0.8, 0.85), (0.6, 0.7), (0.4, 0.55), (0.2, 0.4), (0.2, 0.4)]):
        loss.begin_epoch(epoch)
        assert [m.eps for m in loss.current] == pytest.approx([rows, draws])
        assert loss.final == (CVaR(0.2), CVaR(0.4))
    batch = terms()
    for threshold in (None, risk.EMAThreshold(CVaR(0.2)), risk.LearnedThreshold(CVaR(0.2))):
        loss = objective(eps_warmup=4, threshold=threshold)
        loss.begin_epoch(0)
        assert float(loss(batch)) == pytest.approx(float(batch.nll.mean() + 2 * batch.kl.mean()), rel=1e-6)
        loss.begin_epoch(1)
        loss(batch)
        assert float(loss.eval()(batch)) == pytest.approx(float(objective()(batch)), rel=1e-6)


def test_an_eased_tail_moves_the_threshold_as_it_is():
    """In the second of four epochs eps is 0.8: the threshold is that of four fifths of the losses, not of a fifth."""
    loss = objective(eps_warmup=4, threshold=risk.EMAThreshold(CVaR(0.2), decay=0.0))
    loss.begin_epoch(1)
    batch = terms()
    loss(batch)
    assert float(loss.threshold.first) == float(risk.value_at_risk(batch.nll[0], 0.8))


def test_early_stopping_looks_after_the_warmup(X):
    """Without it, the first epochs (at eps near 1) would use up the patience, and eps=0.05 never be trained."""
    stopped = small(
        RiskAwareVAE, eps=0.05, eps_warmup=8, early_stopping=True, n_iter_no_change=1, tol=1e6, max_epochs=20
    )
    assert stopped.fit(X).n_iter_ == 9 + 1  # the first epoch after the warm-up is the best so far, the next no better


def test_warmup_starts_as_neutral_and_counts_the_epochs_of_earlier_calls(X):
    warm = small(RiskAwareVAE, eps=0.2, eps_warmup=2, warm_start=True, max_epochs=1).fit(X)
    neutral = small(RiskAwareVAE, risk="neutral", max_epochs=1).fit(X)
    np.testing.assert_allclose(warm.transform(X), neutral.transform(X), rtol=1e-3, atol=1e-4)
    warm.fit(X).fit(X)
    assert same(warm, small(RiskAwareVAE, eps=0.2, eps_warmup=2, max_epochs=3).fit(X))
    assert [epoch["eps"] for epoch in warm.history_] == pytest.approx([1.0, 0.6, 0.2])
    assert [m.eps for m in warm.net_.criterion_.current] == [0.2, 0.2]


# ------------------------------------------------------------------------------------------ mistakes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"risk_over": "nested"}, r"risk_over='nested' takes the risk over latent draws.*n_subsamples to 2 or more"),
        ({"risk_over": "joint"}, "n_subsamples=1 gives only one"),
        ({"risk_over": "subsamples", "n_subsamples": 4, "threshold": "ema"}, "risk_over='subsamples' has one per row"),
        ({"threshold": "ema", "measure": risk.Entropic()}, r"needs a measure with a threshold; Entropic\(\) has none"),
        ({"eps_warmup": 2, "measure": risk.Entropic()}, r"which Entropic\(\) does not use"),
        ({"eps_warmup": 2, "measure": CVaR(0.1)}, r"which CVaR\(eps=0.1\) does not use"),
        ({"eps_warmup": 3, "max_epochs": 3}, "leave none of max_epochs=3 for eps=0.5. Set max_epochs above"),
        ({"measure": "var"}, "measure must be 'cvar', or a measure of riskvae.risk.*got 'var'"),
        ({"measure": risk.SmoothedCVaR(smoothing=-1)}, "measure=.*smoothing must be a finite number of at least 0"),
        ({"measure": risk.Entropic(-1.0)}, "prefers the best losses. Use a positive theta, with risk='seeking'"),
        ({"eps_subsamples": 0.5}, r"eps_subsamples=0.5 is not used by risk_over='batch'.*Leave it None"),
        (
            {"eps_subsamples": 0.5, "risk_over": "nested", "n_subsamples": 2, "measure": CVaR(0.1)},
            r"is not used by risk_over='nested' with measure=CVaR\(eps=0.1\)",
        ),
        ({"measure": risk.Entropic("a")}, "measure=.* fails on losses.*theta must be a finite number; got 'a'"),
        ({"measure": risk.Measure()}, r"measure=Measure\(\) fails on losses .*NotImplementedError"),
        ({"measure": risk.Spectral(risk.Extremile)}, "must map a tensor of fractions.*not its class"),
        ({"measure": risk.Spectral(lambda u: u + 0.05 * torch.sin(6 * torch.pi * u))}, "spectrum must be convex"),
        ({"eps": 0.0}, r"eps must be a number in \(0, 1\]; got 0"),
        ({"eps_subsamples": 2.0}, r"eps_subsamples must be None, or a number in \(0, 1\]; got 2"),
        ({"n_subsamples": 0}, "n_subsamples must be an integer of at least 1; got 0"),
        ({"threshold_decay": 1.0}, r"threshold_decay must be a number in \[0, 1\); got 1"),
    ],
    ids=lambda value: re.sub(r" at 0x\w+", "", str(value)),  # the same in every process
)
def test_mistakes_are_found_before_training(X, options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        small(RiskAwareVAE, **options).fit(X)


def test_a_measure_must_be_an_object_of_risk(X):
    with pytest.raises(TypeError, match=r"pass risk\.CVaR\(\), not the class"):
        small(RiskAwareVAE, measure=CVaR).fit(X)
    with pytest.raises(TypeError, match="measure must be 'cvar', or a measure"):
        small(RiskAwareVAE, measure=lambda losses: losses.max()).fit(X)


def test_a_measure_of_ones_own_that_does_not_reduce(X):
    class Wrong(risk.Measure):
        def __call__(self, losses, *, tail="worst", dim=-1):
            return losses.mean()

    with pytest.raises(ValueError, match=r"must reduce one dimension.*it gave \(\)"):
        small(RiskAwareVAE, measure=Wrong()).fit(X)


# ------------------------------------------------------------------------------------- what users do


def test_grid_search_over_eps_measure_and_threshold(X):
    grid = {
        "eps": [0.2, 1.0],
        "measure": ["cvar", risk.SmoothedCVaR(smoothing=0.5)],
        "threshold": ["batch", "ema", "learned"],
    }
    search = GridSearchCV(small(RiskAwareVAE), grid, cv=2, error_score="raise").fit(X)
    assert len(search.cv_results_["params"]) == 12
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    nested = GridSearchCV(
        small(RiskAwareVAE, measure=risk.SmoothedCVaR()), {"measure__smoothing": [0.1, 10.0]}, cv=2
    ).fit(X)
    assert nested.best_estimator_.measure.smoothing in (0.1, 10.0)


def test_clone_and_repr_carry_the_measure():
    vae = RiskAwareVAE(measure=risk.Spectral(risk.Extremile(3)), threshold="batch")
    assert clone(vae).measure == vae.measure
    assert repr(vae) == "RiskAwareVAE(measure=Spectral(spectrum=Extremile(order=3)))"


@pytest.fixture(scope="module")
def mixture():
    """Four fifths of the rows on one line, the rest on another: a single latent cannot serve both."""
    rng = np.random.default_rng(0)
    t = rng.normal(size=(500, 1))
    rows = np.where(np.arange(500)[:, None] % 5 > 0, t * [1.0, 0.0, 0.0], t * [0.0, 1.5, 0.0] + [0, 0, 2.0])
    return rows + 0.05 * rng.normal(size=rows.shape)


def fits(mixture, **options):
    models = [
        small(RiskAwareVAE, n_components=1, noise_scale=0.5, hidden_layer_sizes=(), lr=1e-2, max_epochs=150,
              random_state=seed, **options).fit(mixture)
        for seed in range(3)
    ]  # fmt: skip
    return np.array([model.reconstruction_loss(mixture) for model in models])


@pytest.fixture(scope="module")
def neutral(mixture):
    return fits(mixture, risk="neutral")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"threshold": "ema"},
        {"threshold": "learned"},
        {"measure": risk.SmoothedCVaR(smoothing=0.2)},
        {"measure": risk.SmoothedCVaR(smoothing=0.2, penalty="kl")},
        {"measure": risk.Entropic(1.0)},
        {"measure": risk.Spectral(risk.Extremile(10))},
        {"risk_on": "elbo"},
        {"risk_over": "nested", "n_subsamples": 4, "eps_subsamples": 0.5},
        {"risk_over": "joint", "n_subsamples": 4},
    ],
    ids=str,
)
def test_the_averse_model_is_better_at_the_worst_and_the_neutral_at_the_mean(mixture, neutral, options):
    averse = fits(mixture, eps=0.1, **options)
    worst = [float(np.mean(np.sort(losses, axis=1)[:, -50:])) for losses in (averse, neutral)]
    assert worst[0] < worst[1]
    assert averse.mean() > neutral.mean()
    assert averse.std(axis=1).mean() < neutral.std(axis=1).mean()


# ------------------------------------------------------------------------------------- learned noise


@pytest.mark.parametrize(
    ("eps", "share", "size"),
    [(0.8, 0.01, 50.0), (0.8, 0.01, 20.0), (0.8, 0.05, 20.0), (0.8, 0.0, 1.0), (0.5, 0.0, 1.0)],
)
def test_seeking_ignores_outliers_with_its_default_noise(eps, share, size):
    """A plane in ten features with noise of .2; fitted to all rows, the noise was 4.4 and nothing was learned."""
    rng = np.random.default_rng(0)
    loadings = rng.normal(size=(2, 10))
    draw = lambda n: rng.normal(size=(n, 2)) @ loadings + 0.2 * rng.normal(size=(n, 10))  # noqa: E731
    X, test = draw(3000), draw(1000)
    bad = rng.random(3000) < share
    X[bad] += size * rng.normal(size=(bad.sum(), 10))
    options = {"hidden_layer_sizes": (64,), "max_epochs": 60, "lr": 2e-3, "random_state": 0}
    vae = RiskAwareVAE(4, risk="seeking", eps=eps, eps_warmup=5, **options).fit(X)
    residual = np.square(vae.reconstruct(test) - test).sum() / np.square(test - test.mean(0)).sum()
    assert 1 - residual > 0.95
    assert vae.noise_scale_ == pytest.approx(0.2, rel=0.2)


@pytest.mark.parametrize("options", [{}, {"on": "elbo"}, {"over": "joint"}, {"over": "nested"}, {"over": "subsamples"}])
def test_the_rows_that_count_are_those_of_the_gradient(options):
    """The nats that the noise is fitted to are weighed as the gradient of the loss weighs them."""
    given = terms(12, draws=4)
    nll = given.nll.clone().requires_grad_()
    seeking = RiskObjective(0.7, CVaR(0.3), CVaR(0.5), tail="best", **options)
    loss = seeking(given._replace(nll=nll))
    (weights,) = torch.autograd.grad(loss, nll)
    torch.testing.assert_close(seeking.counted(given), (weights * given.nll).sum())
    assert RiskObjective(0.7, CVaR(0.3), CVaR(0.5), tail="worst", **options).counted(given) is None


def test_one_absurd_row_does_not_set_the_noise_of_all():
    """Of 2,000 rows with a spread of 1, one of 1e6 left the noise at 49."""
    X = np.random.default_rng(0).normal(size=(2000, 5))
    X[7] = 1e6
    vae = small(RiskAwareVAE, risk="seeking", eps=0.9, max_epochs=20, batch_size=100).fit(X)
    assert 0.7 < vae.noise_scale_ < 1.3


@pytest.mark.filterwarnings("ignore:.*are spread")
def test_a_first_part_of_another_scale_does_not_hold_later_ones_up():
    X = np.random.default_rng(0).normal(size=(500, 3)) @ np.ones((3, 6)) + 0.1 * np.random.default_rng(1).normal(
        size=(500, 6)
    )
    vae = small(BetaVAE, beta=1.0, lr=1e-2, batch_size=32).partial_fit(1e5 * X)
    for _ in range(60):
        vae.partial_fit(X)
    assert vae.noise_scale_ < 2.0  # the floor was 245


def test_two_rows_that_are_alike_do_not_lower_the_floor_of_the_noise(X):
    vae = small(BetaVAE).fit(X)
    floor = vae.module_.likelihood.log_floor.clone()
    vae.partial_fit(X[:1].repeat(2, axis=0) + np.array([[0.0], [1e-6]]))
    assert torch.equal(vae.module_.likelihood.log_floor, floor)


def test_a_seeking_step_finds_once_which_rows_count(X, monkeypatch):
    """For their KL terms and for the noise; what is known of a batch is not kept, nor taken for another's."""
    calls, weigh = [], RiskObjective._weights
    monkeypatch.setattr(RiskObjective, "_weights", lambda self, terms: calls.append(1) or weigh(self, terms))
    vae = small(RiskAwareVAE, risk="seeking", eps=0.5, max_epochs=2, batch_size=100).fit(X)
    assert len(calls) == 2 * 3 + 1  # steps, and the trial before training
    calls.clear()
    assert vae.net_.criterion_._known is None
    assert vae.set_params(early_stopping=True).fit(X).net_.criterion_._known is None
    loss, first, second = vae.net_.criterion_.train(), terms(), terms()
    loss(first)
    assert float(loss.counted(second)) == pytest.approx(float((weigh(loss, second) * second.nll).sum()))
