"""`tandem evaluate --text`: which texts are read, and what the command shows."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from actors.sources.documents import Document
from actors.wire import ConfigError
from jobs.cli import app
from jobs.evaluate.text import read_texts
from tests.unit.actors.chats import talks
from tests.unit.actors.sources.test_file_source import write_rows
from tests.unit.actors.tiny_pair import exported


def test_a_text_file_is_one_document_and_json_lines_are_many(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("\ufeffone\n\ntwo é".encode())
    (tmp_path / "b.jsonl").write_text('{"text": "one"}\n\n{"text": "two", "x": 1}\n{"text": " "}\n')
    assert read_texts(str(tmp_path / "a.txt")) == [Document("one\n\ntwo é")]
    assert read_texts(str(tmp_path / "b.jsonl")) == [Document("one"), Document("two")]


def test_what_a_corpus_may_be_may_be_measured_too(tmp_path: Path) -> None:
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress(b'{"text": "one"}\n'))
    assert read_texts(str(tmp_path / "c.jsonl.gz")) == [Document("one")]
    rows = [{"prompt": "Who?", "completion": " Ada."}, {"prompt": "And?", "completion": " "}]
    write_rows(tmp_path / "d.parquet", rows)
    assert read_texts(str(tmp_path / "d.parquet")) == [Document(" Ada.", given="Who?")]
    write_rows(tmp_path / "e.parquet", talks(3), row_group_size=2)
    found = read_texts(str(tmp_path / "e.parquet"))
    assert [one.chat is not None for one in found] == [True] * 3
    assert found[0].chat != found[1].chat


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"\xff\xfe", "expected UTF-8"),
        ("a.txt", b" \n", "no text in it"),
        (
            "a.jsonl",
            b'{"text": "a"}\n{"txt": 1}\n',
            "line 2: no column text; did you mean txt.*; every row",
        ),
        ("a.jsonl", b'{"body": "a"}\n', "no column that is read: expected text, or .*, got body"),
        ("a.jsonl", b'{"text": ["a"]}\n', "line 1: column text: expected text, got"),
        ("a.jsonl", b"{\n", "line 1: not JSON"),
        ("a.csv", b"a,b\n", "csv files are not read"),
    ],
)
def test_a_text_that_can_not_be_used_is_said(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        read_texts(str(tmp_path / name))
    with pytest.raises(ConfigError, match=r"gone\.txt: no such file"):
        read_texts(str(tmp_path / "gone.txt"))


def test_the_command_shows_three_losses_and_what_the_memory_helps(tmp_path: Path) -> None:
    exported(tmp_path / "tiny")
    (tmp_path / "a.txt").write_text("The capital of Avaria is Korvik. " * 200)
    asked = ["evaluate", str(tmp_path / "tiny"), "--text", str(tmp_path / "a.txt")]
    done = CliRunner().invoke(app, [*asked, "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert set(found["losses"]) == {"own", "help", "memory"}
    assert found["gain"] == pytest.approx(found["losses"]["own"] - found["losses"]["help"])
    assert found["stderr"]["own"] > 0
    assert found["windows"] > 1
    shown = CliRunner().invoke(app, asked).output
    assert f"{found['losses']['memory']:.4f}" in shown
    assert "the memory helps by" in shown
