"""Networks, objectives and Datasets of a user's, for tests/distributed_script.py."""

import os

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset, IterableDataset

from riskvae import BetaVAE
from riskvae.likelihoods import Likelihood
from riskvae.nets import conv_decoder, conv_encoder
from riskvae.training import Objective


class Contrast(Objective):
    """Looks at all there is of all rows, and has a parameter of its own."""

    def __init__(self):
        super().__init__()
        self.log_weight = nn.Parameter(torch.zeros(()))

    def forward(self, terms):
        apart = (terms.posterior.mean @ terms.posterior.mean.T).square().mean() * self.log_weight.exp()
        size = terms.batch.x.norm(dim=1).mean() * terms.z.square().mean() + self.log_weight.square()
        return terms.nll.mean() + terms.kl.mean() + 0.1 * apart + 0.01 * size


class ContrastVAE(BetaVAE):
    """Estimator of it."""

    def make_objective(self):
        return Contrast()


class Scales(Likelihood):
    """Normal noise whose scale is a parameter for each feature."""

    def setup(self, n_features):
        self.log_scales = nn.Parameter(torch.zeros(n_features))

    def mean(self, raw):
        return raw

    def nll(self, x, raw):
        return (0.5 * ((x - raw) / self.log_scales.exp()).square() + self.log_scales).sum(-1)


def spare_encoder(n_in, n_out):
    """One whose first layer is frozen, and whose last is not in use."""
    net = nn.Sequential(nn.Linear(n_in, 8), nn.Tanh(), nn.Linear(8, n_out))
    net[0].requires_grad_(False)
    net[1].spare = nn.Linear(2, 2)
    return net


def small_encoder(n_in, n_out):
    """Convolutions over rows as images of 3 by 4."""
    return conv_encoder(n_in, n_out, image_shape=(1, 3, 4), channels=(4,))


def small_decoder(n_in, n_out):
    """The way back."""
    return conv_decoder(n_in, n_out, image_shape=(1, 3, 4), channels=(4,))


class Permuted(Objective):
    """Draws from torch's global generator, and keeps which rows it saw."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, terms):
        self.seen += terms.batch.x[:, 0].tolist() if self.training else []
        z = terms.z[0]
        return terms.nll.mean() + terms.kl.mean() + 0.1 * (z * z[torch.randperm(len(z))]).square().mean()


class PermutedVAE(BetaVAE):
    """Estimator of it."""

    def make_objective(self):
        return Permuted()


class Double(Scales):
    """Losses in double precision."""

    def nll(self, x, raw):
        return super().nll(x, raw).double()


class Items(Dataset):
    """Rows as items."""

    def __init__(self, X, group=None):
        self.X, self.group = X, group

    def __len__(self):
        return len(self.X)

    def __getitem__(self, i):
        return self.X[i] if self.group is None else {"x": self.X[i], "group": self.group}


class InTurn(IterableDataset):
    """Rows in turn."""

    def __init__(self, X):
        self.X = X

    def __iter__(self):
        return iter(self.X)


class Shuffled(InTurn):
    """Rows in an order that the dataset draws."""

    def __iter__(self):
        return iter(self.X[torch.randperm(len(self.X))])


class Once(InTurn):
    """Rows that can be read only once."""

    def __init__(self, X):
        self.rows = iter(X)

    def __iter__(self):
        return self.rows


def own_start(n_in, n_out):
    """Encoder whose weights come from a generator of its own, here another one in each process."""
    net = nn.Linear(n_in, n_out)
    rng = np.random.default_rng(int(os.environ["RANK"]))
    net.weight.data = torch.from_numpy(rng.normal(0.0, 0.1, (n_out, n_in)).astype(np.float32))
    return net


def dropping(n_in, n_out):
    """Encoder with dropout."""
    return nn.Sequential(nn.Linear(n_in, 8), nn.Dropout(0.2), nn.Linear(8, n_out))
