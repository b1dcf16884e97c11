"""The only `ray.remote`: the processes of a rank and of the evaluator, around plain classes.

Each imports torch when it starts, so that the driver never does. Called by `cluster`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import ray

from actors.spec import DATA, RunSpec
from actors.wire import (
    Beat,
    Description,
    Evaluation,
    Header,
    Order,
)


@ray.remote(concurrency_groups={"beat": 1}, max_restarts=0, max_task_retries=0)
class RankActor:
    """One rank's process.

    A plain trainer and the messages to it. Imports torch here, never in the driver.
    """

    def __init__(
        self, spec: RunSpec, tokenizer_json: str, run: str, group: str, rank: int, num_ranks: int
    ) -> None:
        self._trainer: Any = None
        self._arguments = (spec, tokenizer_json, run, rank, num_ranks)
        self._group = group

    def start(self, incarnation: int) -> Description:
        """Builds the layer; everything that can be wrong with the config shows here."""
        if self._group == DATA:
            from actors.data_trainer import DataTrainer as trainer_class
        else:
            from actors.memory_trainer import MemoryTrainer as trainer_class  # type: ignore[assignment]
        self._trainer = trainer_class(*self._arguments, incarnation)
        context = ray.get_runtime_context()
        return Description(
            group=self._group,
            rank=self._trainer.rank,
            incarnation=incarnation,
            pid=os.getpid(),
            node_id=context.get_node_id(),
            gpu_ids=tuple(str(gpu) for gpu in context.get_accelerator_ids().get("GPU", [])),
            num_parameters=sum(e.num_bytes // e.dtype.itemsize for e in self._trainer.own.entries),
            snapshot_bytes=self._trainer.own.total_bytes,
            layout_hash=self._trainer.own.layout_hash,
        )

    def publish(self) -> tuple[Any, ...]:
        """(header, *buckets) of the layer as it is."""
        header, buckets = self._trainer.publish()
        return (header, *buckets)

    def interval(self, order: Order, headers: Sequence[Header], *buckets: Any) -> tuple[Any, ...]:
        """(report, header, *buckets) of the rank's next interval."""
        report, header, out = self._trainer.interval(order, headers, buckets)
        return (report, header, *out)

    @ray.method(concurrency_group="beat")
    def beat(self) -> Beat | None:
        """What the main thread last wrote about itself."""
        return self._trainer.beat if self._trainer is not None else None


@ray.remote(max_restarts=0, max_task_retries=0)
class EvaluatorActor:
    """The evaluator's process."""

    def __init__(self, spec: RunSpec, tokenizer_json: str) -> None:
        from actors.evaluator import Evaluator

        self._evaluator = Evaluator(spec, tokenizer_json)

    def evaluate(
        self, data_headers: Any, memory_headers: Any, num_data: int, final: bool, *buckets: Any
    ) -> Evaluation:
        """Held-out figures of a committed pair."""
        parts = buckets[:num_data], buckets[num_data:]
        return self._evaluator.evaluate((data_headers, memory_headers), parts, final)

    def export(self, directory: str) -> dict[str, str]:
        """Writes the exports of the pair last evaluated; returns the digests."""
        return self._evaluator.export(directory)
