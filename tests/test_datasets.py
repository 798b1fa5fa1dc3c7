"""Loaders: small IDX files written here, a stand-in for OpenML, and the real files where they are."""

import gzip
import hashlib
from urllib.error import URLError

import numpy as np
import pytest

from riskvae.datasets import _images as datasets
from riskvae.datasets import fetch_fashion_mnist, fetch_mnist, read_idx

FETCHERS = {"mnist": fetch_mnist, "fashion_mnist": fetch_fashion_mnist}


@pytest.fixture(autouse=True)
def isolated(monkeypatch, tmp_path):
    """No real data, no real cache, and no download."""
    monkeypatch.delenv("RISKVAE_DATA", raising=False)
    monkeypatch.setenv("SCIKIT_LEARN_DATA", str(tmp_path / "cache"))

    def offline(*args, **kwargs):
        raise AssertionError("a download was tried")

    monkeypatch.setattr(datasets, "fetch_openml", offline)


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    return {
        "train-images-idx3-ubyte": rng.integers(0, 256, (60, 28, 28), np.uint8),
        "train-labels-idx1-ubyte": rng.integers(0, 10, 60, np.uint8),
        "t10k-images-idx3-ubyte": rng.integers(0, 256, (10, 28, 28), np.uint8),
        "t10k-labels-idx1-ubyte": rng.integers(0, 10, 10, np.uint8),
    }


def idx(array):
    """The format by its definition, written without the library."""
    head = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    return head + array.tobytes()


@pytest.fixture
def published(monkeypatch, arrays):
    """Let the small arrays pass for the published ones."""
    sums = {name: hashlib.sha256(idx(array)).hexdigest() for name, array in arrays.items()}
    monkeypatch.setattr(datasets, "_CHECKSUMS", {"mnist": sums, "fashion_mnist": sums})
    monkeypatch.setattr(datasets, "_N_TRAIN", 60)


def write(folder, arrays, packed=True):
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in arrays.items():
        if packed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(idx(array)))
        else:
            (folder / name).write_bytes(idx(array))


def assert_is(found, arrays, part="train"):
    X, y = found
    images, labels = (
        array for name, array in arrays.items() if name.startswith({"train": "train", "test": "t10k"}[part])
    )
    assert X.dtype == np.float32
    assert y.dtype == np.int64
    np.testing.assert_array_equal(X, images.reshape(len(images), 784).astype(np.float32) / np.float32(255))
    np.testing.assert_array_equal(y, labels)


@pytest.mark.parametrize("name", FETCHERS)
@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("by_variable", [True, False])
def test_idx_files(monkeypatch, tmp_path, arrays, published, name, nested, packed, by_variable):
    write(tmp_path / "here" / (name if nested else ""), arrays, packed)
    if by_variable:
        monkeypatch.setenv("RISKVAE_DATA", str(tmp_path / "here"))
    home = None if by_variable else tmp_path / "here"
    for subset in ("train", "test"):
        assert_is(FETCHERS[name](subset=subset, data_home=home, return_X_y=True), arrays, subset)
    bunch = FETCHERS[name](data_home=home)
    assert bunch.data.shape == (60, 784)
    assert bunch.target.shape == (60,)


def test_openml_once_then_the_cache(monkeypatch, tmp_path, arrays, published):
    calls = []

    def openml(name, **kwargs):
        calls.append(name)
        images = np.concatenate([arrays["train-images-idx3-ubyte"], arrays["t10k-images-idx3-ubyte"]])
        labels = np.concatenate([arrays["train-labels-idx1-ubyte"], arrays["t10k-labels-idx1-ubyte"]])
        return images.reshape(-1, 784).astype(float), labels.astype(str).astype(object)

    monkeypatch.setattr(datasets, "fetch_openml", openml)
    for home in (None, tmp_path / "home"):
        calls.clear()
        for subset in ("train", "test", "train"):
            assert_is(fetch_mnist(subset=subset, data_home=home, return_X_y=True), arrays, subset)
        assert calls == ["mnist_784"]


def test_openml_with_other_contents_is_used_with_a_warning_and_not_kept(monkeypatch, tmp_path, arrays):
    def openml(name, **kwargs):
        return np.zeros((70, 784)), np.zeros(70).astype(int).astype(str)

    monkeypatch.setattr(datasets, "fetch_openml", openml)
    monkeypatch.setattr(datasets, "_N_TRAIN", 60)
    with pytest.warns(UserWarning, match="OpenML's Fashion-MNIST is not the published .* used, but not saved"):
        assert fetch_fashion_mnist(subset="test").data.shape == (10, 784)
    assert not list((tmp_path / "cache").rglob("*ubyte*"))


def test_without_a_network_the_files_are_named(monkeypatch):
    def openml(name, **kwargs):
        raise URLError("no such host")

    monkeypatch.setattr(datasets, "fetch_openml", openml)
    with pytest.raises(OSError, match=r"no such host.*Put t10k-images-idx3-ubyte\.gz, .*into a folder 'mnist'"):
        fetch_mnist(subset="test")


def test_damaged_files_are_told(tmp_path, arrays):
    write(tmp_path / "mnist", arrays)
    with pytest.raises(ValueError, match=r"train-images-idx3-ubyte\.gz is not the published .*sha256.*fetch it again"):
        fetch_mnist(data_home=tmp_path)
    path = tmp_path / "mnist" / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="is not a complete gzip file"):
        fetch_mnist(data_home=tmp_path)


def test_files_of_the_other_set_in_the_same_folder_are_passed_over(monkeypatch, tmp_path, arrays, published):
    shifted = {name: array + 1 for name, array in arrays.items()}
    sums = {name: hashlib.sha256(idx(array)).hexdigest() for name, array in shifted.items()}
    monkeypatch.setitem(datasets._CHECKSUMS, "fashion_mnist", sums)
    write(tmp_path, arrays)
    write(tmp_path / "more", shifted)
    monkeypatch.setenv("RISKVAE_DATA", str(tmp_path / "more"))
    assert_is(fetch_mnist(data_home=tmp_path, return_X_y=True), arrays)
    assert_is(fetch_fashion_mnist(data_home=tmp_path, return_X_y=True), shifted)
    monkeypatch.delenv("RISKVAE_DATA")
    with pytest.raises(AssertionError, match="a download was tried"):
        fetch_fashion_mnist(data_home=tmp_path)


def test_looking_for_files_creates_nothing(monkeypatch, tmp_path, arrays, published):
    write(tmp_path / "data", arrays)
    monkeypatch.setenv("RISKVAE_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("SCIKIT_LEARN_DATA", "/proc/nowhere")
    fetch_mnist(data_home=tmp_path / "home")
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize(
    "content", [b"", b"\0\0\x08", b"\0\0\x08\x01", b"\0\0\x0d\x01\0\0\0\1\0", b"\0\0\x08\x01\0\0\0\5ab"]
)
def test_files_of_another_format(tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(ValueError, match="is not an IDX file of unsigned bytes, or is truncated"):
        read_idx(tmp_path / "file")


def test_read_idx(tmp_path, arrays):
    write(tmp_path, arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(read_idx(tmp_path / f"{name}.gz"), array)


def test_unknown_subset():
    with pytest.raises(ValueError, match=r"subset must be one of 'train', 'test'; got 'tset'\. Did you mean 'test'\?"):
        fetch_mnist(subset="tset")


@pytest.mark.parametrize(("name", "mean"), [("mnist", 0.1307), ("fashion_mnist", 0.2860)])
def test_the_real_files(data_folder, name, mean):
    X, y = FETCHERS[name](data_home=data_folder, return_X_y=True)
    assert X.shape == (60_000, 784)
    assert X.mean(dtype=float) == pytest.approx(mean, abs=5e-5)
    assert (X.min(), X.max()) == (0, 1)
    assert sorted(np.unique(y)) == list(range(10))
    assert len(FETCHERS[name](data_home=data_folder, subset="test").target) == 10_000
