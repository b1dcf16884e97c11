"""Every file of examples/ runs, in this process, and trains what it says."""

from __future__ import annotations

import ast
import json
import runpy
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from jobs.cli import app

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def trained(name: str, storage: Path) -> dict[str, Any]:
    """Summary of the run of a config, by the command that its first lines show."""
    path = EXAMPLES / f"{name}.yaml"
    assert f"tandem train examples/{path.name}\n" in path.read_text(encoding="utf-8")
    result = CliRunner().invoke(app, ["train", str(path), "--in-process", f"storage={storage}"])
    # 3: in half a minute the memory of the example of own text learns hardly enough to reflect
    assert result.exit_code in (0, 3), result.output
    (summary,) = storage.glob("*/summary.json")
    return dict(json.loads(summary.read_text()))


def test_every_example_is_run_here() -> None:
    found = {path.name for path in EXAMPLES.iterdir() if path.is_file()}
    assert found == {"notebook.ipynb", "own_facts.yaml", "own_text.yaml", "python_api.py"}


def test_own_text_is_learned(tmp_path: Path) -> None:
    summary = trained("own_text", tmp_path)
    assert summary["heldout"]["help_loss"] < summary["before"]["heldout"]["help_loss"] - 0.8


def test_own_facts_are_answered_in_wordings_trained_on_and_in_others(tmp_path: Path) -> None:
    summary = trained("own_facts", tmp_path)
    assert summary["accuracy_seen"]["help"] > 0.9
    assert summary["accuracy"]["help"] > summary["accuracy"]["baseline"] + 0.1


def test_the_python_example_trains_loads_and_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["python_api.py", str(tmp_path)])
    runpy.run_path(str(EXAMPLES / "python_api.py"), run_name="__main__")
    said = capsys.readouterr().out
    facts = (EXAMPLES / "staff" / "facts.jsonl").read_text(encoding="utf-8")
    offices = {row["object"] for row in map(json.loads, facts.splitlines())
               if row["relation"] == "office"}  # fmt: skip
    answers = [line.split(" … ")[1] for line in said.splitlines() if " … " in line]
    assert [answer.split()[0] for answer in answers] == ["help", "own", "memory"]
    # a wording that was trained on: both together know the kind of answer by now
    assert answers[0].split()[1].rstrip(".") in offices
    assert (tmp_path / "python-api" / "report.html").exists()


@pytest.mark.long
def test_the_notebook_runs_from_top_to_bottom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = shutil.copytree(EXAMPLES, tmp_path / "examples")
    monkeypatch.chdir(place)
    notebook = json.loads((place / "notebook.ipynb").read_text(encoding="utf-8"))
    assert (notebook["nbformat"], notebook["metadata"]["kernelspec"]["language"]) == (4, "python")
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell["outputs"] for cell in cells] == [[] for _ in cells]
    names: dict[str, Any] = {}
    values = [_last_value("".join(cell["source"]), names) for cell in cells]
    assert values[0] in ("finished", "finished_unreflected")
    assert set(values[2]) == {"help", "own", "memory"}
    assert values[3].strip().startswith("Arlington")
    assert values[4] == ()


def _last_value(source: str, names: dict[str, Any]) -> Any:
    """Runs a cell on the names that those before have left; the value that it would show."""
    *statements, last = ast.parse(source).body
    exec(compile(ast.Module([*statements], []), "cell", "exec"), names)
    assert isinstance(last, ast.Expr)
    return eval(compile(ast.Expression(last.value), "cell", "eval"), names)
