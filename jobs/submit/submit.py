"""`tandem submit`: a job on a Ray cluster, from any directory of any machine that reaches it.

Checks address, token and versions, then the package's size, then, from inside the cluster, storage,
packages, paths and resources; only then is the job sent. Ctrl-C detaches: the job continues.
Decides nothing about training: the cluster runs the same command as this machine would.
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
from jobs.submit import job_env
from jobs.submit.follow import DRIVER_KEY, NAME_KEY, RUN_KEY, follow_job, goes_on
from jobs.submit.inputs import Shipment, check_storage, ship
from jobs.submit.job_server import JobServer, connect
from jobs.submit.package import (
    JOB_FOLDER,
    PackageFile,
    check_size,
    code_entries,
    pack,
    text_entry,
)
from jobs.submit.preflight import (
    JobNeeds,
    installed_versions,
    other_packages,
    problems,
    reservations_of,
    run_survey,
    survey_request_file,
)
from jobs.submit.survey import Survey, SurveyRequest
from jobs.submit.teaching import teaching_of
from jobs.tune.search import load_search, vary
from orchestrator.console import Console
from orchestrator.nodes.placement import Resources
from orchestrator.settings.config import Config, load_config
from orchestrator.settings.yaml_file import read_yaml

Kind = Literal["train", "tune", "evaluate", "teach"]
CONFIG_FILE, SEARCH_FILE = "config.yaml", "search.yaml"
STOP_MARGIN_S = 30  # beyond `recovery.drain_s`, for the last checkpoint to be written


@dataclass(frozen=True)
class SubmitOptions:
    """Options of `tandem submit` for every kind of job.

    Attributes:
        address: of the cluster's dashboard.
        insecure: connect without a token, or over plain HTTP to another machine.
        wait: follow the job to its end.
        env: variables of the job's processes.
        working_dir: folder to send; None: the packages installed here.
        on_cluster: local paths that mean the cluster's own.
        install: have the job install packages of which the cluster has other versions.
        python: the cluster's command for the Python that Ray runs in.
        driver: resources of the driver.
        max_package_mib: largest package that is sent.
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
class JobRequest:
    """A job, before it is sent.

    Attributes:
        name: of the run or search.
        arguments: of `tandem` on the cluster.
        run: directory that it creates; empty: none.
        storage: of that directory; empty: none.
        config: of the run, or of the search's runs; None: unknown here.
        entries: files beside the code.
        expected: paths that the cluster must have.
        may_exist: whether the directory may exist already.
    """

    name: str
    arguments: tuple[str, ...]
    run: str
    storage: str = ""
    config: Config | None = None
    entries: tuple[PackageFile, ...] = ()
    expected: tuple[str, ...] = ()
    may_exist: bool = False

    @property
    def has_inputs(self) -> bool:
        """Whether files must be copied to the storage first."""
        return any(isinstance(entry.source, Path) for entry in self.entries)


def run_submit(
    kind: Kind,
    target: str,
    overrides: Sequence[str],
    options: SubmitOptions,
    console: Console,
    resume: bool = False,
) -> int:
    """Sends a job and, with `options.wait`, follows it; returns the job's exit code.

    Raises:
        ConfigError: something is wrong; the job was not sent.
        InterruptedRunError: Ctrl-C, or the connection is lost; the job continues.
    """

    def say(text: str, style: str | None = None) -> None:
        console.say(text, style=style)

    job = job_request(kind, target, overrides, options, resume)
    server = connect(
        options.address, options.insecure, lambda text: say(f"warning: {text}", "yellow")
    )
    token = "token accepted" if server.has_token else "no token"
    say(f"cluster {server.url}: Ray {server.ray_version}, Python {server.python_version}, {token}")
    code = code_entries(options.working_dir)
    num_bytes = check_size([*code, *job.entries], options.max_package_mib)
    what = options.working_dir or "the installed packages"
    say(
        f"package: {what}, {len(code) + len(job.entries)} files, {mib(num_bytes)} (at "
        f"most {options.max_package_mib:g})"
    )
    if job.has_inputs:
        say(f"local files of the config are sent along and copied to {job.storage}")
    survey = check_cluster(server, job, options)
    say(
        f"pre-flight: {len(survey['nodes'])} node(s)"
        + (f", {job.storage} is read and written by each" if job.storage else "")
        + ", packages and resources are there"
    )
    job_id = send_job(server, job, code, survey, options)
    say(f"job {job_id} submitted: tandem {shlex.join(job.arguments)}")
    if not options.wait:
        say(goes_on(server, job_id))
        return 0
    return follow_job(server, job_id, console)


def job_request(
    kind: Kind, target: str, overrides: Sequence[str], options: SubmitOptions, resume: bool = False
) -> JobRequest:
    """The job for a command and its target, with local paths resolved.

    Raises:
        ConfigError: the command itself would refuse it, or a cluster can't have it.
    """
    if kind == "evaluate":
        if overrides or resume:
            raise ConfigError("submit evaluate takes a run directory and nothing else")
        refuse_relative(target)
        name = f"evaluate-{target.rstrip('/').rpartition('/')[2]}"
        return JobRequest(name, ("evaluate", target), "", expected=(target,), may_exist=True)
    if kind == "teach":
        if resume:
            raise ConfigError(
                f"a teaching that was interrupted goes on with: tandem submit train "
                f"{target}-taught/config.yaml --resume"
            )
        refuse_relative(target)
        teaching = teaching_of(target, overrides)
        return JobRequest(
            f"teach-{target.rstrip('/').rpartition('/')[2]}",
            teaching.arguments,
            teaching.out,
            teaching.out.rpartition("/")[0],
            entries=teaching.entries,
            expected=(target,),
        )
    if kind == "train":
        shipment = _ship(load_config(target, overrides), options)
        config = shipment.config
        arguments = ("train", f"{JOB_FOLDER}/{CONFIG_FILE}", *(["--resume"] if resume else []))
        return JobRequest(
            config.name,
            arguments,
            config.run_url,
            config.storage,
            config,
            (*shipment.entries, text_entry(CONFIG_FILE, config.to_yaml())),
            shipment.expected,
            may_exist=resume,
        )
    return _search(target, overrides, options)


def refuse_relative(target: str) -> None:
    """Raises: ConfigError: the run is in a folder of this machine."""
    if "://" not in target and not os.path.isabs(target):
        raise ConfigError(
            f"{target}: a job has no folder of this machine; name the run as the cluster's "
            "nodes see it, e.g. s3://bucket/runs/my-run or /mnt/shared/runs/my-run"
        )


def _search(path: str, overrides: Sequence[str], options: SubmitOptions) -> JobRequest:
    """The job of a search, checked as `tandem tune` checks it."""
    search = load_search(path, overrides)
    spec = search.spec
    check_storage(spec.storage)
    shipment = _ship(vary(search.base, {}, storage=spec.storage), options)
    kept = {key: value for key, value in read_yaml(path, overrides).items() if key != "set"}
    text = yaml.safe_dump({**kept, "base": CONFIG_FILE}, sort_keys=False, allow_unicode=True)
    return JobRequest(
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


def _ship(config: Config, options: SubmitOptions) -> Shipment:
    return ship(config, options.on_cluster, options.max_package_mib)


def check_cluster(server: JobServer, job: JobRequest, options: SubmitOptions) -> Survey:
    """Surveys the cluster from inside, and returns the survey.

    Raises:
        ConfigError: it does not meet the job's needs; one line per need.
    """
    versions = installed_versions()
    needs = JobNeeds(
        reservations=reservations_of(job.config, options.driver),
        storage=job.storage,
        run="" if job.may_exist else job.run,
        versions=versions,
    )
    request = SurveyRequest(
        job.storage, needs.run, job.expected, tuple(versions), options.check_timeout_s
    )
    entries = [*code_entries(None), text_entry(*survey_request_file(request)), *_env_entry(options)]
    with tempfile.TemporaryDirectory(prefix="tandem-submit-") as folder:
        env = _runtime_env(pack(entries), folder, options)
        survey = run_survey(server, request, env, _start(shlex.quote(options.python), options))
    if found := problems(survey, needs, options.install):
        raise ConfigError(f"{server.url} can't take this job:\n" + "\n".join(found))
    return survey


def send_job(
    server: JobServer,
    job: JobRequest,
    code: Sequence[PackageFile],
    survey: Survey,
    options: SubmitOptions,
) -> str:
    """Uploads the package and starts the job; returns its id."""
    packages: dict[str, Any] = {}
    python = shlex.quote(options.python)
    versions = installed_versions()
    if options.install and (other := other_packages(survey, versions)):
        pins = [f"{name}=={versions[name]}" for name in other]
        packages, python = {"pip": {"packages": pins, "pip_check": False}}, "python"
    start = _start(python, options)
    steps = [f"exec {start} -m jobs.cli {shlex.join(job.arguments)}"]
    if job.has_inputs:
        steps.insert(0, f"{start} -m jobs.submit.place_inputs {shlex.quote(job.storage)}")
    driver = {name: amount for name, amount in options.driver.items() if amount}
    metadata = {NAME_KEY: job.name, **({RUN_KEY: job.run.rstrip("/")} if job.run else {})}
    if driver:
        metadata[DRIVER_KEY] = ", ".join(f"{amount:g} {name}" for name, amount in driver.items())
    drain_s = job.config.recovery.drain_s if job.config else 0.0
    with tempfile.TemporaryDirectory(prefix="tandem-submit-") as folder:
        env = _runtime_env(pack([*code, *job.entries, *_env_entry(options)]), folder, options)
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


def _start(python: str, options: SubmitOptions) -> str:
    """The beginning of a command line: the cluster's Python, with the given variables set."""
    return f"{python} -m jobs.submit.job_env {python}" if options.env else python


def _env_entry(options: SubmitOptions) -> list[PackageFile]:
    return [text_entry(job_env.FILE, json.dumps(dict(options.env)))] if options.env else []


def _runtime_env(package: bytes, folder: str, options: SubmitOptions) -> dict[str, Any]:
    """Runtime environment of a job with that package, which is in `folder` until its upload."""
    path = Path(folder, "package.zip")
    path.write_bytes(package)
    hook = {"worker_process_setup_hook": job_env.HOOK} if options.env else {}
    return {"working_dir": str(path), **hook}


def parse_env(given: Sequence[str]) -> dict[str, str]:
    """Parses `KEY=VALUE`, or `KEY` for its value here, which keeps it off the command line.

    Raises:
        ConfigError: no such variable here, no name, or Ray's token; never shows a value.
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
