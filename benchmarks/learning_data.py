"""Real facts to learn, and the corpora that `learning` trains on.

Chooses relations and facts by rules and a seed, never by name. Trains nothing. Called by the cells
of `learning`.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from actors.settings.corpus import CorpusSpec
from actors.sources.facts import Fact, FactTable, Probe
from benchmarks.reflect_data import (
    MIN_LEMMAS,
    MissingDataError,
    check_files,
    num_lemmas,
    read_lines,
)

FACTS, TEMPLATES = "pararel/facts.jsonl", "pararel/templates.json"
NOVEL = "text/Middlemarch_145.txt"
NEEDED = (FACTS, TEMPLATES, NOVEL)
HELDOUT_BYTES = 32768  # at the novel's end, which nothing trains on
COPIES = 2  # of every sentence, since a corpus of files holds a few of its blocks out


def check_folder(folder: Path) -> None:
    """Raises: MissingDataError naming the file, and where it should be."""
    sources = "ParaRel: github yanaiela/pararel; the novel: github GITenberg"
    check_files(folder, NEEDED, sources)


def data_digest(folder: Path) -> str:
    """Of everything that is read from the data folder."""
    digest = hashlib.sha256()
    for name in NEEDED:
        digest.update((folder / name).read_bytes())
    return digest.hexdigest()


def choose(folder: Path, seed: int, num_relations: int, num_facts: int) -> list[Fact]:
    """`num_facts` facts, equally many of each of `num_relations` relations, in a random order.

    Raises: MissingDataError where the data has too few.
    """
    found = usable(folder)
    each = num_facts // num_relations
    enough = [relation for relation, facts in found.items() if len(facts) >= each]
    if len(enough) < num_relations:
        raise MissingDataError(
            f"{folder}: only {len(enough)} relations have {each} facts, {num_relations} are needed"
        )
    rng = random.Random(f"learning:{seed}")
    chosen = [f for r in rng.sample(enough, num_relations) for f in rng.sample(found[r], each)]
    rng.shuffle(chosen)
    return chosen


def usable(folder: Path) -> dict[str, list[Fact]]:
    """Facts by relation.

    Left out: relations without three verb lemmas that can be asked, subjects with two objects in a
    relation, objects that stand inside their subject.
    """
    templates = json.loads((folder / TEMPLATES).read_text(encoding="utf-8"))
    objects: dict[str, dict[str, set[str]]] = {}
    for row in read_lines(folder / FACTS):
        of_relation = objects.setdefault(row["relation"], {})
        of_relation.setdefault(row["subject"], set()).add(row["object"])
    found: dict[str, list[Fact]] = {}
    for relation, subjects in sorted(objects.items()):
        if num_lemmas(templates.get(relation, [])) >= MIN_LEMMAS:
            single = [(subject, *names) for subject, names in subjects.items() if len(names) == 1]
            found[relation] = [
                Fact(relation, s, o) for s, o in single if o.lower() not in s.lower()
            ]
    return found


def write_facts(facts: Sequence[Fact], data: Path, folder: Path, name: str) -> Path:
    """Writes NAME.jsonl and templates.json into `folder`, and says where the facts are."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.jsonl"
    lines = (json.dumps(vars(fact), ensure_ascii=False) + "\n" for fact in facts)
    path.write_text("".join(lines), encoding="utf-8")
    templates = (data / TEMPLATES).read_text(encoding="utf-8")
    (folder / "templates.json").write_text(templates, encoding="utf-8")
    return path


def read_table(path: Path, seed: int) -> FactTable:
    """The facts that `write_facts` wrote, their wordings split as a corpus of facts splits them."""
    templates = str(path.with_name("templates.json"))
    spec = CorpusSpec(kind="facts", paths=(str(path),), templates=templates)
    return FactTable.read(spec, [str(path)], seed)


def write_sentences(table: FactTable, path: Path, seed: int) -> None:
    """Writes prompt and completion of every fact in every wording that is trained on."""
    rows = [
        {"prompt": wording.prompt(fact), "completion": f" {fact.object.rstrip(' .')}."}
        for fact in table.facts
        for wording in table.train_wordings[fact.relation]
        if wording.askable
    ]
    rng = random.Random(f"sentences:{seed}")
    with path.open("w", encoding="utf-8") as file:
        for _ in range(COPIES):
            rng.shuffle(rows)
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def write_novel(data: Path, folder: Path) -> None:
    """Writes all of the novel but its end as novel.txt, and its end as heldout.txt."""
    text = (data / NOVEL).read_bytes()
    for name, part in (("novel", text[:-HELDOUT_BYTES]), ("heldout", text[-HELDOUT_BYTES:])):
        (folder / f"{name}.txt").write_text(part.decode(errors="ignore"), encoding="utf-8")


@dataclass(frozen=True)
class Questions:
    """Probes of a table, and how often its relations' most frequent objects answer them."""

    seen: list[Probe]
    unseen: list[Probe]
    majority: dict[str, str]

    @classmethod
    def of(cls, table: FactTable, limit: int, seed: int) -> Questions:
        """At most `limit` in wordings trained on, and as many in wordings held out."""
        seen, unseen = (table.probes(side, limit, seed) for side in (True, False))
        return cls(seen, unseen, table.majority())
