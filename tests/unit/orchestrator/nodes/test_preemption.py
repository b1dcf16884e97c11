from __future__ import annotations

import time

from orchestrator.nodes.preemption import POLL_S, Preemption
from tests.unit.orchestrator.scripted import Clock

THEN = "tandem resume /runs/one"


def test_a_draining_node_of_the_run_is_a_reason_to_stop() -> None:
    in_a_minute = int((time.time() + 60) * 1000)
    notice = Preemption(lambda: {"a", "b"}, THEN, lambda: {"b": in_a_minute}, Clock(1.0))
    reason = notice.reason()
    assert reason is not None
    assert "node b is taken away in" in reason
    assert reason.endswith(f"; {THEN} goes on from the newest checkpoint")


def test_without_a_deadline_none_is_named() -> None:
    reason = Preemption(lambda: {"a"}, THEN, lambda: {"a": 0}, Clock(1.0)).reason()
    assert reason is not None
    assert "taken away;" in reason


def test_other_nodes_are_none_of_the_runs_business() -> None:
    assert Preemption(lambda: {"a"}, THEN, lambda: {"c": 0}, Clock(1.0)).reason() is None


def test_ray_is_asked_every_other_second_and_a_reason_stays() -> None:
    clock, asked = Clock(1.0), []
    answers = [{}, {"a": 0}]

    def draining() -> dict[str, int]:
        asked.append(clock.now)
        return answers.pop(0)

    notice = Preemption(lambda: {"a"}, THEN, draining, clock)
    assert notice.reason() is None
    clock.now += POLL_S / 2
    assert notice.reason() is None
    clock.now += POLL_S
    first = notice.reason()
    assert first is not None
    clock.now += 10 * POLL_S
    assert notice.reason() == first
    assert len(asked) == 2
