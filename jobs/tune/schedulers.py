"""Which trials Tune stops early or moves: ASHA, and populations (PBT). Called by `tune`.

ASHA: Li et al. 2020, arXiv 1810.05934. PBT: Jaderberg et al. 2017, arXiv 1711.09846.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from ray.tune.schedulers import (
    ASHAScheduler,
    FIFOScheduler,
    PopulationBasedTraining,
    TrialScheduler,
)

from jobs.tune.results import TrialResult
from jobs.tune.spec import ASHA, PBT, Search
from jobs.tune.trial import DONOR, FINAL, GENERATION, GIVEN, INTERVAL, NUMBER, POINT


def scheduler_of(search: Search, before: Sequence[TrialResult]) -> TrialScheduler:
    """The scheduler of a search, knowing the results of an earlier start of it."""
    if search.spec.scheduler == PBT:
        return Population(search)
    if search.spec.scheduler != ASHA:
        return FIFOScheduler()
    goal = search.spec.goals[0]
    scheduler = ASHAScheduler(
        time_attr=INTERVAL,
        metric=goal.figure,
        mode=goal.goal,
        max_t=search.base.intervals + 1,  # so that what reaches the end is not stopped at it
        grace_period=search.grace_intervals,
        reduction_factor=2,
    )
    for result in before:
        trial = SimpleNamespace(trial_id=f"before-{result.number}")  # all that ASHA asks of one
        scheduler.on_trial_add(None, trial)
        for row in result.history:
            scheduler.on_trial_result(None, trial, row)
    return scheduler


class Population(PopulationBasedTraining):  # type: ignore[misc]
    """Ray's PBT, with moves that stay inside the search's space and are a function of its seed."""

    def __init__(self, search: Search) -> None:
        goal = search.spec.goals[0]
        super().__init__(
            time_attr=INTERVAL,
            metric=goal.figure,
            mode=goal.goal,
            perturbation_interval=search.grace_intervals,
            custom_explore_fn=lambda config: config,  # it asks for one; moves are made below
            log_config=False,
            require_attrs=False,  # the reflection rate is none before an answer changes
            synch=True,  # else a run that is an evaluation ahead is compared with the others' last
        )
        self._search = search

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """As PBT; a run that has ended is moved no more."""
        if result[FINAL]:
            return str(TrialScheduler.CONTINUE)
        return str(super().on_trial_result(tune_controller, trial, result))

    def _get_new_config(self, trial: Any, trial_to_clone: Any) -> tuple[dict[str, Any], Any]:
        """The donor's point, moved; the trial stays itself."""
        mine, donor = trial.config[GIVEN], trial_to_clone.config[GIVEN]
        generation = mine.get(GENERATION, 0) + 1
        rng = random.Random(f"{self._search.spec.seed}-{mine[NUMBER]}-{generation}")
        space = self._search.spec.space
        point = {name: domain.move(donor[POINT][name], rng) for name, domain in space.items()}
        moved = {NUMBER: mine[NUMBER], POINT: point, GENERATION: generation, DONOR: donor[NUMBER]}
        return {GIVEN: moved}, {}
