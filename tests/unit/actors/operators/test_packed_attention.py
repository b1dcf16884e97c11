"""Packed documents without a mask, against the mask of tokens by tokens."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from actors.corpus.corpus import build_tokenizer
from actors.layers.causal_lm import build_model, check_model, window_inputs
from actors.layers.data_layer import DataLayer
from actors.operators import packed_attention
from actors.operators.packed_attention import INSTEAD, PACKED, Documents, attend, groups_of
from actors.settings.layers import DataLayerSpec
from actors.training.execution import prepare_training
from actors.wire import ConfigError
from tests.unit.actors.tiny import (
    FAMILIES,
    LLAMA,
    Exchange,
    open_gates,
    run_spec,
    tokens,
    values,
    write_facts,
)

EACH_FAMILY = pytest.mark.parametrize("family", sorted(FAMILIES))
SEGMENTS = torch.tensor(
    [
        [0, 0, 0, 1, 1, 1, 2, 3, 3, 3, 3, -1],
        [0] * 12,
        [0, 1, 1, 1, 1, 1, 2, 2, 2, -1, -1, -1],
        [0] * 5 + [-1] * 7,
    ]
)


def layer_of(family: str, attention: str, **fields: Any) -> DataLayer:
    spec = DataLayerSpec(
        model_type=family,
        fields={**FAMILIES[family], **fields.pop("fields", {})},
        read_layers=(0, 1),
        attention=attention,
        **fields,
    )
    torch.manual_seed(7)
    model = build_model(spec, 60)
    with torch.no_grad():  # fresh weights hardly attend
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    torch.manual_seed(8)
    return open_gates(DataLayer(model, spec, 16, 60)).eval()


def forward_and_gradients(layer: DataLayer) -> tuple[Tensor, dict[str, Tensor]]:
    y = torch.randn(2, *SEGMENTS.shape[1:], 16, generator=torch.Generator().manual_seed(3))
    logits = layer(tokens(*SEGMENTS.shape), SEGMENTS, y).logits_BTV
    text = logits[SEGMENTS >= 0]
    text.log_softmax(-1)[:, 5].sum().backward()
    return text.detach(), {n: p.grad for n, p in layer.named_parameters() if p.grad is not None}


def assert_same(got: DataLayer, want: DataLayer) -> None:
    (got_logits, got_grads), (logits, grads) = map(forward_and_gradients, (got, want))
    torch.testing.assert_close(got_logits, logits, rtol=1e-5, atol=1e-5)
    assert got_grads.keys() == grads.keys()
    assert len(grads) > 5
    for name, gradient in grads.items():
        torch.testing.assert_close(got_grads[name], gradient, rtol=1e-4, atol=1e-4)


@EACH_FAMILY
def test_logits_and_gradients_are_those_of_the_mask(family: str) -> None:
    assert_same(layer_of(family, "packed"), layer_of(family, "sdpa"))


def test_so_they_are_where_heads_share_keys() -> None:
    shared = {"num_attention_heads": 4, "num_key_value_heads": 2}
    got, want = (layer_of("llama", kind, fields=shared) for kind in ("packed", "sdpa"))
    assert_same(got, want)


def test_so_they_are_where_activations_are_computed_again() -> None:
    got = layer_of("llama", "packed", gradient_checkpointing=True)
    prepare_training(got)
    assert_same(got, layer_of("llama", "sdpa"))


def test_so_they_are_where_blocks_are_compiled() -> None:
    got = layer_of("llama", "packed", compile=True)
    prepare_training(got, backend="eager")
    assert_same(got, layer_of("llama", "sdpa"))


def test_no_mask_of_tokens_by_tokens_is_made() -> None:
    layer = layer_of("llama", "packed")
    inputs = window_inputs(layer.model, SEGMENTS, torch.float32)
    assert inputs["attention_mask"].numel() < SEGMENTS.numel()
    assert inputs["attention_mask"].flatten().tolist()[:6] == [0, 3, 6, 7, 11, 12]
    want = window_inputs(layer_of("llama", "sdpa").model, SEGMENTS, torch.float32)
    assert torch.equal(inputs["position_ids"], want["position_ids"])


def test_each_document_attends_as_it_would_alone() -> None:
    bounds = torch.tensor([0, 3, 4, 8, 12, 15, 16], dtype=torch.int32)
    q, k, v = (torch.randn(2, 3, 8, 4, dtype=torch.float64) for _ in range(3))
    got, _ = attend(nn.Module(), q, k, v, bounds.view(1, 1, 1, -1), scaling=0.3)
    flat = [x.transpose(1, 2).flatten(0, 1) for x in (q, k, v)]
    for begin, end in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        for head in range(3):
            one_q, one_k, one_v = (x[begin:end, head] for x in flat)
            later = torch.ones(end - begin, end - begin).triu(1).bool()
            scores = (0.3 * one_q @ one_k.T).masked_fill(later, -torch.inf)
            want = scores.softmax(-1) @ one_v
            torch.testing.assert_close(got.flatten(0, 1)[begin:end, head], want)


def test_documents_of_one_length_are_one_batch() -> None:
    groups = list(groups_of(np.array([0, 3, 4, 7, 8, 10], np.int32)))
    assert [g.tolist() for g in groups] == [[[3], [7]], [[8, 9]], [[0, 1, 2], [4, 5, 6]]]


def test_a_document_in_two_pieces_is_kept_together_by_a_mask() -> None:
    layer, segments = layer_of("llama", "packed"), torch.tensor([[-1, 0, 0, -1, 0]])
    assert not Documents.of(segments).are_whole
    assert Documents.of(SEGMENTS).are_whole
    assert window_inputs(layer.model, segments, torch.float32)["attention_mask"].shape[-2:] == (
        5,
        5,
    )


def test_windows_of_one_document_have_the_plain_models_bits() -> None:
    ids = tokens(2, 9)
    got, want = (
        layer_of("llama", kind)(ids, torch.zeros_like(ids)).logits_BTV
        for kind in ("packed", "sdpa")
    )
    assert torch.equal(got, want)


@EACH_FAMILY
def test_generation_with_padding_has_the_bits_of_sdpa(family: str) -> None:
    ids = tokens(2, 6)
    mask = torch.tensor([[0, 0, 1, 1, 1, 1], [1] * 6])
    got, want = (
        layer_of(family, kind).generate(
            ids, attention_mask=mask, max_new_tokens=5, do_sample=False, output_logits=True,
            return_dict_in_generate=True,
        )
        for kind in ("packed", "sdpa")
    )  # fmt: skip
    assert torch.equal(got.sequences, want.sequences)
    assert torch.equal(torch.stack(got.logits), torch.stack(want.logits))


@EACH_FAMILY
def test_every_family_is_found_to_keep_documents_apart(family: str) -> None:
    check_model(layer_of(family, "packed").model, family)


def test_scores_that_a_model_changes_are_refused() -> None:
    q = torch.zeros(1, 1, 4, 2)
    bounds = torch.tensor([0, 2, 4], dtype=torch.int32).view(1, 1, 1, -1)
    with pytest.raises(ValueError, match="softcap is more than"):
        attend(nn.Module(), q, q, q, bounds, softcap=30.0)


def test_a_model_with_such_scores_is_refused_with_what_to_set() -> None:
    fields = {**LLAMA, "head_dim": 16, "layer_types": ["full_attention"] * 2}
    spec = DataLayerSpec(model_type="gemma2", fields=fields, attention="packed")
    with pytest.raises(ConfigError, match=INSTEAD):
        check_model(build_model(spec, 60), "gemma2")


@pytest.mark.parametrize(
    ("family", "fields"),
    [
        ("gptj", {"n_embd": 32, "n_layer": 2, "n_head": 2, "rotary_dim": 8}),  # no such kernel
        ("xglm", {"d_model": 32, "ffn_dim": 64, "num_layers": 2, "attention_heads": 2}),  # no mask
    ],
)
def test_a_family_without_packed_attention_is_refused_with_what_to_set(
    family: str, fields: dict[str, Any]
) -> None:
    spec = DataLayerSpec(model_type=family, fields=fields, attention="packed")
    with pytest.raises(ConfigError, match=INSTEAD):
        check_model(build_model(spec, 60), family)


def test_heads_whose_values_are_narrower_than_their_keys_attend_as_by_the_mask() -> None:
    fields = {
        **LLAMA,
        **{"kv_lora_rank": 16, "q_lora_rank": 24, "first_k_dense_replace": 2},
        **{"qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 12},
    }
    logits = []
    for attention in ("packed", "sdpa"):
        spec = DataLayerSpec(
            model_type="deepseek_v3", fields=fields, attention=attention, read_layers=(1,)
        )
        torch.manual_seed(7)
        model = build_model(spec, 60).eval()
        check_model(model, "deepseek_v3")
        with torch.no_grad():
            out = DataLayer(model, spec, 16, 60)(tokens(*SEGMENTS.shape), SEGMENTS)
        logits.append(out.logits_BTV)
    whole = SEGMENTS >= 0
    torch.testing.assert_close(logits[0][whole], logits[1][whole], rtol=1e-4, atol=1e-5)


def test_dropout_of_scores_is_that_of_sdpa() -> None:
    q = torch.randn(1, 2, 4, 8)
    bounds = torch.tensor([0, 4], dtype=torch.int32).view(1, 1, 1, -1)
    torch.manual_seed(0)
    got, _ = attend(nn.Module(), q, q, q, bounds, dropout=0.5)
    torch.manual_seed(0)
    want = F.scaled_dot_product_attention(q, q, q, dropout_p=0.5, is_causal=True)
    torch.testing.assert_close(got.transpose(1, 2), want)


def test_an_export_does_not_say_how_its_model_attended(tmp_path: Path) -> None:
    layer_of("llama", "packed").model.save_pretrained(tmp_path)
    assert PACKED not in (tmp_path / "config.json").read_text()


def test_both_layers_learn_the_same_with_and_without_a_mask(tmp_path: Path) -> None:
    reports = []
    for kind in ("auto", "packed"):
        layer = {"fields": LLAMA, "read_layers": (0, 1), "attention": kind}
        spec = run_spec(write_facts(tmp_path), data__layer=layer)
        exchange = Exchange(spec, build_tokenizer(spec).to_json()).run(2)
        reports.append([values(report) for pair in exchange.reports for report in pair])
    for got, want in zip(*reports, strict=True):
        losses = {n: v for n, v in want.items() if not n.endswith("norm")}
        assert {n: got[n] for n in losses} == pytest.approx(losses, rel=2e-2, abs=1e-3)
    assert reports[0][0]["own"] == pytest.approx(reports[1][0]["own"], rel=1e-3)


def test_on_a_card_in_bf16_the_kernel_gets_documents_end_to_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is given to the kernel; the kernel itself is tried in tests/gpu."""
    seen: list[tuple[Any, ...]] = []

    def kernel(q: Tensor, k: Tensor, v: Tensor, *ends: Any, **options: Any) -> Tensor:
        seen.append((q.shape, k.shape, v.shape, *ends, options))
        return q

    monkeypatch.setattr(packed_attention, "has_kernel", lambda *_: True)
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", kernel)
    q, k = torch.randn(2, 4, 6, 8), torch.randn(2, 2, 6, 8)
    bounds = torch.tensor([0, 2, 6, 12], dtype=torch.int32)
    module = SimpleNamespace(num_key_value_groups=2)
    out, _ = attend(module, q, k, k, bounds.view(1, 1, 1, -1), scaling=0.5)  # type: ignore[arg-type]
    assert torch.equal(out, q.transpose(1, 2))
    ((q_shape, k_shape, v_shape, begin, end, *longest, options),) = seen
    assert (q_shape, k_shape, v_shape) == ((12, 4, 8), (12, 2, 8), (12, 2, 8))
    assert begin.tolist() == end.tolist() == bounds.tolist()
    assert longest == [6, 6]
    assert options == {"scale": 0.5, "window_size": (-1, 0), "enable_gqa": True}
