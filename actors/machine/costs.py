"""Seconds that the parts of a step take: by the host's clock on a CPU, by CUDA events on a GPU.

Work is queued on a GPU and the host continues, so that the host's clock would measure the queueing.
An event is queued with the work and records the time at which the GPU reaches it; all are read
together by `Costs.read`, which waits for the last one. Called by the trainers.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch


class Event(Protocol):
    """The part of `torch.cuda.Event` that is used here."""

    def record(self) -> None:
        """Queues the event behind the work that the GPU has."""

    def synchronize(self) -> None:
        """Waits until the GPU has reached the event."""

    def elapsed_time(self, end_event: Any, /) -> float:
        """Milliseconds from here to `end_event`."""


def _timed_event() -> Event:
    return torch.cuda.Event(enable_timing=True)


class Costs:
    """Seconds by part, summed over the spans of an interval. Spans may not overlap.

    Args:
        device: where the work is done.
        make_event: makes the events of a GPU; kept and used again after every `read`.
    """

    def __init__(
        self, device: torch.device, make_event: Callable[[], Event] = _timed_event
    ) -> None:
        self._on_gpu = device.type == "cuda"
        self._make_event = make_event
        self._host_s: defaultdict[str, float] = defaultdict(float)
        self._spans: list[tuple[str, Event, Event]] = []
        self._free: list[Event] = []

    @contextmanager
    def span(self, part: str) -> Iterator[None]:
        """Adds the block's seconds to `part`."""
        if self._on_gpu:
            start, end = self._event(), self._event()
            start.record()
            yield
            end.record()
            self._spans.append((part, start, end))
        else:
            begin = time.perf_counter()
            yield
            self._host_s[part] += time.perf_counter() - begin

    def read(self) -> dict[str, float]:
        """Seconds by part since the last call; waits once, for the end of the last span."""
        if self._spans:
            self._spans[-1][2].synchronize()
        for part, start, end in self._spans:
            self._host_s[part] += start.elapsed_time(end) / 1e3
            self._free += (start, end)
        self._spans.clear()
        costs_s = dict(self._host_s)
        self._host_s.clear()
        return costs_s

    def clear(self) -> None:
        """Forgets the spans so far."""
        self._free += (event for _, *events in self._spans for event in events)
        self._spans.clear()
        self._host_s.clear()

    def _event(self) -> Event:
        return self._free.pop() if self._free else self._make_event()
