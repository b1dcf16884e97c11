"""Cells in which one layer learns new facts by itself, and what it forgets. Called by `learning`.

    base      both layers side by side on old facts and a novel
    memory    the memory learns on, the data layer frozen
    full      the data layer learns on
    lora      adapters of the data layer learn

All of them read the same batches of new and old, as many steps, and are asked the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from actors.corpus.corpus import Corpus, WindowStream
from actors.corpus.windows import Windows
from actors.layers.batch import Batch
from actors.layers.pair import Pair
from actors.learning.learner import Learner
from actors.machine.device import device_of
from actors.measuring.heldout import heldout_figures
from actors.measuring.probing import answers_right
from actors.measuring.voices import Voice
from actors.settings.learn_plan import LearnPlan, default_lr
from actors.settings.run import RunSpec
from actors.snapshots.flat_parameters import FlatParameters
from actors.snapshots.sections import section_of
from actors.sources.facts import Fact, FactTable, baseline_accuracy
from actors.training.data_trainer import DataTrainer
from actors.training.memory_trainer import MemoryTrainer
from actors.weights.builders import build_data_layer, build_memory_layer
from actors.wire import Range
from benchmarks import learning_data
from benchmarks.cells import Task
from benchmarks.learning_cells import SeedCells
from benchmarks.learning_controls import LoraTrainer
from benchmarks.learning_data import Questions
from benchmarks.learning_drive import RUN, drive
from benchmarks.learning_exam import LOSS, facts_batch, text_batch
from benchmarks.learning_specs import ALONE, base_spec, facts_of
from benchmarks.small_specs import changed_spec

Json = dict[str, Any]
OWN: tuple[Voice, ...] = ("own",)
PAIR: tuple[Voice, ...] = ("help", "memory")
Trained = TypeVar("Trained", bound=DataTrainer)


def new_stream(seed: int) -> str:
    """The stream of new windows that a learner reads; the controls read the same one."""
    return f"learn:{seed}"


def old_stream(seed: int) -> str:
    """The same of old windows."""
    return f"learn:{seed}:old"


class MixedStream:
    """Batches of which a part is old, in the place of a `WindowStream`.

    Args:
        new, old: where windows come from.
        old_frac: share of a batch's sequences that are old.
    """

    def __init__(self, new: WindowStream, old: WindowStream, old_frac: float) -> None:
        self._new, self._old, self._old_frac = new, old, old_frac

    def next_batch(self, num: int) -> tuple[Windows, list[Range]]:
        """The next `num` windows; they have no place in one corpus, so no ranges."""
        num_old = min(num - 1, round(self._old_frac * num))
        parts = self._new.next_batch(num - num_old)[0], self._old.next_batch(num_old)[0]
        return Windows.concat(parts), []


@dataclass(frozen=True)
class AloneCells(SeedCells):
    """The cells of one seed in which one layer learns."""

    counting = ALONE

    @cached_property
    def _folder(self) -> Path:
        """Where the corpora are."""
        s = self.sizes
        name = f"alone-{s.num_relations}-{s.old_facts}-{s.new_facts}"
        return self._folder_of(name, self._write)

    def _chosen(self) -> list[Fact]:
        """Facts in a random order: the old ones come first, then the new ones."""
        s = self.sizes
        return learning_data.choose(self.data, self.seed, s.num_relations, s.chosen_facts)

    def _write(self, folder: Path) -> None:
        s = self.sizes
        facts = self._chosen()
        parts = {"old": facts[: s.old_facts], "new": facts[s.old_facts : s.old_facts + s.new_facts]}
        for name, some in parts.items():
            path = learning_data.write_facts(some, self.data, folder, name)
            table = learning_data.read_table(path, self.seed)
            learning_data.write_sentences(table, folder / f"{name}.sentences.jsonl", self.seed)
        learning_data.write_novel(self.data, folder)

    @cached_property
    def spec(self) -> RunSpec:
        """Of the run in which the old is learned."""
        return changed_spec(base_spec(self.sizes, self._folder, self.seed), self.changes)

    def tasks(self, rows: Sequence[str]) -> list[Task]:
        """What these rows ask for; all but the first wait for it."""
        tasks: list[Task] = []
        if {"alone", "forget"} & set(rows):
            tasks.append(partial(self.memory))
            tasks += [partial(self.lora, rate) for rate in self.sizes.lora_rates]
            tasks += [partial(self.full, rate) for rate in self.sizes.full_rates]
        return [partial(self.base), *tasks] if tasks else []

    def _table(self, name: str) -> FactTable:
        return learning_data.read_table(self._folder / f"{name}.jsonl", self.seed)

    def base(self) -> Json:
        """Both layers when the old is learned; their weights are kept beside the result."""

        def compute(path: Path) -> Json:
            torch.set_num_threads(1)
            tokenizer = self.tokenizer.to_json()
            data, memory = (
                DataTrainer(self.spec, tokenizer, RUN),
                MemoryTrainer(self.spec, tokenizer, RUN),
            )
            drive(data, memory, self.sizes.base_intervals, self.sizes.base_intervals, lambda _: {})
            for name, flat in (("data", data.own), ("memory", memory.own)):
                np.save(path.with_suffix(f".{name}.npy"), flat.to_bytes())
            return self._measured(Pair(data.layer.eval(), memory.layer), ("own", *PAIR))

        return self._get("base", compute)

    def _weights(self, name: str) -> torch.Tensor:
        self.base()
        path = self.cells.path(*self._key("base")).with_suffix(f".{name}.npy")
        return torch.from_numpy(np.load(path, allow_pickle=False))

    def _new(self) -> Corpus:
        return Corpus.open(facts_of(self.spec, self._folder / "new.jsonl"), self.tokenizer)

    def _old(self) -> Corpus:
        return Corpus.open(self.spec, self.tokenizer)

    def full(self, rate: float) -> Json:
        """The whole data layer learns on."""

        def compute(_: Path) -> Json:
            trainer = self._data_trainer(DataTrainer, rate)
            return self._trained(trainer)

        return self._get(f"full-{rate:g}", compute, rate=rate)

    def lora(self, rate: float) -> Json:
        """Adapters of the data layer learn.

        Raises: MissingPeftError.
        """

        def compute(_: Path) -> Json:
            trainer = self._data_trainer(LoraTrainer, rate)
            trainer.put_adapters()
            return self._trained(trainer)

        return self._get(f"lora-{rate:g}", compute, rate=rate)

    def _trained(self, trainer: DataTrainer) -> Json:
        def step() -> None:
            trainer.train_step()
            trainer.step += 1

        return self._learned(step, Pair(trainer.layer, trainer.memory), OWN)

    def _data_trainer(self, kind: type[Trained], rate: float) -> Trained:
        torch.set_num_threads(1)
        changes = {
            "intervals": 1,
            "losses.help": 0.0,
            "data.optimizer.lr": rate,
            "data.steps_per_interval": self.sizes.learn_steps,
        }
        trainer = kind(changed_spec(self.spec, changes), self.tokenizer.to_json(), RUN)
        trainer.own.buffer.copy_(self._weights("data"))
        names = new_stream(self.seed), old_stream(self.seed)
        new, old = WindowStream(self._new(), names[0]), WindowStream(self._old(), names[1])
        trainer.stream = MixedStream(new, old, self.sizes.old_frac)  # type: ignore[assignment]
        return trainer

    def memory(self) -> Json:
        """Every weight of the memory learns on, for itself and through the frozen data layer."""
        rate = default_lr(self.spec.memory.value_lr)
        return self._get("memory", lambda _: self._taken_in(rate), rate=rate)

    def _taken_in(self, rate: float) -> Json:
        torch.set_num_threads(1)
        pair, sizes = self._pair(), self.sizes
        plan = LearnPlan(
            steps=sizes.learn_steps,
            lr=rate,
            old_frac=sizes.old_frac,
            seed=self.seed,
        )
        learner = Learner(self.spec, pair, self._new(), self._old(), plan)
        found = self._learned(learner.train_step, pair, PAIR)
        return found | {"rows_changed": learner.rows_changed}

    def _pair(self) -> Pair:
        device = device_of(self.spec.data.workers.gpus)
        data = build_data_layer(self.spec, self.tokenizer, device).eval()
        memory = build_memory_layer(self.spec, self.tokenizer, data.vocab_rows, device)
        for name, layer in (("data", data), ("memory", memory)):
            FlatParameters(layer, section_of).buffer.copy_(self._weights(name))
        return Pair(data, memory)

    def _learned(self, step: Callable[[], Any], pair: Pair, voices: Sequence[Voice]) -> Json:
        """All steps; by voice what was known before, on the way and after."""
        before, cpu_s = self._measured(pair, voices), 0.0
        curves: dict[str, list[Json]] = {voice: [] for voice in voices}
        questions = self._questions("new")
        for number in range(1, self.sizes.learn_steps + 1):
            begin = time.process_time()
            step()
            cpu_s += time.process_time() - begin
            if number % self.sizes.learn_every == 0:
                for voice in voices:
                    point = self._accuracy(pair, voice, "new", questions)
                    curves[voice].append({"steps": number, "cpu_s": cpu_s, **point})
        after = self._measured(pair, voices)
        return {
            voice: {"before": before[voice], "curve": curves[voice], "after": after[voice]}
            for voice in voices
        }

    def _questions(self, name: str) -> Questions:
        return Questions.of(self._table(name), self.sizes.probes, self.seed)

    def _accuracy(self, pair: Pair, voice: Voice, name: str, questions: Questions) -> Json:
        pair.data.eval()
        found = {}
        for side, probes in (("seen", questions.seen), ("unseen", questions.unseen)):
            right = answers_right(pair, voice, self.tokenizer, probes)
            found[f"{name}_{side}"] = sum(right) / max(1, len(right))
        pair.data.train()
        return found

    def _measured(self, pair: Pair, voices: Sequence[Voice]) -> Json:
        """What each voice knows of new facts, old facts and old text."""
        batches = self._batches()
        pair.data.eval()
        losses = {name: heldout_figures(pair, batch) for name, batch in batches.items()}
        found: Json = {voice: {} for voice in voices}
        for name in ("new", "old"):
            questions = self._questions(name)
            for voice in voices:
                found[voice] |= self._accuracy(pair, voice, name, questions)
                for side, probes in (("seen", questions.seen), ("unseen", questions.unseen)):
                    base = baseline_accuracy(probes, questions.majority)
                    found[voice][f"{name}_baseline_{side}"] = base
        for voice in voices:
            found[voice] |= {f"{name}_loss": losses[name][LOSS[voice]] for name in losses}
        return found

    def _batches(self) -> dict[str, Batch]:
        limit = self.sizes.windows
        specs = {n: facts_of(self.spec, self._folder / f"{n}.jsonl") for n in ("new", "old")}
        facts = {name: facts_batch(spec, self.tokenizer, limit) for name, spec in specs.items()}
        text = text_batch(self._folder / "heldout.txt", self.spec, self.tokenizer, limit)
        return {**facts, "text": text}
