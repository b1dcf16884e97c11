"""Reserves the CPUs and GPUs of both groups at once, or says per resource what is missing.

One placement group for the run, so that two half-started runs can't each hold what the other needs.
A Tune trial hands in its own instead. Called by `run`; nothing else creates placement groups.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group

from actors.spec import DATA, GROUPS, MEMORY, WorkersSpec
from orchestrator.config import Config
from orchestrator.errors import InterruptedRunError, PlacementError

Resources = dict[str, float]


@dataclass(frozen=True)
class Seats:
    """Where a run's processes sit.

    Attributes:
        group: a placement group that holds `bundles(config)`.
        first_bundle: index of the first of them; a Tune trial's driver sits before them.
    """

    group: PlacementGroup
    first_bundle: int = 0


EVALUATOR = "evaluator"


def bundle(workers: WorkersSpec) -> Resources:
    """Resources of one worker."""
    return {"CPU": workers.cpus, **({"GPU": workers.gpus} if workers.gpus else {})}


def bundles(config: Config) -> list[Resources]:
    """One bundle per worker, the data group's first, then the memory group's, then the evaluator's
    if it has any.
    """
    wanted = [bundle(config.data.workers)] * config.data.workers.num_workers
    wanted += [bundle(config.memory.workers)] * config.memory.workers.num_workers
    if evaluator := evaluator_bundle(config):
        wanted.append(evaluator)
    return wanted


def evaluator_bundle(config: Config) -> Resources:
    """What the evaluator reserves; empty where it shares with the groups."""
    wanted = {"CPU": config.evaluation.cpus, "GPU": config.evaluation.gpus}
    return {name: amount for name, amount in wanted.items() if amount}


def bundle_index(config: Config, group: str, rank: int) -> int:
    """Index of a worker's bundle."""
    first = {DATA: 0, MEMORY: config.data.workers.num_workers}
    first[EVALUATOR] = first[MEMORY] + config.memory.workers.num_workers
    return first[group] + rank


def shortages(config: Config, available: Mapping[str, float]) -> list[str]:
    """One line per resource of which more is asked for than there is."""
    lines = []
    for resource in ("CPU", "GPU"):
        asked = sum(b.get(resource, 0.0) for b in bundles(config))
        have = available.get(resource, 0.0)
        if asked > have + 1e-9:
            parts = [
                f"{group} {w.num_workers} x {bundle(w).get(resource, 0.0):g}"
                for group, w in zip(
                    GROUPS, (config.data.workers, config.memory.workers), strict=True
                )
            ]
            if extra := evaluator_bundle(config).get(resource):
                parts.append(f"{EVALUATOR} {extra:g}")
            lines.append(f"{resource}: asked {asked:g} ({', '.join(parts)}), available {have:g}")
    return lines


def check_resources(config: Config, available: Mapping[str, float]) -> None:
    """Raises: PlacementError where more is asked for than there is at all."""
    if missing := shortages(config, available):
        raise PlacementError(
            "not enough resources: "
            + "; ".join(missing)
            + "; lower data.workers or memory.workers, or add nodes"
        )


def reserve(config: Config, stop_requested: Callable[[], str | None]) -> PlacementGroup:
    """A ready placement group for both groups.

    Args:
        config: the run.
        stop_requested: asked once a second; a reason ends the wait.

    Raises:
        PlacementError: more asked than the cluster has, or not free within `deadlines.start_s`.
        InterruptedRunError: a stop was requested meanwhile.
    """
    check_resources(config, ray.cluster_resources())
    group = placement_group(bundles(config), strategy="PACK")
    deadline = time.monotonic() + config.deadlines.start_s
    while not group.wait(min(1.0, max(0.01, deadline - time.monotonic()))):
        if (reason := stop_requested()) is None and time.monotonic() < deadline:
            continue
        remove_placement_group(group)
        if reason is not None:
            raise InterruptedRunError(reason)
        free = {k: v for k, v in ray.available_resources().items() if k in ("CPU", "GPU")}
        raise PlacementError(
            f"resources not free after {config.deadlines.start_s:g} s: asked {bundles(config)}, "
            f"free now {free}; "
            "wait for other jobs to end or raise deadlines.start_s"
        )
    return group
