"""Both trainers of a run that is taught while it goes on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from actors.lessons.live_lessons import digest_of
from actors.settings.run import RunSpec
from actors.tokenizers.tokenizer import Tokenizer
from actors.training.data_trainer import DataTrainer
from actors.training.memory_trainer import MemoryTrainer
from actors.wire import LiveLesson
from tests.unit.actors.tiny import RUN, order, values

LESSONS = (LiveLesson("The capital of Avaria is", "Dastan", (), "Avaria"),)


def trainers(spec: RunSpec, tokenizer: Tokenizer) -> list[Any]:
    """Those of the data and of the memory group."""
    return [kind(spec, tokenizer.to_json(), RUN) for kind in (DataTrainer, MemoryTrainer)]


def copies(done):  # type: ignore[no-untyped-def]
    header, buckets = done
    return header, [bucket.copy() for bucket in buckets]


def run_intervals(spec: RunSpec, tokenizer: Tokenizer, stop: int | None) -> list[Tensor]:
    """Both layers after three intervals in lockstep, taught from the second on; restored from their
    checkpoints after interval `stop`, and ordered the rest again.
    """
    data, memory = both = trainers(spec, tokenizer)
    published = [copies(trainer.publish()) for trainer in both]
    for number in (1, 2, 3):
        now = replace(
            order(number, 2, checkpoint=number == stop),
            lessons=LESSONS if number == 2 else (),
            lessons_digest=digest_of(LESSONS) if number >= 2 else "",
        )
        of_data, of_memory = published
        outcomes = [
            data.interval(now, [of_memory[0]], of_memory[1]),
            memory.interval(now, [of_data[0]], of_data[1]),
        ]
        published = [copies((one.header, one.buckets)) for one in outcomes]
        expected = LESSONS if number >= 2 else ()
        assert [header.lessons for header, _ in published] == [expected, expected]
        if number == stop:
            saved = [(o.checkpoint_header, [b.copy() for b in o.checkpoint_buckets])
                     for o in outcomes]  # fmt: skip
            data, memory = both = trainers(spec, tokenizer)
            for trainer, (header, buckets) in zip(both, saved, strict=True):
                trainer.restore([header], buckets)
    return [trainer.own.buffer.clone() for trainer in (data, memory)]


@pytest.mark.parametrize("stop", [1, 2])
def test_a_replay_from_before_or_after_the_teaching_gives_the_same_bits(
    spec: RunSpec, tokenizer: Tokenizer, stop: int
) -> None:
    whole, again = (run_intervals(spec, tokenizer, at) for at in (None, stop))
    assert all(map(torch.equal, whole, again))


def test_a_step_reports_the_lessons_and_lowers_their_loss(
    spec: RunSpec, tokenizer: Tokenizer
) -> None:
    name = "lessons"
    for trainer in trainers(spec, tokenizer):
        assert name not in values(trainer.train_step())
        trainer.live.take(order(1, lessons=LESSONS, lessons_digest=digest_of(LESSONS)))
        found = []
        for step in range(1, 13):
            trainer.step = step
            found.append(values(trainer.train_step())[name])
        assert found[-1] < 0.9 * found[0]


def test_the_memory_recalls_the_lessons_of_a_version_that_was_taught_them(
    spec: RunSpec, tokenizer: Tokenizer
) -> None:
    trainer = MemoryTrainer(spec, tokenizer.to_json(), RUN)
    trainer.live.take(order(1, lessons=LESSONS, lessons_digest=digest_of(LESSONS)))
    assert "lessons_recall" not in values(trainer.train_step())
    trainer.live.of_peer = LESSONS
    assert values(trainer.train_step())["lessons_recall"] > 0


def test_two_ranks_add_up_to_the_lessons_of_one(spec: RunSpec, tokenizer: Tokenizer) -> None:
    found = []
    for num in (1, 2):
        total = 0.0
        for rank in range(num):
            trainer = DataTrainer(spec, tokenizer.to_json(), RUN, rank, num)
            trainer.live.take(order(1, lessons=LESSONS, lessons_digest=digest_of(LESSONS)))
            total += values(trainer.train_step()).get("lessons", 0.0)
        found.append(total)
    assert found[1] == pytest.approx(found[0], rel=1e-4)
