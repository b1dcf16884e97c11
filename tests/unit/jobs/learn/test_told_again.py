"""What was told before a memory learns is told again to the memory that has learned."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from actors.layers.named_writes import Association, NamedWrites
from actors.weights.pair_export import load_pair
from jobs.learn.told_again import ToldAgain
from jobs.tell.told_pair import ToldPair
from tests.unit.jobs.tell.exported import tellable

PROMPT, ANSWER = "The capital of Atlantis is", "Dastan"


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export with a write that is on and one that is off."""
    folder = tellable(tmp_path_factory.mktemp("learned") / "export")
    pair = ToldPair(str(folder))
    pair.tell([Association(PROMPT, ANSWER)], id="atlantis")
    pair.tell([Association("The river of Mu is the", "Oda")], id="mu")
    pair.switch("mu", on=False)
    return folder


def test_writes_are_set_aside_and_solved_again_for_what_was_learned(told: Path) -> None:
    pair, tokenizer = load_pair(str(told))
    some = (replace(write, taught=write.id == "mu") for write in pair.memory.writes)
    pair.memory.writes = NamedWrites(tuple(some))
    before = {write.id: write for write in pair.memory.writes}
    again = ToldAgain(pair, tokenizer)
    assert len(pair.memory.writes) == 0
    with torch.no_grad():  # as learning does: addresses move
        for parameter in pair.memory.parameters():
            parameter.add_(
                0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3))
            )
    kept = pair.memory.kept
    assert kept is not None
    became = again.tell(kept)
    assert became == {
        "writes": 2,
        "associations": 1,
        "answered_before": 1,
        "answered_untold": 0,
        "answered": 1,
    }
    after = {write.id: write for write in pair.memory.writes}
    assert [(id, write.on) for id, write in after.items()] == [("atlantis", True), ("mu", False)]
    assert after["atlantis"].told_at == before["atlantis"].told_at
    assert [write.taught for write in after.values()] == [False, True]
    places = (write["atlantis"].places for write in (before, after))
    ours, theirs = (place.u_ND for place in places if place is not None)
    assert not ours.equal(theirs)


def test_nothing_told_is_nothing_to_tell_again(told: Path) -> None:
    pair, tokenizer = load_pair(str(told))
    for id in ("mu", "atlantis"):
        pair.memory.writes = pair.memory.writes.remove(id)
    kept = pair.memory.kept
    assert kept is not None
    assert ToldAgain(pair, tokenizer).tell(kept) is None
