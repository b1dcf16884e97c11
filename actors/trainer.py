"""One rank of a group: the interval, and what both trainers share.

    interval(order, headers, buckets):  refuse what is not next -> adopt -> steps -> (measure) ->
    publish -> report

A plain class: `orchestrator.groups` wraps it in an actor. It knows its own layer and a mirror of
its partner's, never the partner's process. Subclasses say what one step is.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from actors.corpus import Corpus, Windows, merge_ranges
from actors.flat import ByteArray, FlatParameters
from actors.layers import Batch, add_noise, seed_everything, seed_of, to_batch
from actors.optim import DenseOptimizer, section_of
from actors.snapshot import adopt, publish
from actors.spec import RunSpec, peer_of
from actors.tokenizer import Tokenizer
from actors.wire import Beat, DivergedError, Header, Order, OrderError, Range, Report, SnapshotError


class Trainer(ABC):
    """Trains one layer, interval by interval.

    Args:
        spec: the run.
        tokenizer_json: the run's tokenizer.
        group, rank, num_ranks, incarnation: who this is.
        run: the run's name, checked against every header.
    """

    def __init__(
        self,
        spec: RunSpec,
        tokenizer_json: str,
        run: str,
        group: str,
        rank: int,
        num_ranks: int,
        incarnation: int,
    ) -> None:
        self.spec = spec
        self.run, self.group, self.rank, self.num_ranks = run, group, rank, num_ranks
        self.incarnation = incarnation
        workers = spec.group(group).workers
        torch.set_num_threads(max(1, int(workers.cpus)))
        self.device = torch.device("cuda" if workers.gpus > 0 else "cpu")
        self.tokenizer = Tokenizer.from_json(tokenizer_json)
        self.corpus = Corpus.open(spec, self.tokenizer)
        self.interval_done, self.step, self.peer_version = 0, 0, -1
        self.ranges: list[Range] = []
        self.costs_s: defaultdict[str, float] = defaultdict(float)
        self.beat = Beat(group, rank, incarnation, "starting", 0, 0, time.time())

    own: FlatParameters
    mirror: FlatParameters
    dense: DenseOptimizer

    def _flatten(self, own: nn.Module, mirror: nn.Module) -> None:
        """Lays out both layers; the mirror is only ever copied into."""
        self.own = FlatParameters(own, section_of)
        self.mirror = FlatParameters(mirror.requires_grad_(False), section_of)

    @abstractmethod
    def train_step(self) -> dict[str, float]:
        """One optimizer step; returns its measurements, `tokens` among them."""

    def begin_interval(self, order: Order, headers: Sequence[Header]) -> None:  # noqa: B027
        """What a subclass prepares before its steps, after the peer's snapshot was adopted."""

    def before_adopt(self) -> None:  # noqa: B027
        """What a subclass keeps of the mirror before it changes."""

    def measure_agreement(self) -> float | None:
        """Share of held-out positions where this layer and the adopted one agree, where that means
        something.
        """
        return None

    @property
    def batch_size(self) -> int:
        """This rank's sequences per step."""
        return self.spec.group(self.group).batch_size // self.num_ranks

    def make_batch(self, windows: Windows) -> Batch:
        """Windows as a training batch on this rank's device, with the corpus' token noise."""
        batch = to_batch(windows, self.device)
        noise = self.spec.corpus.token_noise
        return add_noise(batch, noise, self.tokenizer.size, self.tokenizer.end_of_text)

    def mark(self, phase: str) -> None:
        """Writes what a heartbeat will return.

        One attribute store, so that another thread may read it any time.
        """
        self.beat = Beat(
            self.group,
            self.rank,
            self.incarnation,
            phase,
            self.interval_done + 1,
            self.step,
            time.time(),
        )

    @contextmanager
    def cost(self, part: str) -> Iterator[None]:
        """Adds the block's seconds to what the report says of `part`."""
        start = time.perf_counter()
        yield
        self.costs_s[part] += time.perf_counter() - start

    def check_finite(self, **values: float) -> None:
        """Raises: DivergedError naming group, rank, interval, step and the last good version."""
        for name, value in values.items():
            if not math.isfinite(value):
                raise DivergedError(
                    f"{self.group} rank {self.rank}: {name} is {value} at step {self.step + 1} of "
                    "interval "
                    f"{self.interval_done + 1}; the last good state is version "
                    f"{self.interval_done}; "
                    f"lower {self.group}.optimizer.lr or {self.group}.optimizer.clip_norm, or "
                    "raise warmup_steps"
                )

    def publish(self) -> tuple[Header, list[ByteArray]]:
        """This rank's share of the layer as it is now, as version `interval_done`."""
        header, buckets = publish(
            self.own,
            self.rank,
            self.num_ranks,
            run=self.run,
            group=self.group,
            incarnation=self.incarnation,
            version=self.interval_done,
            step=self.step,
            peer_version=self.peer_version,
            ranges=merge_ranges(self.ranges),
        )
        self.ranges = []
        return header, buckets

    def adopt(self, headers: Sequence[Header], buckets: Sequence[ByteArray]) -> None:
        """Takes over the peer's snapshot, or raises SnapshotError and changes nothing."""
        if (headers[0].run, headers[0].group) != (self.run, peer_of(self.group)):
            raise SnapshotError(
                f"{self.group} rank {self.rank}: got a snapshot of "
                f"{headers[0].run}/{headers[0].group}, "
                f"expected {self.run}/{peer_of(self.group)}"
            )
        self.before_adopt()
        if headers[0].version != self.peer_version:
            adopt(self.mirror, headers, buckets)
            self.peer_version = headers[0].version

    def interval(
        self, order: Order, headers: Sequence[Header], buckets: Sequence[ByteArray]
    ) -> tuple[Report, Header, list[ByteArray]]:
        """Runs the rank's next interval on the peer's committed snapshot.

        Raises:
            OrderError: the interval is not this rank's next one.
            SnapshotError: the snapshot is not what it says.
            DivergedError: a loss or gradient is NaN or infinite.
        """
        begin, started_at = time.perf_counter(), time.time()
        if (order.incarnation, order.interval) != (self.incarnation, self.interval_done + 1):
            raise OrderError(
                f"{self.group} rank {self.rank}: asked for interval {order.interval} of "
                f"incarnation {order.incarnation}, "
                f"expected interval {self.interval_done + 1} of incarnation {self.incarnation}"
            )
        self.mark("adopting")
        self.adopt(headers, buckets)
        adopted = time.perf_counter()
        seed_everything(self.spec.seed, self.group, self.rank, order.interval)
        self.costs_s.clear()
        self.begin_interval(order, headers)
        sums: defaultdict[str, float] = defaultdict(float)
        counts: defaultdict[str, int] = defaultdict(int)  # a step may lack one
        first_step_at = 0.0
        for index in range(order.num_steps):
            self.mark("training")
            for name, value in self.train_step().items():
                sums[name] += value
                counts[name] += 1
            self.step += 1
            if index == 0:
                first_step_at = time.time()
        stepped = time.perf_counter()
        self.mark("measuring")
        agreement = self.measure_agreement() if order.measure else None
        measured = time.perf_counter()
        self.mark("publishing")
        self.interval_done = order.interval
        header, out = self.publish()
        self.mark("waiting")
        end = time.perf_counter()
        tokens = int(sums.pop("tokens"))
        report = Report(
            group=self.group,
            rank=self.rank,
            incarnation=self.incarnation,
            interval=order.interval,
            step=self.step,
            peer_version=self.peer_version,
            tokens=tokens,
            adopt_s=adopted - begin,
            step_s=stepped - adopted,
            publish_s=end - measured,
            wall_s=end - begin,
            started_at=started_at,
            first_step_at=first_step_at,
            metrics={name: total / counts[name] for name, total in sums.items()},
            costs_s={**self.costs_s, "measure": measured - stepped},
            agreement=agreement,
        )
        return report, header, out

    def generator(self, interval: int) -> torch.Generator:
        """The generator of this rank's choices in one interval."""
        return torch.Generator().manual_seed(
            seed_of(self.spec.seed, self.group, self.rank, interval, "choices")
        )
