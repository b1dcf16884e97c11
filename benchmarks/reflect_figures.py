"""The arithmetic of `reflect`: from cells to figures. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def gap_closed(kl: float, kl_baseline: float) -> float:
    """Share of the gap between a baseline and the data layer that a predictor closes, in KL."""
    return 1.0 - kl / kl_baseline


def slot_share(cell: Mapping[str, float]) -> float:
    """Share of the memory's gain over a unigram that is in the slots.

    1 - (gain without what the slots say) / (gain with it). Without is the better of two knock-outs:
    every address leads to another row, or every read finds the mean of all reads.
    """
    gain = cell["kl_unigram"] - cell["kl"]
    if gain <= 0:
        return 0.0
    left = cell["kl_unigram"] - min(cell["kl_shuffled"], cell["kl_mean"])
    return 1.0 - max(0.0, left) / gain


def unchanged_lost(after: Mapping[str, Mapping[str, float]]) -> float:
    """Agreement on facts that nobody changed: before the teaching minus after all of it.

    Both kinds of wordings together.
    """
    first, last = min(after, key=int), max(after, key=int)

    def kept(k: str) -> float:
        return (after[k]["unchanged_taught"] + after[k]["unchanged_paraphrase"]) / 2

    return kept(first) - kept(last)


def rate_at(after: Mapping[str, Mapping[str, float]], k: int, side: str) -> float:
    """The reflection rate after k intervals; the nearest that was measured before it else."""
    found = max(int(measured) for measured in after if int(measured) <= k)
    return float(after[str(found)][side])


def facts_figures(one: Mapping[str, Any], two: Mapping[str, Any]) -> dict[str, float]:
    """The figures of one memory of facts from the cells of both phases."""
    after = two["after"]
    return {
        "recall_agreement_seen": one["agreement_seen"],
        "recall_agreement_unseen": one["agreement_unseen"],
        "recall_agreement_unseen_known": one["agreement_unseen_known"],
        "known_unseen": one["known_unseen"],
        "shuffled_seen": one["shuffled_seen"],
        "shuffled_unseen": one["shuffled_unseen"],
        "slot_share_facts": slot_share(one),
        "reflection_rate": rate_at(after, 4, "taught"),
        "reflection_rate_paraphrase": rate_at(after, 4, "paraphrase"),
        "reflection_rate_paraphrase_known": rate_at(after, 4, "agreement_paraphrase_known"),
        "known_paraphrase": rate_at(after, 4, "known_paraphrase"),
        **{f"reflection_rate_after_{k}": row["taught"] for k, row in after.items() if k != "0"},
        **{f"paraphrase_after_{k}": row["paraphrase"] for k, row in after.items() if k != "0"},
        "reflection_changed": rate_at(after, 4, "changed_taught"),
        "reflection_changed_paraphrase": rate_at(after, 4, "changed_paraphrase"),
        "unchanged_lost": unchanged_lost(after),
        "teacher_frac": one["teacher_frac"],
        **_health(one),
    }


def text_figures(cell: Mapping[str, Any]) -> dict[str, float]:
    """The figures of one memory of text."""
    figures = {
        "recall_gap_closed": gap_closed(cell["kl"], cell["kl_unigram"]),
        "recall_kl": cell["kl"],
        "recall_agreement_text": cell["heldout"]["recall_agreement"],
        "teacher_frac_text": cell["teacher_frac"],
        **{f"{name}_text": value for name, value in _health(cell).items()},
    }
    if "kl_mean" in cell:
        figures["slot_share_text"] = slot_share(cell)
    return figures


def _health(cell: Mapping[str, Any]) -> dict[str, float]:
    return {
        "slots_used_frac": cell["heldout"]["slots_used_frac"],
        "slots_top1pct_share": cell["heldout"]["slots_top1pct_share"],
        "rows_written": cell["rows_written"],
    }


def share_same(answers: Sequence[Sequence[int]], said: Sequence[Sequence[int]]) -> float:
    """Share of the questions that two answer alike."""
    same = sum(list(a) == list(b) for a, b in zip(answers, said, strict=True))
    return same / max(1, len(said))
