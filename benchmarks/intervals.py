"""Means over seeds and their 95 % intervals. For `reflect`, `learning`, `paired`; no torch."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

from scipy import stats


def interval_95(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half the width of its 95 % interval by Student's t; 0 wide for a single value."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return mean, 0.0
    quantile = float(stats.t.ppf(0.975, len(values) - 1))
    return mean, quantile * statistics.stdev(values) / math.sqrt(len(values))


def table_row(per_seed: Sequence[Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Mean and half interval of every figure over the seeds."""
    names = per_seed[0].keys()
    rows = {name: interval_95([figures[name] for figures in per_seed]) for name in names}
    return {name: {"mean": mean, "half_95": half} for name, (mean, half) in rows.items()}
