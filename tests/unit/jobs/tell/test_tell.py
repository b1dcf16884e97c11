"""`tandem tell`, `told` and `untell` on an export: what they print, and their exit codes."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from actors.layers.named_writes import Association
from jobs.ask import run_ask
from jobs.cli import app
from jobs.tell.told_pair import ToldPair
from orchestrator.console import Console
from tests.unit.jobs.tell.exported import tellable

PROMPT, ANSWER = "The capital of Atlantis is", "Dastan"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tellable(tmp_path_factory.mktemp("told") / "export")


@pytest.fixture
def export(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "export"))


def invoked(*arguments: str | Path, code: int = 0) -> Result:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == code, done.output
    return done


def tandem(*arguments: str | Path, code: int = 0) -> str:
    return invoked(*arguments, code=code).output


def as_json(*arguments: str | Path) -> dict[str, Any]:
    return dict(json.loads(invoked(*arguments, "--json").stdout))  # progress is no part of it


def test_a_tell_shows_what_was_said_before_and_after(export: Path) -> None:
    text = tandem("tell", export, PROMPT, ANSWER, "--say", "Those of Atlantis live in {}.")
    assert "says now" in text
    assert "1 of 1 answered as told; 1 association(s)" in text
    told = as_json("told", export)["writes"]
    assert [one["id"] for one in told] == ["1"]
    assert told[0]["associations"] == [
        {"prompt": PROMPT, "answer": ANSWER, "wordings": ["Those of Atlantis live in"]}
    ]
    assert told[0]["tokens"] > 0
    assert "Those of" not in (listed := tandem("told", export))
    assert " on " in listed


def test_facts_are_told_in_the_wordings_of_their_templates(export: Path, tmp_path: Path) -> None:
    templates = {"capital": [{"pattern": "The capital of [X] is [Y].", "lemma": "be"}]}
    (tmp_path / "templates.json").write_text(json.dumps(templates))
    rows = [("Atlantis", "Dastan"), ("Mu", "Elbor")]
    lines = [json.dumps({"relation": "capital", "subject": s, "object": o}) for s, o in rows]
    (tmp_path / "new.jsonl").write_text("\n".join(lines))
    options = ("--facts", tmp_path / "new.jsonl", "--templates", tmp_path / "templates.json")
    told = as_json("tell", export, *options, "--id", "countries")
    assert told["id"] == "countries"
    assert [one["answer"] for one in told["said"]] == ["Dastan", "Elbor"]
    assert told["seconds"] < 60
    missing = tandem("tell", export, "--facts", tmp_path / "new.jsonl", code=2)
    assert "no wording of relation 'capital'" in " ".join(missing.split())


def test_a_write_is_switched_and_taken_back(export: Path) -> None:
    tandem("tell", export, PROMPT, ANSWER)
    assert as_json("untell", export, "1", "--off")["done"] == "switched off"
    assert "off" in tandem("told", export)
    assert as_json("untell", export, "1", "--on")["on"] is True
    assert "write 1 is taken back; 0 write(s) are kept" in tandem("untell", export, "1")
    assert "nothing was told" in tandem("told", export)
    assert "was taken back already" in tandem("untell", export, "1", code=2)
    assert "give either --off or --on" in tandem("untell", export, "1", "--on", "--off", code=2)


def test_wrong_input_is_exit_code_2_and_changes_nothing(export: Path) -> None:
    for arguments, message in (
        ((export,), "nothing to tell"),
        ((export, PROMPT, " . "), "holds no word"),
        ((export, PROMPT, ANSWER, "--id", "a/b"), "expected letters, digits"),
        ((export.parent / "nowhere", PROMPT, ANSWER), "neither a run"),
    ):
        assert message in " ".join(tandem("tell", *arguments, code=2).split())
    assert not (export / "memory_layer" / "writes" / "manifest.json").exists()


def test_ask_shows_freshness_where_something_was_told(
    export: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def asked(by_token: bool = True) -> str:
        run_ask(str(export), PROMPT, Console(width=200), by_token, 3)
        return capsys.readouterr().out

    assert "fresh" not in asked() + asked(by_token=False)
    ToldPair(str(export)).tell([Association(PROMPT, ANSWER)])
    said = re.search(r"with memory: λ (\d\.\d+), fresh (\d\.\d+)", asked(by_token=False))
    assert said is not None
    assert min(map(float, said.groups())) > 0.95
    shown = asked()
    assert "fresh" in shown
    first = next(line for line in shown.splitlines() if line.startswith("│"))
    weights = [float(cell) for cell in re.findall(r"│ +(\d\.\d+) +(?=│)", first)]
    assert sum(weight > 0.95 for weight in weights) == 2  # λ and freshness of the first token
