"""Lambda learns on strange text, and nothing else does."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from actors.corpus.corpus import WindowStream
from actors.layers.batch import Batch, both_voices, to_batch
from actors.layers.mixing import mixing_loss, strange_sequences
from actors.settings.corpus import CorpusSpec
from actors.settings.run import RunSpec
from actors.tokenizers.tokenizer import Tokenizer
from actors.training.data_trainer import DataTrainer
from tests.unit.actors.tiny import RUN, run_spec, values


@pytest.fixture
def trainer(spec: RunSpec, tokenizer: Tokenizer) -> DataTrainer:
    return DataTrainer(spec, tokenizer.to_json(), RUN)


def batch_of(trainer: DataTrainer) -> Batch:
    windows, _ = WindowStream(trainer.corpus, "data").next_batch(8)
    return to_batch(windows, trainer.device)


def strange_of(trainer: DataTrainer, readers: int, step: int = 0) -> Batch:
    return strange_sequences(trainer.spec, trainer.tokenizer, batch_of(trainer), readers, step)


def read_of(trainer: DataTrainer, batch: Batch) -> Tensor:
    with torch.no_grad():
        return trainer.memory.read(batch.tokens_BT, batch.segments_BT).y


@pytest.mark.parametrize(("readers", "num"), [(0, 0), (1, 1), (4, 2), (5, 3)])
def test_half_of_what_reads_is_strange(trainer: DataTrainer, readers: int, num: int) -> None:
    assert len(strange_of(trainer, readers).tokens_BT) == num


def test_strange_text_has_about_its_share_of_tokens_replaced_and_its_own_targets(
    trainer: DataTrainer,
) -> None:
    batch, strange = batch_of(trainer), strange_of(trainer, 8)
    whole = batch.rows(slice(4))
    replaced = (strange.tokens_BT != whole.tokens_BT).float().mean().item()
    assert 0.15 < replaced < 0.35  # of .3, less the marks and what was drawn again
    assert torch.equal(strange.targets_BT, whole.targets_BT)
    assert torch.equal(strange.valid_BT, whole.valid_BT)


def test_every_step_replaces_others_and_the_same_step_the_same(trainer: DataTrainer) -> None:
    first, again, other = (strange_of(trainer, 8, step).tokens_BT for step in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_mixing_loss_is_help_on_strange_text(trainer: DataTrainer) -> None:
    strange = strange_of(trainer, 8)
    y_BTD = read_of(trainer, strange)
    with torch.no_grad():
        mixed = both_voices(trainer.layer, trainer.memory, strange, y_BTD, strange.valid_BT).mixed()
    want = F.nll_loss(mixed.log_mixed_NV, strange.targets_N).item()
    loss = mixing_loss(trainer.layer, trainer.memory, strange)
    assert loss.item() == pytest.approx(want, rel=1e-6)


def test_the_mixing_loss_gives_the_weights_of_lambda_alone_a_gradient(trainer: DataTrainer) -> None:
    strange = strange_of(trainer, 8)
    trainer.dense.zero_grad()
    mixing_loss(trainer.layer, trainer.memory, strange).backward()
    moved = {
        name
        for name, parameter in trainer.layer.named_parameters()
        if parameter.grad is not None and parameter.grad.any()
    }
    assert moved == {"port.mix.weight", "port.mix.bias"}


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_a_step_moves_lambda_by_the_text_that_it_is_told_to(
    facts_corpus: CorpusSpec, tokenizer: Tokenizer, noise: float
) -> None:
    spec = run_spec(facts_corpus, data__mixing_noise=noise, losses__help=2.0)
    trainer, other = (DataTrainer(spec, tokenizer.to_json(), RUN) for _ in range(2))
    windows, _ = WindowStream(other.corpus, "data").next_batch(spec.data.batch_size)
    batch = to_batch(windows, other.device)
    some = strange_sequences(spec, tokenizer, batch, 2, 0) if noise else batch.rows(slice(2))
    mixed = (
        both_voices(other.layer, other.memory, some, read_of(other, some), some.valid_BT)
        .mixed()
        .log_mixed_NV
    )
    (want,) = torch.autograd.grad(
        2 * F.nll_loss(mixed, some.targets_N), [other.layer.port.mix.bias]
    )
    step = trainer.dense.step
    found: list[float] = []
    bias = trainer.layer.port.mix.bias

    def watched(lr: float) -> Tensor:
        assert bias.grad is not None
        found.append(bias.grad.item())
        return step(lr)

    trainer.dense.step = watched  # type: ignore[method-assign]
    metrics = values(trainer.train_step())
    assert found == [pytest.approx(want.item(), rel=1e-4)]
    assert ("mixing" in metrics) == bool(noise)


def test_nothing_is_learned_of_lambda_where_nothing_reads(
    facts_corpus: CorpusSpec, tokenizer: Tokenizer
) -> None:
    trainer = DataTrainer(run_spec(facts_corpus, losses__help=0.0), tokenizer.to_json(), RUN)
    before = trainer.layer.port.mix.bias.item()
    assert "mixing" not in values(trainer.train_step())
    assert trainer.layer.port.mix.bias.item() == pytest.approx(before, rel=1e-6)
