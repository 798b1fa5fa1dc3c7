"""For tests and doctests alike: no figure outlives the test that opened it."""

import sys

import pytest


@pytest.fixture(autouse=True)
def figures():
    """Close what matplotlib keeps open: it warns of more than twenty figures, and warnings are errors here."""
    yield
    if pyplot := sys.modules.get("matplotlib.pyplot"):
        pyplot.close("all")
