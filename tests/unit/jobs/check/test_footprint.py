"""Estimates against what the trainers, snapshots and exports really hold."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from actors.corpus.corpus import train_tokenizer
from actors.layers.pair import Pair
from actors.settings.run import DATA, MEMORY
from actors.snapshots.flat_parameters import FlatParameters
from actors.tokenizers.tokenizer import Tokenizer
from actors.training.said_memory import SayingDataTrainer
from actors.weights.pair_export import export_pair
from actors.weights.parameter_counts import ParameterCounts, count_parameters
from jobs.check import footprint
from orchestrator.settings.config import Config, make_config
from tests.unit.actors.tiny import Exchange, run_spec, write_facts

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    spec = run_spec(write_facts(tmp_path_factory.mktemp("facts")))
    return make_config(spec.model_dump(by_alias=True))


@pytest.fixture(scope="module")
def tokenizer(config: Config) -> Tokenizer:
    return train_tokenizer(config)


@pytest.fixture(scope="module")
def exchange(config: Config, tokenizer: Tokenizer) -> Exchange:
    """Both trainers after an interval, so that optimizers have their state."""
    return Exchange(config, tokenizer.to_json()).run(1)


@pytest.fixture(scope="module")
def counts(config: Config, tokenizer: Tokenizer) -> ParameterCounts:
    return count_parameters(config, tokenizer.size)


def state_bytes(optimizer: torch.optim.Optimizer) -> int:
    tensors = [v for state in optimizer.state.values() for v in state.values()]
    return sum(t.numel() * t.element_size() for t in tensors if t.dim() > 0)


def flat_bytes(*flats: FlatParameters) -> int:
    return sum(flat.total_bytes for flat in flats)


ALIGNMENT = 0.05  # layers this small are padded noticeably


def test_a_data_worker_holds_what_is_said(
    config: Config, counts: ParameterCounts, exchange: Exchange
) -> None:
    said, trainer = footprint.worker_memory(config, counts)[DATA], exchange.data
    assert said.weights == pytest.approx(flat_bytes(trainer.own), rel=ALIGNMENT)
    gradients = trainer.dense.gradient.numel() * trainer.dense.gradient.element_size()
    assert said.gradients == pytest.approx(gradients, rel=ALIGNMENT)
    assert said.optimizer == pytest.approx(state_bytes(trainer.dense.adamw), rel=ALIGNMENT)
    assert said.mirror == pytest.approx(flat_bytes(trainer.mirror), rel=ALIGNMENT)


def test_a_memory_worker_holds_what_is_said(
    config: Config, counts: ParameterCounts, exchange: Exchange
) -> None:
    said, trainer = footprint.worker_memory(config, counts)[MEMORY], exchange.memory
    assert said.weights == pytest.approx(flat_bytes(trainer.own), rel=ALIGNMENT)
    gradients = trainer.dense.gradient.numel() * trainer.dense.gradient.element_size()
    assert said.gradients == pytest.approx(gradients, rel=ALIGNMENT)
    rows = [trainer.rows.first_RD, trainer.rows.second_R, trainer.rows.updates_R]
    optimizer = state_bytes(trainer.dense.adamw) + sum(t.numel() * t.element_size() for t in rows)
    assert said.optimizer == pytest.approx(optimizer, rel=ALIGNMENT)
    assert said.mirror == pytest.approx(flat_bytes(trainer.mirror), rel=ALIGNMENT)


def test_a_snapshot_is_as_large_as_is_said(counts: ParameterCounts, exchange: Exchange) -> None:
    said = footprint.snapshot_bytes(counts)
    assert said[DATA] == pytest.approx(flat_bytes(exchange.data.own), rel=ALIGNMENT)
    assert said[MEMORY] == pytest.approx(flat_bytes(exchange.memory.own), rel=ALIGNMENT)


def test_exports_are_as_large_as_is_said(
    config: Config,
    counts: ParameterCounts,
    exchange: Exchange,
    tokenizer: Tokenizer,
    tmp_path: Path,
) -> None:
    pair = Pair(exchange.data.layer, exchange.memory.layer)
    export_pair(config, tokenizer, pair, str(tmp_path / "export"))
    written = sum(f.stat().st_size for f in tmp_path.rglob("*.safetensors"))
    assert footprint.export_bytes(counts) == pytest.approx(written, rel=0.1)


def test_activations_grow_with_batch_and_window(config: Config, counts: ParameterCounts) -> None:
    values = config.model_dump(by_alias=True)
    for group in (DATA, MEMORY):
        doubled = {group: {**values[group], "batch_size": 2 * values[group]["batch_size"]}}
        larger = footprint.worker_memory(make_config(values | doubled), counts)[group]
        now = footprint.worker_memory(config, counts)[group]
        assert larger.activations == 2 * now.activations > 0
        assert larger.total - now.total == now.activations


def evaluators(config: Config, counts: ParameterCounts, **evaluation: int) -> int:
    values = config.model_dump(by_alias=True)
    changed = {"evaluation": {**values["evaluation"], **evaluation}}
    return footprint.evaluator_memory(make_config(values | changed), counts).activations


def test_the_evaluators_activations_grow_with_its_token_budget(
    config: Config, counts: ParameterCounts
) -> None:
    window, many = config.corpus.window, {"final_windows": 1000}
    one, two, hundred = (
        evaluators(config, counts, batch_tokens=n * window, **many) for n in (1, 2, 100)
    )
    assert two == 2 * one > 0
    assert hundred == pytest.approx(100 * one)
    assert evaluators(config, counts, batch_tokens=1, **many) == one  # a window has a pass at least


def test_the_evaluators_activations_grow_little_with_a_large_vocabulary(
    config: Config, counts: ParameterCounts
) -> None:
    budget = {"batch_tokens": 1 << 14, "final_windows": 1000}
    large, larger = (
        evaluators(config, replace(counts, vocab_rows=rows), **budget) for rows in (75_000, 150_000)
    )
    assert larger == pytest.approx(large, rel=0.02)
    assert large < 2 << 30  # 122 GiB where 16 windows of 1024 had all their logits at once


def test_an_evaluator_during_a_run_holds_the_data_layer_of_before_too(
    config: Config, counts: ParameterCounts
) -> None:
    values = config.model_dump(by_alias=True)
    last = make_config(values | {"evaluation": {"every": 0}})
    one, two = (footprint.evaluator_memory(c, counts).weights for c in (last, config))
    assert one == footprint.export_bytes(counts)
    assert two - one == footprint.snapshot_bytes(counts)[DATA]


def test_an_encoder_that_guesses_keeps_a_second_output(
    config: Config, counts: ParameterCounts
) -> None:
    silent = make_config(config.model_dump(by_alias=True) | {"losses": {"encoder": 0.0}})
    less, more = (footprint.worker_memory(c, counts)[MEMORY] for c in (silent, config))
    tokens = config.memory.batch_size * config.corpus.window
    floats = footprint.OUTPUT_FLOATS * counts.vocab_rows * tokens
    assert more.activations - less.activations == footprint.FLOAT_BYTES * floats


@pytest.mark.parametrize("group", [DATA, MEMORY])
def test_the_activations_grow_little_with_a_large_vocabulary(
    config: Config, counts: ParameterCounts, group: str
) -> None:
    sizes = {"batch_size": 16}
    values = config.model_dump(by_alias=True)
    many = values | {"corpus": {**values["corpus"], "window": 1024}}
    many |= {name: {**values[name], **sizes} for name in (DATA, MEMORY)}
    large, larger = (
        footprint.worker_memory(make_config(many), replace(counts, vocab_rows=rows))[group]
        for rows in (75_000, 150_000)
    )
    assert larger.activations == pytest.approx(large.activations, rel=0.02)


@pytest.mark.parametrize("group", [DATA, MEMORY])
def test_fewer_tokens_with_logits_take_less(
    config: Config, counts: ParameterCounts, group: str
) -> None:
    values, wide = config.model_dump(by_alias=True), replace(counts, vocab_rows=150_000)
    less, more = (
        footprint.worker_memory(make_config(values | {"logit_tokens": num}), wide)[group]
        for num in (8, 16)
    )
    floats = footprint.PART_TENSORS * 8 * 150_000
    assert more.activations - less.activations == footprint.FLOAT_BYTES * floats


def test_work_counts_steps_tokens_and_epochs(config: Config) -> None:
    # 4 intervals of 4 steps of 4 sequences
    found = footprint.workload(config, footprint.CorpusSize(40.0, 1280.0))
    assert found[DATA] == {"steps": 16, "tokens_per_interval": 640, "tokens": 2560, "epochs": 2.0}


def test_a_checkpoint_is_as_big_as_said(
    config: Config, counts: ParameterCounts, exchange: Exchange
) -> None:
    made = sum(t.description()["checkpoint_bytes"] for t in (exchange.data, exchange.memory))
    assert footprint.checkpoint_bytes(config, counts) == pytest.approx(made, rel=ALIGNMENT)


def test_a_memory_that_asks_nobody_has_no_mirror_and_a_version_has_what_is_said(
    config: Config, tokenizer: Tokenizer, counts: ParameterCounts
) -> None:
    values = config.model_dump(by_alias=True)
    said = make_config({**values, "memory": {**values["memory"], "teacher": "said"}})
    assert footprint.said_bytes(config, counts) == 0
    assert footprint.worker_memory(said, counts)[MEMORY].mirror == 0
    trainer = SayingDataTrainer(said, tokenizer.to_json(), "r")
    header, buckets = trainer.publish()
    assert buckets[len(header.sizes)].nbytes == footprint.said_bytes(said, counts)
    assert trainer.description()["said_bytes"] == footprint.said_bytes(said, counts)
    more = footprint.checkpoint_bytes(said, counts) - footprint.checkpoint_bytes(config, counts)
    assert more == footprint.said_bytes(said, counts)
