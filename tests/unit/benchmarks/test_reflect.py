"""The arithmetic, the controls and the data rules of the reflect benchmark."""

from __future__ import annotations

import json
import math
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from actors.layers.losses import recall
from actors.measuring.probing import answer_tokens, same_start
from actors.sources.facts import Fact
from actors.tokenizers.tokenizer import Tokenizer
from actors.wire import Header, Range
from benchmarks import reflect_figures as figures
from benchmarks.cells import Cells, OutOfCellsError, compute_ahead
from benchmarks.intervals import interval_95
from benchmarks.paired import difference
from benchmarks.plots import LABELS, reflect_figure
from benchmarks.reflect import KEYS, groups_of, lines, measure, simple_controls, tasks_of
from benchmarks.reflect_answers import Answers, changed, gives, share
from benchmarks.reflect_cells import of_known
from benchmarks.reflect_controls import NgramTable, recall_kl, unigram_logits, with_shuffled_slots
from benchmarks.reflect_data import MissingDataError, candidates, check_folder, choose
from benchmarks.reflect_specs import FULL, Sizes, facts_spec
from benchmarks.reflect_track import Track
from benchmarks.small_specs import changed_spec
from tests.unit.actors.tiny import (
    bigram_pair,
    build_memory,
    followed_by,
    numbered_lines,
    one_document,
    tokens,
)

PATTERNS = [{"pattern": f"[X] {verb} in [Y].", "lemma": verb} for verb in ("lives", "is", "sits")]


def test_an_interval_is_students_over_the_seeds() -> None:
    mean, half = interval_95([0.8, 0.9, 1.0])
    assert mean == pytest.approx(0.9)
    assert half == pytest.approx(4.303 * 0.1 / math.sqrt(3), rel=1e-3)


@pytest.mark.parametrize(
    ("freedom", "quantile"), [(1, 12.7062), (4, 2.7764), (11, 2.2010), (30, 2.0423), (255, 1.9693)]
)
def test_an_interval_has_students_quantile_of_its_degrees_of_freedom(
    freedom: int, quantile: float
) -> None:
    values = [float(number) for number in range(freedom + 1)]
    _, half = interval_95(values)
    expected = quantile * statistics.stdev(values) / math.sqrt(freedom + 1)
    assert half == pytest.approx(expected, rel=1e-4)
    found = difference("accuracy.help", [0.0] * len(values), values)
    assert (found.high - found.low) / 2 == pytest.approx(half)


def test_one_seed_has_no_interval() -> None:
    assert interval_95([0.4]) == (0.4, 0.0)


@pytest.mark.parametrize(
    ("shuffled", "mean", "expected"),
    [(4.0, 5.0, 1.0), (2.5, 5.0, 0.5), (4.0, 1.0, 0.0), (1.5, 2.0, 1 / 6)],
)
def test_the_slots_share_is_what_the_better_knock_out_loses(
    shuffled: float, mean: float, expected: float
) -> None:
    cell = {"kl_unigram": 4.0, "kl": 1.0, "kl_shuffled": shuffled, "kl_mean": mean}
    assert figures.slot_share(cell) == pytest.approx(expected)


def test_a_memory_that_knows_nothing_has_nothing_in_its_slots() -> None:
    cell = {"kl_unigram": 1.0, "kl": 1.0, "kl_shuffled": 1.0, "kl_mean": 1.0}
    assert figures.slot_share(cell) == 0.0


def test_what_is_lost_is_what_was_kept_before_minus_after() -> None:
    after = {
        "0": {"unchanged_taught": 1.0, "unchanged_paraphrase": 0.8},
        "16": {"unchanged_taught": 0.9, "unchanged_paraphrase": 0.7},
        "4": {"unchanged_taught": 0.1, "unchanged_paraphrase": 0.1},
    }
    assert figures.unchanged_lost(after) == pytest.approx(0.1)


def test_a_rate_is_that_of_the_last_measurement_until_then() -> None:
    after = {"0": {"taught": 0.0}, "2": {"taught": 0.5}, "8": {"taught": 0.9}}
    assert figures.rate_at(after, 4, "taught") == 0.5


def test_an_answer_changed_where_it_leads_the_old_one_by_the_margin() -> None:
    before = Answers([(1,), (1,), (1,), ()], [0.0] * 4)
    now = Answers([(2,), (2,), (1,), (2,)], [0.2, 0.05, 0.0, 0.9])
    assert changed(now, before) == [True, False, False, False]


def test_a_share_is_of_the_chosen_alone() -> None:
    assert share([True, False, True], [True, True, False]) == 0.5


def test_an_object_is_given_by_the_whole_answer_alone() -> None:
    tokenizer = Tokenizer.train(["Paris is big.", "Rome is old."], 270)
    whole = tuple(answer_tokens(tokenizer, "Paris"))
    said = [whole, whole[:-1], (*whole, 3), whole]
    assert gives(tokenizer, said, ["Paris", "Paris", "Paris", "Rome"]) == [
        True,
        False,
        False,
        False,
    ]


def test_of_what_is_known_only_right_answers_count() -> None:
    known, agreed = [True, True, False, True], [True, False, True, True]
    found = of_known(known, agreed, [True, True, True, False], "unseen")
    assert found == {"known_unseen": pytest.approx(2 / 3), "agreement_unseen_known": 0.5}


@pytest.mark.parametrize(("a", "b", "same"), [([1, 2], [1, 3], 1), ([1], [1, 2], 1), ([], [1], 0)])
def test_two_answers_begin_alike(a: list[int], b: list[int], same: int) -> None:
    assert same_start(a, b) == same


def test_an_ngram_table_knows_what_it_read_and_guesses_by_its_end() -> None:
    table = NgramTable([([1, 2, 3], [7, 0]), ([4, 2, 3], [8, 0]), ([5, 2, 3], [8, 0])])
    assert table.answer([1, 2, 3], stop=0) == (7,)
    assert table.answer([9, 2, 3], stop=0) == (8,)


def test_a_unigrams_kl_is_the_losses_own() -> None:
    data_VV = followed_by(12, *((i, (i + 1) % 12) for i in range(12)))
    pair = bigram_pair(data_VV, data_VV)
    batch = batch_of(tokens(3, 8, num=12))
    logits = unigram_logits(torch.arange(12.0))
    teacher = data_VV[batch.tokens_BT[batch.valid_BT]]
    want = float(recall(teacher, logits.expand_as(teacher)))
    assert recall_kl(pair.data, lambda _: logits, batch, 2) == pytest.approx(want, rel=1e-5)


def batch_of(rows: torch.Tensor) -> Any:
    from actors.layers.batch import Batch

    valid = torch.ones_like(rows, dtype=torch.bool)
    valid[:, -1] = False
    return Batch(rows, one_document(rows), valid, rows.roll(-1, dims=1))


def test_shuffled_slots_are_the_same_rows_elsewhere() -> None:
    memory = build_memory()
    shuffled = with_shuffled_slots(memory, 1)
    assert not torch.equal(shuffled.values, memory.values)
    assert torch.equal(shuffled.values.sort(0).values, memory.values.sort(0).values)


def row(relation: str, subject: str, obj: str) -> dict[str, str]:
    return {"relation": relation, "subject": subject, "object": obj}


def edit(relation: str, subject: str, new: str) -> dict[str, str]:
    return {"relation": relation, "subject": subject, "target_new": new}


def test_facts_with_two_answers_or_the_answer_inside_are_left_out() -> None:
    facts = [row("P", "a", "Rome"), row("P", "b", "Rome"), row("P", "b", "Bonn"),
             row("P", "Bonn Hall", "Bonn"), row("Q", "a", "Rome")]  # fmt: skip
    edits = [edit("P", s, "Bonn" if s == "a" else "Rome") for s in ("a", "b", "Bonn Hall")]
    edits += [edit("Q", "a", "Bonn"), edit("P", "a", "nowhere")]
    found = candidates(facts, edits, {"P": PATTERNS, "Q": PATTERNS[:2]})
    assert found == {"P": [(Fact("P", "a", "Rome"), "Bonn")]}


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingDataError, match=r"pararel/facts.jsonl is missing"):
        check_folder(tmp_path)


def write_data(folder: Path) -> Path:
    """A data folder of twelve facts with an edit each, and a text."""
    facts = [row("P", f"s{i}", ("Rome", "Bonn")[i % 2]) for i in range(12)]
    edits = [edit("P", f"s{i}", ("Bonn", "Rome")[i % 2]) for i in range(12)]
    for name, rows in (("pararel/facts.jsonl", facts), ("counterfact/train.jsonl", edits)):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("\n".join(json.dumps(r) for r in rows))
    (folder / "pararel/templates.json").write_text(json.dumps({"P": PATTERNS}))
    (folder / "text").mkdir()
    text = "\n".join(numbered_lines(1500))
    (folder / "text/Middlemarch_145.txt").write_text(text, encoding="utf-8")
    return folder


@pytest.mark.long  # it trains small pairs
def test_the_table_has_every_key_and_its_cells_are_computed_ahead(tmp_path: Path) -> None:
    data = write_data(tmp_path)
    check_folder(data)
    sizes = Sizes(1, 12, 6, 2, (1, 2), 1, 4, 2, 2)
    tasks = tasks_of(groups_of(Cells(tmp_path / "cells"), sizes, data, [0]), 0)
    compute_ahead(tasks, 2)
    first, again = (
        measure(groups_of(Cells(tmp_path / "cells", allowed=0), sizes, data, [0]), 0)
        for _ in range(2)
    )
    assert first == again
    assert all(math.isfinite(first[key]) for key in KEYS)
    assert all(any(key in line for line in lines(first)) for key in KEYS)
    reached, followed = reflect_figure({"small": first, "large": first}).axes
    labels = [label.get_text() for label in reached.get_yticklabels()]
    assert labels == list(LABELS.values())
    taught = first["table"]["reflection_rate_after_2"]["mean"]
    assert taught in followed.lines[0].get_ydata()


def test_the_edited_facts_differ_in_the_edited_objects_alone(tmp_path: Path) -> None:
    chosen = choose(write_data(tmp_path), 0, 1, 10, 6)
    pairs = zip(chosen.facts, chosen.edited, strict=True)
    differing = [i for i, (before, after) in enumerate(pairs) if before != after]
    assert len(chosen.facts) == 10
    assert differing == sorted(chosen.edits)
    assert len(differing) == 6


def test_a_cell_is_computed_once_and_counted_against_what_is_allowed(tmp_path: Path) -> None:
    cells = Cells(tmp_path, allowed=1)
    first = cells.get("a", {"x": 1}, lambda _: {"value": 1})
    assert cells.get("a", {"x": 1}, lambda _: {"value": 2})["value"] == first["value"] == 1
    with pytest.raises(OutOfCellsError):
        cells.get("a", {"x": 2}, lambda _: {"value": 3})


def fail() -> dict[str, Any]:
    raise ValueError("no such corpus")


def test_a_task_that_fails_ahead_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    compute_ahead([fail], 1)
    assert "no such corpus" in capsys.readouterr().err


def test_a_cell_that_failed_is_not_kept(tmp_path: Path) -> None:
    cells = Cells(tmp_path)

    def fails(_: Path) -> dict[str, Any]:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        cells.get("a", {}, fails)
    assert cells.get("a", {}, lambda _: {"value": 1})["value"] == 1


def test_a_track_comes_back_as_it_was_written(tmp_path: Path) -> None:
    header = Header("r", "data", 0, 1, 0, 1, 3, "l", "stored", 6, (0, 4), (4, 2), (5, 6), 0,
                    (Range(0, 1, 2),))  # fmt: skip
    bytes_VB = np.arange(6, dtype=np.uint8)[None]
    Track([header], bytes_VB).save(tmp_path / "track")
    headers, buckets = Track.load(tmp_path / "track").snapshot(0)
    assert headers == [header]
    assert [bucket.tolist() for bucket in buckets] == [[0, 1, 2, 3], [4, 5]]


def test_the_memorys_corpus_is_never_the_edited_one() -> None:
    paths = {
        (taught, of_data): facts_spec(FULL, Path("f"), 0, taught, of_data).corpus.paths
        for taught in (False, True)
        for of_data in (False, True)
    }
    edited = [key for key, path in paths.items() if path == ("f/edited.jsonl",)]
    assert edited == [(True, True)]


def test_a_change_of_no_setting_is_refused() -> None:
    spec = facts_spec(FULL, Path("f"), 0, False, False)
    assert changed_spec(spec, {"losses.self": 0.5}).losses.self_ == 0.5
    with pytest.raises(ValueError, match=r"no setting losses\.nothing"):
        changed_spec(spec, {"losses.nothing": 1})


def test_the_majority_is_of_the_data_layers_own_answers() -> None:
    questions = [{"relation": "P", "seen": seen} for seen in (True, True, True, False)]
    track = {
        "questions": questions,
        "answers": {"0": {"said": [[1], [1], [2], [2]]}},
        "ngram": [[1], [2], [2], [2]],
    }
    found = simple_controls(track)
    assert found["majority_seen"] == pytest.approx(2 / 3)
    assert found["majority_unseen"] == 0.0
    assert (found["ngram_seen"], found["ngram_unseen"]) == (pytest.approx(2 / 3), 1.0)
