"""How a loss is added: its weight, its field, its term. The rest follows.

`quiet` stands for the new loss: the mean square of what the memory reads. In the product the three
classes below are lines in `LossWeights`, `MemoryTerms` (or `DataTerms`) and the trainer's `terms`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from pydantic import Field, ValidationError
from torch import Tensor

from actors.corpus.corpus import WindowStream
from actors.layers.batch import Batch, rows_at, to_batch
from actors.settings.corpus import CorpusSpec
from actors.settings.run import LossWeights, RunSpec
from actors.tokenizers.tokenizer import Tokenizer
from actors.training.memory_trainer import MemoryTrainer
from actors.training.passes import MemoryPass
from actors.training.terms import DataTerms, GeneralTerms, MemoryTerms, Term
from orchestrator.run_dir.metrics import Metrics
from tests.unit.actors.tiny import RUN, Exchange, run_spec, values

QUIET = 40.0


class Weights(LossWeights):
    """1. Its weight: a user sets `losses.quiet`."""

    quiet: float = Field(0.0, ge=0, description="Reads of the memory stay small.")


@dataclass(frozen=True)
class Terms(MemoryTerms):
    """2. Its field, after which it is reported."""

    quiet: Term | None = None


class Trainer(MemoryTrainer):
    """3. Its term, computed from what a pass has."""

    def terms(self, given: MemoryPass) -> MemoryTerms:
        weights = self.spec.losses
        assert isinstance(weights, Weights)
        quiet = None
        if weights.quiet > 0 and (num := given.num_positions.self_):
            share = num / given.num_global.self_
            quiet = Term(given.y_ND.square().mean() * share, weights.quiet)
        return Terms(**vars(super().terms(given)), quiet=quiet)


class Spec(RunSpec):
    losses: Weights = Field(default_factory=Weights)


def spec_of(corpus: CorpusSpec, weight: float, **changes: Any) -> RunSpec:
    made = run_spec(corpus, **changes).model_dump(by_alias=True)
    return Spec.model_validate(made | {"losses": made["losses"] | {"quiet": weight}})


def build(corpus: CorpusSpec, tokenizer: Tokenizer, weight: float, **changes: Any) -> Trainer:
    return Trainer(spec_of(corpus, weight, **changes), tokenizer.to_json(), RUN)


def next_batch(trainer: Trainer) -> Batch:
    """What the trainer's first step trains on: fresh windows of its own."""
    size = trainer.spec.memory.batch_size
    return to_batch(WindowStream(trainer.corpus, "memory").next_batch(size)[0], trainer.device)


def quiet_of(trainer: Trainer, batch: Batch) -> Tensor:
    """The new loss, computed apart from any trainer."""
    read = trainer.layer.read(batch.tokens_BT, batch.segments_BT)
    return rows_at(read.y, batch.valid_at_N).square().mean()


def gradient(trainer: Trainer) -> tuple[dict[str, float], Tensor]:
    """What one step measures, and its gradient of the addresses' queries before clipping."""
    step, found = trainer.dense.step, []

    def watched(lr: float, apart_lr: float | None = None) -> Tensor:
        grad = trainer.layer.query.weight.grad
        assert grad is not None
        found.append(grad.clone())
        return step(lr, apart_lr)

    trainer.dense.step = watched  # type: ignore[method-assign]
    return values(trainer.train_step()), found[0]


@pytest.mark.parametrize("passes", [1, 2])
def test_a_new_loss_is_reported_by_its_fields_name_and_weighted(
    facts_corpus: CorpusSpec, tokenizer: Tokenizer, passes: int
) -> None:
    without, plain = gradient(build(facts_corpus, tokenizer, 0.0, memory__accumulate=passes))
    trainer = build(facts_corpus, tokenizer, QUIET, memory__accumulate=passes)
    other = build(facts_corpus, tokenizer, QUIET)
    quiet = quiet_of(other, next_batch(other))
    (its_own,) = torch.autograd.grad(quiet, [other.layer.query.weight])
    measured, whole = gradient(trainer)
    assert "quiet" not in without
    assert measured["quiet"] == pytest.approx(quiet.item(), rel=1e-4)
    assert measured["loss"] == pytest.approx(without["loss"] + QUIET * measured["quiet"], rel=1e-5)
    assert QUIET * its_own.norm() > 0.1 * plain.norm()
    torch.testing.assert_close(whole - plain, QUIET * its_own, atol=1e-5, rtol=1e-3)


def test_a_new_loss_trains(facts_corpus: CorpusSpec, tokenizer: Tokenizer) -> None:
    after = []
    for weight in (0.0, QUIET):
        trainer = build(facts_corpus, tokenizer, weight)
        batch = next_batch(trainer)
        before = quiet_of(trainer, batch).item()
        for _ in range(12):
            trainer.train_step()
            trainer.step += 1
        after.append(quiet_of(trainer, batch).item() / before)
    assert after[1] < 0.7 * after[0]


def test_a_new_loss_is_in_the_runs_rows(facts_corpus: CorpusSpec, tokenizer: Tokenizer) -> None:
    spec = spec_of(facts_corpus, 0.5)
    exchange = Exchange(spec, tokenizer.to_json())
    exchange.memory = Trainer(spec, tokenizer.to_json(), RUN)
    _, report = exchange.run(1).reports[0]
    row = Metrics().add_interval([report], wait_s=0.0, lag=0)
    assert row["train.quiet"] == pytest.approx(report.shares["quiet"])
    assert row["train.quiet"] > 0


def test_a_new_weight_is_checked_as_the_others_are(facts_corpus: CorpusSpec) -> None:
    assert spec_of(facts_corpus, 0.5).model_dump()["losses"]["quiet"] == 0.5
    with pytest.raises(ValidationError, match="quiet"):
        spec_of(facts_corpus, -1.0)


def test_every_loss_that_is_reported_has_a_weight_of_its_name() -> None:
    of_groups = (DataTerms, GeneralTerms, MemoryTerms)
    names = {name.rstrip("_") for terms in of_groups for name in vars(terms())}
    weights = {f.alias or name for name, f in LossWeights.model_fields.items()}
    assert Weights.names() == (*LossWeights.names(), "quiet")  # those that are plotted
    # parts of own, help, reader and given
    assert names - weights == {"own_beyond", "read_beyond", "given_encoder"}
    assert weights - names == {"self_yields", "recall_yields"}  # how two of them are weighted
