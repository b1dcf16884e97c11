"""Whether the memory remembers what the data layer knows, and reflects every change of it.

    python -m benchmarks.reflect --json [--quick] [--data ../shared/data] [--cache DIR]

Drives both trainers in one process, which is what a lockstep run computes. A data layer is trained
on real facts (ParaRel) and then, alone, taught counterfactuals (CounterFact) that the memory's
stream never contains; another one on a novel. Each memory follows their published versions: the
shipped one, one without each of its terms, and the controls. Cells are kept in --cache: the same
command goes on where it was interrupted.

    recall_agreement_seen, _unseen   of all questions, those where the memory gives the data layer's
                                     whole answer, in wordings trained on and in held-out ones
    recall_gap_closed                share of the KL between a unigram and the data layer that the
                                     memory closes on held-out text
    slot_share                       share of what it knows that is in the slots; the lower of facts
                                     and text
    reflection_rate, _paraphrase     of the answers that the teaching changed (margin > 0.1), those
                                     that the memory gives after 4 intervals on taught versions
    …_known                          either, of the answers alone that the data layer gives rightly
                                     (after the teaching: as taught); known_…: how many these are
    reflection_control               the same for a memory that gets no snapshots
    unchanged_lost                   agreement on facts that nobody changed, before minus after
    teacher_frac                     share of the memory's steps that its teachers take
    differences                      each ablation minus the full memory
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import reflect_figures as figures
from benchmarks.cells import Cells, Task, code_digest
from benchmarks.cells_command import cells_parser, measure_and_print, seeds_of, size_of
from benchmarks.intervals import table_row
from benchmarks.reflect_cells import PARTS, FactsCells, TextCells
from benchmarks.reflect_data import check_folder
from benchmarks.reflect_specs import ABLATIONS, ASKED, FULL, LARGE, QUICK, Sizes

Json = dict[str, Any]
KEYS = (
    "recall_agreement_seen",
    "recall_agreement_unseen",
    "recall_gap_closed",
    "slot_share",
    "reflection_rate",
    "reflection_rate_paraphrase",
    "reflection_control",
    "unchanged_lost",
    "teacher_frac",
)
AIMS = {
    "recall_agreement_seen": ">= 0.95",
    "recall_agreement_unseen": ">= 0.85",
    "recall_gap_closed": ">= 0.8",
    "slot_share": ">= 0.8",
    "reflection_rate": ">= 0.9",
    "reflection_rate_paraphrase": ">= 0.75",
    "reflection_control": "near 0",
    "unchanged_lost": "<= 0.02",
    "teacher_frac": "small",
}


def full_figures(facts: FactsCells, text: TextCells) -> dict[str, float]:
    """The shipped memory and its controls, for one seed."""
    one, two = facts.memory("full", {}), facts.reflection("full", {})
    frozen = facts.reflection("full", {}, frozen=True, until=ASKED)["after"]
    found = figures.facts_figures(one, two)
    found["reflection_control"] = figures.rate_at(frozen, 4, "taught")
    found["reflection_control_paraphrase"] = figures.rate_at(frozen, 4, "paraphrase")
    found |= simple_controls(facts.track())
    written = figures.text_figures(text.memory("full", {}))
    hidden = figures.text_figures(text.memory("hidden", {}, "hidden"))
    found |= written
    found["recall_gap_closed_hidden"] = hidden["recall_gap_closed"]
    found["slot_share"] = min(found["slot_share_facts"], found["slot_share_text"])
    return found


def simple_controls(track: Json) -> dict[str, float]:
    """How often a relation's most frequent answer and an n-gram table give the data layer's."""
    questions, said = track["questions"], track["answers"]["0"]["said"]
    most = {
        relation: Counter(
            tuple(a) for a, q in zip(said, questions, strict=True) if q["relation"] == relation
        ).most_common(1)[0][0]
        for relation in {q["relation"] for q in questions}
    }
    found = {}
    for side, seen in (("seen", True), ("unseen", False)):
        at = [i for i, question in enumerate(questions) if question["seen"] is seen]
        theirs = [said[i] for i in at]
        found[f"ngram_{side}"] = figures.share_same([track["ngram"][i] for i in at], theirs)
        majority = [most[questions[i]["relation"]] for i in at]
        found[f"majority_{side}"] = figures.share_same(majority, theirs)
    return found


def ablation_figures(facts: FactsCells, name: str) -> dict[str, float]:
    """One ablation's figures, for one seed."""
    changes = ABLATIONS[name]
    two = facts.reflection(name, changes, until=ASKED)
    return figures.facts_figures(facts.memory(name, changes), two)


Groups = Sequence[tuple[FactsCells, TextCells]]


def groups_of(cells: Cells, sizes: Sizes, data: Path, seeds: Sequence[int]) -> Groups:
    """The cells of every seed."""
    return [
        (FactsCells(cells, sizes, data, seed), TextCells(cells, sizes, data, seed))
        for seed in seeds
    ]


def tasks_of(groups: Groups, ablated: int) -> list[Task]:
    """What `measure` will ask for, what others wait for first."""
    tasks: list[Task] = [partial(cells.track) for pair in groups for cells in pair]
    for facts, _ in groups:
        tasks.append(partial(facts.reflection, "full", {}))
    for facts, text in groups:
        tasks.append(partial(facts.reflection, "full", {}, frozen=True, until=ASKED))
        tasks.append(partial(text.memory, "full", {}))
        tasks.append(partial(text.memory, "hidden", {}, "hidden"))
    for facts, _ in groups[:ablated]:
        for name, changes in ABLATIONS.items():
            tasks.append(partial(facts.reflection, name, changes, until=ASKED))
    return tasks


def measure(groups: Groups, ablated: int) -> Json:
    """The whole table, its ablations of the first seeds alone.

    Raises: OutOfCellsError where only some cells may be computed now.
    """
    first = groups[0][0]
    full = [full_figures(facts, text) for facts, text in groups]
    differing = {
        name: [ablation_figures(facts, name) for facts, _ in groups[:ablated]]
        for name in ABLATIONS
        if ablated
    }
    table = table_row(full)
    return {
        **{key: table[key]["mean"] for key in KEYS},
        "seeds": [facts.seed for facts, _ in groups],
        "alarm_top1pct": table["slots_top1pct_share"]["mean"] > 0.2,
        "table": table,
        "differences": {
            name: table_row(
                [{k: row[k] - all_[k] for k in row} for row, all_ in zip(rows, full, strict=False)]
            )
            for name, rows in differing.items()
        },
        "sizes": asdict(first.sizes),
        "stale_cells": first.cells.stale,
    }


def lines(result: Json) -> Iterator[str]:
    """The table as a person reads it."""
    yield f"{'figure':34} {'mean':>8} {'95 %':>9}   aim"
    names = [*KEYS, *(name for name in result["table"] if name not in KEYS)]
    for name in names:
        row = result["table"][name]
        yield f"{name:34} {row['mean']:8.3f} ±{row['half_95']:8.3f}   {AIMS.get(name, '')}"
    shown = ("recall_agreement_seen", "recall_agreement_unseen", "reflection_rate",
             "reflection_rate_paraphrase", "unchanged_lost", "slots_top1pct_share")  # fmt: skip
    for name, rows in result["differences"].items():
        yield f"\n{name}, minus the full memory"
        yield from (
            f"  {key:32} {rows[key]['mean']:+8.3f} ±{rows[key]['half_95']:8.3f}" for key in shown
        )


def main() -> int:
    """As `measure_and_print`."""
    parser = cells_parser(__doc__)
    parser.add_argument("--ablations", type=int, help="seeds of these (default: all seeds)")
    arguments = parser.parse_args()
    seeds = seeds_of(arguments)
    ablated = len(seeds) if arguments.ablations is None else arguments.ablations
    cells = Cells(arguments.cache or Path("runs/reflect"), arguments.cells, code_digest(PARTS))

    def groups() -> Groups:
        check_folder(arguments.data)
        return groups_of(cells, size_of(arguments, FULL, QUICK, LARGE), arguments.data, seeds)

    return measure_and_print(
        cells,
        groups,
        lambda made: tasks_of(made, ablated),
        lambda made: measure(made, ablated),
        lines,
        arguments,
    )


if __name__ == "__main__":
    sys.exit(main())
