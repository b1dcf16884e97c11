"""Which points a search tries, as Tune asks for them: Optuna's TPE, by chance, or all of a grid.

A point is a function of the search's seed, its number and what the trials before it came to, so
that a search that goes on chooses as it would have. Points that were begun come first; those of
ended trials are only told to Optuna. Called by `tune`.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.study import StudyDirection
from optuna.trial import TrialState
from ray.tune.search import Searcher

from jobs.tune.results import FINISHED, STOPPED, TrialResult
from jobs.tune.space import Domain, Point, grid_points
from jobs.tune.spec import GRID, TPE, Search
from jobs.tune.trial import FINAL, GIVEN, INTERVAL, NUMBER, POINT

AHEAD_FRAC, AHEAD_MAX = 0.25, 10  # of a search's points: by chance, before TPE follows the others


class PointSearcher(Searcher):  # type: ignore[misc]
    """Hands points to Tune and tells Optuna what came of them.

    Args:
        search: whose points.
        before: results of an earlier start of the same search.
    """

    def __init__(self, search: Search, before: Sequence[TrialResult]) -> None:
        super().__init__()
        self._search = search
        self._space = {name: _distribution(domain) for name, domain in search.spec.space.items()}
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        ways = {"min": StudyDirection.MINIMIZE, "max": StudyDirection.MAXIMIZE}
        self._study = optuna.create_study(directions=[ways[g.goal] for g in search.spec.goals])
        known = {result.number: result for result in before}
        self._waiting: list[tuple[int, Point | None]] = []
        for number in range(search.num_trials):
            result = known.get(number)
            if result is not None and result.is_over:
                self._tell_of(result)
            else:
                self._waiting.append((number, result.point if result else None))
        self._waiting.sort(key=lambda waiting: (waiting[1] is None, waiting[0]))
        self._asked: dict[str, optuna.Trial] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str:
        """The next trial's config."""
        if not self._waiting:
            return str(Searcher.FINISHED)
        number, begun = self._waiting.pop(0)
        point = begun or first_points(self._search).get(number)
        self._study.sampler = self._sampler(number)
        if point is not None:
            self._study.enqueue_trial(self._params(point))
        asked = self._asked[trial_id] = self._study.ask(fixed_distributions=self._space)
        return {GIVEN: {NUMBER: number, POINT: point or self._point(asked.params)}}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """A trial measured itself: known to a study of one objective only."""
        value = result.get(self._search.spec.goals[0].figure)
        if len(self._search.spec.goals) == 1 and value is not None and not result[FINAL]:
            self._asked[trial_id].report(value, result[INTERVAL])

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """A trial ended, was stopped early, or failed for good."""
        asked, values = self._asked.pop(trial_id), self._values(result or {})
        if error or not result:
            self._study.tell(asked, state=TrialState.FAIL)
        elif not result.get(FINAL):
            self._study.tell(asked, state=TrialState.PRUNED)
        elif values is None:
            self._study.tell(asked, state=TrialState.FAIL)
        else:
            self._study.tell(asked, values)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: what a search goes on from are its trials' results."""

    def restore(self, checkpoint_path: str) -> None:
        """Never asked for, see `save`."""
        raise NotImplementedError("a search goes on from its trials' results")

    def _sampler(self, number: int) -> optuna.samplers.BaseSampler:
        spec = self._search.spec
        seed = int(np.random.SeedSequence([spec.seed, number]).generate_state(1)[0])
        if spec.algorithm != TPE:
            return optuna.samplers.RandomSampler(seed=seed)
        ahead = min(AHEAD_MAX, max(2, round(AHEAD_FRAC * self._search.num_trials)))
        return optuna.samplers.TPESampler(seed=seed, n_startup_trials=ahead)

    def _tell_of(self, result: TrialResult) -> None:
        """A trial of an earlier start, as if it had ended now."""
        values = self._values(result.figures) if result.status == FINISHED else None
        state = {FINISHED: TrialState.COMPLETE, STOPPED: TrialState.PRUNED}[result.status]
        if state == TrialState.COMPLETE and values is None:
            state = TrialState.FAIL
        goal, alone = self._search.spec.goals[0].figure, len(self._search.spec.goals) == 1
        curve = {int(row[INTERVAL]): row[goal] for row in result.history if goal in row}
        self._study.add_trial(
            optuna.trial.create_trial(
                state=state,
                values=values if state == TrialState.COMPLETE else None,
                params=self._params(result.point),
                distributions=self._space,
                intermediate_values=curve if alone else None,
            )
        )

    def _values(self, figures: Mapping[str, Any]) -> list[float] | None:
        """The objectives' figures; None where one is missing."""
        values = [figures.get(goal.figure) for goal in self._search.spec.goals]
        found = [float(value) for value in values if value is not None and math.isfinite(value)]
        return found if len(found) == len(values) else None

    def _params(self, point: Point) -> dict[str, Any]:
        """A point as Optuna knows it: listed values by their place in the list."""
        space = self._search.spec.space
        return {n: d.values.index(point[n]) if d.values else point[n] for n, d in space.items()}

    def _point(self, params: Mapping[str, Any]) -> Point:
        space = self._search.spec.space
        return {n: d.values[params[n]] if d.values else params[n] for n, d in space.items()}


def first_points(search: Search) -> dict[int, Point]:
    """Points that are fixed before any is tried: a grid's, or what the base config sets itself."""
    if search.spec.algorithm == GRID:
        return dict(enumerate(grid_points(search.spec.space)))
    return {0: search.base_point} if search.base_point is not None else {}


def population(search: Search) -> list[Point]:
    """The points that a population begins with."""
    fixed = first_points(search)
    points = []
    for number in range(search.num_trials):
        rng = random.Random(f"{search.spec.seed}-{number}")
        drawn = {name: domain.draw(rng) for name, domain in search.spec.space.items()}
        points.append(fixed.get(number, drawn))
    return points


def _distribution(domain: Domain) -> BaseDistribution:
    """Optuna's word for a domain."""
    if domain.values is not None:
        return CategoricalDistribution(tuple(range(len(domain.values))))
    low, high = domain.ends
    if domain.randint:
        return IntDistribution(low, high)
    return FloatDistribution(low, high, log=domain.loguniform is not None)
