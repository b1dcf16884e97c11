"""Copies the files that travelled with a job to the run's storage: `python -m
jobs.submit.place_inputs STORAGE`.

Runs on the cluster before the job's own command. Complete copies that exist already are kept.
"""

from __future__ import annotations

import sys
import uuid
from pathlib import Path

from actors.storage import move_file, writable
from jobs.submit.inputs import INPUTS, PLACED
from jobs.submit.package import JOB_FOLDER

WHOLE = ".whole"  # suffix of the marker that is written last


def place(storage: str, source: Path = Path(JOB_FOLDER, INPUTS)) -> list[str]:
    """Copies each digest's files to the storage; returns the digests that were copied."""
    fs, root = writable(storage)
    placed = []
    for folder in sorted(source.iterdir()):
        target = f"{root.rstrip('/')}/{PLACED}/{folder.name}"
        if fs.exists(target + WHOLE):
            continue
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            goal = f"{target}/{path.relative_to(folder).as_posix()}"
            part = f"{target}.{uuid.uuid4().hex}.part"  # another job may copy the same files
            fs.put_file(str(path), part)
            fs.makedirs(goal.rpartition("/")[0], exist_ok=True)
            move_file(fs, part, goal)
        fs.pipe_file(target + WHOLE, b"")
        placed.append(folder.name)
    return placed


if __name__ == "__main__":
    for digest in place(sys.argv[1]):
        print(f"inputs copied to {sys.argv[1]}/{PLACED}/{digest}", flush=True)
