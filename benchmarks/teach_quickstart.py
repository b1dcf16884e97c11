"""Teaching the quickstart's pair, as the package ships it: `quickstart_score`, `quickstart_kept`.

Its run is trained once, in this process, then taught other answers to a share of its own facts and
facts of made-up subjects, one wording a relation. Called by `teach`; the cell is kept.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from actors.sources.facts import Fact
from actors.weights.pair_export import load_pair
from benchmarks import learning_data
from benchmarks.cells import Cells
from benchmarks.teach_data import OTHERS, Change, TeachData
from benchmarks.teach_scores import Scores
from jobs.init import EXAMPLES
from jobs.teach.options import TeachOptions
from jobs.teach.teach import run_teach
from orchestrator.console import Console
from orchestrator.run import train
from orchestrator.settings.config import load_config

Json = dict[str, Any]
WORLD = EXAMPLES.parent / "corpora" / "world"
CHANGED_EACH, NEW_EACH, KEPT = 21, 10, 400  # of a relation; questions about the others
SYLLABLES = ("zor", "mal", "ven", "tik", "ras", "dul", "ker", "bon", "fal", "gri", "lom", "nash")


def quickstart(cells: Cells, seed: int) -> Json:
    """The figures of the pair of one seed."""
    run = cells.get("quickstart", {"seed": seed}, partial(_trained, seed))["run"]
    key = {"seed": seed, "changed": CHANGED_EACH, "new": NEW_EACH}
    return cells.get("quickstart-taught", key, partial(_taught, run, seed))


def _trained(seed: int, path: Path) -> Json:
    torch.set_num_threads(1)
    overrides = [f"name={path.name}", f"storage={path.parent}", f"seed={seed}"]
    config = load_config(str(EXAMPLES / "quickstart.yaml"), overrides)
    result = train(config, Console(quiet=True), in_process=True)
    return {"run": str(path), "status": result.status}


def _taught(run: str, seed: int, path: Path) -> Json:
    lessons = world_lessons(seed)
    file, out = path.with_suffix(".lessons.jsonl"), f"{path}-taught"
    lessons.write_lessons(file)
    run_teach(run, TeachOptions(lessons=str(file), out=out), Console(quiet=True), False)
    heldout = path.with_suffix(".heldout.txt")
    table = lessons.table
    heldout.write_text(
        " ".join(w.sentence(f) for f in table.facts for w in table.heldout_wordings[f.relation]),
        encoding="utf-8",
    )
    found: Json = {"out": out}
    for name, export in (("before", f"{run}/export"), ("after", f"{out}/export")):
        pair, tokenizer = load_pair(export)
        scores = Scores(lessons, tokenizer, heldout, 64)
        found[name] = {voice: scores.take(pair, voice) for voice in ("own", "memory")}
    return found


def world_lessons(seed: int) -> TeachData:
    """What is taught: another object of the relation, and objects of made-up subjects."""
    table = learning_data.read_table(WORLD / "facts.jsonl", seed)
    rng = random.Random(f"quickstart:{seed}")
    by_relation: dict[str, list[Fact]] = {}
    for fact in table.facts:
        by_relation.setdefault(fact.relation, []).append(fact)
    changed: list[Change] = []
    new: list[Change] = []
    for relation, facts in sorted(by_relation.items()):
        seen = [w for w in table.train_wordings[relation] if w.askable]
        unseen = tuple(w for w in table.heldout_wordings[relation] if w.askable)[:OTHERS]
        taught = rng.choice(sorted(seen, key=lambda w: w.pattern))
        others = tuple(rng.sample([w for w in seen if w is not taught], OTHERS))
        objects = sorted({fact.object for fact in facts})
        for fact in rng.sample(sorted(facts, key=str), CHANGED_EACH):
            wanted = Fact(relation, fact.subject, _another(objects, fact.object, rng))
            changed.append(Change(wanted, fact.object, taught, others, unseen))
        for name in made_up(NEW_EACH, rng):
            fact = Fact(relation, name, rng.choice(objects))
            new.append(Change(fact, None, taught, others, unseen))
    return TeachData(table, tuple(changed), tuple(new), seed, KEPT)


def _another(objects: Sequence[str], than: str, rng: random.Random) -> str:
    return rng.choice([one for one in objects if one != than])


def made_up(num: int, rng: random.Random) -> list[str]:
    """Names that nobody has."""
    found: dict[str, None] = {}
    while len(found) < num:
        found["".join(rng.sample(SYLLABLES, 3)).capitalize()] = None
    return list(found)
