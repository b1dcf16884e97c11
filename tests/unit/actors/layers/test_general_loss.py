"""What the port learns on general text against the formula, and what is kept for it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from actors.layers.batch import Alone, StatesAlone, hidden_at
from actors.layers.data_layer import decoder_layers
from actors.layers.mixture import changed_by_reads, general_loss, predict_both
from actors.layers.predicted import Teacher
from actors.settings.run import RunSpec
from actors.tokenizers.tokenizer import Tokenizer
from actors.training.data_trainer import DataTrainer
from tests.unit.actors.layers.test_mixture import batch_of, read_of
from tests.unit.actors.tiny import RUN, open_gates


@pytest.fixture
def trainer(spec: RunSpec, tokenizer: Tokenizer) -> DataTrainer:
    return DataTrainer(spec, tokenizer.to_json(), RUN)


@pytest.mark.parametrize("scale", [1.0, 20.0])
def test_the_changes_and_their_gradients_are_those_of_the_formula_in_float64(scale: float) -> None:
    made = torch.Generator().manual_seed(1)
    p_NV, z_NV, q_NV = (scale * torch.randn(7, 50, generator=made) for _ in range(3))
    weight_2 = torch.tensor([0.4, -0.3])
    base_N = torch.randn(7, generator=made)
    found_z, found_l = z_NV.clone().requires_grad_(), base_N.clone().requires_grad_()
    got_N = changed_by_reads(
        Teacher.fused(p_NV), found_z, Teacher.fused(q_NV), lambda h_N2: found_l + h_N2 @ weight_2
    )
    factor_N = torch.arange(1.0, 8.0)
    (factor_N * got_N).sum().backward()

    want_z, want_l = z_NV.double().requires_grad_(), base_N.double().requires_grad_()
    r, q, p = (x.log_softmax(-1) for x in (want_z, q_NV.double(), p_NV.double()))
    entropies_N2 = torch.stack([-(x.exp() * x).sum(-1) for x in (r.detach(), q)], dim=-1)
    mixing_N1 = torch.sigmoid(want_l + entropies_N2 @ weight_2.double())[:, None]
    mixed = torch.logaddexp((1 - mixing_N1).log() + r, mixing_N1.log() + q)
    want_N = (p.exp() * (2 * p - mixed - r)).sum(-1)
    (factor_N * want_N).sum().backward()
    torch.testing.assert_close(got_N.double(), want_N, atol=2e-5, rtol=1e-5)
    for found, want in ((found_z.grad, want_z.grad), (found_l.grad, want_l.grad)):
        assert found is not None
        assert want is not None
        torch.testing.assert_close(found.double(), want, atol=2e-5, rtol=1e-4)


def test_a_token_of_no_probability_makes_nothing_infinite() -> None:
    sure_NV = torch.tensor([[200.0, -200.0, 0.0]])
    z_NV, l_N = sure_NV.clone().requires_grad_(), torch.tensor([-2.0], requires_grad=True)
    teacher = Teacher.fused(sure_NV)
    got_N = changed_by_reads(teacher, z_NV, teacher, lambda _: l_N)
    got_N.sum().backward()
    assert got_N.item() == pytest.approx(0, abs=1e-4)
    for gradient in (z_NV.grad, l_N.grad):
        assert gradient is not None
        torch.testing.assert_close(gradient, torch.zeros_like(gradient), atol=1e-6, rtol=0)


def test_the_general_loss_is_what_reads_change_of_the_data_layer(trainer: DataTrainer) -> None:
    batch = batch_of(trainer).rows(slice(None, 2))
    open_gates(trainer.layer)
    trainer.layer.eval()
    with torch.no_grad():
        alone = trainer.layer(batch.tokens_BT, batch.segments_BT).logits_BTV[batch.valid_BT]
        y_BTD = read_of(trainer, batch)
        _, both = predict_both(trainer.layer, trainer.memory, batch, y_BTD, batch.valid_at_N)
        p_NV, mixed_NV = alone.softmax(-1), both.mixed().logp
        read_NV = both.logits.log_softmax(-1)
        want = (p_NV * (2 * p_NV.log() - mixed_NV - read_NV)).sum(-1).mean()
    assert want > 0.01
    got = general_loss(trainer.layer, trainer.memory, batch)
    assert got.item() == pytest.approx(want.item(), rel=1e-4)


@pytest.mark.parametrize("size", [None, 5])
def test_the_general_loss_is_the_same_with_states_that_are_kept_and_in_parts(
    trainer: DataTrainer, size: int | None
) -> None:
    batch = batch_of(trainer).rows(slice(None, 2))
    open_gates(trainer.layer)
    trainer.layer.eval()
    want = general_loss(trainer.layer, trainer.memory, batch)
    trainer.layer.logit_tokens = size
    kept = StatesAlone()
    for alone in (None, kept(trainer.layer, batch), kept(trainer.layer, batch)):
        got = general_loss(trainer.layer, trainer.memory, batch, alone)
        torch.testing.assert_close(got, want, atol=1e-6, rtol=1e-4)


def test_states_alone_are_the_same_bits_whether_they_are_kept_or_not(trainer: DataTrainer) -> None:
    open_gates(trainer.layer)
    trainer.layer.eval()
    batch, roomy, full = batch_of(trainer).rows(slice(None, 3)), StatesAlone(), StatesAlone(0)
    roomy(trainer.layer, batch_of(trainer).rows(slice(3, 4)))  # finds out whether it can go on
    passes = count_calls(trainer.layer.model)
    first = roomy(trainer.layer, batch)
    assert len(passes) == 3
    some = roomy(trainer.layer, batch.rows(slice(1, 3)))
    assert torch.equal(some.hidden_NH, first.hidden_NH[batch.rows(slice(1)).num_valid :])
    assert first.front_BTH is not None
    assert some.front_BTH is not None
    assert torch.equal(some.front_BTH, first.front_BTH[1:])
    assert len(passes) == 3
    for _ in range(2):
        assert same_bits(full(trainer.layer, batch), first)
    assert len(passes) == 9
    torch.testing.assert_close(first.hidden_NH, hidden_at(trainer.layer, batch))


def test_what_is_kept_stays_within_its_bytes(trainer: DataTrainer) -> None:
    batch = batch_of(trainer).rows(slice(None, 3))
    each = [StatesAlone(0)(trainer.layer, batch.rows(slice(i, i + 1))).num_bytes for i in range(3)]
    assert all(each)
    alone = StatesAlone(sum(each[:2]))
    alone(trainer.layer, batch)
    assert sum(kept.num_bytes for kept in alone._kept.values()) == sum(each[:2])


@pytest.mark.parametrize("is_kept", [False, True])
def test_the_layers_up_to_the_first_read_are_run_once_for_both_passes(
    trainer: DataTrainer, is_kept: bool
) -> None:
    batch, layer = batch_of(trainer).rows(slice(None, 1)), trainer.layer
    layer.eval()
    alone = StatesAlone()
    layer.logits_at(layer.hidden_and_front(batch.tokens_BT, batch.segments_BT)[0][0])  # finds out
    runs: list[int] = []
    for number, block in enumerate(decoder_layers(layer.model)):
        count_runs(block, number, runs)
    general_loss(layer, trainer.memory, batch, alone(layer, batch) if is_kept else None)
    assert runs == [0, 1, 1]  # it reads after the first


def count_runs(block: nn.Module, number: int, runs: list[int]) -> None:
    """Appends the number with every pass in which the block computes."""
    forward = block.forward

    def counted(*args: object, **named: object) -> object:
        runs.append(number)
        return forward(*args, **named)

    block.forward = counted


def same_bits(one: Alone, other: Alone) -> bool:
    """Whether both are of the same bits."""
    assert one.front_BTH is not None
    assert other.front_BTH is not None
    hidden = torch.equal(one.hidden_NH, other.hidden_NH)
    return hidden and torch.equal(one.front_BTH, other.front_BTH)


def count_calls(module: nn.Module) -> list[None]:
    """Gets an element with every forward pass of the module."""
    calls: list[None] = []
    module.register_forward_hook(lambda *_: calls.append(None))
    return calls


def test_the_general_loss_moves_gates_and_lambda_and_not_the_memory(trainer: DataTrainer) -> None:
    open_gates(trainer.layer)
    general_loss(trainer.layer, trainer.memory, batch_of(trainer).rows(slice(None, 2))).backward()
    moved = {n for n, p in trainer.layer.port.named_parameters() if p.grad.abs().sum() > 0}
    assert moved == {name for name, _ in trainer.layer.port.named_parameters()}
    assert all(p.grad is None for p in trainer.memory.parameters())
