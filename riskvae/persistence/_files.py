"""Files that are whole at any time."""

import os
import secrets
from pathlib import Path

__all__ = ["file_at", "replace"]


def file_at(path: str | os.PathLike[str], example: str) -> Path:
    """The file that a path names; raises where there can be none."""
    file = Path(os.path.expanduser(os.fspath(path)))
    if not file.parent.is_dir() or (file.exists() and not file.is_file()):
        why = "it is a folder" if file.is_dir() else "it is not a regular file"
        raise ValueError(
            f"path={os.fspath(path)!r} must name a file in a folder that exists, such as {example!r}; "
            f"{why if file.parent.is_dir() else f'there is no folder {str(file.parent)!r}'}."
        )
    return file


def replace(file: Path, content: bytes) -> None:
    """Write a file in one step: who reads it meanwhile sees the old one, or the new one, but never a part."""
    part = file.with_name(f".{secrets.token_hex(8)}.part")  # of several threads, each has its own
    try:
        with part.open("xb") as new:
            new.write(content)
        os.replace(part, file)
    finally:
        part.unlink(missing_ok=True)
