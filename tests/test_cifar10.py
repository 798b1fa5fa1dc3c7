"""CIFAR-10: small files written here, a stand-in for OpenML, and the real part where it is."""

import gzip
import io
import os
import tarfile
import warnings
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest

from riskvae.datasets import _cifar10, fetch_cifar10

REAL = os.environ.get("RISKVAE_DATA")


@pytest.fixture(autouse=True)
def isolated(monkeypatch, tmp_path):
    """No real data, no real cache, no download, and sets of 50 and 10 images."""
    monkeypatch.delenv("RISKVAE_DATA", raising=False)
    monkeypatch.setenv("SCIKIT_LEARN_DATA", str(tmp_path / "cache"))
    monkeypatch.setattr(_cifar10, "_SIZES", {"train": 50, "test": 10})

    def offline(*args, **kwargs):
        raise AssertionError("a download was tried")

    monkeypatch.setattr(_cifar10, "fetch_openml", offline)


@pytest.fixture
def rows():
    """60 rows of a label and three planes of pixels."""
    rng = np.random.default_rng(0)
    return np.concatenate([np.arange(60)[:, None] % 10, rng.integers(0, 256, (60, 3072))], 1).astype(np.uint8)


def contents(rows):
    files = {f"data_batch_{i + 1}.bin": rows[10 * i : 10 * i + 10].tobytes() for i in range(5)}
    return {**files, "test_batch.bin": rows[50:].tobytes()}


def write(folder, files, packed=False):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / (f"{name}.gz" if packed else name)).write_bytes(gzip.compress(content) if packed else content)


def archive(folder, files):
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(folder / "cifar-10-binary.tar.gz", "w:gz") as out:
        for name, content in files.items():
            told = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            told.size = len(content)
            out.addfile(told, io.BytesIO(content))


def assert_is(found, rows):
    X, y = found
    assert X.dtype == np.float32
    assert y.dtype == np.int64
    np.testing.assert_array_equal(y, rows[:, 0])
    np.testing.assert_array_equal(X, rows[:, 1:].astype(np.float32) / np.float32(255))


@pytest.mark.parametrize("where", ["files", "packed", "archive"])
@pytest.mark.parametrize("inner", ["cifar10", "."])
def test_files_of_the_publisher_are_read(tmp_path, rows, where, inner, monkeypatch):
    folder = tmp_path / "data" / inner
    if where == "archive":
        archive(folder, contents(rows))
    else:
        write(folder, contents(rows), packed=where == "packed")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_is(fetch_cifar10(data_home=tmp_path / "data", return_X_y=True), rows[:50])
        monkeypatch.setenv("RISKVAE_DATA", str(tmp_path / "data"))
        assert_is(fetch_cifar10(subset="test", return_X_y=True), rows[50:])
    found = fetch_cifar10(subset="test")
    assert found.target_names[found.target[3]] == "cat"


def test_a_part_of_the_files_is_told(tmp_path, rows):
    files = contents(rows)
    del files["data_batch_4.bin"]
    write(tmp_path, files)
    with pytest.warns(
        UserWarning, match=r"40 of the 50 images of subset='train' were found\. To .*, put cifar-10-binary"
    ):
        found = fetch_cifar10(data_home=tmp_path, return_X_y=True)
    assert_is(found, np.delete(rows[:50], np.s_[30:40], 0))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda content: content[:-1], r"data_batch_2\.bin is truncated.*30,729 bytes.*fetch it again"),
        (lambda content: b"", r"data_batch_2\.bin is truncated"),
        (lambda content: content[: 3074 * 2], "CIFAR-100 have two labels"),
        (lambda content: bytes([11]) + content[1:], "image 0 has the label 11"),
    ],
    ids=["cut", "empty", "another set", "labels"],
)
def test_files_that_are_something_else_are_refused_by_name(tmp_path, rows, spoil, message):
    files = contents(rows)
    files["data_batch_2.bin"] = spoil(files["data_batch_2.bin"])
    write(tmp_path, files)
    with pytest.raises(ValueError, match=message):
        fetch_cifar10(data_home=tmp_path)
    for path in tmp_path.glob("*.bin"):
        path.unlink()
    archive(tmp_path, files)
    with pytest.raises(ValueError, match=message.replace(r"\.bin is", r"\.bin in .*tar\.gz is")):
        fetch_cifar10(data_home=tmp_path)


@pytest.mark.parametrize("name", ["cifar-10-binary.tar.gz", "data_batch_1.bin.gz"])
def test_cut_archives_are_refused_by_name(tmp_path, rows, name):
    if name.endswith("tar.gz"):
        archive(tmp_path, contents(rows))
    else:
        write(tmp_path, contents(rows), packed=True)
    path = tmp_path / name
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ValueError, match=f"{name} is not a complete"):
        fetch_cifar10(data_home=tmp_path)


def test_what_openml_gives_is_kept_in_the_publishers_format(tmp_path, rows, monkeypatch):
    asked = []

    def openml(name, **options):
        asked.append(name)
        return rows[:, 1:].astype(float), np.array([str(label) for label in rows[:, 0]])

    monkeypatch.setattr(_cifar10, "fetch_openml", openml)
    for _ in range(2):
        assert_is(fetch_cifar10(return_X_y=True), rows[:50])
        assert_is(fetch_cifar10(subset="test", return_X_y=True), rows[50:])
    assert asked == ["CIFAR_10"]
    kept = Path(os.environ["SCIKIT_LEARN_DATA"]) / "riskvae" / "cifar10"
    assert gzip.decompress((kept / "data_batch_3.bin.gz").read_bytes()) == contents(rows)["data_batch_3.bin"]


def test_without_data_and_network_the_message_says_what_to_do(monkeypatch):
    def offline(*args, **kwargs):
        raise URLError("no network")

    monkeypatch.setattr(_cifar10, "fetch_openml", offline)
    with pytest.raises(
        OSError, match=r"RISKVAE_DATA.*no network.*Put cifar-10-binary\.tar\.gz into a folder 'cifar10'"
    ):
        fetch_cifar10()


def test_a_wrong_subset_is_told():
    with pytest.raises(ValueError, match="subset"):
        fetch_cifar10(subset="tset")


@pytest.mark.skipif(
    not REAL or not (Path(REAL) / "cifar10" / "test_batch.bin.gz").is_file(), reason="needs RISKVAE_DATA with cifar10"
)
def test_the_real_part(monkeypatch):
    """2,000 test images, 200 of each class; photographs are brighter above than below, and neighbours are alike."""
    monkeypatch.setenv("RISKVAE_DATA", REAL)
    monkeypatch.setattr(_cifar10, "_SIZES", {"train": 50_000, "test": 10_000})
    with pytest.warns(UserWarning, match=r"2,000 of the 10,000"):
        X, y = fetch_cifar10(subset="test", return_X_y=True)
    assert X.shape == (2000, 3072)
    np.testing.assert_array_equal(np.bincount(y), [200] * 10)
    images = X.reshape(-1, 3, 32, 32)
    assert np.corrcoef(images[..., :-1].ravel()[::97], images[..., 1:].ravel()[::97])[0, 1] > 0.9
    assert np.allclose(images.mean((0, 2, 3)), [0.491, 0.482, 0.447], atol=0.01)  # as of the whole set
