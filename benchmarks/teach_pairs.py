"""The pairs that `teach` teaches: finished runs, trained once and kept in a folder.

A run of facts in all of their wordings and a novel, loss on every token, trained in this process by
the coordinator that trains any run. Called by `teach`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks import teach_data
from benchmarks.cells import Cells
from benchmarks.small_specs import Layers
from benchmarks.teach_data import LessonSizes, TeachData
from orchestrator.run import train
from orchestrator.settings.config import Config, make_config

WINDOW = 64
NOVEL_FRAC = 0.2  # of the tokens


@dataclass(frozen=True)
class PairSizes:
    """How big a pair is, and how long it trains.

    Attributes:
        layers: how big both layers are.
        lessons: what it learns before, and what it is taught then.
        intervals, data_steps, memory_steps: of the run.
    """

    layers: Layers
    lessons: LessonSizes
    intervals: int
    data_steps: int
    memory_steps: int


QUICK = PairSizes(
    layers=Layers(depth=3),
    lessons=LessonSizes(
        num_relations=6, num_facts=480, num_changed=150, num_new=72, kept_probes=400
    ),
    intervals=40,
    data_steps=20,
    memory_steps=24,
)
FULL = PairSizes(
    layers=Layers(width=96, depth=3, head_width=24, dim=96, slots_side=96),
    lessons=LessonSizes(
        num_relations=10, num_facts=2000, num_changed=700, num_new=300, kept_probes=1000
    ),
    intervals=120,
    data_steps=20,
    memory_steps=24,
)


@dataclass(frozen=True)
class TaughtPair:
    """A trained pair and what it is taught.

    Attributes:
        run: the directory of its run.
        lessons: what is taught.
        heldout: text of the novel that nothing trains on.
        corpus: folder of what the pair was trained on, for controls that rehearse with it.
    """

    run: Path
    lessons: TeachData
    heldout: Path
    corpus: Path


def pair_config(
    sizes: PairSizes, corpus: Path, storage: Path, name: str, seed: int, **changes: Any
) -> Config:
    """Config of the run; `changes` are further sections."""
    layers = sizes.layers
    return make_config(
        {
            "name": name,
            "storage": str(storage),
            "seed": seed,
            "intervals": sizes.intervals,
            "corpus": {
                "sources": [
                    {"paths": [str(corpus / "sentences.jsonl")], "weight": 1 - NOVEL_FRAC},
                    {"paths": [str(corpus / "novel.txt")], "weight": NOVEL_FRAC},
                ],
                "window": WINDOW,
                "token_noise": 0.05,
                "block_bytes": 1024,
                "heldout_frac": 0.02,
            },
            "tokenizer": {"vocab_size": 1536},
            **layers.sections(WINDOW, sizes.data_steps, sizes.memory_steps),
            "evaluation": {"every": 0},
            "checkpoints": {"every": 0},
            **changes,
        }
    )


def trained_pair(
    cells: Cells, sizes: PairSizes, data: Path, seed: int, draw: int = 0
) -> TaughtPair:
    """The pair of this size and seed; trained where the folder of `cells` does not hold it yet.

    Args:
        data: folder of the facts and the novel.
        seed: of the facts and of the run.
        draw: of the lessons.
    """
    lessons = sizes.lessons
    name = f"teach-{lessons.num_relations}-{lessons.num_facts}-{lessons.num_new}-{seed}"
    write: Callable[[Path], None] = partial(_write, lessons, data, seed)
    corpus = cells.folder_of(name, write)
    key = {"sizes": sizes, "seed": seed}

    def compute(path: Path) -> dict[str, Any]:
        torch.set_num_threads(1)
        config = pair_config(sizes, corpus, path.parent, path.name, seed)
        result = train(config, in_process=True)
        return {"status": result.status, "summary": result.summary}

    cells.get("teach-pair", key, compute)
    run = cells.path("teach-pair", key)
    taught = teach_data.read_lessons(lessons, data, corpus, seed, draw)
    return TaughtPair(run, taught, corpus / "heldout.txt", corpus)


def _write(sizes: LessonSizes, data: Path, seed: int, folder: Path) -> None:
    teach_data.write_corpus(sizes, data, folder, seed)
