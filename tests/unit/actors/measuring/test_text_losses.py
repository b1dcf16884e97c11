"""Each token of a text is counted once, by each voice, as a plain pass over its window has it."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from actors.corpus.windows import Piece
from actors.layers.causal_lm import build_model
from actors.layers.data_layer import DataLayer
from actors.layers.pair import Pair
from actors.measuring.text_losses import document_pieces, stretches, text_losses
from actors.measuring.voices import VOICES, predict_everywhere
from actors.settings.layers import DataLayerSpec
from actors.sources.documents import Document
from actors.tokenizers.tokenizer import Tokenizer
from tests.unit.actors.tiny import LLAMA, build_memory, open_gates
from tests.unit.actors.tiny_pair import exported

TEXT = "The capital of Avaria is Korvik. Ships reach Belmont on the Oda. " * 4


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Pair, Tokenizer]:
    folder: Path = tmp_path_factory.mktemp("losses") / "tiny"
    pair, tokenizer = exported(folder)
    return Pair(pair.data.eval(), pair.memory), tokenizer


@pytest.mark.parametrize("num", [2, 3, 8, 9, 12, 13, 40])
def test_each_token_but_the_first_is_counted_once_with_half_a_window_before_it(num: int) -> None:
    tokens = list(range(100, 100 + num))
    found = list(stretches(Piece(tokens, 1), 8))
    assert [t for one in found for t in one.targets] == tokens[1:]
    for at, one in enumerate(found):
        assert len(one.tokens) <= 8
        assert one.at[0] == 0 if at == 0 else one.at[0] >= 4
        assert [t - 1 for t in one.targets] == [one.tokens[i] for i in one.at]


def test_of_a_piece_only_what_is_learned_counts() -> None:
    tokens, learn_T = np.arange(100, 140), np.zeros(40, bool)
    learn_T[[0, 5, 6, 39]] = True
    found = list(stretches(Piece(tokens, learn_T=learn_T), 8))
    assert [t for one in found for t in one.targets] == [105, 106, 139]
    assert [one.tokens[i] for one in found for i in one.at] == [104, 105, 138]
    given = list(stretches(Piece(tokens.tolist(), num_given=38), 64))
    assert [one.targets for one in given] == [(138, 139)]


def test_losses_are_those_of_a_plain_pass_over_each_window(made: tuple[Pair, Tokenizer]) -> None:
    pair, tokenizer = made
    texts = [TEXT, "Ships."]
    documents = [Document(text) for text in texts]
    found = text_losses(pair, tokenizer, documents, longest=16, batch_tokens=64)
    for voice in VOICES:
        by_window: list[list[float]] = []
        for document in documents:
            [piece] = document_pieces(tokenizer, document)
            for one in stretches(piece, 16):
                tokens = torch.tensor([one.tokens])
                logp = predict_everywhere(pair, voice, tokens, torch.zeros_like(tokens)).logp[0]
                rows = zip(logp[list(one.at)], one.targets, strict=True)
                by_window.append([-float(row[target]) for row, target in rows])
        every = [nats for window in by_window for nats in window]
        mean = sum(every) / len(every)
        assert len(every) == found.num_tokens
        assert len(by_window) == found.num_windows > 4
        assert found.losses[voice] == pytest.approx(mean, abs=1e-5)
        off = sum(sum(n - mean for n in window) ** 2 for window in by_window)
        factor = len(by_window) / (len(by_window) - 1)
        assert found.errors[voice] == pytest.approx(math.sqrt(off * factor) / len(every), rel=1e-3)
    assert found.gain == pytest.approx(found.losses["own"] - found.losses["help"], abs=1e-6)
    assert 0 < found.mixing < 1
    assert found.freshness is None
    in_bytes = sum(len(text.encode()) for text in texts)
    assert found.bits_per_byte("own") == pytest.approx(
        found.losses["own"] * found.num_tokens / math.log(2) / in_bytes
    )


def test_a_window_longer_than_sliding_attention_costs_what_the_plain_model_says(
    made: tuple[Pair, Tokenizer],
) -> None:
    _, tokenizer = made
    fields = {**LLAMA, "sliding_window": 4}
    spec = DataLayerSpec(model_type="mistral", fields=fields, read_layers=(0, 1))
    torch.manual_seed(0)
    model = build_model(spec, tokenizer.size).eval()
    for parameter in model.parameters():
        parameter.data.mul_(5)  # fresh weights hardly attend
    pair = Pair(
        open_gates(DataLayer(model, spec, 16, tokenizer.size)),
        build_memory(tokenizer.size, tokenizer.size),
    )
    documents = [Document(TEXT), Document("Ships reach Belmont.")]
    nats: list[Tensor] = []
    for document in documents:
        [piece] = document_pieces(tokenizer, document)
        for one in stretches(piece, 32):
            logp = model(torch.tensor([one.tokens])).logits[0, list(one.at)].log_softmax(-1)
            nats.append(-logp.gather(1, torch.tensor(one.targets)[:, None]).detach())
    found = text_losses(pair, tokenizer, documents, longest=32)
    assert found.losses["own"] == pytest.approx(float(torch.cat(nats).mean()), abs=1e-5)


def test_of_one_window_no_standard_error_is_known(made: tuple[Pair, Tokenizer]) -> None:
    assert math.isnan(text_losses(*made, [Document("Ships.")]).gain_error)
    with pytest.raises(ValueError, match="empty"):
        text_losses(*made, [])
