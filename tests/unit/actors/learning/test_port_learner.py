"""The port of a pair follows what its memory has learned, while the model stays as it is."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from actors.corpus.corpus import Corpus, WindowStream
from actors.corpus.windows import Windows
from actors.layers.batch import Batch, hidden_at, to_batch
from actors.layers.mixture import TURN, general_loss, mixing_loss, predict_both
from actors.layers.pair import Pair
from actors.learning.learner import Learner
from actors.learning.port_learner import PortLearner, _alternating
from actors.learning.rehearsal import Before, WrittenCorpus
from actors.settings.learn_plan import LearnPlan, PortPlan
from actors.settings.run import RunSpec
from actors.tokenizers.tokenizer import Tokenizer
from actors.weights.builders import build_data_layer, build_memory_layer
from actors.wire import DivergedError
from tests.unit.actors.tiny import TEMPLATES, Exchange, write_facts

NEW = [
    {"relation": "capital", "subject": x, "object": y}
    for x, y in (("Marovia", "Pelk"), ("Norland", "Quist"), ("Orsenia", "Rusk"))
]
LEARN = LearnPlan(steps=60, lr=0.05, old_frac=0.25, assist=0.0)
PLAN = PortPlan(steps=6, lr=1e-2)
CPU = torch.device("cpu")

Learned = tuple[Pair, Corpus, Before]


@pytest.fixture(scope="module")
def corpora(
    tmp_path_factory: pytest.TempPathFactory, spec: RunSpec, tokenizer: Tokenizer
) -> tuple[Corpus, Corpus]:
    """New facts, and the run's."""
    given = write_facts(tmp_path_factory.mktemp("new"), NEW, {"capital": TEMPLATES["capital"]})
    new = Corpus.open(spec.model_copy(update={"corpus": given}), tokenizer)
    return new, Corpus.open(spec, tokenizer)


@pytest.fixture(scope="module")
def learned(
    spec: RunSpec, tokenizer: Tokenizer, trained: Exchange, corpora: tuple[Corpus, Corpus]
) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """States of a trained data layer, its memory, and the memory once it has learned the new."""
    data, memory = trained.data.layer.state_dict(), trained.memory.layer.state_dict()
    pair = fresh(spec, tokenizer, data, memory)
    before = copied(pair.memory)
    learner = Learner(spec, pair, *corpora, LEARN)
    for _ in range(LEARN.steps):
        learner.train_step()
    return copied(pair.data), before, copied(pair.memory)


def fresh(
    spec: RunSpec, tokenizer: Tokenizer, data: dict[str, Tensor], memory: dict[str, Tensor]
) -> Pair:
    """A pair of its own with these weights."""
    layer = build_data_layer(spec, tokenizer, CPU).eval()
    pair = Pair(layer, build_memory_layer(spec, tokenizer, layer.vocab_rows, CPU))
    pair.data.load_state_dict(data)
    pair.memory.load_state_dict(memory)
    return pair


def copied(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


@pytest.fixture
def make(
    spec: RunSpec, tokenizer: Tokenizer, learned: tuple[dict[str, Tensor], ...]
) -> Callable[[], tuple[Pair, Before]]:
    """The pair whose memory has learned, and what it was before."""
    data, memory, after = learned

    def made() -> tuple[Pair, Before]:
        pair = fresh(spec, tokenizer, data, memory)
        before = Before(pair)
        pair.memory.load_state_dict(after)
        return pair, before

    return made


def windows_of(corpus: Corpus, num: int = 8) -> Windows:
    return WindowStream(corpus, "asked").next_batch(num)[0]


@torch.no_grad()
def help_loss(pair: Pair, windows: Windows) -> float:
    """Next-token loss of both together."""
    batch = to_batch(windows, CPU)
    y_BTD = pair.memory.read(batch.tokens_BT, batch.segments_BT).y
    _, both = predict_both(pair.data, pair.memory, batch, y_BTD, batch.valid_at_N)
    return float(-both.mixed().logp.gather(1, batch.targets_N[:, None]).mean())


def train(
    spec: RunSpec,
    made: tuple[Pair, Before],
    new: Corpus,
    old: Corpus | WrittenCorpus,
    plan: PortPlan,
) -> tuple[Pair, list[float]]:
    pair, before = made
    learner = PortLearner(spec, pair, new, old, plan, before)
    losses = [learner.train_step() for _ in range(plan.steps)]
    learner.finish()
    return pair, losses


def test_the_model_and_the_memory_keep_every_bit_and_all_of_the_port_moves(
    spec: RunSpec, make: Callable[[], tuple[Pair, Before]], corpora: tuple[Corpus, Corpus]
) -> None:
    made = make()
    data, memory = copied(made[0].data), copied(made[0].memory)
    pair, _ = train(spec, made, *corpora, PLAN)
    moved = {n for n, p in pair.data.state_dict().items() if not torch.equal(p, data[n])}
    assert moved == {name for name in data if name.startswith("port.")}
    assert all(torch.equal(p, memory[n]) for n, p in pair.memory.state_dict().items())
    assert not any(p.requires_grad for p in pair.data.parameters())


def test_the_pair_says_more_of_what_the_memory_learned(
    spec: RunSpec, make: Callable[[], tuple[Pair, Before]], corpora: tuple[Corpus, Corpus]
) -> None:
    new = corpora[0].heldout(8)
    untrained = help_loss(make()[0], new)
    pair, losses = train(spec, make(), *corpora, replace(PLAN, steps=40))
    assert help_loss(pair, new) < untrained - 0.2
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("old_frac", [0.5])
def test_old_text_that_the_memory_wrote_stays_as_it_was_said(
    spec: RunSpec,
    tokenizer: Tokenizer,
    make: Callable[[], tuple[Pair, Before]],
    corpora: tuple[Corpus, Corpus],
    old_frac: float,
) -> None:
    written = WrittenCorpus.write(make()[0].memory, tokenizer, spec.corpus.window, 0, num=60)
    batch = to_batch(written.heldout(4), CPU)

    def moved(share: float) -> float:
        plan = replace(PLAN, steps=40, old_frac=share)
        made = make()
        pair, _ = train(spec, made, corpora[0], written, plan)
        with torch.no_grad():
            y_BTD = pair.memory.read(batch.tokens_BT, batch.segments_BT).y
            hidden = hidden_at(pair.data, batch, y_BTD)
            kept = made[1].kept(batch, together=True)
            mixed, _ = kept.together(
                pair.data, pair.memory, y_BTD[batch.valid_BT], hidden, slice(None)
            )
        return float(mixed.mean())

    assert 0 < moved(old_frac) < 0.9 * moved(0.0)


def test_before_has_the_port_as_it_was(
    spec: RunSpec, make: Callable[[], tuple[Pair, Before]], corpora: tuple[Corpus, Corpus]
) -> None:
    made = make()
    batch = to_batch(windows_of(corpora[0]), CPU)
    then = made[1].kept(batch, together=True)
    pair, _ = train(spec, made, *corpora, PLAN)
    now = made[1].kept(batch, together=True)
    assert then.hidden_KH is not None
    assert now.hidden_KH is not None
    assert torch.equal(then.hidden_KH, now.hidden_KH)
    assert now.port is not pair.data.port


def test_the_gradient_is_that_of_help_reader_and_noised_and_general_text(
    spec: RunSpec, make: Callable[[], tuple[Pair, Before]], corpora: tuple[Corpus, Corpus]
) -> None:
    """All of it in one graph, by hand, with λ fixed on the batch."""
    data = spec.data.model_copy(update={"general_frac": 0.5})
    weights = spec.losses.model_copy(update={"help": 0.7, "reader": 0.4, "general": 3.0})
    changed = spec.model_copy(update={"data": data, "losses": weights})
    pair, before = make()
    learner = PortLearner(changed, pair, *corpora, PLAN, before)
    batch, noised = learner._next_batch()
    learner._next_batch = lambda: (batch, noised)  # type: ignore[method-assign]
    assert learner._general is not None
    general = to_batch(learner._general.next_batch(data.num_general)[0], CPU)
    learner._general.next_batch = lambda num: (_windows(general), [])  # type: ignore[method-assign]
    learner._dense.step = lambda lr: None  # type: ignore[assignment,method-assign,return-value]
    learner.train_step()
    found = {n: p.grad.clone() for n, p in pair.data.port.named_parameters() if p.grad is not None}
    learner._dense.zero_grad()
    y_BTD = pair.memory.read(batch.tokens_BT, batch.segments_BT).y.detach()
    _, both = predict_both(pair.data, pair.memory, batch, y_BTD, batch.valid_at_N)
    at = batch.targets_N[:, None]
    loss = -0.7 * both.mixed(fixed=True).logp.gather(1, at).mean()
    loss = loss - 0.4 * both.logp.gather(1, at).mean()
    read = pair.memory.read(noised.tokens_BT, noised.segments_BT).y.detach()
    loss = loss + 0.7 * mixing_loss(pair.data, pair.memory, noised, read)
    loss = loss + 3.0 * general_loss(pair.data, pair.memory, general)
    loss.backward()
    assert len(found) == len(list(pair.data.port.parameters()))
    for name, parameter in pair.data.port.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(found[name], parameter.grad, atol=1e-5, rtol=1e-3)
        assert parameter.grad.abs().max() > 0


def _windows(batch: Batch) -> Windows:
    """The windows that a batch was made of, as far as a batch is made of them again."""
    learn_NT = np.zeros(batch.valid_BT.shape, np.bool_)
    learn_NT[:, 1:] = batch.host.valid_BT[:, :-1]
    return Windows(batch.tokens_BT.numpy(), batch.segments_BT.numpy(), learn_NT)


def test_the_same_seed_gives_the_same_bits_and_another_one_others(
    spec: RunSpec, make: Callable[[], tuple[Pair, Before]], corpora: tuple[Corpus, Corpus]
) -> None:
    ends = [
        copied(train(spec, make(), *corpora, replace(PLAN, seed=seed))[0].data)
        for seed in (0, 0, 1)
    ]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    assert not torch.equal(ends[0]["port.mix.weight"], ends[2]["port.mix.weight"])


def test_lambda_learns_on_noised_text_of_both_kinds_and_never_on_what_the_memory_wrote(
    spec: RunSpec,
    tokenizer: Tokenizer,
    make: Callable[[], tuple[Pair, Before]],
    corpora: tuple[Corpus, Corpus],
) -> None:
    assert _alternating(3, 1).tolist() == [0, 1, 3, 2]
    assert _alternating(2, 0).tolist() == [0, 1]
    pair, before = make()
    written = WrittenCorpus.write(pair.memory, tokenizer, spec.corpus.window, 0, num=60)
    plan = replace(PLAN, old_frac=0.75)
    learner = PortLearner(spec, pair, corpora[0], written, plan, before)
    batch, noised = learner._next_batch()
    assert (len(batch.tokens_BT), len(noised.tokens_BT)) == (4, 1)  # one of four is new


def test_beside_general_text_lambda_learns_several_steps_from_one_noised_text(
    spec: RunSpec, make: Callable[[], tuple[Pair, Before]], corpora: tuple[Corpus, Corpus]
) -> None:
    data = spec.data.model_copy(update={"general_frac": 0.5})
    pair, before = make()
    changed = spec.model_copy(update={"data": data})
    learner = PortLearner(changed, pair, *corpora, replace(PLAN, steps=TURN + 1), before)
    noised = []
    for _ in range(TURN + 1):
        learner.train_step()
        noised.append(learner._noised)
    assert [one is noised[0] for one in noised] == [True] * TURN + [False]


def test_a_loss_that_is_no_number_is_refused_with_what_to_do(
    spec: RunSpec, make: Callable[[], tuple[Pair, Before]], corpora: tuple[Corpus, Corpus]
) -> None:
    pair, before = make()
    learner = PortLearner(spec, pair, *corpora, PLAN, before)
    with torch.no_grad():
        pair.memory.values.fill_(math.nan)
    port = copied(pair.data.port)
    with pytest.raises(DivergedError, match=r"nan at step 1 of 6.*--no-port"):
        learner.train_step()
    assert all(torch.equal(p, port[n]) for n, p in pair.data.port.state_dict().items())


def test_so_many_positions_at_a_time_are_all_at_once(
    spec: RunSpec, make: Callable[[], tuple[Pair, Before]], corpora: tuple[Corpus, Corpus]
) -> None:
    found = []
    for logit_tokens in (None, 7):
        made = make()
        made[0].data.logit_tokens = logit_tokens
        found.append(train(spec, made, *corpora, replace(PLAN, steps=2)))
    assert found[1][1] == pytest.approx(found[0][1], rel=1e-4)
    for name, value in copied(found[0][0].data.port).items():
        torch.testing.assert_close(copied(found[1][0].data.port)[name], value, atol=1e-3, rtol=1e-2)
