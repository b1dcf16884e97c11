"""Means over seeds and their 95 % intervals. No torch. Called by `reflect` and `learning`."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

# Two-sided 95 % quantiles of Student's t by degrees of freedom; beyond the table, the normal's.
T_95 = (math.inf, 12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
NORMAL_95 = 1.96


def interval_95(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half the width of its 95 % interval by Student's t; 0 wide for a single value."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return mean, 0.0
    freedom = len(values) - 1
    quantile = T_95[freedom] if freedom < len(T_95) else NORMAL_95
    return mean, quantile * statistics.stdev(values) / math.sqrt(len(values))


def table_row(per_seed: Sequence[Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Mean and half interval of every figure over the seeds."""
    names = per_seed[0].keys()
    rows = {name: interval_95([figures[name] for figures in per_seed]) for name in names}
    return {name: {"mean": mean, "half_95": half} for name, (mean, half) in rows.items()}
