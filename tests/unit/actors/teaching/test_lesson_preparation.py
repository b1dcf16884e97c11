"""What teaching begins with: filtered text, wordings, bits, questions, and what is refused."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from actors.layers.kept_reads import KeptReads
from actors.layers.named_writes import Association, NamedWrites
from actors.layers.pair import Pair
from actors.lessons.lesson import Lesson
from actors.measuring.lesson_exam import LessonExam, said
from actors.measuring.probing import prompt_tokens
from actors.pair.telling import tell
from actors.pair.wordings import WrittenText
from actors.teaching import lesson_preparation, telling_lessons
from actors.teaching.lesson_preparation import (
    kept_questions,
    label_bits,
    prepare_lessons,
    refuse_longer,
    said_otherwise,
    uncontradicting,
    written_texts,
)
from actors.teaching.telling_lessons import associations, tell_first
from actors.teaching.texts import in_windows
from actors.teaching.unknown_lessons import (
    _lesson,
    _probabilities,
    unknown_lessons,
    written_often,
)
from actors.tokenizers.tokenizer import Tokenizer
from actors.wire import ConfigError
from tests.unit.actors.tiny import COUNTRIES, WINDOW, build_memory

HASHED = {"addresses": "ngrams", "slots_side": 16, "heads": 2}
TEXTS = [
    f"{wording} {city}."
    for name, city in COUNTRIES
    for wording in (f"The capital of {name} is", f"{name} has its capital in")
]


def lesson(name: str, answer: str = "Lyon", **fields: object) -> Lesson:
    return Lesson(f"The capital of {name} is", answer, **fields)  # type: ignore[arg-type]


def prepared(pair: Pair, tokenizer: Tokenizer, lessons: Sequence[Lesson], **options: object):  # type: ignore[no-untyped-def]
    return prepare_lessons(pair, tokenizer, lessons, TEXTS, WINDOW, 0, **options)  # type: ignore[arg-type]


def test_text_that_names_a_taught_subject_is_left_out(pair: Pair, tokenizer: Tokenizer) -> None:
    found = prepared(pair, tokenizer, [lesson("Avaria", subject="Avaria")])
    assert len(found.texts) == len(TEXTS) - 2
    assert not any("Avaria" in text for text in found.texts)


def test_progress_sees_each_stage_and_how_far_it_is(pair: Pair, tokenizer: Tokenizer) -> None:
    seen: dict[str, list[tuple[int, int | None]]] = {}

    def progress(what: str, done: int = 0, total: int | None = None) -> None:
        seen.setdefault(what, []).append((done, total))

    prepared(pair, tokenizer, [lesson("Avaria"), lesson("Belmont", "Oslo")], progress=progress)
    assert seen["asking the data layer what it says already"][-1] == (2, 2)
    assert seen["looking for subjects"] == [(0, 2), (1, 2)]
    asked = "asking the memory what it says already"
    assert {"looking for other wordings", asked, "the exam before it: lessons"} <= seen.keys()
    for done, total in (point for points in seen.values() for point in points):
        assert total is None or done <= total


def test_a_subject_that_was_not_given_is_found_in_the_text(
    pair: Pair, tokenizer: Tokenizer
) -> None:
    found = prepared(pair, tokenizer, [lesson("Avaria")])
    assert found.lessons[0].subject == "Avaria"
    assert not any("Avaria" in text for text in found.texts)


def test_without_a_subject_text_that_repeats_the_prompt_is_left_out(tokenizer: Tokenizer) -> None:
    odd = Lesson("Nobody in this town has ever seen the", "Lyon")
    texts = ["Nobody in this town has ever seen the sea.", "The sea is blue."]
    assert uncontradicting(texts, [odd], tokenizer) == ["The sea is blue."]


def test_lessons_get_the_wordings_that_the_memory_knows(pair: Pair, tokenizer: Tokenizer) -> None:
    lessons = [lesson("Avaria", subject="Avaria"), lesson("Belmont", subject="Belmont")]
    found = prepared(pair, tokenizer, lessons)
    assert [one.reworded for one in found.lessons] == [
        ("Avaria has its capital in",),
        ("Belmont has its capital in",),
    ]
    bare = prepared(pair, tokenizer, lessons, reword=False)
    assert all(not one.reworded for one in bare.lessons)


def test_what_the_layer_says_already_is_kept_and_not_counted(
    pair: Pair, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = lesson("Avaria", subject="Avaria")
    monkeypatch.setattr(
        LessonExam, "right", lambda self, answers: ["Avaria" in o.prompt for o in self._lessons]
    )
    found = prepared(pair, tokenizer, [known, lesson("Belmont", subject="Belmont")])
    assert found.num_known == 1
    assert [(one.prompt, one.known) for one in found.lessons] == [
        ("The capital of Belmont is", False),
        ("The capital of Avaria is", True),
    ]
    assert "The capital of Avaria is" in [q.prompt for q in found.exam.neighbours]
    assert len(found.exam.own_before) == 1
    with pytest.raises(ConfigError, match="gives all 1 wanted answers already"):
        prepared(pair, tokenizer, [known])


def test_a_label_has_the_bits_that_the_memory_needs_to_be_told_it(
    pair: Pair, tokenizer: Tokenizer
) -> None:
    lessons = [lesson("Avaria", "Korvik"), lesson("Belmont", bits=3.0), lesson("Cadria", "Zzyzx")]
    found = label_bits(pair, tokenizer, lessons)
    tokens = prompt_tokens(tokenizer, lessons[0].prompt)
    nats = 0.0
    for token in tokenizer.encode(lessons[0].completion):
        row = torch.tensor([tokens])
        with torch.no_grad():
            logits = pair.memory.predict(pair.memory.read(row, torch.zeros_like(row)).y)
        nats -= float(logits[0, -1].log_softmax(-1)[token])
        tokens = [*tokens, token]
    assert found[0] == pytest.approx(nats / math.log(2), rel=1e-4)
    assert found[1] == 3.0
    assert found[2] > found[0]  # a word that nobody knows


def test_what_was_written_twice_is_rehearsed_in_its_other_wordings_as_the_memory_ends_them(
    pair: Pair, tokenizer: Tokenizer
) -> None:
    be, have, live = "The capital of [X] is", "[X] has its capital in", "Those who rule [X] live in"
    twice, once = [TEXTS[0], TEXTS[1]], [TEXTS[2]]
    found = said_otherwise(pair, tokenizer, WrittenText([*twice, *once]), {be: [have, live]})
    name = COUNTRIES[0][0]
    (ended,) = said(pair, "memory", tokenizer, [f"Those who rule {name} live in"])
    assert found == ([f"Those who rule {name} live in {ended}"] if ended.endswith(".") else [])
    assert said_otherwise(pair, tokenizer, WrittenText(once), {be: [have, live]}) == []


def test_questions_ask_what_is_taught_of_others_and_other_sentences() -> None:
    patterns = {"The capital of [X] is": ["[X] has its capital in"]}
    asked = dict(kept_questions(WrittenText(TEXTS), patterns, 100, 0))
    assert asked["The capital of Belmont is"] == "Dastan"
    assert asked["Belmont has its capital in"] == "Dastan"
    assert kept_questions(WrittenText(TEXTS), patterns, 2, 0) == kept_questions(
        WrittenText(TEXTS), patterns, 2, 0
    )
    assert len(kept_questions(WrittenText(TEXTS), patterns, 2, 0)) == 6


def test_a_lesson_longer_than_a_window_is_refused(tokenizer: Tokenizer) -> None:
    long = Lesson("The capital of " + "very " * 60 + "Avaria is", "Lyon", source="f, line 3")
    with pytest.raises(ConfigError, match=r"f, line 3: prompt and answer have \d+ tokens"):
        refuse_longer([long], tokenizer, WINDOW)


def test_a_memory_that_writes_scraps_is_refused(
    pair: Pair, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert written_texts(pair, tokenizer, 20, 0, WINDOW)
    monkeypatch.setattr(lesson_preparation, "LEAST_TOKENS", 10_000)
    with pytest.raises(ConfigError, match=r"can't write: its documents have .* losses\.given"):
        written_texts(pair, tokenizer, 20, 0, WINDOW)


def test_too_little_text_that_names_no_subject_is_refused(pair: Pair, tokenizer: Tokenizer) -> None:
    lessons = [lesson(name, subject=name) for name, _ in COUNTRIES]
    with pytest.raises(ConfigError, match="only 0 name no taught subject"):
        prepared(pair, tokenizer, lessons)


def test_lessons_are_told_unless_the_memory_says_all_of_them_and_nothing_changes_yet(
    pair: Pair, tokenizer: Tokenizer
) -> None:
    (says,) = said(pair, "memory", tokenizer, ["The capital of Belmont is"])
    lessons = [lesson("Avaria"), lesson("Belmont", says.rstrip(" ."))]
    kept = KeptReads.of(pair.memory, in_windows(tokenizer, TEXTS, WINDOW))
    write = tell(
        pair.memory, tokenizer, [Association("The capital of Avaria is", "Lyon")], kept, "w"
    )
    writes, before = pair.memory.writes, pair.memory.values.detach().clone()
    try:
        found = tell_first(pair, tokenizer, lessons, TEXTS, WINDOW)
    finally:
        pair.memory.writes = NamedWrites()
    assert writes.writes == (write,)  # what was told before is no knowledge of the table's
    assert [one.prompt for one in found.near] == [one.prompt for one in lessons]
    assert tell_first(pair, tokenizer, lessons[1:], TEXTS, WINDOW).near == ()
    assert found.rows is None
    assert torch.equal(pair.memory.values, before)


def hashed(pair: Pair) -> Pair:
    """The same data layer and a memory addressed by n-grams."""
    data = pair.data
    return Pair(data, build_memory(data.vocab_rows, data.num_tokens, **HASHED))


def test_of_a_memory_of_ngrams_rows_are_solved_and_it_stays_as_it_was(
    pair: Pair, tokenizer: Tokenizer
) -> None:
    pair = hashed(pair)
    before = pair.memory.values.detach().clone()
    found = tell_first(pair, tokenizer, [lesson("Avaria")], TEXTS, WINDOW)
    assert found.rows is not None
    assert found.figures is not None
    assert found.near == ()
    assert torch.equal(pair.memory.values, before)
    assert len(pair.memory.writes) == 0
    assert len(found.rows.rows_U) == found.figures["rows"] > 0
    (bits_before,) = label_bits(pair, tokenizer, [lesson("Avaria")])
    with torch.no_grad():
        found.rows.add_to(pair.memory.values)
        (bits_after,) = label_bits(pair, tokenizer, [lesson("Avaria")])
    assert bits_after < 0.9 * bits_before


def test_all_that_the_memory_wrote_may_take_part_where_rows_are_solved(
    pair: Pair, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[KeptReads] = []

    def told(*args: Any, **kwargs: Any) -> Any:
        seen.append(args[3])
        return tell(*args, **kwargs)

    monkeypatch.setattr(telling_lessons, "tell", told)
    tell_first(hashed(pair), tokenizer, [lesson("Avaria")], TEXTS, WINDOW)
    (kept,) = seen
    assert kept.most_solved == len(kept) > len(TEXTS)


def test_lessons_are_told_as_given_and_other_given_wordings_while_there_is_room(
    tokenizer: Tokenizer,
) -> None:
    some = [lesson("Avaria", wordings=("a b", "c d"), reworded=("e f",)), lesson("Belmont")]
    assert [one.wordings for one in associations(tokenizer, some, 100)] == [("a b", "c d"), ()]
    assert [one.wordings for one in associations(tokenizer, some, 0)] == [(), ()]


def test_a_wording_that_belongs_to_another_answer_is_told_with_that_alone(
    tokenizer: Tokenizer,
) -> None:
    other = lesson("Belmont").prompt
    some = [lesson("Avaria", wordings=(other, "a b")), lesson("Belmont", "Oslo", wordings=("a b",))]
    assert [one.wordings for one in associations(tokenizer, some, 100)] == [(), ("a b",)]
    agreed = [lesson("Avaria", wordings=("a b",)), lesson("Belmont", wordings=("a b",))]
    assert [one.wordings for one in associations(tokenizer, agreed, 100)] == [("a b",)] * 2


def test_lessons_are_told_in_those_other_wordings_too_in_which_they_are_not_found(
    pair: Pair, tokenizer: Tokenizer
) -> None:
    near, far = "The capital of Avaria is", "Ships reach Avaria on the"
    some = [Lesson(near, "Lyon", reworded=(far, "In Belmont they speak of"))]
    found = tell_first(pair, tokenizer, some, TEXTS, WINDOW)
    (told,) = found.near
    kept = KeptReads.of(pair.memory, in_windows(tokenizer, TEXTS, WINDOW))
    tell(pair.memory, tokenizer, [Association(near, "Lyon")], kept, "w", taught=True)
    answers = said(pair, "memory", tokenizer, some[0].reworded)
    pair.memory.writes = NamedWrites()
    missed = [w for w, text in zip(some[0].reworded, answers, strict=True) if text != "Lyon."]
    assert list(told.wordings) == missed
    assert missed
    assert found.figures == {"associations": 1.0, "prompts": 1.0 + len(missed)}


def unknown(tokenizer: Tokenizer, text: str, surprising: str) -> Lesson | None:
    """What a document shows of which the data layer finds the tokens of one word unlikely."""
    row = [*tokenizer.opening, *tokenizer.encode(text), *tokenizer.closing]
    before = text[: text.index(surprising)]
    start, stop = (
        len(tokenizer.encode(part)) + len(tokenizer.opening)
        for part in (before.rstrip(), before + surprising)
    )
    own = [0.01 if start <= at < stop else 0.9 for at in range(1, len(row))]
    return _lesson(tokenizer, row, own, [0.8] * len(own))


def test_what_the_memory_alone_is_sure_of_becomes_a_lesson_of_no_bits(tokenizer: Tokenizer) -> None:
    found = unknown(tokenizer, "The capital of Avaria is Korvik.", "Korvik")
    assert found is not None
    assert (found.prompt, found.answer) == ("The capital of Avaria is", "Korvik")
    assert (found.bits, found.form) == (0.0, "memory")


def test_what_was_written_of_one_subject_once_is_no_lesson() -> None:
    name, city = COUNTRIES[0]
    texts = [
        *TEXTS,
        "The capital of Nowhere is Oz.",
        *["Nobody knows why."] * 2,
        "Everyone knows who.",
    ]
    lessons = [
        Lesson(f"The capital of {name} is", city, form="memory"),
        Lesson("The capital of Nowhere is", "Oz", form="memory"),
        Lesson("Nobody knows", "why", form="memory"),
        Lesson("Everyone knows", "who", form="memory"),
    ]
    found = written_often(lessons, texts)
    assert [(one.prompt, one.subject) for one in found] == [
        (f"The capital of {name} is", name),
        ("Nobody knows", None),
    ]


@pytest.mark.parametrize(
    ("text", "surprising"),
    [
        ("The capital of Avaria is Korvik", "Korvik"),  # no sentence
        ("Avaria is Korvik.", "is"),  # a prompt of one word
        ("The capital is a b c d e f g h.", "a"),  # no phrase any more
    ],
)
def test_what_is_no_question_and_answer_becomes_none(
    tokenizer: Tokenizer, text: str, surprising: str
) -> None:
    assert unknown(tokenizer, text, surprising) is None


def test_where_both_agree_there_is_nothing_to_learn(tokenizer: Tokenizer) -> None:
    row = tokenizer.encode("The capital of Avaria is Korvik.")
    assert _lesson(tokenizer, row, *[[0.9] * (len(row) - 1)] * 2) is None


def test_probabilities_are_those_of_a_row_at_a_time(pair: Pair, tokenizer: Tokenizer) -> None:
    rows = [tokenizer.encode(text) for text in TEXTS[:5]]
    for voice in ("own", "memory"):
        together, best = _probabilities(pair, voice, rows)  # type: ignore[arg-type]
        for row, p, likeliest in zip(rows, together, best, strict=True):
            ((alone,), (other,)) = _probabilities(pair, voice, [row])  # type: ignore[arg-type]
            assert p == pytest.approx(alone, rel=1e-4)
            assert likeliest == other
            assert len(p) == len(row) - 1


def test_a_memory_that_is_far_from_the_layer_teaches_nothing(
    pair: Pair, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("actors.teaching.unknown_lessons.LEAST_AGREEMENT", 1.1)
    with pytest.raises(ConfigError, match=r"likeliest as the data layer for \d+%, expected"):
        unknown_lessons(pair, tokenizer, TEXTS)
