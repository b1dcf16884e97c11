"""A run on chats: interrupted and resumed to the same bits, exported with its template."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from orchestrator.errors import InterruptedRunError
from orchestrator.run_dir.metrics import Row
from orchestrator.settings.config import Config, load_config
from tests.integration.tiny import LLAMA, run_in_process, write_config
from tests.unit.actors.chats import CHATML, TALK, chat_tokenizer, talks
from tests.unit.actors.sources.test_file_source import write_rows


@pytest.fixture
def place(tmp_path: Path) -> Path:
    write_rows(tmp_path / "chats.jsonl", talks(120))
    chat_tokenizer(tmp_path / "tokenizer", None)
    (tmp_path / "chat.jinja").write_text(CHATML)
    layer = {**LLAMA, "fields": {**LLAMA["fields"], "max_position_embeddings": 96}}
    data = {"layer": layer, "batch_size": 4, "steps_per_interval": 3}
    corpus = {
        "paths": ["chats.jsonl"],
        "messages_column": "messages",
        "window": 96,
        "block_bytes": 512,
    }
    tokenizer = {"pretrained": "tokenizer", "chat_template": "chat.jinja"}
    write_config(tmp_path, corpus=corpus, tokenizer=tokenizer, data=data)
    return tmp_path


@pytest.mark.long
def test_a_run_on_chats_resumes_to_the_same_bits_and_exports_its_template(place: Path) -> None:
    def config(name: str) -> Config:
        return load_config(str(place / "tiny.yaml"), [f"name={name}", "intervals=3"])

    def interrupt(row: Row) -> None:
        if row["data_version"] == 0:
            signal.raise_signal(signal.SIGINT)

    whole = run_in_process(config("whole"))
    parts = config("parts")
    with pytest.raises(InterruptedRunError):
        run_in_process(parts, on_evaluation=interrupt)
    (place / "chat.jinja").unlink()  # the run has kept it
    again = run_in_process(parts, resume=True)
    assert again.summary["digest"] == whole.summary["digest"]

    exported = AutoTokenizer.from_pretrained(Path(again.path) / "export" / "data_layer")
    assert exported.chat_template == CHATML
    opened = exported.apply_chat_template(TALK[:2], add_generation_prompt=True, tokenize=False)
    assert opened.endswith("The capital of Avaria?<|im_end|>\n<|im_start|>assistant\n")
