"""A search over a run's settings: what is varied, what is asked of it, and how. No torch, no Ray.

A YAML file of its own beside the run's config, whose values it varies by their dotted names; read
and checked by `search_file`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from actors.settings.base import Spec
from actors.settings.fields import Mark
from jobs.tune.space import Constraint, Domain, Point, extremes, grid_points
from orchestrator.settings.config import (
    Config,
    TrackersSpec,
    dotted_keys,
    make_config,
)
from orchestrator.settings.dotted import pick

OBJECTIVES = (
    "min heldout.help_loss",
    "max heldout.recall_agreement",
    "max heldout.reflection_rate",
)
FIGURES = (
    "heldout.own_loss",
    "heldout.help_loss",
    "heldout.help_gain",
    "heldout.recall_kl",
    "heldout.recall_agreement",
    "heldout.self_loss",
    "heldout.sync_loss",
    "heldout.reflection_rate",
    "heldout.slots_used_frac",
    "heldout.slots_top1pct_share",
)
ASHA, PBT, TPE, GRID = "asha", "pbt", "tpe", "grid"
REFLECTION = "heldout.reflection_rate"
VOICES = ("accuracy.own", "accuracy.help", "accuracy.memory")


@dataclass(frozen=True)
class Objective:
    """A held-out figure, and which way is better."""

    figure: str
    goal: Literal["min", "max"]


class SearchTrackers(TrackersSpec):
    """Where the trials' held-out figures go, through Tune's callbacks."""

    tensorboard: bool = Field(False, description="TensorBoard events of every trial, in `tune/`.")


class SearchSpec(Spec):
    """A search, as its YAML file says it."""

    base: str = Field(min_length=1, description="The run's config, relative to this file.")
    name: str = Field(
        "search",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="Name of the search and its directory.",
    )
    storage: str = Field("runs", min_length=1, description="Where the directory is made.")
    set: dict[str, Any] = Field(
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
        "tpe", description="How points are chosen: by Optuna's TPE, by chance, or all of a grid."
    )
    scheduler: Literal["asha", "pbt", "none"] = Field(
        "asha",
        description="asha: trials that are worse than others at the same interval are stopped "
        "early; pbt: now and then the worst runs go on from a checkpoint of the best, with changed "
        "weights; both by the first objective.",
    )
    grace_intervals: int = Field(
        0,
        ge=0,
        description="asha: intervals before a trial may be stopped; pbt: before and between its "
        "moves; 0: a quarter.",
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


def parse_objective(text: str) -> Objective:
    """`min FIGURE` or `max FIGURE`. Raises: ValueError naming the known figures."""
    goal, _, figure = text.strip().partition(" ")
    figure = figure.strip()
    if goal not in ("min", "max") or figure not in (*FIGURES, *VOICES):
        known = ", ".join((*FIGURES, *VOICES))
        raise ValueError(f"objective {text!r}: expected min or max and one of {known}")
    return Objective(figure, "min" if goal == "min" else "max")


def parse_constraint(text: str, space: Mapping[str, Domain]) -> Constraint:
    """`a + b = 1`. Raises: ValueError where it is no such sum, or not exactly one is free."""
    names_text, equals, total = text.partition("=")
    names = tuple(name.strip() for name in names_text.split("+"))
    try:
        value = float(total)
    except ValueError:
        value = math.nan
    known = set(dotted_keys())
    if not equals or math.isnan(value) or not set(names) <= known:
        raise ValueError(f"constraint {text!r}: expected e.g. losses.own + losses.help = 1")
    free = [name for name in names if name not in space]
    if len(free) != 1:
        raise ValueError(
            f"constraint {text!r}: exactly one of its settings must be left out of space, so that "
            f"it follows from the others; left out: {', '.join(free) or 'none'}"
        )
    return Constraint(names, value, free[0])


@dataclass(frozen=True)
class Search:
    """A validated search.

    Attributes:
        spec: as the file says it.
        base: the run's config with `set`, of which each trial is a variation.
        url: the search's directory.
    """

    spec: SearchSpec
    base: Config
    url: str

    def config(self, sampled: Mapping[str, Any], **changes: Any) -> Config:
        """The config of one point; `changes` are top-level settings.

        Raises:
            ConfigError: the point is not valid.
        """
        return vary(self.base, self.values(sampled), **changes)

    def values(self, sampled: Mapping[str, Any]) -> dict[str, Any]:
        """What a point sets: what was sampled, and what follows from it."""
        return {**sampled, **{c.derived: c.value(sampled) for c in self.spec.sums}}

    @property
    def num_trials(self) -> int:
        """Points that are tried in all."""
        grid = self.spec.algorithm == "grid"
        return len(grid_points(self.spec.space)) if grid else self.spec.trials

    @property
    def grace_intervals(self) -> int:
        """Intervals before a trial may be stopped or moved."""
        return self.spec.grace_intervals or max(1, self.base.intervals // 4)

    @property
    def base_point(self) -> Point | None:
        """What the base config sets itself, where that is a point of the space."""
        at = {name: dotted_value(self.base, name) for name in self.spec.space}
        inside = all(domain.holds(at[name]) for name, domain in self.spec.space.items())
        summed = all(
            math.isclose(c.value(at), dotted_value(self.base, c.derived)) if inside else False
            for c in self.spec.sums
        )
        return at if inside and summed else None

    @property
    def extreme_configs(self) -> Iterator[Config]:
        """Configs at the ends of every domain, whose needs are those of the whole search."""
        for _, point in extremes(self.spec.space, self.spec.sums):
            yield self.config(point)


def vary(config: Config, values: Mapping[str, Any], **changes: Any) -> Config:
    """The config with values by dotted name in the place of its own; paths are absolute already.

    Raises: ConfigError.
    """
    nested: dict[str, Any] = {**config.model_dump(mode="json", by_alias=True), **changes}
    for key, value in values.items():
        *parents, leaf = key.split(".")
        place = nested
        for parent in parents:
            place = place[parent]
        place[leaf] = value
    return make_config(nested)


def dotted_value(config: Config, name: str) -> Any:
    """A config's value by its dotted name."""
    return pick(config.model_dump(mode="json", by_alias=True), name)
