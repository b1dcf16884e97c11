"""One rank of a group: the interval, and what both trainers share.

    interval(order, headers, buckets):  refuse what is not next -> adopt -> steps -> (measure) ->
    publish -> checkpoint -> report

A plain class, which `orchestrator.processes.ray_actors` wraps in an actor. It knows its own layer,
a mirror of its partner's and the other ranks of its group. Subclasses define one step.

Every rank draws the same global batch and takes every n-th sequence of it; each term is divided by
the global number of positions and gradients are added over ranks. So a step is the same step at any
number of workers, up to rounding.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from actors.corpus.corpus import Corpus
from actors.corpus.ranges import from_lists, merge_ranges, to_lists
from actors.corpus.reading_share import ReadingShare
from actors.corpus.windows import Windows
from actors.layers.batch import Batch, add_noise, to_batch
from actors.lessons.live_lessons import LiveLessons
from actors.machine import profiling
from actors.machine.device import explain_nondeterminism, take_device
from actors.machine.flops import peak, utilisation
from actors.machine.seeds import seed_everything, seed_of
from actors.machine.step_timer import StepTimer
from actors.operators.parts import Cut
from actors.operators.precision import autocast
from actors.settings.run import RunSpec, peer_of
from actors.snapshots import checkpoint_shares
from actors.snapshots.flat_parameters import ByteArray, FlatParameters
from actors.snapshots.snapshot import BFLOAT16, STORED, adopt, publish, wire_bytes
from actors.tokenizers.tokenizer import Tokenizer
from actors.training.interval import Measured, Outcome, mean_of, not_finite, refuse_out_of_turn
from actors.training.optim import DenseOptimizer, worked_parameters
from actors.training.process_group import ProcessGroup, refuse_other_weights
from actors.training.terms import Terms
from actors.weights.builders import Layer, flatten
from actors.weights.starting_model import StartingModel
from actors.wire import (
    CheckpointHeader,
    DivergedError,
    Header,
    Heartbeat,
    Order,
    Range,
    Report,
    SnapshotError,
    Told,
)


class Trainer(ABC):
    """Trains one layer, interval by interval.

    Args:
        spec: the run.
        tokenizer_json: the run's tokenizer.
        group, rank, num_ranks, incarnation: who this is.
        run: the run's name, checked against every header.
        starting: the process' own, where it holds more than this trainer.

    Raises:
        ConfigError: GPUs are asked for and torch sees none.
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
        starting: StartingModel | None = None,
    ) -> None:
        self.spec, self.own_spec = spec, spec.group(group)
        self.run, self.group, self.rank, self.num_ranks = run, group, rank, num_ranks
        self.incarnation = incarnation
        self.device = take_device(group, self.own_spec.workers, spec.deterministic)
        self.tokenizer = Tokenizer.from_json(tokenizer_json)
        self.starting = starting or StartingModel(spec, self.tokenizer)
        self.ranks = ProcessGroup()
        self.corpus = Corpus.open(spec, self.tokenizer)
        self.live = LiveLessons(spec, self.tokenizer, group)
        self.interval_done, self.step, self.peer_version = 0, 0, -1
        self.mirrored = -1  # version whose bytes the mirror holds
        self.ranges: list[Range] = []
        self.published_ranges: tuple[Range, ...] = ()
        self.costs = StepTimer(self.device)
        self.beat = Heartbeat(group, rank, incarnation, "starting", 0, 0, time.time())

    told: tuple[Told, ...] = ()  # the memory's; whoever adopts it solves them
    own: FlatParameters
    mirror: FlatParameters
    dense: DenseOptimizer

    def _flatten(self, own: Layer, mirror: Layer, base: str) -> None:
        """Lays out both layers; the mirror is only ever copied into."""
        self.own, self.mirror = flatten(own, base), flatten(mirror.requires_grad_(False), base)
        self._size = sum(e.num_bytes // e.dtype.itemsize for e in self.own.entries)
        self._worked = worked_parameters(own)
        self._device_name = torch.cuda.get_device_name() if self.device.type == "cuda" else "cpu"
        self._peak = peak(self._device_name, self.own_spec.precision)

    def regroup(self, num_ranks: int, incarnation: int) -> None:
        """Leaves the group, to `join` it again with another number of ranks, and `restore`."""
        self.num_ranks, self.incarnation = num_ranks, incarnation
        self.ranks = ProcessGroup()
        self.corpus = self.corpus.alone()
        self.open_streams()
        self.mark("resizing")

    @abstractmethod
    def open_streams(self) -> None:
        """Begins to read `corpus` anew; `set_scalars` sets the position."""

    def join(self, ranks: ProcessGroup, compare: bool = True) -> None:
        """Meets the group's other ranks; a group of one needs no call.

        Args:
            ranks: this rank's end.
            compare: refuse ranks with other weights; not where a checkpoint follows that makes
                them the same.

        Raises:
            ConfigError: the ranks did not start with the same weights.
        """
        assert (ranks.rank, ranks.num_ranks) == (self.rank, self.num_ranks)
        self.ranks = ranks
        gather = ranks.sibling("reading").gather  # from the corpus' own thread, beside the steps
        self.corpus.share_reading(ReadingShare(self.rank, self.num_ranks, gather, background=True))
        if compare:
            refuse_other_weights(ranks, self.group, self.own.digest())

    @abstractmethod
    def train_step(self) -> Measured:
        """One optimizer step on the group's next batch."""

    def begin_interval(self, order: Order) -> None:  # noqa: B027
        """What a subclass prepares before its steps, after the peer's snapshot was adopted."""

    def build_more(self, begin: Callable[[str], None]) -> None:  # noqa: B027
        """What a subclass builds besides; called last in a construction, `begin` as there."""

    def measure_agreement(self) -> float | None:
        """Share of held-out positions where both layers agree; None: it means nothing here."""
        return None

    def passes(self) -> list[slice]:
        """This rank's sequences of the global batch, one slice per pass of a step."""
        size = self.num_ranks * self.own_spec.accumulate
        return [slice(first, None, size) for first in range(self.rank, size, self.num_ranks)]

    def make_batch(self, windows: Windows) -> Batch:
        """The global batch in host memory, with token noise; the same on every rank."""
        noise = self.spec.corpus.token_noise
        choices = self.generator(self.step, "noise")
        batch = to_batch(self.live.uncontradicted(windows), torch.device("cpu"))
        return add_noise(batch, noise, self.tokenizer.size, self.tokenizer.marks, choices)

    def autocast(self) -> torch.autocast:
        """Forward passes in the group's precision; backward passes and steps stay outside."""
        return autocast(self.own_spec.precision, self.device)

    def learn(
        self, terms: Terms, step: Measured, cost: str = "backward", cut: Cut | None = None
    ) -> None:
        """Reports the losses of a pass or a part and adds the gradients of their weighted sum, a
        `cost` of its own; `cut`: where the backward pass goes on from."""
        terms.report(step, self.num_ranks, self.own_spec.accumulate)
        with self.cost(cost):
            loss = terms.loss(cut.joined() if cut else None)
            if loss is not None and loss.requires_grad:
                loss.backward()

    def reduce(self) -> None:
        """Adds the dense gradients over all ranks."""
        with self.cost("reduce"):
            self.ranks.add(self.dense.gradient)

    def mark(self, phase: str) -> None:
        """Notes what the next heartbeat returns; one attribute store, so any thread may read it."""
        now, interval = time.time(), self.interval_done + 1
        self.beat = Heartbeat(
            self.group, self.rank, self.incarnation, phase, interval, self.step, now
        )

    def cost(self, part: str) -> AbstractContextManager[None]:
        """Adds the block's seconds to those of `part` in the report."""
        return self.costs.span(part)

    def checked(self, step: Measured) -> Measured:
        """What a step measured, fetched from the device at once. Raises: as `check_finite`."""
        step.read()
        norms = {name: v for name, v in step.metrics.items() if name.endswith("gradient_norm")}
        self.check_finite(loss=step.shares["loss"], **norms)
        return step

    def check_finite(self, **values: float) -> None:
        """Raises: DivergedError naming group, rank, interval, step and the last good version."""
        if message := not_finite(values, self.group, self.rank, self.interval_done, self.step):
            raise DivergedError(message)

    def description(self) -> dict[str, Any]:
        """Sizes that the driver plans with, and the layout that it compares."""
        rounded = self.spec.exchange.wire == "bf16"
        return {
            "device": self._device_name,
            "num_parameters": self._size,
            "snapshot_bytes": self.own.total_bytes,
            "wire_bytes": wire_bytes(self.own, BFLOAT16 if rounded else STORED),
            "checkpoint_bytes": checkpoint_shares.state_bytes(self.tensors()),
            "layout_hash": self.own.layout_hash,
        }

    def publish(self, exact: bool = False) -> tuple[Header, list[ByteArray]]:
        """This rank's share of the layer as it is now, as version `interval_done`.

        `exact`: in full precision, whatever the wire's.
        """
        rounded = self.spec.exchange.wire == "bf16" and not exact
        return publish(
            self.own,
            self.rank,
            self.num_ranks,
            dtype=BFLOAT16 if rounded else STORED,
            incarnation=self.incarnation,
            version=self.interval_done,
            ranges=self.published_ranges,
            **self._identity(),
            told=self.told,
            lessons=self.live.lessons,
        )

    def _identity(self) -> dict[str, Any]:
        """What headers of snapshots and of checkpoints both say."""
        return {n: getattr(self, n) for n in ("run", "group", "step", "peer_version")}

    def adopt(self, headers: Sequence[Header], buckets: Sequence[ByteArray]) -> None:
        """Takes over the peer's snapshot, or raises SnapshotError and changes nothing."""
        first, expected = headers[0], f"{self.run}/{peer_of(self.group)}"
        if (got := f"{first.run}/{first.group}") != expected:
            raise SnapshotError(
                f"{self.group} rank {self.rank}: got a snapshot of {got}, expected {expected}"
            )
        self.live.of_peer = first.lessons
        if headers[0].version != self.mirrored:
            self.take_over(headers, buckets)
            self.peer_version = self.mirrored = headers[0].version

    def take_over(self, headers: Sequence[Header], buckets: Sequence[ByteArray]) -> None:
        """Copies the peer's snapshot into the mirror. Raises: SnapshotError."""
        adopt(self.mirror, headers, buckets)

    def interval(
        self, order: Order, headers: Sequence[Header], buckets: Sequence[ByteArray]
    ) -> Outcome:
        """Runs the rank's next interval on the peer's committed snapshot.

        Args:
            order: what to do.
            headers: of the peer's snapshot, by rank.
            buckets: its bytes; none where it is the one adopted already.

        Raises:
            OrderError: the interval is not this rank's next one.
            SnapshotError: the snapshot is not what its header describes.
            DivergedError: a loss or gradient is NaN or infinite.
        """
        begin, started_at = time.perf_counter(), time.time()
        refuse_out_of_turn(order, self.group, self.rank, self.incarnation, self.interval_done + 1)
        self.mark("adopting")
        self.adopt(headers, buckets)
        adopted = time.perf_counter()
        seed_everything(self.spec.seed, self.group, self.rank, order.interval)
        self.costs.clear()
        with profiling.traced(order.profile, f"{self.group}-{self.rank}-{order.interval}"):
            measured, first_step_at = self._steps(order)
        costs_s = self.costs.read()
        stepped = time.perf_counter()
        used = utilisation(self._worked, measured.num_tokens, stepped - adopted, self._peak)
        if used is not None:
            measured.metrics["mfu"] = used
        self.mark("measuring")
        agreement = self.measure_agreement() if order.measure else None
        measured_at = time.perf_counter()
        self.mark("publishing")
        self.interval_done = order.interval
        header: Header | None = None
        out: list[ByteArray] = []
        if order.publish:
            self.published_ranges, self.ranges = merge_ranges(self.ranges), []
            header, out = self.publish(order.exact)
        published = time.perf_counter()
        saved_header, saved = self.save() if order.checkpoint else (None, [])
        self.mark("waiting")
        end = time.perf_counter()
        report = Report(
            group=self.group,
            rank=self.rank,
            incarnation=self.incarnation,
            interval=order.interval,
            step=self.step,
            peer_version=self.peer_version,
            tokens=measured.num_tokens,
            adopt_s=adopted - begin,
            step_s=stepped - adopted,
            publish_s=published - measured_at,
            wall_s=end - begin,
            started_at=started_at,
            first_step_at=first_step_at,
            metrics=measured.metrics,
            shares=dict(measured.shares),
            costs_s=costs_s | {"measure": measured_at - stepped, "checkpoint": end - published},
            agreement=agreement,
            adopted_bytes=sum(bucket.nbytes for bucket in buckets),
            published_bytes=sum(bucket.nbytes for bucket in out),
        )
        return Outcome(report, header, out, saved_header, saved)

    @explain_nondeterminism()
    def _steps(self, order: Order) -> tuple[Measured, float]:
        """The interval's steps.

        Returns the means of what they measured, and time.time() after the first.
        """
        self.live.take(order)
        self.begin_interval(order)
        steps: list[Measured] = []
        first_step_at = 0.0
        for index in range(order.num_steps):
            self.mark("training")
            steps.append(self.train_step())
            self.step += 1
            if index == 0:
                first_step_at = time.time()
        return mean_of(steps), first_step_at

    def tensors(self) -> dict[str, Tensor]:
        """Everything that a replay needs and that is not small, live, in a fixed layout."""
        return {"parameters": self.own.buffer, **self.dense.moments()}

    def scalars(self) -> dict[str, Any]:
        """The small rest, as JSON takes it."""
        return {
            "interval_done": self.interval_done,
            "step": self.step,
            "peer_version": self.peer_version,
            "ranges": to_lists(self.ranges),
            "published_ranges": to_lists(self.published_ranges),
            **self.live.to_rows(),
        }

    def set_scalars(self, scalars: Mapping[str, Any]) -> None:
        """Takes back what `scalars` gave."""
        self.interval_done, self.step = scalars["interval_done"], scalars["step"]
        self.peer_version = scalars["peer_version"]
        self.ranges = from_lists(scalars["ranges"])
        self.published_ranges = tuple(from_lists(scalars["published_ranges"]))
        self.live.set_rows(scalars)
        self.dense.set_steps(self.step)

    def save(self) -> tuple[CheckpointHeader, list[ByteArray]]:
        """This rank's share of the group's state after its last interval."""
        return checkpoint_shares.save_share(
            self.tensors(),
            self.scalars(),
            self.rank,
            self.num_ranks,
            interval=self.interval_done,
            base=self.own.base,
            **self._identity(),
        )

    def restore(self, headers: Sequence[CheckpointHeader], buckets: Sequence[ByteArray]) -> None:
        """Goes back to a checkpoint of this group, made by any number of ranks.

        Raises:
            CheckpointError: it is another run's, or not whole.
        """
        self.mirrored = -1  # the peer's bytes are adopted again
        tensors = self.tensors()
        self.set_scalars(checkpoint_shares.restore_state(tensors, headers, buckets, self.own.base))

    def generator(self, number: int, what: str = "choices") -> torch.Generator:
        """The generator of the group's choices in an interval or a step, the same on every rank."""
        return torch.Generator().manual_seed(seed_of(self.spec.seed, self.group, number, what))
