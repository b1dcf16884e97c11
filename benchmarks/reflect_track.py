"""The data layer that all memories of a seed are measured against: trained once, kept by version.

It trains alone (`losses.help` 0), so that it is a pure function of the seed and every memory, each
ablation and each control follows the very same versions. Phase one reads the corpus; in phase two
it goes on, at the rate where phase one ended, on a corpus whose edited facts have new objects, and
learns them in one long interval, so that what is asked later is what was asked before.
Called by `reflect_cells`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from actors.settings.run import RunSpec
from actors.snapshots.flat_parameters import ByteArray
from actors.training.data_trainer import DataTrainer
from actors.training.memory_trainer import MemoryTrainer
from actors.wire import Header, Order, Range
from benchmarks.cells import Checkpoint

RUN = "reflect"


@dataclass(frozen=True)
class Track:
    """Every published version of a data layer, from version 0 on."""

    headers: list[Header]
    bytes_VB: ByteArray  # one row per version

    def snapshot(self, version: int) -> tuple[list[Header], list[ByteArray]]:
        """What an interval that adopts this version is given."""
        header, row = self.headers[version], self.bytes_VB[version]
        ends = zip(header.offsets, header.sizes, strict=True)
        return [header], [row[start : start + size] for start, size in ends]

    def save(self, path: Path) -> None:
        """Writes the bytes to `path`.npy and the headers to `path`.json, the headers last."""
        np.save(path.with_suffix(".npy"), self.bytes_VB)
        text = json.dumps([asdict(header) for header in self.headers])
        path.with_suffix(".json").write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Track:
        """What `save` wrote; the bytes stay on disk until they are asked for."""
        rows = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        stored = np.load(path.with_suffix(".npy"), mmap_mode="r", allow_pickle=False)
        return cls([_header(row) for row in rows], stored)


def _header(row: dict[str, Any]) -> Header:
    names = ("offsets", "sizes", "checksums", "said_checksums")
    lists = {name: tuple(row[name]) for name in names}
    ranges = tuple(Range(**r) for r in row["ranges"])
    return Header(**{**row, **lists, "ranges": ranges, "told": (), "lessons": ()})


def record(
    phases: Sequence[tuple[RunSpec, Sequence[int]]],
    tokenizer_json: str,
) -> Track:
    """Trains a data layer through the phases, each a spec and the steps of its intervals.

    A later phase starts from the whole state in which the one before ended.
    """
    headers: list[Header] = []
    rows: list[ByteArray] = []
    state: Checkpoint | None = None
    interval = 0
    for spec, steps in phases:
        peer_header, peer = MemoryTrainer(spec, tokenizer_json, RUN).publish()
        trainer = DataTrainer(spec, tokenizer_json, RUN)
        if state is None:
            header, buckets = trainer.publish()
            headers.append(header)
            rows.append(np.concatenate(buckets))
        else:
            trainer.restore([state[0]], state[1])
        for num_steps in steps:
            interval += 1
            order = Order(RUN, 0, interval, num_steps)
            out = trainer.interval(order, [peer_header], peer)
            assert out.header is not None
            headers.append(out.header)
            rows.append(np.concatenate(out.buckets))
        state = trainer.save()
    return Track(headers, np.stack(rows))
