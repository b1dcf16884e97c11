"""The mixture against a slow oracle, and lambda, which alone learns on noised text."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from actors.corpus.corpus import WindowStream
from actors.layers.batch import Batch, to_batch
from actors.layers.data_layer import MemoryPort
from actors.layers.mixture import (
    Mixture,
    NoisedStates,
    Predictions,
    mixing_loss,
    noised_sequences,
    predict_both,
)
from actors.layers.pair import Pair
from actors.measuring.voices import predict_everywhere, predict_voice_at, predict_voice_next
from actors.settings.corpus import CorpusSpec
from actors.settings.run import RunSpec
from actors.tokenizers.tokenizer import Tokenizer
from actors.training.data_trainer import DataTrainer
from tests.unit.actors.layers.test_batch import batch_of as batch_of_tokens
from tests.unit.actors.tiny import (
    RUN,
    build,
    build_memory,
    one_document,
    open_gates,
    run_spec,
    tokens,
    values,
)


@pytest.fixture
def trainer(spec: RunSpec, tokenizer: Tokenizer) -> DataTrainer:
    return DataTrainer(spec, tokenizer.to_json(), RUN)


def oracle(both: Predictions) -> tuple[Tensor, Tensor]:
    """The mixture and lambda in float64, by the formula, from logits as they are."""
    p, q = (logits.double().softmax(-1) for logits in (both.logits, both.memory_logits))
    entropies = [-(d * d.log()).sum(-1, keepdim=True) for d in (p, q)]
    scaled = [x.double() / (x.double().square().mean(-1, keepdim=True) + 1e-6).sqrt()
              for x in (both.hidden, both.y)]  # fmt: skip
    features = torch.cat([*scaled, *entropies], dim=-1)
    mix = both.port.mix
    lam = torch.sigmoid((features * mix.weight.double()[0]).sum(-1) + mix.bias.double()[0])
    return (1 - lam)[..., None] * p + lam[..., None] * q, lam


def predictions(dtype: torch.dtype, *shape: int) -> Predictions:
    """Of 50 tokens, sharp ones and flat ones; weights of lambda that all matter."""
    made = torch.Generator().manual_seed(2)
    port = MemoryPort(6, 4, (0,)).requires_grad_(False)
    for parameter in (port.mix.weight, port.mix.bias):
        parameter.copy_(0.5 * torch.randn(parameter.shape, generator=made))
    sizes = (50, 50, 6, 4)
    of = [(4 * torch.randn(*shape, size, generator=made)).to(dtype) for size in sizes]
    return Predictions(*of, port)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(), (7,), (3, 5)])
def test_the_mixture_is_that_of_float64_whatever_its_inputs_are(
    dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    both = predictions(dtype, *shape)
    want, lam = oracle(both)
    got = both.mixed()
    assert got.logp.dtype == got.mixing.dtype == torch.float32
    torch.testing.assert_close(got.mixing.double(), lam, atol=1e-6, rtol=2e-6)
    torch.testing.assert_close(got.logp.double(), want.log(), atol=5e-6, rtol=2e-6)


@pytest.mark.parametrize("fresh", [0.0, 0.3, 1.0])
def test_freshness_opens_lambda_to_lambda_plus_its_share_of_the_rest(fresh: float) -> None:
    plain = predictions(torch.float32, 7)
    _, lam = oracle(plain)
    opened = lam + (1 - lam) * fresh
    p, q = (logits.double().softmax(-1) for logits in (plain.logits, plain.memory_logits))
    got = replace(
        plain, freshness=torch.full((7,), fresh), unsure_at=torch.tensor([math.inf])
    ).mixed()
    torch.testing.assert_close(got.mixing.double(), opened, atol=1e-6, rtol=2e-6)
    want = (1 - opened)[:, None] * p + opened[:, None] * q
    torch.testing.assert_close(got.logp.double(), want.log(), atol=5e-6, rtol=2e-6)
    if fresh == 0:
        torch.testing.assert_close(got.logp, plain.mixed().logp)


def test_the_memory_is_trusted_by_the_token_that_it_says() -> None:
    plain = predictions(torch.float32, 200)
    said = plain.memory_logits.argmax(-1)
    token = int(said.mode().values)
    unsure_S = torch.full((token + 2,), -math.inf)
    unsure_S[token] = math.inf
    got = replace(plain, freshness=torch.ones(200), unsure_at=unsure_S).mixed()
    assert got.freshness is not None
    assert torch.equal(got.freshness == 1, said == token)
    assert torch.equal(got.freshness == 0, said != token)


def test_what_is_new_opens_lambda_only_where_the_memory_is_sure_of_it() -> None:
    plain = predictions(torch.float32, 200)
    q = plain.memory_logits.double().softmax(-1)
    entropy = -(q * q.log()).sum(-1)
    middle = float(entropy.median())
    got = replace(plain, freshness=torch.ones(200), unsure_at=torch.tensor([middle])).mixed()
    _, lam = oracle(plain)
    opened = torch.sigmoid((middle - entropy) / 0.25)
    torch.testing.assert_close(got.mixing.double(), lam + (1 - lam) * opened, atol=1e-5, rtol=1e-5)
    assert got.freshness is not None
    sure, unsure = entropy < middle - 1, entropy > middle + 1
    assert sure.any()
    assert unsure.any()
    assert got.mixing[sure].min() > 0.98
    torch.testing.assert_close(got.mixing[unsure].double(), lam[unsure], atol=0.02, rtol=0)


def test_the_probabilities_of_some_tokens_are_those_of_the_whole_mixture() -> None:
    both = predictions(torch.float32, 7)
    some = torch.randint(50, (7, 3))
    assert torch.equal(both.mixed(tokens=some).logp, both.mixed().logp.gather(-1, some))


@pytest.mark.parametrize("bias", [-200.0, -2.0, 0.0, 200.0])
def test_a_mixture_is_a_distribution(bias: float) -> None:
    both = predictions(torch.float32, 7)
    both.port.mix.bias.fill_(bias)
    total = both.mixed().logp.logsumexp(-1)
    torch.testing.assert_close(total, torch.zeros(7), atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_training_evaluation_questions_and_generation_use_that_mixture(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, memory = open_gates(build("llama")[0]), build_memory()
    data.model.to(dtype)
    pair, ids = Pair(data, memory), tokens(2, 9)
    batch = batch_of_tokens(ids, one_document(ids))
    mixed, made = Predictions.mixed, []

    def recorded(both: Predictions, *args: Any, **kwargs: Any) -> Mixture:
        made.append((both, mixed(both, *args, **kwargs)))
        return made[-1][1]

    monkeypatch.setattr(Predictions, "mixed", recorded)
    y_BTD = memory.read(ids, one_document(ids)).y
    _, both = predict_both(data, memory, batch, y_BTD, batch.valid_BT)
    training = both.mixed().logp
    (evaluation,) = predict_voice_at(pair, "help", ids, one_document(ids), batch.valid_BT)
    question = predict_everywhere(pair, "help", ids, one_document(ids))
    cached, _ = predict_voice_next(pair, "help", ids, None, data.new_cache(), keep=0)
    for logp, (given, mixture) in zip(
        (training, evaluation.logp, question.logp, cached.logp), made, strict=True
    ):
        assert logp is mixture.logp
        assert given.logits.dtype == dtype
        want, lam = oracle(given)
        torch.testing.assert_close(mixture.mixing.double(), lam, atol=1e-6, rtol=2e-6)
        torch.testing.assert_close(logp.double(), want.log(), atol=5e-6, rtol=2e-6)


def batch_of(trainer: DataTrainer) -> Batch:
    windows, _ = WindowStream(trainer.corpus, "data").next_batch(8)
    return to_batch(windows, trainer.device)


def noised_of(trainer: DataTrainer, num_reading: int, step: int = 0) -> Batch:
    return noised_sequences(trainer.spec, trainer.tokenizer, batch_of(trainer), num_reading, step)


def read_of(trainer: DataTrainer, batch: Batch) -> Tensor:
    with torch.no_grad():
        return trainer.memory.read(batch.tokens_BT, batch.segments_BT).y


@pytest.mark.parametrize(("num_reading", "num"), [(0, 0), (1, 1), (4, 2), (5, 3)])
def test_half_of_what_reads_is_noised(trainer: DataTrainer, num_reading: int, num: int) -> None:
    assert len(noised_of(trainer, num_reading).tokens_BT) == num


def test_noised_text_has_about_its_share_of_tokens_replaced_and_its_own_targets(
    trainer: DataTrainer,
) -> None:
    batch, noised = batch_of(trainer), noised_of(trainer, 8)
    whole = batch.rows(slice(4))
    replaced = (noised.tokens_BT != whole.tokens_BT).float().mean().item()
    assert 0.15 < replaced < 0.35  # of .3, less the marks and what was drawn again
    assert torch.equal(noised.targets_BT, whole.targets_BT)
    assert torch.equal(noised.valid_BT, whole.valid_BT)


def test_every_step_replaces_others_and_the_same_step_the_same(trainer: DataTrainer) -> None:
    first, again, other = (noised_of(trainer, 8, step).tokens_BT for step in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_mixing_loss_is_help_on_noised_text(trainer: DataTrainer) -> None:
    noised = noised_of(trainer, 8)
    y_BTD = read_of(trainer, noised)
    with torch.no_grad():
        _, both = predict_both(trainer.layer, trainer.memory, noised, y_BTD, noised.valid_BT)
    want = F.nll_loss(both.mixed().logp, noised.targets_N).item()
    loss = mixing_loss(trainer.layer, trainer.memory, noised, read_of(trainer, noised))
    assert loss.item() == pytest.approx(want, rel=1e-6)


def test_the_mixing_loss_gives_the_weights_of_lambda_alone_a_gradient(trainer: DataTrainer) -> None:
    noised = noised_of(trainer, 8)
    trainer.dense.zero_grad()
    mixing_loss(trainer.layer, trainer.memory, noised, read_of(trainer, noised)).backward()
    moved = {
        name
        for name, parameter in trainer.layer.named_parameters()
        if parameter.grad is not None and parameter.grad.any()
    }
    assert moved == {"port.mix.weight", "port.mix.bias"}


def test_lambda_goes_on_learning_from_noised_text_that_is_kept(trainer: DataTrainer) -> None:
    noised, port = noised_of(trainer, 8), trainer.layer.port
    y_BTD = read_of(trainer, noised)
    kept = NoisedStates.of(trainer.layer, trainer.memory, noised, y_BTD)
    with torch.no_grad():
        port.mix.weight.normal_(std=0.1, generator=torch.Generator().manual_seed(0))
    want = mixing_loss(trainer.layer, trainer.memory, noised, y_BTD)
    assert torch.equal(kept.loss(port), want)


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_a_step_moves_lambda_by_the_text_that_it_is_told_to(
    facts_corpus: CorpusSpec, tokenizer: Tokenizer, noise: float
) -> None:
    spec = run_spec(facts_corpus, data__mixing_noise=noise, losses__help=2.0)
    trainer, other = (DataTrainer(spec, tokenizer.to_json(), RUN) for _ in range(2))
    windows, _ = WindowStream(other.corpus, "data").next_batch(spec.data.batch_size)
    batch = to_batch(windows, other.device)
    some = noised_sequences(spec, tokenizer, batch, 2, 0) if noise else batch.rows(slice(2))
    _, both = predict_both(other.layer, other.memory, some, read_of(other, some), some.valid_BT)
    mixed = both.mixed().logp
    (want,) = torch.autograd.grad(
        2 * F.nll_loss(mixed, some.targets_N), [other.layer.port.mix.bias]
    )
    step = trainer.dense.step
    found: list[float] = []
    bias = trainer.layer.port.mix.bias

    def watched(lr: float, apart_lr: float | None = None) -> Tensor:
        assert bias.grad is not None
        found.append(bias.grad.item())
        return step(lr, apart_lr)

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
