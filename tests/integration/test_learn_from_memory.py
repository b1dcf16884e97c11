"""`tandem learn` with old text that the memory writes: the run's corpus is not there any more."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from actors.wire import ConfigError, TandemError
from jobs.learn.learn import LearnOptions, run_learn
from jobs.learn.old_data import old_from
from orchestrator.console import Console
from tests.integration.tiny import run_with_new_facts


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A finished run, new facts beside it, and nothing of its corpus but the templates."""
    folder = tmp_path_factory.mktemp("learn")
    run = run_with_new_facts(folder)
    (folder / "facts.jsonl").unlink()
    return str(run)


def learn(run: str, out: Path, **options: Any) -> tuple[dict[str, Any], str]:
    folder, shown = Path(run).parents[1], io.StringIO()
    given = LearnOptions(
        facts=str(folder / "new.jsonl"),
        templates=str(folder / "templates.json"),
        out=str(out),
        steps=2,
        **options,
    )
    return run_learn(run, given, Console(file=shown, width=200), False), shown.getvalue()


def test_the_corpus_is_not_needed_and_the_result_says_so(
    run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    learned, shown = learn(run, tmp_path / "learned", old_from="memory")
    said = capsys.readouterr().err
    assert learned["old_from"] == "memory"
    assert learned["old_tokens"] > 0
    assert "measured on written text" in said
    assert "step 2/2" in said
    assert "data layer is the run's" in shown
    assert (tmp_path / "learned" / "export" / "export.json").is_file()
    summary = json.loads((tmp_path / "learned" / "summary.json").read_text())
    assert summary["learned_from"] == run
    assert "old data from the memory" in (tmp_path / "learned" / "report.html").read_text()


def test_the_corpus_is_missed_where_it_is_asked_for(run: str, tmp_path: Path) -> None:
    with pytest.raises(TandemError, match=r"facts\.jsonl"):
        learn(run, tmp_path / "learned", old_from="corpus")
    assert not (tmp_path / "learned").exists()


@pytest.mark.parametrize(("likely", "source"), [(0.9, "memory"), (0.1, "corpus"), (None, "corpus")])
def test_by_default_a_memory_that_can_write_is_asked(likely: float | None, source: str) -> None:
    summary = {"heldout": {"written_likely_frac": likely}}
    assert old_from(None, summary) == source
    assert old_from(None, {"heldout": {}}) == "corpus"
    assert old_from("memory", {}) == "memory"


def test_a_memory_that_writes_nothing_else_is_refused(
    run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("actors.learning.rehearsal.write_documents", lambda *_, **__: [])
    with pytest.raises(ConfigError, match="--old-from corpus"):
        learn(run, tmp_path / "learned", old_from="memory")
