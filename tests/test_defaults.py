"""What users get who set nothing: how long it trains, what it comes to, and what is said where that is little."""

import copy
import math
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import small
from sklearn import datasets as sets
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.preprocessing import StandardScaler

import riskvae
from riskvae import BetaTCVAE, BetaVAE, QuantileVAE, RiskAwareVAE
from riskvae.estimators._diagnosis import Diagnosis, _of_collapse, _still_falling
from riskvae.estimators._extremes import ends_of, extremes_of
from riskvae.training import Batch, Objective, Terms, TotalCorrelationELBO, WeightedELBO
from riskvae.training._rows import Rows

ALL = [BetaVAE, BetaTCVAE, RiskAwareVAE, QuantileVAE]
TABLES = {name: getattr(sets, f"load_{name}") for name in ("iris", "wine", "diabetes", "breast_cancer", "digits")}


def standardized(name):
    return StandardScaler().fit_transform(TABLES[name]().data)


def explained(rows, reconstructed):
    return 1 - np.square(rows - reconstructed).sum() / np.square(rows - rows.mean(0)).sum()


# ------------------------------------------------------------------------------------- how long


@pytest.mark.parametrize("cls", ALL)
def test_small_tables_get_more_epochs(cls, X):
    """2,000 steps, within 30 epochs (of a detector, one) and 200."""
    vae = cls(hidden_layer_sizes=(4,), batch_size=100)
    least = (30, 1) if cls is QuantileVAE else (30, 30)
    expected = [200, math.ceil(2000 / 39), *least, 30]
    assert [vae._n_epochs(n) for n in (300, 3_900, 6_700, 10_000_000, None)] == expected
    assert vae.set_params(batch_size=1000).fit(X).n_iter_ == 200
    assert vae.set_params(max_epochs=3).fit(X).n_iter_ == 3


# -------------------------------------------------------------------------------- what it comes to


@pytest.mark.parametrize(
    ("cls", "bar"),
    [(BetaVAE, 0.6), (BetaTCVAE, 0.6), (RiskAwareVAE, 0.8)],
    ids=lambda value: getattr(value, "__name__", ""),
)
@pytest.mark.parametrize("name", ["wine", "diabetes"])
def test_variance_explained_relative_to_principal_components(cls, bar, name):
    """Measured: .90 to 1.00 of what as many principal components explain, BetaTCVAE .76 and .79."""
    rows = standardized(name)
    pca = PCA(10).fit(rows)
    best = explained(rows, pca.inverse_transform(pca.transform(rows)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        vae = cls(random_state=0).fit(rows)
    assert explained(rows, vae.reconstruct(rows)) >= bar * best


@pytest.mark.parametrize("cls", [BetaVAE, RiskAwareVAE])
def test_digits_beat_their_principal_components(cls):
    """Measured: 1.6 times what ten principal components explain; with a small network, too."""
    rows = standardized("digits")
    pca = PCA(10).fit(rows)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        vae = cls(hidden_layer_sizes=(64,), random_state=0).fit(rows)
    assert explained(rows, vae.reconstruct(rows)) > explained(rows, pca.inverse_transform(pca.transform(rows)))


# ------------------------------------------------------------------------------------------- warnings


@pytest.mark.parametrize("cls", ALL)
@pytest.mark.parametrize("name", ["iris", "breast_cancer"])
def test_no_false_alarm_on_standardized_tables(cls, name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cls(random_state=0).fit(standardized(name))


@pytest.mark.parametrize("risk", ["averse", "seeking"])
def test_no_false_alarm_on_rows_that_are_not_counted(risk):
    """One row in twenty is far away: a seeking model gives it up, and reconstructs the others."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(1000, 2)) @ rng.normal(size=(2, 8)) + 0.1 * rng.normal(size=(1000, 8))
    rows[::20] = 30 * rng.normal(size=(50, 8))
    vae = RiskAwareVAE(2, eps=0.8, risk=risk, hidden_layer_sizes=(64,), random_state=0)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        vae.fit(rows)
    if risk == "seeking":
        assert not told
        left_out = Diagnosis.of(vae.module_, torch.tensor(rows, dtype=torch.float32))
        assert left_out.worse.all() or left_out.explained < 0.2  # without the share, there would be an alarm


def test_no_false_alarm_at_the_border_of_images():
    """Pixels that are hardly ever inked are often reconstructed worse than by their mean, and nobody minds."""
    rows = sets.load_digits().data / 16
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        vae = RiskAwareVAE(hidden_layer_sizes=(64,), max_epochs=30, random_state=0).fit(rows)
    found = Diagnosis.of(vae.module_, torch.tensor(rows, dtype=torch.float32))
    assert not found.worse.any()
    assert 40 < found.varying.sum() < 50  # of 64, of which 61 are not constant


@pytest.mark.parametrize("cls", ALL)
def test_collapse_is_told_with_the_remedy(cls):
    rows = standardized("wine")
    vae = cls(10, hidden_layer_sizes=(32,), beta=50.0, random_state=0, lr=1e-2)
    if cls is BetaTCVAE:  # which never weighs the whole KL term
        vae.make_objective = lambda: WeightedELBO(50.0)
    with pytest.warns(
        ConvergenceWarning, match=r"0 of 10 latent coordinates are active.*explain 0% .*Lower beta, now 50, train"
    ):
        vae.fit(rows)


def test_the_count_of_active_coordinates_is_that_of_posterior_means_that_vary():
    """Two coordinates of ten that copy a feature each, with the variances .04 and .0049."""
    rows = torch.randn(2000, 3, generator=torch.Generator().manual_seed(0))
    rows = (rows - rows.mean(0)) / rows.std(0, correction=0)
    vae = BetaVAE(hidden_layer_sizes=(), max_epochs=1, random_state=0).fit(rows.numpy()).module_
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter.zero_()
        vae.encoder[0].weight[0, 0], vae.encoder[0].weight[1, 1] = 0.2, 0.07
        vae.decoder[0].weight[0, 0], vae.decoder[0].weight[1, 2] = 5.0, 5.0
    found = Diagnosis.of(vae, rows)
    assert found.active == 1
    # Feature 0 is reconstructed, 1 is a scaled copy of 2, 2 is its mean.
    assert found.worse.tolist() == [False, False, False]
    vae.decoder[0].weight.data[1, 0] = 5.0
    assert Diagnosis.of(vae, rows).worse.tolist() == [False, True, False]
    mse = torch.stack([torch.zeros(()), (5 * 0.2 * rows[:, 0] - rows[:, 1]).square().mean(), torch.ones(())])
    assert Diagnosis.of(vae, rows).explained == pytest.approx(1 - float(mse.mean()), abs=1e-5)


@pytest.mark.parametrize("name", ["wine", "breast_cancer"])
@pytest.mark.parametrize("cls", [BetaVAE, RiskAwareVAE])
def test_columns_of_different_units_are_told(cls, name):
    with pytest.warns(ConvergenceWarning, match=r"of \d+ features are reconstructed worse than.*scale X first"):
        cls(random_state=0).fit(TABLES[name]().data)


def test_features_in_small_units_that_a_detector_leaves_out_are_told():
    """Of wine, as it is: 100 % of the variance is explained, which is that of one column."""
    with pytest.warns(
        ConvergenceWarning, match=r"explain 100% of the variance of X, but of .* a feature only \d+% .*scale X first"
    ):
        QuantileVAE(hidden_layer_sizes=(64,), random_state=0).fit(TABLES["wine"]().data)


def near_a_plane(extreme, n=500):
    """Rows of unit variance near a plane; one value far away."""
    rng = np.random.default_rng(0)
    rows = StandardScaler().fit_transform(
        rng.normal(size=(n, 3)) @ rng.normal(size=(3, 8)) + rng.normal(size=(n, 8)) / 5
    )
    rows[0, 5] = extreme
    return rows


@pytest.mark.parametrize("cls", [BetaVAE, RiskAwareVAE, QuantileVAE])
def test_one_broken_value_sets_off_no_false_alarm(cls):
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        vae = cls(hidden_layer_sizes=(64,), lr=3e-3, random_state=0).fit(near_a_plane(30.0))
    assert not told
    rest = near_a_plane(30.0)[1:]
    assert explained(rest, vae.reconstruct(rest)) > 0.8


@pytest.mark.parametrize("cls", [BetaVAE, RiskAwareVAE, QuantileVAE])
def test_a_value_beside_which_others_do_not_count_is_told(cls):
    """Standardized, the other values of that column lie within .002 of each other."""
    rows = StandardScaler().fit_transform(near_a_plane(1e4))
    vae = cls(hidden_layer_sizes=(64,), max_epochs=40, lr=3e-3, random_state=0)
    with pytest.warns(ConvergenceWarning, match=r"feature 5 hardly counts .*: it has a value of 22.3, .*clip them"):
        vae.fit(rows)
    names = [f"column {i}" for i in range(8)]
    with pytest.warns(ConvergenceWarning, match="feature 'column 5' hardly counts"):
        vae.fit(pd.DataFrame(rows, columns=names))


def test_a_training_that_ended_early_is_told_to_go_on(X):
    """Reconstructions became better to the end: more epochs come before a smaller beta."""
    vae = small(BetaVAE).fit(X)

    def told(errors):
        vae.net_.history = type(vae.net_.history)({"train_reconstruction": e, "train_batch_count": 50} for e in errors)
        return _still_falling(vae)

    assert told(np.linspace(100, 50, 20))
    assert not told(100 * 0.5 ** np.arange(20.0))
    assert not told([*np.linspace(100, 50, 10), *[50.0] * 10])
    assert not told([50.0] * 20)
    assert told([100.0, 75.0, 50.0])


def sparse_tables():
    rng = np.random.default_rng(0)
    yield (rng.random((500, 10)) < 0.1) * 100.0
    yield np.eye(150)[rng.integers(0, 150, 2000)]
    yield np.column_stack([np.eye(20)[rng.integers(0, 20, 300)], np.full(300, 50.0)])


@pytest.mark.parametrize("cls", ALL)
def test_features_that_are_mostly_one_value_are_judged_without_an_error(cls):
    """No middle half of values varies: of one-hot columns, of sparse ones."""
    for rows in sparse_tables():
        assert small(cls, max_epochs=2).fit(rows).n_iter_ == 2


def test_a_broken_value_is_found_among_many_rows():
    """The verdict looks at 2,000 rows of 6,000; the one that squeezes its column is not among them."""
    rng = np.random.default_rng(0)
    rows = near_a_plane(0.0, 6000)
    rows[rng.integers(6000), 3] = 1e5
    rows = StandardScaler().fit_transform(rows)
    with pytest.warns(ConvergenceWarning, match=r"feature 3 hardly counts .*: it has a value of 77.5, "):
        BetaVAE(hidden_layer_sizes=(32,), max_epochs=10, lr=3e-3, random_state=0).fit(rows)


@pytest.mark.parametrize("cls", [BetaVAE, QuantileVAE])
def test_a_number_that_stands_for_missing_ones_is_told(cls):
    """-9999 in 3 % of the rows: the scaler squeezes all others."""
    rows = near_a_plane(0.0, 1000)
    rows[:30, 2] = -9999.0
    with pytest.warns(ConvergenceWarning, match=r"feature 2 hardly counts .*make them missing"):
        cls(hidden_layer_sizes=(32,), max_epochs=10, lr=3e-3, random_state=0).fit(StandardScaler().fit_transform(rows))


def test_a_column_without_values_in_the_sample_is_no_matter():
    rows = near_a_plane(0.0, 4000)
    gaps = np.full((4000, 1), np.nan)
    gaps[:3, 0] = 0.0, 1.0, 2.0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        BetaVAE(3, hidden_layer_sizes=(32,), max_epochs=15, lr=1e-2, random_state=0).fit(np.hstack([rows, gaps]))


def test_values_that_belong_to_their_feature_are_not_extreme():
    """Ink on a noisy background, zero-inflated and half missing columns: far from the middle half, and many."""
    rng = np.random.default_rng(0)
    normal = rng.normal(size=(1000, 1))
    ink = np.where(rng.random((1000, 1)) < 0.13, 0.5, 0.0) + 1e-3 * normal
    inflated = np.where(rng.random((1000, 1)) < 0.74, 0.0, rng.exponential(size=(1000, 1)))
    half_missing = np.where(np.arange(1000)[:, None] % 2, normal, np.nan)
    broken = np.where(np.arange(1000)[:, None] == 500, 1e4, normal)
    x = torch.tensor(np.hstack([normal, ink, inflated, half_missing, broken, np.exp(3 * normal)]))
    found = extremes_of(x)
    assert found.squeezed.tolist() == [False, False, False, False, True, False]
    assert found.furthest[4] == 1e4
    sentinel = torch.where(torch.arange(1000) % 30 == 0, -9999.0, x[:, 0])[:, None]
    assert extremes_of(torch.cat([x, sentinel], 1)).squeezed.tolist() == [*found.squeezed.tolist(), True]
    part = extremes_of(x[:400], ends_of(Rows(Batch(x), torch.device("cpu"))))
    assert part.squeezed.tolist() == found.squeezed.tolist()


def test_constant_rows_are_no_failure():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        small(BetaVAE).fit(np.ones((50, 3)))


def test_a_part_of_the_data_is_not_judged(X):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        small(BetaVAE).partial_fit(X)


# -------------------------------------------------------------------------------------- beta_warmup


def terms(n=50):
    g = torch.Generator().manual_seed(0)
    mean, scale = torch.randn(n, 2, generator=g), torch.rand(n, 2, generator=g) + 0.1
    z = mean + scale * torch.randn(1, n, 2, generator=g)
    kl = riskvae.losses.kl_divergence(mean, scale)
    batch = riskvae.training.Batch(torch.randn(n, 3, generator=g))
    return Terms(torch.rand(1, n, generator=g), kl, z, riskvae.nets.Posterior(mean, scale), batch)


@pytest.mark.parametrize("cls", [WeightedELBO, TotalCorrelationELBO])
def test_the_kl_term_rises_in_equal_steps_and_evaluation_is_at_its_value(cls):
    batch, loss, final = terms(), cls(3.0, beta_warmup=4), cls(3.0)
    nll, whole = float(batch.nll.mean()), float(final(batch))
    for epoch, share in enumerate([0.0, 0.25, 0.5, 0.75, 1.0, 1.0]):
        assert loss.begin_epoch(epoch) == {"beta": pytest.approx(3.0 * share)}
        assert float(loss(batch)) == pytest.approx(nll + share * (whole - nll), rel=1e-6)
        assert float(loss.eval()(batch)) == pytest.approx(whole, rel=1e-6)
        loss.train()
    assert loss.warmup == 4
    assert final.begin_epoch(3) == {}


def test_the_warmup_of_a_risk_weighs_what_its_kl_term_is():
    batch = terms()
    for options in ({}, {"tail": "best"}, {"on": "elbo"}):
        eased = riskvae.training.RiskObjective(
            2.0, riskvae.risk.CVaR(0.2), riskvae.risk.CVaR(0.2), **options, beta_warmup=2
        )
        half = riskvae.training.RiskObjective(1.0, riskvae.risk.CVaR(0.2), riskvae.risk.CVaR(0.2), **options)
        eased.begin_epoch(1)
        assert float(eased(batch)) == pytest.approx(float(half(batch)), rel=1e-6)


@pytest.mark.parametrize("cls", ALL)
def test_a_warmup_is_resumed_and_seen_in_the_history(cls, X):
    options = {"beta": 2.0, "beta_warmup": 2, "hidden_layer_sizes": (8,), "random_state": 0}
    once = cls(2, max_epochs=3, **options).fit(X)
    thrice = cls(2, max_epochs=1, warm_start=True, **options).fit(X).fit(X).fit(X)
    assert [row["beta"] for row in once.history_] == [row["beta"] for row in thrice.history_] == [0.0, 1.0, 2.0]
    for a, b in zip(once.module_.parameters(), thrice.module_.parameters(), strict=True):
        assert torch.equal(a, b)
    at_zero = once.history_[0]
    if cls is not RiskAwareVAE:  # whose first number is a risk
        assert at_zero["train_loss"] == pytest.approx(at_zero["train_reconstruction"], rel=1e-5)


def test_early_stopping_looks_after_the_warmup_of_beta(X):
    stopped = small(BetaVAE, beta_warmup=8, early_stopping=True, n_iter_no_change=1, tol=1e6, max_epochs=20)
    assert stopped.fit(X).n_iter_ == 9 + 1


@pytest.mark.parametrize("cls", ALL)
def test_a_warmup_must_end(cls, X):
    with pytest.raises(ValueError, match=f"{cls.__name__}: beta_warmup=3 epochs leave none of max_epochs=3 for beta="):
        small(cls, beta_warmup=3).fit(X)
    with pytest.raises(ValueError, match="beta_warmup must be an integer of at least 0; got -1"):
        small(cls, beta_warmup=-1).fit(X)


def test_an_objective_without_a_warmup_is_told_apart(X):
    class Mine(Objective):
        def forward(self, terms):
            return terms.nll.mean() + terms.kl.mean()

    class MineVAE(BetaVAE):
        def make_objective(self):
            return Mine()

    with pytest.raises(ValueError, match="MineVAE: beta_warmup=2 is not used by the objective Mine. Return "):
        MineVAE(beta_warmup=2).fit(X)


def test_no_alarm_where_no_code_could_do_better():
    """One weak factor in a hundred features: one principal component explains .083, and so does the model."""
    rng = np.random.default_rng(0)
    rows = 0.28 * rng.normal(size=(2000, 1)) + rng.normal(size=(2000, 100))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        BetaVAE(1, hidden_layer_sizes=(64,), max_epochs=60, random_state=0).fit(rows)


def test_a_verdict_takes_little_memory_whatever_the_width(X, monkeypatch):
    taken = []
    real = Diagnosis.of
    monkeypatch.setattr(
        Diagnosis, "of", lambda module, x, *rest: taken.append(tuple(x.shape)) or real(module, x, *rest)
    )
    small(BetaVAE, max_epochs=1).fit(np.random.default_rng(0).normal(size=(600, 20_000)))
    assert taken == [(104, 20_000)]


@pytest.mark.parametrize("cls", [BetaVAE, RiskAwareVAE])
def test_a_code_of_one_coordinate_where_three_are_needed_is_told(cls):
    """The swiss roll: three principal components explain all of it, this code a fifth."""
    rows = StandardScaler().fit_transform(sets.make_swiss_roll(1000, random_state=0)[0])
    with pytest.warns(ConvergenceWarning, match="posterior collapse: 1 of 3 latent coordinates are active"):
        cls(n_components=3, random_state=0, **({"eps": 0.3} if cls is RiskAwareVAE else {})).fit(rows)


@pytest.mark.parametrize("cls", ALL)
@pytest.mark.parametrize("factor", [1e5, 1e-5])
def test_parts_in_other_units_are_told(cls, factor, X):
    vae = small(cls).partial_fit(X * factor)
    vae.partial_fit(X * factor * 5)
    with pytest.warns(UserWarning, match="are spread .* times as widely as those of the first fit"):
        vae.partial_fit(X)


def test_calibration_rows_that_were_chosen_by_their_scores_are_told():
    rng = np.random.default_rng(0)
    rows = np.tanh(rng.normal(size=(1800, 2)) @ rng.normal(size=(2, 5))) + 0.1 * rng.normal(size=(1800, 5))
    vae = QuantileVAE(hidden_layer_sizes=(32,), max_epochs=60, lr=3e-3, random_state=0).fit(rows[:1000])
    held_out = rows[1000:]
    good = vae.predict(held_out) == 1
    assert 0.02 < 1 - good.mean() < 0.08
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        copy.deepcopy(vae).conformalize(held_out)
    with pytest.warns(
        UserWarning, match=r"0 of \d+ rows score below the threshold of predict, where some \d+ .*fdr says"
    ):
        vae.conformalize(held_out[good])


def test_calibration_rows_that_are_no_rows_are_told(X):
    vae = small(QuantileVAE).fit(X)
    held_out = X[:200] + 1e-3
    vae.conformalize(held_out)
    held_out[:4, 1] = 9.97e36
    vae.conformalize(held_out)  # fewer than are flagged anyway
    held_out[:12, 1] = 9.97e36
    with pytest.warns(UserWarning, match="12 of 200 calibration rows score so low that they look like anomalies"):
        vae.conformalize(held_out)
    assert (vae.predict(held_out[:12]) == -1).all()
    held_out[:45, 1] = 9.97e36
    with pytest.warns(
        UserWarning, match="45 of 200 rows score as low as .*hardly anything will be flagged. Leave such rows"
    ):
        vae.conformalize(held_out)


def test_spare_coordinates_are_no_collapse(X):
    """Of as many coordinates as there are features, the KL term leaves those that help: fewer than half may be used."""
    rows = torch.randn(200, 8, generator=torch.Generator().manual_seed(0))
    yes, no = torch.ones(8) > 0, torch.zeros(8) > 0
    found = Diagnosis(2, 8, 0.3, yes, no, torch.zeros(8), torch.ones(8), torch.full((8,), 0.3), extremes_of(rows), rows)
    vae = small(QuantileVAE, n_components=8).fit(X)
    assert "2 of 8 latent coordinates are active" in _of_collapse(vae, found)
    assert not _of_collapse(vae.set_params(n_components="auto"), found)
    assert _of_collapse(vae, found._replace(explained=0.05))
