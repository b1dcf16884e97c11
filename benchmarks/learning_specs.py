"""How big a run of `learning` is, and the specs of its two settings. Called by its cells.

Together: both groups learn the same facts, side by side. Alone: both have learned some facts and a
novel, and then one of them learns new facts by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from actors.settings.run import RunSpec
from benchmarks.small_specs import LARGE as LARGE_LAYERS
from benchmarks.small_specs import SMALL, Layers

WINDOW = 64
OLD_TEXT_FRAC = 0.3  # of the tokens that both groups learned before something new came


@dataclass(frozen=True)
class Sizes:
    """How big a run is.

    Attributes:
        layers: how big both layers are.
        num_relations: of which the facts are.
        num_facts: that both groups learn together.
        intervals, data_steps, memory_steps: of the run in which they do.
        asked_every: intervals between two points of a curve; of runs whose end alone counts,
            `compared_every`.
        probes: asked at each point, and in each kind of wordings at the end.
        windows: of held-out text and facts on which losses are measured, of each.
        staleness, publish_every: whose price is measured.
        old_facts, new_facts: learned before, and then by one layer alone.
        base_intervals: in which the old ones are learned.
        learn_steps: in which the new ones are.
        learn_every: steps between two points of that curve.
        old_frac: of a batch's sequences that are old facts and old text meanwhile.
        full_rates, lora_rates: learning rates of the controls.
    """

    layers: Layers
    num_relations: int
    num_facts: int
    intervals: int
    data_steps: int
    memory_steps: int
    asked_every: int
    compared_every: int
    probes: int
    windows: int
    staleness: tuple[int, ...]
    publish_every: tuple[int, ...]
    old_facts: int
    new_facts: int
    base_intervals: int
    learn_steps: int
    learn_every: int
    old_frac: float
    full_rates: tuple[float, ...]
    lora_rates: tuple[float, ...]

    def only(self, names: Sequence[str]) -> dict[str, Any]:
        """These sizes, as a part of a cell's key."""
        fields = asdict(self)
        return {name: fields[name] for name in names}

    @property
    def chosen_facts(self) -> int:
        """Old and new facts, made up to equally many of each relation."""
        return -(-(self.old_facts + self.new_facts) // self.num_relations) * self.num_relations


# What cells depend on, by setting; the other sizes say which cells there are.
MEASURING = (
    "layers",
    "num_relations",
    "data_steps",
    "memory_steps",
    "probes",
    "windows",
)
TOGETHER = (*MEASURING, "num_facts", "intervals", "asked_every", "compared_every")
ALONE = (
    *MEASURING,
    "old_facts",
    "new_facts",
    "base_intervals",
    "learn_steps",
    "learn_every",
    "old_frac",
)
CHOICES = ("staleness", "publish_every", "full_rates", "lora_rates")

FULL = Sizes(
    layers=Layers(width=96, head_width=24, dim=96, slots_side=96),
    num_relations=8,
    num_facts=2400,
    intervals=60,
    data_steps=16,
    memory_steps=32,
    asked_every=2,
    compared_every=6,
    probes=2000,
    windows=256,
    staleness=(1, 2, 4, 8),
    publish_every=(1, 4, 16),
    old_facts=1200,
    new_facts=500,
    base_intervals=80,
    learn_steps=600,
    learn_every=25,
    old_frac=0.25,
    full_rates=(3e-4, 1e-3, 3e-3, 8e-3),
    lora_rates=(1e-3, 3e-3, 1e-2, 3e-2),
)
QUICK = replace(
    FULL,
    layers=SMALL,
    num_relations=4,
    num_facts=480,
    intervals=20,
    data_steps=12,
    memory_steps=24,
    asked_every=1,
    compared_every=4,
    probes=400,
    windows=128,
    staleness=(1, 4),
    publish_every=(1, 16),
    old_facts=320,
    base_intervals=20,
    learn_steps=600,
    learn_every=50,
)
LARGE = replace(
    FULL,
    layers=LARGE_LAYERS,
    intervals=24,
    memory_steps=24,
    asked_every=3,
    base_intervals=24,
    learn_steps=300,
    learn_every=50,
    full_rates=(3e-5, 1e-4, 3e-4, 1e-3),
    lora_rates=(3e-4, 1e-3, 3e-3, 1e-2),
)


def together_spec(sizes: Sizes, folder: Path, seed: int) -> RunSpec:
    """Both groups on the same facts; `folder` holds facts.jsonl and templates.json."""
    return _spec(sizes, seed, sizes.intervals, _facts(folder / "facts.jsonl"))


def base_spec(sizes: Sizes, folder: Path, seed: int) -> RunSpec:
    """Both groups on old facts and old text; `folder` holds old.sentences.jsonl and novel.txt."""
    sources = [
        _sentences(folder / "old.sentences.jsonl", 1 - OLD_TEXT_FRAC),
        {"paths": [str(folder / "novel.txt")], "weight": OLD_TEXT_FRAC},
    ]
    return _spec(sizes, seed, sizes.base_intervals, _files(sources))


def facts_of(spec: RunSpec, path: Path) -> RunSpec:
    """The spec with those facts as its corpus, read as in `together_spec`."""
    corpus = _facts(path) | {"token_noise": spec.corpus.token_noise}
    return RunSpec.model_validate({**spec.model_dump(), "corpus": corpus})


def _facts(path: Path) -> dict[str, Any]:
    return {
        "kind": "facts",
        "paths": [str(path)],
        "templates": str(path.with_name("templates.json")),
        "loss_on": "answers",
        "token_noise": 0.05,
        "window": WINDOW,
    }


def _sentences(path: Path, weight: float) -> dict[str, Any]:
    columns = {"prompt_column": "prompt", "completion_column": "completion"}
    return {"paths": [str(path)], "weight": weight, **columns}


def _files(sources: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "sources": sources,
        "window": WINDOW,
        "token_noise": 0.05,
        "block_bytes": 1024,
        "heldout_frac": 0.02,
    }


def _spec(sizes: Sizes, seed: int, intervals: int, corpus: dict[str, Any]) -> RunSpec:
    layers = sizes.layers
    return RunSpec.model_validate(
        {
            "seed": seed,
            "intervals": intervals,
            "corpus": corpus,
            "tokenizer": {"vocab_size": 1536},
            **layers.sections(WINDOW, sizes.data_steps, sizes.memory_steps),
        }
    )
