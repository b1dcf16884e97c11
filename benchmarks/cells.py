"""Cells: results that are kept on disk, so that an interrupted benchmark goes on where it was.

A cell's name and its spec make its key; a result that other code computed is given out and counted.
Trains nothing. Called by the cells of `reflect` and of `learning`.
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from actors.flat import ByteArray
from actors.wire import CheckpointHeader

Json = dict[str, Any]
Checkpoint = tuple[CheckpointHeader, list[ByteArray]]
ROOT = Path(__file__).parent.parent


def code_digest(parts: Sequence[str]) -> str:
    """Of what the trainers and these modules of the benchmarks compute; comments and layout don't
    count.
    """
    digest = hashlib.sha256(torch.__version__.encode())
    files = [*ROOT.glob("actors/*.py"), *(ROOT / f"benchmarks/{part}.py" for part in parts)]
    for path in sorted(files):
        digest.update(ast.dump(ast.parse(path.read_text(encoding="utf-8"))).encode())
    return digest.hexdigest()


class OutOfCellsError(Exception):
    """As many new cells as were allowed are done."""


@dataclass
class Cells:
    """Results by key, in a folder.

    Args:
        folder: where they are kept.
        allowed: cells that may be computed; None: all.
        code: digest of the code that computes now.
        stale: results given out that other code computed.
    """

    folder: Path
    allowed: int | None = None
    code: str = ""
    stale: int = 0

    def get(self, name: str, key: Mapping[str, Any], compute: Callable[[Path], Json]) -> Json:
        """The cell's result; computed where it is not there yet.

        `compute` is given a path, without an ending, for what it wants to keep beside its result.

        Raises:
            OutOfCellsError: it is not there, and no more may be computed.
        """
        path = self.path(name, key)
        if path.with_suffix(".done").exists():
            result: Json = json.loads(path.with_suffix(".done").read_text(encoding="utf-8"))
            self.stale += result["code"] != self.code
            return result
        if self.allowed is not None:
            if self.allowed <= 0:
                raise OutOfCellsError(name)
            self.allowed -= 1
        path.parent.mkdir(parents=True, exist_ok=True)
        begin = time.perf_counter()
        result = compute(path)
        result |= {"seconds": time.perf_counter() - begin, "code": self.code}
        part = path.with_suffix(".part")
        part.write_text(json.dumps(result), encoding="utf-8")
        part.replace(path.with_suffix(".done"))
        return result

    def path(self, name: str, key: Mapping[str, Any]) -> Path:
        """Where the cell's files are, without their ending."""
        text = json.dumps([name, key], sort_keys=True, default=str)
        digest = hashlib.sha256(text.encode()).hexdigest()[:16]
        return self.folder / f"{re.sub(r'[^A-Za-z0-9]', '-', name)}-{digest}"  # a dot ends a stem


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Writes a group's state beside a cell's result."""
    header, buckets = checkpoint
    np.save(path.with_suffix(".npy"), np.concatenate(buckets))
    path.with_suffix(".json").write_text(json.dumps(asdict(header)), encoding="utf-8")


def load_checkpoint(path: Path) -> Checkpoint:
    """What `save_checkpoint` wrote."""
    row = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    layout = tuple((name, dtype, size) for name, dtype, size in row["layout"])
    lists = {name: tuple(row[name]) for name in ("offsets", "sizes", "checksums")}
    header = CheckpointHeader(**{**row, **lists, "layout": layout})
    stored = np.load(path.with_suffix(".npy"), allow_pickle=False)
    ends = zip(header.offsets, header.sizes, strict=True)
    return header, [stored[start : start + size] for start, size in ends]
