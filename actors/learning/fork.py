"""A copy of a finished run's pair that trains on another corpus, with its memory or without.

    without:  data trainer alone, reads off
    with:     interval i of each trainer adopts the other's version i-1, as in a lockstep run

Both trainers run in this process, one after the other: what is compared is what is learned, not how
long it takes. Starts from the exports with fresh optimizers; changes nothing of the run.
"""

from __future__ import annotations

import math
from typing import Any

from actors.layers.pair import Pair
from actors.settings.corpus import CorpusSpec
from actors.settings.layers import DROPOUT_ENDINGS
from actors.settings.run import DATA, MEMORY, RunSpec
from actors.snapshots.flat_parameters import ByteArray
from actors.snapshots.snapshot import publish
from actors.tokenizers.tokenizer import Tokenizer
from actors.training.data_trainer import DataTrainer
from actors.training.memory_trainer import MemoryTrainer
from actors.training.optim import short_warmup
from actors.weights.starting_model import StartingModel
from actors.wire import Header, Order

RUN = "fork"

Published = tuple[Header, list[ByteArray]]


def fork_spec(
    spec: RunSpec, export: str, corpus: CorpusSpec, steps: int, with_memory: bool, gpus: bool
) -> RunSpec:
    """The spec of a fork: the run's, started from its exports, on another corpus, in one process.

    Args:
        spec: of the run.
        export: its exported pair.
        corpus: that the fork trains on.
        steps: optimizer steps of the data layer.
        with_memory: False: the loss own alone; True: the run's loss weights, with help weighted
            as own if it was 0.
        gpus: whether this machine has GPUs, for groups that had some.
    """
    dumped = spec.model_dump(by_alias=True)
    values: dict[str, Any] = {name: dumped[name] for name in RunSpec.model_fields}
    values["corpus"] = corpus.model_dump()
    values["intervals"] = math.ceil(steps / spec.data.steps_per_interval)
    values["exchange"] = {}
    layer = values["data"]["layer"]
    dropouts = {k: v for k, v in layer["fields"].items() if k.endswith(DROPOUT_ENDINGS)}
    layer["lora"] = {**layer["lora"], "export": "merged"}  # a fork is never exported
    layer |= {"pretrained": export, "fields": dropouts, "fresh_port": False, "compile": False}
    values["memory"]["layer"] |= {"start_from": export, "compile": False}  # forks are short
    values["memory"]["teacher"] = "mirror"  # beside it in this process anyway
    for name in (DATA, MEMORY):
        group: dict[str, Any] = values[name]
        before = spec.group(name)
        on_card = gpus and before.workers.gpus > 0
        group["workers"] = {"cpus": before.workers.cpus, "gpus": 1.0 if on_card else 0.0}
        group["optimizer"]["warmup_steps"] = short_warmup(before.optimizer, steps)
    weights = values["losses"]
    if with_memory:
        weights["help"] = weights["help"] or weights["own"]
    else:
        weights |= {"own": 1.0, "help": 0.0}
    return RunSpec.model_validate(values)


class Fork:
    """Trains a copy of the pair, interval by interval.

    Args:
        spec: of the fork.
        tokenizer_json: the run's tokenizer.
        steps: optimizer steps of the data layer in all.
        with_memory: whether the memory is read, and trained with the data layer.
    """

    def __init__(self, spec: RunSpec, tokenizer_json: str, steps: int, with_memory: bool) -> None:
        self._spec, self._steps = spec, steps
        starting = StartingModel(spec, Tokenizer.from_json(tokenizer_json))
        self.data = DataTrainer(spec, tokenizer_json, RUN, starting=starting)
        self.memory = None
        if with_memory:
            self.memory = MemoryTrainer(spec, tokenizer_json, RUN, starting=starting)
        self._of_data = _copied(self.data.publish())
        self._of_memory = _copied(self._unchanging() if self.memory is None else
                                  self.memory.publish())  # fmt: skip
        self.data_tokens = self.memory_tokens = 0

    def _unchanging(self) -> Published:
        """The exported memory as version 0, for a data layer that does not read it."""
        return publish(
            self.data.mirror, 0, 1, run=RUN, group=MEMORY, incarnation=0, version=0, step=0,
            peer_version=-1, ranges=(),
        )  # fmt: skip

    @property
    def step(self) -> int:
        """Optimizer steps that the data layer has done."""
        return self.data.step

    @property
    def pair(self) -> Pair:
        """Both layers as they are now."""
        return Pair(self.data.layer, self.data.memory if self.memory is None else self.memory.layer)

    def interval(self) -> bool:
        """Runs the next interval of both trainers; False when all steps were done before."""
        number = self.data.interval_done + 1
        each = self._spec.data.steps_per_interval
        num_steps = min(each, self._steps - self.step)
        if num_steps <= 0:
            return False
        (data_header, data_buckets), (memory_header, memory_buckets) = (
            self._of_data,
            self._of_memory,
        )
        order = Order(RUN, 0, number, num_steps)
        of_data = self.data.interval(order, [memory_header], memory_buckets)
        self.data_tokens += of_data.report.tokens
        if self.memory is not None:
            num_steps = max(1, round(self._spec.memory.steps_per_interval * num_steps / each))
            order = Order(RUN, 0, number, num_steps, ranges=data_header.ranges)
            of_memory = self.memory.interval(order, [data_header], data_buckets)
            self.memory_tokens += of_memory.report.tokens
            assert of_memory.header is not None
            self._of_memory = _copied((of_memory.header, of_memory.buckets))
        assert of_data.header is not None
        self._of_data = _copied((of_data.header, of_data.buckets))
        return True


def _copied(published: Published) -> Published:
    """A copy of the bytes: a trainer returns views of buffers that it goes on training."""
    header, buckets = published
    return header, [bucket.copy() for bucket in buckets]
