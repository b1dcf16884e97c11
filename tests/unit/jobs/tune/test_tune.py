from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import yaml

from actors.corpus.inventory import Inventory
from actors.sources.corpus_files import CorpusMarks
from actors.wire import ConfigError
from jobs.tune.progress import COLUMNS, print_results
from jobs.tune.results import FAILED, FINISHED, TrialResult
from jobs.tune.search import ASSIGNMENT, BASE, SEARCH, Assignment, load_search
from jobs.tune.tune import as_yaml, run_search, seats_of
from orchestrator.console import Console
from orchestrator.run_dir.corpus_record import write_record
from orchestrator.run_dir.run_dir import RunDir
from tests.integration.tiny import write_config, write_corpora
from tests.unit.jobs.tune.test_search import search

LABELS = {"data.workers.node_labels": {"tandem": "data"}}
FIGURES = ("heldout.help_loss", "heldout.recall_agreement", "heldout.reflection_rate")
LOSSES = {name: 0.1234567 + n for n, name in enumerate(
    ("losses.own", "losses.help", "losses.recall", "losses.self", "losses.given", "losses.balance")
)}  # fmt: skip
TRIAL: dict[str, Assignment] = {ASSIGNMENT: {"number": 0, "point": {"losses.own": 0.5}}}


@pytest.mark.parametrize(
    ("driver_cpus", "bundles", "labels"),
    [
        (0, [1.0, 1.0], [{"tandem": "data"}, {}]),
        (0.5, [0.5, 1.0, 1.0], [{}, {"tandem": "data"}, {}]),
    ],
)
def test_a_trial_asks_for_its_drivers_and_both_groups_bundles_each_with_its_labels(
    tmp_path: Path, driver_cpus: float, bundles: list[float], labels: list[dict[str, str]]
) -> None:
    asked = seats_of(search(tmp_path, driver_cpus=driver_cpus, set=LABELS), TRIAL)
    assert [bundle["CPU"] for bundle in asked.bundles] == bundles
    assert asked._bound.arguments["bundle_label_selector"] == labels


def test_without_labels_none_are_asked_for(tmp_path: Path) -> None:
    assert "bundle_label_selector" not in seats_of(search(tmp_path), TRIAL)._bound.arguments


def printed(folder: Path, results: list[TrialResult], best: list[TrialResult]) -> str:
    sink = io.StringIO()
    found: Any = search(folder, objectives=[f"min {name}" for name in FIGURES])
    print_results(found, results, best, Console(file=sink, width=80))
    return sink.getvalue()


def a_trial(number: int) -> TrialResult:
    return TrialResult(number, LOSSES, LOSSES, FINISHED, dict.fromkeys(FIGURES, 1.5), 8)


def test_many_settings_of_as_many_trials_as_are_shown_fit_in_80_columns(tmp_path: Path) -> None:
    text = printed(tmp_path, [], [a_trial(n) for n in range(COLUMNS)])
    rows = {cells[0]: cells[1:] for line in text.splitlines() if line.startswith("│")
            for cells in [line.strip("│").replace("│", " ").split()]}  # fmt: skip
    assert list(rows) == [*FIGURES, *LOSSES]
    assert rows["heldout.help_loss"] == ["1.5"] * COLUMNS
    assert rows["losses.balance"] == ["5.123"] * COLUMNS
    assert "more on the front" not in text


def test_what_the_table_has_no_column_for_is_counted(tmp_path: Path) -> None:
    text = printed(tmp_path, [], [a_trial(n) for n in range(COLUMNS + 3)])
    assert "and 3 more on the front: " in text
    assert f"{COLUMNS - 1:03d}" in text
    assert f"{COLUMNS:03d}" not in text


def test_a_search_whose_corpus_changed_does_not_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    write_corpora(tmp_path)
    write_config(tmp_path)
    file = tmp_path / "search.yaml"
    given = {
        "name": "it",
        "base": "tiny.yaml",
        "storage": str(tmp_path / "searches"),
        "space": {"losses.recall": {"choice": [0.5, 1.0]}},
        "objectives": ["min heldout.help_loss"],
    }
    file.write_text(yaml.safe_dump(given))
    found = load_search(str(file), [])
    where = RunDir(found.url)
    where.write(SEARCH, as_yaml(found))
    where.write(BASE, found.base.to_yaml())
    write_record(where, CorpusMarks.of(found.base.corpus), Inventory(()))
    facts = tmp_path / "facts.jsonl"
    facts.write_text("".join(reversed(facts.read_text().splitlines(keepends=True))))
    with pytest.raises(ConfigError, match=r"facts\.jsonl has the same .* but other content"):
        run_search(str(file), [], Console(file=io.StringIO()))


def test_a_search_without_a_best_says_why(tmp_path: Path) -> None:
    failed = TrialResult(0, LOSSES, LOSSES, FAILED, failures=2, error="out of [memory]")
    text = printed(tmp_path, [failed], [])
    assert "1 trials: 0 finished, 0 stopped early, 1 failed" in text
    assert "failed: out of [memory]" in text
    assert "no trial came to its end with all objectives" in text
