"""How big a run of `reflect` is, the specs of its two corpora, and what each variant changes.

Called by `reflect_cells` and `reflect`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from actors.settings.run import RunSpec
from benchmarks.small_specs import LARGE as LARGE_LAYERS
from benchmarks.small_specs import SMALL, Layers

RECALL = 4.0  # self is 1: more of it, and the memory says less that the data layer doesn't know
FINAL_LR_FRAC = 0.25  # phase one ends at this share of its peak rates, and phase two stays there

# Changes of the memory's spec, by dotted name: each term away, and what the memory was changed by.
ABLATIONS: dict[str, dict[str, Any]] = {
    "without recall": {"losses.recall": 0.0},
    "without self": {"losses.self": 0.0},
    "without the encoder's": {"losses.encoder": 0.0},
    "without just-trained": {"mix.just_trained": 0.0},
    "without balance": {"losses.balance": 0.0},
    "self alone": {"losses.recall": 0.0, "mix.sampled": 0.0},
    "without yielding": {"losses.self_yields": 0.0},
    "without sampled": {"mix.sampled": 0.0},
    "with gate": {"memory.layer.gate": True},
    "with long convolutions": {
        "memory.layer.conv_dilations": (1, 2, 4),
        "memory.layer.conv_taps": 4,
    },
}
ASKED = 4  # intervals after which ablations and controls are asked for the last time


@dataclass(frozen=True)
class Sizes:
    """How big a run is."""

    num_relations: int
    num_facts: int
    num_edits: int
    facts_intervals: int  # of phase one
    after: tuple[int, ...]  # intervals of phase two after which it is asked
    text_intervals: int
    taught_steps: int  # of phase two's first interval, in which the data layer learns the edits
    data_steps: int  # per interval
    memory_steps: int
    layers: Layers = SMALL

    @property
    def taught_intervals(self) -> int:
        """Intervals of phase two."""
        return max(self.after)


FULL = Sizes(4, 320, 208, 16, (1, 2, 4, 8, 16), 14, 96, 12, 48)
QUICK = Sizes(4, 320, 208, 12, (1, 2, 4), 8, 96, 12, 24)
LARGE = replace(FULL, after=(1, 2, 4, 8), data_steps=24, memory_steps=32, layers=LARGE_LAYERS)


def facts_spec(sizes: Sizes, folder: Path, seed: int, taught: bool, data: bool) -> RunSpec:
    """The spec of the facts cells.

    Args:
        sizes: how big.
        folder: where `write_corpora` wrote.
        seed: of weights, shuffles and which wordings are held out.
        taught: of phase two: constant rates.
        data: of the data layer, whose corpus of phase two is the edited one; the memory's never is.
    """
    corpus = folder / ("edited.jsonl" if taught and data else "true.jsonl")
    layers, decay = sizes.layers, {"weight_decay": 0.1}
    return RunSpec.model_validate(
        {
            "seed": seed,
            "intervals": sizes.facts_intervals,
            "corpus": {
                "kind": "facts",
                "paths": [str(corpus)],
                "templates": str(folder / "templates.json"),
                "loss_on": "answers",
                "token_noise": 0.05,
                "window": 64,
            },
            "tokenizer": {"vocab_size": 1536},
            "data": {
                **layers.group,
                "layer": {"fields": layers.llama(64), "read_layers": layers.read_layers},
                "optimizer": _optimizer(taught, {"lr": layers.data_lr, **decay}),
                "steps_per_interval": sizes.data_steps,
            },
            "memory": {
                **layers.group,
                "layer": {
                    "dim": layers.dim,
                    "slots_side": layers.slots_side,
                    "conv_dilations": (1, 1),  # short: longer ones see the wording everywhere
                    "conv_taps": 2,
                },
                "optimizer": _optimizer(taught, {"lr": layers.memory_lr, **decay}),
                "value_lr": layers.value_lr,
                "recall_frac": 1.0,
                "steps_per_interval": sizes.memory_steps,
            },
            "losses": {"help": 0.0, "balance": 0.3, "recall": RECALL, "self_yields": 1.0},
            "mix": {"just_trained": 0.5, "fresh": 0.25, "replay": 0.0, "sampled": 0.25},
        }
    )


def text_spec(sizes: Sizes, data: Path, seed: int) -> RunSpec:
    """The spec of the text cells: a novel, every token learned."""
    layers = sizes.layers
    return RunSpec.model_validate(
        {
            "seed": seed,
            "intervals": sizes.text_intervals,
            "corpus": {
                "kind": "text",
                "paths": [str(data / "text/Middlemarch_145.txt")],
                "window": 64,
            },
            "tokenizer": {"vocab_size": 1024},
            "data": {
                **layers.group,
                "layer": {"fields": layers.llama(64), "read_layers": layers.read_layers},
                "optimizer": _optimizer(False, {"lr": layers.data_lr}),
                "steps_per_interval": sizes.data_steps,
            },
            "memory": {
                **layers.group,
                "layer": {"dim": layers.dim, "slots_side": layers.slots_side},
                "optimizer": _optimizer(False, {"lr": layers.memory_lr}),
                "value_lr": layers.value_lr,
                "recall_frac": 1.0,
                "steps_per_interval": sizes.memory_steps,
            },
            "losses": {"help": 0.0, "balance": 0.3, "recall": RECALL},
        }
    )


def _optimizer(taught: bool, values: dict[str, float]) -> dict[str, Any]:
    if taught:
        lr = values["lr"] * FINAL_LR_FRAC
        return {**values, "lr": lr, "schedule": "constant", "warmup_steps": 0}
    return {**values, "final_lr_frac": FINAL_LR_FRAC}
