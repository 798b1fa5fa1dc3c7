"""The README's code runs as pasted, block after block, in one session."""

import re
from pathlib import Path

import matplotlib
import pytest

README = Path(__file__).parents[1] / "README.md"


@pytest.mark.filterwarnings("ignore:lbfgs failed to converge")  # some cells of the grid, as a user would see
def test_code_of_the_readme(tmp_path, monkeypatch):
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    assert len(blocks) == 8
    session = {}
    monkeypatch.chdir(tmp_path)
    matplotlib.use("Agg")
    for block in blocks:
        exec(compile(block, str(README), "exec"), session)
    # Which eps wins may hang on a machine's rounding; an untrained model's worst tenth is above 0.1.
    assert session["search"].best_score_ > -0.07
    assert session["losses"].grad.count_nonzero() == 26
    assert session["found"][:25].sum() > 15
    assert (tmp_path / "tails.png").stat().st_size > 10_000
