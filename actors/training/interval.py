"""What a step measures, what an interval returns, and the small arithmetic both trainers share."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from actors.snapshots.flat_parameters import ByteArray
from actors.wire import CheckpointHeader, Header, Order, OrderError, Report


@dataclass
class Measured:
    """What one step measured.

    Attributes:
        metrics: the same on every rank, e.g. the learning rate.
        shares: this rank's share of a mean over the global batch; ranks add up.
        num_tokens: of this rank's sequences.
        unread: what the device has computed or will have, and where it belongs; `read` adds it.
    """

    metrics: dict[str, float] = field(default_factory=dict)
    shares: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    num_tokens: int = 0
    unread: list[tuple[dict[str, float], str, Tensor, float]] = field(default_factory=list)

    def add_metric(self, name: str, value: Tensor, factor: float = 1.0) -> None:
        """Adds `factor` times a scalar of the device to a metric, without waiting for it."""
        self.unread.append((self.metrics, name, value.detach(), factor))

    def add_share(self, name: str, value: Tensor, factor: float = 1.0) -> None:
        """Adds `factor` times a scalar of the device to a share, without waiting for it."""
        self.unread.append((self.shares, name, value.detach(), factor))

    def read(self) -> None:
        """Fetches all that was added from the device, at once: the one place where a step waits
        for its numbers.
        """
        if not self.unread:
            return
        values = torch.stack([value for _, _, value, _ in self.unread]).tolist()
        for (sums, name, _, factor), value in zip(self.unread, values, strict=True):
            sums[name] = sums.get(name, 0.0) + value * factor
        self.unread.clear()


def refuse_out_of_turn(
    order: Order, group: str, rank: int, incarnation: int, interval: int
) -> None:
    """Raises: OrderError where `order` is not for this interval of this incarnation of the rank."""
    if (order.incarnation, order.interval) != (incarnation, interval):
        raise OrderError(
            f"{group} rank {rank}: asked for interval {order.interval} of incarnation "
            f"{order.incarnation}, expected interval {interval} of incarnation {incarnation}"
        )


def not_finite(
    values: Mapping[str, float], group: str, rank: int, interval_done: int, step: int
) -> str:
    """A message on the first value that is NaN or infinite; empty where all are finite.

    Args:
        values: by name.
        group, rank: whose values these are.
        interval_done, step: intervals and steps that are done.
    """
    odd = next((name for name, value in values.items() if not math.isfinite(value)), None)
    if odd is None:
        return ""
    return (
        f"{group} rank {rank}: {odd} is {values[odd]} at step {step + 1} of interval "
        f"{interval_done + 1}; the last good state is version {interval_done}; lower "
        f"{group}.optimizer.lr or {group}.optimizer.clip_norm, or raise warmup_steps"
    )


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
