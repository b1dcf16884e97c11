from __future__ import annotations

import io
import json
import uuid
from pathlib import Path
from typing import Any

import pytest

from actors.settings.run import DATA
from actors.wire import ConfigError, StorageError
from jobs.compare import (
    Run,
    best_of,
    config_differences,
    direction,
    figures_in,
    read_run,
    run_compare,
)
from orchestrator.console import Console
from orchestrator.reporting.summary import summarise_failure
from orchestrator.run_dir.metrics import Metrics
from orchestrator.run_dir.parquet import to_parquet
from orchestrator.run_dir.run_dir import RunDir
from orchestrator.run_dir.run_status import RunStatus
from orchestrator.settings.file_names import CONFIG, EVALUATIONS, METRICS, SUMMARY
from tests.unit.away import away
from tests.unit.orchestrator.scripted import a_config, a_report, an_evaluation, finish


def write_run(url: str, summary: dict[str, Any] | None = None, **changes: Any) -> str:
    """A run directory with the config of those changes, and a summary where one is given."""
    run_dir = RunDir(url)
    run_dir.write(CONFIG, a_config(**changes).to_yaml())
    if summary is not None:
        run_dir.write_json(SUMMARY, summary)
    return url


def finished_run(url: str, own_loss: float = 2.0, **changes: Any) -> str:
    summary = finish().summary()
    summary["heldout"]["own_loss"] = own_loss
    return write_run(url, summary, **changes)


def shown(*urls: str) -> str:
    console = Console(file=io.StringIO(), width=200)
    run_compare(urls, console, False)
    return console.file.getvalue()  # type: ignore[attr-defined]


def as_json(*urls: str) -> dict[str, Any]:
    console = Console(file=io.StringIO(), width=200)
    run_compare(urls, console, True)
    return dict(json.loads(console.file.getvalue()))  # type: ignore[attr-defined]


@pytest.fixture
def two(tmp_path: Path) -> tuple[str, str]:
    """Two finished runs; the second has another seed and a lower loss."""
    first = finished_run(str(tmp_path / "a"), 2.0, name="a")
    return first, finished_run(str(tmp_path / "b"), 1.5, name="b", seed=3)


def test_figures_stand_side_by_side_and_the_best_is_marked(two: tuple[str, str]) -> None:
    (row,) = [line for line in shown(*two).splitlines() if "heldout.own_loss" in line]
    assert [cell.strip() for cell in row.strip("│").split("│")][1:] == ["2.0000", "1.5000 *"]


def test_json_says_the_same(two: tuple[str, str]) -> None:
    found = as_json(*two)
    assert [run["figures"]["heldout.own_loss"] for run in found["runs"]] == [2.0, 1.5]
    assert found["best"] == {"heldout.own_loss": [two[1]]}
    assert found["differences"] == {"seed": [0, 3]}


def test_equal_configs_are_said_to_be_equal(tmp_path: Path) -> None:
    urls = [finished_run(str(tmp_path / name), name=name) for name in ("a", "b")]
    assert "their configs do not differ" in shown(*urls)
    assert "configs" not in shown(urls[0])


def test_a_failed_run_shows_its_cause_and_competes_for_nothing(
    two: tuple[str, str], tmp_path: Path
) -> None:
    summary = summarise_failure(a_config(), Metrics(0.0), "failed", "loss is nan", 0.1)
    failed = write_run(str(tmp_path / "failed"), summary)
    text = shown(*two, failed)
    assert f"{failed}: loss is nan" in text
    assert failed not in {url for best in as_json(*two, failed)["best"].values() for url in best}


def test_a_run_without_a_summary_shows_what_it_measured_so_far(tmp_path: Path) -> None:
    run_dir = RunDir(write_run(str(tmp_path / "running")))
    metrics = Metrics(0.0)
    metrics.add_interval([a_report(DATA, 1, costs_s={})], 0.0, 1)
    metrics.add_interval([a_report(DATA, 2)], 0.0, 1)
    metrics.add_evaluation(an_evaluation(1, 1), False)
    run_dir.write(METRICS, to_parquet(metrics.intervals))
    run_dir.write(EVALUATIONS, json.dumps(metrics.evaluations))
    run = read_run(run_dir.url)
    assert run.status == "unfinished"
    assert (run.figures["data.steps"], run.figures["data.tokens"]) == (40, 2000)
    assert run.figures["heldout.own_loss"] == 2.0
    assert "memory.steps" not in run.figures


def test_a_run_that_has_only_just_begun_has_no_figures(tmp_path: Path) -> None:
    run = read_run(write_run(str(tmp_path / "begun")))
    assert (run.status, run.figures) == ("unfinished", {})


def test_a_run_that_is_not_there_is_shown_as_missing(two: tuple[str, str], tmp_path: Path) -> None:
    gone = str(tmp_path / "gone")
    console = Console(file=io.StringIO(), width=200)
    with pytest.raises(ConfigError, match=f"{gone}: no such run"):
        run_compare([*two, gone], console, True)
    found = json.loads(console.file.getvalue())  # type: ignore[attr-defined]
    assert [run["status"] for run in found["runs"]] == ["finished", "finished", "missing"]
    assert set(found["best"]) == {"heldout.own_loss"}


def test_a_run_whose_storage_is_away_is_no_wrong_input(two: tuple[str, str]) -> None:
    with (
        away(ConnectionError("refused")),
        pytest.raises(StorageError, match=r"not compared: away://b/c: .*refused"),
    ):
        run_compare([*two, "away://b/c"], Console(quiet=True), False)


def test_a_damaged_summary_is_said_to_be_one(tmp_path: Path) -> None:
    url = write_run(str(tmp_path / "damaged"))
    RunDir(url).write(SUMMARY, '{"status": "fini')
    run = read_run(url)
    assert run.status == "unreadable"
    assert "damaged" in str(run.cause)


def test_storage_that_is_not_known_is_unreadable() -> None:
    assert read_run("nowhere://bucket/run").status == "unreadable"


def test_no_run_at_all_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"a: no such run; .*b: no such run"):
        run_compare([str(tmp_path / "a"), str(tmp_path / "b")], Console(quiet=True), False)


def test_runs_on_other_storage_are_read_too() -> None:
    place = f"memory://{uuid.uuid4().hex}"
    url = finished_run(f"{place}/run", 1.25)
    assert read_run(url).figures["heldout.own_loss"] == 1.25


def test_a_key_that_one_run_lacks_is_a_difference(two: tuple[str, str]) -> None:
    old = Run("old", "finished", config={"a": 1})
    new = Run("new", "finished", config={"a": 1, "b": None})
    assert config_differences([old, new]) == {"b": [None, None]}


def test_a_run_without_a_config_makes_no_differences() -> None:
    runs = [Run("gone", "missing"), Run("there", "finished", config={"a": 1})]
    assert config_differences(runs) == {}


def test_runs_of_one_name_are_told_apart(tmp_path: Path) -> None:
    urls = [finished_run(str(tmp_path / folder / "run"), seed=i) for i, folder in enumerate("xy")]
    assert "x/run" in shown(*urls).replace("\n", "")


def test_where_all_are_equal_none_is_best() -> None:
    runs = [Run(name, RunStatus.FINISHED, figures={"heldout.own_loss": 1.0}) for name in "ab"]
    assert best_of(runs) == {}


def test_several_may_be_best() -> None:
    losses = {"a": 1.0, "b": 2.0, "c": 1.0}
    runs = [
        Run(n, RunStatus.UNREFLECTED, figures={"heldout.own_loss": v}) for n, v in losses.items()
    ]
    assert best_of(runs) == {"heldout.own_loss": ["a", "c"]}


@pytest.mark.parametrize(
    ("figure", "expected"),
    [
        ("heldout.own_loss", -1),
        ("heldout.recall_kl", -1),
        ("heldout.help_gain", 1),
        ("accuracy.memory", 1),
        ("accuracy.baseline", 0),
        ("data.tokens_per_s", 1),
        ("data.tokens", 0),
        ("memory.wait_frac", -1),
        ("exchange.max_lag", -1),
        ("seed", 0),
    ],
)
def test_which_way_a_figure_is_better(figure: str, expected: int) -> None:
    assert direction(figure) == expected


def test_figures_are_numbers_by_dotted_name() -> None:
    summary = {"status": "failed", "seed": 1, "data": {"steps": 2}, "digest": {"data": "d"}}
    assert figures_in(summary) == {"seed": 1, "data.steps": 2}
