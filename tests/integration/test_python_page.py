"""docs/python.md runs as it stands, training included."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from jobs.api import RunResult, TandemModel, load
from tests.python_page import blocks


@pytest.mark.long  # without Ray: tests/unit/jobs/test_python_page.py
@pytest.mark.usefixtures("shared_ray")
def test_the_page_trains_loads_and_generates(
    workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("facts.jsonl", "templates.json"):
        shutil.copy(workplace / name, tmp_path / name)
    shutil.copy(workplace / "tiny.yaml", tmp_path / "my.yaml")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for block in blocks():
        block.run(names)
    result = names["result"]
    assert isinstance(result, RunResult)
    assert result.path == str(tmp_path / "runs" / "in-process")
    first = json.loads((tmp_path / "runs" / "first" / "summary.json").read_text())
    assert result.summary["digest"] == first["digest"]
    model = load(result.path)
    assert isinstance(model, TandemModel)
    assert len(list(model.memory_port.gates)) == 2
