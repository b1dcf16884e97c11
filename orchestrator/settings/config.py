"""A run's config: the trainers' spec plus what only the driver needs, from YAML and dotted
overrides. No torch.

Relative paths in a YAML file are relative to that file, those in overrides to the working
directory. Raises ConfigError with one line per mistake, the nearest known key named.
"""

from __future__ import annotations

import copy
import difflib
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, Self
from urllib.parse import urlsplit

import yaml
from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from actors.settings.base import Spec
from actors.settings.run import RunSpec
from actors.wire import ConfigError
from orchestrator.settings.config_paths import anchor_paths, folder_of, url_under
from orchestrator.settings.retention import Retention
from orchestrator.settings.yaml_file import override_all, read_yaml

# What a resumed run may set anew: nothing of it changes what is computed, but for rounding.
RESUMABLE = (
    "deadlines.",
    "ray.",
    "checkpoints.",
    "recovery.",
    "evaluation.",
    "data.workers.",
    "memory.workers.",
    "data.accumulate",
    "memory.accumulate",
    "exchange.catchup_intervals",
    "profile",
    "storage",
    "trackers.",
)


class DeadlineSpec(Spec):
    """How long the driver waits before it calls something dead; seconds."""

    start_s: float = Field(
        300.0, gt=0, description="For resources and for a group's processes to be ready."
    )
    first_interval_s: float = Field(
        900.0,
        gt=0,
        description="For the first interval of a group's processes, which compile and fill caches: "
        "at the start, after a restart and after a resize. Raise it where that takes longer.",
    )
    interval_factor: float = Field(
        20.0, gt=1, description="For later intervals: so many times the median so far."
    )
    interval_floor_s: float = Field(120.0, gt=0, description="But never less than this.")
    heartbeat_s: float = Field(
        60.0, ge=10, description="Without a heartbeat; needs the GIL, so not below 10."
    )
    snapshot_s: float = Field(
        3600.0,
        gt=0,
        description="For a snapshot that was lost with its node and is to be published again: time "
        "without one of its group's intervals being done again. Raise it where a new node and "
        "start_s take longer.",
    )
    evaluation_s: float = Field(1800.0, gt=0, description="For one evaluation or the export.")
    storage_s: float = Field(
        120.0, ge=0, description="For storage that is away when the run's results are written."
    )
    stop_s: float = Field(10.0, gt=0, description="For killed processes to be gone.")


class CheckpointSpec(Spec):
    """Committed pairs of both groups' whole states, for `--resume`."""

    every: int = Field(
        10,
        ge=0,
        description="Intervals between checkpoints, a multiple of exchange.publish_every; 0: none. "
        "After a stop, or when a group's process died, at most so many intervals are trained "
        "again; each keeps one more version of both groups in the object store.",
    )
    keep_last: int = Field(2, ge=1, description="Newest checkpoints kept.")
    keep_best: int = Field(
        0,
        ge=0,
        description="Best checkpoints kept beside them, of those that an evaluation measured.",
    )
    best_by: str = Field(
        "heldout.help_loss",
        pattern=r"^(heldout|accuracy)\.[a-z0-9_]+$",
        description="The held-out figure that decides which is best, e.g. accuracy.help.",
    )
    best_is: Literal["min", "max"] = Field(
        "min", description="Whether a smaller or a larger figure is better."
    )


class RecoverySpec(Spec):
    """What happens when a group's process dies, when the run is told to stop, and on a resume."""

    max_failures: int = Field(
        10,
        ge=-1,
        description="Restarts of each group over the run, as in Ray's FailureConfig; 0: the first "
        "failure ends the run; -1: any number. Needs checkpoints.every.",
    )
    warm_spares: bool = Field(
        False,
        description="Keep one more process per worker that has imported everything and takes a "
        "dead one's place; saves seconds of a restart, costs some 400 MB of host memory each.",
    )
    drain_s: float = Field(
        30.0,
        ge=0,
        description="On Ctrl-C, SIGTERM or the notice that a node is taken away: seconds for a "
        "last checkpoint; 0: none. A second Ctrl-C ends the run at once.",
    )
    accept_corpus: str = Field(
        "",
        pattern=r"^(c[0-9a-f]{16})?$",
        description="On a resume: the digest of a changed corpus with which the run goes on all "
        "the same; the message that refuses it says which. A later change is refused again.",
    )


class RaySpec(Spec):
    """Which Ray to run on."""

    address: str | None = Field(
        None,
        description="Ray to join: HOST:PORT of its head, or `auto` for the cluster that this "
        "machine is a node of; `local`: embedded; unset: RAY_ADDRESS, else embedded.",
    )
    num_cpus: int | None = Field(
        None, ge=1, description="Embedded Ray only: CPUs it may give out (default: all)."
    )
    num_gpus: int | None = Field(
        None, ge=0, description="Embedded Ray only: GPUs it may give out (default: all)."
    )
    object_store_mib: int | None = Field(
        None,
        ge=80,
        description="Embedded Ray only: size of the object store (default: Ray's own choice).",
    )
    worker_niceness: int = Field(
        0,
        ge=0,
        le=19,
        description="Embedded Ray only: niceness of the workers beside that of the command. Ray's "
        "own 15 leaves them almost nothing of a CPU that anything else uses, and deadlines pass; "
        "raise it to have the machine for other work, or start the command with `nice`. On a "
        "cluster: RAY_worker_niceness in the environment of `ray start`.",
    )


class TrackersSpec(Spec):
    """Where a run's figures go besides its directory, whose TensorBoard events are always there.

    Keys and passwords never stand here: each tracker reads its own environment variables.
    """

    wandb: str | None = Field(
        None,
        pattern=r"^[^/\s]+(/[^/\s]+)?$",
        description="Weights & Biases: `project` or `entity/project`; the key is WANDB_API_KEY. "
        "Needs tandem-memory[wandb].",
    )
    mlflow: str | None = Field(
        None,
        min_length=1,
        description="MLflow tracking URI, e.g. http://host:5000; credentials are "
        "MLFLOW_TRACKING_USERNAME and _PASSWORD or _TOKEN. Needs tandem-memory[mlflow].",
    )
    mlflow_experiment: str = Field(
        "tandem", min_length=1, description="MLflow experiment that the run is put in."
    )
    timeout_s: float = Field(
        20.0,
        gt=0,
        description="Longest that the end of a run waits for a tracker; then it is given up.",
    )

    @field_validator("mlflow")
    @classmethod
    def _no_password(cls, uri: str | None) -> str | None:
        if uri is not None and urlsplit(uri).password is not None:
            raise ValueError(
                "the URI holds a password, which would be kept with the run; set "
                "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD instead"
            )
        return uri


class Config(RunSpec):
    """Everything about a run; its resolved copy is the run's first artifact."""

    name: str = Field(
        "run",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="Name of the run and its directory.",
    )
    storage: str = Field(
        "runs",
        min_length=1,
        description="Where run directories are made; local paths from the working directory.",
    )
    profile: str = Field(
        "",
        pattern=r"^(\d+(-\d+)?)?$",
        description="Intervals of which every worker leaves a trace in profiles/, e.g. 3 or 3-5; "
        "open them with Perfetto. Traced intervals are slower.",
    )
    checkpoints: CheckpointSpec = Field(default_factory=CheckpointSpec)
    recovery: RecoverySpec = Field(default_factory=RecoverySpec)
    deadlines: DeadlineSpec = Field(default_factory=DeadlineSpec)
    ray: RaySpec = Field(default_factory=RaySpec)
    trackers: TrackersSpec = Field(default_factory=TrackersSpec)

    @model_validator(mode="after")
    def _checkpoints_fall_on_versions(self) -> Self:
        if self.checkpoints.every % self.exchange.publish_every:
            raise ValueError(
                f"checkpoints.every {self.checkpoints.every} is not a multiple of "
                f"exchange.publish_every {self.exchange.publish_every}; a pair is resumed from "
                "versions that both groups published"
            )
        return self

    @property
    def recovers(self) -> bool:
        """Whether a group that failed is restarted."""
        return self.checkpoints.every > 0 and self.recovery.max_failures != 0

    @property
    def retention(self) -> Retention:
        """How much of the run the object store holds at a time."""
        return Retention.of(self.exchange, self.checkpoints.every, self.recovers)

    @property
    def run_url(self) -> str:
        """The run's directory."""
        return url_under(self.storage, self.name)

    @property
    def run_spec(self) -> RunSpec:
        """What the trainers and the evaluator need of it."""
        values = {name: getattr(self, name) for name in RunSpec.model_fields}
        return RunSpec.model_validate(values, by_name=True, by_alias=True)

    def to_yaml(self) -> str:
        """The resolved config, every field included."""
        return str(
            yaml.safe_dump(
                self.model_dump(mode="json", by_alias=True),
                sort_keys=False,
                allow_unicode=True,
                width=10**6,  # so that a path can be copied whole
            )
        )


def load_config(
    source: str | os.PathLike[str] | Mapping[str, Any], overrides: Sequence[str] = ()
) -> Config:
    """Reads a YAML file or takes nested values, applies `a.b=value` overrides (YAML values) and
    validates.

    Corpus paths are relative to the file's folder, or to the working directory where there is no
    file.

    Raises:
        ConfigError: one line per mistake.
    """
    if isinstance(source, Mapping):
        name, folder, raw = "config", os.getcwd(), copy.deepcopy(dict(source))
    else:
        name = os.fspath(source)
        folder, raw = folder_of(name), read_yaml(name)
    anchor_paths(raw, folder)
    override_all(raw, overrides)
    return make_config(raw, source=name)


def make_config(values: dict[str, Any], source: str = "config") -> Config:
    """Validates a nested dict. Raises: ConfigError as `load_config`."""
    try:
        return Config(**values)
    except ValidationError as err:
        raise ConfigError("\n".join(f"{source}: {line}" for line in explain(err))) from err


def profiled_intervals(text: str) -> range:
    """The intervals that `Config.profile` names."""
    first, _, last = text.partition("-")
    return range(int(first), int(last or first) + 1) if first else range(0)


def changed_keys(before: Config, now: Config) -> list[tuple[str, Any, Any]]:
    """Dotted keys that differ and that a resume may not change, with both values."""
    old, new = before.model_dump(by_alias=True), now.model_dump(by_alias=True)
    return [
        (key, a, b)
        for key in dotted_keys()
        if (a := _at(old, key)) != (b := _at(new, key)) and not key.startswith(RESUMABLE)
    ]


def _at(values: dict[str, Any], key: str) -> Any:
    for part in key.split("."):
        values = values[part]
    return values


def dotted_keys(model: type[BaseModel] = Config, prefix: str = "") -> Iterator[str]:
    """Every leaf key of the config by its dotted name."""
    for name, field in model.model_fields.items():
        key = f"{prefix}{field.alias or name}"
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from dotted_keys(field.annotation, f"{key}.")
        else:
            yield key


def nearest_key(unknown: str) -> str | None:
    """The known dotted key most like `unknown`.

    The same place first, then the same last word elsewhere.
    """
    known = list(dotted_keys())
    sections = sorted({k.rpartition(".")[0] for k in known} - {""})
    last = unknown.rpartition(".")[2]
    same = [k for k in known if k.rpartition(".")[2] == last]
    if inside := [k for k in same if k.partition(".")[0] == unknown.partition(".")[0]]:
        return difflib.get_close_matches(unknown, inside, n=1, cutoff=0.0)[0]
    if close := difflib.get_close_matches(unknown, [*known, *sections], n=1, cutoff=0.8):
        return close[0]
    if same:
        return difflib.get_close_matches(unknown, same, n=1, cutoff=0.0)[0]
    close = difflib.get_close_matches(unknown, [*known, *sections], n=1, cutoff=0.5)
    return close[0] if close else None


def explain(
    err: ValidationError, nearest: Callable[[str], str | None] | None = None
) -> Iterator[str]:
    """A line for each mistake; `nearest` knows the key that was meant by an unknown one."""
    for problem in err.errors():
        key = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            near = (nearest or nearest_key)(key)
            yield f"unknown key {key}" + (f"; did you mean {near}?" if near else "")
        elif problem["type"] == "missing":
            yield f"{key} is missing"
        else:
            message = re.sub(r"^(Value error, |Input )", "", problem["msg"])
            got = "" if problem["type"] == "value_error" else f", got {problem['input']!r}"
            yield f"{key + ': ' if key else ''}{message}{got}"
