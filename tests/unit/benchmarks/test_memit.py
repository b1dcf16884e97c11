"""Edits in closed form: their values, keys and weights on a model of three layers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks import memit
from benchmarks.memit import Edit, Row, Settings, Value

SETTINGS = Settings(layers=(0, 1), steps=30, lr=0.3, clamp=50.0)


@pytest.fixture
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=40,
        hidden_size=24,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=2,
        initializer_range=0.3,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture
def edits() -> list[Edit]:
    """Two edits in two contexts each, of different lengths."""
    found = []
    for i in range(2):
        bare = Row((0, 5, 6 + i, 7, 8), 2, (9 + i, 10))
        after_more = Row((0, 3, 4, 5, 6 + i, 7, 8), 4, (9 + i, 10))
        found.append(Edit((bare, after_more), Row((0, 6 + i, 12, 13), 1)))
    return found


def logits_of(model: LlamaForCausalLM, tokens: tuple[int, ...]) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.tensor([tokens])).logits[0]


def test_a_value_is_where_the_answer_is_said(model: LlamaForCausalLM, edits: list[Edit]) -> None:
    edit = edits[0]
    values_EH, losses_left = memit.wanted_values(model, edits, SETTINGS)
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    value_H, left = values_EH[0], losses_left[0]
    # put in place of the state, by a hook on the whole model: the loss that was reported
    start_H = Value(model, edit, SETTINGS).start_H
    losses = []
    for row in edit.rows:

        def put(
            _module: object, _args: object, output: torch.Tensor, at: int = row.last
        ) -> torch.Tensor:
            changed = output.clone()
            changed[:, at] += value_H - start_H
            return changed

        handle = model.model.layers[1].register_forward_hook(put)
        logits = logits_of(model, (*row.tokens, *row.answer[:-1]))[len(row.tokens) - 1 :]
        handle.remove()
        losses.append(torch.nn.functional.cross_entropy(logits, torch.tensor(row.answer)))
    assert left == pytest.approx(float(torch.stack(losses).mean()), rel=1e-3)
    still, before = Value(model, edit, replace(SETTINGS, steps=0)).found()
    assert torch.equal(still, start_H)
    assert left < 0.8 * before


def test_keys_and_states_are_those_of_each_prompt_by_itself(
    model: LlamaForCausalLM, edits: list[Edit]
) -> None:
    keys_EI, states_EH = memit.keys_and_states(model, edits, 1, 1)
    for i, edit in enumerate(edits):
        found = []
        for row in edit.rows:
            with (
                memit.seen(model.model.layers[1].mlp.down_proj, inputs=True) as keys,
                memit.seen(model.model.layers[1], inputs=False) as states,
            ):
                logits_of(model, row.tokens)
            found.append((keys[0][0, row.last], states[0][0, row.last]))
        (bare_I, bare_H), (other_I, _) = found
        assert torch.allclose(keys_EI[i], (bare_I + other_I) / 2, atol=1e-5)
        assert torch.allclose(states_EH[i], bare_H, atol=1e-5)


def test_moments_are_means_over_all_positions(model: LlamaForCausalLM) -> None:
    windows_NT = torch.randint(40, (5, 7))
    moments = memit.second_moments(model, windows_NT, (0, 1), at_a_time=2)
    sum_II = torch.zeros(48, 48)
    for row in windows_NT:
        with memit.seen(model.model.layers[1].mlp.down_proj, inputs=True) as keys:
            logits_of(model, tuple(row.tolist()))
        for key_I in keys[0][0]:
            sum_II += key_I[:, None] * key_I[None]
    assert torch.allclose(moments[1], sum_II / 35, atol=1e-4)


def test_memit_reaches_the_values_where_nothing_else_counts(
    model: LlamaForCausalLM, edits: list[Edit]
) -> None:
    bare = [Edit(edit.rows[:1], edit.about) for edit in edits]  # one key an edit: it can be met
    values_EH, _ = memit.wanted_values(model, bare, SETTINGS)
    moments = memit.second_moments(model, torch.randint(40, (8, 16)), SETTINGS.layers)
    memit.write_edits(model, bare, values_EH, SETTINGS, memit.memit(moments, 1e-9))
    _, states_EH = memit.keys_and_states(model, bare, 1, 1)
    assert torch.allclose(states_EH, values_EH, atol=1e-2)


def test_alphaedit_changes_nothing_where_other_text_has_its_keys(model: LlamaForCausalLM) -> None:
    keys_MI = torch.randn(20, 48, dtype=torch.double)  # of rank 20: 28 directions are free
    moments = {0: keys_MI.T @ keys_MI / 20}
    edit_IE, missing_HE = torch.randn(48, 2).double(), torch.randn(24, 2).double()
    change_HI = memit.alphaedit(moments, 1e-6, 1e-6)(0, edit_IE, missing_HE)
    assert float((change_HI @ keys_MI.T).abs().max()) < 1e-5
    assert torch.allclose(change_HI @ edit_IE, missing_HE, atol=1e-4)
    other_text = torch.randn(200, 48, dtype=torch.double)  # in all directions: none is free
    moments = {0: other_text.T @ other_text / 200}
    assert float(memit.alphaedit(moments, 1e-6, 1e-6)(0, edit_IE, missing_HE).abs().max()) == 0
    assert float((memit.memit(moments, 1.0)(0, edit_IE, missing_HE) @ edit_IE).abs().max()) > 0.1
