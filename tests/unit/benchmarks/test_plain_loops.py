"""The peers of `throughput` take the very step that the trainers take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from actors.corpus.corpus import Corpus, train_tokenizer
from actors.settings.corpus import CorpusSpec
from actors.training.data_trainer import DataTrainer
from actors.training.memory_trainer import MemoryTrainer
from actors.training.trainer import Trainer
from benchmarks.plain_loops import Step, data_loop, memory_loop
from tests.unit.actors.tiny import RUN, run_spec, values, write_facts


@pytest.fixture
def corpus(tmp_path: Path) -> CorpusSpec:
    """Facts whose answers alone are learned, with noise."""
    return write_facts(tmp_path, loss_on="answers", token_noise=0.1)


def has_its_losses(step: Step, trainer: Trainer) -> None:
    """Three plain steps train on as many tokens as the trainer's, with the same loss."""
    for _ in range(3):
        plain, measured = step(), trainer.train_step()
        trainer.step += 1
        assert plain.num_tokens == measured.num_tokens
        assert float(plain.loss) == pytest.approx(values(measured)["loss"], rel=1e-4)


@pytest.mark.parametrize("changes", [{}, {"data__mixing_noise": 0.0}])
def test_a_plain_step_of_the_data_layer_has_its_trainers_loss(
    corpus: CorpusSpec, changes: dict[str, Any]
) -> None:
    spec = run_spec(corpus, losses={"own": 0.7, "help": 0.9, "reader": 0.4}, **changes)
    tokenizer = train_tokenizer(spec)
    step = data_loop(spec, Corpus.open(spec, tokenizer))
    has_its_losses(step, DataTrainer(spec, tokenizer.to_json(), RUN))


@pytest.mark.parametrize("given", [0.0, 0.2])
def test_a_plain_step_of_the_memory_has_its_trainers_loss(corpus: CorpusSpec, given: float) -> None:
    weights = {"recall": 0.7, "self": 0.9, "given": given, "balance": 0.3, "encoder": 2.0}
    # of all sequences and without noise: their order, which the trainer draws, does not matter
    spec = run_spec(
        corpus,
        losses=weights,
        mix={"just_trained": 0, "fresh": 1, "replay": 0},
        memory__recall_frac=1.0,
        memory__given_frac=1.0,
        corpus__token_noise=0.0,
    )
    tokenizer = train_tokenizer(spec)
    step = memory_loop(spec, Corpus.open(spec, tokenizer))
    has_its_losses(step, MemoryTrainer(spec, tokenizer.to_json(), RUN))
