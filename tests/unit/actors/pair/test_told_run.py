"""What a version was told is solved for it; what can't be told is named and left out."""

from __future__ import annotations

import pytest

from actors.pair.tandem_model import load_tandem_model
from actors.pair.telling import solve_told
from actors.wire import Told, ToldAssociation
from tests.unit.jobs.tell.exported import tellable

PROMPT, ANSWER = "The capital of Atlantis is", "Dastan"
ATLANTIS = Told("atlantis", 5.0, (ToldAssociation(PROMPT, ANSWER, ("Atlantis is ruled from",)),))


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tellable(tmp_path_factory.mktemp("told") / "export"))


def test_a_version_says_what_it_was_told_and_the_next_one_only_what_that_was(export: str) -> None:
    model = load_tandem_model(export)
    said = model.ask(PROMPT)
    assert model.words is not None
    assert solve_told(model.memory_layer, model.words, (ATLANTIS,)) == ()
    assert model.ask(PROMPT).startswith(ANSWER)
    (write,) = model.told()
    assert (write.id, write.told_at, write.associations[0].answer) == ("atlantis", 5.0, ANSWER)
    assert solve_told(model.memory_layer, model.words, ()) == ()
    assert model.ask(PROMPT) == said


def test_what_can_not_be_told_is_named_and_the_rest_is_told(export: str) -> None:
    model = load_tandem_model(export)
    assert model.words is not None
    empty = Told("empty", 1.0, (ToldAssociation(PROMPT, " . "),))
    (warning,) = solve_told(model.memory_layer, model.words, (empty, ATLANTIS))
    assert warning.startswith("what the run was told as empty is left out: ")
    assert "holds no word" in warning
    assert [write.id for write in model.told()] == ["atlantis"]
