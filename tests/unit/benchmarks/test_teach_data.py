"""What the benchmark of teaching teaches and asks, on a made-up folder of facts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from actors.lessons.given_lessons import read_lessons as read_file
from benchmarks.reflect_data import MissingDataError
from benchmarks.teach_data import LessonSizes, TeachData, check_folder, read_lessons, write_corpus
from tests.unit.benchmarks.edits import facts, write_folder

SIZES = LessonSizes(num_relations=2, num_facts=40, num_changed=12, num_new=8, kept_probes=50)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    edits = [
        {**fact, "target_new": f"Land{(i + 1) % 5}"}
        for i, fact in enumerate(facts(30))
        if i % 2 == 0
    ]
    write_folder(folder, 30, edits)
    return folder


@pytest.fixture(scope="module")
def corpus(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(SIZES, data, folder, 0)
    return folder


@pytest.fixture
def taught(data: Path, corpus: Path) -> TeachData:
    return read_lessons(SIZES, data, corpus, 0, 0)


def test_lessons_are_as_many_as_asked_in_one_wording_a_relation(taught: TeachData) -> None:
    assert (len(taught.table.facts), len(taught.changed), len(taught.new)) == (40, 12, 8)
    for relation in {c.fact.relation for c in taught.lessons}:
        assert len({c.wording for c in taught.lessons if c.fact.relation == relation}) == 1
    for change in taught.lessons:
        assert change.wording not in change.others
        assert not set(change.unseen) & set(taught.table.train_wordings[change.fact.relation])


def test_a_changed_fact_has_another_object_of_its_relation_counterfacts_where_there_is_one(
    taught: TeachData, data: Path
) -> None:
    old = {(f.relation, f.subject): f.object for f in taught.table.facts}
    edits = {
        (row["relation"], row["subject"]): row["target_new"]
        for row in map(json.loads, (data / "counterfact/train.jsonl").open())
    }
    objects = {(f.relation, f.object) for f in taught.table.facts}
    met = 0
    for change in taught.changed:
        key = change.fact.relation, change.fact.subject
        assert change.before == old[key] != change.fact.object
        assert (change.fact.relation, change.fact.object) in objects
        if key in edits:
            met += 1
            assert change.fact.object == edits[key]
    assert met > 0
    assert all(c.before is None and (c.fact.relation, c.fact.subject) not in old
               for c in taught.new)  # fmt: skip


def test_what_is_kept_is_about_nothing_that_is_taught(taught: TeachData) -> None:
    subjects = {c.fact.subject for c in taught.changed}
    assert len(taught.kept) == 40 - 12
    for seen in (True, False):
        questions = taught.kept_questions(seen)
        assert 0 < len(questions) <= SIZES.kept_probes
        assert not any(s in q.prompt.split() for q in questions for s in subjects)
    for near in taught.neighbours():
        assert near.answer != near.other
        assert near.prompt.split()[1] not in subjects


def test_lessons_are_asked_in_every_kind_of_wording(taught: TeachData) -> None:
    (one,) = {q.prompt for q in taught.asked(taught.changed[:1], "taught")}
    assert one == taught.changed[0].prompt
    for kind in ("others", "unseen"):
        asked = taught.asked(taught.changed, kind)
        assert {q.answer for q in asked} <= {c.fact.object for c in taught.changed}
        assert len(asked) == sum(len(getattr(c, kind)) for c in taught.changed)


def test_lessons_are_written_as_teach_reads_them(taught: TeachData, tmp_path: Path) -> None:
    taught.write_lessons(tmp_path / "lessons.jsonl")
    read = read_file(str(tmp_path / "lessons.jsonl")).lessons
    assert {(x.prompt, x.answer, x.subject) for x in read} == {
        (c.prompt, c.fact.object, c.fact.subject) for c in taught.lessons
    }


def test_another_draw_teaches_other_facts_of_the_same_corpus(
    taught: TeachData, data: Path, corpus: Path
) -> None:
    assert read_lessons(SIZES, data, corpus, 0, 0).changed == taught.changed
    assert read_lessons(SIZES, data, corpus, 0, 1).changed != taught.changed


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingDataError, match=r"pararel/facts\.jsonl is missing"):
        check_folder(tmp_path)
