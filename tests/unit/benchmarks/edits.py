"""A data folder of made-up facts and edits, laid out as the benchmarks of teaching take it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

RELATIONS = ("P1", "P2", "P3")
PATTERNS = ("[X] lies in [Y].", "[X] rests in [Y].", "[X] is part of [Y].", "[Y] has [X].")


def facts(num_each: int) -> list[dict[str, str]]:
    """So many facts of each relation, on five objects."""
    return [
        {"relation": r, "subject": f"{r}place{i}", "object": f"Land{i % 5}"}
        for r in RELATIONS
        for i in range(num_each)
    ]


def write_folder(folder: Path, num_each: int, edits: Sequence[dict[str, Any]]) -> None:
    """Writes the facts with their wordings, the edits and a novel."""
    for name in ("pararel", "counterfact", "text"):
        (folder / name).mkdir()
    templates = {
        r: [{"pattern": f"{r} {p}", "lemma": f"l{i}"} for i, p in enumerate(PATTERNS)]
        for r in RELATIONS
    }
    for name, rows in {
        "pararel/facts.jsonl": facts(num_each),
        "counterfact/train.jsonl": edits,
    }.items():
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "pararel/templates.json").write_text(json.dumps(templates))
    (folder / "text/Middlemarch_145.txt").write_text("A long story. " * 9000)
