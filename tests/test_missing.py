"""Rows with missing values: what is not known counts for nothing, in training and in every answer."""

import copy
from contextlib import nullcontext

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import small
from torch import nn

from riskvae import BetaTCVAE, BetaVAE, QuantileVAE, RiskAwareVAE, load, max_damage_attack, robustness_margin
from riskvae.likelihoods import Bernoulli, Gaussian, Likelihood, Quantiles
from riskvae.metrics import row_losses, tail_loss_scorer
from riskvae.nets import Posterior
from riskvae.risk import CVaR
from riskvae.robustness import verdict_margin
from riskvae.training import Batch, RiskObjective, Terms
from riskvae.training._refine import refined
from riskvae.training._vae import VAE

ALL = [BetaVAE, RiskAwareVAE, BetaTCVAE, QuantileVAE]
NAN = np.nan


@pytest.fixture(scope="module")
def holes(X):
    """The same rows, a fifth of whose values are missing."""
    rng = np.random.default_rng(1)
    rows = np.where(rng.random(X.shape) < 0.2, np.nan, X)
    rows[np.isnan(rows).all(1), 0] = 0.5
    rows.flags.writeable = False
    return rows


@pytest.fixture(scope="module", params=ALL, ids=lambda cls: cls.__name__)
def fitted(request, holes):
    more = {"calibration_fraction": 0.3} if request.param is QuantileVAE else {}
    return small(request.param, max_epochs=100, lr=3e-3, **more).fit(holes)


def raw_of(likelihood, n=5, draws=3, seed=0):
    return torch.randn(
        draws, n, likelihood.n_values, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )


@pytest.mark.parametrize(
    "likelihood",
    [Gaussian(0.5), Gaussian(0.5, sigmoid=True), Bernoulli(), Quantiles((0.1, 0.5, 0.8)), Quantiles((0.3,))],
    ids=repr,
)
def test_single_values_sum_to_the_row_and_missing_ones_count_for_nothing(likelihood):
    likelihood = likelihood.prepare(4).double()
    x = torch.rand(5, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    raw = raw_of(likelihood).requires_grad_()
    each = likelihood.each(x, raw)
    assert each.shape == (3, 5, 4)
    torch.testing.assert_close(each.sum(-1), likelihood.nll(x, raw), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(likelihood.known_nll(x, raw), likelihood.nll(x, raw), rtol=1e-12, atol=1e-12)
    missing = torch.tensor([[1, 0, 0, 0], [0, 1, 1, 0], [1, 1, 1, 1], [0, 0, 0, 0], [0, 0, 0, 1]], dtype=torch.bool)
    known = likelihood.known_nll(x.masked_fill(missing, torch.nan), raw)
    torch.testing.assert_close(known, (each * ~missing).sum(-1), rtol=1e-12, atol=1e-12)
    (slope,) = torch.autograd.grad(known.sum(), raw)
    assert slope.isfinite().all()
    by_feature = slope.view(3, 5, -1, 4) if likelihood.n_values > 4 else slope[:, :, None]
    assert (by_feature.abs().sum(2) > 0)[:, ~missing].all()
    assert (by_feature == 0).transpose(2, 3)[:, missing].all()


def test_the_bound_of_a_row_is_that_of_its_known_part(holes):
    """By a model of the known features alone: decoded values of the others do not matter."""
    vae = small(BetaVAE, noise_scale=0.3, max_epochs=5).fit(holes)
    module = copy.deepcopy(vae.module_).double()
    x = torch.tensor(holes[:8])
    noise = torch.randn(4, 8, module.n_components, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    terms = module(Batch(x), noise)
    mean = module.decode(terms.z.flatten(0, 1)).view(4, 8, -1)
    for i in range(8):
        known = ~x[i].isnan()
        density = torch.distributions.Normal(mean[:, i, known], vae.noise_scale_).log_prob(x[i, known]).sum(-1)
        torch.testing.assert_close(-terms.nll[:, i], density, rtol=1e-6, atol=1e-6)  # of a float32 scale
        assert float(terms.known[i]) == pytest.approx(float(known.double().mean()))


def test_the_encoder_hears_what_is_missing_and_not_what_stands_there(holes):
    vae = small(BetaVAE, max_epochs=2).fit(holes)
    module = vae.module_
    assert module.told == "places"
    assert module.encoder[0].in_features == 2 * holes.shape[1]
    np.testing.assert_allclose(module.fill.numpy(), np.nanmean(holes, 0), rtol=1e-5)
    # A value that is missing is not the same as one that equals the mean.
    whole = np.nanmean(holes, 0)[None].astype(np.float32)
    one = whole.copy()
    one[0, 2] = np.nan
    assert not np.allclose(vae.encode(whole).mean, vae.encode(one).mean, atol=1e-4)


def test_whole_rows_are_trained_and_answered_as_ever(X):
    vae = small(BetaVAE, max_epochs=2).fit(X)
    assert vae.module_.told is None
    assert not vae.module_.holes
    assert set(vae.module_.state_dict()) == {
        name for name in vae.module_.state_dict() if name.startswith(("encoder", "decoder", "likelihood"))
    }


def test_answers_are_finite_and_apart(fitted, holes):
    for method in ("transform", "reconstruct", "reconstruction_loss", "score_samples", "impute"):
        answer = getattr(fitted, method)(holes)
        assert np.isfinite(answer).all(), method
        alone = np.concatenate([getattr(fitted, method)(holes[i : i + 1]) for i in range(5)])
        np.testing.assert_allclose(alone, answer[:5], rtol=1e-6, atol=1e-8, err_msg=method)
        assert np.array_equal(getattr(fitted, method)(holes), answer), method
    assert fitted.score_samples(holes.astype(np.float32)).dtype == np.float32


def test_a_row_of_which_nothing_is_known_is_the_prior_s(fitted, holes):
    nothing = np.full((1, holes.shape[1]), np.nan)
    assert np.isfinite(fitted.score_samples(nothing)).all()
    filled = fitted.impute(nothing)
    assert np.isfinite(filled).all()
    assert np.abs(filled - np.nanmean(holes, 0)).max() < 0.25


@pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.__name__)
def test_a_model_of_whole_rows_answers_others(cls, X, holes):
    vae = small(cls, max_epochs=400, lr=3e-3).fit(X)
    missing = np.isnan(holes)
    filled = vae.impute(holes)
    assert np.array_equal(filled[~missing], holes[~missing])
    error, spread = (filled - X)[missing], (X - X.mean(0))[missing]
    assert np.square(error).mean() < 0.7 * np.square(spread).mean()
    detects = hasattr(vae, "detect")
    said = (
        "values are missing in .* rows of X .*features 0, 1, .* that were known in all rows of the training.*by impute"
    )
    with pytest.warns(UserWarning, match=said) if detects else nullcontext():
        assert np.isfinite(vae.score_samples(holes)).all()
    whole = vae.score_samples(X)
    assert np.array_equal(vae.score_samples(X), whole)  # other rows leave no trace


def test_missing_values_are_told_by_feature(X):
    """Features that lacked values in training are none that a model has not learned to do without."""
    train = X.copy()
    train[::10, 1] = np.nan
    vae, new = small(QuantileVAE).fit(train), X[:20].copy()
    new[3, 1] = np.nan
    vae.score_samples(new)  # warnings are errors here
    new[4, 2] = np.nan
    with pytest.warns(UserWarning, match=r"missing in 1 row of X \(features 2\)"):
        scores = vae.score_samples(new)
    vae.partial_fit(new)
    vae.score_samples(new)
    assert np.isfinite(scores).all()


def linear_table(n=2000, seed=0):
    """Rows of a linear factor model, whose conditional means and covariances are known."""
    rng = np.random.default_rng(seed)
    loadings = np.random.default_rng(0).normal(size=(2, 5))
    covariance = loadings.T @ loadings + 0.09 * np.eye(5)
    return rng.multivariate_normal(np.zeros(5), covariance, size=n), covariance


def conditional(row, covariance):
    """Mean and covariance of the missing values of a normal row given the others."""
    m = np.isnan(row)
    gain = covariance[np.ix_(m, ~m)] @ np.linalg.inv(covariance[np.ix_(~m, ~m)])
    return gain @ row[~m], covariance[np.ix_(m, m)] - gain @ covariance[np.ix_(~m, m)]


@pytest.fixture(scope="module")
def linear():
    X, covariance = linear_table()
    rows = np.where(np.random.default_rng(5).random(X.shape) < 0.3, np.nan, X)
    rows[np.isnan(rows).all(1), 0] = X[np.isnan(rows).all(1), 0]
    vae = BetaVAE(n_components=3, hidden_layer_sizes=(64,), max_epochs=150, lr=2e-3, random_state=0).fit(rows)
    return vae, X, rows, covariance


def test_imputed_values_are_near_the_best_there_are(linear):
    """Against the conditional mean under the true model, which no other answer beats on average."""
    vae, X, rows, covariance = linear
    missing = np.isnan(rows)
    best = rows.copy()
    for i in np.flatnonzero(missing.any(1)):
        best[i, missing[i]] = conditional(rows[i], covariance)[0]
    error, least, most = (np.sqrt(np.square(a - X)[missing].mean()) for a in (vae.impute(rows), best, np.zeros_like(X)))
    assert least < 0.7 * most
    assert error < 1.08 * least


def test_drawn_values_are_spread_as_the_conditional_says(linear):
    """Standard deviations of 400 draws within 20 % of the true ones, on average; their mean at the conditional mean."""
    vae, _, rows, covariance = linear
    some = rows[np.isnan(rows).sum(1) == 2][:60]
    drawn = vae.impute(some, n_draws=400, random_state=3)
    assert drawn.shape == (400, 60, 5)
    missing = np.isnan(some)
    assert np.array_equal(np.broadcast_to(some, drawn.shape)[:, ~missing], drawn[:, ~missing])
    ratios, away = [], []
    for i, row in enumerate(some):
        mean, cov = conditional(row, covariance)
        found = drawn[:, i, missing[i]]
        ratios.append(found.std(0) / np.sqrt(np.diag(cov)))
        away.append((found.mean(0) - mean) / np.sqrt(np.diag(cov)))
    assert np.median(ratios) == pytest.approx(1.0, abs=0.2)
    assert np.abs(np.median(away)) < 0.15
    assert np.array_equal(drawn, vae.impute(some, n_draws=400, random_state=3))
    assert not np.array_equal(drawn, vae.impute(some, n_draws=400, random_state=4))


def test_refined_posteriors_raise_each_row_s_bound(holes):
    vae = small(BetaVAE, max_epochs=5).fit(holes)
    module, x = copy.deepcopy(vae.module_).double().eval(), torch.tensor(holes[:40])
    draws = torch.randn(8, 1, module.n_components, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    draws = torch.cat((draws, -draws))

    def bound(posterior):
        z = posterior.mean + posterior.scale * draws
        raw = module.decoder(z.flatten(0, 1)).unflatten(0, z.shape[:2])
        kl = 0.5 * (posterior.mean.square() + posterior.scale.square() - 1) - posterior.scale.log()
        return -(module.nll(x, raw).mean(0) + kl.sum(-1)).detach()

    start = module.encode(x)
    first, better = bound(start), bound(refined(module, x, start, 20))
    assert (better > first).double().mean() > 0.95
    assert float(better.mean()) > float(first.mean())
    same = refined(module, x, start, 0)
    torch.testing.assert_close(same.mean, start.mean)


def test_the_learned_noise_is_that_of_known_values():
    """Of features without any structure it is their spread, however many values are missing: 1, within 6 %."""
    X = np.random.default_rng(0).normal(size=(1500, 4))
    holes = np.where(np.random.default_rng(5).random(X.shape) < 0.4, np.nan, X)
    holes = holes[~np.isnan(holes).all(1)]
    for table in (X, holes):
        vae = BetaVAE(beta=20.0, n_components=1, hidden_layer_sizes=(8,), max_epochs=40, random_state=0).fit(table)
        assert vae.noise_scale_ == pytest.approx(1.0, rel=0.06)


def test_a_detector_scores_incomplete_rows_as_it_does_whole_ones():
    """A missing value is as typical as can be: scores of rows keep their place whether values are missing or not."""
    X, _ = linear_table(1500)
    rows = np.where(np.random.default_rng(5).random(X.shape) < 0.25, np.nan, X)
    rows = rows[~np.isnan(rows).all(1)]
    vae = QuantileVAE(hidden_layer_sizes=(32,), calibration_fraction=0.3, random_state=0).fit(rows[:1000])
    new, _ = linear_table(3000, seed=7)
    missing = np.random.default_rng(6).random(new.shape) < 0.25
    missing[:, 0] = False
    some = np.where(missing, np.nan, new)
    whole, part = vae.score_samples(new), vae.score_samples(some)
    assert abs(np.median(part) - np.median(whole)) < 0.5 * np.subtract(*np.percentile(whole, (75, 25)))
    flagged = (vae.predict(some) == -1).mean()
    assert flagged < 0.1
    far = some.copy()
    far[:, 0] += 8.0
    assert (vae.predict(far) == -1).mean() > 0.9
    p = vae.p_values(some)
    assert np.array_equal(np.isnan(p), missing)
    assert np.isnan(vae.z_scores(some)[missing]).all()
    inside = vae.predict_interval(some, alpha=0.2)
    held = ((new >= inside[..., 0]) & (new <= inside[..., 1]))[~missing].mean()
    assert held == pytest.approx(0.8, abs=0.05)
    assert np.isfinite(vae.predict_quantiles(some)).all()
    p_rows = vae.conformal_p_values(some)
    assert p_rows.mean() == pytest.approx(0.5, abs=0.05)


def test_a_missing_value_is_as_likely_as_one_that_errs_as_usual(fitted, holes):
    """Of the density: one standard error off the median; of the shares: the mean logarithm of a uniform one, -1."""
    if not isinstance(fitted, QuantileVAE):
        pytest.skip("no density")
    score, module = copy.deepcopy(fitted._row_score), copy.deepcopy(fitted.module_)
    noise = score.noise
    noise.own = torch.zeros_like(noise.own)
    raw = torch.randn(2, 4, module.likelihood.n_values, generator=torch.Generator().manual_seed(0))
    x = torch.rand(4, 6, generator=torch.Generator().manual_seed(1)).expand(2, 4, 6).clone()
    usual = x.clone()
    usual[..., 2] = (module.likelihood.mean(raw) + noise.error_scale)[..., 2]
    x[..., 2] = torch.nan
    torch.testing.assert_close(noise.log_density(module, x, raw), noise.log_density(module, usual, raw))
    each = score.marginals.each(x[0])
    assert (each[2] == -1).all()
    assert each.isfinite().all()


def test_intervals_count_the_known_calibration_rows_of_each_feature():
    X, _ = linear_table(600)
    rows = X.copy()
    rows[: len(rows) - 3, 1] = np.where(np.arange(len(rows) - 3) % 40 == 0, X[: len(rows) - 3, 1], np.nan)
    vae = QuantileVAE(hidden_layer_sizes=(16,), max_epochs=3, random_state=0).fit(rows[:400])
    vae.conformalize(rows[400:])
    with pytest.warns(UserWarning, match="of 1 features"):
        ends = vae.predict_interval(X[:20], alpha=0.05)
    assert np.isinf(ends[:, 1]).all()
    assert np.isfinite(ends[:, [0, 2, 3, 4]]).all()


def test_a_file_and_a_pickle_keep_all_of_it(fitted, holes, tmp_path):
    fitted.save(tmp_path / "model.riskvae")
    other = load(tmp_path / "model.riskvae", device="cpu")
    for method in ("transform", "score_samples", "impute"):
        assert np.array_equal(getattr(other, method)(holes), getattr(fitted, method)(holes))
    assert np.array_equal(copy.deepcopy(fitted).impute(holes), fitted.impute(holes))


def test_training_goes_on_with_rows_that_have_holes(X, holes):
    vae = small(BetaVAE, max_epochs=2, warm_start=True).fit(X).fit(holes)
    assert vae.module_.told is None
    assert vae.module_.holes
    assert np.isfinite(vae.history_[-1]["train_loss"])
    other = small(BetaVAE).partial_fit(holes[:150]).partial_fit(X[150:])
    assert other.module_.told == "places"
    assert np.isfinite(other.score_samples(holes)).all()


def some_terms(known):
    """Three rows with the losses 4, 3 and 2 in two draws, unlike ones, and KL terms 1, 2 and 4."""
    nll = torch.tensor([[5.0, 4.0, 1.0], [3.0, 2.0, 3.0]], dtype=torch.float64)
    posterior = Posterior(torch.zeros(3, 2), torch.ones(3, 2))
    share = None if known is None else torch.tensor(known, dtype=torch.float64)
    group = torch.tensor([0, 1, 1])
    batch = Batch(torch.zeros(3, 4), group=group)
    return Terms(nll, torch.tensor([1.0, 2.0, 4.0]).double(), torch.zeros(2, 3, 2), posterior, batch, share)


# Of the rows one has all values, one half of them, and one a quarter: per row their losses are 4, 3, 2, per value 4, 6
# and 8 of as many features. Draws are 5 and 3, 8 and 4, 4 and 12; groups 4 and 2.5, or 4 and 7.
TAILS = [
    ({"over": "batch"}, "worst", 4.0, 8.0),
    ({"over": "batch", "all_pay": True}, "best", 2.0, 4.0),
    ({"over": "joint"}, "worst", 4.5, 10.0),
    ({"over": "nested"}, "worst", 5.0, 12.0),
    ({"over": "subsamples"}, "worst", (5 + 4 + 3) / 3, (5 + 8 + 12) / 3),
    ({"over": "groups"}, "worst", 4.0, 7.0),
    ({"over": "batch", "on": "elbo"}, "worst", 6.0, 12.0),
    ({"over": "batch", "on": "elbo"}, "best", 5.0, 5.0),
]


@pytest.mark.parametrize(("options", "tail", "per_row", "per_value"), TAILS, ids=str)
def test_the_tail_is_of_rows_or_of_values(options, tail, per_row, per_value):
    """The tail of a third of three rows, and of half of two draws or groups, has one loss that is known."""
    beta = 1.0 if "on" in options else 0.0
    over = options["over"]
    rows, draws = CVaR(1 / 2 if over == "groups" else 1 / 3), CVaR(1 / 2)
    found = {
        per: RiskObjective(beta, rows, draws, tail=tail, per=per, **options)(some_terms([1.0, 0.5, 0.25]))
        for per in ("row", "value")
    }
    assert float(found["row"]) == pytest.approx(per_row)
    assert float(found["value"]) == pytest.approx(per_value)
    for whole in (None, [1.0, 1.0, 1.0]):
        a, b = (RiskObjective(beta, rows, draws, tail=tail, per=p, **options)(some_terms(whole)) for p in found)
        assert torch.equal(a, b)


def test_a_seeking_risk_per_value_pays_and_fits_its_noise_by_the_rows_that_it_counts():
    """The best third is the row of all values: its KL term is 1, its nats 4. Per row it is the last: 4, and 2 / .25."""
    given = some_terms([1.0, 0.5, 0.25])
    for per, loss, noise in (("row", 2.0 + 4.0, 8.0), ("value", 4.0 + 1.0, 4.0)):
        objective = RiskObjective(1.0, CVaR(1 / 3), CVaR(1 / 3), tail="best", per=per)
        assert float(objective(given)) == pytest.approx(loss)
        assert float(objective.counted(given)) == pytest.approx(noise)


def test_on_whole_rows_risks_per_value_are_those_per_row(X, holes):
    a, b = (small(RiskAwareVAE, eps=0.3, risk_per=per).fit(X).module_.state_dict() for per in ("row", "value"))
    assert all(torch.equal(a[name], b[name]) for name in a)
    a, b = (small(RiskAwareVAE, eps=0.3, risk_per=per).fit(holes).module_.state_dict() for per in ("row", "value"))
    assert not all(torch.equal(a[name], b[name]) for name in a)
    with pytest.raises(ValueError, match="risk_per must be one of 'row', 'value'; got 'values'"):
        small(RiskAwareVAE, risk_per="values").fit(X)


class Table(torch.utils.data.Dataset):
    def __init__(self, rows):
        self.rows = np.asarray(rows, np.float32)

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i):
        return self.rows[i]


def test_datasets_may_have_holes_too(holes):
    data = Table(holes)
    a, b = (small(BetaVAE, max_epochs=3).fit(source) for source in (data, np.asarray(holes, np.float32)))
    assert a.module_.told == "places"
    np.testing.assert_allclose(a.impute(data), b.impute(holes.astype(np.float32)), atol=1e-5)
    late = Table(np.vstack((np.full((1000, 6), 0.5), holes)))
    vae = small(BetaVAE, max_epochs=1).fit(late)
    assert vae.module_.holes
    assert np.isfinite(vae.history_[-1]["train_loss"])


def test_errors_are_those_of_known_values(fitted, holes):
    rebuilt = fitted.reconstruct(holes)
    np.testing.assert_allclose(row_losses(fitted, holes), np.nanmean(np.square(holes - rebuilt), 1), rtol=1e-9)
    assert np.isfinite(tail_loss_scorer(0.1)(fitted, holes))


@pytest.mark.parametrize("cls", [BetaVAE, QuantileVAE])
def test_models_with_holes_and_of_datasets_are_exported(cls, X, holes, tmp_path):
    session = pytest.importorskip("onnxruntime").InferenceSession
    for rows, source in ((holes, holes), (X, Table(X))):
        vae = small(cls, max_epochs=3).fit(source)
        vae.export_onnx(tmp_path / "score.onnx", what="score_samples")
        (found,) = session(tmp_path / "score.onnx").run(None, {"X": rows.astype(np.float32)})
        np.testing.assert_allclose(found, vae.score_samples(rows.astype(np.float32)), rtol=1e-4, atol=1e-4)


def test_an_encoder_of_the_user_s_has_as_many_inputs_as_features(holes):
    def encoder(n_in, n_out):
        assert n_in == 6
        return nn.Linear(n_in, n_out)

    vae = small(BetaVAE, encoder=encoder, max_epochs=3).fit(holes)
    assert vae.module_.told == "values"
    assert np.isfinite(vae.score_samples(holes)).all()


class NoValues(Likelihood):
    def mean(self, raw):
        return raw

    def nll(self, x, raw):
        return (x - raw).square().sum(-1)


class OfValues(NoValues):
    nll = Likelihood.nll

    def each(self, x, raw):
        return (x - raw).square()


def test_a_likelihood_of_the_user_s_says_what_single_values_cost(holes):
    with pytest.raises(ValueError, match=r"only nll\(x, raw\) is defined.*Define each\(x, raw\)"):
        small(BetaVAE, likelihood=NoValues()).fit(holes)
    assert np.isfinite(small(BetaVAE, likelihood=OfValues()).fit(holes).score_samples(holes)).all()


def test_a_dataset_of_whole_rows_asks_a_likelihood_for_no_more_than_an_array_does(X):
    vae = small(BetaVAE, likelihood=NoValues()).fit(Table(X))
    assert np.isfinite(vae.score_samples(X)).all()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([[1.0, NAN], [NAN, NAN], [2.0, 3.0]], r"1 rows in which all values are missing, such as row 1.*dropna"),
        ([[1.0, NAN], [2.0, NAN], [3.0, NAN]], r"nothing but missing values in column 1\. Leave such columns"),
        ([[1.0, NAN], [2.0, np.inf], [3.0, 1.0]], "infinity"),
        ([[1.0, NAN], [2.0, 1e39], [3.0, 1.0]], r"too large for float32.*row 1, column 1"),
    ],
)
def test_what_cannot_be_learned_from_is_named(rows, message):
    with pytest.raises(ValueError, match=message):
        BetaVAE().fit(rows)


def test_columns_of_tables_are_named():
    table = pd.DataFrame({"age": [1.0, 2.0, 3.0], "height": [None, None, None]}, dtype="Float64")
    with pytest.raises(ValueError, match=r"nothing but missing values in column 'height'"):
        BetaVAE().fit(table)
    table = pd.DataFrame({"age": [1.0, None, 3.0, 4.0], "height": [1, 2, pd.NA, 4]}).astype({"height": "Int64"})
    assert small(BetaVAE).fit(table).impute(table).shape == (4, 2)


def test_margins_and_attacks_are_said_of_whole_rows(X, holes):
    vae = small(BetaVAE, max_epochs=10).fit(holes)
    with pytest.raises(ValueError, match=r"missing values \(NaN\) in \d+ of 20 rows.*impute"):
        robustness_margin(vae, holes[:20])
    with pytest.raises(ValueError, match="missing values"):
        max_damage_attack(vae, holes[:20], max_norm=0.1)
    margin = robustness_margin(vae, X[:4], r=1.0, n_draws=1000, random_state=0)
    assert (margin.lower <= margin.upper).all()
    assert np.isfinite(margin.proven).all()
    detector = small(QuantileVAE, max_epochs=10).fit(holes)
    with pytest.raises(ValueError, match="missing values"):
        verdict_margin(detector, holes[:5])
    assert (verdict_margin(detector, X[:4], random_state=0).upper >= 0).all()


@pytest.mark.parametrize("cls", [BetaVAE, QuantileVAE])
def test_a_model_of_whole_rows_alone_answers_the_same(cls, X, holes):
    module = copy.deepcopy(small(cls, max_epochs=3).fit(holes).module_).double().eval()
    whole, x = module.of_whole_rows(), torch.tensor(X[:10])
    assert isinstance(whole, VAE)
    assert not whole.holes
    torch.testing.assert_close(whole.encode(x).mean, module.encode(x).mean, rtol=1e-9, atol=1e-9)
