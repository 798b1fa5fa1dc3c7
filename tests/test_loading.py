"""Datasets and DataLoaders: cut as arrays are, understood or refused by name."""

import numpy as np
import pytest
import torch
from helpers import small
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, Subset, TensorDataset, WeightedRandomSampler

from riskvae import BetaVAE, RiskAwareVAE
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
        with pytest.raises(ValueError, match=r"BatchNorm1d\(.*needs two rows in a batch at least"):
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
        DataLoader(data, collate_fn=lambda items: torch.stack([row for (row,) in items])),
    ):
        with pytest.raises(TypeError, match="X is a DataLoader with a sampler or collate_fn of its own"):
            small(BetaVAE).fit(loader)
    with pytest.raises(TypeError, match="X is a torch DataLoader: fit and partial_fit take one"):
        small(BetaVAE).fit(X).transform(DataLoader(data))
