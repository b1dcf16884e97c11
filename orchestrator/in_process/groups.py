"""Both groups and the evaluator in this process, one call after the other.

    submit, evaluate   -> a queue
    poll               -> the oldest evaluation, else the oldest interval, from its begin to its end

In lockstep an interval needs only the peer's last version, so the order in which the groups take
turns changes no bit. What a trainer raises leaves `poll` as it is, with its traceback; nothing is
restarted. Implements `orchestrator.runtime.Groups`.
"""

from __future__ import annotations

import os
import platform
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from actors.machine.cpu_features import slow_bf16
from actors.machine.device import take_device, take_threads, used_bytes
from actors.machine.host_memory import ByteArray
from actors.pair.evaluator import Evaluator
from actors.settings.run import GROUPS
from actors.tokenizers.tokenizer import Tokenizer
from actors.training.trainer import Trainer
from actors.training.trainer_kinds import trainer_class
from actors.weights.starting_model import StartingModel
from actors.wire import (
    ConfigError,
    Header,
    Heartbeat,
    Location,
    Order,
    RankDescription,
    StorageError,
)
from orchestrator.errors import InterruptedRunError
from orchestrator.in_process.host_store import HostStore
from orchestrator.loop.events import Committed, Evaluated, Event, Failed, Prepared
from orchestrator.loop.exchange import GroupCheckpoint, Version
from orchestrator.run_dir.run_dir import RETRY_S
from orchestrator.runtime import StopRequested
from orchestrator.settings.config import Config


class InProcessGroups:
    """One trainer of each group and the evaluator.

    Args:
        config: the run.
        tokenizer_json: the run's tokenizer.
        store: keeps what the trainers return.
    """

    def __init__(self, config: Config, tokenizer_json: str, store: HostStore) -> None:
        self._config, self._tokenizer_json, self._store = config, tokenizer_json, store
        self._spec = config.run_spec
        self._starting = StartingModel(self._spec, Tokenizer.from_json(tokenizer_json))
        self._trainers: dict[str, Trainer] = {}
        self._first: dict[str, Version] = {}
        self._adopted = dict.fromkeys(GROUPS, -1)
        self._evaluator: Evaluator | None = None
        self._evaluations: deque[tuple[Version, Version, bool]] = deque()
        self._intervals: deque[tuple[str, Order, Version]] = deque()
        self._replies: deque[Prepared] = deque()

    @property
    def in_process(self) -> bool:
        """As `ClusterPort`."""
        return True

    def start(
        self,
        stop_requested: StopRequested,
        resume: Mapping[str, GroupCheckpoint] | None = None,
    ) -> dict[str, list[RankDescription]]:
        """Builds both trainers and publishes what each begins with.

        Raises:
            InterruptedRunError: a stop was requested meanwhile.
            ConfigError: what a trainer found wrong with the config.
            CheckpointError: a checkpoint is not this run's.
        """
        descriptions: dict[str, list[RankDescription]] = {}
        for group in GROUPS:
            if reason := stop_requested():
                raise InterruptedRunError(reason)
            kind = trainer_class(self._spec, group)
            trainer = kind(
                self._spec, self._tokenizer_json, self._config.name, starting=self._starting
            )
            self._trainers[group] = trainer
            descriptions[group] = [self._description(trainer)]
            number = 0
            if resume is not None:
                saved = resume[group]
                trainer.restore(saved.headers, saved.bucket_refs)
                number = saved.interval
            header, buckets = trainer.publish(exact=number >= self._config.intervals)
            self._first[group] = self._version(group, number, header, buckets)
        return descriptions

    def _description(self, trainer: Trainer) -> RankDescription:
        group = trainer.group
        slow = slow_bf16(group, trainer.own_spec.precision, trainer.own_spec.workers.gpus)
        return RankDescription(
            group=group,
            rank=0,
            incarnation=0,
            warnings=() if slow is None else (slow,),
            **trainer.description(),
        )

    def _kept(self, buckets: Sequence[ByteArray]) -> tuple[ByteArray, ...]:
        return tuple(self._store.put(bucket) for bucket in buckets)

    def _version(
        self, group: str, number: int, header: Header, buckets: Sequence[ByteArray]
    ) -> Version:
        kept, num = self._kept(buckets), len(header.sizes)
        return Version(group, number, (header,), kept[:num], kept[num:])

    def first_version(self, group: str) -> Version:
        """The version that the group began with."""
        return self._first[group]

    def places(self) -> dict[str, list[tuple[Location, Heartbeat | None]]]:
        """This process, once for each group."""
        host = platform.node()
        devices = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        found: dict[str, list[tuple[Location, Heartbeat | None]]] = {}
        for group, trainer in list(self._trainers.items()):
            host_bytes, gpu_bytes = used_bytes(trainer.device)
            beat = replace(trainer.beat, host_bytes=host_bytes, gpu_bytes=gpu_bytes)
            where = Location(group, 0, os.getpid(), host, host, (), devices)
            found[group] = [(where, beat)]
        return found

    def submit(self, group: str, order: Order, peer: Version) -> None:
        """Queues a group's next interval."""
        self._intervals.append((group, order, peer))

    def evaluate(self, data: Version, memory: Version, final: bool) -> None:
        """Queues an evaluation of a committed pair."""
        self._evaluations.append((data, memory, final))

    @property
    def evaluations_running(self) -> int:
        """Evaluations that are queued."""
        return len(self._evaluations)

    def poll(self, timeout_s: float) -> list[Event]:
        """Does the next thing in the queue to its end; waits only where there is none.

        Evaluations come first: of those that wait the loop would skip some.

        Raises: whatever the trainer or the evaluator raises.
        """
        if self._replies:
            return [self._replies.popleft()]
        if self._evaluations:
            return [self._evaluate(*self._evaluations.popleft())]
        if self._intervals:
            return [self._run_interval(*self._intervals.popleft())]
        time.sleep(timeout_s)
        return []

    def _run_interval(self, group: str, order: Order, peer: Version) -> Committed:
        trainer = self._trainers[group]
        take_device(group, trainer.own_spec.workers, self._spec.deterministic)
        # What is adopted already is not compared again.
        buckets = peer.adopted_refs if peer.number != self._adopted[group] else ()
        self._adopted[group] = peer.number
        done = trainer.interval(order, peer.headers, buckets)
        version, checkpoint = None, None
        if done.header is not None:
            version = self._version(group, order.interval, done.header, done.buckets)
        if done.checkpoint_header is not None:
            kept = tuple(self._store.put_on_disk(part) for part in done.checkpoint_buckets)
            checkpoint = GroupCheckpoint(group, order.interval, (done.checkpoint_header,), kept)
        return Committed(group, order.interval, (done.report,), version, checkpoint)

    def _evaluate(self, data: Version, memory: Version, final: bool) -> Evaluated:
        take_threads(self._spec.evaluation.cpus)
        torch.use_deterministic_algorithms(False)  # as in a process of its own
        if self._evaluator is None:
            self._evaluator = Evaluator(self._spec, self._tokenizer_json, starting=self._starting)
        headers, buckets = zip(*((v.headers, v.bucket_refs) for v in (data, memory)), strict=True)
        return Evaluated(self._evaluator.evaluate(headers, buckets, final))

    def export(self, directory: str) -> dict[str, str]:
        """Writes the exports of the pair last evaluated; returns the digests. Tries again where
        the storage is away.

        Raises:
            ExportError: it is not what was trained.
            StorageError: its storage was away for `deadlines.storage_s`.
        """
        assert self._evaluator is not None, "nothing was evaluated"
        deadline = time.monotonic() + self._config.deadlines.storage_s
        while True:
            try:
                return self._evaluator.export(directory)
            except StorageError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(RETRY_S)

    def prepare(self, sizes: Mapping[str, int], wait_s: float) -> None:
        """Refuses another number of workers; `poll` says so."""
        cause = ConfigError(
            "a run in one process has one worker of each group; stop it and resume it without "
            "--in-process, with the workers that you want"
        )
        self._replies.append(Prepared(cause))

    def switch(self, group: str, incarnation: int, checkpoint: GroupCheckpoint) -> None:
        """Never called: `prepare` refuses."""
        raise AssertionError(f"{group}: a resize was refused")

    def restart(
        self,
        group: str,
        incarnation: int,
        checkpoint: GroupCheckpoint | None,
        refetch: Version | None,
        publish: bool = False,
    ) -> None:
        """Never called: no failure becomes an event."""
        raise AssertionError(f"{group}: nothing is restarted in one process")

    def late_beats(self) -> list[Failed]:
        """None: who asks is who works."""
        return []
