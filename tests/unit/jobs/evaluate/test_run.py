"""What `tandem evaluate RUN` says of a run that has no export."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from actors.wire import ConfigError
from jobs.evaluate.run import run_evaluation
from orchestrator.console import Console


def test_a_run_without_an_export_is_said_to_be_in_its_state(tmp_path: Path) -> None:
    def refusal() -> str:
        with pytest.raises(ConfigError) as raised:
            run_evaluation(str(tmp_path), Console(quiet=True), as_json=False)
        return str(raised.value)

    assert "neither a run (config.yaml is missing) nor an export" in refusal()
    (tmp_path / "config.yaml").write_text("name: x\n")
    assert "it has not ended yet" in refusal()
    summary = {"status": "interrupted", "cause": "stopped by SIGINT"}
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    assert "it ended as interrupted: stopped by SIGINT" in refusal()
