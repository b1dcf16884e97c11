"""What a step measures, what an interval returns, and the small arithmetic both trainers share."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from actors.flat import ByteArray
from actors.wire import CheckpointHeader, Header, Report


@dataclass
class Measured:
    """What one step measured.

    Attributes:
        metrics: the same on every rank, e.g. the learning rate.
        shares: this rank's share of a mean over the global batch; ranks add up.
        num_tokens: of this rank's sequences.
    """

    metrics: dict[str, float] = field(default_factory=dict)
    shares: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    num_tokens: int = 0


def mean_of(steps: Sequence[Measured]) -> Measured:
    """What an interval measured: tokens added up, all else means over the steps that have it."""
    mean, counts = Measured(), defaultdict[str, int](int)
    for step in steps:
        mean.num_tokens += step.num_tokens
        for sums, values in ((mean.metrics, step.metrics), (mean.shares, step.shares)):
            for name, value in values.items():
                sums[name] = sums.get(name, 0.0) + value
                counts[name] += 1
    for sums in (mean.metrics, mean.shares):
        for name in sums:
            sums[name] /= counts[name]
    return mean


@dataclass(frozen=True)
class Outcome:
    """What one interval returns."""

    report: Report
    header: Header | None
    buckets: list[ByteArray]
    checkpoint_header: CheckpointHeader | None
    checkpoint_buckets: list[ByteArray]


def within(limit: int, rows: slice) -> int:
    """How many of the first `limit` sequences of a batch a strided slice takes."""
    return len(range(rows.start, limit, rows.step))
