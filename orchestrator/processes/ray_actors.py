"""The Ray actors: one process per rank and one for the evaluator, around plain classes; and the
task that checks a node. `ray.remote` is used nowhere else.

A rank and the evaluator import torch when they start, so that the driver never does.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import ray

from actors.machine.cpu_features import slow_bf16
from actors.machine.host_memory import ByteArray
from actors.settings.run import EVALUATOR, RunSpec
from actors.wire import (
    CheckpointHeader,
    Evaluation,
    Header,
    Heartbeat,
    Location,
    Order,
    RankDescription,
)
from orchestrator.nodes.node_check import check_node

if TYPE_CHECKING:  # torch is imported with these
    from actors.pair.evaluator import Evaluator
    from actors.training.data_trainer import DataTrainer
    from actors.training.memory_trainer import MemoryTrainer
    from actors.training.process_group import Rendezvous


class Rank:
    """One rank's process: a plain trainer and the messages to it. Imports torch in `warm` or
    `start`, never in the driver.
    """

    def __init__(
        self, spec: RunSpec, tokenizer_json: str, run: str, group: str, rank: int, num_ranks: int
    ) -> None:
        self._built: DataTrainer | MemoryTrainer | None = None
        self._rendezvous: Rendezvous | None = None
        self._arguments = (spec, tokenizer_json, run, rank, num_ranks)
        self._group, self._rank, self._num_ranks = group, rank, num_ranks
        self._workers = spec.group(group).workers
        self._phase, self._phase_at = "waiting to start", time.time()

    def _begin(self, phase: str) -> None:
        """Notes the step that the start has reached, for heartbeats meanwhile."""
        self._phase, self._phase_at = phase, time.time()

    def locate(self) -> Location:
        """Where this process runs and which GPUs it may use."""
        return _here(self._group, self._rank)

    def warm(self) -> None:
        """Imports what `start` will need; a spare does so and waits."""
        self._begin("importing torch and the trainer")
        _trainer_class(self._arguments[0], self._group)
        self._begin("waiting to start")

    def take_over(self, visible_devices: str, num_ranks: int) -> None:
        """A spare, which reserved nothing, takes the bundle and the GPUs of a rank that died, in a
        group that may have been resized since the spare started.
        """
        if visible_devices:
            os.environ["CUDA_VISIBLE_DEVICES"] = visible_devices
        self._set_num_ranks(num_ranks)

    def _set_num_ranks(self, num_ranks: int) -> None:
        self._num_ranks = num_ranks
        self._arguments = (*self._arguments[:-1], num_ranks)
        self._workers = self._workers.model_copy(update={"num_workers": num_ranks})

    def start(self, incarnation: int) -> RankDescription:
        """Builds the layer; everything that can be wrong with the config shows here."""
        self._begin("importing torch and the trainer")
        make = _trainer_class(self._arguments[0], self._group)
        self._built = make(*self._arguments, incarnation, self._begin)
        return self._describe(incarnation)

    @property
    def _trainer(self) -> DataTrainer | MemoryTrainer:
        assert self._built is not None, "`start` comes first"
        return self._built

    def _describe(self, incarnation: int) -> RankDescription:
        precision = self._arguments[0].group(self._group).precision
        slow = slow_bf16(self._group, precision, self._workers.gpus)
        return RankDescription(
            group=self._group,
            rank=self._rank,
            incarnation=incarnation,
            warnings=() if slow is None else (slow,),
            **self._trainer.description(),
        )

    def open_rendezvous(self) -> tuple[str, int]:
        """Rank 0 only: opens the store in which the ranks meet; returns its address."""
        from actors.training.process_group import Rendezvous

        rendezvous = self._rendezvous = Rendezvous(ray.util.get_node_ip_address())
        return rendezvous.host, rendezvous.port

    def regroup(self, num_ranks: int, incarnation: int) -> RankDescription:
        """Leaves the process group, to join one with another number of ranks."""
        self._set_num_ranks(num_ranks)
        self._rendezvous = None
        self._trainer.regroup(num_ranks, incarnation)
        return self._describe(incarnation)

    def join(self, host: str, port: int, compare: bool = True) -> None:
        """Joins the other ranks of the group; see `Trainer.join`."""
        from actors.training.process_group import ProcessGroup, Rendezvous

        store = self._rendezvous.store if self._rendezvous else Rendezvous.connect(host, port)
        self._trainer.join(
            ProcessGroup(
                self._rank,
                self._num_ranks,
                store,
                ray.util.get_node_ip_address(),
                self._workers.resolved_backend,
                self._workers.collective_timeout_s,
            ),
            compare,
        )

    def restore(self, headers: Sequence[CheckpointHeader], *buckets: ByteArray) -> None:
        """Restores a checkpoint of the group."""
        self._trainer.restore(headers, buckets)

    def publish(self, exact: bool) -> tuple[Any, ...]:
        """(header, *buckets) of the layer's present weights."""
        header, buckets = self._trainer.publish(exact)
        return (header, *buckets)

    def interval(
        self, order: Order, headers: Sequence[Header], *buckets: ByteArray
    ) -> tuple[Any, ...]:
        """(report, header, checkpoint header, *buckets, *checkpoint buckets) of the next interval.

        The headers are None where the order asks for no snapshot or no checkpoint.
        """
        done = self._trainer.interval(order, headers, buckets)
        out = (*done.buckets, *done.checkpoint_buckets)
        return (done.report, done.header, done.checkpoint_header, *out)

    @ray.method(concurrency_group="beat")
    def beat(self) -> Heartbeat:
        """The main thread's last note of what it does, and the memory that the process uses."""
        if self._built is None:
            return Heartbeat(self._group, self._rank, 0, self._phase, 0, 0, self._phase_at)
        from actors.machine.device import used_bytes

        host_bytes, gpu_bytes = used_bytes(self._trainer.device)
        return replace(self._trainer.beat, host_bytes=host_bytes, gpu_bytes=gpu_bytes)


# It changes nothing: where its worker dies once, as any may on a busy machine, it is asked again.
check_node_remote = ray.remote(num_cpus=0, max_retries=1)(check_node)

RankActor = ray.remote(concurrency_groups={"beat": 1}, max_restarts=0, max_task_retries=0)(Rank)


def _here(group: str, rank: int) -> Location:
    """Where this process runs and which GPUs it may use."""
    context = ray.get_runtime_context()
    return Location(
        group=group,
        rank=rank,
        pid=os.getpid(),
        node_id=context.get_node_id(),
        host=ray.util.get_node_ip_address(),
        gpu_ids=tuple(str(gpu) for gpu in context.get_accelerator_ids().get("GPU", [])),
        visible_devices=os.environ.get("CUDA_VISIBLE_DEVICES", ""),
    )


def _trainer_class(spec: RunSpec, group: str) -> type[DataTrainer | MemoryTrainer]:
    from actors.training.trainer_kinds import trainer_class  # imports torch

    return trainer_class(spec, group)


class EvaluatorActor:
    """The evaluator's process."""

    def __init__(self, spec: RunSpec, tokenizer_json: str) -> None:
        self._arguments = (spec, tokenizer_json)
        self._built: Evaluator | None = None

    def locate(self) -> Location:
        """Where this process runs."""
        return _here(EVALUATOR, 0)

    @property
    def _evaluator(self) -> Evaluator:
        """Built with the first evaluation, since imports and corpus take seconds."""
        if self._built is None:
            from actors.pair.evaluator import Evaluator

            self._built = Evaluator(*self._arguments)
        return self._built

    def evaluate(
        self,
        data_headers: Sequence[Header],
        memory_headers: Sequence[Header],
        num_data: int,
        final: bool,
        *buckets: ByteArray,
    ) -> Evaluation:
        """Held-out figures of a committed pair."""
        parts = buckets[:num_data], buckets[num_data:]
        return self._evaluator.evaluate((data_headers, memory_headers), parts, final)

    def export(self, directory: str) -> dict[str, str]:
        """Writes the exports of the pair last evaluated; returns the digests."""
        return self._evaluator.export(directory)


RemoteEvaluator = ray.remote(max_restarts=0, max_task_retries=0)(EvaluatorActor)
