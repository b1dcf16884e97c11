from __future__ import annotations

import io
import time
from functools import partial
from typing import Any

import pytest

from actors.formats import clock as clock_of
from actors.settings.run import DATA, GROUPS, MEMORY
from orchestrator.console import Console
from orchestrator.loop.recovery import Failure
from orchestrator.loop.resize_rules import Resize
from orchestrator.reporting import progress_view
from orchestrator.reporting.progress_view import ProgressView
from orchestrator.run_dir.metrics import Metrics
from tests.unit.orchestrator.interleaved import interrupted_at
from tests.unit.orchestrator.scripted import (
    a_config,
    a_description,
    a_report,
    an_evaluation,
    catch_up,
)


def shown(terminal: bool, width: int = 80, **evaluation: Any) -> str:
    """What a run of one interval, an evaluation, a warning and a catch-up shows."""
    sink = io.StringIO()
    console = Console(file=sink, force_terminal=terminal, width=width, color_system=None)
    metrics = Metrics(0.0)
    with ProgressView(a_config(name="shown"), console) as progress:
        progress.phase("starting both groups")
        progress.started({group: [a_description(group)] for group in GROUPS})
        for group in GROUPS:
            progress.interval(metrics.add_interval([a_report(group, 1)], 0.5, 1))
        progress.evaluation(metrics.add_evaluation(an_evaluation(1, 1, **evaluation), False))
        progress.warning("disk is [slow]")
        late = catch_up(3, 0.75)
        progress.interval(metrics.add_interval(late.reports, 0.5, 1))
    return sink.getvalue()


def test_without_a_terminal_there_are_plain_lines_and_no_control_codes() -> None:
    text = shown(terminal=False)
    assert "\x1b" not in text
    assert "starting both groups" in text
    assert "data: step 20/40" in text
    assert "own 2.000" in text


def test_without_a_terminal_each_message_is_one_line_however_narrow() -> None:
    assert len(shown(terminal=False, width=40).splitlines()) == 5


def test_a_run_that_says_nothing_for_long_says_that_it_is_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sink = io.StringIO()
    progress = ProgressView(a_config(), Console(file=sink, width=200))
    progress.phase("training")
    said = sink.getvalue()
    progress._beat()
    assert sink.getvalue() == said  # a line was just there
    monkeypatch.setattr(progress_view, "QUIET_S", 0.0)
    progress._beat()
    assert sink.getvalue().endswith("training, no interval is done yet\n")
    progress.interval(Metrics(0.0).add_interval([a_report(DATA, 1)], 0.5, 1))
    progress._beat()
    assert "data: step 20/40" in sink.getvalue().splitlines()[-1]


def test_a_terminal_shows_both_groups_side_by_side() -> None:
    text = shown(terminal=True, width=120)
    assert f"{DATA} group" in text
    assert f"{MEMORY} group" in text
    assert "1, adopted 0" in text
    assert "agreement 0.750" in text


def test_a_groups_first_interval_may_come_while_the_view_is_drawn() -> None:
    """The view is drawn on another thread."""
    metrics = Metrics(0.0)
    rows = {group: metrics.add_interval([a_report(group, 1)], 0.5, 1) for group in GROUPS}
    turns, console = 0, Console(quiet=True)
    while True:
        progress = ProgressView(a_config(), console)
        progress.interval(rows[DATA])
        come = partial(progress.interval, rows[MEMORY])
        if not interrupted_at(turns, ProgressView._left_s.__code__, progress._render, come):
            break
        turns += 1
    assert turns > 0


def test_until_the_first_interval_is_done_a_line_says_how_far_the_steps_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A step of the data group takes 20 s here, of 40 in all; the memory's take none."""
    clock, sink = {"now": 0.0}, io.StringIO()
    monkeypatch.setattr(time, "monotonic", lambda: clock["now"])
    progress = ProgressView(a_config(), Console(file=sink, width=200))
    progress.steps({DATA: 3})  # not yet ready
    progress.started({group: [a_description(group)] for group in GROUPS})
    for now in range(0, 101, 10):
        clock["now"] = float(now)
        progress.steps({DATA: now // 20, MEMORY: 0})
        progress._beat()
    lines = [line for line in sink.getvalue().splitlines() if "step" in line]
    assert len(lines) == 3  # every half a minute
    total = a_config().total_steps(DATA)
    assert f"{DATA}: step 1/{total}  {MEMORY}: step 0/" in lines[0]
    assert "left" not in lines[0]  # by one step nothing can be said
    left_s = 20 * (2 * total - 4)  # of both groups, by the steps from the first on
    assert f"left about {clock_of(left_s)}" in lines[2]
    progress.interval(Metrics(0.0).add_interval([a_report(DATA, 1)], 0.5, 1))
    clock["now"] = 200.0
    progress.steps({DATA: 20, MEMORY: 3})
    progress._beat()
    assert "(in the first interval)" not in sink.getvalue().splitlines()[-1]


@pytest.mark.parametrize("ahead", [0, 1])
def test_the_time_left_does_not_jump_where_the_groups_take_turns(
    monkeypatch: pytest.MonkeyPatch, ahead: int
) -> None:
    """In one process each half of an interval takes its time; here 30 s."""
    metrics, clock = Metrics(0.0), {"now": 0.0}
    monkeypatch.setattr(time, "monotonic", lambda: clock["now"])
    progress = ProgressView(a_config(intervals=10), Console(quiet=True))
    for interval in (1, 2):
        for group in GROUPS:
            progress.interval(metrics.add_interval([a_report(group, interval)], 0.5, 1))
    if ahead:
        progress.interval(metrics.add_interval([a_report(DATA, 3)], 0.5, 1))
    progress._first_interval_at, clock["now"] = 0.0, 120.0 + 30.0 * ahead
    assert progress._left_s() == pytest.approx(60.0 * 9 - 30.0 * ahead)


def test_a_terminal_too_narrow_for_both_groups_does_not_stop_the_run() -> None:
    assert "tandem · shown" in shown(terminal=True, width=20)


def test_a_warning_is_shown_as_it_is_written() -> None:
    assert "warning: disk is [slow]" in shown(terminal=False)
    assert "warning: disk is [slow]" in shown(terminal=True)


def test_a_corpus_without_probes_shows_losses_and_no_answers() -> None:
    text = shown(terminal=False, accuracy={}, accuracy_seen={})
    assert "gain +0.500" in text
    assert "answers" not in text


def test_a_live_view_can_be_drawn_before_anything_happened() -> None:
    console = Console(file=io.StringIO(), force_terminal=True)
    with ProgressView(a_config(), console):
        pass
    assert "starting" in console.file.getvalue()


A_FAILURE = Failure(DATA, 0, 7, "data rank 0 failed in interval 7: it died.", 0, 3)


def test_a_failure_its_end_and_a_stop_are_told_in_a_line_each() -> None:
    sink = io.StringIO()
    metrics = Metrics(0.0)
    with ProgressView(a_config(), Console(file=sink, width=40, color_system=None)) as progress:
        metrics.add_failure(A_FAILURE)
        progress.failure(A_FAILURE)
        progress.recovery(metrics.add_recovery(DATA, 3.4, 2.0))
        progress.draining(9)
    failed, back, stopping = sink.getvalue().splitlines()
    assert "interval 7: it died; the data group is restarted (its failure 1)" in failed
    assert "replays 3 interval(s); the memory group goes on" in failed
    assert "the data group has recovered: 3.4 s to restart, 2.0 s to replay" in back
    assert "stopping after a checkpoint of interval 9; Ctrl-C once more ends" in stopping


def test_a_resize_is_told_in_a_line() -> None:
    sink = io.StringIO()
    with ProgressView(a_config(), Console(file=sink, width=40, color_system=None)) as progress:
        progress.resize(Resize(MEMORY, 7, 1, 2, 3.25, 0.125))
    (line,) = sink.getvalue().splitlines()
    assert "the memory group has 2 worker(s) instead of 1 after interval 7" in line
    assert "ready in 3.2 s, paused for 0.12 s" in line


def test_a_terminal_that_cannot_redraw_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    text = shown(terminal=True)
    assert "\x1b" not in text
    assert "data: step 20/40" in text


@pytest.mark.parametrize("terminal", [False, True])
def test_names_phases_and_causes_are_shown_as_they_are(terminal: bool) -> None:
    text, sink = "[INST] [/INST] [red] :smile: {x} <b>", io.StringIO()
    console = Console(file=sink, force_terminal=terminal, width=300, color_system=None)
    config = a_config().model_copy(update={"name": text})
    with ProgressView(config, console) as progress:
        progress.phase(f"{text} phase")
        progress.waiting(f"{text} waits")
        progress.warning(text)
        progress.failure(Failure(DATA, 0, 3, f"{text} cause", 0, 2))
    said = sink.getvalue()
    for part in (f"{text} waits", f"warning: {text}", f"{text} cause"):
        assert part in said
    assert (f"tandem · {text}" in said) is terminal


def test_losses_on_general_text_are_shown_where_they_were_measured() -> None:
    general = {"general_own_loss": 4.25, "general_help_loss": 4.5, "general_mixing": 0.1}
    figures = an_evaluation(1, 1).figures | general
    assert "general text: own 4.250  help 4.500" in shown(terminal=False, figures=figures)
    assert "general text" not in shown(terminal=False)
