"""What a running run was told: kept in order, told again, taken back, through a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

from actors.corpus.corpus import train_tokenizer
from actors.lessons.told import told_from_lists, told_to_lists, with_changes
from actors.training.memory_trainer import MemoryTrainer
from actors.wire import Order, Told, ToldAssociation
from tests.unit.actors.tiny import run_spec, write_facts

ATLANTIS = Told("a", 1.0, (ToldAssociation("The capital is", "Rome", ("It is",)),))
MU = Told("b", 2.0, (ToldAssociation("The river is", "Po"),))
DOG = Told("d", 3.0, (ToldAssociation("my dog is called", "Rex", ("the dog is",), subject="dog"),))


def test_what_is_told_comes_last_and_is_taken_back_by_name() -> None:
    both = with_changes((), (ATLANTIS, MU))
    assert both == (ATLANTIS, MU)
    again = Told("a", 3.0, MU.associations)
    assert with_changes(both, (again,)) == (MU, again)
    assert with_changes(both, (Told("a", 4.0, ()),)) == (MU,)
    assert with_changes(both, (Told("never told", 4.0, ()),)) == both


def test_it_goes_through_json_unharmed() -> None:
    chat = Told("c", 3.0, (ToldAssociation("Who rules Mu?", "Hiva", (), as_chat=True),))
    taught = Told("e", 3.0, MU.associations, taught=True)
    every = (ATLANTIS, MU, chat, DOG, taught)
    assert told_from_lists(json.loads(json.dumps(told_to_lists(every)))) == every
    before = [["b", 2.0, [["The river is", "Po", []]]]]  # subjects, chats and teachings
    assert told_to_lists((MU,)) == before
    assert told_from_lists(before) == (MU,)


def test_the_memory_publishes_and_keeps_what_it_was_told_and_trains_the_same_bits(
    tmp_path: Path,
) -> None:
    spec = run_spec(write_facts(tmp_path))
    tokenizer_json = train_tokenizer(spec).to_json()
    plain, told = (MemoryTrainer(spec, tokenizer_json, "run") for _ in range(2))
    assert told.publish()[0].told == ()
    for trainer, given in ((plain, ()), (told, (ATLANTIS, MU))):
        trainer.begin_interval(Order("run", 0, 1, 1, told=given))
        trainer.train_step()
    assert told.publish()[0].told == (ATLANTIS, MU)
    assert told.own.digest() == plain.own.digest()
    plain.restore([(saved := told.save())[0]], saved[1])
    assert plain.publish()[0].told == (ATLANTIS, MU)
