"""Drives both trainers in one process, as a lockstep run does, and asks them on the way.

    data interval i  <- memory version v(i)       v(i): the newest published by interval i - S
    memory interval i <- data version v(i)        then both are asked, as the committed pair i

What a group adopts may be older than in a run: that is what staleness costs. Seconds are of the
processor, so that other work on the machine counts little. Called by the cells of `learning`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from actors.layers.pair import Pair
from actors.snapshots.flat_parameters import ByteArray
from actors.training.data_trainer import DataTrainer
from actors.training.memory_trainer import MemoryTrainer
from actors.training.trainer import Trainer
from actors.wire import Header, Order, Range

RUN = "learning"
Json = dict[str, Any]
Snapshot = tuple[list[Header], list[ByteArray]]


def adopted_version(interval: int, staleness: int, publish_every: int) -> int:
    """The version that an interval adopts: the newest published one that is old enough."""
    return max(0, interval - staleness) // publish_every * publish_every


@dataclass
class Side:
    """One group: its trainer, what it published, what it cost."""

    trainer: Trainer
    published: dict[int, Snapshot] = field(default_factory=dict)
    tokens: int = 0
    cpu_s: float = 0.0
    adopted: int = -1

    def start(self) -> None:
        """Publishes version 0."""
        self._keep(*self.trainer.publish())

    def interval(self, number: int, peer: Side, staleness: int, publish_every: int) -> float:
        """Runs one interval on the peer's version, and returns its seconds by the clock."""
        version = adopted_version(number, staleness, publish_every)
        headers, buckets = peer.published[version]
        if said := buckets[sum(len(h.sizes) for h in headers) :]:
            buckets = said  # all that a memory without a copy of the data layer adopts
        ranges: tuple[Range, ...] = headers[0].ranges if version != self.adopted else ()
        self.adopted = version
        order = Order(
            RUN,
            0,
            number,
            self.trainer.own_spec.steps_per_interval,
            publish=number % publish_every == 0,
            ranges=ranges,
        )
        cpu, begin = time.process_time(), time.perf_counter()
        out = self.trainer.interval(order, headers, buckets)
        self.cpu_s += time.process_time() - cpu
        self.tokens += out.report.tokens
        wall_s = time.perf_counter() - begin
        if out.header is not None:
            self._keep(out.header, out.buckets)
        return wall_s

    def _keep(self, header: Header, buckets: list[ByteArray]) -> None:
        self.published[header.version] = [header], [bucket.copy() for bucket in buckets]

    def forget(self, before: int) -> None:
        """Lets go of versions that nobody will adopt any more."""
        for version in [version for version in self.published if version < before]:
            del self.published[version]


Ask = Callable[[Pair], Json]


@dataclass(frozen=True)
class Driven:
    """What was said on the way, and the seconds by the clock that a run of two processes takes.

    Attributes:
        curve: one row per point at which the pair was asked.
        walls_s: of the slower group, by interval.
    """

    curve: list[Json]
    walls_s: list[float]


def drive(
    data: DataTrainer,
    memory: MemoryTrainer,
    intervals: int,
    every: int,
    ask: Ask,
    staleness: int = 1,
    publish_every: int = 1,
) -> Driven:
    """Both groups through all intervals, asked after each `every` of them and at the end.

    `ask` is given the pair, with neither in training.
    """
    sides = Side(data), Side(memory)
    for side in sides:
        side.start()
    curve: list[Json] = []
    walls_s: list[float] = []
    for number in range(1, intervals + 1):
        walls_s.append(
            max(
                side.interval(number, peer, staleness, publish_every)
                for side, peer in (sides, sides[::-1])
            )
        )
        oldest = adopted_version(number + 1, staleness, publish_every)
        for side in sides:
            side.forget(oldest)
        if number % every == 0 or number == intervals:
            with asking(data) as pair:
                curve.append(_costs(sides, number) | ask(pair(memory)))
    return Driven(curve, walls_s)


def drive_data(
    data: DataTrainer, peer: MemoryTrainer, intervals: int, every: int, ask: Ask
) -> Driven:
    """A data layer by itself; `peer` is adopted once, and makes it a pair that can be asked."""
    side, other = Side(data), Side(peer)
    other.start()
    curve: list[Json] = []
    walls_s: list[float] = []
    for number in range(1, intervals + 1):
        walls_s.append(side.interval(number, other, number, 1))
        side.published.clear()
        if number % every == 0 or number == intervals:
            with asking(data) as pair:
                curve.append(_costs((side, other), number) | ask(pair(peer)))
    return Driven(curve, walls_s)


@contextmanager
def asking(data: DataTrainer) -> Iterator[Callable[[MemoryTrainer], Pair]]:
    """The data layer out of training inside the block, as half of a pair."""
    data.layer.eval()
    try:
        yield lambda memory: Pair(data.layer, memory.layer)
    finally:
        data.layer.train()


def _costs(sides: tuple[Side, Side], interval: int) -> Json:
    named = zip(("data", "memory"), sides, strict=True)
    return {"interval": interval} | {
        f"{name}_{what}": getattr(side, what)
        for name, side in named
        for what in ("tokens", "cpu_s")
    }
