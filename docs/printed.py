"""Run the code of README, first page and guide, and write what it prints into the text blocks that follow it.

``python docs/printed.py [PAGE ...]``; then read the pages again: sentences about the numbers stay as they are.
"""

import os
import re
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from helpers import PRINTED, run_blocks  # noqa: E402


def refresh(page, alone):
    """Write the outputs of a page anew."""
    ran = iter(run_blocks(page, alone=alone, compare=False))

    def block(match):
        printed = next(ran).printed
        if match[2] is None:
            return match[0]
        start, end = (place - match.start() for place in match.span(2))
        return match[0][:start] + printed + match[0][end:]

    page.write_text(PRINTED.sub(block, page.read_text()))


if __name__ == "__main__":
    pages = [Path(name).resolve() for name in sys.argv[1:]]
    pages = pages or [ROOT / "README.md", ROOT / "docs" / "index.md", *sorted((ROOT / "docs" / "guide").glob("*.md"))]
    os.chdir(tempfile.mkdtemp())  # some write files
    for page in pages:
        if re.search(r"^```python", page.read_text(), flags=re.MULTILINE):
            refresh(page, alone=page.name == "README.md")
            print(page.relative_to(ROOT))
