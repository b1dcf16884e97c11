"""Cells of `tell`: what a pair knows after it was told, and what became of the rest.

    base      both layers side by side on old facts and a novel: as in `learning`
    tell      new facts, and changed old ones, each in one write; the pair is asked before and after
    writes    hundreds of writes, one after another, and all taken back
    times     seconds of 100 and 1,000 associations, and of one until it is answered
    strangers facts of a kind that the pair has never met: of those it was told, and of others
    prompt    changed facts in the prompt of a real model
    controls  `learn`, full fine-tuning and LoRA of the same new facts: as in `learning`, and asked
              what the pair that was told is asked

No weight changes but those of the controls. Called by `tell`.
"""

from __future__ import annotations

import hashlib
import random
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from actors.corpus.corpus import Corpus
from actors.corpus.kept_windows import kept_windows
from actors.layers.batch import Batch
from actors.layers.kept_reads import KeptReads
from actors.layers.named_writes import Association, NamedWrites
from actors.layers.pair import Pair
from actors.measuring.heldout import heldout_figures
from actors.measuring.probing import answers_right
from actors.measuring.voices import Voice
from actors.pair import telling
from actors.settings.run import MEMORY
from actors.snapshots.flat_parameters import FlatParameters
from actors.snapshots.sections import section_of
from actors.sources.facts import Fact, FactTable, Probe, baseline_accuracy
from benchmarks import learning_data, tell_strangers
from benchmarks.cells import ROOT, Cells
from benchmarks.learning_alone import AloneCells
from benchmarks.learning_data import FACTS, NOVEL, TEMPLATES
from benchmarks.learning_exam import LOSS, share, text_batch
from benchmarks.real_model import default_cache, real_model
from benchmarks.tell_prompt import prompted

Json = dict[str, Any]
ALL_WORDINGS = 99
WORLD = ROOT / "jobs/corpora/world"  # the quickstart's facts and wordings
VOICES: tuple[Voice, ...] = ("help", "memory")


@dataclass(frozen=True)
class TellSizes:
    """How much is told.

    Attributes:
        counterfactual: old facts that are told with another object.
        others: other facts of the same relations that are asked.
        probes: questions of a kind, at most.
        timed: associations of a write whose seconds are taken.
        writes, first: writes in a row, and how many of the first are asked at the end.
        prompted: changed facts that stand in the prompt of a real model.
    """

    counterfactual: int = 100
    others: int = 200
    probes: int = 600
    timed: tuple[int, ...] = (100, 1000)
    writes: int = 500
    first: int = 100
    prompted: int = 24


@dataclass(frozen=True)
class TellCells(AloneCells):
    """The cells of one seed."""

    told: TellSizes = field(default_factory=TellSizes)

    @cached_property
    def _tables(self) -> dict[str, FactTable]:
        return {name: self._table(name) for name in ("old", "new")}

    def _open(self) -> tuple[Pair, KeptReads]:
        torch.set_num_threads(1)
        pair = self._pair()
        pair.memory.requires_grad_(False)
        corpus = Corpus.open(self.spec, self.tokenizer)
        pair.memory.kept = kept_windows(corpus, MEMORY, self.spec.memory.kept_reads)
        return pair, KeptReads.of(pair.memory, pair.memory.kept)

    def _askable(self, fact: Fact, side: str) -> list[str]:
        wordings: dict[str, Any] = getattr(self._tables["old"], f"{side}_wordings")
        return [w.prompt(fact) for w in wordings.get(fact.relation, ()) if w.askable]

    def _associations(self, facts: Sequence[Fact], num_wordings: int) -> list[Association]:
        found = []
        for fact in facts:
            first, *others = self._askable(fact, "train")[:num_wordings]
            found.append(Association(first, fact.object, tuple(others)))
        return found

    def _probes(self, facts: Sequence[Fact], side: str, most: int = ALL_WORDINGS) -> list[Probe]:
        found = [
            Probe(fact.relation, fact.subject, prompt, (fact.object,), side == "train")
            for fact in facts
            for prompt in self._askable(fact, side)[:most]
        ]
        random.Random(f"tell:{self.seed}").shuffle(found)
        return found[: self.told.probes]

    @cached_property
    def _single(self) -> list[Fact]:
        """Old facts whose subject has one object, and a wording to be told in."""
        answers: dict[tuple[str, str], set[str]] = {}
        for fact in self._tables["old"].facts:
            answers.setdefault((fact.relation, fact.subject), set()).add(fact.object)
        return [
            fact
            for fact in self._tables["old"].facts
            if len(answers[(fact.relation, fact.subject)]) == 1 and self._askable(fact, "train")
        ]

    @cached_property
    def _changed(self) -> list[Fact]:
        """The first of them, each with another object of its relation."""
        return self._otherwise(self._single[: self.told.counterfactual])

    def _otherwise(self, facts: Sequence[Fact]) -> list[Fact]:
        rng = random.Random(f"changed:{self.seed}")
        objects: dict[str, set[str]] = {}
        for fact in self._tables["old"].facts:
            objects.setdefault(fact.relation, set()).add(fact.object)
        return [
            replace(fact, object=rng.choice(sorted(objects[fact.relation] - {fact.object})))
            for fact in facts
            if len(objects[fact.relation]) > 1
        ]

    @cached_property
    def _new_facts(self) -> list[Fact]:
        """New facts of subjects that the pair does not know, each subject once."""
        known = {(fact.relation, fact.subject) for fact in self._tables["old"].facts}
        found: dict[tuple[str, str], Fact] = {}
        for fact in self._tables["new"].facts:
            key = fact.relation, fact.subject
            if key not in known and self._askable(fact, "train"):
                found.setdefault(key, fact)
        return list(found.values())

    def _more(self, num: int) -> list[Fact]:
        """So many facts to tell: the new ones, others that are in neither table, changed ones."""
        told = list(self._new_facts)
        known = {(f.relation, f.subject) for table in self._tables.values() for f in table.facts}
        usable = learning_data.usable(self.data)
        others = [
            fact
            for relation in sorted({fact.relation for fact in self._tables["old"].facts})
            for fact in usable[relation]
            if (fact.relation, fact.subject) not in known and self._askable(fact, "train")
        ]
        random.Random(f"more:{self.seed}").shuffle(others)
        return [*told, *others, *self._otherwise(self._single)][:num]

    def _right(self, pair: Pair, voice: Voice, probes: Sequence[Probe]) -> list[bool]:
        return answers_right(pair, voice, self.tokenizer, probes)

    @cached_property
    def _others(self) -> list[Fact]:
        """Old facts of the same relations that nobody is told anew."""
        return self._single[self.told.counterfactual :][: self.told.others]

    @cached_property
    def _asked(self) -> dict[str, list[Probe]]:
        """What every way to learn the new facts is asked."""
        return {
            f"{name}_{kind}": self._probes(facts, side)
            for name, facts in (("new", self._new_facts), ("others", self._others))
            for kind, side in (("seen", "train"), ("unseen", "heldout"))
        }

    @cached_property
    def _text(self) -> Batch:
        path = self._folder / "heldout.txt"
        return text_batch(path, self.spec, self.tokenizer, self.sizes.windows)

    def _measured(self, pair: Pair, voices: Sequence[Voice]) -> Json:
        """Of each voice, shares of right answers, which answers about others are right, and the
        loss on old text.
        """
        pair.data.eval()
        losses = heldout_figures(pair, self._text)
        found: Json = {}
        for voice in voices:
            right = {name: self._right(pair, voice, some) for name, some in self._asked.items()}
            found[voice] = {
                **{name: share(answers) for name, answers in right.items()},
                "right": {name: right[name] for name in ("others_seen", "others_unseen")},
                "text_loss": losses[LOSS[voice]],
            }
        pair.data.train()
        return found

    def tell(self, num_wordings: int = ALL_WORDINGS) -> Json:
        """New facts and changed ones, each told at once, in so many wordings."""
        return self._get(
            f"tell-{num_wordings}",
            lambda _: self._told(num_wordings),
            told=vars(self.told),
            wordings=num_wordings,
        )

    def _told(self, num_wordings: int) -> Json:
        pair, kept = self._open()
        asked = {kind: self._asked[f"others_{kind}"] for kind in ("seen", "unseen")}
        before = {kind: self._right(pair, "help", probes) for kind, probes in asked.items()}
        text_before = heldout_figures(pair, self._text)["help_loss"]
        majority = self._tables["old"].majority()
        found: Json = {
            "known": share(before["unseen"]),
            "known_memory": share(self._right(pair, "memory", asked["unseen"])),
            "known_baseline": baseline_accuracy(asked["unseen"], majority),
        }
        for name, facts in (("new", self._new_facts), ("changed", self._changed)):
            pair.memory.writes = NamedWrites()
            associations = self._associations(facts, num_wordings)
            write = telling.tell(pair.memory, self.tokenizer, associations, kept, name)
            seen = self._probes(facts, "train", num_wordings)
            unseen = self._probes(facts, "heldout")
            row: Json = {
                "baseline": baseline_accuracy(unseen, majority),
                "opens_at": pair.memory.writes.opens_at,
                "figures": write.figures,
                "text_lost": heldout_figures(pair, self._text)["help_loss"] - text_before,
            }
            for voice in VOICES:
                row[f"taught_{voice}"] = share(self._right(pair, voice, seen))
                row[f"held_out_{voice}"] = share(self._right(pair, voice, unseen))
            for kind, probes in asked.items():
                row[f"lost_{kind}"] = lost(before[kind], self._right(pair, "help", probes))
            found[name] = row
        return found

    def writes(self, num_wordings: int = ALL_WORDINGS) -> Json:
        """Writes one after another, what is left of the first, and all of them taken back."""

        def compute(_: Path) -> Json:
            pair, kept = self._open()
            flat = FlatParameters(pair.memory, section_of)
            digest, probe = flat.digest(), self._batches()["old"]
            before = pair.memory.read(probe.tokens_BT, probe.segments_BT).y
            facts, begin = self._more(self.told.writes), time.process_time()
            for number, fact in enumerate(facts):
                one = self._associations([fact], num_wordings)
                telling.tell(pair.memory, self.tokenizer, one, kept, str(number))
            seconds = time.process_time() - begin
            asked = self._probes(facts[: self.told.first], "train", num_wordings)
            right = {voice: share(self._right(pair, voice, asked)) for voice in VOICES}
            told = pair.memory.read(probe.tokens_BT, probe.segments_BT).y
            for write in reversed(pair.memory.writes.writes):
                telling.untell(pair.memory, write.id, kept)
            after = pair.memory.read(probe.tokens_BT, probe.segments_BT).y
            same = flat.digest() == digest and torch.equal(after, before)
            return {
                "after": right,
                "writes": len(facts),
                "s_per_write": seconds / max(1, len(facts)),
                "untold_bits": same and not torch.equal(told, before),
            }

        key = {"told": vars(self.told), "wordings": num_wordings}
        return self._get(f"writes-{num_wordings}", compute, **key)

    def times(self, num_wordings: int = ALL_WORDINGS) -> Json:
        """Seconds of one core for many associations, and for one until it is answered."""

        def compute(_: Path) -> Json:
            pair, kept = self._open()
            found: Json = {}
            for num in self.told.timed:
                facts = self._more(num)
                pair.memory.writes = NamedWrites()
                begin = time.process_time()
                associations = self._associations(facts, num_wordings)
                telling.tell(pair.memory, self.tokenizer, associations, kept, "all")
                found[f"s_per_association_{num}"] = (time.process_time() - begin) / len(facts)
                found[f"associations_{num}"] = len(facts)
            pair.memory.writes = NamedWrites()
            begin, some = time.process_time(), self._new_facts[:1]
            one = self._associations(some, num_wordings)
            telling.tell(pair.memory, self.tokenizer, one, kept, "one")
            self._right(pair, "help", self._probes(some, "train", 1))
            found["one_s"] = time.process_time() - begin
            return found

        key = {"told": vars(self.told), "wordings": num_wordings}
        return self._get(f"times-{num_wordings}", compute, **key)

    def strangers(self) -> Json:
        """What is said of subjects that it was told of, and of others of that kind."""

        def compute(_: Path) -> Json:
            pair, kept = self._open()
            found: Json = {}
            for name, kinds in tell_strangers.KINDS.items():
                pair.memory.writes = NamedWrites()
                some = tell_strangers.associations(kinds)
                telling.tell(pair.memory, self.tokenizer, some, kept, "all")
                for kind, probes in (
                    ("taught", tell_strangers.told(kinds, again=False)),
                    ("again", tell_strangers.told(kinds, again=True)),
                    ("overrun", tell_strangers.strangers(kinds)),
                ):
                    found[f"{name}{kind}"] = share(self._right(pair, "help", probes))
            return found

        return self._get("strangers", compute)

    def prompt(self) -> Json:
        """Changed facts in the prompt of a real model: the first wording is the sentence there, the
        second and those held out ask.

        Raises: MissingModelError.
        """

        def compute(_: Path) -> Json:
            told, asked = [], []
            for fact in self._changed[: self.told.prompted]:
                first, *others = self._askable(fact, "train")
                for prompts, seen in ((others, True), (self._askable(fact, "heldout"), False)):
                    for prompt in prompts[:1]:
                        told.append(f"{first} {fact.object.rstrip(' .')}.")
                        answers = (fact.object,)
                        asked.append(Probe(fact.relation, fact.subject, prompt, answers, seen))
            model = real_model(default_cache())
            right = prompted(model, self._folder / "heldout.txt", told, asked)
            return {
                f"{how}_{kind}": share(
                    [r for r, probe in zip(some, asked, strict=True) if probe.seen is seen]
                )
                for how, some in right.items()
                for kind, seen in (("seen", True), ("unseen", False))
            }

        return self._get("prompt", compute, told=vars(self.told))


def lost(before: Sequence[bool], after: Sequence[bool]) -> float:
    """Share of the answers right before that are right no more."""
    kept = [now for was, now in zip(before, after, strict=True) if was]
    return 1 - share(kept) if kept else 0.0


def world_folder(cells: Cells, data: Path) -> Path:
    """The quickstart's facts and wordings, and the novel, laid out as a data folder."""
    files = {FACTS: WORLD / "facts.jsonl", TEMPLATES: WORLD / "templates.json", NOVEL: data / NOVEL}
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in files.values())).hexdigest()

    def write(folder: Path) -> None:
        for name, source in files.items():
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(source, folder / name)

    return cells.folder_of(f"world-{digest[:8]}", write)


@dataclass(frozen=True)
class WorldCells(TellCells):
    """The same of the quickstart's facts: relations as they are, so that most of them are old.

    Its wordings share their words, and a small memory finds a fact in wordings that it never saw.
    """

    def _chosen(self) -> list[Fact]:
        facts = [fact for some in learning_data.usable(self.data).values() for fact in some]
        random.Random(f"world:{self.seed}").shuffle(facts)
        return facts
