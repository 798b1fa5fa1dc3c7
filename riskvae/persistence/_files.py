"""Files that are whole at any time."""

import os
from pathlib import Path

__all__ = ["file_at", "replace"]


def file_at(path: str | os.PathLike[str], example: str) -> Path:
    """The file that a path names; raises where there can be none."""
    file = Path(os.path.expanduser(os.fspath(path)))
    if file.is_dir() or not file.parent.is_dir():
        raise ValueError(
            f"path={os.fspath(path)!r} must name a file in a folder that exists, such as {example!r}; "
            f"{'it is a folder' if file.is_dir() else f'there is no folder {str(file.parent)!r}'}."
        )
    return file


def replace(file: Path, content: bytes) -> None:
    """Write a file in one step: who reads it meanwhile sees the old one, or the new one, but never a part."""
    part = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        part.write_bytes(content)
        os.replace(part, file)
    finally:
        part.unlink(missing_ok=True)
