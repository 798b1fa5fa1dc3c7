"""The margin: known in closed form for linear models, between its bounds for all others, honest about chance."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from helpers import LinearGaussian, Plain, small
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, chi2, norm
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler
from torch import nn

from riskvae import BetaVAE, RiskAwareVAE, max_damage_attack
from riskvae.robustness import clopper_pearson, encoder_sensitivity, robustness_margin
from riskvae.robustness._coder import noise_bank
from riskvae.robustness._jacobian import leading_directions, linearize
from riskvae.robustness._opening import open_coder
from riskvae.robustness._search import Rays
from riskvae.robustness._upper import Settings, confirm

few = partial(robustness_margin, n_draws=2000, random_state=0)


# ------------------------------------------------------------------------------------ closed form


@pytest.mark.parametrize(("k", "d"), [(1, 1), (1, 5), (2, 2), (3, 7), (8, 20)])
@pytest.mark.parametrize("uneven", [True, False])
def test_margin_of_a_linear_model_is_known(k, d, uneven):
    model = LinearGaussian(k, d, seed=k + d, uneven=uneven)
    r = math.sqrt(chi2.ppf(0.9, k))  # the noise alone stays within r with probability .9
    X = np.random.default_rng(0).normal(size=(3, d))
    margin = robustness_margin(model, X, r=r, random_state=0)
    exact = model.margin(r)
    # Bounds and probability from their formulas.
    A, s = model.A.numpy(), model.scale.numpy()
    assert margin.p_robust == pytest.approx(0.9, abs=4 * math.sqrt(0.09 / 10_000))
    assert (margin.p_low < 0.9).all()
    reach = norm.ppf(margin.p_low)
    np.testing.assert_allclose(margin.theorem1, s.min() * reach / np.linalg.norm(A), rtol=1e-9)
    np.testing.assert_allclose(margin.whitened, reach / np.linalg.norm(A / s[:, None], 2), rtol=1e-9)
    assert (margin.theorem1 <= margin.whitened).all()
    assert (margin.lower <= exact).all()
    # The attack finds the margin, from above; its draws let it miss by a few percent.
    assert (margin.upper >= 0.985 * exact).all()
    assert (margin.upper <= 1.12 * exact).all()
    np.testing.assert_allclose(margin.linearized, exact, rtol=0.12)
    np.testing.assert_allclose(np.linalg.norm(margin.delta, axis=1), margin.upper, rtol=1e-9)
    assert not margin.abstained.any()
    assert not margin.censored.any()


def test_whitened_is_exact_in_one_dimension_for_a_one_sided_radius():
    # With r far beyond the other side, only one tail counts: Neyman and Pearson's bound is attained.
    model = LinearGaussian(1, 3)
    exact = model.margin(2.0)
    bound = norm.ppf(chi2.cdf(4.0, 1)) / float(torch.linalg.matrix_norm(model.A / model.scale[:, None], 2))
    assert bound <= exact
    margin = few(model, np.zeros((1, 3)), r=2.0, methods="whitened")
    assert margin.whitened[0] <= bound * (1 + 1e-9)


# --------------------------------------------------------------------------------- bounds in order


@given(st.integers(0, 10**6), st.sampled_from(["relu", "linear"]), st.integers(1, 4), st.floats(1.1, 3.0))
def test_lower_bounds_lie_below_the_attack(seed, kind, k, multiple):
    # A ReLU net is not linear: what is proved of it is `certified`.
    model = LinearGaussian(k, 6, seed) if kind == "linear" else None
    if model is None:
        vae = _fitted_like(seed, k)
        X = np.random.default_rng(seed).normal(size=(4, 6))
    else:
        vae, X = model, np.random.default_rng(seed).normal(size=(4, 6))
    auto = robustness_margin(vae, X, methods="theorem1", n_draws=256, random_state=seed).r
    margin = robustness_margin(vae, X, r=multiple / 1.5 * auto, n_draws=1000, random_state=seed, n_steps=8)
    known = ~margin.abstained
    assert (margin.theorem1[known] <= margin.whitened[known]).all()
    assert (margin.lower[known] >= margin.whitened[known]).all()
    bound = margin.lower if model is not None else margin.certified
    assert (bound[known] <= margin.upper[known]).all()
    assert np.isnan(margin.upper[~known]).all()


_CACHE = {}


def _fitted_like(seed, k):
    """Estimator with a ReLU encoder, trained for a moment on rows of its own."""
    key = (seed % 5, k)
    if key not in _CACHE:
        rows = np.random.default_rng(seed % 5).normal(size=(60, 6))
        _CACHE[key] = small(BetaVAE, n_components=k, beta=0.5, max_epochs=30, lr=1e-2, random_state=seed % 5).fit(rows)
    return _CACHE[key]


def test_margins_grow_with_r(X, vae):
    radii = [1.2, 1.6, 2.4, 4.0]
    auto = few(vae, X[:10], methods="theorem1").r
    found = [few(vae, X[:10], r=factor * auto / 1.5) for factor in radii]
    known = ~found[0].abstained
    for name in ("theorem1", "whitened", "second_order", "lipschitz", "linearized", "p_robust"):
        values = np.array([getattr(margin, name)[known] for margin in found])
        assert (np.diff(values, axis=0) >= 0).all(), name
    uppers = np.array([margin.upper[known] for margin in found])
    assert (np.diff(np.median(uppers, axis=1)) > 0).all()


def test_r_per_row_is_r_row_by_row(X, vae):
    r = np.array([0.5, 0.7, 0.9])
    together = few(vae, X[:3], r=r)
    for i, value in enumerate(r):
        alone = few(vae, X[i : i + 1], r=float(value))
        for name in ("whitened", "upper", "linearized", "p_low"):
            np.testing.assert_allclose(getattr(together, name)[i], getattr(alone, name)[0], rtol=1e-9)
    np.testing.assert_array_equal(together.r, r)


def test_lipschitz_bound_is_below_the_whitened_one(X, vae):
    margin = few(vae, X[:20], methods=("whitened", "lipschitz"))
    known = ~margin.abstained
    assert (margin.lipschitz[known] <= margin.whitened[known] * (1 + 1e-9)).all()
    assert (margin.lipschitz[known] > 0).all()


def test_a_wrong_bound_would_be_caught():
    # Broken on purpose: a bound that forgets the scale lies above the attack.
    model = next(m for seed in range(99) if (m := LinearGaussian(1, 4, seed)).scale < 0.3)
    margin = few(model, np.zeros((1, 4)), r=2.0)
    wrong = norm.ppf(margin.p_low) / float(torch.linalg.matrix_norm(model.A, 2))
    assert wrong[0] > margin.upper[0]


# ------------------------------------------------------------------------------------------ chance


@pytest.mark.parametrize("n", [20, 1000])
@pytest.mark.parametrize("p", [0.02, 0.5, 0.97])
@pytest.mark.parametrize("confidence", [0.9, 0.999])
def test_clopper_pearson_limits_cover_as_stated(n, p, confidence):
    # Exact, by summing over every possible count: no simulation error.
    counts = np.arange(n + 1)
    low, high = clopper_pearson(counts, n, confidence)
    weight = binom.pmf(counts, n, p)
    assert weight[low <= p].sum() >= confidence - 1e-12
    assert weight[high >= p].sum() >= confidence - 1e-12
    # And are not wasteful: one count less would not cover.
    np.testing.assert_allclose(binom.sf(counts[1:] - 1, n, low[1:]), 1 - confidence, rtol=1e-6)


def test_clopper_pearson_at_the_ends():
    low, high = clopper_pearson([0, 50], 50, 0.99)
    assert (low[0], high[1]) == (0.0, 1.0)
    np.testing.assert_allclose(low[1], 0.01 ** (1 / 50))
    np.testing.assert_allclose(high[0], 1 - 0.01 ** (1 / 50))


def test_the_upper_end_is_broken_on_draws_of_its_own():
    # Judged by the closed form, the perturbations of 40 rows break robustness, all of them. The chance that a
    # good attack fails here is below 40 * (1 - confidence) = 4 %; the seed is fixed.
    model = LinearGaussian(3, 8, seed=2)
    margin = few(model, np.random.default_rng(1).normal(size=(40, 8)), r=2.5)
    assert (margin.upper >= model.margin(2.5)).all()


def test_one_seed_one_answer(X, vae):
    a, b = few(vae, X[:5]), few(vae, X[:5])
    for name in ("whitened", "linearized", "upper", "p_low"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    other = robustness_margin(vae, X[:5], n_draws=2000, random_state=1)
    assert (other.p_robust != a.p_robust).any()
    state = torch.get_rng_state()
    few(vae, X[:2])
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_row_is_judged_alike_in_any_company(X, vae, dtype):
    rows = X[:40].astype(dtype)
    r = 1.0
    whole = few(vae, rows, r=r)
    parts = [few(vae, rows[:1], r=r), few(vae, rows[1:7], r=r), few(vae, rows[7:], r=r)]
    for name in ("theorem1", "whitened", "linearized", "upper", "p_low", "linear_radius"):
        joined = np.concatenate([getattr(part, name) for part in parts])
        # Float32 rounds otherwise in another place of its block, and the search carries that on.
        rtol = 1e-6 if dtype == np.float64 else 1e-3
        np.testing.assert_allclose(joined, getattr(whole, name), rtol=rtol, err_msg=name)


# ------------------------------------------------------------------------------------- other models


def test_any_object_with_encode_and_decode(X):
    model = Plain()
    before = [p.requires_grad for p in model.parameters()]
    margin = few(model, X[:10])
    assert (margin.whitened <= margin.upper).all()
    assert np.isnan(margin.lipschitz).all()
    assert "is not looked into; name the layers" in repr(margin)
    assert [p.requires_grad for p in model.parameters()] == before
    assert all(p.grad is None for p in model.parameters())


def test_images_need_not_be_flat():
    class Images(Plain):
        def encode(self, x):
            return super().encode(x.flatten(1))

        def decode(self, z):
            return super().decode(z).view(-1, 1, 2, 3)

    rows = np.random.default_rng(0).random((4, 6)).astype(np.float32)
    flat, images = few(Plain(), rows), few(Images(), rows.reshape(4, 1, 2, 3))
    np.testing.assert_allclose(images.whitened, flat.whitened, rtol=1e-5)


def test_scale_offset_widens_the_margin_at_equal_p(X):
    base = small(BetaVAE, beta=0.5, max_epochs=20).fit(X)
    wide = small(BetaVAE, beta=0.5, max_epochs=20, scale_offset=0.3).fit(X)
    assert encoder_sensitivity(wide, X).scale_min.min() > 0.3
    relative = [few(model, X[:20], methods="whitened") for model in (base, wide)]
    assert np.median(relative[1].whitened) > np.median(relative[0].whitened)


def test_a_collapsed_model_is_censored_not_certain():
    class Collapsed:
        def encode(self, x):
            return 0.0 * x[:, :2], torch.ones(len(x), 2, dtype=x.dtype)

        def decode(self, z):
            return z

    margin = few(Collapsed(), np.ones((3, 4)), r=2.0)
    assert margin.censored.all()
    assert np.isinf(margin.upper).all()
    assert np.isinf(margin.whitened).all()
    assert not margin.delta.any()


def test_max_norm_censors(X, vae):
    free = few(vae, X[:10])
    held = few(vae, X[:10], r=free.r, max_norm=0.5 * np.median(free.upper))
    assert held.censored.any()
    assert (held.upper[~held.censored] <= 0.5 * np.median(free.upper)).all()
    assert "censored" in repr(held)


def test_moving_both_is_not_guaranteed(X, vae):
    margin = few(vae, X[:5], perturb="both")
    assert not margin.guaranteed
    assert "not guaranteed" in repr(margin)
    assert few(vae, X[:5], methods="whitened").guaranteed


def test_frame_and_repr(X, vae):
    margin = few(vae, X[:5], verbose=0)
    frame = margin.to_frame()
    assert len(frame) == 5
    assert {"theorem1", "upper", "p_low", "abstained", "r", "certified"} <= set(frame.columns)
    assert (frame["lower_is"] == np.where(margin.lower_is_certified, "proven bound", "first-order bound")).all()
    assert "lower <= upper in 100.0%" in repr(margin)
    assert not margin.notes
    capped = few(vae, X[:5], r=50.0, methods="whitened")
    assert "is at its cap of 2.70 in 5 rows: more than 2,000 draws" in repr(capped)  # Phi^-1(.001^(1/2000))


def test_methods_not_asked_for_are_nan(X, vae):
    margin = few(vae, X[:5], methods=["linearized", "theorem1"])
    assert np.isnan(margin.whitened).all()
    assert np.isnan(margin.upper).all()
    assert margin.delta is None
    np.testing.assert_array_equal(margin.lower, margin.theorem1)
    assert np.isfinite(margin.linearized).all()


def test_progress_is_shown(X, vae, capsys):
    few(vae, X[:5], methods="whitened", verbose=1)
    assert "5" in capsys.readouterr().err


# -------------------------------------------------------------------------------------------- mistakes


def test_r_below_the_noise_abstains(X, vae):
    margin = few(vae, X[:5], r=1e-6)
    assert margin.abstained.all()
    for name in ("theorem1", "whitened", "lipschitz", "linearized", "lower", "upper"):
        assert np.isnan(getattr(margin, name)).all(), name
    assert "abstained: 5 rows (their own noise" in repr(margin)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"r": 0.0}, r"r must be 'auto', a number above 0, or 5 of them"),
        ({"r": -1.0}, "got -1.0"),
        ({"r": [1.0, 2.0]}, "or 5 of them, one per row"),
        ({"r": float("nan")}, "r must be 'auto'"),
        ({"r": "automatic"}, "r must be 'auto'"),
        ({"max_norm": 0.0}, "max_norm must be None, or a finite number above 0; got 0.0"),
        ({"methods": ("theorem1", "atack")}, r"methods must be one or several of 'theorem1', .*'atack'"),
        ({"methods": ()}, "methods must be one or several"),
        ({"perturb": "scale"}, "perturb must be one of 'mean', 'both'"),
        ({"confidence": 1.0}, r"confidence must be a number in \[0.5, 1\)"),
        ({"n_draws": 3}, "n_draws must be an integer of at least 100"),
        ({"batch_size": 0}, "batch_size must be"),
        ({"random_state": "a"}, "random_state must be"),
    ],
)
def test_bad_parameters(X, vae, options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        robustness_margin(vae, X[:5], **options)


def test_bad_models_and_rows(X, vae):
    with pytest.raises(NotFittedError):
        robustness_margin(BetaVAE(), X)
    with pytest.raises(ValueError, match="X has 3 features, but BetaVAE is expecting 6"):
        robustness_margin(vae, X[:, :3])
    with pytest.raises(TypeError, match=r"got LinearRegression\. For a pipeline, pass the model, pipe\[-1\]"):
        robustness_margin(LinearRegression(), X)
    with pytest.raises(TypeError, match=r"got Pipeline\. For a pipeline, pass the model, pipe\[-1\], and the rows"):
        robustness_margin(make_pipeline(MinMaxScaler(), small(BetaVAE)).fit(X), X)
    with pytest.raises(TypeError, match="object has no encode and no decode"):
        robustness_margin(object(), X)
    with pytest.raises(TypeError, match="got the class Plain"):
        robustness_margin(Plain, X)
    with pytest.raises(
        ValueError, match=r"vae.encode fails on a tensor of shape \(2, 3\), torch.float32: RuntimeError"
    ):
        robustness_margin(Plain(), X[:, :3])

    class LogVariance(Plain):
        def encode(self, x):
            mean, scale = super().encode(x)
            return mean, scale.log()

    with pytest.raises(ValueError, match=r"positive standard deviations.*If the second value is a log-variance"):
        robustness_margin(LogVariance(), X)

    class Broken(Plain):
        def decode(self, z):
            return super().decode(z) * math.nan

    with pytest.raises(ValueError, match="decode.* is NaN or infinite for 300 rows; the first is row 0"):
        robustness_margin(Broken(), X)

    class Shapes(Plain):
        def encode(self, x):
            mean, scale = super().encode(x)
            return mean, scale[:, :1]

    with pytest.raises(ValueError, match="mean and scale of shape"):
        robustness_margin(Shapes(), X)


@pytest.mark.parametrize(
    ("encode", "message"),
    [
        (lambda mean, scale: (mean + scale * torch.randn_like(mean), scale), "gives a different mean at each call"),
        (lambda mean, scale: (mean.detach(), scale), "mean without a gradient.*torch.no_grad"),
        (lambda mean, scale: (mean, scale, mean), r"pair of tensors \(mean, scale\); got 3 values"),
        (lambda mean, scale: mean, r"pair of tensors \(mean, scale\); got Tensor"),
        (lambda mean, scale: (mean.detach().numpy(), scale), r"got \(ndarray, Tensor\)"),
    ],
)
def test_encoders_that_return_something_else(X, encode, message):
    class Other(Plain):
        def encode(self, x):
            return encode(*super().encode(x))

    for examine in (few, encoder_sensitivity):
        with pytest.raises((TypeError, ValueError), match=message):
            examine(Other(), X[:5])


@pytest.mark.parametrize("decode", [lambda rows: (rows,), lambda rows: rows.reshape(1, -1), lambda rows: rows[:, 0]])
def test_decoders_that_return_something_else(X, decode):
    class Other(Plain):
        def decode(self, z):
            return decode(super().decode(z))

    with pytest.raises(TypeError, match=r"vae.decode\(z\) must return a tensor with one mean row for each of 5"):
        few(Other(), X[:5])


def test_a_module_in_training_mode_is_examined_in_evaluation(X):
    model = Plain()
    model.body.insert(1, nn.Dropout(0.5))
    expected = few(model.eval(), X[:5])
    with pytest.warns(UserWarning, match="vae is in training mode"):
        found = few(model.train(), X[:5])
    np.testing.assert_array_equal(found.upper, expected.upper)
    assert all(module.training for module in model.modules())
    few(Plain().train(), X[:5], methods="whitened")  # no layer of it cares: no warning


def test_decoder_that_ignores_z():
    class Deaf(LinearGaussian):
        def decode(self, z):
            return torch.zeros(len(z), 4, dtype=z.dtype)

    with pytest.raises(ValueError, match=r"r='auto'.*which is 0 here: the decoder does not look at z"):
        robustness_margin(Deaf(2, 4), np.zeros((2, 4)))
    margin = few(Deaf(2, 4), np.zeros((2, 4)), r=1.0)
    assert margin.censored.all()


def test_risk_aware_models_have_margins_too(X):
    margin = few(small(RiskAwareVAE, eps=0.3).fit(X), X[:5])
    assert (margin.whitened <= margin.upper).all()


# ------------------------------------------------------------------------- shared errors, odd models


def test_a_confirmation_is_wrong_no_oftener_than_stated():
    # Perturbations a hair inside the margin, four attempts a row: at confidence .8, at most .2 of them may be
    # called breaks; 300 seeds, a chance of 1e-4 that a right procedure has more than .28. Few draws, and attempts
    # that go no further, so that a wrong share of the error or banks used twice would show.
    model, false = LinearGaussian(2, 4, seed=1), 0
    exact = model.margin(2.5)
    with open_coder(model, np.zeros((1, 4))) as coder:
        local = linearize(coder, coder.x)
        best = leading_directions(coder, local, 1)
        direction = torch.linalg.svd(model.A / model.scale[:, None]).Vh[:1][None]
        assert best.shape == direction.shape
        for seed in range(300):
            banks = [noise_bank(200, 2, 4 * seed + i, coder.x) for i in range(4)]
            settings = Settings(("attack",), "mean", 0.8, banks[0], banks[0], banks[0], banks, banks[0], 1)
            r, norm, cap = (torch.tensor([value], dtype=torch.float64) for value in (2.5, 0.94 * exact, 9.0))
            false += bool(confirm(Rays(coder, coder.x, local, "mean"), r, direction, norm, cap, settings) < exact)
    assert false / 300 <= 0.28


def test_bounds_share_the_error_with_the_slope(X, vae):
    alone = few(vae, X[:3], methods="whitened")
    shared = few(vae, X[:3], methods=("whitened", "second_order"))
    count = np.round(alone.p_robust * 2000)
    np.testing.assert_allclose(alone.p_low, clopper_pearson(count, 2000, 0.999)[0])
    np.testing.assert_allclose(shared.p_low, clopper_pearson(count, 2000, 0.9995)[0])
    assert (shared.second_order >= shared.whitened).all()


def test_a_decoder_that_is_nan_away_from_the_data_is_found():
    class Overflows(LinearGaussian):
        def decode(self, z):
            return torch.where((z.abs() > 0.5).any(1, keepdim=True), math.nan, super().decode(z))

    model, rows = Overflows(2, 4), np.zeros((2, 4))
    with pytest.raises(ValueError, match=r"vae.decode\(z\) is NaN for \d+ of .* draws around the rows"):
        few(model, rows, r=1.0)
    model.scale = model.scale * 0.01  # NaN only where the attack gets to
    with pytest.warns(UserWarning, match="NaN or infinity for some perturbed rows.*passed over"):
        result = max_damage_attack(model, rows, max_norm=100.0, random_state=0)
    assert np.isfinite(result.damage).all()
    assert np.isfinite(model.decode(model.encode(torch.tensor(result.X_adv))[0]).numpy()).all()
    assert (few(model, rows, r=1.0).upper > 0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_modules_are_refused(X, dtype):
    with pytest.raises(TypeError, match=r"must compute in float32 or float64; .* vae.float\(\)"):
        few(Plain().to(dtype), X[:3])


def test_modules_inside_a_plain_object_are_looked_after(X):
    class Wrapped:
        def __init__(self, module):
            self.module = module

        def encode(self, x):
            return self.module.encode(x)

        def decode(self, z):
            return self.module.decode(z)

    module = Plain()
    module.body.insert(1, nn.BatchNorm1d(16))
    expected = few(module.eval(), X[:5])
    before = {name: value.clone() for name, value in module.state_dict().items()}
    with pytest.warns(UserWarning, match="training mode"):
        found = few(Wrapped(module.train()), X[:5])  # float64 rows, float32 weights
    np.testing.assert_array_equal(found.upper, expected.upper)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_perturbations_have_the_shape_of_x():
    class Images(Plain):
        def encode(self, x):
            return super().encode(x.flatten(1))

    rows = np.random.default_rng(0).random((4, 1, 2, 3)).astype(np.float32)
    assert few(Images(), rows).delta.shape == rows.shape


def test_a_max_norm_below_the_resolution_is_censored(X):
    margin = few(Plain(), X[:2].astype(np.float32), r=1.0, max_norm=1e-35)
    assert margin.censored.all()
