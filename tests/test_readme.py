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
    assert session["search"].best_params_ == {"eps": 0.4}
    assert session["losses"].grad.count_nonzero() == 26
