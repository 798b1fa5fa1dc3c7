"""Displays hold what they draw."""

import builtins
import copy
import dataclasses
import math

import matplotlib
import numpy as np
import pytest
from helpers import small
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from riskvae import QuantileVAE, RiskAwareVAE, max_damage_attack, robustness_margin, verdict_margin
from riskvae.metrics import coverage, row_losses, tail_curve
from riskvae.plotting import (
    AnomalyMapDisplay,
    AttackDisplay,
    CalibrationDisplay,
    MarginDisplay,
    ReconstructionDisplay,
    RobustnessCurveDisplay,
    TailCurveDisplay,
    VerdictMarginDisplay,
)
from riskvae.robustness import damage_curve

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def test_draws_the_tail_curve_of_a_model(X, vae):
    display = TailCurveDisplay.from_estimator(vae, X, shares=[0.1, 0.5, 1.0], color="red")
    expected = tail_curve(row_losses(vae, X), [0.1, 0.5, 1.0])[1]
    line = display.lines_["BetaVAE"]
    np.testing.assert_allclose(line.get_xdata(), [10, 50, 100])
    np.testing.assert_allclose(line.get_ydata(), expected)
    assert line.get_color() == "red"
    assert display.ax_.get_ylabel() == "mean squared error,\nmean of the worst share"
    assert display.figure_ is display.ax_.figure


def test_several_models_share_an_axis(X, vae):
    pipe = make_pipeline(StandardScaler(), small(RiskAwareVAE)).fit(X)
    both = TailCurveDisplay.from_estimator({"plain": vae, "averse": vae}, X, loss="evidence")
    assert list(both.lines_) == ["plain", "averse"]
    more = TailCurveDisplay.from_estimator(pipe, X, ax=both.ax_, loss="evidence")
    assert more.ax_ is both.ax_
    assert list(more.lines_) == ["RiskAwareVAE"]
    assert [text.get_text() for text in more.ax_.get_legend().get_texts()] == ["plain", "averse", "RiskAwareVAE"]


def test_seeds_are_drawn_as_their_mean_in_their_range():
    rng = np.random.default_rng(0)
    losses = rng.exponential(size=(3, 50))
    display = TailCurveDisplay.from_losses({"three seeds": losses, "one": losses[0]}, tail="best")
    each = np.array([tail_curve(row, display.shares, tail="best")[1] for row in losses])
    np.testing.assert_allclose(display.lines_["three seeds"].get_ydata(), each.mean(0))
    outline = display.bands_["three seeds"].get_paths()[0].vertices
    assert outline[:, 1].min() == pytest.approx(each.min())
    assert outline[:, 1].max() == pytest.approx(each.max())
    assert "one" not in display.bands_
    assert display.shares[0] == pytest.approx(1 / 50)  # one row of fifty


def test_line_options_and_unsorted_shares():
    display = TailCurveDisplay.from_losses({"a": [1.0, 2.0], "b": [2.0, 3.0]}, shares=[1.0, 0.5], lw=3, label="x")
    assert [line.get_linewidth() for line in display.lines_.values()] == [3, 3]
    assert [text.get_text() for text in display.ax_.get_legend().get_texts()] == ["a", "b"]
    np.testing.assert_array_equal(display.shares, [0.5, 1.0])


def test_a_second_sample_widens_the_axis():
    first = TailCurveDisplay.from_losses(np.arange(10.0), name="ten rows")
    second = TailCurveDisplay.from_losses(np.arange(1000.0), name="a thousand", ax=first.ax_)
    assert second.ax_.get_xlim() == pytest.approx((1, 100))
    third = TailCurveDisplay.from_losses(np.arange(10.0), name="ten again", ax=first.ax_)
    assert third.ax_.get_xlim() == pytest.approx((1, 100))


def test_bad_losses():
    with pytest.raises(ValueError, match="at least one model"):
        TailCurveDisplay.from_losses({})
    with pytest.raises(ValueError, match=r"got shape \(0, 4\)"):
        TailCurveDisplay.from_losses(np.ones((0, 4)))
    with pytest.raises(ValueError, match=r"got shape \(0,\)"):
        TailCurveDisplay.from_losses([])
    with pytest.raises(ValueError, match=r"got shape \(\)"):
        TailCurveDisplay.from_losses(3.0)


def test_without_matplotlib_the_message_names_the_extra(monkeypatch):
    original = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"riskvae\[plot\]"):
        TailCurveDisplay.from_losses([1.0, 2.0])


def test_change_against_a_baseline(X, vae):
    rng = np.random.default_rng(0)
    plain = rng.exponential(size=(3, 50))
    losses = {"plain": plain, "worse": 1.5 * plain, "one": plain[0]}
    display = TailCurveDisplay.from_losses(losses, baseline="plain")
    np.testing.assert_allclose(display.lines_["plain"].get_ydata(), 0, atol=1e-10)
    np.testing.assert_allclose(display.lines_["worse"].get_ydata(), 50)
    # Seeds are paired: each is half as large again as its own partner.
    np.testing.assert_allclose(display.bands_["worse"].get_paths()[0].vertices[1:-1, 1], 50)
    assert "change against plain" in display.ax_.get_ylabel()
    with pytest.raises(ValueError, match="baseline must be one of 'plain'; got 'vanilla'"):
        TailCurveDisplay.from_losses({"plain": plain}, baseline="vanilla")


def test_a_list_of_models_is_one_in_several_seeds(X, vae):
    other = small(RiskAwareVAE).fit(X)
    display = TailCurveDisplay.from_estimator({"two": [vae, other]}, X)
    expected = [tail_curve(row_losses(model, X), display.shares)[1] for model in (vae, other)]
    np.testing.assert_allclose(display.lines_["two"].get_ydata(), np.mean(expected, 0))
    assert TailCurveDisplay.from_estimator([vae, vae], X).lines_.keys() == {"BetaVAE"}
    with pytest.raises(ValueError, match="empty list"):
        TailCurveDisplay.from_estimator([], X)


# ------------------------------------------------------------------------------------------ robustness


def names_of(ax):
    """What the legend has, and what stands in the axes."""
    return [text.get_text() for text in ax.get_legend().get_texts()], [text.get_text() for text in ax.texts]


@pytest.fixture(scope="module")
def margin(X, vae):
    return robustness_margin(vae, X[:12], n_draws=1000, random_state=0)


def test_margins_are_drawn_against_the_attack(X, vae, margin):
    display = MarginDisplay.from_margin(margin, s=5)
    assert list(display.points_) == ["theorem1", "second_order", "linearized"]
    np.testing.assert_array_equal(
        np.asarray(display.points_["theorem1"].get_offsets()), np.stack((margin.upper, margin.theorem1), 1)
    )
    assert display.correlations["linearized"][0] == pytest.approx(np.corrcoef(margin.linearized, margin.upper)[0, 1])
    names = {text.get_text().split(" (Pearson ")[0]: text for text in display.ax_.texts}
    assert set(names) == {
        "a bound here would be wrong", "equal", "bound of theorem 1", "second-order bound", "linearized estimate"
    }  # fmt: skip
    assert names["bound of theorem 1"].xy[1] == pytest.approx(np.median(margin.theorem1))
    assert display.ax_.get_legend() is None
    low, high = display.line_.get_data()
    np.testing.assert_array_equal(low, high)
    again = MarginDisplay.from_estimator(vae, X[:12], n_draws=1000, random_state=0, methods=("whitened", "certified"))
    np.testing.assert_array_equal(again.bounds["certified"], margin.certified)
    attack, bound = np.asarray(again.points_["certified"].get_offsets()).T
    assert (bound <= attack).all()  # below the line


def test_margins_that_span_a_decade_are_drawn_on_logarithmic_axes():
    upper = np.array([1.0, 2.0, np.inf])
    near = MarginDisplay(upper, {"lower": np.array([0.11, 0.5, 0.01])}).plot()  # an attack that failed is not drawn
    assert near.ax_.get_xscale() == near.ax_.get_yscale() == "log"  # 0.11 to 2
    assert near.ax_.get_ylim()[0] == pytest.approx(0.099)
    assert near.ax_.get_xlim() == pytest.approx((0.9, 2.2))
    nearer = MarginDisplay(upper, {"lower": np.array([0.21, 0.5, 0.01])}).plot()
    assert nearer.ax_.get_xscale() == "linear"
    assert nearer.ax_.get_xlim() == nearer.ax_.get_ylim() == pytest.approx((0, 2.1))


def test_margins_that_cannot_be_drawn(X, vae, margin):
    with pytest.raises(ValueError, match=r"methods must be among 'theorem1', .*; got 'attack'"):
        MarginDisplay.from_margin(margin, methods=("attack",))
    bounds = robustness_margin(vae, X[:3], methods="whitened", n_draws=100, random_state=0)
    with pytest.raises(ValueError, match="margin has no upper end to draw: compute it with the method 'attack'"):
        MarginDisplay.from_margin(bounds)
    only = robustness_margin(vae, X[:3], methods="attack", n_draws=100, random_state=0)
    with pytest.raises(ValueError, match="margin holds none of"):
        MarginDisplay.from_margin(only, methods=("theorem1",))
    two = MarginDisplay(np.array([1.0, 2.0]), {"a": np.array([0.5, np.nan])}).plot()
    assert np.isnan(two.correlations["a"]).all()


FIVE = {  # rows: two that break, one that the attack did not break, one without a certificate, one that abstains
    "proven": [0.1, 0.2, 0.4, np.nan, np.nan],
    "linearized": [0.3, 0.5, np.inf, 0.4, np.nan],
    "upper": [0.3, 0.4, np.inf, 0.4, np.nan],
}


@pytest.fixture
def five(margin):
    """A margin of five rows with known numbers."""
    unknown = dict.fromkeys(
        ("theorem1", "whitened", "second_order", "third_order", "lipschitz", "p_robust", "p_low"), [np.nan] * 5
    )
    arrays = {name: np.array(values) for name, values in {**unknown, **FIVE, "lower": FIVE["proven"]}.items()}
    states = {"abstained": np.arange(5) == 4, "censored": np.arange(5) == 2, "linear_radius": np.zeros(5)}
    return dataclasses.replace(margin, **arrays, **states, r=1.5, delta=None, notes=())


def test_shares_of_rows_that_withstand_a_change(five):
    display = RobustnessCurveDisplay.from_margin(five)
    at = display.share_at([0.0, 0.2, 0.4, 9.0])["model"]
    np.testing.assert_allclose(at["certified"], [3 / 5, 2 / 5, 1 / 5, 0])  # a row counts at its own norm,
    np.testing.assert_allclose(at["linearized"], [4 / 5, 4 / 5, 3 / 5, 1 / 5])
    np.testing.assert_allclose(at["upper"], [4 / 5, 4 / 5, 1 / 5, 1 / 5])  # and is broken at it
    assert display.share_at(0.2)["model"]["certified"] == pytest.approx(2 / 5)
    with pytest.raises(ValueError, match=r"norm must be at least 0, the size of a change; got -1"):
        display.share_at(-1)


def test_curves_step_at_the_norms_of_rows_and_nowhere_else(five):
    display = RobustnessCurveDisplay.from_margin(five, lw=3)
    assert display.ax_.get_xscale() == "linear"
    for curve, line in display.lines_["model"].items():
        x, y = line.get_data()
        assert line.get_drawstyle() == "steps-post"
        assert line.get_linewidth() == 3
        between = (x[:-1] + x[1:]) / 2
        np.testing.assert_allclose(y[:-1], 100 * display.share_at(between)["model"][curve])
        finite = {value for value in FIVE[curve.replace("certified", "proven")] if np.isfinite(value)}
        assert set(x[1:][np.diff(y) < 0]) == finite
        assert (np.diff(y) <= 0).all()
    assert list(display.areas_["model"]) == ["noise", "broken", "unknown", "certified"]
    assert names_of(display.ax_) == (
        ["unknown", "estimate"],
        ["broken by noise alone: 1 row", "broken by the attack", "certified"],
    )
    for text in display.ax_.texts:  # each in the area it names
        area = {"broken by the attack": "broken", "broken by noise alone: 1 row": "noise"}.get(
            text.get_text(), "certified"
        )
        place = display.ax_.transData.inverted().transform(display.ax_.transAxes.transform(text.get_position()))
        assert display.areas_["model"][area].get_paths()[0].contains_point(place)
    assert display.ax_.get_ylabel() == "share of 5 rows that stay within r = 1.5 (%)"
    reach = {name: area.get_paths()[0].get_extents() for name, area in display.areas_["model"].items()}
    ends = {name: (box.y0, box.y1) for name, box in reach.items()}
    assert ends["noise"] == pytest.approx((80, 100))  # one row of five
    assert ends["broken"] == pytest.approx((20, 80))
    assert ends["unknown"] == pytest.approx((0, 80))
    assert ends["certified"] == pytest.approx((0, 60))


def test_certified_shares_lie_below_unbroken_ones(margin):
    assert not np.isnan(margin.certified).any()
    display = RobustnessCurveDisplay.from_margin(margin)
    shares = display.share_at(np.linspace(0, 1.2 * margin.upper.max(), 200))["model"]
    assert (shares["certified"] <= shares["upper"]).all()
    assert shares["certified"][0] == shares["upper"][0] == 1
    assert shares["certified"][-1] == shares["upper"][-1] == 0


def test_curves_say_what_is_not_known(five):
    free = dataclasses.replace(five, perturb="both")  # for which nothing is certified
    display = RobustnessCurveDisplay.from_margin(free)
    assert list(display.lines_["model"]) == ["lower", "linearized", "upper"]
    assert list(display.areas_["model"]) == ["noise", "broken", "unknown"]
    assert "lower bound, not certified" in names_of(display.ax_)[0]

    nothing = np.full(5, np.nan)
    unattacked = RobustnessCurveDisplay.from_margin(dataclasses.replace(five, upper=nothing, linearized=nothing))
    assert list(unattacked.lines_["model"]) == ["certified"]
    assert list(unattacked.areas_["model"]) == ["noise", "unknown", "certified"]
    assert unattacked.areas_["model"]["unknown"].get_paths()[0].get_extents().y1 == pytest.approx(80)

    noisy = {"proven": nothing, "lower": nothing, "linearized": nothing, "upper": nothing}
    noisy = dataclasses.replace(five, **noisy, abstained=np.ones(5, dtype=bool))
    assert RobustnessCurveDisplay.from_margin(noisy).share_at(0.0) == {"model": {"upper": 0.0}}
    with pytest.raises(ValueError, match="margin of 'model' holds no number to draw; compute it with 'proven'"):
        RobustnessCurveDisplay.from_margin(dataclasses.replace(noisy, abstained=np.zeros(5, dtype=bool)))


def test_models_are_compared_at_one_radius(five):
    bold = dataclasses.replace(five, upper=10 * five.upper)
    display = RobustnessCurveDisplay.from_margin({"one": five, "bold": bold}, ax=plt.figure().subplots())
    assert display.share_at(1.0)["one"]["upper"] == pytest.approx(1 / 5)
    assert display.share_at(1.0)["bold"]["upper"] == pytest.approx(4 / 5)
    assert display.ax_.get_xscale() == "log"  # from 0.1 to 4
    colors = [{line.get_color() for line in lines.values()} for lines in display.lines_.values()]
    assert len(colors[0] | colors[1]) == 2
    one, two = (f"{name},\n1 broken by noise alone" for name in ("one", "bold"))
    beside, inside = names_of(display.ax_)
    assert set(beside) | set(inside) == {one, two, "certified left of it", "estimate", "broken right of it"}
    same = RobustnessCurveDisplay.from_margin({"a": five, "b": five})  # one area hides the other
    assert not set(names_of(same.ax_)[1])
    assert {f"{name},\n1 broken by noise alone" for name in "ab"} <= set(names_of(same.ax_)[0])
    up = np.linspace(0.8, 1.2, 60)
    areas = {"low": {"certified": 0.2 * up, "upper": 0.7 * up}, "": {"certified": 0.6 * up, "upper": 1.5 * up}}
    assert names_of(RobustnessCurveDisplay(areas).plot().ax_)[1] == ["low"]
    with pytest.raises(
        ValueError, match=r"the same r to be compared; r is 1.5 for 'a' and 2.0 for 'b'.*'auto' differs"
    ):
        RobustnessCurveDisplay.from_margin({"a": five, "b": dataclasses.replace(five, r=2.0)})
    with pytest.raises(ValueError, match=r"the same perturb to be compared; perturb is mean for 'a' and both for 'b'"):
        RobustnessCurveDisplay.from_margin({"a": five, "b": dataclasses.replace(five, perturb="both")})
    with pytest.raises(TypeError, match="margin must be what robustness_margin returns, or several in a dict by name"):
        RobustnessCurveDisplay.from_margin([five])
    with pytest.raises(ValueError, match="at least one model"):
        RobustnessCurveDisplay.from_margin({})


def test_shares_of_flipped_verdicts_are_drawn_against_the_norm(X, quantile_vae, margin):
    rows = np.concatenate((X[:6], X[:6] + np.array([1.5, 0, 0, -1, 0, 0])))
    found = verdict_margin(quantile_vae, rows, n_steps=10, random_state=0)
    display = VerdictMarginDisplay.from_margin(found, lw=1)
    assert set(display.lines_) == set(found.kind) == {"masking", "false alarm"}
    for kind, line in display.lines_.items():
        upper = found.upper[found.kind == kind]
        sizes, shares = line.get_data()
        np.testing.assert_allclose(shares, (upper <= np.asarray(sizes)[:, None]).mean(1))
        assert line.get_lw() == 1
        if kind in display.proven_:
            edge = display.proven_[kind].get_paths()[0].vertices
            assert edge[:, 1].max() == 1
            # No row that is proven at some size is one that flips there.
            assert (np.interp(sizes, *edge[1 : len(sizes) + 1].T) >= shares - 1e-9).all()
    assert display.proven_
    assert VerdictMarginDisplay.from_margin(found, ax=display.ax_).ax_ is display.ax_
    with pytest.raises(TypeError, match="margin must be what verdict_margin returns; got RobustnessMargin"):
        VerdictMarginDisplay.from_margin(margin)
    with pytest.raises(ValueError, match="no flip to draw"):
        VerdictMarginDisplay.from_margin(verdict_margin(quantile_vae, rows, n_steps=1, max_norm=1e-9))


def test_damage_is_drawn_against_the_norm(X, vae):
    options = {"n_steps": 3, "random_state": 0}
    curve = damage_curve(vae, X[:6], [0.2, 0.6], **options)
    display = AttackDisplay.from_estimator({"a": vae, "b": vae}, X[:6], max_norms=[0.6, 0.2], **options)
    np.testing.assert_array_equal(display.max_norms, [0, 0.2, 0.6])
    np.testing.assert_array_equal(display.curves["a"], [curve.clean_damage, *curve.damage])
    np.testing.assert_array_equal(display.lines_["b"].get_ydata(), np.median(display.curves["b"], axis=1))
    assert [text.get_text() for text in display.ax_.texts] == ["a", "b"]
    assert [text.get_color() for text in display.ax_.texts] == [line.get_color() for line in display.lines_.values()]
    inside = AttackDisplay.from_estimator({"a": vae}, X[:6], max_norms=[0.6], ax=plt.figure().subplots(), **options)
    assert [text.get_text() for text in inside.ax_.get_legend().get_texts()] == ["a"]  # beside it may be no room
    relative = AttackDisplay.from_estimator(vae, X[:6], max_norms=[0.5], quantity="degradation", **options)
    np.testing.assert_array_equal(relative.curves[type(vae).__name__][0], 0)
    assert relative.ax_.get_ylabel().startswith("relative degradation of the likelihood")
    with pytest.raises(ValueError, match="quantity must be 'damage' or 'degradation'"):
        AttackDisplay.from_estimator(vae, X[:6], max_norms=[0.5], quantity="loss")
    with pytest.raises(ValueError, match="max_norms must hold at least one radius above 0"):
        AttackDisplay.from_estimator(vae, X[:6], max_norms=[])


def test_damage_curves_are_drawn_together(X, vae):
    options = {"n_steps": 3, "random_state": 0}
    one, two = damage_curve(vae, X[:6], [0.2, 0.6], **options), damage_curve(vae, X[:6], [0, 0.5], **options)
    display = AttackDisplay.from_curve({"one": one, "two": two})
    for name, radii in (("one", [0, 0.2, 0.6]), ("two", [0, 0.5])):
        np.testing.assert_array_equal(display.lines_[name].get_xdata(), radii)
        assert display.lines_[name].get_ydata()[0] == np.median(one.clean_damage)
    assert list(AttackDisplay.from_curve(one).curves) == ["attack"]
    with pytest.raises(TypeError, match="curve must be a DamageCurve, or several in a dict by name; got RobustnessM"):
        AttackDisplay.from_curve(robustness_margin(vae, X[:2], methods="theorem1", n_draws=100))
    other = damage_curve(vae, X[:6], [0.2], norm=np.inf, **options)
    with pytest.raises(ValueError, match="curve must hold curves of one norm to share an axis"):
        AttackDisplay.from_curve({"one": one, "other": other})


def test_images_are_drawn_in_lines(X, vae):
    result = max_damage_attack(vae, X[:4], max_norm=0.5, n_steps=3, random_state=0)
    display = ReconstructionDisplay.from_attack(vae, X[:4], result, image_shape=(2, 3))
    assert display.axes_.shape == (5, 4)
    np.testing.assert_allclose(display.images_["perturbation"][1].get_array(), result.delta[1].reshape(2, 3))
    np.testing.assert_allclose(display.images_["attacked"][2].get_array(), result.X_adv[2].reshape(2, 3))
    np.testing.assert_allclose(
        display.images_["reconstruction of attacked"][0].get_array().ravel(), vae.reconstruct(result.X_adv)[0]
    )
    low, high = display.images_["perturbation"][0].get_clim()
    assert low == -high  # differences, around zero
    plain = ReconstructionDisplay.from_estimator({"one": vae, "two": vae}, X[:4], image_shape=(3, 2))
    assert list(plain.images_) == ["original", "one", "two"]


class Channels:
    """Two latents; reconstructs the mean of each image's channels, in the shape of its rows."""

    def __init__(self, shape):
        self.shape = shape

    def encode(self, x):
        code = x.flatten(1)[:, :2]
        return code, 0.1 * code.exp()

    def decode(self, z):
        return (z.mean(1, keepdim=True).expand(-1, math.prod(self.shape))).reshape(-1, *self.shape)


@pytest.mark.parametrize("shape", [(3, 4, 5), (4, 5, 3)])
@pytest.mark.parametrize("flat", [True, False])
def test_images_of_three_channels_are_drawn_in_color(shape, flat):
    images = np.random.default_rng(0).uniform(size=(4, *shape))
    images[0].flat[:2] = 0.0, 1.0  # then colors are drawn as they are
    rows, told = (images.reshape(4, -1), shape) if flat else (images, None)
    model = Channels((60,) if flat else shape)
    result = max_damage_attack(model, rows, max_norm=0.5, r=0.1, n_steps=2, random_state=0)
    display = ReconstructionDisplay.from_attack(model, rows, result, image_shape=told)
    seen = {label: np.array([image.get_array() for image in line]) for label, line in display.images_.items()}
    colors = np.moveaxis(images, 1, -1) if shape[0] == 3 else images
    np.testing.assert_allclose(seen["original"], colors)
    assert seen["perturbation"].shape == (4, 4, 5, 3)
    delta = np.reshape(result.delta, images.shape)
    scaled = 2 * seen["perturbation"] - 1  # zero is gray
    delta = np.moveaxis(delta, 1, -1) if shape[0] == 3 else delta
    np.testing.assert_allclose(scaled, delta / np.abs(delta).max(), atol=1e-6)

    dark = ReconstructionDisplay({"original": images, "double": 2 * images - 0.5}, shape).plot()
    double = np.array([image.get_array() for image in dark.images_["double"]])
    np.testing.assert_allclose(double, np.clip(2 * colors - 0.5, 0, 1))  # cut where the originals end


def test_gray_images_may_have_a_channel(X, vae):
    flat = ReconstructionDisplay({"original": X[:2]}, (2, 3)).plot()
    for shape in ((1, 2, 3), (2, 3, 1)):
        other = ReconstructionDisplay({"original": X[:2]}, shape).plot()
        for one, two in zip(flat.images_["original"], other.images_["original"], strict=True):
            np.testing.assert_array_equal(one.get_array(), two.get_array())
            assert one.get_clim() == two.get_clim()


def test_images_that_cannot_be_drawn(X, vae, margin):
    with pytest.raises(
        ValueError, match=r"image_shape must be \(height, width\), or .* product 6.*got None and rows of"
    ):
        ReconstructionDisplay.from_estimator(vae, X[:4])
    for wrong in ((2, 2), (6,), (2, 3, 1, 1), 6):
        with pytest.raises(ValueError, match="image_shape must be"):
            ReconstructionDisplay.from_estimator(vae, X[:4], image_shape=wrong)
    with pytest.raises(ValueError, match=r"of color images, with product 8.*rows of shape \(2, 2, 2\)"):
        ReconstructionDisplay.from_estimator(Channels((2, 2, 2)), np.ones((4, 2, 2, 2)))
    with pytest.raises(ValueError, match=r"one perturbation for each of 4 rows of X; it has 12"):
        ReconstructionDisplay.from_attack(vae, X[:4], margin, image_shape=(2, 3))
    assert ReconstructionDisplay.from_attack(vae, X[:12], margin, image_shape=(2, 3)).axes_.shape == (5, 12)


# ---------------------------------------------------------------------------------------- quantiles


@pytest.fixture(scope="module")
def quantile_vae(X):
    return small(QuantileVAE, max_epochs=20).fit(X[:100])


def test_coverage_is_drawn_against_the_nominal_one(X, quantile_vae):
    display = CalibrationDisplay.from_estimator(quantile_vae, X[200:])
    assert display.nominal[-1] == pytest.approx(0.7)  # as far as the quantiles reach
    calibrated = copy.deepcopy(quantile_vae).conformalize(X[100:200])
    both = {"raw": quantile_vae, "calibrated": calibrated}
    display = CalibrationDisplay.from_estimator(both, X[200:], alphas=[0.3, 0.6], color="red")
    np.testing.assert_allclose(display.nominal, [0.4, 0.7])
    for name, model in both.items():
        shares = coverage(X[200:], model.predict_interval(X[200:], 0.3))
        np.testing.assert_allclose(display.curves[name][1], shares)
        assert display.lines_[name].get_ydata()[1] == pytest.approx(100 * shares.mean())
        assert display.lines_[name].get_color() == "red"
    assert CalibrationDisplay.from_estimator(calibrated, X[200:]).nominal[-1] == pytest.approx(0.95)
    with pytest.raises(ValueError, match="one array for each of 2 alphas; its length is 1"):
        CalibrationDisplay.from_intervals(X, {"a": [np.zeros((300, 6, 2))]}, alphas=[0.1, 0.2])
    with pytest.raises(TypeError, match="pass pipe"):
        CalibrationDisplay.from_estimator(make_pipeline(StandardScaler()), X)
    with pytest.raises(ValueError, match="both sides of the median, or calibrated"):
        CalibrationDisplay.from_estimator(small(QuantileVAE, quantiles=(0.6, 0.9)).fit(X), X)


def test_anomaly_maps(X, quantile_vae):
    rows = X[:4] + np.array([3.0, 0, 0, 0, 0, 0])
    mask = np.array([True, True, True, True, True, False])
    truth = np.zeros((4, 2, 3), dtype=bool)
    display = AnomalyMapDisplay.from_estimator(quantile_vae, rows, mask=mask, truth=truth, image_shape=(2, 3))
    assert list(display.lines) == ["input", "median", "z-score", "discoveries", "truth"]
    found = display.images_["discoveries"][0].get_array().ravel()
    assert found[0] == 1.0
    assert found[5] == 0.0
    np.testing.assert_allclose(
        display.images_["z-score"][1].get_array().ravel()[:5], quantile_vae.z_scores(rows)[1, :5]
    )
    assert display.images_["z-score"][0].get_clim() == (-5.0, 5.0)
    assert AnomalyMapDisplay.from_estimator(quantile_vae, rows, image_shape=(2, 3)).axes_.shape == (4, 4)
