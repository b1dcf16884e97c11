"""Adapters that train are held on general text to the model that came in."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from actors.layers.batch import to_batch
from actors.layers.mixture import general_loss
from actors.settings.corpus import CorpusSpec
from actors.tokenizers.tokenizer import Tokenizer
from actors.training.data_trainer import DataTrainer
from actors.training.interval import Measured
from actors.weights.trained_part import adapters_off
from tests.unit.actors.layers.test_mixture import read_of
from tests.unit.actors.tiny import RUN, open_gates, run_spec, save_checkpoint, tokens


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_checkpoint(tmp_path_factory.mktemp("base"), rows=400)


@pytest.fixture(params=["lora", "port"])
def trainer(
    request: pytest.FixtureRequest, facts_corpus: CorpusSpec, tokenizer: Tokenizer, folder: str
) -> DataTrainer:
    layer = {"pretrained": folder, "read_layers": (0, 1), "train": request.param}
    spec = run_spec(facts_corpus, data__layer=layer, data__general_frac=0.5)
    return DataTrainer(spec, tokenizer.to_json(), RUN)


def moved(model: nn.Module) -> nn.Module:
    """The model with adapters that add something."""
    made = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=made))
    return model


def said(trainer: DataTrainer, ids_BT: Tensor) -> Tensor:
    with torch.no_grad():
        return trainer.layer(ids_BT, torch.zeros_like(ids_BT)).logits_BTV


@pytest.mark.parametrize("trainer", ["lora"], indirect=True)
def test_without_its_adapters_a_model_is_the_one_that_came_in(
    trainer: DataTrainer, folder: str
) -> None:
    from transformers import AutoModelForCausalLM

    moved(trainer.layer.model)
    trainer.layer.train()
    trains = {name: p.requires_grad for name, p in trainer.layer.named_parameters()}
    ids_BT = tokens(2, 6)
    plain = AutoModelForCausalLM.from_pretrained(folder).eval()(ids_BT).logits
    with adapters_off(trainer.layer.model):
        off = said(trainer, ids_BT)
    on = said(trainer, ids_BT)
    torch.testing.assert_close(off, plain[..., : off.shape[-1]], atol=1e-5, rtol=1e-5)
    assert (on - off).abs().max() > 0.01
    assert trains == {name: p.requires_grad for name, p in trainer.layer.named_parameters()}
    assert trainer.layer.model.training


def test_general_text_is_held_to_the_model_that_came_in(trainer: DataTrainer) -> None:
    moved(trainer.layer.model)
    open_gates(trainer.layer)
    assert trainer.general is not None
    batch = to_batch(trainer.general.next_batch(2)[0], trainer.device)
    with torch.no_grad(), adapters_off(trainer.layer.model):
        plain = trainer.layer(batch.tokens_BT, batch.segments_BT).logits_BTV[batch.valid_BT]
    y_BTD = read_of(trainer, batch)
    with torch.no_grad():
        read = trainer.layer(batch.tokens_BT, batch.segments_BT, y_BTD)
        port = trainer.layer.port
        r, p = (x.log_softmax(-1) for x in (read.logits_BTV[batch.valid_BT], plain))
        y_ND = y_BTD[batch.valid_BT]
        q = trainer.memory.predict(y_ND).log_softmax(-1)
        logit_N = port.mixing_logit(read.hidden_BTD[batch.valid_BT], y_ND, r, q)
        share_N1 = torch.sigmoid(logit_N)[:, None]
        mixed = torch.logaddexp((1 - share_N1).log() + r, share_N1.log() + q)
        want = (p.exp() * (2 * p - mixed - r)).sum(-1).mean().item()

    for _ in range(2):  # computed, then kept
        step = Measured()
        trainer._learn_general(batch, batch.num_valid, step)
        step.read()
        assert step.shares["general"] == pytest.approx(want, rel=1e-3)
    if trainer.layer.spec.has_adapters:
        assert want > general_loss(trainer.layer, trainer.memory, batch).item() + 0.01
        grads = [p.grad for n, p in trainer.layer.named_parameters() if "lora_" in n]
        assert grads
        assert all(g is not None and g.abs().sum() > 0 for g in grads)
