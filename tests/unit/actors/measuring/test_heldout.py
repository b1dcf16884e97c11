"""Held-out figures against loops over positions, and reflection on tables of bigrams."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from actors.corpus.windows import Windows
from actors.layers.batch import Batch, to_batch
from actors.layers.pair import Pair
from actors.measuring.heldout import (
    Reflection,
    agreement,
    general_figures,
    heldout_figures,
    slot_use,
    token_reflection,
)
from tests.unit.actors.tiny import (
    Exchange,
    bigram_pair,
    build,
    build_memory,
    followed_by,
    one_document,
    open_gates,
    tokens,
)

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def batch(trained: Exchange) -> Batch:
    return to_batch(trained.data.corpus.heldout(4), CPU)


@pytest.fixture(scope="module")
def defined(trained: Exchange, batch: Batch) -> dict[str, float]:
    """What the figures of the trained pair are by their definitions."""
    return slow_figures(Pair(trained.data.layer.eval(), trained.memory.layer), batch)


def line(*ids: int) -> Batch:
    """One window of one document."""
    row = np.array([ids], np.int32)
    return to_batch(Windows(row, np.zeros_like(row), np.ones(row.shape, np.bool_)), CPU)


def positions(batch: Batch) -> Iterator[tuple[int, int, int]]:
    """(row, position, next token) of every token that has a next one in its document."""
    segments, ids = batch.segments_BT.tolist(), batch.tokens_BT.tolist()
    for row, marks in enumerate(segments):
        for at in range(len(marks) - 1):
            if marks[at] == marks[at + 1] >= 0:
                yield row, at, ids[row][at + 1]


@torch.no_grad()
def slow_figures(pair: Pair, batch: Batch) -> dict[str, float]:
    """Every figure from its definition, position by position, in python floats."""
    read = pair.memory.read(batch.tokens_BT, batch.segments_BT)
    own = pair.data(batch.tokens_BT, batch.segments_BT).logits_BTV.double().softmax(-1)
    out = pair.data(batch.tokens_BT, batch.segments_BT, read.y)
    with_reads = out.logits_BTV.double().softmax(-1)
    memory = pair.memory.predict(read.y).double().softmax(-1)
    lam = torch.sigmoid(
        pair.data.port.mixing_logit(
            out.hidden_BTD, read.y, with_reads.log().float(), memory.log().float()
        )
    )
    sums: Counter[str] = Counter()
    slots: Counter[int] = Counter()
    for row, at, target in positions(batch):
        p, q, r = (x[row, at].tolist() for x in (own, memory, with_reads))
        share = float(lam[row, at])
        sums["num"] += 1
        sums["own_loss"] -= math.log(p[target])
        sums["self_loss"] -= math.log(q[target])
        sums["help_loss"] -= math.log((1 - share) * r[target] + share * q[target])
        sums["help_gain"] += -math.log(p[target]) + math.log(
            (1 - share) * r[target] + share * q[target]
        )
        sums["recall_kl"] += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
        sums["recall_agreement"] += p.index(max(p)) == q.index(max(q))
        sums["mixing"] += share
        slots.update(read.slots[row, at].flatten().tolist())
    figures = {name: total / sums["num"] for name, total in sums.items() if name != "num"}
    figures["slots_used_frac"] = len(slots) / pair.memory.spec.num_slots
    figures["slots_top1pct_share"] = max(slots.values()) / sum(slots.values())  # 1 % of 64: one
    return figures


@pytest.mark.parametrize(
    "name",
    [
        "own_loss",
        "help_loss",
        "help_gain",
        "recall_kl",
        "recall_agreement",
        "self_loss",
        "mixing",
        "slots_used_frac",
        "slots_top1pct_share",
    ],
)
def test_a_held_out_figure_equals_its_definition(
    pair: Pair, batch: Batch, defined: dict[str, float], name: str
) -> None:
    got = heldout_figures(pair, batch)[name]
    assert got == pytest.approx(defined[name], rel=1e-4, abs=1e-5)


def test_the_figures_are_those_named(pair: Pair, batch: Batch, defined: dict[str, float]) -> None:
    assert set(heldout_figures(pair, batch)) == set(defined)


def test_the_figures_do_not_depend_on_how_many_sequences_are_forwarded_at_once(
    pair: Pair, batch: Batch
) -> None:
    at_once = heldout_figures(pair, batch)
    apart = heldout_figures(pair, batch, batch_tokens=3 * batch.tokens_BT.shape[1])
    assert apart == pytest.approx(at_once, rel=1e-4)


def test_figures_of_a_sequence_without_a_position_to_predict_are_those_of_the_others(
    pair: Pair, batch: Batch
) -> None:
    nothing = batch.valid_BT.clone()
    nothing[-1] = False
    rest = Batch(batch.tokens_BT, batch.segments_BT, nothing, batch.targets_BT)
    want = heldout_figures(pair, batch.rows(slice(0, -1)))
    assert heldout_figures(pair, rest, batch_tokens=1) == pytest.approx(want, rel=1e-4)


def test_the_figures_do_not_depend_on_how_many_positions_have_logits_at_once(
    pair: Pair, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once = heldout_figures(pair, batch), agreement(pair.data, pair.memory, batch)
    monkeypatch.setattr(pair.data, "logit_tokens", 7)
    assert heldout_figures(pair, batch) == pytest.approx(at_once[0], rel=1e-4)
    assert agreement(pair.data, pair.memory, batch) == at_once[1]


def test_no_tensor_over_all_token_ids_is_larger_than_said(
    pair: Pair, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = build("llama", pair.data.vocab_rows)[0]
    num = pair.data.num_tokens
    monkeypatch.setattr(pair.data, "logit_tokens", 7)
    with Largest(num) as largest:
        heldout_figures(pair, batch)
        agreement(pair.data, pair.memory, batch)
        token_reflection(pair, before, batch)
    assert 0 < largest.rows <= 7


class Largest(TorchDispatchMode):
    """Rows of the largest tensor over all token ids that is made."""

    def __init__(self, num_tokens: int) -> None:
        super().__init__()
        self.num_tokens, self.rows = num_tokens, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.t.default:  # the output matrix itself
            return out
        for made in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(made, Tensor) and made.dim() > 1 and made.shape[-1] == self.num_tokens:
                self.rows = max(self.rows, made.numel() // self.num_tokens)
        return out


def test_agreement_is_the_share_of_positions_with_the_same_likeliest_token(
    pair: Pair, batch: Batch, defined: dict[str, float]
) -> None:
    want = defined["recall_agreement"]
    assert 0 < want < 1
    assert agreement(pair.data, pair.memory, batch) == pytest.approx(want)


def test_evaluating_leaves_no_gradient() -> None:
    pair = Pair(open_gates(build("llama")[0]), build_memory())
    ids = tokens(2, 6)
    batch = to_batch(
        Windows(ids.int().numpy(), one_document(ids).int().numpy(), np.ones((2, 6), np.bool_)), CPU
    )
    heldout_figures(pair, batch)
    parameters = [*pair.data.parameters(), *pair.memory.parameters()]
    assert all(p.grad is None for p in parameters)


def test_slot_use_counts_the_slots_read_and_the_share_of_the_busiest() -> None:
    reads = torch.zeros(400, dtype=torch.int64)
    reads[[3, 50, 60, 70, 80]] = torch.tensor([10, 20, 30, 15, 25])  # the busiest four hold 90
    assert slot_use(reads) == pytest.approx(
        {"slots_used_frac": 5 / 400, "slots_top1pct_share": 0.9}
    )


def test_unread_slots_have_no_busiest() -> None:
    use = slot_use(torch.zeros(400, dtype=torch.int64))
    assert use == {"slots_used_frac": 0.0, "slots_top1pct_share": 0.0}


def test_token_reflection_counts_what_changed_clearly_and_what_the_memory_says_of_it() -> None:
    old = followed_by(8, (0, 4), (1, 4), (2, 4), (3, 4))
    new = followed_by(8, (0, 5), (1, 5), (3, 4))  # 0 and 1 changed, 3 did not
    new[2, 4], new[2, 5] = 4.0, 4.02  # changed by less than the margin
    memory = followed_by(8, (0, 5), (1, 4), (2, 5), (3, 5))  # followed 0, not 1
    now, before = bigram_pair(new, memory), bigram_pair(old, memory)
    assert token_reflection(now, before.data, line(0, 1, 2, 3, 7)) == Reflection(2, 1)


def test_a_pair_that_did_not_change_has_nothing_to_reflect(pair: Pair, batch: Batch) -> None:
    assert token_reflection(pair, pair.data, batch) == Reflection(0, 0)


def test_figures_of_general_text_are_those_of_its_windows(
    pair: Pair, batch: Batch, defined: dict[str, float]
) -> None:
    got = general_figures(pair, batch)
    names = ("own_loss", "help_loss", "mixing")
    assert got == {f"general_{n}": pytest.approx(defined[n], rel=1e-4, abs=1e-5) for n in names}
