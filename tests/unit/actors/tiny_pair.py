"""Tiny models with memory, of every family, in which the memory's word counts."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import torch
from transformers import PreTrainedTokenizerFast

from actors.corpus.corpus import train_tokenizer
from actors.layers.pair import Pair
from actors.pair.tandem_model import TandemModel
from actors.tokenizers.tokenizer import Tokenizer
from actors.weights.builders import build_data_layer, build_memory_layer
from actors.weights.pair_export import export_pair
from tests.unit.actors.tiny import FAMILIES, build, build_memory, open_gates, run_spec, write_facts

ROWS, NUM_TOKENS = 64, 60  # a padded vocabulary
CPU = torch.device("cpu")


def shake(pair: Pair, seed: int = 1) -> Pair:
    """The pair with weights far from their start, an open port and lambda between 0 and 1."""
    generator = torch.Generator().manual_seed(seed)
    open_gates(pair.data)
    with torch.no_grad():
        pair.data.port.mix.weight.mul_(0.2)
        pair.data.port.mix.bias.zero_()
        for parameter in (*pair.data.model.parameters(), *pair.memory.parameters()):
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return Pair(pair.data.eval(), pair.memory.requires_grad_(False))


def tandem(family: str, **memory_fields: int) -> tuple[TandemModel, torch.nn.Module]:
    """A model with memory, without tokenizer, and the plain model of its data layer's weights."""
    data, plain = build(family, rows=ROWS, num_tokens=NUM_TOKENS)
    pair = shake(Pair(data, build_memory(ROWS, NUM_TOKENS, **memory_fields)))
    plain.load_state_dict(data.model.state_dict())
    return TandemModel(pair, cast(PreTrainedTokenizerFast, None)), plain


def exported(folder: Path, family: str = "llama") -> tuple[Pair, Tokenizer]:
    """A pair and its tokenizer, exported to `folder`; a corpus in a folder beside it."""
    corpus = folder.parent / f"{folder.name}-corpus"
    corpus.mkdir(parents=True)
    layer = {"model_type": family, "fields": FAMILIES[family], "read_layers": (0, 1)}
    spec = run_spec(write_facts(corpus), data__layer=layer)
    tokenizer = train_tokenizer(spec)
    data = build_data_layer(spec, tokenizer, CPU)
    pair = shake(Pair(data, build_memory_layer(spec, tokenizer, data.vocab_rows, CPU)))
    export_pair(spec, tokenizer, pair, str(folder))
    return pair, tokenizer
