"""What `tandem teach` refuses before the memory writes anything, and what it leaves told."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from actors.layers.named_writes import Association, Keys, NamedWrite, NamedWrites
from actors.lessons.given_lessons import GivenLessons, Refused
from actors.lessons.lesson import Lesson
from actors.lessons.told import told_from_lists
from actors.settings.teach import TeachSpec
from actors.tokenizers.tokenizer import Tokenizer
from actors.wire import ConfigError, Told, ToldAssociation
from jobs.teach.teach import num_windows, refuse_hopeless_steps, refuse_unteachable
from jobs.teach.told_writes import told_after
from orchestrator.settings.config import make_config

WINDOW = 16


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(["the capital of France is Lyon"] * 20, 300)


def test_answers_that_are_called_wrong_alone_teach_nothing(tokenizer: Tokenizer) -> None:
    given = GivenLessons((), (Refused("The capital of France is", "Paris", "l.jsonl, line 1"),))
    with pytest.raises(ConfigError, match="no lesson says what is wanted: all 1 call an answer"):
        refuse_unteachable(given, tokenizer, WINDOW)


def test_a_lesson_that_fits_no_window_is_named_by_file_and_line(tokenizer: Tokenizer) -> None:
    short = Lesson("The capital of France is", "Lyon", source="l.jsonl, line 1")
    long = Lesson("The capital of " + "France " * 40 + "is", "Lyon", source="l.jsonl, line 2")
    refuse_unteachable(GivenLessons((short,)), tokenizer, 64)
    with pytest.raises(ConfigError, match=r"l\.jsonl, line 2: .* a window of the run 16"):
        refuse_unteachable(GivenLessons((long,)), tokenizer, WINDOW)


def test_steps_that_can_not_show_all_lessons_are_refused_before_the_memory_writes(
    tokenizer: Tokenizer,
) -> None:
    config = make_config(
        {"corpus": {"paths": ["/c.txt"], "window": WINDOW}, "data": {"batch_size": 4}}
    )
    lessons = [Lesson(f"The capital of France {i} is", "Lyon") for i in range(40)]
    num = num_windows(lessons, tokenizer, WINDOW)
    shown = TeachSpec().data_counts(6, reworded=False)[0]  # of one and a half of the run's batch
    enough = -(-num // shown)
    refuse_hopeless_steps(None, lessons, tokenizer, config)
    refuse_hopeless_steps(enough, lessons, tokenizer, config)
    with pytest.raises(ConfigError, match=f"the lessons fill {num} windows and {enough - 1} steps"):
        refuse_hopeless_steps(enough - 1, lessons, tokenizer, config)


def test_what_is_told_and_not_taught_goes_on_as_it_was_told() -> None:
    none, empty = torch.zeros(0), torch.zeros(0, dtype=torch.int64)
    keys = Keys(empty.view(0, 0), none.view(0, 0), none.view(0, 4), empty, empty, none)
    given = (
        Association("The capital of Mu is", "Hiva", ("Mu is ruled from",)),
        Association("Who rules Mu?", "Ada", as_chat=True),
    )
    write = NamedWrite("mu", 5.0, given, empty, none.view(0, 4), none, keys)
    earlier = replace(write, id="taught", associations=given[:1], taught=True)
    writes = NamedWrites().add(write).add(earlier)
    chat = ToldAssociation("Who rules Mu?", "Ada", (), as_chat=True)
    lessons = [Lesson("The capital of Mu is", "Hiva")]
    assert told_from_lists(told_after(writes, lessons, ())) == (Told("mu", 5.0, (chat,)),)
    near = (ToldAssociation("The capital of Mu is", "Hiva"),)
    left, taught = told_from_lists(told_after(writes, lessons, near))
    assert left.id == "mu"
    assert (taught.id, taught.associations, taught.taught) == ("taught", near, True)
    named = NamedWrites().add(replace(write, id="taught"))
    assert [one.id for one in told_from_lists(told_after(named, lessons, near))] == [
        "taught",
        "taught-1",
    ]
