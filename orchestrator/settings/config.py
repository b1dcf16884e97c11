"""A run's config: the trainers' settings and those that only the driver needs, read from YAML and
dotted overrides. No torch.

Relative paths in a YAML file are relative to that file, those in overrides to the working
directory. Raises ConfigError with one line per mistake, the nearest known key named.
"""

from __future__ import annotations

import copy
import difflib
import os
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

import yaml
from pydantic import Field, field_validator, model_validator

from actors.settings.base import Spec
from actors.settings.fields import Mark, settings_of
from actors.settings.run import RunSpec
from actors.wire import ConfigError
from orchestrator.settings.config_paths import (
    anchor_paths,
    folder_of,
    loosen_paths,
    url_under,
    without_variables,
)
from orchestrator.settings.dotted import pick
from orchestrator.settings.fitted_config import fit_config
from orchestrator.settings.mistakes import make_overridden
from orchestrator.settings.removed import without_removed
from orchestrator.settings.retention import Retention
from orchestrator.settings.yaml_file import read_yaml

GENERAL_TEXT = "evaluation.general_text"


class DeadlineSpec(Spec):
    """How long the driver waits before it treats something as failed; seconds."""

    start_s: float = Field(
        300.0,
        gt=0,
        description="Seconds until a group's resources are there and its processes are ready. "
        "Raise it where nodes have to be started first.",
    )
    first_interval_s: float = Field(
        900.0,
        gt=0,
        description="Seconds for the first interval of a group's processes, which compile and fill "
        "caches: at the start, after a restart and after a resize. Raise it where that takes "
        "longer.",
    )
    interval_factor: float = Field(
        20.0,
        gt=1,
        description="Later intervals may take this many times the median of the group's intervals "
        "so far.",
    )
    interval_floor_s: float = Field(
        120.0,
        gt=0,
        description="Seconds that a later interval may always take, however short the median.",
    )
    heartbeat_s: float = Field(
        60.0,
        ge=10,
        description="Seconds without a heartbeat after which a process is treated as hung. A "
        "heartbeat needs Python's GIL, which long library calls hold: not below 10.",
    )
    snapshot_s: float = Field(
        3600.0,
        gt=0,
        description="Seconds to wait for a snapshot that was lost with its node and has to be "
        "published again, counted while its group repeats no interval. Raise it where a new node "
        "and `start_s` take longer.",
    )
    evaluation_s: float = Field(
        1800.0, gt=0, description="Seconds for one evaluation, and for the export."
    )
    storage_s: float = Field(
        120.0,
        ge=0,
        description="Seconds to retry storage that can't be reached when the results are written.",
    )
    stop_s: float = Field(10.0, gt=0, description="Seconds for killed processes to be gone.")


class CheckpointSpec(Spec):
    """Checkpoints of both groups, for resumes and restarts."""

    every: int = Field(
        10,
        ge=0,
        description="Intervals between checkpoints, a multiple of `exchange.publish_every`; 0: "
        "none. After a stop or a failure at most so many intervals are trained again. For each of "
        "them one more version of both groups is kept, on disk where the object store is full.",
    )
    keep_last: int = Field(2, ge=1, description="How many of the newest checkpoints are kept.")
    keep_best: int = Field(
        0,
        ge=0,
        description="How many of the best checkpoints are kept in addition, of those at which an "
        "evaluation took place.",
    )
    best_by: str = Field(
        "heldout.help_loss",
        pattern=r"^(heldout|accuracy)\.[a-z0-9_]+$",
        description="The held-out figure that decides which are best, e.g. accuracy.help.",
    )
    best_is: Literal["min", "max"] = Field(
        "min", description="Whether a smaller or a larger figure is better."
    )


class RecoverySpec(Spec):
    """What happens when a group's process dies, when the run is asked to stop, and on a resume."""

    max_failures: int = Field(
        10,
        ge=-1,
        description="How often each group may be restarted over the run, as in Ray's "
        "FailureConfig; 0: the first failure ends the run; -1: any number. Needs "
        "`checkpoints.every`.",
    )
    warm_spares: bool = Field(
        False,
        description="Keep one more process per worker that has imported everything and replaces a "
        "dead one: restarts are seconds faster, and each costs some 400 MB of host memory.",
    )
    drain_s: float = Field(
        30.0,
        ge=0,
        description="On Ctrl-C, SIGTERM or the notice that a node will be removed: seconds for a "
        "last checkpoint; 0: none is written. A second Ctrl-C ends the run at once.",
    )
    accept_corpus: str = Field(
        "",
        pattern=r"^(c[0-9a-f]{16})?$",
        description="On a resume: digest of a changed corpus with which the run may continue. The "
        "message that refuses the resume names it; a later change is refused again.",
    )


class RaySpec(Spec):
    """The Ray cluster of the run: one to join, or one that the run starts for itself (embedded)."""

    address: str | None = Field(
        None,
        description="Cluster to join: HOST:PORT of its head, or `auto` for the one that this "
        "machine is a node of; `local`: an embedded Ray; unset: RAY_ADDRESS, else an embedded one.",
    )
    num_cpus: int | None = Field(
        None, ge=1, description="Embedded Ray: CPUs that it may assign; unset: all."
    )
    num_gpus: int | None = Field(
        None, ge=0, description="Embedded Ray: GPUs that it may assign; unset: all."
    )
    object_store_mib: int | None = Field(
        None,
        ge=80,
        description="Embedded Ray: size of the object store in MiB; unset: Ray chooses. `tandem "
        "check` says how much a run needs.",
    )
    worker_niceness: int = Field(
        0,
        ge=0,
        le=19,
        description="Embedded Ray: niceness that the workers add to that of the command. Raise it "
        "to keep the machine usable for other work. With Ray's own default, 15, workers get almost "
        "nothing of a busy CPU, and deadlines pass. On a cluster set RAY_worker_niceness in the "
        "environment of `ray start`.",
    )


class TrackersSpec(Spec):
    """Experiment trackers that get a run's figures; TensorBoard events are always written.

    Keys and passwords do not belong here: each tracker reads its own environment variables.
    """

    wandb: str | None = Field(
        None,
        pattern=r"^[^/\s]+(/[^/\s]+)?$",
        description="Weights & Biases: `project` or `entity/project`; its key is read from "
        "WANDB_API_KEY. Needs tandem-memory[wandb].",
    )
    mlflow: str | None = Field(
        None,
        min_length=1,
        description="MLflow tracking URI, e.g. http://host:5000; credentials are read from "
        "MLFLOW_TRACKING_USERNAME and _PASSWORD or _TOKEN. Needs tandem-memory[mlflow].",
    )
    mlflow_experiment: str = Field(
        "tandem", min_length=1, description="MLflow experiment to which the run belongs."
    )
    timeout_s: float = Field(
        20.0,
        gt=0,
        description="Seconds that the end of a run waits for a tracker before it gives up.",
    )

    @field_validator("mlflow")
    @classmethod
    def _no_password(cls, uri: str | None) -> str | None:
        if uri is not None and urlsplit(uri).password is not None:
            raise ValueError(
                "the URI contains a password, which would be stored with the run; remove it and "
                "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD instead"
            )
        return uri


class Config(RunSpec):
    """All settings of a run. The resolved config, every default included, is kept with the run."""

    name: Annotated[str, Mark.SET_BY_SEARCH] = Field(
        "run",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="Name of the run and of its directory.",
    )
    storage: Annotated[str, Mark.RESUMABLE, Mark.SET_BY_SEARCH] = Field(
        "runs",
        min_length=1,
        description="Directory or URL under which the run's directory is made; a relative one "
        "starts at the working directory.",
    )
    profile: Annotated[str, Mark.RESUMABLE, Mark.SET_BY_SEARCH] = Field(
        "",
        pattern=r"^(\d+(-\d+)?)?$",
        description="Intervals of which every worker writes a trace to profiles/, e.g. 3 or 3-5; "
        "open them with Perfetto. Traced intervals are slower. Empty: none.",
    )
    checkpoints: Annotated[CheckpointSpec, Mark.RESUMABLE] = Field(default_factory=CheckpointSpec)
    recovery: Annotated[RecoverySpec, Mark.RESUMABLE] = Field(default_factory=RecoverySpec)
    deadlines: Annotated[DeadlineSpec, Mark.RESUMABLE, Mark.ADVANCED] = Field(
        default_factory=DeadlineSpec
    )
    ray: Annotated[RaySpec, Mark.RESUMABLE, Mark.SET_BY_SEARCH] = Field(default_factory=RaySpec)
    trackers: Annotated[TrackersSpec, Mark.RESUMABLE, Mark.SET_BY_SEARCH] = Field(
        default_factory=TrackersSpec
    )

    @field_validator("storage")
    @classmethod
    def _is_no_variable(cls, storage: str) -> str:
        return without_variables(storage)

    @model_validator(mode="after")
    def _checkpoints_fall_on_versions(self) -> Self:
        if self.checkpoints.every % self.exchange.publish_every:
            raise ValueError(
                f"checkpoints.every {self.checkpoints.every} is not a multiple of "
                f"exchange.publish_every {self.exchange.publish_every}; a checkpoint needs "
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

    def to_yaml(self, folder: str | None = None) -> str:
        """The resolved config, every field included; paths into `folder` relative to it."""
        values = self.model_dump(mode="json", by_alias=True)
        if folder is not None:
            loosen_paths(values, folder)
        return str(
            yaml.safe_dump(
                values,
                sort_keys=False,
                allow_unicode=True,
                width=10**6,  # so that a path can be copied whole
            )
        )


def load_config(
    source: str | os.PathLike[str] | Mapping[str, Any],
    overrides: Sequence[str] = (),
    kept: bool = False,
) -> Config:
    """Reads a YAML file or takes nested values, applies `a.b=value` overrides (YAML values) and
    validates.

    Corpus paths are relative to the file's folder, or to the working directory where there is no
    file. `kept`: it is the config that a run keeps, perhaps by an earlier version: settings that
    were removed since are left out.

    Raises:
        ConfigError: one line per mistake, which begins with the file or with the override.
    """
    if isinstance(source, Mapping):
        name, folder, raw = "config", os.getcwd(), copy.deepcopy(dict(source))
    else:
        name = os.fspath(source)
        folder, raw = folder_of(name), read_yaml(name)
    if kept:
        raw, _ = without_removed(raw)
    if {"base", "space"} <= set(raw):
        raise ConfigError(
            f"{name}: the file of a search, expected the config of a run; search with: tandem tune"
        )
    anchor_paths(raw, folder)
    return make_overridden(_validated, raw, overrides, name, nearest_key)


def make_config(values: Mapping[str, object], source: str = "config") -> Config:
    """Validates a nested dict, as `load_config` does. Raises: ConfigError as that."""
    return make_overridden(_validated, values, (), source, nearest_key)


def _validated(values: dict[str, Any]) -> Config:
    """The config, with values that fit a pretrained data layer where it leaves them unset."""
    return Config.model_validate(fit_config(values))


def profiled_intervals(text: str) -> range:
    """The intervals that `Config.profile` names."""
    first, _, last = text.partition("-")
    return range(int(first), int(last or first) + 1) if first else range(0)


def changed_keys(before: Config, now: Config) -> list[tuple[str, object, object]]:
    """Dotted keys that differ and that a resume may not change, with both values.

    General text is a setting of the evaluation, which a resume may change, but not where the port
    trains on it.
    """
    old, new = before.model_dump(by_alias=True), now.model_dump(by_alias=True)
    trained_on = {GENERAL_TEXT} if before.data.num_general else set()
    values = {
        setting.key: (pick(old, setting.key), pick(new, setting.key))
        for setting in settings_of(Config)
        if Mark.RESUMABLE not in setting.marks or setting.key in trained_on
    }
    return [(key, a, b) for key, (a, b) in values.items() if a != b]


def dotted_keys() -> list[str]:
    """Every leaf key of the config by its dotted name."""
    return [setting.key for setting in settings_of(Config)]


def nearest_key(unknown: str) -> str | None:
    """The known dotted key most like `unknown`.

    A key of the same section and last word comes first, then one with the same last word elsewhere.
    """
    unknown, num_numbers = re.subn(r"(?<=\.)\d+(?=\.)", "*", unknown)  # entries of a list
    known = [setting.key for setting in settings_of(Config, entries=num_numbers > 0)]
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
