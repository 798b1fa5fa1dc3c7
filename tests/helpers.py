"""What several tests call."""

import re

import torch
from scipy.optimize import brentq
from scipy.stats import ncx2
from torch import nn


def small(cls, **parameters):
    """Estimator that fits in milliseconds."""
    return cls(**{"n_components": 2, "hidden_layer_sizes": (16,), "max_epochs": 3, "random_state": 0, **parameters})


def set_up(likelihood, n_features):
    """Likelihood of rows of some width, as a model holds it."""
    likelihood.setup(n_features)
    return likelihood


def run_blocks(path):
    """Run a page's python blocks one after another, as pasted; their number, and the session's names."""
    import matplotlib  # other tests do without it

    blocks = re.findall(r"```python\n(.*?)```", path.read_text(), flags=re.DOTALL)
    session = {}
    matplotlib.use("Agg")
    for block in blocks:
        exec(compile(block, str(path), "exec"), session)
    return len(blocks), session


class LinearGaussian:
    """VAE whose margin is known: encoder ``A x`` with scales s, decoder ``Q diag(1/s) z`` with orthonormal columns Q.

    Its reconstruction moves by Q (diag(1/s) A d + eta), whose squared length is noncentral chi-square.
    """

    def __init__(self, k, d, seed=0, uneven=True, dtype=torch.float64):
        generator = torch.Generator().manual_seed(seed)
        self.A = torch.randn(k, d, generator=generator, dtype=dtype)
        self.scale = torch.rand(k, generator=generator, dtype=dtype) * 0.9 + 0.1 if uneven else torch.ones(k).to(dtype)
        Q = torch.linalg.qr(torch.randn(d, k, generator=generator, dtype=torch.float64)).Q.to(dtype)
        self.B = Q / self.scale

    def encode(self, x):
        return x @ self.A.T, self.scale.expand(len(x), -1)

    def decode(self, z):
        return z @ self.B.T

    def margin(self, r):
        """Smallest norm at which half of the draws lie beyond r."""
        k = len(self.scale)
        reach = brentq(lambda shift: ncx2.cdf(r**2, k, shift**2) - 0.5, 1e-9, 2 * r + 5)
        return reach / float(torch.linalg.matrix_norm(self.A / self.scale[:, None], 2))


class Plain(nn.Module):
    """VAE of plain torch, as a user would write it."""

    def __init__(self, d=6, k=2, width=16, seed=0, activation=nn.ReLU):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.body = nn.Sequential(nn.Linear(d, width), activation(), nn.Linear(width, 2 * k))
            self.head = nn.Sequential(nn.Linear(k, width), activation(), nn.Linear(width, d))
        self.eval()

    def encode(self, x):
        mean, raw = self.body(x).chunk(2, dim=-1)
        return 3 * mean, 0.1 + 0.2 * raw.sigmoid()

    def decode(self, z):
        return self.head(z)
