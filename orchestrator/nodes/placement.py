"""Reserves the CPUs and GPUs of both groups at once, each on nodes with the labels that it asks
for; waits for nodes that an autoscaler can add; or says what is missing.

One placement group for the run, so that two half-started runs can't each hold what the other needs.
A Tune trial passes its own instead. Workers that a resize adds get placement groups of their own,
see `seating`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import ray
from ray.util.placement_group import (
    PlacementGroup,
    placement_group,
    placement_group_table,
    remove_placement_group,
)

from actors.settings.groups import WorkersSpec
from actors.settings.node_labels import in_words, meets
from actors.settings.run import EVALUATOR, GROUPS
from orchestrator.errors import InterruptedRunError, PlacementError
from orchestrator.nodes.autoscaler import ScalerState, possible_nodes, scaler_state
from orchestrator.nodes.nodes import Node, cluster_nodes, labels_seen, total
from orchestrator.settings.config import Config

Resources = dict[str, float]


@dataclass(frozen=True)
class Seats:
    """The bundles that are reserved for a run's processes.

    Attributes:
        group: a placement group that holds `bundles(config)`.
        first_bundle: index of the first of them; a Tune trial's driver has the one before.
    """

    group: PlacementGroup
    first_bundle: int = 0


def bundle(workers: WorkersSpec) -> Resources:
    """Resources of one worker."""
    return {"CPU": workers.cpus, **({"GPU": workers.gpus} if workers.gpus else {})}


def bundles(config: Config) -> list[Resources]:
    """One bundle per worker, the data group's first, then the memory group's, then the evaluator's
    if it has any.
    """
    return [_bundle_of(config, name) for name in _names(config)]


def _names(config: Config) -> list[str]:
    """Group, or evaluator, of each of the `bundles`."""
    names = [group for group in GROUPS for _ in range(config.group(group).workers.num_workers)]
    return [*names, EVALUATOR] if evaluator_bundle(config) else names


def _bundle_of(config: Config, name: str) -> Resources:
    return evaluator_bundle(config) if name == EVALUATOR else bundle(config.group(name).workers)


def evaluator_bundle(config: Config) -> Resources:
    """What the evaluator reserves; empty where it uses the groups' resources."""
    wanted = {"CPU": config.evaluation.cpus, "GPU": config.evaluation.gpus}
    return {name: amount for name, amount in wanted.items() if amount}


def bundle_labels(config: Config) -> list[dict[str, str]]:
    """Labels of the nodes that each of the `bundles` asks for, in their order."""
    return [labels_of(config, name) for name in _names(config)]


def labels_of(config: Config, name: str) -> dict[str, str]:
    """Labels of the nodes that a group, or the evaluator, asks for."""
    if name == EVALUATOR:
        return config.evaluation.node_labels
    return config.group(name).workers.node_labels


def bundle_index(config: Config, group: str, rank: int) -> int:
    """Index of a worker's bundle."""
    return _names(config).index(group) + rank


def shortages(config: Config, available: Mapping[str, float]) -> list[str]:
    """One line per resource of which more is asked for than is available."""
    lines = []
    for resource in ("CPU", "GPU"):
        asked = sum(b.get(resource, 0.0) for b in bundles(config))
        have = available.get(resource, 0.0)
        if asked > have + 1e-9:
            parts = [
                f"{group} {w.num_workers} x {bundle(w).get(resource, 0.0):g}"
                for group in GROUPS
                for w in [config.group(group).workers]
            ]
            if extra := evaluator_bundle(config).get(resource):
                parts.append(f"{EVALUATOR} {extra:g}")
            lines.append(f"{resource}: asked {asked:g} ({', '.join(parts)}), available {have:g}")
    return lines


def label_shortages(config: Config, nodes: Sequence[Node]) -> list[str]:
    """One line per group whose labels no node has, or whose nodes have less than is asked."""
    asked: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for name in dict.fromkeys(_names(config)):
        if wanted := labels_of(config, name):
            asked.setdefault(tuple(sorted(wanted.items())), []).append(name)
    lines = []
    for key, names in asked.items():
        wanted, who = dict(key), " and ".join(names)
        mine = [node for node in nodes if meets(node.labels, wanted)]
        if not mine:
            lines.append(
                f"{who}: no node has the labels {in_words(wanted)} (set by "
                f"{', '.join(map(_labels_key, names))}); labels there are: {labels_seen(nodes)}"
            )
            continue
        for resource in ("CPU", "GPU"):
            need = sum(
                _bundle_of(config, name).get(resource, 0.0)
                for name in _names(config)
                if name in names
            )
            have = sum(node.resources.get(resource, 0.0) for node in mine)
            if need > have + 1e-9:
                lines.append(
                    f"{who}: {resource} asked on nodes with {in_words(wanted)}: {need:g}, "
                    f"available {have:g} on {len(mine)} of them"
                )
    return lines


def _labels_key(name: str) -> str:
    return "evaluation.node_labels" if name == EVALUATOR else f"{name}.workers.node_labels"


def check_resources(
    config: Config, available: Mapping[str, float], nodes: Sequence[Node] = ()
) -> None:
    """Raises: PlacementError where more is asked for than the cluster has in total, or labels that
    none of the nodes has.
    """
    if missing := shortages(config, available) + label_shortages(config, nodes):
        raise PlacementError(f"not enough resources: {'; '.join(missing)}; {WHAT_TO_DO}")


WHAT_TO_DO = "lower data.workers or memory.workers, correct their node_labels, or add nodes"


def make_group(config: Config) -> PlacementGroup:
    """A placement group of the run's bundles, each on nodes with its labels; not ready yet."""
    labels = bundle_labels(config)
    return placement_group(
        bundles(config), strategy="PACK", bundle_label_selector=labels if any(labels) else None
    )


def reserve(
    config: Config,
    stop_requested: Callable[[], str | None],
    on_wait: Callable[[str], None] = lambda text: None,
) -> PlacementGroup:
    """A ready placement group for both groups. Waits for an autoscaler that can add what is
    missing.

    Args:
        config: the run.
        stop_requested: asked once a second; a reason ends the wait.
        on_wait: receives what is waited for, once a second.

    Raises:
        PlacementError: more asked than the cluster has or can add, or not there within
            `deadlines.start_s`.
        InterruptedRunError: a stop was requested meanwhile.
    """
    if scaler_state() is None:
        check_resources(config, ray.cluster_resources(), cluster_nodes())
    group = make_group(config)
    deadline = time.monotonic() + config.deadlines.start_s
    try:
        while not group.wait(min(1.0, max(0.01, deadline - time.monotonic()))):
            if (reason := stop_requested()) is not None:
                raise InterruptedRunError(reason)
            state = scaler_state()
            if state is not None and _is_final(state, group):
                _refuse(config)
            waiting = waiting_for(config, state)
            if time.monotonic() >= deadline:
                free = {k: v for k, v in ray.available_resources().items() if k in ("CPU", "GPU")}
                raise PlacementError(
                    f"resources not there after {config.deadlines.start_s:g} s: {waiting}; free "
                    f"now {free}; wait for other jobs to end, or raise deadlines.start_s where "
                    "nodes take longer to start"
                )
            on_wait(waiting)
    except BaseException:  # Ctrl-C, too: nothing may be left behind
        remove_placement_group(group)
        raise
    return group


def _is_final(state: ScalerState, group: PlacementGroup) -> bool:
    """Whether the placement group can never be reserved: the autoscaler has no room for it, no node
    is being started, and no other placement group is reserved that might be released.
    """
    if group.id.hex() not in state.refused or state.starting:
        return False
    return not any(
        row["placement_group_id"] != group.id.hex() and row["state"] == "CREATED"
        for row in placement_group_table().values()
    )


def _refuse(config: Config) -> None:
    """Raises: PlacementError that says what the cluster's node types have no room for. Where the
    types are not known, it names the labels of the present nodes.
    """
    types = possible_nodes()
    missing = shortages(config, total(types)) + label_shortages(config, types) if types else []
    why = missing or [f"labels of the nodes that are there now: {labels_seen(cluster_nodes())}"]
    raise PlacementError(
        "not enough resources: the cluster's autoscaler has no node types that could hold, at "
        f"their max_workers, {asked_for(config)}; {'; '.join(why)}; {WHAT_TO_DO}, or correct the "
        "cluster's node types"
    )


def asked_for(config: Config) -> str:
    """What each group asks for, and on which nodes."""
    names = _names(config)
    parts = []
    for name in dict.fromkeys(names):
        each = _bundle_of(config, name).items()
        what = ", ".join(f"{kind} {amount:g}" for kind, amount in each)
        wanted = labels_of(config, name)
        where = f" on nodes with {in_words(wanted)}" if wanted else ""
        parts.append(f"{name} {names.count(name)} x ({what}){where}")
    return ", ".join(parts)


def waiting_for(config: Config, state: ScalerState | None) -> str:
    """What a run waits for, and which nodes are being started."""
    text = f"waiting for {asked_for(config)}"
    if state is not None and state.starting:
        text += "; starting: " + ", ".join(f"{n} {kind}" for kind, n in state.starting.items())
    return text
