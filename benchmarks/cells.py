"""Cells: results that are kept on disk, so that an interrupted benchmark goes on where it was.

A cell's name and its spec make its key; a result that other code computed is given out and counted.
Several processes may fill one folder: who wants a cell that another one computes waits for it.
Trains nothing. Called by the cells of `reflect` and of `learning`.
"""

from __future__ import annotations

import ast
import fcntl
import hashlib
import json
import os
import re
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import torch

from actors.snapshots.flat_parameters import ByteArray
from actors.wire import CheckpointHeader

Json = dict[str, Any]
Checkpoint = tuple[CheckpointHeader, list[ByteArray]]
Task = Callable[[], Json]  # asks for one cell
ROOT = Path(__file__).parent.parent


def code_digest(parts: Sequence[str]) -> str:
    """Of what the trainers and these modules of the benchmarks compute; comments and layout don't
    count.
    """
    digest = hashlib.sha256(torch.__version__.encode())
    files = [*ROOT.glob("actors/**/*.py"), *(ROOT / f"benchmarks/{part}.py" for part in parts)]
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
        What an interrupted one left there is removed first.

        Raises:
            OutOfCellsError: it is not there, and no more may be computed.
        """
        path = self.path(name, key)
        if not path.with_suffix(".done").exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with _alone(path.with_suffix(".lock")):
                if not path.with_suffix(".done").exists():
                    return self._computed(path, name, compute)
        result: Json = json.loads(path.with_suffix(".done").read_text(encoding="utf-8"))
        self.stale += result["code"] != self.code
        return result

    def _computed(self, path: Path, name: str, compute: Callable[[Path], Json]) -> Json:
        if self.allowed is not None:
            if self.allowed <= 0:
                raise OutOfCellsError(name)
            self.allowed -= 1
        _remove_left(path)
        begin = time.perf_counter()
        result = compute(path)
        result |= {"seconds": time.perf_counter() - begin, "code": self.code}
        part = path.with_suffix(".part")
        part.write_text(json.dumps(result), encoding="utf-8")
        part.replace(path.with_suffix(".done"))
        return result

    def folder_of(self, name: str, write: Callable[[Path], Any]) -> Path:
        """A folder that cells read, whole or not there: written once, by one process."""
        whole = self.folder / name
        if not whole.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            with _alone(self.folder / f"{name}.lock"):
                if not whole.exists():
                    part = self.folder / f"{name}.part"
                    shutil.rmtree(part, ignore_errors=True)
                    part.mkdir()
                    write(part)
                    part.rename(whole)
        return whole

    def path(self, name: str, key: Mapping[str, Any]) -> Path:
        """Where the cell's files are, without their ending."""
        text = json.dumps([name, key], sort_keys=True, default=str)
        digest = hashlib.sha256(text.encode()).hexdigest()[:16]
        return self.folder / f"{re.sub(r'[^A-Za-z0-9]', '-', name)}-{digest}"  # a dot ends a stem


def _remove_left(path: Path) -> None:
    """Whatever begins with the name of a cell that is not done; its lock stays."""
    for left in path.parent.glob(f"{path.name}*"):
        if left.is_dir():
            shutil.rmtree(left)
        elif left.suffix != ".lock":
            left.unlink()


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """The block runs in one process at a time; the file goes away with its folder."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def compute_ahead(tasks: Sequence[Task], jobs: int) -> None:
    """Computes cells in `jobs` processes, in this order, before a table asks for them.

    A task that fails is told and left to whoever asks for its cell next. Where this process is
    killed, its workers end too, so that none goes on holding a cell.
    """
    context = get_context("spawn")
    with ProcessPoolExecutor(jobs, context, _start_worker) as pool:
        for failed in pool.map(_failure, tasks):
            print(failed, file=sys.stderr, end="")


def _start_worker() -> None:
    torch.set_num_threads(1)
    Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _failure(task: Task) -> str:
    """What the task failed with; empty where it did not."""
    try:
        task()
    except Exception:  # of any kind: the table's own call meets it again
        return traceback.format_exc()
    return ""


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
