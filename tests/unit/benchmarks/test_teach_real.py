"""CounterFact's edits for a real model: which are chosen, what is asked, what the table says."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.cells import Cells
from benchmarks.reflect_data import MissingDataError
from benchmarks.teach_real import (
    ALPHAEDIT,
    ARMS,
    LABELS,
    MEMIT,
    QUICK,
    TEACH,
    RealCells,
    measure,
)
from benchmarks.teach_real_arms import RealSizes
from benchmarks.teach_real_data import RealData, prepare
from tests.unit.actors.tiny import save_checkpoint
from tests.unit.actors.tokenizers.test_pretrained_tokenizer import byte_level, saved
from tests.unit.benchmarks.edits import RELATIONS, write_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    edits = [
        {
            "relation": r,
            "subject": f"{r}place{i}",
            "template": f"{r} {{}} {('lies in', 'rests in', 'is part of')[i % 3]}",
            "prompt": f"{r} {r}place{i} {('lies in', 'rests in', 'is part of')[i % 3]}",
            "target_new": f"Land{(i + 1) % 5}",
            "ground_truth": f"Land{i % 5}",
            "rephrase_prompt": f"By the way. {r}place{i} is found in",
            "neighbor_subjects": [f"{r}place{j}" for j in range(i % 5, 40, 5) if j != i],
        }
        for r in RELATIONS
        for i in range(20)
    ]
    write_folder(folder, 40, edits)
    return folder


@pytest.fixture(scope="module")
def real(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> RealData:
    return prepare(folder, tmp_path_factory.mktemp("real"), 2, 8, 20, 0)


def test_edits_are_equally_many_of_each_relation_and_a_seed_chooses_them(
    folder: Path, real: RealData, tmp_path: Path
) -> None:
    counts: dict[str, int] = {}
    for edit in real.edits:
        counts[edit.relation] = counts.get(edit.relation, 0) + 1
    assert sorted(counts.values()) == [4, 4]
    assert prepare(folder, tmp_path, 2, 8, 20, 0).edits == real.edits
    assert prepare(folder, tmp_path, 2, 8, 20, 1).edits != real.edits


def test_the_memory_knows_nothing_about_what_is_edited_or_asked(real: RealData) -> None:
    known = {json.loads(line)["subject"] for line in real.facts.read_text().splitlines()}
    for edit in real.edits:
        assert edit.subject not in known
        assert len(edit.neighbours) == 2
        for prompt, _ in edit.neighbours:
            assert not set(prompt.split()) & known


def test_prompts_are_wordings_that_the_memory_meets_and_one_unseen_one_is_held_out(
    real: RealData,
) -> None:
    for edit in real.edits:
        rest = edit.prompt.replace(edit.subject, "").split()
        assert any(set(rest) <= set(sentence.split()) for sentence in real.sentences)
        held_out = edit.unseen[1].replace(edit.subject, "").split()
        assert not any(set(held_out) <= set(sentence.split()) for sentence in real.sentences)


def test_the_wrong_answer_of_neighbours_is_the_new_one(real: RealData) -> None:
    asked = real.asked()
    assert {name: len(questions) for name, questions in asked.items()} == {
        "es": 8, "ps": 16, "ns": 16, "seen": 8,
    }  # fmt: skip
    new = {edit.new for edit in real.edits}
    assert all(question.other in new for question in asked["ns"])
    assert all(question.answer in new for question in asked["ps"])


def test_too_few_edits_are_missing_data(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingDataError, match="edits of 0 relations can be asked, 2 are needed"):
        prepare(folder, tmp_path, 2, 100, 20, 0)


def test_the_ratio_is_of_the_best_of_each_side(tmp_path: Path) -> None:
    class Known(RealCells):
        def arm(self, name: str) -> dict[str, Any]:
            scores = {"teach-all": 0.9, "teach-lora": 0.8, next(iter(MEMIT)): 0.6}
            return {"score": scores.get(name, 0.5), "text_loss": 3.0 + (name != "before")}

    cells = Known(Cells(tmp_path), tmp_path, tmp_path, QUICK)
    found = measure(cells, ["before", "teach-all", "teach-lora", *MEMIT, *ALPHAEDIT, *LABELS])
    assert found["ratio"] == pytest.approx(0.9 / 0.6)
    assert found["arms"]["teach-all"]["text_lost_frac"] == pytest.approx(1 / 3)
    assert measure(cells, ["before", "teach-all"])["ratio"] is None


@pytest.mark.long  # a memory is made and two runs teach: some 30 s
def test_every_arm_gives_the_same_figures_of_a_tiny_model(folder: Path, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "model", rows=400, max_position_embeddings=64, num_hidden_layers=9)
    saved(tmp_path / "model", byte_level("<|endoftext|>"), eos_token="<|endoftext|>")
    sizes = RealSizes(2, 8, 20, 20, 8, written=120)
    cells = RealCells(Cells(tmp_path / "cells"), tmp_path / "model", folder, sizes)
    found = measure(cells, ARMS)
    wanted = {"es", "ps", "ns", "seen", "score", "whole", "text_loss", "text_lost_frac"}
    assert all(wanted <= row.keys() for row in found["arms"].values())
    before = found["arms"]["before"]
    changed = [
        name for name, row in found["arms"].items() if row["text_loss"] != before["text_loss"]
    ]
    assert changed[:6] == [*TEACH, *LABELS]
    assert found["ratio"] > 0
    assert measure(replace(cells, cells=Cells(tmp_path / "cells", 0)), ARMS) == found  # kept
