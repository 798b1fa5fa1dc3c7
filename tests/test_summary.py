"""What is said of a training: learned noise and active coordinates by epoch, summaries, learning curves."""

import matplotlib
import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from skorch.callbacks import Callback

from riskvae import BetaVAE, QuantileVAE, load
from riskvae.likelihoods import Gaussian
from riskvae.nets import lipschitz_encoder
from riskvae.plotting import LearningCurveDisplay
from riskvae.training._vitals import _is_due

matplotlib.use("Agg")

X = (load_digits().data / 16).astype(np.float32)
KW = {"n_components": 3, "hidden_layer_sizes": (16,), "random_state": 0}


def recorded(history, key):
    return {row["epoch"]: row[key] for row in history if key in row}


def test_noise_and_active_coordinates_are_those_of_the_model_after_the_epoch():
    vae = BetaVAE(**KW, max_epochs=24).fit(X)
    noise, active = recorded(vae.history_, "noise_scale"), recorded(vae.history_, "active")
    assert list(noise) == list(range(1, 25))
    assert list(active) == [*range(1, 17), 18, 20, 22, 24]
    assert noise[24] == pytest.approx(vae.noise_scale_, rel=1e-6)
    assert active[24] == int((vae.transform(X).var(0) > 0.01).sum())


def test_noise_of_each_feature_is_told_by_its_geometric_mean():
    vae = BetaVAE(**KW, likelihood=Gaussian(per_feature=True), max_epochs=2).fit(X[:, 20:30])
    mean = np.exp(np.log(vae.noise_scale_).mean())
    assert vae.history_[-1]["noise_scale"] == pytest.approx(mean, rel=1e-6)
    assert vae.summary().rows["noise"] == f"learned scale {mean:.3g}, the geometric mean over features"
    fixed = BetaVAE(**KW, noise_scale=0.25, max_epochs=1).fit(X)
    assert "noise_scale" not in fixed.history_[0]
    assert fixed.summary().rows["noise"] == "fixed scale 0.25"


def test_eight_epochs_of_each_doubling_are_looked_at():
    due = [epoch for epoch in range(1, 1025) if _is_due(epoch)]
    assert due[:16] == [*range(1, 17)]
    assert all(sum(low < epoch <= 2 * low for epoch in due) == 8 for low in (16, 64, 512))


class NoLook(Callback):
    """Takes the rows away from those who count."""

    def on_train_begin(self, net, **kwargs):
        net.callbacks_ = [
            (name, callback) for name, callback in net.callbacks_ if "Vitals" not in type(callback).__name__
        ]


@pytest.mark.parametrize("encoder", [None, lipschitz_encoder, "dropout"])
def test_counting_changes_nothing(encoder):
    def dropping(n_in, n_out):
        layers = (torch.nn.Linear(n_in, 8), torch.nn.BatchNorm1d(8), torch.nn.Dropout(), torch.nn.Linear(8, n_out))
        return torch.nn.Sequential(*layers)

    setting = KW | {"encoder": dropping if encoder == "dropout" else encoder, "max_epochs": 6}
    looked, alone = BetaVAE(**setting).fit(X), BetaVAE(**setting, callbacks=[NoLook()]).fit(X)
    assert "active" in looked.history_[0]
    assert "active" not in alone.history_[0]
    np.testing.assert_array_equal(looked.transform(X), alone.transform(X))


def test_collapse_is_counted():
    rng = np.random.default_rng(0)
    with pytest.warns(Warning, match="collapse"):
        vae = BetaVAE(**KW, beta=50.0, lr=0.01, max_epochs=60).fit(rng.normal(size=(300, 5)))
    assert recorded(vae.history_, "active")[60] == 0
    assert "0 of 3 latent coordinates" in vae.summary().rows["active"]


def test_a_resumed_history_is_that_of_an_uninterrupted_training(tmp_path):
    whole = BetaVAE(**KW, max_epochs=10).fit(X)
    part = BetaVAE(**KW, max_epochs=4, checkpoint=tmp_path / "c.pt").fit(X)
    resumed = part.set_params(max_epochs=10).fit(X)
    for key in ("active", "noise_scale"):
        assert recorded(resumed.history_, key) == recorded(whole.history_, key)


def test_summaries_say_what_is_so(tmp_path):
    vae = QuantileVAE(hidden_layer_sizes=(16,), max_epochs=9, calibration_fraction=0.2, random_state=0).fit(X[:500])
    rows = vae.summary().rows
    assert rows["calibration"].startswith("100 rows that were not trained on")
    assert rows["rate"] == f"{vae.history_[-1]['train_kl']:.4g} nats per row"
    assert rows["training"].startswith("9 epochs, 18 gradient steps")
    assert f"below {vae.offset_:.4g}" in rows["threshold"]
    assert "contamination='auto'" in rows["threshold"]
    vae.save(tmp_path / "m.riskvae")
    assert load(tmp_path / "m.riskvae").summary().rows == rows
    vae.offset_ = -3.0
    assert "below -3 is an outlier (set by hand)" in vae.summary().rows["threshold"]
    assert "<caption>QuantileVAE</caption>" in vae.summary()._repr_html_()
    with pytest.raises(NotFittedError):
        BetaVAE().summary()
    refined = BetaVAE(**KW, max_epochs=1).fit(X[:500])
    assert "refinement" not in refined.summary().rows
    assert refined.set_params(refine=3).summary().rows["refinement"] == "3 steps for the posterior of each row"


def test_the_kept_epoch_is_told_and_drawn():
    vae = BetaVAE(n_components=8, max_epochs=60, lr=0.01, early_stopping=True, random_state=0).fit(X[:300])
    assert vae.best_iter_ < vae.n_iter_
    assert f"those of epoch {vae.best_iter_}" in vae.summary().rows["training"]
    assert f"held out {vae.history_[vae.best_iter_ - 1]['valid_kl']:.4g}" in vae.summary().rows["rate"]
    display = LearningCurveDisplay.from_estimator(vae)
    assert list(display.lines_) == ["train_loss", "valid_loss", "train_kl", "valid_kl", "noise_scale", "active"]
    _, losses = display.lines_["valid_loss"].get_data()
    np.testing.assert_array_equal(losses, [row["valid_loss"] for row in vae.history_])
    assert [vae.best_iter_] * 2 in [list(line.get_xdata()) for line in display.axes_["loss"].lines]
    low, high = display.axes_["loss"].get_ylim()
    assert low < min(losses) <= losses[-1] < high


def test_curves_of_pipelines_and_of_what_has_none():
    pipe = make_pipeline(StandardScaler(), BetaVAE(**KW, likelihood="gaussian", noise_scale=1.0, max_epochs=1)).fit(X)
    assert list(LearningCurveDisplay.from_estimator(pipe).axes_) == ["loss", "rate", "active"]
    with pytest.raises(ValueError, match="history has no epoch"):
        LearningCurveDisplay([], best_iter=0).plot()
    rows = [{"epoch": i, "train_loss": 9.0 / i, "valid_loss": 9.001 / i, "train_kl": 1.0} for i in range(1, 9)]
    crowded = LearningCurveDisplay(rows, best_iter=8).plot()
    crowded.figure_.canvas.draw()
    first, second = (text.get_window_extent() for text in crowded.axes_["loss"].texts)
    assert not first.overlaps(second)
    with pytest.raises(TypeError, match="with history_; got StandardScaler"):
        LearningCurveDisplay.from_estimator(StandardScaler().fit(X))
    with pytest.raises(NotFittedError):
        LearningCurveDisplay.from_estimator(BetaVAE())
