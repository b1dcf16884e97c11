"""Counts without weights against the layers that would be made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from actors.layers.pair import Pair
from actors.settings.corpus import CorpusSpec
from actors.settings.layers import DataLayerSpec
from actors.settings.run import RunSpec
from actors.tokenizers.tokenizer import Tokenizer
from actors.weights.builders import build_data_layer, build_memory_layer
from actors.weights.pair_export import export_pair
from actors.weights.parameter_counts import count_parameters
from actors.weights.pretrained_model import outline, pretrained_path
from tests.unit.actors.tiny import FAMILIES, edit_config, memory_spec, run_spec, save_checkpoint

CPU = torch.device("cpu")
COPY: dict[str, Any] = {"encoder": "frozen_copy", "copy_layers": 1}


def size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def counted_and_made(spec: RunSpec, tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    counts = count_parameters(spec, tokenizer.size)
    data = build_data_layer(spec, tokenizer, CPU)
    memory = build_memory_layer(spec, tokenizer, data.vocab_rows, CPU)
    frozen = size(memory.encoder.copy) if spec.memory.layer.encoder == "frozen_copy" else 0
    made = [size(data.model), size(data.port), size(memory) - frozen, memory.values.numel()]
    got = [counts.data, counts.port, counts.memory, counts.value_table]
    return [*got, counts.frozen, counts.vocab_rows], [*made, frozen, data.vocab_rows]


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_fresh_layers_are_as_big_as_counted(
    family: str, facts_corpus: CorpusSpec, tokenizer: Tokenizer
) -> None:
    layer = {"model_type": family, "fields": FAMILIES[family], "read_layers": (1,)}
    got, want = counted_and_made(run_spec(facts_corpus, data__layer=layer), tokenizer)
    assert got == want


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_pretrained_layer_and_a_copy_of_it_are_as_big_as_counted(
    family: str, facts_corpus: CorpusSpec, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    place = save_checkpoint(tmp_path, family, tokenizer.size + 24)
    spec = run_spec(
        facts_corpus,
        data__layer={"pretrained": place, "read_layers": (0,)},
        memory__layer=memory_spec(**COPY).model_dump(),
    )
    got, want = counted_and_made(spec, tokenizer)
    assert got == want
    assert want[4] > 0


def test_counting_takes_the_memory_of_no_weight(tmp_path: Path) -> None:
    spec = DataLayerSpec(pretrained=save_checkpoint(tmp_path))
    with pretrained_path(spec) as place:
        model = outline(spec, place)
    held = {
        p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for p in model.parameters()
    }
    assert size(model) > 10_000
    assert sum(held.values()) < 1_000


def test_an_own_head_is_counted_whatever_the_config_says(
    facts_corpus: CorpusSpec, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    place = save_checkpoint(tmp_path, rows=tokenizer.size)
    edit_config(tmp_path, tie_word_embeddings=True)
    spec = run_spec(facts_corpus, data__layer={"pretrained": place, "read_layers": (0,)})
    counted, made = counted_and_made(spec, tokenizer)
    assert counted == made


@pytest.mark.parametrize("copied", [False, True])
def test_layers_of_an_earlier_run_are_as_big_as_counted(
    copied: bool, facts_corpus: CorpusSpec, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    place = save_checkpoint(tmp_path / "checkpoint", rows=tokenizer.size)
    memory = memory_spec(**COPY if copied else {}).model_dump()
    layer = {"pretrained": place, "read_layers": (0,)}
    spec = run_spec(facts_corpus, data__layer=layer, memory__layer=memory)
    data = build_data_layer(spec, tokenizer, CPU)
    pair = Pair(data, build_memory_layer(spec, tokenizer, data.vocab_rows, CPU))
    run = str(tmp_path / "run")
    export_pair(spec, tokenizer, pair, f"{run}/export")
    again = run_spec(
        facts_corpus,
        data__layer={**layer, "pretrained": run},
        memory__layer={**memory, "start_from": run},
    )
    got, want = counted_and_made(again, tokenizer)
    assert got == want


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
