"""Loaders of image data, from local IDX files or from OpenML."""

import gzip
import hashlib
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import fetch_openml

from riskvae._sklearn import Bunch
from riskvae._validation import check_parameters, choice

__all__ = ["fetch_fashion_mnist", "fetch_mnist", "read_idx"]

# Images and labels of each part, by their publishers' names.
_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
_N_TRAIN = 60_000
# SHA-256 of the unpacked files.
_CHECKSUMS = {
    "mnist": {
        "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    },
    "fashion_mnist": {
        "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    },
}
_OPENML = {"mnist": "mnist_784", "fashion_mnist": "Fashion-MNIST"}


def fetch_mnist(
    *, subset: str = "train", data_home: str | os.PathLike[str] | None = None, return_X_y: bool = False
) -> Any:
    """Load MNIST: 70,000 handwritten digits, 28 x 28 pixels.

    The publishers' IDX files (gzipped or not) are searched for in ``data_home``, in the folder that the environment
    variable ``RISKVAE_DATA`` names, and in the subfolder "mnist" of each. If they are not there, the data are
    downloaded from OpenML and stored as IDX files in scikit-learn's data home. Files are compared with the published
    contents.

    Parameters
    ----------
    subset : {"train", "test"}, default="train"
        Whether to load the 60,000 training images or the 10,000 test images.
    data_home : path, default=None
        Folder of the IDX files, and of the cache.
    return_X_y : bool, default=False
        Whether to return ``(data, target)`` instead of a Bunch.

    Returns
    -------
    Bunch
        ``data`` of shape (n, 784), float32 in [0, 1]; ``target`` of shape (n,), int64.

    Raises
    ------
    ValueError
        If the contents of a file differ from the published ones.

    References
    ----------
    LeCun, Cortes and Burges, "The MNIST database of handwritten digits"; CC BY-SA 3.0.

    Examples
    --------
    >>> from riskvae.datasets import fetch_mnist
    >>> X, y = fetch_mnist(subset="test", return_X_y=True)  # doctest: +SKIP
    """
    return _fetch("mnist", subset, data_home, return_X_y)


def fetch_fashion_mnist(
    *, subset: str = "train", data_home: str | os.PathLike[str] | None = None, return_X_y: bool = False
) -> Any:
    """Load Fashion-MNIST: 70,000 pictures of clothes, 28 x 28 pixels.

    The publishers' IDX files (gzipped or not) are searched for in ``data_home``, in the folder that the environment
    variable ``RISKVAE_DATA`` names, and in the subfolder "fashion_mnist" of each. If they are not there, the data are
    downloaded from OpenML and stored as IDX files in scikit-learn's data home. Files are compared with the published
    contents.

    Parameters
    ----------
    subset : {"train", "test"}, default="train"
        Whether to load the 60,000 training images or the 10,000 test images.
    data_home : path, default=None
        Folder of the IDX files, and of the cache.
    return_X_y : bool, default=False
        Whether to return ``(data, target)`` instead of a Bunch.

    Returns
    -------
    Bunch
        ``data`` of shape (n, 784), float32 in [0, 1]; ``target`` of shape (n,), int64.

    Raises
    ------
    ValueError
        If the contents of a file differ from the published ones.

    References
    ----------
    Xiao, Rasul and Vollgraf, "Fashion-MNIST: a novel image dataset for benchmarking machine learning
    algorithms" (2017); MIT.

    Examples
    --------
    >>> from riskvae.datasets import fetch_fashion_mnist
    >>> X, y = fetch_fashion_mnist(return_X_y=True)  # doctest: +SKIP
    """
    return _fetch("fashion_mnist", subset, data_home, return_X_y)


def read_idx(path: str | os.PathLike[str]) -> NDArray[np.uint8]:
    """Read an IDX file of unsigned bytes, gzipped or not.

    Parameters
    ----------
    path : path
        File name; if it ends in ".gz", the file is decompressed.

    Returns
    -------
    ndarray of uint8
        Read-only array, in the shape that the file states.

    Raises
    ------
    ValueError
        If the file is damaged or has another format.
    """
    return _parse_idx(unpacked(Path(path)), str(path))


def _fetch(name: str, subset: str, data_home: str | os.PathLike[str] | None, return_X_y: bool) -> Any:
    check_parameters(f"fetch_{name}", {"subset": subset}, {"subset": choice("train", "test")})
    images, labels = (_find(name, file, data_home) for file in _FILES[subset])
    if images is None or labels is None:
        images, labels = _download(name, subset, data_home)
    data = images.reshape(len(images), -1).astype(np.float32)
    data /= 255.0
    target = labels.astype(np.int64)
    return (data, target) if return_X_y else Bunch(data=data, target=target, name=name, subset=subset)


def _find(name: str, file: str, data_home: str | os.PathLike[str] | None) -> NDArray[np.uint8] | None:
    """Contents of a local file, verified; None where there is no such file."""
    others = {sums[file] for other, sums in _CHECKSUMS.items() if other != name}
    for folder in folders_of(name, data_home):
        for path in (folder / file, folder / f"{file}.gz"):
            if path.is_file():
                content = unpacked(path)
                # A folder may hold the files of another set, which have the same names.
                if hashlib.sha256(content).hexdigest() not in others - {_CHECKSUMS[name][file]}:
                    _verify(name, file, content, str(path))
                    return _parse_idx(content, str(path))
    return None


def folders_of(name: str, data_home: str | os.PathLike[str] | None) -> Iterator[Path]:
    """Where files of a set may lie, in the order in which they are looked for: the caller's, the user's, the cache."""
    for root in (data_home, os.environ.get("RISKVAE_DATA"), cache_of(data_home)):
        if root:
            yield from (Path(root) / name, Path(root))


def cache_of(data_home: str | os.PathLike[str] | None) -> Path:
    """Folder of what was downloaded, in scikit-learn's data home; looking there does not create it."""
    return Path(data_home or os.environ.get("SCIKIT_LEARN_DATA") or "~/scikit_learn_data").expanduser() / "riskvae"


def _download(name: str, subset: str, data_home: str | os.PathLike[str] | None) -> list[NDArray[np.uint8]]:
    """Both parts from OpenML, kept as IDX files if their contents are the published ones."""
    try:
        X, y = fetch_openml(
            _OPENML[name], version=1, data_home=data_home, as_frame=False, return_X_y=True, parser="liac-arff"
        )
    except OSError as error:
        raise OSError(
            f"{name} was found neither in data_home nor in the folder that RISKVAE_DATA names, and cannot be "
            f"downloaded from OpenML ({error}). Put {', '.join(f'{file}.gz' for file in _FILES[subset])} into a folder "
            f"{name!r}, and name the folder above it by data_home or RISKVAE_DATA."
        ) from error
    images, labels = X.astype(np.uint8).reshape(-1, 28, 28), y.astype(np.uint8)
    folder = cache_of(data_home) / name
    folder.mkdir(parents=True, exist_ok=True)
    parts = {"train": slice(None, _N_TRAIN), "test": slice(_N_TRAIN, None)}
    for part, rows in parts.items():
        for file, array in zip(_FILES[part], (images[rows], labels[rows]), strict=True):
            content = _format_idx(array)
            try:
                _verify(name, file, content, f"OpenML's {_OPENML[name]}")
            except ValueError as error:
                warnings.warn(f"{error} The download is used, but not saved.", stacklevel=4)
                continue
            kept_whole(folder / f"{file}.gz", content)
    return [images[parts[subset]], labels[parts[subset]]]


def _verify(name: str, file: str, content: bytes, origin: str) -> None:
    found = hashlib.sha256(content).hexdigest()
    if found != _CHECKSUMS[name][file]:
        raise ValueError(
            f"{origin} is not the published {file} of {name}: its unpacked contents have sha256 {found}, expected "
            f"{_CHECKSUMS[name][file]}. Remove it and fetch it again."
        )


def kept_whole(path: Path, content: bytes) -> None:
    """Write a gzip file, whole or not at all."""
    unfinished = path.with_name(f"{path.name}.part{os.getpid()}")
    with gzip.open(unfinished, "wb", compresslevel=1) as out:
        out.write(content)
    unfinished.replace(path)


def unpacked(path: Path) -> bytes:
    """Contents of a file, unpacked where its name ends in ".gz"."""
    if path.suffix != ".gz":
        return path.read_bytes()
    try:
        return gzip.decompress(path.read_bytes())
    except (OSError, EOFError) as error:
        raise ValueError(f"{path} is not a complete gzip file ({error}). Remove it and fetch it again.") from error


def _parse_idx(content: bytes, origin: str) -> NDArray[np.uint8]:
    # Two zero bytes, the type (8: unsigned byte), the number of dimensions, then each size in 4 bytes.
    n_dims = content[3] if content[:3] == b"\0\0\x08" and len(content) > 3 else 0
    shape = np.frombuffer(content[4 : 4 + 4 * n_dims], ">u4").astype(int)
    start = 4 + 4 * n_dims
    if not n_dims or len(shape) < n_dims or len(content) != start + shape.prod():
        raise ValueError(f"{origin} is not an IDX file of unsigned bytes, or is truncated ({len(content)} bytes).")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _format_idx(array: NDArray[np.uint8]) -> bytes:
    return b"\0\0\x08" + bytes([array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()
