"""Datasets and DataLoaders: cut as arrays are, understood or refused by name."""

import numpy as np
import pytest
import torch
from helpers import small
from torch import nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from riskvae import BetaVAE, QuantileVAE, RiskAwareVAE
from riskvae.training._stream import Stream

CPU = torch.device("cpu")


class Items(IterableDataset):
    def __init__(self, x):
        self.x = x

    def __iter__(self):
        return iter(self.x)


@pytest.mark.parametrize(("n", "batch_size"), [(257, 256), (10, 3), (1000, 7), (7, 7), (8, 100), (1, 4), (2049, 1024)])
@pytest.mark.parametrize("make", [TensorDataset, Items])
def test_batches_are_of_equal_size(make, n, batch_size):
    """A last batch of one row would take a tail of itself, and break batch normalization."""
    x = torch.arange(float(n))[:, None]
    stream = Stream(make(x), CPU, check=lambda x: None)
    for _ in range(2):
        batches = [batch.x for batch in stream.batches(batch_size, torch.Generator().manual_seed(0))]
        assert torch.equal(torch.cat(batches).sort(0).values, x)
        sizes = [len(batch) for batch in batches]
        assert len(sizes) == -(-n // batch_size)
        assert max(sizes) <= batch_size
        if make is TensorDataset:
            assert max(sizes) - min(sizes) <= 1
        elif n > 1:  # only the end of a stream is known
            assert min(sizes) >= min(n, batch_size // 2)


def normalized(n_in, n_out):
    return nn.Sequential(nn.Linear(n_in, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, n_out))


def test_batch_normalization_takes_257_rows_on_every_path(X):
    rows = torch.tensor(X[:257], dtype=torch.float32)
    for data in (X[:257], TensorDataset(rows), Items(rows)):
        vae = small(RiskAwareVAE, encoder=normalized, batch_size=256).fit(data)
        assert vae.history_[-1]["train_batch_count"] == 2
    for call in (lambda: vae.partial_fit(X[:1]), lambda: small(BetaVAE, encoder=normalized, batch_size=1).fit(X)):
        with pytest.raises(ValueError, match=r"BatchNorm1d\(.*needs at least two rows in a batch"):
            call()


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_the_dataset_and_the_workers_of_a_loader_are_used(X, workers):
    data = TensorDataset(torch.tensor(X, dtype=torch.float32))
    direct = small(BetaVAE).fit(data)
    loaded = small(BetaVAE).fit(DataLoader(data, batch_size=17, shuffle=True, num_workers=workers))
    for a, b in zip(direct.module_.state_dict().values(), loaded.module_.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    small(BetaVAE).fit(DataLoader(Items(data.tensors[0]), batch_size=17))
    small(BetaVAE).fit(DataLoader(Subset(data, range(100)))).partial_fit(DataLoader(data))


def test_loaders_whose_batches_would_be_lost_are_refused(X):
    data = TensorDataset(torch.tensor(X, dtype=torch.float32))
    for loader in (
        DataLoader(data, sampler=WeightedRandomSampler(np.ones(300), 300)),
        DataLoader(data, batch_sampler=[[0, 1], [2, 3]]),
        DataLoader(data, batch_sampler=BatchSampler(SubsetRandomSampler(range(5)), 2, False)),
        DataLoader(data, sampler=RandomSampler(range(300), num_samples=7)),
        DataLoader(data, collate_fn=lambda items: torch.stack([row for (row,) in items])),
    ):
        with pytest.raises(TypeError, match="X is a DataLoader with a sampler or collate_fn of its own"):
            small(BetaVAE).fit(loader)
        with pytest.raises(TypeError, match="X is a DataLoader with a sampler or collate_fn of its own"):
            small(BetaVAE).fit(X).transform(loader)


# ------------------------------------------------------------------------------------------ rows that are held out


class Again(IterableDataset):
    """Rows in turn, as often as they are asked for; a dict with the group of each."""

    def __init__(self, x):
        self.x = x

    def __iter__(self):
        return ({"x": row, "group": i % 7} for i, row in enumerate(self.x))


def streams(n=500):
    x = torch.arange(2.0 * n).view(n, 2)
    groups = torch.arange(n) % 7
    indexed = Stream(TensorDataset(x), torch.device("cpu"), lambda x: None, group=groups)
    return {"indexed": indexed, "iterable": Stream(Again(x), torch.device("cpu"), lambda x: None)}


@pytest.mark.parametrize("kind", ["indexed", "iterable"])
def test_held_out_rows_of_a_stream_are_random_and_not_trained_on(kind):
    shares = []
    for seed in range(20):
        train, held_out = streams()[kind].split(0.2, seed)
        seen = torch.cat([batch.x for batch in train.batches(64, torch.Generator().manual_seed(0))])
        batches = list(train.batches(64, torch.Generator().manual_seed(0)))
        # Together they are all rows, each once; groups and places stay theirs, in a second epoch, too.
        assert sorted(torch.cat((seen, held_out[:]))[:, 0].tolist()) == list(range(0, 1000, 2))
        for batch in batches:
            assert torch.equal(batch.index, batch.x[:, 0].long() // 2)
            assert torch.equal(batch.group, batch.index % 7)
        assert torch.equal(held_out.data.group, held_out[:][:, 0].long() // 2 % 7)
        assert (held_out[:][:, 0].diff() < 0).any()  # in random order
        again = streams()[kind].split(0.2, seed)[1]
        assert torch.equal(held_out[:], again[:])
        assert not set(held_out[:][:, 0].tolist()) & set(train.head()[:, 0].tolist())
        shares.append(held_out[:][:, 0].mean() / 998)
    # The mean place is 1/2, with a standard error of .006 over 2,000 draws.
    assert abs(np.mean(shares) - 0.5) < 0.025
    if kind == "indexed":
        assert train.n_rows == 400
        assert not set(train.sample(400, 0)[:, 0].tolist()) & set(held_out[:][:, 0].tolist())


@pytest.mark.parametrize("kind", ["indexed", "iterable"])
def test_no_more_rows_are_held_out_than_memory_bears(kind, monkeypatch):
    monkeypatch.setattr("riskvae.training._stream.MOST", 30)
    assert len(streams()[kind].split(0.2, 0)[1]) == 30
    assert len(streams()[kind].split(1e-6, 0)[1]) == 1


def test_a_stream_that_is_gone_after_a_pass_cannot_be_split():
    class Once(IterableDataset):
        def __init__(self, rows):
            self.rows = iter(rows)

        def __iter__(self):
            return self.rows

    with pytest.raises(ValueError, match="can be read only once, so no rows can be kept from training"):
        small(BetaVAE, early_stopping=True).fit(Once(torch.rand(50, 3)))


@pytest.mark.parametrize("make", [TensorDataset, Again], ids=["indexed", "iterable"])
def test_datasets_are_stopped_early_and_calibrated(make):
    rows = torch.randn(2000, 3, generator=torch.Generator().manual_seed(0))
    data = make(rows[:1500])
    vae = small(BetaVAE, early_stopping=True, n_iter_no_change=2, tol=10.0, max_epochs=50).fit(data)
    assert vae.n_iter_ < 10
    assert all("valid_loss" in row for row in vae.history_)
    long = make(torch.randn(6000, 3, generator=torch.Generator().manual_seed(1)))
    assert small(QuantileVAE, calibration_fraction=0.2, max_epochs=1).fit(long)._calibration.n > 1000
    detector = small(QuantileVAE, calibration_fraction=0.2, max_epochs=3).fit(data)
    assert 250 <= detector._calibration.n <= 350
    p = detector.conformal_p_values(rows[1500:].numpy())
    # Of 500 rows 50 have p <= .1; binomial and calibration set together scatter by 11.
    assert abs((p <= 0.1).sum() - 50) < 40
    crossed = small(QuantileVAE, calibration_fraction="cross", max_epochs=3).fit(data)
    assert crossed.is_calibrated
