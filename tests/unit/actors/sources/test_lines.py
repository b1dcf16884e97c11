"""Lines by byte ranges, and JSON lines: each belongs to one range, mistakes have a place."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actors.sources import lines
from actors.sources.columns import Columns
from actors.sources.lines import line_end, lines_between, parse_jsonl, text_between
from actors.sources.paths import list_files
from actors.wire import CorpusError
from tests.unit.actors.sources.test_file_source import opened, rows_spec, training_text


@pytest.mark.parametrize("step", [1, 7, 64, 1000])
@pytest.mark.parametrize("slack", [0, 3, 5000])
def test_ranges_side_by_side_hold_every_line_once(
    monkeypatch: pytest.MonkeyPatch, step: int, slack: int
) -> None:
    monkeypatch.setattr(lines, "SLACK_BYTES", slack)
    rng = np.random.default_rng(step)
    raw = b"\n".join(b"x" * int(n) for n in rng.integers(0, 300, 60))

    def read(start: int, stop: int) -> bytes:
        assert 0 <= start < stop <= len(raw)
        return raw[start:stop]

    got = []
    for start in range(0, len(raw), step):
        begin, part = lines_between("a", read, len(raw), start, min(start + step, len(raw)))
        assert raw[begin : begin + len(part)] == part
        got.append(part)
    assert b"".join(got) == raw


@pytest.mark.parametrize(
    ("head", "end"),
    [(b"a\rb", b"\r"), (b"a\r\nb", b"\n"), (b"a\rb\n", b"\n"), (b"ab\r", b"\n"), (b"", b"\n")],
)
def test_a_carriage_return_ends_lines_where_nothing_else_does(head: bytes, end: bytes) -> None:
    assert line_end(head) == end


def pieces_of(raw: bytes, step: int, limit: int, newline: bytes = b"\n") -> list[bytes]:
    def read(start: int, stop: int) -> bytes:
        assert 0 <= start <= stop <= len(raw)
        return raw[start:stop]

    got = []
    for start in range(0, len(raw), step):
        stop = min(start + step, len(raw))
        begin, part = text_between(read, len(raw), start, stop, limit, newline)
        assert raw[begin : begin + len(part)] == part
        got.append(part)
    return got


@pytest.mark.parametrize("step", [64, 100, 1000])
@pytest.mark.parametrize("slack", [1, 7, 5000])
@pytest.mark.parametrize("longest", [50, 300, 3000])
@pytest.mark.parametrize("newline", [b"\n", b"\r"])
def test_cut_lines_are_whole_together_and_short_ones_are_never_cut(
    monkeypatch: pytest.MonkeyPatch, step: int, slack: int, longest: int, newline: bytes
) -> None:
    monkeypatch.setattr(lines, "SLACK_BYTES", slack)
    rng = np.random.default_rng(step + longest)
    letters = np.array(list("abcdefgh é€ "))
    texts = ["".join(rng.choice(letters, int(n))) for n in rng.integers(0, longest, 60)]
    raw = newline.join(text.encode() for text in texts)
    for whole in (raw, raw + newline):
        got = pieces_of(whole, step, step, newline)
        assert b"".join(got) == whole
        at, cuts = 0, set()
        for piece in got:
            piece.decode()
            cuts.add(at := at + len(piece))
        begin = 0
        for line in whole.split(newline):
            end = begin + len(line) + 1
            inside = [cut for cut in cuts if begin < cut < min(end, len(whole))]
            assert len(line) + 1 > step or not inside
            assert not [c for c in inside if whole[c - 1 : c] != b" " and b" " in whole[c : c + 4]]
            begin = end


@pytest.mark.parametrize("length", [1001, 1100, 2002, 2990, 7777])
@pytest.mark.parametrize("end", [b"", b"\n"])
def test_no_range_of_one_long_line_is_empty(length: int, end: bytes) -> None:
    raw = b"ab cd " * (length // 6) + b"x" * (length % 6) + end
    got = pieces_of(raw, 1000, 1000)
    assert b"".join(got) == raw
    assert all(piece.strip() for piece in got)


def test_a_line_without_an_end_in_sight_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "LONGEST_LINE_BYTES", 1 << 20)
    raw = b"x" * (4 << 20)
    with pytest.raises(CorpusError, match=r"a line near byte 1000 is longer than 1 MiB"):
        lines_between("a", lambda start, stop: raw[start:stop], len(raw), 0, 1000)


def parse(folder: Path, raw: bytes, *columns: str) -> list[Any]:
    (folder / "a.jsonl").write_bytes(raw)
    (file,) = list_files([str(folder / "a.jsonl")])
    return parse_jsonl(file, Columns(columns or ("text",)), raw, 0, file.read)


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\n\n"])
def test_blank_lines_and_other_line_ends_make_no_difference(tmp_path: Path, end: bytes) -> None:
    raw = end.join(b'{"text": "%d"}' % i for i in range(5))
    assert [d.text for d in parse(tmp_path, raw)] == list("01234")


def test_a_byte_order_mark_is_no_part_of_the_first_line(tmp_path: Path) -> None:
    assert [d.text for d in parse(tmp_path, b'\xef\xbb\xbf{"text": "a"}\n')] == ["a"]


def test_line_separators_inside_a_text_stay(tmp_path: Path) -> None:
    text = "a\u2028b\x85c\x0bd\re"
    raw = json.dumps({"text": text}, ensure_ascii=False).encode() + b"\n"
    assert [d.text for d in parse(tmp_path, raw)] == [text]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b'{"text": "a"', r"line 3: not JSON: .* at column 13"),
        (b"text", r"line 3: not JSON: Expecting value at column 1"),
        (b"[", r"line 3: not JSON: .*; each line must be one object"),
        (b'[{"text": "a"}]', r"line 3: expected an object with text, got list"),
        (b'{"text": 3}', r"line 3: column text: expected text, got int 3"),
        (b'{"text": ["a"]}', r'line 3: column text: expected text, got list \["a"\]'),
        (b'{"txt": "a"}', r"line 3: no column text; did you mean txt\? there are: txt"),
        (b'{"zz": 1}', r"line 3: no column text; there are: zz"),
        (b"{}", r"line 3: no column text; there are: none"),
        (b'{"text": "\\ud800"}', r"line 3: half a surrogate pair in column text"),
        (b'{"text": "a\xff"}', r"byte 43 is not UTF-8"),
        (b"[" * 100_000, r"line 3: not JSON"),
    ],
)
def test_a_bad_line_is_refused_with_its_place(tmp_path: Path, line: bytes, problem: str) -> None:
    raw = b'{"text": "one"}\n{"text": "two"}\n' + line + b"\n"
    with pytest.raises(CorpusError, match=rf"a\.jsonl.*{problem}"):
        parse(tmp_path, raw)


def test_the_line_of_a_mistake_is_counted_in_the_unpacked_file(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    good = b"".join(b'{"text": "%s"}\n' % rng.bytes(40).hex().encode() for _ in range(50))
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(good + b"oops\n" + good))
    with pytest.raises(CorpusError, match=r"a\.jsonl\.gz, line 51: not JSON"):
        training_text(opened(rows_spec(tmp_path, "a.jsonl.gz", block_bytes=1024), seed=1))


def test_the_place_in_a_large_file_is_its_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "COUNTED_BYTES", 10)
    with pytest.raises(CorpusError, match=r"a\.jsonl, byte 16: not JSON"):
        parse(tmp_path, b'{"text": "one"}\noops\n')
