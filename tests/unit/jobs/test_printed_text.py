"""What each command prints of text that comes from data, models, configs, paths and errors: as it
is. The commands' tables and lines, over what a run leaves behind.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from shlex import quote
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from actors.wire import ConfigError, TandemError
from jobs.ask import run_ask
from jobs.check.check import check, show
from jobs.cli import app
from jobs.compare import run_compare
from jobs.exit_codes import exit_codes
from jobs.init import run_init
from jobs.learn.forks import _print as print_forks
from jobs.learn.learn import _print as print_learned
from jobs.status import run_list, run_status
from jobs.submit.follow import LogPrinter
from jobs.train import print_summary
from jobs.tune.progress import SearchProgress, print_results
from jobs.tune.results import FAILED, FINISHED, RUNNING, TrialResult, TrialResults
from orchestrator.console import READER_GONE, Console
from orchestrator.errors import InterruptedRunError
from orchestrator.run_dir.run_dir import RunDir
from orchestrator.settings.config import load_config
from orchestrator.settings.file_names import CONFIG, EXPORT, STATUS
from tests.integration.tiny import write_config, write_corpora
from tests.unit.actors.tiny_pair import exported
from tests.unit.jobs.test_compare import finished_run, write_run
from tests.unit.jobs.tune import test_search
from tests.unit.orchestrator.reporting import test_learn_report
from tests.unit.orchestrator.run_dir.test_status import HERE, a_status
from tests.unit.orchestrator.scripted import a_config, finish

TEXT = "[INST] hi [/INST] [red] :smile: {x} <b>"
FOLDER = "my runs [v1] [red] :smile: 100%"  # may hold runs
learned, forks = test_learn_report.learned, test_learn_report.forks  # fixtures


def printed(show: Callable[[Console], object], **options: Any) -> str:
    out = io.StringIO()
    show(Console(file=out, width=400, **options))
    return out.getvalue()


def run_at(folder: Path, name: str = "a") -> str:
    """A run that trains, in a folder with brackets."""
    run_dir = RunDir(str(folder / FOLDER / name))
    status = a_status(HERE)
    status["phase"] = TEXT
    status["groups"]["memory"]["ranks"][0]["host"] = TEXT
    run_dir.write_json(STATUS, status)
    run_dir.write(CONFIG, a_config(storage=str(folder / FOLDER)).to_yaml())
    return run_dir.url


def test_ask_shows_prompts_with_brackets_in_both_forms(tmp_path: Path) -> None:
    exported(tmp_path / EXPORT)
    for by_token in (False, True):
        assert TEXT in printed(
            lambda console: run_ask(str(tmp_path), TEXT, console, by_token, 2)  # noqa: B023
        )


def test_a_prompt_that_is_no_unicode_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"prompt 'caf\\udce9': expected UTF-8, got other bytes"):
        printed(lambda console: run_ask(str(tmp_path), "caf\udce9", console, False, 2))


def test_a_summary_shows_questions_answers_and_reasons_as_they_are() -> None:
    voices = {voice: f"{TEXT} {voice}" for voice in ("own", "help", "memory")}
    asked = {"prompt": f"{TEXT} prompt", "expected": f"{TEXT} expected", **voices}
    summary = {**finish().summary(), "questions": [asked], "reflects_final_reason": TEXT}
    assert printed(lambda console: print_summary(summary, console)).count(TEXT) == 6


def test_a_status_shows_its_folder_phase_and_host_as_they_are(tmp_path: Path) -> None:
    url = run_at(tmp_path)
    for terminal in (False, True):
        said = printed(
            lambda console: run_status(url, console, False, False),
            force_terminal=terminal,
            color_system=None,
        )
        assert said.count(TEXT) == 2
        assert f"{url}: running" in said


def test_a_list_of_runs_shows_folders_and_names_as_they_are(tmp_path: Path) -> None:
    run_at(tmp_path, "[red]a[bold]")
    said = printed(lambda console: run_list(str(tmp_path / FOLDER), None, console, False))
    assert f"runs under {tmp_path / FOLDER}" in said
    assert "[red]a[bold]" in said


def test_a_folder_without_runs_is_said_to_have_none(tmp_path: Path) -> None:
    said = printed(lambda console: run_list(str(tmp_path / "nope"), None, console, False))
    assert said == f"no runs under {tmp_path / 'nope'}\n"


def test_a_comparison_shows_names_causes_and_values_as_they_are(tmp_path: Path) -> None:
    paths = [f"{TEXT}.txt", "x\\[y]"]
    urls = [
        finished_run(str(tmp_path / "[red]a"), own_loss=1.0, corpus={"paths": paths}),
        finished_run(str(tmp_path / "[bold]b"), own_loss=2.0),
        write_run(str(tmp_path / "c"), {"status": "failed", "cause": TEXT}),
    ]
    said = printed(lambda console: run_compare(urls, console, False))
    for part in ("[red]a", "[bold]b", f"/c: {TEXT}", f'{TEXT}.txt", ', "x\\\\[y]", " *"):
        assert part in said


def test_a_check_shows_its_warnings_and_name_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    write_corpora(tmp_path)
    result = check(load_config(str(write_config(tmp_path))))
    changed = {"warnings": [TEXT], "name": "[v1]", "asks_for": f"{TEXT} CPU"}
    said = printed(lambda console: show(result | changed, console))
    for part in (f"warning: {TEXT}", f"asks for {TEXT} CPU", "[v1] can be trained"):
        assert part in said


def test_init_names_its_file_as_it_is(tmp_path: Path) -> None:
    path = str(tmp_path / "x [v1][red].yaml")
    assert f"tandem train {quote(path)}" in printed(
        lambda console: run_init(path, "text", False, False, console)
    )


def test_what_was_learned_and_where_it_lies_are_shown_as_they_are(
    learned: dict[str, Any], forks: dict[str, Any]
) -> None:
    there = f"{FOLDER}/x"
    assert f"report: {there}/" in printed(
        lambda console: print_learned({**learned, "out": there}, console)
    )
    forks |= {"report": there, "how": TEXT}
    for name in ("without", "with"):
        forks[name] |= {"data_tokens": 1, "memory_tokens": 1, "seconds": 1.0}
    said = printed(lambda console: print_forks(forks, console))
    assert f"report: {there}" in said
    assert TEXT in said


def a_search(folder: Path) -> Any:
    goals = ["min heldout.help_loss"]
    return test_search.search(folder, storage=str(folder / FOLDER), objectives=goals)


def test_a_search_shows_settings_causes_and_paths_as_they_are(tmp_path: Path) -> None:
    values = {"corpus.paths": (TEXT,)}
    figures = {"heldout.help_loss": 1.0}
    best = TrialResult(0, values, values, FINISHED, figures, 8)
    failed = TrialResult(1, values, values, FAILED, error=TEXT)
    found = a_search(tmp_path)
    said = printed(lambda console: print_results(found, [best, failed], [best], console))
    assert f"failed: {TEXT}" in said
    assert f"train the best with: {tmp_path / FOLDER}" in said
    assert said.count(TEXT) == 2
    said = printed(lambda console: print_results(found, [failed], [], console))
    assert said.endswith(f"report: {tmp_path / FOLDER}/{found.spec.name}/report.html\n")


@pytest.mark.parametrize("terminal", [False, True])
def test_the_progress_of_a_search_is_shown_as_it_is(tmp_path: Path, terminal: bool) -> None:
    values = {"corpus.paths": (TEXT,)}

    def work(console: Console) -> None:
        started = TrialResult(0, values, values, RUNNING)
        failed = TrialResult(1, values, values, FAILED)
        done = TrialResult(2, values, values, FINISHED, {"heldout.help_loss": 1.0}, 8)
        results = TrialResults(RunDir(str(tmp_path)), [started, failed, done])
        with SearchProgress(a_search(tmp_path), console, results) as progress:
            progress.event("starts", started)
            progress.event(f"failed: {TEXT}", failed)
            progress.event(FINISHED, done)
            progress.warning(TEXT)

    said = printed(work, force_terminal=terminal, color_system=None)
    assert TEXT in said
    assert f"warning: {TEXT}" in said


def test_a_log_is_shown_as_it_is() -> None:
    def work(console: Console) -> None:
        log = LogPrinter(console)
        log.write(f"{TEXT}\n")
        log.close()

    assert printed(work) == f"{TEXT}\n"


@pytest.mark.parametrize("kind", [ConfigError, InterruptedRunError, TandemError])
def test_an_error_is_shown_as_it_is(
    kind: type[Exception], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(typer.Exit), exit_codes():
        raise kind(TEXT)
    assert TEXT in capsys.readouterr().err


def test_a_mistyped_command_or_value_is_shown_as_it_is() -> None:
    for arguments in (["[/x]"], ["train", "--[/x]"], ["submit", "[/x]", "c.yaml"]):
        found = CliRunner().invoke(app, arguments)
        assert (found.exit_code, type(found.exception)) == (2, SystemExit)
        assert "[/x]" in found.stderr


# A process takes seconds to start, so that one runs several commands.
COMMANDS = """
import sys
from jobs.cli import app
codes, given = [], sys.argv[1:]
while given:
    end = given.index("then")
    arguments, given = given[:end], given[end + 1 :]
    try:
        app(arguments)
    except SystemExit as ended:
        codes.append(ended.code)
    print("\\nend of a command", flush=True)
print(codes, flush=True)
"""


def tandem(*commands: Sequence[str], **environment: str) -> subprocess.CompletedProcess[bytes]:
    """What one process prints that runs the commands one after the other, and their exit codes."""
    return subprocess.run(
        [sys.executable, "-c", COMMANDS, *(word for c in commands for word in (*c, "then"))],
        env=os.environ | environment,
        capture_output=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONIOENCODING": "latin-1", "COLUMNS": "40"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "NO_COLOR": "1"},
        {"PYTHONIOENCODING": "ascii:strict", "COLUMNS": "1", "TERM": "dumb", "FORCE_COLOR": "1"},
        {"COLUMNS": "0", "TERM": "dumb"},
    ],
    ids=lambda environment: ",".join(environment),
)
def test_a_status_can_be_shown_on_every_terminal(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    url = run_at(tmp_path, "λ東")
    listed = ("status", "--storage", str(tmp_path / FOLDER))
    done = tandem(("status", url), listed, ("status", f"{url}–"), **environment)
    one, several, not_there, codes = done.stdout.split(b"\nend of a command\n")
    assert (done.returncode, codes.strip()) == (0, b"[0, 0, 2]")
    assert one.strip()
    assert several.strip()
    assert not not_there.strip()
    assert done.stderr.startswith(b"error: ")
    assert done.stderr.count(b"error: ") == 1


def closed_pipe() -> int:
    """The writing end of a pipe that nobody reads."""
    reader, writer = os.pipe()
    os.close(reader)
    return writer


def into(stdout: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    with os.fdopen(stdout, "wb") as file:
        return subprocess.run(
            [sys.executable, "-m", "jobs.cli", *arguments],
            stdout=file,
            stderr=subprocess.PIPE,
            text=True,
            timeout=120,
            check=False,
        )


@pytest.mark.parametrize("as_json", [(), ("--json",)])
def test_a_command_whose_reader_is_gone_ends_without_a_word(
    tmp_path: Path, as_json: tuple[str, ...]
) -> None:
    done = into(closed_pipe(), "status", run_at(tmp_path), *as_json)
    assert (done.returncode, done.stderr) == (READER_GONE, "")


@pytest.mark.parametrize("full", [False, True])
def test_a_command_that_did_something_says_so_by_its_exit_code_all_the_same(
    tmp_path: Path, full: bool
) -> None:
    if full and not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    path = tmp_path / "mine.yaml"
    stdout = os.open("/dev/full", os.O_WRONLY) if full else closed_pipe()
    done = into(stdout, "init", str(path))
    assert done.returncode == 0
    assert done.stderr.startswith("warning: the output can't be written any more")
    assert "Traceback" not in done.stderr
    assert path.exists()


def test_a_mistyped_command_is_told_of_in_every_encoding() -> None:
    done = tandem(["λ"], PYTHONIOENCODING="ascii:strict")
    assert done.stdout.endswith(b"[2]\n")
    assert b"No such command" in done.stderr


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("train", "{CONFIG} [KEY=VALUE]..."),
        ("compare", "{RUN}..."),
        ("ask", "{RUN} {PROMPT}"),
        ("status", "[RUN]"),
    ],
)
def test_usage_names_arguments_in_capitals_with_one_pair_of_brackets(
    command: str, arguments: str
) -> None:
    usage = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"}).stdout
    assert f"{command} [OPTIONS] {arguments}" in usage
