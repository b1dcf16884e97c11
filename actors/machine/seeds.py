"""Seeds: one number that depends on several parts."""

from __future__ import annotations

import numpy as np


def seed_everything(*parts: int | str) -> None:
    """Seeds torch's global generator from the parts, e.g. (seed, group, rank, interval)."""
    import torch  # here: the driver takes seeds too, and would load torch for nothing

    torch.manual_seed(seed_of(*parts))


def seed_of(*parts: int | str) -> int:
    """A 63-bit seed that depends on every part."""
    words = [w for part in parts for w in (part.encode() if isinstance(part, str) else [part])]
    return int(np.random.SeedSequence(list(words)).generate_state(1, np.uint64)[0] >> np.uint64(1))
