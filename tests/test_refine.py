"""Posteriors that fit each row: never worse, exact where they can be, alone or in company, in every method."""

import pickle

import numpy as np
import pytest
import torch
from helpers import small
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from skorch.callbacks import Callback
from torch import nn

import riskvae
from riskvae import BetaVAE, QuantileVAE, RiskAwareVAE, max_damage_attack, robustness_margin
from riskvae.likelihoods import Gaussian
from riskvae.losses import kl_divergence
from riskvae.nets import Posterior
from riskvae.robustness import verdict_margin, wrap
from riskvae.training._refine import MOST_AT_ONCE, _pairs, refined
from riskvae.training._vae import build_vae

K, D = 3, 8


def linear_model():
    """x = W z + b + noise of .5: its best posterior of independent coordinates is known. The encoder knows nothing."""
    torch.manual_seed(0)
    decoder = nn.Linear(K, D)

    def encoder(n_in, n_out):
        layer = nn.Linear(n_in, n_out)
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
        return layer

    vae = build_vae(
        D,
        K,
        encoder=encoder,
        decoder=lambda n_in, n_out: decoder,
        likelihood=Gaussian(noise_scale=0.5),
        scale_offset=0.0,
    )
    return vae.double().eval().requires_grad_(False), vae.decoder


def test_of_a_linear_model_it_is_the_exact_posterior():
    """Its mean is (I + W'W / s^2)^-1 W'(x - b) / s^2, and its scales are the diagonal of what is inverted, to -1/2."""
    vae, decoder = linear_model()
    W, b = decoder.weight.detach(), decoder.bias.detach()
    x = torch.randn(20, D, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    precision = torch.eye(K) + W.T @ W / 0.25
    mean = torch.linalg.solve(precision, (x - b) @ W / 0.25, left=False)
    found = refined(vae, x, vae.encode(x), 200)
    assert (found.mean - mean).norm() < 0.03 * mean.norm()
    torch.testing.assert_close(found.scale, precision.diagonal().rsqrt().expand(20, K), atol=0.05, rtol=0)
    ten = refined(vae, x, vae.encode(x), 10)
    assert (ten.mean - mean).norm() < 0.1 * mean.norm()


@pytest.fixture(scope="module", params=[BetaVAE, RiskAwareVAE, QuantileVAE])
def model(request, X):
    return small(request.param, max_epochs=40, lr=5e-3).fit(X)


@pytest.mark.parametrize("steps", [1, 2, 10, 50])
def test_no_row_s_bound_falls(X, steps):
    vae = small(BetaVAE, max_epochs=20, lr=5e-3).fit(X).module_.double().eval()
    x, draws = torch.tensor(X), _pairs(2).double()[:MOST_AT_ONCE]

    def bound(posterior):
        z = posterior.mean + posterior.scale * draws
        return -(vae.nll_at(x, z).mean(0) + kl_divergence(*posterior)).detach()

    first, better = bound(vae.encode(x)), bound(refined(vae, x, vae.encode(x), steps))
    assert (better >= first).all()
    assert (better > first).double().mean() > {1: 0.5, 2: 0.6}.get(steps, 0.9)


def test_where_a_step_would_spoil_a_row_it_stays():
    """A decoder of steep waves: what a gradient says is wrong a little further on."""

    class Waves(nn.Module):
        def forward(self, z):
            return torch.sin(40.0 * z).repeat(1, D // 2)

    vae = build_vae(
        D, 2, encoder=lambda a, b: nn.Linear(a, b), decoder=lambda a, b: Waves(), likelihood=Gaussian(noise_scale=0.1),
        scale_offset=0.0,
    ).double().eval()  # fmt: skip
    x = torch.rand(50, D, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    start = Posterior(*(part.detach() for part in vae.encode(x)))
    found = refined(vae, x, start, 5)
    same = (found.mean == start.mean).all(1)
    assert 0 < same.sum() < 50
    assert torch.equal(found.scale[same], start.scale[same])


METHODS = ("transform", "reconstruct", "reconstruction_loss", "score_samples")


@pytest.mark.parametrize("method", METHODS)
def test_parameter_and_argument_are_one(X, model, method):
    rows = X[:40]
    plain, given = getattr(model, method)(rows), getattr(model, method)(rows, refine=6)
    assert not np.allclose(plain, given)
    np.testing.assert_array_equal(getattr(model, method)(rows, refine=0), plain)
    if not isinstance(model, QuantileVAE):  # which is fitted to refined posteriors
        model.set_params(refine=6)
        np.testing.assert_array_equal(getattr(model, method)(rows), given)
        np.testing.assert_array_equal(getattr(model, method)(rows, refine=0), plain)
        model.set_params(refine=0)
    np.testing.assert_array_equal(getattr(model, method)(rows, refine=6), given)


@pytest.mark.parametrize("method", METHODS)
def test_rows_are_apart(X, model, method):
    """In any company and dtype, within what single precision tells."""
    answer = getattr(model, method)
    whole = answer(X[:60], refine=5)
    for rows in (X[:1], X[7:20]):
        places = slice(0, 1) if len(rows) == 1 else slice(7, 20)
        np.testing.assert_allclose(answer(rows, refine=5), whole[places], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(answer(X[:60].astype(np.float32), refine=5), whole, rtol=2e-3, atol=2e-3)


def test_scores_and_losses_improve(X):
    vae = small(BetaVAE, max_epochs=20, lr=5e-3).fit(X)
    scores = [vae.score_samples(X, refine=n).mean() for n in (0, 1, 3, 20)]
    assert np.all(np.diff(scores) > 0)
    errors = [np.square(vae.reconstruct(X, refine=n) - X).mean() for n in (0, 10)]
    assert errors[1] < errors[0]
    code = vae.encode(X, refine=10)
    np.testing.assert_array_equal(vae.transform(X, refine=10), code.mean)


def test_impute_takes_more_or_no_steps(X):
    holes = np.where(np.random.default_rng(0).random(X.shape) < 0.2, np.nan, X)
    vae = small(BetaVAE, max_epochs=20).fit(X)  # without a normal distribution beside it
    usual = vae.impute(holes)
    np.testing.assert_array_equal(vae.impute(holes, refine=10), usual)
    assert not np.allclose(vae.impute(holes, refine=0), usual)
    np.testing.assert_array_equal(vae.set_params(refine=30).impute(holes), vae.impute(holes, refine=30))
    assert not np.allclose(vae.impute(holes), usual)
    assert vae.impute(holes, n_draws=2, refine=3, random_state=0).shape == (2, *X.shape)


def test_in_a_pipeline(X):
    pipe = make_pipeline(StandardScaler(), small(BetaVAE, refine=4)).fit(X)
    Z = StandardScaler().fit_transform(X)
    np.testing.assert_array_equal(pipe.transform(X), pipe[-1].transform(Z, refine=4))
    assert not np.allclose(pipe.transform(X), pipe[-1].transform(Z, refine=0))


def test_training_knows_nothing_of_it(X):
    options = {"early_stopping": True, "max_epochs": 6}
    plain, other = (small(BetaVAE, refine=n, **options).fit(X) for n in (0, 8))
    for a, b in zip(plain.history_, other.history_, strict=True):
        assert {k: v for k, v in a.items() if k != "dur"} == {k: v for k, v in b.items() if k != "dur"}
    np.testing.assert_array_equal(other.transform(X, refine=0), plain.transform(X))
    other.partial_fit(X)
    plain.partial_fit(X)
    np.testing.assert_array_equal(other.transform(X, refine=0), plain.transform(X))


def test_validation_knows_nothing_of_it_when_a_training_goes_on(X):
    options = {"early_stopping": True, "max_epochs": 4, "warm_start": True}
    plain, other = (small(BetaVAE, refine=n, **options).fit(X).fit(X) for n in (0, 8))
    told = [[row["valid_loss"] for row in vae.history_] for vae in (plain, other)]
    assert len(told[0]) == 8
    assert told[0] == told[1]


def test_no_networks_are_followed_where_posteriors_are_refined(X):
    vae = small(QuantileVAE, max_epochs=40, lr=5e-3).fit(X)
    assert len(vae._line_on_tensors(torch.float64).networks) == 2
    refined_too = small(QuantileVAE, refine=2, max_epochs=40, lr=5e-3).fit(X)
    assert not refined_too._line_on_tensors(torch.float64).networks
    found = verdict_margin(refined_too, X[:3], n_steps=5, random_state=0)
    assert "of refined posteriors" in repr(found)
    assert (found.proven[np.isfinite(found.proven)] <= found.upper[np.isfinite(found.proven)]).all()


def test_a_detector_is_judged_as_it_answers(X, tmp_path):
    """Scores, line and p-values are of refined posteriors, also when it is saved, and whatever is set afterwards."""
    vae = small(QuantileVAE, refine=5, max_epochs=40, calibration_fraction=0.3).fit(X)
    scores = vae.score_samples(X)
    np.testing.assert_array_equal(vae.score_samples(X, refine=5), scores)
    assert not np.allclose(vae.score_samples(X, refine=0), scores)
    assert (vae.predict(X) == -1).mean() == pytest.approx(0.05, abs=0.05)
    vae.save(tmp_path / "detector")
    for other in (riskvae.load(tmp_path / "detector"), pickle.loads(pickle.dumps(vae)), vae.set_params(refine=0)):
        np.testing.assert_array_equal(other.score_samples(X), scores)
        np.testing.assert_array_equal(other.conformal_p_values(X), vae.conformal_p_values(X))


def test_a_training_that_fails_leaves_answers_as_they_were(X):
    class Fails(Callback):
        def on_epoch_end(self, net, **kwargs):
            raise RuntimeError("of a callback")

    vae = small(QuantileVAE, refine=5, max_epochs=20).fit(X)
    scores = vae.score_samples(X)
    vae.set_params(callbacks=[Fails()], refine=2)
    with pytest.raises(RuntimeError, match="of a callback"):
        vae.partial_fit(X)
    np.testing.assert_array_equal(vae.score_samples(X), scores)


def test_pickles_of_earlier_versions_know_no_refinement(X, model):
    old = pickle.loads(pickle.dumps(model))
    state = old.__getstate__()
    for name in ("refine", "lipschitz_penalty"):
        del state[name]
    new = type(model).__new__(type(model))
    new.__setstate__(state)
    np.testing.assert_array_equal(new.score_samples(X), model.score_samples(X))
    assert (new.refine, new.lipschitz_penalty) == (0, 0.0)
    new.partial_fit(X)


# ------------------------------------------------------------------------------------------ attacks


def test_an_attack_goes_through_all_steps(X):
    """Gradients of refined posteriors are those that differences tell, in double precision."""
    vae = small(BetaVAE, max_epochs=40, lr=5e-3).fit(X).module_.double().eval().requires_grad_(False)
    vae.refine = 6
    x = torch.tensor(X[:5]).requires_grad_()
    mean, scale = vae.encode(x)
    weights = torch.randn(mean.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    (slope,) = torch.autograd.grad((weights * (mean + scale)).sum(), x)
    step = torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def value(rows):
        mean, scale = vae.encode(rows)
        return float((weights * (mean + scale)).sum())

    numeric = (value(x.detach() + 1e-5 * step) - value(x.detach() - 1e-5 * step)) / 2e-5
    assert float((slope * step).sum()) == pytest.approx(numeric, rel=1e-4)


def test_margins_and_attacks_are_of_refined_posteriors(X):
    vae = small(BetaVAE, max_epochs=60, lr=5e-3).fit(X)
    options = {"max_norm": 0.3, "n_steps": 15, "random_state": 0, "perturb": "mean"}
    attack = max_damage_attack(vae, X[:6], refine=5, **options)
    moved = vae.reconstruct(X[:6] + attack.delta, refine=5) - vae.reconstruct(X[:6], refine=5)
    unaware = max_damage_attack(vae, X[:6], **options).delta
    transferred = vae.reconstruct(X[:6] + unaware, refine=5) - vae.reconstruct(X[:6], refine=5)
    assert np.linalg.norm(moved, axis=1).mean() > np.linalg.norm(transferred, axis=1).mean()
    few = {"r": 1.0, "n_draws": 500, "n_steps": 6, "random_state": 0}
    margin = robustness_margin(vae, X[:4], refine=5, **few)
    assert np.isnan(margin.certified).all()
    assert "refined posteriors (refine) are not layers of a network" in repr(margin)
    np.testing.assert_array_equal(robustness_margin(vae.set_params(refine=5), X[:4], **few).upper, margin.upper)


# ------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize("method", ["encode", *METHODS, "impute"])
@pytest.mark.parametrize(("given", "error"), [(-1, ValueError), (2.5, TypeError), (True, TypeError), ("10", TypeError)])
def test_what_is_no_number_of_steps(X, model, method, given, error):
    rows = np.where(np.arange(X.size).reshape(X.shape) % 7 == 0, np.nan, X) if method == "impute" else X
    with pytest.raises(error, match=r"refine must be an integer.*0"):
        getattr(model, method)(rows, refine=given)
    with pytest.raises(error, match="refine"):
        small(type(model), refine=given).fit(X)


def test_models_of_others_have_no_bound(X):
    with pytest.raises(ValueError, match="refine=3 takes steps on the evidence bound of an estimator of this library"):
        max_damage_attack(wrap(lambda x: (x, 0 * x + 1), lambda z: z), X[:2], max_norm=0.1, refine=3)


def test_a_file_has_no_steps(X, tmp_path):
    pytest.importorskip("onnxscript")
    with pytest.raises(ValueError, match="refine=3 takes gradient steps for each row, which an ONNX file cannot do"):
        small(BetaVAE, refine=3).fit(X).export_onnx(tmp_path / "m.onnx")
    small(BetaVAE, refine=3).fit(X).set_params(refine=0).export_onnx(tmp_path / "m.onnx")
