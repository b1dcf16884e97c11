"""The space of a search: domains, sums, objectives, and points. No torch, no Ray.

A point gives each varied setting a value, by its dotted name.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from actors.settings.base import Spec
from orchestrator.settings.config import dotted_keys

# A value of a config: a number, a text, a list, null. Which one fits, the config's own checks say.
Value = Any
Point = dict[str, Value]

RESAMPLED_FRAC = 0.25  # of perturbed values: drawn anew, as in Jaderberg et al. 2017 (1711.09846)
FACTORS = (0.8, 1.2)

REFLECTION = "heldout.reflection_rate"
FIGURES = (
    "heldout.own_loss",
    "heldout.help_loss",
    "heldout.help_gain",
    "heldout.recall_kl",
    "heldout.recall_agreement",
    "heldout.self_loss",
    REFLECTION,
    "heldout.general_own_loss",
    "heldout.general_help_loss",
    "heldout.slots_used_frac",
    "heldout.slots_top1pct_share",
    "heldout.written_likely_frac",
)
PROBED_FIGURES = ("accuracy.own", "accuracy.help", "accuracy.memory")  # need a corpus of facts


class Domain(Spec):
    """What one setting may be: exactly one of these."""

    uniform: tuple[float, float] | None = Field(None, description="Between two numbers, evenly.")
    loguniform: tuple[float, float] | None = Field(
        None, description="Between two positive numbers, evenly on a logarithmic scale."
    )
    randint: tuple[int, int] | None = Field(
        None, description="A whole number from the first up to, not including, the second."
    )
    choice: list[Value] | None = Field(None, min_length=1, description="One of these values.")
    grid: list[Value] | None = Field(None, min_length=1, description="Each of these in turn.")

    @model_validator(mode="after")
    def _one_that_is_not_empty(self) -> Self:
        kinds = [name for name, value in self if value is not None]
        if len(kinds) != 1:
            known = ", ".join(type(self).model_fields)
            raise ValueError(f"expected exactly one of {known}, got {', '.join(kinds) or 'none'}")
        if (bounds := self.bounds) and not bounds[0] < bounds[1]:
            raise ValueError(
                f"{kinds[0]} [{bounds[0]:g}, {bounds[1]:g}] is empty: the first number must be "
                "smaller than the second"
            )
        if self.loguniform and self.loguniform[0] <= 0:
            raise ValueError(f"loguniform begins at {self.loguniform[0]:g}, but must be above 0")
        return self

    @property
    def bounds(self) -> tuple[float, float] | None:
        """The two numbers of a range."""
        return self.uniform or self.loguniform or self.randint

    @property
    def values(self) -> list[Value] | None:
        """The values of a domain that lists them."""
        return self.choice or self.grid

    @property
    def ends(self) -> list[Value]:
        """Its extreme values, or all where they have no order."""
        if self.randint:
            return [self.randint[0], self.randint[1] - 1]
        return list(self.bounds or self.values or ())

    def holds(self, value: Value) -> bool:
        """Whether the value is in the domain."""
        if self.values is not None:
            return value in self.values
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        low, high = self.ends
        return bool(low <= value <= high) and (self.randint is None or value == int(value))

    def draw(self, rng: random.Random) -> Value:
        """A random value."""
        if self.values is not None:
            return rng.choice(self.values)
        low, high = self.ends
        if self.randint:
            return rng.randint(int(low), int(high))
        if self.loguniform:
            return _clamp(math.exp(rng.uniform(math.log(low), math.log(high))), low, high)
        return rng.uniform(low, high)

    def perturb(self, value: Value, rng: random.Random) -> Value:
        """A value near another one, inside the domain; one time in four a random one.

        Ranges: a fifth less or more. Listed values: the one before or after.
        """
        if rng.random() < RESAMPLED_FRAC or not self.holds(value):
            return self.draw(rng)
        if self.values is not None:
            index = self.values.index(value) + rng.choice((-1, 1))
            return self.values[min(max(index, 0), len(self.values) - 1)]
        perturbed = _clamp(value * rng.choice(FACTORS), *self.ends)
        return round(perturbed) if self.randint else perturbed


def _clamp(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)


@dataclass(frozen=True)
class Constraint:
    """Settings that add up to a number; one of them follows from the others.

    Attributes:
        names: of all settings in the sum.
        total: their sum.
        derived: the one that is not varied itself.
    """

    names: tuple[str, ...]
    total: float
    derived: str

    def value(self, sampled: Mapping[str, Value]) -> float:
        """The derived setting's value."""
        rest = sum(float(sampled[name]) for name in self.names if name != self.derived)
        return round(self.total - rest, 12)


@dataclass(frozen=True)
class Objective:
    """A held-out figure, and which way is better."""

    figure: str
    goal: Literal["min", "max"]


def parse_objective(text: str) -> Objective:
    """`min FIGURE` or `max FIGURE`. Raises: ValueError naming the known figures."""
    goal, _, figure = text.strip().partition(" ")
    figure = figure.strip()
    if goal not in ("min", "max") or figure not in (*FIGURES, *PROBED_FIGURES):
        known = ", ".join((*FIGURES, *PROBED_FIGURES))
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


def grid_points(space: Mapping[str, Domain]) -> list[Point]:
    """Every combination of listed values, the last name fastest."""
    lists = [domain.values or [] for domain in space.values()]
    return [dict(zip(space, values, strict=True)) for values in itertools.product(*lists)]


def extremes(
    space: Mapping[str, Domain], constraints: list[Constraint]
) -> Iterator[tuple[str, Point]]:
    """Points at the ends of each domain, the others at their beginnings; for sums all corners.
    Each with the name of the setting that is at its end.
    """
    first = {name: domain.ends[0] for name, domain in space.items()}
    for constraint in constraints:
        varied = [name for name in constraint.names if name != constraint.derived]
        for corner in itertools.product(*(space[name].ends for name in varied)):
            yield constraint.derived, {**first, **dict(zip(varied, corner, strict=True))}
    for name, domain in space.items():
        for value in domain.ends:
            yield name, {**first, name: value}
