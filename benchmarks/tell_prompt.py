"""What people do without a memory: the association stands in the prompt of a real model.

SmolLM2 is asked by itself, greedily, for whole answers, with and without a sentence before the
question that says what is wanted. The control of `tell` that needs no pair; called by its cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from actors.corpus.corpus import build_tokenizer
from actors.layers.pair import Pair
from actors.measuring.probing import answers_right
from actors.settings.run import RunSpec
from actors.sources.facts import Probe
from actors.weights.builders import build_data_layer, build_memory_layer


def real_spec(model: Path, text: Path) -> RunSpec:
    """A run whose data layer is the model as it is; its memory is small and is never asked."""
    values: dict[str, Any] = {
        "intervals": 1,
        "corpus": {"kind": "text", "paths": [str(text)], "window": 256},
        "tokenizer": {"pretrained": str(model)},
        "data": {"layer": {"pretrained": str(model), "read_layers": [10, 20], "train": "port"}},
        "memory": {"layer": {"dim": 64, "slots_side": 32}},
    }
    return RunSpec.model_validate(values)


def prompted(
    model: Path, text: Path, told: Sequence[str], asked: Sequence[Probe]
) -> dict[str, list[bool]]:
    """Which questions the model answers `alone`, and `prompted`: each after its sentence of `told`.

    Args:
        model: a Hugging Face folder.
        text: any file of text, for the run that the layers need.
        told: one sentence per question.
        asked: the questions.
    """
    spec, device = real_spec(model, text), torch.device("cpu")
    tokenizer = build_tokenizer(spec)
    data = build_data_layer(spec, tokenizer, device).eval()
    pair = Pair(data, build_memory_layer(spec, tokenizer, data.vocab_rows, device))
    after = [
        replace(probe, prompt=f"{sentence} {probe.prompt}")
        for sentence, probe in zip(told, asked, strict=True)
    ]
    return {
        "alone": answers_right(pair, "own", tokenizer, asked),
        "prompted": answers_right(pair, "own", tokenizer, after),
    }
