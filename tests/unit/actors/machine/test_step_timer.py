"""Costs of the parts of a step: which clock is asked when, and when anything is waited for."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch

from actors.machine.step_timer import GpuEvent, StepTimer

GPU = torch.device("cuda")

no_card = pytest.mark.skipif(
    torch.cuda.is_available(), reason="a card is here: tests/gpu times its real events"
)


class Card:
    """A GPU that takes its time: events are passed when it is waited for, and not before."""

    def __init__(self) -> None:
        self.now_ms, self.made, self.waits = 0.0, 0, 0

    def event(self) -> GpuEvent:
        self.made += 1
        return _Event(self)


class _Event:
    def __init__(self, card: Card) -> None:
        self.card, self.at_ms, self.passed_wait = card, -1.0, -1

    def record(self) -> None:
        self.at_ms, self.passed_wait = self.card.now_ms, self.card.waits + 1

    def synchronize(self) -> None:
        self.card.waits += 1

    def elapsed_time(self, end_event: Any, /) -> float:
        assert isinstance(end_event, _Event)
        assert end_event.passed_wait <= self.card.waits, "asked before the GPU was there"
        return end_event.at_ms - self.at_ms


def spend(card: Card, costs: StepTimer, part: str, ms: float) -> None:
    with costs.span(part):
        card.now_ms += ms


@no_card
def test_a_gpus_spans_are_those_of_its_events_and_add_up_by_part() -> None:
    card = Card()
    costs = StepTimer(GPU, card.event)
    for part, ms in (("recall", 250.0), ("sync", 500.0), ("recall", 125.0)):
        spend(card, costs, part, ms)
        card.now_ms += 1000.0  # what is in no span
    assert costs.read() == {"recall": 0.375, "sync": 0.5}


@no_card
def test_a_gpu_is_waited_for_once_however_many_spans_there_are() -> None:
    card = Card()
    costs = StepTimer(GPU, card.event)
    for _ in range(50):
        spend(card, costs, "recall", 1.0)
    assert card.waits == 0
    costs.read()
    assert card.waits == 1


@no_card
def test_without_a_span_a_gpu_is_not_waited_for() -> None:
    card = Card()
    assert StepTimer(GPU, card.event).read() == {}
    assert card.waits == 0


@no_card
@pytest.mark.parametrize("ended_by", ["read", "clear"])
def test_every_interval_uses_the_same_events(ended_by: str) -> None:
    card = Card()
    costs = StepTimer(GPU, card.event)
    for _ in range(3):
        for part in ("recall", "sync"):
            spend(card, costs, part, 1.0)
        getattr(costs, ended_by)()
    assert card.made == 4


@pytest.mark.parametrize("device", [torch.device("cpu"), pytest.param(GPU, marks=no_card)])
def test_what_was_read_or_cleared_is_not_counted_again(device: torch.device) -> None:
    card = Card()
    costs = StepTimer(device, card.event)
    spend(card, costs, "recall", 1.0)
    assert list(costs.read()) == ["recall"]
    spend(card, costs, "sync", 1.0)
    costs.clear()
    assert costs.read() == {}


def test_on_a_cpu_the_hosts_clock_is_read_and_no_event_is_made() -> None:
    card = Card()
    costs = StepTimer(torch.device("cpu"), card.event)
    begin = time.perf_counter()
    for _ in range(2):
        with costs.span("asleep"):
            time.sleep(0.01)
    whole_s = time.perf_counter() - begin
    assert 0.02 <= costs.read()["asleep"] <= whole_s
    assert card.made == 0
