"""Which points a search tries, and which trials it stops early or replaces: Tune's search algorithm
and schedulers.

A point is a function of the search's seed, its number and the results of the other trials so far: a
search that goes on chooses as it would have. Exploits are a function of the seed too.

ASHA: Li et al. 2020, arXiv 1810.05934. PBT: Jaderberg et al. 2017, arXiv 1711.09846.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
from ray.tune.experiment import Trial
from ray.tune.schedulers import (
    ASHAScheduler,
    FIFOScheduler,
    PopulationBasedTraining,
    TrialScheduler,
)
from ray.tune.search import Searcher

from jobs.tune.results import FINISHED, RUNNING, STOPPED, TrialResult, TrialResults
from jobs.tune.search import (
    ASHA,
    ASSIGNMENT,
    FINAL,
    GRID,
    INTERVAL,
    PBT,
    TPE,
    Assignment,
    Search,
)
from jobs.tune.space import Domain, Point, Value, grid_points

if TYPE_CHECKING:  # imported where a point is sampled: a grid and a population need no Optuna
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial

RANDOM_FRAC, RANDOM_MAX = 0.25, 10  # of a search's points: random, before TPE uses their results


class PointSearcher(Searcher):  # type: ignore[misc]
    """Gives Tune one point after the other.

    Args:
        search: whose points.
        results: of its trials; those of an earlier start and those that come in.
    """

    def __init__(self, search: Search, results: TrialResults) -> None:
        super().__init__()
        self._search, self._results = search, results
        begun = {result.number: result.is_over for result in results.all}
        numbers = [n for n in range(search.num_trials) if not begun.get(n, False)]
        self._waiting = sorted(numbers, key=lambda n: (n not in begun, n))  # begun ones first
        self._suggested: dict[int, TrialResult] = {}  # Tune asks for points before trials start

    def suggest(self, trial_id: str) -> dict[str, Assignment] | str:
        """The next trial's config."""
        if not self._waiting:
            return str(Searcher.FINISHED)
        number = self._waiting.pop(0)
        if begun := self._results.get(number):
            point = begun.point
        elif (fixed := first_points(self._search).get(number)) is not None:
            point = fixed
        else:
            known = self._suggested | {result.number: result for result in self._results.all}
            point = sampled_point(self._search, number, [known[n] for n in sorted(known)])
        self._suggested[number] = TrialResult(number, point, self._search.values(point))
        return {ASSIGNMENT: {"number": number, "point": point}}

    def on_trial_complete(
        self, trial_id: str, result: Mapping[str, object] | None = None, error: bool = False
    ) -> None:
        """Nothing: the results are kept by `ResultsCallback`."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing: a search continues from its trials' results."""

    def restore(self, checkpoint_path: str) -> None:
        """Never called, see `save`."""
        raise NotImplementedError("a search continues from its trials' results")


def first_points(search: Search) -> dict[int, Point]:
    """Points that are fixed beforehand: a grid's, or the base config's own as the first."""
    if search.spec.algorithm == GRID:
        return dict(enumerate(grid_points(search.spec.space)))
    return {0: search.base_point} if search.base_point is not None else {}


def sampled_point(search: Search, number: int, results: Sequence[TrialResult]) -> Point:
    """A point that Optuna samples, by TPE from the results, or at random.

    Args:
        search: whose point.
        number: of the trial.
        results: of other trials, by number; TPE avoids the points of those that still run.
    """
    import optuna
    from optuna.study import StudyDirection

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    directions = {"min": StudyDirection.MINIMIZE, "max": StudyDirection.MAXIMIZE}
    study = optuna.create_study(
        directions=[directions[goal.goal] for goal in search.spec.goals],
        sampler=_sampler(search, number),
    )
    study.add_trials([trial for r in results if (trial := _optuna_trial(search, r)) is not None])
    space = search.spec.space
    params = study.ask({name: _distribution(domain) for name, domain in space.items()}).params
    return {n: d.values[params[n]] if d.values else params[n] for n, d in space.items()}


def _sampler(search: Search, number: int) -> BaseSampler:
    from optuna.samplers import RandomSampler, TPESampler

    seed = int(np.random.SeedSequence([search.spec.seed, number]).generate_state(1)[0])
    if search.spec.algorithm != TPE:
        return RandomSampler(seed=seed)
    num_random = min(RANDOM_MAX, max(2, round(RANDOM_FRAC * search.num_trials)))
    return TPESampler(seed=seed, n_startup_trials=num_random)


def _distribution(domain: Domain) -> BaseDistribution:
    """A domain as Optuna's distribution; listed values by their index."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if domain.values is not None:
        return CategoricalDistribution(tuple(range(len(domain.values))))
    low, high = domain.ends
    if domain.randint:
        return IntDistribution(low, high)
    return FloatDistribution(low, high, log=domain.loguniform is not None)


def _optuna_trial(search: Search, result: TrialResult) -> FrozenTrial | None:
    """A result as Optuna's trial; None if it failed or ended without all objectives."""
    from optuna.trial import TrialState, create_trial

    space, goals = search.spec.space, search.spec.goals
    values = [result.figures.get(goal.figure, math.nan) for goal in goals]
    if result.status == FINISHED and all(map(math.isfinite, values)):
        state = TrialState.COMPLETE
    elif result.status in (STOPPED, RUNNING):
        state = TrialState.PRUNED if result.status == STOPPED else TrialState.RUNNING
    else:
        return None
    goal, point = goals[0].figure, result.point
    curve = {int(row[INTERVAL]): row[goal] for row in result.history if goal in row}
    return create_trial(
        state=state,
        values=values if state == TrialState.COMPLETE else None,
        params={n: d.values.index(point[n]) if d.values else point[n] for n, d in space.items()},
        distributions={name: _distribution(domain) for name, domain in space.items()},
        intermediate_values=curve if len(goals) == 1 else None,  # Optuna's are of one objective
    )


def scheduler_of(search: Search, results: TrialResults) -> TrialScheduler:
    """The scheduler of a search; ASHA compares with the results of an earlier start."""
    if search.spec.scheduler == PBT:
        return Population(search)
    if search.spec.scheduler != ASHA:
        return FIFOScheduler()
    goal = search.spec.goals[0]
    scheduler = ASHAScheduler(
        time_attr=INTERVAL,
        metric=goal.figure,
        mode=goal.goal,
        max_t=search.base.intervals + 1,  # so that a trial at its last interval is not stopped
        grace_period=search.grace_intervals,
        reduction_factor=2,
    )
    for result in results.all:
        trial = SimpleNamespace(trial_id=f"before-{result.number}")  # all that ASHA asks of one
        scheduler.on_trial_add(None, trial)
        for row in result.history:
            scheduler.on_trial_result(None, trial, row)
    return scheduler


class Population(PopulationBasedTraining):  # type: ignore[misc]
    """Ray's PBT, with perturbed values that stay inside the search's space and depend on its seed
    only.
    """

    def __init__(self, search: Search) -> None:
        goal = search.spec.goals[0]
        super().__init__(
            time_attr=INTERVAL,
            metric=goal.figure,
            mode=goal.goal,
            perturbation_interval=search.grace_intervals,
            custom_explore_fn=lambda config: config,  # required; `_get_new_config` perturbs
            log_config=False,
            require_attrs=False,  # there is no reflection rate before an answer changes
            synch=True,  # else a run that is an evaluation ahead is compared with the others' last
        )
        self._search = search

    def on_trial_result(
        self, tune_controller: object, trial: Trial, result: Mapping[str, Any]
    ) -> str:
        """As PBT; a run that has ended is not replaced any more."""
        if result[FINAL]:
            return str(TrialScheduler.CONTINUE)
        return str(super().on_trial_result(tune_controller, trial, result))

    def _get_new_config(
        self, trial: Trial, trial_to_clone: Trial
    ) -> tuple[dict[str, Assignment], dict[str, Value]]:
        """The donor's point, perturbed; the trial keeps its number."""
        own: Assignment = trial.config[ASSIGNMENT]
        donor: Assignment = trial_to_clone.config[ASSIGNMENT]
        number, generation = own["number"], own.get("generation", 0) + 1
        rng = random.Random(f"{self._search.spec.seed}-{number}-{generation}")
        space = self._search.spec.space
        point = {name: domain.perturb(donor["point"][name], rng) for name, domain in space.items()}
        perturbed: Assignment = {
            "number": number, "point": point, "generation": generation, "donor": donor["number"]
        }  # fmt: skip
        return {ASSIGNMENT: perturbed}, {}


def population(search: Search, results: TrialResults) -> list[Assignment]:
    """What the members of a population that are not over begin or go on with."""
    fixed = first_points(search)
    members: list[Assignment] = []
    for number in range(search.num_trials):
        rng = random.Random(f"{search.spec.seed}-{number}")
        drawn = {name: domain.draw(rng) for name, domain in search.spec.space.items()}
        result = results.get(number)
        if result is None:
            members.append({"number": number, "point": fixed.get(number, drawn)})
        elif not result.is_over:
            member: Assignment = {"number": number, "point": result.point}
            if result.moves:
                member["generation"] = len(result.moves)
                member["donor"] = result.moves[-1].donor
            members.append(member)
    return members
