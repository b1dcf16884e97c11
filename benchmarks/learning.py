"""Whether the memory helps the data layer learn, and whether it learns on its own.

    python -m benchmarks.learning --json [--quick] [--data ../shared/data] [--cache DIR]
                                  [--cells N] [--rows help,loss,...]

Drives both trainers in one process, which is what a lockstep run computes, on real facts (ParaRel)
and a novel. Answers are whole ones, greedy. Cells are kept in --cache: the same command goes on
where it was interrupted.

    row      figures (top-level keys of the JSON; null where a row was not asked for or has none)
    help     tokens_ratio        data tokens until the final accuracy of plain training in unseen
                                 wordings, over those of plain training; both curves smoothed
             all_tokens_ratio, core_seconds_ratio    the same with both groups' tokens, seconds
    loss     help_gain, help_gain_low    own minus help loss, and the low end of its 95 % interval:
                                 over seeds, with one seed over held-out windows
             help_gain_over_ensemble     minus what an ensemble gains
             own_cost            own loss minus plain training's at the same tokens
    alone    new_fact_accuracy   new facts in seen wordings, data layer frozen, with memory
             new_paraphrase_ratio    the same in unseen ones above baseline, over full fine-tuning
    forget   forgetting_over_lora    nats lost on old facts and text, over LoRA's; null where LoRA
                                 forgets less than 0.05
    joint    joint_gap           help loss minus that of one loop that trains both
             joint_wall_ratio    its seconds, two threads, over those of two processes
    stale    stale_curve         help loss and reflection by staleness and publish_every

Not here: `tandem evaluate --learn` and `tandem learn`, which do this to a user's run.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import zip_longest
from pathlib import Path
from typing import Any

from benchmarks import learning_figures as figures
from benchmarks.cells import Cells, Task, code_digest
from benchmarks.cells_command import cells_parser, measure_and_print, seeds_of, size_of
from benchmarks.intervals import interval_95
from benchmarks.learning_alone import AloneCells
from benchmarks.learning_controls import MissingPeftError
from benchmarks.learning_data import check_folder
from benchmarks.learning_specs import FULL, LARGE, QUICK, Sizes
from benchmarks.learning_together import TogetherCells

Json = dict[str, Any]
Figures = dict[str, float | None]
ROWS = ("help", "loss", "alone", "forget", "joint", "stale")
PARTS = (
    "cells",
    "intervals",
    "small_specs",
    *(f"learning_{part}" for part in ("alone", "cells", "controls", "data", "drive", "exam")),
    "learning_joint",
    "learning_specs",
    "learning_together",
    "reflect_data",
)
AIMS = {
    "tokens_ratio": "<= 0.7",
    "all_tokens_ratio": "as it comes",
    "core_seconds_ratio": "as it comes",
    "help_gain": "> the ensemble's",
    "help_gain_low": "> 0",
    "help_gain_over_ensemble": "> 0",
    "own_cost": "<= 0.01",
    "new_fact_accuracy": "as it comes",
    "new_paraphrase_ratio": ">= 1",
    "forgetting_over_lora": "<= 0.2",
    "joint_gap": "<= 0.01",
    "joint_wall_ratio": "as it comes",
}
KEYS = tuple(AIMS)
WHY_NONE = {  # of what a figure without a value mostly lacks
    **dict.fromkeys(
        ("tokens_ratio", "all_tokens_ratio", "core_seconds_ratio"),
        "plain training's end was never reached",
    ),
    "new_paraphrase_ratio": "full fine-tuning is not above the baseline",
    "forgetting_over_lora": "no LoRA, or one that forgets less than 0.05 nats",
}


def help_row(cells: TogetherCells) -> Figures:
    """Does it help the data layer learn?"""
    pair, plain, larger, ensemble = cells.pair(), cells.plain(), cells.larger(), cells.ensemble()
    end = pair["final"]
    found: Figures = dict(figures.help_ratios(pair["curve"], plain["curve"], "help"))
    for name, voice, curve in (
        ("own", "own", pair["curve"]),
        ("larger", "own", larger["curve"]),
        ("ensemble", "help", ensemble["curve"]),
    ):
        ratios = figures.help_ratios(curve, plain["curve"], voice)
        found[f"tokens_ratio_{name}"] = ratios["tokens_ratio"]
    found |= {f"accuracy_{voice}": value for voice, value in end["unseen"].items()}
    found |= {f"accuracy_seen_{voice}": value for voice, value in end["seen"].items()}
    return found | {
        "accuracy_plain": plain["final"]["unseen"]["own"],
        "accuracy_larger": larger["final"]["unseen"]["own"],
        "accuracy_ensemble": ensemble["curve"][-1]["help"],
        "accuracy_baseline": end["baseline"],
        "probes": end["probes"],
        "parameters_plain": plain["parameters"],
        "parameters_both": larger["total_parameters"],
        "parameters_larger": larger["parameters"],
    }


def loss_row(cells: TogetherCells) -> Figures:
    """Does it help in loss, and what does it cost the data layer?"""
    pair, plain, ensemble = cells.pair()["final"], cells.plain()["final"], cells.ensemble()["final"]
    gain = ensemble["help_gain"]
    return {
        "help_gain": pair["help_gain"],
        "help_gain_low": figures.gain_low(pair["gains"]),
        "help_gain_ensemble": gain,
        "help_gain_over_ensemble": pair["help_gain"] - gain,
        "own_cost": pair["own_loss"] - plain["own_loss"],
        "help_over_plain": pair["help_loss"] - plain["own_loss"],
        "help_over_larger": pair["help_loss"] - cells.larger()["final"]["own_loss"],
        "help_over_ensemble": pair["help_loss"] - ensemble["help_loss"],
        "mixing": pair["mixing"],
    }


def controls(cells: AloneCells, missing: set[str]) -> dict[str, Json]:
    """The best of the learning rates of full fine-tuning, and of LoRA where it can be measured."""
    full = {f"{rate:g}": cells.full(rate)["own"] for rate in cells.sizes.full_rates}
    found = {"full": full[figures.best(full)]}
    try:
        lora = {f"{rate:g}": cells.lora(rate)["own"] for rate in cells.sizes.lora_rates}
        found["lora"] = lora[figures.best(lora)]
    except MissingPeftError as err:
        missing.add(str(err))
    return found


def alone_row(cells: AloneCells, missing: set[str]) -> Figures:
    """Can the memory learn on its own?"""
    cells.base()
    memory = cells.memory()
    voices = {"help": memory["help"], "memory": memory["memory"], **controls(cells, missing)}
    highest = figures.ceiling([cell["curve"] for cell in voices.values()])
    found: Figures = {"new_ceiling": highest}
    for name, cell in voices.items():
        after = cell["after"]
        found |= {f"new_{side}_{name}": after[f"new_{side}"] for side in ("seen", "unseen")}
        until = figures.until_ceiling(cell["curve"], highest)
        found |= {f"new_{cost}_{name}": value for cost, value in until.items()}
    after, full = memory["help"]["after"], voices["full"]["after"]
    baseline = after["new_baseline_unseen"]
    return found | {
        "new_fact_accuracy": after["new_seen"],
        "new_paraphrase_ratio": figures.above_baseline_ratio(
            after["new_unseen"], full["new_unseen"], baseline
        ),
        "new_baseline_seen": after["new_baseline_seen"],
        "new_baseline_unseen": baseline,
    }


def forget_row(cells: AloneCells, missing: set[str]) -> Figures:
    """What is forgotten after it?"""
    base, memory = cells.base(), cells.memory()
    voices = {"help": memory["help"], "memory": memory["memory"], **controls(cells, missing)}
    lost = {name: figures.forgotten(cell) for name, cell in voices.items()}
    found: Figures = {
        f"forgotten_{what}_{name}": value
        for name, values in lost.items()
        for what, value in values.items()
    }
    found |= {f"old_unseen_{voice}": base[voice]["old_unseen"] for voice in ("own", "help")}
    found |= {f"old_text_loss_{voice}": base[voice]["text_loss"] for voice in ("own", "help")}
    if "lora" in lost:
        over = figures.forgetting_over(lost["help"]["nats"], lost["lora"]["nats"])
        found["forgetting_over_lora"] = over
    return found


def joint_row(cells: TogetherCells) -> Figures:
    """What does decoupling cost?"""
    pair, joint, times = cells.pair()["final"], cells.joint()["final"], cells.joint_times()
    return {
        "joint_gap": pair["help_loss"] - joint["help_loss"],
        "joint_own_gap": pair["own_loss"] - joint["own_loss"],
        "joint_accuracy_help": joint["unseen"]["help"],
        "joint_help_loss": joint["help_loss"],
        "joint_wall_ratio": times["joint_2_s"] / times["decoupled_s"],
        "joint_wall_ratio_one_thread": times["joint_1_s"] / times["decoupled_s"],
    }


def stale_row(cells: TogetherCells) -> Figures:
    """What does staleness cost?"""
    found: Figures = {}
    for staleness, every in cells.arms:
        curve = cells.stale(staleness, every)["curve"]
        changed = sum(row["changed"] for row in curve)
        name = f"stale_{staleness}_{every}"
        found[f"{name}_help_loss"] = curve[-1]["help_loss"]
        found[f"{name}_reflection"] = figures.ratio(sum(row["followed"] for row in curve), changed)
        found[f"{name}_changed"] = changed
    return found


def seed_figures(
    together: TogetherCells, alone: AloneCells, rows: Sequence[str], missing: set[str]
) -> Figures:
    """The wanted rows of one seed."""
    found: Figures = {}
    for name, row in (
        ("help", help_row),
        ("loss", loss_row),
        ("joint", joint_row),
        ("stale", stale_row),
    ):
        if name in rows:
            found |= row(together)
    if "alone" in rows:
        found |= alone_row(alone, missing)
    if "forget" in rows:
        found |= forget_row(alone, missing)
    return found


def table_of(per_seed: Sequence[Figures]) -> dict[str, Json]:
    """Mean and half interval of every figure; no mean where a seed has none."""
    table: dict[str, Json] = {}
    for name in per_seed[0]:
        values = figures.joined(per_seed, name)
        mean, half = (None, None) if values is None else interval_95(values)
        half = half if len(per_seed) > 1 else None
        known = sum(row.get(name) is not None for row in per_seed)
        table[name] = {"mean": mean, "half_95": half, "seeds": known}
    if len(per_seed) > 1 and "help_gain_low" in table:
        gain = table["help_gain"]
        table["help_gain_low"] = {**gain, "mean": gain["mean"] - gain["half_95"], "half_95": None}
    return table


def curve_of(table: Mapping[str, Json], prefix: str) -> dict[str, Json]:
    """The rows of the table that begin so, without the beginning."""
    return {n.removeprefix(prefix): row for n, row in table.items() if n.startswith(prefix)}


Groups = Sequence[tuple[TogetherCells, AloneCells]]


def curves_of(groups: Groups) -> dict[str, list[Json]]:
    """What the help row was made of: by cell, one curve per seed."""
    names = ("pair", "plain", "larger", "ensemble")
    return {name: [getattr(cells, name)()["curve"] for cells, _ in groups] for name in names}


def groups_of(
    cells: Cells, sizes: Sizes, data: Path, seeds: Sequence[int], changes: Mapping[str, Any]
) -> Groups:
    """The cells of every seed."""
    return [
        (
            TogetherCells(cells, sizes, data, seed, changes),
            AloneCells(cells, sizes, data, seed, changes),
        )
        for seed in seeds
    ]


def tasks_of(groups: Groups, rows: Sequence[str]) -> list[Task]:
    """What `measure` will ask for, of every seed by turns: first what others of it wait for."""
    lists = [cells.tasks(rows) for pair in groups for cells in pair]
    return [task for turn in zip_longest(*lists) for task in turn if task is not None]


def measure(groups: Groups, rows: Sequence[str]) -> Json:
    """The table of these rows.

    Raises: OutOfCellsError where only some cells may be computed now.
    """
    missing: set[str] = set()
    per_seed = [seed_figures(together, alone, rows, missing) for together, alone in groups]
    first = groups[0][0]
    table = table_of(per_seed)
    return {
        **{key: table[key]["mean"] if key in table else None for key in KEYS},
        "stale_curve": curve_of(table, "stale_"),
        "curves": curves_of(groups) if "help" in rows else {},
        "seeds": [together.seed for together, _ in groups],
        "rows": list(rows),
        "table": table,
        "missing": sorted(missing),
        "changes": dict(first.changes),
        "sizes": asdict(first.sizes),
        "stale_cells": first.cells.stale,
    }


def lines(result: Json) -> Iterator[str]:
    """The table as a person reads it."""
    yield f"{'figure':32} {'mean':>10} {'95 %':>9}   aim"
    table: dict[str, Json] = result["table"]
    for name in [*(key for key in KEYS if key in table), *(n for n in table if n not in KEYS)]:
        row = table[name]
        if row["mean"] is None:
            known = f" ({row['seeds']} of {len(result['seeds'])} seeds have it)"
            why = f"{WHY_NONE.get(name, '')}{known}"
            yield f"{name:32} {'n/a':>10} {'':>9}   {AIMS.get(name, '')}   {why}"
        else:
            half = "" if row["half_95"] is None else f"±{row['half_95']:8.3f}"
            yield f"{name:32} {row['mean']:10.3f} {half:>9}   {AIMS.get(name, '')}"
    yield from (f"missing: {what}" for what in result["missing"])


def changes_of(arguments: Sequence[str]) -> dict[str, Any]:
    """NAME=VALUE pairs, each value as JSON."""
    pairs = (argument.partition("=") for argument in arguments)
    return {name: json.loads(value) for name, _, value in pairs}


def main() -> int:
    """As `measure_and_print`."""
    parser = cells_parser(__doc__)
    parser.add_argument("--rows", default=",".join(ROWS), help=f"some of {','.join(ROWS)}")
    parser.add_argument("--change", action="append", default=[], metavar="NAME=JSON",
                        help="a setting of every memory and pair, by dotted name")  # fmt: skip
    arguments = parser.parse_args()
    rows = arguments.rows.split(",")
    if unknown := [row for row in rows if row not in ROWS]:
        parser.error(f"no row {unknown[0]}; there are {', '.join(ROWS)}")
    cells = Cells(arguments.cache or Path("runs/learning"), arguments.cells, code_digest(PARTS))

    def groups() -> Groups:
        check_folder(arguments.data)
        return groups_of(cells, size_of(arguments, FULL, QUICK, LARGE), arguments.data,
                         seeds_of(arguments), changes_of(arguments.change))  # fmt: skip

    return measure_and_print(
        cells,
        groups,
        lambda made: tasks_of(made, rows),
        lambda made: measure(made, rows),
        lines,
        arguments,
    )


if __name__ == "__main__":
    sys.exit(main())
