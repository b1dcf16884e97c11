"""Runs beside a real model: its memory by `tandem learn`; adapters, or all of it, trained a little.

Each in a process of its own, so that the peak and the time are its own. Called by `pretrained`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from actors.layers.mixture import TURN
from benchmarks.learning_data import choose, write_facts
from jobs.init_model import Model, model_values

Json = dict[str, Any]
TANDEM = (sys.executable, "-m", "jobs.cli")
ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Size:
    """How much is learned.

    Attributes:
        num_relations, num_facts: of ParaRel.
        steps: of the memory in `tandem learn`; None: its default.
        intervals: of a run that trains adapters or all of the model.
        intervals_steps: steps of each group in such an interval.
        timed_steps: of each loop whose tokens per core-second are compared; a multiple of `TURN`.
        batch: windows of 256 tokens in the steps whose peak of memory is measured.
    """

    num_relations: int
    num_facts: int
    steps: int | None
    intervals: int
    interval_steps: int
    timed_steps: int
    batch: int


FULL = Size(6, 300, None, 12, 10, 2 * TURN, 16)
QUICK = Size(3, 60, 80, 3, 5, TURN, 4)


def facts_of(data: Path, folder: Path, size: Size, seed: int = 0) -> Path:
    """The facts that the model is to learn, written with all wordings of their relations."""
    chosen = choose(data, seed, size.num_relations, size.num_facts)
    return write_facts(chosen, data, folder, "facts")


def tandem(arguments: Sequence[str], folder: Path) -> float:
    """Runs a command of tandem in a folder; returns its seconds.

    Raises:
        RuntimeError: it failed, with the end of what it said.
    """
    began = time.perf_counter()
    done = subprocess.run(
        [*TANDEM, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        env=_environment(),
        check=False,
    )
    if done.returncode not in (0, 3):  # 3: the memory did not catch up
        raise RuntimeError(
            f"tandem {' '.join(arguments)}: {done.stdout[-500:]}{done.stderr[-1500:]}"
        )
    return time.perf_counter() - began


def _environment() -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONPATH": str(ROOT)}


def learned_memory(model: Path, facts: Path, folder: Path, size: Size, seed: int = 0) -> Json:
    """What a person types in an empty folder to have a memory that answers, and what came of it."""
    learn = [
        "learn",
        str(model),
        "--facts",
        str(facts),
        "--templates",
        str(facts.with_name("templates.json")),
        "--out",
        str(folder / "memory"),
        "--seed",
        str(seed),
        *(() if size.steps is None else ("--steps", str(size.steps))),
    ]
    ask = ["ask", str(folder / "memory"), "The capital of France is"]
    seconds = [tandem(command, folder) for command in (learn, ask)]
    summary: Json = json.loads((folder / "memory" / "summary.json").read_text(encoding="utf-8"))
    return {
        "commands": len(seconds),
        "minutes": sum(seconds) / 60,
        "summary": summary,
        "same_bits": same_weights(model, folder / "memory" / "export" / "data_layer"),
    }


def same_weights(one: Path, other: Path) -> bool:
    """Whether two checkpoints hold the same tensors, bit for bit."""
    import torch
    from safetensors.torch import load_file

    a, b = (load_file(place / "model.safetensors") for place in (one, other))
    return a.keys() == b.keys() and all(
        torch.equal(a[name].view(torch.uint8), b[name].view(torch.uint8)) for name in a
    )


def short_config(model: Path, facts: Path, train: str, size: Size) -> Json:
    """A run by defaults that trains `lora` or `all` of the model on the same facts."""
    values = model_values(
        Model.at(str(model)), "facts", [str(facts)], str(facts.with_name("templates.json"))
    )
    values["data"]["layer"]["train"] = train
    values["data"]["steps_per_interval"] = size.interval_steps
    values["memory"] = {"steps_per_interval": size.interval_steps, "recall_frac": 0.125}
    asked = {"probes": 0, "final_probes": 0, "windows": 4, "final_windows": 4}
    return values | {
        "intervals": size.intervals,
        "evaluation": {"every": 10**6, **asked},  # version 0 and the end: general text
        "exchange": {"catchup_intervals": 1},
        "checkpoints": {"every": 0},
    }


def tuned_model(model: Path, facts: Path, folder: Path, train: str, size: Size) -> Json:
    """The summary of such a run."""
    path = folder / f"{train}.yaml"
    config = short_config(model, facts, train, size) | {"name": train, "storage": str(folder)}
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    minutes = tandem(["train", str(path), "--in-process"], folder) / 60
    summary: Json = json.loads((folder / train / "summary.json").read_text(encoding="utf-8"))
    return {"minutes": minutes, "summary": summary}
