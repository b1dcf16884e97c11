"""Progress of a command: a line that is redrawn on a terminal, a line at times elsewhere."""

from __future__ import annotations

import io
import time
from collections.abc import Callable

import pytest

from orchestrator.console import Console
from orchestrator.reporting import task_progress
from orchestrator.reporting.task_progress import TaskProgress

PATIENCE_S = 10.0


def plain(every_s: float = 1000.0) -> tuple[TaskProgress, io.StringIO]:
    out = io.StringIO()
    return TaskProgress(Console(file=out, width=200), every_s), out


def until(is_so: Callable[[], bool]) -> bool:
    end = time.monotonic() + PATIENCE_S
    while not (found := is_so()) and time.monotonic() < end:
        time.sleep(0.01)
    return found


def test_what_is_short_says_nothing_where_there_is_no_terminal() -> None:
    progress, out = plain()
    with progress:
        progress("loading the pair")
        progress("answers", 3, 10)
    assert out.getvalue() == ""


def test_a_long_stage_says_what_it_does_and_how_far_it_is() -> None:
    progress, out = plain(0.01)
    with progress:
        progress("answers", 0, 1000)
        progress("answers", 250, 1000)
        assert until(lambda: "answers · 250/1,000 · 0:00 left\n" in out.getvalue())
        progress("digests")
        assert until(lambda: out.getvalue().endswith("digests\n"))
    said = out.getvalue()
    assert said.startswith("[")
    time.sleep(0.05)
    assert out.getvalue() == said  # nothing is said after the end


def test_time_left_follows_the_rate_of_the_stage_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(task_progress.time, "monotonic", lambda: now)
    progress, _ = plain()
    progress("loading")
    now = 160.0
    progress("answers", 0, 40)
    assert "left" not in progress._line()
    now = 170.0
    progress("answers", 10, 40)
    assert progress._line() == "[  70.0 s] answers · 10/40 · 0:30 left"
    progress("answers", 40, 40)
    assert progress._line().endswith("40/40 · 0:00 left")


def test_a_stage_that_goes_on_counts_what_it_did_since_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 0.0
    monkeypatch.setattr(task_progress.time, "monotonic", lambda: now)
    progress, _ = plain()
    progress("measuring")
    now = 10.0
    progress("learning", 100, 400)  # an exam came between
    assert "left" not in progress._line()
    now = 20.0
    progress("learning", 110, 400)
    assert progress._line().endswith("learning · 110/400 · 4:50 left")


@pytest.mark.parametrize(("done", "total"), [(5, None), (0, 10), (11, 10)])
def test_without_a_rate_no_time_is_promised(done: int, total: int | None) -> None:
    progress, _ = plain()
    progress("answers", done, total)
    assert "left" not in progress._line()


def test_on_a_terminal_a_bar_is_drawn_and_gone_at_the_end() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, force_interactive=True, width=100)
    with TaskProgress(console) as progress:
        progress("answers", 5, 10)
        progress.says("a line that stays")
        assert until(lambda: "answers · 5/10" in out.getvalue())
        assert "━" in out.getvalue()
    assert out.getvalue().rstrip().endswith("\x1b[2K")
    assert "a line that stays" in out.getvalue()


def test_an_error_inside_ends_the_view_and_is_not_kept() -> None:
    progress, out = plain(0.01)
    with pytest.raises(ValueError, match="inside"), progress:
        raise ValueError("inside")
    said = out.getvalue()
    time.sleep(0.05)
    assert out.getvalue() == said


def test_progress_is_on_standard_error_so_that_results_can_be_piped(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with TaskProgress(line_every_s=0.01) as progress:
        progress("answers", 1, 2)
        found = ""

        def is_said() -> bool:
            nonlocal found
            found += capsys.readouterr().err
            return "answers · 1/2" in found

        assert until(is_said)
    assert capsys.readouterr().out == ""
