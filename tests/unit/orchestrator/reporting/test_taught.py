"""`taught.json` and its page: figures, states, verdict, and what stands on the page."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from actors.wire import LessonAnswer, LostAnswer, Taught
from orchestrator.loop.schedule import HARDLY, NO, YES
from orchestrator.reporting.taught import (
    LEARNED,
    NOT_LEARNED,
    REWORDED,
    figures,
    judged,
    lesson_state,
    reflects,
    taught_json,
)
from orchestrator.reporting.taught_report import figure_rows, lesson_rows, subtitle, taught_page
from orchestrator.run_dir.metrics import Metrics
from orchestrator.run_dir.run_status import RunStatus
from orchestrator.settings.config import Config, make_config

ONE = LessonAnswer(
    prompt="The capital of France is",
    answer="Lyon",
    before="Paris.",
    own="Lyon.",
    help="Lyon.",
    memory="Lyon.",
    right=("own", "help", "memory"),
    reworded=2,
    reworded_right=2,
    changed=True,
    followed=True,
    bits=12.0,
)
PARTLY = replace(ONE, prompt="The capital of Peru is", reworded_right=1, followed=False, bits=1.0,
                 right=("own", "help"))  # fmt: skip
MISSED = replace(ONE, prompt="The capital of <Chad> is", own="Oslo.", right=("memory",), reworded=0,
                 reworded_right=0, followed=False)  # fmt: skip
SUMMARY: dict[str, Any] = {
    "name": "base-taught",
    "heldout": {"own_loss": 2.02},
    "before": {"heldout": {"own_loss": 2.0}},
}


def taught(*lessons: LessonAnswer) -> Taught:
    lost = (LostAnswer("Oslo lies in", "Norway.", "Peru."),)
    return Taught(lessons, 40, 0, lost, (), (*lost, *lost))


def written() -> dict[str, Any]:
    facts = {"run": "runs/base", "known": 3, "prepare_s": 4.0}
    found = taught_json(taught(ONE, PARTLY, MISSED), facts, SUMMARY, 26.0)
    return {**found, "reflected": {"verdict": "yes", "reason": "it does"}}


def test_the_figures_are_shares_of_what_was_asked() -> None:
    found = figures(taught(ONE, PARTLY, MISSED), SUMMARY, 30.0)
    assert found == {
        "lessons": 3.0,
        "taught": pytest.approx(2 / 3),
        "taught_with_memory": pytest.approx(2 / 3),
        "taught_memory": pytest.approx(2 / 3),
        "other_wordings": pytest.approx(3 / 4),
        "kept_lost": pytest.approx(1 / 40),
        "neighbours_lost": None,
        "memory_kept_lost": pytest.approx(2 / 40),
        "text_lost_frac": pytest.approx(0.01),
        "changed": 3.0,
        "reflected": pytest.approx(1 / 3),
        "bits": 25.0,
        "bits_per_lesson": pytest.approx(25 / 3),
        "s_per_lesson": 10.0,
    }


@pytest.mark.parametrize(
    ("lesson", "state"), [(ONE, REWORDED), (PARTLY, LEARNED), (MISSED, NOT_LEARNED)]
)
def test_a_lesson_is_taught_in_other_wordings_too_or_not(lesson: LessonAnswer, state: str) -> None:
    assert lesson_state(lesson) == state


def test_a_lesson_without_other_wordings_is_taught_as_given() -> None:
    assert lesson_state(replace(ONE, reworded=0, reworded_right=0)) == LEARNED


def test_a_memory_that_gives_too_few_changed_answers_does_not_reflect() -> None:
    followed = figures(taught(*[ONE] * 9, PARTLY), SUMMARY, 1.0)
    assert reflects(followed) is None
    why = reflects(figures(taught(*[ONE] * 8, PARTLY, PARTLY), SUMMARY, 1.0))
    assert why is not None
    assert "of 10 answers that the data layer changed the memory gives 80.0%, below 90%" in why


def test_where_nothing_changed_there_is_nothing_to_reflect() -> None:
    assert reflects(figures(taught(replace(ONE, changed=False)), SUMMARY, 1.0)) is None


def judgement(followed: int, now: float, before: float | None, verdict: str = HARDLY) -> Any:
    summary = {**SUMMARY, "reflects_final_verdict": verdict, "final_agreement": now,
               "before": {"heldout": {"recall_agreement": before}}}  # fmt: skip
    lessons = [ONE] * followed + [PARTLY] * (10 - followed)
    return judged(figures(taught(*lessons), summary, 1.0), summary)


def test_a_pair_that_agreed_on_little_before_teaching_reflects_what_it_was_taught() -> None:
    found = judgement(9, 0.31, 0.28)
    assert (found["reflects_final"], found["reflects_final_verdict"]) == (True, YES)
    assert "gives 90% of the answers" in found["reflects_final_reason"]
    assert "agree on 0.31 of the tokens, before teaching on 0.28" in found["reflects_final_reason"]
    assert "status" not in found


@pytest.mark.parametrize(("now", "before"), [(0.31, 0.33), (0.31, None)])
def test_a_memory_that_agrees_on_less_than_before_still_hardly_reflects(
    now: float, before: float | None
) -> None:
    assert judgement(10, now, before) == {}


def test_a_verdict_other_than_hardly_stays_and_too_few_answers_are_a_no() -> None:
    assert judgement(10, 0.31, 0.28, NO) == judgement(10, 0.9, 0.9, YES) == {}
    found = judgement(8, 0.9, 0.9, YES)
    assert (found["status"], found["reflects_final_verdict"]) == (RunStatus.UNREFLECTED, NO)


def test_what_was_not_taught_comes_first() -> None:
    assert next(iter(lesson_rows(written())))[0] == "The capital of <Chad> is …"


def test_the_page_shows_every_lesson_and_what_was_lost_and_escapes_both() -> None:
    config: Config = make_config({"name": "base-taught", "corpus": {"paths": ["a.txt"]}})
    metrics = Metrics(0.0)
    page = taught_page(written(), config, metrics)
    assert "&lt;Chad&gt;" in page
    assert "<Chad>" not in page
    assert page.count("Norway.") == 3
    assert "Answers of the memory that were lost" in page
    assert "Neighbours that were lost" not in page


def test_figures_without_a_value_are_left_out() -> None:
    names = [name for name, _, _ in figure_rows(written())]
    assert "neighbours_lost" not in names
    assert "kept_lost" in names


def test_the_subtitle_says_what_was_given() -> None:
    said = subtitle(written())
    assert said == ("3 lessons to runs/base, 3 known before, 25 bits given, 30 s; it does")
