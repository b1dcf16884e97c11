"""The data group's trainer: memory dropout, the port learns, and a memory that is not wired."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from actors.corpus.corpus import WindowStream
from actors.corpus.windows import Windows
from actors.layers.batch import to_batch
from actors.layers.data_layer import DataLayer, decoder_layers
from actors.layers.mixture import TURN
from actors.settings.corpus import CorpusSpec
from actors.settings.layers import DataLayerSpec
from actors.settings.run import RunSpec
from actors.tokenizers.tokenizer import Tokenizer
from actors.training.data_trainer import DataTrainer
from actors.wire import UnwiredMemoryError
from tests.unit.actors.tiny import FAMILIES, RUN, STEPS, Exchange, order, run_spec, values


@contextmanager
def gradients_of(trainer: Any, layer: nn.Module) -> Iterator[dict[str, float]]:
    """Sums |gradient| of every dense parameter over the steps taken meanwhile."""
    sums: dict[str, float] = Counter()  # type: ignore[assignment]
    step = trainer.dense.step

    def counted(lr: float, apart_lr: float | None = None) -> Tensor:
        for name, parameter in layer.named_parameters():
            if parameter.grad is not None and not parameter.grad.is_sparse:
                sums[name] += float(parameter.grad.abs().sum())
        norm: Tensor = step(lr, apart_lr)
        return norm

    trainer.dense.step = counted
    yield sums
    trainer.dense.step = step


@pytest.fixture
def trainer(spec: RunSpec, tokenizer: Tokenizer) -> DataTrainer:
    return DataTrainer(spec, tokenizer.to_json(), RUN)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_after_two_intervals_every_tensor_of_the_port_has_had_a_gradient(
    facts_corpus: CorpusSpec, tokenizer: Tokenizer, family: str
) -> None:
    layer = {"model_type": family, "fields": FAMILIES[family], "read_layers": (0, 1)}
    spec = run_spec(facts_corpus, data__layer=layer)
    exchange = Exchange(spec, tokenizer.to_json())
    port = exchange.data.layer.port
    with gradients_of(exchange.data, port) as sums:
        exchange.run(2)
    silent = [name for name, _ in port.named_parameters() if not sums[name]]
    assert silent == []


def test_every_tensor_of_the_model_learns(spec: RunSpec, tokenizer: Tokenizer) -> None:
    exchange = Exchange(spec, tokenizer.to_json())
    with gradients_of(exchange.data, exchange.data.layer.model) as sums:
        exchange.run(1)
    silent = [name for name, _ in exchange.data.layer.model.named_parameters() if not sums[name]]
    assert silent == []


def test_training_lowers_the_loss(trained: Exchange) -> None:
    first, last = values(trained.reports[0][0]), values(trained.reports[-1][0])
    assert last["own"] < first["own"] - 0.2
    assert last["help"] < first["help"] - 0.2


@pytest.mark.parametrize(
    ("own", "help_", "help_frac", "readers"),
    [(1, 1, 0.5, 2), (1, 1, 0.0, 1), (1, 1, 1.0, 3), (1, 0, 0.5, 0), (0, 1, 0.5, 4)],
)
def test_memory_dropout_splits_the_batch_so_that_both_losses_are_measured(
    facts_corpus: CorpusSpec,
    tokenizer: Tokenizer,
    own: float,
    help_: float,
    help_frac: float,
    readers: int,
) -> None:
    changes = {"losses__own": own, "losses__help": help_, "data__help_frac": help_frac}
    trainer = DataTrainer(run_spec(facts_corpus, **changes), tokenizer.to_json(), RUN)
    assert trainer.num_reading == readers


@pytest.mark.parametrize("only", ["own", "help"])
def test_one_loss_alone_trains(facts_corpus: CorpusSpec, tokenizer: Tokenizer, only: str) -> None:
    other = "help" if only == "own" else "own"
    spec = run_spec(facts_corpus, losses__reader=0, **{f"losses__{other}": 0})
    metrics = values(DataTrainer(spec, tokenizer.to_json(), RUN).train_step())
    assert metrics["loss"] == pytest.approx(metrics[only])


def test_the_first_own_loss_is_the_plain_models_on_the_sequences_that_do_not_read(
    trainer: DataTrainer,
) -> None:
    windows, _ = WindowStream(trainer.corpus, "data").next_batch(4)
    batch = to_batch(windows, trainer.device).rows(slice(2, None))
    with torch.no_grad():
        logits = trainer.layer(batch.tokens_BT, batch.segments_BT).logits_BTV
    want = F.cross_entropy(logits[batch.valid_BT], batch.targets_N).item()
    assert values(trainer.train_step())["own"] == pytest.approx(want, rel=1e-5)


def test_the_loss_is_the_weighted_sum_of_its_terms(
    facts_corpus: CorpusSpec, tokenizer: Tokenizer
) -> None:
    spec = run_spec(facts_corpus, losses__own=0.3, losses__help=2.0, losses__reader=0.7)
    metrics = values(DataTrainer(spec, tokenizer.to_json(), RUN).train_step())
    terms = 0.3 * metrics["own"] + 2 * metrics["help"] + 0.7 * metrics["reader"]
    assert metrics["loss"] == pytest.approx(terms, rel=1e-5)


def test_the_first_reader_loss_is_the_models_on_what_it_reads(trainer: DataTrainer) -> None:
    windows, _ = WindowStream(trainer.corpus, "data").next_batch(4)
    batch = to_batch(windows, trainer.device).rows(slice(None, 2))
    with torch.no_grad():
        y_BTD = trainer.memory.read(batch.tokens_BT, batch.segments_BT).y
        logits = trainer.layer(batch.tokens_BT, batch.segments_BT, y_BTD).logits_BTV
    want = F.cross_entropy(logits[batch.valid_BT], batch.targets_N).item()
    assert values(trainer.train_step())["reader"] == pytest.approx(want, rel=1e-5)


def test_where_the_memory_knows_the_token_only_reader_teaches_the_model(
    facts_corpus: CorpusSpec, tokenizer: Tokenizer
) -> None:
    norms = []
    for weight in (0.0, 1.0):
        spec = run_spec(facts_corpus, losses__own=0.0, losses__reader=weight)
        trainer = DataTrainer(spec, tokenizer.to_json(), RUN)
        with torch.no_grad():
            trainer.layer.port.mix.bias.fill_(30.0)  # all is said by the memory
        norms.append(values(trainer.train_step())["gradient_norm"])
    assert norms[1] > 100 * norms[0]


def test_general_text_counts_by_the_weight_of_its_loss(
    facts_corpus: CorpusSpec, tokenizer: Tokenizer
) -> None:
    found = []
    for weight in (0.0, 1.0, 3.0):
        spec = run_spec(facts_corpus, data__general_frac=0.25, losses__general=weight)
        trainer = DataTrainer(spec, tokenizer.to_json(), RUN)
        bias = trainer.layer.port.mix.bias
        with watched_gradient(trainer, bias) as gradients:
            trainer.train_step()
        found.append(gradients[0])
    without, once, thrice = found
    assert once - without > 1e-3  # it closes lambda
    assert thrice - without == pytest.approx(3 * (once - without), rel=1e-3)


def test_general_text_comes_in_windows_half_as_long_as_the_runs(
    facts_corpus: CorpusSpec, tokenizer: Tokenizer
) -> None:
    spec = run_spec(facts_corpus, data__general_frac=0.25)
    trainer = DataTrainer(spec, tokenizer.to_json(), RUN)
    assert trainer.general is not None
    windows, _ = trainer.general.next_batch(2)
    assert windows.tokens_NT.shape == (2, spec.corpus.window // 2)


@pytest.mark.parametrize("general_frac", [0.0, 0.25])
def test_lambda_learns_several_steps_from_one_noised_text(
    facts_corpus: CorpusSpec, tokenizer: Tokenizer, general_frac: float
) -> None:
    spec = run_spec(facts_corpus, data__general_frac=general_frac)
    trainer, noised = DataTrainer(spec, tokenizer.to_json(), RUN), []
    for trainer.step in range(TURN + 1):
        bias = trainer.layer.port.mix.bias.item()
        assert "mixing" in trainer.train_step().shares
        assert trainer.layer.port.mix.bias.item() != bias
        noised.append(trainer._noised[0][0])
    num_new = len({id(one) for one in noised}) - 1
    assert num_new == 1


def test_what_is_kept_of_noised_text_is_of_one_interval(
    facts_corpus: CorpusSpec, tokenizer: Tokenizer
) -> None:
    """A checkpoint is made between two intervals, and gone on from to the bit."""
    spec, ends = run_spec(facts_corpus, data__general_frac=0.25), []
    for stops in (False, True):
        trainer = DataTrainer(spec, tokenizer.to_json(), RUN)
        for interval in (1, 2):
            if stops and interval == 2:
                header, buckets = trainer.save()
                trainer = DataTrainer(spec, tokenizer.to_json(), RUN)
                trainer.restore([header], buckets)
            trainer.begin_interval(order(interval))
            for _ in range(TURN + 1):
                trainer.train_step()
                trainer.step += 1
        ends.append(trainer.own.digest())
    assert ends[0] == ends[1]


@contextmanager
def watched_gradient(trainer: DataTrainer, parameter: nn.Parameter) -> Iterator[list[float]]:
    """The gradient of a scalar at each step, before it is clipped."""
    found: list[float] = []
    step = trainer.dense.step

    def watched(lr: float, apart_lr: float | None = None) -> Tensor:
        assert parameter.grad is not None
        found.append(parameter.grad.item())
        return step(lr, apart_lr)

    trainer.dense.step = watched  # type: ignore[method-assign]
    yield found
    trainer.dense.step = step  # type: ignore[method-assign]


def test_lambda_learns_on_as_many_sequences_whatever_trains(trainer: DataTrainer) -> None:
    before = trainer.num_mixing
    assert before == trainer.num_reading < trainer.spec.data.batch_size
    layer = trainer.layer.spec = DataLayerSpec(pretrained="a-model", train="port")
    data = trainer.spec.data.model_copy(update={"layer": layer})
    trainer.spec = trainer.spec.model_copy(update={"data": data})
    assert trainer.num_reading == trainer.spec.data.batch_size
    assert trainer.num_mixing == before


def test_a_step_counts_the_tokens_of_its_batch(trainer: DataTrainer) -> None:
    windows, _ = WindowStream(trainer.corpus, "data").next_batch(4)
    assert trainer.train_step().num_tokens == windows.num_tokens


def test_the_ranges_of_a_header_are_the_windows_trained_on(trained: Exchange) -> None:
    stream = WindowStream(trained.data.corpus, "data")
    read = Windows.concat(
        [stream.read(data[0].ranges) for data, _ in trained.published[1:]]
    ).tokens_NT
    want, _ = WindowStream(trained.data.corpus, "data").next_batch(4 * STEPS * 3)
    assert read.tolist() == want.tokens_NT.tolist()


def test_training_leaves_the_memorys_mirror_alone(trainer: DataTrainer) -> None:
    before = trainer.mirror.digest()
    trainer.train_step()
    assert trainer.mirror.digest() == before


@pytest.mark.parametrize("at", [0, 1])
def test_a_read_layer_whose_hook_is_gone_is_reported(trainer: DataTrainer, at: int) -> None:
    decoder_layers(trainer.layer.model)[at]._forward_hooks.clear()
    with pytest.raises(UnwiredMemoryError, match=rf"data rank 0: a read after layer {at} does not"):
        trainer.check_wired()


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_memory_that_is_not_wired_is_reported_at_the_start(
    facts_corpus: CorpusSpec, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    monkeypatch.setattr(DataLayer, "_make_read_hook", lambda *_: lambda *_: None)
    layer = {"model_type": family, "fields": FAMILIES[family], "read_layers": (0, 1)}
    spec = run_spec(facts_corpus, data__layer=layer)  # gpt2 drops out: no two passes are equal
    with pytest.raises(UnwiredMemoryError, match="after layer 0 does not reach"):
        DataTrainer(spec, tokenizer.to_json(), RUN)


def test_checking_the_wires_leaves_the_weights(trainer: DataTrainer) -> None:
    before = trainer.own.digest()
    trainer.check_wired()
    assert trainer.own.digest() == before


def test_a_trainer_trains_with_dropout_where_its_model_has_some(
    facts_corpus: CorpusSpec, tokenizer: Tokenizer
) -> None:
    layer = {"model_type": "gpt2", "fields": FAMILIES["gpt2"], "read_layers": (0, 1)}
    trainer = DataTrainer(run_spec(facts_corpus, data__layer=layer), tokenizer.to_json(), RUN)
    assert trainer.layer.model.training
