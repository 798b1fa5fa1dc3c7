"""Data and models that several tests share."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest
from helpers import small
from hypothesis import settings

from riskvae import BetaVAE

# For type checkers, and for processes of their own.
collect_ignore = ["user_script.py", "cluster_script.py", "distributed_script.py", "distributed_parts.py"]

# New examples at every run at home; the same ones wherever a change is judged.
# No deadlines: a first call may load libraries, and machines are shared.
settings.register_profile("home", deadline=None)
settings.register_profile("judged", deadline=None, derandomize=True)
settings.load_profile("judged" if os.environ.get("CI") else "home")


@pytest.fixture(autouse=True, scope="session")
def interruptible():
    """Python's own handler of Ctrl-C, which a process that was started in the background lacks."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def X():
    """300 rows in [0, 1] near a curved surface of two dimensions in six; float64."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=(300, 2))
    rows = np.tanh(z @ rng.normal(size=(2, 6)) + 0.1 * rng.normal(size=(300, 6)))
    rows = 0.5 + 0.5 * rows
    rows.flags.writeable = False
    return rows


@pytest.fixture(scope="session")
def vae(X):
    """A fitted model; do not change it."""
    return small(BetaVAE, beta=1.0, max_epochs=10).fit(X)


@pytest.fixture(scope="session")
def data_folder():
    """Folder of the real data; skips where there is none."""
    folder = os.environ.get("RISKVAE_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("RISKVAE_DATA names no folder of real data")
    return Path(folder)
