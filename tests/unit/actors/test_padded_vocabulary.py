"""A model with more output rows than tokens: nobody says them, and an export doesn't either."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from actors.corpus.windows import Piece
from actors.layers import losses
from actors.layers.batch import to_batch
from actors.layers.data_layer import DataLayer, packed_inputs
from actors.measuring.sampling import NO_TOKEN, continued
from actors.measuring.voices import VOICES, Voice
from actors.settings.corpus import CorpusSpec
from actors.settings.run import RunSpec
from actors.tokenizers.tokenizer import Tokenizer
from actors.training.data_trainer import DataTrainer
from actors.training.interval import Measured
from tests.unit.actors.tiny import RUN, build, build_memory, run_spec, save_checkpoint, tokens
from tests.unit.actors.tiny_pair import NUM_TOKENS, tandem

PADDED = 64


@pytest.fixture
def padded_spec(facts_corpus: CorpusSpec, tokenizer: Tokenizer, tmp_path: Path) -> RunSpec:
    place = save_checkpoint(tmp_path, rows=tokenizer.size + PADDED)
    return run_spec(facts_corpus, data__layer={"pretrained": place, "read_layers": (0, 1)})


def test_beyond_tokens_is_what_the_loss_over_all_rows_has_more() -> None:
    logits_NV = torch.randn(6, 9, generator=torch.Generator().manual_seed(0))
    targets_N = tokens(6, num=5)
    beyond_N = logits_NV[:, 5:].logsumexp(-1)
    want = F.cross_entropy(logits_NV, targets_N) - losses.own(logits_NV[:, :5], targets_N)
    assert torch.allclose(losses.beyond_tokens(logits_NV[:, :5], beyond_N), want)


@pytest.mark.parametrize("weights", [{"own": 1.0, "help": 0.0}, {"own": 0.0, "help": 1.0}])
def test_rows_that_are_no_tokens_are_trained_as_a_plain_loop_trains_them(
    padded_spec: RunSpec, tokenizer: Tokenizer, weights: dict[str, float]
) -> None:
    spec = padded_spec.model_copy(update={"losses": padded_spec.losses.model_copy(update=weights)})
    trainer = DataTrainer(spec, tokenizer.to_json(), RUN)
    windows, _ = trainer.stream.next_batch(spec.data.batch_size)
    batch = trainer.make_batch(windows)
    trainer.dense.zero_grad()
    out = trainer.layer.model(input_ids=batch.tokens_BT, **packed_inputs(batch.segments_BT))
    F.cross_entropy(out.logits[batch.valid_BT], batch.targets_N).backward()
    head = trainer.layer.model.get_output_embeddings().weight
    want = head.grad[tokenizer.size :].clone()
    trainer.dense.zero_grad()
    num = batch.num_valid
    y_RTD = trainer._read(batch.rows(slice(None, trainer.num_reading)))
    trainer._backward(batch, y_RTD, num, num, Measured())
    got = head.grad[tokenizer.size :]
    # where sequences read, help and reader push alike; gates are closed at the start
    scale = weights["own"] + weights["help"] * (1 + spec.losses.reader)
    assert torch.allclose(got, scale * want, rtol=1e-4, atol=1e-9)
    assert want.abs().max() > 0


def test_training_lowers_what_is_given_to_no_token(
    padded_spec: RunSpec, tokenizer: Tokenizer
) -> None:
    trainer = DataTrainer(padded_spec, tokenizer.to_json(), RUN)
    batch = to_batch(trainer.corpus.heldout(8), torch.device("cpu"))

    @torch.no_grad()
    def beyond() -> float:
        inputs = {"input_ids": batch.tokens_BT, **packed_inputs(batch.segments_BT)}
        p_NV = trainer.layer.model(**inputs).logits[batch.valid_BT].softmax(-1)
        return float(p_NV[:, tokenizer.size :].sum(-1).mean())

    before = beyond()
    for _ in range(20):
        trainer.train_step()
        trainer.step += 1
    assert beyond() < 0.8 * before  # .138 -> .091; without `beyond_tokens` to .203


def test_where_every_row_is_a_token_nothing_is_added() -> None:
    layer, _ = build("llama")
    ids = tokens(1, 5)
    assert layer(ids, torch.zeros_like(ids)).beyond_BT is None
    padded, _ = build("llama", 60, 50)
    assert padded(ids % 50, torch.zeros_like(ids)).beyond_BT.shape == (1, 5)
    with torch.no_grad():
        assert padded(ids % 50, torch.zeros_like(ids)).beyond_BT is None


def test_a_frozen_layer_that_reads_spends_nothing_on_rows_that_are_no_tokens() -> None:
    (padded, _), memory = build("llama", 60, 50), build_memory(60, 50)
    padded.requires_grad_(False)
    for _, gate in padded.port.read_gates():
        torch.nn.init.ones_(gate.write.weight)
    ids = tokens(1, 5) % 50
    out = padded(ids, torch.zeros_like(ids), memory.read(ids, torch.zeros_like(ids)).y)
    assert out.logits_BTV.requires_grad  # through the read, as in assist
    assert out.beyond_BT is None


def prefer_padding(layer: DataLayer) -> None:
    """Makes rows beyond the tokenizer's ids the likeliest by far, whatever is asked."""

    def raised(_module: nn.Module, _args: object, out: Tensor) -> Tensor:
        lift = torch.zeros(out.shape[-1])
        lift[layer.num_tokens :] = 1e4
        return out + lift

    layer.model.get_output_embeddings().register_forward_hook(raised)  # type: ignore[operator]


def test_sampled_text_holds_tokens_only() -> None:
    layer, _ = build("llama", 60, 50)
    prefer_padding(layer)
    pieces = [Piece([0, 5, 6, 7, 0], 3), Piece([0, 5, 6, 9, 8, 7, 0], 5)]
    said = continued(layer, pieces, 16, 0, torch.device("cpu"))[:, 1:]
    said = said[said != NO_TOKEN]
    assert said.max() < 50
    assert said.unique().numel() > 3  # not one id in the place of all that can't be said


def test_sampling_asks_the_layer_and_not_its_generation_config() -> None:
    layer, _ = build("llama", 60, 50)
    pieces = [Piece([0, 5, 6, 7, 9, 9, 9, 9, 9, 9, 0], 3)] * 8

    def said() -> list[int]:
        torch.manual_seed(0)
        return continued(layer, pieces, 16, 0, torch.device("cpu")).flatten().tolist()  # type: ignore[no-any-return]

    before = said()
    settings = {"temperature": 0.01, "top_p": 0.1, "repetition_penalty": 9.0}
    layer.model.generation_config.update(**settings)  # type: ignore[operator,union-attr]
    assert said() == before


@pytest.mark.parametrize("voice", VOICES)
@pytest.mark.parametrize("do_sample", [False, True])
def test_no_voice_generates_an_id_that_is_no_token(voice: Voice, do_sample: bool) -> None:
    model = tandem("llama")[0].eval()
    prefer_padding(model.data_layer)
    ids = tokens(3, 5, num=NUM_TOKENS)
    said = model.generate(
        ids, voice=voice, do_sample=do_sample, max_new_tokens=8, eos_token_id=None, pad_token_id=0
    )
    assert int(said.max()) < NUM_TOKENS
