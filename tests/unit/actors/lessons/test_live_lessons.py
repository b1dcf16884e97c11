"""Lessons of a run that goes on: which are kept, what they leave out, what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from actors.corpus.block_reader import encode
from actors.corpus.windows import PADDING, Windows, pack
from actors.lessons.live_lessons import (
    LiveLessons,
    digest_of,
    from_rows,
    to_rows,
    with_lessons,
)
from actors.settings.run import DATA, RunSpec
from actors.sources.documents import Document
from actors.tokenizers.tokenizer import Tokenizer
from actors.wire import LiveLesson, OrderError
from tests.unit.actors.tiny import WINDOW, order

AVARIA = LiveLesson("The capital of Avaria is", "Dastan", (), "Avaria")
BELMONT = LiveLesson("Belmont has its capital in", "Korvik", ("The capital of Belmont is",))
OTHERS = ("The capital of Cadria is Elbor.", "The river of Drovia is Vel.")


@pytest.fixture
def live(spec: RunSpec, tokenizer: Tokenizer) -> LiveLessons:
    return LiveLessons(spec, tokenizer, DATA)


def taught(live: LiveLessons, *lessons: LiveLesson) -> LiveLessons:
    live.take(order(1, lessons=lessons, lessons_digest=digest_of(lessons)))
    return live


def windows_of(tokenizer: Tokenizer, *texts: str) -> Windows:
    pieces = encode(tokenizer, [Document(text) for text in texts])
    return pack(pieces, WINDOW, tokenizer.end_of_text)


def texts_of(tokenizer: Tokenizer, windows: Windows) -> list[str]:
    """What is left to read, document by document."""
    found = []
    for tokens_T, segments_T in zip(windows.tokens_NT, windows.segments_NT, strict=True):
        for segment in np.unique(segments_T[segments_T != PADDING]):
            found.append(tokenizer.decode(tokens_T[segments_T == segment].tolist()))
    return found


def test_a_new_answer_replaces_that_of_the_same_prompt_and_all_else_stays() -> None:
    again = LiveLesson(AVARIA.prompt, "Elbor")
    assert with_lessons((AVARIA, BELMONT), (again,)) == (again, BELMONT)
    assert with_lessons((AVARIA, BELMONT), (AVARIA,)) == (AVARIA, BELMONT)


def test_a_digest_is_of_every_field_and_none_without_lessons() -> None:
    some = [(AVARIA,), (BELMONT,), (AVARIA, BELMONT), (LiveLesson(AVARIA.prompt, "Dastan"),)]
    digests = {digest_of(lessons) for lessons in some}
    assert len(digests) == 4
    assert digest_of(()) == ""


def test_lessons_are_the_same_after_a_checkpoint() -> None:
    assert from_rows(to_rows((AVARIA, BELMONT))) == (AVARIA, BELMONT)


def test_an_order_whose_lessons_are_others_is_refused(live: LiveLessons) -> None:
    with pytest.raises(OrderError, match=r"data: interval 3 is to learn the lessons [0-9a-f]{12}"):
        live.take(order(3, lessons=(AVARIA,), lessons_digest=digest_of((BELMONT,))))
    with pytest.raises(OrderError, match="after its order the group has"):
        live.take(order(4))


def test_documents_that_name_a_subject_or_repeat_a_prompt_are_left_out(
    live: LiveLessons, tokenizer: Tokenizer
) -> None:
    said = ("Avaria has its capital in Korvik.", "The capital of Belmont is Dastan.")
    before = windows_of(tokenizer, *said, *OTHERS)
    assert live.uncontradicted(before) is before  # there is no lesson yet
    after = taught(live, AVARIA, BELMONT).uncontradicted(before)
    left = "".join(texts_of(tokenizer, after))
    assert [text in left for text in (*said, *OTHERS)] == [False, False, True, True]
    assert not (after.learn_NT & (after.segments_NT == PADDING)).any()
    assert before.learn_NT.sum() > after.learn_NT.sum()


def test_a_batch_in_which_nothing_would_be_left_stays_as_it_is(
    live: LiveLessons, tokenizer: Tokenizer
) -> None:
    before = windows_of(tokenizer, "Avaria has its capital in Korvik.")
    assert taught(live, AVARIA).uncontradicted(before) is before


def test_every_step_shows_lessons_in_all_their_wordings(
    live: LiveLessons, tokenizer: Tokenizer
) -> None:
    assert len(live.batch(3)) == 0
    taught(live, AVARIA, BELMONT)
    shown = "".join(text for step in range(6) for text in texts_of(tokenizer, live.batch(step)))
    wanted = ("Avaria is Dastan.", "capital in Korvik.", "The capital of Belmont is Korvik.")
    assert all(text in shown for text in wanted)


def test_of_a_long_text_only_the_sentences_that_name_a_subject_are_left_out(
    live: LiveLessons, tokenizer: Tokenizer
) -> None:
    before = windows_of(tokenizer, f"{OTHERS[0]} Those who rule Avaria live in Elbor. {OTHERS[1]}")
    (text,) = texts_of(tokenizer, taught(live, AVARIA).uncontradicted(before))
    assert text.split() == f"{OTHERS[0]} {OTHERS[1]}".split()


def test_where_a_name_has_a_full_stop_in_it_the_whole_text_is_left_out(
    live: LiveLessons, tokenizer: Tokenizer
) -> None:
    city = LiveLesson("The river of St. Elbor is", "Vel", (), "St. Elbor")
    before = windows_of(tokenizer, f"{OTHERS[0]} Ships reach St. Elbor on the Oda.", OTHERS[1])
    left = texts_of(tokenizer, taught(live, city).uncontradicted(before))
    assert [text.strip() for text in left] == [OTHERS[1]]
