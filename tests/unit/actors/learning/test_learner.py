"""A memory that takes in new facts while its data layer stays as it is."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from actors.corpus.corpus import Corpus, WindowStream
from actors.layers import losses
from actors.layers.batch import to_batch
from actors.layers.pair import Pair
from actors.learning.learner import Learner
from actors.settings.learn_plan import LearnPlan
from actors.settings.run import RunSpec
from actors.tokenizers.tokenizer import Tokenizer
from actors.weights.builders import build_data_layer, build_memory_layer
from actors.wire import DivergedError
from tests.unit.actors.tiny import TEMPLATES, open_gates, write_facts

NEW = [
    {"relation": "capital", "subject": x, "object": y}
    for x, y in (("Marovia", "Pelk"), ("Norland", "Quist"), ("Orsenia", "Rusk"))
]
PLAN = LearnPlan(steps=4, lr=0.05)


@pytest.fixture(scope="module")
def corpora(
    tmp_path_factory: pytest.TempPathFactory, spec: RunSpec, tokenizer: Tokenizer
) -> tuple[Corpus, Corpus]:
    """New facts, and the run's."""
    folder = tmp_path_factory.mktemp("new")
    given = write_facts(folder, NEW, {"capital": TEMPLATES["capital"]})
    new = Corpus.open(spec.model_copy(update={"corpus": given}), tokenizer)
    return new, Corpus.open(spec, tokenizer)


@pytest.fixture
def pair(spec: RunSpec, tokenizer: Tokenizer) -> Pair:
    """A pair of fresh weights whose port is open."""
    device = torch.device("cpu")
    data = open_gates(build_data_layer(spec, tokenizer, device)).eval()
    return Pair(data, build_memory_layer(spec, tokenizer, data.vocab_rows, device))


def weights(module: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in module.named_parameters()}


def learn(spec: RunSpec, pair: Pair, corpora: tuple[Corpus, Corpus], plan: LearnPlan) -> Learner:
    learner = Learner(spec, pair, *corpora, plan)
    for _ in range(plan.steps):
        learner.train_step()
    return learner


def test_the_data_layer_and_its_port_keep_every_bit(
    spec: RunSpec, pair: Pair, corpora: tuple[Corpus, Corpus]
) -> None:
    before, memory = weights(pair.data), weights(pair.memory)
    learn(spec, pair, corpora, PLAN)
    assert all(torch.equal(p, before[name]) for name, p in pair.data.named_parameters())
    assert not torch.equal(pair.memory.values, memory["values"])


def test_encoder_and_keys_learn_too(
    spec: RunSpec, pair: Pair, corpora: tuple[Corpus, Corpus]
) -> None:
    before = weights(pair.memory)
    learn(spec, pair, corpora, PLAN)
    moved = {n for n, p in pair.memory.named_parameters() if not torch.equal(p, before[n])}
    assert {"values", "keys", "query.weight", "encoder.embed.weight"} <= moved


def test_the_same_seed_gives_the_same_bits_and_another_one_others(
    spec: RunSpec, tokenizer: Tokenizer, pair: Pair, corpora: tuple[Corpus, Corpus]
) -> None:  # fmt: skip
    start = {name: value.clone() for name, value in pair.memory.state_dict().items()}
    ends = []
    for seed in (0, 0, 1):
        pair.memory.load_state_dict(start)
        learn(spec, pair, corpora, replace(PLAN, seed=seed))
        ends.append(pair.memory.values.detach().clone())
    assert torch.equal(ends[0], ends[1])
    assert not torch.equal(ends[0], ends[2])


def test_what_is_taken_in_is_said_alone_and_through_the_frozen_data_layer(
    spec: RunSpec, pair: Pair, corpora: tuple[Corpus, Corpus]
) -> None:
    learner = learn(spec, pair, corpora, replace(PLAN, steps=10, old_frac=0.0))
    assert learner.learned.losses[-1] < 0.85 * learner.learned.losses[0]


def test_assist_is_a_part_of_the_loss(
    spec: RunSpec, pair: Pair, corpora: tuple[Corpus, Corpus]
) -> None:
    with_assist = Learner(spec, pair, *corpora, PLAN).train_step()
    alone = Learner(spec, pair, *corpora, replace(PLAN, assist=0.0)).train_step()
    assert with_assist > 1.5 * alone


def test_where_it_reads_the_data_layer_learns_to_say_the_new_by_itself(
    spec: RunSpec, pair: Pair, corpora: tuple[Corpus, Corpus]
) -> None:
    start = {name: value.clone() for name, value in pair.memory.state_dict().items()}
    windows, _ = WindowStream(corpora[0], "asked").next_batch(8)
    batch = to_batch(windows, torch.device("cpu"))

    def said(weight: float) -> float:
        pair.memory.load_state_dict(start)
        weights = spec.losses.model_copy(update={"reader": weight})
        changed = spec.model_copy(update={"losses": weights})
        learn(changed, pair, corpora, replace(PLAN, steps=20, lr=0.05, old_frac=0.0))
        with torch.no_grad():
            y_BTD = pair.memory.read(batch.tokens_BT, batch.segments_BT).y
            heard = pair.data(batch.tokens_BT, batch.segments_BT, y_BTD).logits_BTV
        return losses.own(heard[batch.valid_BT], batch.targets_N).item()

    assert said(4.0) < said(0.0) - 0.02  # of a data layer with random weights


def test_what_the_encoder_guesses_of_new_text_gets_better(
    spec: RunSpec, pair: Pair, corpora: tuple[Corpus, Corpus]
) -> None:
    start = {name: value.clone() for name, value in pair.memory.state_dict().items()}
    batch = to_batch(corpora[0].heldout(4), torch.device("cpu"))

    def guessed(weight: float) -> float:
        pair.memory.load_state_dict(start)
        weights = spec.losses.model_copy(update={"encoder": weight})
        changed = spec.model_copy(update={"losses": weights})
        learn(changed, pair, corpora, replace(PLAN, steps=10, lr=0.02, old_frac=0.0))
        u_ND = pair.memory.encode(batch.tokens_BT, batch.segments_BT)[0][batch.valid_BT]
        return losses.self_(pair.memory.guess(u_ND), batch.targets_N).item()

    assert guessed(1.0) < guessed(0.0)


def test_what_is_given_of_the_new_is_learned_too_so_that_the_memory_can_write_it(
    spec: RunSpec, pair: Pair, corpora: tuple[Corpus, Corpus], tmp_path: Path
) -> None:
    start = {name: value.clone() for name, value in pair.memory.state_dict().items()}
    facts = write_facts(tmp_path, NEW, {"capital": TEMPLATES["capital"]}, loss_on="answers")
    new = Corpus.open(spec.model_copy(update={"corpus": facts}), corpora[0].tokenizer)
    batch = to_batch(new.heldout(4), torch.device("cpu"))
    given_BT = torch.from_numpy(batch.given_BT)
    assert given_BT.any()

    def given(weight: float) -> float:
        pair.memory.load_state_dict(start)
        weights = spec.losses.model_copy(update={"given": weight})
        changed = spec.model_copy(update={"losses": weights})
        learn(changed, pair, (new, corpora[1]), replace(PLAN, steps=10, lr=0.02, old_frac=0.0))
        u_GD = pair.memory.encode(batch.tokens_BT, batch.segments_BT)[0][given_BT]
        logits_GV = pair.memory.predict(pair.memory.read_at(u_GD).y)
        return losses.self_(logits_GV, batch.targets_BT[given_BT]).item()

    assert given(0.1) < given(0.0)


@pytest.mark.parametrize(("old_frac", "old_share"), [(0.0, 0), (0.5, 2 / 4), (0.99, 3 / 4)])
def test_old_data_has_its_share_and_something_new_is_always_there(
    spec: RunSpec, pair: Pair, corpora: tuple[Corpus, Corpus], old_frac: float, old_share: float
) -> None:
    learned = learn(spec, pair, corpora, replace(PLAN, steps=3, old_frac=old_frac)).learned
    share = learned.old_tokens / (learned.old_tokens + learned.new_tokens)
    assert share == pytest.approx(old_share, abs=0.12)  # windows are not equally full


def test_a_loss_that_is_no_number_is_refused_with_the_step_and_the_rate(
    spec: RunSpec, pair: Pair, corpora: tuple[Corpus, Corpus]
) -> None:
    learner = Learner(spec, pair, *corpora, PLAN)
    with torch.no_grad():
        pair.memory.values.fill_(math.nan)
    with pytest.raises(DivergedError, match=r"nan at step 1 of 4; lower the learning rate"):
        learner.train_step()


@pytest.mark.parametrize("size", [1, 7])
@pytest.mark.parametrize("plan", [PLAN, replace(PLAN, assist=0.0)])
def test_learning_so_many_positions_at_a_time_is_learning_all_at_once(
    spec: RunSpec, tokenizer: Tokenizer, corpora: tuple[Corpus, Corpus], plan: LearnPlan, size: int
) -> None:
    found = []
    for logit_tokens in (None, size):
        device = torch.device("cpu")
        data = open_gates(build_data_layer(spec, tokenizer, device)).eval()
        data.logit_tokens = logit_tokens
        pair = Pair(data, build_memory_layer(spec, tokenizer, data.vocab_rows, device))
        learner = learn(spec, pair, corpora, replace(plan, steps=2))
        found.append((learner.learned.losses, weights(pair.memory)))
    (want, at_once), (got, in_parts) = found
    assert got == pytest.approx(want, rel=1e-4)
    for name, value in at_once.items():
        torch.testing.assert_close(in_parts[name], value, atol=2e-4, rtol=1e-3)
