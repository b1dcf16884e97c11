"""Further cells of `teach`: what the memory proposes, what is taught by choosing of that, what it
teaches when nobody gives a label, and what many teachings lose one after the other.

Called by `teach`. Cells are kept as those of `teach_arms`.
"""

from __future__ import annotations

import json
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

from actors.pair.proposing import Proposer
from actors.pair.wordings import WrittenText
from actors.pair.writing import write_documents
from actors.sources.facts import Fact
from actors.weights.pair_export import load_pair
from benchmarks.teach_arms import TeachCells
from benchmarks.teach_scores import Scores, pooled
from jobs.learn.learn import LearnOptions, run_learn
from jobs.teach.options import TeachOptions
from jobs.teach.teach import run_teach
from orchestrator.console import Console

Json = dict[str, Any]
CHOICES = (8, 16)
WRITTEN = 6000
LEARN_STEPS = 200  # in which the memory learns the new facts by itself
MANY, FEW = 10, 2  # teachings one after the other: of many lessons, and of few


def more(cells: TeachCells, name: str) -> Json:
    """The figures of a cell: `proposals`, `choices`, `no_bits` or `drift`."""
    computes = {"proposals": _proposals, "choices": _choices, "no_bits": _no_bits, "drift": _drift}
    compute = computes[name]
    key = {"sizes": cells.sizes, "seed": cells.seed, "draw": cells.draw, "more": name}
    return cells.cells.get("teach-more", key, partial(compute, cells))


def _proposals(cells: TeachCells, path: Path) -> Json:
    """Share of the new facts whose object is among the first k that the memory proposes, and among
    the k most frequent objects of the relation in what the pair has learned.
    """
    proposer = _proposer(cells)
    frequent: dict[str, Counter[str]] = {}
    for fact in cells.lessons.table.facts:
        frequent.setdefault(fact.relation, Counter())[fact.object] += 1
    hits: Counter[str] = Counter()
    for change in cells.lessons.new:
        fact = change.fact
        proposed = proposer.propose(change.prompt, max(CHOICES), fact.subject).answers
        table = [obj for obj, _ in frequent[fact.relation].most_common(max(CHOICES))]
        for num in CHOICES:
            hits[f"in_top{num}"] += fact.object in proposed[:num]
            hits[f"table_top{num}"] += fact.object in table[:num]
    names = [f"{kind}_top{num}" for kind in ("in", "table") for num in CHOICES]
    return {name: hits[name] / len(cells.lessons.new) for name in names}


def _proposer(cells: TeachCells) -> Proposer:
    pair, tokenizer = load_pair(cells.export)
    documents = write_documents(pair.memory, tokenizer, WRITTEN, cells.seed, cells.window)
    text = WrittenText(tokenizer.decode([int(t) for t in d.tokens]) for d in documents)
    return Proposer(pair, tokenizer, text)


def _choices(cells: TeachCells, path: Path) -> Json:
    """Lessons by the number of one of the memory's first proposals; those whose answer is not among
    them are not taught, and asked all the same.
    """
    proposer, num, rows = _proposer(cells), min(CHOICES), []
    for change in cells.lessons.lessons:
        fact = change.fact
        proposed = proposer.propose(change.prompt, num, fact.subject).answers[:num]
        if fact.object in proposed:
            choice = {"choices": proposed, "choice": proposed.index(fact.object)}
            rows.append({"prompt": change.prompt, "subject": fact.subject, **choice})
    file, out = path.with_suffix(".jsonl"), f"{path}-taught"
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    options = TeachOptions(lessons=str(file), out=out)
    run_teach(str(cells.pair.run), options, Console(quiet=True), False)
    after, tokenizer = load_pair(f"{out}/export")
    lessons = len(cells.lessons.lessons)
    own = cells.scores(tokenizer).take(after, "own")
    return {"own": own, "chosen_frac": len(rows) / lessons}


def _no_bits(cells: TeachCells, path: Path) -> Json:
    """The memory learns the new facts, then teaches them to the data layer by itself."""
    facts = path.with_suffix(".facts.jsonl")
    _write_facts(facts, [change.fact for change in cells.lessons.new])
    learned, out = f"{path}-learned", f"{path}-taught"
    quiet = Console(quiet=True)
    options = LearnOptions(
        facts=str(facts),
        templates=str(cells.pair.corpus / "templates.json"),
        out=learned,
        steps=LEARN_STEPS,
        old_from="memory",
    )
    run_learn(str(cells.pair.run), options, quiet, False)
    run_teach(learned, TeachOptions(from_memory=True, out=out), quiet, False)
    (before, tokenizer), (after, _) = (load_pair(f"{place}/export") for place in (learned, out))
    scores = cells.scores(tokenizer)
    asked = _new_alone(scores)
    return {
        "memory": asked(before, "memory"),
        "own": asked(after, "own"),
        "kept_seen": scores.take(after, "own", likelihoods=False)["kept_seen"],
        "lessons": len(json.loads(Path(out, "taught.json").read_text(encoding="utf-8"))["lessons"]),
    }


def _new_alone(scores: Scores) -> Any:
    def asked(pair: Any, voice: Any) -> Json:
        found = scores.take(pair, voice, likelihoods=False)
        return {kind: found[f"new_{kind}"] for kind in ("taught", "others", "unseen")}

    return asked


def _drift(cells: TeachCells, path: Path) -> Json:
    """The lessons in parts, one teaching after the other, each of the result of the one before."""
    lessons = cells.lessons.lessons
    num = MANY if len(lessons) >= 100 * MANY else FEW
    run = str(cells.pair.run)
    for number in range(num):
        file, out = path.with_suffix(f".{number}.jsonl"), f"{path}-{number}"
        cells.lessons.write_lessons(file, lessons[number::num])
        run_teach(run, TeachOptions(lessons=str(file), out=out), Console(quiet=True), False)
        run = out
    after, tokenizer = load_pair(f"{run}/export")
    found = cells.scores(tokenizer).take(after, "own")
    sizes = {"changed": len(cells.lessons.changed), "new": len(cells.lessons.new)}
    return {"teachings": num, "taught": pooled(found, "taught", sizes), "own": found}


def _write_facts(path: Path, facts: list[Fact]) -> None:
    rows = ({"relation": f.relation, "subject": f.subject, "object": f.object} for f in facts)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
