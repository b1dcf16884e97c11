"""Whether a cluster can take a job, judged before the job is sent.

The survey (`jobs.submit.survey`) runs on the cluster as a small job and only collects facts; they
are compared with the job's needs here, on the machine that submits.
"""

from __future__ import annotations

import importlib.metadata
import json
import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any, cast

from actors.settings.node_labels import in_words, meets
from actors.settings.run import EVALUATOR, GROUPS
from actors.wire import ConfigError
from jobs.submit.job_server import JobServer, JobServerError
from jobs.submit.survey import MARKER, REQUEST_FILE, Machine, Survey, SurveyRequest
from orchestrator.nodes.placement import (
    WHAT_TO_DO,
    Resources,
    bundle,
    evaluator_bundle,
    labels_of,
)
from orchestrator.settings.config import Config

POLL_S = 0.5
DISTRIBUTION = "tandem-memory"
CHECKED_ELSEWHERE = frozenset({"ray"})  # with the head's version, before anything is sent


@dataclass(frozen=True)
class Reservation:
    """Resources that one process reserves on one node.

    Attributes:
        who: the process, for messages.
        need: resources.
        labels: that the node must have.
    """

    who: str
    need: Resources
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class JobNeeds:
    """What a job needs from a cluster.

    Attributes:
        reservations: each on one node.
        storage: of its run directory; empty: nothing is written.
        run: the run directory, which must not exist yet; empty: it may exist.
        versions: of the packages installed here.
    """

    reservations: tuple[Reservation, ...]
    storage: str
    run: str
    versions: Mapping[str, str]


def reservations_of(config: Config | None, driver: Resources) -> tuple[Reservation, ...]:
    """The reservations of the driver, the workers and the evaluator."""
    found = [Reservation("driver", driver)]
    if config is not None:
        for group in GROUPS:
            workers = config.group(group).workers
            labels = labels_of(config, group)
            found += [Reservation(f"{group} worker", bundle(workers), labels)] * workers.num_workers
        found.append(Reservation(EVALUATOR, evaluator_bundle(config), labels_of(config, EVALUATOR)))
    return tuple(place for place in found if any(place.need.values()))


def installed_versions() -> dict[str, str]:
    """Versions here of what our package requires; empty if it is not installed."""
    try:
        required = importlib.metadata.requires(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        return {}
    names = [
        match.group() for line in required
        if "extra ==" not in line and (match := re.match(r"[A-Za-z0-9._-]+", line))
    ]  # fmt: skip
    return {n: importlib.metadata.version(n) for n in names if n.lower() not in CHECKED_ELSEWHERE}


def other_packages(survey: Survey, versions: Mapping[str, str]) -> dict[str, str]:
    """Packages that a node lacks or has in another version, and what it has. Local parts of a
    version (`+cu128`), which tell how it was built, are ignored.
    """
    found: dict[str, str] = {}
    for node in survey["nodes"]:
        for name, version in versions.items():
            got = node.get("packages", {}).get(name)
            if not node["error"] and (got is None or _public(got) != _public(version)):
                found.setdefault(name, f"{got or 'none'} on node {node['address']}")
    return found


def _public(version: str) -> str:
    return version.partition("+")[0]


def problems(survey: Survey, needs: JobNeeds, installs: bool) -> list[str]:
    """One line per need that the cluster does not meet.

    Args:
        survey: output of `jobs.submit.survey`.
        needs: of the job.
        installs: whether the job installs packages, so that other versions are allowed.
    """
    found = []
    if not installs and (other := other_packages(survey, needs.versions)):
        lines = "; ".join(f"{n}: expected {needs.versions[n]}, got {g}" for n, g in other.items())
        found.append(
            f"packages: {lines}; install requirements.lock on every node, or submit with --install "
            "to have the job install these"
        )
    if survey["storage_error"]:
        found.append(
            f"storage {needs.storage}: can't be written from the cluster's head: "
            f"{survey['storage_error']}; choose another storage=…, or give the nodes access "
            "(credentials: --env)"
        )
    for node in survey["nodes"]:
        if node["error"]:
            found.append(f"node {node['address']}: {node['error']}; is it healthy (ray status)?")
            continue
        if node["storage_error"]:
            found.append(
                f"storage {needs.storage}: node {node['address']}: {node['storage_error']}; "
                "expected one place that every node reads and writes: a bucket, or a file system "
                "mounted on all"
            )
        for path in node["missing"]:
            found.append(
                f"{path}: neither on this machine nor on node {node['address']}; correct it, or "
                "put it where every node reads it"
            )
    if survey["run_exists"] and needs.run:
        found.append(
            f"run directory {needs.run} exists already; choose another name=…, or continue it: "
            "--resume"
        )
    found += shortages(needs.reservations, survey)
    return found


def shortages(places: Sequence[Reservation], survey: Survey) -> list[str]:
    """Reservations that fit neither on the present nodes nor on those that the autoscaler may add.
    Empty if its node types are unknown, since then only the run's request will show it.
    """
    nodes, possible = survey["nodes"], survey["possible"]
    left = _without_place(places, nodes)
    if left and survey["autoscales"]:
        left = _without_place(places, possible) if possible else []
    if not left:
        return []
    asked = {name: sum(p.need.get(name, 0.0) for p in places) for name in ("CPU", "GPU")}
    scales = f"could scale to {_several(possible)}" if possible else "does not scale"
    return [
        f"resources: asked {_text(asked)} in all, and there is no room for "
        f"{_in_words(left)}; the cluster has {_several(nodes) or 'no nodes'} and {scales}; "
        f"{WHAT_TO_DO}"
    ]


def _without_place(places: Sequence[Reservation], nodes: Sequence[Machine]) -> list[Reservation]:
    """Reservations that do not fit on these nodes; large ones are placed first."""
    rooms = [(dict(node["resources"]), node["labels"]) for node in nodes]
    left = []
    for place in sorted(places, key=_size, reverse=True):
        room = next(
            (r for r, labels in rooms if _fits(place.need, r) and meets(labels, place.labels)), None
        )
        if room is None:
            left.append(place)
            continue
        for name, amount in place.need.items():
            room[name] = room.get(name, 0.0) - amount
    return left


def _several(nodes: Sequence[Machine]) -> str:
    counted = Counter(
        _text(node["resources"])
        + _labelled({k: v for k, v in node["labels"].items() if "/" not in k})
        for node in nodes
    )
    return ", ".join(f"{n} x ({what})" for what, n in counted.items())


def _in_words(places: Sequence[Reservation]) -> str:
    counted = Counter(f"{p.who} ({_text(p.need)}{_labelled(p.labels)})" for p in places)
    return ", ".join(f"{n} x {what}" for what, n in counted.items())


def _labelled(labels: Mapping[str, str]) -> str:
    return f" with {in_words(labels)}" if labels else ""


def _size(place: Reservation) -> tuple[float, bool, float]:
    return place.need.get("GPU", 0.0), bool(place.labels), place.need.get("CPU", 0.0)


def _fits(need: Resources, room: Resources) -> bool:
    return all(room.get(name, 0.0) + 1e-9 >= amount for name, amount in need.items())


def _text(resources: Mapping[str, float]) -> str:
    shown = [f"{amount:g} {name}" for name, amount in resources.items() if amount]
    return ", ".join(shown) or "nothing"


def run_survey(
    server: JobServer, request: SurveyRequest, runtime_env: dict[str, Any], start: str
) -> Survey:
    """Runs the survey on the cluster and returns its output.

    Raises:
        ConfigError: it did not run; with the reason and, for the most frequent one, what to do.
    """
    command = f"{start} -m jobs.submit.survey"
    job_id = server.submit(entrypoint=command, runtime_env=runtime_env)
    deadline = time.monotonic() + request.timeout_s * 2
    while not (job := server.job(job_id)).status.is_terminal():
        if time.monotonic() > deadline:
            server.stop(job_id)
            raise ConfigError(
                f"the pre-flight check has been {job.status.value.lower()} on {server.url} for "
                f"{request.timeout_s * 2:g} s: {job.message}; is the head overloaded (ray "
                "status)? --check-timeout gives it longer"
            )
        time.sleep(POLL_S)
    log = server.log(job_id)
    answer = next((line for line in log.splitlines() if line.startswith(MARKER)), None)
    with suppress(JobServerError):  # only tidies the cluster's list of jobs
        server.delete(job_id)
    if answer is not None:
        return cast(Survey, json.loads(answer.removeprefix(MARKER)))
    last = (log.strip().splitlines() or [job.message or "no log"])[-1]
    if "No module named 'ray'" in log or "not found" in last:
        raise ConfigError(
            f"the cluster's {start.partition(' ')[0]} is not the Python that Ray runs in there "
            f"({last}); name that with --python, e.g. --python /home/ray/.venv/bin/python"
        )
    raise ConfigError(f"the pre-flight check did not run on {server.url}: {last}")


def survey_request_file(request: SurveyRequest) -> tuple[str, str]:
    """Name and content of the file that the survey reads."""
    return REQUEST_FILE, json.dumps(asdict(request))
