"""Write the addresses of a release into README.md and pyproject.toml: its page on the package index has links then.

    python release/addresses.py HOME TAG

HOME is the address of the repository, as https://github.com/OWNER/riskvae, and TAG the tag of the release. In the
repository links are relative, and work in every fork and clone; an index shows README.md alone, and installs by name.
Run it in a checkout that is built from and thrown away.
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"(!?)\[([^\[\]]*)\]\(([^)\s]+)\)")
CODE = re.compile(r"(^```.*?^```$)", flags=re.DOTALL | re.MULTILINE)
CLONE = re.compile(r"`pip\s+install \.` in a clone of this repository; the package is not on an index yet")


def absolute(text: str, home: str, tag: str) -> str:
    """Markdown whose links to files of the repository are addresses; those within the page stay."""

    def write(link: re.Match[str]) -> str:
        picture, label, target = link.groups()
        if not target.startswith(("https:", "http:", "mailto:", "#")):
            target = f"{home}/{'raw' if picture else 'blob'}/{tag}/{target}"
        return f"{picture}[{label}]({target})"

    parts = CODE.split(text)  # what stands at odd places is code
    return "".join(part if i % 2 else LINK.sub(write, part) for i, part in enumerate(parts))


def by_name(text: str) -> str:
    """Markdown that installs from an index, not from a clone."""
    return CLONE.sub("`pip install riskvae`", text).replace("pip install '.[", "pip install 'riskvae[")


def project_urls(text: str, home: str, tag: str) -> str:
    """The project's file with a table of addresses, which it must not have yet."""
    if "[project.urls]" in text:
        raise SystemExit("pyproject.toml has addresses already; begin with a clean checkout")
    pages = {"Source": home, "Documentation": f"{home}/blob/{tag}/docs/guide/index.md"}
    pages |= {"Changelog": f"{home}/blob/{tag}/CHANGELOG.md", "Issues": f"{home}/issues"}
    return f"{text}\n[project.urls]\n" + "".join(f'{name} = "{page}"\n' for name, page in pages.items())


def main(arguments: list[str]) -> None:
    """Rewrite both files."""
    if len(arguments) != 2 or not arguments[0].startswith("https://"):
        raise SystemExit(__doc__)
    home, tag = arguments[0].rstrip("/"), arguments[1]
    readme, project = (ROOT / name for name in ("README.md", "pyproject.toml"))
    readme.write_text(by_name(absolute(readme.read_text(), home, tag)))
    project.write_text(project_urls(project.read_text(), home, tag))


if __name__ == "__main__":
    main(sys.argv[1:])
