"""Held-out figures of one pair of layers: losses, agreement, slot use, and what changed between two
pairs.

Reads both layers, changes neither. Called by the memory trainer (agreement) and the evaluator
(everything).
Shapes: N valid positions, V token ids.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from actors import losses
from actors.data_layer import DataLayer
from actors.layers import Batch, both_voices, predict_at
from actors.memory_layer import MemoryLayer

BATCH = 16  # sequences per forward pass
MARGIN = 0.1  # probability by which a new answer must lead the old one to count as a change


@dataclass(frozen=True)
class Pair:
    """A data layer and the memory layer that goes with it, at one version each."""

    data: DataLayer
    memory: MemoryLayer


def parts(batch: Batch) -> Iterator[Batch]:
    """The batch in pieces that one forward pass takes."""
    for start in range(0, len(batch.tokens_BT), BATCH):
        yield batch.rows(slice(start, start + BATCH))


@torch.no_grad()
def agreement(data: DataLayer, memory: MemoryLayer, batch: Batch) -> float:
    """Share of the valid positions where both layers alone hold the same token likeliest."""
    same = total = 0
    for part in parts(batch):
        theirs = data(part.tokens_BT, part.segments_BT).logits_BTV[part.valid_BT].argmax(-1)
        ours = predict_at(memory, part).argmax(-1)
        same += int((theirs == ours).sum())
        total += len(theirs)
    return same / max(1, total)


@torch.no_grad()
def heldout_figures(pair: Pair, before: Pair | None, batch: Batch) -> dict[str, float]:
    """Means over the valid positions of `batch`, in nats or shares; `before` is the previous pair,
    for sync.

    Keys: own_loss, help_loss, help_gain, recall_kl, recall_agreement, self_loss, mixing,
    slots_used_frac, slots_top1pct_share, and sync_loss where there is a pair before.
    """
    sums: dict[str, float] = {}
    slot_reads = torch.zeros(
        pair.memory.spec.num_slots, dtype=torch.int64, device=batch.tokens_BT.device
    )
    total = 0
    for part in parts(batch):
        at, targets, num = part.valid_BT, part.targets_N, int(part.valid_BT.sum())
        if num == 0:
            continue
        read = pair.memory.read(part.tokens_BT, part.segments_BT)
        own_NV = pair.data(part.tokens_BT, part.segments_BT).logits_BTV[at]
        memory_NV = pair.memory.predict(read.y[at])
        mixed = both_voices(pair.data, pair.memory, part, read.y, at).mixed()
        figures = {
            "own_loss": losses.own(own_NV, targets),
            "help_loss": losses.help_(mixed.log_mixed_NV, targets),
            "recall_kl": losses.recall(own_NV, memory_NV),
            "recall_agreement": (own_NV.argmax(-1) == memory_NV.argmax(-1)).float().mean(),
            "self_loss": losses.self_(memory_NV, targets),
            "mixing": mixed.mixing_N.mean(),
        }
        if before is not None:
            ref_NV = before.data(part.tokens_BT, part.segments_BT).logits_BTV[at]
            before_NV = predict_at(before.memory, part)
            figures["sync_loss"] = losses.sync(own_NV, ref_NV, before_NV, memory_NV)
        for name, value in figures.items():
            sums[name] = sums.get(name, 0.0) + float(value) * num
        slot_reads += torch.bincount(read.slots[at].flatten(), minlength=len(slot_reads))
        total += num
    means = {name: value / max(1, total) for name, value in sums.items()}
    means["help_gain"] = means["own_loss"] - means["help_loss"]
    return {**means, **slot_use(slot_reads)}


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
    """Probes whose answer by the data layer changed, and how many of them the memory answers the
    new way.
    """

    changed: int
    followed: int


@torch.no_grad()
def token_reflection(pair: Pair, before: Pair, batch: Batch) -> Reflection:
    """Reflection over next tokens: a probe is a valid position, its answer the likeliest token."""
    changed = followed = 0
    for part in parts(batch):
        at = part.valid_BT
        old_N = before.data(part.tokens_BT, part.segments_BT).logits_BTV[at].argmax(-1)
        p_NV = F.softmax(pair.data(part.tokens_BT, part.segments_BT).logits_BTV[at], dim=-1)
        top_N, new_N = p_NV.max(-1)
        moved_N = (new_N != old_N) & (top_N - p_NV.gather(1, old_N[:, None])[:, 0] > MARGIN)
        said_N = predict_at(pair.memory, part).argmax(-1)
        changed += int(moved_N.sum())
        followed += int((moved_N & (said_N == new_N)).sum())
    return Reflection(changed, followed)
