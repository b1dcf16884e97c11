"""Counts without weights against the layers that would be made."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from actors.corpus_spec import CorpusSpec
from actors.estimate import count_parameters
from actors.layers import build_data_layer, build_memory_layer
from actors.spec import RunSpec
from actors.tokenizer import Tokenizer
from actors.wire import ConfigError
from tests.unit.actors.tiny import FAMILIES, run_spec

CPU = torch.device("cpu")


def size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_layers_are_as_big_as_counted(
    family: str, facts_corpus: CorpusSpec, tokenizer: Tokenizer
) -> None:
    layer = {"model_type": family, "fields": FAMILIES[family], "read_layers": (1,)}
    spec = run_spec(facts_corpus, data__layer=layer)
    counts = count_parameters(spec, tokenizer.size)
    data = build_data_layer(spec, tokenizer, CPU)
    memory = build_memory_layer(spec, tokenizer, data.vocab_rows, CPU)
    assert (counts.data, counts.port) == (size(data.model), size(data.port))
    assert (counts.memory, counts.value_table) == (size(memory), memory.values.numel())
    assert counts.vocab_rows == data.vocab_rows
    assert (counts.hidden_size, counts.num_layers) == (32, 2)


def test_counting_a_big_model_takes_no_memory(facts_corpus: CorpusSpec) -> None:
    fields = {
        "hidden_size": 8192,
        "num_hidden_layers": 80,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "intermediate_size": 28672,
    }
    layer = {"model_type": "llama", "fields": fields, "read_layers": (8, 40)}
    counts = count_parameters(run_spec(facts_corpus, data__layer=layer), 128256)
    assert counts.data == pytest.approx(70.55e9, rel=0.01)


def test_a_layer_that_can_not_be_built_is_refused(
    spec: RunSpec, facts_corpus: CorpusSpec, tokenizer: Tokenizer
) -> None:
    layer = {**spec.data.layer.model_dump(), "read_layers": (0, 9)}
    with pytest.raises(ConfigError, match="layer 9 does not exist"):
        count_parameters(run_spec(facts_corpus, data__layer=layer), tokenizer.size)
