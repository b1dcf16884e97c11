"""Runs every example of docs/corpora.md on files made on the spot."""

from __future__ import annotations

import re
from pathlib import Path

import fsspec
import pytest

from actors.corpus.corpus import Corpus, build_tokenizer
from orchestrator.settings.config import load_config
from tests.unit.actors.chats import INST, chat_tokenizer, talks
from tests.unit.actors.sources.test_file_source import write_rows
from tests.unit.actors.tiny import numbered_lines
from tests.unit.actors.tokenizers.test_pretrained_tokenizer import byte_level, saved

GUIDE = Path(__file__).parents[2] / "docs" / "corpora.md"
EXAMPLES = re.findall(r"```yaml\n(.*?)```", GUIDE.read_text(encoding="utf-8"), flags=re.S)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Every file that the guide speaks of."""
    data, lines = tmp_path / "data", numbered_lines(400)
    (data / "notes").mkdir(parents=True)
    for name in ("book.txt", "notes/one.md"):
        (data / name).write_text("\n".join(lines), encoding="utf-8")
    for name in ("web-0.jsonl.gz", "web-1.jsonl.gz"):
        write_rows(data / name, [{"text": line} for line in lines])
    write_rows(data / "wiki.parquet", [{"text": line, "body": line} for line in lines])
    pairs = [{"question": f"{line}? ", "answer": line} for line in lines]
    write_rows(data / "questions.jsonl", pairs)
    saved(tmp_path / "models" / "llama", byte_level("<s>", "</s>"))
    write_rows(data / "chats.jsonl", [{**row, "tools": [{"name": "f"}]} for row in talks(200)])
    chat_tokenizer(tmp_path / "models" / "chat")
    (tmp_path / "chat.jinja").write_text(INST, encoding="utf-8")
    bucket = fsspec.filesystem("memory")
    bucket.pipe_file("/bucket/corpus/a.parquet", (data / "wiki.parquet").read_bytes())
    return tmp_path


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_of_the_guide_gives_windows(folder: Path, example: str) -> None:
    example = example.replace("s3://", "memory://")
    (folder / "config.yaml").write_text(example, encoding="utf-8")
    small = ["corpus.block_bytes=512", f"corpus.spool={folder}/spool", "tokenizer.vocab_size=300"]
    config = load_config(str(folder / "config.yaml"), small)
    corpus = Corpus.open(config, build_tokenizer(config))
    assert corpus.chunk("data", 0).num_tokens > 100
    assert corpus.heldout(4).num_tokens > 100


def test_the_guide_has_examples() -> None:
    assert len(EXAMPLES) == 7
