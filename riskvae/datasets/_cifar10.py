"""CIFAR-10, from its publisher's binary files or from OpenML."""

import os
import tarfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import fetch_openml

from riskvae._sklearn import Bunch
from riskvae._validation import check_parameters, choice
from riskvae.datasets._images import cache_of, folders_of, kept_whole, unpacked

__all__ = ["fetch_cifar10"]

Bytes = NDArray[np.uint8]

_FILES = {"train": tuple(f"data_batch_{i}.bin" for i in range(1, 6)), "test": ("test_batch.bin",)}
_SIZES = {"train": 50_000, "test": 10_000}
_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_PIXELS = 3 * 32 * 32
_ROW = 1 + _PIXELS  # a label, then the red, the green and the blue values
_ARCHIVE = "cifar-10-binary.tar.gz"


def fetch_cifar10(
    *, subset: str = "train", data_home: str | os.PathLike[str] | None = None, return_X_y: bool = False
) -> Any:
    """Load CIFAR-10: 60,000 color photographs of ten kinds of objects, 32 x 32 pixels.

    The publisher's binary version, "cifar-10-binary.tar.gz" or the files in it (gzipped or not), is searched for in
    ``data_home``, in the folder that the environment variable ``RISKVAE_DATA`` names, and in the subfolder "cifar10" of
    each. If it is not there, the data are downloaded from OpenML and stored in that format in scikit-learn's data home.
    If only some of the files are there, their images are loaded, with a warning.

    Parameters
    ----------
    subset : {"train", "test"}, default="train"
        Whether to load the 50,000 training images or the 10,000 test images.
    data_home : path, default=None
        Folder of the files, and of the cache.
    return_X_y : bool, default=False
        Whether to return ``(data, target)`` instead of a Bunch.

    Returns
    -------
    Bunch
        ``data`` of shape (n, 3072), float32 in [0, 1]: all red values of an image, then the green and the blue ones,
        that is, ``image_shape=(3, 32, 32)``; ``target`` of shape (n,), int64; ``target_names``.

    Raises
    ------
    ValueError
        If a file is truncated, or not a CIFAR-10 file.

    Warns
    -----
    UserWarning
        If some images are missing.

    References
    ----------
    Krizhevsky, "Learning multiple layers of features from tiny images" (2009).

    Examples
    --------
    >>> from riskvae.datasets import fetch_cifar10
    >>> X, y = fetch_cifar10(subset="test", return_X_y=True)  # doctest: +SKIP
    """
    check_parameters("fetch_cifar10", {"subset": subset}, {"subset": choice("train", "test")})
    found = _find(subset, data_home)
    if found is None:
        found = _download(subset, data_home)
    if len(found) < _SIZES[subset]:
        warnings.warn(
            f"fetch_cifar10: {len(found):,} of the {_SIZES[subset]:,} images of subset={subset!r} were found. To get "
            f"all of them, put {_ARCHIVE}, or all of {', '.join(_FILES[subset])}, into the folder.",
            stacklevel=2,
        )
    data = found[:, 1:].astype(np.float32)
    data /= 255.0
    target = found[:, 0].astype(np.int64)
    if return_X_y:
        return data, target
    return Bunch(data=data, target=target, target_names=list(_CLASSES), name="cifar10", subset=subset)


def _find(subset: str, data_home: str | os.PathLike[str] | None) -> Bytes | None:
    """Rows of the files that are there, from the first folder that has one; None where none has."""
    for folder in folders_of("cifar10", data_home):
        parts = [
            _rows(unpacked(path), str(path))
            for file in _FILES[subset]
            for path in (folder / file, folder / f"{file}.gz")
            if path.is_file()
        ]
        if not parts and (folder / _ARCHIVE).is_file():
            parts = _in_archive(folder / _ARCHIVE, subset)
        if parts:
            return np.concatenate(parts)
    return None


def _in_archive(path: Path, subset: str) -> list[Bytes]:
    try:
        with tarfile.open(path) as archive:
            members = {Path(name).name: name for name in archive.getnames()}
            files = [file for file in _FILES[subset] if file in members]
            contents = [archive.extractfile(members[file]) for file in files]
            return [_rows(part.read(), f"{file} in {path}") for file, part in zip(files, contents, strict=True) if part]
    except (OSError, EOFError, tarfile.TarError) as error:
        raise ValueError(f"{path} is not a complete archive ({error}). Remove it and fetch it again.") from error


def _rows(content: bytes, origin: str) -> Bytes:
    """Rows of a label and 3,072 values each; raises where a file is of something else."""
    if not content or len(content) % _ROW:
        also = " Those of CIFAR-100 have two labels for each image." if len(content) % (_ROW + 1) == 0 else ""
        raise ValueError(
            f"{origin} is truncated, or not of CIFAR-10: its {len(content):,} bytes are not a whole number of images, "
            f"each a label and 3 x 32 x 32 values ({_ROW:,} bytes).{also} Remove it and fetch it again."
        )
    rows = np.frombuffer(content, np.uint8).reshape(-1, _ROW)
    if rows[:, 0].max() >= len(_CLASSES):
        place = int(rows[:, 0].argmax())
        raise ValueError(
            f"{origin} is not of CIFAR-10: image {place} has the label {rows[place, 0]}, but labels must be 0 to 9. "
            "Remove it and fetch it again."
        )
    return rows


def _download(subset: str, data_home: str | os.PathLike[str] | None) -> Bytes:
    """All images from OpenML, kept as files of the publisher's format."""
    try:
        X, y = fetch_openml("CIFAR_10", version=1, data_home=data_home, as_frame=False, return_X_y=True, parser="auto")
    except OSError as error:
        raise OSError(
            "cifar10 was found neither in data_home nor in the folder that RISKVAE_DATA names, and cannot be "
            f"downloaded from OpenML ({error}). Put {_ARCHIVE} into a folder 'cifar10', and name the folder above it "
            "by data_home or RISKVAE_DATA."
        ) from error
    rows = np.concatenate((y.astype(np.uint8)[:, None], X.astype(np.uint8)), 1)
    parts = {"train": rows[: _SIZES["train"]], "test": rows[_SIZES["train"] :]}
    folder = cache_of(data_home) / "cifar10"
    folder.mkdir(parents=True, exist_ok=True)
    for part, files in _FILES.items():
        for file, some in zip(files, np.array_split(parts[part], len(files)), strict=True):
            kept_whole(folder / f"{file}.gz", some.tobytes())
    return parts[subset]
