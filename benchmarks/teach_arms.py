"""The arms of `teach`: the command itself, and what one would do without it.

Every arm but the command trains the data layer alone, with the same trainer, steps and lessons;
only what keeps the old, and the wordings, differ. Cells are kept.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from actors.layers.pair import Pair
from actors.lessons.contradictions import is_contradicting
from actors.lessons.lesson import from_lines, to_lines
from actors.settings.run import DATA, RunSpec
from actors.tokenizers.tokenizer import Tokenizer
from actors.training.teaching_data import TeachingDataTrainer
from actors.weights.pair_export import load_pair
from benchmarks.cells import Cells
from benchmarks.teach_data import TeachData
from benchmarks.teach_pairs import NOVEL_FRAC, PairSizes, TaughtPair, trained_pair
from benchmarks.teach_scores import Scores
from jobs.teach.options import TeachOptions
from jobs.teach.taught_config import LORA_LR
from jobs.teach.teach import run_teach
from orchestrator.console import Console
from orchestrator.run_dir.run_dir import RunDir
from orchestrator.run_dir.saved_config import saved_config

Json = dict[str, Any]
LORA = {"lora": LORA_LR, "lora*4": 4 * LORA_LR}  # rates of adapters
LABELS = {"labels/4": 0.25, "labels/2": 0.5, "labels": 1.0, "labels*2": 2.0}  # of the rate
RANDOM_TOKENS = 14  # of a document of random tokens
DOCUMENT_BYTES = 1024  # of a document of the novel
CORPUS_DOCUMENTS = 6000


@dataclass(frozen=True)
class TeachCells:
    """All arms of one seed.

    Attributes:
        cells: where results are kept.
        sizes: of the pair and the lessons.
        data: folder of the facts and the novel.
        seed: of the pair.
        draw: of the lessons.
    """

    cells: Cells
    sizes: PairSizes
    data: Path
    seed: int
    draw: int = 0

    @cached_property
    def pair(self) -> TaughtPair:
        """The pair that is taught; trained where it is not there yet."""
        return trained_pair(self.cells, self.sizes, self.data, self.seed, self.draw)

    @property
    def lessons(self) -> TeachData:
        """What is taught."""
        return self.pair.lessons

    @property
    def export(self) -> str:
        """The pair's export."""
        return f"{self.pair.run}/export"

    @property
    def window(self) -> int:
        """Tokens of a window of the pair."""
        return saved_config(RunDir(str(self.pair.run))).corpus.window

    def scores(self, tokenizer: Tokenizer) -> Scores:
        """The exam of this draw."""
        return Scores(self.lessons, tokenizer, self.pair.heldout, self.window)

    def arm(self, name: str) -> Json:
        """The figures of an arm: `before`, `teach`, or one of `ARMS`."""
        compute = {"before": self._before, "teach": self._teach}.get(name)
        if compute is None:
            taught = Path(self.arm("teach")["out"])

            def compute(path: Path) -> Json:
                return self._alone(name, taught, path)

        key = {"sizes": self.sizes, "seed": self.seed, "draw": self.draw, "arm": name}
        return self.cells.get("teach-arm", key, compute)

    def _before(self, path: Path) -> Json:
        pair, tokenizer = load_pair(self.export)
        scores = self.scores(tokenizer)
        return {voice: scores.take(pair, voice) for voice in ("own", "memory")}

    def _teach(self, path: Path) -> Json:
        """The command, in this process."""
        out, file = Path(f"{path}-taught"), path.with_suffix(".lessons.jsonl")
        self.lessons.write_lessons(file)
        begun = time.process_time()
        options = TeachOptions(lessons=str(file), out=str(out))
        run_teach(str(self.pair.run), options, Console(quiet=True), False)
        seconds = time.process_time() - begun
        before, tokenizer = load_pair(self.export)
        after, _ = load_pair(f"{out}/export")
        scores = self.scores(tokenizer)
        was, now = (scores.answers(pair, "own") for pair in (before, after))
        changed = [i for i, (a, b) in enumerate(zip(was, now, strict=True)) if a != b]
        follows = {}
        for name, memory in (("reflected", after.memory), ("reflected_control", before.memory)):
            said = scores.answers(Pair(after.data, memory), "memory")
            follows[name] = sum(said[i] == now[i] for i in changed) / max(1, len(changed))
        return {
            "out": str(out),
            "cpu_s": seconds,
            "changed": len(changed),
            **follows,
            "report": json.loads((out / "taught.json").read_text(encoding="utf-8"))["figures"],
            "own": scores.take(after, "own"),
            "memory": scores.take(after, "memory"),
            "help": scores.take(after, "help"),
        }

    def _alone(self, name: str, taught: Path, path: Path) -> Json:
        """One of `ARMS`: the data layer of the same pair, trained otherwise."""
        config = saved_config(RunDir(str(taught)))
        folder = Path(f"{path}-arm")
        folder.mkdir(parents=True, exist_ok=True)
        spec = ARMS[name](self, config.run_spec, taught, folder)
        pair, tokenizer = load_pair(self.export)
        trainer = TeachingDataTrainer(spec, tokenizer.to_json(), "arm")
        begun = time.process_time()
        for _ in range(spec.total_steps(DATA)):
            trainer.train_step()
            trainer.step += 1
        seconds = time.process_time() - begun
        now = Pair(trainer.layer.eval(), pair.memory)
        return {"cpu_s": seconds, "own": self.scores(tokenizer).take(now, "own")}


def changed(spec: RunSpec, **sections: Json) -> RunSpec:
    """The spec with some values of its sections changed."""
    values = spec.model_dump(by_alias=True)
    for name, fields in sections.items():
        values[name] |= fields
    return RunSpec.model_validate(values)


def labels_alone(frac: float) -> Callable[[TeachCells, RunSpec, Path, Path], RunSpec]:
    """Lessons as given and nothing that keeps the old, at a share of the command's rate."""

    def make(cells: TeachCells, spec: RunSpec, taught: Path, folder: Path) -> RunSpec:
        lessons = from_lines((taught / "lessons.jsonl").read_text(encoding="utf-8"))
        bare = folder / "lessons.jsonl"
        bare.write_text(to_lines(replace(one, reworded=()) for one in lessons), encoding="utf-8")
        data = spec.data.model_dump()
        size = sum(spec.teach.data_counts(spec.data.batch_size, True))
        rate = frac * spec.data.optimizer.lr
        data |= {"batch_size": size, "optimizer": {**data["optimizer"], "lr": rate}}
        teach = {"lessons": str(bare), "rehearse": 0.0, "given_frac": 0.95, "reworded_frac": 0.0}
        return changed(spec, data=data, teach=teach)

    return make


def random_rehearsal(cells: TeachCells, spec: RunSpec, taught: Path, folder: Path) -> RunSpec:
    """Random tokens in the place of what the memory wrote."""
    _, tokenizer = load_pair(cells.export)
    rng = np.random.default_rng(cells.seed)
    ids = rng.integers(0, tokenizer.size, (CORPUS_DOCUMENTS, RANDOM_TOKENS)).tolist()
    return with_text(spec, folder, [tokenizer.decode(row) for row in ids])


def corpus_texts(cells: TeachCells) -> list[str]:
    """The corpus without what names a taught subject, sentences and novel in its shares."""
    subjects = {change.fact.subject for change in cells.lessons.lessons}
    lines = (cells.pair.corpus / "sentences.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [json.loads(line)["text"] for line in lines]
    kept = [text for text in dict.fromkeys(texts) if not is_contradicting(text, subjects, ())]
    rng = random.Random(f"corpus:{cells.seed}")
    rng.shuffle(kept)
    kept = kept[:CORPUS_DOCUMENTS]
    novel = (cells.pair.corpus / "novel.txt").read_text(encoding="utf-8")
    num = int(sum(map(len, kept)) * NOVEL_FRAC / (1 - NOVEL_FRAC))
    start = rng.randrange(max(1, len(novel) - num))
    kept += [novel[i : i + DOCUMENT_BYTES] for i in range(start, start + num, DOCUMENT_BYTES)]
    rng.shuffle(kept)
    return kept


def corpus_rehearsal(cells: TeachCells, spec: RunSpec, taught: Path, folder: Path) -> RunSpec:
    """Upper control: the corpus in the place of what the memory wrote."""
    return with_text(spec, folder, corpus_texts(cells))


def corpus_all_wordings(cells: TeachCells, spec: RunSpec, taught: Path, folder: Path) -> RunSpec:
    """Upper control: the corpus, and every wording that the pair has seen."""
    lessons = from_lines((taught / "lessons.jsonl").read_text(encoding="utf-8"))
    table = cells.lessons.table
    by_prompt = {change.prompt: change.fact for change in cells.lessons.lessons}
    told = [
        replace(
            one,
            reworded=tuple(
                dict.fromkeys(
                    w.prompt(fact) for w in table.train_wordings[fact.relation]
                    if w.askable and w.prompt(fact) != one.prompt
                )
            ),
        )
        for one in lessons
        for fact in [by_prompt[one.prompt]]
    ]  # fmt: skip
    path = folder / "lessons.jsonl"
    path.write_text(to_lines(told), encoding="utf-8")
    return changed(with_text(spec, folder, corpus_texts(cells)), teach={"lessons": str(path)})


def written_without_wordings(
    cells: TeachCells, spec: RunSpec, taught: Path, folder: Path
) -> RunSpec:
    """What the memory wrote, and lessons as given alone."""
    lessons = from_lines((taught / "lessons.jsonl").read_text(encoding="utf-8"))
    path = folder / "lessons.jsonl"
    path.write_text(to_lines(replace(one, reworded=()) for one in lessons), encoding="utf-8")
    return changed(spec, teach={"lessons": str(path)})


def adapters(rate: float) -> Callable[[TeachCells, RunSpec, Path, Path], RunSpec]:
    """The command's lessons and text, and LoRA in the place of the whole model, at a rate."""

    def make(cells: TeachCells, spec: RunSpec, taught: Path, folder: Path) -> RunSpec:
        data = spec.data.model_dump()
        data["layer"] |= {"train": "lora"}
        data["optimizer"] |= {"lr": rate}
        return changed(spec, data=data)

    return make


def with_text(spec: RunSpec, folder: Path, texts: list[str]) -> RunSpec:
    """The spec with other text to rehearse, and nothing that the data layer wrote."""
    path = folder / "text.jsonl"
    rows = (json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts)
    path.write_text("".join(rows), encoding="utf-8")
    return changed(spec, corpus={"paths": (str(path),)}, teach={"own_text": None})


ARMS: dict[str, Callable[[TeachCells, RunSpec, Path, Path], RunSpec]] = {
    **{name: labels_alone(frac) for name, frac in LABELS.items()},
    **{name: adapters(rate) for name, rate in LORA.items()},
    "written, no wordings": written_without_wordings,
    "random": random_rehearsal,
    "corpus": corpus_rehearsal,
    "corpus, all wordings": corpus_all_wordings,
}
