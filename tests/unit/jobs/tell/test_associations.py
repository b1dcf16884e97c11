"""What a person gives becomes associations; each mistake is one sentence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from actors.layers.named_writes import Association
from actors.wire import ConfigError
from jobs.tell.associations import Given, associations_of

TEMPLATES = {
    "capital": [
        {"pattern": "The capital of [X] is [Y].", "lemma": "be"},
        {"pattern": "[X] is governed from [Y].", "lemma": "govern"},
        {"pattern": "[Y] rules [X].", "lemma": "rule"},
    ],
    "ruler": [{"pattern": "[Y] rules [X].", "lemma": "rule"}],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "templates.json").write_text(json.dumps(TEMPLATES))
    return tmp_path


def facts(folder: Path, *rows: tuple[str, str, str]) -> str:
    keys = ("relation", "subject", "object")
    lines = [json.dumps(dict(zip(keys, row, strict=True))) for row in rows]
    (folder / "new.jsonl").write_text("\n".join(lines))
    return str(folder / "new.jsonl")


def test_a_prompt_its_answer_and_other_wordings() -> None:
    say = ("Atlantis is governed from", "Those who rule Atlantis live in {}.")
    (found,) = associations_of(Given("The capital of Atlantis is ", " Poseidonis", say=say), None)
    assert found == Association(
        "The capital of Atlantis is",
        "Poseidonis",
        ("Atlantis is governed from", "Those who rule Atlantis live in"),
    )
    (found,) = associations_of(Given("My dog is called", "Rex", subject=" dog "), None)
    assert found == Association("My dog is called", "Rex", subject="dog")


def test_a_fact_is_told_in_every_wording_that_ends_in_its_object(folder: Path) -> None:
    path = facts(folder, ("capital", "Atlantis", "Poseidonis"), ("capital", "Mu", "Hiva"))
    found = associations_of(Given(facts=path), str(folder / "templates.json"))
    assert found == [
        Association(f"The capital of {x} is", y, (f"{x} is governed from",), subject=x)
        for x, y in (("Atlantis", "Poseidonis"), ("Mu", "Hiva"))
    ]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (Given(), "nothing to tell: give a prompt and its answer"),
        (Given("The capital of Atlantis is"), "nothing to tell"),
        (Given(" ", "Poseidonis"), "the prompt is empty"),
        (Given("The capital is", " \n"), "the answer is empty"),
        (Given("The capital is", "Rome", say=("",)), "the wording is empty"),
        (Given("The \udcff is", "Rome"), "expected UTF-8, got other bytes"),
        (Given("It is", "Rome", say=("{} is it",)), "the answer has to come last"),
        (Given("It is", "Rome", say=("{}",)), "expected words before the answer"),
        (Given("It is", "Rome", templates="t.json"), "--templates are the wordings of --facts"),
        (Given("It is", "Rome", facts="f.jsonl"), "give either a prompt and its answer"),
        (Given(facts="f.jsonl", say=("x",)), "give either a prompt and its answer"),
        (Given(facts="f.jsonl", subject="x"), "give either a prompt and its answer"),
        (Given("My dog is", "Rex", subject="cat"), "the subject 'cat' is in none of the prompts"),
        (Given("My dog is", "Rex", subject=" "), "the subject is empty"),
        (Given(facts="f.jsonl"), "f.jsonl: can't be read"),
    ],
)
def test_what_can_be_no_tell_is_refused(given: Given, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        associations_of(given, None)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [("river", "Mu", "Hiva")],
            r"line 1: no wording of relation .river. .*there are: capital, ruler\)",
        ),
        ([("ruler", "Mu", "Ra")], r"no wording of relation 'ruler' that ends in \[Y\]"),
        (
            [("capital", "Mu", "Hiva"), ("capital", "Mu", "Ra")],
            "line 2: answers 'The capital of Mu is' with 'Ra', but .* line 1 with 'Hiva'",
        ),
    ],
)
def test_facts_that_can_be_no_tell_are_refused(
    folder: Path, rows: list[tuple[str, str, str]], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        associations_of(Given(facts=facts(folder, *rows)), str(folder / "templates.json"))


def test_an_empty_file_of_facts_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="no line; give JSON lines"):
        associations_of(Given(facts=facts(folder)), str(folder / "templates.json"))


def test_a_file_may_hold_prompts_and_answers_beside_facts(folder: Path) -> None:
    path = folder / "mixed.jsonl"
    rows = [
        {"relation": "capital", "subject": "Mu", "object": "Hiva"},
        {"prompt": "My dog is called", "answer": "Rex", "subject": "dog"},
        {"prompt": "The moon is made of", "answer": "cheese", "wordings": ["The moon consists of"]},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert associations_of(Given(facts=str(path)), str(folder / "templates.json")) == [
        Association("The capital of Mu is", "Hiva", ("Mu is governed from",), subject="Mu"),
        Association("My dog is called", "Rex", subject="dog"),
        Association("The moon is made of", "cheese", ("The moon consists of",)),
    ]


def test_an_answer_called_wrong_is_nothing_to_tell(folder: Path) -> None:
    path = folder / "judged.jsonl"
    path.write_text(json.dumps({"prompt": "The moon is", "said": "square", "right": False}))
    with pytest.raises(ConfigError, match="line 1: calls an answer wrong, which leaves nothing"):
        associations_of(Given(facts=str(path)), None)


def test_more_than_can_be_solved_at_once_are_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.tell.associations.MOST", 1)
    path = facts(folder, ("capital", "Atlantis", "Poseidonis"), ("capital", "Mu", "Hiva"))
    with pytest.raises(ConfigError, match="2 associations, at most 1 in one tell; split it"):
        associations_of(Given(facts=path), str(folder / "templates.json"))


def test_given_templates_take_the_place_of_the_runs(folder: Path) -> None:
    path = facts(folder, ("capital", "Mu", "Hiva"))
    given = Given(facts=path, templates=str(folder / "templates.json"))
    assert len(associations_of(given, "gone.json")) == 1
