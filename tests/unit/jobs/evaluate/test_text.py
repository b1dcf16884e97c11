"""`tandem evaluate --text`: which texts are read, and what the command shows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from actors.wire import ConfigError
from jobs.cli import app
from jobs.evaluate.text import read_texts
from tests.unit.actors.tiny_pair import exported


def test_a_text_file_is_one_document_and_json_lines_are_many(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("\ufeffone\n\ntwo é".encode())
    (tmp_path / "b.jsonl").write_text('{"text": "one"}\n\n{"text": "two", "x": 1}\n{"text": " "}\n')
    assert read_texts(str(tmp_path / "a.txt")) == ["one\n\ntwo é"]
    assert read_texts(str(tmp_path / "b.jsonl")) == ["one", "two"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"\xff\xfe", "expected UTF-8"),
        ("a.txt", b" \n", "no text in it"),
        ("a.jsonl", b'{"text": "a"}\n{"txt": 1}\n', "line 2: expected"),
        ("a.jsonl", b'{"text": ["a"]}\n', "line 1: text: expected text, got"),
        ("a.jsonl", b"{\n", "line 1: expected"),
    ],
)
def test_a_text_that_can_not_be_used_is_said(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        read_texts(str(tmp_path / name))
    with pytest.raises(ConfigError, match="can't be read"):
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
