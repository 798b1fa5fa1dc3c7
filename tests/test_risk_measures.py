"""Laws that all risk measures share, and what each is by definition."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import Phase, assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.optimize import minimize_scalar
from sklearn.base import clone
from torch.func import grad, hessian, vmap

from riskvae import risk
from riskvae.risk import (
    CVaR,
    Entropic,
    Exponential,
    Extremile,
    MeanSemideviation,
    SmoothedCVaR,
    Spectral,
    Superquantile,
    cvar,
    entropic_risk,
    mean_semideviation,
    smoothed_cvar,
    spectral_risk,
)

values = st.one_of(st.integers(-3, 3).map(float), st.floats(-20, 20))
samples = hnp.arrays(np.float64, st.integers(1, 30), elements=values).map(torch.tensor)
levels = st.one_of(st.floats(1e-3, 1.0), st.sampled_from([0.05, 0.1, 0.29, 0.5, 1.0]))
smoothings = st.floats(1e-3, 1e3)
penalties = st.sampled_from(["l2", "kl"])
tails = st.sampled_from(["worst", "best"])

SMOOTH = [
    SmoothedCVaR(0.3, smoothing=0.7),
    SmoothedCVaR(0.3, smoothing=0.7, penalty="kl"),
    Entropic(0.5),
    MeanSemideviation(0.8, order=2.0),
]
HOMOGENEOUS = [
    CVaR(0.29),
    Spectral(),
    Spectral(Extremile(2.5)),
    Spectral(Exponential(3.0)),
    MeanSemideviation(0.7),
    MeanSemideviation(1.0, order=3.0),
]
MEASURES = [*SMOOTH, *HOMOGENEOUS]
torch_warns = pytest.mark.filterwarnings("ignore:.torch.jit.script")  # of itself, where it compiles or transforms
everyone = pytest.mark.parametrize("measure", MEASURES, ids=repr)


def weights(measure, losses, **options):
    losses = losses.detach().clone().requires_grad_()
    return torch.autograd.grad(measure(losses, **options), losses)[0]


def spread(n, seed=0, **options):
    """Losses without ties."""
    return torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64, **options)


# -------------------------------------------------------------------------------------- shared laws
# Each takes a measure and a source of examples.


def convex(measure, draw):
    a, tail, share = draw(samples), draw(tails), draw(st.floats(0, 1))
    b = torch.tensor(draw(hnp.arrays(np.float64, len(a), elements=values)))
    sign = 1 if tail == "worst" else -1
    chord = share * float(measure(a, tail=tail)) + (1 - share) * float(measure(b, tail=tail))
    assert sign * float(measure(share * a + (1 - share) * b, tail=tail)) <= sign * chord + 1e-7


def monotone(measure, draw):
    a, tail = draw(samples), draw(tails)
    b = torch.tensor(draw(hnp.arrays(np.float64, len(a), elements=values)))
    assert float(measure(a, tail=tail)) <= float(measure(torch.maximum(a, b), tail=tail)) + 1e-7


def moving_with_constants(measure, draw):
    a, tail, shift = draw(samples), draw(tails), draw(st.floats(-50, 50))
    assert float(measure(a + shift, tail=tail)) == pytest.approx(float(measure(a, tail=tail)) + shift, abs=1e-7)


def lipschitz(measure, draw):
    a, tail = draw(samples), draw(tails)
    b = torch.tensor(draw(hnp.arrays(np.float64, len(a), elements=values)))
    change = float(measure(a, tail=tail)) - float(measure(b, tail=tail))
    assert abs(change) <= float((a - b).abs().max()) + 1e-7


def mirrored(measure, draw):
    a = draw(samples)
    assert float(measure(-a, tail="best")) == -float(measure(a))


def between_mean_and_maximum(measure, draw):
    a = draw(samples)
    assert float(a.mean()) - 1e-9 <= float(measure(a)) <= float(a.max()) + 1e-9


def blind_to_order(measure, draw):
    a = draw(samples)
    order = draw(st.permutations(range(len(a))))
    assert float(measure(a[order])) == pytest.approx(float(measure(a)), abs=1e-9)


def unchanged_by_replication(measure, draw):
    a, k = draw(samples), draw(st.integers(2, 4))
    assume(0.29 * len(a) >= 1)
    assert float(measure(a.repeat(k))) == pytest.approx(float(measure(a)), abs=1e-7)


def gradient_a_distribution(measure, draw):
    q = weights(measure, draw(samples), tail=draw(tails))
    assert float(q.sum()) == pytest.approx(1.0, abs=1e-9)
    assert (q >= -1e-12).all()


def gradient_shared_by_ties(measure, draw):
    a, tail = draw(samples), draw(tails)
    q = weights(measure, a, tail=tail)
    order = draw(st.permutations(range(len(a))))
    torch.testing.assert_close(weights(measure, a[order], tail=tail), q[order], rtol=0, atol=1e-9)
    for value in a.unique():
        assert float(q[a == value].max() - q[a == value].min()) <= 1e-12


def homogeneous(measure, draw):
    a, tail, factor = draw(samples), draw(tails), draw(st.floats(0.01, 100))
    assert float(measure(factor * a, tail=tail)) == pytest.approx(factor * float(measure(a, tail=tail)), abs=1e-6)


def wrong(function):
    """A measure that breaks a law, in both tails."""
    return lambda losses, tail="worst", dim=-1: function(losses) if tail == "worst" else -function(-losses)


LAWS = {
    convex: wrong(lambda a: risk.value_at_risk(a, 0.29)),
    monotone: wrong(lambda a: a.mean() + 2 * a.std(correction=0)),
    moving_with_constants: wrong(lambda a: 1.01 * a.mean()),
    lipschitz: wrong(lambda a: 2 * a.max()),
    mirrored: lambda a, tail="worst", dim=-1: cvar(a, 0.3),
    between_mean_and_maximum: wrong(lambda a: a.mean() + 2 * a.std(correction=0)),
    blind_to_order: wrong(lambda a: a[0]),
    unchanged_by_replication: wrong(lambda a: a.topk(max(int(0.29 * len(a)), 1)).values.mean()),
    gradient_a_distribution: wrong(lambda a: cvar(a, 0.29, threshold=a.detach().median())),
    gradient_shared_by_ties: wrong(lambda a: a.max(0).values),
}


def examine(law, measure, **options):
    @settings(**options)
    @given(st.data())
    def run(data):
        law(measure, data.draw)

    run()


@everyone
@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_law(law, measure):
    examine(law, measure)


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_law_can_fail(law):
    with pytest.raises(AssertionError):
        examine(law, LAWS[law], max_examples=5000, phases=[Phase.generate], derandomize=True, database=None)


@pytest.mark.parametrize("measure", HOMOGENEOUS, ids=repr)
def test_homogeneous(measure):
    examine(homogeneous, measure)


@pytest.mark.parametrize("measure", SMOOTH[:3], ids=repr)
def test_measures_with_a_scale_of_their_own_are_not_homogeneous(measure):
    with pytest.raises(AssertionError):
        examine(homogeneous, measure, max_examples=5000, phases=[Phase.generate], derandomize=True, database=None)


@everyone
def test_single_and_constant_losses(measure):
    for n in (1, 7, 2000):
        losses = torch.full((n,), 3.0)
        assert float(measure(losses)) == pytest.approx(3.0, rel=1e-6)
        torch.testing.assert_close(weights(measure, losses), torch.full((n,), 1 / n))


@everyone
@pytest.mark.parametrize("dim", [0, 1, -1])
def test_dimensions(measure, dim):
    losses = spread(30).view(5, 6)
    each = torch.stack([measure(part) for part in losses.unbind(1 if dim == 0 else 0)])
    torch.testing.assert_close(measure(losses, dim=dim), each)
    torch.testing.assert_close(measure(losses.view(5, 1, 6), dim=2 if dim else 0).squeeze(), each)


@everyone
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtypes_compute_in_float32_at_least(measure, dtype):
    losses = torch.linspace(1, 2, 1500, dtype=torch.float64).to(dtype)
    assert measure(losses).dtype == dtype
    expected = float(measure(losses.double()))
    assert float(measure(losses)) == pytest.approx(expected, rel=max(2 * torch.finfo(dtype).eps, 1e-14))
    assert weights(measure, losses).dtype == dtype
    if hasattr(measure, "threshold"):
        assert measure.threshold(losses).dtype == dtype
        assert float(risk.value_at_risk(losses, 0.3)) in losses.tolist()


@everyone
@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1e6, 1e30])
def test_huge_and_tiny_losses(measure, scale):
    losses = scale * spread(50).float()
    slack = 1e-13  # of rounding at the scale of the smoothing
    assert float(losses.mean()) - 1e-6 * scale - slack <= float(measure(losses)) <= float(losses.max()) + slack
    q = weights(measure, losses)
    assert float(q.sum()) == pytest.approx(1.0, abs=1e-5)
    assert (q >= 0).all()


@pytest.mark.parametrize(
    ("measure", "limit"),
    [
        (CVaR(1e-46), "max"),
        (SmoothedCVaR(1e-46), "max - log(3)"),
        (SmoothedCVaR(0.3, smoothing=1e45), "mean"),
        (SmoothedCVaR(0.3, smoothing=1e45, penalty="kl"), "mean"),
        (SmoothedCVaR(0.5, smoothing=1e-45), "cvar"),
        (Spectral(Superquantile(1e-17)), "max"),
        (Spectral(Extremile(1e9)), "max"),
        (Spectral(Exponential(1e9)), "max"),
        (Entropic(1e-50), "mean"),
        (Entropic(1e40), "max"),
    ],
    ids=repr,
)
def test_extreme_parameters_are_their_limits(measure, limit):
    losses = torch.tensor([1.0, 2.0, 40.0])
    expected = {"max": 40.0, "max - log(3)": 39.0, "mean": 43 / 3, "cvar": float(cvar(losses, 0.5))}[limit]
    assert float(measure(losses)) == pytest.approx(expected, rel=1e-5)
    assert float(weights(measure, losses).sum()) == pytest.approx(1.0, abs=1e-5)
    if hasattr(measure, "threshold"):
        assert math.isfinite(measure.threshold(losses))
        assert float(measure(losses, threshold=50.0)) >= expected * (1 - 1e-5)
        assert not math.isnan(measure.weight_beyond(losses, torch.tensor(10.0)))


@torch_warns
@everyone
@pytest.mark.parametrize("theta_range", [1.0, 20.0, 100.0, 1000.0])
def test_second_derivatives_in_float32(measure, theta_range):
    losses = theta_range * torch.tensor([0.0, 1.0, 2.0, 1.99, 0.3, 1.1, -0.7])
    exact = hessian(measure)(losses.double())
    torch.testing.assert_close(hessian(measure)(losses).double(), exact, rtol=1e-2, atol=1e-3)


@everyone
def test_a_tracer_records_what_depends_on_the_losses(measure):
    from torch.fx.experimental.proxy_tensor import make_fx

    a, b = spread(1500, seed=1), spread(1500, seed=2)
    torch.testing.assert_close(make_fx(measure)(a)(b), measure(b))


@everyone
@pytest.mark.parametrize("n", [4, 2000])
@pytest.mark.parametrize("tail", ["worst", "best"])
def test_not_a_number_is_never_dropped(measure, n, tail):
    for position in (0, n - 1):
        losses = torch.arange(n, dtype=torch.float32)
        losses[position] = math.nan
        assert math.isnan(measure(losses, tail=tail))


@everyone
def test_infinite_losses_are_never_dropped(measure):
    losses = torch.tensor([1.0, 2.0, 3.0, math.inf])
    assert not math.isfinite(measure(losses))
    assert not math.isfinite(measure(-losses, tail="best"))


def test_an_infinite_loss_outside_the_tail_does_no_harm():
    losses = torch.tensor([1.0, 2.0, 3.0, math.inf])
    for measure in (CVaR(0.5), Spectral(), SmoothedCVaR(0.5, smoothing=0.1)):
        assert float(measure(losses, tail="best")) == pytest.approx(1.5, abs=0.06)
        assert float(measure(-losses)) == pytest.approx(-1.5, abs=0.06)


@everyone
@pytest.mark.parametrize("tail", ["worst", "best"])
def test_gradients_against_finite_differences(measure, tail):
    losses = spread(11).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: measure(x, tail=tail), losses)


@pytest.mark.parametrize("measure", SMOOTH, ids=repr)
@pytest.mark.parametrize("tail", ["worst", "best"])
def test_second_derivatives_against_finite_differences(measure, tail):
    losses = spread(11).requires_grad_()
    assert torch.autograd.gradgradcheck(lambda x: measure(x, tail=tail), losses)


@torch_warns
@everyone
def test_function_transforms(measure):
    losses = spread(24).view(4, 6)
    torch.testing.assert_close(vmap(measure)(losses), measure(losses))
    each = torch.stack([weights(measure, row) for row in losses])
    torch.testing.assert_close(vmap(grad(measure))(losses), each)
    long = spread(3000)
    torch.testing.assert_close(grad(measure)(long), weights(measure, long))
    curvature = hessian(measure)(losses[0])
    torch.testing.assert_close(curvature, torch.autograd.functional.hessian(measure, losses[0]))
    eigenvalues = torch.linalg.eigvalsh(curvature)
    assert (eigenvalues >= -1e-9).all()  # convex
    _, change = torch.func.jvp(measure, (losses[0],), (torch.ones(6, dtype=torch.float64),))
    assert float(change) == pytest.approx(1.0)


@torch_warns
@everyone
def test_compiles_without_a_graph_break(measure):
    losses = spread(40).float().requires_grad_()
    compiled = torch.compile(measure.__call__, backend="aot_eager", fullgraph=True)
    found = compiled(losses)
    torch.testing.assert_close(found, measure(losses))
    torch.testing.assert_close(torch.autograd.grad(found, losses)[0], weights(measure, losses))


@torch_warns
@pytest.mark.parametrize("function", [cvar, lambda losses, eps: smoothed_cvar(losses, eps, smoothing=1.0)])
def test_compiles_again_for_other_parameters(function):
    losses = spread(40)
    compiled = torch.compile(function, backend="aot_eager", fullgraph=True)
    for eps in (0.1, 0.29, 0.5, 0.07):
        torch.testing.assert_close(compiled(losses, eps), function(losses, eps))
        torch.testing.assert_close(compiled(losses[:17], eps), function(losses[:17], eps))


@everyone
def test_descends_through_a_network(measure):
    """What a user does: the risk of a batch's losses, backwards, a step."""
    torch.manual_seed(0)
    x, model = torch.randn(64, 3), torch.nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    start = None
    for _ in range(50):
        loss = measure((model(x)[:, 0] - x.sum(1)).square())
        start = loss.item() if start is None else start
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.2 * start


# ------------------------------------------------------------------------------------ smoothed cvar


def density(u, eps, s, penalty):
    r = np.clip(1 + u / s, 0, 1 / eps) if penalty == "l2" else np.exp(np.minimum(u / s, -np.log(eps)))
    return r


def by_dual(losses, eps, s, penalty):
    """The maximum over q, from the weights at the threshold that a scalar search finds."""
    low, high = losses.min() - s * (1 / eps + 80), losses.max() + s * (1 / eps + 80)
    for _ in range(200):
        t = 0.5 * (low + high)
        low, high = (t, high) if density(losses - t, eps, s, penalty).mean() > 1 else (low, t)
    q = density(losses - t, eps, s, penalty) / len(losses)
    n = len(losses)
    distance = n / 2 * ((q - 1 / n) ** 2).sum() if penalty == "l2" else (q * np.log(np.maximum(n * q, 1e-300))).sum()
    return q @ losses - s * distance, q


@given(samples, levels, smoothings, penalties)
def test_smoothed_cvar_attains_the_penalized_maximum(losses, eps, s, penalty):
    expected, q = by_dual(losses.numpy(), eps, s, penalty)
    assume(abs(q.sum() - 1) < 1e-9)
    assert float(smoothed_cvar(losses, eps, smoothing=s, penalty=penalty)) == pytest.approx(expected, abs=1e-6)
    found = weights(SmoothedCVaR(eps, smoothing=s, penalty=penalty), losses)
    np.testing.assert_allclose(found.numpy(), q, atol=1e-6)


@pytest.mark.parametrize("penalty", ["l2", "kl"])
@pytest.mark.parametrize("n", [4, 20, 64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_smoothed_weights_where_a_loss_lies_at_the_cap_up_to_rounding(n, penalty, dtype):
    """Whole eps * N and gaps far above the smoothing: the cap must be decided once."""
    losses = 100 + 30 * spread(200 * n).view(200, n).to(dtype)
    for eps in (0.05, 0.1, 0.25, 0.3, 0.5):
        for s in (1e-3, 0.05, 0.0962, 0.1, 0.2, 0.3, 1.0, 30.0):
            q = weights(lambda x, e=eps, s=s: smoothed_cvar(x, e, smoothing=s, penalty=penalty).sum(), losses)
            assert (q >= -1e-6).all()
            assert float(q.max()) <= 1 / max(eps * n, 1) * (1 + 1e-4)
            torch.testing.assert_close(q.sum(-1), torch.ones(200, dtype=dtype), rtol=0, atol=1e-3 if s < 0.1 else 1e-4)


@given(samples, levels, smoothings, penalties, tails)
def test_smoothed_cvar_lies_between_mean_and_cvar_and_falls_with_smoothing(losses, eps, s, penalty, tail):
    sign = 1 if tail == "worst" else -1
    chain = [
        losses.mean(),
        smoothed_cvar(losses, eps, smoothing=2 * s, penalty=penalty, tail=tail),
        smoothed_cvar(losses, eps, smoothing=s, penalty=penalty, tail=tail),
        cvar(losses, eps, tail=tail),
    ]
    assert all(sign * float(a) <= sign * float(b) + 1e-7 for a, b in itertools.pairwise(chain))


@given(samples, levels, penalties)
def test_limits_of_smoothing(losses, eps, penalty):
    def smoothed(s):
        return float(smoothed_cvar(losses, eps, smoothing=s, penalty=penalty))

    # The penalty is at most (1/eps - 1)/2 or log(1/eps).
    most = min(1 / eps, len(losses)) - 1
    assert 0 <= float(cvar(losses, eps)) - smoothed(1e-6) + 1e-9 <= 1e-6 * most + 2e-9
    assert smoothed(0.0) == float(cvar(losses, eps))
    assert smoothed(1e8) == pytest.approx(float(losses.mean()), abs=1e-4)


@pytest.mark.parametrize("penalty", ["l2", "kl"])
@pytest.mark.parametrize("n", [7, 300, 5000])
@pytest.mark.parametrize("smoothing", [1e-25, 1e-12, 1e-7, 1e-3, 1.0, 1e4, 1e9])
def test_smoothed_weights_keep_their_mass_in_float32(n, smoothing, penalty):
    """Far below and above the resolution of the losses, with ties, off zero."""
    losses = 100 + spread(n).float().mul(8).round().div(8)
    for eps in (1e-4, 0.05, 0.29, 0.9):
        q = weights(SmoothedCVaR(eps, smoothing=smoothing, penalty=penalty), losses)
        assert float(q.sum()) == pytest.approx(1.0, abs=2e-4)
        assert float(q.max()) <= 1 / (eps * n) + 1e-5


@given(samples, levels, smoothings, penalties, tails, st.floats(-20, 20))
def test_a_threshold_bounds_the_smoothed_risk_and_its_own_attains_it(losses, eps, s, penalty, tail, threshold):
    measure = SmoothedCVaR(eps, smoothing=s, penalty=penalty)
    sign, here = 1 if tail == "worst" else -1, float(measure(losses, tail=tail))
    assert sign * float(measure(losses, tail=tail, threshold=threshold)) >= sign * here - 1e-6
    own = measure.threshold(losses, tail=tail)
    assert float(measure(losses, tail=tail, threshold=own)) == pytest.approx(here, abs=1e-5)


def test_smoothed_cvar_is_a_minimum_over_thresholds():
    losses = spread(50)
    for penalty in ("l2", "kl"):
        measure = SmoothedCVaR(0.2, smoothing=0.5, penalty=penalty)
        best = minimize_scalar(lambda t, m=measure: float(m(losses, threshold=t)), bounds=(-5, 5), method="bounded")
        assert float(measure(losses)) == pytest.approx(best.fun, abs=1e-6)


# -------------------------------------------------------------------------- spectra, entropy, deviation


@given(samples, levels, tails)
def test_superquantile_spectrum_is_cvar(losses, eps, tail):
    found = spectral_risk(losses, Superquantile(eps), tail=tail)
    assert float(found) == pytest.approx(float(cvar(losses, eps, tail=tail)), abs=1e-8)


@given(samples, st.integers(1, 5))
def test_extremile_is_the_expected_maximum_of_draws(losses, order):
    grids = np.meshgrid(*[losses.numpy()[:6]] * order, indexing="ij")
    expected = np.maximum.reduce(grids).mean()
    assert float(spectral_risk(losses[:6], Extremile(order))) == pytest.approx(expected, abs=1e-9)


def test_exponential_spectrum():
    losses = torch.arange(1000, dtype=torch.float64).flip(0)
    q = weights(Spectral(Exponential(3.0)), losses)
    assert float(q[0] / q[-1]) == pytest.approx(math.exp(3.0), rel=0.01)
    assert float(spectral_risk(losses, Exponential(0.0))) == pytest.approx(float(losses.mean()))
    assert float(spectral_risk(losses, Exponential(1e5))) == pytest.approx(999.0, abs=0.01)


@given(samples, st.sampled_from([Extremile(2.5), Exponential(3.0), Superquantile(0.29)]), st.data())
def test_spectral_risk_is_additive_for_comonotone_losses(a, spectrum, data):
    b = torch.tensor(data.draw(hnp.arrays(np.float64, len(a), elements=values))).sort().values
    a = a.sort().values
    both = float(spectral_risk(a, spectrum) + spectral_risk(b, spectrum))
    assert float(spectral_risk(a + b, spectrum)) == pytest.approx(both, abs=1e-8)


@pytest.mark.parametrize(
    "spectrum", [lambda u: u.sqrt(), lambda u: 2 * u**2, lambda u: 0.5 + 0.5 * u, lambda u: (3 * u - 1) / 2]
)
def test_bad_spectra(spectrum):
    with pytest.raises(ValueError, match="spectrum must be convex and rise from 0 at 0 to 1 at 1"):
        spectral_risk(torch.ones(10), spectrum)


@given(samples, st.floats(-3, 3))
def test_entropic_risk_is_its_definition(losses, theta):
    assume(abs(theta) > 1e-3)
    expected = np.log(np.mean(np.exp(theta * losses.numpy()))) / theta
    assert float(entropic_risk(losses, theta)) == pytest.approx(expected, rel=1e-6, abs=1e-6)
    assert float(entropic_risk(losses, theta, tail="best")) == float(entropic_risk(losses, -theta))
    torch.testing.assert_close(weights(Entropic(theta), losses), (theta * losses).softmax(0))


@given(samples, st.floats(1e-12, 1e-3))
def test_entropic_risk_near_zero_is_mean_plus_half_theta_variance(losses, theta):
    expected = float(losses.mean() + 0.5 * theta * losses.var(correction=0))
    slack = theta**2 * 40**3
    assert float(entropic_risk(losses, theta)) == pytest.approx(expected, abs=slack + 1e-12)
    # Float32 keeps its precision too, where log(sum(exp)) would round everything away.
    assert float(entropic_risk(losses.float(), theta)) == pytest.approx(expected, abs=slack + 1e-5)
    assert float(entropic_risk(losses, 1e6)) == pytest.approx(float(losses.max()), abs=1e-4)


@given(samples, st.floats(0, 1), st.floats(1, 4))
def test_mean_semideviation_is_its_definition(losses, weight, order):
    x = losses.numpy()
    expected = x.mean() + weight * (np.maximum(x - x.mean(), 0) ** order).mean() ** (1 / order)
    assert float(mean_semideviation(losses, weight, order=order)) == pytest.approx(expected, abs=1e-9)


# ------------------------------------------------------------------------------------------ objects


@everyone
def test_objects_print_compare_and_clone(measure):
    printed = {name: getattr(risk, name) for name in risk.__all__}
    again = eval(repr(measure), printed)
    assert again == measure
    assert again is not measure
    assert clone(measure) == measure
    assert measure != MeanSemideviation(0.123)
    assert measure != "cvar"


def test_objects_differ_by_their_parameters():
    assert CVaR(0.1) != CVaR(0.2)
    assert SmoothedCVaR(0.1) != CVaR(0.1)
    assert Spectral(Extremile(2)) != Spectral(Extremile(3))
    assert Spectral(Extremile(2)) == Spectral().set_params(spectrum=Extremile(2))
    assert Spectral(Extremile(2)).set_params(spectrum__order=3) == Spectral(Extremile(3))


def test_an_object_without_eps_says_so_and_takes_one():
    for measure in (CVaR(), SmoothedCVaR(smoothing=2.0)):
        with pytest.raises(ValueError, match=r"has no eps.*give it one, as in .*\(eps=0.1\)"):
            measure(torch.ones(3))
        assert measure.with_eps(0.1).eps == 0.1
        assert measure.eps is None
        assert measure.with_eps(0.1).with_eps(0.5).eps == 0.1
    assert Entropic(2.0).with_eps(0.1) == Entropic(2.0)


@pytest.mark.parametrize(
    ("measure", "message"),
    [
        (CVaR(2.0), r"eps must be in \(0, 1\]; got 2.0"),
        (SmoothedCVaR(0.0), r"eps must be in \(0, 1\]; got 0"),
        (SmoothedCVaR(0.5, smoothing=-1.0), "smoothing must be a finite number of at least 0; got -1"),
        (SmoothedCVaR(0.5, penalty="tv"), "penalty must be 'l2' or 'kl'; got 'tv'"),
        (Entropic(math.inf), "theta must be a finite number; got inf"),
        (Spectral(Extremile(0.5)), "order must be a finite number of at least 1; got 0.5"),
        (Spectral(Exponential(-1.0)), "rate must be a finite number of at least 0; got -1"),
        (Spectral(Superquantile(0.0)), r"eps must be in \(0, 1\]"),
        (Spectral(lambda u: u[1:]), r"must map a tensor of fractions to one of the same shape, \(4,\).*gave \(3,\)"),
        (Spectral(lambda u: 1.0), "gave float. Pass an object"),
        (MeanSemideviation(1.5), r"weight must be in \[0, 1\]; got 1.5"),
        (MeanSemideviation(0.5, order=0.5), "order must be a finite number of at least 1"),
    ],
)
def test_bad_parameters(measure, message):
    with pytest.raises((ValueError, TypeError), match=message):
        measure(torch.ones(3))
    if hasattr(measure, "threshold"):
        with pytest.raises(ValueError, match=message):
            measure.threshold(torch.ones(3))


@everyone
def test_bad_losses(measure):
    with pytest.raises(TypeError, match="must be a torch tensor"):
        measure(np.ones(3))
    with pytest.raises(TypeError, match=r"floating-point tensor; got torch\.int64"):
        measure(torch.tensor([1, 2]))
    with pytest.raises(ValueError, match="at least one value along dim"):
        measure(torch.ones(0))
    with pytest.raises(ValueError, match="tail must be 'worst' or 'best'"):
        measure(torch.ones(3), tail="both")
    with pytest.raises(TypeError, match=r"dim must be an integer.*got \(0, 1\). Flatten"):
        measure(torch.ones(3, 3), dim=(0, 1))


def test_a_float32_spectrum_of_many_losses_is_not_refused_for_its_rounding():
    losses = torch.randn(100_000, generator=torch.Generator().manual_seed(0))
    found = spectral_risk(losses, lambda u: u.float() ** 2)
    assert float(found) == pytest.approx(float(spectral_risk(losses, Extremile(2))), abs=1e-3)
