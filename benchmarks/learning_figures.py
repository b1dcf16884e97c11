"""The arithmetic of `learning`: from cells to figures. No torch."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.intervals import interval_95

Json = Mapping[str, Any]
SMOOTHED = 3  # points of a curve that are averaged
CEILING_FRAC = 0.95
LEAST_FORGOTTEN = 0.05  # nats; where LoRA forgets less, a ratio to it says nothing


def smoothed(values: Sequence[float], width: int = SMOOTHED) -> list[float]:
    """Each value averaged with those around it, fewer of them at both ends."""
    reach = width // 2
    return [statistics.fmean(values[max(0, i - reach) : i + reach + 1]) for i in range(len(values))]


def reached_at(spent: Sequence[float], values: Sequence[float], target: float) -> float | None:
    """What had been spent when a rising curve first came to `target`; None: it never did.

    Between two points as if on a line; nothing spent and nothing known at the start.
    """
    before_s, before_v = 0.0, 0.0
    for at, value in zip(spent, values, strict=True):
        if value >= target:
            rise = value - before_v
            return at if rise <= 0 else before_s + (target - before_v) / rise * (at - before_s)
        before_s, before_v = at, value
    return None


def ratio(over: float | None, under: float | None) -> float | None:
    """over / under; None where one is not there, or there is nothing to divide by."""
    return None if over is None or not under else over / under


def spent(curve: Sequence[Json], *names: str) -> list[float]:
    """Some costs of each point, added up."""
    return [sum(float(row[name]) for name in names) for row in curve]


def help_ratios(pair: Sequence[Json], plain: Sequence[Json], voice: str) -> dict[str, float | None]:
    """What `voice` spends until the plain data layer's final accuracy in unseen wordings,
    over what that one spends; both curves smoothed.
    """
    theirs = smoothed([row["own"] for row in plain])
    ours = smoothed([row[voice] for row in pair])
    costs = {
        "tokens_ratio": (("data_tokens",), ("data_tokens",)),
        "all_tokens_ratio": (("data_tokens", "memory_tokens"), ("data_tokens",)),
        "core_seconds_ratio": (("data_cpu_s", "memory_cpu_s"), ("data_cpu_s",)),
    }
    return {
        name: ratio(
            reached_at(spent(pair, *mine), ours, theirs[-1]),
            reached_at(spent(plain, *other), theirs, theirs[-1]),
        )
        for name, (mine, other) in costs.items()
    }


def gain_low(windows: Sequence[Json]) -> float:
    """The low end of the 95 % interval of the gain per position, over windows as they came."""
    total = sum(window["num"] for window in windows)
    mean, half = interval_95([w["gain"] * w["num"] * len(windows) / total for w in windows])
    return mean - half


def ceiling(curves: Sequence[Sequence[Json]]) -> float:
    """The highest accuracy in seen wordings that any of them comes to."""
    return max(row["new_seen"] for curve in curves for row in curve)


def until_ceiling(curve: Sequence[Json], highest: float) -> dict[str, float | None]:
    """Steps and seconds until 0.95 of the ceiling in seen wordings."""
    values = [row["new_seen"] for row in curve]
    return {
        name: reached_at(spent(curve, cost), values, CEILING_FRAC * highest)
        for name, cost in (("steps", "steps"), ("seconds", "cpu_s"))
    }


def forgotten(cell: Json) -> dict[str, float]:
    """What a voice lost of the old: nats on text, on facts and of both; accuracy by wordings.

    Of both, a gain on one does not make up for a loss on the other.
    """
    before, after = cell["before"], cell["after"]
    text = after["text_loss"] - before["text_loss"]
    facts = after["old_loss"] - before["old_loss"]
    lost = {
        f"lost_{side}": before[f"old_{side}"] - after[f"old_{side}"] for side in ("seen", "unseen")
    }
    return {"text": text, "facts": facts, "nats": (max(0.0, text) + max(0.0, facts)) / 2, **lost}


def forgetting_over(ours: float, theirs: float) -> float | None:
    """What we forget over what they forget; None where they forget next to nothing."""
    return None if theirs < LEAST_FORGOTTEN else ours / theirs


def above_baseline_ratio(ours: float, theirs: float, baseline: float) -> float | None:
    """Accuracy above the baseline, ours over theirs; None where they have none."""
    return None if theirs <= baseline else (ours - baseline) / (theirs - baseline)


def best(cells: Mapping[str, Json]) -> str:
    """The name of the cell that ends best on new facts in unseen wordings; the first of equals."""
    return max(
        cells,
        key=lambda name: (cells[name]["after"]["new_unseen"], cells[name]["after"]["new_seen"]),
    )


def joined(per_seed: Sequence[Mapping[str, float | None]], name: str) -> list[float] | None:
    """A figure of every seed; None where one of them has none."""
    values = [figures.get(name) for figures in per_seed]
    known = [value for value in values if value is not None]
    return known if len(known) == len(values) else None
