"""Whether teaching changes what is wanted, keeps everything else, and takes the memory along.

    python -m benchmarks.teach --json [--quick] [--more] [--data ../shared/data] [--cache DIR]

A pair learns ParaRel's facts and a novel. `tandem teach` then teaches it counterfactual and new
facts, one wording of a relation, without its corpus. Beside it, on the data layer alone, with the
same lessons and steps: labels alone at four rates, adapters, random tokens as rehearsal, and two
upper controls that may read the corpus. All whole answers, by the data layer alone unless said.
Cells are kept in --cache: the same command goes on where it was interrupted.

    taught, other_wordings     lessons answered as they were taught, and in wordings that the pair
                               has seen and that were not taught
    unseen                     in wordings that nobody has seen, over the layer's own share there on
                               facts that it always knew
    score                      harmonic mean of CounterFact's ES, PS in unseen wordings, and NS;
                               minus that of the corpus and of random tokens
    kept_lost_seen, _unseen    answers about other facts that were lost
    text_lost_frac             by how much the loss on the novel's end rose
    reflected                  of the answers that changed, those that the memory gives; the control
                               is the memory before
    memory_kept_lost           answers about other facts that the memory lost
    labels_score               of labels alone at the best of four rates; lost by them: labels_lost
    no_bits_ratio              new facts that the memory learned alone and taught without a label,
                               over those taught with the corpus, in wordings that the pair knows
    in_top8, in_top16          new facts among the memory's first proposals, over a table of
                               frequent objects
    drift                      lost after ten teachings (quick: two), less that after one of all
    lora_score, lora_lost      of adapters in the place of the whole model, the better of two rates
    s_per_lesson               seconds of a core for a lesson, everything together

    Of full size, or with --more:
    score_choice8              score where lessons are chosen of the memory's first eight proposals,
                               and those that are not among them are not taught
    quickstart_score, _kept    of the quickstart's pair: score, and answers about other facts that
                               it gives afterwards
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.cells import Cells, Task, code_digest
from benchmarks.cells_command import cells_parser, measure_and_print, seeds_of
from benchmarks.intervals import table_row
from benchmarks.teach_arms import ARMS, LABELS, LORA, TeachCells
from benchmarks.teach_data import check_folder
from benchmarks.teach_more import CHOICES, more
from benchmarks.teach_pairs import FULL, QUICK, PairSizes
from benchmarks.teach_quickstart import quickstart
from benchmarks.teach_scores import pooled

Json = dict[str, Any]
PARTS = (
    "teach_arms",
    "teach_data",
    "teach_more",
    "teach_pairs",
    "teach_quickstart",
    "teach_scores",
)
AIMS = {
    "taught": ">= 0.99",
    "other_wordings": ">= 0.95",
    "unseen": ">= 0.95",
    "score": ">= 0.92",
    "score_corpus_minus": "<= 0.02",
    "score_minus_random": ">= 0.05",
    "kept_lost_seen": "<= 0.02",
    "kept_lost_unseen": "<= 0.04",
    "text_lost_frac": "<= 0.01",
    "reflected": ">= 0.95",
    "reflected_control": "<= 0.05",
    "memory_kept_lost": "<= 0.03",
    "no_bits_ratio": ">= 0.8",
    "in_top8": ">= 1.2",
    "in_top16": ">= 1.2",
    "drift": "<= 0.02",
    "s_per_lesson": "<= 0.2",
}
QUICKSTART = ("changed_taught", "changed_others", "changed_unseen", "kept_unseen", "ns")
MORE_AIMS = {
    "score_choice8": "as it comes",
    "quickstart_score": ">= 0.88",
    "quickstart_kept": ">= 0.95",
}


def figures(cells: TeachCells) -> dict[str, float]:
    """Every figure of one seed."""
    before, taught = cells.arm("before"), cells.arm("teach")
    arms = {name: cells.arm(name)["own"] for name in ARMS}
    own, memory, was = taught["own"], taught["memory"], before["own"]
    proposed, alone, parts = (more(cells, name) for name in ("proposals", "no_bits", "drift"))
    direct = arms["corpus, all wordings"]
    sizes = {"changed": len(cells.lessons.changed), "new": len(cells.lessons.new)}
    labels, lora = (max(some, key=lambda name: arms[name]["score"]) for some in (LABELS, LORA))
    return {
        "taught": pooled(own, "taught", sizes),
        "other_wordings": pooled(own, "others", sizes),
        "unseen": pooled(own, "unseen", sizes) / max(1e-9, was["kept_unseen"]),
        "score": own["score"],
        "score_corpus_minus": arms["corpus"]["score"] - own["score"],
        "score_minus_random": own["score"] - arms["random"]["score"],
        **lost(was, own),
        "reflected": taught["reflected"],
        "reflected_control": taught["reflected_control"],
        "memory_kept_lost": before["memory"]["kept_seen"] - memory["kept_seen"],
        "memory_taught": pooled(memory, "taught", sizes),
        "help_taught": pooled(taught["help"], "taught", sizes),
        "help_kept_seen": taught["help"]["kept_seen"],
        "taught_forced": pooled(own, "taught_forced", sizes),
        "other_wordings_forced": pooled(own, "others_forced", sizes),
        "no_bits_ratio": new_known(alone["own"]) / max(1e-9, new_known(direct, "new_")),
        "no_bits_memory": new_known(alone["memory"]),
        "no_bits_kept_lost": was["kept_seen"] - alone["kept_seen"],
        **{f"in_top{num}": proposed[f"in_top{num}"] / max(1e-9, proposed[f"table_top{num}"])
           for num in CHOICES},
        **{f"share in_top{num}": proposed[f"in_top{num}"] for num in CHOICES},
        "drift": own["kept_seen"] - parts["own"]["kept_seen"],
        "drift_teachings": parts["teachings"],
        "s_per_lesson": taught["cpu_s"] / sum(sizes.values()),
        "labels_score": arms[labels]["score"],
        "labels_lost": lost(was, arms[labels])["kept_lost_seen"],
        "lora_score": arms[lora]["score"],
        "lora_lost": lost(was, arms[lora])["kept_lost_seen"],
        "random_lost": lost(was, arms["random"])["kept_lost_seen"],
        "corpus_lost": lost(was, arms["corpus"])["kept_lost_seen"],
        **{f"score of {name}": found["score"] for name, found in arms.items()},
        **{f"other wordings of {name}": pooled(found, "others", sizes)
           for name, found in arms.items()},
    }  # fmt: skip


def more_figures(cells: TeachCells) -> dict[str, float]:
    """Those that `--quick` leaves out."""
    chosen, start = more(cells, "choices"), quickstart(cells.cells, cells.seed)
    before, after = start["before"], start["after"]
    return {
        "score_choice8": chosen["own"]["score"],
        "choice8 chosen": chosen["chosen_frac"],
        "quickstart_score": after["own"]["score"],
        "quickstart_kept": after["own"]["kept_seen"],
        "quickstart kept before": before["own"]["kept_seen"],
        **{f"quickstart {name}": after["own"][name] for name in QUICKSTART},
        "quickstart memory kept lost": before["memory"]["kept_seen"] - after["memory"]["kept_seen"],
    }


def new_known(found: Json, prefix: str = "") -> float:
    """Of new facts in wordings that the pair has seen."""
    return (found[f"{prefix}taught"] + found[f"{prefix}others"]) / 2


def lost(before: Json, after: Json) -> dict[str, float]:
    """What a data layer no longer knows, of facts and of text."""
    return {
        "kept_lost_seen": before["kept_seen"] - after["kept_seen"],
        "kept_lost_unseen": before["kept_unseen"] - after["kept_unseen"],
        "text_lost_frac": after["text_loss"] / before["text_loss"] - 1,
    }


def tasks_of(groups: Sequence[TeachCells], has_more: bool = False) -> list[Task]:
    """What `measure` will ask for, what others wait for first."""
    tasks: list[Task] = []
    for name in ("before", "teach", *ARMS):
        tasks += [partial(cells.arm, name) for cells in groups]
    for name in ("proposals", "no_bits", "drift"):
        tasks += [partial(more, cells, name) for cells in groups]
    if has_more:
        tasks += [partial(more, cells, "choices") for cells in groups]
        tasks += [partial(quickstart, cells.cells, cells.seed) for cells in groups]
    return tasks


def measure(groups: Sequence[TeachCells], has_more: bool = False) -> Json:
    """The whole table. Raises: OutOfCellsError where only some cells may be computed now."""
    rows = [figures(cells) | (more_figures(cells) if has_more else {}) for cells in groups]
    table, keys = table_row(rows), [*AIMS, *(MORE_AIMS if has_more else ())]
    return {
        **{key: table[key]["mean"] for key in keys},
        "seeds": [cells.seed for cells in groups],
        "table": table,
        "sizes": asdict(groups[0].sizes),
        "stale_cells": groups[0].cells.stale,
    }


def lines(result: Json) -> Iterator[str]:
    """The table as a person reads it."""
    yield f"{'figure':38} {'mean':>8} {'95 %':>9}   aim"
    aims = AIMS | MORE_AIMS
    for name, row in result["table"].items():
        yield f"{name:38} {row['mean']:8.3f} ±{row['half_95']:8.3f}   {aims.get(name, '')}"


def main() -> int:
    """As `measure_and_print`."""
    parser = cells_parser(__doc__)
    parser.add_argument("--more", action="store_true", help="with --quick: what it leaves out too")
    arguments = parser.parse_args()
    has_more = arguments.more or not arguments.quick
    sizes: PairSizes = QUICK if arguments.quick else FULL
    cells = Cells(arguments.cache or Path("runs/teach"), arguments.cells, code_digest(PARTS))

    def groups() -> list[TeachCells]:
        check_folder(arguments.data)
        return [TeachCells(cells, sizes, arguments.data, seed) for seed in seeds_of(arguments)]

    tasks, table = partial(tasks_of, has_more=has_more), partial(measure, has_more=has_more)
    return measure_and_print(cells, groups, tasks, table, lines, arguments)


if __name__ == "__main__":
    sys.exit(main())
