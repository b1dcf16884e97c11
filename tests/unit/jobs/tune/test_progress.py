from __future__ import annotations

import io
from pathlib import Path

import pytest

from jobs.tune.progress import SearchProgress, clock
from jobs.tune.results import FAILED, FINISHED, RUNNING, STOPPED, TrialResult, TrialResults
from orchestrator.console import Console
from orchestrator.run_dir.run_dir import RunDir
from tests.unit.jobs.tune.test_search import search

HELP, AGREEMENT = "heldout.help_loss", "heldout.recall_agreement"


def trial(number: int, status: str, loss: float = 1.0, interval: int = 8) -> TrialResult:
    point = {"losses.own": 0.25 + number / 100}
    figures = {HELP: loss, AGREEMENT: 0.5} if status != FAILED else {}
    return TrialResult(number, point, point, status, figures, interval, seconds=75.0)


def shown(folder: Path, terminal: bool, objectives: list[str], *events: tuple[str, TrialResult],
          before: tuple[TrialResult, ...] = ()) -> str:  # fmt: skip
    sink = io.StringIO()
    console = Console(file=sink, force_terminal=terminal, width=150)
    found = search(folder, objectives=objectives, trials=20)
    results = TrialResults(RunDir(str(folder)), before)
    with SearchProgress(found, console, results) as progress:
        for what, result in events:
            results.keep(result)
            progress.event(what, result)
        progress.warning("storage is away")
    return sink.getvalue()


def test_without_a_terminal_a_line_says_what_happened(tmp_path: Path) -> None:
    text = shown(
        tmp_path,
        False,
        [f"min {HELP}"],
        ("starts", trial(0, RUNNING)),
        ("measured", trial(0, RUNNING)),
        (FINISHED, trial(0, FINISHED)),
        ("failed: oh", trial(1, FAILED)),
    )
    lines = [line[12:] for line in text.splitlines()]
    assert lines[0] == "trial 000 starts: losses.own=0.25"
    assert lines[1].startswith(
        "trial 000 finished after interval 8: heldout.help_loss 1 · 1 of 20 done, 0 running · 0:00"
    )
    assert lines[2].startswith("trial 001 failed: oh · 2 of 20 done, 0 running, 1 failed")
    assert lines[3] == "warning: storage is away"
    assert len(lines) == 4


def test_on_a_terminal_a_table_shows_the_running_the_newest_and_the_best(tmp_path: Path) -> None:
    ended = tuple(trial(n, FINISHED if n % 2 else STOPPED, 2 - n / 20) for n in range(1, 17))
    running = trial(0, RUNNING, interval=2)
    text = shown(tmp_path, True, [f"min {HELP}"], ("starts", running), before=ended)
    last = text[text.rindex("tandem tune") :]
    assert "running" in last
    assert "2/8" in last
    assert " 016 " in last
    assert " 005 " not in last  # older than the twelve that are shown
    assert "16 of 20 done, 1 running, 8 stopped early" in last
    assert "best so far: 015, heldout.help_loss 1.25" in last
    assert "losses.own=0.4" in last
    assert "1:15" in last


def test_of_several_objectives_the_front_is_counted(tmp_path: Path) -> None:
    goals = [f"min {HELP}", f"max {AGREEMENT}"]
    text = shown(tmp_path, True, goals, (FINISHED, trial(0, FINISHED)))
    assert "first of 1 on the front so far: 000" in text


@pytest.mark.parametrize(("seconds", "text"), [(5, "0:05"), (75, "1:15"), (3900, "1 h 05")])
def test_times_are_short(seconds: float, text: str) -> None:
    assert clock(seconds) == text
