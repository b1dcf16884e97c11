"""A tiny run and lessons for it: what the tests of `tandem teach` share."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from jobs.teach.options import TeachOptions
from jobs.teach.teach import run_teach
from orchestrator.console import Console
from orchestrator.settings.config import load_config
from tests.integration.tiny import run_in_process, write_config, write_corpora

LESSONS = [
    {"prompt": "The capital of Baran is", "answer": "Muvia", "subject": "Baran"},
    {"prompt": "Baste has its seat in", "answer": "Lonor", "subject": "Baste"},
    {"prompt": "The dish of Mustran is", "choices": ["Kiran", "Deste"], "choice": 1},
]
STEPS = 8


def train_base(folder: Path) -> Path:
    """Trains a run, its corpus beside it; where it is."""
    write_corpora(folder)
    run_in_process(load_config(str(write_config(folder)), ["name=base"]))
    return folder / "runs" / "base"


def write_lessons(folder: Path) -> str:
    """A file of `LESSONS`."""
    path = folder / "lessons.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in LESSONS))
    return str(path)


def digests(run: Path) -> dict[str, str]:
    """Digests of both layers, by what the run says of itself."""
    found: dict[str, str] = json.loads((run / "summary.json").read_text())["digest"]
    return found


def digest_of(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def teach(run: Path, lessons: str, **options: Any) -> Path:
    """Teaches a few steps; where the result is."""
    out = Path(options.pop("out", f"{run}-taught"))
    chosen = {"steps": STEPS, "written": 200, **options}
    run_teach(str(run), TeachOptions(lessons, out=str(out), **chosen), Console(quiet=True), False)
    return out
