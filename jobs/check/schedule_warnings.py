"""Warnings of `tandem check` about settings without effect in a run of this length: a warm-up that
never ends, checkpoints without an evaluation, text that is never replayed. Pure functions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from actors.settings.groups import OptimizerSpec
from actors.settings.run import GROUPS
from orchestrator.settings.config import CheckpointSpec, Config, profiled_intervals


def schedule_warnings(config: Config) -> list[str]:
    """One line per setting that has no effect in a run of this length."""
    return [
        *(line for group in GROUPS for line in _rates(config, group)),
        *_checkpoints(config),
        *_mix(config),
        *_exchange(config),
    ]


def _rates(config: Config, group: str) -> Iterator[str]:
    rates, total = config.group(group).optimizer, config.total_steps(group)
    name = f"{group}.optimizer"
    if rates.warmup_steps >= total:
        reached = rates.lr * total / rates.warmup_steps
        yield (
            f"{name}.warmup_steps {rates.warmup_steps}: the {group} group has {total} steps in "
            f"all, so its rate ends at {reached:.2g} of lr {rates.lr:.2g} and never falls; lower "
            "warmup_steps (a tenth of the steps is usual) or train more intervals"
        )
    plain = OptimizerSpec()
    if rates.schedule != "wsd" and rates.decay_frac != plain.decay_frac:
        yield f"{name}.decay_frac has no effect with schedule {rates.schedule}, only with wsd"
    if rates.schedule == "constant" and rates.final_lr_frac != plain.final_lr_frac:
        yield f"{name}.final_lr_frac: with schedule constant the rate does not fall"


def _checkpoints(config: Config) -> Iterator[str]:
    saved, intervals = config.checkpoints, config.intervals
    if saved.every > intervals and saved.every != CheckpointSpec().every:
        yield (
            f"checkpoints.every {saved.every}: the run has {intervals} intervals, so no checkpoint "
            "is written and a failure starts again from step 0; lower it"
        )
    measured = config.evaluation.every
    if saved.keep_best and (
        not saved.every or not measured or math.lcm(saved.every, measured) > intervals
    ):
        yield (
            f"checkpoints.keep_best {saved.keep_best}: in {intervals} intervals no checkpoint "
            f"(every {saved.every}) falls on an evaluation (every {measured}), so none is known to "
            "be the best; set both to one number below that"
        )


def _mix(config: Config) -> Iterator[str]:
    size = config.memory.batch_size
    for kind, num in config.mix.counts(size).items():
        share = getattr(config.mix, kind)
        if share > 0 and num == 0:
            yield (
                f"mix.{kind} {share:g}: of a batch of {size} that rounds to no sequence, so none "
                "is used; raise it or memory.batch_size, or set it to 0"
            )
        elif kind == "replay" and num > 0 and not config.memory.replay_windows:
            yield (
                f"mix.replay {share:g}: memory.replay_windows is 0, so nothing is kept for "
                "replay and fresh text is used instead; raise replay_windows"
            )


def _exchange(config: Config) -> Iterator[str]:
    every, intervals = config.exchange.publish_every, config.intervals
    if every > intervals:
        yield (
            f"exchange.publish_every {every}: the run has {intervals} intervals, so the groups "
            "exchange nothing before its end; lower it"
        )
    traced = profiled_intervals(config.profile)
    if config.profile and not any(n in traced for n in range(1, intervals + 1)):
        yield (
            f"profile {config.profile}: names none of the run's intervals, 1 to {intervals}, so "
            "nothing is traced"
        )
