"""Hold what ``python -m build`` made in dist/ to the repository.

    python release/check.py [TAG]

The source distribution has every file of the repository and the wheel every file of the package; both have nothing else
but what the build writes, and the version of riskvae, as TAG has where it is given ("v0.2.0").
"""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).parents[1]
WRITTEN = ("PKG-INFO", "setup.cfg", "riskvae.egg-info/")  # by setuptools, into a source distribution


def tracked() -> set[str]:
    """Files that git knows, or would if they were added."""
    if not (ROOT / ".git").exists():
        raise SystemExit("release/check.py compares dist/ with a clone: this folder is not one")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    told = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout
    return {name for name in told.split("\0") if name and (ROOT / name).exists()}


def version() -> str:
    """What riskvae/__init__.py says, without importing it."""
    text = (ROOT / "riskvae" / "__init__.py").read_text()
    return next(line.split('"')[1] for line in text.splitlines() if line.startswith("__version__ = "))


def faults(files: set[str], number: str, tag: str | None = None) -> list[str]:
    """What is wrong with dist/, as lines to print."""
    found = []
    if tag is not None and tag != f"v{number}":
        found.append(f"the tag is {tag}, and riskvae.__version__ is {number}")
    source, wheel = (ROOT / "dist" / f"riskvae-{number}{end}" for end in (".tar.gz", "-py3-none-any.whl"))
    strangers = {path.name for path in (ROOT / "dist").glob("*")} - {source.name, wheel.name}
    found += [f"dist/{name} is not of this version" for name in sorted(strangers)]
    for path in (source, wheel):
        if not path.exists():
            return [*found, f"dist/{path.name} is missing"]
    with tarfile.open(source) as archive:
        members = [member.name for member in archive if not member.isdir()]
    there = {str(PurePosixPath(*PurePosixPath(name).parts[1:])) for name in members}
    found += [f"{source.name} lacks {name}" for name in sorted(files - there)]
    others = {name for name in there - files if not name.startswith(WRITTEN)}
    found += [f"{source.name} has {name}, which is not in the repository" for name in sorted(others)]
    package = {name for name in files if name.startswith("riskvae/")}
    inside = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    found += [f"{wheel.name} lacks {name}" for name in sorted(package - inside)]
    found += [f"{wheel.name} has {name}, which is not in the repository" for name in sorted(inside - package)]
    return found


def main(arguments: list[str]) -> int:
    """Print what is wrong; 1 if anything is."""
    files, number = tracked(), version()
    found = faults(files, number, *filter(None, arguments))  # `make dist` without a tag passes an empty one
    print("\n".join(found) if found else f"riskvae {number}: source and wheel hold the {len(files)} files they should")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
