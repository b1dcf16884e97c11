"""Figures of one pair of layers on held-out windows: losses, agreement, slot use; and, of two
pairs, how much of what the data layer changed the memory follows.

Functions of layers and a batch; which windows, `pair.evaluator` (in a run) and `knowledge` (one
corpus) choose. Changes neither layer, and needs memory by `batch_tokens`, not by the number of
sequences.
Shapes: B sequences, T tokens, N valid positions, H hidden size, D memory width, V token ids.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from actors.layers import losses
from actors.layers.batch import Batch, hidden_at, read_at_valid, rows_at
from actors.layers.data_layer import DataLayer
from actors.layers.memory_layer import MemoryLayer
from actors.layers.pair import Pair
from actors.machine.progress import Progress, unseen
from actors.measuring.voices import BATCH_TOKENS, predict_voice
from actors.operators.parts import parts_of

MARGIN = 0.1  # a new answer counts as a change if it is likelier than the old one by so much


def parts(batch: Batch, batch_tokens: int = BATCH_TOKENS) -> Iterator[Batch]:
    """The batch in parts of so many tokens, padding included; a longer sequence is a part."""
    size = max(1, batch_tokens // batch.tokens_BT.shape[1])
    for start in range(0, len(batch.tokens_BT), size):
        yield batch.rows(slice(start, start + size))


@torch.no_grad()
def agreement(
    data: DataLayer, memory: MemoryLayer, batch: Batch, batch_tokens: int = BATCH_TOKENS
) -> float:
    """Share of the valid positions where both layers alone hold the same token likeliest."""
    same = torch.zeros((), dtype=torch.int64, device=batch.tokens_BT.device)
    for part in parts(batch, batch_tokens):
        hidden_NH, y_ND = hidden_at(data, part), read_at_valid(memory, part)
        for some in parts_of(len(y_ND), data.positions_at_once):
            likeliest_N = data.logits_at(hidden_NH[some]).argmax(-1)
            same += (likeliest_N == memory.predict(y_ND[some]).argmax(-1)).sum()
    return int(same) / max(1, batch.num_valid)


@torch.no_grad()
def heldout_figures(
    pair: Pair,
    batch: Batch,
    batch_tokens: int = BATCH_TOKENS,
    progress: Progress = unseen,
) -> dict[str, float]:
    """Means over the valid positions of `batch`, in nats or shares; `progress` sees the sequences
    that are done.

    Keys: own_loss, help_loss, help_gain, recall_kl, recall_agreement, self_loss, mixing,
    slots_used_frac, slots_top1pct_share, and ngram_collisions_frac where addresses are hashes.
    """
    sums: defaultdict[str, float] = defaultdict(float)
    slot_reads = torch.zeros(
        pair.memory.spec.num_slots, dtype=torch.int64, device=batch.tokens_BT.device
    )
    contexts: list[Tensor] = []
    num_done, num = 0, len(batch.tokens_BT)
    for part in parts(batch, batch_tokens):
        progress("held-out text", num_done, num)
        num_done += len(part.tokens_BT)
        if not part.num_valid:
            continue
        read = pair.memory.read(part.tokens_BT, part.segments_BT)
        slots = rows_at(read.slots, part.valid_at_N).flatten()
        slot_reads += torch.bincount(slots, minlength=len(slot_reads))
        if pair.memory.ngrams is not None:
            found_BTC, _ = pair.memory.encode(part.tokens_BT, part.segments_BT)
            contexts.append(rows_at(found_BTC, part.valid_at_N))
        own_NH, help_NH = hidden_at(pair.data, part), hidden_at(pair.data, part, read.y)
        y_ND, targets_N = rows_at(read.y, part.valid_at_N), part.targets_N
        fresh_N = None if read.freshness is None else rows_at(read.freshness, part.valid_at_N)
        for some in parts_of(len(y_ND), pair.data.positions_at_once):
            own_NV = pair.data.logits_at(own_NH[some])
            memory_NV = pair.memory.predict(y_ND[some])
            reading_NV = pair.data.logits_at(help_NH[some])
            fresh = None if fresh_N is None else fresh_N[some]
            mixed = predict_voice(pair, "help", reading_NV, help_NH[some], y_ND[some], fresh)
            assert mixed.mixing is not None
            figures = {
                "own_loss": losses.own(own_NV, targets_N[some]),
                "help_loss": losses.help_(mixed.logp, targets_N[some]),
                "recall_kl": losses.recall(own_NV, memory_NV),
                "recall_agreement": (own_NV.argmax(-1) == memory_NV.argmax(-1)).float().mean(),
                "self_loss": losses.self_(memory_NV, targets_N[some]),
                "mixing": mixed.mixing.mean(),
            }
            for name, value in figures.items():
                sums[name] += float(value) * len(own_NV)
    means = {name: value / max(1, batch.num_valid) for name, value in sums.items()}
    means["help_gain"] = means["own_loss"] - means["help_loss"]
    if pair.memory.ngrams is not None and contexts:
        means["ngram_collisions_frac"] = pair.memory.ngrams.collisions(torch.cat(contexts))
    return {**means, **slot_use(slot_reads)}


GENERAL = ("own_loss", "help_loss", "mixing")


@torch.no_grad()
def general_figures(pair: Pair, batch: Batch, batch_tokens: int = BATCH_TOKENS) -> dict[str, float]:
    """Figures of windows of general text: general_own_loss, general_help_loss, general_mixing."""
    found = heldout_figures(pair, batch, batch_tokens)
    return {f"general_{name}": found[name] for name in GENERAL}


def slot_use(reads_S: Tensor) -> dict[str, float]:
    """Share of the slots read at all, and share of the reads that go to the most read 1 % of the
    slots.
    """
    top = max(1, len(reads_S) // 100)
    share = reads_S.sort(descending=True).values[:top].sum() / reads_S.sum().clamp_min(1)
    return {
        "slots_used_frac": float((reads_S > 0).float().mean()),
        "slots_top1pct_share": float(share),
    }


@dataclass(frozen=True)
class Reflection:
    """How many probes the data layer answers otherwise than before, and to how many of these the
    memory gives the new answer.
    """

    changed: int
    followed: int


@torch.no_grad()
def token_reflection(
    pair: Pair, before: DataLayer, batch: Batch, batch_tokens: int = BATCH_TOKENS
) -> Reflection:
    """Reflection over next tokens: a probe is a valid position, its answer the likeliest token;
    `before`: the data layer before.
    """
    changed = followed = 0
    for part in parts(batch, batch_tokens):
        old_NH, new_NH = hidden_at(before, part), hidden_at(pair.data, part)
        y_ND = read_at_valid(pair.memory, part)
        for some in parts_of(len(y_ND), pair.data.positions_at_once):
            old_N = before.logits_at(old_NH[some]).argmax(-1)
            p_NV = F.softmax(pair.data.logits_at(new_NH[some]), dim=-1)
            top_N, new_N = p_NV.max(-1)
            moved_N = (new_N != old_N) & (top_N - p_NV.gather(1, old_N[:, None])[:, 0] > MARGIN)
            memory_N = pair.memory.predict(y_ND[some]).argmax(-1)
            changed += int(moved_N.sum())
            followed += int((moved_N & (memory_N == new_N)).sum())
    return Reflection(changed, followed)
