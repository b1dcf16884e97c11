"""A start that takes too long says which ranks are waited for, and how far each has come."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from actors.corpus import train_tokenizer
from orchestrator.config import load_config
from orchestrator.errors import GroupFailedError
from orchestrator.run import train

pytestmark = pytest.mark.usefixtures("shared_ray")


@pytest.fixture
def blocked(workplace: Path, tmp_path: Path) -> tuple[str, ...]:
    """Overrides of a run whose ranks never get their corpus: templates in a pipe that nobody writes
    to. The driver, which has a tokenizer, reads none.
    """
    whole = load_config(str(workplace / "tiny.yaml"))
    (tmp_path / "tokenizer.json").write_text(train_tokenizer(whole).export_json())
    (tmp_path / "special_tokens_map.json").write_text('{"eos_token": "<|endoftext|>"}')
    os.mkfifo(tmp_path / "templates.json")
    return (
        f"tokenizer={{pretrained: {tmp_path}}}",
        f"corpus.templates={tmp_path / 'templates.json'}",
        "evaluation.every=0",
    )


def failure(workplace: Path, name: str, *overrides: str) -> str:
    config = load_config(str(workplace / "tiny.yaml"), [f"name={name}", *overrides])
    with pytest.raises(GroupFailedError) as failed:
        train(config)
    return str(failed.value)


def test_ranks_that_read_the_corpus_are_named_with_it(
    workplace: Path, blocked: tuple[str, ...]
) -> None:
    text = failure(workplace, "late-reading", *blocked, "deadlines.start_s=30")
    assert "was not ready after 30 s (waiting for " in text
    for group in ("data", "memory"):
        assert f"{group} rank 0: taking its device and reading the corpus, for " in text
    assert "raise deadlines.start_s" in text


def test_processes_that_ray_has_not_started_are_named_so(workplace: Path) -> None:
    text = failure(workplace, "late-process", "deadlines.start_s=0.01")
    assert "has no process yet after 0.01 s" in text
    assert "Ray has not started its process yet" in text or "waiting to start" in text
