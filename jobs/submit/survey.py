"""Looks at a cluster from inside, before a job is sent to it: `python -m jobs.submit.survey`.

Runs on the cluster as a small job: collects each node's packages, its view of the storage and its
paths, and from Ray the nodes and what the autoscaler may add; prints one line of JSON. Decides
nothing: `preflight` judges, on the machine that submits.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NotRequired, TypedDict

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors.wire import one_line
from jobs.submit.package import JOB_FOLDER
from orchestrator.nodes.autoscaler import possible_nodes, scaler_state
from orchestrator.nodes.node_check import NodeCheck, python_version, remove_mark, write_mark
from orchestrator.processes.ray_actors import check_node_remote
from orchestrator.run_dir.run_dir import RunDir

REQUEST_FILE = "survey.json"
MARKER = "tandem survey: "  # prefix of the line with the answer


@dataclass(frozen=True)
class SurveyRequest:
    """What a survey has to look at.

    Attributes:
        storage: of run directories; empty: none.
        run: a run directory to look for; empty: none.
        paths: files, folders, globs and URLs to look for.
        packages: distributions whose versions to report.
        timeout_s: for the nodes to answer.
    """

    storage: str
    run: str
    paths: tuple[str, ...]
    packages: tuple[str, ...]
    timeout_s: float


class Machine(TypedDict):
    """What a node has, one that is there or one that the autoscaler may add."""

    resources: dict[str, float]
    labels: dict[str, str]


class NodeSurvey(Machine):
    """One node's answer; what is not required is missing where `error` says why."""

    address: str
    error: str
    python: NotRequired[str]
    packages: NotRequired[dict[str, str | None]]
    storage_error: NotRequired[str]
    missing: NotRequired[Sequence[str]]


class Survey(TypedDict):
    """The answer to a request, as plain JSON values."""

    ray: str
    python: str
    storage_error: str
    run_exists: bool
    nodes: list[NodeSurvey]
    autoscales: bool
    possible: list[Machine]


def main() -> None:
    """Answers the request in the job's folder."""
    values = json.loads(Path(JOB_FOLDER, REQUEST_FILE).read_text(encoding="utf-8"))
    request = SurveyRequest(**{**values, "paths": (*values["paths"],)})
    ray.init(address="auto", log_to_driver=False, logging_level="ERROR")
    try:
        print(MARKER + json.dumps(survey(request)), flush=True)
    finally:
        ray.shutdown()


def survey(request: SurveyRequest) -> Survey:
    """The answer as plain JSON values."""
    storage = request.storage
    mark, storage_error = ("", ""), ""
    if storage:
        try:
            mark = write_mark(storage)
        except Exception as err:  # clients of remote storage have errors of their own
            storage_error = one_line(err)
    try:
        nodes = _ask_nodes(request, mark if not storage_error else None)
        exists = bool(request.run) and not storage_error and RunDir(request.run).exists()
    finally:
        if mark[0]:
            remove_mark(storage, mark[0])
    return {
        "ray": ray.__version__,
        "python": python_version(),
        "storage_error": storage_error,
        "run_exists": exists,
        "nodes": nodes,
        "autoscales": scaler_state() is not None,
        "possible": [
            {"resources": _shown(node.resources), "labels": dict(node.labels)}
            for node in possible_nodes()
        ],
    }


def _ask_nodes(request: SurveyRequest, mark: tuple[str, str] | None) -> list[NodeSurvey]:
    alive = [node for node in ray.nodes() if node["Alive"]]
    storage = request.storage if mark else ""
    refs = []
    for number, node in enumerate(alive):
        # URLs are the same from every node, and may take long to list.
        paths = [p for p in request.paths if number == 0 or "://" not in p]
        strategy = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        remote = check_node_remote.options(scheduling_strategy=strategy)
        refs.append(remote.remote(storage, mark or ("", ""), paths, request.packages))
    ready, _ = ray.wait(refs, num_returns=len(refs), timeout=request.timeout_s)
    found: list[NodeSurvey] = []
    for node, ref in zip(alive, refs, strict=True):
        answer: NodeSurvey = {
            "address": node["NodeManagerAddress"],
            "resources": _shown(node["Resources"]),
            "labels": dict(node.get("Labels") or {}),
            "error": "" if ref in ready else f"no answer within {request.timeout_s:g} s",
        }
        if not answer["error"]:
            try:
                check: NodeCheck = ray.get(ref)
                answer["python"], answer["packages"] = check.python, check.packages
                answer["storage_error"], answer["missing"] = check.storage_error, check.missing
            except RayError as err:
                answer["error"] = one_line(err)
        found.append(answer)
    return found


def _shown(resources: Mapping[str, float]) -> dict[str, float]:
    """The resources that runs use."""
    return {name: resources.get(name, 0.0) for name in ("CPU", "GPU")}


if __name__ == "__main__":
    main()
