"""A search over a run's settings: what is varied, the objectives, algorithm and scheduler. Read
from a YAML file and checked as a whole before anything starts. No torch, no Ray.

The file lies beside the run's config, whose values it varies by their dotted names.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, NotRequired, Self, TypedDict

from pydantic import Field, field_validator, model_validator

from actors.settings.base import Spec
from actors.settings.fields import Mark, marked_keys, settings_of
from actors.wire import ConfigError
from jobs.tune.space import (
    PROBED_FIGURES,
    REFLECTION,
    Constraint,
    Domain,
    Objective,
    Point,
    Value,
    extremes,
    grid_points,
    parse_constraint,
    parse_objective,
)
from orchestrator.settings.config import (
    Config,
    TrackersSpec,
    load_config,
    make_config,
    nearest_key,
)
from orchestrator.settings.config_paths import (
    anchor_paths,
    beside,
    folder_of,
    url_under,
    without_variables,
)
from orchestrator.settings.dotted import nest, pick
from orchestrator.settings.mistakes import make_overridden
from orchestrator.settings.removed import explained
from orchestrator.settings.yaml_file import read_yaml

OBJECTIVES = (
    "min heldout.help_loss",
    "max heldout.recall_agreement",
    "max heldout.reflection_rate",
)
ASHA, PBT, TPE, GRID = "asha", "pbt", "tpe", "grid"
# What a search's directory holds, beside the report and the summary.
SEARCH, BASE, RESULTS, BEST = "search.yaml", "base.yaml", "results.parquet", "best.yaml"
PARETO, TRIALS, TUNE = "pareto", "trials", "tune"
ASSIGNMENT = "trial"  # key of the assignment in a trial's config of Ray Tune
# What a trial's reports hold beside the figures, and the prefix of deviations over its seeds.
INTERVAL, FINAL, SPREAD = "interval", "final", "spread"


class Assignment(TypedDict):
    """What one trial is to run: its number, and the values that it varies. After an exploit of PBT
    also the generation, counted from 1, and the trial whose checkpoint it begins with.
    """

    number: int
    point: Point
    generation: NotRequired[int]
    donor: NotRequired[int]


class SearchTrackers(TrackersSpec):
    """Where the trials' held-out figures go, through Tune's callbacks."""

    tensorboard: bool = Field(False, description="TensorBoard events of every trial, in `tune/`.")


class SearchSpec(Spec):
    """A search as its YAML file gives it."""

    base: str = Field(min_length=1, description="The run's config, relative to this file.")
    name: str = Field(
        "search",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="Name of the search and its directory.",
    )
    storage: str = Field("runs", min_length=1, description="Where the directory is made.")
    set: dict[str, Value] = Field(
        default_factory=dict,
        description="Values of every trial by dotted name, e.g. intervals: 20.",
    )
    space: dict[str, Domain] = Field(min_length=1, description="What is varied, by dotted name.")
    constraints: list[str] = Field(
        default_factory=list,
        description="Sums that hold in every trial, e.g. losses.own + losses.help = 1; one of the "
        "settings is left out of `space` and follows from the others.",
    )
    objectives: list[str] = Field(
        list(OBJECTIVES),
        min_length=1,
        description="Held-out figures with min or max; one: the best trial, several: their Pareto "
        "front.",
    )
    trials: Annotated[int, Mark.RESUMABLE] = Field(
        16, ge=1, description="Points of the space that are tried; pbt: runs that go side by side."
    )
    seeds: int = Field(
        1, ge=1, description="Runs of each point with seeds of their own; figures are their means."
    )
    seed: int = Field(0, ge=0, lt=2**31, description="Of the search, and the first of each point.")
    algorithm: Literal["tpe", "random", "grid"] = Field(
        "tpe", description="How points are chosen: by Optuna's TPE, at random, or all of a grid."
    )
    scheduler: Literal["asha", "pbt", "none"] = Field(
        "asha",
        description="asha: trials that are worse than others at the same interval are stopped "
        "early; pbt: now and then the worst runs go on from a checkpoint of the best, with "
        "perturbed values; both by the first objective.",
    )
    grace_intervals: int = Field(
        0,
        ge=0,
        description="asha: intervals before a trial may be stopped; pbt: intervals between "
        "comparisons; 0: a quarter.",
    )
    at_once: Annotated[int, Mark.RESUMABLE] = Field(
        0, ge=0, description="Trials at a time; 0: as many as the cluster holds."
    )
    max_failures: Annotated[int, Mark.RESUMABLE] = Field(
        1, ge=0, description="Times that a failed trial is tried again."
    )
    driver_cpus: float = Field(
        0.0, ge=0, description="CPUs reserved for each trial's driver, which mostly waits."
    )
    trackers: Annotated[SearchTrackers, Mark.RESUMABLE] = Field(default_factory=SearchTrackers)

    @field_validator("storage")
    @classmethod
    def _is_no_variable(cls, storage: str) -> str:
        return without_variables(storage)

    @field_validator("objectives")
    @classmethod
    def _well_formed(cls, objectives: list[str]) -> list[str]:
        for text in objectives:
            parse_objective(text)
        return objectives

    @model_validator(mode="after")
    def _sums_leave_one_free(self) -> Self:
        for text in self.constraints:
            parse_constraint(text, self.space)
        return self

    @property
    def goals(self) -> list[Objective]:
        """The objectives, parsed."""
        return [parse_objective(text) for text in self.objectives]

    @property
    def sums(self) -> list[Constraint]:
        """The constraints, parsed."""
        return [parse_constraint(text, self.space) for text in self.constraints]


def trial_name(number: int) -> str:
    """Name of a trial, its result and its runs."""
    return f"{number:03d}"


@dataclass(frozen=True)
class Search:
    """A validated search.

    Attributes:
        spec: as the file gives it.
        base: the run's config with `set`, of which each trial is a variation.
        url: the search's directory.
    """

    spec: SearchSpec
    base: Config
    url: str

    def config(self, point: Mapping[str, Value], **changes: Value) -> Config:
        """The config of one point; `changes` are top-level settings.

        Raises:
            ConfigError: the point is not valid.
        """
        return vary(self.base, self.values(point), **changes)

    def trial_config(self, assignment: Assignment, seed_index: int = 0) -> Config:
        """The config of one of a trial's runs; it has one for each seed."""
        name = trial_name(assignment["number"])
        if generation := assignment.get("generation", 0):
            name += f"-{generation}"
        if self.spec.seeds > 1:
            name += f"-s{seed_index}"
        return self.config(
            assignment["point"],
            name=name,
            storage=f"{self.url}/{TRIALS}",
            seed=self.spec.seed + seed_index,
        )

    def values(self, point: Mapping[str, Value]) -> dict[str, Value]:
        """What a point sets: the varied settings, and those that follow by the constraints."""
        return {**point, **{c.derived: c.value(point) for c in self.spec.sums}}

    @property
    def num_trials(self) -> int:
        """Points that are tried in all."""
        grid = self.spec.algorithm == "grid"
        return len(grid_points(self.spec.space)) if grid else self.spec.trials

    @property
    def grace_intervals(self) -> int:
        """Intervals before a trial may be stopped, or go on from a better one's checkpoint."""
        return self.spec.grace_intervals or max(1, self.base.intervals // 4)

    @property
    def base_point(self) -> Point | None:
        """The base config's own values, where they are a point of the space."""
        base = self.base.model_dump(mode="json", by_alias=True)
        point = {name: pick(base, name) for name in self.spec.space}
        if not all(domain.holds(point[name]) for name, domain in self.spec.space.items()):
            return None
        holds = all(math.isclose(c.value(point), pick(base, c.derived)) for c in self.spec.sums)
        return point if holds else None


def vary(config: Config, values: Mapping[str, Value], **changes: Value) -> Config:
    """The config with other values by dotted name; its paths are absolute already.

    Raises: ConfigError.
    """
    nested: dict[str, Value] = {**config.model_dump(mode="json", by_alias=True), **changes}
    for key, value in values.items():
        parent, _, leaf = key.rpartition(".")
        (pick(nested, parent) if parent else nested)[leaf] = value
    return make_config(nested)


def load_search(path: str, overrides: Sequence[str] = ()) -> Search:
    """Reads a search and checks everything that can be checked before it starts.

    Args:
        path: YAML file; any fsspec URL.
        overrides: `key=value` of the search's own settings, e.g. trials=8.

    Raises:
        ConfigError: one line per mistake.
    """
    folder = folder_of(path)

    def make(values: dict[str, object]) -> SearchSpec:
        _anchor_space(values.get("space"), folder)
        return SearchSpec(**values)

    values = read_yaml(path)
    if "corpus" in values and not {"base", "space"} & set(values):
        raise ConfigError(
            f"{path}: the config of a run, expected that of a search, which names it as its base "
            "and says in space what is varied; train the run with: tandem train"
        )
    spec = make_overridden(make, values, overrides, path, _nearest)
    _refuse_unknown(path, [*spec.space, *spec.set])
    base = vary(load_config(beside(folder, spec.base)), _anchored(spec.set, folder))
    search = Search(spec, base, url_under(spec.storage, spec.name))
    _check(path, search)
    return search


def _anchor_space(space: object, folder: str) -> None:
    """Anchors the relative paths among a space's values at the search's file, in place."""
    for name, domain in space.items() if isinstance(space, dict) else ():
        for kind, offered in domain.items() if isinstance(domain, dict) else ():
            if isinstance(offered, list):
                domain[kind] = [_anchored({name: value}, folder)[name] for value in offered]


def _anchored(values: Mapping[str, Value], folder: str) -> dict[str, Value]:
    """Values by dotted name, their relative paths anchored at the search's file."""
    anchored = {}
    for key, value in values.items():
        nested = nest(key, value)
        anchor_paths(nested, folder)
        anchored[key] = pick(nested, key)
    return anchored


def _nearest(unknown: str) -> str | None:
    parent, _, last = unknown.rpartition(".")
    if parent.startswith("space."):  # a kind of domain, behind the setting that it is of
        near = difflib.get_close_matches(last, list(Domain.model_fields), n=1, cutoff=0.5)
        return f"{parent}.{near[0]}" if near else None
    near = difflib.get_close_matches(unknown, list(SearchSpec.model_fields), n=1, cutoff=0.5)
    return near[0] if near else None


def _refuse_unknown(path: str, names: Sequence[str]) -> None:
    known = {setting.key: setting.marks for setting in settings_of(Config)}
    for name in names:
        if (gone := explained(name)) is not None:
            raise ConfigError(f"{path}: {gone}")
        if name not in known:
            near = nearest_key(name)
            hint = f"; did you mean {near}?" if near else ""
            raise ConfigError(f"{path}: unknown key {name}{hint}")
    for name in names:
        if Mark.SET_BY_SEARCH in known[name]:
            raise ConfigError(f"{path}: {name} can't be set here: the search sets it itself")


def _check(path: str, search: Search) -> None:
    spec = search.spec
    if not search.base.evaluation.probes or search.base.corpus.kind != "facts":
        for goal in spec.goals:
            if goal.figure in PROBED_FIGURES:
                raise ConfigError(
                    f"{path}: objective {goal.figure} needs a corpus of facts and "
                    "evaluation.probes above 0; this one gives no probes"
                )
    kinds = {"grid" if domain.grid else "sampled" for domain in spec.space.values()}
    if spec.algorithm == "grid" and kinds != {"grid"}:
        raise ConfigError(f"{path}: algorithm grid needs every domain of space to be a grid")
    if spec.algorithm != "grid" and "grid" in kinds:
        raise ConfigError(
            f"{path}: algorithm {spec.algorithm} can't follow a grid; write choice instead, or "
            "algorithm: grid"
        )
    _check_schedule(path, search)
    for name, point in extremes(spec.space, spec.sums):
        try:
            search.config(point)
        except ConfigError as err:
            value = search.values(point)[name]
            raise ConfigError(f"{path}: with {name}={value!r}: {err}") from err


def _check_schedule(path: str, search: Search) -> None:
    """Checks that the runs evaluate and save as the scheduler and the objectives need it."""
    spec, base = search.spec, search.base
    every = base.evaluation.every
    if spec.scheduler != "none" and not 0 < every < base.intervals:
        raise ConfigError(
            f"{path}: scheduler {spec.scheduler} compares trials while they run: set "
            f"evaluation.every (now {every}) between 0 and intervals ({base.intervals}), or "
            "scheduler: none"
        )
    if spec.scheduler != "none" and spec.seeds > 1:
        raise ConfigError(
            f"{path}: seeds {spec.seeds} needs scheduler: none; a trial of several runs has no "
            f"figures for {spec.scheduler} before the last of them"
        )
    if not every and any(goal.figure == REFLECTION for goal in spec.goals):
        raise ConfigError(
            f"{path}: objective {REFLECTION} compares evaluations with each other: set "
            "evaluation.every above 0"
        )
    if spec.scheduler == "pbt":
        _check_population(path, search)


def _check_population(path: str, search: Search) -> None:
    spec, base = search.spec, search.base
    if spec.algorithm == "tpe":
        raise ConfigError(
            f"{path}: scheduler pbt moves the points itself: set algorithm: random or grid"
        )
    if search.num_trials < 2:
        raise ConfigError(f"{path}: scheduler pbt needs trials of at least 2")
    saves, every = base.checkpoints.every, base.evaluation.every
    if not saves or every % saves:
        raise ConfigError(
            f"{path}: scheduler pbt hands checkpoints on where trials are compared: evaluation."
            f"every ({every}) must be a multiple of checkpoints.every ({saves})"
        )
    perturbable = {s.key for s in settings_of(Config) if Mark.PERTURBABLE in s.marks}
    for name in spec.space:
        if name not in perturbable:
            raise ConfigError(
                f"{path}: scheduler pbt can't change {name} in a running pair; it can change "
                f"{', '.join(marked_keys(Config, Mark.PERTURBABLE))}"
            )
