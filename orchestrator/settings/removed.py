"""Settings that earlier versions had: what is said of a config that still names one, and what is
left out of a config that a run keeps.

A config that somebody writes may not name them. The kept config of a finished run may: its pair is
asked, evaluated, taught and learned from as before. A run that goes on may where they did nothing.
Called by `config`, `mistakes`, `run_dir.saved_config` and the search.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Removed:
    """A setting that is gone.

    Attributes:
        why: it is, and what does its work.
        off: values with which it did nothing; None: any, since it said more of another one.
    """

    why: str
    off: tuple[object, ...] | None = None


REMOVED: Mapping[str, Removed] = {
    "losses.sync": Removed("losses.recall, 1.25 by default, follows as closely", (0,)),
    "losses.assist": Removed("a memory trained to help the mixture did not help it more", (0,)),
    "memory.sync_frac": Removed("it was of losses.sync, which was removed"),
}


def explained(key: str) -> str | None:
    """What is said of a key that is no setting any more; None: it never was one."""
    if (gone := REMOVED.get(key)) is None:
        return None
    return f"{key} was removed: {gone.why}; delete it"


def without_removed(values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, object]]:
    """A copy of nested values without settings that are gone, and those of them, by key, that had
    changed what a run computes.
    """
    left, counted = copy.deepcopy(dict(values)), {}
    for key, gone in REMOVED.items():
        *parents, leaf = key.split(".")
        at: Any = left
        for parent in parents:
            at = at.get(parent) if isinstance(at, dict) else None
        if isinstance(at, dict) and leaf in at:
            value = at.pop(leaf)
            if gone.off is not None and value not in gone.off:
                counted[key] = value
    return left, counted
