"""The README's code runs as pasted, block after block, in one session."""

from pathlib import Path

import pytest
from helpers import run_blocks

README = Path(__file__).parents[1] / "README.md"


@pytest.mark.filterwarnings("ignore:lbfgs failed to converge")  # some cells of the grid, as a user would see
def test_code_of_the_readme(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    n_blocks, session = run_blocks(README)
    assert n_blocks == 8
    # Which eps wins may hang on a machine's rounding; an untrained model's worst tenth is above 0.1.
    assert session["search"].best_score_ > -0.07
    assert session["losses"].grad.count_nonzero() == 26
    assert session["found"][:25].sum() > 15
    assert (tmp_path / "tails.png").stat().st_size > 10_000
