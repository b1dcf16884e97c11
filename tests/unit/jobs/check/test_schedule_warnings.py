"""What a run's schedule says and never does."""

from __future__ import annotations

import pytest

from jobs.check.schedule_warnings import schedule_warnings
from orchestrator.settings.config import load_config

# 8 steps in each group
BASE = ("intervals=2", "data.steps_per_interval=4", "memory.steps_per_interval=4")
WARM = ("data.optimizer.warmup_steps=1", "memory.optimizer.warmup_steps=1")


def warned(*overrides: str) -> list[str]:
    config = load_config({"corpus": {"paths": ["a.txt"]}}, [*BASE, *WARM, *overrides])
    return schedule_warnings(config)


def test_a_schedule_that_comes_true_is_no_warning() -> None:
    assert warned() == []
    assert warned("data.optimizer.warmup_steps=7") == []
    assert warned("data.optimizer={schedule: wsd, decay_frac: 0.5, warmup_steps: 1}") == []
    assert warned("checkpoints={every: 1, keep_best: 1}", "evaluation.every=2") == []
    assert warned("profile='2'") == []


@pytest.mark.parametrize(
    ("overrides", "begins"),
    [
        (("data.optimizer.warmup_steps=500",), "data.optimizer.warmup_steps 500: the data group"),
        (("memory.optimizer.warmup_steps=8",), "memory.optimizer.warmup_steps 8: the memory group"),
        (
            ("data.optimizer.decay_frac=0.5",),
            "data.optimizer.decay_frac has no effect with schedule cosine",
        ),
        (
            ("data.optimizer={schedule: constant, final_lr_frac: 0.5, warmup_steps: 1}",),
            "data.optimizer.final_lr_frac: with schedule constant",
        ),
        (("checkpoints.every=3",), "checkpoints.every 3: the run has 2 intervals"),
        (
            ("checkpoints={every: 1, keep_best: 1}", "evaluation.every=3"),
            "checkpoints.keep_best 1: in 2 intervals no checkpoint",
        ),
        (
            ("intervals=5", "checkpoints={every: 2, keep_best: 1}", "evaluation.every=3"),
            "checkpoints.keep_best 1: in 5 intervals no checkpoint",
        ),
        (("mix.replay=0.001",), "mix.replay 0.001: of a batch of 16 that rounds to no sequence"),
        (("memory.replay_windows=0",), "mix.replay 0.2: memory.replay_windows is 0"),
        (
            ("exchange.publish_every=3", "checkpoints.every=0"),
            "exchange.publish_every 3: the run has 2 intervals",
        ),
        (("profile='3-5'",), "profile 3-5: names none of the run's intervals, 1 to 2"),
        (("profile='2-1'",), "profile 2-1: names none of the run's intervals"),
        (("profile='0'",), "profile 0: names none of the run's intervals"),
    ],
)
def test_what_can_not_come_true_is_said(overrides: tuple[str, ...], begins: str) -> None:
    (said,) = warned(*overrides)
    assert said.startswith(begins)


def test_a_warm_up_that_never_ends_says_how_far_the_rate_comes() -> None:
    (said,) = warned("data.optimizer={lr: 1.0e-3, warmup_steps: 80}")
    assert "its rate ends at 0.0001 of lr 0.001" in said
