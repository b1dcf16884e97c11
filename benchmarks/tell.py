"""What a memory knows after it was told, at once and without training, and what became of the rest.

    python -m benchmarks.tell --json [--quick] [--data ../shared/data] [--cache DIR]
                              [--size full|quickstart] [--rows tell,times,writes,…]

Pairs that learned old facts and a novel, as in `benchmarks.learning`, are told new facts and old
ones with another object. Facts are ParaRel's; with --size quickstart and --quick the quickstart's,
each relation in eight wordings that share their words, so that a small pair knows its own facts in
wordings held out. Whole answers, greedily, with memory, above the relation's most frequent object;
wordings held out by lemma; no weight changes. Cells are kept in --cache. With --quick the row
writes is told in all wordings alone.

    row       figures (top-level keys; told in one wording instead of all: under `one_wording`)
    tell      taught, held_out, held_out_ratio     150 new facts, one write; the ratio is over the
                                                   facts that the pair trained on
              counterfactual, counterfactual_held_out_ratio     100 changed facts
              others_lost     other facts of these relations, share of right answers lost
              text_lost       nats on held-out text
    times     s_per_association_100, s_per_association_1000, one_s     seconds of one core
    writes    after_500_writes     the first 100 of 500 writes
              untold_bits          1: with all taken back, parameters and reads are as before
    strangers strangers_taught, strangers_again     facts of a kind that the pair has never met,
                                                   told in one wording; asked in that and others
              strangers_overrun     others of that kind, of whom nothing was told: share answered
                                    with what was told
              strangers_unnamed_…   the same of subjects that look like no names
              strangers_numbered_…  of numbers, each beside another one of the same digits
    controls  under `controls`: `tandem learn` for 400 steps, full fine-tuning, LoRA, of the same
              new facts and asked the same; of fine-tuning and LoRA the best of the rates
    prompt    under `controls`: some changed facts as a sentence in the prompt of SmolLM2, asked in
              another wording that the pair was told in, and in one held out (not by default)

Not here: what is kept on disk, served and told to a running run.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import learning_figures as figures
from benchmarks.cells import Cells, Task, code_digest
from benchmarks.cells_command import cells_parser, measure_and_print, seeds_of, size_of
from benchmarks.intervals import interval_95
from benchmarks.learning import PARTS, controls
from benchmarks.learning_data import check_folder
from benchmarks.learning_specs import FULL, LARGE, QUICK, Sizes
from benchmarks.real_model import MissingModelError
from benchmarks.small_specs import Layers
from benchmarks.tell_cells import (
    ALL_WORDINGS,
    TellCells,
    TellSizes,
    WorldCells,
    lost,
    world_folder,
)

Json = dict[str, Any]
Figures = dict[str, float | None]
ROWS = ("tell", "times", "writes", "strangers", "controls", "prompt")
PROMPTED = tuple(f"{how}_{kind}" for how in ("alone", "prompted") for kind in ("seen", "unseen"))
BY_DEFAULT = ROWS[:-1]  # the last needs a real model
NEW_FACTS, LEARN_STEPS = 150, 400
WORLD_FACTS = 940  # of the quickstart's, learned before the others are told
QUICKSTART = replace(
    FULL,
    layers=Layers(width=128, head_width=32, dim=128, slots_side=96),
    old_facts=WORLD_FACTS,
    base_intervals=60,
    data_steps=16,
    memory_steps=24,
)
# A table of 48² rows has fewer than 150 facts have keys; with the quickstart's it is quick as well.
QUICK_WORLD = replace(
    QUICK,
    layers=Layers(slots_side=96),
    old_facts=400,
    base_intervals=40,
    data_steps=16,
    memory_steps=36,
    full_rates=(3e-3, 8e-3),
    lora_rates=(3e-3, 1e-2),
)
AS_QUICKSTART = {  # what its config has otherwise than the pairs of `learning`
    "memory.layer.conv_dilations": (1, 2, 4),
    "memory.layer.conv_taps": 4,
    "data.optimizer.weight_decay": 0.3,
    "memory.optimizer.weight_decay": 0.3,
}
AIMS = {
    "taught": ">= 0.98",
    "held_out": "as it comes",
    "held_out_ratio": ">= 0.9",
    "counterfactual": ">= 0.98",
    "counterfactual_held_out_ratio": ">= 0.95",
    "others_lost": "<= 0.02",
    "text_lost": "<= 0.01",
    "s_per_association_100": "<= 0.05",
    "s_per_association_1000": "<= 0.05",
    "one_s": "<= 0.5",
    "after_500_writes": ">= 0.95",
    "untold_bits": "1",
    "strangers_taught": ">= 0.98",
    "strangers_again": "as it comes",
    "strangers_overrun": "<= 0.05",
    "strangers_unnamed_taught": ">= 0.98",
    "strangers_unnamed_again": "as it comes",
    "strangers_unnamed_overrun": "<= 0.05",
    "strangers_numbered_taught": ">= 0.98",
    "strangers_numbered_again": "as it comes",
    "strangers_numbered_overrun": "<= 0.05",
}


def of_told(sizes: Sizes) -> Sizes:
    """The size with as many new facts as are told, which the controls learn."""
    return replace(sizes, new_facts=NEW_FACTS, learn_steps=LEARN_STEPS, learn_every=LEARN_STEPS)


def tell_row(cell: Json) -> Figures:
    """What one told cell says."""
    new, changed, known = cell["new"], cell["changed"], cell["known"]
    theirs = known - cell["known_baseline"]

    def ratio(row: Json) -> float | None:
        """Above the baseline, over the facts that the pair trained on above theirs."""
        return (row["held_out_help"] - row["baseline"]) / theirs if theirs > 0 else None

    lost = [row[f"lost_{side}"] for row in (new, changed) for side in ("seen", "unseen")]
    return {
        "taught": new["taught_help"],
        "held_out": new["held_out_help"],
        "held_out_ratio": ratio(new),
        "counterfactual": changed["taught_help"],
        "counterfactual_held_out_ratio": ratio(changed),
        "others_lost": sum(lost) / len(lost),
        "text_lost": max(new["text_lost"], changed["text_lost"]),
        "known_held_out": known,
        "known_held_out_memory": cell["known_memory"],
        **{f"{name}_{key}": float(value) for name, row in (("new", new), ("changed", changed))
           for key, value in row.items() if key not in ("figures",)},
    }  # fmt: skip


def seed_figures(cells: TellCells, rows: Sequence[str], num_wordings: int) -> Figures:
    """The wanted rows of one seed and number of wordings."""
    found: Figures = {}
    if "tell" in rows:
        found |= tell_row(cells.tell(num_wordings))
    if "times" in rows:
        cell = cells.times(num_wordings)
        found |= {key: cell[key] for key in AIMS if key in cell}
    if "writes" in rows:
        cell = cells.writes(num_wordings)
        found["after_500_writes"] = cell["after"]["help"]
        found["after_500_writes_memory"] = cell["after"]["memory"]
        found["s_per_write"] = cell["s_per_write"]
        found["untold_bits"] = float(cell["untold_bits"])
    if "strangers" in rows:
        cell = {f"strangers_{name}": value for name, value in cells.strangers().items()}
        found |= {key: cell[key] for key in AIMS if key in cell}
    return found


def control_figures(cells: TellCells, missing: set[str]) -> Figures:
    """What gradient steps on the same new facts learn, and forget."""
    voices = {"learn": cells.memory()["help"], **controls(cells, missing)}
    found: Figures = {}
    for name, cell in voices.items():
        before, after = cell["before"], cell["after"]
        forgotten = [lost(before["right"][kind], after["right"][kind]) for kind in before["right"]]
        found |= {
            f"{name}_taught": after["new_seen"],
            f"{name}_held_out": after["new_unseen"],
            f"{name}_others_lost": sum(forgotten) / len(forgotten),
            f"{name}_text_lost": after["text_loss"] - before["text_loss"],
            f"{name}_s_per_association": cell["curve"][-1]["cpu_s"] / NEW_FACTS,
        }
    return found


def prompt_figures(cells: TellCells, missing: set[str]) -> Figures:
    """What a model says of changed facts that stand in its prompt, and without them."""
    try:
        cell = cells.prompt()
    except MissingModelError as err:
        missing.add(str(err))
        return {}
    return {f"prompt_{name}": cell[name] for name in PROMPTED}


def table_of(per_seed: Sequence[Figures]) -> dict[str, Json]:
    """Mean and half interval of every figure."""
    table: dict[str, Json] = {}
    for name in per_seed[0] if per_seed else ():
        values = figures.joined(per_seed, name)
        mean, half = (None, None) if values is None else interval_95(values)
        table[name] = {"mean": mean, "half_95": half if len(per_seed) > 1 else None}
    return table


def measure(groups: Sequence[TellCells], rows: Sequence[str], left_out: Sequence[str] = ()) -> Json:
    """The table of these rows; told in one wording, without those that are left out.

    Raises: OutOfCellsError where only some cells may be computed now.
    """
    missing: set[str] = set()
    every = table_of([seed_figures(cells, rows, ALL_WORDINGS) for cells in groups])
    of_one = [row for row in rows if row not in (*left_out, "strangers")]  # told in one anyway
    one = table_of([seed_figures(cells, of_one, 1) for cells in groups])
    kinds = {"controls": control_figures, "prompt": prompt_figures}
    beside = [
        {k: v for row, figures_of in kinds.items() if row in rows
         for k, v in figures_of(cells, missing).items()}
        for cells in groups
    ]  # fmt: skip

    def keys(table: Json) -> Json:
        return {key: table[key]["mean"] if key in table else None for key in AIMS}

    return {
        **keys(every),
        "one_wording": keys(one),
        "controls": {name: row["mean"] for name, row in table_of(beside).items()},
        "table": every,
        "table_one_wording": one,
        "seeds": [cells.seed for cells in groups],
        "rows": list(rows),
        "missing": sorted(missing),
        "sizes": asdict(groups[0].sizes),
        "told": asdict(groups[0].told),
        "stale_cells": groups[0].cells.stale,
    }


def lines(result: Json) -> Iterator[str]:
    """The table as a person reads it."""
    yield f"{'figure':34} {'all wordings':>12} {'one':>10}   aim"
    for key, aim in AIMS.items():
        shown = [
            "n/a" if v is None else f"{v:.3f}" for v in (result[key], result["one_wording"][key])
        ]
        yield f"{key:34} {shown[0]:>12} {shown[1]:>10}   {aim}"
    for key, value in result["controls"].items():
        yield f"{key:34} {'n/a' if value is None else f'{value:.3f}':>12}"
    yield from (f"missing: {what}" for what in result["missing"])


def tasks_of(groups: Sequence[TellCells]) -> list[Task]:
    """What can be computed ahead."""
    return [cells.base for cells in groups]


def parsed() -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    """The command's options."""
    parser = cells_parser(__doc__)
    parser.add_argument("--rows", default=",".join(BY_DEFAULT), help=f"some of {','.join(ROWS)}")
    parser.add_argument(
        "--size",
        choices=("full", "quickstart"),
        default="full",
        help="facts and layers of benchmarks.learning or of the quickstart",
    )
    arguments = parser.parse_args()
    if arguments.large and arguments.size == "quickstart":
        parser.error("--large is a size of its own: leave out --size quickstart")
    return parser, arguments


def main() -> int:
    """As `measure_and_print`."""
    parser, arguments = parsed()
    rows = arguments.rows.split(",")
    if unknown := [row for row in rows if row not in ROWS]:
        parser.error(f"no row {unknown[0]}; there are {', '.join(ROWS)}")
    parts = (*PARTS, "learning", "tell_cells", "tell_prompt", "tell_strangers")
    cells = Cells(arguments.cache or Path("runs/tell"), arguments.cells, code_digest(parts))

    def groups() -> list[TellCells]:
        check_folder(arguments.data)
        world = arguments.quick or arguments.size == "quickstart"
        full = QUICKSTART if world else FULL
        sizes = of_told(size_of(arguments, full, QUICK_WORLD, LARGE))
        made: Callable[..., TellCells]
        if world:
            data = world_folder(cells, arguments.data)
            told = TellSizes(others=150, probes=400) if arguments.quick else TellSizes()
            made = partial(WorldCells, cells, sizes, data, changes=AS_QUICKSTART, told=told)
        else:
            made = partial(TellCells, cells, sizes, arguments.data, changes={}, told=TellSizes())
        return [made(seed=seed) for seed in seeds_of(arguments)]

    left_out = ("writes",) if arguments.quick else ()  # as many seconds as the pair takes

    def table(made: Sequence[TellCells]) -> Json:
        return measure(made, rows, left_out)

    return measure_and_print(cells, groups, tasks_of, table, lines, arguments)


if __name__ == "__main__":
    sys.exit(main())
