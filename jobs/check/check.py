"""`tandem check`: reports everything that is wrong or too small before a run starts.

Validates as `tandem train` does, with the same messages: the config, the run directory, the corpus
(its first chunk is read), the layers (built without memory), CPUs, GPUs and the object store. Then
prints what the run will take. Starts no process and no training; with a Ray address it looks at the
resources of that cluster.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.table import Table

from actors.corpus.inventory import Inventory
from actors.formats import count, memory_size
from actors.machine.progress import Progress, unseen
from actors.settings.run import DATA, GROUPS
from actors.weights.parameter_counts import ParameterCounts, count_parameters
from jobs.check import footprint
from jobs.check.corpus_check import look_at_corpus
from jobs.check.example import Example
from jobs.check.fit_report import fit_lines, fit_report
from jobs.check.resources import AvailableResources, available_resources, cpu_warnings, free_disk
from jobs.check.schedule_warnings import schedule_warnings
from jobs.check.token_ids import check_starting_tokens
from orchestrator.console import Console
from orchestrator.errors import PlacementError
from orchestrator.loop.exchange import check_fits
from orchestrator.nodes.nodes import total
from orchestrator.nodes.placement import asked_for, bundles, check_resources
from orchestrator.reporting.task_progress import TaskProgress
from orchestrator.reporting.trackers import check_installed
from orchestrator.run_dir.run_dir import RunDir
from orchestrator.settings.config import Config, load_config

EPOCHS_TO_MENTION = 20


def run_check(path: str, overrides: Sequence[str], console: Console, as_json: bool) -> None:
    """Checks a config and prints what its run takes.

    Raises:
        ConfigError: `tandem train` would refuse the config; the message is the same.
    """
    config = load_config(path, overrides)
    with TaskProgress() as progress:
        result = check(config, progress)
    if as_json:
        console.print_json(json.dumps(result))
    else:
        show(result, console)


def check(config: Config, progress: Progress = unseen) -> dict[str, Any]:
    """What a run of `config` takes; `progress` sees what is looked at.

    Raises:
        ConfigError: as `run_check`.
    """
    run_dir = RunDir(config.run_url)
    run_dir.refuse_existing()
    check_installed(config.trackers)
    progress("reading the corpus")
    corpus = look_at_corpus(config)
    progress("building the layers without memory")
    check_starting_tokens(config)
    machine = available_resources(config)
    growing = grows(config, machine)
    counts = count_parameters(config, corpus.num_tokens)
    store = machine.resources.get("object_store_memory", 0.0)
    saves = config.checkpoints.every > 0
    # One more exists while the newest is being written.
    kept = config.checkpoints.keep_last + config.checkpoints.keep_best + 1 if saves else 0
    snapshots = footprint.snapshot_bytes(counts)
    if not growing:  # the object stores of nodes that are yet to be added are unknown
        parts = footprint.checkpoints(config, counts) if saves else {}
        exchanged = {**snapshots, DATA: snapshots[DATA] + footprint.said_bytes(config, counts)}
        check_fits(exchanged, parts, config.retention, store)
    workers = footprint.worker_memory(config, counts)
    evaluator = footprint.evaluator_memory(config, counts)
    memory = {
        group: {
            **asdict(part),
            "total": part.total,
            "num_workers": config.group(group).workers.num_workers,
        }
        for group, part in workers.items()
    }
    result: dict[str, Any] = {
        "status": "ok",
        "name": config.name,
        "parameters": asdict(counts),
        "worker_bytes": memory,
        "evaluator_bytes": {**asdict(evaluator), "total": evaluator.total},
        "store": {
            "needed_bytes": footprint.store_bytes(config, counts),
            "available_bytes": int(store),
            "spilled_bytes": footprint.spilled_bytes(config, counts),
        },
        "disk": {
            "export_bytes": footprint.export_bytes(counts),
            "checkpoint_bytes": footprint.checkpoint_bytes(config, counts),
            "checkpoints_kept": kept,
            "free_bytes": free_disk(config.run_url),
        },
        "asks_for": asked_for(config),
        "resources": {
            name: {
                "asked": sum(b.get(name, 0.0) for b in bundles(config)),
                "available": machine.resources.get(name, 0.0),
            }
            for name in ("CPU", "GPU")
        },
        "machine": {
            "where": machine.where,
            "free_bytes": machine.free_bytes,
            "joined": machine.joined,
        },
        "corpus": asdict(corpus.size) | corpus.inventory.as_dict(),
        "examples": [example.as_dict() for example in corpus.examples],
        **footprint.workload(config, corpus.size),
    }
    result["fitted"], fit_warnings = fit_report(config)
    result["warnings"] = [
        *fit_warnings,
        *growing,
        *corpus.inventory.warnings(),
        *schedule_warnings(config),
        *cpu_warnings(config, machine),
        *warnings(config, result, machine),
    ]
    return result


def grows(config: Config, machine: AvailableResources) -> list[str]:
    """A warning if the cluster has too little now and its autoscaler may add the rest. If its node
    types are unknown here, only the run's request will show whether it can.

    Raises:
        PlacementError: there is too little, and no autoscaler that could add enough.
    """
    try:
        check_resources(config, machine.resources, machine.nodes)
    except PlacementError as err:
        if not machine.autoscales:
            raise
        if machine.possible:
            check_resources(config, total(machine.possible), machine.possible)
        return [
            f"{err}; the cluster has an autoscaler: the run will wait up to deadlines.start_s "
            f"{config.deadlines.start_s:g} s for it to add them"
        ]
    return []


def warnings(config: Config, result: dict[str, Any], machine: AvailableResources) -> list[str]:
    """What is allowed but probably not intended."""
    found = [] if machine.is_mine else [machine.joined]
    evaluator, on_host = result["evaluator_bytes"], result["store"]["needed_bytes"]
    if not config.evaluation.gpus:
        on_host += evaluator["total"]
    elif machine.gpu_bytes is not None:
        needed = evaluator["weights"] + evaluator["activations"]
        share = machine.gpu_bytes * min(1.0, config.evaluation.gpus)
        if needed > share:
            found.append(
                f"evaluator: about {memory_size(needed)}, its share of a GPU is "
                f"{memory_size(share)}; lower evaluation.batch_tokens or raise evaluation.gpus"
            )
    for group in GROUPS:
        memory, workers = result["worker_bytes"][group], config.group(group).workers
        if workers.gpus == 0:
            on_host += memory["total"] * workers.num_workers
        elif machine.gpu_bytes is not None:
            share = machine.gpu_bytes * min(1.0, workers.gpus)
            needed = memory["total"] - memory["libraries"]
            if needed > share:
                found.append(
                    f"{group} worker: about {memory_size(needed)}, its share of a GPU is "
                    f"{memory_size(share)}; lower {group}.batch_size or make the layers smaller"
                )
    if machine.free_bytes is not None and on_host > machine.free_bytes:
        found.append(
            f"memory: all processes and the store take about {memory_size(on_host)}, "
            f"{memory_size(machine.free_bytes)} are free; lower the batch sizes and "
            "evaluation.batch_tokens, or make the layers smaller"
        )
    disk = result["disk"]
    taken = disk["export_bytes"] + disk["checkpoints_kept"] * disk["checkpoint_bytes"]
    if disk["free_bytes"] is not None and taken > disk["free_bytes"]:
        found.append(
            f"disk: exports and checkpoints take {memory_size(taken)}, "
            f"{memory_size(disk['free_bytes'])} are free; choose another storage, or lower "
            "checkpoints.keep_last"
        )
    if result[DATA]["epochs"] > EPOCHS_TO_MENTION and config.corpus.kind == "text":
        found.append(
            f"the data layer reads the whole corpus {result[DATA]['epochs']:.0f} times; more text "
            "or fewer intervals would overfit less"
        )
    return found


def show(result: dict[str, Any], console: Console) -> None:
    """The result as tables."""
    counts = ParameterCounts(**result["parameters"])
    console.print(
        f"parameters: data layer {count(counts.data)} + memory port {count(counts.port)}, "
        f"memory layer {count(counts.memory)} (value table {count(counts.value_table)})",
        highlight=False,
        soft_wrap=True,
    )
    table = Table(title="memory of one worker", title_justify="left")
    for heading in ("", *GROUPS):
        table.add_column(heading, justify="right" if heading else "left")
    memory = result["worker_bytes"]
    for part in (name for name in memory[DATA] if name != "num_workers"):
        label = f"{part} (rough)" if part == "activations" else part
        table.add_row(label, *(memory_size(memory[group][part]) for group in GROUPS))
    table.add_row("workers", *(str(memory[group]["num_workers"]) for group in GROUPS))
    console.print(table)
    work = Table(title="work", title_justify="left")
    for heading in ("group", "steps", "tokens per interval", "tokens", "epochs"):
        work.add_column(heading, justify="left" if heading == "group" else "right")
    for group in GROUPS:
        row = result[group]
        numbers = [f"{row[name]:,}" for name in ("steps", "tokens_per_interval", "tokens")]
        work.add_row(group, *numbers, f"{row['epochs']:.2f}")
    console.print(work)
    store, disk, corpus = result["store"], result["disk"], result["corpus"]
    free = "" if disk["free_bytes"] is None else f", {memory_size(disk['free_bytes'])} free"
    lines = [
        *fit_lines(result["fitted"]),
        *Inventory.from_dict(corpus).lines(),
        f"an epoch: about {corpus['tokens_per_epoch']:,.0f} tokens",
        f"evaluator: {memory_size(result['evaluator_bytes']['total'])} of memory, "
        f"{memory_size(result['evaluator_bytes']['activations'])} of it activations of "
        "evaluation.batch_tokens tokens (rough)",
        f"object store: {memory_size(store['needed_bytes'])} of "
        f"{memory_size(store['available_bytes'])}; where it is no larger, Ray moves up to "
        f"{memory_size(store['spilled_bytes'])} that only a restart would need to disk",
        f"disk: exports {memory_size(disk['export_bytes'])}, at most {disk['checkpoints_kept']} "
        f"checkpoints of {memory_size(disk['checkpoint_bytes'])}{free}",
        *(
            [joined]
            if (joined := result["machine"]["joined"]) not in ("", *result["warnings"])
            else []
        ),
        f"asks for {result['asks_for']}",
        *(
            f"{name}: asked {amount['asked']:g}, {result['machine']['where']} has "
            f"{amount['available']:g}"
            for name, amount in result["resources"].items()
        ),
    ]
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)
    for example in result["examples"]:
        console.print(Example.from_dict(example).shown(), soft_wrap=True)
    for warning in result["warnings"]:
        console.print(f"warning: {warning}", style="yellow", highlight=False, soft_wrap=True)
    console.print(f"{result['name']} can be trained", highlight=False)
