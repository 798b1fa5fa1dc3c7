"""What several tests call."""

import contextlib
import io
import re
from decimal import Decimal
from typing import Any, NamedTuple
from unittest import mock

import pandas as pd
import torch
from scipy.optimize import brentq
from scipy.stats import ncx2
from torch import nn

from riskvae.likelihoods import Categorical, Mixed

try:
    import cloudpickle
except ImportError:  # which older versions of joblib bring along
    from joblib.externals import cloudpickle

__all__ = ["Block", "cloudpickle", "converted", "fault_of", "run_blocks", "set_up", "small"]


def small(cls, **parameters):
    """Estimator that fits in milliseconds."""
    return cls(**{"n_components": 2, "hidden_layer_sizes": (16,), "max_epochs": 3, "random_state": 0, **parameters})


def set_up(likelihood, n_features):
    """Likelihood of rows of some width, as a model holds it."""
    return likelihood.prepare(n_features)


class Block(NamedTuple):
    """What is left of a block of code that ran: its names, and what it printed."""

    names: dict[str, Any]
    printed: str


# A block of code, and what it prints where a block of text follows it directly.
PRINTED = re.compile(r"^```python\n(.*?)^```$(?:\s*^```text\n(.*?)^```$)?", flags=re.DOTALL | re.MULTILINE)


def run_blocks(path, alone=False, compare=True):
    """Run a page's python blocks as pasted, one after another in one session, or each in its own if ``alone``.

    Where a text block directly follows a python block, it must agree with what that block printed (`disagreement`).
    Models are trained on the CPU, as for the page: other devices draw other random numbers. Where there is AVX-512,
    oneDNN makes the products of layers, as for the page: its digits are those of all such processors, torch's own hang
    on the maker, and training amplifies that.
    """
    import matplotlib  # other tests do without it

    from riskvae.nets import _linear

    matplotlib.use("Agg")
    ran, names = [], {}
    for code, told in PRINTED.findall(path.read_text()):
        names = {} if alone else names
        with (
            contextlib.redirect_stdout(io.StringIO()) as out,
            mock.patch("torch.cuda.device_count", return_value=0),
            mock.patch("torch.backends.mps.is_available", return_value=False),
            mock.patch.object(_linear, "_ONEDNN", _linear._AVAILABLE and _linear._AVX512),
            mock.patch.object(_linear, "_LEAST", 0),
        ):
            exec(compile(code, str(path), "exec"), names)
        ran.append(Block(names, out.getvalue()))
        why = disagreement(told, out.getvalue()) if told and compare else ""
        assert not why, f"{path.name}: {why}\n{out.getvalue()}"
    return ran


NUMBER = re.compile(r"(?<![\w.])[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?(?!\w)")


def numbers(text):
    """Numbers in a text, as they are written; those within words ("theorem1") are not counted."""
    return NUMBER.findall(text)


def disagreement(told, printed, share=0.1):
    """Where a page and what its code printed differ, or an empty text where they agree.

    Words must be the same, whatever the spaces. Numbers may differ by ``share``, or by one unit of the last digit that
    the page shows if that is more: by 1 for a count. Machines round differently, and training amplifies that.
    What a page concludes from its numbers has tests of its own.
    """
    words = ["".join(NUMBER.sub("#", text).split()) for text in (told, printed)]
    if words[0] != words[1]:
        return f"the page has other words: {told!r}"
    for ours, theirs in zip(numbers(told), numbers(printed), strict=True):
        shown = Decimal(ours + "0" if ours.endswith(".") else ours)  # NumPy writes 1.0 as "1."
        slack = max(share * abs(float(shown)), 10.0 ** shown.as_tuple().exponent)
        if abs(float(shown) - float(theirs)) > slack * (1 + 1e-9):
            return f"the page has {ours}, the code {theirs}"
    return ""


def true_gain(matrix, norm):
    """Largest Euclidean length of M d over the unit ball of a norm, by its corners."""
    if norm == 1:
        return float(matrix.norm(dim=0).max())
    if norm == 2:
        return float(torch.linalg.matrix_norm(matrix, 2))
    corners = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * matrix.shape[1]).to(matrix)
    return float((corners @ matrix.T).norm(dim=1).max())


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

    def margin(self, r, norm=2):
        """Smallest norm at which half of the draws lie beyond r."""
        k = len(self.scale)
        reach = brentq(lambda shift: ncx2.cdf(r**2, k, shift**2) - 0.5, 1e-9, 2 * r + 5)
        return reach / true_gain(self.A / self.scale[:, None], norm)


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


def fault_of(values, name="a", **options):
    """What from_frame says of a column; None where it takes it for categories."""
    try:
        found = Mixed.from_frame(pd.DataFrame({name: values}), **options).columns[name]
    except ValueError as error:
        return str(error)
    assert isinstance(found, Categorical)
    return None


def converted(message, values):
    """What the code in a message makes of a column."""
    code = re.search(r"pandas\.to_numeric\(.*?\)(?=[;,]? ?(?:if|\.$))", message)[0]
    return eval(code, {"pandas": pd, "X": pd.DataFrame({"a": values})})
