"""`tandem submit`: a job on a Ray cluster, from any directory of any machine that reaches it.

Address, token and versions are checked, then the package's size, then, from inside the cluster,
storage, packages, paths and resources; only then is the job sent. Ctrl-C detaches: the job goes on.
Decides nothing about training: on the cluster runs the command that runs here too.
"""

from __future__ import annotations

import json
import os
import shlex
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from actors.formats import mib
from actors.wire import ConfigError
from jobs.submit import given_env
from jobs.submit.follow import DRIVER_KEY, NAME_KEY, RUN_KEY, follow_job, goes_on
from jobs.submit.inputs import Shipment, check_storage, ship
from jobs.submit.job_server import JobServer, connect
from jobs.submit.package import (
    JOB_FOLDER,
    Entry,
    check_size,
    code_entries,
    pack,
    text_entry,
)
from jobs.submit.preflight import (
    Wanted,
    ask,
    installed_versions,
    other_packages,
    problems,
    survey_questions,
    wanted_places,
)
from jobs.submit.survey import Questions
from jobs.tune.file import load_search
from jobs.tune.spec import vary
from orchestrator.console import Console
from orchestrator.nodes.placement import Resources
from orchestrator.settings.config import Config, load_config
from orchestrator.settings.yaml_file import read_yaml

Kind = Literal["train", "tune", "evaluate"]
CONFIG_FILE, SEARCH_FILE = "config.yaml", "search.yaml"
STOP_MARGIN_S = 30  # beyond `recovery.drain_s`, for the last checkpoint to be written


@dataclass(frozen=True)
class Terms:
    """How a job is sent; what every kind of job has in common.

    Attributes:
        address: of the cluster's dashboard.
        insecure: send without a token or over plain HTTP to another machine.
        wait: follow the job to its end.
        env: variables of the job's processes.
        working_dir: a folder that is sent; None: the packages installed here.
        on_cluster: local paths that mean the cluster's own.
        install: have the job install packages of which the cluster has other versions.
        python: the cluster's command for the Python that Ray runs in.
        driver: resources of the driver.
        max_package_mib: more is not sent.
        check_timeout_s: for the cluster's nodes to answer.
    """

    address: str
    insecure: bool = False
    wait: bool = True
    env: Mapping[str, str] = field(default_factory=dict)
    working_dir: str | None = None
    on_cluster: Sequence[str] = ()
    install: bool = False
    python: str = "python3"
    driver: Resources = field(default_factory=lambda: {"CPU": 1.0})
    max_package_mib: float = 100.0
    check_timeout_s: float = 60.0


@dataclass(frozen=True)
class Job:
    """What is sent.

    Attributes:
        name: of the run or search.
        arguments: of `tandem`, as they are on the cluster.
        run: the directory that it makes; empty: none.
        storage: where that is made; empty: it makes none.
        config: of the run, or of the search's runs; None: not known here.
        entries: files beside the code.
        expected: paths that the cluster must have.
        may_exist: whether the directory may be there already.
    """

    name: str
    arguments: tuple[str, ...]
    run: str
    storage: str = ""
    config: Config | None = None
    entries: tuple[Entry, ...] = ()
    expected: tuple[str, ...] = ()
    may_exist: bool = False

    @property
    def has_inputs(self) -> bool:
        """Whether files must be laid down in the storage first."""
        return any(isinstance(entry.source, Path) for entry in self.entries)


def run_submit(
    kind: Kind,
    target: str,
    overrides: Sequence[str],
    terms: Terms,
    console: Console,
    resume: bool = False,
) -> int:
    """Sends a job and, unless told not to, follows it; returns the job's exit code.

    Raises:
        ConfigError: what is wrong, before the job is sent.
        InterruptedRunError: Ctrl-C, or a connection that is lost; the job goes on.
    """

    def say(text: str, style: str | None = None) -> None:
        console.say(text, style=style)

    job = make_job(kind, target, overrides, terms, resume)
    server = connect(terms.address, terms.insecure, lambda text: say(f"warning: {text}", "yellow"))
    token = "token accepted" if server.has_token else "no token"
    say(f"cluster {server.url}: Ray {server.ray_version}, Python {server.python_version}, {token}")
    code = code_entries(terms.working_dir)
    num_bytes = check_size([*code, *job.entries], terms.max_package_mib)
    what = terms.working_dir or "the installed packages"
    say(
        f"package: {what}, {len(code) + len(job.entries)} files, {mib(num_bytes)} (at "
        f"most {terms.max_package_mib:g})"
    )
    if job.has_inputs:
        say(f"local files of the config travel along and are laid down in {job.storage}")
    survey = check(server, job, terms)
    say(
        f"pre-flight: {len(survey['nodes'])} node(s)"
        + (f", {job.storage} is read and written by each" if job.storage else "")
        + ", packages and resources are there"
    )
    job_id = send(server, job, code, survey, terms)
    say(f"job {job_id} submitted: tandem {shlex.join(job.arguments)}")
    if not terms.wait:
        say(goes_on(server, job_id))
        return 0
    return follow_job(server, job_id, console)


def make_job(
    kind: Kind, target: str, overrides: Sequence[str], terms: Terms, resume: bool = False
) -> Job:
    """What is sent for a command and its target, all that is local resolved.

    Raises:
        ConfigError: what the command itself would refuse, or what a cluster can't have.
    """
    if kind == "evaluate":
        if overrides or resume:
            raise ConfigError("submit evaluate takes a run directory and nothing else")
        if "://" not in target and not os.path.isabs(target):
            raise ConfigError(
                f"{target}: a job has no folder of this machine; name the run as the cluster's "
                "nodes see it, e.g. s3://bucket/runs/my-run or /mnt/shared/runs/my-run"
            )
        name = f"evaluate-{target.rstrip('/').rpartition('/')[2]}"
        return Job(name, ("evaluate", target), "", expected=(target,), may_exist=True)
    if kind == "train":
        shipment = _ship(load_config(target, overrides), terms)
        config = shipment.config
        arguments = ("train", f"{JOB_FOLDER}/{CONFIG_FILE}", *(["--resume"] if resume else []))
        return Job(
            config.name,
            arguments,
            config.run_url,
            config.storage,
            config,
            (*shipment.entries, text_entry(CONFIG_FILE, config.to_yaml())),
            shipment.expected,
            may_exist=resume,
        )
    return _search(target, overrides, terms)


def _search(path: str, overrides: Sequence[str], terms: Terms) -> Job:
    """A search, checked as `tandem tune` checks it, and the config that its trials vary."""
    search = load_search(path, overrides)
    spec = search.spec
    check_storage(spec.storage)
    shipment = _ship(vary(search.base, {}, storage=spec.storage), terms)
    kept = {key: value for key, value in read_yaml(path, overrides).items() if key != "set"}
    text = yaml.safe_dump({**kept, "base": CONFIG_FILE}, sort_keys=False, allow_unicode=True)
    return Job(
        spec.name,
        ("tune", f"{JOB_FOLDER}/{SEARCH_FILE}"),
        search.url,
        spec.storage,
        shipment.config,
        (
            *shipment.entries,
            text_entry(CONFIG_FILE, shipment.config.to_yaml()),
            text_entry(SEARCH_FILE, text),
        ),
        shipment.expected,
        may_exist=True,
    )


def _ship(config: Config, terms: Terms) -> Shipment:
    return ship(config, terms.on_cluster, terms.max_package_mib)


def check(server: JobServer, job: Job, terms: Terms) -> dict[str, Any]:
    """Has the cluster looked at from inside; what was found.

    Raises:
        ConfigError: one line per expectation that it does not meet.
    """
    versions = installed_versions()
    wanted = Wanted(
        places=wanted_places(job.config, terms.driver),
        storage=job.storage,
        run="" if job.may_exist else job.run,
        versions=versions,
    )
    questions = Questions(
        job.storage, wanted.run, job.expected, tuple(versions), terms.check_timeout_s
    )
    entries = [*code_entries(None), text_entry(*survey_questions(questions)), *_env_entry(terms)]
    with tempfile.TemporaryDirectory(prefix="tandem-submit-") as folder:
        env = _runtime_env(pack(entries), folder, terms)
        survey = ask(server, questions, env, _start(shlex.quote(terms.python), terms))
    if found := problems(survey, wanted, terms.install):
        raise ConfigError(f"{server.url} can't take this job:\n" + "\n".join(found))
    return survey


def send(
    server: JobServer,
    job: Job,
    code: Sequence[Entry],
    survey: Mapping[str, Any],
    terms: Terms,
) -> str:
    """Uploads the package and starts the job; returns its id."""
    packages: dict[str, Any] = {}
    python = shlex.quote(terms.python)
    versions = installed_versions()
    if terms.install and (other := other_packages(survey, versions)):
        pins = [f"{name}=={versions[name]}" for name in other]
        packages, python = {"pip": {"packages": pins, "pip_check": False}}, "python"
    start = _start(python, terms)
    steps = [f"exec {start} -m jobs.cli {shlex.join(job.arguments)}"]
    if job.has_inputs:
        steps.insert(0, f"{start} -m jobs.submit.place_inputs {shlex.quote(job.storage)}")
    driver = {name: amount for name, amount in terms.driver.items() if amount}
    metadata = {NAME_KEY: job.name, **({RUN_KEY: job.run.rstrip("/")} if job.run else {})}
    if driver:
        metadata[DRIVER_KEY] = ", ".join(f"{amount:g} {name}" for name, amount in driver.items())
    drain_s = job.config.recovery.drain_s if job.config else 0.0
    with tempfile.TemporaryDirectory(prefix="tandem-submit-") as folder:
        env = _runtime_env(pack([*code, *job.entries, *_env_entry(terms)]), folder, terms)
        # Ray gives a job that is stopped 3 s before it kills it: too little for a checkpoint.
        env["env_vars"] = {"RAY_JOB_STOP_WAIT_TIME_S": str(int(drain_s) + STOP_MARGIN_S)}
        return server.submit(
            submission_id=f"{job.name}-{uuid.uuid4().hex[:6]}",
            entrypoint=" && ".join(steps),
            runtime_env=env | packages,
            metadata=metadata,
            entrypoint_num_cpus=driver.get("CPU"),
            entrypoint_num_gpus=driver.get("GPU"),
        )


def _start(python: str, terms: Terms) -> str:
    """Begins a command line: the cluster's Python, with the variables that were given."""
    return f"{python} -m jobs.submit.given_env {python}" if terms.env else python


def _env_entry(terms: Terms) -> list[Entry]:
    return [text_entry(given_env.FILE, json.dumps(dict(terms.env)))] if terms.env else []


def _runtime_env(package: bytes, folder: str, terms: Terms) -> dict[str, Any]:
    """Of a job with that package, which lies in `folder` until it is uploaded."""
    path = Path(folder, "package.zip")
    path.write_bytes(package)
    hook = {"worker_process_setup_hook": given_env.HOOK} if terms.env else {}
    return {"working_dir": str(path), **hook}


def parse_env(given: Sequence[str]) -> dict[str, str]:
    """`KEY=VALUE`, or `KEY` for the value that it has here, which then stands in no command line.

    Raises:
        ConfigError: no such variable here, no name, or a token of Ray's; never repeats a value.
    """
    found = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not name:
            raise ConfigError("--env: expected KEY=VALUE or KEY, got no name")
        if name.startswith("RAY_AUTH"):
            raise ConfigError(
                f"--env {name}: the cluster's nodes have its token already; a job needs none"
            )
        if not equals and name not in os.environ:
            raise ConfigError(f"--env {name}: no such variable here; set it, or give {name}=VALUE")
        found[name] = value if equals else os.environ[name]
    return found
