"""What `teach` teaches and asks: facts that a pair has learned, other objects for some of them, new
facts, and the questions of the exam.

Chooses by rules and a seed, never by name. Trains nothing. One wording of each relation is taught;
the others are asked.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from actors.sources.facts import Fact, FactTable, Wording
from benchmarks import learning_data
from benchmarks.reflect_data import candidates, check_files, read_lines

EDITS = "counterfact/train.jsonl"
NEEDED = (*learning_data.NEEDED, EDITS)
OTHERS = 3  # wordings of each kind in which a lesson is asked, at most


def check_folder(folder: Path) -> None:
    """Raises: MissingDataError naming the file, and where it should be."""
    sources = "ParaRel: github yanaiela/pararel; CounterFact: rome.baulab.info"
    check_files(folder, NEEDED, f"{sources}; the novel: github GITenberg")


@dataclass(frozen=True)
class LessonSizes:
    """How much is known before, and how much is taught.

    Attributes:
        num_relations: of which the facts are, equally many of each.
        num_facts: that the pair learns before.
        num_changed: of these, that get another object.
        num_new: facts of subjects that the pair has never seen.
        kept_probes: questions about facts that are not taught, in each kind of wordings.
    """

    num_relations: int
    num_facts: int
    num_changed: int
    num_new: int
    kept_probes: int


@dataclass(frozen=True)
class Change:
    """One lesson of the benchmark.

    Attributes:
        fact: with the object that is taught.
        before: the object that the pair has learned; None: its subject is new.
        wording: the one that is taught.
        others: wordings that the pair has seen, in which it is asked.
        unseen: wordings that nobody has seen.
    """

    fact: Fact
    before: str | None
    wording: Wording
    others: tuple[Wording, ...]
    unseen: tuple[Wording, ...]

    @property
    def prompt(self) -> str:
        """What is taught, up to the object."""
        return self.wording.prompt(self.fact)


@dataclass(frozen=True)
class Question:
    """A prompt, the answer that counts as right, and the one that would be wrong."""

    relation: str
    prompt: str
    answer: str
    other: str | None = None


@dataclass(frozen=True)
class TeachData:
    """A table of facts that was learned, and what is taught of it.

    Attributes:
        table: the facts that the pair has learned, with their wordings.
        changed, new: the lessons.
        seed: of the order in which questions are drawn.
        kept_probes: as in `LessonSizes`.
    """

    table: FactTable
    changed: tuple[Change, ...]
    new: tuple[Change, ...]
    seed: int
    kept_probes: int

    @property
    def lessons(self) -> tuple[Change, ...]:
        """All of them."""
        return *self.changed, *self.new

    @cached_property
    def kept(self) -> list[Fact]:
        """The facts that are not taught."""
        taught = {(c.fact.relation, c.fact.subject) for c in self.changed}
        return [f for f in self.table.facts if (f.relation, f.subject) not in taught]

    def kept_questions(self, seen: bool) -> list[Question]:
        """About facts that are not taught, in wordings that the pair has seen, or in others.

        Left out: prompts that have two answers.
        """
        side = self.table.train_wordings if seen else self.table.heldout_wordings
        found: dict[str, set[Question]] = {}
        for fact in self.table.facts:
            for wording in side[fact.relation]:
                if wording.askable:
                    question = Question(fact.relation, wording.prompt(fact), fact.object)
                    found.setdefault(question.prompt, set()).add(question)
        kept = {w.prompt(f) for f in self.kept for w in side[f.relation] if w.askable}
        single = [q for prompt in sorted(kept) if len(found[prompt]) == 1 for q in found[prompt]]
        random.Random(f"kept:{self.seed}:{seen}").shuffle(single)
        return single[: self.kept_probes]

    def asked(self, changes: Sequence[Change], kind: str) -> list[Question]:
        """The lessons as questions, in the wording taught, in `others` or in `unseen` ones."""
        return [
            Question(c.fact.relation, w.prompt(c.fact), c.fact.object, c.before)
            for c in changes
            for w in ([c.wording] if kind == "taught" else getattr(c, kind))
        ]

    def neighbours(self) -> list[Question]:
        """Facts that are not taught, of the same relation and object as a lesson had before; the
        wrong answer is what that lesson teaches (CounterFact's neighbourhood).
        """
        by_object: dict[tuple[str, str], list[Fact]] = {}
        for fact in self.kept:
            by_object.setdefault((fact.relation, fact.object), []).append(fact)
        rng, found = random.Random(f"neighbours:{self.seed}"), []
        for change in self.changed:
            assert change.before is not None
            near = by_object.get((change.fact.relation, change.before), [])
            for fact in rng.sample(near, min(2, len(near))):
                prompt, wrong = change.wording.prompt(fact), change.fact.object
                found.append(Question(fact.relation, prompt, fact.object, wrong))
        return found

    def write_lessons(self, path: Path, changes: Sequence[Change] | None = None) -> None:
        """Writes lessons as `tandem teach --lessons` reads them: prompt, answer and subject."""
        rows = (
            {"prompt": c.prompt, "answer": c.fact.object, "subject": c.fact.subject}
            for c in (self.lessons if changes is None else changes)
        )
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        path.write_text("".join(lines), encoding="utf-8")


def write_corpus(sizes: LessonSizes, data: Path, folder: Path, seed: int) -> None:
    """Writes what the pair learns, sentences.jsonl and novel.txt; the facts, old.jsonl and
    new.jsonl; templates.json; and heldout.txt, which nothing trains on.
    """
    each, each_new = (n // sizes.num_relations for n in (sizes.num_facts, sizes.num_new))
    total = (each + each_new) * sizes.num_relations
    chosen = learning_data.choose(data, seed, sizes.num_relations, total)
    by_relation: dict[str, list[Fact]] = {}
    for fact in chosen:
        by_relation.setdefault(fact.relation, []).append(fact)
    parts = {
        "old": [f for facts in by_relation.values() for f in facts[:each]],
        "new": [f for facts in by_relation.values() for f in facts[each:]],
    }
    for name, facts in parts.items():
        random.Random(f"teach:{seed}:{name}").shuffle(facts)
        learning_data.write_facts(facts, data, folder, name)
    table = learning_data.read_table(folder / "old.jsonl", seed)
    rows = [
        {"text": wording.sentence(fact)}
        for fact in table.facts
        for wording in table.train_wordings[fact.relation]
    ]
    rng = random.Random(f"sentences:{seed}")
    with (folder / "sentences.jsonl").open("w", encoding="utf-8") as file:
        for _ in range(learning_data.COPIES):
            rng.shuffle(rows)
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    learning_data.write_novel(data, folder)


def read_lessons(sizes: LessonSizes, data: Path, folder: Path, seed: int, draw: int) -> TeachData:
    """What is taught of the facts in `folder`, as `write_corpus` wrote it.

    A changed fact gets the object that CounterFact has for it where the pair has met that object,
    else a random other one of its relation.

    Args:
        seed: with which the corpus was written.
        draw: of the lessons; several may be drawn of one corpus.
    """
    table, fresh = (learning_data.read_table(folder / f"{n}.jsonl", seed) for n in ("old", "new"))
    edits = {
        (fact.relation, fact.subject): new
        for rows in candidates(
            read_lines(data / learning_data.FACTS),
            read_lines(data / EDITS),
            json.loads((data / learning_data.TEMPLATES).read_text(encoding="utf-8")),
        ).values()
        for fact, new in rows
    }
    rng = random.Random(f"lessons:{seed}:{draw}")
    by_relation: dict[str, list[Fact]] = {}
    for fact in table.facts:
        by_relation.setdefault(fact.relation, []).append(fact)
    changed: list[Change] = []
    new: list[Change] = []
    each = sizes.num_changed // len(by_relation)
    each_new = sizes.num_new // len(by_relation)
    for relation, facts in sorted(by_relation.items()):
        seen = [w for w in table.train_wordings[relation] if w.askable]
        taught = rng.choice(sorted(seen, key=lambda w: w.pattern))
        objects = sorted({fact.object for fact in facts})

        def change(fact: Fact, before: str | None, seen=seen, taught=taught) -> Change:  # type: ignore[no-untyped-def]
            others = [w for w in seen if w is not taught]
            rng.shuffle(others)
            unseen = [w for w in table.heldout_wordings[fact.relation] if w.askable]
            return Change(fact, before, taught, tuple(others[:OTHERS]), tuple(unseen[:OTHERS]))

        for fact in rng.sample(sorted(facts, key=str), min(each, len(facts))):
            wanted = edits.get((relation, fact.subject))
            if wanted not in objects or wanted == fact.object:
                wanted = rng.choice([o for o in objects if o != fact.object])
            changed.append(change(Fact(relation, fact.subject, wanted), fact.object))
        some = sorted((f for f in fresh.facts if f.relation == relation), key=str)
        new += [change(f, None) for f in rng.sample(some, min(each_new, len(some)))]
    return TeachData(table, tuple(changed), tuple(new), draw, sizes.kept_probes)
