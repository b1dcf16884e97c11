"""Real facts, counterfactual edits of them and the questions that ask them, for `reflect`.

Reads `pararel` and `counterfact` below the data folder, chooses relations and facts by rules and a
seed, never by name, and writes two fact corpora that differ in the edited objects alone. Trains
nothing. Called by `reflect_cells`.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from actors.sources.facts import Fact, FactTable, Wording

MIN_LEMMAS = 3  # verb lemmas of a relation that end in the object: one is held out
KNOWN_OBJECTS = 40  # a relation's most frequent objects; old and new answers are among these
NEEDED = (
    "pararel/facts.jsonl",
    "pararel/templates.json",
    "counterfact/train.jsonl",
    "text/Middlemarch_145.txt",
)


class MissingDataError(Exception):
    """A file of the data folder is not there."""


def check_folder(folder: Path) -> None:
    """Raises: MissingDataError naming the file, and where it should be."""
    sources = "ParaRel: github yanaiela/pararel; CounterFact: rome.baulab.info"
    check_files(folder, NEEDED, sources)


def check_files(folder: Path, needed: Sequence[str], sources: str) -> None:
    """As `check_folder`, for other files; `sources` says where they come from."""
    for name in needed:
        if not (folder / name).is_file():
            raise MissingDataError(
                f"{folder / name} is missing; give the folder that holds {', '.join(needed)} with "
                f"--data ({sources})"
            )


@dataclass(frozen=True)
class Chosen:
    """The facts of one seed, and the objects that the data layer is taught in the place of some."""

    facts: tuple[Fact, ...]
    edits: dict[int, str]  # index of a fact -> its new object

    @property
    def edited(self) -> tuple[Fact, ...]:
        """All facts, the edited ones with their new objects."""
        return tuple(
            replace(fact, object=self.edits.get(index, fact.object))
            for index, fact in enumerate(self.facts)
        )


@dataclass(frozen=True)
class Question:
    """One prompt about one fact."""

    relation: str
    prompt: str
    answer: str  # the true one
    taught: str  # the one that the data layer is taught in the end; of most facts another one
    seen: bool  # in a wording that is trained on

    @property
    def edited(self) -> bool:
        """Whether the data layer is taught another answer."""
        return self.taught != self.answer


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSONL file."""
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines if line.strip()]


def candidates(
    facts: Sequence[dict[str, Any]],
    edits: Sequence[dict[str, Any]],
    templates: dict[str, list[dict[str, Any]]],
) -> dict[str, list[tuple[Fact, str]]]:
    """Facts that have an edit, with the new object, by relation.

    A subject with two objects in a relation is left out, and so is an object that stands inside its
    subject; both objects of an edit are among the relation's frequent ones, so that who has read
    the corpus can say either. Relations without three askable verb lemmas are left out.
    """
    objects: dict[tuple[str, str], set[str]] = {}
    counts: dict[str, Counter[str]] = {}
    for row in facts:
        objects.setdefault((row["relation"], row["subject"]), set()).add(row["object"])
        counts.setdefault(row["relation"], Counter())[row["object"]] += 1
    frequent = {r: {o for o, _ in c.most_common(KNOWN_OBJECTS)} for r, c in counts.items()}
    found: dict[str, dict[str, tuple[Fact, str]]] = {}
    for row in edits:
        relation, subject, new = row["relation"], row["subject"], row["target_new"]
        old = objects.get((relation, subject), set())
        if len(old) != 1 or num_lemmas(templates.get(relation, [])) < MIN_LEMMAS:
            continue
        fact = Fact(relation, subject, *old)
        known = {new, fact.object} <= frequent[relation]
        if known and new != fact.object and fact.object.lower() not in subject.lower():
            found.setdefault(relation, {}).setdefault(subject, (fact, new))
    return {relation: list(rows.values()) for relation, rows in sorted(found.items())}


def num_lemmas(patterns: Sequence[dict[str, Any]]) -> int:
    """Verb lemmas whose wordings end in the object."""
    return len({p["lemma"] for p in patterns if Wording(p["pattern"], p["lemma"]).askable})


def choose(folder: Path, seed: int, num_relations: int, num_facts: int, num_edits: int) -> Chosen:
    """Facts of `num_relations` relations, equally many of each, `num_edits` of them edited."""
    found = candidates(
        read_lines(folder / "pararel/facts.jsonl"),
        read_lines(folder / "counterfact/train.jsonl"),
        json.loads((folder / "pararel/templates.json").read_text(encoding="utf-8")),
    )
    each, each_edited = num_facts // num_relations, num_edits // num_relations
    rng = random.Random(f"reflect:{seed}")
    relations = [relation for relation, rows in found.items() if len(rows) >= each]
    if len(relations) < num_relations:
        raise MissingDataError(
            f"{folder}: only {len(relations)} relations have {each} facts with an edit, "
            f"{num_relations} are needed"
        )
    rows = []
    for relation in rng.sample(relations, num_relations):
        some = rng.sample(found[relation], each)
        rows += [(fact, new if i < each_edited else None) for i, (fact, new) in enumerate(some)]
    rng.shuffle(rows)
    edits = {index: new for index, (_, new) in enumerate(rows) if new is not None}
    return Chosen(tuple(fact for fact, _ in rows), edits)


def write_corpora(chosen: Chosen, data: Path, folder: Path) -> None:
    """Writes true.jsonl, edited.jsonl and templates.json into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, facts in (("true", chosen.facts), ("edited", chosen.edited)):
        lines = (json.dumps(vars(fact), ensure_ascii=False) + "\n" for fact in facts)
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    templates = (data / "pararel/templates.json").read_text(encoding="utf-8")
    (folder / "templates.json").write_text(templates, encoding="utf-8")


def questions(chosen: Chosen, table: FactTable, seed: int) -> list[Question]:
    """Two questions about each fact: in a wording that is trained on, and in one held out.

    A prompt that two facts share is left out, since it has two answers.
    """
    rng = random.Random(f"questions:{seed}")
    asked: dict[str, list[Question]] = {}
    for fact, after in zip(chosen.facts, chosen.edited, strict=True):
        for seen, side in ((True, table.train_wordings), (False, table.heldout_wordings)):
            wordings = [w for w in side[fact.relation] if w.askable]
            if wordings:
                prompt = rng.choice(wordings).prompt(fact)
                question = Question(fact.relation, prompt, fact.object, after.object, seen)
                asked.setdefault(prompt, []).append(question)
    return [rows[0] for rows in asked.values() if len(rows) == 1]
