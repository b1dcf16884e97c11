"""The cells of `reflect`: each trains or measures one thing, and is kept on disk.

Called by `reflect`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from actors.corpus.corpus import build_tokenizer
from actors.layers.batch import memory_logits_at, to_batch
from actors.layers.pair import Pair
from actors.machine.device import device_of
from actors.measuring.heldout import heldout_figures
from actors.settings.run import DATA, RunSpec
from actors.snapshots.flat_parameters import FlatParameters
from actors.snapshots.sections import section_of
from actors.snapshots.snapshot import adopt
from actors.sources.facts import FactTable
from actors.tokenizers.tokenizer import Tokenizer
from actors.training.memory_trainer import MemoryTrainer
from actors.weights.builders import build_data_layer
from actors.wire import Order
from benchmarks import reflect_answers as answers
from benchmarks import reflect_controls as controls
from benchmarks import reflect_data
from benchmarks.cells import Cells, load_checkpoint, save_checkpoint
from benchmarks.reflect_specs import Sizes, facts_spec, text_spec
from benchmarks.reflect_track import RUN, Track, record
from benchmarks.small_specs import changed_spec

Json = dict[str, Any]
PARTS = ("cells", *(f"reflect_{p}" for p in ("answers", "cells", "controls", "data", "track")))
HELDOUT_WINDOWS = 64
TEACHER_COSTS = ("teacher", "recall", "sample")
TRAINERS: dict[str, type[MemoryTrainer]] = {
    "hidden": controls.HiddenTrainer,
}


@dataclass
class Costs:
    """What intervals took."""

    step_s: float = 0.0
    teacher_s: float = 0.0
    rows_written: float = 0.0
    intervals: int = 0

    @property
    def figures(self) -> Json:
        """Share of the steps that teachers took, and rows written per step."""
        return {
            "teacher_frac": self.teacher_s / max(1e-9, self.step_s),
            "rows_written": self.rows_written / max(1, self.intervals),
            "step_s": self.step_s,
        }


def follow(
    trainer: MemoryTrainer, track: Track, first: int, last: int, costs: Costs, frozen: int | None
) -> None:
    """Intervals `first` to `last` of the memory, each on the data layer's version before it.

    `frozen`: the version that it is left with instead.
    """
    for interval in range(first, last + 1):
        version = interval - 1 if frozen is None else frozen
        headers, buckets = track.snapshot(version)
        ranges = headers[0].ranges if frozen is None else ()
        steps = trainer.spec.memory.steps_per_interval
        order = Order(RUN, 0, interval, steps, publish=False, ranges=ranges)
        report = trainer.interval(order, headers, buckets).report
        costs.step_s += report.step_s
        costs.teacher_s += sum(report.costs_s.get(name, 0.0) for name in TEACHER_COSTS)
        costs.rows_written += report.metrics["rows_written"]
        costs.intervals += 1


@dataclass(frozen=True)
class FactsCells:
    """The cells of one seed's facts."""

    cells: Cells
    sizes: Sizes
    data: Path
    seed: int

    @property
    def _corpora(self) -> Path:
        s = self.sizes
        name = f"corpora-{self.seed}-{s.num_relations}-{s.num_facts}-{s.num_edits}"
        return self.cells.folder_of(
            name, lambda folder: reflect_data.write_corpora(self._chosen, self.data, folder)
        )

    @property
    def _chosen(self) -> reflect_data.Chosen:
        s = self.sizes
        return reflect_data.choose(self.data, self.seed, s.num_relations, s.num_facts, s.num_edits)

    def spec(self, taught: bool, of_data: bool) -> RunSpec:
        """As `facts_spec`."""
        return facts_spec(self.sizes, self._corpora, self.seed, taught, of_data)

    @property
    def last(self) -> int:
        """The data layer's version before it is taught."""
        return self.sizes.facts_intervals

    def _track_key(self) -> Json:
        specs = [self.spec(taught, True).model_dump() for taught in (False, True)]
        return {
            "sizes": asdict(self.sizes),
            "specs": specs,
            "memory": self.spec(False, False).memory.model_dump(),
        }

    def _questions(self, spec: RunSpec) -> list[reflect_data.Question]:
        table = FactTable.read(spec.corpus, spec.corpus.paths, self.seed)
        return reflect_data.questions(self._chosen, table, self.seed)

    def track(self) -> Json:
        """The data layer's versions, its answers before and while it is taught, and controls."""

        def compute(path: Path) -> Json:
            before, after = self.spec(False, True), self.spec(True, True)
            tokenizer = build_tokenizer(before)
            later = [self.sizes.data_steps] * (self.sizes.taught_intervals - 1)
            phases = [
                (before, [self.sizes.data_steps] * self.last),
                (after, [self.sizes.taught_steps, *later]),
            ]
            track = record(phases, tokenizer.to_json())
            track.save(path)
            questions = self._questions(before)
            return {
                "tokenizer": tokenizer.to_json(),
                "questions": [asdict(question) for question in questions],
                "answers": self._answers(track, before, tokenizer, questions),
                "ngram": self._ngram(before, tokenizer, questions),
                "edits": len(self._chosen.edits),
            }

        return self.cells.get(f"facts-track-{self.seed}", self._track_key(), compute)

    def load_track(self) -> Track:
        """What `track` recorded."""
        path = self.cells.path(f"facts-track-{self.seed}", self._track_key())
        return Track.load(path)

    def _answers(
        self,
        track: Track,
        spec: RunSpec,
        tokenizer: Tokenizer,
        questions: list[reflect_data.Question],
    ) -> Json:
        layer = (
            build_data_layer(spec, tokenizer, device_of(spec.data.workers.gpus))
            .eval()
            .requires_grad_(False)
        )
        flat = FlatParameters(layer, section_of)
        memory = MemoryTrainer(spec, tokenizer.to_json(), RUN).layer  # only to make a pair
        prompts = answers.prompts_of(tokenizer, questions)
        mark, old = tokenizer.end_of_text, None
        said: Json = {}
        for k in (0, *self.sizes.after):
            adopt(flat, *track.snapshot(self.last + k))
            found = answers.answers_of(Pair(layer, memory), prompts, mark, old)
            old = old or found.said
            said[str(k)] = asdict(found)
        return said

    def _ngram(
        self, spec: RunSpec, tokenizer: Tokenizer, questions: list[reflect_data.Question]
    ) -> list[list[int]]:
        table = FactTable.read(spec.corpus, spec.corpus.paths, self.seed)
        texts = [
            controls.sentence_tokens(tokenizer, wording.prompt(fact), fact.object)
            for fact in table.facts
            for wording in table.train_wordings[fact.relation]
            if wording.askable
        ]
        ngram = controls.NgramTable(texts)
        prompts = answers.prompts_of(tokenizer, questions)
        return [list(ngram.answer(prompt, tokenizer.end_of_text)) for prompt in prompts]

    def memory(self, name: str, changes: Mapping[str, Any], kind: str = "plain") -> Json:
        """Phase one of one memory: what it knows at its end, and its state."""
        track = self.track()

        def compute(path: Path) -> Json:
            trainer, costs = self._trainer(changes, kind, False, track), Costs()
            follow(trainer, self.load_track(), 1, self.last + 1, costs, None)
            header, buckets = trainer.save()
            save_checkpoint(path, (header, buckets))
            return self._knows(trainer, track) | costs.figures

        return self.cells.get(*self._memory_key(name, changes, kind), compute)

    def _memory_key(self, name: str, changes: Mapping[str, Any], kind: str) -> tuple[str, Json]:
        key = {**self._track_key(), "changes": dict(changes), "kind": kind}
        return f"facts-{name}-{self.seed}", key

    def _trainer(
        self, changes: Mapping[str, Any], kind: str, taught: bool, track: Json
    ) -> MemoryTrainer:
        torch.set_num_threads(1)
        spec = changed_spec(self.spec(taught, False), changes)
        return TRAINERS.get(kind, MemoryTrainer)(spec, track["tokenizer"], RUN)

    def _knows(self, trainer: MemoryTrainer, track: Json) -> Json:
        """Agreement with the data layer's whole answers, and knock-outs."""
        tokenizer = trainer.tokenizer
        questions = [reflect_data.Question(**row) for row in track["questions"]]
        prompts = answers.prompts_of(tokenizer, questions)
        said = [tuple(row) for row in track["answers"]["0"]["said"]]
        pair = Pair(trainer.teacher, trainer.layer)
        shuffled = Pair(pair.data, controls.with_shuffled_slots(pair.memory, self.seed))
        batch = to_batch(trainer.corpus.heldout(HELDOUT_WINDOWS), trainer.device)
        counts = torch.bincount(batch.targets_N, minlength=tokenizer.size)
        mean = controls.MeanRead(pair.memory, batch)
        figures = {
            "kl": controls.recall_kl(pair.data, lambda b: memory_logits_at(pair.memory, b), batch),
            "kl_shuffled": controls.recall_kl(
                pair.data, lambda b: memory_logits_at(shuffled.memory, b), batch
            ),
            "kl_mean": controls.recall_kl(pair.data, mean.predict_at, batch),
            "kl_unigram": controls.recall_kl(
                pair.data, lambda _: controls.unigram_logits(counts), batch
            ),
        }
        agreed = answers.agrees(pair, prompts, said)
        agreed_shuffled = answers.agrees(shuffled, prompts, said)
        known = answers.gives(tokenizer, said, [question.answer for question in questions])
        for side, seen in (("seen", True), ("unseen", False)):
            where = [question.seen is seen for question in questions]
            figures[f"agreement_{side}"] = answers.share(agreed, where)
            figures[f"shuffled_{side}"] = answers.share(agreed_shuffled, where)
            figures |= of_known(known, agreed, where, side)
        return {**figures, "heldout": heldout_figures(pair, batch)}

    def reflection(
        self,
        name: str,
        changes: Mapping[str, Any],
        kind: str = "plain",
        frozen: bool = False,
        until: int | None = None,
    ) -> Json:
        """Phase two of one memory: what it follows while the data layer alone is taught.

        Args:
            name, changes, kind: as `memory`.
            frozen: it gets no snapshots.
            until: intervals after which it is asked for the last time; unset: all.
        """
        track = self.track()
        self.memory(name, changes, kind)
        key = self._memory_key(name, changes, kind)
        after = [k for k in self.sizes.after if until is None or k <= until]

        def compute(_path: Path) -> Json:
            trainer = self._trainer(changes, kind, True, track)
            state = load_checkpoint(self.cells.path(*key))
            trainer.restore([state[0]], state[1])
            versions, costs, rates = self.load_track(), Costs(), {}
            rates["0"] = self._follows(trainer, track, 0)
            done = 0
            for k in after:
                first, last = self.last + 2 + done, self.last + 1 + k
                follow(trainer, versions, first, last, costs, self.last if frozen else None)
                rates[str(k)] = self._follows(trainer, track, k)
                done = k
            return {"after": rates} | costs.figures

        extra = {"frozen": frozen, "after": after}
        name_two = f"{key[0]}-{'frozen' if frozen else 'taught'}"
        return self.cells.get(name_two, key[1] | extra, compute)

    def _follows(self, trainer: MemoryTrainer, track: Json, k: int) -> Json:
        """Of the answers that changed by the version adopted last, the share that it gives."""
        tokenizer = trainer.tokenizer
        questions = [reflect_data.Question(**row) for row in track["questions"]]
        now, before = (_answers_from(track["answers"][str(i)]) for i in (k, 0))
        pair = Pair(trainer.teacher, trainer.layer)
        prompts = answers.prompts_of(tokenizer, questions)
        agreed = answers.agrees(pair, prompts, now.said)
        moved = answers.changed(now, before)
        known = answers.gives(tokenizer, now.said, [question.taught for question in questions])
        rates: Json = {}
        for side, seen in (("taught", True), ("paraphrase", False)):
            edited = [q.edited and q.seen is seen for q in questions]
            where = [here and there for here, there in zip(edited, moved, strict=True)]
            rates[side] = answers.share(agreed, where)
            rates[f"changed_{side}"] = sum(where)
            rates |= of_known(known, agreed, where, side)
            rest = [not q.edited and q.seen is seen for q in questions]
            rates[f"unchanged_{side}"] = answers.share(agreed, rest)
        return rates


def of_known(known: list[bool], agreed: list[bool], where: list[bool], side: str) -> Json:
    """Of the chosen questions, the share that the data layer answers rightly, which is what it
    knows, and the memory's agreement with it on these.
    """
    both = [here and ok for here, ok in zip(where, known, strict=True)]
    return {
        f"known_{side}": answers.share(known, where),
        f"agreement_{side}_known": answers.share(agreed, both),
    }


def _answers_from(row: Json) -> answers.Answers:
    return answers.Answers([tuple(said) for said in row["said"]], row["lead"])


@dataclass(frozen=True)
class TextCells:
    """The cells of one seed's text."""

    cells: Cells
    sizes: Sizes
    data: Path
    seed: int

    @property
    def spec(self) -> RunSpec:
        """As `text_spec`."""
        return text_spec(self.sizes, self.data, self.seed)

    def _key(self) -> Json:
        return {"spec": self.spec.model_dump(), "sizes": asdict(self.sizes)}

    def track(self) -> Json:
        """The data layer's versions."""

        def compute(path: Path) -> Json:
            tokenizer = build_tokenizer(self.spec)
            track = record(
                [(self.spec, [self.sizes.data_steps] * self.sizes.text_intervals)],
                tokenizer.to_json(),
            )
            track.save(path)
            return {"tokenizer": tokenizer.to_json()}

        return self.cells.get(f"text-track-{self.seed}", self._key(), compute)

    def memory(self, name: str, changes: Mapping[str, Any], kind: str = "plain") -> Json:
        """One memory after the last version of the data layer, which it has trained on."""
        tokenizer_json = self.track()["tokenizer"]

        def compute(_path: Path) -> Json:
            torch.set_num_threads(1)
            track_path = self.cells.path(f"text-track-{self.seed}", self._key())
            track, costs = Track.load(track_path), Costs()
            spec = changed_spec(self.spec, changes)
            trainer = TRAINERS.get(kind, MemoryTrainer)(spec, tokenizer_json, RUN)
            follow(trainer, track, 1, self.sizes.text_intervals + 1, costs, None)
            return self._knows(trainer) | costs.figures

        key = {**self._key(), "changes": dict(changes), "kind": kind}
        return self.cells.get(f"text-{name}-{self.seed}", key, compute)

    def _knows(self, trainer: MemoryTrainer) -> Json:
        pair = Pair(trainer.teacher, trainer.layer)
        batch = to_batch(trainer.corpus.heldout(HELDOUT_WINDOWS), trainer.device)
        counts = torch.zeros(trainer.tokenizer.size)
        for chunk in range(trainer.corpus.chunks_per_epoch):
            tokens = torch.from_numpy(trainer.corpus.chunk(DATA, chunk).tokens_NT.astype(np.int64))
            counts += torch.bincount(tokens.flatten(), minlength=len(counts))
        counts = counts.to(trainer.device)
        figures = {
            "kl": controls.recall_kl(pair.data, lambda b: memory_logits_at(pair.memory, b), batch),
            "kl_unigram": controls.recall_kl(
                pair.data, lambda _: controls.unigram_logits(counts), batch
            ),
            "heldout": heldout_figures(pair, batch),
        }
        if type(trainer) is not controls.HiddenTrainer:
            shuffled = controls.with_shuffled_slots(pair.memory, self.seed)
            mean = controls.MeanRead(pair.memory, batch)
            figures |= {
                "kl_shuffled": controls.recall_kl(
                    pair.data, lambda b: memory_logits_at(shuffled, b), batch
                ),
                "kl_mean": controls.recall_kl(pair.data, mean.predict_at, batch),
            }
        return figures
