"""Cells in which both groups learn the same facts, and their controls. Called by `learning`.

A cell's key is its spec, its sizes, the changes and what was read.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch

from actors.layers.pair import Pair
from actors.measuring.voices import Voice
from actors.settings.run import DATA, MEMORY, RunSpec
from actors.training.data_trainer import DataTrainer
from actors.training.memory_trainer import MemoryTrainer
from actors.training.trainer_kinds import trainer_class
from benchmarks import learning_data
from benchmarks.cells import Task
from benchmarks.learning_cells import SeedCells
from benchmarks.learning_controls import DeafTrainer, SlotlessTrainer, num_parameters, wider_spec
from benchmarks.learning_drive import RUN, Driven, drive, drive_data
from benchmarks.learning_exam import Exam, facts_batch
from benchmarks.learning_joint import JointTrainer
from benchmarks.learning_specs import TOGETHER, together_spec
from benchmarks.small_specs import changed_spec

Json = dict[str, Any]
PLAIN: dict[str, Any] = {"losses.help": 0.0}
SELF_ALONE: dict[str, Any] = {"losses.recall": 0.0}
TIMED_INTERVALS = 3
OWN: tuple[Voice, ...] = ("own",)


@dataclass(frozen=True)
class TogetherCells(SeedCells):
    """The cells of one seed in which both layers learn."""

    counting = TOGETHER

    @cached_property
    def spec(self) -> RunSpec:
        """Of the runs, whose corpus is written where it is not there yet."""
        s = self.sizes

        def write(folder: Path) -> None:
            facts = learning_data.choose(self.data, self.seed, s.num_relations, s.num_facts)
            learning_data.write_facts(facts, self.data, folder, "facts")

        folder = self._folder_of(f"facts-{s.num_relations}-{s.num_facts}", write)
        return together_spec(s, folder, self.seed)

    @property
    def arms(self) -> list[tuple[int, int]]:
        """Staleness and publish_every of the runs whose price is measured."""
        arms = [(staleness, 1) for staleness in self.sizes.staleness]
        return arms + [(1, every) for every in self.sizes.publish_every if every > 1]

    def tasks(self, rows: Sequence[str]) -> list[Task]:
        """What these rows ask for, the longest first, but for what is timed by the clock."""
        tasks: list[Task] = []
        if {"help", "loss", "joint"} & set(rows):
            tasks.append(partial(self.pair))
        if "joint" in rows:
            tasks.append(partial(self.joint))
        if "stale" in rows:
            tasks += [partial(self.stale, *arm) for arm in self.arms]
        if {"help", "loss"} & set(rows):
            tasks += [partial(cell) for cell in (self.ensemble, self.larger, self.plain)]
        return tasks

    def _exam(self) -> Exam:
        table = learning_data.read_table(Path(self.spec.corpus.paths[0]), self.seed)
        questions = learning_data.Questions.of(table, self.sizes.probes, self.seed)
        heldout = facts_batch(self.spec, self.tokenizer, self.sizes.windows)
        return Exam(self.tokenizer, questions, heldout)

    def _trainers(self, data: RunSpec, memory: RunSpec) -> tuple[DataTrainer, MemoryTrainer]:
        tokenizer = self.tokenizer.to_json()
        of_data, of_memory = trainer_class(data, DATA), trainer_class(memory, MEMORY)
        assert issubclass(of_data, DataTrainer)
        assert issubclass(of_memory, MemoryTrainer)
        return of_data(data, tokenizer, RUN), of_memory(memory, tokenizer, RUN)

    def plain(self) -> Json:
        """The same data layer without a memory."""
        return self._get("plain", lambda _: self._plain(changed_spec(self.spec, PLAIN)))

    def larger(self) -> Json:
        """A data layer without a memory that has as many parameters as both layers."""

        def compute(_: Path) -> Json:
            data, memory = self._trainers(self.spec, self.spec)
            total = num_parameters(data.layer) + num_parameters(memory.layer)
            wide = wider_spec(changed_spec(self.spec, PLAIN), self.tokenizer.size, total)
            return self._plain(wide) | {"total_parameters": total}

        return self._get("larger", compute)

    def _plain(self, spec: RunSpec) -> Json:
        torch.set_num_threads(1)
        (data, memory), exam = self._trainers(spec, spec), self._exam()
        sizes, alone = self.sizes, OWN
        driven = drive_data(data, memory, sizes.intervals, sizes.asked_every,
                            lambda pair: exam.point(pair, alone))  # fmt: skip
        parameters = num_parameters(data.layer) - num_parameters(data.layer.port)  # type: ignore[arg-type]
        return _result(driven, exam.final(Pair(data.layer.eval(), memory.layer), alone)) | {
            "parameters": parameters
        }

    def ensemble(self) -> Json:
        """The plain data layer and a memory without slots, each trained for itself, mixed."""

        def compute(_: Path) -> Json:
            torch.set_num_threads(1)
            plain = changed_spec(self.spec, PLAIN)
            data = DeafTrainer(plain, self.tokenizer.to_json(), RUN)
            memory = SlotlessTrainer(changed_spec(plain, SELF_ALONE), self.tokenizer.to_json(), RUN)
            sizes, exam = self.sizes, self._exam()
            driven = drive(data, memory, sizes.intervals, sizes.asked_every, exam.mixed)
            final = exam.mixed_final(Pair(data.layer.eval(), memory.layer))
            return _result(driven, final) | {"parameters": num_parameters(memory.layer)}

        return self._get("ensemble", compute)

    def pair(self) -> Json:
        """Both layers, side by side, each on the other's last version."""

        def compute(_: Path) -> Json:
            torch.set_num_threads(1)
            spec = changed_spec(self.spec, self.changes)
            (data, memory), exam = self._trainers(spec, spec), self._exam()
            driven = drive(data, memory, self.sizes.intervals, self.sizes.asked_every, exam.point)
            found = _result(driven, exam.final(Pair(data.layer.eval(), memory.layer)))
            return found | {"parameters": num_parameters(memory.layer)}

        return self._get("pair", compute, changes=dict(self.changes))

    def stale(self, staleness: int, publish_every: int) -> Json:
        """The pair where what is adopted is older."""

        def compute(_: Path) -> Json:
            torch.set_num_threads(1)
            spec = changed_spec(self.spec, self.changes)
            (data, memory), exam = self._trainers(spec, spec), self._exam()
            sizes = self.sizes
            driven = drive(data, memory, sizes.intervals, sizes.compared_every, exam.compared,
                           staleness, publish_every)  # fmt: skip
            return {"curve": driven.curve}

        extra = {"staleness": staleness, "publish_every": publish_every}
        return self._get(
            f"stale-{staleness}-{publish_every}", compute, changes=dict(self.changes), **extra
        )

    def joint(self) -> Json:
        """Both layers in one loop, on as many tokens each."""

        def compute(_: Path) -> Json:
            torch.set_num_threads(1)
            trainer, exam = self._joint(), self._exam()
            begin, cpu = time.perf_counter(), time.process_time()
            for _interval in range(self.sizes.intervals):
                trainer.run_interval()
            costs = {"wall_s": time.perf_counter() - begin, "cpu_s": time.process_time() - cpu}
            tokens = {f"{group}_tokens": trainer.tokens[group] for group in (DATA, MEMORY)}
            trainer.data.eval()
            return {"final": exam.final(trainer.pair)} | costs | tokens

        return self._get("joint", compute, changes=dict(self.changes))

    def _joint(self) -> JointTrainer:
        spec = changed_spec(self.spec, self.changes)
        return JointTrainer(spec, self.tokenizer.to_json(), RUN)

    def joint_times(self) -> Json:
        """Seconds by the clock of a joint interval by threads, and of one of two processes.

        Measured one after the other on the same machine, the smallest of a few each.
        """

        def compute(_: Path) -> Json:
            found: Json = {}
            for threads in (1, 2):
                torch.set_num_threads(threads)
                trainer = self._joint()
                found[f"joint_{threads}_s"] = min(
                    _timed(trainer.run_interval) for _ in range(TIMED_INTERVALS)
                )
            torch.set_num_threads(1)
            spec = changed_spec(self.spec, self.changes)
            data, memory = self._trainers(spec, spec)
            driven = drive(data, memory, TIMED_INTERVALS, TIMED_INTERVALS, lambda _: {})
            return found | {"decoupled_s": min(driven.walls_s)}

        return self._get("joint-times", compute, changes=dict(self.changes))


def _timed(run: Any) -> float:
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def _result(driven: Driven, final: Json) -> Json:
    return {"curve": driven.curve, "final": final, "wall_s": sum(driven.walls_s)}
