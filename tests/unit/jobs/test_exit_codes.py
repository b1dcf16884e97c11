"""Commands whose storage is away end with an exit code of its own, wherever they meet it."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
import ray
import typer
from typer.testing import CliRunner

from actors.wire import CheckpointError, ConfigError, StorageError
from jobs.cli import app
from jobs.exit_codes import (
    BAD_INPUT,
    FAILED,
    INTERRUPTED,
    STORAGE_AWAY,
    UNREFLECTED,
    exit_codes,
)
from orchestrator.errors import GroupFailedError, as_group_error
from orchestrator.in_process.host_store import HostStore
from orchestrator.loop.recovery import Failure, refuse_restart
from orchestrator.run_dir import checkpoints
from orchestrator.run_dir.run_dir import RunDir
from orchestrator.settings.config import make_config
from tests.integration.tiny import write_config, write_corpora
from tests.unit.actors.tiny import run_spec, write_facts
from tests.unit.actors.tiny_pair import exported
from tests.unit.away import away

BUSY = OSError(errno.EBUSY, "SlowDown: Please reduce your request rate")
SMALL = (
    "config.yaml",
    "summary.json",
    "corpus.json",
    "tokenizer.json",
    "export.json",
    "status.json",
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Corpora and tiny.yaml, in a folder where a command may be typed."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.chdir(tmp_path)
    write_corpora(tmp_path)
    write_config(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A finished run, on the storage that can be away."""
    local = tmp_path_factory.mktemp("finished") / "one"
    exported(local / "export")
    corpus = local / "export-corpus"
    spec = run_spec(write_facts(corpus)).model_dump(mode="json", by_alias=True)
    config = make_config({**spec, "name": "one", "storage": "away://runs"})
    (local / "config.yaml").write_text(config.to_yaml())
    summary = {"status": "finished", "heldout": {}, "reflects_final": True}
    (local / "summary.json").write_text(json.dumps(summary))
    (local / "tokenizer.json").write_text((local / "export" / "tokenizer.json").read_text())
    fs = fsspec.filesystem("away")
    fs.put(f"{local}/", "/runs/one/", recursive=True)
    assert fs.exists("/runs/one/export/export.json")
    yield "away://runs/one"
    fs.rm("/runs", recursive=True)


def ended(*arguments: str) -> tuple[int, str]:
    """Exit code and what was said of a command."""
    done = CliRunner().invoke(app, arguments)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    assert not ray.is_initialized()
    return done.exit_code, done.output


def told(*arguments: str) -> str:
    code, output = ended(*arguments)
    assert code == STORAGE_AWAY, output
    assert "storage error: " in output
    assert "away://" in output
    assert "SlowDown" in output
    assert "run the same command again" in output
    return output


@pytest.mark.parametrize("more", [(), ("--resume",)])
def test_a_run_whose_storage_is_away_at_its_start(folder: Path, more: tuple[str, ...]) -> None:
    given = ("storage=away://runs", "name=new", "deadlines.storage_s=0")
    with away(BUSY):
        output = told("train", str(folder / "tiny.yaml"), *given, *more)
    assert "away://runs/new" in output


@pytest.mark.parametrize("command", ["train", "check"])
def test_a_config_on_storage_that_is_away(folder: Path, command: str) -> None:
    with away(BUSY):
        assert "config away://c/tiny.yaml: can't be read" in told(command, "away://c/tiny.yaml")


@pytest.mark.parametrize("what", ["text", "facts"])
def test_a_corpus_on_storage_that_is_away(folder: Path, what: str) -> None:
    if what == "text":
        corpus = {"kind": "text", "paths": ["away://corpus/text.txt"], "window": 24}
    else:
        corpus = {"kind": "facts", "paths": ["away://corpus/facts.jsonl"],
                  "templates": "away://corpus/templates.json", "window": 24}  # fmt: skip
    with away(BUSY):
        assert "away://corpus/" in told("check", str(folder / "tiny.yaml"), f"corpus={corpus}")


def test_templates_on_storage_that_is_away(folder: Path) -> None:
    fs = fsspec.filesystem("away")
    fs.pipe_file("/corpus/facts.jsonl", (folder / "facts.jsonl").read_bytes())
    corpus = {"kind": "facts", "paths": ["away://corpus/facts.jsonl"],
              "templates": "away://corpus/templates.json", "window": 24}  # fmt: skip
    with away(BUSY, "facts.jsonl"):
        output = told("check", str(folder / "tiny.yaml"), f"corpus={corpus}")
    assert "corpus.templates away://corpus/templates.json: can't be read" in output


COMMANDS = [
    ("evaluate", "RUN"),
    ("ask", "RUN", "Ships"),
    ("tell", "RUN", "The capital of Atlantis is", "Poseidonis"),
    ("untell", "RUN", "1"),
    ("learn", "RUN", "--text", "text.txt", "--out", "learned"),
    ("told", "RUN"),
    ("status", "RUN"),
    ("status", "--storage", "away://runs"),
    ("stop", "RUN"),
    ("resume", "RUN"),
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_command_to_a_run_whose_storage_is_away(
    folder: Path, run: str, command: tuple[str, ...]
) -> None:
    with away(BUSY):
        told(*(run if word == "RUN" else word for word in command))


@pytest.mark.parametrize("command", COMMANDS[:5], ids=" ".join)
def test_an_export_whose_storage_goes_away_before_its_weights_are_read(
    folder: Path, run: str, command: tuple[str, ...]
) -> None:
    with away(BUSY, *SMALL) as storage:
        output = told(*(run if word == "RUN" else word for word in command))
    assert "away://runs/one/export" in output
    assert storage.num_refused


def test_what_is_not_there_is_still_a_wrong_input(folder: Path, run: str) -> None:
    assert ended("ask", "away://runs/none", "Ships")[0] == BAD_INPUT
    assert ended("status", "away://runs/none")[0] == BAD_INPUT
    assert ended("train", "away://c/none.yaml")[0] == BAD_INPUT
    with away(PermissionError("not yours")):
        assert ended("ask", run, "Ships")[0] == BAD_INPUT


def test_a_resume_does_not_take_an_older_pair_because_storage_is_away() -> None:
    run_dir = RunDir("away://runs/resumed")
    for interval in (1, 2):
        run_dir.write(f"checkpoints/{interval:06d}/manifest.json", "{}")
    warned: list[str] = []
    with pytest.raises(CheckpointError):
        checkpoints.load(run_dir, warned.append, HostStore())
    assert len(warned) == 2
    warned.clear()

    def refuse(path: str, **options: object) -> bytes:
        raise BUSY

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_dir._fs, "cat_file", refuse, raising=False)
        with pytest.raises(StorageError, match=r"000002/manifest\.json: can't be read"):
            checkpoints.load(run_dir, warned.append, HostStore())
    assert warned == []


def test_an_export_that_can_not_be_written_names_its_storage(tmp_path: Path) -> None:
    pair, tokenizer = exported(tmp_path / "here")
    from actors.weights.pair_export import export_pair

    spec = run_spec(write_facts(tmp_path))
    with away(BUSY), pytest.raises(StorageError, match="away://runs/e: the export can't be writ"):
        export_pair(spec, tokenizer, pair, "away://runs/e")


def test_a_group_that_failed_on_storage_too_often_ends_the_run_as_storage_away() -> None:
    cause = as_group_error("data", 0, StorageError("corpus file away://a: gone"), "in interval 3")
    assert isinstance(cause, StorageError)
    earlier = [Failure("data", 0, 2, "gone", 0, 1)]
    refuse_restart(cause, [], 1, "resume")  # it is worth a new try
    with pytest.raises(StorageError, match="failure 2 of the data group"):
        refuse_restart(cause, earlier, 1, "resume")
    with pytest.raises(GroupFailedError):
        refuse_restart(GroupFailedError("died"), earlier, 1, "resume")


def test_a_storage_error_is_not_the_users_mistake() -> None:
    assert not issubclass(StorageError, ConfigError)
    assert not issubclass(StorageError, ValueError)
    assert STORAGE_AWAY not in (0, FAILED, BAD_INPUT, UNREFLECTED, INTERRUPTED)


@pytest.mark.parametrize("said", ["", "ended at once by a second signal; it goes on"])
def test_an_interrupted_command_says_what_is_left_of_its_work(
    said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(typer.Exit) as raised, exit_codes():
        raise KeyboardInterrupt(said)
    assert raised.value.exit_code == INTERRUPTED
    assert capsys.readouterr().err.strip() == said
