"""Options of `tandem evaluate` that do not go together; nothing of the harness is imported."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner

from jobs.cli import app


def test_options_that_do_not_go_together_are_refused(tmp_path: Path) -> None:
    run = str(tmp_path)
    for given, message in (
        (["--limit", "3"], "need --tasks NAME"),
        (["--tasks", "a", "--text", "b"], "--text and --tasks are evaluations of their own"),
        (["--tasks", " , "], "got none"),
    ):
        done = CliRunner().invoke(app, ["evaluate", run, *given])
        assert done.exit_code == 2
        assert message in " ".join(done.output.split())
