"""Transcripts on the pages run as they stand, on a tiny pair."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml

from tests.transcripts import DOCS, Step, plainly, transcripts
from tests.unit.actors.chats import chat_tokenizer, talks
from tests.unit.actors.sources.test_file_source import write_rows
from tests.unit.actors.tiny import COUNTRIES, FAMILIES
from tests.unit.jobs.tell.exported import tellable

PAGES = ("chat.md", "corpora.md", "evaluate.md", "install.md", "tell.md")
REAL = "smollm-pair"  # of a model that takes minutes
HARNESS = ("--tasks", "lm-eval")  # to import it takes seconds


def marks_of(steps: list[Step]) -> list[pytest.MarkDecorator]:
    is_long = any(word in step.command for step in steps for word in HARNESS)
    return [pytest.mark.long] if is_long else []


FOUND = [
    pytest.param(steps, id=f"{page}: {steps[0].command[:40]}", marks=marks_of(steps))
    for page in PAGES
    for steps in transcripts(page)
    if REAL not in steps[0].command
]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tellable(tmp_path_factory.mktemp("transcripts") / "tiny")


@pytest.fixture
def place(pair: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a reader of the pages is: with runs, a text, and chats."""
    for name in ("quickstart", "my-run"):
        shutil.copytree(pair, tmp_path / "runs" / name)
    (tmp_path / "notes.txt").write_text("The capital of Avaria is Korvik. " * 200)
    write_rows(tmp_path / "data" / "chats.jsonl", talks(200))
    chat_tokenizer(tmp_path / "models" / "chat")
    config = {
        "corpus": {"paths": ["data/chats.jsonl"], "messages_column": "messages", "window": 64},
        "tokenizer": {"pretrained": "models/chat"},
        "data": {"layer": {"model_type": "llama", "fields": FAMILIES["llama"], "read_layers": [0]}},
        "storage": str(tmp_path / "runs"),
    }
    (tmp_path / "chats.yaml").write_text(json.dumps(config))
    [example] = re.findall(r"```yaml\n(task: .*?)```", (DOCS / "evaluate.md").read_text(), re.S)
    task = yaml.safe_load(example)
    task["dataset_kwargs"]["cache_dir"] = str(tmp_path / "cache")
    (tmp_path / "capitals.yaml").write_text(yaml.safe_dump(task))
    rows = [
        {"country": country, "choices": [f" {capital}", " Oda"], "label": 0}
        for country, capital in COUNTRIES[:6]
    ]
    write_rows(tmp_path / "capitals.jsonl", rows)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("steps", FOUND)
@pytest.mark.usefixtures("place")
def test_a_transcript_shows_what_its_commands_show(steps: list[Step]) -> None:
    for step in steps:
        shown = step.run()
        assert re.fullmatch(step.shown, shown), f"{step.command}\n{step.shown}\n---\n{shown}"


def test_every_page_has_one() -> None:
    assert all(transcripts(page) for page in PAGES)


def test_a_transcript_that_shows_something_else_is_seen() -> None:
    [first, *_], *_ = transcripts("chat.md")
    shown = "\n".join(["runs/quickstart: own speaks; /help lists what else there is", "…"])
    assert not re.fullmatch(first.shown, plainly(shown))
