"""`tandem propose` on a tiny run, whose corpus is not there."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from actors.lessons.given_lessons import read_lessons
from actors.wire import ConfigError
from jobs.teach.propose import Asked, read_prompts, run_propose
from orchestrator.console import Console
from orchestrator.settings.config import load_config
from tests.integration.tiny import run_in_process, write_config, write_corpora

PROMPT = "The capital of Nowhere is"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("propose")
    write_corpora(folder)
    run_in_process(load_config(str(write_config(folder)), ["name=base"]))
    for name in ("facts.jsonl", "templates.json", "text.txt"):
        (folder / name).unlink()
    return str(folder / "runs" / "base")


def propose(run: str, given: str, **options: Any) -> tuple[list[dict[str, Any]], str]:
    out = io.StringIO()
    console = Console(file=out, width=100)
    return run_propose(run, given, 3, console, written=60, **options), out.getvalue()


def test_a_prompt_gets_numbered_answers(run: str) -> None:
    (line,), text = propose(run, PROMPT)
    assert 0 < len(line["choices"]) <= 3
    assert len(line["probabilities"]) == len(line["choices"])
    assert PROMPT in text
    for number, p in enumerate(line["probabilities"]):  # an answer may be half a character
        assert any(str(number) in row and f"{p:.1%}" in row for row in text.splitlines())


def test_a_filled_in_line_is_a_lesson_of_this_memory_and_of_no_other(
    run: str, tmp_path: Path
) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text(f"{PROMPT}\n\nThe dish of Nowhere is\n")
    lines, text = propose(run, str(prompts))
    printed = [json.loads(line) for line in text.splitlines()]
    assert printed == lines
    assert [line["prompt"] for line in lines] == [PROMPT, "The dish of Nowhere is"]
    digest = json.loads((Path(run) / "summary.json").read_text())["digest"]["memory"]
    assert {line["memory"] for line in lines} == {digest}
    filled = tmp_path / "choices.jsonl"
    filled.write_text("".join(json.dumps({**line, "choice": 1}) + "\n" for line in lines))
    lessons = read_lessons(str(filled), None, digest).lessons
    assert [lesson.answer for lesson in lessons] == [line["choices"][1] for line in lines]
    with pytest.raises(ConfigError, match="proposed by the memory"):
        read_lessons(str(filled), None, "another")
    unfilled = tmp_path / "unfilled.jsonl"
    unfilled.write_text(text)
    with pytest.raises(ConfigError, match="'choice' has to be the number"):
        read_lessons(str(unfilled), None, digest)


def test_the_same_call_proposes_the_same(run: str) -> None:
    assert propose(run, PROMPT, as_json=True) == propose(run, PROMPT, as_json=True)


def test_prompts_are_read_with_file_and_line_of_what_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(f'{{"prompt": "{PROMPT}", "subject": "Nowhere"}}\nJust so is\n')
    assert read_prompts(str(path)) == [Asked(PROMPT, "Nowhere"), Asked("Just so is")]
    for line, message in (
        ('{"prompt": 3}', "line 1: expected"),
        ('{"prompt": "a", "answer": "b"}', "line 1: expected"),
        ('{"prompt": "a b", "subject": "c"}', "does not name its subject"),
        ("{", "line 1: not JSON"),
    ):
        path.write_text(line + "\n")
        with pytest.raises(ConfigError, match=message):
            read_prompts(str(path))


def test_a_folder_and_a_file_that_is_not_there_are_no_prompts(run: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a folder; give the beginning of a sentence"):
        run_propose(run, str(tmp_path), 4, Console(quiet=True))
    with pytest.raises(ConfigError, match=r"prompts .*gone\.txt: can't be read"):
        run_propose(run, str(tmp_path / "gone.txt"), 4, Console(quiet=True))


def test_an_empty_prompt_an_empty_file_and_a_folder_without_a_run_are_refused(
    run: str, tmp_path: Path
) -> None:
    (tmp_path / "none.txt").write_text("\n")
    for given in (" ", str(tmp_path / "none.txt")):
        with pytest.raises(ConfigError, match="no prompt"):
            propose(run, given)
    with pytest.raises(ConfigError):
        propose(str(tmp_path), PROMPT)
