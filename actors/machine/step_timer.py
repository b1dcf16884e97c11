"""Seconds spent in the parts of a step: by the host's clock on a CPU, by events on a GPU.

GPU work is queued while the host goes on, so the host's clock would measure only the queueing. An
event queued with the work records when the GPU reaches it; all events are read together, after
waiting once for the last.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch


class GpuEvent(Protocol):
    """The methods of `torch.cuda.Event` that are used."""

    def record(self) -> None:
        """Queues the event behind the GPU's present work."""

    def synchronize(self) -> None:
        """Waits until the GPU reaches the event."""

    def elapsed_time(self, end_event: Any, /) -> float:
        """Milliseconds from this event to `end_event`."""


def _timed_event() -> GpuEvent:
    return torch.cuda.Event(enable_timing=True)


class StepTimer:
    """Seconds by part, summed over the spans of an interval. Spans must not overlap.

    Args:
        device: that does the work.
        make_event: makes GPU events, which are reused after every `read`.
    """

    def __init__(
        self, device: torch.device, make_event: Callable[[], GpuEvent] = _timed_event
    ) -> None:
        self._on_gpu = device.type == "cuda"
        self._make_event = make_event
        self._host_s: defaultdict[str, float] = defaultdict(float)
        self._spans: list[tuple[str, GpuEvent, GpuEvent]] = []
        self._free: list[GpuEvent] = []

    @contextmanager
    def span(self, part: str) -> Iterator[None]:
        """Adds the time of the block to `part`."""
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
        """Discards all spans so far."""
        self._free += (event for _, *events in self._spans for event in events)
        self._spans.clear()
        self._host_s.clear()

    def _event(self) -> GpuEvent:
        return self._free.pop() if self._free else self._make_event()
