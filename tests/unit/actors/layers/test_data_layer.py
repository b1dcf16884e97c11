"""The data layer against the plain model of the same weights, and its port against loops."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from actors.layers.causal_lm import build_model
from actors.layers.data_layer import (
    DataLayer,
    MemoryPort,
    ReadGate,
    decoder_layers,
    packed_inputs,
)
from actors.settings.layers import DataLayerSpec
from actors.wire import ConfigError
from tests.unit.actors.tiny import FAMILIES, LLAMA, build, one_document, open_gates, tokens

EACH_FAMILY = pytest.mark.parametrize("family", sorted(FAMILIES))


@EACH_FAMILY
def test_with_reads_off_the_logits_are_the_plain_models_bit_for_bit(family: str) -> None:
    layer, plain = build(family)
    ids = tokens(3, 11)
    with torch.no_grad():
        got = layer(ids, one_document(ids)).logits_BTV
        want = plain(input_ids=ids).logits
    assert torch.equal(got, want)


@EACH_FAMILY
def test_open_gates_change_nothing_while_reads_are_off(family: str) -> None:
    layer, plain = build(family)
    ids = tokens(3, 11)
    with torch.no_grad():
        open_gates(layer)(ids, one_document(ids), torch.randn(3, 11, 16))
        got = layer(ids, one_document(ids)).logits_BTV
        want = plain(input_ids=ids).logits
    assert torch.equal(got, want)


def test_a_read_does_not_linger_in_the_model() -> None:
    layer, plain = build("llama")
    ids = tokens(3, 11)
    with torch.no_grad():
        open_gates(layer)(ids, one_document(ids), torch.randn(3, 11, 16))
        got = layer.model(input_ids=ids).logits  # as `generate` calls it
        want = plain(input_ids=ids).logits
    assert torch.equal(got, want)


@EACH_FAMILY
def test_a_fresh_port_changes_nothing(family: str) -> None:
    layer, plain = build(family)
    ids = tokens(3, 11)
    with torch.no_grad():
        got = layer(ids, one_document(ids), torch.randn(3, 11, 16)).logits_BTV
        want = plain(input_ids=ids).logits
    torch.testing.assert_close(got, want, atol=1e-6, rtol=1e-5)


@EACH_FAMILY
@pytest.mark.parametrize("at", ["0", "1"])
def test_a_read_at_any_layer_changes_the_logits(family: str, at: str) -> None:
    layer, _ = build(family)
    gate = layer.port.gates[at]
    assert isinstance(gate, ReadGate)
    nn.init.normal_(gate.write.weight)
    ids = tokens(3, 11)
    with torch.no_grad():
        off = layer(ids, one_document(ids)).logits_BTV
        on = layer(ids, one_document(ids), torch.randn(3, 11, 16)).logits_BTV
    assert bool(((on - off).abs().amax(-1) > 1e-3).all())


@EACH_FAMILY
def test_sequences_beyond_the_readers_are_as_with_reads_off(family: str) -> None:
    layer, _ = build(family)
    ids = tokens(5, 11)
    with torch.no_grad():
        mixed = open_gates(layer)(ids, one_document(ids), torch.randn(2, 11, 16)).logits_BTV
        off = layer(ids, one_document(ids)).logits_BTV
    assert torch.equal(mixed[2:], off[2:])


@EACH_FAMILY
def test_the_readers_of_a_mixed_batch_are_as_in_a_batch_of_their_own(family: str) -> None:
    layer, _ = build(family)
    ids, y = tokens(5, 11), torch.randn(2, 11, 16)
    with torch.no_grad():
        mixed = open_gates(layer)(ids, one_document(ids), y).logits_BTV
        alone = layer(ids[:2], one_document(ids[:2]), y).logits_BTV
    torch.testing.assert_close(mixed[:2], alone, atol=1e-5, rtol=1e-4)


@EACH_FAMILY
def test_reads_fed_piece_by_piece_with_a_cache_give_the_logits_of_one_pass(family: str) -> None:
    layer, _ = build(family)
    ids, y = tokens(2, 9), torch.randn(2, 9, 16)
    with torch.no_grad():
        whole = open_gates(layer)(ids, one_document(ids), y)
        cache, pieces = None, []
        for begin, end in ((0, 4), (4, 5), (5, 9)):
            out, hidden = layer.run_model(
                y[:, begin:end],
                input_ids=ids[:, begin:end],
                past_key_values=cache,
                use_cache=True,
            )
            cache = out.past_key_values
            pieces.append((out.logits, hidden))
    logits, hidden = (torch.cat(parts, dim=1) for parts in zip(*pieces, strict=True))
    torch.testing.assert_close(logits, whole.logits_BTV, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(hidden, whole.hidden_BTD, atol=1e-5, rtol=1e-4)


def test_a_model_of_a_narrower_dtype_reads_through_a_float32_port() -> None:
    layer, _ = build("llama")
    ids, y = tokens(2, 7), torch.randn(2, 7, 16)
    with torch.no_grad():
        want = open_gates(layer)(ids, one_document(ids), y).logits_BTV
        layer.model.to(torch.bfloat16)
        got = layer(ids, one_document(ids), y).logits_BTV
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got.float(), want, atol=0.05, rtol=0.05)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@EACH_FAMILY
def test_packed_documents_are_as_if_each_stood_alone(family: str, attention: str) -> None:
    layer, _ = build(family)
    layer.model.set_attn_implementation(attention)
    documents = [tokens(1, length, seed=length) for length in (6, 3, 5)]
    segments = torch.tensor([[0] * 6 + [1] * 3 + [2] * 5 + [-1] * 2])
    packed = torch.cat([*documents, torch.zeros(1, 2, dtype=torch.long)], dim=1)
    with torch.no_grad():
        got = layer(packed, segments).logits_BTV[:, :14]
        want = torch.cat([layer(d, one_document(d)).logits_BTV for d in documents], dim=1)
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-4)


@EACH_FAMILY
def test_a_token_changes_no_logits_before_it(family: str) -> None:
    layer, _ = build(family)
    ids = tokens(1, 12)
    other = ids.clone()
    other[0, 6] = (ids[0, 6] + 1) % 60
    segments = torch.tensor([[0] * 4 + [1] * 8])
    with torch.no_grad():
        before, after = (layer(t, segments).logits_BTV for t in (ids, other))
    torch.testing.assert_close(before[:, :6], after[:, :6], atol=1e-6, rtol=1e-5)


@EACH_FAMILY
def test_the_hidden_state_is_what_the_logits_are_made_of(family: str) -> None:
    layer, _ = build(family)
    ids = tokens(2, 7)
    with torch.no_grad():
        out = layer(ids, one_document(ids), torch.randn(1, 7, 16))
        want = layer.model.get_output_embeddings()(out.hidden_BTD)
    torch.testing.assert_close(out.logits_BTV, want)


def test_rows_beyond_the_tokenizer_are_left_out_of_the_logits() -> None:
    layer, plain = build("llama", rows=64, num_tokens=60)
    ids = tokens(1, 5)
    with torch.no_grad():
        got = layer(ids, one_document(ids)).logits_BTV
        want = plain(input_ids=ids).logits[..., :60]
    assert torch.equal(got, want)


def test_a_read_layer_that_does_not_exist_is_refused() -> None:
    spec = DataLayerSpec(fields=LLAMA, read_layers=(0, 2))
    with pytest.raises(ConfigError, match=r"layer 2 does not exist.*0 to 1"):
        DataLayer(build_model(spec, 60), spec, 16, 60)


def test_more_tokens_than_output_rows_are_refused() -> None:
    spec = DataLayerSpec(fields=LLAMA, read_layers=(0,))
    with pytest.raises(ConfigError, match=r"61 ids.*60 output rows"):
        DataLayer(build_model(spec, 60), spec, 16, 61)


def test_an_unknown_model_type_is_refused() -> None:
    with pytest.raises(ConfigError, match="lama"):
        build_model(DataLayerSpec(model_type="lama", fields=LLAMA), 60)


def test_an_unknown_field_of_the_model_is_refused() -> None:
    with pytest.raises(ConfigError, match="hiden_size"):
        build_model(DataLayerSpec(fields={**LLAMA, "hiden_size": 64}), 60)


@pytest.mark.parametrize("wrong", [{"hidden_size": "wide"}, {"hidden_size": 33}])
def test_a_field_of_the_model_with_a_value_that_does_not_fit_is_refused(
    wrong: dict[str, object],
) -> None:
    with pytest.raises(ConfigError, match="hidden"):
        build_model(DataLayerSpec(fields={**LLAMA, **wrong}), 60)


def test_a_model_without_a_stack_of_decoder_layers_is_refused() -> None:
    model = build_model(DataLayerSpec(fields=LLAMA), 60)
    model.config.num_hidden_layers = 5
    with pytest.raises(ConfigError, match="no stack of 5 decoder layers"):
        decoder_layers(model)


def test_one_document_per_window_needs_no_mask() -> None:
    assert packed_inputs(torch.zeros(2, 5, dtype=torch.long), torch.float32) == {}


def test_positions_restart_with_each_document() -> None:
    segments = torch.tensor([[0, 0, 0, 1, 1, 2, -1, -1]])
    positions = packed_inputs(segments, torch.float32)["position_ids"]
    assert positions.tolist() == [[0, 1, 2, 0, 1, 0, 0, 1]]


def test_padding_inside_a_document_takes_no_position() -> None:
    segments = torch.tensor([[-1, 0, 0, -1, 0]])
    assert packed_inputs(segments)["position_ids"].tolist() == [[0, 0, 1, 1, 2]]


def test_with_a_past_mask_and_positions_are_the_rows_of_the_whole_window() -> None:
    segments = torch.tensor([[0, 0, 0, 1, 1, 1, -1], [0, 1, 1, 1, 2, 2, 2]])
    whole = packed_inputs(segments)
    got = packed_inputs(segments[:, 4:], past_BR=segments[:, :4])
    assert torch.equal(got["attention_mask"], whole["attention_mask"][:, :, 4:])
    assert torch.equal(got["position_ids"], whole["position_ids"][:, 4:])


def test_the_mask_lets_a_token_see_its_document_up_to_itself() -> None:
    segments = [0, 0, 1, 1, 1, -1]
    mask = packed_inputs(torch.tensor([segments]), torch.float32)["attention_mask"][0, 0]
    want = [[a == b and j <= i for j, b in enumerate(segments)] for i, a in enumerate(segments)]
    assert (mask == 0).tolist() == want  # what is added to a score
    assert mask[mask != 0].max() < -1e30


def test_a_gate_adds_what_its_formula_says() -> None:
    gate = ReadGate(6, 4).requires_grad_(False)
    nn.init.normal_(gate.write.weight)
    h, y = torch.randn(1, 3, 6), torch.randn(1, 3, 4)
    for t, added in enumerate(gate(h, y)[0].tolist()):
        key = [float(row @ y[0, t]) for row in gate.key.weight]
        norms = [math.sqrt(sum(x * x for x in v) / 6) for v in (h[0, t].tolist(), key)]
        match = sum(a * b for a, b in zip(h[0, t].tolist(), key, strict=True))
        alpha = 1 / (1 + math.exp(-(match / norms[0] / norms[1] / math.sqrt(6) - 2)))
        want = [alpha * float(row @ y[0, t]) for row in gate.write.weight]
        assert added == pytest.approx(want, rel=1e-4)


def test_the_mixing_logit_weighs_hidden_state_read_and_both_entropies() -> None:
    port = MemoryPort(6, 4, (0,)).requires_grad_(False)
    nn.init.normal_(port.mix.weight)
    hidden, y = torch.randn(6), torch.randn(4)
    logp, logq = torch.randn(5).log_softmax(-1), torch.randn(5).log_softmax(-1)
    features = [x / math.sqrt(float(hidden.square().mean())) for x in hidden.tolist()]
    features += [x / math.sqrt(float(y.square().mean())) for x in y.tolist()]
    features += [-sum(math.exp(x) * x for x in lp.tolist()) for lp in (logp, logq)]
    want = sum(w * x for w, x in zip(port.mix.weight[0].tolist(), features, strict=True)) - 2
    assert port.mixing_logit(hidden, y, logp, logq).item() == pytest.approx(want, rel=1e-4)


def test_the_mixing_logit_gives_neither_distribution_a_gradient() -> None:
    port = MemoryPort(6, 4, (0,))
    logp, logq = (torch.randn(5).log_softmax(-1).requires_grad_() for _ in range(2))
    port.mixing_logit(torch.randn(6), torch.randn(4), logp, logq).backward()
    assert (logp.grad, logq.grad) == (None, None)


def test_a_fresh_port_gives_the_memory_an_eighth() -> None:
    logit = MemoryPort(6, 4, (0,)).mixing_logit(
        torch.randn(6), torch.randn(4), torch.randn(5), torch.randn(5)
    )
    assert torch.sigmoid(logit).item() == pytest.approx(1 / (1 + math.exp(2)))
