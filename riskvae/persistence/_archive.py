"""The file: a zip of two members, of which nothing is ever executed; read within the memory of its own size."""

import hashlib
import io
import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from riskvae.persistence._files import file_at, replace

__all__ = ["FORMAT", "Tensors", "damaged", "read", "read_document", "write"]

FORMAT = 1
MODEL, TENSORS = "model.json", "tensors.safetensors"

Tensors = dict[str, NDArray[Any]]


_AGAIN = "Save the model again, or fetch the file anew."


def damaged(path: Any, member: str, why: str, remedy: str = _AGAIN) -> ValueError:
    """What to raise where a file is not as it was written."""
    return ValueError(f"{str(path)!r}: {member}: {why}. {remedy}".rstrip())


def write(path: str | os.PathLike[str], document: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> None:
    """Write a document of JSON and its tensors, in one step: a file of that name is always whole."""
    file = file_at(path, "model.riskvae")
    # Arrays must own their memory in order, and what has no dimension keeps none.
    content = save_tensors({name: np.array(value, order="C", copy=True) for name, value in tensors.items()})
    whole = {"format": FORMAT, **document, "sha256": hashlib.sha256(content).hexdigest()}
    text = json.dumps(whole, allow_nan=False, ensure_ascii=False, indent=1).encode()
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for name, member in ((MODEL, text), (TENSORS, content)):
            # A fixed time: equal models make equal files.
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), member)
    replace(file, out.getvalue())


def read(path: str | os.PathLike[str]) -> tuple[dict[str, Any], Tensors]:
    """Document and tensors of a file; a ValueError names file and member where one is not as it was written."""
    document, content = _members(path)
    if hashlib.sha256(content).hexdigest() != document.get("sha256"):
        raise damaged(path, TENSORS, "its contents are not those that model.json was written with")
    try:
        return document, {name: np.array(value) for name, value in load_tensors(content).items()}
    except (SafetensorError, KeyError, ValueError, TypeError, MemoryError, OverflowError) as error:
        raise damaged(path, TENSORS, f"it holds no tensors ({error})") from error


def read_document(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The document alone."""
    return _members(path)[0]


def _members(path: str | os.PathLike[str]) -> tuple[dict[str, Any], bytes]:
    file = Path(os.path.expanduser(os.fspath(path)))
    if not file.is_file():
        what = "it is a folder" if file.is_dir() else "there is no such file"
        raise FileNotFoundError(f"path={os.fspath(path)!r}: {what}.")
    try:
        with zipfile.ZipFile(file) as archive:
            text, content = (_member(path, archive, name) for name in _names(path, archive, file.stat().st_size))
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, RuntimeError, UnicodeDecodeError) as error:
        if _is_pickle(file):
            remedy = "joblib.load opens pickles, which may do anything: only if you trust who wrote it."
            raise damaged(path, "the file", "it is a pickle, and not a model of riskvae", remedy) from error
        raise damaged(path, "the file", f"it is not a model of riskvae, or not complete ({error})") from error
    return _document(path, text), content


def _is_pickle(file: Path) -> bool:
    with file.open("rb") as content:
        return content.read(1) == b"\x80"


def _names(path: Any, archive: zipfile.ZipFile, size: int) -> list[str]:
    """The two members, each once and as long as it says; nothing is unpacked, so none can grow."""
    found = archive.infolist()
    names = [member.filename for member in found]
    if names != [MODEL, TENSORS]:
        told = ", ".join(map(repr, names[:5]))
        raise damaged(path, "the file", f"its members are {told or 'none'}; expected {MODEL!r} and {TENSORS!r}")
    for member in found:
        plain = member.compress_type == zipfile.ZIP_STORED and member.compress_size == member.file_size
        if not plain or member.flag_bits & 1 or member.file_size > size:
            raise damaged(
                path, member.filename, "it is packed, encrypted or larger than the file, which models are not"
            )
    return names


def _member(path: Any, archive: zipfile.ZipFile, name: str) -> bytes:
    try:
        return archive.read(name)
    except (zipfile.BadZipFile, EOFError) as error:
        raise damaged(path, name, f"it is not complete ({error})") from error


def _document(path: Any, text: bytes) -> dict[str, Any]:
    try:
        document = json.loads(text.decode(), object_pairs_hook=_once, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise damaged(path, MODEL, f"it is not JSON ({error})") from error
    number = document.get("format") if isinstance(document, dict) else None
    if type(number) is not int or number < 1:
        raise damaged(path, MODEL, f"its format must be an integer of at least 1; got {str(number)[:50]!r}")
    if number > FORMAT:
        version = repr(document.get("riskvae", "?"))[:50]
        raise ValueError(
            f"{str(path)!r}: {MODEL}: format {number}, written by riskvae {version}, is newer than this version reads "
            f"(format {FORMAT}). Upgrade riskvae."
        )
    return document


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name occurs twice")
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")
