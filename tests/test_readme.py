"""The README's code runs as pasted, block after block, in one session."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"


@pytest.mark.filterwarnings("ignore:lbfgs failed to converge")  # some cells of the grid, as a user would see
def test_code_of_the_readme():
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    assert len(blocks) == 5
    session = {}
    for block in blocks:
        exec(compile(block, str(README), "exec"), session)
    # Which eps wins may hang on a machine's rounding; an untrained model's worst tenth is above 0.1.
    assert session["search"].best_score_ > -0.07
    assert session["losses"].grad.count_nonzero() == 26
