"""Pairs of both layers for tests of what an export holds."""

from __future__ import annotations

from pathlib import Path

import torch

from actors.layers.pair import Pair
from actors.settings.corpus import CorpusSpec
from actors.settings.run import RunSpec
from actors.tokenizers.tokenizer import Tokenizer
from actors.weights.builders import build_data_layer, build_memory_layer
from tests.unit.actors.tiny import memory_spec, open_gates, run_spec, save_checkpoint

CPU = torch.device("cpu")


def pair_of(spec: RunSpec, tokenizer: Tokenizer) -> Pair:
    """Both layers as a run begins with them, but the gates are open, so that reads count."""
    data = open_gates(build_data_layer(spec, tokenizer, CPU)).eval()
    return Pair(data, build_memory_layer(spec, tokenizer, data.vocab_rows, CPU))


def spec_from_checkpoint(family: str, corpus: CorpusSpec, rows: int, folder: Path) -> RunSpec:
    """A run from a checkpoint with a padded vocabulary, its memory with a frozen copy."""
    place = save_checkpoint(folder, family, rows)
    memory = memory_spec(encoder="frozen_copy", copy_layers=1)
    layer = {"pretrained": place, "read_layers": (1,)}
    return run_spec(corpus, data__layer=layer, memory__layer=memory.model_dump())
