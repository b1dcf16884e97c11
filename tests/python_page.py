"""The Python blocks of docs/python.md, in order, for the tests that run them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PAGE = Path(__file__).resolve().parents[1] / "docs" / "python.md"
MARK = "trains"  # after ```python where a block trains


@dataclass(frozen=True)
class Block:
    """One block of the page."""

    line: int
    trains: bool
    code: str

    def run(self, names: dict[str, Any]) -> None:
        """Runs it on the names that the blocks before have left; an error names the page's line."""
        exec(compile("\n" * self.line + self.code, str(PAGE), "exec"), names)


def blocks() -> list[Block]:
    """All of them."""
    text = PAGE.read_text(encoding="utf-8")
    found = re.finditer(r"^```python([^\n]*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [Block(text[: m.start()].count("\n") + 1, m[1].strip() == MARK, m[2]) for m in found]
