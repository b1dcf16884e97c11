"""docs/architecture.md names modules, rooms and definitions that exist, and every room."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
PICTURE = (ROOT / "docs" / "images" / "architecture.svg").read_text(encoding="utf-8")
FLOORS = ("actors", "orchestrator", "jobs")
NAMED = sorted(set(re.findall(r"`((?:actors|orchestrator|jobs|tests)/[^`\s]*)`", PAGE)))
ROOMS = sorted(
    folder.parent.relative_to(ROOT).as_posix()
    for floor in FLOORS
    for folder in (ROOT / floor).glob("*/__init__.py")
)


def defined(path: Path) -> set[str]:
    """Names that a module defines at its top, and methods as `Class.method`."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            methods = (n.name for n in node.body if isinstance(n, ast.FunctionDef))
            found |= {f"{node.name}.{method}" for method in methods}
    return found


def test_what_the_page_names_exists() -> None:
    wrong = []
    for name in NAMED:
        path, _, definition = name.partition(":")
        if not (ROOT / path).exists():
            wrong.append(f"{path} is not there")
        elif definition and definition not in defined(ROOT / path):
            wrong.append(f"{path} defines no {definition}")
    assert wrong == []


def test_the_page_names_modules_and_definitions() -> None:
    assert len(NAMED) > 60
    assert "orchestrator/loop/coordinator.py:Coordinator" in NAMED


def test_every_room_is_in_the_table_and_in_the_picture() -> None:
    rows = re.findall(r"^\| `([a-z_/]+)/` \|", PAGE, re.MULTILINE)
    assert sorted(rows) == sorted([*ROOMS, *FLOORS])
    drawn = set(re.findall(r'class="room">([a-z_.]+)<', PICTURE))
    assert {room.split("/")[1] for room in ROOMS} <= drawn
    assert all(any((ROOT / floor / name).exists() for floor in FLOORS) for name in drawn)
