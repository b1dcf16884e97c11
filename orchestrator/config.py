"""A run's config: the trainers' spec plus what only the driver needs, from YAML and dotted
overrides. No torch.

Relative paths in a YAML file are relative to that file, those in overrides to the working
directory. Raises ConfigError with one line per mistake, the nearest known key named.
"""

from __future__ import annotations

import difflib
import os
import posixpath
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import fsspec
import yaml
from pydantic import BaseModel, Field, ValidationError, field_validator

from actors.settings import Spec
from actors.spec import RunSpec
from actors.wire import ConfigError

PATH_FIELDS = (("corpus", "paths"), ("corpus", "templates"))


class ExchangeSpec(Spec):
    """How the two groups exchange snapshots."""

    mode: Literal["lockstep"] = Field(
        "lockstep", description="lockstep: interval i adopts the peer's version i-1."
    )
    catchup_intervals: int = Field(
        8,
        ge=1,
        description="Intervals, at most, in which the memory catches up with the final data layer.",
    )


class DeadlineSpec(Spec):
    """How long the driver waits before it calls something dead; seconds."""

    start_s: float = Field(
        300.0, gt=0, description="For resources and for a group's processes to be ready."
    )
    first_interval_s: float = Field(
        900.0, gt=0, description="For a group's first interval, whose length is unknown."
    )
    interval_factor: float = Field(
        20.0, gt=1, description="For later intervals: so many times the median so far."
    )
    interval_floor_s: float = Field(120.0, gt=0, description="But never less than this.")
    heartbeat_s: float = Field(
        60.0, ge=10, description="Without a heartbeat; needs the GIL, so not below 10."
    )
    evaluation_s: float = Field(1800.0, gt=0, description="For one evaluation or the export.")
    stop_s: float = Field(10.0, gt=0, description="For killed processes to be gone.")


class RaySpec(Spec):
    """Which Ray to run on."""

    address: str | None = Field(
        None, description="Ray address to join (or `auto`); unset: RAY_ADDRESS, else embedded."
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
    exchange: ExchangeSpec = Field(default_factory=ExchangeSpec)
    deadlines: DeadlineSpec = Field(default_factory=DeadlineSpec)
    ray: RaySpec = Field(default_factory=RaySpec)
    trackers: TrackersSpec = Field(default_factory=TrackersSpec)

    @property
    def run_url(self) -> str:
        """The run's directory; local ones absolute, since workers live in other directories."""
        storage = self.storage if "://" in self.storage else os.path.abspath(self.storage)
        return f"{storage.rstrip('/')}/{self.name}"

    def to_yaml(self) -> str:
        """The resolved config, every field included."""
        return str(
            yaml.safe_dump(
                self.model_dump(mode="json", by_alias=True), sort_keys=False, allow_unicode=True
            )
        )


def load_config(path: str, overrides: Sequence[str] = ()) -> Config:
    """Reads a YAML file, applies `a.b=value` overrides (YAML values) and validates.

    Raises:
        ConfigError: one line per mistake.
    """
    try:
        with fsspec.open(path, "rt", encoding="utf-8") as handle:
            raw = _parse_yaml(handle.read())
    except (OSError, UnicodeDecodeError) as err:
        raise ConfigError(f"config {path}: can't be read: {err}") from err
    except yaml.YAMLError as err:
        raise ConfigError(f"config {path}: not YAML: {err}") from err
    if not isinstance(raw, dict):
        raise ConfigError(f"config {path}: expected keys and values, got {type(raw).__name__}")
    _anchor_paths(
        raw, posixpath.dirname(path) if "://" in path else str(Path(path).resolve().parent)
    )
    for override in overrides:
        _override(raw, override)
    return make_config(raw, source=path)


def make_config(values: dict[str, Any], source: str = "config") -> Config:
    """Validates a nested dict. Raises: ConfigError as `load_config`."""
    try:
        return Config(**values)
    except ValidationError as err:
        raise ConfigError("\n".join(f"{source}: {line}" for line in _explain(err))) from err


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


class _Loader(yaml.SafeLoader):
    """YAML whose numbers may be written 1e-3; YAML 1.1 takes that for text."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


def _parse_yaml(text: str) -> Any:
    return yaml.load(text, Loader=_Loader)  # a SafeLoader


def _explain(err: ValidationError) -> Iterator[str]:
    for problem in err.errors():
        key = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            near = nearest_key(key)
            yield f"unknown key {key}" + (f"; did you mean {near}?" if near else "")
        elif problem["type"] == "missing":
            yield f"{key} is missing"
        else:
            message = re.sub(r"^(Value error, |Input )", "", problem["msg"])
            got = "" if problem["type"] == "value_error" else f", got {problem['input']!r}"
            yield f"{key + ': ' if key else ''}{message}{got}"


def _override(values: dict[str, Any], override: str) -> None:
    """Sets one dotted key; what stood there, a whole section too, is replaced."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(
            f"override {override!r}: expected key=value, e.g. seed=1 or data.optimizer.lr=1e-3"
        )
    try:
        value = _parse_yaml(text)
    except yaml.YAMLError as err:
        raise ConfigError(f"override {override!r}: the value is not YAML: {err}") from err
    *parents, leaf = key.split(".")
    for parent in reversed(parents):  # from the working directory, not from the file's folder
        leaf, value = parent, {leaf: value}
    nested = {leaf: value}
    _anchor_paths(nested, os.getcwd())
    for parent in parents:
        nested = nested[parent]
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise ConfigError(f"override {override!r}: {parent} already has a plain value")
    values.update(nested)


def _anchor_paths(values: dict[str, Any], folder: str) -> None:
    """Makes the corpus paths absolute; anything with a scheme stays."""

    def anchored(path: Any) -> Any:
        if not isinstance(path, str) or "://" in path or os.path.isabs(path):
            return path
        return posixpath.normpath(f"{folder}/{path}")

    for section, field in PATH_FIELDS:
        inside = values.get(section)
        if isinstance(inside, dict) and field in inside:
            value = inside[field]
            inside[field] = (
                [anchored(p) for p in value] if isinstance(value, list) else anchored(value)
            )
