from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from actors.spec import DATA, GROUPS, MEMORY
from orchestrator.metrics import Metrics
from orchestrator.progress import Progress
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
    with Progress(a_config(name="shown"), console) as progress:
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


def test_a_terminal_shows_both_groups_side_by_side() -> None:
    text = shown(terminal=True, width=120)
    assert f"{DATA} group" in text
    assert f"{MEMORY} group" in text
    assert "1, adopted 0" in text
    assert "agreement 0.750" in text


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
    with Progress(a_config(), console):
        pass
    assert "starting" in console.file.getvalue()
