"""CounterFact's edits as `teach_real` teaches them, and the facts that the memory knows before.

Chooses by rules and a seed, never by name. The memory learns facts of the same relations, in all
but the held-out wordings, and none about a subject that is edited or asked; so what it gives are
wordings and text, no answers. Trains nothing.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.lessons.lesson import Lesson
from actors.sources.facts import SUBJECT, Fact, FactTable
from benchmarks import learning_data
from benchmarks.reflect_data import MissingDataError, read_lines
from benchmarks.teach_data import EDITS, Question

NEIGHBOURS = 2  # questions of each edit, at most


@dataclass(frozen=True)
class RealEdit:
    """One edit, and what is asked about it.

    Attributes:
        subject, prompt, new, before: as in CounterFact, whose prompt is a wording that the memory
            has met.
        unseen: prompts in wordings that nobody has seen: CounterFact's paraphrase, and one that is
            held out of the memory's.
        others: one in a wording that the memory has met.
        neighbours: prompts about others of which the same was true, and its answer.
    """

    relation: str
    subject: str
    prompt: str
    new: str
    before: str
    unseen: tuple[str, ...]
    others: tuple[str, ...]
    neighbours: tuple[tuple[str, str], ...]

    @property
    def lesson(self) -> Lesson:
        """The edit as it is taught."""
        return Lesson(self.prompt, self.new, subject=self.subject)


@dataclass(frozen=True)
class RealData:
    """What is taught, and where the facts of the memory are.

    Attributes:
        edits: in a random order.
        facts, templates: files that the memory learns.
        sentences: of these facts, as the memory meets them.
        text: a novel's end, which nothing trains on, and what precedes it.
    """

    edits: tuple[RealEdit, ...]
    facts: Path
    templates: Path
    sentences: tuple[str, ...]
    text: Path
    novel: Path

    def asked(self) -> dict[str, list[Question]]:
        """By figure: the wanted answer and the other one, which of neighbours is the new one."""
        return {
            "es": [Question(e.relation, e.prompt, e.new, e.before) for e in self.edits],
            "ps": [Question(e.relation, p, e.new, e.before) for e in self.edits for p in e.unseen],
            "ns": [Question(e.relation, p, a, e.new) for e in self.edits for p, a in e.neighbours],
            "seen": [Question(e.relation, p, e.new, e.before) for e in self.edits
                     for p in e.others],
        }  # fmt: skip

    def write_lessons(self, path: Path) -> None:
        """As `tandem teach --lessons` reads them."""
        rows = ({"prompt": e.prompt, "answer": e.new, "subject": e.subject} for e in self.edits)
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        path.write_text(text, encoding="utf-8")


def prepare(
    data: Path, folder: Path, num_relations: int, num_edits: int, num_facts: int, seed: int
) -> RealData:
    """Chooses edits and facts, equally many of each relation, and writes the facts.

    Raises:
        MissingDataError: the data has too few.
    """
    by_relation: dict[str, list[dict[str, Any]]] = {}
    for row in read_lines(data / EDITS):
        if row["relation"] and row["template"].count("{}") == 1:
            by_relation.setdefault(row["relation"], []).append(row)
    edited = {(r, row["subject"]) for r, rows in by_relation.items() for row in rows}
    usable = {
        relation: [f for f in facts if (relation, f.subject) not in edited]
        for relation, facts in learning_data.usable(data).items()
    }
    each, each_fact = num_edits // num_relations, num_facts // num_relations
    rng = random.Random(f"real:{seed}")
    found: list[RealEdit] = []
    facts: list[Fact] = []
    order = sorted(usable)
    rng.shuffle(order)
    for relation in order:
        if len(facts) == num_relations * each_fact or len(usable[relation]) < each_fact:
            continue
        some = rng.sample(usable[relation], each_fact)
        table = _table(some, data, folder / "split", seed)
        edits = _edits(table, relation, by_relation.get(relation, ()), each, rng)
        if len(edits) == each:
            found += edits
            facts += some
    if len(found) < num_edits:
        raise MissingDataError(
            f"{data}: edits of {len(found) // each} relations can be asked, {num_relations} are "
            "needed"
        )
    rng.shuffle(found)
    table = _table(facts, data, folder, seed)
    learning_data.write_novel(data, folder)
    said = tuple(w.sentence(f) for f in table.facts for w in table.train_wordings[f.relation])
    return RealData(
        tuple(found),
        facts=folder / "facts.jsonl",
        templates=folder / "templates.json",
        sentences=said,
        text=folder / "heldout.txt",
        novel=folder / "novel.txt",
    )


def _table(facts: Sequence[Fact], data: Path, folder: Path, seed: int) -> FactTable:
    return learning_data.read_table(learning_data.write_facts(facts, data, folder, "facts"), seed)


def _edits(
    table: FactTable, relation: str, rows: Sequence[dict[str, Any]], most: int, rng: random.Random
) -> list[RealEdit]:
    """Edits whose prompt is a wording that is trained on, each subject once."""
    train, heldout = (
        {w.prompt(Fact(relation, SUBJECT, "")) for w in side[relation] if w.askable}
        for side in (table.train_wordings, table.heldout_wordings)
    )
    known = {fact.subject for fact in table.facts}
    found: dict[str, RealEdit] = {}
    for row in rng.sample(rows, len(rows)):
        subject, pattern = row["subject"], row["template"].replace("{}", SUBJECT)
        names = [n for n in row["neighbor_subjects"] if n not in known and n != subject]
        others = sorted(train - {pattern})
        if pattern not in train or len(names) < NEIGHBOURS or not others or subject in found:
            continue
        unseen = [row["rephrase_prompt"], rng.choice(sorted(heldout)).replace(SUBJECT, subject)]
        found[subject] = RealEdit(
            relation,
            subject,
            row["prompt"],
            row["target_new"],
            row["ground_truth"],
            tuple(unseen),
            (rng.choice(others).replace(SUBJECT, subject),),
            tuple(
                (pattern.replace(SUBJECT, name), row["ground_truth"])
                for name in rng.sample(names, NEIGHBOURS)
            ),
        )
        if len(found) == most:
            break
    return list(found.values())
