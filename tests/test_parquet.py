"""Tables in files: the rows of an array, in pieces; shuffled, held out, scored; mistakes named by file and row."""

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import small
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from torch.utils.data import DataLoader

pa = pytest.importorskip("pyarrow")
import pyarrow.feather  # noqa: E402
import pyarrow.parquet  # noqa: E402

from riskvae import BetaVAE, QuantileVAE, RiskAwareVAE  # noqa: E402
from riskvae.datasets import ParquetRows  # noqa: E402
from riskvae.estimators._judging import set_aside  # noqa: E402
from riskvae.training._blocks import Blocks  # noqa: E402

NAMES = ["a", "b", "c"]


@pytest.fixture(scope="module")
def table():
    x = np.random.default_rng(0).normal(size=(1000, 3)).astype(np.float32)
    return pd.DataFrame(x, columns=NAMES)


@pytest.fixture
def folder(table, tmp_path):
    """Three files with row groups of 70 rows."""
    for i, part in enumerate((table[:400], table[400:450], table[450:])):
        part.to_parquet(tmp_path / f"part{i}.parquet", row_group_size=70, index=False)
    return tmp_path


def feather(table, path):
    pyarrow.feather.write_feather(table, path, chunksize=70)
    return path


def batches(table):
    return pa.Table.from_pandas(table, preserve_index=False).to_batches(max_chunksize=70)


# ------------------------------------------------------------------------------------------------ all rows


@pytest.mark.parametrize("kind", ["folder", "file", "files", "feather", "record batches"])
def test_all_rows_come_in_order(kind, table, folder, tmp_path):
    table.to_parquet(folder / "whole.pq", row_group_size=300, index=False)
    source = {
        "folder": folder, "file": folder / "whole.pq", "files": sorted(folder.glob("part*")),
        "feather": feather(table, tmp_path / "t.feather"), "record batches": batches(table),
    }[kind]  # fmt: skip
    if kind == "folder":
        (folder / "whole.pq").unlink()
        (tmp_path / "t.feather").unlink()
    rows = ParquetRows(source, batch_size=64)
    assert rows.columns == tuple(NAMES)
    assert len(rows) == rows.n_rows == 1000
    places, found = (torch.cat(parts) for parts in zip(*rows.blocks(), strict=True))
    assert torch.equal(places, torch.arange(1000))
    np.testing.assert_array_equal(found, table)
    assert max(len(part) for part, _ in rows.blocks()) <= 64
    np.testing.assert_array_equal(torch.stack(list(rows)), table)
    # Shuffled, each row is there once, and is itself.
    shuffled = [torch.cat(parts) for parts in zip(*rows.blocks(torch.Generator().manual_seed(0)), strict=True)]
    assert torch.equal(shuffled[0].sort().values, torch.arange(1000))
    np.testing.assert_array_equal(shuffled[1], table.to_numpy()[shuffled[0]])
    assert not torch.equal(shuffled[0], places)


def test_columns_are_chosen_in_order_and_become_numbers(tmp_path):
    table = pd.DataFrame({"n": [1, 2, 3], "flag": [True, False, True], "word": list("xyz"), "x": [0.5, 1.5, 2.5]})
    table.to_parquet(tmp_path / "t.parquet")
    rows = torch.stack(list(ParquetRows(tmp_path, columns=["x", "flag", "n"])))
    assert rows.tolist() == [[0.5, 1.0, 1.0], [1.5, 0.0, 2.0], [2.5, 1.0, 3.0]]
    with pytest.raises(ValueError, match=r"column 'word' of .*t\.parquet holds .*string, not numbers"):
        ParquetRows(tmp_path)


def test_a_buffer_mixes_row_groups(folder):
    """Row groups of 70 rows in a buffer of 500: neighbours come from everywhere, in another order for another seed."""
    rows = ParquetRows(folder, buffer_size=500)
    orders = [torch.cat([places for places, _ in rows.blocks(torch.Generator().manual_seed(s))]) for s in (0, 0, 1)]
    assert torch.equal(orders[0], orders[1])
    assert not torch.equal(orders[0], orders[2])
    # A random order's neighbours are 333 apart on average.
    assert 200 < orders[0].diff().abs().float().mean() < 400


# ------------------------------------------------------------------------------------------------ training


def source(folder, **options):
    return Blocks(ParquetRows(folder, batch_size=64, **options), torch.device("cpu"), lambda x: None)


def test_batches_are_equal_and_hold_every_row_once(folder, table):
    blocks = source(folder, buffer_size=150)
    found = list(blocks.batches(128, torch.Generator().manual_seed(0)))
    assert [batch.n_rows for batch in found] == [125] * 8
    together = torch.cat([batch.index for batch in found])
    assert torch.equal(together.sort().values, torch.arange(1000))
    for batch in found:
        np.testing.assert_array_equal(batch.x, table.to_numpy()[batch.index])
    in_order = torch.cat([batch.index for batch in blocks.batches(128, None)])
    assert torch.equal(in_order, torch.arange(1000))
    places = torch.tensor([999, 3, 450, 70, 69])
    picked = blocks._rows_at(places)
    assert torch.equal(picked.index, places)
    np.testing.assert_array_equal(picked.x, table.to_numpy()[places])


def test_some_rows_are_random_and_those_held_out_are_not_trained_on(folder, table):
    everything, means = table.to_numpy(), []
    for seed in range(30):
        blocks = source(folder)
        train, held_out = blocks.split(0.3, seed)
        train, second = train.split(0.1, seed)
        left = torch.cat([batch.x for batch in train.batches(100, None)])
        assert (len(held_out), len(second), len(left), train.n_rows) == (300, 70, 630, 630)
        together = np.concatenate((held_out[:], second[:], left))
        np.testing.assert_array_equal(np.sort(together[:, 0]), np.sort(everything[:, 0]))
        some = train.sample(200, seed)
        assert np.isin(some[:, 0], left[:, 0]).all()
        assert len(some[:, 0].unique()) == 200
        assert np.isin(train.head()[:, 0], left[:, 0]).all()
        places = np.flatnonzero(np.isin(everything[:, 0], held_out[:][:, 0]))
        means.append(places.mean())
    assert abs(np.mean(means) - 499.5) < 10  # standard error 2.5


def test_a_fit_learns_what_an_array_teaches(folder, table):
    vae = small(BetaVAE, n_components=2, max_epochs=20, lr=3e-3)
    streamed, direct = clone(vae).fit(ParquetRows(folder)), clone(vae).fit(table)
    assert streamed.score(table) == pytest.approx(direct.score(table), abs=0.15)
    again = clone(vae).fit(ParquetRows(folder))
    np.testing.assert_array_equal(streamed.transform(table), again.transform(table))
    assert list(streamed.feature_names_in_) == NAMES
    streamed.partial_fit(ParquetRows(folder))


def test_everything_works_with_a_table(folder, table):
    data = ParquetRows(folder)
    detector = small(QuantileVAE, calibration_fraction=0.2, early_stopping=True, max_epochs=3).fit(data)
    assert detector._calibration.n == 200
    small(RiskAwareVAE, risk_over="groups", max_epochs=2).fit(data, groups=np.arange(1000) % 4)
    (table[:20] + 9.0).to_parquet(folder / "part3.parquet", index=False)  # to be detected
    table, data = pd.concat((table, table[:20] + 9.0)), ParquetRows(folder)
    for method in ("transform", "score_samples", "predict", "z_scores", "conformal_p_values"):
        found = getattr(detector, method)(data)
        np.testing.assert_allclose(found, getattr(detector, method)(table), rtol=1e-5, atol=1e-5)
    detector.conformalize(ParquetRows(batches(table + 1)))
    assert detector.transform(DataLoader(data)).shape == (1020, 2)


# ------------------------------------------------------------------------------------------------ mistakes


def test_a_bad_row_is_named_by_file_and_row(folder, table):
    bad = table[450:].reset_index(drop=True)
    bad.loc[333, "b"] = np.inf
    bad.to_parquet(folder / "part2.parquet", row_group_size=70, index=False)
    data, vae = ParquetRows(folder), small(BetaVAE).fit(table)
    before = vae.module_.state_dict()["encoder.0.weight"].clone()
    with pytest.raises(ValueError, match=r"infin.* column 'b'\. It is row 333 of .*part2\.parquet"):
        vae.fit(data)
    assert torch.equal(vae.module_.state_dict()["encoder.0.weight"], before)
    with pytest.raises(ValueError, match=r"column 'b'\. It is row 333 of .*part2\.parquet"):
        vae.transform(data)
    bad.replace(np.inf, 0.0).to_parquet(folder / "part2.parquet", row_group_size=70, index=False)
    with pytest.raises(ValueError, match=r"bernoulli.* It is row \d+ of .*part"):
        small(BetaVAE, likelihood="bernoulli").fit(ParquetRows(folder))


def test_nulls_are_missing_values(folder, table):
    bad = table[450:].reset_index(drop=True)
    bad.loc[::7, "b"] = None
    bad.to_parquet(folder / "part2.parquet", row_group_size=70, index=False)
    whole = pd.concat((table[:450], bad)).to_numpy(np.float32)
    vae = small(BetaVAE, max_epochs=3).fit(ParquetRows(folder))
    assert np.isfinite(vae.history_[-1]["train_loss"])
    assert vae.module_.holes
    filled = vae.impute(ParquetRows(folder))
    assert np.isfinite(filled).all()
    np.testing.assert_array_equal(filled[~np.isnan(whole)], whole[~np.isnan(whole)])


def test_a_file_that_disappears_or_changes_is_named(folder, table):
    data, vae = ParquetRows(folder), small(BetaVAE, max_epochs=3).fit(table)
    before = vae.module_.state_dict()["encoder.0.weight"].clone()
    table[400:450].drop(columns="c").to_parquet(folder / "part1.parquet", index=False)
    with pytest.raises(ValueError, match=r"part1\.parquet.*"):
        vae.fit(data)
    table[400:420].to_parquet(folder / "part1.parquet", index=False)
    with pytest.raises(ValueError, match=r"part1\.parquet has changed: it no longer has the rows that it had"):
        vae.fit(data)
    (folder / "part1.parquet").unlink()
    with pytest.raises(ValueError, match=r"part1\.parquet has changed, or cannot be read any more"):
        vae.fit(data)
    assert torch.equal(vae.module_.state_dict()["encoder.0.weight"], before)
    assert vae.n_iter_ == 3


def test_other_columns_are_refused(folder, table):
    vae = small(BetaVAE, max_epochs=1).fit(ParquetRows(folder))
    with pytest.raises(ValueError, match="X has the columns 'c', 'b', 'a', but BetaVAE was fitted with 'a', 'b', 'c'"):
        vae.transform(ParquetRows(folder, columns=["c", "b", "a"]))
    with pytest.raises(ValueError, match="X has the columns 'c', 'b', 'a'"):
        vae.transform(DataLoader(ParquetRows(folder, columns=["c", "b", "a"])))
    with pytest.raises(ValueError, match=r"part0\.parquet must have exactly one column 'd'"):
        ParquetRows(folder, columns=["a", "d"])
    table.rename(columns={"b": "B"}).to_parquet(folder / "part9.parquet")
    with pytest.raises(ValueError, match=r"part9\.parquet must have exactly one column 'b'"):
        ParquetRows(folder)


def test_paths_that_hold_nothing_are_told(tmp_path, table):
    with pytest.raises(FileNotFoundError, match=r"holds no file with one of \.parquet"):
        ParquetRows(tmp_path)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        ParquetRows(tmp_path / "nothing.parquet")
    (tmp_path / "text.parquet").write_text("no table")
    with pytest.raises(ValueError, match=r"text\.parquet is not a file that pyarrow can read"):
        ParquetRows(tmp_path)
    with pytest.raises(TypeError, match="which can be read only once"):
        ParquetRows(iter(batches(table)))
    with pytest.raises(TypeError, match="path must name files, or hold record batches; got int"):
        ParquetRows(3)
    with pytest.raises(TypeError, match="columns must be a sequence of names"):
        ParquetRows(batches(table), columns="a")
    with pytest.raises(ValueError, match="batch_size must be an integer of at least 1, or 'auto'; got 0"):
        ParquetRows(batches(table), batch_size=0)
    with pytest.raises(ValueError, match="X is a Dataset without rows"):
        small(BetaVAE).fit(ParquetRows(batches(table)[:1] and [batches(table)[0].slice(0, 0)]))


def test_a_file_that_grows_ends_the_epoch(folder, table):
    """More rows than there were must not be taken for an epoch without an end."""
    blocks = source(folder)
    table[400:499].to_parquet(folder / "part1.parquet", index=False)
    with pytest.raises(ValueError, match=r"part1\.parquet has changed"):
        list(blocks.batches(128, None))
    table[450:].to_parquet(folder / "part2.parquet", row_group_size=400, index=False)
    with pytest.raises(ValueError, match=r"part2\.parquet"):
        list(blocks.batches(128, torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("share", [0.0, 0.2, "cross"])
def test_what_calibrates_and_judges_is_not_trained_on(folder, table, share):
    detector = QuantileVAE(calibration_fraction=share)
    train, aside = set_aside(detector, source(folder), 0, judge=True)
    parts = [torch.cat([batch.x for batch in train.batches(100, None)])]
    parts += [part[:] for part in (aside.held_out, aside.calibration) if part is not None]
    assert [len(part) for part in parts] == [800, 200]  # 800 rows are too few to be judged by others
    np.testing.assert_array_equal(np.sort(torch.cat(parts)[:, 0]), np.sort(table["a"]))


def test_rows_are_scaled_as_they_are_read(folder, table):
    scaler = StandardScaler()
    for _, part in ParquetRows(folder).blocks():
        scaler.partial_fit(part)
    rows = torch.stack(list(ParquetRows(folder, transform=scaler)))
    np.testing.assert_allclose(rows, StandardScaler().fit_transform(table), atol=1e-5)
    vae = small(BetaVAE).fit(ParquetRows(folder, transform=scaler))
    assert vae.transform(ParquetRows(folder, transform=scaler)).shape == (1000, 2)
    with pytest.raises(ValueError, match="transform must keep the shape of the rows, .*, 3.; it gave shape"):
        next(ParquetRows(folder, transform=FunctionTransformer(lambda x: x[:, :2])).blocks())
    with pytest.raises(TypeError, match="transform must be a fitted transformer"):
        ParquetRows(folder, transform=np.log)
    with pytest.raises(TypeError, match="is not an array, which pipelines, searches and splits .* transform=scaler"):
        make_pipeline(StandardScaler(), BetaVAE()).fit(ParquetRows(folder))
    assert repr(ParquetRows(folder)).startswith("ParquetRows(1,000 rows of 3 features, 3 files")
    nothing = ParquetRows([batches(table)[0].slice(0, 0)])
    for call in (small(BetaVAE).fit, small(BetaVAE, max_epochs=1).fit(table).transform):
        with pytest.raises(ValueError, match="X is a Dataset without rows"):
            call(nothing)


def test_a_frame_s_index_is_no_feature(tmp_path, table):
    table.sample(frac=1.0, random_state=0).to_parquet(tmp_path / "t.parquet")
    assert ParquetRows(tmp_path).columns == tuple(NAMES)
    assert "__index_level_0__" in pyarrow.parquet.read_schema(tmp_path / "t.parquet").names


def test_only_tables_of_a_folder_are_read(folder, table):
    (folder / "._part0.parquet").write_text("of another system")
    (folder / "part8.parquet").mkdir()
    table.to_parquet(folder / "part8.parquet" / "PART.PARQUET", index=False)
    assert [file.name for file in ParquetRows(folder).files] == [
        "part0.parquet", "part1.parquet", "part2.parquet", "PART.PARQUET",
    ]  # fmt: skip
    assert len(ParquetRows(folder)) == 2000


def test_small_pieces_are_rows_like_others(tmp_path, table):
    parts = [
        pa.RecordBatch.from_pandas(table[a:b], preserve_index=False) for a, b in ((0, 0), (0, 1), (1, 9), (9, 300))
    ]
    table[:200].to_parquet(tmp_path / "t.parquet", index=False)
    for rows, n in ((ParquetRows(parts), 300), (ParquetRows(tmp_path, batch_size=1), 200)):
        found = [torch.cat(one) for one in zip(*rows.blocks(), strict=True)]
        np.testing.assert_array_equal(found[1], table[:n])
        assert torch.equal(found[0], torch.arange(n))
        assert len(rows.head(50)[1]) == 50
        assert small(BetaVAE, max_epochs=1).fit(rows).transform(rows).shape == (n, 2)


@pytest.mark.parametrize("columns", [3, [], "a", [0, 1]])
def test_columns_that_are_no_names_are_refused(folder, columns):
    with pytest.raises(TypeError, match="columns must be a sequence of names"):
        ParquetRows(folder, columns=columns)
    with pytest.raises(ValueError, match="must name each column once"):
        ParquetRows(folder, columns=["a", "a"])
    assert ParquetRows(folder, columns=(name for name in "ab")).columns == ("a", "b")
