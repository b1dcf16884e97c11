"""A memory for a model that exists already: what it gives, and what it costs.

    python -m benchmarks.pretrained --json [--quick] [--data ../shared/data] [--cache DIR]
                                    [--rows memory,lora,all,speed,step] [--seeds N]

SmolLM2-135M (`benchmarks.real_model`) and facts of ParaRel that it does not know; whole answers,
greedy, in wordings that are held out by lemma. The model alone is the control. What was measured is
kept in --cache, so that the same command goes on where it was interrupted. The row memory is of
--seeds draws of facts, of each of which a run learns with the same seed: means, and in `ranges` the
least and the most.

    row      figures (top-level keys of the JSON; null where a row was not asked for)
    memory   help_gain_facts, taught_gain    answers with memory minus those of the model alone, in
                                 wordings held out and in taught ones, after `tandem learn MODEL`
             help_text_cost      nats on general text with memory, over the model alone
             commands_to_memory, minutes
    lora, all
             base_text_cost      nats on general text that a run by defaults costs the model alone;
                                 `port` (of row memory): 0 where it has the same bits
    speed    data_ratio          the data group's tokens per core-second over a plain loop's
             snapshot_mib, store_bytes_per_trained
    step     peak_over_plain     peak memory of a rank of each group over a plain loop's, where
                                 adapters train, at 16 x 256 tokens (--quick: 4 x 256)
             vocab_frac          share of the memory's step with a vocabulary dimension, CPU time
                                 (`benchmarks.pretrained_memory`)
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks import pretrained_memory
from benchmarks.cells import Cells, code_digest
from benchmarks.cells_command import QUICK_SEEDS, SEEDS
from benchmarks.learning_data import NEEDED, NOVEL, check_folder
from benchmarks.pretrained_runs import FULL, QUICK, Size, facts_of, learned_memory, tuned_model
from benchmarks.pretrained_speed import speed
from benchmarks.real_model import MissingModelError, default_cache, real_model
from benchmarks.reflect_data import MissingDataError

Json = dict[str, Any]
ROWS = ("memory", "lora", "all", "speed", "step")
MEMORY = "memory-"  # and the seed: a cell
TRAINS = ("port", "lora", "all")
PARTS = (
    "pretrained_runs",
    "pretrained_speed",
    "pretrained_memory",
    "real_model",
    "learning_data",
)
WINDOW = 256  # tokens, of the steps whose peak is measured
AIMS = {
    "help_gain_facts": ">= 0.4",
    "taught_gain": ">= 0.9",
    "base_text_cost": "port 0 (same bits), lora <= 0.02, all <= 0.1",
    "help_text_cost": "<= 0.02",
    "peak_over_plain": "data <= 1.2, memory <= 1.5",
    "vocab_frac": "<= 0.35",
    "data_ratio": ">= 0.9",
    "snapshot_mib": "lora <= 12, port <= 4",
    "store_bytes_per_trained": "<= 20",
    "commands_to_memory": "<= 4",
    "minutes": "as it comes",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints; 0: done."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="60 facts, short runs")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--cache", type=Path, default=None, help="where results are kept")
    parser.add_argument("--rows", default=",".join(ROWS), help="which to measure")
    parser.add_argument(
        "--seeds", type=int, default=None, help="draws of facts of the row memory (3; quick 1)"
    )
    given = parser.parse_args(arguments)
    seeds = range(given.seeds or (QUICK_SEEDS if given.quick else SEEDS))
    rows = given.rows.split(",")
    if wrong := sorted({*rows} - {*ROWS}):
        parser.error(f"--rows {','.join(wrong)}: expected some of {','.join(ROWS)}")
    try:
        check_folder(given.data)
        cells = (given.cache or default_cache()).absolute()
        result = measure(given.data, cells, QUICK if given.quick else FULL, rows, seeds)
    except (MissingDataError, MissingModelError) as err:
        print(f"benchmarks.pretrained: {err}", file=sys.stderr)
        return 2
    if given.json:
        print(json.dumps(result))
    else:
        for name, aim in AIMS.items():
            print(f"{name:24} {json.dumps(result[name]):40} aim: {aim}")
    return 0


def measure(
    data: Path, cache: Path, size: Size, rows: Sequence[str], seeds: Sequence[int] = (0,)
) -> Json:
    """The figures of these rows; `seeds`: of the row memory.

    Raises:
        MissingModelError, MissingDataError: what is needed is not there.
    """
    model = real_model(cache)
    facts = _facts(data, cache, size, 0)
    cells = Cells(cache / "cells", code=code_digest(PARTS))
    key = {"size": vars(size), "data": list(NEEDED)}
    found: dict[str, Json] = {}

    def cell(name: str, compute: Callable[[Path], Json]) -> None:
        found[name] = cells.get(name, key, compute)

    if "memory" in rows:
        for seed in seeds:
            drawn = _facts(data, cache, size, seed)
            cell(
                f"{MEMORY}{seed}",
                lambda path, f=drawn, s=seed: learned_memory(model, f, _folder(path), size, s),  # type: ignore[misc]
            )
    for train in ("lora", "all"):
        if train in rows:
            cell(train, lambda path, t=train: tuned_model(model, facts, _folder(path), t, size))  # type: ignore[misc]
    if "speed" in rows:
        for train in TRAINS:
            cell(f"speed-{train}", lambda path, t=train: speed(model, facts, t, size))  # type: ignore[misc]
    if "step" in rows:
        cell("step", lambda path: step_figures(model, data / NOVEL, size))
    return figures(found) | {"stale": cells.stale, "cells": found}


def step_figures(model: Path, text: Path, size: Size) -> Json:
    """Peaks and the vocabulary's share; both loops train adapters."""
    batch = ("--batch", str(size.batch), "--window", str(WINDOW))
    return pretrained_memory.figures(
        str(model), str(text.absolute()), *batch, "--set", 'data.layer.train="lora"'
    )


def _facts(data: Path, cache: Path, size: Size, seed: int) -> Path:
    return facts_of(data, cache / f"facts-{size.num_facts}-{seed}", size, seed)


def _folder(path: Path) -> Path:
    folder = path.with_name(f"{path.name}-runs")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def memory_figures(memory: Json) -> dict[str, float]:
    """Those of one draw of facts."""
    summary = memory["summary"]
    gains = [
        summary[section]["help"] - summary[section]["own"]
        for section in ("accuracy", "accuracy_seen")
    ]
    heldout = summary["heldout"]
    return {
        "help_gain_facts": gains[0],
        "taught_gain": gains[1],
        "help_text_cost": heldout["general_help_loss"] - heldout["general_own_loss"],
        "commands_to_memory": memory["commands"],
        "minutes": memory["minutes"],
    }


def figures(found: Mapping[str, Json]) -> Json:
    """The table's figures, out of what was measured."""
    result: Json = dict.fromkeys(AIMS)
    cost: dict[str, float | None] = {}
    if memories := [row for name, row in found.items() if name.startswith(MEMORY)]:
        rows = [memory_figures(row) for row in memories]
        result |= {name: fmean(row[name] for row in rows) for name in rows[0]}
        result["ranges"] = {n: [f([row[n] for row in rows]) for f in (min, max)] for n in rows[0]}
        cost["port"] = 0.0 if all(row["same_bits"] for row in memories) else None
    for train in ("lora", "all"):
        if train in found:
            summary = found[train]["summary"]
            before = summary["before"]["heldout"]["general_own_loss"]
            cost[train] = summary["heldout"]["general_own_loss"] - before
    result["base_text_cost"] = cost or None
    if step := found.get("step"):
        result["peak_over_plain"], result["vocab_frac"] = (
            step["peak_over_plain"],
            step["vocab_frac"],
        )
    speeds = {t: found[f"speed-{t}"] for t in TRAINS if f"speed-{t}" in found}
    if speeds:
        result["data_ratio"] = {t: row["ratio"] for t, row in speeds.items()}
        for name in ("snapshot_mib", "store_bytes_per_trained"):
            result[name] = {t: row[name] for t, row in speeds.items()}
    return result


if __name__ == "__main__":
    sys.exit(main())
