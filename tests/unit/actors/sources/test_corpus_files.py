"""What is read and what lies beside it, and whether a corpus is still the one that it was."""

from __future__ import annotations

import json
import os
from pathlib import Path

import fsspec
import pytest

from actors.settings.corpus import CorpusSpec
from actors.sources import corpus_files
from actors.sources.corpus_files import CorpusMarks, left_out
from actors.sources.paths import list_files
from tests.unit.actors.tiny import TEMPLATES, write_facts


def text(folder: Path, **fields: object) -> CorpusSpec:
    return CorpusSpec.model_validate({"paths": (str(folder),), **fields})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "texts"
    place.mkdir()
    for name in ("b.txt", "c.txt"):
        (place / name).write_text(f"{name} holds one line and another.\n" * 50)
    return place


def test_touched_and_copied_files_are_the_same_corpus(folder: Path) -> None:
    before = CorpusMarks.of(text(folder))
    content = (folder / "b.txt").read_bytes()
    (folder / "b.txt").unlink()
    (folder / "b.txt").write_bytes(content)
    os.utime(folder / "c.txt", (1, 1))
    now = CorpusMarks.of(text(folder))
    assert before.changes(now) == []
    assert now.digest == before.digest


def test_every_change_is_named_with_its_file(folder: Path) -> None:
    before = CorpusMarks.of(text(folder))
    lines = (folder / "b.txt").read_text()
    (folder / "b.txt").write_text("".join(reversed(lines)))
    (folder / "c.txt").write_text("short\n")
    (folder / "a.txt").write_text("new\n")
    now = CorpusMarks.of(text(folder))
    assert before.changes(now) == [
        f"{folder}/a.txt is new",
        f"{folder}/b.txt has the same 1,700 bytes but other content",
        f"{folder}/c.txt had 1,700 bytes and has 6",
    ]
    assert now.changes(before)[0] == f"{folder}/a.txt is gone"
    assert now.digest != before.digest


def test_a_corpus_that_was_moved_as_a_whole_is_the_same(folder: Path) -> None:
    before = CorpusMarks.of(text(folder))
    moved = folder.rename(folder.parent / "elsewhere")
    assert before.changes(CorpusMarks.of(text(moved))) == []
    (moved / "b.txt").rename(moved / "d.txt")  # now read after c.txt
    assert before.changes(CorpusMarks.of(text(moved)))[0] == f"{folder}/b.txt is gone"
    (moved / "d.txt").rename(moved / "b.txt")
    (moved / "b.txt").write_text("other\n")
    assert len(before.changes(CorpusMarks.of(text(moved)))) == 4


def test_the_same_files_in_another_order_are_another_corpus(folder: Path) -> None:
    names = [str(folder / name) for name in ("b.txt", "c.txt")]
    one, other = (CorpusMarks.of(CorpusSpec(paths=tuple(paths))) for paths in (names, names[::-1]))
    assert one.changes(other) == ["the files are read in another order"]


def test_facts_and_their_templates_are_both_compared(tmp_path: Path) -> None:
    spec = write_facts(tmp_path)
    before = CorpusMarks.of(spec)
    changed = {**TEMPLATES, "river": TEMPLATES["river"][::-1]}
    (tmp_path / "templates.json").write_text(json.dumps(changed))
    (said,) = before.changes(CorpusMarks.of(spec))
    assert said.startswith(f"{tmp_path}/templates.json has the same")
    (tmp_path / "facts.jsonl").write_text("")
    assert len(before.changes(CorpusMarks.of(spec))) == 2


def test_remote_files_are_compared_by_content_too() -> None:
    fs = fsspec.filesystem("memory")
    fs.pipe_file("/marks/a.txt", b"one\ntwo\n")
    spec = CorpusSpec(paths=("memory://marks/*.txt",))
    before = CorpusMarks.of(spec)
    fs.pipe_file("/marks/a.txt", b"two\none\n")
    assert before.changes(CorpusMarks.of(spec)) == [
        "memory:///marks/a.txt has the same 8 bytes but other content"
    ]
    fs.rm("/marks", recursive=True)


def test_of_a_large_corpus_pieces_are_compared(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = CorpusMarks.of(text(folder))
    monkeypatch.setattr(corpus_files, "WHOLE_BYTES", 1000)
    monkeypatch.setattr(corpus_files, "PIECE_BYTES", 100)
    large = CorpusMarks.of(text(folder))
    assert {mark.digest.partition(":")[0] for mark in large.files} == {"pieces"}
    assert whole.changes(large) == []  # a corpus that only grew is compared as far as it can be
    raw = (folder / "b.txt").read_bytes()
    (folder / "b.txt").write_bytes(raw[:-1] + b"?")  # the last piece ends where the file does
    assert large.changes(CorpusMarks.of(text(folder))) == [
        f"{folder}/b.txt has the same 1,700 bytes but other content"
    ]


def test_marks_come_back_from_json(folder: Path) -> None:
    marks = CorpusMarks.of(text(folder))
    assert CorpusMarks.from_list(json.loads(json.dumps(marks.as_list()))) == marks


def test_files_that_are_not_read_are_named_with_the_reason(folder: Path) -> None:
    (folder / "_SUCCESS").write_text("")
    (folder / ".cache").mkdir()
    (folder / ".cache" / "d.txt").write_text("no data\n")
    (folder / "rows.jsonl").write_text('{"text": "a row"}\n')
    source = text(folder, format="text").files[0]
    found = list(left_out(source, list_files(source.paths, source.format)))
    assert [str(file) for file in found] == [
        f"{folder}/rows.jsonl (not of format text)",
        f"{folder}/.cache/d.txt (a name that begins with . or _)",
        f"{folder}/_SUCCESS (a name that begins with . or _)",
    ]


def test_links_are_read_and_what_they_lead_to_is_compared(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "blob").write_text("behind a link\n")
    (folder / "d.txt").symlink_to(tmp_path / "blob")
    source = text(folder).files[0]
    assert not list(left_out(source, list_files(source.paths)))
    before = CorpusMarks.of(text(folder))
    (tmp_path / "blob").write_text("another thing\n")
    assert before.changes(CorpusMarks.of(text(folder))) == [
        f"{folder}/d.txt has the same 14 bytes but other content"
    ]


def test_of_a_glob_what_is_of_another_format_is_named(folder: Path) -> None:
    (folder / "rows.jsonl").write_text('{"text": "a row"}\n')
    source = CorpusSpec(paths=(f"{folder}/*",), format="jsonl").files[0]
    found = list(left_out(source, list_files(source.paths, source.format)))
    assert [Path(file.path).name for file in found] == ["b.txt", "c.txt"]
