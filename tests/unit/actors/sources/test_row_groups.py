"""Row groups: what the footers say, and what a bad Parquet file says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from actors.sources import row_groups
from actors.sources.columns import Columns
from actors.sources.paths import File, list_files
from actors.sources.row_groups import RowGroupReader
from actors.wire import CorpusError

TEXTS = [f"text {i} " + "é" * (i % 7) for i in range(100)]


def written(folder: Path, table: pa.Table, **options: Any) -> File:
    pq.write_table(table, folder / "a.parquet", **options)
    return list_files([str(folder / "a.parquet")])[0]


def in_bucket(file: File) -> File:
    fs = fsspec.filesystem("memory")
    fs.pipe_file("/groups/a.parquet", Path(file.path).read_bytes())
    return list_files(["memory://groups/a.parquet"])[0]


@pytest.fixture
def file(tmp_path: Path) -> File:
    return written(tmp_path, pa.table({"n": range(100), "text": TEXTS}), row_group_size=30)


def test_the_footer_tells_rows_and_bytes_of_the_columns(file: File) -> None:
    (groups,) = RowGroupReader(Columns(("text",))).of_files([file])
    footer = pq.read_metadata(file.path)
    assert groups.rows.tolist() == [30, 30, 30, 10]
    assert groups.num_bytes.tolist() == [
        footer.row_group(g).column(1).total_uncompressed_size for g in range(4)
    ]


@pytest.mark.parametrize("where", ["local", "bucket"])
@pytest.mark.parametrize("method", ["slice", "slice_kept"])
def test_slices_in_any_order_are_the_rows(file: File, where: str, method: str) -> None:
    file = file if where == "local" else in_bucket(file)
    rows = RowGroupReader(Columns(("text",)))
    for start in np.random.default_rng(0).permutation(25).tolist():
        for stop in (start + 1, start + 5):
            got = getattr(rows, method)(file, 1, start, stop)
            assert [d.text for d in got] == TEXTS[30 + start : 30 + stop]


@pytest.mark.parametrize(
    "kind",
    [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())],
)
def test_every_kind_of_text_column_is_read(tmp_path: Path, kind: pa.DataType) -> None:
    file = written(tmp_path, pa.table({"text": pa.array(TEXTS).cast(kind)}))
    rows = RowGroupReader(Columns(("text",)))
    assert rows.of_files([file])[0].rows.tolist() == [100]
    assert [d.text for d in rows.slice(file, 0, 20, 40)] == TEXTS[20:40]


@pytest.mark.parametrize("where", ["local", "bucket"])
@pytest.mark.parametrize("name", ["my.text", "my", "a.b.c", "text.", ".", "wörter"])
def test_a_column_has_the_size_and_the_text_of_its_own_whatever_its_name(
    tmp_path: Path, where: str, name: str
) -> None:
    others = {
        "first": pa.array([{"x": 1, "y": [2, 3]}] * 100),
        "m": pa.array([[("key", 1)]] * 100, pa.map_(pa.string(), pa.int32())),
        **({"my": pa.array([{"text": "not this"}] * 100)} if name != "my" else {}),
        **({"my.text": ["nor this one"] * 100} if name == "my" else {}),
    }
    texts = [f"{text} {'x' * 20_000} {number}" for number, text in enumerate(TEXTS)]
    file = written(tmp_path, pa.table({**others, name: texts, "last": range(100)}))
    file = file if where == "local" else in_bucket(file)
    rows = RowGroupReader(Columns((name,)))
    assert rows.of_files([file])[0].num_bytes.sum() > 2_000_000
    assert [d.text for d in rows.slice(file, 0, 20, 23)] == texts[20:23]
    assert [d.text for d in rows.slice_kept(file, 0, 90, 92)] == texts[90:92]


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    table = pa.table([TEXTS, TEXTS, range(100), range(100)], names=["text", "text", "n", "n"])
    file = written(tmp_path, table)
    with pytest.raises(CorpusError, match=r"a\.parquet: 2 columns are named text, expected one"):
        RowGroupReader(Columns(("text",))).of_files([file])


def test_two_other_columns_of_one_name_do_no_harm(tmp_path: Path) -> None:
    file = written(tmp_path, pa.table([TEXTS, range(100), range(100)], names=["text", "n", "n"]))
    rows = RowGroupReader(Columns(("text",)))
    assert rows.of_files([file])[0].rows.tolist() == [100]
    assert [d.text for d in rows.slice(file, 0, 3, 5)] == TEXTS[3:5]


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        (pa.array(range(9)), "int64"),
        (pa.array([b"x"] * 9), "binary"),
        (pa.array([["x"]] * 9), "list"),
        (pa.array([{"a": "x"}] * 9), "struct"),
    ],
)
def test_a_column_that_holds_no_text_is_refused(
    tmp_path: Path, column: pa.Array, kind: str
) -> None:
    file = written(tmp_path, pa.table({"text": column}))
    with pytest.raises(CorpusError, match=rf"a\.parquet: column text: expected text, got {kind}"):
        RowGroupReader(Columns(("text",))).of_files([file])


def test_a_truncated_file_is_refused(file: File) -> None:
    raw = Path(file.path).read_bytes()
    Path(file.path).write_bytes(raw[:-100])
    (short,) = list_files([file.path])
    with pytest.raises(CorpusError, match=r"a\.parquet: not a whole Parquet file"):
        RowGroupReader(Columns(("text",))).of_files([short])


@pytest.mark.parametrize("raw", [b"PAR1", b"id,text\n1,a\n" * 9, b"\xff\xff\xff\x7fPAR1"])
def test_another_format_is_refused(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "a.parquet").write_bytes(raw)
    with pytest.raises(CorpusError, match=r"a\.parquet: not a whole Parquet file"):
        RowGroupReader(Columns(("text",))).of_files(list_files([str(tmp_path)]))


@pytest.mark.parametrize("method", ["slice", "slice_kept"])
def test_damaged_rows_are_refused_with_their_row_group(file: File, method: str) -> None:
    rows = RowGroupReader(Columns(("text",)))
    rows.of_files([file])
    at = pq.read_metadata(file.path).row_group(2).column(1)
    raw = bytearray(Path(file.path).read_bytes())
    start = at.dictionary_page_offset
    raw[start : start + at.total_compressed_size] = b"\xff" * at.total_compressed_size
    Path(file.path).write_bytes(raw)
    with pytest.raises(CorpusError, match=r"a\.parquet: row group 2 can't be read"):
        getattr(rows, method)(file, 2, 0, 30)


def test_text_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    broken = pa.Array.from_buffers(
        pa.string(), 1, [None, pa.py_buffer(np.array([0, 2], np.int32)), pa.py_buffer(b"a\xff")]
    )
    file = written(tmp_path, pa.table({"text": broken}))
    with pytest.raises(CorpusError, match=r"a\.parquet: row group 0, near row 0: not UTF-8"):
        RowGroupReader(Columns(("text",))).slice(file, 0, 0, 1)


def test_a_footer_is_one_request_and_a_large_one_two(
    file: File, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote = in_bucket(file)
    reads: list[int] = []
    read = File.read

    def counted(self: File, start: int, stop: int) -> bytes:
        reads.append(stop - start)
        return read(self, start, stop)

    monkeypatch.setattr(File, "read", counted)
    RowGroupReader(Columns(("text",))).of_files([remote])
    assert len(reads) == 1
    monkeypatch.setattr(row_groups, "FOOTER_BYTES", 64)
    (groups,) = RowGroupReader(Columns(("text",))).of_files([remote])
    assert (len(reads), groups.rows.sum()) == (3, 100)


def test_few_row_groups_stay_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_groups, "OPEN_ROW_GROUPS", 2)
    file = written(tmp_path, pa.table({"text": TEXTS}), row_group_size=10)
    rows = RowGroupReader(Columns(("text",)))
    for start in range(0, 10, 2):
        for group in range(5):
            got = [d.text for d in rows.slice(file, group, start, start + 2)]
            assert got == TEXTS[10 * group + start : 10 * group + start + 2]
    assert len(rows._open_groups) == 2
