"""Latent draws of training: normal, apart, and the same for a row whatever its company."""

import numpy as np
import pytest
import torch
from helpers import small
from scipy import stats
from torch.utils.data import Dataset

from riskvae import BetaVAE, RiskAwareVAE
from riskvae.training import WeightedELBO
from riskvae.training._draws import RowDraws, _mixed


def test_splitmix64_is_as_published():
    """The first numbers of the published generator from state 0."""
    golden = 0x9E3779B97F4A7C15
    states = np.array([golden, 2 * golden % 2**64, 3 * golden % 2**64], np.uint64)
    assert [hex(int(z)) for z in _mixed(states)] == ["0xe220a8397b1dcdaf", "0x6e789e6aa1b965f4", "0x6c45d188009454f"]


def test_draws_are_standard_normal_and_apart():
    """Fixed seeds; each bound is beyond what chance exceeds once in a thousand."""
    n = 100_000
    draws = RowDraws(3, 2, 7)(torch.arange(n)).double()
    assert draws.shape == (n, 2, 7)
    columns = draws.flatten(1).numpy()
    assert all(stats.kstest(column, "norm").pvalue > 1e-4 for column in columns.T)
    assert abs(np.square(columns).mean() - 1) < 4 * (2 / columns.size) ** 0.5
    assert abs((columns**4).mean() - 3) < 4 * (96 / columns.size) ** 0.5
    # Coordinates, neighboring rows and neighboring epochs: no correlation, of the values nor of their squares.
    other = RowDraws(4, 2, 7)(torch.arange(n)).double().flatten(1).numpy()
    for f in (lambda x: x, np.square):
        both = np.corrcoef(np.hstack((f(columns[:-1]), f(columns[1:]), f(other[:-1]))).T)
        assert np.abs(both - np.eye(42)).max() < 5 / n**0.5


@pytest.mark.parametrize(("n_draws", "k"), [(1, 1), (1, 2), (3, 1), (2, 5), (8, 64)])
def test_a_row_meets_the_same_draws_in_any_company(n_draws, k):
    draw = RowDraws(2**31, n_draws, k)
    places = torch.tensor([5, 0, 10**9, 3])
    together = draw(places)
    assert together.shape == (4, n_draws, k)
    assert together.isfinite().all()
    for row, place in zip(together, places, strict=True):
        assert torch.equal(row, draw(place[None])[0])


def test_a_gpu_makes_the_same_numbers():
    """Torch's signed integers on the CPU: the path of a GPU."""
    draw, places = RowDraws(2**32 - 1, 3, 7), torch.tensor([0, 5, 10**12, 2**62])
    for one, other in zip(draw._halves_by_numpy(places), draw._halves_by_torch(places), strict=True):
        np.testing.assert_array_equal(one, other)


class Recording(WeightedELBO):
    """Remembers the draws that each row met in each epoch."""

    def __init__(self, beta):
        super().__init__(beta)
        self.met, self.epoch = {}, 0

    def begin_epoch(self, epoch):
        self.epoch = epoch
        return {}

    def forward(self, terms):
        if self.training:
            mean, scale = terms.posterior
            noise = ((terms.z - mean) / scale).transpose(0, 1).detach()
            self.met |= {(self.epoch, int(i)): row for i, row in zip(terms.batch.index, noise, strict=True)}
        return super().forward(terms)


class Recorded(BetaVAE):
    def make_objective(self):
        return Recording(self.beta)


class Rows(Dataset):
    def __init__(self, X):
        self.X = torch.tensor(X, dtype=torch.float32)

    def __len__(self):
        return len(self.X)

    def __getitem__(self, i):
        return self.X[i]


def test_draws_hang_on_row_and_epoch_not_on_batches(X):
    met = [
        small(Recorded, batch_size=size, max_epochs=2).fit(data).net_.criterion_.met
        for size, data in ((256, X), (7, X), (300, X), (64, Rows(X)))
    ]
    assert set(met[0]) == {(epoch, i) for epoch in (0, 1) for i in range(300)}
    for other in met[1:]:
        for key, row in met[0].items():  # read off z, up to its rounding
            torch.testing.assert_close(row, other[key], atol=1e-4, rtol=1e-3)
    assert not torch.allclose(met[0][0, 5], met[0][1, 5])
    assert not torch.allclose(met[0][0, 5], met[0][0, 6])


def test_held_out_losses_do_not_hang_on_batches(X):
    losses = []
    for size in (30, 7):
        vae = small(
            RiskAwareVAE, eps=1.0, early_stopping=True, max_epochs=1, lr=1e-12, noise_scale=0.5, batch_size=size
        ).fit(X)
        losses.append(vae.history_[0]["valid_loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
