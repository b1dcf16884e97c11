"""Files as blocks: what a block holds, what is held out, what is mixed and what a bad file says."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from actors.settings.corpus import CorpusSpec
from actors.sources import file_source
from actors.sources.documents import Document, Source
from actors.sources.file_source import FileSource
from actors.sources.paths import File
from actors.sources.row_groups import RowGroupReader
from actors.wire import CorpusError
from tests.unit.actors.tiny import numbered_lines, write_text

KINDS = ["rows.jsonl", "rows.parquet", "rows.jsonl.gz", "rows.jsonl.zst", "rows.jsonl.bz2"]


def opened(spec: CorpusSpec, seed: int = 0) -> FileSource:
    return FileSource(spec.files[0], spec, seed)


def write_rows(path: Path, rows: Sequence[dict[str, Any]], row_group_size: int = 40) -> None:
    """The rows as the file's name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(list(rows)), path, row_group_size=row_group_size)
        return
    raw = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    if path.suffix == ".zst":
        with pa.CompressedOutputStream(pa.OSFile(str(path), "wb"), "zstd") as out:
            out.write(raw)
        return
    with fsspec.open(str(path), "wb", compression="infer") as out:
        out.write(raw)


def rows_spec(folder: Path, name: str, **fields: Any) -> CorpusSpec:
    chosen = {"block_bytes": 256, "spool": str(folder / "spool"), **fields}
    return CorpusSpec(paths=(str(folder / name),), **chosen)


BLOCK_SIZES = [256, 257, 300, 511, 1000, 5000]


def training_text(source: Source) -> list[str]:
    return [d.text for block in range(source.num_blocks) for d in source.block(block)]


def heldout_text(source: Source) -> list[str]:
    return [d.text for d in source.heldout()]


def lines_of(texts: list[str]) -> list[str]:
    return [line for text in texts for line in text.split("\n") if line]


@pytest.mark.parametrize("block_bytes", BLOCK_SIZES)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_each_line_belongs_to_exactly_one_block(tmp_path: Path, block_bytes: int, end: str) -> None:
    lines = numbered_lines(150)
    spec = write_text(tmp_path, lines, block_bytes=block_bytes)
    (tmp_path / "text.txt").write_bytes(end.join(lines).encode())
    source = opened(spec, seed=1)
    got = lines_of([*training_text(source), *heldout_text(source)])
    assert sorted(line.rstrip("\r") for line in got) == sorted(lines)


def test_a_line_longer_than_a_block_is_cut_and_nothing_of_it_lost(tmp_path: Path) -> None:
    lines = ["a" * 40, "é" * 1000, "b" * 40, "c" * 700, "d"]
    spec = write_text(tmp_path, lines, block_bytes=256)
    source = opened(spec, seed=0)
    found = [*training_text(source), *heldout_text(source)]
    assert max(len(text.encode()) for text in found) <= 2 * 256
    text = Path(spec.paths[0]).read_text(encoding="utf-8")
    assert sorted("".join(found)) == sorted(text)


def test_a_row_longer_than_a_block_stays_whole(tmp_path: Path) -> None:
    texts = ["a" * 40, "é" * 1000, "b" * 40, "c" * 700, "d"]
    rows = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    (tmp_path / "a.jsonl").write_text(rows, encoding="utf-8")
    source = opened(rows_spec(tmp_path, "a.jsonl", block_bytes=256), seed=0)
    assert sorted([*training_text(source), *heldout_text(source)]) == sorted(texts)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz"])
@pytest.mark.parametrize(("end", "space"), [("", " "), ("\n", " "), ("", "")])
def test_text_on_one_line_has_both_splits_with_every_seed(
    tmp_path: Path, seed: int, name: str, end: str, space: str
) -> None:
    rng = np.random.default_rng(seed)
    raw = (space.join(f"w{n:05x}" for n in rng.integers(0, 1 << 20, 8000)) + end).encode()
    (tmp_path / name).write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
    source = opened(CorpusSpec(paths=(str(tmp_path / name),), block_bytes=16384), seed=seed)
    assert all(training_text(source))
    assert all(source.block(i) for i in range(source.num_blocks))
    assert "".join(heldout_text(source)).strip()


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.jsonl.gz"])
def test_lines_may_end_in_carriage_returns_alone(tmp_path: Path, name: str) -> None:
    lines = numbered_lines(300)
    rows = lines if name == "a.txt" else [json.dumps({"text": line}) for line in lines]
    raw = "".join(f"{row}\r" for row in rows).encode()
    (tmp_path / name).write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
    source = opened(CorpusSpec(paths=(str(tmp_path / name),), block_bytes=256), seed=1)
    training, heldout = training_text(source), heldout_text(source)
    assert training
    assert heldout
    assert sorted("\r".join([*training, *heldout]).split("\r")) == sorted(
        lines if name != "a.txt" else [*lines, *[""] * (len(training) + len(heldout))]
    )


def test_lines_of_several_files_do_not_run_into_each_other(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.txt").write_text(f"first of {name}\nlast of {name}", encoding="utf-8")
    spec = CorpusSpec(paths=(str(tmp_path),), block_bytes=256)
    source = opened(spec, seed=0)
    got = {*training_text(source), *heldout_text(source)}
    assert got == {"first of a\nlast of a", "first of b\nlast of b"}


@pytest.mark.parametrize("block_bytes", BLOCK_SIZES)
def test_no_held_out_line_is_in_a_training_block(tmp_path: Path, block_bytes: int) -> None:
    spec = write_text(tmp_path, numbered_lines(150), block_bytes=block_bytes)
    source = opened(spec, seed=1)
    assert not set(lines_of(training_text(source))) & set(lines_of(heldout_text(source)))


def test_the_held_out_share_is_what_was_asked_for(tmp_path: Path) -> None:
    spec = write_text(tmp_path, ["x" * 255] * 400, block_bytes=256, heldout_frac=0.1)
    source = opened(spec, seed=0)
    assert (source.num_blocks, len(heldout_text(source))) == (360, 40)


@pytest.mark.parametrize("seed", range(5))
def test_a_short_text_still_has_both_sides(tmp_path: Path, seed: int) -> None:
    spec = write_text(tmp_path, ["x" * 255] * 3, block_bytes=256, heldout_frac=0.01)
    source = opened(spec, seed)
    assert (source.num_blocks, len(heldout_text(source))) == (2, 1)


def test_a_block_is_the_same_whenever_it_is_read(tmp_path: Path) -> None:
    source = opened(write_text(tmp_path, numbered_lines(50)), seed=0)
    assert source.block(1) == source.block(1)


def test_an_empty_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_bytes(b"")
    with pytest.raises(CorpusError, match="empty"):
        opened(CorpusSpec(paths=(str(tmp_path / "text.txt"),)), 0)


def test_a_text_of_one_block_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"only one block of 16384 bytes"):
        opened(write_text(tmp_path, ["short"], block_bytes=16384), 0)


def test_a_text_that_is_not_utf_8_is_refused_with_the_place(tmp_path: Path) -> None:
    raw = b"".join(b"%04d %s\n" % (n, b"x" * 94) for n in range(20))
    (tmp_path / "text.txt").write_bytes(raw[:1234] + b"\xff" + raw[1235:])
    source = opened(CorpusSpec(paths=(str(tmp_path / "text.txt"),), block_bytes=256), 0)
    with pytest.raises(CorpusError, match=r"text\.txt: byte 1234 is not UTF-8"):
        [*training_text(source), *heldout_text(source)]


def test_a_file_that_vanished_is_refused(tmp_path: Path) -> None:
    source = opened(write_text(tmp_path, numbered_lines(50)), seed=0)
    (tmp_path / "text.txt").unlink()
    with pytest.raises(CorpusError, match=r"text\.txt: can't be read"):
        source.block(0)


# rows


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("block_bytes", [256, 1000])
def test_each_row_is_a_document_of_exactly_one_block(
    tmp_path: Path, kind: str, block_bytes: int
) -> None:
    texts = numbered_lines(200)
    write_rows(tmp_path / kind, [{"id": i, "text": t} for i, t in enumerate(texts)])
    source = opened(rows_spec(tmp_path, kind, block_bytes=block_bytes), seed=1)
    assert source.num_blocks > 4
    assert sorted(training_text(source) + heldout_text(source)) == sorted(texts)


@pytest.mark.parametrize("kind", KINDS)
def test_an_order_holds_every_training_block_once(tmp_path: Path, kind: str) -> None:
    for name in "abc":
        rows = [{"text": t} for t in numbered_lines(100)]
        write_rows(tmp_path / name / kind, rows)
    source = opened(rows_spec(tmp_path, f"*/{kind}"))
    orders = [source.order(np.random.default_rng(seed)).tolist() for seed in range(3)]
    assert all(sorted(order) == list(range(source.num_blocks)) for order in orders)
    assert orders[0] != orders[1]
    assert orders[0] == source.order(np.random.default_rng(0)).tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_are_the_same_in_any_order(tmp_path: Path, kind: str) -> None:
    write_rows(tmp_path / kind, [{"text": t} for t in numbered_lines(200)])
    spec = rows_spec(tmp_path, kind)
    forward, shuffled = opened(spec), opened(spec)
    order = np.random.default_rng(0).permutation(forward.num_blocks).tolist()
    want = {index: forward.block(index) for index in range(forward.num_blocks)}
    assert shuffled.blocks(order) == [want[index] for index in order]


def test_a_large_row_group_gives_the_same_blocks_as_a_kept_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_rows(tmp_path / "a.parquet", [{"text": t} for t in numbered_lines(300)], 150)
    spec = rows_spec(tmp_path, "a.parquet")
    kept = opened(spec)
    want = [kept.block(index) for index in range(kept.num_blocks)]
    monkeypatch.setattr(file_source, "KEPT_GROUP_BYTES", 1)
    read = opened(spec)
    order = read.order(np.random.default_rng(0)).tolist()
    assert read.blocks(order) == [want[index] for index in order]


def test_a_large_row_group_is_decoded_once_in_an_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_source, "KEPT_GROUP_BYTES", 1)
    write_rows(tmp_path / "a.parquet", [{"text": t} for t in numbered_lines(2000)], 100)
    source = opened(rows_spec(tmp_path, "a.parquet"))
    opens: list[int] = []
    open_ = RowGroupReader._open

    def counted(self: RowGroupReader, file: File) -> Any:
        opens.append(1)
        return open_(self, file)

    monkeypatch.setattr(RowGroupReader, "_open", counted)
    for index in source.order(np.random.default_rng(0)):
        source.block(int(index))
    assert len(opens) == 20


def test_blocks_of_several_row_groups_are_mixed(tmp_path: Path) -> None:
    write_rows(tmp_path / "a.parquet", [{"text": t} for t in numbered_lines(2000)], 50)
    source = opened(rows_spec(tmp_path, "a.parquet"))
    order = source.order(np.random.default_rng(0))
    spans = [source.span(int(index)) for index in order[:64]]
    assert len(set(spans)) > 10


def test_no_more_spans_are_read_at_a_time_than_are_mixed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_source, "MIXED_SPANS", 3)
    monkeypatch.setattr(file_source, "MIXED_BYTES", 0)
    write_rows(tmp_path / "a.parquet", [{"text": t} for t in numbered_lines(600)], 50)
    source = opened(rows_spec(tmp_path, "a.parquet"))
    spans = [source.span(int(index)) for index in source.order(np.random.default_rng(0))]
    first, last = {}, {}
    for at, span in enumerate(spans):
        first.setdefault(span, at)
        last[span] = at
    assert max(sum(first[s] <= at <= last[s] for s in first) for at in range(len(spans))) == 3


def test_a_span_of_a_file_that_is_read_by_ranges_is_its_block(tmp_path: Path) -> None:
    source = opened(write_text(tmp_path, numbered_lines(100)))
    assert [source.span(index) for index in range(5)] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("kind", KINDS)
def test_the_prompt_is_given_and_the_completion_learned(tmp_path: Path, kind: str) -> None:
    rows = [{"q": f"Question {i}? ", "a": f"Answer {i}.", "n": i} for i in range(100)]
    write_rows(tmp_path / kind, rows)
    source = opened(rows_spec(tmp_path, kind, prompt_column="q", completion_column="a"))
    got = {d for index in range(source.num_blocks) for d in source.block(index)}
    assert got < {Document(r["a"], given=r["q"]) for r in rows}


@pytest.mark.parametrize("kind", ["rows.jsonl", "rows.parquet"])
def test_rows_with_a_null_or_nothing_to_learn_are_skipped(tmp_path: Path, kind: str) -> None:
    rows: list[dict[str, Any]] = [{"q": f"q{i} " * 9, "a": f"a{i} " * 9} for i in range(40)]
    kept = [Document(r["a"], given=r["q"]) for r in rows]
    rows += [{"q": None, "a": "a"}, {"q": "q", "a": None}, {"q": "q", "a": " \n"}]
    rows += [{"q": "", "a": "alone"}]
    write_rows(tmp_path / kind, rows)
    source = opened(rows_spec(tmp_path, kind, prompt_column="q", completion_column="a"))
    got = [d for i in range(source.num_blocks) for d in source.block(i)] + [*source.heldout()]
    assert Counter(got) == Counter([*kept, Document("alone")])


@pytest.mark.parametrize("kind", ["rows.jsonl", "rows.parquet", "rows.jsonl.gz"])
def test_files_of_a_bucket_are_read_like_local_ones(tmp_path: Path, kind: str) -> None:
    texts = numbered_lines(200)
    write_rows(tmp_path / kind, [{"text": t} for t in texts])
    fs = fsspec.filesystem("memory")
    fs.pipe_file(f"/bucket/{kind}", (tmp_path / kind).read_bytes())
    local = opened(rows_spec(tmp_path, kind))
    spec = rows_spec(tmp_path, kind).model_copy(update={"paths": (f"memory://bucket/{kind}",)})
    remote = opened(spec)
    indices = list(range(local.num_blocks))
    assert remote.blocks(indices) == local.blocks(indices)
    assert [*remote.heldout()] == [*local.heldout()]


def test_a_block_of_a_bucket_is_one_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fs = fsspec.filesystem("memory")
    fs.pipe_file("/few/a.txt", b"".join(b"line %d\n" % i for i in range(1000)))
    source = opened(CorpusSpec(paths=("memory://few/a.txt",), block_bytes=1024))
    calls: list[int] = []
    for name in ("cat_file", "info", "open"):
        method = getattr(type(fs), name)

        def counted(self: Any, *args: Any, _method: Any = method, **kwargs: Any) -> Any:
            calls.append(1)
            return _method(self, *args, **kwargs)

        monkeypatch.setattr(type(fs), name, counted)
    source.block(3)
    assert 1 <= len(calls) <= 2  # the memory file system's own cat_file opens once


# held out


def test_what_is_read_of_a_large_held_out_split_is_spread_over_it(tmp_path: Path) -> None:
    source = opened(write_text(tmp_path, ["x" * 255] * 400, block_bytes=256, heldout_frac=0.25))
    assert len([*source.heldout(10)]) == 10


@pytest.mark.parametrize("kind", KINDS)
def test_a_limited_held_out_split_is_part_of_the_whole(tmp_path: Path, kind: str) -> None:
    write_rows(tmp_path / kind, [{"text": t} for t in numbered_lines(400)])
    source = opened(rows_spec(tmp_path, kind))
    every, some = heldout_text(source), [d.text for d in source.heldout(2)]
    assert 0 < len(some) < len(every)
    assert set(some) < set(every)


def test_a_limited_held_out_split_reads_few_row_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_source, "MIXED_SPANS", 3)
    write_rows(tmp_path / "a.parquet", [{"text": t} for t in numbered_lines(1000)], 50)
    source = opened(rows_spec(tmp_path, "a.parquet"))
    read: list[int] = []
    slice_kept = RowGroupReader.slice_kept

    def noted(
        self: RowGroupReader, file: File, group: int, start: int, stop: int
    ) -> list[Document]:
        read.append(group)
        return slice_kept(self, file, group, start, stop)

    monkeypatch.setattr(RowGroupReader, "slice_kept", noted)
    assert [*source.heldout(4)]
    assert len(set(read)) == 3


# samples


@pytest.mark.parametrize("kind", [*KINDS, "text"])
def test_a_sample_tells_how_much_text_a_block_holds(tmp_path: Path, kind: str) -> None:
    lines = numbered_lines(3000)
    if kind == "text":
        source = opened(write_text(tmp_path, lines))
    else:
        rows = [{"noise": "n" * (i % 50), "text": t} for i, t in enumerate(lines)]
        write_rows(tmp_path / kind, rows)
        source = opened(rows_spec(tmp_path, kind))
    whole = [d.num_bytes for i in range(source.num_blocks) for d in source.block(i)]
    sample = source.sample()
    estimate = sum(d.num_bytes for d in sample.documents) / sample.num_blocks
    assert estimate == pytest.approx(sum(whole) / source.num_blocks, rel=0.1)


# bad files


@pytest.mark.parametrize("kind", ["rows.jsonl", "rows.parquet"])
def test_a_missing_column_is_named_with_those_there_are(tmp_path: Path, kind: str) -> None:
    write_rows(tmp_path / kind, [{"content": "x" * 90, "url": "u"}] * 40)
    spec = rows_spec(tmp_path, kind, text_column="contents")
    with pytest.raises(
        CorpusError,
        match=r"rows\..*no column contents; did you mean content\? there are: content, url",
    ):
        training_text(opened(spec))


def test_every_parquet_file_is_checked_when_a_corpus_is_opened(tmp_path: Path) -> None:
    write_rows(tmp_path / "d" / "a.parquet", [{"text": "x" * 90}] * 40)
    write_rows(tmp_path / "d" / "b.parquet", [{"txt": "x" * 90}] * 40)
    with pytest.raises(CorpusError, match=r"b\.parquet: no column text; did you mean txt\?"):
        opened(rows_spec(tmp_path, "d"))


def test_an_empty_parquet_file_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "a.parquet")
    with pytest.raises(CorpusError, match=r"a\.parquet: empty; give"):
        opened(rows_spec(tmp_path, "a.parquet"))


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl", "a.txt"])
def test_a_file_of_no_bytes_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(CorpusError, match=rf"{name}: empty"):
        opened(rows_spec(tmp_path, name))


def test_an_empty_file_among_others_is_passed_over(tmp_path: Path) -> None:
    write_rows(tmp_path / "d" / "a.jsonl", [{"text": "x" * 90}] * 40)
    (tmp_path / "d" / "b.jsonl").write_bytes(b"")
    assert opened(rows_spec(tmp_path, "d")).num_blocks > 2


def test_a_truncated_gzip_file_is_refused(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    raw = b"".join(b'{"text": "%d"}\n' % n for n in rng.integers(0, 1 << 60, 2000))
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(raw)[:-500])
    with pytest.raises(CorpusError, match=r"a\.jsonl\.gz: .*ends too early; .*truncated"):
        opened(rows_spec(tmp_path, "a.jsonl.gz")).block(0)


def test_more_blocks_than_an_order_can_hold_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_source, "MOST_BLOCKS", 10)
    with pytest.raises(CorpusError, match=r"raise corpus\.block_bytes"):
        opened(write_text(tmp_path, numbered_lines(400)))
