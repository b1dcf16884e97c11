"""docs/python.md runs as it stands on a tiny pair; the blocks that train, as integration test."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from orchestrator.settings.config import load_config
from orchestrator.settings.file_names import CONFIG, EXPORT
from tests.python_page import PAGE, blocks
from tests.unit.jobs.tell.exported import tellable


def test_every_block_of_the_page_is_one_of_those_that_run() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert len(blocks()) == len(re.findall(r"^```python", text, re.MULTILINE)) >= 10
    assert sum(block.trains for block in blocks()) == 2


def test_the_page_runs_as_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "runs" / "first"
    tellable(run / EXPORT)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.yaml").write_text("corpus: {kind: text, paths: [a.txt]}\n", encoding="utf-8")
    (run / CONFIG).write_text(load_config("my.yaml").to_yaml(), encoding="utf-8")
    names: dict[str, Any] = {}
    for block in blocks():
        if not block.trains:
            block.run(names)
    said = capsys.readouterr().out
    assert "TandemModel(LlamaForCausalLM" in said
    assert names["config"].run_url == str(run)
    assert names["model"].voice == "help"
